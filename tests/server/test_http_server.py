"""The HTTP server over real sockets, with clients that are slow, hasty, silent or gone."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, cast
from wsgiref.util import FileWrapper

import pytest

from nuitkal_mini.server.http import connection as connection_module
from nuitkal_mini.server.http import server as server_module
from nuitkal_mini.server.http.server import HttpServer, listen

StartResponse = Callable[..., Any]
GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Reply(NamedTuple):
    status: int
    headers: Dict[str, str]
    body: bytes


class Client:
    """One connection, written to and read from by hand."""

    def __init__(self, server: HttpServer, context: Optional[ssl.SSLContext] = None) -> None:
        self.sock = socket.create_connection(("localhost", server.port), timeout=10)
        if context:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self._stream = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()
        self.sock.close()

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def reply(self, is_head: bool = False) -> Reply:
        status_line = self._stream.readline()
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        headers: Dict[str, str] = {}
        for line in iter(self._stream.readline, b"\r\n"):
            name, _, value = line.decode("latin-1").partition(": ")
            assert name not in headers
            headers[name] = value[:-2]
        status = int(status_line[9:12])
        length = int(headers["Content-Length"]) if "Content-Length" in headers else -1
        has_body = not is_head and status not in (100, 204, 304)
        return Reply(status, headers, self._stream.read(length) if has_body else b"")

    def get(self, path: str, *headers: str) -> Reply:
        self.send("\r\n".join(["GET %s HTTP/1.1" % path, "Host: x", *headers, "", ""]).encode())
        return self.reply()

    def is_closed(self) -> bool:
        """Whether the server has closed the connection, and sent nothing more."""
        return self._stream.read(1) == b""


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[HttpServer]:
    server = HttpServer(app, listen(options.pop("host", "127.0.0.1"), 0), **options)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown(grace_seconds=5)
        thread.join(timeout=10)
        assert not thread.is_alive(), "the server did not stop"


def echo(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Says what it was asked."""
    path = environ["PATH_INFO"]
    if path == "/fails":
        raise RuntimeError("a bug in the app")
    if path == "/empty":
        start_response("204 No Content", [("Content-Length", "0")])
        return []
    if path == "/known":
        start_response("304 Not Modified", [("ETag", '"x"')])
        return [b"never sent"]
    if path == "/unread":
        start_response("200 OK", [])
        return [b"unread"]
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json")])
    told = (
        "REQUEST_METHOD",
        "PATH_INFO",
        "QUERY_STRING",
        "REMOTE_ADDR",
        "wsgi.url_scheme",
        "HTTP_HOST",
        "SERVER_PORT",
    )
    return [
        json.dumps({**{name: environ.get(name) for name in told}, "body": body.decode()}).encode()
    ]


@pytest.fixture(name="server", scope="module")
def an_echoing_server() -> Iterator[HttpServer]:
    with serving(echo) as server:
        yield server


def test_a_connection_is_used_again_and_again(server: HttpServer) -> None:
    with Client(server) as client:
        for i in range(5):
            reply = client.get("/p%%20q?x=%d" % i)
            told = json.loads(reply.body)
            assert (reply.status, told["PATH_INFO"], told["QUERY_STRING"]) == (
                200,
                "/p q",
                "x=%d" % i,
            )
            assert "Connection" not in reply.headers and reply.headers["Date"].endswith(" GMT")
            assert told["REMOTE_ADDR"] == "127.0.0.1" and told["SERVER_PORT"] == str(server.port)


def test_pipelined_requests_are_answered_in_order(server: HttpServer) -> None:
    with Client(server) as client:
        client.send(
            b"".join(POST % (b"/%d" % i, 3) + b"abc" for i in range(20)) + b"\r\n" + GET % b"/last"
        )
        assert [json.loads(client.reply().body)["PATH_INFO"] for _ in range(21)] == [
            "/%d" % i for i in range(20)
        ] + ["/last"]


def test_a_request_may_come_byte_by_byte(server: HttpServer) -> None:
    with Client(server) as client:
        for byte in b"\r\n" + POST % (b"/slow", 4) + b"body":
            client.send(bytes([byte]))
        assert json.loads(client.reply().body)["body"] == "body"


def test_head_has_the_headers_and_no_body(server: HttpServer) -> None:
    with Client(server) as client:
        for _ in range(2):
            client.send(b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = client.reply(is_head=True)
            assert reply.status == 200 and reply.body == b""
        assert client.get("/x").status == 200


@pytest.mark.parametrize("path, status", [("/empty", 204), ("/known", 304)])
def test_a_status_without_body_has_none(server: HttpServer, path: str, status: int) -> None:
    with Client(server) as client:
        for _ in range(2):
            reply = client.get(path)
            assert reply.status == status and "Content-Length" not in reply.headers


def test_a_large_body_arrives_and_the_next_request_too(server: HttpServer) -> None:
    body = b"0123456789" * 300_000
    with Client(server) as client:
        client.send(POST % (b"/x", len(body)) + body + GET % b"/next")
        assert json.loads(client.reply().body)["body"] == body.decode()
        assert json.loads(client.reply().body)["PATH_INFO"] == "/next"


def test_a_small_unread_body_is_drained_and_the_connection_goes_on(server: HttpServer) -> None:
    with Client(server) as client:
        client.send(POST % (b"/unread", 1000) + b"x" * 1000 + GET % b"/next")
        assert (
            client.reply().body == b"unread"
            and json.loads(client.reply().body)["PATH_INFO"] == "/next"
        )


def test_a_large_unread_body_costs_the_connection_but_the_answer_arrives(
    server: HttpServer,
) -> None:
    size = 20_000_000
    with Client(server) as client:
        client.send(POST % (b"/unread", size))
        client.send(b"x" * size)  # blind, as http.client does it
        reply = client.reply()
        assert reply.body == b"unread" and reply.headers["Connection"] == "close"
        assert client.is_closed()


def test_the_body_is_asked_for_when_the_client_waits(server: HttpServer) -> None:
    request = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    with Client(server) as client:
        client.send(request)
        assert client.reply().status == 100
        client.send(b"body")
        assert json.loads(client.reply().body)["body"] == "body"
    with Client(server) as client:
        client.send(request.replace(b"/x", b"/unread"))
        reply = client.reply()
        assert reply.status == 200 and reply.headers["Connection"] == "close"
        assert client.is_closed()


def test_http_1_0_closes_unless_asked_not_to(server: HttpServer) -> None:
    with Client(server) as client:
        client.send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.reply().headers["Connection"] == "keep-alive"
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        assert client.reply().headers["Connection"] == "close" and client.is_closed()


@pytest.mark.parametrize(
    "head, status, code",
    [
        (b"nonsense", 400, "bad_request"),
        (b"GET / HTTP/1.1", 400, "bad_request"),
        (b"GET / HTTP/3.0\r\nHost: x", 505, "http_version_not_supported"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked",
            501,
            "not_implemented",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4",
            400,
            "bad_request",
        ),
        (b"GET /" + b"x" * 100_000, 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000, 431, "header_too_large"),
    ],
    ids=["nonsense", "no host", "version", "coding", "two lengths", "long line", "long header"],
)
def test_a_bad_request_is_refused_as_the_api_refuses(
    server: HttpServer, head: bytes, status: int, code: str
) -> None:
    for language, letter in ((b"en", "[a-z]"), (b"zh-CN,zh;q=0.9", "[\u4e00-\u9fff]")):
        with Client(server) as client:
            client.send(
                head.replace(b"Host: x", b"Host: x\r\nAccept-Language: " + language)
                + b"\r\nAccept-Language: "
                + language
                + b"\r\n\r\n"
            )
            reply = client.reply()
            told = json.loads(reply.body)
            assert (reply.status, told["code"]) == (status, code) and sorted(told) == [
                "code",
                "error",
            ]
            assert status in (414, 431) or re.search(letter, told["error"])
            assert client.is_closed()


def test_a_bug_in_the_app_is_a_500_with_its_traceback_in_the_log(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(server) as client:
        reply = client.get("/fails", "Accept-Language: en")
        assert reply.status == 500 and json.loads(reply.body)["code"] == "internal_error"
        assert "a bug" not in reply.body.decode()
    assert "RuntimeError: a bug in the app" in caplog.text
    with Client(server) as client:
        assert client.get("/x").status == 200


def breaks_off(environ: Dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "10")])
    yield b"begin"
    if environ["PATH_INFO"] == "/raises":
        raise RuntimeError("half way")


@pytest.mark.parametrize(
    "path, logged", [("/raises", "half way"), ("/ends", "announced 10 bytes and gave 5")]
)
def test_a_response_that_breaks_off_is_seen_as_such(
    caplog: pytest.LogCaptureFixture, path: str, logged: str
) -> None:
    with serving(breaks_off) as server, Client(server) as client:
        reply = client.get(path)
        assert reply.body == b"begin" and client.is_closed()
    assert logged in caplog.text


class Closing:
    """An iterable with a `close`, as PEP 3333 allows."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.is_closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        self.is_closed.set()


def test_a_result_of_unknown_length_ends_with_the_connection_and_is_closed() -> None:
    results: List[Closing] = []

    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"first, ")
        results.append(Closing([b"", b"second, ", b"third"]))
        return results[-1]

    with serving(app) as server, Client(server) as client:
        reply = client.get("/")
        assert reply.body == b"first, second, third" and reply.headers["Connection"] == "close"
        assert results[0].is_closed.wait(5)


@pytest.mark.parametrize(
    "status, headers, logged",
    [
        ("200 OK", [("Location", "/\r\nSet-Cookie: x")], "line break"),
        ("200 OK", [("X", "a\nb")], "line break"),
        ("200 OK\r\nX: y", [], "line break"),
        ("200 OK", [("Content-Length", "2")], "more than the 2 bytes"),
    ],
)
def test_a_response_that_would_desynchronise_the_connection_is_not_sent(
    status: str, headers: List[Tuple[str, str]], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, headers)
        return [b"body"]

    with serving(app) as server, Client(server) as client:
        assert client.get("/").status == 500
    assert logged in caplog.text


def test_start_response_may_change_its_mind_only_before_the_head_is_out() -> None:
    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Length", "7")])
        if environ["PATH_INFO"] == "/late":
            write(b"begin")
        try:
            raise RuntimeError("expected")
        except RuntimeError as error:
            start_response("418 Teapot", [], (type(error), error, error.__traceback__))
        return [b"no more"]

    with serving(app) as server:
        with Client(server) as client:
            assert client.get("/early")[::2] == (418, b"no more")
        with Client(server) as client:
            assert client.get("/late").body == b"begin" and client.is_closed()


@pytest.fixture(name="file")
def a_file_of_some_megabytes(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 20_000)
    return path


def of_file(file: Path, start: int, length: int, streams: List[Any]) -> Any:
    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        stream = open(file, "rb")
        streams.append(stream)
        stream.seek(start)
        start_response("200 OK", [("Content-Length", str(length))])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](stream, 8192)
        assert isinstance(wrapped, FileWrapper)
        return wrapped

    return app


@pytest.mark.parametrize(
    "start, length",
    [
        (0, 5_120_000),
        (1_000_000, 4_120_000),
        (5_119_000, 1000),
        (0, connection_module.BLOCK_BYTES + 1),
        (0, 10_000),  # too few for sendfile
        (0, 0),
    ],
)
def test_a_wrapped_file_is_sent_from_where_it_stands_and_closed(
    file: Path, start: int, length: int
) -> None:
    streams: List[Any] = []
    with serving(of_file(file, start, length, streams)) as server, Client(server) as client:
        for _ in range(2):
            assert client.get("/").body == file.read_bytes()[start : start + length]
        client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.reply(is_head=True).headers["Content-Length"] == str(length)
    assert [stream.closed for stream in streams] == [True] * 3


def test_a_file_that_shrank_is_a_response_that_broke_off(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(of_file(file, 0, 6_000_000, [])) as server, Client(server) as client:
        assert len(client.get("/").body) == 5_120_000 and client.is_closed()
    assert "announced 6000000 bytes and gave 5120000" in caplog.text


def test_many_idle_and_slow_clients_keep_nobody_waiting(server: HttpServer) -> None:
    before = threading.active_count()
    with Many(server, 60) as idle, Many(server, 60) as slow:
        for client in slow.clients:
            client.send(b"GET /x HTTP/1.1\r\nHost")
        with Client(server) as client:
            for _ in range(20):
                assert client.get("/x").status == 200
        assert threading.active_count() < before + 10
        assert [client.get("/idle").status for client in idle.clients] == [200] * 60


class Many:
    """Many connections at once."""

    def __init__(self, server: HttpServer, count: int) -> None:
        self.clients = [Client(server) for _ in range(count)]

    def __enter__(self) -> Many:
        return self

    def __exit__(self, *exc: object) -> None:
        for client in self.clients:
            client.__exit__()


def test_slow_downloads_keep_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "SPARE_SECONDS", 0.2)
    file, size = tmp_path / "large", 30_000_000  # more than the system takes off our hands
    file.touch()
    os.truncate(str(file), size)

    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return (of_file(file, 0, size, []) if environ["PATH_INFO"] == "/file" else echo)(
            environ, start_response
        )

    others = set(threading.enumerate())

    def workers() -> int:
        names = [thread.name for thread in threading.enumerate() if thread not in others]
        return names.count("nuitkal-worker")

    with serving(app) as server, Many(server, 30) as downloads:
        for client in downloads.clients:
            client.send(GET % b"/file")
        assert all(client.sock.recv(1, socket.MSG_PEEK) for client in downloads.clients)
        with Client(server) as client:
            assert client.get("/x").status == 200
        # Without os.sendfile the first blocks may be late; what waits holds no thread.
        deadline = time.monotonic() + 10
        while workers() > 3:
            assert time.monotonic() < deadline, "a slow download holds a thread"
            time.sleep(0.05)
        assert len(downloads.clients[0].reply().body) == size


def test_more_connections_than_allowed_cost_the_one_that_waits_longest() -> None:
    with serving(echo, max_connections=20) as server, Many(server, 18) as crowd:
        for clients in (crowd.clients, crowd.clients[1:]):  # then the first one waits longest
            assert {client.get("/x").status for client in clients} == {200}
        with Many(server, 2), Client(server) as late:
            reply = late.get("/x")
            assert reply.status == 200 and reply.headers["Connection"] == "close"
            assert crowd.clients[0].is_closed()
            assert crowd.clients[2].get("/x").headers["Connection"] == "close"


def test_when_all_are_busy_the_next_one_waits_its_turn() -> None:
    go_on, is_there = threading.Event(), threading.Event()
    app = waits_for(go_on, is_there)
    with serving(app, max_connections=1) as server, Client(server) as first:
        first.send(GET % b"/1")
        assert is_there.wait(5)
        with Client(server) as second:
            second.send(GET % b"/2")
            second.sock.settimeout(0.2)
            with pytest.raises(socket.timeout):
                second.sock.recv(1)
            second.sock.settimeout(10)
            go_on.set()
            assert first.reply().status == 200
            assert second.sock.recv(12) == b"HTTP/1.1 200"


def test_a_request_that_takes_the_app_long_keeps_nobody_waiting() -> None:
    go_on, is_there = threading.Event(), threading.Event()

    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return (waits_for(go_on, is_there) if environ["PATH_INFO"] == "/long" else echo)(
            environ, start_response
        )

    with serving(app) as server, Many(server, 5) as patient, Client(server) as hasty:
        for client in patient.clients:
            is_there.clear()
            client.send(GET % b"/long")
            assert is_there.wait(5)
            assert hasty.get("/x").status == 200
        go_on.set()
        assert {client.reply().body for client in patient.clients} == {b"done"}
        for _ in range(3):
            assert {client.get("/long").body for client in patient.clients} == {b"done"}


def test_new_connections_keep_no_older_one_waiting() -> None:
    stop = threading.Event()

    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [
            b"x" * (2 * connection_module.BLOCK_BYTES if environ["PATH_INFO"] == "/large" else 1)
        ]  # a large one costs the lead

    def come_again_and_again(server: HttpServer) -> None:
        while not stop.is_set():
            with Client(server) as client:
                client.get("/large")

    with serving(app) as server, ThreadPoolExecutor(20) as pool, Client(server) as old:
        try:
            crowd = [pool.submit(come_again_and_again, server) for _ in range(20)]
            assert {old.get("/small").status for _ in range(100)} == {200}
        finally:
            stop.set()
        for member in crowd:
            member.result()


class EmptyLines:
    """A socket whose client sends empty lines for ever."""

    received = 0

    def recv(self, size: int) -> bytes:
        self.received += 1
        assert self.received < 100, "it reads for ever"
        return b"\r\n" * 100


def test_a_client_that_sends_empty_lines_for_ever_keeps_nobody_waiting() -> None:
    connection = connection_module.Connection(
        cast(socket.socket, EmptyLines()), "", False, lambda connection: None
    )
    assert connection.receive() and not connection.has_head()


def test_an_app_that_exits_ends_its_request_only(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/exit":
            sys.exit("an exit in the app")
        return echo(environ, start_response)

    with serving(app) as server, Client(server) as client:
        client.send(GET % b"/exit")
        assert client.is_closed()
        with Client(server) as another:
            assert another.get("/x").status == 200
    assert "an exit in the app" in caplog.text


def test_a_machine_without_threads_serves_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, is_there = threading.Event(), threading.Event()
    with serving(waits_for(go_on, is_there)) as server, Client(server) as first, Client(
        server
    ) as second:
        first.send(GET % b"/1")
        assert is_there.wait(5)
        second.send(GET % b"/2")
        go_on.set()
        assert (first.reply().body, second.reply().body) == (b"done", b"done")
        go_on.clear()
        is_there.clear()
        monkeypatch.setattr(threading.Thread, "start", no_more_threads)
        monkeypatch.setattr(
            server, "_followers", threading.Semaphore(0)
        )  # those that there are are elsewhere
        first.send(GET % b"/3")
        assert is_there.wait(5)
        second.send(GET % b"/4")
        while "can't start new thread" not in caplog.text:
            time.sleep(0.001)
        go_on.set()
        assert (first.reply().body, second.reply().body) == (b"done", b"done")
    assert caplog.text.count("can't start new thread") == 1


def test_a_machine_without_threads_stops_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, is_there = threading.Event(), threading.Event()
    with serving(waits_for(go_on, is_there)) as server, Client(server) as client:
        go_on.set()
        assert client.get("/").body == b"done"
        go_on.clear()
        is_there.clear()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more_threads)
            patch.setattr(server, "_followers", threading.Semaphore(0))
            client.send(GET % b"/")
            assert is_there.wait(5)
            server.shutdown(grace_seconds=0.1)
            assert client.is_closed()
        go_on.set()


def no_more_threads(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_the_leader_fails_of_ends_the_server_and_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = HttpServer(echo, listen("127.0.0.1", 0))
    monkeypatch.setattr(
        server,
        "_accept_again",
        lambda: server._selector.register(server._listener, 1, lambda: 1 / 0),
    )
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(server.serve_forever)
        with Client(server), pytest.raises(ZeroDivisionError):
            end.result(timeout=10)


def waits_for(event: threading.Event, is_there: Optional[threading.Event] = None) -> Any:
    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if is_there:
            is_there.set()
        assert event.wait(10)
        start_response("200 OK", [])
        return [b"done"]

    return app


def test_a_silent_client_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.1)
    with serving(echo) as server, Client(server) as client:
        assert client.is_closed()


@pytest.mark.parametrize(
    "limit, sent",
    [
        ("HEAD_SECONDS", b"GET /"),
        ("HEAD_SECONDS", b"GET / HTTP/1.1\r\nHost"),
        ("BODY_SECONDS", POST % (b"/x", 9) + b"body"),
    ],
)
@pytest.mark.parametrize("before", [b"", GET % b"/"], ids=["alone", "behind a whole one"])
def test_half_a_request_is_a_408(
    monkeypatch: pytest.MonkeyPatch, limit: str, sent: bytes, before: bytes
) -> None:
    monkeypatch.setattr(connection_module, limit, 0.1)
    with serving(echo) as server, Client(server) as client:
        client.send(before + sent)
        if before:
            assert client.reply().status == 200
        reply = client.reply()
        assert (reply.status, json.loads(reply.body)["code"]) == (408, "request_timeout")
        assert reply.headers["Connection"] == "close" and client.is_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /",
        GET % b"/x",
        POST % (b"/x", 100) + b"cut off",
        POST % (b"/unread", 100) + b"cut off",
    ],
)
def test_a_client_that_goes_away_is_no_error(
    server: HttpServer, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for linger in (b"\0" * 8, b"\1\0\0\0\0\0\0\0"):  # a goodbye, and a reset
        with Client(server) as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.send(sent)
    with Client(server) as client:
        assert client.get("/x").status == 200
    assert "Traceback" not in caplog.text and not [
        record for record in caplog.records if record.levelno > logging.INFO
    ]


def test_an_app_that_finds_its_client_gone_is_no_error_either(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    sent = threading.Event()

    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "100000000")])
        try:
            for _ in range(100):
                yield b"x" * 1_000_000
        finally:
            sent.set()

    with serving(app) as server:
        with Client(server) as client:
            client.send(GET % b"/")
            client.sock.recv(1)
        assert sent.wait(10)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_each_request_is_one_line_in_the_log_without_secrets(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="nuitkal_mini.server.access")
    with Client(server) as client:
        client.get(
            "/api/check/?token=SECRET&version=1.0.1&x=SECRET",
            "Authorization: Bearer SECRET",
            "X-Forwarded-For: 203.0.113.9",
        )
        client.send(b"nonsense\r\n\r\n")
        client.reply()
        assert client.is_closed()
    lines = [record.getMessage() for record in caplog.records]
    assert re.match(
        r"203\.0\.113\.9 GET /api/check/\?version=1\.0\.1 200 \d+ bytes \d+\.\d ms\Z", lines[0]
    )
    assert re.match(r"127\.0\.0\.1 - - 400 \d+ bytes ", lines[1])
    assert len(lines) == 2 and "SECRET" not in "".join(lines)


def test_a_trusted_proxy_may_say_who_asks() -> None:
    asked = ("X-Forwarded-For: 203.0.113.9, 10.1.1.1", "X-Forwarded-Proto: https")
    with serving(echo, trusted_proxies=["10.0.0.0/8"]) as server, Client(server) as client:
        told = json.loads(client.get("/", *asked).body)
        assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == ("203.0.113.9", "https")
    with listen("127.0.0.1", 0) as listener:
        with pytest.raises(ValueError, match="proxy.example.org"):
            HttpServer(echo, listener, trusted_proxies=["proxy.example.org"])


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_is_served_and_the_unspecified_address_is_both() -> None:
    for host, reach in (("::1", "::1"), ("::", "127.0.0.1")):
        with serving(echo, host=host) as server:
            with socket.create_connection((reach, server.port), timeout=10) as sock:
                sock.sendall(GET % b"/")
                assert json.loads(sock.recv(65536).split(b"\r\n\r\n")[1])["REMOTE_ADDR"] == reach


def test_shutdown_finishes_what_runs_and_accepts_nothing_more() -> None:
    go_on, is_there = threading.Event(), threading.Event()
    server = HttpServer(waits_for(go_on, is_there), listen("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with Client(server) as idle, Client(server) as busy:
        busy.send(GET % b"/" + GET % b"/pipelined")
        assert is_there.wait(5)
        server.shutdown(grace_seconds=10)
        assert idle.is_closed()
        with pytest.raises(OSError):
            Client(server)
        go_on.set()
        assert busy.reply().body == b"done" and busy.is_closed()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_shutdown_waits_no_longer_than_its_grace() -> None:
    go_on, is_there = threading.Event(), threading.Event()
    server = HttpServer(waits_for(go_on, is_there), listen("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with Client(server) as client:
        client.send(GET % b"/")
        assert is_there.wait(5)
        server.shutdown(grace_seconds=0.1)
        thread.join(timeout=5)
        assert not thread.is_alive() and client.is_closed()
    go_on.set()


CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUC7PwkLWQot6pIIJL8a/3oCtpEWAwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDA5MzUyMFoYDzIxMjYxMDMx
MDkzNTIwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASIMLzdkFT7harE65irImQW8kQQsE7GGfF1L8K8SNYPNgRT4fTa9nvT
UGtxXc25/MtioBTK1PslezmqNfSYF4pro28wbTAdBgNVHQ4EFgQU7wuw95k8Ji5o
aLjiz9rMwAavDegwHwYDVR0jBBgwFoAU7wuw95k8Ji5oaLjiz9rMwAavDegwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhAI9Dn1OyHkcBWbR3jc/voPl5t1TBf5ObPk8tpCYDYSrsAiEA
lKiSzFclTthkP8zQyRyV6kjVHXCLYsXO5BbrGSBnuxg=
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg5c9y0bZKKq9tWxDi
+KaBMSPl6FToeImJXpWiUM1CNGuhRANCAASIMLzdkFT7harE65irImQW8kQQsE7G
GfF1L8K8SNYPNgRT4fTa9nvTUGtxXc25/MtioBTK1PslezmqNfSYF4pr
-----END PRIVATE KEY-----
"""  # for localhost, until the year 2126; its key protects nothing


@pytest.fixture(name="certfile")
def a_certificate(tmp_path: Path) -> Path:
    path = tmp_path / "cert.pem"
    path.write_text(CERTIFICATE)
    return path


def test_tls_serves_small_large_and_many(certfile: Path, file: Path) -> None:
    context = ssl.create_default_context(cafile=str(certfile))

    def app(environ: Dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return (of_file(file, 0, 5_120_000, []) if environ["PATH_INFO"] == "/file" else echo)(
            environ, start_response
        )

    with serving(app, certfile=str(certfile)) as server, Client(server, context) as client:
        assert json.loads(client.get("/x").body)["wsgi.url_scheme"] == "https"
        assert client.get("/file").body == file.read_bytes()
        body = b"0123456789" * 30_000
        client.send(POST % (b"/x", len(body)) + body + GET % b"/1" + GET % b"/2")
        assert json.loads(client.reply().body)["body"] == body.decode()
        assert [json.loads(client.reply().body)["PATH_INFO"] for _ in range(2)] == ["/1", "/2"]


def test_who_fails_the_tls_handshake_is_no_error(
    certfile: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "HEAD_SECONDS", 0.2)
    with serving(echo, certfile=str(certfile)) as server:
        for sent in (b"", GET % b"/", b"\x16\x03\x01"):
            with Client(server) as client:
                client.send(sent)
                with suppress(ConnectionResetError):
                    client.sock.recv(100)
        monkeypatch.undo()  # the good one has time
        with Client(server, ssl.create_default_context(cafile=str(certfile))) as client:
            assert client.get("/x").status == 200
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_shutdown_waits_for_a_small_body_that_is_under_way() -> None:
    with serving(echo) as server, Client(server) as client:
        client.send(POST % (b"/x", 4) + b"bo")
        with Client(server) as other:
            assert other.get("/x").status == 200
        server.shutdown(grace_seconds=5)
        client.send(b"dy")
        assert json.loads(client.reply().body)["body"] == "body" and client.is_closed()
