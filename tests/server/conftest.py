"""The server's tests run over a data folder on the real disk."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from nuitkal_mini.server import auth, create_app
from nuitkal_mini.server.application import Application

from .caller import Caller


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def app(data: Path) -> Iterator[Application]:
    app = create_app(data)
    yield app
    app.close()


@pytest.fixture
def call(app: Application) -> Caller:
    return Caller(app)


@pytest.fixture
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that takes 0.1 ms instead of 80 to check: most tests log in for other reasons."""
    monkeypatch.setattr(auth, "_SCRYPT", "16,8,1")
    monkeypatch.setattr(auth, "_UNKNOWN_USER", auth._UNKNOWN_USER.replace("32768", "16"))
