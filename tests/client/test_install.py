"""One transaction at a time, on a real disk.

What DESIGN's rules say of installing, rolling back and recovering.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuitkal_mini.client.disk import Disk
from nuitkal_mini.client.errors import InstallError, RollbackError
from nuitkal_mini.client.install import Installation
from nuitkal_mini.entries import check_tree
from nuitkal_mini.paths import UnsafePath

from ..trees import Tree, entries_of, here, read_tree, trees, write_tree
from .sweep import FIRST, FOURTH, OURS, SECOND, THIRD, Shop, Unsynced, update

ONE: Tree = {"main.py": (b"1", "644"), "lib/a.py": (b"a", "644")}
TWO: Tree = here({"main.py": (b"2", "644"), "lib/b.py": (b"b", "755")})
TREES = trees().map(here)
posix_only = pytest.mark.skipif(
    os.name != "posix", reason="Windows has no modes, and links only for developers"
)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    (tmp_path / ".update").mkdir()
    return Installation(str(tmp_path), "local_version.json", disk=Unsynced())


def found(installation: Installation) -> Tree:
    return read_tree(Path(installation.folder), OURS)


def put(installation: Installation, tree: Tree) -> None:
    write_tree(Path(installation.folder), tree)


def interrupted(installation: Installation, tree: Tree, before: str) -> None:
    """An update to the tree that dies before the operation that commits it."""

    class Dies(BaseException):
        pass

    class Dying(Unsynced):
        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            if operation == before and args == (
                installation.at(".update/next.json"),
                installation.at("local_version.json"),
            ):
                raise Dies
            return super().perform(operation, path, call, *args)

    with pytest.raises(Dies):
        update(
            Installation(installation.folder, "local_version.json", disk=Dying()),
            tree,
            "9.0.0",
            FOURTH,
        )


# --- there and back -------------------------------------------------------------------------------


def are_legal_beside(release: Tree, mine: Tree) -> bool:
    try:
        check_tree(entries_of({**release, **mine}))
    except UnsafePath:
        return False
    return not release.keys() & mine.keys()


@given(one=TREES, two=TREES, three=TREES, mine=TREES)
@settings(max_examples=50, deadline=None)
def test_any_tree_becomes_any_other_and_goes_back_exactly(
    one: Tree, two: Tree, three: Tree, mine: Tree
) -> None:
    mine = {
        path: item
        for path, item in mine.items()
        if all(are_legal_beside(tree, {path: item}) for tree in (one, two, three))
    }
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, ".update"))
        installation = Installation(folder, "local_version.json", disk=Unsynced())
        put(installation, mine)
        for version, tree, identifier in [
            ("1", one, FIRST),
            ("2", two, SECOND),
            ("3", three, THIRD),
        ]:
            update(installation, tree, version, identifier)
            assert found(installation) == {**tree, **mine}
        assert installation.rollback(FOURTH, "a test").version == "2"
        assert found(installation) == {**two, **mine}
        assert installation.damaged(installation.installed()) == []
        with pytest.raises(RollbackError, match="no earlier version"):
            installation.rollback(FIRST, "a test")


@posix_only
@pytest.mark.parametrize("umask", [0, 0o077], ids=oct)
def test_modes_are_those_of_the_release_whatever_the_umask(
    installation: Installation, umask: int
) -> None:
    before = os.umask(umask)
    try:
        update(installation, TWO, "2", SECOND)
    finally:
        os.umask(before)
    assert os.stat(installation.at("lib/b.py")).st_mode & 0o777 == 0o755
    assert os.stat(installation.at("main.py")).st_mode & 0o777 == 0o644
    assert os.stat(installation.at("lib")).st_mode & 0o022 == 0


def test_installed_files_are_as_old_as_the_install(
    installation: Installation, tmp_path: Path
) -> None:
    (tmp_path / "mark").touch()
    update(
        installation, ONE, "1", FIRST
    )  # a package's own time could make Python believe bytecode of before
    assert os.stat(installation.at("main.py")).st_mtime >= (tmp_path / "mark").stat().st_mtime


def test_python_never_runs_the_bytecode_of_a_module_that_was_replaced(
    installation: Installation,
) -> None:
    def run() -> str:
        code = (
            "import sys; sys.dont_write_bytecode, sys.pycache_prefix = False, None; "
            "sys.path.insert(0, ''); import m; print(m.x)"
        )
        return (
            subprocess.run(
                [sys.executable, "-c", code],
                cwd=installation.folder,
                stdout=subprocess.PIPE,
                check=True,
            )
            .stdout.decode()
            .strip()
        )

    update(installation, {"m.py": (b"x = 1\n", "644")}, "1", FIRST)
    os.utime(installation.at("m.py"), (1, 1))
    assert run() == "1" and os.listdir(installation.at("__pycache__"))
    update(installation, {"m.py": (b"x = 2\n", "644")}, "2", SECOND)
    os.utime(
        installation.at("m.py"), (1, 1)
    )  # the same second, the same size: only a dropped cache helps
    assert run() == "2"


# --- the user's files -----------------------------------------------------------------------------


def test_a_file_of_the_user_where_a_new_one_comes_is_kept_beside_and_comes_back(
    installation: Installation,
) -> None:
    put(installation, {"lib": (b"mine", "644"), "main.py": (b"mine too", "644")})
    update(installation, ONE, "1", FIRST)
    kept: Tree = {
        f"lib.user-{FIRST}": (b"mine", "644"),
        f"main.py.user-{FIRST}": (b"mine too", "644"),
    }
    assert found(installation) == {**ONE, **kept}
    update(installation, TWO, "2", SECOND)
    assert found(installation) == {**TWO, **kept}


def test_a_file_that_the_user_has_edited_survives_its_removal_from_the_release(
    installation: Installation,
) -> None:
    update(installation, ONE, "1", FIRST)
    put(installation, {"lib/a.py": (b"edited", "644")})
    update(installation, TWO, "2", SECOND)
    assert found(installation) == {**TWO, "lib/a.py": (b"edited", "644")}


def test_a_folder_that_must_become_a_file_fails_before_anything_while_it_holds_a_users_file(
    installation: Installation,
) -> None:
    update(installation, ONE, "1", FIRST)
    put(installation, {"lib/mine": (b"mine", "644")})
    with pytest.raises(InstallError, match="mine in it is not the program's"):
        update(installation, {"lib": (b"a file", "644")}, "2", SECOND)
    assert (
        found(installation) == {**ONE, "lib/mine": (b"mine", "644")} and not installation.pending()
    )


def test_cached_bytecode_keeps_no_folder_that_the_release_has_left(
    installation: Installation,
) -> None:
    update(installation, ONE, "1", FIRST)
    put(
        installation,
        {
            "lib/__pycache__/a.cpython-311.pyc": (b"a", "644"),
            "lib/__pycache__/a.cpython-311.pyc.4711": (b"a", "644"),
        },
    )
    update(installation, {"lib": (b"a file", "644")}, "2", SECOND)
    assert found(installation) == {"lib": (b"a file", "644")}
    update(installation, ONE, "3", THIRD)
    put(installation, {"lib/__pycache__/a.cpython-311.pyc": (b"a", "644")})
    update(installation, {"main.py": (b"1", "644")}, "4", FOURTH)
    assert not os.path.exists(installation.at("lib"))


@posix_only
@pytest.mark.parametrize(
    "into",
    [TWO, {"main.py": (b"2", "644"), "lib/c": (b"c", "644")}],
    ids=["its file goes", "a file comes"],
)
def test_a_link_of_the_user_in_place_of_a_folder_leads_nobody_outside(
    tmp_path: Path, into: Tree
) -> None:
    folder, outside = tmp_path / "client", tmp_path / "outside"
    (folder / ".update").mkdir(parents=True)
    installation = Installation(str(folder), "local_version.json", disk=Unsynced())
    update(installation, ONE, "1", FIRST)
    (folder / "lib").rename(outside)
    (folder / "lib").symlink_to(outside)
    with pytest.raises(
        InstallError, match="is a link or special file where the program has a folder"
    ):
        update(installation, into, "2", SECOND)
    update(
        installation, {"main.py": (b"2", "644")}, "2", SECOND
    )  # what was in it is no longer the program's
    assert read_tree(outside) == {"a.py": (b"a", "644")}


@posix_only
def test_a_special_file_in_the_way_is_named(installation: Installation) -> None:
    os.mkfifo(installation.at("main.py"))
    with pytest.raises(InstallError, match="main.py is a device or a socket"):
        update(installation, ONE, "1", FIRST)


def test_an_edited_file_that_only_changes_its_case_is_kept_if_it_is_preserved(
    tmp_path: Path,
) -> None:
    (tmp_path / ".update").mkdir()
    installation = Installation(
        str(tmp_path), "local_version.json", disk=Unsynced(), preserve=["*.ini"]
    )
    update(installation, {"Settings.ini": (b"1", "644")}, "1", FIRST)
    put(installation, {"Settings.ini": (b"edited", "644")})
    update(installation, {"settings.ini": (b"2", "644")}, "2", SECOND)
    assert found(installation) == {
        "settings.ini": (b"2", "644"),
        f"Settings.ini.user-{SECOND}": (b"edited", "644"),
    }


def test_a_shipped_setting_never_overwrites_what_lies_beside(tmp_path: Path) -> None:
    (tmp_path / ".update").mkdir()
    installation = Installation(
        str(tmp_path), "local_version.json", disk=Unsynced(), preserve=["s"]
    )
    put(installation, {"s": (b"edited", "644"), "s.new": (b"mine", "644")})
    update(installation, {"s": (b"1", "644")}, "1", FIRST)
    assert found(installation) == {
        "s": (b"edited", "644"),
        "s.new": (b"mine", "644"),
        f"s.new-{FIRST}": (b"1", "644"),
    }
    update(
        installation,
        {"s": (b"2", "644"), "s.new": (b"the release has one too", "644")},
        "2",
        SECOND,
    )
    assert found(installation)["s.new"] == (b"the release has one too", "644") and found(
        installation
    )[f"s.new.user-{SECOND}"] == (b"mine", "644")
    assert found(installation)[f"s.new-{SECOND}"] == (b"2", "644")


def test_a_user_file_whose_name_cannot_be_made_longer_stops_the_update_and_not_the_program(
    installation: Installation,
) -> None:
    name = "n" * 250
    put(installation, {name: (b"mine", "644")})
    with pytest.raises(InstallError, match="longer than 255 bytes; nothing was installed"):
        update(installation, {name: (b"1", "644")}, "1", FIRST)
    assert found(installation) == {name: (b"mine", "644")} and not installation.pending()


@posix_only
def test_a_users_link_to_bytes_that_are_no_unicode_is_kept(installation: Installation) -> None:
    os.symlink(b"\xff", os.fsencode(installation.at("main.py")))
    update(installation, ONE, "1", FIRST)
    assert os.readlink(os.fsencode(installation.at(f"main.py.user-{FIRST}"))) == b"\xff"


# --- what is in the way ---------------------------------------------------------------------------


@pytest.fixture
def mounted(installation: Installation) -> Iterator[Installation]:
    """`lib` of ONE on a file system of its own."""
    update(installation, {"main.py": (b"1", "644")}, "1", FIRST)
    os.mkdir(installation.at("lib"))
    if (
        os.name != "posix"
        or subprocess.call(
            ["mount", "-t", "tmpfs", "tmpfs", installation.at("lib")], stderr=subprocess.DEVNULL
        )
        != 0
    ):
        pytest.skip("nothing can be mounted here")
    yield installation
    subprocess.check_call(["umount", installation.at("lib")])


def test_another_file_system_in_the_way_is_said_before_anything_happens(
    mounted: Installation,
) -> None:
    with pytest.raises(InstallError, match="lib lies on another file system"):
        update(mounted, ONE, "2", SECOND)
    assert found(mounted) == {"main.py": (b"1", "644")} and not mounted.pending()


@posix_only
@pytest.mark.parametrize("name", [".backup", ".update/staging"])
def test_a_folder_of_the_updater_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "client", tmp_path / "outside"
    (folder / ".update").mkdir(parents=True)
    installation = Installation(str(folder), "local_version.json", disk=Unsynced())
    update(installation, ONE, "1", FIRST)
    if name == ".backup":
        shutil.rmtree(folder / ".backup")
    outside.mkdir()
    (folder / name).symlink_to(outside)
    if name == ".backup":
        with pytest.raises(InstallError, match="is not a folder"):
            update(installation, TWO, "2", SECOND)
    else:
        update(installation, TWO, "2", SECOND)  # the link is replaced, not followed
    assert os.listdir(outside) == []


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give a folder away"
)
def test_a_backup_of_another_user_is_neither_used_nor_filled(installation: Installation) -> None:
    update(installation, ONE, "1", FIRST)
    update(installation, TWO, "2", SECOND)
    assert installation.backup_files()
    os.chown(installation.at(".backup"), 4711, -1)
    assert not installation.backup_files()
    with pytest.raises(RollbackError, match="belongs to another user"):
        installation.rollback(THIRD, "a test")
    with pytest.raises(InstallError, match="belongs to another user"):
        update(installation, ONE, "3", THIRD)
    assert found(installation) == TWO


# --- rollback -------------------------------------------------------------------------------------


def test_a_damaged_backup_is_not_rolled_back_to(installation: Installation) -> None:
    update(installation, ONE, "1", FIRST)
    update(installation, TWO, "2", SECOND)
    Path(installation.at(f".backup/{SECOND}/0")).write_bytes(b"rotten")
    with pytest.raises(RollbackError, match="backup of .* is damaged; nothing was changed"):
        installation.rollback(THIRD, "a test")
    assert found(installation) == TWO


def test_a_rollback_works_over_files_that_the_user_has_changed(installation: Installation) -> None:
    update(installation, {**ONE, "same": (b"s", "644"), "other": (b"o", "644")}, "1", FIRST)
    update(installation, {**TWO, "same": (b"s", "644"), "other": (b"o", "644")}, "2", SECOND)
    put(installation, {"same": (b"edited", "644"), "main.py": (b"edited", "644")})
    os.unlink(installation.at("other"))
    os.makedirs(installation.at("other/now a folder"))
    installation.rollback(THIRD, "a test")
    assert found(installation) == {**ONE, "same": (b"edited", "644")}


def test_only_the_last_generation_is_kept(installation: Installation) -> None:
    for version, tree, identifier in [("1", ONE, FIRST), ("2", TWO, SECOND), ("3", ONE, THIRD)]:
        update(installation, tree, version, identifier)
    assert sorted(os.listdir(installation.at(".backup"))) == [THIRD, "trust.json"]
    installation.rollback(FOURTH, "a test")
    assert os.listdir(installation.at(".backup")) == ["trust.json"]


def test_without_hard_links_a_launcher_is_replaced_all_the_same(tmp_path: Path) -> None:
    class NoLinks(Unsynced):
        def link(self, source: str, target: str) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted", source)

    (tmp_path / ".update").mkdir()
    installation = Installation(
        str(tmp_path), "local_version.json", disk=NoLinks(), launcher="main.py"
    )
    update(installation, ONE, "1", FIRST)
    update(installation, TWO, "2", SECOND)
    assert found(installation) == TWO
    installation.rollback(THIRD, "a test")
    assert found(installation) == ONE


# --- recovery -------------------------------------------------------------------------------------


def test_recovery_undoes_and_keeps_what_somebody_changed_meanwhile(
    installation: Installation,
) -> None:
    update(installation, ONE, "1", FIRST)
    interrupted(installation, TWO, "rename")
    assert installation.pending()
    put(installation, {"main.py": (b"x", "644")})  # same size, other content
    installation.recover()
    kept = {f"main.py.user-{FOURTH}": (b"x", "644")}
    assert found(installation) == {**ONE, **kept} and not installation.pending()


def test_an_undone_update_needs_no_download(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(installation, ONE, "1", FIRST)
    interrupted(installation, TWO, "rename")
    installation.recover()
    assert found(installation) == ONE
    monkeypatch.setattr(Shop, "download", None)
    update(installation, TWO, "9.0.0", SECOND)
    assert found(installation) == TWO


def test_a_commit_counts_though_the_journal_is_still_there(installation: Installation) -> None:
    update(installation, ONE, "1", FIRST)
    interrupted(installation, TWO, "rename")
    os.replace(installation.at(".update/next.json"), installation.at("local_version.json"))
    assert not installation.pending()  # the program may start: only the cleaning up is left
    installation.recover()
    assert found(installation) == TWO and sorted(os.listdir(installation.at(".update"))) == [
        "state.json"
    ]


def test_a_commit_whose_answer_is_lost_is_a_commit(installation: Installation) -> None:
    class Network(Unsynced):
        def rename(self, source: str, target: str) -> None:
            super().rename(source, target)
            if target == installation.at("local_version.json") != source:
                raise OSError(
                    errno.ENOENT, "No such file or directory", source
                )  # NFS: the first answer was lost, the second is about a repetition

    update(installation, ONE, "1", FIRST)
    update(
        Installation(installation.folder, "local_version.json", disk=Network()), TWO, "2", SECOND
    )
    assert found(installation) == TWO and not installation.pending()
    installation.rollback(THIRD, "a test")
    assert found(installation) == ONE


def test_undoing_keeps_what_somebody_has_put_in_the_way(installation: Installation) -> None:
    update(installation, {"f": (b"f", "644"), "g/x": (b"x", "644"), "h": (b"h", "644")}, "1", FIRST)
    interrupted(
        installation, {"f/deep": (b"d", "644"), "g": (b"g", "644"), "h": (b"2", "644")}, "rename"
    )
    put(installation, {"f/mine": (b"mine", "644"), "g": (b"mine", "644")})
    installation.recover()
    assert found(installation) == {
        "f": (b"f", "644"),
        "g/x": (b"x", "644"),
        "h": (b"h", "644"),
        f"f.user-{FOURTH}/mine": (b"mine", "644"),
        f"g.user-{FOURTH}": (b"mine", "644"),
    }


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../outside",
        "lib/../../outside",
        ".update/../../outside",
        "local_version.json/x",
    ],
)
@pytest.mark.parametrize("where", ["out", "into", "stale", "drop", "make", "id"])
def test_a_journal_that_leads_outside_is_not_believed(
    installation: Installation, path: str, where: str
) -> None:
    update(installation, ONE, "1", FIRST)
    interrupted(installation, TWO, "rename")
    journal = json.loads(Path(installation.at(".update/journal.json")).read_bytes())
    out, into, stale, drop, make = journal["changes"]
    if where == "id":
        journal["id"] = path
    else:
        items = {"out": out, "into": into, "stale": stale, "drop": drop, "make": make}[where]
        items.append(
            [path, "main.py", ["x", 0, "", "644", None]] if where in ("out", "into") else path
        )
    Path(installation.at(".update/journal.json")).write_text(json.dumps(journal))
    if where in ("stale", "drop") and path == "local_version.json/x":
        return  # such a thing could be deleted only if it were there
    before = found(installation)
    with pytest.raises(InstallError, match="cannot be undone"):
        installation.recover()
    assert installation.pending() and found(installation) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "state", "before", "launcher", "changes", "version", "trust"]),
            inner,
            max_size=6,
        )
    ),
)


@given(value=JSON)
@settings(deadline=None)
def test_a_journal_of_any_form_is_a_sentence(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, ".update"))
        Path(folder, ".update", "journal.json").write_text(json.dumps(value))
        with pytest.raises(InstallError, match="cannot be undone"):
            Installation(folder, "local_version.json", disk=Unsynced()).recover()


def test_a_staged_file_that_has_rotted_is_not_installed(installation: Installation) -> None:
    update(installation, ONE, "1", FIRST)

    class Rot(Unsynced):
        def mkdir(self, path: str) -> None:  # of the backup: everything is staged by then
            super().mkdir(path)
            if path.endswith(SECOND):
                raise AssertionError("the journal was begun")

    rotten = Installation(installation.folder, "local_version.json", disk=Rot())
    plan_swap, calls = rotten.plan_swap, [0]

    def rot(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            Path(installation.at(".update/staging/1")).write_bytes(b"x")
        return plan_swap(*args)

    rotten.plan_swap = rot  # type: ignore
    with pytest.raises(InstallError, match="has changed while the update was prepared"):
        update(rotten, TWO, "2", SECOND)
    assert found(installation) == ONE and not installation.pending()


def test_a_busy_file_costs_ten_seconds_of_a_transaction_in_all(installation: Installation) -> None:
    class Busy(Unsynced):
        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            if path == installation.at("main.py"):
                error = PermissionError(errno.EACCES, "in use", path)
                error.winerror = 32  # type: ignore[attr-defined]
                raise error
            return super().perform(operation, path, call, *args)

    update(installation, ONE, "1", FIRST)
    disk = Busy()
    with pytest.raises(
        InstallError, match="main.py: in use; (the installed version stays|nothing was installed)"
    ):
        update(Installation(installation.folder, "local_version.json", disk=disk), TWO, "2", SECOND)
    assert 9 < disk.clock < 11 and found(installation) == ONE


def test_the_sentence_of_a_rename_that_fails_names_the_programs_file(
    installation: Installation,
) -> None:
    class Held(Unsynced):
        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            if (
                operation == "rename"
                and args[-1] == installation.at("main.py")
                and "staging" in path
            ):
                raise PermissionError(
                    errno.EACCES, "in use", args[0], None, args[1]
                )  # as os.replace says it
            return super().perform(operation, path, call, *args)

    update(installation, ONE, "1", FIRST)
    with pytest.raises(
        InstallError, match="staging.* -> .*main.py: in use; the installed version stays"
    ):
        update(
            Installation(installation.folder, "local_version.json", disk=Held()), TWO, "2", SECOND
        )
    assert found(installation) == ONE


@posix_only
def test_where_every_file_is_executable_updates_and_rollbacks_work_and_nothing_counts_as_damaged(
    installation: Installation,
) -> None:
    class NoModes(Unsynced):
        """exFAT, NTFS, a share of Windows': chmod succeeds and does nothing."""

        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            return (
                call(path, 0o755)
                if operation == "chmod"
                else super().perform(operation, path, call, *args)
            )

    def contents() -> Dict[str, object]:
        return {path: item[0] for path, item in found(installation).items()}

    drive = Installation(installation.folder, "local_version.json", disk=NoModes())
    update(drive, ONE, "1", FIRST)
    assert contents() == {path: item[0] for path, item in ONE.items()} and not drive.damaged(
        drive.installed()
    )
    update(drive, TWO, "2", SECOND)
    assert contents() == {path: item[0] for path, item in TWO.items()} and not drive.damaged(
        drive.installed()
    )
    assert drive.rollback(THIRD, "asked for").version == "1" and not drive.damaged(
        drive.installed()
    )
    Path(installation.at("main.py")).write_bytes(b"x")
    assert [entry.path for entry in drive.damaged(drive.installed())] == ["main.py"]


def test_an_emptied_folder_that_somebody_works_in_does_not_stop_an_update(
    installation: Installation,
) -> None:
    class Occupied(Unsynced):
        def rmdir(self, path: str) -> None:
            if path == installation.at("lib"):
                raise PermissionError(errno.EACCES, "in use", path)
            super().rmdir(path)

        def rename(self, source: str, target: str) -> None:
            if source == installation.at("lib"):
                raise PermissionError(errno.EACCES, "in use", source)
            super().rename(source, target)

    update(installation, ONE, "1", FIRST)
    update(
        Installation(installation.folder, "local_version.json", disk=Occupied()),
        {"main.py": (b"2", "644")},
        "2",
        SECOND,
    )
    assert os.listdir(installation.at("lib")) == []


def test_what_is_remembered_survives_beside_the_tree(installation: Installation) -> None:
    update(installation, ONE, "1", FIRST)
    state = installation.state()
    assert state is not None
    installation.remember(state._replace(trial_starts=2))
    again = Installation(installation.folder, "local_version.json", disk=Disk()).state()
    assert again == state._replace(trial_starts=2)


def test_a_version_file_that_cannot_be_read_is_mended_from_its_copy(
    installation: Installation,
) -> None:
    update(installation, ONE, "1", FIRST)
    whole = Path(installation.at("local_version.json")).read_bytes()
    Path(installation.at("local_version.json")).write_bytes(whole[:50])
    installation.recover()
    assert Path(installation.at("local_version.json")).read_bytes() == whole
