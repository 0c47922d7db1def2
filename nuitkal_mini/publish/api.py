"""The server's JSON API, as a publisher calls it.

Calls that may arrive twice without harm are tried again: after connection errors, 408, 429 (after
its Retry-After) and the 5xx that pass. The token goes out with changes only, and those follow no
redirect: it never leaves the address that was given. A URL that the server names (a manifest's) is
fetched without the token, and over http or https only.
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
from typing import Any, Callable, Dict, Iterable, Iterator, NamedTuple, Optional, Set, Union
from urllib.parse import quote, urljoin, urlsplit

from ..manifest import MAX_BYTES
from ..semver import Version, parse
from ..strict_json import JsonError, json_object
from .tree import FolderTree, PublishError

TIMEOUT_SECONDS = 30.0
# The server composes and fsyncs the whole package before it answers an upload.
COMPOSE_SECONDS = 900.0
PAUSES = (0.5, 2.0, 5.0)  # seconds between the tries
MAX_PAUSE = 60.0  # of a Retry-After
_HASHES = 10_000  # asked for in one call: 670 kB, and nginx lets 1 MB pass
_PAGE = 100


class ApiError(PublishError):
    """The server refused, or did not answer (`status` 0); `retryable` says whether to try again."""

    def __init__(
        self, sentence: str, status: int = 0, code: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(sentence)
        self.status, self.code, self.retry_after = status, code, retry_after
        self.retryable = status in (0, 408, 429, 500, 502, 503, 504)


class RequestBody(NamedTuple):
    """What a request sends; chunks can be sent once, bytes again and again."""

    content_type: str
    size: int
    content: Union[bytes, Iterable[bytes]]


class PublishedRelease(NamedTuple):
    """A release on the server; `fields` is the API's whole document."""

    version: Version
    is_active: bool
    manifest_url: str
    signature: str  # empty when unsigned
    fields: Dict[str, Any]


class ApiClient:
    """The API at `base`, which ends with `/nuitkal_pack/` or names a channel below it."""

    def __init__(self, base: str, token: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.base = base.rstrip("/") + "/"
        self._token = token
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_HttpHandler, _HttpsHandler, _Redirects)

    def missing(self, tree: FolderTree) -> Set[str]:
        """The SHA-256 of those of the tree's contents that the server does not hold."""
        hashes = sorted({entry.sha256 for entry in tree.contents()})
        missing: Set[str] = set()
        for start in range(0, len(hashes), _HASHES):
            answer = self._call("POST", "missing/", {"hashes": hashes[start : start + _HASHES]})
            missing.update(map(str, self._field(answer, "missing", list)))
        return missing

    def releases(self) -> Iterator[PublishedRelease]:
        """The channel's releases, newest upload first."""
        offset, count = 0, 1
        while offset < count:
            page = self._call("GET", f"versions/?limit={_PAGE}&offset={offset}")
            documents = self._field(page, "versions", list)
            count = self._field(page, "count", int) if documents else 0
            yield from map(self._release, documents)
            offset += _PAGE

    def find(self, version: Version) -> Optional[PublishedRelease]:
        """The channel's release of this version, however it is spelt there."""
        return next((found for found in self.releases() if found.version == version), None)

    def get(self, version: Version) -> PublishedRelease:
        """The channel's release of this version; PublishError when there is none."""
        found = self.find(version)
        if found is None:
            raise PublishError(f"{version.text} is not on the server; `list` shows what is")
        return found

    def delete(self, version: Version) -> None:
        """Delete a release that is not active."""
        nothing = RequestBody("application/json", 0, b"")
        self._once("DELETE", urljoin(self.base, f"versions/{_quoted(version)}/"), nothing)

    def manifest(self, release: PublishedRelease) -> bytes:
        """The release's manifest, byte for byte as it was published."""
        return self._tried("GET", release.manifest_url)

    def upload(self, body: RequestBody) -> PublishedRelease:
        """Send an upload's form, once: the caller knows whether to send it again."""
        return self._release(_json(self._once("POST", urljoin(self.base, "upload/"), body)))

    def activate(self, version: Version) -> str:
        """Make the release the active one; gives back the version as it was published."""
        return str(
            self._field(self._call("POST", f"set_active/{_quoted(version)}/", {}), "version", str)
        )

    def promote(self, version: Version, channel: str, is_active: bool) -> PublishedRelease:
        """Take the release over from another channel; once, as a second call would answer 409."""
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

    def _tried(self, method: str, url: str, body: Optional[RequestBody] = None) -> bytes:
        for seconds in PAUSES:
            try:
                return self._once(method, url, body)
            except ApiError as error:
                if not error.retryable:
                    raise
                self.pause(seconds, error)
        return self._once(method, url, body)

    def _once(self, method: str, url: str, body: Optional[RequestBody]) -> bytes:
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

    def _release(self, document: Any) -> PublishedRelease:
        url = urljoin(self.base, self._field(document, "manifest_url", str))
        signature = str(document.get("signature") or "")
        return PublishedRelease(
            parse(self._field(document, "version", str)),
            self._field(document, "is_active", bool),
            url,
            signature,
            document,
        )

    def _field(self, document: Any, key: str, kind: type) -> Any:
        value = document.get(key) if isinstance(document, dict) else None
        if not isinstance(value, kind):
            raise PublishError(
                f"{self.base} does not answer like a nuitkal_mini server ({key!r} is missing); "
                f"{_BASE_HINT}"
            )
        return value


_BASE_HINT = "is --server the API's base, such as https://host/api/nuitkal_pack/?"


def _read_all(response: http.client.HTTPResponse, url: str) -> bytes:
    answer = bytearray()
    # In chunks: Python 3.8 allocates at once all that one read may bring.
    for chunk in iter(lambda: response.read(2**16), b""):
        answer += chunk
        if len(answer) > MAX_BYTES:
            raise PublishError(
                f"{url} answered with more than 64 MiB; is it a nuitkal_mini server?"
            )
    if response.length:  # http.client does not notice it when it is read in chunks
        raise http.client.IncompleteRead(bytes(answer), response.length)
    return bytes(answer)


def _quoted(version: Version) -> str:
    return quote(version.text, safe="")


def _json_body(document: Dict[str, Any]) -> RequestBody:
    data = json.dumps(document).encode("utf-8")
    return RequestBody("application/json", len(data), data)


def _json(answer: bytes) -> Any:
    try:
        return json_object(answer)
    except JsonError as error:
        raise PublishError(f"the server's answer is not JSON; {_BASE_HINT}") from error


def _refusal(response: urllib.error.HTTPError) -> ApiError:
    """The server's own sentence where it has one."""
    status = response.code
    try:
        document = json_object(response.read(2**16))
        sentence, code = str(document["error"]), str(document["code"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        sentence, code = f"HTTP {status} {response.reason}", ""
    sentence = "".join(char for char in sentence if char.isprintable()).rstrip(".")
    if 300 <= status < 400:
        place = response.headers.get("Location")
        sentence = f"it redirects to {place!r}; give the address behind that as --server"
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
    """Reads the answer of a server that refuses an upload while it is being sent, and hangs up.

    Its status (413, 507) says more than EPIPE.
    """

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
