"""The transport against real servers that break, lie, drip, redirect and never end."""

from __future__ import annotations

import contextlib
import email.utils
import gc
import gzip
import logging
import math
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuitkal_mini.client.errors import DownloadError
from nuitkal_mini.client.http_client import READ_BYTES, HttpClient, is_direct, resolve, retry_after
from nuitkal_mini.client.plan import Range
from nuitkal_mini.client.transport import Document, PartialFile, Transport, content_range

from ..support import ROOT
from .conftest import Exchange

CONTENT = bytes(i * 7 % 251 for i in range(100_000))


def silent(_: int, total: int) -> None:
    pass


@pytest.fixture
def pauses() -> List[float]:
    return []


@pytest.fixture
def connect(pauses: List[float]) -> Callable[..., Transport]:
    def make(url: str, **options: Any) -> Transport:
        options.setdefault("timeout_seconds", 5.0)
        own = {name: options.pop(name) for name in ("retries", "chunk_size") if name in options}
        return Transport(HttpClient(url, **options), sleep=pauses.append, **own)

    return make


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "package.zip"


def refused(call: Callable[[], object], *words: str) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    return caught.value


# --- small documents


def test_a_document_comes_with_its_final_url(serve, connect):
    origin = serve(
        lambda e: (
            e.reply(302, Location="/b%20c/?q=1")
            if e.path == "/a"
            else e.reply(200, b"{}", Content_Type="application/json")
        )
    )
    assert connect(origin.url).read(origin.url + "a", 10) == Document(
        origin.url + "b%20c/?q=1", b"{}", "application/json"
    )


def test_a_document_travels_as_gzip(serve, connect):
    origin = serve(lambda e: e.reply(200, gzip.compress(CONTENT), Content_Encoding="gzip"))
    assert connect(origin.url).read(origin.url, len(CONTENT)).body == CONTENT
    assert origin.asked[0].headers["Accept-Encoding"] == "gzip"


def test_a_document_in_chunks(serve, connect):
    def answer(e):
        e.reply(200, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", length=-1, Transfer_Encoding="chunked")

    origin = serve(answer)
    assert connect(origin.url).read(origin.url, 10).body == b"abcde"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda e: e.reply(200, b"x" * 11), id="announced"),
        pytest.param(lambda e: e.reply(200, b"x" * 11, length=-1), id="not announced"),
    ],
)
def test_a_document_beyond_its_limit_is_refused_at_once(serve, connect, pauses, answer):
    origin = serve(answer)
    refused(lambda: connect(origin.url).read(origin.url, 10), "longer than the 10 bytes")
    assert len(origin.asked) == 1 and not pauses


def test_a_gzip_bomb_is_not_unpacked(serve, connect):
    bomb = gzip.compress(bytes(50_000_000))
    origin = serve(lambda e: e.reply(200, bomb, Content_Encoding="gzip"))
    tracemalloc.start()
    try:
        refused(lambda: connect(origin.url).read(origin.url, 10), "longer than the 10 bytes")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_an_endless_document_is_cut(serve, connect):
    def answer(e):
        e.reply(200, length=-1)
        while True:
            e.wfile.write(b"x" * 8192)

    origin = serve(answer)
    refused(lambda: connect(origin.url).read(origin.url, 1000), "longer")


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda e: e.reply(200, b"{", length=2), id="truncated"),
        pytest.param(
            lambda e: e.reply(200, b"5\r\nab", length=-1, Transfer_Encoding="chunked"),
            id="truncated chunk",
        ),
        pytest.param(
            lambda e: e.reply(200, gzip.compress(b"{}")[:-9], Content_Encoding="gzip"),
            id="truncated gzip",
        ),
        pytest.param(
            lambda e: e.reply(200, gzip.compress(b"{}")[:2] + b"nonsense", Content_Encoding="gzip"),
            id="damaged gzip",
        ),
        pytest.param(lambda e: e.reply(500), id="500"),
        pytest.param(lambda e: e.reply(503), id="503"),
        pytest.param(lambda e: e.reply(408), id="408"),
        pytest.param(lambda e: e.reply(429), id="429"),
        pytest.param(lambda e: None, id="hangs up"),
        pytest.param(lambda e: e.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n"), id="not HTTP"),
        pytest.param(
            lambda e: e.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000),
            id="endless header line",
        ),
        pytest.param(
            lambda e: e.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200),
            id="endless headers",
        ),
        pytest.param(
            lambda e: e.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            id="nonsense chunk",
        ),
    ],
)
def test_what_may_pass_is_tried_again_with_growing_pauses(serve, connect, pauses, broken):
    origin = serve(broken, broken, lambda e: e.reply(200, b"{}"))
    assert connect(origin.url).read(origin.url, 10).body == b"{}"
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0


def test_after_the_last_retry_the_error_says_what_the_server_said(serve, connect, pauses):
    origin = serve(
        lambda e: e.reply(503, '{"error": "磁盘已满\\u0007", "code": "disk_full"}'.encode())
    )
    error = refused(
        lambda: connect(origin.url, retries=2).read(origin.url, 10), "HTTP 503: 磁盘已满"
    )
    assert (error.status, error.code, len(origin.asked), len(pauses)) == (503, "disk_full", 3, 2)
    assert "\x07" not in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 304])
def test_other_refusals_are_final(serve, connect, status):
    origin = serve(
        lambda e: e.reply(status, b'{"error": "no", "code": "c"}' if status != 304 else b"")
    )
    error = refused(lambda: connect(origin.url).read(origin.url, 10), f"HTTP {status}")
    assert error.status == status and len(origin.asked) == 1


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b"[" * 4000, b"x" * 100_000, b'{"error": 1}']
)
def test_an_error_page_of_any_kind_is_no_problem(serve, connect, body):
    origin = serve(lambda e: e.reply(404, body))
    assert str(refused(lambda: connect(origin.url).read(origin.url, 10))).endswith(
        "HTTP 404: is the address right?"
    )


@pytest.mark.parametrize(
    "header, seconds",
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("100000", 60.0),
        ("soon", None),
        ("", None),
        ("9" * 500, 60.0),
        ("9" * 60_000, 60.0),
        ("Sun, " * 10_000, None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sun, 06 Nov 1994 07:00:00 GMT", 0.0),
        ("Fri, 99 Foo 1994", None),
    ],
)
def test_retry_after(header, seconds):
    assert retry_after(header, 784111740.0) == seconds


def test_retry_after_is_waited_for(serve, connect, pauses):
    origin = serve(
        lambda e: e.reply(429, Retry_After="17"),
        lambda e: e.reply(503, Retry_After=email.utils.formatdate(time.time() + 30)),
        lambda e: e.reply(200, b"{}"),
    )
    connect(origin.url).read(origin.url, 10)
    assert pauses[0] == 17 and 27 < pauses[1] <= 31


@pytest.mark.parametrize(
    "line",
    [
        b'Content-Type: multipart/x; a="' + b";" * 60_000,  # 12 s in the standard library's parser
        b"Content-Type: multipart/x; " + b'a="\\";' * 10_000,
        b"Location: " + b"/.." * 20_000,
        b"ETag: " + b" " * 60_000,
    ],
    ids=["semicolons", "quotes", "dots", "spaces"],
)
def test_a_header_line_that_would_take_long_to_parse_is_refused_unparsed(serve, connect, line):
    origin = serve(lambda e: e.wfile.write(b"HTTP/1.1 302 Found\r\n" + line + b"\r\n\r\n"))
    refused(lambda: connect(origin.url, retries=0).read(origin.url, 10), "answers, but not in HTTP")


# --- time


def test_a_refused_connection_fails_at_once_when_asked_to(connect, pauses):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        refused(
            lambda: connect(url).read(url, 10, retry=False),
            url[7:-1],
            "refuses connections",
            "firewall",
        )
    assert not pauses


def test_a_server_that_never_answers_costs_no_more_than_the_deadline(serve, connect):
    gone = threading.Event()
    origin = serve(lambda e: gone.wait(10))
    began = time.monotonic()
    refused(lambda: connect(origin.url).read(origin.url, 10, deadline_seconds=0.3), "not answer")
    assert time.monotonic() - began < 5
    gone.set()


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e300])
def test_a_time_that_no_socket_takes_is_a_very_long_one(serve, connect, seconds):
    origin = serve(lambda e: e.reply(200, b"{}"))
    assert connect(origin.url, timeout_seconds=seconds).read(origin.url, 10).body == b"{}"


def test_a_silent_server_is_a_time_out(serve, connect):
    gone = threading.Event()
    origin = serve(lambda e: gone.wait(10))
    refused(
        lambda: connect(origin.url, timeout_seconds=0.1, retries=1).read(origin.url, 10),
        "does not answer in time",
    )
    assert len(origin.asked) == 2
    gone.set()


def test_a_name_service_that_hangs_costs_no_more_than_the_deadline(connect, monkeypatch):
    gone = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: gone.wait(10) and [])
    began = time.monotonic()
    refused(
        lambda: connect("http://up.example/").read("http://up.example/", 10, deadline_seconds=0.2),
        "up.example did not answer",
    )
    refused(
        lambda: connect("http://up.example/", timeout_seconds=0.05, retries=0).read(
            "http://up.example/", 10
        ),
        "up.example did not answer",
    )
    assert time.monotonic() - began < 5
    gone.set()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Linux drops what does not fit into a full backlog"
)
def test_an_address_that_swallows_packets_leaves_time_for_the_next(serve, connect, monkeypatch):
    origin = serve(lambda e: e.reply(200, b"{}"))
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        both = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (hole.getsockname(), ("127.0.0.1", origin.server_port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        assert (
            connect(origin.url).read(origin.url, 10, deadline_seconds=1, retry=False).body == b"{}"
        )


SLOW = {
    "a silent host": lambda e, gone: gone.wait(20),
    "a 503 with Retry-After": lambda e, gone: e.reply(503, Retry_After="60"),
    "a drip of headers": lambda e, gone: drip(e, b"HTTP/1.1 200 OK\r\nX: ", b"x", gone),
    "a drip of a body": lambda e, gone: drip(
        e, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x", gone
    ),
    "a body that stops": lambda e, gone: drip(
        e, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nx", b"", gone
    ),
    "redirects": lambda e, gone: gone.wait(0.2) or e.reply(302, Location=e.path + "x"),
    "broken connections": lambda e, gone: gone.wait(0.2),
    "an error page that drips": lambda e, gone: drip(
        e, b"HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n", b"x", gone
    ),
}


def drip(e: Exchange, head: bytes, piece: bytes, gone: threading.Event) -> None:
    e.wfile.write(head)
    while not gone.wait(0.05):
        e.wfile.write(piece)


@pytest.mark.parametrize("slow", SLOW)
@pytest.mark.parametrize("kind", ["read", "download", "range"])
def test_nothing_that_a_server_does_outlasts_the_deadline(serve, target, slow, kind):
    gone = threading.Event()
    origin = serve(lambda e: SLOW[slow](e, gone))
    transport = Transport(HttpClient(origin.url), retries=20)
    began = time.monotonic()
    transport.ends = began + 0.5
    calls = {
        "read": lambda: transport.read(origin.url, 10_000),
        "download": lambda: transport.download(origin.url, target, 9999, silent),
        "range": lambda: transport.download_range(origin.url, Range(5, 9), target, 9999, silent),
    }
    refused(calls[kind])
    assert time.monotonic() - began < 1.5
    gone.set()


def test_after_the_deadline_nothing_is_asked(serve, connect):
    origin = serve(lambda e: e.reply(200, b"{}"))
    transport = connect(origin.url)
    transport.ends = time.monotonic() - 1
    refused(lambda: transport.read(origin.url, 10), "no time left")
    assert not origin.asked


def test_retries_end_at_the_deadline(serve, connect, pauses):
    origin = serve(lambda e: e.reply(503, Retry_After="3"))
    refused(lambda: connect(origin.url).read(origin.url, 10, deadline_seconds=2), "503")
    assert len(origin.asked) == 1


def test_an_unknown_name_says_so(connect):
    refused(
        lambda: connect("http://nobody.invalid/", retries=0).read("http://nobody.invalid/", 10),
        "nobody.invalid",
        "cannot be found",
    )


class Hurried:
    """A clock by which every look takes some seconds."""

    def __init__(self, step_seconds: float) -> None:
        self.now, self.step_seconds = 0.0, step_seconds

    def __call__(self) -> float:
        self.now += self.step_seconds
        return self.now


@pytest.mark.parametrize(
    "dripping",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0", id="chunk size"),
        pytest.param(b"HTTP/1.1 404 No\r\nContent-Length: 9000\r\n\r\n", id="error page"),
    ],
)
def test_a_dripping_server_loses(serve, connect, tmp_path, dripping):
    def answer(e):
        e.wfile.write(dripping)
        while True:
            e.wfile.write(b"0")
            time.sleep(0.001)

    origin = serve(answer)
    dripped = connect(origin.url, clock=Hurried(5.0))
    words = ("HTTP 404",) if b"404" in dripping else ("less than 1000 bytes a second",)
    refused(lambda: dripped.read(origin.url, 10_000), *words)
    refused(lambda: dripped.download(origin.url, tmp_path / "a", None, silent), *words)
    assert len(origin.asked) == 2


def test_a_slow_callback_is_not_the_servers_fault(serve, connect, tmp_path):
    clock = Hurried(0.001)
    origin = serve(lambda e: e.reply_file(CONTENT))

    def progress(_: int, total: int) -> None:
        clock.now += 100

    connect(origin.url, clock=clock).download(origin.url, tmp_path / "a", len(CONTENT), progress)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_ctrl_c_passes(serve, connect, tmp_path):
    def progress(_: int, total: int) -> None:
        raise KeyboardInterrupt

    origin = serve(lambda e: e.reply_file(CONTENT))
    with pytest.raises(KeyboardInterrupt):
        connect(origin.url).download(origin.url, tmp_path / "a", len(CONTENT), progress)


# --- where requests go


@pytest.mark.parametrize(
    "base, reference, url",
    [
        ("http://h/api/check/", "/media/a.zip", "http://h/media/a.zip"),
        ("http://h/api/check/", "../a b.zip#x", "http://h/api/a%20b.zip"),
        ("http://h/", "http://g:81/%E4%B8%AD?x=1&y=2", "http://g:81/%E4%B8%AD?x=1&y=2"),
        ("http://h/", "中.zip", "http://h/%E4%B8%AD.zip"),
        ("http://更新.example/", "a", "http://xn--efv01a.example/a"),
        ("http://h/", "//g/a", "http://g/a"),
        ("http://h/", " a\r\nX: y ", "http://h/a%0D%0AX:%20y"),
        ("http://[::1]:8000/x", "y", "http://[::1]:8000/y"),
        ("http://h/", "https://h/", "https://h/"),
        ("https://h/", "a", "https://h/a"),
    ],
)
def test_resolve(base, reference, url):
    assert resolve(base, reference) == url
    assert resolve(url, "") == url


@pytest.mark.parametrize(
    "reference",
    [
        "file:///etc/passwd",
        "ftp://h/a",
        "data:,x",
        "javascript:x",
        "http:///a",
        "http://",
        "http://h:x/",
        "http://h:99999/",
        "http://[::1/",
        "http://user:secret@h/",
        "http://" + "中" * 80 + "/",
        "http://h",
        "HTTP://h/",
    ],
)
def test_an_address_that_leads_elsewhere_is_refused(reference):
    assert "secret" not in str(refused(lambda: resolve("https://h/", reference)))


def test_a_redirect_in_raw_utf8_is_followed(serve, connect):
    installation = "/更新".encode().decode("latin-1")  # http.server writes headers as Latin-1
    origin = serve(
        lambda e: e.reply(302, Location=installation) if e.path == "/" else e.reply(200, b"{}")
    )
    connect(origin.url).read(origin.url, 10)
    assert origin.asked[-1].path == "/%E6%9B%B4%E6%96%B0"


def test_redirects_never_leave_http(serve, connect, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    origin = serve(lambda e: e.reply(302, Location=secret.as_uri()))
    refused(lambda: connect(origin.url).read(origin.url, 10), "not an http")


def test_redirects_come_to_an_end(serve, connect):
    origin = serve(lambda e: e.reply(302, Location=e.path + "x"))
    refused(lambda: connect(origin.url).read(origin.url, 10), "redirects without end")
    assert len(origin.asked) == 11


def test_the_body_of_a_redirect_is_not_read(serve, connect):
    def answer(e):
        if e.path == "/b":
            return e.reply(200, b"ok")
        e.reply(308, length=-1, Location="/b")
        while True:
            e.wfile.write(b"x" * 65536)

    origin = serve(answer)
    assert connect(origin.url).read(origin.url, 10).body == b"ok"


def test_a_redirect_without_a_place_is_an_error(serve, connect):
    origin = serve(lambda e: e.reply(302))
    refused(lambda: connect(origin.url).read(origin.url, 10), "redirects")


def test_headers_go_to_their_origin_only(serve, connect, tmp_path):
    home = serve(
        lambda e: (
            e.reply(302, Location="/again")
            if e.path == "/"
            else e.reply(302, Location=other.url)
            if e.path == "/again"
            else e.reply_file(CONTENT)
        )
    )
    other = serve(
        lambda e: (
            e.reply(302, Location=home.url + "back") if e.path == "/" else e.reply_file(CONTENT)
        )
    )
    asking = connect(home.url, headers={"Authorization": "Bearer s3cret"})
    asking.download(home.url, tmp_path / "a", None, silent)
    asking.download(other.url + "direct", tmp_path / "b", None, silent)
    assert [asked.headers.get("Authorization") for asked in home.asked] == [
        "Bearer s3cret",
        "Bearer s3cret",
        None,
    ]
    assert [asked.headers.get("Authorization") for asked in other.asked] == [None, None]


def test_a_server_is_asked_for_english_unless_the_app_wants_another_language(serve, connect):
    origin = serve(lambda e: e.reply(200, b"{}"))
    for headers in (None, {"Accept-Language": "zh"}):
        connect(origin.url, headers=headers).read(origin.url, 10)
    assert [
        [value for name, value in asked.headers.items() if name.lower() == "accept-language"]
        for asked in origin.asked
    ] == [["en"], ["zh"]]


def test_a_header_that_cannot_be_sent_is_a_sentence(serve, connect):
    origin = serve(lambda e: e.reply(200, b"{}"))
    refused(
        lambda: connect(origin.url, headers={"X": "a\nb"}).read(origin.url, 10),
        "Invalid header value",
    )
    assert not origin.asked


def test_requests_go_through_the_proxy_with_its_password(serve, connect, monkeypatch):
    proxy = serve(lambda e: e.reply(200, b"{}"))
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//user:p%40ss@"))
    assert connect("http://up.example/").read("http://up.example/check/", 10).body == b"{}"
    assert proxy.asked[0].path == "http://up.example/check/"
    assert proxy.asked[0].headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # http.client before 3.11 leaves the proxy's answer to CONNECT open
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_says_so(serve, connect, monkeypatch, scheme):
    proxy = serve(lambda e: e.reply(407, Proxy_Authenticate="Basic"))
    monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
    error = refused(
        lambda: connect(f"{scheme}://up.example/").read(f"{scheme}://up.example/", 10),
        f"as in {scheme}_proxy=http://user:password@",
    )
    assert error.status == 407 and len(proxy.asked) == 1
    del error
    gc.collect()


def test_a_proxy_that_is_away_is_named_without_its_password(connect, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://user:s3cret@127.0.0.1:9")
    error = refused(
        lambda: connect("http://up.example/", retries=0).read("http://up.example/", 10),
        "up.example (through the proxy 127.0.0.1:9)",
    )
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    "host, no_proxy, direct",
    [
        ("a.example", "", False),
        ("a.example", "*", True),
        ("a.example", "b.example, a.example", True),
        ("a.example", "b.example a.example", True),
        ("A.Example.", "a.example", True),
        ("a.example", "A.EXAMPLE.", True),
        ("a.b.example", ".b.example", True),
        ("a.b.example", "b.example", True),
        ("a.b.example", "*.b.example", True),
        ("ab.example", "b.example", False),
        ("b.example", "a.b.example", False),
        ("a.example", "a.example:8443", False),
        ("a.example", "a.example:80", True),
        ("a.example", "*:8080", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.9/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:80", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("110.1.2.3", "10.1.2.3", False),
        ("a.example", "10.0.0.0/8", False),
        ("10.1.2.3", "10.0.0.0/99, /8, ::/x, [, ], :, ., *.", True),
        ("10.1.2.3", "10.0.0.0/99, /8, ::/x, [, ], :, .", False),
        ("::1", "::1", True),
        ("::1", "[::1]", True),
        ("::1", "[::1]:80", True),
        ("::1", "[::1]:81", False),
        ("fd00::5", "fd00::/8", True),
        ("fe80::5", "fd00::/8", False),
        ("10.0.0.1", "fd00::/8", False),
    ],
)
def test_no_proxy(host, no_proxy, direct):
    assert is_direct(host, 80, no_proxy) == direct


@pytest.mark.parametrize("no_proxy, through", [("10.0.0.0/8", 1), ("127.0.0.0/8,x", 0), ("", 1)])
@pytest.mark.parametrize("configured", [True, False])
def test_no_proxy_counts_for_every_proxy(
    serve, connect, monkeypatch, no_proxy, through, configured
):
    origin = serve(lambda e: e.reply(200, b"origin"))
    proxy = serve(lambda e: e.reply(200, b"proxy"))
    monkeypatch.setenv("no_proxy", no_proxy)
    if not configured:
        monkeypatch.setenv("http_proxy", proxy.url)
    transport = connect(origin.url, proxy=proxy.url if configured else None)
    assert transport.read(origin.url, 10).body == (b"proxy" if through else b"origin")
    assert len(proxy.asked) == through


def test_a_configured_proxy_wins_over_the_systems_and_an_empty_one_is_none(
    serve, connect, monkeypatch
):
    origin = serve(lambda e: e.reply(200, b"origin"))
    proxy = serve(lambda e: e.reply(200, b"proxy"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    host = proxy.url.rstrip("/").replace("http://", "")
    for configured in (proxy.url, host, f"http://user:p%40ss@{host}/"):
        assert connect(origin.url, proxy=configured).read(origin.url, 10).body == b"proxy"
    assert proxy.asked[-1].headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"
    assert connect(origin.url, proxy="").read(origin.url, 10).body == b"origin"


def test_all_proxy_serves_where_no_other_is_named(serve, connect, monkeypatch):
    proxy = serve(lambda e: e.reply(200, b"{}"))
    monkeypatch.setenv("all_proxy", proxy.url)
    assert connect("http://up.example/").read("http://up.example/", 10).body == b"{}"
    origin = serve(lambda e: e.reply(200, b"direct"))
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    assert connect(origin.url).read(origin.url, 10).body == b"direct"


def test_a_proxy_that_speaks_no_http_is_named_without_its_password(connect):
    error = refused(
        lambda: connect("http://up.example/", proxy="socks5://u:s3cret@h:1080").read(
            "http://up.example/", 10
        ),
        "the proxy for up.example is socks5://: use an http:// one",
    )
    assert "s3cret" not in str(error)


def test_a_login_page_is_seen_as_html(serve, connect):
    origin = serve(
        lambda e: (
            e.reply(302, Location="/login") if e.path == "/" else e.reply(200, b"  <!doctype html>")
        )
    )
    assert connect(origin.url).read(origin.url, 100).is_html
    assert Document("", b"log in here", "text/html").is_html
    assert not Document("", b'{"a": "<"}', "application/json").is_html
    static_host = "check/index.html"
    assert not Document("", b' {"a": "<"}', "text/html").is_html, static_host
    assert not Document("", b'\xef\xbb\xbf\r\n{"a": "<"}', "text/html").is_html, static_host
    assert Document("", b"\xef\xbb\xbf <html>", "application/json").is_html


# --- TLS


def certificate(folder: Path, name: str = "127.0.0.1", dates: str = "") -> ssl.SSLContext:
    """A server's context with a fresh self-signed certificate, also in folder/cert.pem.

    dates: `start end`.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("01")
    (folder / "ca.cnf").write_text(
        "[req]\ndistinguished_name=dn\n[dn]\n[ca]\ndefault_ca=a\n"
        f"[a]\ndatabase={folder}/index.txt\nserial={folder}/serial\nnew_certs_dir={folder}\n"
        "default_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n"
        f"[x]\nsubjectAltName={'IP' if name[0].isdigit() else 'DNS'}:{name}\n"
        "basicConstraints=critical,CA:TRUE\nkeyUsage=digitalSignature,keyCertSign\n"
        "subjectKeyIdentifier=hash\n"
    )
    start, end = (dates or "20200101000000Z 20491231000000Z").split()

    def run(*words):
        return subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)

    run(
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "key.pem",
        "-out",
        "r.csr",
        "-subj",
        "/CN=test",
        "-config",
        "ca.cnf",
    )
    run(
        "ca",
        "-batch",
        "-selfsign",
        "-notext",
        "-config",
        "ca.cnf",
        "-keyfile",
        "key.pem",
        "-in",
        "r.csr",
        "-out",
        "cert.pem",
        "-startdate",
        start,
        "-enddate",
        end,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(folder / "cert.pem"), str(folder / "key.pem"))
    return context


def test_https_with_a_ca_file(serve, connect, tmp_path):
    origin = serve(lambda e: e.reply(200, b"{}"), context=certificate(tmp_path))
    assert (
        connect(origin.url, ca_file=str(tmp_path / "cert.pem")).read(origin.url, 10).body == b"{}"
    )


def test_verify_ssl_off_works_and_warns(serve, connect, tmp_path, caplog):
    origin = serve(lambda e: e.reply(200, b"{}"), context=certificate(tmp_path, "other.example"))
    with caplog.at_level(logging.WARNING):
        assert connect(origin.url, verify_ssl=False).read(origin.url, 10).body == b"{}"
    assert "verify_ssl is off" in caplog.text


@pytest.mark.parametrize(
    "name, dates, known, word",
    [
        pytest.param(
            "127.0.0.1",
            "20000101000000Z 20010101000000Z",
            True,
            "out of date: check the computer's clock",
            id="expired",
        ),
        pytest.param(
            "127.0.0.1",
            "20480101000000Z 20491231000000Z",
            True,
            "not yet valid: check the computer's clock",
            id="not yet valid",
        ),
        pytest.param("127.0.0.1", "", False, "name its file in `ca_file`", id="unknown CA"),
        pytest.param("other.example", "", True, "does not fit", id="another host"),
    ],
)
def test_a_bad_certificate_says_what_is_likely_wrong(
    serve, connect, pauses, tmp_path, name, dates, known, word
):
    origin = serve(lambda e: e.reply(200, b"{}"), context=certificate(tmp_path, name, dates))
    refused(
        lambda: connect(origin.url, ca_file=str(tmp_path / "cert.pem") if known else None).read(
            origin.url, 10
        ),
        "127.0.0.1",
        word,
    )
    assert not pauses


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the system's store is read")
@pytest.mark.parametrize(
    "names, read",
    [
        pytest.param([], True, id="an empty folder"),
        pytest.param(["ca-bundle.crt", "README", "1.0"], True, id="Fedora's, without hashed files"),
        pytest.param(["5ed36f99.0"], False, id="hashed"),
        pytest.param(None, True, id="none"),
    ],
)
def test_a_system_whose_ca_folder_has_no_hashed_files_finds_its_bundle(
    serve, connect, tmp_path, monkeypatch, names, read
):
    origin = serve(lambda e: e.reply(200, b"{}"), context=certificate(tmp_path))
    folder = tmp_path / "certs"
    if names is not None:
        folder.mkdir()
        for name in names:
            (folder / name).write_text("")
    (tmp_path / "empty.pem").write_text("")
    bundles = [tmp_path / "missing.pem", tmp_path / "empty.pem", tmp_path / "cert.pem"]
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "relocated.pem"))
    monkeypatch.setattr(
        "nuitkal_mini.client.http_client.CA_BUNDLES", [str(bundle) for bundle in bundles]
    )
    if read:
        assert connect(origin.url).read(origin.url, 10).body == b"{}"
    else:
        refused(lambda: connect(origin.url).read(origin.url, 10), "authority")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_is_no_ca_file_is_named(connect, tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    refused(
        lambda: connect("https://127.0.0.1:9/", ca_file=str(file)).read("https://127.0.0.1:9/", 10),
        str(file),
    )


def test_https_to_a_server_without_it(serve, connect):
    origin = serve(lambda e: e.reply(200, b"{}"))
    url = origin.url.replace("http:", "https:")
    refused(lambda: connect(url, retries=0).read(url, 10), "no encrypted connection to 127.0.0.1")


def test_https_is_never_left_by_a_redirect(serve, connect, tmp_path):
    plain = serve(lambda e: e.reply(200, b"{}"))
    origin = serve(lambda e: e.reply(302, Location=plain.url), context=certificate(tmp_path))
    asking = connect(origin.url, ca_file=str(tmp_path / "cert.pem"))
    refused(lambda: asking.read(origin.url, 10), "from https to http")
    refused(lambda: asking.download(plain.url, tmp_path / "a", None, silent), "from https to http")
    assert not plain.asked


# --- whole files


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_file_arrives_and_progress_tells_how_far(serve, connect, target, size):
    origin = serve(lambda e: e.reply_file(CONTENT))
    seen: List[Tuple[int, int]] = []
    connect(origin.url).download(
        origin.url, target, size, lambda have, total: seen.append((have, total))
    )
    assert target.read_bytes() == CONTENT
    assert (
        seen == sorted(seen)
        and seen[-1] == (len(CONTENT), len(CONTENT))
        and len(seen) >= len(CONTENT) // 8192
    )
    assert {total for _, total in seen} == {len(CONTENT)}, (
        "the answer's Content-Length, when nobody else says it"
    )


@pytest.mark.parametrize("chunk_size, calls", [(1000, 100), (0, 100_000), (10**9, 1)])
def test_progress_is_told_as_often_as_chunk_size_says(serve, connect, target, chunk_size, calls):
    origin = serve(lambda e: e.reply_file(CONTENT))
    seen: List[int] = []
    transport = connect(origin.url, chunk_size=chunk_size)
    transport.download(origin.url, target, None, lambda have, _: seen.append(have))
    assert seen == sorted(seen) and calls <= len(seen) <= calls + 20
    assert max(b - a for a, b in zip([0] + seen, seen)) <= max(chunk_size, 1)


def test_a_fast_download_is_read_in_large_pieces(serve, connect, target, monkeypatch):
    content = bytes(10_000_000)
    origin = serve(lambda e: e.reply_file(content))
    sizes: List[int] = []
    write = PartialFile.write
    monkeypatch.setattr(
        PartialFile, "write", lambda self, chunk: (sizes.append(len(chunk)), write(self, chunk))[1]
    )
    connect(origin.url).download(origin.url, target, None, silent)
    assert sum(sizes) == len(content) and max(sizes) > 60_000


def test_an_empty_file(serve, connect, target):
    origin = serve(lambda e: e.reply_file(b""))
    connect(origin.url).download(origin.url, target, 0, silent)
    assert target.read_bytes() == b""


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_download_goes_on_over_any_number_of_broken_connections(serve, connect, target, size):
    origin = serve(lambda e: e.reply_file(CONTENT, cut=10_000))
    connect(origin.url, retries=1).download(origin.url, target, size, silent)
    assert target.read_bytes() == CONTENT
    assert [a.headers.get("Range", "").split("-")[0] for a in origin.asked] == [""] + [
        f"bytes={n}" for n in range(10_000, 100_000, 10_000)
    ]


def test_a_byte_a_connection_is_not_progress(serve, connect, target):
    origin = serve(lambda e: e.reply_file(CONTENT, cut=1))
    refused(lambda: connect(origin.url).download(origin.url, target, len(CONTENT), silent), "broke")
    assert len(origin.asked) == 4


def test_beginning_at_zero_each_time_is_not_progress(serve, connect, target):
    origin = serve(lambda e: e.reply(200, CONTENT[:50_000], length=len(CONTENT)))
    refused(lambda: connect(origin.url).download(origin.url, target, len(CONTENT), silent), "broke")
    assert len(origin.asked) <= 5


def test_nodes_of_a_cdn_with_etags_of_their_own_send_each_byte_once(serve, connect, target):
    etag = iter(range(1000))
    origin = serve(lambda e: e.reply_file(CONTENT, cut=30_000, etag=f'"{next(etag)}"'))
    transport = connect(origin.url)
    assert transport.download(origin.url, target, len(CONTENT), silent) is False
    assert target.read_bytes() == CONTENT and transport.received == len(CONTENT)


def test_another_process_goes_on_where_the_last_one_was_stopped(serve, connect, target):
    origin = serve(
        lambda e: e.reply_file(CONTENT, cut=60_000 if "Range" not in e.headers else None)
    )
    refused(
        lambda: connect(origin.url, retries=0).download(origin.url, target, len(CONTENT), silent)
    )
    assert target.stat().st_size == 60_000
    connect(origin.url).download(origin.url, target, len(CONTENT), silent)
    assert (
        target.read_bytes() == CONTENT and origin.asked[-1].headers["Range"] == "bytes=60000-99999"
    )


def test_another_url_with_the_same_etag_is_another_file(serve, connect, target):
    origin = serve(
        lambda e: (
            e.reply_file(CONTENT, cut=60_000) if e.path == "/a" else e.reply_file(CONTENT[::-1])
        )
    )
    refused(
        lambda: connect(origin.url, retries=0).download(
            origin.url + "a", target, len(CONTENT), silent
        )
    )
    connect(origin.url).download(origin.url + "b", target, len(CONTENT), silent)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_body_without_a_length_that_is_too_short_is_tried_again(serve, connect, target):
    origin = serve(
        lambda e: e.reply(200, CONTENT[:50_000], length=-1), lambda e: e.reply_file(CONTENT)
    )
    connect(origin.url).download(origin.url, target, len(CONTENT), silent)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t, n: n.write_bytes(b"[1"), id="a note that is torn"),
        pytest.param(lambda t, n: n.unlink(), id="no note"),
        pytest.param(lambda t, n: n.write_bytes(b"9" * 5000 + b"\n"), id="a note that is a number"),
        pytest.param(lambda t, n: t.write_bytes(bytes(200_000)), id="a file that is too long"),
        pytest.param(lambda t, n: t.unlink(), id="no file"),
        pytest.param(
            lambda t, n: n.write_bytes(n.read_bytes().replace(b"100000", b"100001")), id="a size"
        ),
    ],
)
def test_what_may_belong_to_another_file_is_not_continued(serve, connect, target, change):
    origin = serve(
        lambda e: e.reply_file(bytes(100_000), cut=60_000),
        lambda e: e.reply_file(CONTENT),
    )
    refused(
        lambda: connect(origin.url, retries=0).download(origin.url, target, len(CONTENT), silent)
    )
    change(target, target.with_name("package.zip.ranges"))
    assert connect(origin.url).download(origin.url, target, len(CONTENT), silent)
    assert target.read_bytes() == CONTENT and "Range" not in origin.asked[1].headers


def test_a_torn_line_at_the_end_of_a_note_costs_its_bytes_only(serve, connect, target):
    origin = serve(lambda e: e.reply_file(CONTENT))
    transport = connect(origin.url)
    transport.download_range(origin.url, Range(90_000, 100_000), target, len(CONTENT), silent)
    with open(target.with_name("package.zip.ranges"), "ab") as note:
        note.write(b"0 5")
    connect(origin.url).download(origin.url, target, len(CONTENT), silent)
    assert target.read_bytes() == CONTENT
    assert origin.asked[1].headers["Range"] == "bytes=0-89999"


def test_a_killed_process_loses_a_megabyte_at_most(serve, connect, target):
    content = CONTENT * 50
    origin = serve(lambda e: e.reply_file(content))
    code = (
        "import os, sys; from pathlib import Path\n"
        "from nuitkal_mini.client.http_client import HttpClient\n"
        "from nuitkal_mini.client.transport import Transport\n"
        "url, target, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])\n"
        "stop = lambda have, _: have > 4_500_000 and os._exit(9)\n"
        "Transport(HttpClient(url)).download(url, target, size, stop)\n"
    )
    words = [sys.executable, "-c", code, origin.url, str(target), str(len(content))]
    assert subprocess.run(words, cwd=str(ROOT)).returncode == 9
    connect(origin.url).download(origin.url, target, len(content), silent)
    start = int(origin.asked[1].headers["Range"][len("bytes=") :].partition("-")[0])
    assert target.read_bytes() == content and 3_450_000 < start <= 4_500_000 + READ_BYTES


def test_a_complete_file_is_not_asked_for_again(serve, connect, target):
    origin = serve(lambda e: e.reply_file(CONTENT))
    for came in (len(CONTENT), 0):
        transport = connect(origin.url)
        transport.download(origin.url, target, len(CONTENT), silent)
        assert (len(origin.asked), transport.received) == (1, came)
    target.unlink()
    connect(origin.url).download(origin.url, target, len(CONTENT), silent)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "answer, size, words",
    [
        pytest.param(
            lambda e: e.reply(200, b"x" * 11),
            10,
            "offers 11 bytes where 10 were announced",
            id="announced longer",
        ),
        pytest.param(
            lambda e: e.reply(200, b"x" * 9), 10, "offers 9 bytes where 10", id="announced shorter"
        ),
        pytest.param(
            lambda e: e.reply(200, b"x" * 11, length=-1), 10, "more than the 10 bytes", id="longer"
        ),
        pytest.param(
            lambda e: e.reply(200, b"x" * 101, length=-1),
            None,
            "more than the 100 bytes",
            id="beyond the limit",
        ),
        pytest.param(
            lambda e: e.reply(200, b"x" * 101),
            None,
            "offers 101 bytes; the limit is 100",
            id="announced beyond the limit",
        ),
        pytest.param(
            lambda e: e.reply(206, b"x" * 10, Content_Range="bytes 0-9/10"),
            10,
            "HTTP 206",
            id="a range that nobody asked for",
        ),
        pytest.param(lambda e: e.reply(404), 10, "HTTP 404", id="not there"),
    ],
)
def test_a_wrong_file_is_refused_at_once(serve, connect, pauses, target, answer, size, words):
    origin = serve(answer)
    refused(
        lambda: connect(origin.url).download(origin.url, target, size, silent, max_bytes=100), words
    )
    assert len(origin.asked) == 1 and not pauses


def test_bytes_behind_the_announced_length_are_not_taken(serve, connect, target):
    origin = serve(lambda e: e.reply(200, b"0123456789excess", length=10))
    connect(origin.url).download(origin.url, target, None, silent)
    assert target.read_bytes() == b"0123456789"


def reply_with(status: int, body: bytes, **headers: str) -> Callable[[Exchange], None]:
    """An answer to requests with Range; without one the whole file comes."""
    return lambda e: (
        e.reply(status, body, **headers) if "Range" in e.headers else e.reply_file(CONTENT)
    )


ODD = [
    pytest.param(reply_with(403, b"no"), id="403"),
    pytest.param(reply_with(400, b""), id="400"),
    pytest.param(reply_with(404, b""), id="404"),
    pytest.param(reply_with(405, b""), id="405"),
    pytest.param(reply_with(416, b"", Content_Range="bytes */100000"), id="416"),
    pytest.param(reply_with(416, b""), id="416 without a size"),
    pytest.param(reply_with(501, b""), id="501"),
    pytest.param(reply_with(204, b""), id="204"),
    pytest.param(reply_with(200, CONTENT[-500:]), id="200 with the range alone"),
    pytest.param(
        reply_with(206, b"x", Content_Type="multipart/byteranges; boundary=x"), id="several"
    ),
] + [
    pytest.param(reply_with(206, b"z" * 500, Content_Range=wrong), id=wrong or "no Content-Range")
    for wrong in (
        "bytes 0-499/100000",
        "bytes 0-99/*",
        "bytes 99600-99999/100000",
        "bytes 99500-99600/100000",
        "bytes 99500-99999/100001",
        "bytes 99500-99999/99",
        "bytes 99999-99500/100000",
        "bytes=99500-99999/100000",
        "octets",
        "",
    )
]


@pytest.mark.parametrize("answer", ODD)
def test_a_range_refused_or_odd_brings_the_whole_file_once(serve, connect, pauses, target, answer):
    origin = serve(answer)
    transport = connect(origin.url, retries=0)
    whole = Range(0, len(CONTENT))
    for wanted in (Range(99_500, 100_000), Range(5, 10)):
        assert transport.download_range(origin.url, wanted, target, 100_000, silent) == whole
    assert target.read_bytes() == CONTENT and not pauses
    assert len(origin.asked) == 2 and transport.received == len(CONTENT)


@pytest.mark.parametrize("answer", ODD)
def test_a_download_goes_on_with_the_whole_file_when_no_range_comes(serve, connect, target, answer):
    origin = serve(lambda e: e.reply_file(CONTENT, cut=99_500), answer)
    connect(origin.url).download(origin.url, target, len(CONTENT), silent)
    assert target.read_bytes() == CONTENT and len(origin.asked) == 3


@pytest.mark.parametrize(
    "fails",
    [
        pytest.param(lambda e: e.reply(500), id="500"),
        pytest.param(lambda e: e.reply(503), id="503"),
        pytest.param(lambda e: None, id="hangs up"),
        pytest.param(
            lambda e: e.reply(206, b"", length=500, Content_Range="bytes 99500-99999/100000"),
            id="an empty range",
        ),
    ],
)
def test_the_last_attempt_for_a_range_is_one_for_the_whole_file(serve, connect, target, fails):
    origin = serve(lambda e: fails(e) if "Range" in e.headers else e.reply_file(CONTENT))
    transport = connect(origin.url)
    transport.download_range(origin.url, Range(99_500, 100_000), target, 100_000, silent)
    assert target.read_bytes() == CONTENT
    assert ["Range" in asked.headers for asked in origin.asked] == [True] * 3 + [False]


def test_a_total_that_the_server_leaves_open_is_no_reason_to_fetch_more(serve, connect, target):
    origin = serve(lambda e: e.reply(206, CONTENT[500:510], Content_Range="bytes 500-509/*"))
    wanted = Range(500, 510)
    transport = connect(origin.url)
    assert transport.download_range(origin.url, wanted, target, 100_000, silent) == wanted
    assert transport.received == 10


def test_a_file_of_unknown_size_that_became_shorter_starts_over(serve, connect, target):
    origin = serve(
        lambda e: e.reply_file(CONTENT, cut=50_000),
        lambda e: e.reply(416, Content_Range="bytes */3"),
        lambda e: e.reply_file(b"new"),
    )
    connect(origin.url).download(origin.url, target, None, silent)
    assert target.read_bytes() == b"new" and len(origin.asked) == 3


@pytest.mark.parametrize(
    "encoding", ["aws-chunked", "identity", "", "IDENTITY", "UTF-8", "binary", "gzip", "none"]
)
def test_a_content_encoding_that_is_none_is_ignored(serve, connect, target, encoding):
    origin = serve(lambda e: e.reply(200, CONTENT, Content_Encoding=encoding))
    connect(origin.url).download(origin.url, target, len(CONTENT), silent)
    assert target.read_bytes() == CONTENT
    assert connect(origin.url).read(origin.url, len(CONTENT)).body == CONTENT


@pytest.mark.parametrize(
    "encoding", ["gzip", "GZIP", "x-gzip", "aws-chunked,gzip", "gzip, identity"]
)
def test_every_spelling_of_gzip_is_unpacked(serve, connect, encoding):
    origin = serve(lambda e: e.reply(200, gzip.compress(b"{}"), Content_Encoding=encoding))
    assert connect(origin.url).read(origin.url, 10).body == b"{}"


def test_a_folder_that_is_away_is_the_disks_error(serve, connect, pauses, tmp_path):
    origin = serve(lambda e: e.reply_file(CONTENT))
    refused(
        lambda: connect(origin.url).download(origin.url, tmp_path / "no" / "a", None, silent),
        str(tmp_path / "no" / "a"),
        "cannot be written",
    )
    assert len(origin.asked) == 1 and not pauses


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_so_and_is_not_tried_again(serve, connect, pauses, target):
    origin = serve(lambda e: e.reply_file(CONTENT))
    target.symlink_to("/dev/full")
    refused(
        lambda: connect(origin.url).download(origin.url, target, None, silent), "the disk is full"
    )
    assert len(origin.asked) == 1 and not pauses and not target.is_symlink(), (
        "what came does not stay in the way"
    )


# --- ranges


@pytest.mark.parametrize("wanted", [Range(0, 1), Range(70_000, 90_000), Range(99_990, 100_000)])
def test_a_range_arrives_at_its_true_offset(serve, connect, target, wanted):
    origin = serve(lambda e: e.reply_file(CONTENT))
    seen: List[Tuple[int, int]] = []
    transport = connect(origin.url)
    assert wanted == transport.download_range(
        origin.url, wanted, target, 100_000, lambda have, total: seen.append((have, total))
    )
    with open(target, "rb") as file:
        file.seek(wanted.start)
        assert file.read() == CONTENT[wanted.start : wanted.end]
    length = wanted.end - wanted.start
    assert seen[-1] == (length, length) and transport.received == length


def test_ranges_that_touch_become_one_and_the_rest_follows(serve, connect, target):
    origin = serve(lambda e: e.reply_file(CONTENT))
    for wanted, around in (
        (Range(90_000, 100_000), Range(90_000, 100_000)),
        (Range(10_000, 20_000), Range(10_000, 20_000)),
        (Range(20_000, 30_000), Range(10_000, 30_000)),
        (Range(15_000, 25_000), Range(10_000, 30_000)),
        (Range(5_000, 40_000), Range(5_000, 40_000)),
    ):
        transport = connect(origin.url)  # each time another process
        assert transport.download_range(origin.url, wanted, target, 100_000, silent) == around
    connect(origin.url).download(origin.url, target, 100_000, silent)
    assert target.read_bytes() == CONTENT
    assert [asked.headers["Range"] for asked in origin.asked] == [
        "bytes=90000-99999",
        "bytes=10000-19999",
        "bytes=20000-29999",
        "bytes=5000-9999",
        "bytes=30000-39999",
        "bytes=0-4999",
        "bytes=40000-89999",
    ]


@pytest.mark.skipif(os.name != "posix", reason="counts blocks as POSIX does")
def test_the_gaps_between_ranges_take_no_room(serve, connect, target):
    size = 100_000_000

    def answer(e: Exchange) -> None:
        start = int(e.headers["Range"][len("bytes=") :].partition("-")[0])
        e.reply(206, bytes(10), Content_Range=f"bytes {start}-{start + 9}/{size}")

    origin = serve(answer)
    for start in (size - 10, 50_000_000):
        connect(origin.url).download_range(
            origin.url, Range(start, start + 10), target, size, silent
        )
    assert target.stat().st_size == size and target.stat().st_blocks * 512 < 1_000_000


def test_a_range_goes_on_over_broken_connections_and_processes(serve, connect, target):
    origin = serve(lambda e: e.reply_file(CONTENT, cut=10_000))
    wanted = Range(55_000, 100_000)
    with pytest.raises(ZeroDivisionError):
        connect(origin.url).download_range(
            origin.url, wanted, target, len(CONTENT), lambda n, _: n > 30_000 and 1 / 0
        )
    transport = connect(origin.url)
    assert transport.download_range(origin.url, wanted, target, 100_000, silent) == wanted
    assert target.read_bytes()[55_000:] == CONTENT[55_000:]
    asked = [a.headers["Range"] for a in origin.asked]
    assert asked[:2] == ["bytes=55000-99999", "bytes=65000-99999"] and len(asked) == 5


def test_a_server_without_ranges_gives_the_whole_file_once(serve, connect, target):
    origin = serve(lambda e: e.reply(200, CONTENT))
    whole = Range(0, 100_000)
    transport = connect(origin.url)
    for wanted in (Range(500, 510), Range(90_000, 100_000)):
        assert transport.download_range(origin.url, wanted, target, 100_000, silent) == whole
    assert target.read_bytes() == CONTENT and len(origin.asked) == 1


def test_bytes_behind_the_asked_range_are_not_taken(serve, connect, target):
    header = "bytes 500-99999/100000"
    origin = serve(lambda e: e.reply(206, CONTENT[500:], Content_Range=header))
    wanted = Range(500, 510)
    transport = connect(origin.url)
    assert transport.download_range(origin.url, wanted, target, 100_000, silent) == wanted
    assert target.stat().st_size == 510


@given(st.integers(0, 10**18), st.integers(0, 10**18), st.integers(0, 10**18))
def test_content_range_reads_what_is_possible(first, last, total):
    possible = first <= last < total < 10**18
    nothing = (0, -1, None)
    read = content_range(f"bytes {first}-{last}/{total}")
    assert read == ((first, last, total) if possible else nothing)
    possible = first <= last < 10**18
    assert content_range(f"bytes {first}-{last}/*") == (
        (first, last, None) if possible else nothing
    )


@given(st.text())
def test_content_range_takes_anything(text):
    assert content_range(text)[2] is None or text.lower().startswith("bytes ")


@given(st.text(), st.text())
def test_resolve_gives_an_http_url_or_a_sentence(base, reference):
    try:
        url = resolve("http://h/" + base, reference)
    except DownloadError:
        return
    assert (
        url.startswith(("http://", "https://"))
        and url.isascii()
        and not any(c.isspace() for c in url)
    )
