"""The head of an HTTP/1.1 request (RFC 9112) as a WSGI environ, or a refusal. Pure; linear in its
bytes.

A head that two parsers could read in two ways (a bare line feed, a folded header, two lengths, a
length beside a transfer coding) is refused; a header whose name has an underscore is dropped. That
stops request smuggling.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union
from urllib.parse import unquote_to_bytes

from ..refused import Refused, method_not_allowed
from ..responses import Address, parse_address

MAX_LINE_BYTES = 8 * 1024  # RFC 9112, 3: at least 8,000 octets
MAX_HEAD_BYTES = 32 * 1024  # some browsers send 16 kB of cookies
MAX_HEADERS = 100  # a browser behind two proxies sends 30
MAX_HOPS = 32  # of X-Forwarded-For that are looked at; a request passes three proxies at most
HEAD_END = b"\r\n\r\n"
METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"  # of which the application answers any

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!\"$-~]+) HTTP/([0-9])\.([0-9])"
)  # no `#`: a fragment is never sent
_CONTROL = re.compile("[\0-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile("[0-9]{1,18}")
_ABSOLUTE = re.compile(r"https?://([^/?]*)", re.IGNORECASE)
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+")
# RFC 3986, 3.2.2: a registered name or IPv4 address, or an address in brackets; then a port.
_HOST = re.compile(
    r"(?:(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*|\[([0-9A-Fa-f:.]+)\])(?::[0-9]*)?"
)
_ONCE = frozenset(("content-length", "host", "authorization", "content-type", "transfer-encoding"))


class RequestHead(NamedTuple):
    """A request without its body."""

    method: str
    target: str  # a path with its query, or `*`: printable ASCII
    headers: Dict[str, str]  # names in lower case, bytes as Latin-1
    is_http_1_1: bool

    @property
    def length(self) -> int:
        """The bytes of the body; 0 for a chunked one."""
        return int(self.headers.get("content-length", "0"))

    @property
    def is_chunked(self) -> bool:
        return "transfer-encoding" in self.headers

    @property
    def keeps_alive(self) -> bool:
        options = [word.strip() for word in self.headers.get("connection", "").lower().split(",")]
        return "close" not in options and (self.is_http_1_1 or "keep-alive" in options)

    @property
    def expects_continue(self) -> bool:
        return self.is_http_1_1 and self.headers.get("expect", "").lower() == "100-continue"

    @property
    def split_target(self) -> Tuple[str, str]:
        path, _, query = self.target.partition("?")
        return path, query


def parse_head(head: bytes) -> RequestHead:
    """The request whose head these bytes are, up to and without the empty line.

    Raises Refused: bad_request, uri_too_long, header_too_large, method_not_allowed,
    not_implemented, http_version_not_supported.
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
    method, target, minor = parse_request_line(first)
    headers = _parse_headers(lines)
    is_http_1_1 = minor != "0"
    if is_http_1_1 and "host" not in headers:
        raise Refused("bad_request", "the request has no Host header")
    _check_host(headers.get("host", ""))
    _check_framing(headers, is_http_1_1)
    return RequestHead(method, _parse_target(method, target, headers), headers, is_http_1_1)


def parse_request_line(line: str) -> Tuple[str, str, str]:
    """The method, the target and the minor version of HTTP/1."""
    match = _REQUEST_LINE.fullmatch(line)
    if not match:
        raise Refused("bad_request", "the request line cannot be read")
    method, target, major, minor = match.groups()
    if major != "1":
        raise Refused("http_version_not_supported", "only HTTP/1.1 is spoken here")
    return method, target, minor


def _parse_headers(lines: List[str]) -> Dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise Refused(
            "header_too_large", "the request has more than {limit} headers", limit=MAX_HEADERS
        )
    headers: Dict[str, str] = {}
    for line in lines:
        name, value = parse_header(line)
        if name not in headers:
            headers[name] = value
        elif name in _ONCE:
            raise Refused("bad_request", "the request has more than one {name} header", name=name)
        else:
            headers[name] += ("; " if name == "cookie" else ", ") + value
    return headers


def parse_header(line: str) -> Tuple[str, str]:
    """The name in lower case and the value of a header line."""
    name, colon, value = line.partition(":")
    if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
        raise Refused("bad_request", "the request has a header that cannot be read")
    return name.lower(), value.strip(" \t")


def _check_host(host: str) -> None:
    match = _HOST.fullmatch(host)
    if match and match.group(1):  # an IPv6 address
        try:
            ipaddress.IPv6Address(match.group(1))
            return
        except ValueError:
            match = None
    if not match:
        raise Refused("bad_request", "the request's Host header is not the name of a host")


def _parse_target(method: str, target: str, headers: Dict[str, str]) -> str:
    """The path and query; the host of an absolute target replaces the Host header (RFC 9112,
    3.2.2).
    """
    if method == "CONNECT":
        raise method_not_allowed(method, METHODS)
    absolute = _ABSOLUTE.match(target)
    if absolute:
        headers["host"], target = absolute.group(1), target[absolute.end() :]
        if not headers["host"]:
            raise Refused("bad_request", "the request's target is not a path")
        _check_host(headers["host"])
        if not target and method == "OPTIONS":
            return "*"
        target = target if target.startswith("/") else "/" + target
    if not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        raise Refused("bad_request", "the request's target is not a path")
    return target


def _check_framing(headers: Dict[str, str], is_http_1_1: bool) -> None:
    """Refuse a body whose end is in doubt: RFC 9112, 6.1 and 6.3."""
    if not _LENGTH.fullmatch(headers.get("content-length", "0")):
        raise Refused("bad_request", "the request's Content-Length is not a number")
    coding = headers.get("transfer-encoding")
    if coding is None:
        return
    if "content-length" in headers:
        raise Refused("bad_request", "the request has a Content-Length and a Transfer-Encoding")
    codings = [name.strip().lower() for name in coding.split(",")]
    if not is_http_1_1 or codings[-1] != "chunked" or codings.count("chunked") > 1:
        raise Refused("bad_request", "the request's Transfer-Encoding does not end with chunked")
    if len(codings) > 1:
        raise Refused("not_implemented", "the only Transfer-Encoding that is read is chunked")


def environ_of(
    head: RequestHead,
    peer: str,
    scheme: str,
    server: Tuple[str, int],
    trusted: Sequence[Network],
) -> Dict[str, Any]:
    """The WSGI environ, without the body and what belongs to the server.

    `peer` is the address at the other end of the connection; forwarded headers count from a
    trusted one only.
    """
    path, query = head.split_target
    address = parse_address(peer)
    environ: Dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": "HTTP/1.1" if head.is_http_1_1 else "HTTP/1.0",
        "REMOTE_ADDR": str(address or peer),
        "wsgi.url_scheme": scheme,
    }
    for name, value in head.headers.items():
        # `X_Forwarded_For` would pass for `X-Forwarded-For`; the body's coding is undone already
        if "_" not in name and name != "transfer-encoding":
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if "HTTP_" + name in environ:
            environ[name] = environ.pop("HTTP_" + name)
    if address and is_trusted(address, trusted):
        _apply_forwarded(environ, str(address), trusted)
    return environ


def _apply_forwarded(environ: Dict[str, Any], peer: str, trusted: Sequence[Network]) -> None:
    """Believe the address and the scheme that a trusted proxy forwards.

    Not X-Forwarded-Host: most proxies pass on what the client sent, which would lead past
    --admin-host.
    """
    environ["REMOTE_ADDR"] = _client_address(peer, environ.get("HTTP_X_FORWARDED_FOR", ""), trusted)
    # The nearest proxy's word; the client may have sent the ones before it.
    scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
    if scheme in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme


def _client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The last hop that is not a trusted proxy.

    The farthest trusted one when all are, or when an entry is no address.
    """
    client = peer
    for hop in reversed(forwarded_for.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
        address = _hop_address(hop.strip())
        if not address:
            break
        client = str(address)
        if not is_trusted(address, trusted):
            break
    return client


def _hop_address(text: str) -> Optional[Address]:
    with_port = _WITH_PORT.fullmatch(text)
    return parse_address(with_port.group(1) or with_port.group(2) if with_port else text)


def is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    """Whether the address is a proxy that is believed: loopback, or in one of the networks."""
    return address.is_loopback or any(address in network for network in trusted)
