"""The server's JSON API, as a publisher calls it.

What cannot do harm when it arrives twice is tried again: connection errors, 408, 429 (after its Retry-After)
and passing 5xx. The token goes out with changes only, and those follow no redirect: it never leaves the
address that was given. What a server may name (a manifest's URL) is fetched without it, over http(s) only.
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional, Set, Union
from urllib.parse import quote, urljoin, urlsplit

from ..manifest import MAX_BYTES
from ..semver import Version, parse
from .tree import PublishError, Tree

TIMEOUT_SECONDS = 30.0
COMPOSE_SECONDS = (
    900.0  # the server composes and fsyncs the whole package before it answers an upload
)
PAUSES = (0.5, 2.0, 5.0)  # seconds between the tries
MAX_PAUSE = 60.0  # of a Retry-After
_HASHES = 10_000  # asked for in one call: 670 kB, and nginx lets 1 MB pass
_PAGE = 100


class ApiError(PublishError):
    """The server refused, or (`status` 0) did not answer; a later try may succeed when it is `passing`."""

    def __init__(
        self, sentence: str, status: int = 0, code: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(sentence)
        self.status, self.code, self.retry_after = status, code, retry_after
        self.passing = status in (0, 408, 429, 500, 502, 503, 504)


class Body(NamedTuple):
    """What a request sends; chunks can be sent once, bytes again and again."""

    content_type: str
    size: int
    content: Union[bytes, Iterable[bytes]]


class Release(NamedTuple):
    """What the publisher wants to know of a release on the server."""

    version: Version
    is_active: bool
    manifest_url: str
    signature: str  # empty when unsigned


class Server:
    """The API at `base`, which ends with `/nuitkal_pack/` or names a channel below it."""

    def __init__(self, base: str, token: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.base = base.rstrip("/") + "/"
        self._token = token
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_HttpHandler, _HttpsHandler, _Redirects)

    def missing(self, tree: Tree) -> Set[str]:
        """The SHA-256 of those of the tree's contents that the server does not hold."""
        hashes = sorted({entry.sha256 for entry in tree.contents()})
        missing: Set[str] = set()
        for start in range(0, len(hashes), _HASHES):
            answer = self._call("POST", "missing/", {"hashes": hashes[start : start + _HASHES]})
            missing.update(map(str, self._field(answer, "missing", list)))
        return missing

    def find(self, version: Version) -> Optional[Release]:
        """The channel's release of this version, however it is spelt there."""
        offset, count = 0, 1
        while offset < count:
            page = self._call("GET", f"versions/?limit={_PAGE}&offset={offset}")
            documents = self._field(page, "versions", list)
            count = self._field(page, "count", int) if documents else 0
            for document in documents:
                release = self._release(document)
                if release.version == version:
                    return release
            offset += _PAGE
        return None

    def manifest(self, release: Release) -> bytes:
        """The release's manifest, byte for byte as it was published."""
        return self._tried("GET", release.manifest_url)

    def upload(self, body: Body) -> Release:
        """Send an upload's form, once: whoever calls knows whether it pays to send it again."""
        return self._release(_json(self._once("POST", urljoin(self.base, "upload/"), body)))

    def activate(self, version: Version) -> str:
        """Make the release the one that `check/` offers; gives back the version as it was published."""
        return str(
            self._field(self._call("POST", f"set_active/{_quoted(version)}/", {}), "version", str)
        )

    def promote(self, version: Version, channel: str, is_active: bool) -> Release:
        """Take the release over from another channel. Once: a second time would meet the first (409)."""
        body = _json_body({"from": channel, "is_active": is_active})
        return self._release(
            _json(self._once("POST", urljoin(self.base, f"promote/{_quoted(version)}/"), body))
        )

    def replace_signature(self, version: Version, signature: str) -> None:
        """Give the release a new signature of the same manifest."""
        self._call("PATCH", f"versions/{_quoted(version)}/", {"signature": signature})

    def pause(self, seconds: float, error: ApiError) -> None:
        """Wait before the next try: as long as the server asks, else about `seconds`."""
        wait = min(error.retry_after, MAX_PAUSE) or seconds * random.uniform(0.75, 1.25)
        print(f"{error}; trying again in {wait:.1f} s", file=sys.stderr)
        self._sleep(wait)

    def _call(self, method: str, path: str, document: Optional[Dict[str, Any]] = None) -> Any:
        return _json(
            self._tried(
                method, urljoin(self.base, path), None if document is None else _json_body(document)
            )
        )

    def _tried(self, method: str, url: str, body: Optional[Body] = None) -> bytes:
        for seconds in PAUSES:
            try:
                return self._once(method, url, body)
            except ApiError as error:
                if not error.passing:
                    raise
                self.pause(seconds, error)
        return self._once(method, url, body)

    def _once(self, method: str, url: str, body: Optional[Body]) -> bytes:
        if urlsplit(url).scheme not in ("http", "https"):
            raise PublishError(f"the server names {url!r}, which is neither http nor https")
        headers = {
            "Accept": "application/json",
            "Accept-Language": "en",
            "User-Agent": "nuitkal_mini-publish",
        }
        if body is not None:
            headers.update(
                {
                    "Authorization": f"Bearer {self._token}",
                    "Content-Type": body.content_type,
                    "Content-Length": str(body.size),
                }
            )
        request = urllib.request.Request(
            url, None if body is None else body.content, headers, method=method
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                return _read_all(response, url)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise _no_answer(url, error) from error

    def _release(self, document: Any) -> Release:
        url = urljoin(self.base, self._field(document, "manifest_url", str))
        signature = str(document.get("signature") or "")
        return Release(
            parse(self._field(document, "version", str)),
            self._field(document, "is_active", bool),
            url,
            signature,
        )

    def _field(self, document: Any, key: str, kind: type) -> Any:
        value = document.get(key) if isinstance(document, dict) else None
        if not isinstance(value, kind):
            raise PublishError(
                f"{self.base} does not answer like a nuitkal_mini server ({key!r} is missing); {_BASE_HINT}"
            )
        return value


_BASE_HINT = "is --server the API's base, such as https://host/api/nuitkal_pack/?"


def _read_all(response: http.client.HTTPResponse, url: str) -> bytes:
    answer = bytearray()
    for chunk in iter(
        lambda: response.read(2**16), b""
    ):  # Python 3.8 would allocate all that one read may bring
        answer += chunk
        if len(answer) > MAX_BYTES:
            raise PublishError(
                f"{url} answered with more than 64 MiB; is it a nuitkal_mini server?"
            )
    if response.length:  # reading by chunks, http.client does not mind
        raise http.client.IncompleteRead(bytes(answer), response.length)
    return bytes(answer)


def _quoted(version: Version) -> str:
    return quote(version.text, safe="")


def _json_body(document: Dict[str, Any]) -> Body:
    data = json.dumps(document).encode("utf-8")
    return Body("application/json", len(data), data)


def _json(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise PublishError(f"the server's answer is not JSON; {_BASE_HINT}") from error


def _refusal(response: urllib.error.HTTPError) -> ApiError:
    """The server's own sentence where it has one."""
    status = response.code
    try:
        document = json.loads(response.read(2**16))
        sentence, code = str(document["error"]), str(document["code"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        sentence, code = f"HTTP {status} {response.reason}", ""
    sentence = "".join(char for char in sentence if char.isprintable()).rstrip(".")
    if 300 <= status < 400:
        sentence = f"it redirects to {response.headers.get('Location')!r}; give the address behind that as --server"
    elif status == 401:
        sentence += "; check --token or NUITKAL_TOKEN"
    elif status in (404, 405) and code in ("", "not_found"):
        sentence += f"; {_BASE_HINT}"
    wait = response.headers.get("Retry-After") or ""
    return ApiError(
        f"the server refused: {sentence}", status, code, float(wait) if wait.isdecimal() else 0.0
    )


def _no_answer(url: str, error: Exception) -> PublishError:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    sentence = (
        f"no answer from {urlsplit(url).scheme}://{urlsplit(url).netloc.rpartition('@')[2]}: {text}"
    )
    return (
        PublishError(sentence)
        if isinstance(reason, ssl.SSLCertVerificationError)
        else ApiError(sentence)
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """GET may be sent elsewhere, never from https to http; what changes something is not."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Optional[urllib.request.Request]:
        scheme = urlsplit(newurl).scheme
        if (
            req.get_method() != "GET"
            or scheme not in ("http", "https")
            or (req.type == "https" and scheme != "https")
        ):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _EarlyAnswer:
    """A server may refuse an upload (413, 507) while it is being sent, and hang up: its answer says more than EPIPE."""

    sock: Any

    def endheaders(self, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        try:
            super().endheaders(message_body, encode_chunked=encode_chunked)  # type: ignore[misc]
        except ConnectionError:
            if self.sock is None:
                raise
        if message_body is not None and not isinstance(message_body, bytes):
            self.sock.settimeout(COMPOSE_SECONDS)


class _HttpConnection(_EarlyAnswer, http.client.HTTPConnection):
    pass


class _HttpsConnection(_EarlyAnswer, http.client.HTTPSConnection):
    pass


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpConnection, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpsConnection, req)
