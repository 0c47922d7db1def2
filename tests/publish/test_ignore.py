"""Our reading of ignore patterns against git's own (`git check-ignore`)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterator, List, Set

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nuitkal_mini.publish import ignore
from nuitkal_mini.publish.ignore import excluded, parse

TREE = [
    "a",
    "ab",
    "abc",
    "b.txt",
    "B.TXT",
    "a b",
    "#x",
    "!x",
    "sp ",
    "q?",
    "st*r",
    "br[x]",
    "back\\slash",
    "-",
    "]",
    "^",
    "a-c",
    "d/a",
    "d/b.txt",
    "d/e/a",
    "d/e/b.txt",
    "d/e/f/a",
    "e/a",
    "e/d/a",
    "e/d/b",
    "lib/x.pyc",
    "lib/__pycache__/x.pyc",
    "éaé",
    "x.é",
]
NOT_ASCII = {"éaé", "x.é"}  # git's `?` matches one byte, ours one character


def left_out(lines: List[str]) -> Set[str]:
    """The files of TREE that stay out, asked as packing asks: a folder before its files."""
    rules = ignore.parse(lines)

    def is_out(path: str) -> bool:
        parts = path.split("/")
        parents = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        return any(ignore.excluded(rules, parent, True) for parent in parents) or ignore.excluded(
            rules, path, False
        )

    return {path for path in TREE if is_out(path)}


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    for path in TREE:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("")
    yield folder


def git_leaves_out(folder: Path, lines: List[str]) -> Set[str]:
    (folder / ".gitignore").write_bytes("\n".join(lines).encode() + b"\n")
    environment: Dict[str, str] = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder)}
    answer = subprocess.run(
        ["git", "-c", "core.ignorecase=false", "check-ignore", "-z", "--stdin"],
        cwd=folder,
        env=environment,
        input="\0".join(TREE).encode(),
        stdout=subprocess.PIPE,
    )
    return {path for path in answer.stdout.decode().split("\0") if path}


@pytest.mark.parametrize(
    "lines",
    [
        ["a"],
        ["/a"],
        ["d/"],
        ["a/"],
        ["*.txt"],
        ["d/*.txt"],
        ["d/**"],
        ["**/a"],
        ["d/**/a"],
        ["**"],
        ["*"],
        ["**/d/"],
        ["d/**/"],
        ["*", "!a"],
        ["*", "!d", "!d/e/"],
        ["d", "!d/a"],
        ["d/*", "!d/e"],
        ["d/**", "!d/a"],
        ["a", "!a", "/a"],
        ["# a", "a b"],
        ["\\#x"],
        ["#x"],
        ["\\!x"],
        ["!x"],
        ["a "],
        ["sp\\ "],
        ["sp\\ "],
        ["sp "],
        ["sp\\  "],
        ["a\\\\ "],
        ["q\\?"],
        ["st\\*r"],
        ["br\\[x\\]"],
        ["back\\\\slash"],
        ["a\\"],
        ["a\\b"],
        ["[ab]"],
        ["[!a]"],
        ["[^a]"],
        ["[a-c]"],
        ["a[a-c]*"],
        ["[]]"],
        ["[!]]"],
        ["[]-]"],
        ["[a-]"],
        ["[z-a]"],
        ["[!z-a]"],
        ["[a"],
        ["[]"],
        ["[\\]]"],
        ["[\\a-\\c]"],
        ["d[/]a"],
        ["d[!x]a"],
        ["d?a"],
        ["[[a]"],
        ["[a-c-e]"],
        ["[--a]"],
        ["/"],
        ["//"],
        ["!"],
        [""],
        [" "],
        ["/*"],
        ["/*/"],
        ["*/a"],
        ["/**/a"],
        ["***"],
        ["d/***/a"],
        ["**a"],
        ["d/**a"],
        ["d/**/**/a"],
        ["éaé"],
        ["é*"],
        ["*.é"],
        ["?"],
        ["lib/__pycache__"],
        ["__pycache__/"],
        ["*.pyc", "!/lib/__pycache__/x.pyc"],
        ["/d/e", "!/d/e/a"],
        ["a\r"],
        ["d/\r"],
    ],
    ids=repr,
)
def test_patterns_mean_what_they_mean_to_git(git: Path, lines: List[str]) -> None:
    assert left_out(lines) == git_leaves_out(git, lines)


_piece = st.sampled_from(
    [
        "a",
        "b",
        "d",
        "e",
        "/",
        "*",
        "**",
        "**/",
        "/**",
        "/**/",
        "?",
        "[ab]",
        "[!a]",
        "\\a",
        ".txt",
        " ",
    ]
)
_line = st.builds(
    lambda negation, pieces: negation + "".join(pieces),
    st.sampled_from(["", "", "", "!"]),
    st.lists(_piece, max_size=5),
)
# git 2.39 cuts a literal prefix off first and so takes `x**/y` for `x` and then `**/y`;
# gitignore(5) says `x*/y`, and so do we
_line = _line.filter(lambda line: not re.search(r"[^/!*]\*\*", line))


@settings(max_examples=150, deadline=None)
@given(st.lists(_line, min_size=1, max_size=4))
def test_any_patterns_mean_what_they_mean_to_git(git: Path, lines: List[str]) -> None:
    assert left_out(lines) - NOT_ASCII == git_leaves_out(git, lines) - NOT_ASCII


def test_a_decomposed_pattern_matches_the_composed_name() -> None:
    assert ignore.excluded(ignore.parse(["e\u0301"]), "\u00e9", False)


@pytest.mark.parametrize(
    "pattern",
    [
        "*a" * 60 + "b",
        "**/" * 40 + "b",
        "**/a/" * 30 + "*b",
        "*a*/" * 30 + "**",
        "[ab]*" * 60 + "c",
    ],
    ids=lambda pattern: pattern[:10],
)
def test_no_pattern_makes_a_path_cost_more_than_milliseconds(pattern: str) -> None:
    rules = parse([pattern])
    started = time.process_time()
    for path in ("a" * 1000, "a/" * 500 + "a", "aa/" * 333 + "x", "ab" * 500):
        excluded(rules, path, False)
    assert time.process_time() - started < 0.5


def plain_regex(pattern: str) -> str:
    """The glob as one would write it first, which takes exponential time."""
    regex = re.sub(r"(?:(?<=/)|^)\*\*+/", "F", pattern)
    regex = re.sub(r"(?:(?<=[/F])|^)\*\*+$", "B", regex)
    regex = re.sub(r"\*+", "[^/]*", regex)
    regex = regex.replace("?", "[^/]").replace("F", "(?:.*/)?").replace("B", ".*")
    return regex if "/" in pattern else "(?:.*/)?" + regex


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**/", "?", "/**"]), min_size=1, max_size=8),
    st.text("ab/", min_size=1, max_size=12),
)
@settings(max_examples=300)
def test_a_pattern_matches_what_its_plain_translation_matches(parts: List[str], path: str) -> None:
    pattern = "".join(parts).strip("/")
    assume(pattern and not re.search("//|\\*{3}", pattern) and not re.search("//|^/|/$", path))
    wanted = re.fullmatch(plain_regex(pattern), path, re.DOTALL) is not None
    assert excluded(parse([pattern]), path, False) == wanted
