"""The HTTP/1.1 server that runs the WSGI app: `Server(app, host, port).serve_forever()`.

Leader and followers (Schmidt et al., Pattern-Oriented Software Architecture 2): one thread at a time leads. It watches
all connections that wait for a request, reads heads without ever waiting for anybody, and serves a complete request
itself, with one write. Before it may have to wait for a client it gives up the lead, and when a request takes the app longer
than LATE_SECONDS the lead is taken from it: another thread goes on then, a new one when none is free. So small requests cost no
change of threads, idle and slow clients cost no thread, nobody waits behind them, and a slow upload or download costs one thread.
There are never more threads than connections and a leader, and never more connections than MAX_CONNECTIONS.

A client that breaks off is no error: nothing is logged above DEBUG. What becomes of a request is the gateway's business.
"""

from __future__ import annotations

import ipaddress
import logging
import queue
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from functools import partial
from typing import Any, Callable, Deque, Dict, Optional, Sequence, Set

from ..responses import App
from .connection import ClientGone, Connection
from .wsgi import Gateway

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = (
    400  # below the 512 of select() on Windows; with a file each, below the usual 1,024 descriptors
)
LATE_SECONDS = 0.005  # of a request, after which the leader is replaced: the time after which Python itself changes threads
BACKLOG = 1024  # connections that the system completes before we take them


class Server:
    """An HTTP/1.1 server that listens from its creation on and answers while `serve_forever` runs.

    `port` 0 takes a free one. `trusted_proxies` are addresses or networks (`10.0.0.0/8`) whose X-Forwarded-For and -Proto
    are believed; loopback is always one. Raises OSError when it cannot listen, ValueError for a proxy that is no address.
    """

    def __init__(
        self,
        app: App,
        host: str,
        port: int,
        certfile: Optional[str] = None,
        keyfile: Optional[str] = None,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        trusted = [ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies]
        self._tls: Optional[ssl.SSLContext] = None
        if certfile:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(certfile, keyfile)
        self._listener = _listen(host, port)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._gateway = Gateway(app, "https" if certfile else "http", (host, self.port), trusted)
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        # The leader's:
        self._waiting: Dict[
            Connection, None
        ] = {}  # watched by the selector; the one that waits longest stands first
        self._busy: Set[Connection] = set()  # being served
        self._events: Deque[Callable[[], Any]] = deque()  # what has happened and is not yet seen to
        self._is_accepting = False
        self._next_check = 0.0
        # Everybody's:
        self._returned: Deque[Connection] = deque()  # served
        self._lead = threading.Semaphore(0)  # whoever acquires it leads
        self._leader = 0  # which thread that is; 0: it has just given up the lead
        self._serving: Optional[Connection] = None  # by the leader, since:
        self._serving_since = 0.0
        self._lock = threading.Lock()  # of who leads, and serves what
        self._begun: queue.SimpleQueue[None] = queue.SimpleQueue()  # tells that something is served
        self._followers = threading.Semaphore(0)  # as many as wait for the lead
        self._failure: Optional[Exception] = None
        self._shutdown_deadline: Optional[float] = None

    def serve_forever(self) -> None:
        """Answer requests until `shutdown`; returns when the last response is out or the time of grace is over."""
        for sock in (self._listener, self._wake_receiver, self._wake_sender):
            sock.settimeout(0)
        self._selector.register(
            self._wake_receiver, selectors.EVENT_READ, partial(self._wake_receiver.recv, 4096)
        )
        self._accept_again()
        self._lead.release()
        self._start_worker()
        while self._shutdown_deadline is None:
            self._watch_leader()
        while not self._lead.acquire(timeout=LATE_SECONDS):
            self._replace_late_leader()
        self._leader = threading.get_ident()
        self._stop_listening()
        while self._busy and time.monotonic() < self._shutdown_deadline:
            self._turn(timeout=max(0.0, self._shutdown_deadline - time.monotonic()))
        self._close()
        if self._failure:
            raise self._failure

    def shutdown(self, grace_seconds: float) -> None:
        """Make `serve_forever` accept nothing more, finish what is running (so many seconds at most) and return.

        Returns at once; may be called from a signal handler and from any thread.
        """
        self._shutdown_deadline = time.monotonic() + grace_seconds
        self._wake()
        self._begun.put(None)

    # The change of leaders

    def _watch_leader(self) -> None:
        if not self._serving:
            try:
                self._begun.get(
                    timeout=1.0
                )  # a second: so late may a signal's handler run on Windows
            except queue.Empty:
                return
        time.sleep(LATE_SECONDS)
        self._replace_late_leader()

    def _replace_late_leader(self) -> None:
        connection = self._serving
        if connection and time.monotonic() - self._serving_since > LATE_SECONDS:
            self._give_up_lead(connection)

    def _give_up_lead(self, connection: Connection) -> None:
        """Let another thread lead, when it is the leader that serves this connection."""
        with self._lock:
            if self._serving is not connection:
                return
            try:
                if (
                    not self._followers.acquire(blocking=False) and self._shutdown_deadline is None
                ):  # else serve_forever leads
                    self._start_worker()
            except (
                RuntimeError
            ) as error:  # the system has no more threads: the others wait for the leader
                logger.error("%s; %d are running", error, threading.active_count())
                self._serving_since = time.monotonic() + 1.0  # then it is tried again
                return
            self._serving = None
            self._leader = 0
            self._lead.release()

    def _start_worker(self) -> None:
        threading.Thread(target=self._work, name="nuitkal-worker", daemon=True).start()

    def _work(self) -> None:
        while self._shutdown_deadline is None:
            self._lead.acquire()
            self._leader = threading.get_ident()
            try:
                while self._is_leader() and self._shutdown_deadline is None:
                    self._turn(timeout=1.0)
            except Exception as error:
                self._failure = error
                self.shutdown(grace_seconds=0)
        if self._is_leader():
            self._lead.release()

    def _is_leader(self) -> bool:
        return self._leader == threading.get_ident()

    # The leader

    def _turn(self, timeout: float) -> None:
        """Wait until something happens, and see to it; what comes after the loss of the lead is left to the next leader.

        All of it comes before the next select: that finds new connections first, again and again.
        """
        if not self._events:
            self._events.extend(
                key.data for key, _ in self._selector.select(0 if self._returned else timeout)
            )
            self._events.extend(
                partial(self._resume_keep_alive, self._returned.popleft())
                for _ in range(len(self._returned))
            )
            self._events.append(self._close_timed_out)
        while self._events:
            self._events.popleft()()
            if not self._is_leader():
                return

    def _close_timed_out(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + 1.0
        for connection in [waiting for waiting in self._waiting if waiting.deadline < now]:
            self._forget(connection)
        self._accept_again()

    def _resume_keep_alive(self, connection: Connection) -> None:
        self._busy.discard(connection)
        self._accept_again()
        if connection.is_open and self._shutdown_deadline is None:
            self._watch(connection)
        else:
            connection.close()

    def _accept(self) -> None:
        if not self._is_accepting:  # any more
            return
        if len(self._waiting) + len(self._busy) >= MAX_CONNECTIONS and not self._make_room():
            return
        try:
            sock, address = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone already
            return
        except OSError:  # no more descriptors
            self._make_room()
            return
        self._add_client(sock, address[0])

    def _make_room(self) -> bool:
        """Close the connection that waits longest; when none waits, let new ones queue until one of ours comes back."""
        for connection in self._waiting:
            self._forget(connection)
            return True
        self._selector.unregister(self._listener)
        self._is_accepting = False
        return False

    def _add_client(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            return
        connection = Connection(sock, peer, self._tls is not None, self._give_up_lead)
        if connection.needs_handshake:
            self._answer(connection)
        else:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        connection.wait_for_request()
        self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        is_there = connection.fill()
        if connection.has_head():
            self._unwatch(connection)
            self._answer(connection)
        elif not is_there:
            self._forget(connection)
        elif connection not in self._waiting:
            self._waiting[connection] = None
            self._selector.register(
                connection.sock, selectors.EVENT_READ, partial(self._receive, connection)
            )

    def _unwatch(self, connection: Connection) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            self._selector.unregister(connection.sock)

    def _forget(self, connection: Connection) -> None:
        self._unwatch(connection)
        connection.close()

    def _accept_again(self) -> None:
        if not self._is_accepting and self._shutdown_deadline is None:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            self._is_accepting = True

    def _stop_listening(self) -> None:
        if self._is_accepting:
            self._selector.unregister(self._listener)
            self._is_accepting = False
        self._listener.close()
        for connection in list(self._waiting):
            self._forget(connection)

    def _close(self) -> None:
        for connection in self._busy:
            try:  # the plain socket's method: it wakes the worker, which then closes the connection
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
            except OSError:
                pass
        self._lead.release()  # one after the other the workers take it, and end
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _wake(self) -> None:
        try:
            self._wake_sender.send(b"\0")
        except OSError:  # full: it will wake anyway; broken: it has stopped
            pass

    # A request

    def _answer(self, connection: Connection) -> None:
        """Serve a connection; afterwards this may be the leader no more."""
        self._busy.add(connection)
        with self._lock:
            self._serving, self._serving_since = connection, time.monotonic()
        if self._begun.empty():
            self._begun.put(None)
        try:
            if connection.needs_handshake:
                connection.shake_hands()
            else:
                self._gateway.serve(connection, keep_alive=self._shutdown_deadline is None)
        except ClientGone as error:
            logger.debug("%s", error)
            connection.close()
        except BaseException:  # also SystemExit: it is the app's, not the server's
            logger.exception("serving %s failed", connection.peer)
            connection.close()
        if self._shutdown_deadline is not None:
            connection.close()  # perhaps nobody takes it back any more
        with self._lock:
            still_leads = self._is_leader()
            if still_leads:
                self._serving = None
            else:
                self._followers.release()
        self._returned.append(connection)
        if not still_leads:
            self._wake()


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # `::` means every address, IPv4 too.
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (str(address[0]), port), family=family, backlog=BACKLOG, dualstack_ipv6=both
    )
