"""The errors of the client: each is an `UpdaterError`, and its text is a sentence for users."""

from __future__ import annotations

from typing import Optional


class UpdaterError(Exception):
    """An update or a start failed."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """The text on one line, with every character that a terminal would interpret escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


class CheckError(UpdaterError):
    """The server did not say which version is active."""


class DownloadError(UpdaterError):
    """A request failed; `status` is the HTTP status if there is one, `code` the API's code."""

    def __init__(self, sentence: str, status: Optional[int] = None, code: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code


class VerificationError(UpdaterError):
    """A hash, a signature or a version is not the expected one."""


class InstallError(UpdaterError):
    """The files of a release could not be put into place; the program is as it was."""


class RollbackError(UpdaterError):
    """There is no earlier version, or a rollback failed; the installed version stays."""


class LaunchError(UpdaterError):
    """The program could not be started."""
