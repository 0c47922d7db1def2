"""What the updater knows about the installed release: one value, in one file, the version file.

All that must agree lies in it, so that one rename of it commits an update. A copy in `.update/` restores it
when it cannot be read; an unreadable version file is never taken for a first install.
"""
from __future__ import annotations

import json
import logging
import os
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ..manifest import UPDATE_FOLDER, Manifest, ManifestError, json_object, loads
from ..problem import Problem
from ..semver import parse

logger = logging.getLogger(__name__)

MAX_STATE_BYTES = 2**28


class State(NamedTuple):
    """The installed release and what is remembered beyond it; `{"version": …}` alone is valid, as the original wrote."""

    version: str
    id: str = ""  # of the transaction that installed it
    backup: str = ""  # the transaction whose `.backup/` folder a rollback uses
    manifest: str = ""  # the manifest's text, byte for byte
    app: str = ""  # pinned by the first install
    package: str = ""  # SHA-256 of the package, as check/ said
    highest: str = ""  # version ever installed here
    bad: Tuple[str, ...] = ()  # (version, package) that was rolled back and stays away until the server changes it
    trial: int = -1  # starts of a release that has not confirmed itself; -1: none is on trial

    def tree(self) -> Optional[Manifest]:
        """The installed manifest, or None when the files were put there by somebody else."""
        try:
            return loads(self.manifest.encode("utf-8")) if self.manifest else None
        except Problem as error:
            logger.warning("the installed manifest is damaged (%s); every file will be compared again", error)
            return None


def dump_state(state: State) -> bytes:
    """The version file's bytes."""
    return json.dumps(state._asdict(), ensure_ascii=False, indent=1).encode("utf-8")


def parse_state(data: bytes) -> State:
    """The state in a version file.

    Raises:
        ManifestError, BadVersion: it is not one.
    """
    return state_from(json_object(data))


def state_from(values: Dict[str, Any]) -> State:
    """The state in a JSON object, each field of its own type."""
    known: Dict[str, Any] = {}
    for name in State._fields:
        value = values.get(name, State._field_defaults.get(name))
        if name == "bad" and isinstance(value, list):
            value = tuple(map(str, value))
        if type(value) is not type(State._field_defaults.get(name, "")):
            raise ManifestError("the version file's {name!r} is missing or of the wrong type", name=name)
        known[name] = value
    parse(known["version"])
    return State(**known)


def load_state(folder: str, version_file: str) -> Optional[State]:
    """The state of a client folder; None when nothing was ever installed there."""
    places = (os.path.join(folder, version_file), os.path.join(folder, UPDATE_FOLDER, "state.json"))
    for path in places:
        try:
            with open(path, "rb") as file:
                return parse_state(file.read(MAX_STATE_BYTES))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read (%s); going by its copy", path, error)
    return None
