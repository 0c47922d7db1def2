"""The version file and its copies.

Which of them is believed, what mends them, and what touches nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

from nuitkal_mini import ClientUpdater, UpdaterConfig
from nuitkal_mini.client import state as state_module
from nuitkal_mini.client.errors import InstallError
from nuitkal_mini.client.install import Installation
from nuitkal_mini.client.state import State, dump_state
from nuitkal_mini.client.state_files import COPY, PINS, StateFiles, StateLost
from nuitkal_mini.client.trust import TrustState
from nuitkal_mini.entries import FileEntry, link_entry

from ..trees import Tree
from .conftest import Serve
from .site import Site
from .sweep import FIRST, SECOND, Unsynced, image_of, update

VERSION = "local_version.json"
ONE: Tree = {"main.py": (b"print(1)\n", "644"), "lib/a.py": (b"a", "644")}
TWO: Tree = {"main.py": (b"print(2)\n", "644"), "lib/b.py": (b"b", "644")}
SIGNED = TrustState(app="app", keys=("a key",))
DAMAGE = [b"", b"\0" * 100, b"{", b"[]", b'{"version": 1}', b'{"version": "x"}', b"\xff"]


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """A signed client with one release."""
    (tmp_path / ".update").mkdir()
    installation = Installation(str(tmp_path), VERSION, disk=Unsynced())
    update(installation, ONE, "1.0.0", FIRST)
    state = installation.state()
    assert state is not None
    installation.remember(state._replace(trust=SIGNED))
    return installation


def at(installation: Installation, path: str) -> Path:
    return Path(installation.at(path))


@pytest.mark.parametrize("text", [None, *DAMAGE])
@pytest.mark.parametrize("path", [VERSION, COPY, PINS])
def test_one_damaged_or_missing_file_is_mended_from_the_others(
    installation: Installation, path: str, text: bytes
) -> None:
    whole = {name: at(installation, name).read_bytes() for name in (VERSION, COPY, PINS)}
    at(installation, path).unlink() if text is None else at(installation, path).write_bytes(text)
    state = installation.state()
    assert state is not None and state.trust == SIGNED and state.manifest
    installation.recover()
    assert whole == {name: at(installation, name).read_bytes() for name in whole}


@pytest.mark.parametrize("text", [None, *DAMAGE])
def test_without_the_version_file_and_its_copy_the_trust_state_stays(
    installation: Installation, text: bytes
) -> None:
    for path in (VERSION, COPY):
        at(installation, path).unlink() if text is None else at(installation, path).write_bytes(
            text
        )
    installation.recover()
    assert installation.state() == State("1.0.0", trust=SIGNED)
    assert installation.installed() == ()


def test_without_its_own_folder_a_signed_client_stays_one(installation: Installation) -> None:
    at(installation, VERSION).unlink()
    shutil.rmtree(installation.at(".update"))
    os.mkdir(installation.at(".update"))
    installation.recover()
    assert installation.state() == State("1.0.0", trust=SIGNED)


def test_when_every_file_is_lost_nothing_is_taken_for_a_first_install(
    installation: Installation,
) -> None:
    update(installation, TWO, "2.0.0", SECOND)
    for path in (VERSION, COPY, PINS):
        at(installation, path).unlink()
    before = image_of(installation.folder)
    installation.recover()
    with pytest.raises(StateLost, match="adopt --force"):
        installation.state()
    assert image_of(installation.folder) == before
    installation.forget_lost_state()
    assert installation.state() is None
    update(installation, ONE, "1.0.0", FIRST)
    assert Installation(installation.folder, VERSION).state() == installation.state()


@pytest.mark.parametrize("text", DAMAGE)
def test_files_that_are_damaged_are_no_first_install(
    installation: Installation, text: bytes
) -> None:
    for path in (VERSION, COPY, PINS):
        at(installation, path).write_bytes(text)
    with pytest.raises(StateLost):
        installation.state()


@pytest.mark.parametrize("text", DAMAGE)
def test_a_version_file_of_somebody_else_is_a_first_install(tmp_path: Path, text: bytes) -> None:
    (tmp_path / VERSION).write_bytes(text)
    assert StateFiles(str(tmp_path), VERSION, Unsynced()).read() is None


def test_the_version_file_of_the_original_is_copied_once(tmp_path: Path) -> None:
    (tmp_path / ".update").mkdir()
    (tmp_path / VERSION).write_bytes(b'{"version": "1.0.0"}')
    for _ in range(2):
        written: List[str] = []

        class Noting(Unsynced):
            def write(self, path: str, chunks: Any, mode: int = 0o644) -> None:
                written.append(os.path.basename(path))
                super().write(path, chunks, mode)

        installation = Installation(str(tmp_path), VERSION, disk=Noting())
        installation.recover()
    assert written == []
    assert (tmp_path / COPY).read_bytes() == dump_state(State("1.0.0"))
    assert (tmp_path / VERSION).read_bytes() == b'{"version": "1.0.0"}'


class Unreadable(Unsynced):
    """Every read of one path fails."""

    def __init__(self, path: str, number: int) -> None:
        super().__init__()
        self._path, self._number = path, number

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        if operation == "read" and path == self._path:
            raise OSError(self._number, os.strerror(self._number), path)
        return super().perform(operation, path, call, *args)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("path", [VERSION, ".update/journal.json"])
def test_a_failed_read_touches_nothing(installation: Installation, path: str, number: int) -> None:
    before = image_of(installation.folder)
    full = installation.at(path)
    failing = Installation(installation.folder, VERSION, disk=Unreadable(full, number))
    with pytest.raises(InstallError) as raised:
        failing.recover()
    assert full in str(raised.value) and os.strerror(number) in str(raised.value)
    assert image_of(installation.folder) == before


def test_a_failed_read_of_a_copy_leaves_that_copy_alone(installation: Installation) -> None:
    before = image_of(installation.folder)
    for path in (COPY, PINS):
        failing = Unreadable(installation.at(path), errno.EIO)
        again = Installation(installation.folder, VERSION, disk=failing)
        again.recover()
        assert again.state() == installation.state()
        assert image_of(installation.folder) == before


def test_an_update_reads_the_state_once_and_parses_each_manifest_once(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, folder = Site(serve), tmp_path / "client"
    config = UpdaterConfig(site.url, folder, app="app", retries=0)
    site.publish("1.0.0", ONE)
    ClientUpdater(config).update()
    site.publish("2.0.0", TWO)
    parsed: List[bytes] = []
    manifests: List[bytes] = []
    parse_state, loads = state_module.parse_state, state_module.loads

    def counted_state(text: bytes) -> State:
        parsed.append(text)
        return parse_state(text)

    def counted_manifest(text: bytes) -> Any:
        manifests.append(text)
        return loads(text)

    monkeypatch.setattr("nuitkal_mini.client.state_files.parse_state", counted_state)
    monkeypatch.setattr("nuitkal_mini.client.state.loads", counted_manifest)
    monkeypatch.setattr("nuitkal_mini.client.trust.loads", counted_manifest)
    assert ClientUpdater(config).update()
    assert len(parsed) == 1
    assert len(manifests) == len(set(manifests)) == 2  # the installed one and the new one


def test_a_folder_whose_state_is_lost_runs_and_is_adopted_anew(
    serve: Serve, tmp_path: Path
) -> None:
    site, folder = Site(serve), tmp_path / "client"
    config = UpdaterConfig(site.url, folder, app="app", retries=0, python=sys.executable)
    for version, tree in (("1.0.0", ONE), ("2.0.0", TWO)):
        site.publish(version, tree)
        ClientUpdater(config).update()
    for path in (VERSION, COPY, PINS):
        (folder / path).unlink()
    updater = ClientUpdater(config)
    for verb in (updater.update, updater.check, updater.rollback, updater.verify, updater.adopt):
        with pytest.raises(StateLost, match="adopt --force"):
            verb()  # type: ignore[operator]
    assert updater.update_and_run([]) == 0
    updater.adopt(force=True)
    site.publish("3.0.0", ONE)
    assert updater.update() and updater.verify() == []


@pytest.mark.parametrize(
    "files",
    [
        {"v.json": (b"{}", "644")},
        {"V.JSON/x": (b"{}", "644")},
        {"data": ".update"},
        {"cfg": "v.json"},
        {"d": "v", "v/x": (b"", "644"), "x": "d/../.backup"},
    ],
    ids=["version file", "as a folder", "link to .update", "link to the version file", "link on"],
)
def test_the_installer_refuses_what_reaches_into_the_updaters_own(
    tmp_path: Path, files: Tree
) -> None:
    (tmp_path / ".update").mkdir()
    installation = Installation(str(tmp_path), "v.json", disk=Unsynced())
    entries = [
        link_entry(path, item) if isinstance(item, str) else FileEntry(path, 0, "0" * 64, item[1])
        for path, item in files.items()
    ]
    with pytest.raises(InstallError, match="nothing was installed"):
        installation.plan_swap(entries, FIRST, lambda entry: "x")
