"""One client's connection: its socket, the bytes it has sent, the state it is in, the time it has
left.

States, in the order in which a connection passes through them:

    HANDSHAKE  TLS is being set up
    READING    the head of a request is awaited, or a body so small that the app gets it whole
    RUNNING    a thread runs the app, which may read a larger body
    SENDING    the client has not yet taken the whole response
    LINGERING  our side is closed; what the client still sends is read and dropped, so that it
               reads our response (a socket that is closed over unread bytes resets the connection:
               RFC 9112, 9.6)
    CLOSED

In all states but RUNNING a connection waits in the selector and holds no thread. Sockets never
block.
"""

from __future__ import annotations

import io
import os
import selectors
import socket
import ssl
import struct
import sys
import time
from contextlib import suppress
from enum import Enum
from typing import IO, Any, Callable, Dict, Optional

from ..refused import Refused
from .body import BodyDecoder, ChunkedBody, SizedBody
from .request import HEAD_END, MAX_HEAD_BYTES, MAX_LINE_BYTES, RequestHead, parse_request_line

if sys.platform != "win32":
    import fcntl
    import termios

IDLE_SECONDS = 60.0  # between two requests; proxies keep their side open as long (nginx: 60)
HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its head; for a TLS handshake
BODY_SECONDS = 10.0  # for a small body, and for every body that the app has not authorised
LINGER_SECONDS = 5.0  # for a client to read the response while it is still sending
WINDOW_SECONDS = (
    30.0  # for which a client may fall behind BYTES_PER_SECOND: a mobile network's pause
)
BYTES_PER_SECOND = 1000  # of a body or a response; a modem of 1991 is faster
SMALL_BODY_BYTES = 16 * 1024  # of a form or of JSON that is received before a thread is spent on it
RECEIVE_BYTES = 16 * 1024  # a whole TLS record: nothing is left that a selector does not see
MAX_RECEIVES = 4  # of a head at once; a client that sends line feeds for ever keeps nobody waiting
TLS_BLOCK_BYTES = 64 * 1024  # given to OpenSSL at once, which must get the same block again
BLOCK_BYTES = 256 * 1024

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_POLL = getattr(selectors, "PollSelector", selectors.SelectSelector)


class ClientGone(ConnectionError):
    """The client broke off, or was too slow."""


class State(Enum):
    """Where a connection is between two requests; see the module's docstring."""

    HANDSHAKE = 0
    READING = 1
    RUNNING = 2
    SENDING = 3
    LINGERING = 4
    CLOSED = 5


class Connection:
    """A client's socket and what is known of its present request.

    The leader runs every method, except in the state RUNNING: then the thread that runs the app
    has the connection. `before_waiting` is called by that thread before it waits for the client:
    it gives up the lead.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        needs_handshake: bool,
        before_waiting: Callable[[Connection], None],
    ) -> None:
        self.sock = sock
        self.peer = peer
        self.client = peer  # the same, or the address that a trusted proxy forwards
        self.counted_as = ""  # the address whose connections it counts among; empty: none
        self.events = 0  # for which the selector watches it
        self.is_tls = needs_handshake
        self.state = State.HANDSHAKE if needs_handshake else State.READING
        self.since = time.monotonic()  # of its last complete response, or of its beginning
        self.has_been_served = False
        self.deadline = self.since + (HEAD_SECONDS if needs_handshake else IDLE_SECONDS)
        self.is_broken = False
        self.is_waiting = False  # in RUNNING: for its client
        self.received = bytearray()
        self.head: Optional[RequestHead] = None
        self.environ: Optional[Dict[str, Any]] = None  # of a request for which the app has not run
        self.decoder: Optional[BodyDecoder] = None
        self.content = b""  # of a small body
        self.response: Any = None  # HttpResponse, once there is one
        self._local_address: Optional[str] = None
        self._scanned = 0  # bytes of `received` in which the end of a head was looked for
        self._has_line = False  # the request line has come
        self._has_head = False
        self._body_deadline = 0.0
        self._handed_over = 0  # bytes given to the system so far
        self._taken = 0  # of these, by the client, when it was last looked at
        self._before_waiting = before_waiting

    @property
    def is_open(self) -> bool:
        return self.state is not State.CLOSED

    @property
    def local_address(self) -> str:
        """The address of this machine that the client connected to."""
        if self._local_address is None:
            self._local_address = ""
            with suppress(OSError):  # macOS, when the client has gone
                self._local_address = str(self.sock.getsockname()[0])
        return self._local_address

    # READING

    def shake_hands(self) -> int:
        """One step of the TLS handshake; the event to wait for, 0 when it is complete."""
        try:
            self.sock.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        self.state = State.READING
        return 0

    def receive(self) -> bool:
        """Append what the client has sent to `received`; False at the end of the connection."""
        try:
            for _ in range(MAX_RECEIVES):
                piece = self.sock.recv(RECEIVE_BYTES)
                if not piece:
                    return False
                self._append(piece)
                if self.head is not None or self.has_head():
                    break
        except _WOULD_BLOCK:
            return True
        except OSError:
            self.is_broken = True
            return False
        return True

    def has_hidden_bytes(self) -> bool:
        """Whether OpenSSL holds bytes that the selector does not see: the rest of a TLS record."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def _append(self, piece: bytes) -> None:
        if self.head is None and not self.received:
            piece = piece.lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines before a request
            if piece:
                self.deadline = min(self.deadline, time.monotonic() + HEAD_SECONDS)
        self.received += piece

    def has_head(self) -> bool:
        """Whether a whole head has come, or enough of one to refuse it."""
        if not self._has_head:
            self._has_head = self._scan()
        return self._has_head

    def _scan(self) -> bool:
        """Look for the end of the head, and for its errors, in the bytes that are new."""
        received, start = self.received, self._scanned
        if received.find(HEAD_END, max(0, start - 3)) >= 0:
            return True
        self._scanned = len(received)
        line_feeds = received.count(b"\n", start)
        if line_feeds != received.count(b"\r\n", max(0, start - 1)):
            return True  # a bare line feed
        if line_feeds and not self._has_line:
            self._has_line = True
            if not _begins_with_request_line(received):
                return True
        return len(received) > (MAX_HEAD_BYTES if self._has_line else MAX_LINE_BYTES)

    def take_head(self) -> bytes:
        """The head that has come, removed from `received`; all of `received` when its end has not
        come.
        """
        self._scanned, self._has_line, self._has_head = 0, False, False
        end = self.received.find(HEAD_END)
        end = len(self.received) if end < 0 else end
        head = bytes(self.received[:end])
        del self.received[: end + len(HEAD_END)]
        return head

    def expect_body(self, decoder: BodyDecoder) -> None:
        """Begin to receive the body of the request."""
        self.decoder = decoder
        self._body_deadline = self.deadline = time.monotonic() + BODY_SECONDS

    def has_body(self) -> bool:
        """Whether the body has come as far as it is awaited before the app runs.

        Awaited is a body of at most SMALL_BODY_BYTES; not when its client waits to be asked for it
        (100 Continue).
        """
        decoder = self.decoder
        assert decoder is not None and self.head is not None
        if isinstance(decoder, SizedBody):
            if decoder.left > SMALL_BODY_BYTES:
                return True
            if len(self.received) >= decoder.left:
                self.content = decoder.take(self.received, decoder.left)
                return True
        else:
            self.content += decoder.take(self.received, SMALL_BODY_BYTES)
            if decoder.is_complete or len(self.content) >= SMALL_BODY_BYTES:
                return True
        return self.head.expects_continue

    # RUNNING: the thread that runs the app

    def allow_long_body(self) -> None:
        """Let the body take as long as it needs at BYTES_PER_SECOND: the app knows who sends it."""
        self._body_deadline = float("inf")

    def start_reading(self) -> None:
        self.deadline = time.monotonic() + WINDOW_SECONDS

    def receive_into(self, buffer: memoryview) -> int:
        """The next bytes of a body; waits for them."""
        while True:
            try:
                count = self.sock.recv_into(buffer)
            except _WOULD_BLOCK:
                self.wait(selectors.EVENT_READ)
                continue
            except OSError as error:
                raise self.gone() from error
            if not count:
                raise self.gone()
            self._count(count)
            return count

    def wait(self, event: int) -> None:
        """Wait until the client has sent something, or takes something; ClientGone when it is too
        slow.
        """
        self._before_waiting(self)
        self.is_waiting = True
        try:
            end = min(self.deadline, self._body_deadline)
            with _POLL() as poll:
                poll.register(self.sock, event)
                if not poll.select(max(0.0, end - time.monotonic())) or self.is_broken:
                    raise self.gone()
        finally:
            self.is_waiting = False

    def _count(self, count: int) -> None:
        """Progress of so many bytes: each puts the deadline off, up to WINDOW_SECONDS from now."""
        later = self.deadline + count / BYTES_PER_SECOND
        self.deadline = min(time.monotonic() + WINDOW_SECONDS, later)

    # SENDING, and RUNNING for an app that calls write()

    def start_sending(self) -> None:
        self.deadline = time.monotonic() + WINDOW_SECONDS
        self._body_deadline = float("inf")
        self._taken = self._handed_over - self._unsent()

    def send(self, content: memoryview) -> int:
        """Hand bytes to the system; how many it took. BlockingIOError when it takes none now."""
        try:
            count = self.sock.send(content[:TLS_BLOCK_BYTES] if self.is_tls else content)
        except _WOULD_BLOCK as error:
            raise BlockingIOError from error
        except OSError as error:
            raise self.gone() from error
        self._handed_over += count
        return count

    def send_file(self, file: IO[bytes], offset: int, count: int) -> int:
        """The same for bytes of a file; 0 at its end."""
        try:
            sent = os.sendfile(self.sock.fileno(), file.fileno(), offset, count)
        except BlockingIOError:
            raise
        except OSError as error:
            raise self.gone() from error
        self._handed_over += sent
        return sent

    def has_stalled(self) -> bool:
        """Whether the client takes the response too slowly; asked when the deadline is over.

        What it took is what was handed over without what the system still holds for it.
        """
        taken = self._handed_over - self._unsent()
        self._count(max(0, taken - self._taken))
        self._taken = taken
        return self.deadline < time.monotonic()

    def _unsent(self) -> int:
        """The bytes that the system holds for the client; 0 where it does not tell."""
        try:
            if sys.platform == "linux":
                answer = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
                return int(struct.unpack("i", answer)[0])
            if sys.platform == "darwin":
                return self.sock.getsockopt(socket.SOL_SOCKET, 0x1024)  # SO_NWRITE
        except OSError:
            pass
        return 0

    def gone(self) -> ClientGone:
        self.is_broken = True
        return ClientGone(f"{self.client} broke off or was too slow")

    # The end of a request, and of the connection

    def await_request(self) -> None:
        """Begin with the next request."""
        self.head = self.environ = self.decoder = self.response = None
        self.content = b""
        self.client = self.peer
        self.state = State.READING
        self.has_been_served = True
        self.since = time.monotonic()
        self.received = self.received.lstrip(b"\r\n")
        self.deadline = self.since + (HEAD_SECONDS if self.received else IDLE_SECONDS)

    def start_lingering(self) -> bool:
        """Close our side; False when the connection is broken already."""
        self.state = State.LINGERING
        self.deadline = time.monotonic() + LINGER_SECONDS
        self.received.clear()
        try:
            if isinstance(self.sock, ssl.SSLSocket):
                with suppress(OSError, ValueError):
                    self.sock.unwrap()  # sends our close_notify, and does not wait for theirs
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def drop_received(self) -> bool:
        """Read and drop what the client has sent; False when it has closed its side too."""
        try:
            for _ in range(MAX_RECEIVES):
                if not self.sock.recv(BLOCK_BYTES):
                    return False
        except _WOULD_BLOCK:
            return True
        except OSError:
            return False
        return True

    def interrupt(self) -> None:
        """End the connection while another thread waits for its client; that thread closes it."""
        self.is_broken = True
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # the plain socket's, also with TLS

    def close(self) -> None:
        self.state = State.CLOSED
        self.sock.close()


class RequestBody(io.RawIOBase):
    """The body of a request as `wsgi.input`; the thread that runs the app reads it and waits for
    the client here.

    Asks for the body (100 Continue) when it is first read and the client waits for that.
    """

    def __init__(self, connection: Connection, decoder: BodyDecoder, is_awaited: bool) -> None:
        self._connection = connection
        self._decoder = decoder
        self._content = bytearray(connection.content)
        self._is_awaited = is_awaited
        connection.start_reading()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while True:
            if not self._content:
                self._content += self._decoder.take(self._connection.received, len(view))
            if self._content or self._decoder.is_complete:
                count = min(len(view), len(self._content))
                view[:count] = self._content[:count]
                del self._content[:count]
                return count
            count = self._receive(view)
            if count:
                return count

    def _receive(self, view: memoryview) -> int:
        """Wait for the client; the bytes of content that went straight into the view."""
        if self._is_awaited:
            self._is_awaited = False
            self._connection.send(memoryview(b"HTTP/1.1 100 Continue\r\n\r\n"))
        if isinstance(self._decoder, ChunkedBody):
            block = bytearray(BLOCK_BYTES)
            count = self._connection.receive_into(memoryview(block))
            self._connection.received += memoryview(block)[:count]
            return 0
        count = self._connection.receive_into(view[: self._decoder.left])
        self._decoder.left -= count
        return count


def _begins_with_request_line(received: bytearray) -> bool:
    line = bytes(received[: received.find(b"\r\n")]).decode("latin-1")
    try:
        parse_request_line(line)
    except Refused:
        return False
    return True
