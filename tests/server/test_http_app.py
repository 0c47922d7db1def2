"""The HTTP server with the real application: who may take long, and that no header makes a 500."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from nuitkal_mini.server import auth
from nuitkal_mini.server.api import Settings
from nuitkal_mini.server.application import Application
from nuitkal_mini.server.http import connection as connection_module
from nuitkal_mini.server.http.server import HttpServer, listen

from .caller import make_form, make_zip

UPLOAD = b"/api/nuitkal_pack/upload/"


@contextmanager
def running(folder: Path) -> Iterator[Tuple[Application, int]]:
    app = Application(folder / "data", Settings())
    server = HttpServer(app, listen("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield app, server.port
    finally:
        server.shutdown(grace_seconds=5)
        thread.join(timeout=10)
        app.close()
        assert not thread.is_alive()


def exchange(port: int, pieces: List[bytes], pause: float = 0.0) -> bytes:
    """All that comes back for what is sent, piece by piece."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for piece in pieces:
            try:
                sock.sendall(piece)
            except OSError:  # refused already
                break
            time.sleep(pause)
        answer = b""
        try:
            while True:
                piece = sock.recv(65536)
                if not piece:
                    break
                answer += piece
        except ConnectionResetError:
            pass
        return answer


def post(path: bytes, body: bytes, *headers: bytes, is_chunked: bool = False) -> bytes:
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
    lines = [b"POST %s HTTP/1.1" % path, b"Host: x", b"Connection: close", length, *headers]
    return b"\r\n".join([*lines, b"", b""])


def cut(body: bytes, count: int) -> List[bytes]:
    size = len(body) // count + 1
    return [body[start : start + size] for start in range(0, len(body), size)]


FORM = make_form({"version": "1.0", "file": make_zip({"a": os.urandom(60_000)})})


def form_headers(token: str) -> Tuple[bytes, bytes]:
    kind = FORM.split(b"\r\n", 1)[0][2:]
    return (
        b"Content-Type: multipart/form-data; boundary=" + kind,
        b"Authorization: Bearer " + token.encode(),
    )


def test_a_body_of_a_token_holder_may_take_long_and_another_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BODY_SECONDS", 0.5)
    with running(tmp_path) as (app, port):
        token = auth.create_token(app.store.database, "t", "test")
        head = post(UPLOAD, FORM, *form_headers(token))
        assert exchange(port, [head, *cut(FORM, 10)], 0.1).startswith(b"HTTP/1.1 201 ")
        body = b"username=a&password=" + b"x" * 40_000
        kind = b"Content-Type: application/x-www-form-urlencoded"
        began = time.monotonic()
        answer = exchange(port, [post(b"/admin/login/", body, kind), *cut(body, 20)], 0.1)
        assert answer.startswith(b"HTTP/1.1 4") and time.monotonic() - began < 5


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_an_upload_may_come_in_chunks(tmp_path: Path, pieces: int) -> None:
    with running(tmp_path) as (app, port):
        headers = form_headers(auth.create_token(app.store.database, "t", "test"))
        head = post(UPLOAD, b"", *headers, is_chunked=True)
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in cut(FORM, pieces))
        answer = exchange(port, [head + chunks + b"0\r\n\r\n"])
        assert answer.startswith(b"HTTP/1.1 201 ")
        cut_off = exchange(port, [head + chunks + b"zz\r\n"])
        assert cut_off.startswith(b"HTTP/1.1 400 ")


def test_json_may_come_in_chunks(tmp_path: Path) -> None:
    with running(tmp_path) as (app, port):
        token = auth.create_token(app.store.database, "t", "test")
        body = b'{"hashes": [%s]}' % b", ".join([b'"%064x"' % number for number in range(1000)])
        path = b"/api/nuitkal_pack/missing/"
        for sent in (body, b'{"hashes": []}'):
            head = post(path, b"", b"Authorization: Bearer " + token.encode(), is_chunked=True)
            chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in cut(sent, 3))
            answer = exchange(port, [head + chunked + b"0\r\n\r\n"])
            assert answer.startswith(b"HTTP/1.1 200 ") and b"missing" in answer


HEADERS = (
    "Accept Accept-Encoding Accept-Language Authorization Connection Content-Type Cookie Expect"
    " Host If-Match If-Modified-Since If-None-Match If-Range If-Unmodified-Since Origin Range"
    " Referer Sec-Fetch-Site Transfer-Encoding X-Forwarded-For X-Forwarded-Proto X"
).split()
VALUES = [
    "", " ", "http://[", "http://]", "http://[::1", "http://a:b", "[", "%", "\xff\xfe", "\xe9", "*", "bytes=-", "bytes=0-",  # noqa: E501
    "bytes=99999999999999999999-", "q=", ";;;", '"', "a=b; c", "a" * 3000, ", " * 500, "Mon, 99 Foo 99999 99:99:99 GMT",  # noqa: E501
    "Bearer \xff", "Bearer " + "x" * 2000, "Basic =", "multipart/form-data", "multipart/form-data; boundary=\xff",  # noqa: E501
    "application/x-www-form-urlencoded", "http://\u2100".encode("utf-8").decode("latin-1"), "fe80::1%eth0", "::ffff:1.2.3.4",  # noqa: E501
]  # fmt: skip
PATHS = [
    "/", "/admin/", "/admin/login/", "/admin/upload/", "/api/nuitkal_pack/check/", "/api/nuitkal_pack/versions/",  # noqa: E501
    "/api/nuitkal_pack/upload/", "/api/nuitkal_pack/missing/", "/media/nuitkal_packs/x.zip", "/%ff", "/api/nuitkal_pack/health/",  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS", "X"]
)
def test_no_header_makes_a_500(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(method)
    with running(tmp_path) as (_, port):
        for name in HEADERS:
            for value in VALUES:
                host = "" if name == "Host" else "Host: x\r\n"
                head = (
                    f"{method} {rng.choice(PATHS)} HTTP/1.1\r\n{host}{name}: {value}\r\nConnection:"
                    " close\r\n\r\n"
                )
                with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
                    sock.sendall(head.encode("latin-1"))
                    sock.shutdown(socket.SHUT_WR)
                    answer = sock.recv(65536)
                assert answer[:9] == b"HTTP/1.1 " and answer[9:10] != b"5", (head, answer[:300])
    assert "Traceback" not in caplog.text
