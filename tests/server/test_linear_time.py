"""Every parser of bytes that come in needs time that grows with their number, not with its square.

`re` holds the interpreter's lock while it matches: a pattern that needs quadratic time stops every
thread of the
server. Each parser gets its worst shapes, small and then eight times as large; the processor time
of this thread is
compared, the best of several runs. Linear work grows eightfold, quadratic work sixty-four-fold.
"""

from __future__ import annotations

import io
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

from nuitkal_mini.problem import Problem
from nuitkal_mini.server import media, multipart
from nuitkal_mini.server.admin import page
from nuitkal_mini.server.messages import language_of
from nuitkal_mini.server.responses import base_url, parse_address

SMALL = 4_000  # characters: eight times as many are the longest head that the server reads
GROWTH = 8
MOST = 3 * GROWTH  # of the small one's time
QUICK_SECONDS = 0.02  # of the large one: no need to compare, quadratic ones took seconds

# One character or two again and again, and what stands before and behind them.
FILLINGS = (
    " ",
    "\t",
    "a",
    "1",
    ",",
    ";",
    '"',
    "\\",
    '\\"',
    "=",
    "a=",
    ";a=",
    "a;",
    ", ",
    "-",
    ".",
    "%",
    "*",
    "'",
    "\n",
    "\r\n",
)
ENDS = ("", "!", '"')


def form(content_type: str, body: bytes = b"") -> None:
    environ = {
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    multipart.parse_form(environ, Path("none"), 10**7)


def part_head(line: str) -> None:
    body = b"--b\r\n" + line.encode() + b"\r\n\r\nx\r\n--b--"
    form("multipart/form-data; boundary=b", body)


def select(**headers: str) -> None:
    entity = media._Entity('"x"', 1, 1000)
    media._select({"REQUEST_METHOD": "GET", **headers}, entity)


Parser = Callable[[str], Any]

PARSERS: Dict[str, Tuple[Parser, Tuple[str, ...]]] = {
    "Accept-Language": (
        lambda text: language_of({"HTTP_ACCEPT_LANGUAGE": text}),
        ("", "en", "en;", "en;q", "en;q=", "en;q=1"),
    ),
    "Accept-Encoding": (
        lambda text: media._takes_gzip({"HTTP_ACCEPT_ENCODING": text}),
        ("", "gzip", "gzip;", "gzip;q=", "gzip;q=0."),
    ),
    "Range": (
        lambda text: select(HTTP_RANGE=text),
        ("", "bytes", "bytes=", "bytes=1", "bytes=1-", "bytes=1-1"),
    ),
    "If-Range": (lambda text: select(HTTP_RANGE="bytes=1-2", HTTP_IF_RANGE=text), ("", "Mon, 01")),
    "If-None-Match": (lambda text: select(HTTP_IF_NONE_MATCH=text), ("", 'W/"', '"')),
    "If-Match": (lambda text: select(HTTP_IF_MATCH=text), ("", 'W/"', '"')),
    "If-Modified-Since": (lambda text: select(HTTP_IF_MODIFIED_SINCE=text), ("", "Mon, 01 Jan ")),
    "If-Unmodified-Since": (lambda text: select(HTTP_IF_UNMODIFIED_SINCE=text), ("", "Mon, 0")),
    "Cookie": (page._cookies, ("", "a=", 'a="')),
    "Host": (
        lambda text: base_url({"HTTP_HOST": text, "wsgi.url_scheme": "http"}),
        ("", "a", "[", "a:"),
    ),
    "an address": (parse_address, ("", "1.", "[", "::")),
    "Content-Type": (
        form,
        (
            "",
            "multipart/form-data",
            "multipart/form-data;a=",
            'multipart/form-data;a="',
            "a/b;c*=",
            "a/b;c*=idna''",
        ),
    ),
    "Content-Disposition": (
        multipart._parse_header,
        (
            "form-data",
            "form-data; name=",
            'form-data; name="',
            "form-data; a*=",
            "form-data; a*0*=",
        ),
    ),
    "the head of a part": (part_head, ("", "Content-Disposition: form-data; name=a\r\n", "a: ")),
    "a part": (
        lambda text: form(
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n" + text.encode(),
        ),
        ("", "\r\n--b", "\r\n-"),
    ),
    "a form of a page": (
        lambda text: form("application/x-www-form-urlencoded", text.encode()),
        ("", "a=", "%"),
    ),
    "the path of a file": (lambda text: media.resolve(Path("none"), text), ("", "a", "con", "/")),
    "the query of a page": (page._query, ("", "a=", "%e2")),
}


def seconds(parse: Parser, text: str) -> float:
    """Of this thread's processor time; the best of a few runs."""
    taken: List[float] = []
    for _ in range(3):
        began = time.thread_time()
        with suppress(Problem):
            parse(text)
        taken.append(time.thread_time() - began)
        if taken[-1] < QUICK_SECONDS:
            break
    return min(taken)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_needs_linear_time(name: str) -> None:
    parse, beginnings = PARSERS[name]
    for beginning in beginnings:
        for filling in FILLINGS:
            for end in ENDS:
                small, large = (
                    beginning + filling * (size // len(filling)) + end
                    for size in (SMALL, GROWTH * SMALL)
                )
                taken = seconds(parse, large)
                assert taken < QUICK_SECONDS or taken < MOST * seconds(parse, small), (
                    f"{name}: {beginning!r} + {filling!r}… + {end!r}: {taken:.2f} s for"
                    f" {len(large)} characters"
                )


@pytest.mark.parametrize(
    "pattern, text", [(r"([a-z]+)[a-z0-9-]*\Z", "a"), (r"\s*([0-9]{0,18})\s*-", " ")]
)
def test_the_measure_tells_a_quadratic_pattern(pattern: str, text: str) -> None:
    """Patterns that stood in the server once."""

    def parse(text: str) -> None:
        re.compile(pattern).match(text)

    large = seconds(parse, text * SMALL + "!")
    assert large > QUICK_SECONDS
    assert large > MOST * seconds(parse, text * (SMALL // GROWTH) + "!")
