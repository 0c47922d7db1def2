"""Updates for Python programs that nobody installs: what an app imports."""

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
