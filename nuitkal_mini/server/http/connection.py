"""One request and its response over one connection: the client's socket, the body it sends, the response it gets.

Nothing here waits longer than its constant says, and each response begins in one write. A client that breaks off is
`ClientGone`, wherever it is noticed. Who may use a connection when is httpd's business.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from email.utils import formatdate
from typing import IO, Any, Callable, Iterable, List, Optional, Tuple
from wsgiref.util import FileWrapper

from ..refused import Refused
from ..responses import refusal
from .request import HEAD_END, MAX_HEAD_BYTES, Request

IDLE_SECONDS = 60.0  # between two requests; proxies keep their side open as long (nginx: 60)
HEAD_SECONDS = (
    10.0  # from the first byte of a request to the end of its head; also for a TLS handshake
)
IO_SECONDS = 30.0  # without any progress in a body or a response; a block needs 9 kB/s then
LINGER_SECONDS = 5.0  # for a client to read a refusal while it is still sending
DRAIN_BYTES = 64 * 1024  # of a body that the app left unread: cheaper than a new connection
BLOCK_BYTES = 256 * 1024
MAX_PIECES = 4  # of a head that are read at once
BUFFER_BYTES = (
    16 * 1024
)  # of a response, which a system takes off our hands without a client that reads


class ClientGone(ConnectionError):
    """The client broke off, or made no progress for IO_SECONDS."""


class Connection:
    """A client's socket, and what it has sent ahead. `before_waiting` is called where its client may keep us waiting."""

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        needs_handshake: bool,
        before_waiting: Callable[[Connection], None],
    ) -> None:
        self.sock = sock
        self.peer = peer
        self.client = peer  # the same, or whom a trusted proxy names
        self.needs_handshake = needs_handshake
        self.is_open = True
        self.is_broken = False
        self.deadline = time.monotonic() + HEAD_SECONDS
        self._ahead = b""
        self._before_waiting = before_waiting

    def wait_for_request(self) -> None:
        self._ahead = self._ahead.lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines before a request
        self.deadline = time.monotonic() + (HEAD_SECONDS if self._ahead else IDLE_SECONDS)

    def has_head(self) -> bool:
        """Whether there is a whole head, or too much for one."""
        return HEAD_END in self._ahead or len(self._ahead) > MAX_HEAD_BYTES

    def fill(self) -> bool:
        """Read ahead without waiting, up to a whole head; False when the client has gone.

        Some pieces at most, so that who sends line feeds for ever keeps nobody waiting. A piece takes a whole TLS record:
        nothing is left that a selector does not see.
        """
        try:
            self.sock.settimeout(0)
            for _ in range(MAX_PIECES):
                if self.has_head():
                    break
                piece = self.sock.recv(16 * 1024)
                if not piece:
                    return False
                if not self._ahead:
                    self.deadline = min(self.deadline, time.monotonic() + HEAD_SECONDS)
                self._ahead = (self._ahead + piece).lstrip(b"\r\n")
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError:
            return False
        return True

    def take_head(self) -> bytes:
        """The head that is there; from here on the connection may wait for its client."""
        self.sock.settimeout(IO_SECONDS)
        self.client = self.peer
        head, _, self._ahead = self._ahead.partition(HEAD_END)
        return head

    def receive_into(self, buffer: memoryview) -> int:
        """The next bytes of a body; 0 at the end of the connection."""
        if self._ahead:
            count = min(len(buffer), len(self._ahead))
            buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
            return count
        self._before_waiting(self)
        try:
            return self.sock.recv_into(buffer)
        except OSError as error:
            raise self._gone() from error

    def send(self, content: bytes) -> None:
        if len(content) > BUFFER_BYTES:
            self._before_waiting(self)
        try:
            for start in range(
                0, len(content), BLOCK_BYTES
            ):  # sendall's timeout is for all that it is given
                self.sock.sendall(memoryview(content)[start : start + BLOCK_BYTES])
        except OSError as error:
            raise self._gone() from error

    def send_file(self, stream: IO[bytes], count: int) -> int:
        self._before_waiting(self)
        try:
            return self.sock.sendfile(stream, stream.tell(), count)
        except OSError as error:
            raise self._gone() from error

    def _gone(self) -> ClientGone:
        self.is_broken = True
        return ClientGone(f"{self.peer} broke off")

    def shake_hands(self) -> None:
        """The server's part of the TLS handshake."""
        self._before_waiting(self)
        self.sock.settimeout(HEAD_SECONDS)
        try:
            self.sock.do_handshake()  # type: ignore[attr-defined]
        except OSError as error:
            raise self._gone() from error
        self.needs_handshake = False

    def close(self) -> None:
        self.is_open = False
        self.sock.close()

    def close_gently(self) -> None:
        """Close after reading what still comes: unread bytes would reset the connection and take our response with them."""
        self._before_waiting(self)
        try:
            self.sock.shutdown(socket.SHUT_WR)
            end = time.monotonic() + LINGER_SECONDS
            self.sock.settimeout(LINGER_SECONDS)
            while time.monotonic() < end and self.sock.recv(BLOCK_BYTES):
                pass
        except OSError:
            pass
        self.close()


class Body(io.RawIOBase):
    """A request's body; asks for it (100 Continue) when it is first read and the client waits for that."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self.left = request.length
        self.is_awaited = request.expects_continue and self.left > 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.left)
        if wanted and self.is_awaited:
            self.is_awaited = False
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        count = self._connection.receive_into(memoryview(buffer)[:wanted]) if wanted else 0
        if wanted and not count:
            self._connection.is_broken = True
        self.left -= count
        return count

    def is_drainable(self) -> bool:
        """Whether so little is left that the connection can go on; a client that still waits may or may not send it."""
        return not self.is_awaited and self.left <= DRAIN_BYTES

    def drain(self) -> None:
        """Read what the app has left."""
        buffer = bytearray(DRAIN_BYTES)
        while self.left and self.readinto(buffer):
            pass


class Response:
    """A response on its way: WSGI's start_response and write, and what becomes of an iterable."""

    def __init__(
        self, connection: Connection, request: Optional[Request] = None, body: Optional[Body] = None
    ) -> None:
        self._connection = connection
        self._body = body
        self._is_1_1 = request is None or request.is_http_1_1
        self._is_head = request is not None and request.method == "HEAD"
        self.keep_alive = request is not None and request.keeps_alive
        self.status = ""
        self.body_bytes = 0
        self.has_begun = False
        self._headers: List[Tuple[str, str]] = []
        self._length: Optional[int] = (
            None  # of the body, once the head is out; None: until the connection closes
        )

    def start(
        self, status: str, headers: List[Tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info and self.has_begun:
            raise exc_info[1].with_traceback(exc_info[2])
        if self.status and not exc_info:
            raise AssertionError("start_response was called twice")
        self.status, self._headers = status, list(headers)
        return self.write

    def send(self, result: Iterable[bytes]) -> None:
        """All of what the app returned."""
        if isinstance(result, (list, tuple)):
            content = b"".join(result)
            if not self._is_bodiless() and self._announced() is None:
                self._headers.append(("Content-Length", str(len(content))))
            result = [content]
        if isinstance(result, FileWrapper) and self._can_sendfile():
            self.write(b"")
            self.body_bytes += self._connection.send_file(result.filelike, self._length or 0)
        else:
            for piece in result:
                if piece:
                    self.write(piece)
        if not self.has_begun:
            self.write(b"")
        if self._length is not None and self.body_bytes < self._length:
            raise ValueError(f"the app announced {self._length} bytes and gave {self.body_bytes}")

    def write(self, content: bytes) -> None:
        head = b"" if self.has_begun else self._begin()
        if self._is_bodiless():
            content = b""
        elif self._length is not None and self.body_bytes + len(content) > self._length:
            raise ValueError(f"the app gives more than the {self._length} bytes that it announced")
        self.has_begun = True
        self._connection.send(
            head + content if head else content
        )  # one write: two would wait for each other (Nagle, 44 ms)
        self.body_bytes += len(content)

    def answer(self, refused: Refused, language: str) -> None:
        """A refusal of the server's own, in place of whatever was started."""
        answer = refusal(refused, language)
        self.keep_alive = False
        self.status, self._headers = answer.status_line, list(answer.headers)
        self.send([answer.body])

    def _begin(self) -> bytes:
        if not self.status:
            raise AssertionError("start_response was not called")
        if self.status.startswith("204"):
            self._headers = [
                header for header in self._headers if header[0].lower() != "content-length"
            ]
        self._length = None if self._is_bodiless() else self._announced()
        if self._length is None and not self._is_bodiless():
            self.keep_alive = False  # only the end of the connection ends this content
        if self._body and not self._body.is_drainable():
            self.keep_alive = False
        lines = [
            f"HTTP/1.1 {self.status}",
            f"Date: {formatdate(usegmt=True)}",
            *(f"{name}: {value}" for name, value in self._headers),
        ]
        if not self.keep_alive:
            lines.append("Connection: close")
        elif not self._is_1_1:
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

    def _can_sendfile(self) -> bool:
        """Whether it pays: TLS has to encrypt, and a small file goes out with the head in one write."""
        length = None if self._is_bodiless() else self._announced()
        return (
            length is not None
            and length > BLOCK_BYTES
            and not isinstance(self._connection.sock, ssl.SSLSocket)
        )
