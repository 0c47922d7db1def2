"""HTTP over urllib, for a client that trusts neither the network nor the server.

`Transport.read` gets a small document, `download` a whole file, `download_range` a piece of one; the last two go on where a
broken connection, or a killed process, left them. Whatever fails is a `DownloadError` whose sentence names the host and
what to do. The rules: only http and https, and https stays https; the configured headers go to one origin only; nothing
is read beyond its announced length or its limit; no wait is without end (a dripping server, a name service that hangs).
Redirects are followed here and not by urllib, which would read their bodies whole and pass our headers on.
"""
from __future__ import annotations

import contextlib
import email.utils
import errno
import http.client
import io
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, TypeVar, cast

from .errors import DownloadError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Origin = Tuple[str, str, int]

MAX_REDIRECTS = 10  # what browsers and curl allow is 20 to 50; a CDN needs two
MAX_DOWNLOAD_BYTES = 4 << 30  # ends an endless body when nobody said how long it is; no program is that large
MINIMUM_RATE = 1000  # bytes per second; GPRS managed 4,000. A server that stays below it is holding us up
RATE_WINDOW_SECONDS = 60.0  # a train goes through a tunnel in less
HOP_TIMEOUTS = 3  # a name may have two addresses that swallow packets before the one that answers; each costs a time-out
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
LONGEST_RETRY_AFTER_SECONDS = 60.0  # somebody may be looking at a progress bar
ERROR_BODY_BYTES = 4096  # enough for {"error": "<sentence>", "code": …}
# Where the distributions keep the CAs: a frozen binary carries an OpenSSL that looks where its build machine had them.
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986: reserved, and % because what is quoted stays so
_REDIRECTS = (301, 302, 303, 307, 308)


class Document(NamedTuple):
    """A small document, where it came from in the end, and what its server calls it."""

    url: str
    body: bytes
    content_type: str

    @property
    def is_html(self) -> bool:
        """A login page of a hotel's network, most likely, where JSON was asked for."""
        return self.content_type.startswith("text/html") or self.body.lstrip()[:1] == b"<"


class Piece(NamedTuple):
    """What `download_range` wrote: the place of its first byte in the whole file, and the whole file's size."""

    offset: int
    total: int


class Interrupted(DownloadError):
    """A failure that another attempt may not meet; `pause_seconds` is what the server asked for."""

    pause_seconds: Optional[float] = None


class Transport:
    """Requests to the server at `origin_url`, and to wherever its answers lead."""

    def __init__(self, origin_url: str, *, timeout_seconds: float = 30.0, retries: int = 3, verify_ssl: bool = True,
                 ca_file: Optional[str] = None, headers: Optional[Mapping[str, str]] = None, chunk_size: int = 8192,
                 sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic) -> None:
        self._base = resolve(origin_url, "")
        self._headers = dict(headers or {})
        self._timeout_seconds, self._retries, self._chunk_size = timeout_seconds, retries, chunk_size
        self._sleep, self._clock = sleep, clock
        self._proxies = urllib.request.getproxies()
        self._opener = urllib.request.OpenerDirector()  # build_opener() would add file:, ftp: and data:
        self._opener.addheaders = [("User-Agent", "nuitkal_mini")]
        self._opener.add_handler(urllib.request.ProxyHandler(self._proxies))
        self._opener.add_handler(_WatchedHTTP(clock, verify_ssl, ca_file))
        if not verify_ssl:
            logger.warning("verify_ssl is off: anybody on the network can pose as %s", host_of(self._base))

    def read(self, url: str, max_bytes: int, *, deadline_seconds: Optional[float] = None, retry: bool = True) -> Document:
        """The document at `url`, at most `max_bytes` long; everything, waiting for DNS included, within `deadline_seconds`."""
        url = resolve(self._base, url)
        ends = None if deadline_seconds is None else time.monotonic() + deadline_seconds

        def attempt() -> Document:
            with self._open(url, {"Accept-Encoding": "gzip"}, (200,)) as response:
                body = _inflated(self._body(response), response, max_bytes)
                return Document(response.url, body, response.headers.get("Content-Type", "").lower())

        def attempt_in_time() -> Document:
            return attempt() if ends is None else _within(ends - time.monotonic(), url, attempt)

        return self._persist(attempt_in_time, self._retries if retry else 0, lambda: 0, ends)

    def download(self, url: str, target: Path, size: Optional[int], progress: Callable[[int], None],
                 *, max_bytes: int = MAX_DOWNLOAD_BYTES) -> None:
        """Writes the file at `url`, `size` bytes, to `target`; `progress` gets the number of bytes that are there.

        A partial `target` of the same URL is continued if the server still has the same file; what is complete is left
        as it is, so delete a `target` whose content is wrong.
        """
        self._fill(_Partial(target, resolve(self._base, url), None, None, size, max_bytes), progress)

    def download_range(self, url: str, start: Optional[int], length: int, target: Path, size: Optional[int],
                       progress: Callable[[int], None], *, max_bytes: int = MAX_DOWNLOAD_BYTES) -> Piece:
        """Writes `length` bytes from `start` on to `target`; `start` None means the last `length` bytes.

        A server that does not know ranges sends everything, and then `target` is the whole file: `Piece(0, total)`.
        """
        partial = _Partial(target, resolve(self._base, url), start, length, size, max_bytes)
        self._fill(partial, progress)
        return Piece(partial.offset, partial.have if partial.total is None else partial.total)

    def _fill(self, partial: _Partial, progress: Callable[[int], None]) -> None:
        def attempt() -> None:
            if not partial.is_complete():
                with self._open(partial.url, partial.request_headers(), (200, 206, 416)) as response, contextlib.closing(partial):
                    partial.accept(response)
                    for chunk in self._body(response):
                        partial.write(chunk)
                        progress(partial.have)
                partial.check_length()
            progress(partial.have)

        self._persist(attempt, self._retries, lambda: partial.furthest, None)

    def _persist(self, attempt: Callable[[], T], retries: int, reached: Callable[[], int], ends: Optional[float]) -> T:
        """Tries until it works, or has failed `retries` times more than the bytes that it won in between pay for."""
        failures, since, ground = 0, self._clock(), reached()
        while True:
            try:
                return attempt()
            except Interrupted as error:
                now = self._clock()
                # New ground at the minimum rate, pauses included, is forgiven its failures: a server that hands out a
                # byte a connection does not get that far, nor one that begins at zero each time.
                if reached() - ground >= MINIMUM_RATE * (now - since + FIRST_PAUSE_SECONDS):
                    failures, since, ground = 0, now, reached()
                failures += 1
                pause = error.pause_seconds
                if pause is None:
                    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (failures - 1)) * random.uniform(0.5, 1)
                if failures > retries or (ends is not None and time.monotonic() + pause >= ends):
                    raise
                logger.info("%s; trying again in %.1f s", error, pause)
                self._sleep(pause)

    def _open(self, url: str, request_headers: Dict[str, str], accepted: Tuple[int, ...]) -> http.client.HTTPResponse:
        """The answer to a GET, behind all redirects."""
        headers = dict(request_headers)
        if origin_of(url) == origin_of(self._base):
            headers = {**self._headers, **headers}
        for _ in range(MAX_REDIRECTS + 1):
            response = _within(HOP_TIMEOUTS * self._timeout_seconds, url, self._send, url, headers)
            if response.status in accepted:
                return response
            with response:
                if response.status not in _REDIRECTS:
                    raise self._refusal(response)
                location = response.headers.get("Location", "")
            # http.client decodes headers as Latin-1, and so gives the bytes back when asked in Latin-1.
            url = resolve(url, urllib.parse.quote(location, safe=_URL_CHARACTERS, encoding="latin-1"))
            if origin_of(url) != origin_of(self._base):
                headers = dict(request_headers)  # and they stay away, should the next redirect lead back
        raise DownloadError(f"{host_of(url)} redirects without end")

    def _send(self, url: str, headers: Dict[str, str]) -> http.client.HTTPResponse:
        try:
            request = urllib.request.Request(url, headers=headers)
            return cast(http.client.HTTPResponse, self._opener.open(request, timeout=self._timeout_seconds))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise explain(error, self._peer(url)) from error

    def _peer(self, url: str) -> str:
        """Whom a failed connection was to: behind a proxy it may as well be the proxy."""
        proxy = self._proxies.get(urllib.parse.urlsplit(url).scheme)
        if not proxy or urllib.request.proxy_bypass(host_of(url)):
            return host_of(url)
        return f"{host_of(url)} (through the proxy {proxy.rpartition('@')[2]})"

    def _body(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """What the server sends, cut at the length that it announced; `Interrupted` when it is less."""
        left = response.length
        while left is None or left > 0:
            try:  # read1: read() would wait until a chunk is full
                chunk = response.read1(self._chunk_size if left is None else min(self._chunk_size, left))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise explain(error, host_of(response.url)) from error
            if not chunk:
                break
            left = None if left is None else left - len(chunk)
            yield chunk
        if left:
            raise Interrupted(f"the connection to {host_of(response.url)} broke, {left} bytes before the end")

    def _refusal(self, response: http.client.HTTPResponse) -> DownloadError:
        """What an answer with an error status says, in the server's words if it has any."""
        status, body = response.status, b""
        with contextlib.suppress(DownloadError):
            for chunk in self._body(response):
                body += chunk
                if len(body) > ERROR_BODY_BYTES:
                    break
        code, said = _own_words(body)
        text = f"{host_of(response.url)} answers HTTP {status}" + (f": {said}" if said else "")
        if status == 407:
            return DownloadError("the proxy wants a password: set http_proxy to http://user:password@host:port", status)
        if status not in (408, 425, 429) and status < 500:
            return DownloadError(text, status, code)
        error = Interrupted(text, status, code)
        error.pause_seconds = retry_after(response.headers.get("Retry-After", ""), time.time())
        return error


class _Partial:
    """A file that is being filled, and the note beside it by which another process can go on.

    The note (`NAME.etag`) says what was asked for, which bytes of which file these are, and the file's validator; without
    a validator nothing is continued, as nobody could tell whether both halves belong to the same file.
    """

    def __init__(self, target: Path, url: str, start: Optional[int], length: Optional[int], size: Optional[int], max_bytes: int) -> None:
        self.url, self.offset, self.have, self.furthest = url, 0, 0, 0
        self.total: Optional[int] = None
        self._target, self._note = target, target.with_name(target.name + ".etag")
        self._start, self._length, self._size, self._max_bytes = start, length, size, max_bytes
        self._expected: Optional[int] = None  # of `target`, when it is complete
        self._validator = ""
        self._file: Optional[io.BufferedWriter] = None
        self._take_up()

    def _take_up(self) -> None:
        try:
            note = json.loads(self._note.read_bytes())
            if note["asked"] == [self.url, self._start, self._length, self._size]:
                self.offset, self.total, self._expected, self._validator = note["is"]
                self.have = self.furthest = self._target.stat().st_size
        except (OSError, ValueError, LookupError, TypeError):
            self.have = 0  # no note, or none of ours: begin at the beginning

    def is_complete(self) -> bool:
        return self._note.exists() and self._target.exists() and self.have == self._expected

    def request_headers(self) -> Dict[str, str]:
        if self.have and self._validator and (self._expected is None or self.have < self._expected):
            last = "" if self._expected is None else self.offset + self._expected - 1
            return {"Range": f"bytes={self.offset + self.have}-{last}", "If-Range": self._validator}
        self.have = 0
        if self._length is None:
            return {}
        if self._start is None:
            return {"Range": f"bytes=-{self._length}"}
        return {"Range": f"bytes={self._start}-{self._start + self._length - 1}"}

    def accept(self, response: http.client.HTTPResponse) -> None:
        """Agrees with the server on which bytes come; a 200 brings all of them, whatever was asked."""
        host = host_of(response.url)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"{host} compresses a file that was asked for as it is")
        if response.status == 200:
            total = self._size if response.length is None else response.length
            self._begin(response, 0, total, total)
            return
        first, last, total = content_range(response.headers.get("Content-Range", ""))
        if response.status == 206 and self.have and (first, total) == (self.offset + self.have, self.total):
            self._open_file("ab")
        elif response.status == 206 and not self.have and total and (first, last) == self._asked(total):
            self._begin(response, first, total, last + 1 - first)
        else:
            had, self.have = self.have, 0
            sentence = f"{host} answers a range of bytes with other bytes (HTTP {response.status})"
            raise Interrupted(sentence, response.status) if had else DownloadError(sentence, response.status)

    def _asked(self, total: int) -> Tuple[int, int]:
        if self._length is None:
            return -1, -1  # a range was not asked for
        first = max(0, total - self._length) if self._start is None else self._start
        return first, min(first + self._length, total) - 1

    def _begin(self, response: http.client.HTTPResponse, offset: int, total: Optional[int], expected: Optional[int]) -> None:
        if self._size is not None and total != self._size:
            raise DownloadError(f"{host_of(response.url)} offers {total} bytes where {self._size} were announced")
        if (expected or 0) > self._max_bytes:
            raise DownloadError(f"{host_of(response.url)} offers {expected} bytes; the limit is {self._max_bytes}")
        etag = response.headers.get("ETag", "")
        self._validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        self.offset, self.total, self._expected, self.have = offset, total, expected, 0
        self._open_file("wb")  # before the note: a note must never speak of older bytes
        asked = [self.url, self._start, self._length, self._size]
        with _disk(self._note):
            self._note.write_bytes(json.dumps({"asked": asked, "is": [offset, total, expected, self._validator]}).encode())

    def _open_file(self, mode: str) -> None:
        with _disk(self._target):
            self._file = cast(io.BufferedWriter, open(self._target, mode))

    def write(self, chunk: bytes) -> None:
        if self.have + len(chunk) > (self._max_bytes if self._expected is None else self._expected):
            raise DownloadError(f"{host_of(self.url)} sends more than the {self._expected or self._max_bytes} bytes that it may")
        with _disk(self._target):
            assert self._file is not None
            self._file.write(chunk)
        self.have += len(chunk)
        self.furthest = max(self.furthest, self.have)

    def close(self) -> None:
        if self._file is not None:
            with _disk(self._target):
                file, self._file = self._file, None
                file.close()

    def check_length(self) -> None:
        if self._expected is not None and self.have < self._expected:
            raise Interrupted(f"the connection to {host_of(self.url)} ended, {self._expected - self.have} bytes too early")


@contextlib.contextmanager
def _disk(target: Path) -> Iterator[None]:
    """The disk's errors are not the network's: trying again does not make room."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        raise DownloadError(f"{target}: " + ("the disk is full" if full else f"cannot write: {error.strerror}")) from error


class _WatchedHTTP(urllib.request.HTTPHandler):
    """http and https whose every received byte is counted against the clock."""

    def __init__(self, clock: Callable[[], float], verify_ssl: bool, ca_file: Optional[str]) -> None:
        super().__init__()
        self._clock, self._verify_ssl, self._ca_file = clock, verify_ssl, ca_file
        self._context: Optional[ssl.SSLContext] = None

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._watched(http.client.HTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        if self._context is None:  # reading the CAs takes 10 to 30 ms, which http need not pay
            self._context = tls_context(self._verify_ssl, self._ca_file)
        return self._watched(http.client.HTTPSConnection, request, context=self._context)

    https_request = urllib.request.HTTPHandler.http_request

    def _watched(self, kind: Any, request: urllib.request.Request, **options: Any) -> http.client.HTTPResponse:
        def connection(host: str, **more: Any) -> Any:
            made = kind(host, **options, **more)
            # http.client makes a response from its socket with this attribute, the answer of a proxy to CONNECT as well
            made.response_class = lambda sock, *args, **named: _WatchedResponse(self._clock, sock, *args, **named)
            return made

        return self.do_open(connection, request)


class _WatchedResponse(http.client.HTTPResponse):
    def __init__(self, clock: Callable[[], float], sock: socket.socket, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp = io.BufferedReader(_Watched(self.fp.detach(), clock))


class _Watched(io.RawIOBase):
    """A socket that loses patience: under `MINIMUM_RATE` over `RATE_WINDOW_SECONDS` of waiting is the end.

    Here and not in the loop over the body, so that dripped status lines, headers and chunk sizes are covered. Only time
    spent waiting counts; a progress callback may take as long as it likes.
    """

    def __init__(self, raw: io.RawIOBase, clock: Callable[[], float]) -> None:
        self._raw, self._clock = raw, clock
        self._waited_seconds, self._received = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        began = self._clock()
        count = self._raw.readinto(buffer)
        self._waited_seconds += self._clock() - began
        self._received += count or 0
        if self._waited_seconds >= RATE_WINDOW_SECONDS:
            if self._received < MINIMUM_RATE * self._waited_seconds:
                raise DownloadError(f"the server sends less than {MINIMUM_RATE} bytes a second; try again later")
            self._waited_seconds, self._received = 0.0, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def tls_context(verify_ssl: bool, ca_file: Optional[str]) -> ssl.SSLContext:
    """Trusts `ca_file` alone if there is one, else the system's authorities."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise DownloadError(f"ca_file {ca_file} cannot be used: {error}") from error
    if not verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    paths = ssl.get_default_verify_paths()
    if ca_file is None and os.name == "posix" and not paths.cafile and not paths.capath:
        for bundle in filter(os.path.isfile, CA_BUNDLES):
            context.load_verify_locations(bundle)
            break
    return context


def resolve(base: str, reference: str) -> str:
    """The URL that `reference` means in a document from `base`: http or https, and https when `base` is."""
    try:
        quoted = urllib.parse.quote(reference.strip(), safe=_URL_CHARACTERS)
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(urllib.parse.quote(base.strip(), safe=_URL_CHARACTERS), quoted))
        host, port = urllib.parse.unquote(parts.hostname or ""), parts.port
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except ValueError as error:
        raise DownloadError(f"{reference or base} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise DownloadError(f"{reference or base} is not an http:// or https:// address")
    if parts.username is not None:
        raise DownloadError(f"the address of {host} must not hold a user name: use `headers`")
    if parts.scheme == "http" and urllib.parse.urlsplit(base).scheme == "https":
        raise DownloadError(f"{host_of(base)} leads from https to http, to {host}: refused, as anybody could read and change it")
    netloc = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=netloc if port is None else f"{netloc}:{port}", fragment="").geturl()


def origin_of(url: str) -> Origin:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def host_of(url: str) -> str:
    """`host:port` as it stands in the URL, for sentences."""
    return urllib.parse.urlsplit(url).netloc


def _within(seconds: float, url: str, call: Callable[..., T], *arguments: object) -> T:
    """What `call` gives back if it takes no longer than that; else it is left behind in its daemon thread.

    A look-up in DNS that hangs cannot be cancelled, and an executor would wait for it when the program ends.
    """
    outcome: List[Tuple[Optional[T], Optional[BaseException]]] = []

    def work() -> None:
        try:
            outcome.append((call(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ends = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < ends:
        thread.join(max(0.0, min(0.1, ends - time.monotonic())))  # in slices: Windows sees Ctrl-C only between waits
    if not outcome:
        raise Interrupted(f"{host_of(url)} did not answer within {seconds:.3g} seconds: is the network connected?")
    result, error = outcome[0]
    if error is not None:
        raise error
    return cast(T, result)


def _inflated(body: Iterator[bytes], response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """The whole body, unpacked if it came as gzip, and never more than `max_bytes` of it."""
    encoding, host = response.headers.get("Content-Encoding", "identity").lower(), host_of(response.url)
    if encoding not in ("gzip", "identity"):
        raise DownloadError(f"{host} compresses with {encoding}, which was not asked for")
    inflater, document = zlib.decompressobj(31), b""
    try:
        for chunk in body:
            document += inflater.decompress(chunk, max_bytes + 1 - len(document)) if encoding == "gzip" else chunk
            if len(document) > max_bytes:
                raise DownloadError(f"{response.url} is longer than the {max_bytes} bytes that it may have")
    except zlib.error as error:
        raise Interrupted(f"{host} sends gzip that is damaged: {error}") from error
    if encoding == "gzip" and not inflater.eof:
        raise Interrupted(f"{host} sends gzip that ends too early")
    return document


def content_range(header: str) -> Tuple[int, int, Optional[int]]:
    """First, last and total of `bytes 0-9/100` (RFC 9110, 14.4); total None for anything else."""
    unit, _, span = header.partition(" ")
    numbers = span.replace("/", "-").split("-")
    if unit.lower() != "bytes" or len(numbers) != 3 or not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
        return -1, -1, None
    first, last, total = map(int, numbers)
    return (first, last, total) if first <= last < total else (-1, -1, None)


def retry_after(header: str, now: float) -> Optional[float]:
    """Seconds that a Retry-After header asks for, as a number or as a date, within reason; None without one."""
    seconds = float("nan")
    with contextlib.suppress(ValueError, OverflowError):
        date = email.utils.parsedate_tz(header)
        seconds = int(header) if date is None else email.utils.mktime_tz(date) - now
    return None if seconds != seconds else min(max(seconds, 0), LONGEST_RETRY_AFTER_SECONDS)


def _own_words(body: bytes) -> Tuple[str, str]:
    """`code` and `error` of an error body in JSON, fit for a log line; else nothing."""
    try:
        said = json.loads(body)
        return str(said["code"])[:64], "".join(c for c in str(said["error"])[:300] if c.isprintable())
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", ""


def explain(error: Exception, host: str) -> DownloadError:
    """The sentence for a request that failed; `Interrupted` if another attempt can end better."""
    reason = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(_certificate_sentence(reason, host))
    if isinstance(reason, ValueError):
        return DownloadError(f"{host} cannot be asked: {reason}")
    text = str(reason)
    if "Tunnel connection failed: 407" in text:
        return DownloadError(f"{host}: the proxy wants a password: set https_proxy to http://user:password@host:port", 407)
    for kind, sentence in _SENTENCES:
        if isinstance(reason, kind):
            return Interrupted(sentence.format(host=host))
    return Interrupted(f"the connection to {host} failed: {text or type(reason).__name__}")


_SENTENCES: Tuple[Tuple[type, str], ...] = (
    (socket.gaierror, "the name of {host} cannot be found: is the network connected, and is the address right?"),
    (ConnectionRefusedError, "{host} refuses connections: its server is not running, or a firewall is in the way"),
    (socket.timeout, "{host} does not answer in time: try again later, or raise `timeout`"),
    (TimeoutError, "{host} does not answer in time: try again later, or raise `timeout`"),
    (ssl.SSLError, "no encrypted connection to {host}: is it an https server, and nothing between that intercepts it?"),
    (ConnectionError, "the connection to {host} broke: try again"),
    (http.client.HTTPException, "{host} answers, but not in HTTP: is the address right?"),
)


def _certificate_sentence(error: ssl.SSLCertVerificationError, host: str) -> str:
    code = error.verify_code  # OpenSSL's X509_V_ERR_…
    if code in (9, 10):
        return f"the certificate of {host} is {'not yet valid' if code == 9 else 'out of date'}: check the computer's clock and date"
    if code in (2, 18, 19, 20, 21):
        return f"the certificate of {host} comes from an authority that this computer does not know: name its file in `ca_file`"
    return f"the certificate of {host} does not fit: {error.verify_message}"
