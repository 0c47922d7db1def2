"""The log file: whatever goes wrong with it, the program starts."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any, List

import pytest

from nuitkal_mini.client import ClientUpdater, UpdaterConfig, log_file
from nuitkal_mini.client.log_file import LogFile

from .conftest import Serve
from .site import Site

LOG = logging.getLogger("nuitkal_mini.client")


def write(path: Any, *lines: str) -> None:
    handler = LogFile(str(path))
    for line in lines:
        handler.handle(logging.LogRecord("x", logging.INFO, "", 1, "%s", (line,), None))
    handler.close()
    handler.close()


def test_at_one_megabyte_the_file_becomes_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "MAX_LOG_BYTES", 1000)
    write(tmp_path / "log", *("line %d" % number for number in range(100)))
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    both = (tmp_path / "log.1").read_text() + (tmp_path / "log").read_text()
    assert both.splitlines()[-1].endswith("line 99") and len(both) < 2000


@pytest.mark.skipif(os.name != "posix", reason="a folder in the place of a file is POSIX's example")
@pytest.mark.parametrize("where", ["folder", "missing/log", "/dev/full", "nul\0", "fifo", "\udcff"])
def test_a_file_that_cannot_be_written_is_no_error(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    write(where if where == "/dev/full" else str(tmp_path) + os.sep + where, "a line \udcff")
    assert capsys.readouterr().err == ""


def test_a_rotation_that_fails_goes_on_in_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "MAX_LOG_BYTES", 10)

    def in_use(*_: Any) -> None:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(log_file.os, "replace", in_use)
    write(tmp_path / "log", "one", "two")
    assert len((tmp_path / "log").read_text().splitlines()) == 2


@pytest.mark.parametrize("level, expected", [(logging.WARNING, ["w"]), (logging.INFO, ["i", "w"])])
def test_the_applications_handlers_get_what_they_got_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int, expected: List[str]
) -> None:
    root = logging.getLogger()
    seen: List[str] = []

    class Seeing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    application = Seeing()
    monkeypatch.setattr(root, "handlers", [application])
    monkeypatch.setattr(root, "level", level)
    LOG.manager._clear_cache()  # type: ignore[attr-defined]
    before = (LOG.level, LOG.propagate)
    handler = LogFile(str(tmp_path / "log"))
    handler.attach()
    LOG.info("i")
    LOG.warning("w")
    handler.detach()
    LOG.manager._clear_cache()  # type: ignore[attr-defined]
    assert seen == expected and (LOG.level, LOG.propagate) == before
    assert [line[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["i", "w"]


def test_by_default_the_story_is_in_the_update_folder_and_false_means_nowhere(
    tmp_path: Path, serve: Serve
) -> None:
    site = Site(serve)
    site.publish("1.0.1", {"main.py": (b"", "644")})
    for setting, name in ((None, "log.txt"), (False, ""), (tmp_path / "own", "")):
        app = tmp_path / str(setting is None) / (name or str(setting is False))
        with ClientUpdater(UpdaterConfig(site.url, app, log_file=setting)) as updater:
            assert updater.update_and_run([]) == 0
            assert updater.update_and_run([]) == 0
        story = app / ".update" / "log.txt" if setting is None else tmp_path / "own"
        assert (app / ".update" / "log.txt").exists() == (setting is None)
        if setting is not False:
            assert "1.0.1 is installed: 1 files came" in story.read_text()


def test_an_updater_that_nobody_closed_writes_no_line_twice(tmp_path: Path) -> None:
    before = (LOG.level, LOG.propagate, list(LOG.handlers))
    handlers = [LogFile(str(tmp_path / "log")) for _ in range(3)]
    for handler in handlers:
        handler.attach()
    LOG.info("once")
    for handler in handlers:
        handler.detach()
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert (LOG.level, LOG.propagate, list(LOG.handlers)) == before


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_with_a_full_disk_under_the_log_the_program_starts(
    tmp_path: Path, serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    site = Site(serve)
    site.publish("1.0.1", {"main.py": (b"raise SystemExit(7)", "644")})
    with ClientUpdater(UpdaterConfig(site.url, tmp_path / "app", log_file="/dev/full")) as updater:
        assert updater.update_and_run([]) == 7
    assert capfd.readouterr().err == ""
