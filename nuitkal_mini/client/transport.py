"""Documents, files and ranges of files from a server, over connections that may break.

`Transport.read` returns a small document, `download` writes a whole file, `download_range` a part
of one. Both write each byte at its true offset in one file, and go on where a broken connection or
a killed process left it. A server that refuses ranges, or answers them wrongly, is asked for the
whole file, once. Nothing is read beyond its announced length or its limit; what may pass is tried
again. `http_client` makes the single requests; whether the bytes are right, their hash tells: the
caller checks it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import math
import os
import random
import sys
import time
import zlib
from pathlib import Path
from typing import Callable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, cast

from .errors import DownloadError
from .http_client import (
    MINIMUM_RATE,
    HttpClient,
    HttpResponse,
    Interrupted,
    Outcome,
    host_of,
    resolve,
)
from .plan import Range, merge_ranges

logger = logging.getLogger(__name__)

MAX_DOWNLOAD_BYTES = 4 << 30  # of a file whose size nobody says; no program is that large
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
GZIP_OVERHEAD_BYTES = 1024 + 2**14  # of what does not compress: a header, and 5 bytes in 16 kB
_JITTER = random.Random()  # not the global one, which is the program's to seed
NOTE_BYTES = 2**20  # a killed process loses at most so much of what it received


class Document(NamedTuple):
    """A small document, the URL that it came from in the end, and its media type."""

    url: str
    body: bytes
    content_type: str

    @property
    def is_html(self) -> bool:
        """Whether it is a web page where JSON was asked for: a network's login page, most likely.

        JSON with the type text/html is not: a static host calls check/index.html so.
        """
        start = self.body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        return start == b"<" or start != b"{" and self.content_type.startswith("text/html")


class Transport:
    """Reads what `http_client` can reach, as often as it takes.

    Args:
        retries: attempts after the first one that failed in a row.
        chunk_size: bytes between two calls of a `progress` callback.
    """

    def __init__(
        self,
        http_client: HttpClient,
        *,
        retries: int = 3,
        chunk_size: int = 8192,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http, self._clock, self._sleep = http_client, http_client.clock, sleep
        self._retries, self._chunk_size = retries, max(chunk_size, 1)
        self.ends = math.inf  #: on the clock: when every request, body and pause must be over
        self.received = 0  #: bytes of files that came over the network, those of failures included

    def read(
        self,
        url: str,
        max_bytes: int,
        *,
        deadline_seconds: Optional[float] = None,
        retry: bool = True,
    ) -> Document:
        """The document at `url`, at most `max_bytes` long.

        Everything is over within `deadline_seconds`, DNS, redirects and retries included.
        """
        url = resolve(self._http.base, url)
        ends = self.ends
        if deadline_seconds is not None:
            ends = min(ends, self._clock() + deadline_seconds)

        def attempt() -> Document:
            with self._http.get(url, {"Accept-Encoding": "gzip"}, (200,), ends) as response:
                body = _whole_body(self._http.body(response), response, max_bytes)
                media_type = response.headers.get("Content-Type", "").lower()
                return Document(response.url, body, media_type)

        return self._persist(attempt, self._retries if retry else 0, lambda: 0, ends)

    def download(
        self,
        url: str,
        target: Path,
        size: Optional[int],
        progress: Callable[[int, int], None],
        *,
        max_bytes: int = MAX_DOWNLOAD_BYTES,
    ) -> bool:
        """Writes the file at `url`, `size` bytes, to `target`; whether one response brought it all.

        `progress` gets the number of bytes that are there, and of those that will be (the same,
        while nobody says it). Bytes of the same URL and size that are in `target` are not asked for
        again, so delete a `target` whose hash is wrong.
        """
        partial = PartialFile(target, resolve(self._http.base, url), size, max_bytes, None)
        self._fill(partial, progress)
        return partial.responses == 1

    def download_range(
        self,
        url: str,
        wanted: Range,
        target: Path,
        size: int,
        progress: Callable[[int, int], None],
    ) -> Range:
        """Writes the bytes `wanted` of the file at `url` to `target`, at their true offsets.

        Returns the range around them that `target` has: the whole file, if the server sent that.
        """
        partial = PartialFile(target, resolve(self._http.base, url), size, size, wanted)
        self._fill(partial, progress)
        return partial.around(wanted)

    def _fill(self, partial: PartialFile, progress: Callable[[int, int], None]) -> None:
        def attempt() -> None:
            while True:
                missing = partial.first_missing()
                if missing is None:
                    return progress(partial.have, partial.have)
                self._request(partial, missing, progress)

        self._persist(attempt, self._retries, lambda: partial.furthest, self.ends)

    def _request(
        self, partial: PartialFile, missing: Range, progress: Callable[[int, int], None]
    ) -> None:
        """Asks for the bytes `missing` once, and writes those that come."""
        before, headers = partial.have, partial.range_header(missing)
        try:
            accepted = (200, 206) if headers else (200,)
            with self._http.get(
                partial.url, headers, accepted, self.ends
            ) as response, contextlib.closing(partial):
                partial.accept(response, missing)
                for chunk in self._http.body(response):
                    self.received += len(chunk)
                    self._write(partial, chunk, progress)
                    if partial.is_response_complete():
                        break
            partial.check_length()
        except Interrupted:
            # The last attempt is one for the whole file: something may let no range pass.
            partial.fruitless = partial.fruitless + 1 if partial.have == before else 0
            partial.use_ranges &= partial.fruitless < max(self._retries, 1)
            raise
        except DownloadError as error:
            if not headers or error.status is None:
                raise
            logger.info("%s when asked for a range; asking for the whole file", error)
            partial.use_ranges = False

    def _write(
        self, partial: PartialFile, chunk: bytes, progress: Callable[[int, int], None]
    ) -> None:
        before = partial.have
        partial.write(chunk)
        will_have = partial.will_have()
        for have in range(before + self._chunk_size, partial.have, self._chunk_size):
            progress(have, will_have)
        progress(partial.have, will_have)

    def _persist(
        self,
        attempt: Callable[[], Outcome],
        retries: int,
        furthest: Callable[[], int],
        ends: float,
    ) -> Outcome:
        """Attempts until one succeeds, or `retries` + 1 in a row have failed, or it is `ends`.

        An attempt that got further than any before, at the minimum rate with its pauses, counts as
        no failure. A server that sends a byte a connection does not get that far, nor one that
        begins at zero each time.
        """
        failures, since, start = 0, self._clock(), furthest()
        while True:
            try:
                return attempt()
            except Interrupted as error:
                now = self._clock()
                if furthest() - start >= MINIMUM_RATE * (now - since + FIRST_PAUSE_SECONDS):
                    failures, since, start = 0, now, furthest()
                failures += 1
                pause = error.pause_seconds
                if pause is None:
                    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (failures - 1))
                    pause = longest * _JITTER.uniform(0.5, 1)
                if failures > retries or now + pause >= ends:
                    raise
                logger.info("%s; trying again in %.1f s", error, pause)
                self._sleep(pause)


class PartialFile:
    """A file of which some ranges have arrived, each at its true offset.

    The note beside it (`NAME.ranges`) lets another process go on: a line of JSON with the URL and
    the size, then a line `START END` for each range. Lines are only added, each after its bytes,
    and a line without its end is not believed.
    """

    def __init__(
        self,
        path: Path,
        url: str,
        size: Optional[int],
        max_bytes: int,
        wanted: Optional[Range],
    ) -> None:
        self.url, self._announced, self._wanted = url, size, wanted
        self.size = size  # as announced, or as a response has said it
        self.responses = 0  # that brought the bytes; those of an earlier process count as two
        self.use_ranges = True
        self.fruitless = 0  # requests in a row that brought no byte
        self.furthest = 0  # the most bytes that were ever here
        self._path, self._note = path, path.with_name(path.name + ".ranges")
        self._max_bytes = max_bytes
        self._arrived: List[Range] = []
        self._is_whole = False  # the response, not a range
        self._running = Range(0, 0)  # where the next byte of the response goes, and its end
        self._noted = 0  # the note knows the response's bytes up to this offset
        self._file: Optional[io.BufferedRandom] = None
        # Without a note, or with another file's, everything is missing.
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            self._load(self._note.read_bytes().split(b"\n")[:-1])

    def _load(self, lines: List[bytes]) -> None:
        url, size = json.loads(lines[0])
        if url != self.url or self.size not in (None, size) or type(size) is not int:
            return
        end = self._path.stat().st_size
        parts = [Range(*map(int, line.split())) for line in lines[1:]]
        if end <= size:
            good = sorted(part for part in parts if 0 <= part.start < part.end <= end)
            self._arrived = merge_ranges(good, 0)
            self.size, self.furthest, self.responses = size, self.have, 2 if good else 0

    @property
    def have(self) -> int:
        """The number of bytes that have arrived."""
        return sum(part.end - part.start for part in self._arrived)

    def first_missing(self) -> Optional[Range]:
        """The first range that is wanted and has not arrived."""
        start, end = self._wanted or Range(0, self._max_bytes if self.size is None else self.size)
        for part in self._arrived:
            if part.start > start:
                end = min(end, part.start)
                break
            start = max(start, part.end)
        return Range(start, end) if start < end or (end == 0 and not self.responses) else None

    def around(self, wanted: Range) -> Range:
        """The range without a gap that holds `wanted`."""
        return next(part for part in self._arrived if part.start <= wanted.start < part.end)

    def will_have(self) -> int:
        """The number of bytes that will have arrived when what is wanted and the response have."""
        if self.size is None:
            return self.have
        goal = [*self._arrived, self._running, self._wanted or Range(0, self.size)]
        return sum(part.end - part.start for part in merge_ranges(sorted(goal), 0))

    def range_header(self, missing: Range) -> Mapping[str, str]:
        """The header that asks for `missing`; empty where the whole file is asked for."""
        known = self._wanted or (self._arrived and self.size is not None)
        if not known or not self.use_ranges:
            return {}
        return {"Range": f"bytes={missing.start}-{missing.end - 1}"}

    def accept(self, response: HttpResponse, missing: Range) -> None:
        """Takes from the response's head which bytes follow.

        Raises:
            RangeRefused: they are not those that are missing.
            DownloadError: they are not those that are missing, or the file has not the announced
                size, or it is longer than it may be.
        """
        host, length, self._is_whole = host_of(response.url), response.length, False
        if response.status == 206:
            first, last, total = content_range(response.headers.get("Content-Range", ""))
            if first != missing.start or last + 1 < missing.end or total not in (None, self.size):
                raise DownloadError(f"{host} answers HTTP 206 with other bytes", 206)
            return self._open(missing)
        if self._announced is not None and length not in (None, self._announced):
            raise DownloadError(
                f"{host} offers {length} bytes where {self._announced} were announced", 200
            )
        if (length or 0) > self._max_bytes:
            raise DownloadError(f"{host} offers {length} bytes; the limit is {self._max_bytes}")
        if self._announced is None and (length is None or length != self.size):
            self._arrived, self.size = [], length  # another file than before
        self._is_whole = True
        self._open(Range(0, self._max_bytes if self.size is None else self.size))

    def _open(self, coming: Range) -> None:
        with _disk(self._path):
            mode = "r+b" if self._arrived else "w+b"
            self._file = cast(io.BufferedRandom, open(self._path, mode, opener=_open_private))
            if sys.platform == "win32" and not self._arrived:
                _make_sparse(self._file)
            self._file.seek(coming.start)
        if not self._arrived:  # after the file was emptied: the old note is of other bytes
            with _disk(self._note), open(self._note, "wb", opener=_open_private) as note:
                if self.size is not None:
                    note.write(json.dumps([self.url, self.size]).encode("ascii") + b"\n")
        self._running, self._noted = coming, coming.start
        self.responses += 1

    def write(self, chunk: bytes) -> None:
        """Writes the next bytes of the response."""
        assert self._file is not None
        start, end = self._running
        if start + len(chunk) > end:
            if self._is_whole:
                host = host_of(self.url)
                raise DownloadError(f"{host} sends more than the {end} bytes that it may")
            chunk = chunk[: end - start]
        with _disk(self._path):
            self._file.write(chunk)
        self._running = Range(start + len(chunk), end)
        part = Range(start, start + len(chunk))
        self._arrived = merge_ranges(sorted([*self._arrived, part]), 0)
        self.furthest = max(self.furthest, self.have)
        if self._running.start - self._noted >= NOTE_BYTES:
            self._write_note()

    def is_response_complete(self) -> bool:
        """Whether all bytes have come that were asked for; a server may send more."""
        return self.size is not None and self._running.start >= self._running.end

    def check_length(self) -> None:
        """Raises Interrupted when the response ended too early."""
        left = self._running.end - self._running.start
        if self.size is None:  # the end of the body is the only sign of the end of the file
            self.size = self._running.start
        elif left > 0:
            raise Interrupted(f"{host_of(self.url)} stopped {left} bytes too early")

    def _write_note(self) -> None:
        assert self._file is not None
        if self.size is not None and self._running.start > self._noted:
            with _disk(self._path):
                self._file.flush()
            with _disk(self._note), open(self._note, "ab", opener=_open_private) as note:
                note.write(b"%d %d\n" % (self._noted, self._running.start))
            self._noted = self._running.start

    def close(self) -> None:
        """Ends the response: its bytes are in the file, and in the note."""
        if self._file is not None:
            try:
                self._write_note()
            finally:
                file, self._file = self._file, None
                with _disk(self._path):
                    file.close()


def _open_private(name: str, flags: int) -> int:
    """An opener for a file that nobody else may change, whatever the umask."""
    return os.open(name, flags, 0o600)


if sys.platform == "win32":

    def _make_sparse(file: io.BufferedRandom) -> None:
        """Asks NTFS not to fill the gaps with zeros, as other systems do without being asked."""
        import ctypes
        import msvcrt

        handle = ctypes.c_void_p(msvcrt.get_osfhandle(file.fileno()))
        fsctl_set_sparse, returned = 0x900C4, ctypes.c_ulong()
        control = ctypes.windll.kernel32.DeviceIoControl
        control(handle, fsctl_set_sparse, None, 0, None, 0, ctypes.byref(returned), None)


@contextlib.contextmanager
def _disk(target: Path) -> Iterator[None]:
    """Turns the disk's errors into final ones: trying again does not make room."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        if full:  # the user needs the room more than we need the bytes
            with contextlib.suppress(OSError):
                target.unlink()
        reason = "the disk is full" if full else f"cannot be written: {error.strerror}"
        raise DownloadError(f"{target}: {reason}") from error


def _whole_body(body: Iterator[bytes], response: HttpResponse, max_bytes: int) -> bytes:
    """The whole body, at most `max_bytes` of it; unpacked, if it says that it is gzip and is.

    Other codings were not asked for: their names are left over from an upload (S3 keeps
    `aws-chunked`), and whether the bytes are right, their reader sees.
    """
    host, came, document = host_of(response.url), 0, bytearray()
    says_gzip = "gzip" in response.headers.get("Content-Encoding", "").lower()
    inflater = None
    try:
        for chunk in body:
            if came == 0 and says_gzip and chunk[:1] == b"\x1f":
                inflater = zlib.decompressobj(31)
            came += len(chunk)
            if inflater is not None:
                chunk = inflater.decompress(chunk, max_bytes + 1 - len(document))
            document += chunk
            # gzip can go on for ever and unpack to nothing.
            if len(document) > max_bytes or came > max_bytes + GZIP_OVERHEAD_BYTES:
                raise DownloadError(
                    f"{host} sends a document longer than the {max_bytes} bytes that it may have"
                )
            if inflater is not None and inflater.eof:
                break  # zlib would keep what follows
    except zlib.error as error:
        raise Interrupted(f"{host} sends gzip that is damaged: {error}") from error
    if inflater is not None and not inflater.eof:
        raise Interrupted(f"{host} sends gzip that ends too early")
    return bytes(document)


def content_range(header: str) -> Tuple[int, int, Optional[int]]:
    """First, last and total of `bytes 0-9/100` (RFC 9110, 14.4); total None for `bytes 0-9/*`.

    Anything else is (0, -1, None): no range at all.
    """
    unit, _, span = header.partition(" ")
    span, _, total = span.partition("/")
    first, _, last = span.partition("-")
    digits = [first, last] if total == "*" else [first, last, total]
    valid = all(text.isascii() and text.isdigit() and len(text) < 19 for text in digits)
    if unit.lower() != "bytes" or not valid or int(first) > int(last):
        return 0, -1, None
    if total == "*":
        return int(first), int(last), None
    return (int(first), int(last), int(total)) if int(last) < int(total) else (0, -1, None)
