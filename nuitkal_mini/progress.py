"""How far a long step is, in words and as a bar: for the client and for the publisher."""

from __future__ import annotations

import sys
import threading
import time
from typing import Callable, Optional, TextIO

_REDRAW_SECONDS = 0.1
_LOG_SECONDS, _LOG_SECONDS_SOON = 30.0, 2.0  # soon: when another tenth is done
_LOG_PERCENT = 10
_BAR_WIDTH = 24


def megabytes(count: int) -> str:
    """A number of bytes in MB: one unit, so that the publisher's lines compare."""
    return f"{count / 1e6:.1f} MB"


def readable_size(count: float) -> str:
    """A number of bytes in the unit that fits: most updates are small, most programs are not."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


class TransferRate:
    """Describes a transfer in one line, from the numbers that a progress callback gets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: Optional[float] = None
        self._first = self._last = 0

    def line(self, done: int, total: int) -> str:
        """Such as `12.3 of 61.0 MB, 2.1 MB/s, 0:23 left`.

        The speed is that since the first call.
        """
        now = self._clock()
        if self._start is None or done < self._last:
            # Bytes of an earlier attempt have no speed, and a download may begin again.
            self._start, self._first = now, done
        self._last = done
        rate = (done - self._first) / max(now - self._start, 0.001)
        text = f"{done / (1e6 if total >= 1e6 else 1e3):.1f} of {readable_size(total)}"
        if rate:
            text += f", {readable_size(rate)}/s"
        if rate and done < total:
            minutes, seconds = divmod(int((total - done) / rate), 60)
            text += f", {minutes}:{seconds:02d} left"
        return text


class Progress:
    """Shows one step: a bar on a terminal, a line now and then in a log.

    The publisher uses it as a context manager and calls `advance` from any thread; the client calls
    it as its progress callback. A step without bytes shows nothing.
    """

    def __init__(self, label: str, total: int = 0, stream: Optional[TextIO] = None) -> None:
        self.label, self.total, self.done = label, total, 0
        self._stream = sys.stderr if stream is None else stream
        self._bar = self._stream.isatty()
        self._rate = TransferRate(lambda: time.monotonic())
        if total:
            self._rate.line(0, total)
        self._lock = threading.Lock()  # keeps the numbers and the line that is drawn together
        self._shown_at, self._shown_percent = time.monotonic(), 0
        self._in_line = False
        if total and not self._bar:
            self._print(f"{label}: {megabytes(total)}\n")

    def advance(self, count: int) -> None:
        """Counts `count` more bytes as done."""
        with self._lock:
            self.done += count
            if self.done < self.total and self._is_due():
                self._show()

    def __call__(self, done: int, total: int) -> None:
        """Shows that `done` of `total` bytes are done: a progress callback of the client."""
        with self._lock:
            self.done, self.total = done, total
            if done >= total or self._is_due():
                self._show()

    def end_line(self, _: object = None) -> bool:
        """Ends the bar's line, so that other text can follow; True, as a filter of log records."""
        if self._in_line:
            self._print("\n")
        self._in_line = False
        return True

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.total:
            self._show()
            self.end_line()

    def _is_due(self) -> bool:
        silent_seconds = time.monotonic() - self._shown_at
        if self._bar:
            return silent_seconds >= _REDRAW_SECONDS
        enough = self._percent() >= self._shown_percent + _LOG_PERCENT
        return silent_seconds >= (_LOG_SECONDS_SOON if enough else _LOG_SECONDS)

    def _percent(self) -> int:
        return min(100, self.done * 100 // self.total) if self.total else 100

    def _show(self) -> None:
        self._shown_at, self._shown_percent = time.monotonic(), self._percent()
        text = f"{self._shown_percent:3d} %  {self._rate.line(self.done, self.total)}"
        if not self._bar:
            return self._print(f"{self.label}: {text}\n")
        filled = "#" * (self._shown_percent * _BAR_WIDTH // 100)
        # Spaces cover the line before: old consoles know no escape sequence for that.
        self._print(f"\r{self.label} [{filled:-<{_BAR_WIDTH}}] {text}".ljust(80))
        self._in_line = True

    def _print(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
