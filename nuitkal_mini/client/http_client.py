"""One GET over urllib, for a client that trusts neither the network nor the server.

`Wire.get` gives the answer behind all redirects, `Wire.body` its bytes. The rules: only http and https, and https stays
https; the configured headers go to one origin only; no wait is without end, be it a server that drips or a name service
that hangs; whatever fails is a `DownloadError` whose sentence names the host and what to do. Redirects are followed here
and not by urllib, which reads their bodies whole and passes our headers on.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import io
import json
import logging
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, TypeVar, cast

from .errors import DownloadError

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

MAX_REDIRECTS = 10  # browsers and curl follow 20 to 50, a CDN needs two
MINIMUM_RATE = (
    1000  # bytes per second; GPRS managed 4,000. A server that stays below it is holding us up
)
RATE_WINDOW_SECONDS = 60.0  # a train goes through a tunnel in less
MAX_OVERHEAD_BYTES = (
    2**20
)  # status lines, headers, chunk sizes, trailers: http.client would read them without end
OVERHEAD_RATIO = 10  # of such to one byte of a body: chunks of one byte need six
CONNECT_SHARE = 0.4  # of a time-out: when a name's first address swallows packets (IPv6, often), the next gets its turn
HOP_TIMEOUTS = 2  # DNS, two connection attempts, TLS and the first answer fit in
LONGEST_RETRY_AFTER_SECONDS = 60.0  # somebody may be looking at a progress bar
ERROR_BODY_BYTES = 4096  # enough for {"error": "<sentence>", "code": …}
# Where distributions keep the CAs: the OpenSSL in a frozen binary looks where its build machine had them.
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986: reserved, and % because what is quoted stays so
REDIRECTS = (301, 302, 303, 307, 308)
HINTS = {
    401: ": check `headers`",
    403: ": check `headers`",
    404: ": is the address right?",
    407: ": the proxy wants a password, as in http_proxy=http://user:password@host:port",
}


class Interrupted(DownloadError):
    """A failure that another attempt may not meet; `pause_seconds` is what the server asked for."""

    pause_seconds: Optional[float] = None


class HttpClient:
    """Requests to the server at `origin_url`, and to wherever its answers lead."""

    def __init__(
        self,
        origin_url: str,
        *,
        timeout_seconds: float,
        verify_ssl: bool,
        ca_file: Optional[str],
        headers: Mapping[str, str],
        chunk_size: int,
        clock: Callable[[], float],
    ) -> None:
        self.base = resolve(origin_url, "")
        self._headers, self._timeout_seconds, self._chunk_size = (
            dict(headers),
            timeout_seconds,
            chunk_size,
        )
        self._proxies = urllib.request.getproxies()
        self._opener = (
            urllib.request.OpenerDirector()
        )  # build_opener() would add file:, ftp: and data:
        self._opener.addheaders = [
            ("User-Agent", "nuitkal_mini"),
            ("Accept-Language", "en"),
        ]  # a server's words become part of our sentences
        self._opener.add_handler(urllib.request.ProxyHandler(self._proxies))
        self._opener.add_handler(_WatchedHTTP(clock, verify_ssl, ca_file))
        if not verify_ssl:
            logger.warning(
                "verify_ssl is off: anybody on the network can pose as %s", host_of(self.base)
            )

    def get(
        self,
        url: str,
        request_headers: Mapping[str, str],
        accepted: Tuple[int, ...],
        seconds: Optional[float] = None,
    ) -> Response:
        """The answer, if its status is an `accepted` one; `seconds` is a time-out shorter than the configured one."""
        timeout_seconds = min(self._timeout_seconds, seconds or self._timeout_seconds)
        headers = {
            **(self._headers if origin_of(url) == origin_of(self.base) else {}),
            **request_headers,
        }
        for _ in range(MAX_REDIRECTS + 1):
            response = run_with_timeout(
                HOP_TIMEOUTS * timeout_seconds, url, self._send, url, headers, timeout_seconds
            )
            if response.status in accepted:
                return response
            with response:
                if response.status not in REDIRECTS:
                    raise self._refusal(response)
                location = response.headers.get("Location", "")
            # http.client decodes headers as Latin-1, and so gives the bytes back when asked in Latin-1.
            url = resolve(
                url, urllib.parse.quote(location, safe=URL_CHARACTERS, encoding="latin-1")
            )
            if origin_of(url) != origin_of(self.base):
                headers = dict(
                    request_headers
                )  # and they stay away, should the next redirect lead back
        raise DownloadError(f"{host_of(url)} redirects without end")

    def _send(self, url: str, headers: Dict[str, str], timeout_seconds: float) -> Response:
        try:
            request = urllib.request.Request(url, headers=headers)
            return cast(Response, self._opener.open(request, timeout=timeout_seconds))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise explain(error, self._peer(url)) from error

    def _peer(self, url: str) -> str:
        """Whom a failed connection was to: behind a proxy it may as well be the proxy."""
        proxy = self._proxies.get(urllib.parse.urlsplit(url).scheme)
        if not proxy or urllib.request.proxy_bypass(host_of(url)):
            return host_of(url)
        return f"{host_of(url)} (through the proxy {proxy.rpartition('@')[2]})"

    def body(self, response: Response) -> Iterator[bytes]:
        """What the server sends, cut at the length that it announced; `Interrupted` when it is less."""
        left = response.length
        while left is None or left > 0:
            try:  # read1: read() would wait until a chunk is full
                chunk = response.read1(
                    self._chunk_size if left is None else min(self._chunk_size, left)
                )
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise explain(error, host_of(response.url)) from error
            if not chunk:
                break
            response.watched.deliver(len(chunk))
            left = None if left is None else left - len(chunk)
            yield chunk
        if left:
            raise Interrupted(
                f"the connection to {host_of(response.url)} broke, {left} bytes before the end"
            )

    def _refusal(self, response: Response) -> DownloadError:
        """What an error status means, in the server's own words if it has any."""
        status, body = response.status, b""
        with contextlib.suppress(DownloadError):
            for chunk in self.body(response):
                body += chunk
                if len(body) > ERROR_BODY_BYTES:
                    break
        code, said = _own_words(body)
        text = f"{host_of(response.url)} answers HTTP {status}{': ' + said if said else HINTS.get(status, '')}"
        if status not in (408, 425, 429) and status < 500:
            return DownloadError(text, status, code)
        error = Interrupted(text, status, code)
        error.pause_seconds = retry_after(response.headers.get("Retry-After", ""), time.time())
        return error


def _own_words(body: bytes) -> Tuple[str, str]:
    """`code` and `error` of an error body in JSON, fit for a log line; else nothing."""
    try:
        said = json.loads(body)
        return str(said["code"])[:64], "".join(
            c for c in str(said["error"])[:300] if c.isprintable()
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", ""


def retry_after(header: str, now: float) -> Optional[float]:
    """Seconds that a Retry-After header asks for, as a number or as a date, within reason; None without one."""
    seconds: Optional[float] = None
    with contextlib.suppress(ValueError, OverflowError):
        date = email.utils.parsedate_tz(header)
        seconds = int(header) if date is None else email.utils.mktime_tz(date) - now
    return None if seconds is None else min(max(seconds, 0), LONGEST_RETRY_AFTER_SECONDS)


def run_with_timeout(
    seconds: float, url: str, call: Callable[..., Answer], *arguments: object
) -> Answer:
    """What `call` gives back if it takes no longer than that; else it is left behind in its daemon thread.

    A look-up in DNS that hangs cannot be cancelled, and an executor would wait for it when the program ends.
    """
    outcome: List[Tuple[Optional[Answer], Optional[BaseException]]] = []

    def work() -> None:
        try:
            outcome.append((call(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ends = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < ends:
        thread.join(
            max(0.0, min(0.1, ends - time.monotonic()))
        )  # in slices: Windows sees Ctrl-C only between waits
    if not outcome:
        raise Interrupted(
            f"{host_of(url)} did not answer within {seconds:.3g} seconds: is the network connected?"
        )
    result, error = outcome[0]
    if error is not None:
        raise error
    return cast(Answer, result)


def resolve(base: str, reference: str) -> str:
    """The URL that `reference` means in a document from `base`: http or https, and https when `base` is. Raises DownloadError."""
    try:
        base, quoted = (
            urllib.parse.quote(url.strip(), safe=URL_CHARACTERS) for url in (base, reference)
        )
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, quoted))
        host, port = urllib.parse.unquote(parts.hostname or ""), parts.port
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except ValueError as error:
        raise DownloadError(f"{reference or base} is not an address: {error}") from error
    if parts.username is not None:
        raise DownloadError(f"the address of {host} must not hold a user name: use `headers`")
    if parts.scheme not in ("http", "https") or not host:
        raise DownloadError(f"{reference or base} is not an http:// or https:// address")
    if parts.scheme == "http" and urllib.parse.urlsplit(base).scheme == "https":
        raise DownloadError(
            f"{host_of(base)} leads from https to http, to {host}: refused, as anybody could read and change it"
        )
    netloc = f"[{host}]" if ":" in host else host
    return parts._replace(
        netloc=netloc if port is None else f"{netloc}:{port}", fragment=""
    ).geturl()


def origin_of(url: str) -> Tuple[str, str, int]:
    parts = urllib.parse.urlsplit(url)
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
    )


def host_of(url: str) -> str:
    """`host:port` as it stands in the URL, for sentences."""
    return urllib.parse.urlsplit(url).netloc


class _WatchedHTTP(urllib.request.HTTPHandler):
    """http and https whose every received byte is counted against the clock."""

    def __init__(
        self, clock: Callable[[], float], verify_ssl: bool, ca_file: Optional[str]
    ) -> None:
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

    def _watched(
        self, kind: Any, request: urllib.request.Request, **options: Any
    ) -> http.client.HTTPResponse:
        def connection(host: str, **more: Any) -> Any:
            made = kind(host, **options, **more)
            # http.client's own hooks since 3.2: how a socket is made, and a response from it (a proxy's to CONNECT as well)
            made._create_connection = _connected
            made.response_class = lambda sock, *args, **named: Response(
                self._clock, sock, *args, **named
            )
            return made

        return self.do_open(connection, request)


def _connected(
    address: Tuple[str, int], timeout: float, source_address: Optional[Tuple[str, int]] = None
) -> socket.socket:
    sock = socket.create_connection(
        address, timeout * CONNECT_SHARE, source_address
    )  # for each address of the name
    sock.settimeout(timeout)
    return sock


class Response(http.client.HTTPResponse):
    """An answer whose every byte passes through `watched`."""

    def __init__(
        self, clock: Callable[[], float], sock: socket.socket, *args: Any, **named: Any
    ) -> None:
        super().__init__(sock, *args, **named)
        self.watched = _Watched(self.fp.detach(), clock)
        self.fp = io.BufferedReader(self.watched)


class _Watched(io.RawIOBase):
    """A socket that loses patience: under `MINIMUM_RATE` over `RATE_WINDOW_SECONDS` of waiting is the end.

    Here and not in the loop over the body, so that dripped or endless status lines, headers and chunk sizes are covered.
    Only time spent waiting counts; a progress callback may take as long as it likes.
    """

    def __init__(self, raw: io.RawIOBase, clock: Callable[[], float]) -> None:
        self._raw, self._clock = raw, clock
        self._waited_seconds, self._delivered, self._overhead = 0.0, 0, 0

    def deliver(self, count: int) -> None:
        """So many bytes of what was read were a body's."""
        self._delivered += count
        self._overhead = max(0, self._overhead - OVERHEAD_RATIO * count)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        began = self._clock()
        count = self._raw.readinto(buffer)
        self._waited_seconds += self._clock() - began
        self._overhead += count or 0
        if self._overhead > MAX_OVERHEAD_BYTES:
            raise DownloadError("the server sends headers or chunk sizes without end")
        if self._waited_seconds >= RATE_WINDOW_SECONDS:
            if self._delivered < MINIMUM_RATE * self._waited_seconds:
                raise DownloadError(
                    f"the server sends less than {MINIMUM_RATE} bytes a second: try again later"
                )
            self._waited_seconds, self._delivered = 0.0, 0
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


def explain(error: Exception, host: str) -> DownloadError:
    """The sentence for a request that failed; `Interrupted` if another attempt can end better."""
    reason = (
        error.reason
        if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception)
        else error
    )
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(_certificate_sentence(reason, host))
    if isinstance(reason, ValueError):
        return DownloadError(f"{host} cannot be asked: {reason}")
    if "Tunnel connection failed: 407" in str(reason):
        return DownloadError(
            f"{host}: the proxy wants a password, as in https_proxy=http://user:password@host:port",
            407,
        )
    for kind, sentence in _SENTENCES:
        if isinstance(reason, kind):
            return Interrupted(sentence.format(host=host))
    return Interrupted(f"the connection to {host} failed: {reason}")


_SENTENCES: Tuple[Tuple[type, str], ...] = (
    (
        socket.gaierror,
        "the name of {host} cannot be found: is the network connected, and is the address right?",
    ),
    (
        ConnectionRefusedError,
        "{host} refuses connections: its server is not running, or a firewall is in the way",
    ),
    (socket.timeout, "{host} does not answer in time: try again later, or raise `timeout`"),
    (
        TimeoutError,
        "{host} does not answer in time: try again later, or raise `timeout`",
    ),  # before 3.10, the system's own only
    (
        ssl.SSLError,
        "no encrypted connection to {host}: is it an https server, and nothing in between that intercepts it?",
    ),
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
