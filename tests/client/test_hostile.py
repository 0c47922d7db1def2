"""A hostile server at the real client, over real HTTP: whatever it sends, the old program stays
whole, starts, and can be updated later.

`unharmed` is the judge of every case, and `survives` at the end of each test. The packages are
those of `test_zip`,
here on the whole way to the disk.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import resource
import shutil
import stat
import time
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest

from nuitkal_mini import ClientUpdater, RollbackError, UpdaterConfig, UpdaterError
from nuitkal_mini.client.disk import Disk
from nuitkal_mini.manifest import dumps

from ..test_zip import FALSE, NAMES, PAIRS, Part, build, mutated
from ..trees import Tree, manifest_of
from .conftest import Exchange, Serve
from .site import Site, package_of
from .test_updater import TWO, app_of, ran

NOISE = random.Random(5).getrandbits(8 * 200_000).to_bytes(200_000, "big")
OLD: Tree = {
    "main.sh": (b"echo old >> ran\n", "644"),
    "lib/a.py": (b"a = 1\n", "644"),
    "big": (NOISE, "644"),
    "link": "lib/a.py",
}
NEW: Tree = {
    **OLD,
    "main.sh": (b"echo new >> ran\n", "644"),
    "lib/a.py": (b"a = 2\n", "755"),
}  # little enough to come by ranges
LATER: Tree = {**TWO, "main.sh": (b"echo later >> ran\n", "644")}
SECRET = "the user's own file beside client_dir"


class Quick(Disk):
    """Without the slow part: nobody cuts the power here."""

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        return None if operation == "fsync" else call(*args)


@pytest.fixture
def updater(site: Site, tmp_path: Path) -> Iterator[ClientUpdater]:
    """A client with OLD installed, and something beside it that a package may be after."""
    (tmp_path / "secret").write_text(SECRET)
    config = UpdaterConfig(
        site.url,
        tmp_path / "client",
        "main.sh",
        retries=0,
        timeout=5.0,
        lock_seconds=0.2,
        log_file=tmp_path / "log",
    )
    site.publish("1.0.0", OLD)
    with ClientUpdater(config, disk=Quick()) as updater:
        assert updater.update()
        yield updater


def attempt(updater: ClientUpdater) -> str:
    """The sentence with which an update is refused; empty when something was installed.

    No other ending is allowed.
    """
    try:
        updater.update()
        return ""
    except UpdaterError as error:
        assert str(error).isprintable() and len(str(error)) < 2000, error
        return str(error)


def unharmed(updater: ClientUpdater, installed: Tree) -> None:
    """The installed tree is exact, nothing around it changed, and nothing that reached the log can
    steer a terminal.
    """
    config = updater.config
    around = config.client_dir.parent
    assert app_of(config) == installed
    assert (
        sorted(os.listdir(around)) == ["client", "log", "secret"]
        and (around / "secret").read_text() == SECRET
    )
    log = (around / "log").read_text("utf-8")
    assert log.replace("\n", "").isprintable() and "Traceback" not in log


def refused(updater: ClientUpdater, name: str) -> None:
    """The update is refused, and OLD is what it was."""
    try:
        assert attempt(updater)
        unharmed(updater, OLD)
    except Exception as error:
        raise AssertionError(name) from error


def survives(site: Site, updater: ClientUpdater) -> None:
    """The old program starts, and an honest release installs."""
    assert updater.run([]) == 0 and ran(updater.config) == ["old"]
    (updater.config.client_dir / "ran").unlink()
    site.origin.answer = site._answer
    site.publish("1.0.2", LATER)
    assert updater.update()
    unharmed(updater, LATER)


def offer(site: Site, package: bytes, way: str) -> None:
    """The bytes as the package of 1.0.1.

    Of a server without manifests, or with one, where they come whole or by ranges.
    """
    tree: Tree = {"another": (NOISE[::-1], "644")} if way == "whole" else NEW
    site.publish("1.0.1", tree, basic=way == "basic")
    site.files["1.0.1.zip"] = package
    site.check["file_hash"] = hashlib.sha256(package).hexdigest()
    if way != "basic":
        site.check["file_size"] = len(package)


# --- packages -------------------------------------------------------------------------------------

LINK = stat.S_IFLNK | 0o777


@pytest.mark.parametrize(
    "way, step",
    [
        ("basic", 7),
        ("whole", 23),
        ("ranges", 23),
        *(pytest.param(way, 1, marks=pytest.mark.slow) for way in ("basic", "whole", "ranges")),
    ],
)
def test_zips_that_are_false_in_one_thing(
    site: Site, updater: ClientUpdater, way: str, step: int
) -> None:
    for name, (package, _) in list(FALSE.items())[::step]:
        offer(site, package, way)
        refused(updater, name)
    survives(site, updater)


def test_names_that_some_system_misreads_or_takes_for_another(
    site: Site, updater: ClientUpdater
) -> None:
    cases: Dict[str, Any] = {**{case: [name] for case, name in NAMES.items()}, **PAIRS}
    for case, names in cases.items():
        offer(
            site,
            build(
                Part("main.sh"),
                *(Part(name, b"" if name[-1:] in ("/", b"/") else b"x") for name in names),
            ),
            "basic",
        )
        refused(updater, case)
    survives(site, updater)


@pytest.mark.parametrize(
    "parts",
    [
        [Part("x", b"../secret", mode=LINK)],
        [Part("x", b"/etc/passwd", mode=LINK)],
        [Part("x", b"d/../../secret", mode=LINK), Part("d/y")],
        [
            Part("a", b"d/e", mode=LINK),
            Part("d/e", b"..", mode=LINK),
            Part("x", b"a/../secret", mode=LINK),
        ],
        [Part("d", b"..", mode=LINK), Part("d/secret", b"overwritten")],
        [Part("d/secret", b"overwritten"), Part("d", b"..", mode=LINK)],
        [Part("d/", b"", mode=stat.S_IFDIR | 0o755), Part("d", b"..", mode=LINK)],
        [Part("D", b".", mode=LINK), Part("d/x")],
        [Part("a", b"b", mode=LINK), Part("b", b"a", mode=LINK)],
        [Part("x", b"..\\secret", mode=LINK)],
        [Part("x", b"C:/secret", mode=LINK)],
        [Part("x", b"", mode=LINK)],
        [Part("x", b"a\0b", mode=LINK)],
    ],
    ids=[
        "outside",
        "absolute",
        "through a folder",
        "through another",
        "then a file behind it",
        "a file behind it first",
        "in place of a folder",
        "by case",
        "in a circle",
        "by backslash",
        "to a drive",
        "to nothing",
        "cut at NUL",
    ],
)
def test_links_that_leave_the_tree(site: Site, updater: ClientUpdater, parts: List[Part]) -> None:
    offer(site, build(Part("main.sh"), *parts), "basic")
    refused(updater, "")
    survives(site, updater)


def test_a_package_without_files_does_not_remove_the_program(
    site: Site, updater: ClientUpdater
) -> None:
    for package in (build(), build(Part("lib/", b"", mode=stat.S_IFDIR | 0o755))):
        offer(site, package, "basic")
        refused(updater, "")
    survives(site, updater)


def test_special_bits_and_hard_link_fields_mean_nothing(site: Site, updater: ClientUpdater) -> None:
    unix = (
        b"\x0d\0" + (18).to_bytes(2, "little") + bytes(12) + b"secret"
    )  # APPNOTE 4.5.7: a link count and a target
    offer(
        site,
        build(
            Part("main.sh", b":\n", mode=stat.S_IFREG | 0o7777),
            Part("x", central={"extra": unix}),
        ),
        "basic",
    )
    assert attempt(updater) == ""
    assert stat.S_IMODE((updater.config.client_dir / "main.sh").stat().st_mode) == 0o755
    assert (updater.config.client_dir / "x").stat().st_nlink == 1


def test_the_version_file_under_its_configured_name(site: Site, updater: ClientUpdater) -> None:
    updater.config.version_file = "státe.txt"
    offer(site, build(Part("main.py"), Part("STA\u0301TE.TXT")), "basic")
    assert "updater's own" in attempt(updater)


@pytest.mark.parametrize("way", ["whole", "ranges"])
@pytest.mark.parametrize(
    "change",
    [
        lambda tree: {path: item for path, item in tree.items() if path == "big"},
        lambda tree: {**tree, **{path: (b"evil", "644") for path in tree if path != "big"}},
        lambda tree: {
            **tree,
            **{path: "big" for path in tree if path != "big"},
            "big": (NOISE, "644"),
        },
        lambda tree: {path.upper(): item for path, item in tree.items()},
        lambda tree: {
            path: (item[0] + b"\n", item[1])
            for path, item in tree.items()
            if not isinstance(item, str)
        },
        lambda tree: {
            path: (item[0][:-1], item[1])
            for path, item in tree.items()
            if not isinstance(item, str)
        },
    ],
    ids=["missing", "of other contents", "links", "of other case", "longer", "shorter"],
)
def test_members_that_disagree_with_the_manifest(
    site: Site, updater: ClientUpdater, change: Callable[[Tree], Tree], way: str
) -> None:
    offer(
        site, package_of(change(NEW if way == "ranges" else {"another": (NOISE[::-1], "644")})), way
    )
    refused(updater, "")
    survives(site, updater)


def test_a_wrong_package_is_not_believed_complete_when_it_was_mended(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", NEW)
    good = site.files["1.0.1.zip"]
    site.check["file_hash"] = ""
    for bad in (
        good[:-60] + bytes(40) + good[-20:],
        good.replace(b"a = 2", b"a = 3"),
        package_of({**NEW, "lib/a.py": (b"a = 3\n", "755")}),
    ):
        site.files["1.0.1.zip"] = bad
        assert len(bad) == len(good) and attempt(updater)
    site.files["1.0.1.zip"] = good
    assert attempt(updater) == "" and app_of(updater.config) == NEW


# --- check/ and manifests -------------------------------------------------------------------------

FIELDS = (
    "version",
    "download_url",
    "file_hash",
    "file_size",
    "manifest_url",
    "signature",
    "changelog",
    "is_active",
    "deltas",
    "upload_time",
)
VALUES: List[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    10**400,
    1.5,
    float("nan"),
    "",
    "a",
    "\x1b[31mred\x1b]0;title\x07",
    "\ud800",
    "\0",
    "\n\r\nx",
    "x" * 10**5,
    "é" * 64,
    [],
    {},
    [[[]]],
    "file:///etc/passwd",
    "http://[::1",
    "http://\x1b[31m/",
    "//evil.invalid/",
    "http://u:p@h/",
    "data:,x",
    "ftp://x/",
    "http://h:99999/",
    "http://127.0.0.1:1/\ud800",
    "../" * 200,
    "?",
    "#",
    "\\\\host\\x",
    "\u202ex",
    "0" * 63 + "\x1b",
    "0" * 64,
]


@pytest.mark.parametrize(
    "step", [41, pytest.param(1, marks=pytest.mark.slow)], ids=["sample", "all"]
)
@pytest.mark.parametrize("basic", [False, True], ids=["with manifest", "basic"])
def test_any_value_in_any_field_of_check(
    site: Site, updater: ClientUpdater, basic: bool, step: int
) -> None:
    keep = updater.config.client_dir
    for field, value in [(field, value) for field in FIELDS for value in VALUES][::step]:
        site.publish("1.0.1", NEW, basic=basic)
        site.check[field] = value
        said = attempt(updater)
        unharmed(updater, OLD if said or updater.installed_version == "1.0.0" else NEW)
        if updater.installed_version != "1.0.0":
            try:
                updater.rollback()
            except RollbackError:  # a version below 1.0.0 withdrew that one
                site.publish("1.0.0", OLD, basic=basic)
                updater.update(force=True)
            document = json.loads((keep / "local_version.json").read_text())
            (keep / "local_version.json").write_text(json.dumps({**document, "rolled_back": None}))


DOCUMENTS = [
    b'{"version": "1.0.1", "version": "2.0.0", "download_url": "1.0.1.zip", "file_hash": "%s"}'
    % (b"0" * 64),
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b"{" * 10**5,
    b'{"version":' * 10**4,
    b"[" * 10**6,
    b'{"a":%s}' % (b"9" * 10**6),
    b"{}" * 10**5,
    b"\0" * 100,
    b'{"version": "1.0.1", "download_url": "check"}',
    b'"' + b"\\ud800" * 1000 + b'"',
    b"null",
    b"-Infinity",
]


def test_documents_that_are_no_release(site: Site, updater: ClientUpdater) -> None:
    for body in DOCUMENTS:
        site.origin.answer = lambda exchange: exchange.reply(200, body)
        refused(updater, repr(body[:40]))
    survives(site, updater)


def hostile_manifests() -> Dict[str, Any]:
    """A manifest of 1.0.1 with one thing changed: a function of its JSON, or new bytes."""

    def entry(**fields: Any) -> Callable[[Dict[str, Any]], Any]:
        return lambda document: document["files"][0].update(fields)

    paths = [
        "../secret",
        "/etc/passwd",
        ".update/../x",
        ".update/lock",
        ".UPDATE/x",
        ".backup/x",
        "local_version.json",
        "a//b",
        "a/./b",
        "a\\b",
        "C:x",
        "nul",
        "a.",
        "a\0",
        "a\u202eb",
        "a" * 256,
        "a/" * 600 + "a",
        "a\u0301",
        "\ud800",
        "UPDATE~1",
        "",
        5,
        None,
        ["a"],
    ]
    return {
        **{f"path {path!r}"[:40]: entry(path=path) for path in paths},
        **{
            f"size {size!r}": entry(size=size)
            for size in (-1, 2**62, 1.0, True, "1", None, 10**400)
        },
        **{
            f"sha256 {value!r}"[:40]: entry(sha256=value)
            for value in ("0" * 63, "G" * 64, "A" * 64, None, 5, "\x1b" * 64)
        },
        **{f"mode {mode!r}": entry(mode=mode) for mode in ("777", "4755", 644, None, "\x1b[2J")},
        **{
            f"link {link!r}"[:40]: entry(link=link, size=None, sha256=None, mode="755")
            for link in ("../secret", "/etc", "", 5, "a\0b", "x" * 5000, "\ud800", "..\\x")
        },
        "a file and a link": entry(link="big"),
        "a path twice": lambda document: document["files"].append(document["files"][-1]),
        "not sorted": lambda document: document["files"].reverse(),
        "by case": lambda document: document["files"].insert(
            0, {**document["files"][0], "path": "BIG"}
        ),
        "a file is a folder": lambda document: document["files"].insert(
            1, {**document["files"][0], "path": "big/x"}
        ),
        "files no list": lambda document: document.update(files={}),
        "entries no objects": lambda document: document.update(files=[1, "a"]),
        "another version": lambda document: document.update(version="1.0.2"),
        "no version": lambda document: document.update(version="\x1b[2J"),
        "format 2": lambda document: document.update(format=2),
        "format deep": lambda document: document.update(format=[[[[]]]]),
        "an app with escapes": lambda document: document.update(app="\x1b]0;x\x07"),
        "an app without end": lambda document: document.update(app="x" * 10**6),
        "another app": lambda document: document.update(app="evil"),
        "a minimum above": lambda document: document.update(minimum="9"),
        "requires": lambda document: document.update(requires={"python": "\x1b[2J"}),
        "a platform to hang fnmatch": lambda document: document.update(
            requires={"platform": ["*" * 60 + "x"]}
        ),
        "deep": b"[" * 10**6,
        "digits": b'{"format": %s}' % (b"1" * 10**6),
        "commas": b"[" + b"0," * 2_100_000 + b"0]",
        "no Unicode": b"\xff\xfe",
        "two million objects": b'{"files": [' + b"{},\n" * 1_900_000 + b"{}]}",
    }


def test_manifests_with_one_hostile_thing(site: Site, updater: ClientUpdater) -> None:
    for name, change in hostile_manifests().items():
        site.publish("1.0.1", NEW)
        document = json.loads(site.files["1.0.1.json"])
        if callable(change):
            change(document)
        site.files["1.0.1.json"] = json.dumps(document).encode() if callable(change) else change
        refused(updater, name)
    survives(site, updater)


def test_a_file_that_no_disk_has_room_for_is_refused_before_it_is_fetched(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", NEW)
    site.files["1.0.1.json"] = dumps(manifest_of(NEW, version="1.0.1")).replace(
        b'"size": %d' % len(NEW["main.sh"][0]), b'"size": %d' % 2**40
    )
    site.requests()
    assert "free space" in attempt(updater)
    assert site.requests() == ["/check?version=1.0.0", "/1.0.1.json"]
    unharmed(updater, OLD)


def test_a_size_that_the_server_made_up_is_not_fetched(site: Site, updater: ClientUpdater) -> None:
    for size in (2**39, 10**8):
        site.publish("1.0.1", NEW)
        site.check["file_size"] = size
        site.requests()
        assert (
            "more than its files can need" in attempt(updater)
            and "/1.0.1.zip" not in site.requests()
        )


# --- HTTP -----------------------------------------------------------------------------------------


def range_of(exchange: Exchange, size: int) -> Tuple[int, int]:
    start, _, end = exchange.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")
    return int(start), int(end or size - 1)


def part(
    status: int = 206,
    shift: int = 0,
    more: int = 0,
    total: int = 0,
    header: Optional[str] = None,
    body: Callable[[bytes, int, int], bytes] = lambda package, first, last: package[
        first : last + 1
    ],
    **headers: Any,
) -> Callable[[Exchange, bytes], None]:
    """An answer to a range request that is false in one thing."""

    def answer(exchange: Exchange, package: bytes) -> None:
        first, last = range_of(exchange, len(package))
        said = (
            header
            if header is not None
            else f"bytes {first + shift}-{last + shift + more}/{len(package) + total}"
        )
        exchange.reply(
            status, body(package, first, last), Content_Range=said, ETag='"1"', **headers
        )

    return answer


RANGES: Dict[str, Callable[[Exchange, bytes], None]] = {
    "another place": part(shift=-100),
    "a longer one": part(shift=-100, more=100),
    "a shorter one": part(more=-100),
    "another total": part(total=1),
    "an unknown total": part(header="bytes 0-9/*"),
    "no Content-Range": part(header=""),
    "nonsense": part(header="bytes 9-1/x"),
    "huge numbers": part(header=f"bytes 0-{10**30}/{10**31}"),
    "other bytes": part(body=lambda package, first, last: bytes(last + 1 - first)),
    "the first bytes": part(body=lambda package, first, last: package[: last + 1 - first]),
    "fewer bytes": part(body=lambda package, first, last: package[first : last - 10]),
    "no bytes": part(body=lambda *_: b""),
    "many parts": part(header="", Content_Type="multipart/byteranges; boundary=x"),
    "416": part(status=416),
    "204": part(status=204),
    "304": part(status=304),
    "300": part(status=300),
    "999": part(status=999),
    "another package, whole": lambda exchange, package: exchange.reply(
        200, package_of({"main.sh": (b"evil", "644")})
    ),
    "as many other bytes, whole": lambda exchange, package: exchange.reply(
        200, bytes(len(package))
    ),
    "a web page": lambda exchange, package: exchange.reply(
        200, b"<html>" + bytes(len(package)), Content_Type="text/html"
    ),
    **{
        f"to {installation}"[:30]: lambda exchange, package, installation=installation: (
            exchange.reply(302, Location=installation)
        )  # type: ignore[misc]
        for installation in (
            "file:///etc/passwd",
            "ftp://127.0.0.1/x",
            "data:,x",
            "javascript:x",
            "//",
            "",
            "http://[",
            "\x1b[2J",
            "gopher://x",
            "1.0.1.zip",
        )
    },
}


HARMLESS_RANGES: Dict[str, Callable[[Exchange, bytes], None]] = {
    "more bytes": part(body=lambda package, first, last: package[first : last + 1] + b"x" * 10**6),
    "called gzip": part(Content_Encoding="gzip"),
    "called aws-chunked": part(Content_Encoding="aws-chunked"),
}


@pytest.mark.parametrize("name", HARMLESS_RANGES)
def test_ranges_with_the_right_bytes_install(site: Site, updater: ClientUpdater, name: str) -> None:
    site.publish("1.0.1", NEW)
    site.origin.answer = lambda exchange: (
        HARMLESS_RANGES[name](exchange, site.files["1.0.1.zip"])
        if "zip" in exchange.path
        else site._answer(exchange)
    )
    assert updater.update()
    unharmed(updater, NEW)


def test_ranges_that_are_not_what_was_asked_for(site: Site, updater: ClientUpdater) -> None:
    site.publish("1.0.1", NEW)
    for name, answer in RANGES.items():
        site.origin.answer = lambda exchange: (
            answer(exchange, site.files["1.0.1.zip"])
            if "zip" in exchange.path
            else site._answer(exchange)
        )
        refused(updater, name)
    survives(site, updater)


@pytest.mark.parametrize("same_etag", [True, False])
def test_a_package_that_changes_between_two_requests(
    site: Site, updater: ClientUpdater, same_etag: bool
) -> None:
    chance = random.Random(3)
    pieces = {
        f"piece{number}": (chance.getrandbits(8 * 50_000).to_bytes(50_000, "big"), "644")
        for number in range(6)
    }
    old: Tree = {**OLD, **pieces}
    new: Tree = {
        **old,
        "piece0": (pieces["piece5"][0][::-1], "644"),
        "piece3": (pieces["piece4"][0][::-1], "644"),
    }
    site.publish("1.0.1", old)
    assert updater.update()
    site.publish("1.0.2", new)
    good, honest, asked = site.files["1.0.2.zip"], site._answer, []
    bad = package_of({**new, "piece3": pieces["piece3"], "piece0": pieces["piece1"]})
    assert len(bad) == len(good)

    def answer(exchange: Exchange) -> None:
        if "zip" not in exchange.path:
            return honest(exchange)
        asked.append(exchange.path)
        exchange.reply_file(
            good if len(asked) == 1 else bad, etag='"1"' if same_etag else f'"{len(asked)}"'
        )

    site.origin.answer = answer
    assert "SHA-256" in attempt(updater) and len(asked) > 1
    unharmed(updater, old)
    site.origin.answer = honest
    assert attempt(updater) == "" and app_of(updater.config) == new


def endless(head: bytes, piece: bytes) -> Callable[[Exchange], None]:
    def answer(exchange: Exchange) -> None:
        exchange.wfile.write(head)
        while piece:
            exchange.wfile.write(piece)
        exchange.close_connection = True

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
OPEN_GZIP = zlib.compressobj(9, zlib.DEFLATED, 31)
ENDLESS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 500),
    "one header": (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 5000),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 5000),
    "chunks": (CHUNKED, b"1000\r\n" + bytes(4096) + b"\r\n"),
    "chunk extensions": (CHUNKED, b"1;" + b"x" * 60_000 + b"\r\na\r\n"),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: y\r\n" * 500),
    "body": (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 5000),
    "behind the gzip": (GZIP + gzip.compress(b"{}"), b"x" * 5000),
    "empty gzip blocks": (
        GZIP + OPEN_GZIP.compress(b"{}") + OPEN_GZIP.flush(zlib.Z_FULL_FLUSH),
        b"\0\0\0\xff\xff" * 1000,
    ),
    "a gzip bomb": (GZIP + gzip.compress(bytes(10**7)), b""),
    "an error page": (b"HTTP/1.1 404 No\r\n\r\n", b"x" * 5000),
}


@pytest.mark.parametrize("where", ["check", "json", "zip"])
def test_answers_without_end_are_cut(site: Site, updater: ClientUpdater, where: str) -> None:
    site.publish("1.0.1", NEW)
    for name, (head, piece) in ENDLESS.items():
        before, began, flood = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            time.monotonic(),
            endless(head, piece),
        )
        site.origin.answer = lambda exchange: (
            flood(exchange) if where in exchange.path else site._answer(exchange)
        )
        refused(updater, name)
        assert time.monotonic() - began < 10, name
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000, (
            name
        )  # kilobytes: a manifest may have 64 MiB
    survives(site, updater)


def test_what_a_server_says_cannot_steer_a_terminal(site: Site, updater: ClientUpdater) -> None:
    words = b'{"error": "\\u001b[2J\\u001b]0;owned\\u0007\\n\\r\\u202e", "code": "\\u001b[2J"}'
    site.origin.answer = lambda exchange: exchange.reply(403, words)
    refused(updater, "")
    survives(site, updater)


def test_manifest_and_package_may_lie_elsewhere_but_the_headers_do_not_go_there(
    site: Site, updater: ClientUpdater, serve: Serve
) -> None:
    site.publish("1.0.1", NEW)
    elsewhere = serve(site.origin.answer)
    site.check.update(
        manifest_url=elsewhere.url + "1.0.1.json", download_url=elsewhere.url + "1.0.1.zip"
    )
    updater.config.headers = {"Authorization": "Bearer secret"}
    assert attempt(updater) == "" and app_of(updater.config) == NEW
    assert "secret" in site.origin.asked[-1].headers["Authorization"]
    assert elsewhere.asked and not any(
        "Authorization" in request.headers for request in elsewhere.asked
    )


def test_with_a_umask_of_0_nobody_else_can_write_what_is_installed_or_fetched(
    site: Site, tmp_path: Path
) -> None:
    config = UpdaterConfig(site.url, tmp_path / "client", "main.sh", retries=0)
    site.publish("1.0.0", OLD)
    site.origin.answer = lambda exchange: (
        exchange.reply_file(site.files["1.0.0.zip"], cut=1000)
        if "zip" in exchange.path
        else site._answer(exchange)
    )
    before = os.umask(0)
    try:
        for _ in range(2):
            attempt(ClientUpdater(config, disk=Quick()))
            for folder, _folders, files in os.walk(config.client_dir):
                if os.path.basename(folder) == "other_runs":
                    continue  # other users say there that they run the program; it is sticky
                for path in [folder, *(os.path.join(folder, name) for name in files)]:
                    assert os.path.islink(path) or not os.stat(path).st_mode & 0o022, path
            assert (
                app_of(config)
                or (config.client_dir / ".update" / "download" / "package.zip").stat().st_size
                == 1000
            )
            site.origin.answer = site._answer
    finally:
        os.umask(before)
    assert app_of(config) == OLD


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "http://",
        "http://[::1",
        "http://[::1]:99999/",
        "http://a b/",
        "file:///etc/passwd",
        "http://h:x/",
        "http://u:p@h/",
        "http://\ud800/",
        "http://" + "a" * 300 + "/",
        "http://é..x/",
        "http://\x1b[2J/",
        "http://127.0.0.1:1/?a=1#b",
    ],
)
def test_an_address_that_is_none_is_an_updater_error_before_and_after_the_first_install(
    updater: ClientUpdater, tmp_path: Path, url: str
) -> None:
    for config in (
        updater.config,
        UpdaterConfig(url, tmp_path / "client" / "nothing here", retries=0),
    ):
        config.check_api_url = url
        assert attempt(ClientUpdater(config))


# --- fuzzing --------------------------------------------------------------------------------------


def mutated_manifest(chance: random.Random) -> bytes:
    """A manifest with some of its values exchanged, or some of its bytes."""
    document = json.loads(dumps(manifest_of(NEW, version="1.0.1")))
    places: List[Tuple[Any, Any]] = [(document, key) for key in document] + [
        (entry, key) for entry in document["files"] for key in entry
    ]
    values = [
        *VALUES,
        "../x",
        "a/b",
        "big",
        "644",
        "755",
        5,
        *(dict(entry) for entry in document["files"]),
        [dict(document["files"][0])],
    ]
    for _ in range(chance.choice([1, 1, 2, 4])):
        holder, key = chance.choice(places)
        holder[key] = chance.choice(values)
    text = bytearray(
        json.dumps(document, default=str).encode()
        if chance.random() < 0.8
        else dumps(manifest_of(NEW, version="1.0.1"))
    )
    for _ in range(chance.choice([0, 0, 1, 3])):
        at = chance.randrange(len(text))
        text[at : at + chance.randrange(4)] = bytes(
            chance.randrange(256) for _ in range(chance.randrange(4))
        )
    return bytes(text)


@pytest.mark.parametrize(
    "count", [50, pytest.param(1000, marks=pytest.mark.slow)], ids=["sample", "thousands"]
)
@pytest.mark.parametrize("what", ["package", "package by ranges", "manifest"])
def test_mutations_harm_nobody(
    site: Site,
    updater: ClientUpdater,
    what: str,
    count: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = updater.config
    saved = tmp_path_factory.mktemp("saved") / "client"
    shutil.copytree(config.client_dir, saved, symlinks=True)
    before, chance, refused = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        random.Random(count),
        0,
    )
    for number in range(count):
        if what == "manifest":
            site.publish("1.0.1", NEW)
            site.files["1.0.1.json"] = mutated_manifest(chance)
        else:
            offer(site, mutated(chance), "basic" if what == "package" else "ranges")
        try:
            refused += bool(attempt(updater))
            installed = updater.installed_version == "1.0.1"
            around = config.client_dir.parent
            assert (
                sorted(os.listdir(around)) == ["client", "log", "secret"]
                and (around / "secret").read_text() == SECRET
            )
            assert installed or app_of(config) == OLD
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {count}") from error
        if installed:
            assert not app_of(config) or not updater.verify()
            shutil.rmtree(config.client_dir)
            shutil.copytree(saved, config.client_dir, symlinks=True)
    assert refused > count // 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kilobytes
    assert updater.run([]) == 0
