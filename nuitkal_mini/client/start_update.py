"""The update of a start: the program waits for it only so long, then it goes on behind the program.

The update works in a thread of its own. Behind the running program it changes no file of it: what
is complete is staged, and the next start installs it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, Optional, Tuple

from .errors import UpdaterError

logger = logging.getLogger(__name__)

NOTICEABLE_SECONDS = 1.0  # a failure that took less holds no start up
FIRST_BACK_OFF_SECONDS = 60.0
LONGEST_BACK_OFF_SECONDS = 6 * 3600.0
CANCEL_SECONDS = 2.0  # a connection that hangs is not waited for longer
_SLICE_SECONDS = 0.1  # Windows sees Ctrl-C only between waits


class StartUpdate:
    """An update in its thread, and what it and the start that waits for it tell each other."""

    def __init__(self) -> None:
        self.error: Optional[UpdaterError] = None
        self.is_behind = False  #: the program has started: files must not change, nothing is shown
        self.is_cancelled = False
        self.is_wanted_now = False  #: the user asked for the program before the update was done
        self._has_ended = False
        self._crash: Optional[BaseException] = None
        self._may_start = threading.Event()
        self._swap_lock = threading.Lock()  # held while files are swapped: no start then
        self._thread: Optional[threading.Thread] = None

    # --- the start's thread ---------------------------------------------------------------------

    def run(self, work: Callable[[], None], wait_seconds: Optional[float]) -> bool:
        """Run `work` in a thread and wait; whether it has ended. None waits as long as it takes."""
        self._thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        self._thread.start()
        end = None if wait_seconds is None else time.monotonic() + wait_seconds
        try:
            while end is None or time.monotonic() < end:
                if self._may_start.wait(_SLICE_SECONDS):
                    break
        except BaseException:  # Ctrl-C
            self.is_cancelled = True
            raise
        with self._swap_lock:
            self.is_behind |= not self._has_ended
        if self._crash is not None:
            raise self._crash
        return not self.is_behind

    def cancel(self) -> None:
        """End the update soon; what it has downloaded stays for the next one."""
        self.is_cancelled = True
        if self._thread is not None:
            self._thread.join(CANCEL_SECONDS)

    # --- the update's thread --------------------------------------------------------------------

    def let_start(self) -> None:
        """Have the start stop waiting, if it does; any thread may call it."""
        with self._swap_lock:
            self.is_behind |= not self._has_ended
        self._may_start.set()

    @contextlib.contextmanager
    def swapping(self) -> Iterator[bool]:
        """Whether files may be swapped now; until the end of the block no program starts."""
        with self._swap_lock:
            yield not self.is_behind

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except UpdaterError as error:
            self.error = error
            if self.is_behind:
                logger.info("%s; the next start tries again", error)
        except Exception as error:  # a fault of ours or of the app's callbacks; the program starts
            logger.debug("the update failed", exc_info=True)
            self.error = UpdaterError(f"the update failed: {error!r}")
        except BaseException as error:
            self._crash = error
        finally:
            self._has_ended = True
            self._may_start.set()


class LateAnswer:
    """The result of a call that is waited for in parts."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._result: object = None
        self._error: Optional[UpdaterError] = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def within(self, seconds: Optional[float]) -> object:
        """The result, or None if it takes longer; raises what the call raises."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return self._result

    def _work(self) -> None:
        try:
            self._result = self._call()
        except UpdaterError as error:
            self._error = error
        except Exception as error:
            self._error = UpdaterError(f"the check failed: {error!r}")


class BackOff:
    """Remembers in a file that updates held starts up, so that the next starts do not wait."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_on(self, now: float) -> bool:
        """Whether a start does not wait for its update now."""
        failed_at, failures = self._read()
        pause = min(LONGEST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2 ** min(failures - 1, 20))
        return failures > 0 and 0 <= now - failed_at < pause

    def failed(self, now: float) -> None:
        """Remember one more failure."""
        _, failures = self._read()
        with contextlib.suppress(OSError):  # of no use to the user: the next start waits again
            self._path.write_text(json.dumps({"failed_at": now, "failures": failures + 1}))

    def succeeded(self) -> None:
        """Forget all failures."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _read(self) -> Tuple[float, int]:
        try:
            values = json.loads(self._path.read_text())
            return float(values["failed_at"]), int(values["failures"])
        except (OSError, ValueError, LookupError, TypeError, OverflowError):
            return 0.0, 0
