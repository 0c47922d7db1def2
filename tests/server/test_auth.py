"""Tokens and passwords."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Iterator

import pytest

from nuitkal_mini.server import auth, sessions
from nuitkal_mini.server.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "test.db")
    yield database
    database.close()


# --- tokens


def test_a_token_is_known_by_its_secret_until_it_is_revoked(database: Database) -> None:
    secret = auth.create_token(database, "ci", "tests")
    assert len(secret) >= 43  # 256 bits in base64
    assert auth.token_name(database, secret) == "ci"
    assert auth.token_name(database, secret + "x") is None and auth.token_name(database, "") is None
    auth.revoke_token(database, "ci", "tests")
    assert auth.token_name(database, secret) is None


def test_no_token_is_taken_for_an_option_by_a_command_line(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in 64 began with a dash, and `--token -x…` is a usage error."""
    monkeypatch.setattr("secrets.token_urlsafe", lambda count: "-" * count)
    assert not auth.create_token(database, "laptop", "tests").startswith("-")


def test_only_the_hash_of_a_token_is_stored(database: Database, tmp_path: Path) -> None:
    secret = auth.create_token(database, "ci", "tests").encode()
    database.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert hashlib.sha256(secret).digest() in stored and secret not in stored


def test_the_last_use_of_a_token_is_noted_at_most_once_a_minute(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = [10**15]
    monkeypatch.setattr(auth, "now", lambda: moments[0])
    secret = auth.create_token(database, "ci", "tests")
    assert auth.list_tokens(database) == [auth.Token("ci", 10**15, None)]
    noted = []
    for seconds in (1, 2, 30, 62, 63):
        moments[0] = 10**15 + seconds * 10**6
        auth.token_name(database, secret)
        noted.append((auth.list_tokens(database)[0].last_used_at or 0) - 10**15)
    assert noted == [10**6, 10**6, 10**6, 62 * 10**6, 62 * 10**6]


def test_a_token_and_a_session_are_found_while_another_process_writes(
    database: Database, tmp_path: Path
) -> None:
    """The time of last use is not noted then; nobody waits for it."""
    secret = auth.create_token(database, "ci", "tests")
    auth.create_user(database, "root", "x", "tests")
    bits = sessions.begin(database, "root", "192.0.2.1")
    with database.write() as db:
        db.execute("UPDATE sessions SET used_at = used_at - 3600000000")
    other = Database(tmp_path / "test.db")
    began = time.monotonic()
    with other.write():
        assert auth.token_name(database, secret) == "ci"
        assert sessions.find(database, bits)
    with database.write():  # another thread of this process
        assert auth.token_name(database, secret) == "ci"
    assert time.monotonic() - began < auth.USED_EVERY / 10**6 / 10
    assert auth.list_tokens(database)[0].last_used_at is None
    assert auth.token_name(database, secret) == "ci"
    assert auth.list_tokens(database)[0].last_used_at is not None
    other.close()


def test_names_of_tokens_are_unique_and_printable(database: Database) -> None:
    auth.create_token(database, "ci", "tests")
    for name in ("ci", "", " x", "a\nb", "x" * 65):
        with pytest.raises(auth.AuthProblem):
            auth.create_token(database, name, "tests")
    with pytest.raises(auth.AuthProblem, match="there is no token 'other'"):
        auth.revoke_token(database, "other", "tests")


# --- passwords


def test_a_password_opens_only_its_users_account(database: Database) -> None:
    auth.create_user(database, "root", "pässword", "tests")
    assert auth.check_password(database, "root", "pässword")
    assert not auth.check_password(database, "root", "password")
    assert not auth.check_password(database, "nobody", "pässword")


def test_users_are_not_overwritten_and_have_a_password(database: Database) -> None:
    auth.create_user(database, "root", "one", "tests")
    for name, password in (("root", "two"), ("other", ""), ("", "x")):
        with pytest.raises(auth.AuthProblem):
            auth.create_user(database, name, password, "tests")
    assert auth.check_password(database, "root", "one")


def test_two_equal_passwords_are_stored_differently() -> None:
    stored = auth.hash_password("x"), auth.hash_password("x")
    assert stored[0] != stored[1] and all(auth.password_matches("x", text) for text in stored)


def test_without_scrypt_pbkdf2_takes_its_place_and_both_are_understood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "_PBKDF2", "1000")
    by_scrypt = auth.hash_password("x")
    with monkeypatch.context() as without:
        without.delattr(hashlib, "scrypt")
        by_pbkdf2 = auth.hash_password("x")
    assert (by_scrypt.split("$")[0], by_pbkdf2.split("$")[0]) == ("scrypt", "pbkdf2_sha256")
    assert auth.password_matches("x", by_scrypt) and auth.password_matches("x", by_pbkdf2)
    assert not auth.password_matches("y", by_pbkdf2)


def test_an_unknown_user_costs_as_much_as_a_wrong_password(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth.create_user(database, "root", "x", "tests")
    tried = []
    monkeypatch.setattr(
        auth,
        "_stretch",
        lambda scheme, parameters, salt, password: tried.append((scheme, parameters)) or b"",
    )
    auth.check_password(database, "root", "y")
    auth.check_password(database, "nobody", "y")
    assert len(tried) == 2 and tried[0] == tried[1]


def test_first_credentials_are_made_once(database: Database) -> None:
    made = auth.first_credentials(database, "tests")
    assert (
        made
        and made.token
        and auth.check_password(database, made.username, made.password)
        and auth.token_name(database, made.token)
    )
    assert auth.first_credentials(database, "tests") is None


def test_who_made_a_token_first_still_gets_a_user_and_who_made_a_user_nothing(
    database: Database,
) -> None:
    auth.create_token(database, "x", "tests")
    made = auth.first_credentials(database, "tests")
    assert (
        made and made.token is None and auth.check_password(database, made.username, made.password)
    )
    auth.revoke_token(database, "x", "tests")
    assert auth.first_credentials(database, "tests") is None, (
        "a folder without tokens is not a new one"
    )
