"""What the updater knows about the installed release: one value, in one file, the version file.

All that must agree lies in it, so that one rename of it commits an update. A copy in `.update/` restores it
when it cannot be read; an unreadable version file is never taken for a first install.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any, BinaryIO, Dict, NamedTuple, Optional, Tuple

from ..manifest import Manifest, ManifestError, loads
from ..paths import UPDATE_FOLDER
from ..problem import Problem
from ..semver import parse
from ..strict_json import json_object
from .trust import KeyRecord, TrustState

logger = logging.getLogger(__name__)

MAX_STATE_BYTES = 2**28
_TYPES = {
    "bad": tuple,
    "trial": int,
    "trust": TrustState,
    "keys": tuple,
    "marks": tuple,
    "revoked": tuple,
    "time": int,
}


class State(NamedTuple):
    """The installed release and what is remembered beyond it; `{"version": …}` alone is valid, as the original wrote."""

    version: str
    id: str = ""  # of the transaction that installed it
    backup: str = ""  # the transaction whose `.backup/` folder a rollback uses
    manifest: str = ""  # the manifest's text, byte for byte
    package: str = ""  # SHA-256 of the package, as check/ said
    bad: Tuple[
        str, ...
    ] = ()  # (version, package) that was rolled back and stays away until the server changes it
    trial: int = -1  # starts of a release that has not confirmed itself; -1: none is on trial
    stamp: str = ""  # of the files (`Installation.stamp`) when all were last found whole
    trust: TrustState = TrustState()  # what no update and no rollback takes back

    def tree(self) -> Optional[Manifest]:
        """The installed manifest, or None when the files were put there by somebody else."""
        try:
            return loads(self.manifest.encode("utf-8")) if self.manifest else None
        except Problem as error:
            logger.warning(
                "the installed manifest is damaged (%s); every file will be compared again", error
            )
            return None


def dump_state(state: State) -> bytes:
    """The version file's bytes: ASCII, whatever a server called its release."""
    return json.dumps(state_values(state), indent=1).encode("ascii")


def state_values(state: State) -> Dict[str, Any]:
    """The state as JSON has it; `state_from` reads it."""
    return {**state._asdict(), "trust": state.trust._asdict()}


def parse_state(data: bytes) -> State:
    """The state in a version file.

    Raises:
        ManifestError, BadVersion: it is not one.
    """
    return state_from(json_object(data))


def state_from(values: Dict[str, Any]) -> State:
    """The state in a JSON object, each field of its own type."""
    trust = values.get("trust", {})
    marks = trust.get("marks", []) if isinstance(trust, dict) else None
    if not isinstance(marks, list) or not all(isinstance(mark, list) for mark in marks):
        raise ManifestError("the version file's 'trust' is of the wrong type")
    read = tuple(
        KeyRecord(**_fields(KeyRecord, dict(zip(KeyRecord._fields, mark)))) for mark in marks
    )
    state = State(
        **_fields(
            State,
            {
                **values,
                "trust": TrustState(
                    **{**_fields(TrustState, {**trust, "marks": []}), "marks": read}
                ),
            },
        )
    )
    for version in [
        state.version,
        *state.bad[:1],
        *(mark.version for mark in read),
        *(mark.minimum for mark in read if mark.minimum),
    ]:
        parse(version)
    return state


def _fields(kind: Any, values: Dict[str, Any]) -> Dict[str, Any]:
    """The named tuple's fields that are there, each checked against the type of its default; the first one is required."""
    known = {}
    for name in kind._fields:
        value = values.get(name, kind._field_defaults.get(name))
        value = tuple(value) if isinstance(value, list) else value
        if (
            type(value) is not _TYPES.get(name, str)
            or type(value) is tuple
            and any(type(item) is not str for item in value)
        ):
            raise ManifestError(
                "the version file's {name!r} is missing or of the wrong type", name=name
            )
        known[name] = value
    return known


def load_state(folder: str, version_file: str) -> Optional[State]:
    """The state of a client folder; None when nothing was ever installed there."""
    return read_state(os.path.join(folder, version_file)) or read_state(
        os.path.join(folder, UPDATE_FOLDER, "state.json")
    )


def read_state(path: str) -> Optional[State]:
    """The state in one file; None when it is not there, or cannot be read."""
    try:
        with open(path, "rb") as file:
            return parse_state(read_at_most(file, MAX_STATE_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s cannot be read (%s); going by its copy", path, error)
        return None


def read_at_most(file: BinaryIO, limit: int) -> bytes:
    """The bytes of a file, cut at `limit`; `read(limit)` would take memory for the limit first, where there may be none."""
    return file.read(min(os.fstat(file.fileno()).st_size, limit))
