"""How an update gets on, in words for people: bytes, speed, remaining time."""

from __future__ import annotations

import time
from typing import Callable, Optional


class TransferRate:
    """Turns the numbers that a progress callback gets into a line of text."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: Optional[float] = None
        self._first = self._last = 0

    def line(self, downloaded: int, total: int) -> str:
        """Such as `12.3 of 61.0 MB, 2.1 MB/s, 23 s left`; speed counts from the first call on."""
        now = self._clock()
        if (
            self._start is None or downloaded < self._last
        ):  # what a resumed download had already has no speed; one may begin again
            self._start, self._first = now, downloaded
        self._last = downloaded
        rate = (downloaded - self._first) / max(now - self._start, 0.001)
        left = f", {(total - downloaded) / rate:.0f} s left" if rate and downloaded < total else ""
        size, unit = (1e6, "MB") if total >= 1e6 else (1e3, "kB")  # most updates are small
        return f"{downloaded / size:.1f} of {total / size:.1f} {unit}, {rate / 1e6:.1f} MB/s{left}"
