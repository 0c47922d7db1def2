"""API tokens, users' passwords, and the limit on guessing either.

A token is 256 random bits, so its plain SHA-256 is enough to store and to find it by. Passwords are
weaker, so they are stretched: scrypt, or PBKDF2 where OpenSSL lacks it; the stored text names
scheme and parameters.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import threading
from typing import List, NamedTuple, Optional, Tuple

from ..problem import Problem
from .attempts import RateLimiter, address_key, user_key
from .database import Database, now, write_log
from .refused import Refused

MAX_NAME = 64
# Microseconds; a token's last use is not written more often, so that requests stay reads
USED_EVERY = 60 * 10**6
MAX_WAITING = 8  # logins at once, which then take 0.7 s; each occupies a thread of the server

_SCRYPT = "32768,8,1"  # n, r, p: 32 MiB and some 80 ms a try
_PBKDF2 = "600000"  # rounds

_stretching = threading.RLock()  # one password at a time: each takes a core and 32 MiB
_waiting = threading.BoundedSemaphore(MAX_WAITING)


class AuthProblem(Problem):
    """A token or user that cannot be made or found."""


class Token(NamedTuple):
    """What is known of a token besides its secret; times are microseconds since 1970."""

    name: str
    created_at: int
    last_used_at: Optional[int]


class User(NamedTuple):
    """Someone who may use the admin site while `is_enabled`."""

    name: str
    created_at: int
    is_enabled: bool


class Credentials(NamedTuple):
    """What opens a new data folder; no token where somebody has made one already."""

    username: str
    password: str
    token: Optional[str]


# --- tokens -------------------------------------------------------------------------------------


def create_token(database: Database, name: str, who: str) -> str:
    """A new token, which is shown here and never again."""
    with database.write() as db:
        return _insert_token(db, name, who)


def _insert_token(db: sqlite3.Connection, name: str, who: str) -> str:
    _check_name(name)
    if db.execute("SELECT 1 FROM tokens WHERE name = ?", (name,)).fetchone():
        raise AuthProblem(
            "there is a token {name!r} already; choose another name or revoke it first", name=name
        )
    # Never begins with a dash, which a command line would take for an option
    secret = "nk_" + secrets.token_urlsafe(32)
    db.execute(
        "INSERT INTO tokens (name, sha256, created_at) VALUES (?, ?, ?)",
        (name, secret_digest(secret), now()),
    )
    write_log(db, who, "token_create", name)
    return secret


def revoke_token(database: Database, name: str, who: str) -> None:
    """End a token at once."""
    with database.write() as db:
        if not db.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount:
            raise AuthProblem("there is no token {name!r}", name=name)
        write_log(db, who, "token_revoke", name)


def list_tokens(database: Database) -> List[Token]:
    """All tokens by name."""
    with database.read() as db:
        return [
            Token._make(row)
            for row in db.execute(
                "SELECT name, created_at, last_used_at FROM tokens ORDER BY name"
            ).fetchall()
        ]


def token_name(database: Database, secret: str) -> Optional[str]:
    """The name of the token with this secret, whose last use is noted; None when there is none."""
    digest = secret_digest(secret)
    with database.read() as db:
        row = db.execute(
            "SELECT name, sha256, last_used_at FROM tokens WHERE sha256 = ?", (digest,)
        ).fetchone()
    if row is None or not hmac.compare_digest(row[1], digest):
        return None
    if row[2] is None or now() - row[2] > USED_EVERY:
        database.try_write("UPDATE tokens SET last_used_at = ? WHERE name = ?", (now(), row[0]))
    return str(row[0])


def secret_digest(secret: str) -> bytes:
    """The SHA-256 of a random secret: enough to store, as 256 random bits need no salt."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


# --- users --------------------------------------------------------------------------------------


def create_user(database: Database, name: str, password: str, who: str) -> None:
    """A new user of the admin site."""
    _check_name(name)
    stored = hash_password(password)
    with database.write() as db:
        _insert_user(db, name, stored, who)


def _insert_user(db: sqlite3.Connection, name: str, stored: str, who: str) -> None:
    if db.execute("SELECT 1 FROM users WHERE name = ?", (name,)).fetchone():
        raise AuthProblem("there is a user {name!r} already; choose another name", name=name)
    db.execute(
        "INSERT INTO users (name, password, created_at) VALUES (?, ?, ?)", (name, stored, now())
    )
    write_log(db, who, "user_create", name)


def first_credentials(database: Database, who: str) -> Optional[Credentials]:
    """A new user, and a token if there is none, for a data folder without users.

    None where there is a user.
    """
    with database.write() as db:
        if db.execute("SELECT 1 FROM users").fetchone():
            return None
        password = secrets.token_urlsafe(12)
        _insert_user(db, "admin", hash_password(password), who)
        has_token = db.execute("SELECT 1 FROM tokens").fetchone()
        return Credentials(
            "admin", password, None if has_token else _insert_token(db, "first", who)
        )


def check_login(
    database: Database, limiter: RateLimiter, name: str, password: str, address: str
) -> bool:
    """Whether this user has this password; a failure counts for the address and for the user.

    Raises:
        Refused: too_many_attempts, before the password is looked at: a right one waits as well.
    """
    keys = address_key(address), user_key(name)
    limiter.check(*keys)
    if not _waiting.acquire(blocking=False):
        raise Refused(
            "too_many_attempts",
            "too many logins at the same time; try again in {seconds} seconds",
            headers=(("Retry-After", "2"),),
            seconds=2,
        )
    try:
        with _stretching:
            limiter.check(*keys)  # those that waited here before may have failed meanwhile
            if check_password(database, name, password):
                return True
            limiter.failed(*keys)
            return False
    finally:
        _waiting.release()


def check_password(database: Database, name: str, password: str) -> bool:
    """Whether this user has this password; takes the same time for an unknown user."""
    with database.read() as db:
        row = db.execute(
            "SELECT password FROM users WHERE name = ? AND disabled_at IS NULL", (name,)
        ).fetchone()
    matches = password_matches(password, row[0] if row else _UNKNOWN_USER)
    return matches and row is not None


def list_users(database: Database) -> List[User]:
    """All users by name."""
    with database.read() as db:
        return [
            User(name, created_at, disabled_at is None)
            for name, created_at, disabled_at in db.execute(
                "SELECT name, created_at, disabled_at FROM users ORDER BY name"
            ).fetchall()
        ]


def set_password(database: Database, name: str, password: str, who: str) -> None:
    """Give a user another password, which ends the user's sessions."""
    stored = hash_password(password)
    with database.write() as db:
        _change_user(db, name, "password = ?", stored)
        write_log(db, who, "user_password", name)


def set_enabled(database: Database, name: str, enabled: bool, who: str) -> None:
    """Let a user log in, or forbid it, which ends the user's sessions.

    One user must stay enabled.
    """
    with database.write() as db:
        _change_user(db, name, "disabled_at = ?", None if enabled else now())
        if not db.execute("SELECT 1 FROM users WHERE disabled_at IS NULL").fetchone():
            raise AuthProblem("one user must be left who can log in")
        write_log(db, who, "user_enable" if enabled else "user_disable", name)


def _change_user(db: sqlite3.Connection, name: str, setting: str, value: object) -> None:
    if not db.execute(f"UPDATE users SET {setting} WHERE name = ?", (value, name)).rowcount:
        raise AuthProblem("there is no user {name!r}", name=name)
    db.execute("DELETE FROM sessions WHERE user = ?", (name,))


def hash_password(password: str) -> str:
    """`scheme$parameters$salt$hash`, each password with a salt of its own."""
    if not password:
        raise AuthProblem("the password is empty")
    scheme, parameters = _scheme()
    salt = secrets.token_bytes(16)
    return "$".join(
        [scheme, parameters, salt.hex(), _stretch(scheme, parameters, salt, password).hex()]
    )


def password_matches(password: str, stored: str) -> bool:
    """Whether `stored` is of this password; compared in constant time."""
    scheme, parameters, salt, expected = stored.split("$")
    return hmac.compare_digest(
        _stretch(scheme, parameters, bytes.fromhex(salt), password), bytes.fromhex(expected)
    )


def _scheme() -> Tuple[str, str]:
    """Scheme and parameters for new passwords."""
    return ("scrypt", _SCRYPT) if hasattr(hashlib, "scrypt") else ("pbkdf2_sha256", _PBKDF2)


def _stretch(scheme: str, parameters: str, salt: bytes, password: str) -> bytes:
    secret, numbers = (
        password.encode("utf-8", "surrogatepass"),
        [int(number) for number in parameters.split(",")],
    )
    with _stretching:
        if scheme == "scrypt":
            n, r, p = numbers
            return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=2**26, dklen=32)
        return hashlib.pbkdf2_hmac("sha256", secret, salt, numbers[0])


# No password has this hash; checking against it takes as long as any check
_UNKNOWN_USER = "$".join([*_scheme(), bytes(16).hex(), bytes(32).hex()])


def _check_name(name: str) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        raise AuthProblem(
            "a name has 1 to 64 printable characters, not {name!r}", name=name[:MAX_NAME]
        )
