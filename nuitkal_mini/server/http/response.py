"""One response: WSGI's `start_response` and `write`, then the content, handed to the system as the
client takes it.

wsgiref.handlers cannot do this: `BaseHandler.run` returns when the client has taken everything, so
that each slow client holds a thread. Here `advance` hands over what the socket takes now, and any
thread may go on later.
"""

from __future__ import annotations

import os
import selectors
import time
from email.utils import formatdate
from typing import IO, Any, Callable, Iterable, Iterator, List, Optional, Tuple
from wsgiref.util import FileWrapper

from ..refused import Refused
from ..responses import Answer, refusal
from .connection import BLOCK_BYTES, Connection
from .request import HEAD_END, RequestHead

TURN_BYTES = 1024 * 1024  # handed over before others get their turn: half a millisecond of loopback

_date = (0, "")  # the second for which the Date header is made, and the header


class HttpResponse:
    """The response to the present request of a connection.

    The thread that runs the app calls `start`, `write` and `take_result`; `advance` and `close`
    are called by the thread that has the connection: this one or the leader, never both at once.
    """

    def __init__(self, connection: Connection, head: Optional[RequestHead], is_head: bool) -> None:
        self._connection = connection
        self._is_http_1_1 = head is None or head.is_http_1_1
        self._is_head = is_head
        self.began_at = time.monotonic()
        self.keep_alive = head is not None and head.keeps_alive
        self.status = ""
        self.has_begun = False  # the head has been made: the client gets it
        self.is_complete = False  # all of it is handed over
        self._headers: List[Tuple[str, str]] = []
        self._length: Optional[int] = None  # of the content; None: until the connection closes
        self._content_bytes = 0  # made so far
        self._result: Any = None  # what the app returned
        self._pieces: Iterator[bytes] = iter(())
        self._pending = memoryview(b"")  # made and not handed over
        self._file: Optional[IO[bytes]] = None
        self._offset = 0  # of the file's next byte

    @property
    def sent_bytes(self) -> int:
        """The bytes of content that were handed over."""
        return max(0, self._content_bytes - len(self._pending))

    # The thread that runs the app

    def start(
        self, status: str, headers: List[Tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """WSGI's start_response."""
        if exc_info and self.has_begun:
            raise exc_info[1].with_traceback(exc_info[2])
        if self.status and not exc_info:
            raise AssertionError("start_response was called twice")
        self.status, self._headers = status, list(headers)
        return self.write

    def write(self, content: bytes) -> None:
        """WSGI's write: waits until the client has taken the content."""
        self._put(content)
        while self._pending:
            try:
                self._pending = self._pending[self._connection.send(self._pending) :]
            except BlockingIOError:
                self._connection.start_sending()
                self._connection.wait(selectors.EVENT_WRITE)

    def take_result(self, result: Iterable[bytes]) -> None:
        """The iterable that the app returned."""
        self._result = result
        if isinstance(result, (list, tuple)):
            content = b"".join(result)
            if not self._is_bodiless() and self._announced() is None:
                self._headers.append(("Content-Length", str(len(content))))
            self._pieces = iter((content,))
        elif isinstance(result, FileWrapper) and self._can_send_file(result.filelike):
            self._file, self._offset = result.filelike, result.filelike.tell()
        elif isinstance(result, FileWrapper):
            self._pieces = self._announced_part(result)
        else:
            self._pieces = iter(result)

    def answer(self, answer: Answer) -> None:
        """An answer of the server's own, in place of whatever was started."""
        self.close()
        length = ("Content-Length", str(len(answer.body)))
        self.status, self._headers = answer.status_line, [*answer.headers, length]
        self._file = None
        self.take_result([answer.body])

    def refuse(self, refused: Refused, language: str) -> None:
        """A refusal of the server's own; afterwards the connection closes."""
        self.keep_alive = False
        self.answer(refusal(refused, language))

    # The thread that has the connection

    def advance(self) -> None:
        """Hand over what the socket takes now, TURN_BYTES at most; `is_complete` tells whether
        that was all.

        Raises ClientGone, and whatever the app's iterable raises.
        """
        left = TURN_BYTES
        try:
            while left > 0 and not self.is_complete:
                if self._pending:
                    count = self._connection.send(self._pending)
                    self._pending = self._pending[count:]
                    left -= count
                elif self._file and self.has_begun and self._content_bytes < (self._length or 0):
                    left -= self._send_file(self._file)
                else:
                    self._make_next()
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Tell the app that its iterable is no longer needed."""
        result, self._result = self._result, None
        close = getattr(result, "close", None)
        if close:
            close()

    def _make_next(self) -> None:
        for piece in () if self._is_bodiless() else self._pieces:
            if piece:
                self._put(piece)
                return
        if not self.has_begun:
            self._put(b"")
        elif self._length is not None and self._content_bytes < self._length:
            raise self._too_short()
        else:
            self.is_complete = True

    def _announced_part(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of a wrapped file, which may be longer than announced: PEP 3333 lets it end
        there.
        """
        length = self._announced()
        if length is None:
            yield from pieces
            return
        left = length - self._content_bytes
        source = iter(pieces)
        while left > 0:
            piece = next(source, b"")[:left]
            if not piece:
                return
            left -= len(piece)
            yield piece

    def _send_file(self, file: IO[bytes]) -> int:
        left = (self._length or 0) - self._content_bytes
        count = self._connection.send_file(file, self._offset, min(left, TURN_BYTES))
        if not count:
            raise self._too_short()
        self._offset += count
        self._content_bytes += count
        return count

    def _too_short(self) -> ValueError:
        return ValueError(
            f"the app announced {self._length} bytes and gave {self._content_bytes} bytes"
        )

    def _put(self, content: bytes) -> None:
        """Append to the pending bytes; the head before the first ones, so that both go out in one
        write.

        Two writes would wait for each other (Nagle's algorithm, 44 ms).
        """
        head = b"" if self.has_begun else self._make_head()
        if content and self._is_bodiless():
            content = b""
        elif self._length is not None and self._content_bytes + len(content) > self._length:
            raise ValueError(f"the app gives more than the {self._length} bytes that it announced")
        self.has_begun = True
        self._pending = memoryview(head + content if head else content)
        self._content_bytes += len(content)

    def _make_head(self) -> bytes:
        if not self.status:
            raise AssertionError("start_response was not called")
        if self.status.startswith("204"):
            self._headers = [item for item in self._headers if item[0].lower() != "content-length"]
        if not self._is_bodiless():
            self._length = self._announced()
            if self._length is None:
                self.keep_alive = False  # only the end of the connection ends this content
        decoder = self._connection.decoder
        if decoder is not None and not decoder.is_complete:
            self.keep_alive = False  # the rest of the body would be read as the next request
        lines = [f"HTTP/1.1 {self.status}", _date_header()]
        lines += [f"{name}: {value}" for name, value in self._headers]
        if not self.keep_alive:
            lines.append("Connection: close")
        elif not self._is_http_1_1:
            lines.append("Connection: keep-alive")
        head = "\r\n".join(lines)
        if not head.count("\r") == head.count("\n") == len(lines) - 1:
            raise ValueError("a header has a line break in it")
        return head.encode("latin-1") + HEAD_END

    def _is_bodiless(self) -> bool:
        return self._is_head or self.status[:3] in ("204", "304")

    def _announced(self) -> Optional[int]:
        for name, value in self._headers:
            if name.lower() == "content-length":
                return int(value)
        return None

    def _can_send_file(self, file: Any) -> bool:
        """Whether the system sends the file by itself; a small one goes out with the head in one
        write.
        """
        length = None if self._is_bodiless() else self._announced()
        return (
            length is not None
            and length > BLOCK_BYTES
            and not self._connection.is_tls
            and hasattr(os, "sendfile")
            and hasattr(file, "fileno")
        )


def _date_header() -> str:
    """`Date: …` of this second: making it costs as much as the rest of the head."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, "Date: " + formatdate(now, usegmt=True))
    return _date[1]
