"""Documents, files and pieces of files from a server, whatever happens on the way.

`Transport.read` gets a small document, `download` a whole file, `download_range` a piece of one; the last two go on where
a broken connection, or a killed process, left them. Nothing is read beyond its announced length or its limit, and what
can pass is tried again. How one request is made, and what it must not do, is `wire`'s part; what is in the bytes, the caller's.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import random
import time
import zlib
from pathlib import Path
from typing import Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple, TypeVar, cast

from .errors import DownloadError
from .http_client import (
    MINIMUM_RATE,
    HttpClient,
    Interrupted,
    Response,
    host_of,
    resolve,
    run_with_timeout,
)

logger = logging.getLogger(__name__)
Outcome = TypeVar("Outcome")

MAX_DOWNLOAD_BYTES = (
    4 << 30
)  # ends an endless body when nobody said how long it is; no program is that large
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
GZIP_OVERHEAD_BYTES = 1024 + 2**14  # of what does not compress: a header, and 5 bytes in 16 kB


class Document(NamedTuple):
    """A small document, where it came from in the end, and what its server calls it."""

    url: str
    body: bytes
    content_type: str

    @property
    def is_html(self) -> bool:
        """Where JSON was asked for: the login page of a hotel's network, most likely. (A static host calls JSON HTML when its file is index.html.)"""
        start = self.body.lstrip()[:1]
        return start == b"<" or start != b"{" and self.content_type.startswith("text/html")


class Piece(NamedTuple):
    """What `download_range` wrote: the place of its first byte in the whole file, and the whole file's size."""

    offset: int
    total: int


class Transport:
    """What the server at `origin_url` has, and what its answers lead to; `headers` go to its origin only."""

    def __init__(
        self,
        origin_url: str,
        *,
        timeout_seconds: float = 30.0,
        retries: int = 3,
        verify_ssl: bool = True,
        ca_file: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
        chunk_size: int = 8192,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = HttpClient(
            origin_url,
            timeout_seconds=timeout_seconds,
            verify_ssl=verify_ssl,
            ca_file=ca_file,
            headers=headers or {},
            chunk_size=chunk_size,
            clock=clock,
        )
        self._retries, self._sleep, self._clock = retries, sleep, clock
        self.received = 0  #: bytes of files that travelled, broken attempts included

    def read(
        self,
        url: str,
        max_bytes: int,
        *,
        deadline_seconds: Optional[float] = None,
        retry: bool = True,
    ) -> Document:
        """The document at `url`, at most `max_bytes` long; everything, waiting for DNS included, within `deadline_seconds`."""
        url = resolve(self._http.base, url)
        ends = None if deadline_seconds is None else time.monotonic() + deadline_seconds

        def attempt() -> Document:
            with self._http.get(
                url, {"Accept-Encoding": "gzip"}, (200,), deadline_seconds
            ) as response:
                body = _whole_body(self._http.body(response), response, max_bytes)
                return Document(
                    response.url, body, response.headers.get("Content-Type", "").lower()
                )

        def attempt_in_time() -> Document:
            return (
                attempt()
                if ends is None
                else run_with_timeout(ends - time.monotonic(), url, attempt)
            )

        return self._persist(attempt_in_time, self._retries if retry else 0, lambda: 0, ends)

    def download(
        self,
        url: str,
        target: Path,
        size: Optional[int],
        progress: Callable[[int, int], None],
        *,
        max_bytes: int = MAX_DOWNLOAD_BYTES,
    ) -> None:
        """Writes the file at `url`, `size` bytes, to `target`.

        `progress` gets the number of bytes that are there, and of those that will be (as many, while nobody says it).
        A partial `target` of the same URL is continued if the server still has the same file; what is complete is left
        as it is, so delete a `target` whose content is wrong.
        """
        self._fill(
            _Partial(target, resolve(self._http.base, url), None, None, size, max_bytes), progress
        )

    def download_range(
        self,
        url: str,
        start: Optional[int],
        length: int,
        target: Path,
        size: Optional[int],
        progress: Callable[[int, int], None],
        *,
        max_bytes: int = MAX_DOWNLOAD_BYTES,
    ) -> Piece:
        """Writes `length` bytes from `start` on to `target`; `start` None means the last `length` bytes.

        `size` is the whole file's, if known. A server without ranges sends everything: `target` is the whole file then,
        and the answer `Piece(0, total)`.
        """
        partial = _Partial(target, resolve(self._http.base, url), start, length, size, max_bytes)
        self._fill(partial, progress)
        return Piece(partial.offset, partial.have if partial.total is None else partial.total)

    def _fill(self, partial: _Partial, progress: Callable[[int, int], None]) -> None:
        def attempt() -> None:
            if partial.is_complete():
                return
            with self._http.get(
                partial.url, partial.request_headers(), (200, 206, 416)
            ) as response, contextlib.closing(partial):
                partial.accept(response)
                for chunk in self._http.body(response):
                    partial.write(chunk)
                    self.received += len(chunk)
                    progress(partial.have, partial.announced)
            partial.check_length()
            progress(partial.have, partial.have)

        try:
            self._persist(attempt, self._retries, lambda: partial.furthest, None)
        except Interrupted:
            raise
        except DownloadError:
            partial.forget()  # a server that refuses to go on may still begin at the beginning
            raise

    def _persist(
        self,
        attempt: Callable[[], Outcome],
        retries: int,
        reached: Callable[[], int],
        ends: Optional[float],
    ) -> Outcome:
        """Tries until it works, or fails `retries` times more than is forgiven for the bytes that it brought."""
        failures, since, ground = 0, self._clock(), reached()
        while True:
            try:
                return attempt()
            except Interrupted as error:
                # New ground at the minimum rate, pauses included, is forgiven its failures: a server that hands out a
                # byte a connection does not get that far, nor one that begins at zero each time.
                now = self._clock()
                if reached() - ground >= MINIMUM_RATE * (now - since + FIRST_PAUSE_SECONDS):
                    failures, since, ground = 0, now, reached()
                failures += 1
                pause = error.pause_seconds
                if pause is None:
                    pause = min(
                        LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (failures - 1)
                    ) * random.uniform(0.5, 1)
                if failures > retries or (ends is not None and time.monotonic() + pause >= ends):
                    raise
                logger.info("%s; trying again in %.1f s", error, pause)
                self._sleep(pause)


class _Partial:
    """A file that is being filled, and the note beside it by which another process can go on.

    The note (`NAME.etag`) says what was asked for, which bytes of which file these are, and the file's validator; without
    a validator nothing is continued, as nobody could tell whether both halves belong to the same file.
    """

    def __init__(
        self,
        target: Path,
        url: str,
        start: Optional[int],
        length: Optional[int],
        size: Optional[int],
        max_bytes: int,
    ) -> None:
        self.url, self.offset, self.have, self.furthest = url, 0, 0, 0
        self.total: Optional[int] = None
        self._target, self._note = target, target.with_name(target.name + ".etag")
        self._asked = [url, start, length, size]
        self._start, self._length, self._size, self._max_bytes = start, length, size, max_bytes
        self._expected: Optional[int] = None  # bytes in a complete `target`
        self._validator = ""
        self._file: Optional[io.BufferedWriter] = None
        with contextlib.suppress(
            OSError, ValueError, LookupError, TypeError
        ):  # no note, or none of ours: begin at the beginning
            note = json.loads(self._note.read_bytes())
            if note["asked"] == self._asked:
                self.have = self.furthest = target.stat().st_size
                self.offset, self.total, self._expected, self._validator = note["is"]

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self._note.unlink()

    def is_complete(self) -> bool:
        return self.have == self._expected

    @property
    def announced(self) -> int:
        return self.have if self._expected is None else self._expected

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

    def accept(self, response: Response) -> None:
        """Agrees with the server on which bytes come; a 200 brings all of them, whatever was asked for."""
        host = host_of(response.url)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"{host} compresses a file that was asked for as it is")
        if response.status == 200:
            total = self._size if response.length is None else response.length
            return self._begin(response, 0, total, total)
        first, last, total = content_range(response.headers.get("Content-Range", ""))
        if (
            response.status == 206
            and self.have
            and (first, total) == (self.offset + self.have, self.total)
        ):
            return self._open("ab")
        if (
            response.status == 206
            and not self.have
            and total
            and (first, last) == self._wanted(total)
        ):
            return self._begin(response, first, total, last + 1 - first)
        refusal = (
            Interrupted if self.have else DownloadError
        )  # what was to be continued can begin again
        self.have = 0
        raise refusal(
            f"{host} answers a range of bytes with other bytes (HTTP {response.status})",
            response.status,
        )

    def _wanted(self, total: int) -> Optional[Tuple[int, int]]:
        """First and last of the asked range in a file of `total` bytes; None when the whole was asked for."""
        if self._length is None:
            return None
        first = max(0, total - self._length) if self._start is None else self._start
        return first, min(first + self._length, total) - 1

    def _begin(
        self, response: Response, offset: int, total: Optional[int], expected: Optional[int]
    ) -> None:
        if self._size is not None and total != self._size:
            raise DownloadError(
                f"{host_of(response.url)} offers {total} bytes where {self._size} were announced"
            )
        if (expected or 0) > self._max_bytes:
            raise DownloadError(
                f"{host_of(response.url)} offers {expected} bytes; the limit is {self._max_bytes}"
            )
        etag = response.headers.get("ETag", "")
        self._validator = (
            etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        )  # a weak ETag proves nothing
        self.offset, self.total, self._expected, self.have = offset, total, expected, 0
        self._open("wb")  # before the note: a note must never speak of older bytes
        with _disk(self._note), open(self._note, "wb", opener=_open_private) as note:
            note.write(
                json.dumps(
                    {"asked": self._asked, "is": [offset, total, expected, self._validator]}
                ).encode()
            )

    def _open(self, mode: str) -> None:
        with _disk(self._target):
            self._file = cast(io.BufferedWriter, open(self._target, mode, opener=_open_private))

    def write(self, chunk: bytes) -> None:
        assert self._file is not None
        limit = self._max_bytes if self._expected is None else self._expected
        if self.have + len(chunk) > limit:
            raise DownloadError(
                f"{host_of(self.url)} sends more than the {limit} bytes that it may"
            )
        with _disk(self._target):
            self._file.write(chunk)
        self.have += len(chunk)
        self.furthest = max(self.furthest, self.have)

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with _disk(self._target):
                file.close()

    def check_length(self) -> None:
        if self._expected is not None and self.have < self._expected:
            raise Interrupted(
                f"{host_of(self.url)} stopped {self._expected - self.have} bytes too early"
            )


def _open_private(name: str, flags: int) -> int:
    """For a file that nobody else can change between its check and its use, whatever the umask."""
    return os.open(name, flags, 0o600)


@contextlib.contextmanager
def _disk(target: Path) -> Iterator[None]:
    """The disk's errors are not the network's: trying again does not make room."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        if full:
            with contextlib.suppress(OSError):
                target.unlink()  # the user needs the room more than we the head start
        raise DownloadError(
            f"{target}: " + ("the disk is full" if full else f"cannot be written: {error.strerror}")
        ) from error


def _whole_body(body: Iterator[bytes], response: Response, max_bytes: int) -> bytes:
    """The whole body, unpacked if it came as gzip, and never more than `max_bytes` of it."""
    encoding, host = (
        response.headers.get("Content-Encoding", "identity").lower(),
        host_of(response.url),
    )
    if encoding not in ("gzip", "identity"):
        raise DownloadError(f"{host} compresses with {encoding}, which was not asked for")
    inflater, document, came = zlib.decompressobj(31), bytearray(), 0
    try:
        for chunk in body:
            came += len(chunk)
            document += (
                inflater.decompress(chunk, max_bytes + 1 - len(document))
                if encoding == "gzip"
                else chunk
            )
            if (
                len(document) > max_bytes or came > max_bytes + GZIP_OVERHEAD_BYTES
            ):  # gzip can go on for ever and unpack to nothing
                raise DownloadError(
                    f"{host} sends a document longer than the {max_bytes} bytes that it may have"
                )
            if inflater.eof:
                break  # what comes behind the end, zlib would keep
    except zlib.error as error:
        raise Interrupted(f"{host} sends gzip that is damaged: {error}") from error
    if encoding == "gzip" and not inflater.eof:
        raise Interrupted(f"{host} sends gzip that ends too early")
    return bytes(document)


def content_range(header: str) -> Tuple[int, int, Optional[int]]:
    """First, last and total of `bytes 0-9/100` (RFC 9110, 14.4); total None for anything else."""
    unit, _, span = header.partition(" ")
    numbers = span.replace("/", "-").split("-")
    if (
        unit.lower() != "bytes"
        or len(numbers) != 3
        or not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers)
    ):
        return -1, -1, None
    first, last, total = map(int, numbers)
    return (first, last, total) if first <= last < total else (-1, -1, None)
