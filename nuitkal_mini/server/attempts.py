"""Wrong logins and wrong tokens of the last minute, counted for all processes of a data folder.

Only failures are written, to a SQLite file of their own: a failure neither waits for an upload's
transaction nor makes a rendered `check/` stale. The file may be deleted at any time, which forgets
all failures. Keys are stored as their SHA-256, so that their length does not matter, and rows older
than WINDOW_SECONDS are deleted with the next failure.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Callable, Optional

from .database import now
from .refused import Refused
from .responses import parse_address

logger = logging.getLogger(__name__)

FILE = "attempts.db"  # in the data folder
TRIES = 10  # failures that a key may have ...
WINDOW_SECONDS = 60  # ... in this time
MAX_ROWS = 100_000  # some 10 MB; further failures push out the oldest
BUSY_SECONDS = 5.0  # a write takes 0.1 ms, as nothing is fsynced

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS failures (key BLOB NOT NULL, at INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS failures_by_key ON failures (key, at)",
    "CREATE INDEX IF NOT EXISTS failures_by_time ON failures (at)",
)


class RateLimiter:
    """Refuses a key (an address, a user) that failed TRIES times in WINDOW_SECONDS."""

    def __init__(self, path: Path, clock: Callable[[], int] = now) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()  # protects the connection
        self._connection: Optional[sqlite3.Connection] = None

    def check(self, *keys: str) -> None:
        """Refuse when one of the keys has had its tries.

        Raises:
            Refused: too_many_attempts, with Retry-After.
        """
        with self._lock:
            if self._connection is None and not self._path.exists():
                return
            moment = self._clock()
            wait = max(self._wait(self._connect(), key, moment) for key in keys)
        if wait > 0:
            seconds = -(-wait // 10**6)
            raise Refused(
                "too_many_attempts",
                "too many wrong attempts; try again in {seconds} seconds",
                headers=(("Retry-After", str(seconds)),),
                seconds=seconds,
            )

    def failed(self, *keys: str) -> None:
        """Count a failure of each key."""
        moment = self._clock()
        with self._lock:
            db = self._connect()
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany(
                    "INSERT INTO failures VALUES (?, ?)", [(_digest(key), moment) for key in keys]
                )
                # also what lies in the future: the clock was set back
                db.execute(
                    "DELETE FROM failures WHERE at <= ? OR at > ?",
                    (moment - WINDOW_SECONDS * 10**6, moment),
                )
                db.execute(
                    "DELETE FROM failures WHERE rowid <= (SELECT max(rowid) FROM failures) - ?",
                    (MAX_ROWS,),
                )
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise

    def forget(self) -> None:
        """Forget all failures: everybody may try again at once."""
        with self._lock:
            if self._connection is not None or self._path.exists():
                self._connect().execute("DELETE FROM failures")

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _wait(self, db: sqlite3.Connection, key: str, moment: int) -> int:
        """Microseconds until the key may try again."""
        window = WINDOW_SECONDS * 10**6
        row = db.execute(
            "SELECT at FROM failures WHERE key = ? AND at > ? AND at <= ? "
            "ORDER BY at DESC LIMIT 1 OFFSET ?",
            (_digest(key), moment - window, moment, TRIES - 1),
        ).fetchone()
        return int(row[0]) + window - moment if row else 0

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = _open(self._path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                logger.warning("%s is damaged (%s) and is made anew", self._path, error)
                for suffix in ("", "-wal", "-shm"):
                    path = self._path.with_name(self._path.name + suffix)
                    if path.exists():
                        path.unlink()
                self._connection = _open(self._path)
        return self._connection


def address_key(address: str) -> str:
    """The key of an address; of IPv6 the network of 64 bits, which one user has alone."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return f"address {ipaddress.ip_network((parsed, 64), strict=False)}"
    return f"address {address}"


def user_key(name: str) -> str:
    """The key of a user, whether there is one of this name or not."""
    return f"user {name}"


def _open(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    connection = sqlite3.connect(
        str(path), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # losing a minute's counts does no harm
        for statement in _SCHEMA:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
