"""Counting who asks for updates: cheap, bounded, added up over processes, and about nobody."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Dict, List

import pytest

from nuitkal_mini.server import create_app, fleet
from nuitkal_mini.server.database import Database
from nuitkal_mini.server.fleet import Fleet
from nuitkal_mini.server.store import open_database
from tests.support import ROOT

from .caller import Caller


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "db")


def counts(database: Database, channel: str = "stable") -> Dict[str, int]:
    with database.read() as db:
        found = fleet.seen(db, channel, 1)
    database.close()
    return found


def test_spellings_of_one_version_are_one_and_what_is_none_is_not_counted(
    database: Database,
) -> None:
    counter = Fleet(database)
    for text in ("1.0", "v1.0.0", "1.0.0+build", "1.0.1", "x", "", "1" * 65, "<b>"):
        counter.count("stable", text)
    counter.count("beta", "1.0")
    assert counts(database) == {}  # a check does not write
    counter.close()
    assert counts(database) == {"1.0.0": 3, "1.0.1": 1} and counts(database, "beta") == {"1.0.0": 1}


def test_several_servers_add_up(database: Database) -> None:
    first, second = Fleet(database), Fleet(database)
    for counter in (first, second, first):
        counter.count("stable", "1.0")
        counter.flush()
    first.close()
    second.close()
    assert counts(database) == {"1.0.0": 3}


def test_what_was_counted_is_written_by_itself(database: Database) -> None:
    counter = Fleet(database, flush_seconds=0.02)
    counter.count("stable", "1.0")
    deadline = time.monotonic() + 20
    while not counts(database) and time.monotonic() < deadline:
        time.sleep(0.01)
    counter.count("stable", "1.0")  # the timer is set again
    while counts(database) != {"1.0.0": 2} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert counts(database) == {"1.0.0": 2}
    counter.close()


def test_a_check_does_not_wait_for_another_process_that_writes(app: object, call: Caller) -> None:
    call.upload("1.0", {"a": b"a"})
    call.get("check/")
    with call.app.store.database.write():
        answered: List[int] = []
        asker = threading.Thread(
            target=lambda: answered.append(call.get("check/", QUERY_STRING="version=1.0").status)
        )
        asker.start()
        asker.join(10)
        assert answered == [200]


def test_inventing_versions_fills_neither_memory_nor_disk(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "MAX_COUNTED", 50)
    monkeypatch.setattr(fleet, "MAX_UNKNOWN_VERSIONS", 10)
    with database.write() as db:
        db.execute("INSERT INTO channels VALUES ('stable', '')")
        db.execute(
            "INSERT INTO releases (id, channel, app, version, canonical, package, file_hash, "
            "file_size, manifest_hash, changelog, is_active, uploaded_at, file_count, "
            "tree_size)"
            " VALUES (1, 'stable', '', '1.0.0', '1.0.0', '', '', 0, '', '', 0, 0, 0, 0)"
        )
    counter = Fleet(database)
    counter.count("stable", "1.0.0")
    for number in range(200):
        counter.count("stable", f"2.{number}")
    counter.flush()
    for number in range(200, 400):
        counter.count("stable", f"2.{number}")
    counter.count("stable", "1.0.0")
    counter.close()
    found = counts(database)
    assert sum(found.values()) == 402 and len(found) <= 12 and found["1.0.0"] in (1, 2)


def test_old_figures_are_forgotten(database: Database) -> None:
    with database.write() as db:
        db.execute("INSERT INTO fleet VALUES ('stable', '2001-01-01', '1.0.0', 5)")
    counter = Fleet(database)
    counter.count("stable", "2.0")
    counter.close()
    with database.read() as db:
        assert db.execute("SELECT day FROM fleet").fetchall() == [(fleet.utc_day(),)]
    database.close()


def test_a_database_that_fails_loses_counts_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with database.write() as db:
        db.execute("DROP TABLE fleet")
    counter = Fleet(database)
    counter.count("stable", "1.0")
    counter.close()
    database.close()
    assert "are lost" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process there at once")
def test_sigterm_writes_the_counts_where_the_wsgi_server_does_not_handle_it(data: Path) -> None:
    """As in waitress: the main thread waits, others serve."""
    script = f"""
import threading, time
from nuitkal_mini.server import create_app
app = create_app({str(data)!r})
def serve():
    app._fleet.count("stable", "1.0")
    print("counted", flush=True)
threading.Thread(target=serve).start()
while True:
    time.sleep(60)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"counted\n"
        process.terminate()
        assert process.wait(30) == 0
    with closing(open_database(data)) as database, database.read() as db:
        assert db.execute("SELECT sum(count) FROM fleet").fetchone() == (1,)


def test_a_handler_of_sigterm_that_is_there_already_stays(data: Path) -> None:
    def handler(*_: object) -> None:
        """Of the WSGI server."""

    before = signal.signal(signal.SIGTERM, handler)
    try:
        create_app(data).close()  # type: ignore[attr-defined]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
