"""Where the body of a request ends: by its Content-Length, or by its chunks (RFC 9112, 6.2 and
7.1). Pure.

A decoder takes bytes from the front of a buffer of received bytes and leaves the bytes of the next
request there. Each byte is looked at a fixed number of times.
"""

from __future__ import annotations

import re
from typing import Optional, Union

from ..refused import Refused
from .request import RequestHead, parse_header

MAX_CHUNK_LINE = 256  # bytes; a size has 16 digits at most, extensions are not used
MAX_TRAILER_BYTES = 8 * 1024  # trailers are read and dropped

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")


class SizedBody:
    """A body of a known number of bytes."""

    def __init__(self, length: int) -> None:
        self.left = length

    @property
    def is_complete(self) -> bool:
        return not self.left

    def take(self, received: bytearray, limit: int) -> bytes:
        """Up to `limit` bytes of the content, removed from `received`."""
        content = bytes(received[: min(limit, self.left)])
        del received[: len(content)]
        self.left -= len(content)
        return content


class ChunkedBody:
    """A body in chunks; their sizes, extensions and trailers are removed."""

    def __init__(self) -> None:
        self.is_complete = False
        self._left = 0  # of the content of the present chunk
        self._in_chunk = False  # its content, or the line end behind it, is still to come
        self._in_trailer = False
        self._trailer_bytes = 0

    def take(self, received: bytearray, limit: int) -> bytes:
        """Up to `limit` bytes of the content, removed from `received` together with their framing.

        Raises Refused: bad_request, header_too_large for trailers without end.
        """
        content = bytearray()
        while not self.is_complete and len(content) < limit:
            if self._left:
                piece = received[: min(self._left, limit - len(content))]
                if not piece:
                    break
                content += piece
                del received[: len(piece)]
                self._left -= len(piece)
            else:
                line = _take_line(received)
                if line is None:
                    break
                self._read_line(line)
        return bytes(content)

    def _read_line(self, line: bytes) -> None:
        if self._in_trailer:
            self._trailer_bytes += len(line) + 2
            if not line:
                self.is_complete = True
            elif self._trailer_bytes > MAX_TRAILER_BYTES:
                raise Refused(
                    "header_too_large",
                    "the request's headers are longer than {limit} bytes",
                    limit=MAX_TRAILER_BYTES,
                )
            else:
                parse_header(line.decode("latin-1"))
        elif self._in_chunk:
            if line:
                raise _bad_chunk()
            self._in_chunk = False
        else:
            match = _CHUNK_LINE.fullmatch(line)
            if not match:
                raise _bad_chunk()
            self._left = int(match.group(1), 16)
            self._in_chunk, self._in_trailer = self._left > 0, self._left == 0


BodyDecoder = Union[SizedBody, ChunkedBody]


def body_of(head: RequestHead) -> BodyDecoder:
    """The decoder for the body that follows this head."""
    return ChunkedBody() if head.is_chunked else SizedBody(head.length)


def _take_line(received: bytearray) -> Optional[bytes]:
    """The next line without its end, removed from `received`; None when it has not come whole."""
    end = received.find(b"\n", 0, MAX_CHUNK_LINE)
    if end < 0:
        if len(received) >= MAX_CHUNK_LINE:
            raise _bad_chunk()
        return None
    line = bytes(received[:end])
    if not line.endswith(b"\r"):
        raise _bad_chunk()
    del received[: end + 1]
    return line[:-1]


def _bad_chunk() -> Refused:
    return Refused("bad_request", "the request has a chunk that cannot be read")
