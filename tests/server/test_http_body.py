"""The bodies of requests: sized and chunked, whole and in pieces, right and wrong."""

from __future__ import annotations

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuitkal_mini.server.http import body as bodies
from nuitkal_mini.server.http.body import ChunkedBody, SizedBody
from nuitkal_mini.server.refused import Refused


def decode(pieces: List[bytes], limit: int = 1000) -> bytes:
    """The content of a chunked body that comes in pieces.

    What is left of the last piece must be `next`.
    """
    decoder, received, content = ChunkedBody(), bytearray(), b""
    for piece in pieces:
        received += piece
        while not decoder.is_complete:
            some = decoder.take(received, limit)
            assert len(some) <= limit
            content += some
            if not some:
                break
    assert decoder.is_complete and bytes(received) == b"next"
    return content


@pytest.mark.parametrize(
    "sent, content",
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3\r\nabc\r\n2\r\n\r\n\r\n0\r\n\r\n", b"abc\r\n"),
        (b"00003\r\nabc\r\n000\r\n\r\n", b"abc"),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b'A;x=y;z="q"\r\n0123456789\r\n0;last\r\n\r\n', b"0123456789"),
        (b"3 \r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3\r\nabc\r\n0\r\nTrailer: x\r\nContent-Length: 5\r\n\r\n", b"abc"),
    ],
)
def test_a_chunked_body_is_decoded_however_it_is_cut(sent: bytes, content: bytes) -> None:
    assert decode([sent + b"next"]) == content
    assert decode([sent + b"next"], limit=1) == content
    assert decode([bytes([byte]) for byte in sent] + [b"next"]) == content


@pytest.mark.parametrize(
    "sent",
    [
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nab\r\n0\r\n\r\n",
        b"\r\n",
        b"x\r\n",
        b"0x3\r\nabc",
        b"+3\r\nabc",
        b"-1\r\n",
        b" 3\r\nabc",
        b"3_0\r\n",
        b"3;\0\r\nabc\r\n0\r\n\r\n",
        b"11111111111111111\r\n",
        b"3;" + b"x" * bodies.MAX_CHUNK_LINE,
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\n\n",
        b"0\r\n" + b"X: y\r\n" * bodies.MAX_TRAILER_BYTES,
    ],
)
def test_a_chunk_that_can_be_read_in_two_ways_is_refused(sent: bytes) -> None:
    for pieces in ([sent], [bytes([byte]) for byte in sent]):
        with pytest.raises(Refused):
            decode(pieces + [b"next"])


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.data())
def test_any_chunks_are_what_they_were(chunks: List[bytes], data: st.DataObject) -> None:
    sent = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\nnext"
    cut = data.draw(st.integers(0, len(sent)))
    assert decode([sent[:cut], sent[cut:]], limit=7) == b"".join(chunks)


def test_a_sized_body_leaves_the_next_request() -> None:
    body, received = SizedBody(5), bytearray(b"abcdenext")
    assert body.take(received, 3) == b"abc" and not body.is_complete
    assert body.take(received, 9) == b"de" and body.is_complete
    assert received == b"next" and body.take(received, 9) == b""
