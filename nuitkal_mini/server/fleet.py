"""How often each installed version asks for updates: counted in memory, written every ten seconds.

A check never waits for the disk: `count` adds to a dict and the first count after a flush sets a
timer. The table holds (channel, day, version, count), nothing about who asked. Several servers over
one data folder add up. As anybody can ask with any version, the number of different ones is
limited; those beyond it count as one, under the empty name.
"""

from __future__ import annotations

import atexit
import logging
import sqlite3
import threading
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

from ..semver import BadVersion, parse
from .database import Database

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0  # what a killed process loses
MAX_COUNTED = 2_000  # different (channel, day, version) in memory
MAX_UNKNOWN_VERSIONS = (
    100  # versions a day and channel that this server never had; an own build or two is usual
)
KEPT_DAYS = 400  # a year can be compared with the one before
OTHER = ""  # the name of what was one too many

_Key = Tuple[str, str, str]  # channel, day, version


class Daily(NamedTuple):
    """How often a version asked on a day."""

    day: str
    version: str
    asked: int


class Share(NamedTuple):
    """How often one version asked on a day, and how often all did."""

    day: str
    asked: int
    of: int


class Fleet:
    """The counts that are not written yet; `close()` writes them."""

    def __init__(self, database: Database, flush_seconds: float = FLUSH_SECONDS) -> None:
        self._database = database
        self._flush_seconds = flush_seconds
        self._lock = threading.Lock()
        self._counts: Dict[_Key, int] = {}
        self._timer: Optional[threading.Timer] = None
        # A WSGI server ends its workers without a word to the application
        atexit.register(self.close)

    def count(self, channel: str, version: str) -> None:
        """Note that an installed version asked; what is no version is not counted."""
        try:
            key = (channel, utc_day(), parse(version).canonical)
        except BadVersion:
            return
        with self._lock:
            if key not in self._counts and len(self._counts) >= MAX_COUNTED:
                key = (channel, key[1], OTHER)
            self._counts[key] = self._counts.get(key, 0) + 1
            if self._timer is None:
                self._timer = threading.Timer(self._flush_seconds, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what was counted, in one transaction."""
        with self._lock:
            counts, self._counts = self._counts, {}
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if counts:
            try:
                with self._database.write() as db:
                    _add(db, counts)
            except sqlite3.Error as error:
                logger.error(
                    "the counts of %d versions that asked for updates are lost: %s",
                    len(counts),
                    error,
                )

    def close(self) -> None:
        """Write the last counts."""
        atexit.unregister(self.close)
        self.flush()


def utc_day(days_ago: int = 0) -> str:
    """Today, or a day before, as the table spells it."""
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() - days_ago * 86400))


def daily(db: sqlite3.Connection, channel: str, days: int) -> List[Daily]:
    """What asked on each of the last days, today included, by day and version."""
    rows = db.execute(
        "SELECT day, version, count FROM fleet WHERE channel = ? AND day > ? ORDER BY day, version",
        (channel, utc_day(days)),
    )
    return [Daily._make(row) for row in rows.fetchall()]


def shares(db: sqlite3.Connection, channel: str, version: str) -> List[Share]:
    """One version's requests and all requests on each day that is kept, by day.

    SQLite adds up: a year of sixty versions a day takes 60 ms to read.
    """
    rows = db.execute(
        "SELECT day, sum(count * (version = ?)), sum(count) FROM fleet WHERE channel = ? AND day "
        "> ? GROUP BY day ORDER BY day",
        (version, channel, utc_day(KEPT_DAYS)),
    )
    return [Share._make(row) for row in rows.fetchall()]


def seen(db: sqlite3.Connection, channel: str, days: int) -> Dict[str, int]:
    """Canonical version -> how often it asked in the last days."""
    rows = db.execute(
        "SELECT version, sum(count) FROM fleet WHERE channel = ? AND day > ? GROUP BY version",
        (channel, utc_day(days)),
    )
    return dict(rows.fetchall())


def _add(db: sqlite3.Connection, counts: Dict[_Key, int]) -> None:
    """Add the counts to the table (an upsert needs SQLite 3.24)."""
    db.execute("DELETE FROM fleet WHERE day < ?", (utc_day(KEPT_DAYS),))
    for (channel, day, version), count in counts.items():
        key = (channel, day, version if _has_room(db, channel, day, version) else OTHER)
        db.execute(
            "INSERT OR IGNORE INTO fleet (channel, day, version, count) VALUES (?, ?, ?, 0)", key
        )
        db.execute(
            "UPDATE fleet SET count = count + ? WHERE channel = ? AND day = ? AND version = ?",
            (count, *key),
        )


def _has_room(db: sqlite3.Connection, channel: str, day: str, version: str) -> bool:
    if db.execute(
        "SELECT 1 FROM releases WHERE channel = ? AND canonical = ?", (channel, version)
    ).fetchone():
        return True
    unknown = db.execute(
        "SELECT version FROM fleet WHERE channel = ? AND day = ? AND NOT EXISTS "
        "(SELECT 1 FROM releases WHERE releases.channel = fleet.channel AND canonical = "
        "fleet.version)",
        (channel, day),
    ).fetchall()
    return len(unknown) < MAX_UNKNOWN_VERSIONS or (version,) in unknown
