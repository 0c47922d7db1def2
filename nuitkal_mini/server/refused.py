"""How the server says no: a code of the contract, its HTTP status, and one sentence."""

from __future__ import annotations

import errno
import logging
import sqlite3
from typing import Tuple, Type

from ..minisign import SignatureError
from ..paths import UnsafePath
from ..problem import Problem
from ..semver import BadVersion
from ..zip_read import ArchiveError

logger = logging.getLogger(__name__)

Headers = Tuple[Tuple[str, str], ...]

STATUS = {
    "unauthorized": 401,
    "forbidden": 403,
    "bad_signature": 403,
    "not_found": 404,
    "no_active_version": 404,
    "no_such_version": 404,
    "no_such_channel": 404,
    "method_not_allowed": 405,
    "version_exists": 409,
    "version_is_active": 409,
    "request_timeout": 408,
    "files_gone": 409,
    "length_required": 411,
    "precondition_failed": 412,
    "too_large": 413,
    "uri_too_long": 414,
    "range_not_satisfiable": 416,
    "too_many_attempts": 429,
    "header_too_large": 431,
    "internal_error": 500,
    "not_implemented": 501,
    "unavailable": 503,
    "http_version_not_supported": 505,
    "disk_full": 507,
}  # of every other code it is 400: the request's own fault

CODES: Tuple[Tuple[Type[Problem], str], ...] = (
    (BadVersion, "bad_version"),
    (UnsafePath, "unsafe_path"),
    (ArchiveError, "bad_zip"),
    (SignatureError, "bad_signature"),
    (Problem, "bad_field"),
)


class Refused(Problem):
    """A request that is not granted; `code` is the contract's word for why, `headers` go into the
    answer.
    """

    def __init__(self, code: str, template: str, headers: Headers = (), **values: object) -> None:
        super().__init__(template, **values)
        self.code = code
        self.headers = headers

    @property
    def status(self) -> int:
        return STATUS.get(self.code, 400)


def not_found() -> Refused:
    """For a path below which there is nothing."""
    return Refused("not_found", "there is nothing at this address")


def method_not_allowed(method: str, allowed: str) -> Refused:
    """`allowed` is what goes into the Allow header."""
    return Refused(
        "method_not_allowed",
        "the method {method} is not possible here; possible: {allowed}",
        headers=(("Allow", allowed),),
        method=method,
        allowed=allowed,
    )


def no_such_action(action: str) -> Refused:
    """For a form's button that the page does not have."""
    return Refused("bad_field", "there is no action {action!r} here", action=action[:64])


def disk_full() -> Refused:
    """The one sentence for a full disk, wherever it shows."""
    return Refused("disk_full", "the server's disk is full; nothing was stored")


def data_full() -> Refused:
    """The one sentence for a data folder that has reached `--max-data`."""
    return Refused(
        "disk_full",
        "the data folder would pass its limit (--max-data); delete releases, or raise it",
    )


def to_refusal(error: Exception) -> Refused:
    """An exception in the contract's words; what nobody foresaw goes into the server's log and is
    spoken of in general.
    """
    if isinstance(error, Refused):
        return error
    if isinstance(error, Problem):
        return Refused(
            next(code for kind, code in CODES if isinstance(error, kind)),
            error.template,
            (),
            **error.values,
        )
    if _is_disk_full(error):
        return disk_full()
    if isinstance(error, sqlite3.Error):
        logger.error("the database failed: %s", error)
        return Refused("unavailable", "the server's database does not answer; try again later")
    logger.error("a request failed", exc_info=error)
    return Refused("internal_error", "the server failed; its log says why")


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return "full" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
