"""Sessions of the admin site.

A session is 256 random bits in a cookie; the database stores their SHA-256, so a stolen database
opens no session. It ends after 12 hours without a request, after 7 days, at logout, and when its
user gets another password or is disabled. Each login makes a new one, so that nobody can prepare a
session for somebody else. The CSRF token of its forms is derived from the cookie's bits and stored
nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import NamedTuple, Optional, Tuple

from .auth import secret_digest
from .database import Database, now, write_log

IDLE_SECONDS = 12 * 3600
LIFE_SECONDS = 7 * 24 * 3600
USED_EVERY_SECONDS = (
    60  # the last use is not written more often, so that looking at pages stays reading
)


class Session(NamedTuple):
    """A session that holds: its user, and what every form of it must bring."""

    user: str
    csrf: str


def begin(database: Database, user: str, address: str) -> str:
    """A new session's bits, for the cookie; those that have ended are swept."""
    bits = secrets.token_urlsafe(32)
    moment = now()
    with database.write() as db:
        db.execute("DELETE FROM sessions WHERE used_at < ? OR created_at < ?", _oldest(moment))
        db.execute(
            "INSERT INTO sessions (sha256, user, created_at, used_at) VALUES (?, ?, ?, ?)",
            (secret_digest(bits), user, moment, moment),
        )
        write_log(db, f"user {user}", "login", address)
    return bits


def find(database: Database, bits: str) -> Optional[Session]:
    """The session of a cookie; None when there is none or it has ended."""
    moment, digest = now(), secret_digest(bits)
    with database.read() as db:
        row = db.execute(
            "SELECT user, used_at FROM sessions WHERE sha256 = ? AND used_at >= ? AND created_at "
            ">= ?",
            (digest, *_oldest(moment)),
        ).fetchone()
    if row is None:
        return None
    if moment - row[1] > USED_EVERY_SECONDS * 10**6:
        database.try_write("UPDATE sessions SET used_at = ? WHERE sha256 = ?", (moment, digest))
    derived = hmac.new(bits.encode("utf-8"), b"csrf", hashlib.sha256).digest()[:15]
    return Session(row[0], base64.urlsafe_b64encode(derived).decode("ascii"))


def end(database: Database, bits: str, user: str) -> None:
    """Log out."""
    with database.write() as db:
        db.execute("DELETE FROM sessions WHERE sha256 = ?", (secret_digest(bits),))
        write_log(db, f"user {user}", "logout", "")


def _oldest(moment: int) -> Tuple[int, int]:
    return moment - IDLE_SECONDS * 10**6, moment - LIFE_SECONDS * 10**6
