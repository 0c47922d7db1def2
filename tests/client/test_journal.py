from __future__ import annotations

import pytest

from nuitkal_mini.client.journal import Journal, dump_journal, parse_journal
from nuitkal_mini.client.state import State
from nuitkal_mini.client.swap_plan import Move, SwapPlan
from nuitkal_mini.entries import FileEntry


@pytest.mark.slow
def test_a_journal_of_a_hundred_thousand_files_that_all_change_can_be_read_back() -> None:
    """Its limit is not that of a manifest: 100,000 changed files could not be updated once."""
    entries = [FileEntry(f"lib/{number}", number, "0" * 64, "644") for number in range(100_000)]
    changes = SwapPlan(
        tuple(
            Move(entry.path, f".backup/0/{number}", entry) for number, entry in enumerate(entries)
        ),
        tuple(
            Move(f".update/staging/{number}", entry.path, entry)
            for number, entry in enumerate(entries)
        ),
        (),
        (),
        (),
    )
    journal = Journal("0", State("1.0.1"), State("1.0.0"), "", changes)
    assert parse_journal(dump_journal(journal)) == journal
