"""Files over HTTP, asked for as browsers, caches, download managers and attackers do."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuitkal_mini.server import media
from nuitkal_mini.server.media import resolve, respond
from nuitkal_mini.server.refused import Refused

CONTENT = bytes(range(256)) * 40
MODIFIED = 1_700_000_000
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.fixture(name="package")
def a_package(tmp_path: Path) -> Path:
    return written(tmp_path / "update_1.0.1.zip", CONTENT)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(str(path), ns=(MODIFIED * 10**9, MODIFIED * 10**9))
    return path


class Reply(NamedTuple):
    status: int
    headers: Dict[str, str]
    body: bytes


def get(file: Path, method: str = "GET", wrapper: Optional[type] = None, **headers: str) -> Reply:
    """One request; wsgiref's validator stands between and knows PEP 3333."""
    environ: Dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": "/x",
        "QUERY_STRING": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    environ.update({"HTTP_" + key.upper(): value for key, value in headers.items()})
    if wrapper:
        environ["wsgi.file_wrapper"] = wrapper
    started: List[Tuple[str, List[Tuple[str, str]]]] = []

    def start_response(status: str, headers: List[Tuple[str, str]], exc_info: Any = None) -> Any:
        started.append((status, headers))
        return lambda data: None

    def app(environ: Dict[str, Any], start_response: Any) -> Any:
        return respond(environ, start_response, file, "application/zip")

    body = validator(app)(environ, start_response)
    content = b"".join(body)
    body.close()  # type: ignore[attr-defined]
    return Reply(int(started[0][0][:3]), dict(started[0][1]), content)


def test_a_file_is_sent_with_all_that_caches_need(package: Path) -> None:
    reply = get(package)
    assert (reply.status, reply.body) == (200, CONTENT)
    assert reply.headers["Last-Modified"] == DATE and reply.headers["Accept-Ranges"] == "bytes"
    assert (
        reply.headers["Content-Length"] == str(len(CONTENT))
        and reply.headers["Content-Type"] == "application/zip"
    )
    assert "immutable" in reply.headers["Cache-Control"] and reply.headers["ETag"].startswith('"')


def test_the_servers_file_wrapper_is_used_for_whole_files_only(package: Path) -> None:
    blocks: List[FileWrapper] = []

    class Wrapper(FileWrapper):
        def __init__(self, stream: Any, size: int) -> None:
            super().__init__(stream, size)
            blocks.append(self)

    assert get(package, wrapper=Wrapper).body == CONTENT and len(blocks) == 1
    assert get(package, wrapper=Wrapper, range="bytes=5-").body == CONTENT[5:] and len(blocks) == 1
    assert get(package, "HEAD", wrapper=Wrapper).body == b"" and len(blocks) == 1


def test_head_has_the_headers_of_get(package: Path) -> None:
    assert get(package, "HEAD") == get(package)._replace(body=b"")
    assert get(package, "HEAD", range="bytes=0-4").status == 200


size = len(CONTENT)


@pytest.mark.parametrize(
    "asked, start, stop",
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=5-", 5, size),
        ("bytes=-5", size - 5, size),
        ("bytes=0-", 0, size),
        ("bytes=0-999999", 0, size),
        ("bytes=-999999", 0, size),
        ("BYTES= 1 - 2 ", 1, 3),
        ("bytes=%d-" % (size - 1), size - 1, size),
    ],
)
def test_a_range_is_cut_out(package: Path, asked: str, start: int, stop: int) -> None:
    reply = get(package, range=asked)
    assert (reply.status, reply.body) == (206, CONTENT[start:stop])
    assert reply.headers["Content-Range"] == "bytes %d-%d/%d" % (start, stop - 1, size)
    assert reply.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=5-4",
        "bytes=-",
        "bytes=a-b",
        "lines=1-2",
        "bytes=0-1,5-6",
        "bytes",
        "bytes=1",
        "",
        "bytes=--1",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_no_single_range_gets_the_whole_file(package: Path, asked: str) -> None:
    assert get(package, range=asked)[::2] == (200, CONTENT)


@pytest.mark.parametrize(
    "asked", ["bytes=%d-" % size, "bytes=%d-%d" % (size, size + 1), "bytes=-0"]
)
def test_a_range_behind_the_end_is_not_satisfiable(package: Path, asked: str) -> None:
    with pytest.raises(Refused) as caught:
        get(package, range=asked)
    assert caught.value.code == "range_not_satisfiable"
    assert caught.value.headers == (("Content-Range", "bytes */%d" % size),)


def test_an_empty_file_has_no_range(tmp_path: Path) -> None:
    empty = written(tmp_path / "empty.zip", b"")
    assert (
        get(empty)[::2] == (200, b"")
        and get(empty, wrapper=FileWrapper).headers["Content-Length"] == "0"
    )
    with pytest.raises(Refused):
        get(empty, range="bytes=0-")


def test_if_range_continues_only_the_same_file(package: Path) -> None:
    etag = get(package).headers["ETag"]
    for same in (etag, DATE):
        assert get(package, range="bytes=5-", if_range=same).status == 206
    for other in ('"other"', "W/" + etag, "Tue, 14 Nov 2023 22:13:21 GMT", "yesterday"):
        assert get(package, range="bytes=5-", if_range=other)[::2] == (200, CONTENT)
    assert get(package, range="bytes=%d-" % size, if_range='"other"').status == 200


@pytest.mark.parametrize(
    "known, status",
    [
        ({"if_none_match": "ETAG"}, 304),
        ({"if_none_match": '"x", W/ETAG'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"x"'}, 200),
        ({"if_modified_since": DATE}, 304),
        ({"if_modified_since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 200),
        ({"if_modified_since": "now"}, 200),
        ({"if_modified_since": "Tue, 99 Nov 999999999999 22:13:20 GMT"}, 200),
        ({"if_none_match": '"x"', "if_modified_since": DATE}, 200),
        ({"if_none_match": "ETAG", "range": "bytes=999999-"}, 304),
    ],
)
def test_what_the_client_has_is_not_sent_again(
    package: Path, known: Dict[str, Any], status: int
) -> None:
    etag = get(package).headers["ETag"]
    for method in ("GET", "HEAD"):
        reply = get(
            package, method, **{key: value.replace("ETAG", etag) for key, value in known.items()}
        )
        assert reply.status == status
        assert reply.headers["ETag"] == etag and "Cache-Control" in reply.headers
        assert status == 200 or (
            reply.body == b""
            and "Content-Length" not in reply.headers
            and "Content-Type" not in reply.headers
        )


@pytest.mark.parametrize(
    "condition, holds",
    [
        ({"if_match": "ETAG"}, True),
        ({"if_match": '"x", ETAG'}, True),
        ({"if_match": " * "}, True),
        ({"if_match": '"x"'}, False),
        ({"if_match": "W/ETAG"}, False),  # RFC 9110, 13.1.1: the strong comparison
        ({"if_match": ""}, False),
        ({"if_unmodified_since": DATE}, True),
        ({"if_unmodified_since": "Tue, 14 Nov 2023 22:13:19 GMT"}, False),
        ({"if_unmodified_since": "now"}, True),
        ({"if_match": "ETAG", "if_unmodified_since": "Tue, 14 Nov 2023 22:13:19 GMT"}, True),
        ({"if_match": '"x"', "if_none_match": "ETAG"}, False),
        ({"if_match": '"x"', "range": "bytes=0-1"}, False),
    ],
)
def test_a_condition_that_does_not_hold_is_a_412(
    package: Path, condition: Dict[str, Any], holds: bool
) -> None:
    etag = get(package).headers["ETag"]
    headers = {name: value.replace("ETAG", etag) for name, value in condition.items()}
    for method in ("GET", "HEAD"):
        if holds:
            assert get(package, method, **headers).status == 200
        else:
            with pytest.raises(Refused) as caught:
                get(package, method, **headers)
            assert (caught.value.code, caught.value.status) == ("precondition_failed", 412)


def test_the_etag_changes_with_the_file_and_survives_a_copy(package: Path, tmp_path: Path) -> None:
    etag = get(package).headers["ETag"]
    assert get(written(tmp_path / "restored.zip", CONTENT)).headers["ETag"] == etag
    os.utime(str(package), ns=(MODIFIED * 10**9 + 1, MODIFIED * 10**9 + 1))
    assert get(package).headers["ETag"] != etag


def test_a_file_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        get(tmp_path / "gone.zip")


def test_json_travels_gzipped_when_the_client_takes_it(tmp_path: Path) -> None:
    manifest = written(tmp_path / "m.json", b'{"a": 1}' * 1000)
    plain = get(manifest)
    for header in ("gzip", "deflate, GZIP;q=0.5", "br, gzip"):
        reply = get(manifest, accept_encoding=header)
        assert (
            reply.headers["Content-Encoding"] == "gzip"
            and gzip.decompress(reply.body) == plain.body
        )
        assert reply.headers["Content-Length"] == str(len(reply.body)) and len(reply.body) < 200
        assert (
            reply.headers["ETag"] != plain.headers["ETag"]
            and reply.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
        )
        assert get(manifest, "HEAD", accept_encoding=header) == reply._replace(body=b"")
        assert (
            get(manifest, accept_encoding=header, if_none_match=reply.headers["ETag"]).status == 304
        )
    for header in ("identity", "gzip;q=0", "gzip; q=0.000", "gzipped", "*;q=0"):
        assert get(manifest, accept_encoding=header) == plain


def test_ranges_and_packages_are_never_gzipped(package: Path, tmp_path: Path) -> None:
    assert get(package, accept_encoding="gzip").body == CONTENT
    reply = get(written(tmp_path / "m.json", CONTENT), accept_encoding="gzip", range="bytes=1-2")
    assert (reply.status, reply.body) == (
        206,
        CONTENT[1:3],
    ) and "Content-Encoding" not in reply.headers


def test_the_cache_of_gzipped_files_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "GZIP_CACHE_BYTES", 5_000)
    files = [written(tmp_path / ("%d.json" % i), os.urandom(2_000)) for i in range(4)]
    for file in files * 2:
        assert gzip.decompress(get(file, accept_encoding="gzip").body) == file.read_bytes()
        assert sum(map(len, media._cache.values())) <= 5_000
    changed = written(files[-1], os.urandom(1_999))
    assert gzip.decompress(get(changed, accept_encoding="gzip").body) == changed.read_bytes()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=st.integers(0, 60), last=st.integers(0, 60))
def test_any_range_is_the_slice_it_names(tmp_path: Path, first: int, last: int) -> None:
    content = bytes(range(50))
    file = written(tmp_path / "f.zip", content)
    expected = content[first : last + 1]
    if first > last:
        assert get(file, range="bytes=%d-%d" % (first, last)).status == 200
    elif not expected:
        with pytest.raises(Refused):
            get(file, range="bytes=%d-%d" % (first, last))
    else:
        assert get(file, range="bytes=%d-%d" % (first, last)).body == expected


@pytest.fixture(name="root")
def a_media_folder(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    (root / "2025" / "01").mkdir(parents=True)
    (root / "2025" / "01" / "update_1.0.1-rc.1+b.zip").write_bytes(b"zip")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "inside").symlink_to(root / "2025")
    (root / "circle").symlink_to(root / "circle")
    os.mkfifo(str(root / "pipe"))
    return root


def test_a_path_below_the_root_is_found(root: Path) -> None:
    expected = (root / "2025" / "01" / "update_1.0.1-rc.1+b.zip").resolve()
    assert resolve(root, "2025/01/update_1.0.1-rc.1+b.zip") == expected
    assert resolve(root, "inside/01/update_1.0.1-rc.1+b.zip") == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        ".",
        "..",
        "../secret",
        "2025/../../secret",
        "2025/01/../../../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "..\\secret",
        "2025\\01\\update_1.0.1-rc.1+b.zip",
        "/etc/passwd",
        "//etc/passwd",
        "C:/Windows/win.ini",
        "link",
        "folder/secret",
        "circle",
        "pipe",
        "2025",
        "2025/01",
        "2025/01/",
        "2025//01/update_1.0.1-rc.1+b.zip",
        "./2025/01/update_1.0.1-rc.1+b.zip",
        "no",
        "no/no",
        "2025/01/update_1.0.1-rc.1+b.zip/",
        "2025/01/update_1.0.1-rc.1+b.zip/x",
        "2025/01/update_1.0.1-rc.1+b.zip\0",
        "2025/01/update_1.0.1-rc.1+b.zip.",
        "2025/01/update_1.0.1-rc.1+b.zip ",
        "2025/01/update_1.0.1-rc.1+b.zip\n",
        "2025/01/update_1.0.1-rc.1+b.zip::$DATA",
        "UPDATE~1.ZIP",
        "con",
        "NUL.zip",
        "2025/aux/x",
        "x" * 300,
        "\u2025/secret",
        "\udcff",
    ],
)
def test_nothing_else_is_found(root: Path, path: str) -> None:
    assert resolve(root, path) is None


def test_a_device_name_is_refused_even_where_it_is_a_file(root: Path) -> None:
    (root / "com1.zip").write_bytes(b"a file on POSIX, a serial port on Windows")
    assert resolve(root, "com1.zip") is None


@given(path=st.text("./\\%2e~:aA\0", max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_out(root: Path, path: str) -> None:
    found = resolve(root, path)
    assert found is None or root.resolve() in found.parents
