"""The HTTP/1.1 server that runs a WSGI app: `HttpServer(app, listen(host, port)).serve_forever()`.

Leader and followers (Schmidt et al., Pattern-Oriented Software Architecture 2): the leader watches
all connections in the selector and never waits for one of them; it runs the app itself, so that a
small request costs no change of threads. The lead is taken from it when the app waits for its
client or is late: a follower leads then, a new thread when none is free. Idle and slow clients
hold no thread; a thread is held by an app that computes or reads a large body. Followers that had
nothing to do for SPARE_SECONDS end.
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
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Deque, Optional, Sequence, Set

from ..refused import Refused
from ..responses import App
from .connection import ClientGone, Connection, State
from .connections import Connections, system_limit
from .wsgi import Gateway

logger = logging.getLogger(__name__)

LATE_SECONDS = 0.005  # in the app, then the leader is replaced; Python switches threads as often
SPARE_SECONDS = 10.0  # that a follower waits for the lead before it ends
MAX_READERS = 256  # threads that read large bodies at once; beyond, the slowest client goes
BACKLOG = 1024  # connections that the system completes before we take them
MAX_ACCEPTS = 32  # at once; then the others get their turn
LAST_LINGER_SECONDS = 1.0  # for clients to read the last responses at shutdown


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; `port` 0 takes a free one. OSError when the address cannot be used."""
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # `::` means every address, IPv4 too.
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (str(address[0]), port), family=family, backlog=BACKLOG, dualstack_ipv6=both
    )


def tls_context(certfile: str, keyfile: Optional[str]) -> ssl.SSLContext:
    """Raises OSError (ssl.SSLError too) for files that are no certificate and key."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certfile, keyfile)
    return context


class HttpServer:
    """An HTTP/1.1 server; it answers while `serve_forever` runs, and closes its listener in any
    case.

    `trusted_proxies` are addresses or networks (`10.0.0.0/8`) whose X-Forwarded-For and -Proto are
    believed; loopback is always one. `max_connections` is by default what the system's limits
    allow, 10,000 at most. Raises ValueError for a proxy that is no address, OSError for a
    certificate that cannot be used.
    """

    def __init__(
        self,
        app: App,
        listener: socket.socket,
        certfile: Optional[str] = None,
        keyfile: Optional[str] = None,
        trusted_proxies: Sequence[str] = (),
        max_connections: Optional[int] = None,
        is_multiprocess: bool = False,
    ) -> None:
        try:
            trusted = [ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies]
            self._tls = tls_context(certfile, keyfile) if certfile else None
        except Exception:
            listener.close()
            raise
        self._listener = listener
        host, self.port = listener.getsockname()[:2]
        scheme = "https" if certfile else "http"
        self._gateway = Gateway(app, scheme, (host, self.port), trusted, is_multiprocess)
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        # The leader's alone:
        self._connections = Connections(max_connections or system_limit(), trusted)
        self._running: Set[Connection] = set()  # in the app, with a thread of their own
        self._events: Deque[Callable[[], Any]] = deque()  # what has happened and is not yet handled
        self._is_accepting = False
        self._next_check = 0.0
        # Shared by all threads:
        self._returned: Deque[Connection] = deque()  # whose app has run in another thread
        self._lead = threading.Semaphore(0)  # the thread that acquires it leads
        self._followers = threading.Semaphore(0)  # as many as wait for the lead
        self._begun: queue.SimpleQueue[None] = queue.SimpleQueue()  # tells the watcher of a request
        self._lock = threading.Lock()  # protects the next three, and the selector while they change
        self._leader = 0  # the thread that leads; 0: it has just given up the lead
        self._serving: Optional[Connection] = None  # by the leader, since:
        self._serving_since = 0.0
        self._failure: Optional[Exception] = None
        self._shutdown_deadline: Optional[float] = None
        self._is_closed = False

    # The thread that runs the server: it watches the leader, and leads during shutdown

    def serve_forever(self) -> None:
        """Answer requests until `shutdown`; returns when the last response is out or the grace is
        over.
        """
        for sock in (self._listener, self._wake_receiver, self._wake_sender):
            sock.setblocking(False)
        drain = partial(self._wake_receiver.recv, 4096)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ, drain)
        self._accept_again()
        self._lead.release()
        self._start_worker()
        while self._shutdown_deadline is None:
            self._watch_leader()
        while not self._lead.acquire(timeout=LATE_SECONDS):
            self._replace_late_leader()
        self._leader = threading.get_ident()
        self._finish_running(self._shutdown_deadline)
        self._close()
        if self._failure:
            raise self._failure

    def _watch_leader(self) -> None:
        if not self._serving:
            try:
                # With a timeout: on Windows a signal's handler runs only when the wait ends.
                self._begun.get(timeout=1.0)
            except queue.Empty:
                return
        time.sleep(LATE_SECONDS)
        self._replace_late_leader()

    def _replace_late_leader(self) -> None:
        connection = self._serving
        if connection and time.monotonic() - self._serving_since > LATE_SECONDS:
            self._give_up_lead(connection)

    def _finish_running(self, deadline: float) -> None:
        self._stop_listening()
        while time.monotonic() < deadline:
            unfinished = [c for c in self._connections if c.state is not State.LINGERING]
            if not unfinished and not self._returned:
                break
            self._turn(timeout=max(0.0, min(1.0, deadline - time.monotonic())))
        deadline = min(deadline, time.monotonic() + LAST_LINGER_SECONDS)
        while len(self._connections) and time.monotonic() < deadline:
            self._turn(timeout=max(0.0, deadline - time.monotonic()))

    def _close(self) -> None:
        for connection in self._connections:
            if connection in self._running:
                connection.interrupt()
            else:
                self._forget(connection)
        self._is_closed = True
        self._close_returned()
        self._lead.release()  # one after the other the workers take it, and end
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    # Any thread

    def shutdown(self, grace_seconds: float) -> None:
        """Make `serve_forever` accept nothing more, finish what is running (so many seconds at
        most) and return.

        Returns at once; may be called from a signal handler.
        """
        self._shutdown_deadline = time.monotonic() + grace_seconds
        self._wake()
        self._begun.put(None)

    def _close_returned(self) -> None:
        """Close the connections that come back when nobody leads any more."""
        with suppress(IndexError):
            while True:
                connection = self._returned.popleft()
                self._gateway.finish(connection)
                connection.close()

    def _wake(self) -> None:
        try:
            self._wake_sender.send(b"\0")
        except OSError:  # full: it will wake anyway; broken: it has stopped
            pass

    # The change of leaders: the leader gives up the lead, or the watcher takes it from a late one

    def _give_up_lead(self, connection: Connection) -> None:
        """Let another thread lead, when it is the leader that serves this connection."""
        with self._lock:
            if self._serving is not connection:
                return
            try:
                # During shutdown the thread of serve_forever leads.
                if not self._followers.acquire(blocking=False) and self._shutdown_deadline is None:
                    self._start_worker()
            except RuntimeError as error:  # the system has no more threads: others must wait
                logger.error("%s; %d are running", error, threading.active_count())
                self._serving_since = time.monotonic() + 1.0  # then it is tried again
                return
            self._watch(connection, 0)
            self._running.add(connection)
            self._serving = None
            self._leader = 0
            self._lead.release()

    def _start_worker(self) -> None:
        threading.Thread(target=self._work, name="nuitkal-worker", daemon=True).start()

    # A worker: it waits for the lead, and leads

    def _work(self) -> None:
        while self._shutdown_deadline is None:
            if not self._lead.acquire(timeout=SPARE_SECONDS):
                if self._followers.acquire(blocking=False):
                    return  # nobody counts on this thread any more
                continue
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
        """Wait until something happens, and handle it; after the loss of the lead the next leader
        goes on.

        All of it is handled before the next select, which would find new connections first again
        and again.
        """
        if not self._events:
            timeout = 0 if self._returned else timeout
            self._events.extend(key.data for key, _ in self._selector.select(timeout))
            for _ in range(len(self._returned)):
                self._events.append(partial(self._take_back, self._returned.popleft()))
            self._events.append(self._close_timed_out)
        while self._events:
            self._events.popleft()()
            if not self._is_leader():
                return

    def _take_back(self, connection: Connection) -> None:
        """Go on with a connection whose app has run in another thread."""
        self._running.discard(connection)
        self._accept_again()
        self._decide_next_step(connection)

    def _accept(self) -> None:
        for number in range(MAX_ACCEPTS):
            # The selector has told of one new connection: room is made for that one only.
            if self._connections.is_full and (number or not self._make_room()):
                return
            if not self._is_accepting:
                return
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionError):  # it has gone already
                return
            except OSError as error:  # no more descriptors
                logger.debug("accept: %s", error)
                if self._make_room():
                    continue
                return
            self._add_client(sock, address[0])

    def _make_room(self) -> bool:
        """Close the connections with the least progress; when none can go, accept none until one
        ends.
        """
        victims = self._connections.victims()
        for connection in victims:
            self._evict(connection)
        if not victims:
            self._selector.unregister(self._listener)
            self._is_accepting = False
        return bool(victims)

    def _evict(self, connection: Connection) -> None:
        logger.debug("%s is closed for others", connection.client)
        if connection in self._running:
            connection.interrupt()
        else:
            self._forget(connection)

    def _add_client(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            return
        connection = Connection(sock, peer, self._tls is not None, self._give_up_lead)
        self._connections.add(connection)
        self._enforce_share(connection)
        if connection.is_open:
            self._watch(connection, selectors.EVENT_READ)

    def _enforce_share(self, connection: Connection) -> None:
        victim = self._connections.over_share(connection)
        if victim:
            self._evict(victim)

    def _continue(self, connection: Connection) -> None:
        """Handle an event of a connection: there is something to read, or room to write."""
        state = connection.state
        if state is State.READING:
            self._read_on(connection, connection.receive())
        elif state is State.SENDING:
            self._serve(connection)
        elif state is State.LINGERING:
            if not connection.drop_received():
                self._forget(connection)
        elif state is State.HANDSHAKE:
            self._shake_hands(connection)

    def _shake_hands(self, connection: Connection) -> None:
        try:
            event = connection.shake_hands()
        except (OSError, ValueError) as error:
            logger.debug("%s: the TLS handshake failed: %s", connection.peer, error)
            self._forget(connection)
            return
        if event:
            self._watch(connection, event)
        else:
            self._read_on(connection, connection.receive())

    def _read_on(self, connection: Connection, is_there: bool) -> None:
        """Serve the request that has come whole; else wait for more of it."""
        if connection.head is None and connection.has_head():
            self._gateway.begin(connection)
            if connection.head is not None:
                self._connections.count(connection)
                self._enforce_share(connection)
                if not connection.is_open:
                    return
        try:
            if connection.response is not None and (
                connection.head is None or connection.has_body()
            ):
                self._serve(connection)
                return
        except Refused as refused:
            self._refuse(connection, refused)
            return
        if is_there:
            self._watch(connection, selectors.EVENT_READ)
        elif connection.is_broken or connection.head is None and not connection.received:
            self._forget(connection)
        else:
            self._refuse(connection, Refused("bad_request", "the request was cut off"))

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        self._gateway.refuse(connection, refused)
        self._serve(connection)

    def _serve(self, connection: Connection) -> None:
        """Run the app and hand over the response; afterwards this may be the leader no more."""
        if connection.state is State.READING:
            connection.state = State.RUNNING
            if self._shutdown_deadline is not None or self._connections.is_crowded:
                connection.response.keep_alive = False
            if len(self._running) >= MAX_READERS:
                slowest = self._connections.slowest_reader()
                if slowest:
                    slowest.interrupt()
        with self._lock:
            self._serving, self._serving_since = connection, time.monotonic()
        if self._begun.empty():
            self._begun.put(None)
        try:
            self._gateway.serve(connection)
        except ClientGone as error:
            logger.debug("%s", error)
            connection.is_broken = True
        except BaseException:  # also SystemExit: it is the app's, not the server's
            logger.exception("serving %s failed", connection.peer)
            connection.is_broken = True
        with self._lock:
            still_leads = self._is_leader()
            if still_leads:
                self._serving = None
            else:
                self._followers.release()
        if still_leads:
            self._decide_next_step(connection)
        else:
            self._returned.append(connection)
            self._wake()
            if self._is_closed:
                self._close_returned()

    def _decide_next_step(self, connection: Connection) -> None:
        """Decide what comes after the app has run, or after a part of the response was handed
        over.
        """
        response = connection.response
        if connection.is_broken:
            self._forget(connection)
        elif not response.is_complete:
            if connection.state is State.RUNNING:
                connection.state = State.SENDING
                connection.start_sending()
            self._watch(connection, selectors.EVENT_WRITE)
        else:
            self._gateway.finish(connection)
            if response.keep_alive and self._shutdown_deadline is None:
                self._await_request(connection)
            else:
                self._linger(connection)

    def _await_request(self, connection: Connection) -> None:
        connection.await_request()
        self._connections.count(connection)
        self._watch(connection, selectors.EVENT_READ)
        if connection.received:  # the next request, or a part of it
            self._events.append(partial(self._read_received, connection))
        elif connection.has_hidden_bytes():
            self._events.append(partial(self._continue, connection))

    def _read_received(self, connection: Connection) -> None:
        if connection.state is State.READING:
            self._read_on(connection, True)

    def _linger(self, connection: Connection) -> None:
        if connection.start_lingering() and connection.drop_received():
            self._watch(connection, selectors.EVENT_READ)
        else:
            self._forget(connection)

    def _close_timed_out(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + 1.0
        for connection in self._connections:
            if connection.deadline < now and connection not in self._running:
                self._events.append(partial(self._time_out, connection))
        self._accept_again()

    def _time_out(self, connection: Connection) -> None:
        if connection in self._running or connection.deadline > time.monotonic():
            return  # something has come meanwhile
        if connection.state is State.READING and (connection.head or connection.received):
            refused = Refused("request_timeout", "the request came too slowly")
            self._refuse(connection, refused)
        elif connection.state is not State.SENDING or connection.has_stalled():
            self._forget(connection)

    def _watch(self, connection: Connection, events: int) -> None:
        """Let the selector watch the connection for these events; 0: for none."""
        before, connection.events = connection.events, events
        if before == events:
            return
        if not events:
            self._selector.unregister(connection.sock)
        elif before:
            self._selector.modify(connection.sock, events, partial(self._continue, connection))
        else:
            self._selector.register(connection.sock, events, partial(self._continue, connection))

    def _forget(self, connection: Connection) -> None:
        self._watch(connection, 0)
        self._connections.remove(connection)
        self._gateway.finish(connection)
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
        for connection in self._connections:
            if connection.state in (State.HANDSHAKE, State.READING) and connection.head is None:
                self._forget(connection)
