"""The limit on wrong logins and tokens: exact, in every process, bounded, and never for ever."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Iterator, List

import pytest

from nuitkal_mini.server import attempts, auth
from nuitkal_mini.server.__main__ import main
from nuitkal_mini.server.application import Application
from nuitkal_mini.server.attempts import RateLimiter, address_key, user_key
from nuitkal_mini.server.refused import Refused

from .visitor import PASSWORD, Visitor, make_visitor

MINUTE = 60 * 10**6


class Clock:
    def __init__(self) -> None:
        self.moment = 10**15

    def __call__(self) -> int:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(tmp_path: Path, clock: Clock) -> Iterator[RateLimiter]:
    limiter = RateLimiter(tmp_path / "attempts.db", clock)
    yield limiter
    limiter.close()


def refused_after(limiter: RateLimiter, key: str) -> int:
    """How many failures the key has before it is refused."""
    for count in range(100):
        try:
            limiter.check(key)
        except Refused:
            return count
        limiter.failed(key)
    return 100


def test_a_key_has_ten_tries_a_minute(limiter: RateLimiter, clock: Clock) -> None:
    assert refused_after(limiter, "a") == 10 and refused_after(limiter, "b") == 10
    clock.moment += 59 * 10**6
    with pytest.raises(Refused) as caught:
        limiter.check("x", "a")
    assert caught.value.code == "too_many_attempts"
    assert caught.value.headers == (("Retry-After", "1"),)
    clock.moment += 10**6
    assert refused_after(limiter, "a") == 10


def test_another_process_counts_the_same_failures(tmp_path: Path, limiter: RateLimiter) -> None:
    assert refused_after(limiter, "a") == 10
    other = RateLimiter(tmp_path / "attempts.db", limiter._clock)
    assert refused_after(other, "a") == 0 and refused_after(other, "b") == 10
    assert refused_after(limiter, "b") == 0
    other.close()


def test_a_clock_that_is_set_back_or_forward_lets_the_key_try_again(
    limiter: RateLimiter, clock: Clock
) -> None:
    assert refused_after(limiter, "a") == 10
    clock.moment -= 10**12
    assert refused_after(limiter, "a") == 10
    clock.moment += 10**12
    assert refused_after(limiter, "a") == 10


def test_a_question_without_failures_makes_no_file(tmp_path: Path, limiter: RateLimiter) -> None:
    limiter.check("a")
    limiter.forget()
    assert list(tmp_path.iterdir()) == []


def rows(limiter: RateLimiter) -> int:
    return int(limiter._connect().execute("SELECT count(*) FROM failures").fetchone()[0])


def test_rows_expire_with_the_next_failure(limiter: RateLimiter, clock: Clock) -> None:
    for number in range(50):
        limiter.failed(f"{number}")
    clock.moment += MINUTE
    limiter.failed("last")
    assert rows(limiter) == 1


def test_many_addresses_fill_neither_memory_nor_disk(
    limiter: RateLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MAX_ROWS", 5)
    for number in range(20):
        limiter.failed(address_key(f"192.0.2.{number}"))
    assert rows(limiter) == 5


def test_a_name_of_a_megabyte_takes_as_much_room_as_a_short_one(
    tmp_path: Path, limiter: RateLimiter
) -> None:
    for number in range(50):
        limiter.failed(user_key(f"{number}" * 2**20))
    limiter.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100_000


def test_a_damaged_file_is_made_anew(tmp_path: Path, limiter: RateLimiter) -> None:
    (tmp_path / "attempts.db").write_bytes(b"no database" * 1000)
    assert refused_after(limiter, "a") == 10


@pytest.mark.parametrize(
    "address, tries",
    [
        ("2001:db8::2", 0),
        ("2001:db8:0:1::1", 10),
        ("::ffff:192.0.2.9", 10),
        ("unix:", 10),
        ("fe80::1%eth0", 10),
    ],
)
def test_an_ipv6_network_counts_as_one_address(
    limiter: RateLimiter, address: str, tries: int
) -> None:
    assert refused_after(limiter, address_key("2001:db8::1")) == 10
    assert refused_after(limiter, address_key(address)) == tries


# --- logins


@pytest.fixture
def visitor(app: Application, quick_passwords: None) -> Visitor:
    return make_visitor(app, logged_in=False)


def guess(visitor: Visitor, count: int, **headers: str) -> List[int]:
    return [visitor.log_in(password="a guess", **headers).status for _ in range(count)]


def test_after_ten_wrong_logins_the_right_one_waits_as_well(
    app: Application, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guess(visitor, 10) == [401] * 10
    monkeypatch.setattr(auth, "_stretch", None)  # no password is looked at any more
    replies = [visitor.log_in(), visitor.log_in(password="a guess")]
    assert [reply.status for reply in replies] == [429, 429]
    assert all(0 < int(reply.headers["retry-after"]) <= 60 for reply in replies)
    with app.store.database.read() as db:
        count = db.execute("SELECT count(*) FROM log WHERE action = 'login_failed'").fetchone()
    assert count == (10,)


def test_a_user_is_guarded_from_many_addresses_and_an_address_from_many_users(
    visitor: Visitor,
) -> None:
    for number in range(10):
        assert guess(visitor, 1, REMOTE_ADDR=f"198.51.100.{number}") == [401]
    assert visitor.log_in(REMOTE_ADDR="203.0.113.1").status == 429
    names = [visitor.log_in(f"user{number}", "x").status for number in range(11)]
    assert names == [401] * 10 + [429]


def test_who_is_logged_in_stays_so_while_somebody_guesses(app: Application) -> None:
    inside = make_visitor(app)
    assert guess(Visitor(app), 11)[-1] == 429
    assert inside.get("log/").status == 200
    assert inside.post("tokens/", name="ci", action="create").status == 200


def test_a_right_login_is_no_failure(visitor: Visitor) -> None:
    assert [visitor.log_in().status for _ in range(12)] == [303] * 12


def test_the_command_line_lifts_the_limit(app: Application, data: Path, visitor: Visitor) -> None:
    guess(visitor, 10)
    assert visitor.log_in().status == 429
    assert main(["unlock", "--data", str(data)]) == 0
    assert visitor.log_in().status == 303


def test_logins_at_the_same_time_stretch_one_password_after_the_other_and_never_an_eleventh(
    app: Application, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, tried = 0, 0, []
    lock, matches = threading.Lock(), auth.password_matches

    def watched(password: str, stored: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            tried.append(password)
        result = matches(password, stored)
        with lock:
            running -= 1
        return result

    monkeypatch.setattr(auth, "password_matches", watched)
    statuses: List[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.extend(guess(Visitor(app), 3))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and len(tried) <= 10
    assert set(statuses) == {401, 429} and statuses.count(401) == len(tried)


def test_more_logins_than_may_wait_are_refused_at_once(
    app: Application, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_waiting", threading.BoundedSemaphore(1))
    auth._waiting.acquire()
    reply = visitor.log_in()
    assert reply.status == 429 and reply.headers["retry-after"] == "2"
    auth._waiting.release()
    assert visitor.log_in(password=PASSWORD).status == 303


def test_failed_logins_leave_the_log_after_ninety_days_and_when_there_are_too_many(
    app: Application, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        with app.store.database.read() as db:
            found = db.execute("SELECT count(*) FROM log WHERE action = 'login_failed'").fetchone()
            return int(found[0])

    from nuitkal_mini.server import database

    guess(visitor, 3)
    moment = database.now()
    monkeypatch.setattr(database, "now", lambda: moment + 91 * 86400 * 10**6)
    guess(visitor, 1)
    assert count() == 1
    monkeypatch.setattr(database, "MAX_FAILED_LOGINS", 2)
    guess(visitor, 4)
    assert count() == 2
