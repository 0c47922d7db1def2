"""A delta between two releases: all changed files, the new manifest and its signature."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from nuitkal_mini.delta.apply import DeltaReader
from nuitkal_mini.delta.format import DeltaError
from nuitkal_mini.delta.pairs import pair_files
from nuitkal_mini.delta.write import Release, write_delta
from nuitkal_mini.entries import FileEntry
from nuitkal_mini.manifest import loads
from tests.delta.programs import FIXTURES, Numbers, library
from tests.delta.releases import SIGNATURE, apply_all, release_pair, tree, written


def test_a_delta_carries_every_content_that_the_old_release_lacks() -> None:
    old, new = release_pair()
    delta = written(old, new)
    results = apply_all(delta, old)
    held = set(old.contents.values())
    assert results == {path: data for path, data in new.contents.items() if data not in held}
    assert len(delta) < 12_000


def test_a_delta_carries_the_manifest_and_its_signature() -> None:
    old, new = release_pair()
    reader = DeltaReader(io.BytesIO(written(old, new)).read)
    assert reader.manifest(old.manifest) == (new.manifest, SIGNATURE)


def test_an_edited_file_fails_alone() -> None:
    old, new = release_pair()
    edited = {**old.contents, "doc/text.txt": old.contents["doc/text.txt"] + b"edited"}
    reader = DeltaReader(io.BytesIO(written(old, new)).read)
    reader.manifest(old.manifest)
    made, failed = [], []
    for entry, pieces in reader.files(
        loads(new.manifest).files, loads(old.manifest).files, lambda entry: edited[entry.path]
    ):
        try:
            assert b"".join(pieces) == new.contents[entry.path]
            made.append(entry.path)
        except DeltaError:
            failed.append(entry.path)
    assert failed == ["doc/text.txt"] or not failed  # an addition at the end changes no match
    edited["doc/text.txt"] = b"edited" + old.contents["doc/text.txt"]
    reader = DeltaReader(io.BytesIO(written(old, new)).read)
    reader.manifest(old.manifest)
    failed = []
    for entry, pieces in reader.files(
        loads(new.manifest).files, loads(old.manifest).files, lambda entry: edited[entry.path]
    ):
        try:
            b"".join(pieces)
        except DeltaError as error:
            failed.append(entry.path)
            assert "doc/text.txt" in str(error)
    assert failed == ["doc/text.txt"]


def test_files_that_were_skipped_do_not_stop_the_others() -> None:
    """The caller need not read a whole file that it has no use for."""
    old, new = release_pair()
    reader = DeltaReader(io.BytesIO(written(old, new)).read)
    reader.manifest(old.manifest)
    files = reader.files(loads(new.manifest).files, loads(old.manifest).files, old.read)
    assert len([entry for entry, _ in files]) == 7


def test_the_same_pair_gives_the_same_delta_also_over_several_workers() -> None:
    old, new = release_pair()
    with ThreadPoolExecutor(4) as pool:
        pieces = write_delta(
            Release(old.manifest, old.read), Release(new.manifest, new.read, SIGNATURE), pool.map
        )
        assert b"".join(pieces) == written(old, new)


def test_a_release_without_changes_costs_its_manifest() -> None:
    contents = {"a": library("old"), "b": bytes(5)}
    old, new = tree("1.0.0", contents), tree("1.0.1", contents)
    delta = written(old, new)
    assert apply_all(delta, old) == {}
    assert len(delta) < 200


def test_many_files_come_in_several_groups() -> None:
    numbers = Numbers(1)
    contents = {f"f{n:05}": b"%d" % numbers.below(10**6) for n in range(2500)}
    old, new = tree("1.0.0", {}), tree("1.0.1", contents)
    assert len(apply_all(written(old, new), old)) == len(contents)


def entry(path: str, size: int = 1000, content: str = "") -> FileEntry:
    return FileEntry(path, size, hashlib.sha256((content or path).encode()).hexdigest(), "644")


@pytest.mark.parametrize(
    "old, new, source",
    [
        pytest.param("a/lib.so", "a/lib.so", 0, id="the same path"),
        pytest.param("libs/libfoo-1a2b3c4d.so.1", "libs/libfoo-5e6f7a8b.so.1", 0, id="a hash"),
        pytest.param("libs/libfoo.so.6.20.1", "libs/libfoo.so.6.20.2", 0, id="a version"),
        pytest.param("app-1.0/module.py", "app-1.1/module.py", 0, id="a folder"),
        pytest.param("a/module.py", "a/module.txt", -1, id="another kind"),
        pytest.param("zip.py", "audio_encoder.py", -1, id="another name"),
    ],
)
def test_a_source_is_found_by_path_or_name(old: str, new: str, source: int) -> None:
    (pair,) = pair_files([entry(old, content="old")], [entry(new, content="new")])
    assert pair.source == source


def test_moved_content_needs_nothing_and_a_kept_file_is_no_source_for_another_path() -> None:
    assert pair_files([entry("a.py", content="x")], [entry("b.py", content="x")]) == []
    old = [entry("module1.py", content="one")]
    new = [entry("module1.py", content="one"), entry("module2.py", content="two")]
    (pair,) = pair_files(old, new)
    assert pair == (1, -1)


def test_a_delta_that_was_made_once_applies_on_every_python_and_platform() -> None:
    """Made by make_fixture.py; a change of the format needs a new version byte, not a new file."""
    old, new = release_pair()
    assert apply_all((FIXTURES / "release.delta").read_bytes(), old).items() <= new.contents.items()
    reader = DeltaReader(io.BytesIO((FIXTURES / "release.delta").read_bytes()).read)
    assert reader.manifest(old.manifest)[0] == new.manifest
