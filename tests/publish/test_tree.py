"""A folder as a manifest: what is in it, what is refused, what the cache spares."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import unicodedata
from pathlib import Path
from typing import Callable, List

import pytest

from nuitkal_mini.entries import FileEntry, link_entry
from nuitkal_mini.paths import UnsafePath
from nuitkal_mini.publish import tree
from nuitkal_mini.publish.tree import PublishError, read_tree

from .conftest import write
from .test_commands import run

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX files")


def paths(folder: Path, *patterns: str) -> List[str]:
    return [entry.path for entry in read_tree(folder, "app", "1.0.0", patterns).manifest.files]


def test_a_manifest_lists_every_file_with_size_hash_and_mode(program: Path) -> None:
    manifest = read_tree(program, "app", "1.0.0").manifest
    assert (manifest.app, manifest.version) == ("app", "1.0.0")
    assert [entry.path for entry in manifest.files] == [
        "empty",
        "lib/noise.bin",
        "lib/tool.sh",
        "main.py",
    ]
    content = (program / "lib/tool.sh").read_bytes()
    assert manifest.files[2] == FileEntry(
        "lib/tool.sh", len(content), hashlib.sha256(content).hexdigest(), "755"
    )
    assert manifest.files[3].mode == "644"


def test_caches_version_control_and_the_updaters_own_files_stay_out(program: Path) -> None:
    before = paths(program)
    for path in [
        "__pycache__/a.pyc",
        "lib/__pycache__/b.pyc",
        ".git/config",
        ".update/x",
        ".backup/y",
        "local_version.json",
        ".nuitkalignore",
    ]:
        write(program, path, b"")
    assert paths(program) == before
    write(program, "lib/local_version.json", b"{}")
    assert paths(program) == sorted([*before, "lib/local_version.json"])


def test_patterns_of_the_command_line_come_after_those_of_the_ignore_file(program: Path) -> None:
    write(program, ".nuitkalignore", b"\xef\xbb\xbf*.bin\r\nempty\r\n")
    assert paths(program) == ["lib/tool.sh", "main.py"]
    assert paths(program, "!empty", "/main.py") == ["empty", "lib/tool.sh"]


def test_an_empty_result_is_an_error(program: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="nothing to publish"):
        paths(program, "*")


@posix
def test_links_are_entries_and_may_not_lead_outside(program: Path) -> None:
    (program / "lib" / "run").symlink_to("../main.py")
    (program / "libs").symlink_to("lib")
    manifest = read_tree(program, "app", "1.0.0").manifest
    assert (
        link_entry("lib/run", "../main.py") in manifest.files
        and link_entry("libs", "lib") in manifest.files
    )
    (program / "lib" / "bad").symlink_to("../../secret")
    with pytest.raises(UnsafePath, match="'lib/bad' leads out"):
        paths(program)
    assert "libs" in paths(program, "bad")


@posix
def test_pipes_and_sockets_are_refused_by_name(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("control")
        with pytest.raises(PublishError, match="'control' is a socket"):
            paths(program)
        assert "control" not in paths(program, "control")
    os.mkfifo("lib/pipe")
    with pytest.raises(PublishError, match="'lib/pipe' is a socket, a pipe or a device"):
        paths(program, "control")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
@pytest.mark.parametrize(
    "name, sentence",
    [
        (b"aux.txt", "'aux.txt' is a device"),
        (b"a:b", "'a:b' has a character that Windows forbids"),
        (b"MAIN.PY", "are one file on Windows and macOS"),
        (b"bad\xff", "not valid Unicode; rename it"),
    ],
)
def test_names_that_another_system_cannot_have_are_refused_before_hashing(
    program: Path, name: bytes, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_hash", None)
    Path(os.fsdecode(os.path.join(os.fsencode(program), name))).write_bytes(b"")
    with pytest.raises(UnsafePath, match=sentence):
        paths(program)


@pytest.mark.skipif(sys.platform == "darwin", reason="APFS normalises by itself")
def test_a_decomposed_name_is_composed_in_the_manifest_and_read_under_its_real_one(
    program: Path,
) -> None:
    name = unicodedata.normalize("NFD", "größe.txt")
    write(program, name, b"12")
    read = read_tree(program, "app", "1.0.0")
    assert "größe.txt" in [entry.path for entry in read.manifest.files]
    assert Path(read.sources["größe.txt"]).name == name


def test_an_unchanged_tree_is_not_read_again(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_tree(program, "app", "1.0.0")
    monkeypatch.setattr(tree, "_hash", None)
    assert read_tree(program, "app", "1.0.0") == first


@pytest.mark.parametrize("same_mtime", [False, True])
def test_a_changed_file_is_read_again(program: Path, same_mtime: bool) -> None:
    before = read_tree(program, "app", "1.0.0").manifest.files
    file = program / "main.py"
    status = file.stat()
    write(program, "main.py", b"print('HELLO')\n", age_seconds=50)
    if same_mtime:  # as tools for reproducible builds do; ctime tells
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = read_tree(program, "app", "1.0.0").manifest.files
    assert after[3].sha256 == hashlib.sha256(b"print('HELLO')\n").hexdigest()
    assert before[:3] == after[:3]


def test_a_file_that_was_just_written_is_read_again(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(program, "young", b"1", age_seconds=None)
    read_tree(program, "app", "1.0.0")
    read: List[str] = []
    real = tree._hash

    def hash_and_note(source: tree.FolderFile, advance: Callable[[int], None]) -> str:
        read.append(source.path)
        return real(source, advance)

    monkeypatch.setattr(tree, "_hash", hash_and_note)
    read_tree(program, "app", "1.0.0")
    assert read == ["young"]


def test_the_cache_forgets_files_that_are_gone(program: Path, cache_folder: Path) -> None:
    read_tree(program, "app", "1.0.0")
    (program / "main.py").unlink()
    read_tree(program, "app", "1.0.0")
    [file] = (cache_folder / "nuitkal_mini").iterdir()
    assert "lib/tool.sh" in file.read_text() and "main.py" not in file.read_text()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"], ids=repr)
def test_a_damaged_cache_is_only_slow(program: Path, cache_folder: Path, damage: bytes) -> None:
    first = read_tree(program, "app", "1.0.0")
    [file] = (cache_folder / "nuitkal_mini").iterdir()
    file.write_bytes(damage)
    assert read_tree(program, "app", "1.0.0") == first


def test_a_cache_folder_that_cannot_be_written_is_only_slow(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(write(tmp_path, "file", b"")))
    assert read_tree(program, "app", "1.0.0") == read_tree(program, "app", "1.0.0")


def test_a_file_that_changes_while_it_is_hashed_is_noticed(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat

    def slow_fstat(descriptor: int) -> os.stat_result:
        write(program, "main.py", b"print('changed')\n", age_seconds=None)
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", slow_fstat)
    with pytest.raises(
        PublishError, match="'main.py' changed while it was being packed; run the command again"
    ):
        paths(program)


def test_empty_folders_are_left_out_and_named(program: Path) -> None:
    for name in ("cache/deep", "logs", "lib/full"):
        (program / name).mkdir(parents=True)
    write(program, "lib/full/__pycache__/a.pyc", b"")
    assert read_tree(program, "app", "1.0.0").empty_folders == ("cache/deep", "logs")
    done = run("pack", program, "--app", "a", "--version", "1", "-o", program.parent / "o.zip")
    assert done.returncode == 0
    assert "a release has no empty folders; left out: cache/deep, logs" in done.stderr
