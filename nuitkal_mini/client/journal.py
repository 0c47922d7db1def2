"""The journal of a transaction: what it is, and its file. It is input like any other when it is read back."""

from __future__ import annotations

import json
import os
from typing import Any, Iterator, List, NamedTuple, Optional

from ..entries import MAX_FILES, FileEntry
from ..paths import BACKUP_FOLDER, UPDATE_FOLDER, check_path
from ..strict_json import json_object
from .state import State, state_from, state_values
from .swap_plan import Move, SwapPlan

MAX_JOURNAL_COMMAS = (
    40 * MAX_FILES
)  # every file of two manifests leaves or comes, with seven fields, and both manifests' own


class Journal(NamedTuple):
    """A transaction that has begun; `launcher` is the path that must never be without a file."""

    id: str
    state: State
    before: Optional[State]
    launcher: str
    changes: SwapPlan


def new_identifier() -> str:
    """The name of a new transaction."""
    return os.urandom(8).hex()


def dump_journal(journal: Journal) -> bytes:
    """The journal file's bytes: ASCII, for names that are no Unicode."""
    values = {
        "id": journal.id,
        "state": state_values(journal.state),
        "before": journal.before and state_values(journal.before),
        "launcher": journal.launcher,
        "changes": journal.changes,
    }
    return json.dumps(values).encode("ascii")


def parse_journal(data: bytes) -> Journal:
    """The journal in a file, its paths checked; the files it speaks of are still to be hashed.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is not one.
    """
    values = json_object(data, MAX_JOURNAL_COMMAS)
    out, into, stale, drop, make = values["changes"]
    identifier = str(values["id"])
    for path in [*make, identifier]:
        check_path(path)
    for path in [*stale, *drop]:  # of names that the user or Python chose
        if (
            {"", ".", ".."}.intersection(path.split("/"))
            or os.name == "nt"
            and {"\\", ":"}.intersection(path)
        ):
            raise ValueError(f"{path} leaves the folder")
    before = values["before"]
    return Journal(
        identifier,
        state_from(values["state"]),
        state_from(before) if before else None,
        str(values["launcher"]),
        SwapPlan(
            tuple(_journal_moves(out)),
            tuple(_journal_moves(into)),
            tuple(stale),
            tuple(drop),
            tuple(make),
        ),
    )


def _journal_moves(items: List[Any]) -> Iterator[Move]:
    for source, target, fields in items:
        entry = FileEntry(*fields)
        for path in (source, target):
            folder, _, rest = path.partition("/")
            check_path(rest if folder in (UPDATE_FOLDER, BACKUP_FOLDER) else path)
        yield Move(source, target, entry)
