"""One family of errors: whatever goes wrong in an update is an `UpdaterError`, and its text is a sentence for people."""

from __future__ import annotations

from typing import Optional


class UpdaterError(Exception):
    """Anything that keeps an update or a start from working."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """The text on one line, fit for a terminal and a log: a server's words may hold escape sequences, or no Unicode at all."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


class CheckError(UpdaterError):
    """The server did not say which version is active."""


class DownloadError(UpdaterError):
    """A request failed; `status` is the HTTP status if there was one, `code` the server's own word for the error."""

    def __init__(self, sentence: str, status: Optional[int] = None, code: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code


class VerificationError(UpdaterError):
    """Bytes, signatures or versions are not what they must be."""


class InstallError(UpdaterError):
    """The files of a release could not be put into place; the program is as it was."""


class RollbackError(UpdaterError):
    """There is nothing to go back to, or going back failed."""


class LaunchError(UpdaterError):
    """The program could not be started."""
