"""Nobody starts the program while its files change, or while it lies between two versions."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from nuitkal_mini import ClientUpdater, InstallError, LaunchError, UpdaterConfig
from nuitkal_mini.client.install import Installation

from .conftest import Serve
from .site import Site
from .test_updater import ONE


@pytest.fixture
def updater(serve: Serve, tmp_path: Path) -> Iterator[ClientUpdater]:
    site = Site(serve)
    site.publish("1.0.0", ONE)
    with ClientUpdater(
        UpdaterConfig(site.url, tmp_path / "client", main_script="main.py", lock_seconds=0)
    ) as made:
        assert made.update()
        yield made


def test_a_journal_that_appears_after_the_lock_was_taken(
    updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True, True, True])
    monkeypatch.setattr(Installation, "pending", lambda self: next(answers))
    with pytest.raises(LaunchError, match="is being installed"):
        updater.run([])


def test_a_start_that_was_refused_keeps_no_lock(
    updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, False, True, True])
    monkeypatch.setattr(Installation, "pending", lambda self: next(answers))
    with pytest.raises(LaunchError, match="is being installed"):
        updater.run([])
    assert not updater._client_folder.is_running(updater._client_folder.open_unlocked())


def test_a_recovery_that_fails(updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Installation) -> None:
        raise InstallError("EIO")

    monkeypatch.setattr(Installation, "pending", lambda self: True)
    monkeypatch.setattr(Installation, "recover", fail)
    with pytest.raises(LaunchError, match="between two versions"):
        updater.run([])
