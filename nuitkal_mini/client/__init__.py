"""The end user's machine: what an app imports to update and start its program.

Check, download, verify, install as one transaction, start the program in any case.
"""

from .config import UpdaterConfig
from .errors import (
    CheckError,
    DownloadError,
    InstallError,
    LaunchError,
    RollbackError,
    UpdaterError,
    VerificationError,
)
from .launch import own_folder
from .release import Release
from .updater import ClientUpdater

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
]
