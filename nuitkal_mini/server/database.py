"""The data folder's SQLite file: connections, transactions, and the schema with its migrations.

It is in WAL mode, so that readers never wait for a writer. `write()` takes SQLite's write lock at
once. That lock holds between processes, so it also orders all changes to files by several servers
over one data folder. `MIGRATIONS` only ever grows: `PRAGMA user_version` is how many of its scripts
a file has seen.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from ..problem import Problem

# to wait for another process' write; the longest holds the lock for the placing of one release
BUSY_SECONDS = 30.0
FAILED_LOGIN_DAYS = 90
MAX_FAILED_LOGINS = 10_000

MIGRATIONS = (
    """
    CREATE TABLE channels (name TEXT PRIMARY KEY, app TEXT NOT NULL);

    -- A deleted release keeps its row: its version can only come back with the same manifest.
    CREATE TABLE releases (
        id INTEGER PRIMARY KEY,
        channel TEXT NOT NULL REFERENCES channels (name),
        app TEXT NOT NULL,                  -- as its manifest says
        version TEXT NOT NULL,              -- as first spelled
        canonical TEXT NOT NULL,            -- the one spelling of its precedence
        package TEXT NOT NULL,              -- below media/; manifest and signature lie beside it
        file_hash TEXT NOT NULL,
        file_size INTEGER NOT NULL,
        manifest_hash TEXT NOT NULL,
        signature TEXT,
        changelog TEXT NOT NULL,
        is_active INTEGER NOT NULL,
        -- microseconds since 1970, no two alike: the order of uploads
        uploaded_at INTEGER NOT NULL,
        deleted_at INTEGER,
        file_count INTEGER NOT NULL,
        tree_size INTEGER NOT NULL,
        UNIQUE (channel, canonical),
        CHECK (NOT is_active OR deleted_at IS NULL)
    );
    CREATE UNIQUE INDEX one_active_per_channel ON releases (channel) WHERE is_active;
    CREATE INDEX releases_by_upload ON releases (channel, uploaded_at);

    -- Which releases' packages hold a content, and as which member. `first_seen` is the
    -- uploaded_at of the release that first brought it: composed packages put contents in that
    -- order.
    CREATE TABLE contents (
        sha256 BLOB NOT NULL,
        release INTEGER NOT NULL REFERENCES releases (id),
        path TEXT NOT NULL,
        first_seen INTEGER NOT NULL,
        PRIMARY KEY (sha256, release)
    ) WITHOUT ROWID;
    CREATE INDEX contents_by_release ON contents (release);

    CREATE TABLE tokens (
        name TEXT PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, created_at INTEGER NOT NULL,
        last_used_at INTEGER
    );
    CREATE TABLE users (
        name TEXT PRIMARY KEY, password TEXT NOT NULL, created_at INTEGER NOT NULL
    );

    CREATE TABLE log (
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
        detail TEXT NOT NULL
    );
    CREATE TRIGGER log_keeps_its_rows BEFORE DELETE ON log
        BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    CREATE TRIGGER log_keeps_its_words BEFORE UPDATE ON log
        BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    """,
    """
    ALTER TABLE users ADD COLUMN disabled_at INTEGER;

    -- sorts as the versions do
    ALTER TABLE releases ADD COLUMN precedence TEXT NOT NULL DEFAULT '';
    UPDATE releases SET precedence = precedence_key(canonical);
    CREATE INDEX releases_by_precedence ON releases (channel, precedence);

    -- Who is logged in to the admin site; the cookie holds what this is the SHA-256 of.
    CREATE TABLE sessions (
        sha256 BLOB PRIMARY KEY, user TEXT NOT NULL REFERENCES users (name),
        created_at INTEGER NOT NULL, used_at INTEGER NOT NULL
    ) WITHOUT ROWID;

    -- How often which installed version asked for updates: nothing about who asked.
    CREATE TABLE fleet (
        channel TEXT NOT NULL,
        day TEXT NOT NULL,                  -- of UTC
        version TEXT NOT NULL,              -- canonical; empty for those that were one too many
        count INTEGER NOT NULL,
        PRIMARY KEY (channel, day, version)
    ) WITHOUT ROWID;
    """,
    """
    -- Of the log only failed logins end: anybody can make them.
    DROP TRIGGER log_keeps_its_rows;
    CREATE TRIGGER log_keeps_its_rows BEFORE DELETE ON log WHEN OLD.action != 'login_failed'
        BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
    CREATE INDEX failed_logins ON log (at) WHERE action = 'login_failed';

    -- The compressed size of the content in this package, so that the smallest copy is taken.
    ALTER TABLE contents ADD COLUMN stored_size INTEGER;

    -- Signed manifests that change the keys; their files stay when the release is deleted.
    CREATE TABLE rotations (
        channel TEXT NOT NULL,
        manifest TEXT NOT NULL,             -- below media/; its signature lies beside it
        signature TEXT NOT NULL,
        keys TEXT NOT NULL,                 -- JSON
        uploaded_at INTEGER NOT NULL,       -- of the release: the order of rotations
        PRIMARY KEY (channel, manifest)
    ) WITHOUT ROWID;
    """,
    """
    -- Deltas to a release. Without a file: it is being made, does not pay, or making it failed.
    CREATE TABLE deltas (
        release INTEGER NOT NULL REFERENCES releases (id),
        source INTEGER NOT NULL REFERENCES releases (id),
        attempts INTEGER NOT NULL,
        file TEXT,                          -- below media/
        size INTEGER,                       -- NULL until one has been made, to keep or not
        sha256 TEXT,
        PRIMARY KEY (release, source)
    ) WITHOUT ROWID;
    """,
)


class DatabaseProblem(Problem):
    """The database cannot be used as it is."""


class Database:
    """One SQLite file; connections are opened when needed and reused by any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: List[sqlite3.Connection] = []
        self._watch: Optional[sqlite3.Connection] = None
        self._watch_lock = threading.Lock()
        # Threads queue here; SQLite's own waiting polls and is unfair
        self._write_lock = threading.Lock()
        self._migrate()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for some statements."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._idle.append(connection)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start; an exception undoes it."""
        with self._write_lock, self.read() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def try_write(self, statement: str, values: Tuple[object, ...]) -> bool:
        """Run one statement if nobody else is writing; whether it was run.

        For what may be lost, such as the time of a token's last use: a request that only reads
        never waits for somebody's upload.
        """
        if not self._write_lock.acquire(blocking=False):
            return False
        try:
            with self.read() as connection:
                connection.execute("PRAGMA busy_timeout = 0")
                try:
                    connection.execute(statement, values)
                    return True
                except sqlite3.OperationalError:  # locked by another process, or a full disk
                    return False
                finally:
                    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        finally:
            self._write_lock.release()

    def generation(self) -> int:
        """A number that changes with every commit; what was rendered before is stale.

        `PRAGMA data_version` (4.5 us) counts commits of other connections, so a connection that
        never writes is asked.
        """
        with self._watch_lock:
            if self._watch is None:
                self._watch = self._connect()
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the connections that nobody uses; the next statement opens one again."""
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            str(self.path), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            # sync at each commit, not only at checkpoints: a release that a client was told of, or
            # whose files are deleted, is so after a power cut
            connection.execute("PRAGMA synchronous = FULL")
            connection.create_function("precedence_key", 1, precedence_key)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self) -> None:
        try:
            with self.read() as connection:
                _switch_to_wal(connection)
            with self.write() as db:
                done = db.execute("PRAGMA user_version").fetchone()[0]
                if done > len(MIGRATIONS):
                    raise DatabaseProblem(
                        "{path} was written by a newer version of this program; install that one",
                        path=str(self.path),
                    )
                for number, script in enumerate(MIGRATIONS[done:], done + 1):
                    for statement in _statements(script):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {number}")
        except sqlite3.Error as error:
            raise DatabaseProblem(
                "{path} cannot be used as a database: {reason}", path=str(self.path), reason=error
            ) from error
        finally:
            # a connection must not be carried over a fork, and servers fork after this
            self.close()


def precedence_key(canonical: str) -> str:
    """A text that sorts as the version does.

    Each number is led by its length; a release sorts above its pre-releases.
    """
    core, dash, suffix = canonical.partition("-")
    numbers = "".join(f"{len(number):02}{number}" for number in (core.split(".") + ["0"])[:4])
    identifiers = [
        f"0{len(part):02}{part}" if part.isdigit() else f"1{part}" for part in suffix.split(".")
    ]
    return f"{numbers}-{' '.join(identifiers)}" if dash else f"{numbers}~"


def now() -> int:
    """Microseconds since 1970, the form of every time in the database."""
    return time.time_ns() // 1000


def log_failed_login(db: sqlite3.Connection, name: str, address: str) -> None:
    """Add a failed login to the log, and delete those that are too old or too many."""
    write_log(db, f"user {''.join(filter(str.isprintable, name[:64]))}", "login_failed", address)
    oldest = now() - FAILED_LOGIN_DAYS * 86400 * 10**6
    db.execute("DELETE FROM log WHERE action = 'login_failed' AND at < ?", (oldest,))
    db.execute(
        "DELETE FROM log WHERE id IN (SELECT id FROM log WHERE action = 'login_failed' "
        "ORDER BY at DESC LIMIT -1 OFFSET ?)",
        (MAX_FAILED_LOGINS,),
    )


def write_log(db: sqlite3.Connection, who: str, action: str, detail: str) -> None:
    """Add a line to the log of who did what; part of the caller's transaction."""
    db.execute(
        "INSERT INTO log (at, who, action, detail) VALUES (?, ?, ?, ?)",
        (now(), who, action, detail),
    )


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode, which the file remembers; the busy timeout does not cover the switch."""
    for pause in (0.05, 0.1, 0.2, 0.4, 0.8):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(pause)
    connection.execute("PRAGMA journal_mode = WAL")


def _statements(script: str) -> Iterator[str]:
    """The script's statements; `executescript` would commit before and between them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
