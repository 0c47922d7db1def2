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
from functools import partial
from typing import Any, Deque, Dict, List, Optional, Sequence, Set
from wsgiref.util import FileWrapper

from .exchange import BLOCK_BYTES, Body, ClientGone, Connection, Response
from .messages import language_of
from .refused import Refused
from .request import Network, Origin, Request, environ_of, parse_head
from .wsgi import App

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("nuitkal_mini.server.access")

MAX_CONNECTIONS = 400    # below the 512 of select() on Windows; with a file each, below the usual 1,024 descriptors
MAX_STAYING = 32         # workers that stay with a busy connection: many threads at once wait for each other
BACKLOG = 1024           # connections that the system completes before we take them


class Server:
    """An HTTP/1.1 server that listens from its creation on and answers while `serve_forever` runs.

    `port` 0 takes a free one. `trusted_proxies` are addresses or networks (`10.0.0.0/8`) whose X-Forwarded-For and -Proto
    are believed; loopback is always one. Raises OSError when it cannot listen, ValueError for a proxy that is no address.
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
        self._waiting: Dict[Connection, None] = {}    # watched by the selector; the one that waits longest stands first
        self._busy: Set[Connection] = set()           # with a worker
        self._ready: queue.SimpleQueue[Optional[Connection]] = queue.SimpleQueue()    # to the workers
        self._returned: Deque[Connection] = deque()                                   # and back
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
        self._accept_again()

    def _accept(self) -> None:
        if len(self._waiting) + len(self._busy) >= MAX_CONNECTIONS and not self._make_room():
            return
        try:
            sock, address = self._listener.accept()
        except (BlockingIOError, ConnectionError):    # it has gone already
            return
        except OSError:    # no more descriptors
            self._make_room()
            return
        self._welcome(sock, address[0])

    def _make_room(self) -> bool:
        """Close the connection that waits longest; when none waits, let new ones queue until one of ours comes back."""
        for connection in self._waiting:
            self._forget(connection)
            return True
        self._selector.unregister(self._listener)
        self._is_accepting = False
        return False

    def _welcome(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            return
        connection = Connection(sock, peer, needs_handshake=self._tls is not None)
        if connection.needs_handshake:
            self._hand_over(connection)
        else:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        connection.wait_for_request()
        self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        is_there = connection.fill()
        if connection.has_head():
            self._hand_over(connection)
        elif not is_there:
            self._forget(connection)
        elif connection not in self._waiting:
            self._waiting[connection] = None
            self._selector.register(connection.sock, selectors.EVENT_READ, partial(self._receive, connection))

    def _unwatch(self, connection: Connection) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            self._selector.unregister(connection.sock)

    def _forget(self, connection: Connection) -> None:
        self._unwatch(connection)
        connection.close()

    def _hand_over(self, connection: Connection) -> None:
        self._unwatch(connection)
        self._busy.add(connection)
        self._ready.put(connection)
        if not self._free_workers.acquire(blocking=False):
            try:
                threading.Thread(target=self._work, name="nuitkal-worker", daemon=True).start()
                self._workers += 1
            except RuntimeError as error:    # the system has no more threads: it waits for one of ours
                logger.error("%s; %d are running", error, self._workers)

    def _take_back(self) -> None:
        self._wake_receiver.recv(4096)
        while self._returned:
            connection = self._returned.popleft()
            self._busy.discard(connection)
            if connection.is_open and self._shutdown_deadline is None:
                self._watch(connection)
            else:
                connection.close()
        self._accept_again()

    def _accept_again(self) -> None:
        if not self._is_accepting and self._shutdown_deadline is None:
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
                while self._may_stay(connection) and connection.is_followed():
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

    def _may_stay(self, connection: Connection) -> bool:
        return connection.is_open and self._shutdown_deadline is None and len(self._busy) <= MAX_STAYING

    def _serve(self, connection: Connection) -> None:
        """One request and its response; afterwards the connection is closed, or ready for the next one."""
        if connection.needs_handshake:
            connection.shake_hands()
            return
        started = time.monotonic()
        head = connection.take_head()
        request: Optional[Request] = None
        body: Optional[Body] = None
        response = Response(connection)
        try:
            request = parse_head(head)
            body = Body(connection, request)
            response = Response(connection, request, body)
            response.keep_alive &= self._shutdown_deadline is None
            self._run(connection, request, body, response)
        except Refused as refusal:
            response.answer(refusal, _language(head))
        finally:
            _log_access(connection.client, request, response, time.monotonic() - started)
        _settle(connection, body, response)

    def _run(self, connection: Connection, request: Request, body: Body, response: Response) -> None:
        """Call the app; whatever it raises is answered with 500, or by breaking off when the response is under way."""
        scheme = "https" if self._tls else "http"
        environ = environ_of(request, Origin(connection.peer, scheme, (self.host, self.port)), self._trusted)
        connection.client = environ["REMOTE_ADDR"]
        environ.update(_SERVER_ENVIRON)
        environ["nuitkal.local_address"] = _local_address(connection.sock)    # SERVER_NAME may be all addresses at once
        environ["wsgi.errors"] = sys.stderr
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
                raise ClientGone(f"{connection.client} broke off") from error
            logger.exception("%s %s failed", request.method, request.split_target[0])
            if response.has_begun:
                raise ClientGone("a response was broken off") from error
            response.answer(Refused("internal_error", "the server failed; its log says why"), language_of(environ))


_SERVER_ENVIRON: Dict[str, Any] = {
    "wsgi.version": (1, 0), "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
    "wsgi.file_wrapper": FileWrapper}


def _settle(connection: Connection, body: Optional[Body], response: Response) -> None:
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


def _local_address(sock: socket.socket) -> str:
    try:
        return str(sock.getsockname()[0])
    except OSError:    # macOS, when the client has gone
        return ""


def _log_access(client: str, request: Optional[Request], response: Response, seconds: float) -> None:
    """One line a request. Of the query only the version is told: whatever else may be a secret."""
    if not access_logger.isEnabledFor(logging.INFO):
        return
    method, path, query = (request.method, *request.split_target) if request else ("-", "-", "")
    version = re.search(r"(?:^|&)(version=[^&]*)", query)
    access_logger.info("%s %s %s %s %d bytes %.1f ms", client, method, path + ("?" + version.group(1) if version else ""),
                       response.status[:3] or "-", response.body_bytes, seconds * 1000)
