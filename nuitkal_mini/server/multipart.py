"""Forms and JSON from a WSGI request, streamed: `parse_form` and `read_body`.

multipart/form-data (RFC 7578 over RFC 2046) and application/x-www-form-urlencoded. A file is
hashed while it is written to a file of its own in a folder that the caller deletes; memory holds
one read and the fields. Every error is `Refused` with a sentence. Every byte is parsed in linear
time.

A body without Content-Length is read to its end when the HTTP server says that `wsgi.input` ends
there (`wsgi.input_terminated`, as gunicorn does for chunked bodies); then the limit is applied
while reading.

Names are quoted as browsers do it (WHATWG HTML, 4.10.21.8: `%22` for a quote), as older clients do
it (`\\"`), or by RFC 2231 and 5987 (`filename*=UTF-8''…`). Parts without `filename` are fields.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from email.utils import collapse_rfc2231_value, decode_params, unquote
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union
from urllib.parse import parse_qsl

from .refused import Refused

READ_BYTES = 256 * 1024  # measured with SHA-256 and disk: 16 kB 620 MB/s, 256 kB 900, 1 MB 920
MAX_PARTS = 64  # the upload form has seven
MAX_HEADER_BYTES = 8 * 1024  # a name of 255 characters, percent-encoded twice over, takes 6 kB
MAX_FIELD_BYTES = 1024 * 1024  # a changelog of a megabyte is a book; files are not fields
MAX_BOUNDARY = 70  # RFC 2046, 5.1.1

Buffer = Union[bytes, memoryview]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_KIND = re.compile(rf"{_TOKEN}(?:/{_TOKEN})?")
_PARAMETER_NAME = re.compile(r"[\w.-]{1,64}(?:\*[0-9]{0,3}\*?)?")
_SPACE_OR_QUOTE = re.compile(r'[\s"]')
_END_OF_PARAMETER = re.compile(r"\s*(?:;|\Z)")
# The charsets of RFC 2231 that are decoded; `idna` and `punycode` take quadratic time.
_CHARSETS = frozenset(("", "utf-8", "us-ascii", "iso-8859-1"))


class FormFile(NamedTuple):
    """A file that came with the form, now (readable by its owner only) at `path`."""

    filename: str  # its last component, for people; never a path
    path: Path
    size: int
    sha256: str


class Form(NamedTuple):
    """The fields and files of one form."""

    fields: Dict[str, str]
    files: Dict[str, FormFile]


def parse_form(environ: Dict[str, Any], folder: Path, max_bytes: int) -> Form:
    """The form of a request; its files are `upload-…` in `folder`, also when it fails.

    Raises Refused: `length_required` without a size, `too_large` for more than `max_bytes` (before
    anything is read when there is a Content-Length) or a field over MAX_FIELD_BYTES, `bad_field`
    for a malformed form and for one that breaks off. OSError from writing (ENOSPC, EDQUOT: the
    disk is full) propagates.
    """
    length = content_length(environ, max_bytes)
    stream = _BodyStream(environ, length, max_bytes)
    kind, parameters = _parse_header(_as_utf8(environ.get("CONTENT_TYPE", "")))
    if kind == "multipart/form-data":
        # The first delimiter stands at the start of a line as well: begin behind a line end.
        body = _MarkedBody(stream, before=b"\r\n")
        return _read_multipart(body, parameters.get("boundary", ""), folder)
    if kind == "application/x-www-form-urlencoded":
        return _read_urlencoded(_MarkedBody(stream))
    raise Refused("bad_field", "a form must be sent as multipart/form-data")


def read_body(environ: Dict[str, Any], max_bytes: int) -> bytes:
    """The whole body of a request; Refused as in `parse_form`."""
    stream = _BodyStream(environ, content_length(environ, max_bytes), max_bytes)
    content = bytearray()
    while True:
        piece = stream.read()
        if not piece:
            return bytes(content)
        content += piece


def content_length(environ: Dict[str, Any], max_bytes: int) -> Optional[int]:
    """The size of a request's body; None for a chunked one, whose size is known at its end.

    Refused without a size, or for more than `max_bytes`.
    """
    text = environ.get("CONTENT_LENGTH") or ""
    if not text and environ.get("wsgi.input_terminated"):
        return None
    if not text:
        raise Refused("length_required", "the request must say its size in Content-Length")
    if not re.match(r"[0-9]{1,18}\Z", text):
        raise Refused("bad_field", "the request's Content-Length is not a number")
    if int(text) > max_bytes:
        raise _too_large(int(text), max_bytes)
    return int(text)


def _too_large(size: int, limit: int) -> Refused:
    return Refused(
        "too_large",
        "the request has {size} bytes; at most {limit} are allowed",
        size=size,
        limit=limit,
    )


class _BodyStream:
    """The body of a request, read to its Content-Length, or to its end when it has none."""

    def __init__(self, environ: Dict[str, Any], length: Optional[int], max_bytes: int) -> None:
        self._stream: BinaryIO = environ["wsgi.input"]
        self._length = length
        self._max_bytes = max_bytes
        self.received = 0

    def read(self) -> bytes:
        """The next bytes; none at the end of the body."""
        left = READ_BYTES if self._length is None else self._length - self.received
        if not left:
            return b""
        try:
            piece = self._stream.read(min(READ_BYTES, left))
        except OSError as error:
            raise self._broken_off() from error
        self.received += len(piece)
        if self.received > self._max_bytes:
            raise _too_large(self.received, self._max_bytes)
        if not piece and self._length is not None:
            raise self._broken_off()
        return piece

    def _broken_off(self) -> Refused:
        return Refused(
            "bad_field",
            "the form broke off after {received} of {length} bytes",
            received=self.received,
            length="?" if self._length is None else self._length,
        )


class _MarkedBody:
    """A body that is cut at marks, which may lie anywhere across the reads."""

    def __init__(self, stream: _BodyStream, before: bytes = b"") -> None:
        self._stream = stream
        self._buffer = before

    def until(self, mark: bytes) -> Iterator[memoryview]:
        """The bytes before the next `mark`, piece by piece; the mark is consumed."""
        while True:
            end = self._buffer.find(mark)
            if end >= 0:
                yield memoryview(self._buffer)[:end]
                self._buffer = self._buffer[end + len(mark) :]
                return
            safe = len(self._buffer) - len(mark) + 1  # the rest may be the beginning of the mark
            if safe > 0:
                yield memoryview(self._buffer)[:safe]
                self._buffer = self._buffer[safe:]
            self._fill()

    def next_is(self, mark: bytes) -> bool:
        while len(self._buffer) < len(mark):
            self._fill()
        return self._buffer.startswith(mark)

    def rest(self) -> Iterator[bytes]:
        """The bytes up to the end of the body."""
        yield self._buffer
        while True:
            self._buffer = self._stream.read()
            if not self._buffer:
                return
            yield self._buffer

    def _fill(self) -> None:
        piece = self._stream.read()
        if not piece:
            raise Refused("bad_field", "the form has no end: its last boundary is missing")
        self._buffer += piece


def _read_multipart(body: _MarkedBody, boundary: str, folder: Path) -> Form:
    if not re.fullmatch("[ -~]+", boundary) or len(boundary) > MAX_BOUNDARY:
        raise Refused("bad_field", "the form has no usable boundary in its Content-Type")
    delimiter = b"\r\n--" + boundary.encode("ascii")
    _collect(
        body.until(delimiter),
        MAX_HEADER_BYTES,
        Refused("bad_field", "the form does not begin with its boundary"),
    )
    form = Form({}, {})
    names: Set[str] = set()
    while not body.next_is(b"--"):
        if len(names) == MAX_PARTS:
            raise Refused("bad_field", "the form has more than {limit} fields", limit=MAX_PARTS)
        head = _collect(
            body.until(b"\r\n\r\n"),
            MAX_HEADER_BYTES,
            Refused(
                "bad_field",
                "the form has a part whose header is longer than {limit} bytes",
                limit=MAX_HEADER_BYTES,
            ),
        )
        name, filename = _parse_part_head(head)
        _claim(name, names)
        if filename is None:
            form.fields[name] = _text(
                name, _collect(body.until(delimiter), MAX_FIELD_BYTES, _field_too_large(name))
            )
        else:
            upload = _store(body.until(delimiter), filename, folder)
            # A browser sends an empty file input with the name "" and no bytes.
            if filename or upload.size:
                form.files[name] = upload
    for _ in body.rest():  # RFC 2046's epilogue: to be ignored
        pass
    return form


def _collect(pieces: Iterator[Buffer], limit: int, too_long: Refused) -> bytes:
    collected = bytearray()
    for piece in pieces:
        collected += piece
        if len(collected) > limit:
            raise too_long
    return bytes(collected)


def _store(pieces: Iterator[memoryview], filename: str, folder: Path) -> FormFile:
    digest = hashlib.sha256()
    size = 0
    descriptor, path = tempfile.mkstemp(prefix="upload-", dir=str(folder))
    with os.fdopen(descriptor, "wb") as out:
        for piece in pieces:
            digest.update(piece)
            out.write(piece)
            size += len(piece)
    return FormFile(filename, Path(path), size, digest.hexdigest())


def _parse_part_head(head: bytes) -> Tuple[str, Any]:
    """The name and the file name (None for a field) from the lines between a boundary and its
    part.
    """
    # File names may come in the code page of the sender's console: not worth losing an upload for.
    padding, _, lines = head.decode("utf-8", "replace").partition("\r\n")
    if padding.strip(" \t"):
        raise Refused("bad_field", "the form has a boundary that does not end its line")
    for line in re.sub(r"\r\n[ \t]+", " ", lines).split("\r\n"):
        header, _, value = line.partition(":")
        if header.strip().lower() == "content-disposition":
            kind, parameters = _parse_header(value)
            if kind == "form-data" and parameters.get("name"):
                filename = parameters.get("filename")
                return parameters["name"], filename and filename.replace("\\", "/").split("/")[-1]
    raise Refused("bad_field", "the form has a part without a name")


def _parse_header(text: str) -> Tuple[str, Dict[str, str]]:
    """`kind; name="value"; …` as the kind in lower case and the parameters.

    Refused for any other form. Linear: each character is looked at a fixed number of times.
    """
    at = text.find(";")
    at = len(text) if at < 0 else at
    kind = text[:at].strip()
    plain: Dict[str, str] = {}
    extended: List[Tuple[str, str]] = [("", "")]  # decode_params passes the first one over
    is_right = bool(_KIND.fullmatch(kind))
    end = len(text.rstrip(" \t;"))
    while is_right and at < end:
        equals = text.find("=", at)
        name = text[at + 1 : equals].strip().lower()
        value, at = _parameter_value(text, equals + 1)
        is_right = equals >= 0 and value is not None and bool(_PARAMETER_NAME.fullmatch(name))
        if "*" in name:
            extended.append((name, value or ""))
        else:
            plain[name] = _unquote(value or "")
    if not is_right:
        raise Refused(
            "bad_field",
            "the form has a header that cannot be read: {header!r}",
            header=text.strip()[:200],
        )
    plain.update(_decode_extended(extended))
    return kind.lower(), plain


def _parameter_value(text: str, start: int) -> Tuple[Optional[str], int]:
    """The value that begins at `start`, with its quotes, and the place of the `;` or the end
    behind it.

    None when it is malformed. A quoted value ends at its first quote without a backslash before
    it; when more text follows that quote, at the last quote that `;` or the end follows: browsers
    send a lone backslash as it is, so that `"C:\\"` ends at its second quote.
    """
    while start < len(text) and text[start].isspace():
        start += 1
    if not text.startswith('"', start):
        end = text.find(";", start)
        end = len(text) if end < 0 else end
        value = text[start:end].rstrip()
        return (None if _SPACE_OR_QUOTE.search(value) else value), end
    best: Tuple[Optional[str], int] = (None, len(text))
    quote = start
    while True:
        quote = text.find('"', quote + 1)
        if quote < 0:
            return best
        after = _END_OF_PARAMETER.match(text, quote + 1)
        if after:
            end = after.end() - 1 if text[after.end() - 1] == ";" else len(text)
            best = text[start : quote + 1], end
        if text[quote - 1] != "\\":
            return best


def _unquote(value: str) -> str:
    if value.startswith('"'):
        value = value[1:-1].replace('\\"', '"')
    return value.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _decode_extended(parameters: List[Tuple[str, str]]) -> Dict[str, str]:
    decoded: Dict[str, str] = {}
    try:
        for name, value in decode_params(parameters)[1:]:
            if isinstance(value, tuple) and (value[0] or "").lower() not in _CHARSETS:
                raise ValueError(f"the charset {value[0]}")
            decoded[name] = unquote(collapse_rfc2231_value(value))
    except (ValueError, TypeError) as error:  # an odd charset; `name*` beside `name*0`
        raise Refused("bad_field", "the form has a file name that cannot be read") from error
    return decoded


def _read_urlencoded(body: _MarkedBody) -> Form:
    content = _collect(body.rest(), MAX_FIELD_BYTES, _field_too_large("*"))
    try:
        pairs = parse_qsl(
            content.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARTS,
        )
    except ValueError as error:
        raise Refused(
            "bad_field",
            "the form is not URL-encoded UTF-8 of at most {limit} fields",
            limit=MAX_PARTS,
        ) from error
    names: Set[str] = set()
    for name, _ in pairs:
        _claim(name, names)
    return Form(dict(pairs), {})


def _claim(name: str, names: Set[str]) -> None:
    if name in names:
        raise Refused("bad_field", "the form has more than one field {name!r}", name=name)
    names.add(name)


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("bad_field", "the field {name!r} is not UTF-8", name=name) from error


def _field_too_large(name: str) -> Refused:
    return Refused(
        "too_large",
        "the field {name!r} is longer than {limit} bytes",
        name=name,
        limit=MAX_FIELD_BYTES,
    )


def _as_utf8(header: str) -> str:
    """A header as WSGI gives it (bytes as Latin-1) in the encoding it was meant."""
    return header.encode("latin-1", "replace").decode("utf-8", "replace")
