"""The package: reproducible, complete or partial, true to the manifest."""

from __future__ import annotations

import io
import itertools
import os
import random
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Container, List, Optional

import pytest

from nuitkal_mini import zip_write
from nuitkal_mini.publish import pack
from nuitkal_mini.publish.pack import write_package
from nuitkal_mini.publish.tree import FolderTree, read_tree
from nuitkal_mini.zip_read import PARTIAL_COMMENT, ArchiveError, read_directory
from nuitkal_mini.zip_read import read_tree as tree_of_package
from nuitkal_mini.zip_write import PackageWriter

from .conftest import write


def package(tree: FolderTree, wanted: Optional[Container[str]] = None) -> bytes:
    out = io.BytesIO()
    write_package(tree, out, wanted)
    return out.getvalue()


@pytest.fixture
def tree(program: Path) -> FolderTree:
    (program / "run").symlink_to("lib/tool.sh")
    return read_tree(program, "app", "1.0.0")


def test_a_package_holds_what_the_manifest_lists(tree: FolderTree) -> None:
    content = package(tree)
    assert tree_of_package(io.BytesIO(content), "app", "1.0.0") == tree.manifest
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None


def test_the_same_tree_gives_the_same_bytes_wherever_and_whenever(
    tree: FolderTree, tmp_path: Path
) -> None:
    for path, file in random.sample(sorted(tree.sources.items()), len(tree.sources)):
        copy = tmp_path / "copy" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if os.path.islink(file):
            copy.symlink_to(os.readlink(file))
        else:
            write(
                tmp_path / "copy",
                path,
                Path(file).read_bytes(),
                mode=0o700 if os.access(file, os.X_OK) else 0o600,
                age_seconds=5000,
            )
    assert package(read_tree(tmp_path / "copy", "app", "1.0.0")) == package(tree)


def test_threads_give_the_same_bytes_as_one_after_the_other(program: Path) -> None:
    generator = random.Random(1)
    for number in range(60):
        write(
            program,
            f"many/{number}",
            generator.getrandbits(8 * 5000).to_bytes(5000, "big") * generator.randrange(1, 5),
        )
    write(
        program,
        "many/large",
        bytes(2 * pack._IN_MEMORY)
        + generator.getrandbits(16 * pack._IN_MEMORY).to_bytes(2 * pack._IN_MEMORY, "big"),
    )
    tree = read_tree(program, "app", "1.0.0")
    out = io.BytesIO()
    writer = PackageWriter(out)
    for entry in tree.manifest.files:
        with open(tree.sources[entry.path], "rb") as source:
            writer.add(entry, source)
    writer.close()
    assert package(tree) == out.getvalue()


@pytest.mark.parametrize("interrupted", range(1, 8))
def test_ctrl_c_while_a_result_is_waited_for_leaves_no_file_open(
    program: Path, monkeypatch: pytest.MonkeyPatch, interrupted: int
) -> None:
    opened: List[IO[bytes]] = []
    calls = itertools.count(1)
    wait = Future.result

    def open_temporary(size: int) -> IO[bytes]:
        opened.append(SpooledTemporaryFile(size))
        return opened[-1]

    def result(future: Future[object]) -> object:
        found = wait(future)
        if next(calls) == interrupted:
            raise KeyboardInterrupt
        return found

    for number in range(7):
        write(program, f"many/{number}", b"%d" % number)
    tree = read_tree(program, "app", "1.0.0")
    monkeypatch.setattr(pack, "SpooledTemporaryFile", open_temporary)
    monkeypatch.setattr(
        pack, "workers", lambda: ThreadPoolExecutor(2)
    )  # which waits for its threads
    monkeypatch.setattr(pack, "_AHEAD", 2)
    monkeypatch.setattr(Future, "result", result)
    with pytest.raises(KeyboardInterrupt):
        write_package(tree, io.BytesIO())
    assert opened and all(file.closed for file in opened)


def test_a_package_of_some_contents_says_that_it_is_partial(tree: FolderTree) -> None:
    wanted = {entry.sha256 for entry in tree.manifest.files if entry.path == "main.py"}
    out = io.BytesIO()
    write_package(tree, out, wanted)
    directory = read_directory(out)
    assert [member.path for member in directory.members] == ["main.py", "run"]
    assert directory.comment == PARTIAL_COMMENT
    assert read_directory(io.BytesIO(package(tree))).comment == b""
    assert (
        read_directory(
            io.BytesIO(package(tree, {entry.sha256 for entry in tree.manifest.files}))
        ).comment
        == b""
    )


def test_a_large_file_of_zeros_is_not_taken_for_a_bomb(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_write, "BOMB_SIZE", 2**20)
    write(program, "database", bytes(2**20 + 1))
    tree = read_tree(program, "app", "1.0.0")
    assert tree_of_package(io.BytesIO(package(tree)), "app", "1.0.0") == tree.manifest


def test_a_file_that_changes_between_hashing_and_packing_is_noticed_and_forgotten(
    tree: FolderTree, program: Path, cache_folder: Path
) -> None:
    write(program, "main.py", b"print('HELLO')\n")
    with pytest.raises(
        ArchiveError, match="'main.py' changed while it was being packed; run the command again"
    ):
        package(tree)
    assert not list((cache_folder / "nuitkal_mini").iterdir())
