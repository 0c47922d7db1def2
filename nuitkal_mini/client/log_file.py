"""The log file: each record is appended by itself, and nothing that fails there is an error."""

from __future__ import annotations

import contextlib
import logging
import os

LOG_FILES = ("log.txt", "log.txt.1")  # in `.update/`, when no other is configured
MAX_LOG_BYTES = 10**6


class LogFile(logging.Handler):
    """Appends to a file, which becomes `NAME.1` at 1 MB; never raises.

    The file is opened for each record, so that another instance can rename it (Windows renames no
    open file), and without waiting for a reader, should it be a pipe.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._log = logging.getLogger("nuitkal_mini.client")
        self._before = (self._log.level, self._log.propagate)
        self._threshold = logging.INFO
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def attach(self) -> None:
        """Log the client's INFO records; the application's handlers get no more than before."""
        for handler in list(self._log.handlers):  # of an updater that nobody closed
            if isinstance(handler, LogFile) and handler.path == self.path:
                handler.detach()
        self._before = (self._log.level, self._log.propagate)
        self._threshold = self._log.getEffectiveLevel()
        self._log.addHandler(self)
        if self._threshold > logging.INFO:
            self._log.setLevel(logging.INFO)
            self._log.propagate = False  # `emit` passes on what the application asked for

    def detach(self) -> None:
        """Undo `attach`, unless a later one for the same file has done so."""
        if self not in self._log.handlers:
            return
        self._log.removeHandler(self)
        if self._threshold > logging.INFO:
            self._log.setLevel(self._before[0])
            self._log.propagate = self._before[1]

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record, if that is possible."""
        self._append(record)
        parent = self._log.parent
        if self._threshold > logging.INFO and self._before[1] and parent is not None:
            # asked anew, as the application may choose another level at any time
            if record.levelno >= (self._before[0] or parent.getEffectiveLevel()):
                parent.callHandlers(record)

    def _append(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a full disk, a bad path, a record without its values
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            self._rotate(len(line))
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            descriptor = os.open(self.path, flags, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)

    def _rotate(self, more_bytes: int) -> None:
        with contextlib.suppress(OSError):
            size = os.stat(self.path).st_size
            if size + more_bytes > MAX_LOG_BYTES:
                os.replace(self.path, self.path + ".1")
