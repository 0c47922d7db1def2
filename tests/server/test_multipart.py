"""Forms as browsers, curl and worse send them, cut in every way."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuitkal_mini.server import multipart
from nuitkal_mini.server.multipart import parse_form, read_body
from nuitkal_mini.server.refused import Refused

BOUNDARY = "----WebKitFormBoundaryq7"
LIMIT = 10_000_000


class Trickle(io.RawIOBase):
    """A stream that gives what it likes: `cuts` are the sizes of its reads, repeated."""

    def __init__(self, content: bytes, cuts: List[int]) -> None:
        self._content, self._cuts, self._at = io.BytesIO(content), cuts, 0

    def read(self, size: int = -1) -> bytes:
        self._at += 1
        return self._content.read(min(size, self._cuts[self._at % len(self._cuts)]))


def part(disposition: str, content: bytes = b"", more: str = "") -> bytes:
    return b"--%s\r\nContent-Disposition: %s\r\n%s\r\n%s\r\n" % (
        BOUNDARY.encode(),
        disposition.encode(),
        more.encode(),
        content,
    )


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%s--\r\n" % BOUNDARY.encode()


def request(
    content: bytes,
    kind: str = "multipart/form-data; boundary=" + BOUNDARY,
    length: Optional[str] = None,
    stream: Any = None,
) -> Dict[str, Any]:
    return {
        "wsgi.input": stream or io.BytesIO(content),
        "CONTENT_TYPE": kind,
        "CONTENT_LENGTH": str(len(content)) if length is None else length,
    }


def refused(environ: Dict[str, Any], folder: Path, max_bytes: int = LIMIT) -> Refused:
    with pytest.raises(Refused) as caught:
        parse_form(environ, folder, max_bytes)
    return caught.value


def test_fields_and_files_arrive(tmp_path: Path) -> None:
    content = body(
        part('form-data; name="version"', b"1.0.1"),
        part('form-data; name="changelog"', "修复\r\n".encode()),
        part(
            'form-data; name="file"; filename="app.zip"',
            b"PK\x00\r\n--",
            "Content-Type: application/zip\r\n",
        ),
    )
    form = parse_form(request(content), tmp_path, LIMIT)
    assert form.fields == {"version": "1.0.1", "changelog": "修复\r\n"}
    upload = form.files["file"]
    assert (upload.filename, upload.size, upload.path.read_bytes()) == (
        "app.zip",
        7,
        b"PK\x00\r\n--",
    )
    assert upload.sha256 == hashlib.sha256(b"PK\x00\r\n--").hexdigest()
    assert upload.path.parent == tmp_path


@pytest.mark.parametrize(
    "disposition, name, filename",
    [
        ('form-data; name="file"; filename="a b;c=d.zip"', "file", "a b;c=d.zip"),
        ("form-data; name=file; filename=app.zip", "file", "app.zip"),
        ('FORM-DATA ;name = "file" ; FileName="app.zip";', "file", "app.zip"),
        (
            'form-data; name="a%22b%0D%0Ac"; filename="50%25 %22x%22.zip"',
            'a"b\r\nc',
            '50%25 "x".zip',
        ),
        (r'form-data; name="a\"b"; filename="say \"hi\".zip"', 'a"b', 'say "hi".zip'),
        (r'form-data; name="a\"; filename="b\"', "a\\", ""),
        (r'form-data; name="file"; filename="C:\dir\app.zip"', "file", "app.zip"),
        ('form-data; name="file"; filename="../../etc/passwd"', "file", "passwd"),
        ('form-data; name="文件"; filename="更新.zip"', "文件", "更新.zip"),
        (
            'form-data; name="file"; filename="x"; filename*=UTF-8\'\'%e6%9b%b4%20%c3%a9.zip',
            "file",
            "更 é.zip",
        ),
        ("form-data; name=\"file\"; filename*=iso-8859-1'de'%e9t%e9.zip", "file", "été.zip"),
        (
            (
                "form-data; name=\"file\"; filename*0*=UTF-8''%e6%9b; filename*1*=%b4;"
                ' filename*2=".zip"'
            ),
            "file",
            "更.zip",
        ),
        ('form-data; name="file";\r\n filename="folded.zip"', "file", "folded.zip"),
    ],
    ids=[
        "browser",
        "tokens",
        "spaces",
        "whatwg",
        "backslash",
        "lone backslash",
        "windows path",
        "unix path",
        "utf-8",
        "rfc 5987",
        "latin-1",
        "rfc 2231",
        "folded",
    ],
)
def test_names_are_read_as_they_were_meant(
    tmp_path: Path, disposition: str, name: str, filename: str
) -> None:
    form = parse_form(request(body(part(disposition, b"x"))), tmp_path, LIMIT)
    assert {key: upload.filename for key, upload in form.files.items()} == {name: filename}


def test_a_file_name_in_another_encoding_does_not_cost_the_upload(tmp_path: Path) -> None:
    content = body(part('form-data; name="file"; filename="XX.zip"', b"x")).replace(
        b"XX", "更新".encode("gbk")
    )
    form = parse_form(request(content), tmp_path, LIMIT)
    assert form.files["file"].size == 1


def test_a_file_input_that_was_left_empty_is_no_file(tmp_path: Path) -> None:
    content = body(
        part('form-data; name="manifest"; filename=""'),
        part('form-data; name="file"; filename="empty.zip"'),
    )
    form = parse_form(request(content), tmp_path, LIMIT)
    assert list(form.files) == ["file"] and form.fields == {}


def test_preamble_padding_and_epilogue_are_ignored(tmp_path: Path) -> None:
    content = (
        b"Hello.\r\n"
        + body(part('form-data; name="a"', b"1")).replace(b"q7\r\n", b"q7 \t\r\n")
        + b"Bye.\r\n--"
    )
    stream = io.BytesIO(content + b"next request")
    form = parse_form(request(content, stream=stream), tmp_path, LIMIT)
    assert form.fields == {"a": "1"}
    assert stream.read() == b"next request"


def test_a_form_may_be_empty(tmp_path: Path) -> None:
    form = parse_form(request(body()), tmp_path, LIMIT)
    assert (form.fields, form.files) == ({}, {})


good = body(part('form-data; name="file"; filename="f"', b"content"))
too_long = multipart.MAX_HEADER_BYTES + 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\r\n",
        b"--",
        good[:-5],
        good[:-30],
        good[:40],
        b"x" * too_long + b"\r\n" + good,
        good.replace(b"q7\r\n", b"q77\r\n"),
        good.replace(b"q7\r\n", b"q7\n"),
        good.replace(b'name="file"; ', b""),
        good.replace(b'name="file"', b'name=""'),
        good.replace(b'name="file"', b'name="file'),
        good.replace(b"form-data", b"attachment"),
        good.replace(b"form-data", b"\0"),
        good.replace(b"Content-D", b"D"),
        good.replace(b'filename="f"', b"filename*0=x; filename*=utf-8''y"),
        good.replace(b'filename="f"', b"filename*=undefined''y"),
        good.replace(b'filename="f"', b'filename="' + b"\\" * too_long + b'"'),
        body(part('form-data; name="a"', b"\xff")),
        body(part('form-data; name="a"', b"1"), part('form-data; name="a"', b"2")),
        body(part('form-data; name="a"', b"1"), part('form-data; name="a"; filename="f"', b"2")),
        body(*[part('form-data; name="a%d"' % i) for i in range(multipart.MAX_PARTS + 1)]),
    ],
    ids=[
        "empty",
        "garbage",
        "line end",
        "dashes",
        "cut boundary",
        "cut content",
        "cut header",
        "long preamble",
        "longer boundary",
        "bare newline",
        "no name",
        "empty name",
        "open quote",
        "no form-data",
        "control",
        "no disposition",
        "odd 2231",
        "odd charset",
        "long header",
        "not UTF-8",
        "twice",
        "field and file",
        "too many",
    ],
)
def test_a_bad_form_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refused(request(content), tmp_path).code == "bad_field"


def test_as_many_fields_as_allowed_are_taken(tmp_path: Path) -> None:
    content = body(*[part('form-data; name="a%d"' % i) for i in range(multipart.MAX_PARTS)])
    form = parse_form(request(content), tmp_path, LIMIT)
    assert len(form.fields) == multipart.MAX_PARTS


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/form-data; boundary=\xe9",
        "multipart/mixed; boundary=" + BOUNDARY,
        "application/json",
        ";;;",
        "\0",
    ],
)
def test_another_content_type_is_refused(tmp_path: Path, kind: str) -> None:
    assert refused(request(good, kind), tmp_path).code == "bad_field"


def test_a_quoted_boundary_is_understood(tmp_path: Path) -> None:
    form = parse_form(
        request(good, 'Multipart/Form-Data; charset=utf-8; boundary="%s"' % BOUNDARY),
        tmp_path,
        LIMIT,
    )
    assert form.files["file"].size == 7


class Untouchable(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the body was read")


@pytest.mark.parametrize(
    "length, code",
    [
        ("", "length_required"),
        ("-1", "bad_field"),
        ("1_0", "bad_field"),
        ("1e3", "bad_field"),
        ("９", "bad_field"),
        (str(LIMIT + 1), "too_large"),
    ],
)
def test_the_length_is_judged_before_the_body_is_read(
    tmp_path: Path, length: str, code: str
) -> None:
    assert refused(request(b"", length=length, stream=Untouchable()), tmp_path).code == code


def test_a_field_has_a_limit(tmp_path: Path) -> None:
    most = multipart.MAX_FIELD_BYTES
    form = parse_form(
        request(body(part('form-data; name="changelog"', b"x" * most))), tmp_path, LIMIT
    )
    assert len(form.fields["changelog"]) == most
    assert (
        refused(
            request(body(part('form-data; name="changelog"', b"x" * (most + 1)))), tmp_path
        ).code
        == "too_large"
    )


class HangsUp(io.RawIOBase):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, size: int = -1) -> bytes:
        if not self._content:
            raise ConnectionResetError("reset by peer")
        content, self._content = self._content, b""
        return content


def test_a_client_that_hangs_up_is_told_how_far_it_came(tmp_path: Path) -> None:
    error = refused(request(good, stream=HangsUp(good[:-40])), tmp_path)
    assert error.code == "bad_field" and isinstance(error.__cause__, ConnectionResetError)
    assert "%d of %d bytes" % (len(good) - 40, len(good)) in str(error)


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), "/dev/full")
    )
    with pytest.raises(OSError, match="No space left"):
        parse_form(request(good.replace(b"content", b"x" * 100_000)), tmp_path, LIMIT)


def test_a_url_encoded_form_is_read(tmp_path: Path) -> None:
    content = b"username=%E7%8E%8B&password=a%26b+c&empty=&bare"
    form = parse_form(
        request(content, "application/x-www-form-urlencoded; charset=UTF-8"), tmp_path, LIMIT
    )
    assert form.fields == {"username": "王", "password": "a&b c", "empty": "", "bare": ""}


@pytest.mark.parametrize(
    "content, code",
    [
        (b"a=1&a=2", "bad_field"),
        (b"a=%ff", "bad_field"),
        (b"\xff=1", "bad_field"),
        (b"&".join(b"%d=" % i for i in range(multipart.MAX_PARTS + 1)), "bad_field"),
        (b"a=" + b"x" * multipart.MAX_FIELD_BYTES, "too_large"),
    ],
    ids=["twice", "not UTF-8", "raw bytes", "too many", "too long"],
)
def test_a_bad_url_encoded_form_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    assert refused(request(content, "application/x-www-form-urlencoded"), tmp_path).code == code
    assert (
        refused(request(b"a=1", "application/x-www-form-urlencoded", length="9"), tmp_path).code
        == "bad_field"
    )


# Pieces of what the parser looks for, so that contents are full of beginnings of it.
near = st.lists(
    st.sampled_from(
        [
            b"\r",
            b"\n",
            b"\r\n",
            b"-",
            b"--",
            BOUNDARY.encode(),
            BOUNDARY.encode()[:-1],
            b"\r\n--" + BOUNDARY.encode()[:9],
            b"\r\n\r\n",
            b"\0",
            b"x" * 50,
        ]
    ),
    max_size=12,
).map(b"".join)
contents = st.one_of(near, st.binary(max_size=200)).filter(
    lambda c: b"\r\n--" + BOUNDARY.encode() not in c
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=st.dictionaries(st.text('abc文"\\ ;', min_size=1, max_size=5), contents, max_size=4),
    fields=st.dictionaries(
        st.text("xyz", min_size=1, max_size=3), st.text(max_size=30), max_size=3
    ),
    cuts=st.lists(st.integers(1, 70), min_size=1, max_size=8),
)
def test_however_the_body_is_cut_the_form_is_the_same(
    tmp_path: Path, files: Dict[str, bytes], fields: Dict[str, str], cuts: List[int]
) -> None:
    parts = [part('form-data; name="%s"' % name, value.encode()) for name, value in fields.items()]
    parts += [
        part('form-data; name="%s"; filename="f"' % name.replace('"', "%22"), content)
        for name, content in files.items()
    ]
    whole = body(*parts)
    form = parse_form(request(whole, stream=Trickle(whole, cuts)), tmp_path, LIMIT)
    assert form.fields == fields
    assert {name: upload.path.read_bytes() for name, upload in form.files.items()} == files
    assert all(
        upload.sha256 == hashlib.sha256(files[name]).hexdigest()
        for name, upload in form.files.items()
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    noise=st.one_of(near, st.binary(max_size=300)),
    start=st.integers(0, len(good)),
    stop=st.integers(0, len(good)),
)
def test_whatever_comes_is_a_form_or_a_form_error(
    tmp_path: Path, noise: bytes, start: int, stop: int
) -> None:
    try:
        parse_form(request(good[:start] + noise + good[stop:]), tmp_path, LIMIT)
    except Refused as error:
        assert error.code == "bad_field"


class Endless(io.RawIOBase):
    """A form with a file of `size` bytes that nobody holds in memory."""

    def __init__(self, size: int) -> None:
        self._head, self._tail = (
            part('form-data; name="file"; filename="big"')[:-2],
            b"\r\n" + body(),
        )
        self.length = len(self._head) + size + len(self._tail)
        self._at, self._file_end, self._block = 0, len(self._head) + size, bytes(range(256)) * 1024

    def read(self, size: int = -1) -> bytes:
        if self._at < len(self._head):
            piece = self._head[self._at :][:size]
        elif self._at < self._file_end:
            piece = self._block[: min(size, self._file_end - self._at)]
        else:
            piece = self._tail[self._at - self._file_end :][:size]
        self._at += len(piece)
        return piece


def test_a_file_is_never_in_memory(tmp_path: Path) -> None:
    stream = Endless(64_000_000)
    tracemalloc.start()
    try:
        form = parse_form(request(b"", length=str(stream.length), stream=stream), tmp_path, 10**9)
        assert form.files["file"].size == 64_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def chunked(
    content: bytes, kind: str = "multipart/form-data; boundary=" + BOUNDARY
) -> Dict[str, Any]:
    """A request as an HTTP server gives it that has decoded a chunked body."""
    return {"wsgi.input": io.BytesIO(content), "wsgi.input_terminated": True, "CONTENT_TYPE": kind}


def test_a_form_without_a_length_is_read_to_its_end(tmp_path: Path) -> None:
    content = body(
        part('form-data; name="a"', b"1"), part('form-data; name="b"; filename="x"', b"2")
    )
    form = parse_form(chunked(content), tmp_path, LIMIT)
    assert form.fields == {"a": "1"} and form.files["b"].path.read_bytes() == b"2"
    form = parse_form(chunked(b"a=1&b=2", "application/x-www-form-urlencoded"), tmp_path, LIMIT)
    assert form.fields == {"a": "1", "b": "2"}
    assert read_body(chunked(b"{}"), LIMIT) == b"{}"


def test_the_limit_holds_without_a_length_too(tmp_path: Path) -> None:
    content = body(part('form-data; name="b"; filename="x"', b"2" * LIMIT))
    assert refused(chunked(content), tmp_path).code == "too_large"
    with pytest.raises(Refused) as caught:
        read_body(chunked(b"x" * (LIMIT + 1)), LIMIT)
    assert caught.value.code == "too_large"
    assert refused(chunked(content[:-10]), tmp_path, 2 * LIMIT).code == "bad_field"
    assert read_body(request(b"1234", length="4"), 4) == b"1234"
    with pytest.raises(Refused) as caught:
        read_body(request(b"123", length="4"), 4)
    assert caught.value.code == "bad_field"


@pytest.mark.parametrize("charset", ["idna", "punycode", "unicode_escape", "zlib", "x"])
def test_a_file_name_in_a_charset_of_the_senders_choice_is_refused(
    tmp_path: Path, charset: str
) -> None:
    """`idna` needs quadratic time (CVE-2022-45061)."""
    content = body(part(f"form-data; name=a; filename*={charset}''x", b"1"))
    assert refused(request(content), tmp_path).code == "bad_field"
