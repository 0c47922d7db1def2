"""WSGI for the parts of the server: answers, refusals, the base of absolute URLs, and IP
addresses.
"""

from __future__ import annotations

import ipaddress
import json
import re
from http import HTTPStatus
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Union
from urllib.parse import quote

from .messages import say_problem
from .refused import Headers, Refused

Environ = Dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

JSON: Headers = (
    ("Content-Type", "application/json; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
)
NOT_STORED: Headers = (("Cache-Control", "no-store"),)

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")


class Answer(NamedTuple):
    """A whole HTTP response."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    @property
    def status_line(self) -> str:
        return f"{self.status} {HTTPStatus(self.status).phrase}"


def json_bytes(document: Dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8")


def refusal(refused: Refused, language: str) -> Answer:
    """The answer to a request that is refused: the one form that every error has."""
    body = json_bytes({"error": say_problem(refused, language), "code": refused.code})
    return Answer(refused.status, body, refused.headers + JSON + NOT_STORED)


def send(answer: Answer, environ: Environ, start_response: StartResponse) -> List[bytes]:
    """Hand an answer to the WSGI server; without its body for HEAD."""
    headers = list(answer.headers)
    if answer.status not in (204, 304):
        headers.append(("Content-Length", str(len(answer.body))))
    start_response(answer.status_line, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" or not answer.body else [answer.body]


def path_of(environ: Environ) -> str:
    """The request's path as text (WSGI hands its bytes over as Latin-1)."""
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode("utf-8", "replace")


def base_url(environ: Environ) -> str:
    """The address that the request was sent to, without a final slash.

    Raises:
        Refused: bad_host, for a Host that is none: URLs made of it would lead anywhere.
    """
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    if not _HOST.fullmatch(host):
        raise Refused("bad_host", "the request's Host header is not the name of a host")
    script = quote(environ.get("SCRIPT_NAME", "").rstrip("/"), encoding="latin-1")
    return f"{environ['wsgi.url_scheme']}://{host.rstrip(':')}{script}"  # RFC 3986: an empty port


def allow_long_body(environ: Environ) -> None:
    """Tell our HTTP server that the sender of this request's body is known.

    The body may then take as long as it needs at a minimum rate; others have ten seconds in all.
    """
    allow = environ.get("nuitkal.allow_long_body")
    if allow:
        allow()


def parse_address(text: str) -> Optional[Address]:
    """The IP address that the text is, if it is one; without its zone (`fe80::1%eth0`)."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # ::ffff:127.0.0.1, as a dual-stack socket says it
    return getattr(address, "ipv4_mapped", None) or address
