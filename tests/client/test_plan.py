"""Which ranges of a package are fetched: enough, few, in order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List

from hypothesis import given
from hypothesis import strategies as st

from nuitkal_mini.client.plan import MAX_RANGES, Range, ranges_for
from nuitkal_mini.entries import FileEntry


def directory_of(sizes: List[int]) -> Any:
    """A package's directory: `f0`, `f1`, … one after the other."""
    members, offset = [], 0
    for number, size in enumerate(sizes):
        members.append(SimpleNamespace(path=f"f{number}", offset=offset, end=offset + size))
        offset += size
    return SimpleNamespace(members=members)


def entries(numbers: List[int]) -> List[FileEntry]:
    return [FileEntry(f"f{number}", 1, "", "644") for number in numbers]


@given(
    st.lists(st.integers(1, 200_000), min_size=1, max_size=200).flatmap(
        lambda sizes: st.tuples(
            st.just(sizes), st.sets(st.integers(0, len(sizes) - 1)), st.integers(0, sum(sizes))
        )
    )
)
def test_the_ranges_hold_every_needed_file_and_are_few(drawn: Any) -> None:
    sizes, needed, have_from = drawn
    directory, end = directory_of(sizes), sum(sizes)
    ranges = ranges_for(directory, entries(sorted(needed)), Range(have_from, end))
    assert ranges is not None and len(ranges) <= MAX_RANGES
    assert all(left.end < right.start for left, right in zip(ranges, ranges[1:]))
    for number in needed:
        member = directory.members[number]
        if member.offset < have_from:
            assert any(piece.start <= member.offset and member.end <= piece.end for piece in ranges)


def test_a_hundred_scattered_files_take_at_most_32_requests() -> None:
    """Wide gaps are fetched along rather than asking more often."""
    sizes = [100_000] * 200
    ranges = ranges_for(
        directory_of(sizes), entries(list(range(0, 200, 2))), Range(sum(sizes), sum(sizes))
    )
    assert ranges is not None and 1 <= len(ranges) <= MAX_RANGES


def test_a_package_without_a_needed_path_has_no_plan() -> None:
    assert ranges_for(directory_of([1]), entries([0, 7]), Range(1, 1)) is None
