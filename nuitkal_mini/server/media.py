"""Files over HTTP (RFC 9110): packages, manifests, deltas and signatures.

`resolve` turns the path of a URL into a file below the media folder. `respond` answers GET and
HEAD for it: the conditions of section 13.2.2 in their order, then one range of bytes (a request
for several ranges gets the whole file, as section 14.2 allows), gzip for `.json` from memory.
`_select` decides without a file. Every header is parsed in linear time.
"""

from __future__ import annotations

import gzip
import os
import re
import threading
from collections import OrderedDict
from email.utils import formatdate, mktime_tz, parsedate_tz
from pathlib import Path
from typing import BinaryIO, Iterable, List, NamedTuple, Optional, Tuple

from .refused import Refused
from .responses import Environ, StartResponse

BLOCK_BYTES = 256 * 1024
MAX_GZIP_BYTES = 8 * 1024 * 1024  # the manifest of 50,000 files: compressed in 0.25 s
MAX_DATE = 64  # characters; an HTTP date has 29, and email.utils converts numbers of any length
GZIP_CACHE_BYTES = 16 * 1024 * 1024  # compressed manifests kept in memory: hundreds of usual size
IMMUTABLE = "public, max-age=31536000, immutable"  # a version never comes back with other bytes

# No `..`, `:`, `\`, `%`, `~` or NUL, and no dot at either end.
_COMPONENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+-])?\Z")
# Devices on Windows, in any folder.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)", re.IGNORECASE)
_POSITION = re.compile(r"[0-9]{0,18}")
_TAG = re.compile(r'(?:W/)?("[^"]*")')


def resolve(root: Path, url_path: str) -> Optional[Path]:
    """The regular file at `url_path`, the decoded path of a URL below `root`; None when there is
    none.

    Also None for a name outside the allowed characters, and for a symbolic link that leads out of
    `root`.
    """
    if not all(map(is_name, url_path.split("/"))):
        return None
    try:
        path = root.joinpath(url_path).resolve(strict=True)
        return path if root.resolve() in path.parents and path.is_file() else None
    except (OSError, RuntimeError):  # missing, too long, or (up to Python 3.12) links in a circle
        return None


def is_name(component: str) -> bool:
    """Whether a file or folder below media/ may have this name."""
    return bool(_COMPONENT.match(component)) and not _DEVICE.match(component)


class _Entity(NamedTuple):
    """The representation that a request selects: the file's own bytes, or the same gzipped."""

    etag: str
    modified: int  # seconds
    size: int
    gzipped: Optional[bytes] = None


class _Selection(NamedTuple):
    """The status of the response and the part of the representation that it carries."""

    status: str
    start: int = 0
    length: int = 0


def respond(
    environ: Environ,
    start_response: StartResponse,
    file: Path,
    content_type: str,
    cache_control: str = IMMUTABLE,
) -> Iterable[bytes]:
    """The WSGI response to a GET or HEAD of `file`; `cache_control="no-cache"` for a file that may
    be replaced.

    Raises FileNotFoundError when the file is gone, Refused `precondition_failed`, and Refused
    `range_not_satisfiable` with its Content-Range.
    """
    stream = open(file, "rb")
    try:
        entity = _entity(environ, stream, file)
        selection = _select(environ, entity)
        headers = [
            ("ETag", entity.etag),
            ("Last-Modified", formatdate(entity.modified, usegmt=True)),
            ("Cache-Control", cache_control),
        ]
        if file.suffix == ".json":
            headers.append(("Vary", "Accept-Encoding"))
        if not selection.status.startswith("304"):
            headers += _content_headers(entity, selection, content_type)
        body = _body(environ, stream, entity, selection)
        start_response(selection.status, headers)
        return body
    except BaseException:
        stream.close()
        raise


def _entity(environ: Environ, stream: BinaryIO, file: Path) -> _Entity:
    found = os.fstat(stream.fileno())
    # Strong: media are renamed into place whole. Without the inode: a restored backup changes it.
    etag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
    modified = int(found.st_mtime)
    if (
        file.suffix == ".json"
        and found.st_size <= MAX_GZIP_BYTES
        and "HTTP_RANGE" not in environ
        and _takes_gzip(environ)
    ):
        gzipped = _gzipped(str(file), etag, stream)
        return _Entity(f'"{etag}-gzip"', modified, len(gzipped), gzipped)
    return _Entity(f'"{etag}"', modified, found.st_size)


def _select(environ: Environ, entity: _Entity) -> _Selection:
    """Conditions first, then the range: RFC 9110, 13.2.2."""
    _check_preconditions(environ, entity)
    if _is_known(environ, entity):
        return _Selection("304 Not Modified")
    whole = _Selection("200 OK", 0, entity.size)
    wanted = _parse_range(environ.get("HTTP_RANGE", ""))
    if wanted is None or environ["REQUEST_METHOD"] != "GET" or not _may_continue(environ, entity):
        return whole
    first, last = wanted
    if first is None:
        start, stop = max(0, entity.size - (last or 0)), entity.size
    else:
        start, stop = first, entity.size if last is None else min(last + 1, entity.size)
    if start >= stop:
        raise Refused(
            "range_not_satisfiable",
            "the file has only {size} bytes",
            headers=(("Content-Range", f"bytes */{entity.size}"),),
            size=entity.size,
        )
    return _Selection("206 Partial Content", start, stop - start)


def _parse_range(header: str) -> Optional[Tuple[Optional[int], Optional[int]]]:
    """The first and the last byte of `bytes=first-last`; None for any other header, which is
    ignored.

    `first-` has no last byte; in `-count` the second number is how many bytes of the end are
    wanted.
    """
    unit, _, text = header.partition("=")
    first, dash, last = (part.strip() for part in text.partition("-"))
    if unit.strip().lower() != "bytes" or not dash or not (first or last):
        return None
    if not _POSITION.fullmatch(first) or not _POSITION.fullmatch(last):
        return None
    if first and last and int(last) < int(first):
        return None
    return int(first) if first else None, int(last) if last else None


def _check_preconditions(environ: Environ, entity: _Entity) -> None:
    """Refused `precondition_failed` when If-Match or If-Unmodified-Since does not hold."""
    wanted = environ.get("HTTP_IF_MATCH")
    if wanted is not None:  # then the date does not count; the comparison is the strong one
        holds = wanted.strip() == "*" or entity.etag in _strong_tags(wanted)
    else:
        since = _seconds(environ.get("HTTP_IF_UNMODIFIED_SINCE", ""))
        holds = since is None or entity.modified <= since
    if not holds:
        raise Refused("precondition_failed", "the file is not the one that the request names")


def _strong_tags(header: str) -> List[str]:
    return [match.group() for match in _TAG.finditer(header) if match.group() == match.group(1)]


def _is_known(environ: Environ, entity: _Entity) -> bool:
    known = environ.get("HTTP_IF_NONE_MATCH")
    if known is not None:  # then the date does not count
        return bool(known.strip() == "*" or entity.etag in _TAG.findall(known))
    since = _seconds(environ.get("HTTP_IF_MODIFIED_SINCE", ""))
    return since is not None and entity.modified <= since


def _may_continue(environ: Environ, entity: _Entity) -> bool:
    condition = environ.get("HTTP_IF_RANGE", "").strip()
    return condition in ("", entity.etag) or _seconds(condition) == entity.modified


def _seconds(date: str) -> Optional[int]:
    if len(date) > MAX_DATE:
        return None
    try:
        parsed = parsedate_tz(date)
        return mktime_tz(parsed) if parsed else None
    except (ValueError, OverflowError, TypeError):
        return None


def _takes_gzip(environ: Environ) -> bool:
    for coding in environ.get("HTTP_ACCEPT_ENCODING", "").lower().split(","):
        name, _, parameter = coding.partition(";")
        if name.strip() == "gzip":
            weight_name, _, weight = parameter.partition("=")
            is_zero = weight.strip().rstrip("0") in ("", "0.", ".") and "0" in weight
            return not (weight_name.strip() == "q" and is_zero)
    return False


_cache: OrderedDict[Tuple[str, str], bytes] = OrderedDict()  # the one used last stands last
_cache_lock = threading.Lock()  # protects _cache: the threads of all requests read and write it


def _gzipped(name: str, etag: str, stream: BinaryIO) -> bytes:
    with _cache_lock:
        if (name, etag) in _cache:
            _cache.move_to_end((name, etag))
            return _cache[name, etag]
    content = gzip.compress(stream.read(), 6, mtime=0)
    with _cache_lock:
        _cache[name, etag] = content
        while sum(map(len, _cache.values())) > GZIP_CACHE_BYTES:
            _cache.popitem(last=False)
    return content


def _content_headers(
    entity: _Entity, selection: _Selection, content_type: str
) -> List[Tuple[str, str]]:
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(selection.length)),
        ("X-Content-Type-Options", "nosniff"),
    ]
    headers.append(
        ("Accept-Ranges", "bytes") if entity.gzipped is None else ("Content-Encoding", "gzip")
    )
    if selection.status.startswith("206"):
        headers.append(
            (
                "Content-Range",
                f"bytes {selection.start}-{selection.start + selection.length - 1}/{entity.size}",
            )
        )
    return headers


def _body(
    environ: Environ, stream: BinaryIO, entity: _Entity, selection: _Selection
) -> Iterable[bytes]:
    """The WSGI iterable with the content; the stream is closed unless the iterable reads from
    it.
    """
    is_sent = environ["REQUEST_METHOD"] != "HEAD" and selection.length > 0
    if not is_sent or entity.gzipped is not None:
        stream.close()
        return [entity.gzipped] if is_sent and entity.gzipped else []
    if selection.length == entity.size and "wsgi.file_wrapper" in environ:
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](stream, BLOCK_BYTES)
        return wrapped
    # Not for a part: uWSGI's file_wrapper sends the whole file, wherever the stream stands.
    stream.seek(selection.start)
    return _Part(stream, selection.length)


class _Part:
    """The next `length` bytes of a file, in blocks.

    A class, because a generator that was never started does not close its file.
    """

    def __init__(self, stream: BinaryIO, length: int) -> None:
        self._stream = stream
        self._left = length

    def __iter__(self) -> _Part:
        return self

    def __next__(self) -> bytes:
        block = self._stream.read(min(BLOCK_BYTES, self._left))
        if not block:
            raise StopIteration
        self._left -= len(block)
        return block

    def close(self) -> None:
        self._stream.close()
