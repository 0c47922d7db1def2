"""Backups while servers work, and what check-data says of a damaged folder."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from nuitkal_mini.problem import Problem
from nuitkal_mini.server import backup, create_app
from nuitkal_mini.server.backup import back_up
from nuitkal_mini.server.check_data import check_data

from ..support import ROOT, start_server
from .caller import Caller, make_manifest

TREE = {"app/main.py": b"one\n" * 100, "lib/big.so": os.urandom(3000)}


def image(folder: Path) -> Dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def versions(folder: Path) -> List[str]:
    """What a server over the folder lists; its packages are read as clients would."""
    app = create_app(folder)
    try:
        call = Caller(app, has_token=False)
        found = call.get("versions/").json["versions"]
        for release in found:
            assert len(call.media(release["download_url"])) == release["file_size"]
        return [release["version"] for release in found]
    finally:
        app.close()


@pytest.fixture
def published(call: Caller) -> Caller:
    assert call.upload("1.0", TREE).status == 201
    assert call.upload("1.1", {**TREE, "new": b"x"}).status == 201
    return call


def test_a_backup_takes_the_place_of_the_data_folder(
    published: Caller, data: Path, tmp_path: Path
) -> None:
    done = back_up(data, tmp_path / "backup")
    assert done.files == done.new_files == 4 and done.new_bytes > 6000
    assert list(check_data(tmp_path / "backup")) == []
    assert versions(tmp_path / "backup") == ["1.1", "1.0"]
    assert (tmp_path / "backup/nuitkal.db").stat().st_mode & 0o077 == 0 or os.name == "nt"


def test_a_repeated_backup_takes_only_what_is_new_and_drops_what_was_deleted(
    published: Caller, data: Path, tmp_path: Path
) -> None:
    back_up(data, tmp_path / "backup")
    assert back_up(data, tmp_path / "backup").new_files == 0
    assert published("DELETE", "versions/1.0/").status == 204
    published.upload("1.2", {**TREE, "newer": b"y"})
    done = back_up(data, tmp_path / "backup")
    assert (done.files, done.new_files) == (4, 2)
    assert versions(tmp_path / "backup") == ["1.2", "1.1"]


def test_without_hard_links_files_are_copied_once(
    published: Caller, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert back_up(data, tmp_path / "backup").new_files == 4
    assert back_up(data, tmp_path / "backup").new_files == 0
    assert list(check_data(tmp_path / "backup")) == []


def test_a_release_deleted_meanwhile_makes_the_backup_begin_again(
    published: Caller, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = backup._copy_database, []

    def delete_then(*paths: Path) -> None:
        plain(*paths)
        calls.append(paths)
        if len(calls) == 1:
            published("DELETE", "versions/1.0/")

    monkeypatch.setattr(backup, "_copy_database", delete_then)
    back_up(data, tmp_path / "backup")
    assert len(calls) == 2 and list(check_data(tmp_path / "backup")) == []
    assert versions(tmp_path / "backup") == ["1.1"]


@pytest.mark.parametrize("where", ["data/backup", "data", "data/media/x"])
def test_a_backup_into_the_data_folder_is_refused(
    published: Caller, data: Path, tmp_path: Path, where: str
) -> None:
    if where == "data":
        where = "data/."
        with pytest.raises(Problem):
            back_up(data, tmp_path / where)
        return
    with pytest.raises(Problem, match="lies in the data folder"):
        back_up(data, tmp_path / where)


def test_a_folder_without_data_is_refused_and_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "typo").mkdir()
    with pytest.raises(Problem, match="holds no data"):
        back_up(tmp_path / "typo", tmp_path / "backup")
    assert list(tmp_path.rglob("*")) == [tmp_path / "typo"]


def test_two_backups_into_one_folder_take_turns(
    published: Caller, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = backup._back_up
    refused: List[str] = []

    def meanwhile(*paths: Path) -> Any:
        monkeypatch.setattr(backup, "_back_up", plain)
        with pytest.raises(Problem, match="another backup") as caught:
            back_up(data, tmp_path / "backup")
        refused.append(str(caught.value))
        return plain(*paths)

    monkeypatch.setattr(backup, "_back_up", meanwhile)
    back_up(data, tmp_path / "backup")
    assert refused and list(check_data(tmp_path / "backup")) == []


class Stopped(BaseException):
    """The process is gone at this operation."""


def stop_at(monkeypatch: pytest.MonkeyPatch, operation: int) -> List[str]:
    """End at the nth operation that changes the disk, before it is done."""
    done: List[str] = []
    for module, name in (
        (os, "replace"),
        (os, "link"),
        (os, "unlink"),
        (os, "fsync"),
        (os, "mkdir"),
        (backup, "_copy_database"),
    ):
        real = getattr(module, name)

        def counted(
            *args: Any, _real: Callable[..., Any] = real, _name: str = name, **more: Any
        ) -> Any:
            if len(done) == operation:
                raise Stopped(_name)
            done.append(_name)
            return _real(*args, **more)

        monkeypatch.setattr(module, name, counted)
    return done


def test_stopped_anywhere_the_backup_before_or_the_new_one_is_whole(
    published: Caller, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(data, tmp_path / "first")
    published("DELETE", "versions/1.0/")
    published.upload("1.2", {**TREE, "newer": b"y"})
    stopped = 0
    for operation in range(100):
        folder = tmp_path / f"backup{operation}"
        shutil.copytree(tmp_path / "first", folder)
        with monkeypatch.context() as patch:
            stop_at(patch, operation)
            try:
                back_up(data, folder)
                break
            except Stopped:
                stopped += 1
        faults = [line for line in check_data(folder) if "belongs to no release" not in line]
        assert faults == [], operation
        assert back_up(data, folder).files == 4 and list(check_data(folder)) == []
    assert stopped > 6


def test_backups_taken_while_two_servers_change_everything_are_whole(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "backup"
    first, second = create_app(data), create_app(data)
    over, seen = threading.Event(), []

    def work(call: Caller, seed: int) -> None:
        choose = random.Random(seed)
        for number in range(10_000):
            if over.is_set():
                return
            version = f"{seed}.{number}"
            call.upload(
                version,
                {"a": choose.randbytes(500) if sys.version_info >= (3, 9) else os.urandom(500)},
            )
            if choose.random() < 0.5:
                call.send("PATCH", f"versions/{version}/", {"is_active": False})
                seen.append(call("DELETE", f"versions/{version}/").status)

    callers = [Caller(first), Caller(second, has_token=False)]
    callers[1].token = callers[0].token
    threads = [
        threading.Thread(target=work, args=(call, seed)) for seed, call in enumerate(callers, 1)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            back_up(data, folder)
            assert list(check_data(folder)) == []
    finally:
        over.set()
        for thread in threads:
            thread.join()
        first.close()
        second.close()
    assert 204 in seen and list(check_data(data)) == []


# --- check-data


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    content = change(path.read_bytes())
    path.unlink()
    path.write_bytes(content)


def sql(statement: str) -> Callable[[Path], None]:
    def run(data: Path) -> None:
        with closing(sqlite3.connect(str(data / "nuitkal.db"))) as db, db:
            db.create_function("precedence_key", 1, str)
            db.execute(statement)

    return run


def on(pattern: str, act: Callable[[Path], object]) -> Callable[[Path], None]:
    def run(data: Path) -> None:
        act(sorted((data / "media").rglob(pattern))[0])

    return run


FAULTS: Dict[str, Any] = {
    "a package is gone": (on("*.zip", Path.unlink), "No such file"),
    "a package lost its end": (
        on("*.zip", lambda path: rewrite(path, lambda data: data[:-5])),
        "is not what was published",
    ),
    "one byte of a package": (
        on("*.zip", lambda path: rewrite(path, lambda data: data[:60] + b"?" + data[61:])),
        "is not what was published",
    ),
    "a package is a folder": (
        on("*.zip", lambda path: (path.unlink(), path.mkdir())),
        "Is a directory",
    ),
    "a manifest is gone": (on("*.json", Path.unlink), "No such file"),
    "another manifest": (
        on("*.json", lambda path: path.write_bytes(make_manifest("9", {"a": b""}))),
        "is not what was published",
    ),
    "a file without a release": (
        on("*.zip", lambda path: path.with_name("update_7.zip").write_bytes(b"x")),
        "belongs to no release",
    ),
    "the database is gone": (lambda data: (data / "nuitkal.db").unlink(), "is missing"),
    "the database is text": (
        lambda data: (data / "nuitkal.db").write_text("no database" * 100),
        "cannot be read",
    ),
    "a newer schema": (sql("PRAGMA user_version = 99"), "install a newer one"),
    "a version that is none": (
        sql("UPDATE releases SET version = 'x' WHERE version = '1.0'"),
        "version",
    ),
    "a version filed wrongly": (
        sql("UPDATE releases SET canonical = '5.0.0' WHERE version = '1.0'"),
        "is filed under",
    ),
    "a count": (
        sql("UPDATE releases SET file_count = 99 WHERE version = '1.0'"),
        "counts other files",
    ),
    "contents forgotten": (sql("DELETE FROM contents"), "lacks contents"),
    "contents invented": (
        sql("UPDATE contents SET path = 'zzz' WHERE path = 'lib/big.so'"),
        "has not",
    ),
    "a signature that is none": (
        sql("UPDATE releases SET signature = 'x' WHERE version = '1.0'"),
        "upload it again",
    ),
    "a hash": (
        sql("UPDATE releases SET file_hash = 'x' WHERE version = '1.0'"),
        "is not what was published",
    ),
    "a channel that is not there": (
        sql("UPDATE releases SET channel = 'gone' WHERE version = '1.0'"),
        "refers to a row",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(published: Caller, data: Path, fault: str) -> None:
    published.app.close()
    assert list(check_data(data)) == []
    damage, sentence = FAULTS[fault]
    damage(data)
    before = image(data)
    found = list(check_data(data))
    assert any(sentence in line for line in found), found
    assert all("\n" not in line for line in found)
    assert {name for name in before if "-wal" not in name and "-shm" not in name} <= set(
        image(data)
    )


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_in_the_database_give_sentences(
    published: Caller, data: Path, seed: int
) -> None:
    published.app.close()
    choose = random.Random(seed)
    content = bytearray((data / "nuitkal.db").read_bytes())
    for _ in range(choose.choice([1, 20, 500])):
        content[choose.randrange(16, len(content))] = choose.randrange(256)
    (data / "nuitkal.db").write_bytes(bytes(content))
    for line in check_data(data):
        assert isinstance(line, str) and "\n" not in line


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    with start_server(tmp_path / "data") as server:
        words = [sys.executable, "-m", "nuitkal_mini.server"]
        made = subprocess.run(
            [*words, "backup", str(tmp_path / "copy"), "--data", str(server.data)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert "0 of 0 files are new" in made.stdout
        check = [*words, "check-data", "--data", str(tmp_path / "copy")]
        assert subprocess.run(check, cwd=ROOT, stdout=subprocess.PIPE).returncode == 0
        (tmp_path / "copy/nuitkal.db").unlink()
        broken = subprocess.run(check, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert broken.returncode == 11 and "is missing" in broken.stdout
