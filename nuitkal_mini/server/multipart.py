"""Forms from a WSGI request, streamed: `parse_form` is the whole story.

multipart/form-data (RFC 7578 over RFC 2046) and application/x-www-form-urlencoded. A file is hashed
while it goes to a file of its own in a folder that the caller deletes; what is held in memory is one
read and the fields. Whatever goes wrong is `Refused` with a sentence.

Names are quoted as browsers do it (WHATWG HTML, 4.10.21.8: `%22` for a quote), as older clients do it
(`\\"`), or by RFC 2231 and 5987 (`filename*=UTF-8''…`). Parts without `filename` are fields.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from email.utils import collapse_rfc2231_value, decode_params, unquote
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Set, Tuple, Union
from urllib.parse import parse_qsl

from .refused import Refused

READ_BYTES = (
    256 * 1024
)  # measured with SHA-256 and the disk: 16 kB 620 MB/s, 64 kB 800, 256 kB 900, 1 MB 920
MAX_PARTS = 64  # the upload form has seven
MAX_HEADER_BYTES = 8 * 1024  # a name of 255 characters, percent-encoded twice over, takes 6 kB
MAX_FIELD_BYTES = 1024 * 1024  # a changelog of a megabyte is a book; files are not fields
MAX_BOUNDARY = 70  # RFC 2046, 5.1.1

Buffer = Union[bytes, memoryview]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_KIND = re.compile(rf"\s*({_TOKEN}(?:/{_TOKEN})?)\s*")
# A quoted value ends at the quote that `;` or the end follows; inside, only `\"` is an escape: browsers
# send a lone backslash as it is. Each alternative begins differently enough to match in linear time.
_PARAMETER = re.compile(
    r""";\s*([\w.-]{1,64}(?:\*[0-9]{0,3}\*?)?)\s*=\s*("(?:\\"|[^"])*"|[^\s;"]*)\s*(?=;|\Z)"""
)


class FormFile(NamedTuple):
    """A file that came with the form, now (readable by its owner only) at `path`."""

    filename: str  # its last component, for people; never a path
    path: Path
    size: int
    sha256: str


class Form(NamedTuple):
    """What one form brought."""

    fields: Dict[str, str]
    files: Dict[str, FormFile]


def parse_form(environ: Dict[str, Any], folder: Path, max_bytes: int) -> Form:
    """The form of a request; its files are `upload-…` in `folder`, also when it fails.

    Raises Refused: `length_required` without a Content-Length, `too_large` for more than `max_bytes`
    (before anything is read) or a field over MAX_FIELD_BYTES, `bad_field` for all that is malformed,
    also when the client hangs up. OSError from writing (ENOSPC, EDQUOT: the disk is full) propagates.
    """
    length = content_length(environ, max_bytes)
    kind, parameters = _parse_header(_as_utf8(environ.get("CONTENT_TYPE", "")))
    if kind == "multipart/form-data":
        # The first delimiter stands at the start of a line as well: begin behind a line end.
        return _read_multipart(
            _Body(environ["wsgi.input"], length, before=b"\r\n"),
            parameters.get("boundary", ""),
            folder,
        )
    if kind == "application/x-www-form-urlencoded":
        return _read_urlencoded(_Body(environ["wsgi.input"], length))
    raise Refused("bad_field", "a form must be sent as multipart/form-data")


def content_length(environ: Dict[str, Any], max_bytes: int) -> int:
    """The size of a request's body; Refused without one, or for more than `max_bytes`."""
    text = environ.get("CONTENT_LENGTH") or ""
    if not text:
        raise Refused("length_required", "the request must say its size in Content-Length")
    if not re.match(r"[0-9]{1,18}\Z", text):
        raise Refused("bad_field", "the request's Content-Length is not a number")
    if int(text) > max_bytes:
        raise Refused(
            "too_large",
            "the request has {size} bytes; at most {limit} are allowed",
            size=int(text),
            limit=max_bytes,
        )
    return int(text)


class _Body:
    """The request's body, taken apart at marks that may lie anywhere across the reads."""

    def __init__(self, stream: BinaryIO, length: int, before: bytes = b"") -> None:
        self._stream = stream
        self._length = length
        self._received = 0
        self._buffer = before

    def until(self, mark: bytes) -> Iterator[memoryview]:
        """What stands before the next `mark`, piece by piece; the mark is consumed."""
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
        """What is left up to Content-Length."""
        yield self._buffer
        while self._received < self._length:
            self._buffer = b""
            self._fill()
            yield self._buffer

    def _fill(self) -> None:
        try:
            piece = self._stream.read(min(READ_BYTES, self._length - self._received))
        except OSError as error:
            raise self._cut_off() from error
        if not piece:
            raise self._cut_off()
        self._received += len(piece)
        self._buffer += piece

    def _cut_off(self) -> Refused:
        if self._received == self._length:
            return Refused("bad_field", "the form has no end: its last boundary is missing")
        return Refused(
            "bad_field",
            "the form broke off after {received} of {length} bytes",
            received=self._received,
            length=self._length,
        )


def _read_multipart(body: _Body, boundary: str, folder: Path) -> Form:
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
            if (
                filename or upload.size
            ):  # a browser sends a file input that was left empty as "" with no bytes
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
    """The name and the file name (None for a field) from the lines between a boundary and its part."""
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
                return parameters["name"], filename if filename is None else re.split(
                    r"[/\\]", filename
                )[-1]
    raise Refused("bad_field", "the form has a part without a name")


def _parse_header(text: str) -> Tuple[str, Dict[str, str]]:
    """`kind; name="value"; …` as the kind in lower case and the parameters; Refused when it is not that."""
    kind = _KIND.match(text)
    at = kind.end() if kind else 0
    plain: Dict[str, str] = {}
    extended: List[Tuple[str, str]] = [("", "")]  # decode_params passes the first one over
    while kind and at < len(text):
        parameter = _PARAMETER.match(text, at)
        if not parameter:
            break
        name, value, at = parameter.group(1).lower(), parameter.group(2), parameter.end()
        if "*" in name:
            extended.append((name, value))
        else:
            plain[name] = _unquote(value)
    if not kind or text[at:].strip(" \t;"):
        raise Refused(
            "bad_field",
            "the form has a header that cannot be read: {header!r}",
            header=text.strip()[:200],
        )
    plain.update(_decode_extended(extended))
    return kind.group(1).lower(), plain


def _unquote(value: str) -> str:
    if value.startswith('"'):
        value = value[1:-1].replace('\\"', '"')
    return value.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _decode_extended(parameters: List[Tuple[str, str]]) -> Dict[str, str]:
    try:
        return {
            name: unquote(collapse_rfc2231_value(value))
            for name, value in decode_params(parameters)[1:]
        }
    except (ValueError, TypeError) as error:  # an odd charset; `name*` beside `name*0`
        raise Refused("bad_field", "the form has a file name that cannot be read") from error


def _read_urlencoded(body: _Body) -> Form:
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
