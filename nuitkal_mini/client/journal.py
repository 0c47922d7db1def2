"""The journal of a transaction.

The value and its file, whose content is checked when it is read back.
"""

from __future__ import annotations

import json
import os
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from ..entries import MAX_FILES, FileEntry
from ..paths import BACKUP_FOLDER, UPDATE_FOLDER, check_path
from ..strict_json import json_object
from .state import State, state_from, state_values
from .swap_plan import Move, SwapPlan

# Every file of two manifests moves, with seven fields, beside both manifests' own
MAX_JOURNAL_COMMAS = 40 * MAX_FILES


class Journal(NamedTuple):
    """A transaction that has begun; `launcher` is the path that must never be without a file."""

    id: str
    state: State
    before: Optional[State]
    launcher: str
    changes: SwapPlan

    @property
    def backup_folder(self) -> str:
        """Where the transaction keeps what it moves out."""
        return f"{BACKUP_FOLDER}/{self.id}"

    def new_folders(self) -> List[Tuple[str, str]]:
        """Each folder that the transaction makes, and the name under which it is prepared."""
        folders = self.changes.make_dirs
        return [(path, f"{self.backup_folder}/new-{n}") for n, path in enumerate(folders)]

    def emptied_folders(self) -> List[Tuple[str, str]]:
        """Each folder that the transaction removes, deepest first, and the name that it gets."""
        folders = self.changes.remove_dirs
        return [(path, f"{self.backup_folder}/emptied-{n}") for n, path in enumerate(folders)]


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
    move_out, move_in, delete_bytecode, remove_dirs, make_dirs = values["changes"]
    identifier = str(values["id"])
    for path in [*make_dirs, identifier]:
        check_path(path)
    for path in [*delete_bytecode, *remove_dirs]:  # the user or Python chose these names
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
            tuple(_journal_moves(move_out)),
            tuple(_journal_moves(move_in)),
            tuple(delete_bytecode),
            tuple(remove_dirs),
            tuple(make_dirs),
        ),
    )


def _journal_moves(items: List[Any]) -> Iterator[Move]:
    for source, target, fields in items:
        entry = FileEntry(*fields)
        for path in (source, target):
            folder, _, rest = path.partition("/")
            check_path(rest if folder in (UPDATE_FOLDER, BACKUP_FOLDER) else path)
        yield Move(source, target, entry)
