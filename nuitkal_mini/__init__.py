"""Automatic updates for Python programs that run without an installer: what an app imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import (
        CheckError,
        ClientUpdater,
        DownloadError,
        InstallError,
        LaunchError,
        Release,
        RollbackError,
        UpdaterConfig,
        UpdaterError,
        VerificationError,
        own_folder,
    )
    from .client.window import update_and_run_in_window

__version__ = "0.1.0"

__all__ = [
    "CheckError",
    "ClientUpdater",
    "DownloadError",
    "InstallError",
    "LaunchError",
    "Release",
    "RollbackError",
    "UpdaterConfig",
    "UpdaterError",
    "VerificationError",
    "own_folder",
    "update_and_run_in_window",
]


def __getattr__(name: str) -> object:
    """The client's names, loaded when one is used: a server or a publisher needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import client  # a plain import, which Nuitka follows

    if name == "update_and_run_in_window":
        from .client import window

        value: object = window.update_and_run_in_window
    else:
        value = getattr(client, name)
    globals()[name] = value
    return value
