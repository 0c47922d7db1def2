"""Automatic updates for Python programs that run without an installer: what an app imports."""

from .client import (
    CheckError,
    ClientUpdater,
    DownloadError,
    InstallError,
    LaunchError,
    RollbackError,
    UpdaterConfig,
    UpdaterError,
    VerificationError,
    own_folder,
)

__version__ = "0.1.0"

__all__ = [
    "CheckError",
    "ClientUpdater",
    "DownloadError",
    "InstallError",
    "LaunchError",
    "RollbackError",
    "UpdaterConfig",
    "UpdaterError",
    "VerificationError",
    "own_folder",
]
