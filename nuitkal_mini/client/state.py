"""What the updater knows about the installed release: one value, in one file, the version file.

All that must agree lies in it, so that one rename of it commits an update.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Dict, NamedTuple, Optional

from ..manifest import Manifest, ManifestError, loads
from ..problem import Problem
from ..semver import parse
from ..strict_json import json_object
from .trust import KeyRecord, TrustState

logger = logging.getLogger(__name__)

MAX_STATE_BYTES = 2**28


class RolledBack(NamedTuple):
    """A release that a rollback took away; it stays away until the server offers another one."""

    version: str
    package: str  # SHA-256 of its package, as check/ said


# The types of each field that is no string.
_TYPES = {
    "rolled_back": (RolledBack, type(None)),
    "trial_starts": (int, type(None)),
    "trust": (TrustState,),
    "keys": (tuple,),
    "records": (tuple,),
    "revoked": (tuple,),
    "announced": (tuple,),
    "time": (int,),
}


class State(NamedTuple):
    """The installed release and what is remembered beyond it.

    `{"version": …}` alone is valid, as the original wrote.
    """

    version: str
    id: str = ""  # of the transaction that installed it
    backup: str = ""  # the transaction whose `.backup/` folder a rollback uses
    manifest: str = ""  # the manifest's text, byte for byte
    package: str = ""  # SHA-256 of the package, as check/ said
    rolled_back: Optional[RolledBack] = None
    trial_starts: Optional[int] = None  # starts of a release on trial; None: none is on trial
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
    return {
        **state._asdict(),
        "rolled_back": state.rolled_back and state.rolled_back._asdict(),
        "trust": state.trust._asdict(),
    }


def parse_state(data: bytes) -> State:
    """The state in a version file.

    Raises:
        ManifestError, BadVersion: it is not one.
    """
    return state_from(json_object(data))


def state_from(values: Dict[str, Any]) -> State:
    """The state in a JSON object, each field of its own type."""
    trust = _object(values.get("trust", {}), "trust")
    rolled_back = values.get("rolled_back")
    marks = trust.get("records", trust.get("marks", []))  # marks: written by version 0.1.0
    if not isinstance(marks, list) or not all(isinstance(mark, list) for mark in marks):
        raise ManifestError("the version file's 'records' is of the wrong type")
    records = tuple(_build(KeyRecord, dict(zip(KeyRecord._fields, mark))) for mark in marks)
    state: State = _build(
        State,
        {
            **values,
            "rolled_back": None
            if rolled_back is None
            else _build(RolledBack, _object(rolled_back, "rolled_back")),
            "trust": _build(TrustState, {**trust, "records": []})._replace(records=records),
        },
    )
    versions = [state.version, *(record.version for record in records)]
    versions += [record.minimum for record in records if record.minimum]
    for version in versions + ([state.rolled_back.version] if state.rolled_back else []):
        parse(version)
    return state


def _object(value: object, name: str) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise ManifestError("the version file's {name!r} is of the wrong type", name=name)
    return value


def _build(kind: Any, values: Dict[str, Any]) -> Any:
    """The named tuple of these values, each checked against its field's type.

    Fields without a default are required.
    """
    fields = {}
    for name in kind._fields:
        value = values.get(name, kind._field_defaults.get(name))
        value = tuple(value) if isinstance(value, list) else value
        is_list = type(value) is tuple
        if type(value) not in _TYPES.get(name, (str,)) or (
            is_list and any(type(item) is not str for item in value)
        ):
            raise ManifestError(
                "the version file's {name!r} is missing or of the wrong type", name=name
            )
        fields[name] = value
    return kind(**fields)
