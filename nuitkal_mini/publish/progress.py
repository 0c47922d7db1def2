"""How far a long step is: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from typing import Optional, TextIO

_REDRAW_SECONDS = 0.1
_LOG_SECONDS, _LOG_SECONDS_SOON = 30.0, 2.0  # soon: when another tenth is done
_LOG_PERCENT = 10
_BAR_WIDTH = 24


class Progress:
    """Counts the bytes of one step, as a context manager, from any thread; a step without bytes says nothing."""

    def __init__(self, label: str, total: int, stream: Optional[TextIO] = None) -> None:
        self.label, self.total, self.done = label, total, 0
        self._stream = sys.stderr if stream is None else stream
        self._bar = self._stream.isatty()
        self._lock = threading.Lock()
        self._began = self._shown_at = time.monotonic()
        self._shown_percent = 0
        if total and not self._bar:
            self._print(f"{label}: {megabytes(total)}\n")

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""
        with self._lock:
            self.done += count
            if self.done < self.total and self._is_due():
                self._show()

    def _is_due(self) -> bool:
        silent_seconds = time.monotonic() - self._shown_at
        if self._bar:
            return silent_seconds >= _REDRAW_SECONDS
        enough = self._percent() >= self._shown_percent + _LOG_PERCENT
        return silent_seconds >= (_LOG_SECONDS_SOON if enough else _LOG_SECONDS)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.total:
            self._show()
            self._print("\n" if self._bar else "")

    def _percent(self) -> int:
        return min(100, self.done * 100 // self.total) if self.total else 100

    def _show(self) -> None:
        self._shown_at, self._shown_percent = time.monotonic(), self._percent()
        percent, speed = self._shown_percent, self.done / max(self._shown_at - self._began, 0.001)
        left = max(0, self.total - self.done) / speed if speed else 0.0
        text = f"{percent:3d} %  {self.done / 1e6:.1f} of {megabytes(self.total)}  {megabytes(int(speed))}/s  {_clock(left)} left"
        if self._bar:
            filled = "#" * (percent * _BAR_WIDTH // 100)
            self._print(
                f"\r{self.label} [{filled:-<{_BAR_WIDTH}}] {text}".ljust(80)
            )  # over what was there; old consoles know no escapes
        else:
            self._print(f"{self.label}: {text}\n")

    def _print(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def megabytes(count: int) -> str:
    """A number of bytes for people, in the one unit that makes lines comparable."""
    return f"{count / 1e6:.1f} MB"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
