"""Versions: SemVer 2.0's own examples, and the wider front that the contract adds."""

from __future__ import annotations

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuitkal_mini.semver import MAX_LENGTH, BadVersion, Version, parse

# semver.org, item 11; then what the parts are compared by, number by number.
ASCENDING = [
    "0.0.0-0",
    "0.0.0",
    "0.0.1",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.0.1-rc",
    "1.0.0.1",
    "2.0.0",
    "2.1.0",
    "2.1.1",
    "10.0.0",
]

# The list behind the regular expression that semver.org suggests: https://regex101.com/r/vkijKf/1/
VALID = [
    "0.0.4",
    "1.2.3",
    "10.20.30",
    "1.1.2-prerelease+meta",
    "1.1.2+meta",
    "1.1.2+meta-valid",
    "1.0.0-alpha",
    "1.0.0-beta",
    "1.0.0-alpha.beta",
    "1.0.0-alpha.beta.1",
    "1.0.0-alpha.1",
    "1.0.0-alpha0.valid",
    "1.0.0-alpha.0valid",
    "1.0.0-alpha-a.b-c-somethinglong+build.1-aef.1-its-okay",
    "1.0.0-rc.1+build.1",
    "2.0.0-rc.1+build.123",
    "1.2.3-beta",
    "10.2.3-DEV-SNAPSHOT",
    "1.2.3-SNAPSHOT-123",
    "1.0.0",
    "2.0.0",
    "1.1.7",
    "2.0.0+build.1848",
    "2.0.1-alpha.1227",
    "1.0.0-alpha+beta",
    "1.2.3----RC-SNAPSHOT.12.9.1--.12+788",
    "1.2.3----R-S.12.9.1--.12+meta",
    "1.2.3----RC-SNAPSHOT.12.9.1--.12",
    "1.0.0+0.build.1-rc.10000aaa-kk-0.1",
    "99999999999999999999999.999999999999999999.99999999999999999",
    "1.0.0-0A.is.legal",
]
# Of its list of invalid ones, those that our front makes valid:
WIDER = [
    "1",
    "1.2",
    "v1.2.3",
    "01.1.1",
    "1.01.1",
    "1.1.01",
    "1.2-SNAPSHOT",
    "1.2-RC-SNAPSHOT",
    "2025.01.05",
    "1.2.3.4",
    "v1-rc.1+b",
]
INVALID = [
    "1.2.3-0123",
    "1.2.3-0123.0123",
    "1.1.2+.123",
    "+invalid",
    "-invalid",
    "-invalid+invalid",
    "-invalid.01",
    "alpha",
    "alpha.beta",
    "alpha.beta.1",
    "alpha.1",
    "alpha+beta",
    "alpha_beta",
    "alpha.",
    "alpha..",
    "beta",
    "1.0.0-alpha_beta",
    "-alpha.",
    "1.0.0-alpha..",
    "1.0.0-alpha..1",
    "1.0.0-alpha...1",
    "1.0.0-alpha....1",
    "1.0.0-alpha.....1",
    "1.2.3.DEV",
    "1.2.31.2.3----RC-SNAPSHOT.12.09.1--..12+788",
    "-1.0.3-gamma+b7718",
    "+justmeta",
    "9.8.7+meta+meta",
    "9.8.7-whatever+meta+meta",
    "1.2.3.4.5",
    "1.2.3-",
    "1.2.3+",
    "1..2",
    ".1",
    "1.",
    "v",
    "vv1",
    "V1.0",
    "1.0.0-ä",
    "1.0+ü",
    "¹.0",
    "１.0",
    "٣.0",
    "1.0.0-rc/1",
    "../1.0",
]
INVALID += [
    "",
    " ",
    "1.0 ",
    " 1.0",
    "1.0\n",
    "1.0\0",
    "1.0\ud800",
    "1 .0",
    "1.0-rc 1",
    "1" * 65,
    "1.0.0-" + "a" * 59,
]

identifiers = st.integers(0, 30).map(str) | st.from_regex(
    r"[0-9]?[A-Za-z-][0-9A-Za-z-]{0,3}", fullmatch=True
)


@st.composite
def versions(draw: st.DrawFn) -> str:
    front = draw(st.sampled_from(["", "v"])) + ".".join(
        draw(st.lists(st.sampled_from(["0", "00", "1", "01", "2", "10"]), min_size=1, max_size=4))
    )
    prerelease, build = (".".join(draw(st.lists(identifiers, max_size=3))) for _ in range(2))
    return front + (prerelease and "-" + prerelease) + (build and "+" + build)


def test_versions_ascend_as_semver_says() -> None:
    parsed = [parse(text) for text in ASCENDING]
    assert sorted(sorted(parsed, key=lambda version: version.text)) == parsed
    for index, low in enumerate(parsed):
        for high in parsed[index + 1 :]:
            assert low < high and high > low and low != high and not high <= low


@pytest.mark.parametrize("text", VALID + WIDER)
def test_a_version_is_read_and_keeps_its_spelling(text: str) -> None:
    assert parse(text).text == text


@pytest.mark.parametrize("text", INVALID, ids=ascii)
def test_anything_else_is_refused_with_a_sentence_that_can_be_printed(text: str) -> None:
    with pytest.raises(BadVersion) as caught:
        parse(text)
    assert ascii(text)[1:20].split("\\")[0] in str(caught.value)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize(
    "spellings",
    [
        ["1", "1.0", "1.0.0", "v1.0.0", "1.0.0.0", "01.00", "1.0.0+build", "v1+a.b-c"],
        ["2025.01.05", "2025.1.5", "2025.1.5.0+x"],
        ["1.0-rc.1", "v1.0.0.0-rc.1+5"],
    ],
    ids=lambda spellings: spellings[0],
)
def test_spellings_of_equal_precedence_are_one_version(spellings: List[str]) -> None:
    assert len({parse(text) for text in spellings}) == 1
    assert len({parse(text).canonical for text in spellings}) == 1


def test_a_fourth_part_stands_in_the_canonical_spelling_only_when_it_counts() -> None:
    assert [parse(text).canonical for text in ("v1", "1.2.3.0", "1.2.3.4-rc.01a", "007")] == [
        "1.0.0",
        "1.2.3",
        "1.2.3.4-rc.01a",
        "7.0.0",
    ]


def test_64_characters_are_a_version_and_65_are_none() -> None:
    assert parse("1." + "0" * (MAX_LENGTH - 2)).canonical == "1.0.0"
    with pytest.raises(BadVersion):
        parse("1." + "0" * (MAX_LENGTH - 1))


@given(versions(), versions(), versions())
def test_the_order_is_total(a: str, b: str, c: str) -> None:
    x, y, z = parse(a), parse(b), parse(c)
    assert [x < y, x == y, x > y].count(True) == 1
    assert (x < y) == (y > x) and (x <= y) == (not y < x)
    low, middle, high = sorted([x, y, z])
    assert low <= middle <= high and low <= high


@given(versions(), versions())
def test_equal_versions_share_hash_and_canonical_spelling_and_others_do_not(a: str, b: str) -> None:
    x, y = parse(a), parse(b)
    assert (x == y) == (x.canonical == y.canonical)
    assert x != y or hash(x) == hash(y)


@given(versions())
def test_the_canonical_spelling_is_a_version_equal_to_the_first(text: str) -> None:
    version = parse(text)
    assert parse(version.canonical) == version
    assert parse(version.canonical).canonical == version.canonical


@given(st.text(max_size=80) | st.text("v0123456789.-+aZ", max_size=80))
def test_any_text_is_a_version_or_bad(text: str) -> None:
    try:
        assert isinstance(parse(text), Version)
    except BadVersion as error:
        str(error).encode("utf-8")
