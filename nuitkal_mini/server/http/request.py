"""The head of an HTTP/1.1 request (RFC 9112) as a WSGI environ, or a refusal. Pure.

Strict where leniency has been used for smuggling: what two parsers could read in two ways (a bare line feed, a
folded header, two lengths, a length beside a transfer coding, a name with an underscore) is refused or dropped.
Request bodies come with a Content-Length; chunked ones are refused with 411.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union
from urllib.parse import unquote_to_bytes

from ..refused import Refused
from ..responses import Address, parse_address

MAX_LINE_BYTES = 8 * 1024  # RFC 9112, 3: at least 8,000 octets
MAX_HEAD_BYTES = 32 * 1024  # some browsers send 16 kB of cookies
MAX_HEADERS = 100  # a browser behind two proxies sends 30
HEAD_END = b"\r\n\r\n"

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])\Z")
_HEADER = re.compile("([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\0\r\n]*)\\Z")
_ABSOLUTE = re.compile(r"https?://([^/?#]+)", re.IGNORECASE)
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.%\w]+)\](?::[0-9]+)?\Z|([0-9.]+):[0-9]+\Z")
_SINGLE = frozenset(
    ("content-length", "host", "authorization", "content-type", "transfer-encoding")
)


class Request(NamedTuple):
    """A request without its body."""

    method: str
    target: str  # as it was sent: printable ASCII
    headers: Dict[str, str]  # names in lower case, bytes as Latin-1
    is_http_1_1: bool

    @property
    def length(self) -> int:
        """The bytes of the body."""
        return int(self.headers.get("content-length", "0"))

    @property
    def keeps_alive(self) -> bool:
        wishes = [wish.strip() for wish in self.headers.get("connection", "").lower().split(",")]
        return "close" not in wishes and (self.is_http_1_1 or "keep-alive" in wishes)

    @property
    def expects_continue(self) -> bool:
        return self.is_http_1_1 and self.headers.get("expect", "").lower() == "100-continue"

    @property
    def split_target(self) -> Tuple[str, str]:
        path, _, query = self.target.partition("?")
        return path, query


def parse_head(head: bytes) -> Request:
    """The request whose head these bytes are, up to and without the empty line.

    Raises Refused: bad_request, uri_too_long, header_too_large, length_required, http_version_not_supported.
    """
    if head.find(b"\r\n", 0, MAX_LINE_BYTES) < 0 and len(head) > MAX_LINE_BYTES:
        raise Refused(
            "uri_too_long", "the request line is longer than {limit} bytes", limit=MAX_LINE_BYTES
        )
    if len(head) > MAX_HEAD_BYTES:
        raise Refused(
            "header_too_large",
            "the request's headers are longer than {limit} bytes",
            limit=MAX_HEAD_BYTES,
        )
    first, *lines = head.decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.match(first)
    if not line:
        raise Refused("bad_request", "the request line cannot be read")
    method, target, major, minor = line.groups()
    if major != "1":
        raise Refused("http_version_not_supported", "only HTTP/1.1 is spoken here")
    headers = _parse_headers(lines)
    absolute = _ABSOLUTE.match(target)
    if absolute:  # RFC 9112, 3.2.2: then the Host header does not count
        headers["host"], target = absolute.group(1), target[absolute.end() :]
        target = target if target.startswith("/") else "/" + target
    request = Request(method, target, headers, minor != "0")
    _check(request)
    return request


def _parse_headers(lines: List[str]) -> Dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise Refused(
            "header_too_large", "the request has more than {limit} headers", limit=MAX_HEADERS
        )
    headers: Dict[str, str] = {}
    for line in lines:
        header = _HEADER.match(line)
        if not header:
            raise Refused("bad_request", "the request has a header that cannot be read")
        name, value = header.group(1).lower(), header.group(2).rstrip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in _SINGLE:
            raise Refused("bad_request", "the request has more than one {name} header", name=name)
        else:
            headers[name] += ("; " if name == "cookie" else ", ") + value
    return headers


def _check(request: Request) -> None:
    headers = request.headers
    if not request.target.startswith("/"):
        raise Refused("bad_request", "the request's target is not a path")
    if request.is_http_1_1 and "host" not in headers:
        raise Refused("bad_request", "the request has no Host header")
    if not re.match(r"[0-9]{1,18}\Z", headers.get("content-length", "0")):
        raise Refused("bad_request", "the request's Content-Length is not a number")
    if "transfer-encoding" in headers:
        if "content-length" in headers:
            raise Refused("bad_request", "the request has a Content-Length and a Transfer-Encoding")
        raise Refused("length_required", "the request must say its size in Content-Length")


class Origin(NamedTuple):
    """Where a request came in."""

    peer: str  # the address at the other end of the connection
    scheme: str  # "http" or "https"
    server: Tuple[str, int]


def environ_of(request: Request, origin: Origin, trusted: Sequence[Network]) -> Dict[str, Any]:
    """The WSGI environ, without the body and what belongs to the server; forwarded headers count from a trusted peer only."""
    path, query = request.split_target
    peer = parse_address(origin.peer)
    environ: Dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": origin.server[0],
        "SERVER_PORT": str(origin.server[1]),
        "SERVER_PROTOCOL": "HTTP/1.1" if request.is_http_1_1 else "HTTP/1.0",
        "REMOTE_ADDR": str(peer or origin.peer),
        "wsgi.url_scheme": origin.scheme,
    }
    for name, value in request.headers.items():
        if "_" not in name:  # `X_Forwarded_For` would pass for `X-Forwarded-For`
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if "HTTP_" + name in environ:
            environ[name] = environ.pop("HTTP_" + name)
    if peer and _is_trusted(peer, trusted):
        _apply_forwarded(environ, str(peer), trusted)
    return environ


def _apply_forwarded(environ: Dict[str, Any], peer: str, trusted: Sequence[Network]) -> None:
    """Not X-Forwarded-Host: most proxies pass on one that anybody sends, which would lead past --admin-host."""
    environ["REMOTE_ADDR"] = _client_address(peer, environ.get("HTTP_X_FORWARDED_FOR", ""), trusted)
    scheme = (
        environ.get("HTTP_X_FORWARDED_PROTO", "").split(",")[-1].strip().lower()
    )  # the nearest proxy's; those before may be anybody's
    if scheme in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme


def _client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The last hop that is not a trusted proxy; the farthest trusted one when all are, or when an entry makes no sense."""
    client = peer
    for hop in reversed(forwarded_for.split(",")):
        address = _hop_address(hop.strip())
        if not address:
            break
        client = str(address)
        if not _is_trusted(address, trusted):
            break
    return client


def _hop_address(text: str) -> Optional[Address]:
    with_port = _WITH_PORT.match(text)
    return parse_address(with_port.group(1) or with_port.group(2) if with_port else text)


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return address.is_loopback or any(address in network for network in trusted)
