"""Progress in words and as a bar, with a clock of the test's own."""

from __future__ import annotations

import io
import time
from typing import List

import pytest

from nuitkal_mini.progress import Progress, TransferRate, megabytes, readable_size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "count, fitting, in_megabytes",
    [
        (0, "0.0 kB", "0.0 MB"),
        (8_192, "8.2 kB", "0.0 MB"),
        (999_949, "999.9 kB", "1.0 MB"),
        (62_845_400, "62.8 MB", "62.8 MB"),
        (1_260_000_000, "1260.0 MB", "1260.0 MB"),
    ],
)
def test_sizes_are_in_units_that_people_know(count: int, fitting: str, in_megabytes: str) -> None:
    assert (readable_size(count), megabytes(count)) == (fitting, in_megabytes)


def test_a_transfer_in_words() -> None:
    times = iter([10.0, 12.0, 14.0, 20.0, 21.0, 30.0, 31.0])
    rate = TransferRate(lambda: next(times))
    assert rate.line(1_000_000, 61_000_000) == "1.0 of 61.0 MB"
    assert rate.line(5_000_000, 61_000_000) == "5.0 of 61.0 MB, 2.0 MB/s, 0:28 left"
    assert rate.line(61_000_000, 61_000_000) == "61.0 of 61.0 MB, 15.0 MB/s"
    again = "what was downloaded was wrong, and begins again"
    assert rate.line(2_000_000, 61_000_000) == "2.0 of 61.0 MB", again
    assert rate.line(4_000_000, 61_000_000) == "4.0 of 61.0 MB, 2.0 MB/s, 0:28 left"
    assert rate.line(16_384, 28_800) == "16.4 of 28.8 kB"
    assert rate.line(18_384, 28_800) == "18.4 of 28.8 kB, 2.0 kB/s, 0:05 left"


def test_a_log_gets_a_line_when_a_tenth_and_two_seconds_are_over(
    capsys: pytest.CaptureFixture[str], now: List[float]
) -> None:
    with Progress("sending", 100_000_000) as progress:
        for _ in range(100):
            now[0] += 0.5
            progress.advance(1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[:2] == [
        "sending: 100.0 MB",
        "sending:  10 %  10.0 of 100.0 MB, 2.0 MB/s, 0:45 left",
    ]
    assert lines[-1] == "sending: 100 %  100.0 of 100.0 MB, 2.0 MB/s"


def test_a_step_without_bytes_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("packing", 0):
        pass
    assert capsys.readouterr().err == ""


def test_a_callbacks_bar_stays_in_its_line_until_something_else_is_written(
    now: List[float],
) -> None:
    screen = Terminal()
    bar = Progress("downloading", stream=screen)
    for done, total in ((0, 0), (0, 100), (50, 100), (100, 100), (100, 300), (300, 300)):
        now[0] += 1
        bar(done, total)
    drawn = screen.getvalue().split("\r")[1:]
    assert "\n" not in screen.getvalue() and len(drawn) == 6
    assert drawn[2].startswith("downloading [############------------]  50 %  0.1 of 0.1 kB")
    assert bar.end_line() and bar.end_line()
    assert screen.getvalue().endswith("\n") and screen.getvalue().count("\n") == 1


def test_a_bar_is_drawn_ten_times_a_second_at_most_and_at_the_end(now: List[float]) -> None:
    screen = Terminal()
    bar = Progress("downloading", stream=screen)
    for done in range(1, 1001):
        now[0] += 0.001
        bar(done, 1000)
    assert 10 <= screen.getvalue().count("\r") <= 11 and "100 %" in screen.getvalue()
