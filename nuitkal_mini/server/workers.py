"""Several processes that serve one listening socket: a parent that forks them and waits.

The parent serves nothing. It starts a worker again that ended, unless that ended in its first
seconds with an error: then the command line is wrong, and all end. On SIGTERM or SIGINT it passes
SIGTERM on and waits for the workers. A worker notices by a pipe that its parent was killed, and
stops as on SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import Callable, Dict, Set

logger = logging.getLogger(__name__)

START_SECONDS = 3.0  # a worker that fails sooner was never able to serve
SIGNALS = (signal.SIGTERM, signal.SIGINT)

Stop = Callable[[], object]
Serve = Callable[[Callable[[Stop], None]], int]


def run_workers(count: int, serve: Serve, started: Callable[[], None]) -> int:
    """Run `serve` in each of `count` processes until a signal ends them; the exit code.

    `serve` gets a function: it calls that with what stops it, before it begins to serve. `started`
    is called once in the parent.
    """
    if sys.platform == "win32":
        raise NotImplementedError("Windows has no fork")
    return _Parent(serve).run(count, started)


class _Parent:
    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._started: Dict[int, float] = {}  # worker -> when, by time.monotonic
        self._is_stopping = False
        self._alive_reader, self._alive_writer = os.pipe()  # closed when the parent ends

    def run(self, count: int, started: Callable[[], None]) -> int:
        if sys.platform == "win32":
            return 1
        failed: Set[int] = set()
        for number in SIGNALS:
            signal.signal(number, lambda *_: self._stop())
        for _ in range(count):
            self._fork()
        started()
        while self._started:
            pid, status = os.wait()
            began = self._started.pop(pid, None)
            if began is None or self._is_stopping:
                continue
            if status and time.monotonic() - began < START_SECONDS:
                failed.add(pid)
                self._stop()
                continue
            logger.error("worker %d ended with status %d; another one starts", pid, status)
            self._fork()
        return 1 if failed else 0

    def _stop(self) -> None:
        self._is_stopping = True
        for pid in list(self._started):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def _fork(self) -> None:
        if sys.platform == "win32":
            return
        # A signal between the fork and the worker's own handlers waits until there are some.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid == 0:
            os._exit(self._work())
        self._started[pid] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _work(self) -> int:
        """In the worker; its exit code."""
        os.close(self._alive_writer)
        try:
            return self._serve(self._watch)
        except BaseException:
            logger.exception("a worker failed")
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def _watch(self, stop: Stop) -> None:
        """In the worker: stop on a signal, or when the parent is gone."""
        if sys.platform == "win32":
            return

        def wait_for_parent() -> None:
            os.read(self._alive_reader, 1)
            stop()

        for number in SIGNALS:
            signal.signal(number, lambda *_: stop())
        threading.Thread(target=wait_for_parent, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
