"""Files over HTTP: packages, manifests, deltas and signatures, as RFC 9110 has it.

`resolve` turns the path of a URL into a file that is certainly below the media folder, `respond` answers
GET and HEAD for it: one range of bytes (several at once get the whole file, as section 14.2 allows),
If-Range, ETag, If-None-Match, If-Modified-Since; gzip for `.json`, from memory. What is decided is decided in
`_decide`, without a file.
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
MAX_GZIP_BYTES = (
    8 * 1024 * 1024
)  # the manifest of 50,000 files; compressing it takes a quarter of a second
GZIP_CACHE_BYTES = 16 * 1024 * 1024  # compressed manifests kept in memory: hundreds of usual size
IMMUTABLE = "public, max-age=31536000, immutable"  # a version never comes back with other bytes

# What a name may consist of; neither `..`, `:`, `\`, `%`, `~`, NUL nor a dot at either end can be written with it.
_COMPONENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+-])?\Z")
_DEVICE = re.compile(
    r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)", re.IGNORECASE
)  # on Windows, in any folder
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*\Z", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?("[^"]*")')


def resolve(root: Path, url_path: str) -> Optional[Path]:
    """The regular file at `url_path`, the decoded path of a URL below `root`; None when there is none.

    Also None for whatever is spelt oddly, or leads out of `root` through a symbolic link.
    """
    for component in url_path.split("/"):
        if not _COMPONENT.match(component) or _DEVICE.match(component):
            return None
    try:
        path = root.joinpath(url_path).resolve(strict=True)
        return path if root.resolve() in path.parents and path.is_file() else None
    except (OSError, RuntimeError):  # missing, too long, or (up to Python 3.12) links in a circle
        return None


class _Entity(NamedTuple):
    """What is to be had under the URL: the file as it lies there, or gzipped."""

    etag: str
    modified: int  # seconds
    size: int
    gzipped: Optional[bytes] = None


class _Answer(NamedTuple):
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
    """The WSGI answer to a GET or HEAD of `file`; `cache_control="no-cache"` for what may be replaced.

    Raises FileNotFoundError when the file is gone, Refused `range_not_satisfiable` with its Content-Range.
    """
    stream = open(file, "rb")
    try:
        entity = _entity(environ, stream, file)
        answer = _decide(environ, entity)
        headers = [
            ("ETag", entity.etag),
            ("Last-Modified", formatdate(entity.modified, usegmt=True)),
            ("Cache-Control", cache_control),
        ]
        if file.suffix == ".json":
            headers.append(("Vary", "Accept-Encoding"))
        if not answer.status.startswith("304"):
            headers += _content_headers(entity, answer, content_type)
        body = _body(environ, stream, entity, answer)
        start_response(answer.status, headers)
        return body
    except BaseException:
        stream.close()
        raise


def _entity(environ: Environ, stream: BinaryIO, file: Path) -> _Entity:
    found = os.fstat(stream.fileno())
    # Strong, because media are renamed into place whole. Without the inode: it survives a restored backup or a second server.
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


def _decide(environ: Environ, entity: _Entity) -> _Answer:
    """Conditions first, then the range: RFC 9110, 13.2.2."""
    if _is_known(environ, entity):
        return _Answer("304 Not Modified")
    wanted = _RANGE.match(environ.get("HTTP_RANGE", ""))
    if not wanted or environ["REQUEST_METHOD"] != "GET" or not _may_continue(environ, entity):
        return _Answer("200 OK", 0, entity.size)
    first, last = wanted.groups()
    if not first:
        start, stop = max(0, entity.size - int(last or 0)), entity.size
    else:
        start, stop = int(first), min(int(last) + 1, entity.size) if last else entity.size
    if (first and last and int(last) < int(first)) or not (first or last):
        return _Answer("200 OK", 0, entity.size)  # no range at all: to be ignored
    if start >= stop:
        raise Refused(
            "range_not_satisfiable",
            "the file has only {size} bytes",
            headers=(("Content-Range", f"bytes */{entity.size}"),),
            size=entity.size,
        )
    return _Answer("206 Partial Content", start, stop - start)


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
    try:
        parsed = parsedate_tz(date)
        return mktime_tz(parsed) if parsed else None
    except (ValueError, OverflowError, TypeError):
        return None


def _takes_gzip(environ: Environ) -> bool:
    for coding in environ.get("HTTP_ACCEPT_ENCODING", "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return not re.match(r"\s*q\s*=\s*0(?:\.0*)?\s*\Z", weight)
    return False


_cache: OrderedDict[Tuple[str, str], bytes] = OrderedDict()  # the one used last stands last
_cache_lock = threading.Lock()


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


def _content_headers(entity: _Entity, answer: _Answer, content_type: str) -> List[Tuple[str, str]]:
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(answer.length)),
        ("X-Content-Type-Options", "nosniff"),
    ]
    headers.append(
        ("Accept-Ranges", "bytes") if entity.gzipped is None else ("Content-Encoding", "gzip")
    )
    if answer.status.startswith("206"):
        headers.append(
            (
                "Content-Range",
                f"bytes {answer.start}-{answer.start + answer.length - 1}/{entity.size}",
            )
        )
    return headers


def _body(environ: Environ, stream: BinaryIO, entity: _Entity, answer: _Answer) -> Iterable[bytes]:
    """What to send; the stream is closed unless it is still needed for it."""
    is_sent = environ["REQUEST_METHOD"] != "HEAD" and answer.length > 0
    if not is_sent or entity.gzipped is not None:
        stream.close()
        return [entity.gzipped] if is_sent and entity.gzipped else []
    if answer.length == entity.size and "wsgi.file_wrapper" in environ:
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](stream, BLOCK_BYTES)
        return wrapped
    # Not for a part: uWSGI's file_wrapper sends the whole file from its beginning, wherever the stream stands.
    stream.seek(answer.start)
    return _Part(stream, answer.length)


class _Part:
    """The next `length` bytes of a file; a class, because a generator that was never started does not close its file."""

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
