"""The server's tests run over a data folder on the real disk."""
from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from nuitkal_mini.server import create_app
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
