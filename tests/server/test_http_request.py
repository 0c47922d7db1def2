"""Request heads as clients, proxies and smugglers write them."""

from __future__ import annotations

import ipaddress
from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuitkal_mini.server.http import request as heads
from nuitkal_mini.server.http.request import environ_of, parse_head
from nuitkal_mini.server.refused import Refused

TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]


def head(*lines: str, first: str = "GET /path HTTP/1.1", host: str = "Host: example.org") -> bytes:
    return "\r\n".join([first] + ([host] if host else []) + list(lines)).encode("latin-1")


def environ(*lines: str, peer: str = "192.0.2.1", **options: str) -> Dict[str, Any]:
    return environ_of(
        parse_head(head(*lines, **options)), peer, "http", ("127.0.0.1", 8000), TRUSTED
    )


def refusal(content: bytes) -> str:
    with pytest.raises(Refused) as caught:
        parse_head(content)
    assert str(caught.value)
    return caught.value.code


def test_a_request_becomes_an_environ() -> None:
    found = environ(
        "User-Agent:  test \t",
        "Content-Type: text/plain",
        "Content-Length: 12",
        "X-A: 1",
        "X-A: 2",
        "Cookie: a",
        "cookie: b",
        first="POST /a%20b/%E7%89%88?x=%20&version=1 HTTP/1.1",
    )
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/版".encode().decode("latin-1"),
        "QUERY_STRING": "x=%20&version=1",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "12",
        "HTTP_USER_AGENT": "test",
        "HTTP_X_A": "1, 2",
        "HTTP_COOKIE": "a; b",
        "HTTP_HOST": "example.org",
        "REMOTE_ADDR": "192.0.2.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
    }
    assert found == expected


@pytest.mark.parametrize(
    "lines, first, code",
    [
        ([], "GET /path", "bad_request"),
        ([], "GET  /path HTTP/1.1", "bad_request"),
        ([], "GET /pa th HTTP/1.1", "bad_request"),
        ([], "GET /path HTTP/1.1 ", "bad_request"),
        ([], "G(T / HTTP/1.1", "bad_request"),
        ([], "GET /\xe9 HTTP/1.1", "bad_request"),
        ([], "GET /\0 HTTP/1.1", "bad_request"),
        ([], "", "bad_request"),
        ([], "GET path HTTP/1.1", "bad_request"),
        ([], "GET * HTTP/1.1", "bad_request"),
        ([], "GET /a#b HTTP/1.1", "bad_request"),
        ([], "CONNECT example.org:443 HTTP/1.1", "method_not_allowed"),
        ([], "GET ftp://example.org/ HTTP/1.1", "bad_request"),
        ([], "GET http:///a HTTP/1.1", "bad_request"),
        ([], "GET http://user@h/a HTTP/1.1", "bad_request"),
        ([], "GET http://[::1/a HTTP/1.1", "bad_request"),
        ([], "GET / http/1.1", "bad_request"),
        ([], "GET /\nX: HTTP/1.1", "bad_request"),
        ([], "GET / HTTP/2.0", "http_version_not_supported"),
        ([], "GET /%s HTTP/1.1" % ("x" * heads.MAX_LINE_BYTES), "uri_too_long"),
        (["X: " + "x" * heads.MAX_HEAD_BYTES], "GET / HTTP/1.1", "header_too_large"),
        (["X: x"] * heads.MAX_HEADERS, "GET / HTTP/1.1", "header_too_large"),
        (["no colon"], "GET / HTTP/1.1", "bad_request"),
        (["X : x"], "GET / HTTP/1.1", "bad_request"),
        ([": x"], "GET / HTTP/1.1", "bad_request"),
        (["X: a", " folded"], "GET / HTTP/1.1", "bad_request"),
        (["X: a\nContent-Length: 5"], "GET / HTTP/1.1", "bad_request"),
        (["X: a\rb"], "GET / HTTP/1.1", "bad_request"),
        (["X: a\0b"], "GET / HTTP/1.1", "bad_request"),
        (["Host: other"], "GET / HTTP/1.1", "bad_request"),
        (["Content-Length: 1", "content-length: 1"], "GET / HTTP/1.1", "bad_request"),
        (["Content-Length: 1, 1"], "GET / HTTP/1.1", "bad_request"),
        (["Content-Length: +1"], "GET / HTTP/1.1", "bad_request"),
        (["Content-Length: -1"], "GET / HTTP/1.1", "bad_request"),
        (["Content-Length: 0x1"], "GET / HTTP/1.1", "bad_request"),
        (["Content-Length:"], "GET / HTTP/1.1", "bad_request"),
        (["Content-Length: \xb2"], "GET / HTTP/1.1", "bad_request"),
        (["Content-Length: " + "1" * 19], "GET / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding: chunked", "Content-Length: 1"], "GET / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding: identity"], "POST / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding: chunked, identity"], "POST / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding: chunked, chunked"], "POST / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding: xchunked"], "POST / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding: \x0bchunked"], "POST / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding:"], "POST / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding: gzip, chunked"], "POST / HTTP/1.1", "not_implemented"),
        (["Transfer-Encoding: chunked"] * 2, "POST / HTTP/1.1", "bad_request"),
        (["Transfer-Encoding: chunked"], "POST / HTTP/1.0", "bad_request"),
        (["X: a\x01b"], "GET / HTTP/1.1", "bad_request"),
        (["X: a\x7fb"], "GET / HTTP/1.1", "bad_request"),
        (["Authorization: a", "Authorization: b"], "GET / HTTP/1.1", "bad_request"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: Any, first: str, code: str) -> None:
    assert refusal(head(*lines, first=first)) == code


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "user@h",
        "[::1",
        "::1",
        "[::1]a",
        "h:a",
        "h:80:80",
        "h/",
        "h?",
        "[h]",
        "%zz",
        "a\xe9",
        "[::1%25eth0]",
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_host_that_is_none_is_refused(host: str, version: str) -> None:
    first = f"GET / HTTP/{version}"
    assert refusal(head(first=first, host="Host: " + host)) == "bad_request"


@pytest.mark.parametrize(
    "host", ["h", "h:", "h:80", "[::1]", "[::1]:80", "127.0.0.1", "a_b.c", "%41", ""]
)
def test_a_host_is_one_by_rfc_3986(host: str) -> None:
    assert environ(host="Host: " + host)["HTTP_HOST"] == host


def test_an_absolute_target_needs_a_host_header_too() -> None:
    assert refusal(head(first="GET http://h/ HTTP/1.1", host="")) == "bad_request"


@pytest.mark.parametrize("target", ["*", "http://example.org"])
def test_options_may_ask_about_the_whole_server(target: str) -> None:
    assert environ(first=f"OPTIONS {target} HTTP/1.1")["PATH_INFO"] == "*"
    assert environ(first="OPTIONS http://example.org/ HTTP/1.1")["PATH_INFO"] == "/"


def test_a_chunked_body_is_announced_and_not_passed_on_as_such() -> None:
    lines = ("Transfer-Encoding: Chunked",)
    assert parse_head(head(*lines, first="POST / HTTP/1.1")).is_chunked
    assert "HTTP_TRANSFER_ENCODING" not in environ(*lines, first="POST / HTTP/1.1")


def test_of_very_many_hops_the_last_ones_count() -> None:
    hops = "X-Forwarded-For: 1.1.1.1" + ", 10.0.0.1" * (heads.MAX_HOPS - 1)
    assert environ(hops, peer="127.0.0.1")["REMOTE_ADDR"] == "1.1.1.1"
    assert environ(hops + ", 10.0.0.1", peer="127.0.0.1")["REMOTE_ADDR"] == "10.0.0.1"


def test_http_1_1_needs_a_host_and_http_1_0_does_not() -> None:
    assert refusal(head(host="")) == "bad_request"
    assert "HTTP_HOST" not in environ(first="GET / HTTP/1.0", host="")


def test_limits_are_met_exactly() -> None:
    line = "GET /%s HTTP/1.1"
    assert (
        parse_head(
            head(first=line % ("x" * (heads.MAX_LINE_BYTES - len(line) - len("\r\n") + len("%s"))))
        ).method
        == "GET"
    )
    assert (
        len(parse_head(head(*["X%d: x" % i for i in range(heads.MAX_HEADERS - 1)])).headers)
        == heads.MAX_HEADERS
    )


@pytest.mark.parametrize(
    "target, path, host",
    [
        ("http://other.org:81/a?b", "/a", "other.org:81"),
        ("HTTP://other.org", "/", "other.org"),
        ("http://other.org?b", "/", "other.org"),
        ("//other.org/a", "//other.org/a", "example.org"),
        ("/a?http://other.org/", "/a", "example.org"),
    ],
)
def test_an_absolute_target_names_the_host(target: str, path: str, host: str) -> None:
    found = environ(first="GET %s HTTP/1.1" % target)
    assert (found["PATH_INFO"], found["HTTP_HOST"]) == (path, host)


def test_a_header_with_an_underscore_cannot_pass_for_another() -> None:
    found = environ(
        "X_Forwarded_For: 1.1.1.1", "X_Forwarded-Host: evil", "Content_Length: 5", peer="127.0.0.1"
    )
    assert (found["REMOTE_ADDR"], found["HTTP_HOST"]) == (
        "127.0.0.1",
        "example.org",
    ) and "CONTENT_LENGTH" not in found


@pytest.mark.parametrize(
    "first, connection, expected",
    [
        ("GET / HTTP/1.1", "", True),
        ("GET / HTTP/1.1", "close", False),
        ("GET / HTTP/1.1", "TE , Close", False),
        ("GET / HTTP/1.0", "", False),
        ("GET / HTTP/1.0", "Keep-Alive", True),
        ("GET / HTTP/1.0", "keep-alive, close", False),
    ],
)
def test_who_keeps_the_connection_alive(first: str, connection: str, expected: bool) -> None:
    assert parse_head(head("Connection: " + connection, first=first)).keeps_alive is expected


@pytest.mark.parametrize(
    "peer, forwarded, client",
    [
        ("192.0.2.1", "1.1.1.1", "192.0.2.1"),
        ("127.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("::1", "1.1.1.1", "1.1.1.1"),
        ("10.1.2.3", "1.1.1.1", "1.1.1.1"),
        ("::ffff:127.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("::ffff:10.9.9.9", "1.1.1.1", "1.1.1.1"),
        ("::ffff:192.0.2.1", "1.1.1.1", "192.0.2.1"),
        ("127.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
        ("127.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.1, 127.0.0.1", "1.1.1.1"),
        ("127.0.0.1", "10.0.0.2,10.0.0.1", "10.0.0.2"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "1.1.1.1, nonsense, 10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", "1.1.1.1:5000", "1.1.1.1"),
        ("127.0.0.1", "[2001:db8::1]:80", "2001:db8::1"),
        ("127.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("127.0.0.1", "2001:DB8::1", "2001:db8::1"),
        ("fd00::5", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_trusted_proxy(
    peer: str, forwarded: str, client: str
) -> None:
    assert environ("X-Forwarded-For: " + forwarded, peer=peer)["REMOTE_ADDR"] == client


def test_the_scheme_is_believed_of_a_trusted_proxy_only_and_the_host_of_nobody() -> None:
    lines = ("X-Forwarded-Proto: http, https", "X-Forwarded-Host: evil.org")
    found = environ(*lines, peer="127.0.0.1")
    assert (found["wsgi.url_scheme"], found["HTTP_HOST"]) == ("https", "example.org")
    assert environ(*lines)["wsgi.url_scheme"] == "http"
    assert environ("X-Forwarded-Proto: javascript", peer="127.0.0.1")["wsgi.url_scheme"] == "http"


@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.sampled_from(
                [
                    b"GET / HTTP/1.1",
                    b"\r\n",
                    b"\n",
                    b"\r",
                    b":",
                    b" ",
                    b"Host",
                    b"Content-Length",
                    b"1",
                    b"X-Forwarded-For",
                    b"Expect",
                    b"\0",
                    b"\xff",
                    b"%zz",
                ]
            ),
            max_size=20,
        ).map(b"".join),
    )
)
def test_any_bytes_are_a_request_or_refused(content: bytes) -> None:
    try:
        request = parse_head(content)
    except Refused:
        return
    found = environ_of(request, "127.0.0.1", "http", ("x", 1), TRUSTED)
    assert found["PATH_INFO"].startswith("/") or request.target == "*"
    assert request.length >= 0
