"""Slow, greedy and half-closed clients: what each of them costs, and that no response is cut."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from typing import Any, Dict, Iterable, List, cast

import pytest

from nuitkal_mini.server.http import connection as connection_module
from nuitkal_mini.server.http import server as server_module
from nuitkal_mini.server.http.connection import Connection, State
from nuitkal_mini.server.http.connections import Connections

from .test_http_server import GET, POST, Client, Many, StartResponse, echo, serving, waits_for

SIZE = 8_000_000  # more than the system takes off our hands
HOST = b"Host: x\r\n"


def large(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """A response of SIZE bytes; for a POST it reads the body first, which may take long."""
    environ["nuitkal.allow_long_body"]()
    if environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"] != "/unread":
        while environ["wsgi.input"].read(1000):
            pass
    start_response("200 OK", [("Content-Length", str(SIZE))])
    return (b"x" * 100_000 for _ in range(SIZE // 100_000))


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent, status",
    [
        pytest.param(b"GET /\r\n", 400, id="HTTP/0.9"),
        pytest.param(
            b"GET / HTTP/1.1\nHost: x", 400, id="a bare line feed behind the request line"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\n", 400, id="a bare line feed behind a header"),
        pytest.param(b"PRI * HTTP/2.0\r\n", 505, id="HTTP/2"),
        pytest.param(b"GET /" + b"x" * 9000, 414, id="a line without end"),
    ],
)
def test_what_can_become_no_request_is_refused_at_once(sent: bytes, status: int) -> None:
    with serving(echo) as server, Client(server) as client:
        client.send(sent)
        assert client.reply().status == status and client.is_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHo",
        POST % (b"/x", 5) + b"ab",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ],
    ids=["a head", "a body", "chunks"],
)
def test_a_request_that_ends_too_early_is_a_400(sent: bytes) -> None:
    with serving(echo) as server, Client(server) as client:
        client.send(sent)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.reply().status == 400 and client.is_closed()


@pytest.mark.parametrize(
    "head, status",
    [(b"HEAD / HTTP/1.1", 400), (b"HEAD / HTTP/3.0", 505), (b"HEAD /" + b"x" * 9000, 414)],
)
def test_a_refusal_of_head_has_no_body(head: bytes, status: int) -> None:
    with serving(echo) as server, Client(server) as client:
        client.send(head + b"\r\n\r\n")
        reply = client.reply(is_head=True)
        assert reply.status == status and int(reply.headers["Content-Length"]) > 0
        assert client.is_closed()


def test_options_of_the_server_and_connect_are_answered() -> None:
    with serving(echo) as server, Client(server) as client:
        client.send(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n" + GET % b"/next")
        reply = client.reply()
        assert reply.status == 200 and reply.body == b"" and "GET" in reply.headers["Allow"]
        assert json.loads(client.reply().body)["PATH_INFO"] == "/next"
        client.send(b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n")
        reply = client.reply()
        assert reply.status == 405 and "GET" in reply.headers["Allow"] and client.is_closed()


def test_chunked_bodies_small_and_large_leave_the_next_request() -> None:
    head = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with serving(echo) as server, Client(server) as client:
        for size in (0, 1, 1000, 100_000):
            body = b"%x\r\n%s\r\n" % (size, b"x" * size) if size else b""
            client.send(head + body + b"0\r\nTrailer: y\r\n\r\n" + GET % b"/next")
            assert len(json.loads(client.reply().body)["body"]) == size
            assert json.loads(client.reply().body)["PATH_INFO"] == "/next"


# --- whole responses --------------------------------------------------------------------------


def test_a_client_that_has_closed_its_side_gets_its_whole_response() -> None:
    with serving(large) as server, Client(server) as client:
        client.send(GET % b"/")
        client.sock.shutdown(socket.SHUT_WR)
        assert len(client.reply().body) == SIZE and client.is_closed()


def test_unread_bytes_do_not_cut_the_response() -> None:
    with serving(large) as server, Client(server) as client:
        client.send(POST % (b"/unread", 10**9) + b"x" * 300_000)
        more = threading.Thread(target=lambda: client.send(b"y" * 3_000_000))
        more.start()
        reply = client.reply()
        assert len(reply.body) == SIZE and reply.headers["Connection"] == "close"
        assert client.is_closed()
        more.join()


# --- slow clients -----------------------------------------------------------------------------


def test_a_client_that_reads_too_slowly_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "WINDOW_SECONDS", 0.3)
    with serving(large) as server, Client(server) as client:
        client.send(GET % b"/")
        time.sleep(2.5)
        received = 0
        with pytest.raises((ConnectionResetError, AssertionError)):
            while True:
                piece = client.sock.recv(100_000)
                assert piece, "closed"
                received += len(piece)
        assert received < SIZE


@pytest.mark.slow
def test_a_client_that_reads_just_fast_enough_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's buffer holds seconds of the response: what counts is what the client takes."""
    monkeypatch.setattr(connection_module, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(connection_module, "BYTES_PER_SECOND", 2000)
    with serving(large) as server, Client(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(GET % b"/")
        received, end = 0, time.monotonic() + 5
        while time.monotonic() < end:
            received += len(client.sock.recv(20_000))
            time.sleep(0.05)
        assert 0 < received < SIZE // 2, "the system held nothing back"
        for _ in range(10):
            assert client.sock.recv(20_000), "it was let go"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_large_body_that_comes_too_slowly_is_let_go(
    monkeypatch: pytest.MonkeyPatch, is_chunked: bool
) -> None:
    monkeypatch.setattr(connection_module, "WINDOW_SECONDS", 0.3)
    head = POST % (b"/x", 10**6)
    if is_chunked:
        head = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"
    with serving(large) as server, Client(server) as client:
        client.send(head + b"x" * 20_000)
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 10:
                client.send(b"x")
                time.sleep(0.05)


def test_threads_that_a_burst_started_end_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SPARE_SECONDS", 0.2)
    go_on = threading.Event()

    def workers() -> int:
        return [thread.name for thread in threading.enumerate()].count("nuitkal-worker")

    before = workers()
    with serving(waits_for(go_on)) as server, Many(server, 20) as burst:
        for client in burst.clients:
            client.send(GET % b"/")
        deadline = time.monotonic() + 10
        while workers() < before + 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert workers() >= before + 20
        go_on.set()
        assert {client.reply().status for client in burst.clients} == {200}
        while workers() > before + 3:
            assert time.monotonic() < deadline + 10, "they have not ended"
            time.sleep(0.05)
        assert {client.get("/").status for client in burst.clients} == {200}


# --- too many ---------------------------------------------------------------------------------


class Full:
    """A listening socket whose `accept` has no descriptor left, a few times."""

    def __init__(self, listener: socket.socket, failures: int) -> None:
        self._listener = listener
        self.failures = failures

    def accept(self) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


def test_a_full_descriptor_table_costs_an_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo) as server, Client(server) as idle, Client(server) as other:
        assert idle.get("/x").status == other.get("/x").status == 200
        assert other.get("/x").status == 200
        full = Full(server._listener, failures=1)
        monkeypatch.setattr(server, "_listener", full)
        with Client(server) as late:
            assert late.get("/x").status == 200
            assert idle.is_closed() and full.failures == 0
            assert other.get("/x").status == 200


def test_one_client_behind_a_proxy_has_no_more_than_its_share() -> None:
    go_on = threading.Event()

    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        return echo(environ, start_response)

    greedy = b"X-Forwarded-For: 203.0.113.9\r\n"
    with serving(app, max_connections=40) as server, Many(server, 14) as crowd:
        for client in crowd.clients:
            client.send(b"POST /x HTTP/1.1\r\n" + HOST + greedy + b"Content-Length: 9\r\n\r\nbody")
        with Client(server) as other:
            reply = other.get("/x", "X-Forwarded-For: 203.0.113.10")
            assert reply.status == 200
        open_ones = 0
        for client in crowd.clients:
            client.sock.settimeout(0.3)
            try:
                open_ones += client.sock.recv(1) != b""
            except socket.timeout:
                open_ones += 1
            except ConnectionResetError:
                pass
        assert open_ones == 10
        go_on.set()


class Silent:
    """A socket of which nobody reads or writes."""

    def fileno(self) -> int:
        return -1


def a_connection(client: str, state: State, age: float, left: float = 0.0) -> Connection:
    connection = Connection(cast(socket.socket, Silent()), client, False, lambda _: None)
    connection.state = state
    connection.since = time.monotonic() - age
    connection.deadline = time.monotonic() + left
    return connection


def test_the_connection_with_the_least_progress_goes_first() -> None:
    connections = Connections(10, [])
    computing = a_connection("192.0.2.1", State.RUNNING, 99)
    fresh = a_connection("192.0.2.2", State.READING, 0.1, 60)
    idle, long_idle = (a_connection("192.0.2.3", State.READING, age, 30) for age in (10, 50))
    for served in (idle, long_idle):
        served.has_been_served = True
    silent = a_connection("192.0.2.4", State.READING, 5, 55)
    half = a_connection("192.0.2.5", State.READING, 5, 3)
    half.received += b"GET"
    uploading = a_connection("192.0.2.6", State.RUNNING, 99, 29)
    dripping = a_connection("192.0.2.7", State.RUNNING, 99, 2)
    uploading.is_waiting = dripping.is_waiting = True
    lingering = a_connection("192.0.2.8", State.LINGERING, 99, 4)
    for connection in (
        computing,
        fresh,
        idle,
        long_idle,
        silent,
        half,
        uploading,
        dripping,
        lingering,
    ):
        connections.add(connection)
    order: List[Connection] = []
    while connections.victims():
        order += connections.victims()
        connections.remove(order[-1])
    assert order == [lingering, dripping, half, silent, long_idle, idle, fresh, uploading]
    assert list(connections) == [computing]


def test_an_ipv6_client_is_its_network_and_a_trusted_proxy_is_nobody() -> None:
    connections = Connections(4, [])
    for client, key in (
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:2", "2001:db8::/64"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("no address", ""),
    ):
        connection = a_connection(client, State.READING, 0)
        connections.add(connection)
        assert connection.counted_as == key
    assert len(connections) == 6
