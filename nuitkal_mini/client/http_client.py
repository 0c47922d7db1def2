"""One GET over urllib, for a client that trusts neither the network nor the server.

`HttpClient.get` returns the response behind all redirects, `HttpClient.body` its bytes. The rules:
only http and https, and https stays https; the configured headers go to one origin only; every wait
has an end, also for a server that sends a byte a second and for a name service that never answers;
every failure is a `DownloadError` whose sentence names the host and what to do. This module follows
redirects itself, as urllib reads their bodies whole and passes our headers on to other hosts.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import io
import json
import logging
import math
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
Outcome = TypeVar("Outcome")

READ_BYTES = 2**18  # at a time: 8 kB cost a third more CPU time for 52 MB
MAX_REDIRECTS = 10  # browsers and curl follow 20 to 50, a CDN needs two
MINIMUM_RATE = 1000  # bytes per second; GPRS had 4,000
RATE_WINDOW_SECONDS = 60.0  # a train goes through a tunnel in less
# Status lines, headers, chunk sizes and trailers: http.client would read them without end.
MAX_OVERHEAD_BYTES = 2**20
# The standard library's parser takes quadratic time for a Content-Type: 12 s for 64 kB. Apache and
# nginx take lines of 8 kB.
MAX_LINE_BYTES = 8192
OVERHEAD_RATIO = 10  # of these to one byte of a body: chunks of one byte need six
# One attempt's part of a time-out: when a name's first address (IPv6, often) swallows packets, the
# next one gets its turn.
CONNECT_SHARE = 0.4
HOP_TIMEOUTS = 2  # DNS, two connection attempts, TLS and the first bytes of the response fit in
LONGEST_RETRY_AFTER_SECONDS = 60.0  # somebody may be looking at a progress bar
ERROR_BODY_BYTES = 4096  # enough for {"error": "<sentence>", "code": …}
MAX_HOST_CHARACTERS = 253  # RFC 1035; Python's IDNA encoder takes quadratic time
# Where distributions keep the CAs: the OpenSSL in a frozen binary looks where its build machine had
# them.
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
)
URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986: reserved, and % because what is quoted stays so
DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
RETRYABLE = (408, 425, 429)  # of the 4xx
FINAL = (501, 505, 511)  # of the 5xx
HINTS = {
    401: ": the server wants a login, which the app's developer configures",
    403: ": the server does not allow it",
    404: ": is the address right?",
    407: ": the proxy wants a password, as in http_proxy=http://user:password@host:port",
}


class Interrupted(DownloadError):
    """A failure that another attempt may not meet; `pause_seconds` is what the server asked for."""

    pause_seconds: Optional[float] = None


class HttpClient:
    """Sends GET requests to the server at `origin_url`, and to wherever its responses lead.

    `timeout_seconds` is that of one operation of the network. `headers` go to the origin only.
    `proxy` None means the one of the system, "" none at all.
    """

    def __init__(
        self,
        origin_url: str,
        *,
        timeout_seconds: float = 30.0,
        verify_ssl: bool = True,
        ca_file: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
        proxy: Optional[str] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base, self.clock = resolve(origin_url, ""), clock
        self._headers, self._timeout_seconds = dict(headers or {}), timeout_seconds
        self._proxies = _proxies(proxy)
        handler = _HttpHandler(clock, verify_ssl, ca_file)
        self._direct, self._proxied = _opener(handler, {}), _opener(handler, self._proxies)
        if not verify_ssl:
            logger.warning(
                "verify_ssl is off: anybody on the network can pose as %s", host_of(self.base)
            )

    def get(
        self,
        url: str,
        request_headers: Mapping[str, str],
        accepted: Tuple[int, ...],
        ends: float = math.inf,
    ) -> HttpResponse:
        """The response, if its status is an `accepted` one; it and its body are there by `ends`.

        Raises:
            Interrupted: another attempt may succeed.
            DownloadError: it would not; `status` is that of the response, if there was one.
        """
        at_home = origin_of(url) == origin_of(self.base)
        headers = {**(self._headers if at_home else {}), **request_headers}
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(url, headers, ends)
            if response.status in accepted:
                return response
            with response:
                if response.status not in REDIRECTS:
                    raise self._refusal(response)
                location = response.headers.get("Location", "")
            # http.client decodes headers as Latin-1; encoding them so gives the bytes back.
            quoted = urllib.parse.quote(location, safe=URL_CHARACTERS, encoding="latin-1")
            url = resolve(url, quoted)
            if origin_of(url) != origin_of(self.base):
                headers = dict(request_headers)  # for good, also if a redirect leads back
        raise DownloadError(f"{host_of(url)} redirects without end")

    def _send(self, url: str, headers: Dict[str, str], ends: float) -> HttpResponse:
        # A socket takes neither an infinite time nor one that is no number.
        timeout_seconds = min(threading.TIMEOUT_MAX, self._timeout_seconds, ends - self.clock())
        if timeout_seconds <= 0:
            raise Interrupted(f"there is no time left to ask {host_of(url)}")

        def send() -> HttpResponse:
            opener = self._proxied if self._proxy_for(url) else self._direct
            try:
                request = _Request(url, headers=headers)
                request.ends = ends
                return cast(HttpResponse, opener.open(request, timeout=timeout_seconds))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise explain(error, self._peer(url)) from error

        return run_with_timeout(min(HOP_TIMEOUTS * timeout_seconds, ends - self.clock()), url, send)

    def _proxy_for(self, url: str) -> str:
        """The proxy for this URL; empty for none."""
        parts = urllib.parse.urlsplit(url)
        proxy = self._proxies.get(parts.scheme, "")
        if not proxy or urllib.request.proxy_bypass(parts.netloc):
            return ""
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        if is_direct(parts.hostname or "", port, self._proxies.get("no", "")):
            return ""
        if "://" in proxy and not proxy.lower().startswith(("http://", "https://")):
            kind = proxy.partition(":")[0]
            raise DownloadError(f"the proxy for {host_of(url)} is {kind}://: use an http:// one")
        return proxy

    def _peer(self, url: str) -> str:
        """The host of a failed connection: with a proxy, either may be the one that failed."""
        proxy = self._proxy_for(url).rpartition("@")[2]
        return host_of(url) + (f" (through the proxy {proxy})" if proxy else "")

    def body(self, response: HttpResponse) -> Iterator[bytes]:
        """The body's bytes as they come, cut at its announced length.

        Raises:
            Interrupted: it is shorter than announced.
        """
        left = response.length
        while left is None or left > 0:
            try:  # read1 returns what is there; read() would wait until READ_BYTES are
                chunk = response.read1(READ_BYTES if left is None else min(READ_BYTES, left))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise explain(error, host_of(response.url)) from error
            if not chunk:
                break
            response.reader.count_body(len(chunk))
            left = None if left is None else left - len(chunk)
            yield chunk
        if left:
            raise Interrupted(
                f"the connection to {host_of(response.url)} broke, {left} bytes before the end"
            )

    def _refusal(self, response: HttpResponse) -> DownloadError:
        """The error for a status that was not accepted, with the server's own sentence if any."""
        status, body = response.status, b""
        with contextlib.suppress(DownloadError):
            for chunk in self.body(response):
                body += chunk
                if len(body) > ERROR_BODY_BYTES:
                    break
        code, sentence = _error_of(body)
        detail = f": {sentence}" if sentence else HINTS.get(status, "")
        text = f"{host_of(response.url)} answers HTTP {status}{detail}"
        if status in FINAL or (status < 500 and status not in RETRYABLE):
            return DownloadError(text, status, code)
        error = Interrupted(text, status, code)
        error.pause_seconds = retry_after(response.headers.get("Retry-After", ""), time.time())
        return error


class _Request(urllib.request.Request):
    """A request whose response must be whole by `ends`."""

    ends = math.inf


def _opener(
    handler: urllib.request.BaseHandler, proxies: Dict[str, str]
) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()  # build_opener() would add file:, ftp: and data:
    # Servers write their sentences in English then; they become part of ours.
    opener.addheaders = [("User-Agent", "nuitkal_mini"), ("Accept-Language", "en")]
    opener.add_handler(urllib.request.ProxyHandler(proxies))
    opener.add_handler(handler)
    return opener


def _proxies(proxy: Optional[str]) -> Dict[str, str]:
    """The proxy of each scheme; `no` holds the hosts that are asked directly, also then."""
    proxies = urllib.request.getproxies()
    if proxy is not None:
        proxies = {"http": proxy, "https": proxy, "no": proxies.get("no", "")}
    elif proxies.get("all", "socks").startswith(
        "http"
    ):  # all_proxy: curl reads it, urllib does not
        proxies = {"http": proxies["all"], "https": proxies["all"], **proxies}
    return proxies


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether `no_proxy` names the host: `*`, a name or its suffix, an address, a network.

    A name or an address may carry a port: `db.example:8443`, `[::1]:80`.
    """
    host = host.rstrip(".").lower()
    for entry in no_proxy.replace(",", " ").lower().split():
        name, wanted_port = entry, ""
        if entry.startswith("["):
            name, _, rest = entry[1:].partition("]")
            wanted_port = rest[1:]
        elif entry.count(":") == 1:
            name, _, wanted_port = entry.partition(":")
        if wanted_port and wanted_port != str(port):
            continue
        name = name.lstrip("*").strip(".")
        if not name and "*" in entry:
            return True
        if name and (host == name or host.endswith("." + name) or _in_network(host, name)):
            return True
    return False


def _in_network(host: str, network: str) -> bool:
    import ipaddress  # 5 ms, for those who have a proxy

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _error_of(body: bytes) -> Tuple[str, str]:
    """`code` and `error` of an error body in JSON, short and printable; empty without one."""
    try:
        values = json.loads(body[:ERROR_BODY_BYTES])
        sentence = "".join(c for c in str(values["error"])[:300] if c.isprintable())
        return str(values["code"])[:64], sentence
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", ""


def retry_after(header: str, now: float) -> Optional[float]:
    """The seconds that a Retry-After header asks for, 60 at most; None without a valid one."""
    header = header[:64]  # int() takes quadratic time
    seconds: Optional[float] = None
    with contextlib.suppress(ValueError, OverflowError, TypeError, IndexError):
        date = email.utils.parsedate_tz(header)
        seconds = int(header) if date is None else email.utils.mktime_tz(date) - now
    return None if seconds is None else min(max(seconds, 0), LONGEST_RETRY_AFTER_SECONDS)


def run_with_timeout(seconds: float, url: str, call: Callable[[], Outcome]) -> Outcome:
    """The result of `call`, if it takes no longer than `seconds`; else its thread is abandoned.

    A DNS query that hangs cannot be cancelled, and an executor would wait for it at exit.
    """
    outcome: List[Tuple[Optional[Outcome], Optional[BaseException]]] = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ends = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < ends:
        # In slices: Windows delivers Ctrl-C only between waits.
        thread.join(max(0.0, min(0.1, ends - time.monotonic())))
    if not outcome:
        raise Interrupted(
            f"{host_of(url)} did not answer within {seconds:.3g} seconds: is the network connected?"
        )
    result, error = outcome[0]
    if error is not None:
        raise error
    return cast(Outcome, result)


def resolve(base: str, reference: str) -> str:
    """The absolute URL of `reference` in a document from `base`: http or https.

    Raises:
        DownloadError: it is no such URL, or http where `base` is https.
    """
    try:
        base, quoted = (
            urllib.parse.quote(url.strip(), safe=URL_CHARACTERS) for url in (base, reference)
        )
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, quoted))
        host, port = urllib.parse.unquote(parts.hostname or ""), parts.port
        if len(host) > MAX_HOST_CHARACTERS:
            raise ValueError("its host name is too long")
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except ValueError as error:
        raise DownloadError(f"{reference or base} is not an address: {error}") from error
    if parts.username is not None:
        raise DownloadError(f"the address of {host} must not hold a user name or a password")
    if parts.scheme not in DEFAULT_PORTS or not host:
        raise DownloadError(f"{reference or base} is not an http:// or https:// address")
    if parts.scheme == "http" and urllib.parse.urlsplit(base).scheme == "https":
        raise DownloadError(
            f"{host_of(base)} leads from https to http, to {host}: refused, as anybody could read "
            "and change it"
        )
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc += f":{port}"
    return parts._replace(netloc=netloc, fragment="").geturl()


def origin_of(url: str) -> Tuple[str, str, int]:
    """Scheme, host and port."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]


def host_of(url: str) -> str:
    """`host:port` as the URL has it, for sentences."""
    return urllib.parse.urlsplit(url).netloc


class _HttpHandler(urllib.request.HTTPHandler):
    """Opens http and https connections whose responses are `HttpResponse`s."""

    def __init__(
        self, clock: Callable[[], float], verify_ssl: bool, ca_file: Optional[str]
    ) -> None:
        super().__init__()
        self._clock, self._verify_ssl, self._ca_file = clock, verify_ssl, ca_file
        self._context: Optional[ssl.SSLContext] = None

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        if self._context is None:  # reading the CAs takes 10 to 65 ms, which http need not pay
            self._context = tls_context(self._verify_ssl, self._ca_file)
        return self._open(http.client.HTTPSConnection, request, context=self._context)

    https_request = urllib.request.HTTPHandler.http_request

    def _open(
        self, kind: Any, request: urllib.request.Request, **options: Any
    ) -> http.client.HTTPResponse:
        ends = request.ends if isinstance(request, _Request) else math.inf

        def response_class(sock: socket.socket, *args: Any, **named: Any) -> HttpResponse:
            return HttpResponse(self._clock, ends, sock, *args, **named)

        def connection(host: str, **more: Any) -> Any:
            made = kind(host, **options, **more)
            # http.client's hooks since 3.2; a proxy's response to CONNECT goes through them too.
            made._create_connection = _create_connection
            made.response_class = response_class
            return made

        return self.do_open(connection, request)


def _create_connection(
    address: Tuple[str, int], timeout: float, source_address: Optional[Tuple[str, int]] = None
) -> socket.socket:
    # This time-out is that of each address of the name.
    sock = socket.create_connection(address, timeout * CONNECT_SHARE, source_address)
    sock.settimeout(timeout)
    return sock


class HttpResponse(http.client.HTTPResponse):
    """A response whose every byte passes through `reader`."""

    def __init__(
        self,
        clock: Callable[[], float],
        ends: float,
        sock: socket.socket,
        *args: Any,
        **named: Any,
    ) -> None:
        super().__init__(sock, *args, **named)
        self.reader = _GuardedReader(self.fp.detach(), sock, clock, ends)
        self.fp = _LineReader(self.reader)


class _LineReader(io.BufferedReader):
    """Refuses status lines, header lines and chunk sizes of more than `MAX_LINE_BYTES`."""

    def readline(self, size: Optional[int] = -1) -> bytes:
        line = super().readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise http.client.LineTooLong("header line")
        return line


class _GuardedReader(io.RawIOBase):
    """Reads a socket, and stops at `ends` or when the server is slower than `MINIMUM_RATE`.

    The rate is measured over `RATE_WINDOW_SECONDS` of waiting: the time that a progress callback
    takes does not count. Status lines, headers and chunk sizes pass through here as well, so a
    server that sends these byte by byte or without end is stopped too.
    """

    def __init__(
        self, raw: io.RawIOBase, sock: socket.socket, clock: Callable[[], float], ends: float
    ) -> None:
        self._raw, self._sock, self._clock, self._ends = raw, sock, clock, ends
        self._waited_seconds, self._body_bytes, self._overhead = 0.0, 0, 0

    def count_body(self, count: int) -> None:
        """Counts `count` of the bytes that were read as a body's."""
        self._body_bytes += count
        self._overhead = max(0, self._overhead - OVERHEAD_RATIO * count)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        began = self._clock()
        self._check_time(began)
        count = self._raw.readinto(buffer)
        self._waited_seconds += self._clock() - began
        self._overhead += count or 0
        if self._overhead > MAX_OVERHEAD_BYTES:
            raise DownloadError("the server sends headers or chunk sizes without end")
        if self._waited_seconds >= RATE_WINDOW_SECONDS:
            if self._body_bytes < MINIMUM_RATE * self._waited_seconds:
                raise DownloadError(
                    f"the server sends less than {MINIMUM_RATE} bytes a second: try again later"
                )
            self._waited_seconds, self._body_bytes = 0.0, 0
        return count

    def _check_time(self, now: float) -> None:
        """Lets the next read last until `ends` at most."""
        left = self._ends - now
        if left <= 0:
            raise Interrupted("the server did not send everything in the time that it had")
        if left < (self._sock.gettimeout() or math.inf):
            self._sock.settimeout(left)

    def close(self) -> None:
        self._raw.close()
        super().close()


def tls_context(verify_ssl: bool, ca_file: Optional[str]) -> ssl.SSLContext:
    """A context that trusts `ca_file` alone if there is one, else the system's authorities."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise DownloadError(f"ca_file {ca_file} cannot be used: {error}") from error
    if not verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is None and os.name == "posix" and not _finds_authorities(context):
        for bundle in filter(os.path.isfile, CA_BUNDLES):
            with contextlib.suppress(OSError):  # ssl.SSLError is one: an empty file
                context.load_verify_locations(bundle)
                break
    return context


def _finds_authorities(context: ssl.SSLContext) -> bool:
    """Whether OpenSSL has loaded a CA, or can find one by its hash in its folder.

    Fedora's /etc/ssl/certs has no hashed files: a folder alone proves nothing.
    """
    if context.cert_store_stats()["x509"]:
        return True
    folder = ssl.get_default_verify_paths().capath
    try:
        names = os.listdir(folder) if folder else []
    except OSError:
        return False
    return any(name[8:9] == "." and name[9:].isdigit() for name in names)


def explain(error: Exception, host: str) -> DownloadError:
    """The error for a request that failed; `Interrupted` if another attempt may succeed."""
    reason: Exception = error
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        reason = error.reason
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


_LATE = "{host} does not answer in time: try again later"
_SENTENCES: Tuple[Tuple[type, str], ...] = (
    (
        socket.gaierror,
        "the name of {host} cannot be found: is the network connected, and is the address right?",
    ),
    (
        ConnectionRefusedError,
        "{host} refuses connections: its server is not running, or a firewall is in the way",
    ),
    (socket.timeout, _LATE),
    (TimeoutError, _LATE),  # before 3.10 this is another class
    (
        ssl.SSLError,
        "no encrypted connection to {host}: is it an https server, and nothing in between that "
        "intercepts it?",
    ),
    (ConnectionError, "the connection to {host} broke: try again"),
    (http.client.HTTPException, "{host} answers, but not in HTTP: is the address right?"),
)


def _certificate_sentence(error: ssl.SSLCertVerificationError, host: str) -> str:
    code = error.verify_code  # OpenSSL's X509_V_ERR_…
    subject = f"the certificate of {host}"
    if code in (9, 10):
        validity = "not yet valid" if code == 9 else "out of date"
        return f"{subject} is {validity}: check the computer's clock and date"
    if code in (2, 18, 19, 20, 21):
        return (
            f"{subject} comes from an authority that this computer does not know: name its file in "
            "`ca_file`"
        )
    return f"{subject} does not fit: {error.verify_message}"
