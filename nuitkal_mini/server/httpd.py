"""The HTTP/1.1 server that runs the WSGI app: `Server(app, host, port).serve_forever()`.

One thread watches all connections that wait for a request and reads heads without ever waiting for anybody; a
connection with a complete head goes to a worker thread, which runs the app, sends the response in one write and gives the connection
back. So idle and slow clients cost no thread, and nobody waits behind them; a slow upload or download costs one thread.
There are never more threads than connections, and of those never more than MAX_CONNECTIONS.

A client that breaks off is no error: nothing is logged above DEBUG, unless the app fails by itself.
"""
from __future__ import annotations

import io
import ipaddress
import json
import logging
import queue
import re
import selectors
import socket
import ssl
import sys
import threading
import time
from collections import deque
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, BinaryIO, Callable, Deque, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from .messages import language_of, say_problem
from .refused import STATUS, Refused
from .request import HEAD_END, MAX_HEAD_BYTES, Network, Origin, Request, environ_of, parse_head

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("nuitkal_mini.server.access")

MAX_CONNECTIONS = 400      # below the 512 of select() on Windows; with a file each, below the usual 1,024 descriptors
IDLE_SECONDS = 60.0        # between two requests; proxies keep their side open as long (nginx: 60)
HEAD_SECONDS = 10.0        # from the first byte of a request to the end of its head; also for a TLS handshake
IO_SECONDS = 30.0          # without any progress in a body or a response; a block needs 9 kB/s then
LINGER_SECONDS = 5.0       # for a client to read a refusal while it is still sending
DRAIN_BYTES = 64 * 1024    # of a body that the app left unread: cheaper than a new connection
BLOCK_BYTES = 256 * 1024
BACKLOG = 1024             # connections that the system completes before we take them

App = Callable[[Dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ClientGone(ConnectionError):
    """The client broke off, or made no progress for IO_SECONDS."""


class FileWrapper:
    """`wsgi.file_wrapper`: what is left of a file, in blocks, or by sendfile where the connection can."""

    def __init__(self, stream: BinaryIO, block_bytes: int = BLOCK_BYTES) -> None:
        self.stream = stream
        self._block_bytes = block_bytes

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        block = self.stream.read(self._block_bytes)
        if not block:
            raise StopIteration
        return block

    def close(self) -> None:
        self.stream.close()


class _Connection:
    """A client's socket, and what it has sent ahead. Owned by the watching thread or by one worker, never by both."""

    def __init__(self, sock: socket.socket, peer: str, needs_handshake: bool) -> None:
        self.sock = sock
        self.peer = peer
        self.client = peer    # the same, or whom a trusted proxy names
        self.needs_handshake = needs_handshake
        self.is_open = True
        self.is_broken = False
        self.deadline = time.monotonic() + HEAD_SECONDS
        self._ahead = b""

    def wait_for_request(self) -> None:
        self.sock.settimeout(0)
        self.deadline = time.monotonic() + IDLE_SECONDS
        self._ahead = self._ahead.lstrip(b"\r\n")    # RFC 9112, 2.2: empty lines before a request

    def has_head(self) -> bool:
        """Whether there is a whole head, or too much for one."""
        return HEAD_END in self._ahead or len(self._ahead) > MAX_HEAD_BYTES

    def fill(self) -> bool:
        """Read ahead without waiting, up to a whole head; False when the client has gone."""
        try:
            while not self.has_head():
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
        head, _, self._ahead = self._ahead.partition(HEAD_END)
        return head

    def receive_into(self, buffer: memoryview) -> int:
        """The next bytes of a body; 0 at the end of the connection."""
        if self._ahead:
            count = min(len(buffer), len(self._ahead))
            buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
            return count
        try:
            return self.sock.recv_into(buffer)
        except OSError as error:
            raise self._gone() from error

    def send(self, content: bytes) -> None:
        try:
            for start in range(0, len(content), BLOCK_BYTES):    # sendall's timeout is for all that it is given
                self.sock.sendall(memoryview(content)[start:start + BLOCK_BYTES])
        except OSError as error:
            raise self._gone() from error

    def send_file(self, stream: BinaryIO, count: int) -> int:
        try:
            return self.sock.sendfile(stream, stream.tell(), count)
        except OSError as error:
            raise self._gone() from error

    def _gone(self) -> ClientGone:
        self.is_broken = True
        return ClientGone("%s broke off" % self.peer)

    def close(self) -> None:
        self.is_open = False
        self.sock.close()

    def close_gently(self) -> None:
        """Close after reading what still comes: unread bytes would reset the connection and take our response with them."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            end = time.monotonic() + LINGER_SECONDS
            self.sock.settimeout(LINGER_SECONDS)
            while time.monotonic() < end and self.sock.recv(BLOCK_BYTES):
                pass
        except OSError:
            pass
        self.close()


class _Body(io.RawIOBase):
    """A request's body; asks for it (100 Continue) when it is first read and the client waits for that."""

    def __init__(self, connection: _Connection, request: Request) -> None:
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


class _Response:
    """A response on its way: WSGI's start_response and write, and what becomes of an iterable."""

    def __init__(self, connection: _Connection, request: Optional[Request] = None, body: Optional[_Body] = None) -> None:
        self._connection = connection
        self._body = body
        self._is_1_1 = request is None or request.is_http_1_1
        self._is_head = request is not None and request.method == "HEAD"
        self.keep_alive = request is not None and request.keeps_alive
        self.status = ""
        self.body_bytes = 0
        self.has_begun = False
        self._headers: List[Tuple[str, str]] = []
        self._length: Optional[int] = None    # of the body, once the head is out; None: until the connection closes

    def start(self, status: str, headers: List[Tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
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
            self.body_bytes += self._connection.send_file(result.stream, self._length or 0)
        else:
            for piece in result:
                if piece:
                    self.write(piece)
        if not self.has_begun:
            self.write(b"")
        if self._length is not None and self.body_bytes < self._length:
            raise ValueError("the app announced %d bytes and gave %d" % (self._length, self.body_bytes))

    def write(self, content: bytes) -> None:
        head = b"" if self.has_begun else self._begin()
        if self._is_bodiless():
            content = b""
        elif self._length is not None and self.body_bytes + len(content) > self._length:
            raise ValueError("the app gives more than the %d bytes that it announced" % self._length)
        self.has_begun = True
        self._connection.send(head + content if head else content)    # one write: two would wait for each other (Nagle, 44 ms)
        self.body_bytes += len(content)

    def answer(self, refusal: Refused, language: str) -> None:
        """A refusal of the server's own, in place of whatever was started."""
        code = STATUS.get(refusal.code, 400)
        content = json.dumps({"error": say_problem(refusal, language), "code": refusal.code}, ensure_ascii=False).encode()
        self.keep_alive = False
        self.status, self._headers = "%d %s" % (code, HTTPStatus(code).phrase), [("Content-Type", "application/json; charset=utf-8")]
        self.send([content])

    def _begin(self) -> bytes:
        if not self.status:
            raise AssertionError("start_response was not called")
        if self.status.startswith("204"):
            self._headers = [header for header in self._headers if header[0].lower() != "content-length"]
        self._length = None if self._is_bodiless() else self._announced()
        if self._length is None and not self._is_bodiless():
            self.keep_alive = False    # only the end of the connection ends this content
        if self._body and not self._body.is_drainable():
            self.keep_alive = False
        lines = ["HTTP/1.1 " + self.status, "Date: " + formatdate(usegmt=True)]
        lines += ["%s: %s" % header for header in self._headers]
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
        return length is not None and length > BLOCK_BYTES and not isinstance(self._connection.sock, ssl.SSLSocket)


class Server:
    """An HTTP/1.1 server that listens from its creation on and answers while `serve_forever` runs.

    `port` 0 takes a free one. `trusted_proxies` are addresses or networks (`10.0.0.0/8`) whose X-Forwarded-For, -Proto and
    -Host are believed; loopback is always one. Raises OSError when it cannot listen, ValueError for a proxy that is no address.
    """

    def __init__(self, app: App, host: str, port: int, certfile: Optional[str] = None, keyfile: Optional[str] = None,
                 trusted_proxies: Sequence[str] = ()) -> None:
        self._app = app
        self._trusted: List[Network] = [ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies]
        self._tls: Optional[ssl.SSLContext] = None
        if certfile:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(certfile, keyfile)
        self._listener = _listen(host, port)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._waiting: Dict[_Connection, None] = {}    # watched by the selector; the one that waits longest stands first
        self._busy: Set[_Connection] = set()           # with a worker
        self._ready: queue.SimpleQueue[Optional[_Connection]] = queue.SimpleQueue()    # to the workers
        self._returned: Deque[_Connection] = deque()                                   # and back
        self._free_workers = threading.Semaphore(0)
        self._workers = 0
        self._is_accepting = False
        self._next_check = 0.0
        self._shutdown_deadline: Optional[float] = None

    def serve_forever(self) -> None:
        """Answer requests until `shutdown`; returns when the last response is out or the time of grace is over."""
        for sock in (self._listener, self._wake_receiver, self._wake_sender):
            sock.settimeout(0)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ, self._take_back)
        self._accept_again()
        while self._shutdown_deadline is None:
            self._turn(timeout=1.0)
        self._stop_listening()
        while self._busy and time.monotonic() < self._shutdown_deadline:
            self._turn(timeout=max(0.0, self._shutdown_deadline - time.monotonic()))
        self._close()

    def shutdown(self, grace_seconds: float) -> None:
        """Make `serve_forever` accept nothing more, finish what is running (so many seconds at most) and return.

        Returns at once; may be called from a signal handler and from any thread.
        """
        self._shutdown_deadline = time.monotonic() + grace_seconds
        self._wake()

    # The watching thread

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            key.data()
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + 1.0
        for connection in [waiting for waiting in self._waiting if waiting.deadline < now]:
            self._forget(connection)

    def _accept(self) -> None:
        if len(self._waiting) + len(self._busy) >= MAX_CONNECTIONS:
            if not self._waiting:
                self._selector.unregister(self._listener)    # until one comes back
                self._is_accepting = False
                return
            self._forget(next(iter(self._waiting)))
        try:
            sock, address = self._listener.accept()
        except OSError:    # it has gone already; or there are no more descriptors, then room must be made
            if self._waiting:
                self._forget(next(iter(self._waiting)))
            return
        self._welcome(sock, address[0])

    def _welcome(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            return
        connection = _Connection(sock, peer, needs_handshake=self._tls is not None)
        if connection.needs_handshake:
            self._hand_over(connection)
        else:
            self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        connection.wait_for_request()
        self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        is_there = connection.fill()
        if connection.has_head():
            self._hand_over(connection)
        elif not is_there:
            self._forget(connection)
        elif connection not in self._waiting:
            self._waiting[connection] = None
            self._selector.register(connection.sock, selectors.EVENT_READ, partial(self._receive, connection))

    def _unwatch(self, connection: _Connection) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            self._selector.unregister(connection.sock)

    def _forget(self, connection: _Connection) -> None:
        self._unwatch(connection)
        connection.close()

    def _hand_over(self, connection: _Connection) -> None:
        self._unwatch(connection)
        self._busy.add(connection)
        self._ready.put(connection)
        if not self._free_workers.acquire(blocking=False):
            self._workers += 1
            threading.Thread(target=self._work, name="nuitkal-worker-%d" % self._workers, daemon=True).start()

    def _take_back(self) -> None:
        self._wake_receiver.recv(4096)
        while self._returned:
            connection = self._returned.popleft()
            self._busy.discard(connection)
            if connection.is_open and self._shutdown_deadline is None:
                self._watch(connection)
            else:
                connection.close()
        if not self._is_accepting and self._shutdown_deadline is None:
            self._accept_again()

    def _accept_again(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._is_accepting = True

    def _stop_listening(self) -> None:
        if self._is_accepting:
            self._selector.unregister(self._listener)
        self._listener.close()
        for connection in list(self._waiting):
            self._forget(connection)

    def _close(self) -> None:
        for connection in self._busy:
            try:    # the plain socket's method: it wakes the worker, which then closes the connection
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
            except OSError:
                pass
        for _ in range(self._workers):
            self._ready.put(None)
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _wake(self) -> None:
        try:
            self._wake_sender.send(b"\0")
        except OSError:    # full: it will wake anyway; broken: it has stopped
            pass

    # The workers

    def _work(self) -> None:
        connection = self._ready.get()
        while connection is not None:
            try:
                self._serve(connection)
            except ClientGone as error:
                logger.debug("%s", error)
                connection.close()
            except Exception:
                logger.exception("serving %s failed", connection.peer)
                connection.close()
            if self._shutdown_deadline is not None:
                connection.close()    # perhaps nobody takes it back any more
            self._returned.append(connection)
            self._free_workers.release()
            self._wake()
            connection = self._ready.get()

    def _serve(self, connection: _Connection) -> None:
        """One request and its response; afterwards the connection is closed, or ready for the next one."""
        if connection.needs_handshake:
            self._shake_hands(connection)
            return
        started = time.monotonic()
        connection.sock.settimeout(IO_SECONDS)
        connection.client = connection.peer
        head = connection.take_head()
        request: Optional[Request] = None
        body: Optional[_Body] = None
        response = _Response(connection)
        try:
            request = parse_head(head)
            body = _Body(connection, request)
            response = _Response(connection, request, body)
            response.keep_alive &= self._shutdown_deadline is None
            self._run(connection, request, body, response)
        except Refused as refusal:
            response.answer(refusal, _language(head))
        finally:
            _log_access(connection.client, request, response, time.monotonic() - started)
        _settle(connection, body, response)

    def _run(self, connection: _Connection, request: Request, body: _Body, response: _Response) -> None:
        """Call the app; whatever it raises is answered with 500, or by breaking off when the response is under way."""
        scheme = "https" if self._tls else "http"
        environ = environ_of(request, Origin(connection.peer, scheme, (self.host, self.port)), self._trusted)
        connection.client = environ["REMOTE_ADDR"]
        environ.update(_SERVER_ENVIRON)
        environ["wsgi.input"] = io.BufferedReader(body, BLOCK_BYTES) if body.left else io.BytesIO()
        try:
            result = self._app(environ, response.start)
            try:
                response.send(result)
            finally:
                close = getattr(result, "close", None)
                if close:
                    close()
        except Exception as error:
            if connection.is_broken:
                raise ClientGone("%s broke off" % connection.client) from error
            logger.exception("%s %s failed", request.method, request.split_target[0])
            if response.has_begun:
                raise ClientGone("a response was broken off") from error
            response.answer(Refused("internal_error", "the server failed; its log says why"), language_of(environ))

    def _shake_hands(self, connection: _Connection) -> None:
        connection.sock.settimeout(HEAD_SECONDS)
        try:
            connection.sock.do_handshake()  # type: ignore[attr-defined]
        except OSError as error:
            raise ClientGone("%s did not finish its TLS handshake: %s" % (connection.peer, error)) from error
        connection.needs_handshake = False


_SERVER_ENVIRON: Dict[str, Any] = {
    "wsgi.version": (1, 0), "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False,
    "wsgi.run_once": False, "wsgi.file_wrapper": FileWrapper}


def _settle(connection: _Connection, body: Optional[_Body], response: _Response) -> None:
    """Leave the connection at the beginning of the next request, or close it."""
    if body is None or not body.is_drainable():
        connection.close_gently()
        return
    body.drain()
    if not response.keep_alive or body.left:
        connection.close()


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # `::` means every address, IPv4 too.
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG, dualstack_ipv6=both)


def _language(head: bytes) -> str:
    """The language for the answer to a head that could not be read."""
    line = re.search(rb"\naccept-language:([^\r\n]*)", head, re.IGNORECASE)
    return language_of({"HTTP_ACCEPT_LANGUAGE": line.group(1).decode("latin-1")} if line else {})


def _log_access(client: str, request: Optional[Request], response: _Response, seconds: float) -> None:
    """One line a request. Of the query only the version is told: whatever else may be a secret."""
    if not access_logger.isEnabledFor(logging.INFO):
        return
    method, path, query = (request.method, *request.split_target) if request else ("-", "-", "")
    version = re.search(r"(?:^|&)(version=[^&]*)", query)
    access_logger.info("%s %s %s %s %d bytes %.1f ms", client, method, path + ("?" + version.group(1) if version else ""),
                       response.status[:3] or "-", response.body_bytes, seconds * 1000)
