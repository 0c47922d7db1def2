"""Manifests: legal ones come through unchanged, others are refused with a sentence, cheaply."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import tempfile
import time
import unicodedata
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuitkal_mini.entries import MAX_FILES, FileEntry, check_owned_names, check_tree, link_entry
from nuitkal_mini.manifest import (
    MAX_BYTES,
    Manifest,
    ManifestError,
    Terms,
    dumps,
    loads,
    python_fits,
)
from nuitkal_mini.paths import UnsafePath, check_path, fold
from nuitkal_mini.semver import BadVersion
from nuitkal_mini.strict_json import JsonError, _unique_keys
from nuitkal_mini.tree_diff import Diff, diff

from .support import peak_kilobytes
from .trees import Tree, entries_of, manifest_of, read_tree, trees, write_tree

HASH = "0123456789abcdef" * 4
KEY, OTHER_KEY = "RWQ" + "A" * 53, "RWT/" + "b" * 52
ENTRY = {"path": "a", "size": 1, "sha256": HASH, "mode": "644"}


def file_entry(path: str) -> FileEntry:
    return FileEntry(path, 1, HASH, "644")


def document(**changes: Any) -> Dict[str, Any]:
    return {"format": 1, "app": "app", "version": "1.0", "files": [ENTRY], **changes}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode("ascii")  # escapes: lone surrogates come through as well


def refused(data: bytes) -> str:
    """The sentence with which a manifest is refused; it can be printed and is short."""
    with pytest.raises((ManifestError, UnsafePath, JsonError, BadVersion)) as caught:
        loads(data)
    sentence = str(caught.value)
    assert len(sentence.encode("utf-8")) < 9000
    return sentence


# --- the codec ----------------------------------------------------------------------------------


terms = st.builds(
    Terms,
    st.sampled_from(["", "0.9"]),
    st.sampled_from(["", ">=3.8", ">=3.9,<4,!=3.11.1"]),
    st.sampled_from([(), ("linux-*", "windows-x86_64")]),
    st.sampled_from([(), ("0123456789ABCDEF",)]),
    st.sampled_from([(), (KEY,), (KEY, OTHER_KEY)]),
)


@given(
    trees(),
    st.sampled_from(["", "app", "我的 应用"]),
    st.sampled_from(["1", "v1.0.0-rc.1+b"]),
    terms,
)
def test_a_manifest_comes_back_as_it_was_and_its_bytes_are_stable(
    tree: Tree, app: str, version: str, asked: Terms
) -> None:
    written = manifest_of(tree, app, version)._replace(terms=asked)
    programs = [entry.path for entry in written.files if entry.link is None]
    written = written._replace(main=programs[0] if programs else "")
    assert loads(dumps(written)) == written
    assert dumps(written._replace(files=tuple(reversed(written.files)))) == dumps(written)


def test_the_bytes_are_the_contracts_json_with_one_entry_a_line() -> None:
    files = (FileEntry("lib/a.so", 123, HASH, "755"), link_entry("lib/ä", "a.so"))
    data = dumps(Manifest("app", "1.0.1", files))
    assert data.decode("utf-8").splitlines() == [
        '{"format": 1, "app": "app", "version": "1.0.1", "files": [',
        f'{{"path": "lib/a.so", "size": 123, "sha256": "{HASH}", "mode": "755"}},',
        '{"path": "lib/ä", "link": "a.so", "mode": "755"}',
        "]}",
    ]


def test_main_and_keys_stand_before_the_files() -> None:
    terms = Terms(minimum="1", keys=(KEY, OTHER_KEY))
    data = dumps(Manifest("app", "1.0.1", (FileEntry("a", 1, HASH, "644"),), terms, "a"))
    assert data.decode("utf-8").splitlines()[0] == (
        '{"format": 1, "app": "app", "version": "1.0.1", "main": "a", '
        f'"keys": ["{KEY}", "{OTHER_KEY}"], "minimum": "1", "files": ['
    )


def test_a_release_without_files_and_keys_of_later_programs_are_read() -> None:
    assert loads(encoded(document(files=[], later={"x": [1]}))) == Manifest("app", "1.0", ())
    assert loads(encoded(document(files=[{**ENTRY, "later": 1}]))).files == (
        FileEntry("a", 1, HASH, "644"),
    )


DEEP: List[Any] = []
for _ in range(400):
    DEEP = [DEEP]

DOCUMENTS = {
    "no object": [1],
    "a newer format": document(format=2),
    "a format of surrogates": document(format="\ud800"),
    "a deep format": document(format=DEEP),
    "no format": {"app": "a"},
    "no version": document(version=None),
    "a number for a version": document(version=1),
    "a bad version": document(version="latest"),
    "a surrogate for a version": document(version="\udcff"),
    "a very long version": document(version="1" * 100_000),
    "no app": document(app=None),
    "a deep app": document(app=DEEP),
    "a long app": document(app="a" * 65),
    "an app of two lines": document(app="a\nb"),
    "an app with spaces around": document(app=" a"),
    "a surrogate in the app": document(app="\ud83d"),
    "an invisible character in the app": document(app="a\u200b"),
    "a minimum above the version": document(minimum="1.1"),
    "a minimum that is a number": document(minimum=5),
    "a bad minimum": document(minimum="\ud800"),
    "requirements that are no object": document(requires=[]),
    "a Python of a million digits": document(requires={"python": ">=" + "9" * 1_000_000}),
    "a Python that is none": document(requires={"python": ">=3.9,"}),
    "a platform of surrogates": document(requires={"platform": ["\ud800"]}),
    "a platform that no regular expression takes": document(requires={"platform": ["[z-a]"]}),
    "a platform that takes Python 3.8 for ever": document(requires={"platform": ["*" * 50 + "x"]}),
    "a platform outside a list": document(requires={"platform": "linux-*"}),
    "a revoked key that is none": document(revoked=["\ud800" * 16]),
    "a key that is none": document(keys=["RWQ"]),
    "a key with a newline": document(keys=[KEY + "\n"]),
    "a key of another algorithm": document(keys=["RWU" + "A" * 53]),
    "a key twice": document(keys=[KEY, OTHER_KEY, KEY]),
    "a key outside a list": document(keys=KEY),
    "a number for a key": document(keys=[1]),
    "101 keys": document(keys=["RWQ" + f"{i:053}" for i in range(101)]),
    "a main program that is not there": document(main="b"),
    "a main program in another case": document(main="A"),
    "a main program that is a folder": document(
        main="d", files=[{**ENTRY, "path": "d/a"}, {**ENTRY, "path": "e"}]
    ),
    "a main program that is a link": document(main="b", files=[ENTRY, {"path": "b", "link": "a"}]),
    "a number for a main program": document(main=1),
    "null for a main program": document(main=None),
    "true for the format": document(format=True),
    "a fraction for the format": document(format=1.0),
    "text for the format": document(format="1"),
    "files that are no list": document(files={"a": 1}),
    "files that are no objects": document(files=["a", 1, None]),
    "unsorted files": document(files=[{**ENTRY, "path": "b"}, ENTRY]),
    "the same file twice": document(files=[ENTRY, ENTRY]),
    "a deep path": document(files=[{**ENTRY, "path": DEEP}]),
    "a surrogate in a path": document(files=[{**ENTRY, "path": "a\ud800"}]),
    "no size": document(files=[{**ENTRY, "size": None}]),
    "true for a size": document(files=[{**ENTRY, "size": True}]),
    "a float for a size": document(files=[{**ENTRY, "size": 1.0}]),
    "a negative size": document(files=[{**ENTRY, "size": -1}]),
    "a size over 1 TiB": document(files=[{**ENTRY, "size": 2**40 + 1}]),
    "an upper-case hash": document(files=[{**ENTRY, "sha256": HASH.upper()}]),
    "a short hash": document(files=[{**ENTRY, "sha256": HASH[1:]}]),
    "a hash and a newline": document(files=[{**ENTRY, "sha256": HASH + "\n"}]),
    "a hash of other digits": document(files=[{**ENTRY, "sha256": "٣" * 64}]),
    "no mode": document(files=[{"path": "a", "size": 1, "sha256": HASH}]),
    "a number for a mode": document(files=[{**ENTRY, "mode": 644}]),
    "a setuid mode": document(files=[{**ENTRY, "mode": "4755"}]),
    "a list for a mode": document(files=[{**ENTRY, "mode": ["644"]}]),
    "a file and link in one": document(files=[{**ENTRY, "link": "b"}]),
    "a link with a size": document(files=[{"path": "a", "link": "b", "size": 0}]),
    "a link to nothing": document(files=[{"path": "a", "link": ""}]),
    "a link to a surrogate": document(files=[{"path": "a", "link": "b\ud800"}]),
    "a link to a NUL": document(files=[{"path": "a", "link": "b\0"}]),
    "a long link": document(files=[{"path": "a", "link": "b/" * 600}]),
    "a number for a link": document(files=[{"path": "a", "link": 1}]),
}


@pytest.mark.parametrize("value", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_document_that_breaks_a_rule_is_refused(value: object) -> None:
    refused(encoded(value))


TEXTS = {
    "nothing": b"",
    "no JSON": b"<html>",
    "a byte order mark": b"\xef\xbb\xbf" + encoded(document()),
    "UTF-16": json.dumps(document()).encode("utf-16"),
    "Latin-1": json.dumps(document(app="ä"), ensure_ascii=False).encode("latin-1"),
    "an overlong slash": encoded(document()).replace(b'"a"', b'"\xc0\xaf"'),
    "a surrogate in UTF-8": encoded(document()).replace(b'"app"', b'"\xed\xa0\x80"'),
    "cut short": dumps(manifest_of({"a": (b"", "644")}))[:-5],
    "something behind": dumps(manifest_of({})) + b"x",
    "deep lists": b"[" * 100_000,
    "deep lists that end": b'{"format": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000,
    "NaN": b'{"format": NaN}',
    "NaN in a field of later programs": encoded(document(later=float("nan"))),
    "infinity": encoded(document(later=[float("-inf")])),
    "a large fraction": encoded(document()).replace(b'"app"', b'"later": 1e999, "app"'),
    "a key twice": b'{"format": 1, ' + encoded(document())[1:],
    "a key twice, in an escape": encoded(document()).replace(
        b'"app"', b'"ver\\u0073ion": "9", "app"'
    ),
    "a key twice, in an entry": encoded(document()).replace(b'"size"', b'"path": "b", "size"'),
    "a key twice, deep": encoded(document()).replace(b'"app"', b'"x": [{"y": 1, "y": 1}], "app"'),
    "an infinite size": encoded(document()).replace(b'"size": 1', b'"size": 1e999'),
    "a size of a million digits": encoded(document()).replace(
        b'"size": 1', b'"size": ' + b"9" * 1_000_000
    ),
    "a million digits and a point": encoded(document()).replace(
        b'"size": 1', b'"size": 0.' + b"9" * 1_000_000
    ),
}


@pytest.mark.parametrize("data", TEXTS.values(), ids=TEXTS.keys())
def test_bytes_that_are_no_such_json_are_refused_at_once(data: bytes) -> None:
    started = time.process_time()
    refused(data)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("depth", range(5, 1005, 5))
def test_no_depth_of_nesting_overflows_the_stack_in_reading_or_in_the_sentence(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    for place in (
        b'{"format": %s}',
        b'{"format": 1, "version": "1", "files": [], "app": %s}',
        b'{"format": 1, "version": "1", "app": "", "files": [{"path": %s}]}',
    ):
        refused(place % nested)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["1.0", HASH, "644", "../a", "a/b", "\ud800", "CON"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(ENTRY) + ["link"]), inner, max_size=5)
    ),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["a", "A", "a/b", "b", "..", "c"]) | json_values,
        "link": st.sampled_from(["a", "..", "b/../..", "."]) | json_values,
        "size": st.integers(0, 9) | json_values,
        "sha256": st.just(HASH) | json_values,
        "mode": st.sampled_from(["644", "755"]) | json_values,
    },
)
documents = st.fixed_dictionaries(
    {
        "format": st.just(1) | json_values,
        "app": st.just("app") | json_values,
        "version": st.just("1.0") | json_values,
        "files": st.lists(entries | json_values, max_size=4) | json_values,
    },
    optional={
        "minimum": st.just("0.9") | json_values,
        "requires": st.fixed_dictionaries(
            {},
            optional={
                "python": st.just(">=3.8") | json_values,
                "platform": st.lists(st.just("linux-*") | json_values),
            },
        )
        | json_values,
        "revoked": st.lists(st.just("0123456789abcdef") | json_values, max_size=2) | json_values,
    },
)


@given(json_values | documents)
@settings(max_examples=150)
def test_any_json_is_a_manifest_or_refused(value: object) -> None:
    data = encoded(value)
    try:
        manifest_read = loads(data)
    except (ManifestError, UnsafePath, JsonError, BadVersion) as error:
        str(error).encode("utf-8")
    else:
        assert loads(dumps(manifest_read)) == manifest_read


@given(st.data(), trees(max_size=4))
@settings(max_examples=300)
def test_any_bytes_are_a_manifest_or_refused(data: st.DataObject, tree: Tree) -> None:
    damaged = bytearray(dumps(manifest_of(tree)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        loads(bytes(damaged))
    except (ManifestError, UnsafePath, JsonError, BadVersion) as error:
        str(error).encode("utf-8")


@given(st.from_regex(r"[A-Za-z0-9_.*?-]{1,64}", fullmatch=True))
@settings(max_examples=200)
def test_every_platform_that_is_accepted_is_matched_at_once(pattern: str) -> None:
    try:
        loads(encoded(document(requires={"platform": [pattern]})))
    except ManifestError:
        return
    started = time.process_time()
    fnmatch.fnmatchcase("linux-aarch64-x86_64", pattern)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "python, fitting, unfitting",
    [
        ("", [(2, 7, 0), (3, 13, 0)], []),
        (">=3.9", [(3, 9, 0), (3, 10, 1), (4, 0, 0)], [(3, 8, 18)]),
        (">=3.9,<3.12", [(3, 11, 9)], [(3, 12, 0), (3, 8, 0)]),
        ("> 3", [(4, 0, 0)], [(3, 13, 0)]),
        ("==3.11", [(3, 11, 7)], [(3, 1, 1), (3, 12, 0)]),
        ("!=3.11.1, <=3.11", [(3, 11, 2), (3, 0, 0)], [(3, 11, 1), (3, 12, 0)]),
    ],
)
def test_a_requirement_is_compared_as_far_as_it_is_written(
    python: str, fitting: List[Tuple[int, ...]], unfitting: List[Tuple[int, ...]]
) -> None:
    loads(encoded(document(requires={"python": python})))
    assert all(python_fits(python, running) for running in fitting)
    assert not any(python_fits(python, running) for running in unfitting)


# --- the cost of hostile ones -------------------------------------------------------------------


def numbered(number: int, path: str) -> FileEntry:
    return FileEntry(f"{number:06}/{path}", 0, HASH, "644")


def hostile_trees() -> Dict[str, Tuple[bytes, str]]:
    """Manifests of some MB each and how they are refused.

    Most took minutes or gigabytes with rules that looked at all prefixes, or all values.
    """
    links = "/".join(["s"] * 45)
    return {
        "deep folders": (
            dumps(Manifest("", "1", tuple(numbered(i, "a/" * 490 + "a") for i in range(3000)))),
            "more than 200,000 folders",
        ),
        "small values": (
            b'{"format": 1, "files": [' + b"[]," * 3_000_000 + b"[]]}",
            "too many values",
        ),
        "too many files": (
            encoded(document(files=[0] * (MAX_FILES + 1))),
            "at most 200,000 files",
        ),
        "links that multiply": (
            dumps(
                Manifest(
                    "",
                    "1",
                    (
                        link_entry("a", "/".join(["b"] * 400)),
                        link_entry("b", "/".join(["a"] * 400)),
                    ),
                )
            ),
            "too many links",
        ),
        "links through links": (  # each walk takes 91 steps
            dumps(
                Manifest(
                    "",
                    "1",
                    (
                        *(link_entry(f"d/{i:06}", links) for i in range(19_999)),
                        link_entry("d/s", "."),
                    ),
                )
            ),
            "",
        ),
        "too many links": (
            dumps(Manifest("", "1", tuple(link_entry(f"{i:06}", ".") for i in range(20_001)))),
            "more than 20,000 links",
        ),
        "combining marks": (
            dumps(
                Manifest(
                    "", "1", tuple(numbered(i, "a" + "\u0323\u0301" * 60) for i in range(3000))
                )
            ),
            "normal form C",
        ),
        "one endless path": (
            encoded(document(files=[{**ENTRY, "path": "a\u0301\u0323" * 1_000_000}])),
            "longer than 1,024 bytes",
        ),
        "no JSON, large": (b" " * (MAX_BYTES + 1), "larger than 64 MiB"),
    }


@pytest.mark.slow
def test_hostile_manifests_cost_seconds_and_megabytes_only() -> None:
    for name, (data, sentence) in hostile_trees().items():
        before = peak_kilobytes()
        started = time.process_time()
        if sentence:
            assert sentence in refused(data), name
        else:
            loads(data)
        assert time.process_time() - started < 6, name
        assert peak_kilobytes() - before < 300_000, name


@pytest.mark.slow
def test_a_manifest_of_the_largest_size_is_read() -> None:
    files = tuple(
        FileEntry(f"lib/folder{i // 100}/a file with a name{i:06}", i, HASH, "644")
        for i in range(MAX_FILES)
    )
    largest = Manifest("app", "1", tuple(sorted(files)))
    assert loads(dumps(largest)) == largest


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b/c",
        "main.py",
        ".hidden",
        "..a",
        "a..b",
        "...a",
        "a b",
        " a",
        "-rf",
        "~",
        "~1x",
        "a~b",
        "longname~1",
        "config",
        "console.py",
        "com",
        "com10",
        "com1x",
        "lpt",
        "aux1",
        "nulls",
        "a.con",
        "con-1",
        "CONTEXT",
        "名字/文件",
        "ä",
        "straße",
        "İ",
        "ı",
        "chunk~1.js",
        "a~1",
        "app~12.css",
        "vendors~main~1.js",
        "می\u200cخواهم.txt",
        "خانه\u200cها",
        "क\u094d\u200dष",
        "क\u094d\u200cष",
        "ක\u0dca\u200dර",
        "👩\u200d💻.png",
        "❤\ufe0f\u200d🔥",
        "❤\ufe0f",
        "👨🏽\u200d🚀",
        "👩🏽\u200d❤\ufe0f\u200d💋\u200d👨🏻",
        "🏳\ufe0f\u200d🌈",
        "🙂\u200d↔\ufe0f",
        "1\ufe0f\u20e3",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "ſ",
        "😀",
        "\u00a0a",
        "update",
        "x/.update",
        "x/local_version.json",
        ".update2",
        "$Recycle",
        "a'b",
        "a;b",
        "a&b",
        "{0}",
        "%s",
        "é" * 127,
        "/".join(["a" * 255] * 4),
    ],
    ids=ascii,
)
def test_a_path_that_every_system_can_name_is_allowed(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "//a",
        "a/",
        "a//b",
        ".",
        "..",
        "./a",
        "../a",
        "a/.",
        "a/..",
        "a/../b",
        "a/./b",
        "a\\b",
        "\\a",
        "..\\a",
        "C:",
        "C:a",
        "C:/a",
        "C:\\a",
        "\\\\server\\share",
        "\\\\?\\C:\\a",
        "a:stream",
        "a::$DATA",
        "a<",
        "a>",
        'a"',
        "a|",
        "a?",
        "a*",
        "a.",
        "a ",
        "a. ",
        "a./b",
        "a /b",
        "...",
        "....",
        "CON",
        "con",
        "Con.txt",
        "con.tar.gz",
        "con .txt",
        "con . txt",
        "a/NUL/b",
        "prn",
        "AUX.h",
        "com1",
        "COM9.log",
        "COM0",
        "LPT1",
        "lpt9.x",
        "COM¹",
        "com².txt",
        "LPT³",
        "CONIN$",
        "conout$.x",
        "CLOCK$",
        "UPDATE~1",
        "a/PROGRA~2/b",
        "LOCAL_~1.JSO",
        "A~1",
        "~1",
        "ABC~12.X",
        "GIT~1",
        "progra~1.txt",
        "UPDATE~1.x/y",
        "update~1",
        "a\u200cb",
        "a\u200db",
        "\u200cم",
        "م\u200c",
        "ر\u200cم",
        "क\u200dष",
        "क\u094d\u200c",
        "क\u094d\u200d\u200dष",
        "A\u094d\u200dB",
        "👩\u200d",
        "\u200d👩",
        "👩\u200da",
        "👩\u200d\u200d💻",
        "❤\ufe0f\ufe0f",
        "\U0001f3f4\U000e0067",
        ".upd\u200date",
        "a\0b",
        "a\nb",
        "\ta",
        "a\x7f",
        "a\x85",
        "a\u200bb",
        "a\u200e",
        "\u202egpj.exe",
        "\ufeffa",
        "a\u00ad",
        "a\u2028",
        "a\u2029",
        "a\u2060",
        "a\u2065",
        "a\u034f",
        "a\u115f",
        "a\u1160",
        "a\u3164",
        "a\uffa0",
        "a\ufe0f",
        "a\ufff0",
        "a\ufff8",
        "a\U000e0020",
        "a\U000e0100",
        "a\u180b",
        "a\u180f",
        "a\u17b4",
        "\ud800",
        "a\udcff",
        "\ud83d\ude00",
        "a\u0308",
        "e\u0301/x",
        "\u212b",
        "\u1100\u1161",
        "\u212aey",
        "\u2126",
        ".update",
        ".UPDATE/x",
        ".Update",
        ".backup",
        ".bacKup/x",
        "local_version.json",
        "LOCAL_VERSION.json",
        "local_ver\u017fion.json",
        "local_version.json/x",
        "a" * 256,
        "é" * 128,
        "/".join(["a" * 200] * 6),
        "a/" * 512 + "a",
    ],
    ids=ascii,
)
def test_a_path_that_some_system_takes_for_something_else_is_refused_by_name(path: str) -> None:
    with pytest.raises(UnsafePath) as caught:
        check_path(path)
    assert repr(path)[:90].rstrip("'\"") in str(caught.value)
    str(caught.value).encode("utf-8")


@given(st.text(max_size=30) | st.lists(st.text(max_size=5), max_size=4).map("/".join))
@settings(max_examples=500)
def test_any_path_is_refused_or_stays_in_its_folder(path: str) -> None:
    try:
        check_path(path)
    except UnsafePath as error:
        str(error).encode("utf-8")
    else:
        root = "/srv/app"
        assert os.path.normpath(os.path.join(root, path)) == root + "/" + path
        assert unicodedata.is_normalized("NFC", path)


@given(st.text(max_size=20))
def test_folding_twice_is_folding_once_and_the_form_does_not_matter(path: str) -> None:
    assert fold(fold(path)) == fold(path)
    assert (
        fold(unicodedata.normalize("NFD", path))
        == fold(unicodedata.normalize("NFC", path))
        == fold(path)
    )


# --- trees --------------------------------------------------------------------------------------

COLLISIONS = {
    "the same path": ["a", "a"],
    "files by case": ["readme", "README"],
    "folders by case": ["Lib/a", "lib/b"],
    "deep folders by case": ["x/Lib/y/a", "x/lib/z/b"],
    "sharp s": ["Straße", "STRASSE"],
    "capital sharp s": ["straẞe", "strasse"],
    "long s": ["s", "ſ"],
    "final sigma": ["ΣΑΣ", "σας"],
    "ligature": ["ﬁle", "file"],
    "dotted capital I": ["İ", "i\u0307"],
    "titlecase": ["ǅ", "ǆ"],
    "dotless i": ["fıle", "file"],
    "dotless i and its capital": ["ı", "I"],
    "an emoji with and without its variation selector": ["❤\ufe0f", "❤"],
    "with and without a non-joiner": ["می\u200cخواهم", "میخواهم"],
    "a file and a folder": ["a", "a/b"],
    "a file and a folder by case": ["A", "a/b"],
    "a file and a deep folder": ["a/b", "a/b/c/d"],
    "a file and a folder, a name between": ["a", "a.b", "a/c"],
}


@pytest.mark.parametrize("paths", COLLISIONS.values(), ids=COLLISIONS.keys())
def test_paths_that_are_one_on_some_system_are_refused_in_any_order(paths: List[str]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(UnsafePath) as caught:
            check_tree(map(file_entry, order))
        tops = tuple(repr(path.split("/")[0])[:-1] for path in paths)
        assert str(caught.value).startswith(tops)


@pytest.mark.parametrize(
    "paths",
    [
        ["ı", "i2"],
        ["İ", "ı"],
        ["a/b", "a/c", "b/a"],
        ["a", "a.b"],
        ["ss", "ß2"],
        ["lib/x", "lib2/x"],
    ],
    ids=ascii,
)
def test_paths_that_differ_everywhere_live_side_by_side(paths: List[str]) -> None:
    check_tree(map(file_entry, paths))


def test_a_link_is_no_folder() -> None:
    with pytest.raises(UnsafePath, match="'a' is both a file and a folder"):
        check_tree([link_entry("a", "b"), file_entry("a/x"), file_entry("b")])


def test_further_folders_must_not_contradict_the_files() -> None:
    check_tree([file_entry("a/b")], ["a", "a/c", "d"])
    for folder in ("A", "a/b", "A/x"):
        with pytest.raises(UnsafePath):
            check_tree([file_entry("a/b")], [folder])


INSIDE = {
    "a sibling": ({"a": "b"}, "b"),
    "its own folder, below the root": ({"d/a": "."}, "d/x"),
    "down": ({"a": "x/y"}, "x/y"),
    "a folder": ({"a": "x"}, "x/y"),
    "up and down": ({"x/a": "../y/z"}, "y/z"),
    "doubled slashes": ({"x/a": ".././/y//z"}, "y/z"),
    "a slash behind a folder": ({"a": "y/"}, "y/z"),
    "down and up": ({"a": "x/../y"}, "x/1 y"),
    "through the root": ({"x/a": "../x/../y"}, "x/1 y"),
    "through a link": ({"v/1/f": "../g", "v/cur": "1", "bin": "v/cur/f"}, "v/g"),
    "up through a link, within": ({"d/e/l": "../../d2/x", "a": "d/e/l/.."}, "d2/x/1"),
    "a chain": ({"a": "b", "b": "c", "c": "d"}, "d"),
    "a folder with the name of the updater's, below": ({"a": "x/.update"}, "x/.update"),
}


@pytest.mark.parametrize("links, files", INSIDE.values(), ids=INSIDE.keys())
def test_a_link_to_something_of_the_tree_is_allowed(links: Dict[str, str], files: str) -> None:
    entries = [link_entry(path, target) for path, target in links.items()]
    check_tree([*entries, *map(file_entry, files.split())])


# Into what the updater owns, as an attacker or an unlucky build would write it.
OWNED = {
    "the updater's folder": {"data": ".update"},
    "a file in it": {"data": ".update/state.json"},
    "in another case": {"data": ".UPDATE"},
    "the version file": {"cfg.json": "local_version.json"},
    "the version file, with a long s": {"cfg.json": "local_ver\u017fion.json"},
    "the backup, by way of a folder": {"x": "d/../.backup"},
    "the backup, from below": {"d/x": "../.backup/1"},
    "through a link to the root": {"a/y": "..", "up": "a/..", "x": "up/.update"},
    "through a link with a later name": {"a": "z/.update", "z": "d/.."},
    "through the updater's folder": {"x": ".update/../f"},
}


@pytest.mark.parametrize("links", OWNED.values(), ids=OWNED.keys())
def test_a_link_never_leads_to_what_the_updater_owns(links: Dict[str, str]) -> None:
    entries = [link_entry(path, target) for path, target in links.items()]
    for order in (entries, entries[::-1]):
        with pytest.raises(UnsafePath):
            check_tree([*order, *map(file_entry, ["f", "d/f"])])


@pytest.mark.parametrize(
    "links, sentence",
    [
        pytest.param({"a": "x"}, "leads to 'x', which is not in the release", id="nothing"),
        pytest.param({"a": "d/x"}, "leads to 'd/x'", id="nothing in a folder"),
        pytest.param({"a": "x/../f"}, "leads to 'x'", id="through what is not there"),
        pytest.param({"a": "f/x"}, "leads to 'f/x'", id="behind a file"),
        pytest.param({"a": "f/.."}, "leads to 'f/..'", id="up from a file"),
        pytest.param({"a": "f/"}, "leads to 'f/'", id="a file as a folder"),
        pytest.param({"a": "b", "b": "x"}, "leads to 'x'", id="a chain to nothing"),
        pytest.param({"a": "."}, "leads to the release's own folder", id="the root"),
        pytest.param({"d/a": ".."}, "leads to the release's own folder", id="the root from below"),
        pytest.param(
            {"a": "d/.."}, "leads to the release's own folder", id="the root, round about"
        ),
    ],
)
def test_a_link_to_nothing_of_the_tree_or_to_all_of_it_is_refused(
    links: Dict[str, str], sentence: str
) -> None:
    entries = [link_entry(path, target) for path, target in links.items()]
    with pytest.raises(UnsafePath, match=re.escape(sentence)):
        check_tree([*entries, *map(file_entry, ["f", "d/f"])])


@pytest.mark.parametrize("path", ["state.json", "State.json", "STATE.JSON/x", "\u017ftate.json"])
def test_a_name_that_this_client_owns_is_refused_as_well(path: str) -> None:
    check_owned_names([file_entry("x/state.json"), file_entry("state.json2")], ["state.json"])
    with pytest.raises(UnsafePath, match="belongs to the updater"):
        check_owned_names([file_entry("a"), file_entry(path)], ["state.json"])


OUTSIDE = {
    "the parent": {"a": ".."},
    "a neighbour of the tree": {"a": "../x"},
    "absolute": {"a": "/etc/passwd"},
    "empty": {"a": ""},
    "the root": {"a": "/"},
    "two up from one down": {"x/a": "../.."},
    "down and further up": {"a": "x/../../y"},
    "out and in again": {"x/a": "../../x/b"},
    "through a link": {"d/e/l": "../..", "a": "d/e/l/.."},
    "through a link that comes later": {"a": "z/..", "b/c": "x", "z": "."},
    "through two links": {"a": "b/..", "b": "c", "c": "."},
    "through a folded name": {"Link": ".", "a": "link/.."},
    "through a folded folder": {"Dir/l": "..", "a": "dir/l/.."},
    "another spelling of a file": {"x/File": "y", "a": "x/file"},
    "another form of a name": {"ä": "x", "a": "a\u0308"},
    "itself": {"a": "a"},
    "a loop": {"a": "b", "b": "a"},
    "a loop through folders": {"x/a": "../y/b/q", "y/b": "../x/a"},
    "growing": {"a": "a/a/a/a"},
    "a backslash": {"a": "..\\x"},
    "a drive": {"a": "C:"},
    "a drive below": {"a": "x/C:/y"},
    "a share": {"a": "\\\\server\\share"},
    "a stream": {"a": "b:c"},
    "a device": {"a": "CON"},
    "a device above": {"a": "x/nul/../y"},
    "a short name": {"a": "UPDATE~1/x"},
    "NUL": {"a": "x\0/../.."},
    "invisible": {"a": "x\u200b"},
    "a surrogate": {"a": "x\udcff"},
    "trailing dots": {"a": "x/.../y"},
    "101 components": {"a": "/".join("x" * 101)},
    "over 1,024 bytes": {"a": "/".join(["é" * 127] * 5)},
}


@pytest.mark.parametrize("links", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_link_that_leaves_or_that_means_different_places_is_refused(
    links: Dict[str, str],
) -> None:
    entries = [link_entry(path, target) for path, target in links.items()]
    for order in (entries, entries[::-1]):
        with pytest.raises(UnsafePath) as caught:
            check_tree(order)
        assert any(repr(path) in str(caught.value) for path in links)
        str(caught.value).encode("utf-8")


@given(trees())
@settings(deadline=None, max_examples=60)
def test_on_a_real_disk_no_link_of_a_legal_tree_resolves_to_outside(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve() / "deep" / "app"
        write_tree(root, tree)
        for path, item in tree.items():
            if isinstance(item, str):
                assert (root / path).resolve() == root or root in (root / path).resolve().parents


# --- differences --------------------------------------------------------------------------------


def apply(folder: Path, difference: Diff, new: Tree) -> None:
    """The simplest installer: take away, then lay down."""
    for entry in [*difference.removed, *(old for old, _ in difference.changed)]:
        place = folder / entry.path
        place.unlink()
        while place.parent != folder and not any(place.parent.iterdir()):
            place = place.parent
            place.rmdir()
    write_tree(
        folder,
        {
            entry.path: new[entry.path]
            for entry in [*difference.added, *(entry for _, entry in difference.changed)]
        },
    )


@given(trees(), trees())
@settings(deadline=None, max_examples=150)
def test_the_difference_applied_to_the_old_tree_gives_the_new_one(old: Tree, new: Tree) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "app"
        write_tree(folder, old)
        apply(folder, diff(entries_of(old), entries_of(new)), new)
        assert read_tree(folder) == new
        shutil.rmtree(folder)


@given(trees(), trees())
def test_the_difference_names_each_file_once_and_nothing_that_stays(old: Tree, new: Tree) -> None:
    before, after = entries_of(old), entries_of(new)
    difference = diff(before, after)
    kept = set(before) & set(after)
    gone = [*difference.removed, *(entry for entry, _ in difference.changed)]
    come = [*difference.added, *(entry for _, entry in difference.changed)]
    assert sorted(gone) == sorted(set(before) - kept)
    assert sorted(come) == sorted(set(after) - kept)
    assert all(fold(a.path) == fold(b.path) for a, b in difference.changed)


def test_another_case_another_mode_and_another_kind_are_changes() -> None:
    old = [
        FileEntry("Lib/Readme", 1, HASH, "644"),
        FileEntry("run", 1, HASH, "644"),
        FileEntry("x", 1, HASH, "644"),
    ]
    new = [
        FileEntry("lib/README", 1, HASH, "644"),
        FileEntry("run", 1, HASH, "755"),
        link_entry("x", "run"),
    ]
    assert diff(old, new) == Diff((), (), tuple(zip(old, new)))


def test_a_repeated_key_is_found_in_linear_time() -> None:
    class Key(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Key.compared += 1
            return str.__eq__(self, other)

    counts = []
    for size in (1_000, 2_000, 4_000):
        pairs = [(Key(number), number) for number in range(size)] + [(Key(size - 1), 0)]
        Key.compared = 0
        with pytest.raises(JsonError, match="twice"):
            _unique_keys(pairs)
        counts.append(Key.compared)
    assert counts[2] <= 5 * max(counts[0], 100)
