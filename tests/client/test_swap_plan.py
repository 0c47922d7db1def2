"""Decisions only: each tree lies on a disk, nothing is moved."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Dict, Sequence, Set, Tuple

import pytest
from hypothesis import given, settings

from nuitkal_mini.client.errors import InstallError
from nuitkal_mini.client.swap_plan import SwapPlan, plan_swap
from nuitkal_mini.client.tree import Tree as Place
from nuitkal_mini.entries import FileEntry, check_tree
from nuitkal_mini.paths import UnsafePath

from ..trees import Tree, entries_of, here, trees, write_tree


def decide(folder: Path, old: Tree, new: Tree, preserved: Sequence[str] = ()) -> SwapPlan:
    return plan_swap(
        Place(str(folder)),
        entries_of(old),
        entries_of(new),
        "id",
        lambda entry: f".update/staging/{entry.path}",
        lambda path: path in preserved,
    )


def moves(changes: SwapPlan) -> Tuple[Dict[str, str], Set[str]]:
    """Where files move out to (`backup`, or a name beside), and where files move in."""
    return (
        {
            move.source: "backup" if move.target.startswith(".backup/id/") else move.target
            for move in changes.move_out
        },
        {move.target for move in changes.move_in},
    )


A, B, MINE = (b"a", "644"), (b"b", "644"), (b"mine", "644")


@pytest.mark.parametrize(
    "old, on_disk, new, out, into",
    [
        pytest.param({}, {}, {"x": A}, {}, {"x"}, id="a new file"),
        pytest.param({"x": A}, {"x": A}, {"x": A}, {}, set(), id="nothing changes"),
        pytest.param({"x": A}, {"x": A}, {"x": B}, {"x": "backup"}, {"x"}, id="a replaced file"),
        pytest.param(
            {"x": A}, {"x": A}, {"x": (b"a", "755")}, {"x": "backup"}, {"x"}, id="another mode"
        ),
        pytest.param({"x": A}, {"x": A}, {}, {"x": "backup"}, set(), id="a removed file"),
        pytest.param(
            {"x": A}, {"x": MINE}, {}, {}, set(), id="a removed file that was edited stays"
        ),
        pytest.param({"x": A}, {}, {"x": A}, {}, {"x"}, id="a missing file"),
        pytest.param({"x": A}, {"x": MINE}, {"x": A}, {"x": "backup"}, {"x"}, id="a damaged file"),
        pytest.param(
            {}, {"x": MINE}, {"x": A}, {"x": "x.user-id"}, {"x"}, id="a user's file in the way"
        ),
        pytest.param(
            {},
            {"x": A},
            {"x": A},
            {},
            set(),
            id="a file that is right already, whoever put it there",
        ),
        pytest.param(
            {},
            {"x": MINE},
            {"x/y": A},
            {"x": "x.user-id"},
            {"x/y"},
            id="a user's file where a folder comes",
        ),
        pytest.param({"x": A}, {"x": A}, {"x/y": A}, {"x": "backup"}, {"x/y"}, id="file to folder"),
        pytest.param(
            {"x/y": A}, {"x/y": A}, {"x": A}, {"x/y": "backup"}, {"x"}, id="folder to file"
        ),
        pytest.param(
            {"x": "y", "y": A},
            {"x": "y", "y": A},
            {"x": A, "y": A},
            {"x": "backup"},
            {"x"},
            id="link to file",
        ),
        pytest.param(
            {"x": "y", "y": A},
            {"x": "y", "y": A},
            {"x/z": A, "y": A},
            {"x": "backup"},
            {"x/z"},
            id="link to folder",
        ),
        pytest.param(
            {"Readme": A},
            {"Readme": A},
            {"README": A},
            {"Readme": "backup"},
            {"README"},
            id="another case is one replace",
        ),
        pytest.param(
            {"Lib/x": A},
            {"Lib/x": A},
            {"lib/x": A},
            {"Lib/x": "backup"},
            {"lib/x"},
            id="another case of a folder",
        ),
    ],
)
def test_what_leaves_and_what_comes(
    tmp_path: Path, old: Tree, on_disk: Tree, new: Tree, out: Dict[str, str], into: Set[str]
) -> None:
    if (here(old), here(new)) != (old, new):
        pytest.skip("Windows has no modes, and links only for developers")
    write_tree(tmp_path, on_disk)
    assert moves(decide(tmp_path, old, new)) == (out, into)


@pytest.mark.parametrize(
    "old, new, into",
    [
        pytest.param(A, A, set(), id="an edit is no damage"),
        pytest.param(A, B, {"s.new"}, id="both changed"),
        pytest.param(None, A, {"s.new"}, id="the user had one first"),
    ],
)
def test_an_edited_file_that_is_preserved_stays(
    tmp_path: Path, old: object, new: object, into: Set[str]
) -> None:
    write_tree(tmp_path, {"s": MINE})
    assert moves(decide(tmp_path, {"s": old} if old else {}, {"s": new}, preserved=["s"])) == (
        {},
        into,
    )  # type: ignore[dict-item]


def test_a_shipped_setting_does_not_take_the_place_of_another_file_of_the_release(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"s": MINE})
    assert moves(decide(tmp_path, {"s": A}, {"s": B, "s.new": A}, preserved=["s"])) == (
        {},
        {"s.new", "s.new-id"},
    )


def test_folders_go_with_their_last_file_and_come_before_their_first(tmp_path: Path) -> None:
    old: Tree = {"a/b/x": A, "keep/x": A, "both/x": A}
    write_tree(tmp_path, {**old, "keep/mine": MINE})
    changes = decide(tmp_path, old, {"c/d/e": A, "both/y": A})
    assert changes.remove_dirs == ("a/b", "a", "keep")  # `keep` stays when it is not empty by then
    assert changes.make_dirs == ("c", "c/d")


def test_bytecode_goes_with_its_module_and_no_other(tmp_path: Path) -> None:
    old: Tree = {
        "m.py": A,
        "same.py": A,
        "p/__pycache__/s.cpython-311.pyc": A,
        "p/s.py": A,
        "d/x.py": A,
    }
    write_tree(
        tmp_path,
        {
            **old,
            "__pycache__/m.cpython-311.pyc": A,
            "__pycache__/m.cpython-38.opt-1.pyc": A,
            "__pycache__/same.cpython-311.pyc": A,
            "__pycache__/mine.cpython-311.pyc": A,
            "d/__pycache__/x.cpython-311.pyc": A,
        },
    )
    changes = decide(
        tmp_path, old, {"m.py": B, "same.py": A, "p/s.py": B, "p/__pycache__/s.cpython-311.pyc": A}
    )
    assert changes.delete_bytecode == (
        "__pycache__/m.cpython-311.pyc",
        "__pycache__/m.cpython-38.opt-1.pyc",
        "d/__pycache__/x.cpython-311.pyc",
    )
    assert changes.remove_dirs == ("d/__pycache__", "d")


def test_users_bytecode_keeps_a_folder_with_a_users_module(tmp_path: Path) -> None:
    write_tree(
        tmp_path, {"d/x.py": A, "d/mine.py": MINE, "d/__pycache__/mine.cpython-311.pyc": MINE}
    )
    assert decide(tmp_path, {"d/x.py": A}, {}).delete_bytecode == ()


@pytest.mark.skipif(os.name != "posix", reason="Windows has links only for developers")
def test_a_link_in_a_cache_folder_is_not_followed(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {"d/x.py": A, "elsewhere/x.cpython-311.pyc": MINE, "d/__pycache__": "../elsewhere"},
    )
    changes = decide(tmp_path, {"d/x.py": A}, {"d/x.py": B})
    assert changes.delete_bytecode == ()


@given(old=trees().map(here), new=trees().map(here), mine=trees(max_size=4).map(here))
@settings(max_examples=150, deadline=None)
def test_whatever_is_decided_nothing_of_the_users_goes_into_the_backup(
    old: Tree, new: Tree, mine: Tree
) -> None:
    mine = {
        path: item
        for path, item in mine.items()
        if path not in old and is_legal({**old, path: item})
    }
    with tempfile.TemporaryDirectory() as name:
        write_tree(Path(name), {**mine, **old})
        try:
            changes = decide(Path(name), old, new)
        except InstallError:
            return  # a folder with a user's file is in the way
        out, into = moves(changes)
        assert all(target != "backup" or source in old for source, target in out.items())
        assert len({move.target for move in changes.move_out}) == len(changes.move_out) and len(
            into
        ) == len(changes.move_in)
        assert all(os.path.lexists(os.path.join(name, source)) for source in out)
        assert not into & (mine.keys() - out.keys())


def is_legal(tree: Tree) -> bool:
    try:
        check_tree(entries_of(tree))
    except UnsafePath:
        return False
    return True


def test_a_tree_that_is_there_needs_nothing(tmp_path: Path) -> None:
    tree = here({"a/b": A, "l": "a/b", "t": (b"t", "755")})
    write_tree(tmp_path, tree)
    assert decide(tmp_path, tree, tree) == SwapPlan((), (), (), (), ())


@pytest.mark.skipif(os.name != "posix", reason="Windows has links only for developers")
def test_what_lies_behind_a_link_is_not_in_the_tree(tmp_path: Path) -> None:
    write_tree(tmp_path / "outside", {"x": A})
    write_tree(tmp_path / "client", {"d": "../outside"})
    installation = Place(str(tmp_path / "client"))
    assert installation.entry_at("d/x") is None and not installation.holds(
        "d/x", FileEntry("d/x", 1, entries_of({"x": A})[0].sha256, "644")
    )


@pytest.mark.parametrize(
    "new", [{"a": A}, {"a/b": A}, {"A": B}], ids=["a file", "another file", "in the old spelling"]
)
def test_where_names_ignore_case_a_folder_of_another_case_leaves_with_what_is_in_it(
    tmp_path: Path, new: Tree
) -> None:
    write_tree(tmp_path, {"A/b": A})
    if not (tmp_path / "a").exists():
        pytest.skip("names do not ignore case here")
    out, into = moves(decide(tmp_path, {"A/b": A}, new))
    assert out == {"A/b": "backup"} and into == set(new)


def test_a_linked_pycache_is_not_emptied(tmp_path: Path) -> None:
    """Or deletions would be led outside the folder."""
    write_tree(tmp_path / "outside", {"x.pyc": A})
    write_tree(tmp_path / "client", {"d/m.py": A, "d/__pycache__": "../../outside"})
    assert decide(tmp_path / "client", {"d/m.py": A}, {}).delete_bytecode == ()


def test_only_bytecode_of_the_module_is_deleted(tmp_path: Path) -> None:
    cached = "__pycache__/m.cpython-311.pyc"
    write_tree(tmp_path, {"m.py": A, cached: A, "__pycache__/m.notes": A})
    changes = decide(tmp_path, {"m.py": A}, {"m.py": (b"new", "644")})
    assert changes.delete_bytecode == (cached,)
