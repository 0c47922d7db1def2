"""Parse and order versions: SemVer 2.0 (semver.org), a little wider at the front.

`v`? then 1 to 4 numeric parts, then SemVer's pre-release and build. Missing numeric parts count as
0 and leading zeros in them mean nothing, so that `2025.01.05` works. Precedence is SemVer's; two
spellings of equal precedence (`1.0`, `v1.0.0`, `1.0.0+build`) are one version.
"""

from __future__ import annotations

from functools import total_ordering
from typing import FrozenSet, List, Tuple, Union

from .problem import Problem

MAX_LENGTH = 64  # the contract's limit; it also keeps file names and int() of the parts small
_DIGITS = frozenset("0123456789")
_ALPHABET = _DIGITS | frozenset("-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
Identifier = Tuple[
    bool, Union[int, str]
]  # (is it text, its value): numbers sort below text, item 11.4


class BadVersion(Problem):
    """The text is not a version."""


@total_ordering
class Version:
    """A version; compares and hashes by SemVer precedence, keeps its spelling in `text`."""

    __slots__ = ("text", "canonical", "_key")

    def __init__(
        self, text: str, release: Tuple[int, ...], prerelease: Tuple[Identifier, ...]
    ) -> None:
        self.text = text
        self._key = (release, not prerelease, prerelease)  # a release is above its own pre-releases
        shown = release if release[3] else release[:3]
        suffix = ".".join(str(value) for _, value in prerelease)
        #: the one spelling that all versions of this precedence share
        self.canonical = ".".join(map(str, shown)) + (f"-{suffix}" if suffix else "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key == other._key

    def __lt__(self, other: Version) -> bool:
        return self._key < other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Version({self.text!r})"


def parse(text: str) -> Version:
    """The version that `text` spells.

    Raises:
        BadVersion: it does not spell one, or has more than 64 characters.
    """
    front, _, build = text.partition(
        "+"
    )  # no regular expression: compiling one took 2 ms of every start
    core, dash, suffix = front.partition("-")
    numbers = core[core.startswith("v") :].split(".")
    prerelease = suffix.split(".") if dash else []
    if not (
        len(text) <= MAX_LENGTH
        and len(numbers) <= 4
        and _are_identifiers(numbers, _DIGITS)
        and _are_identifiers(prerelease, _ALPHABET)
        and ("+" not in text or _are_identifiers(build.split("."), _ALPHABET))
        and not any(
            part[0] == "0" and part != "0" and _DIGITS.issuperset(part) for part in prerelease
        )
    ):  # SemVer, item 9
        raise BadVersion(
            "{version!r} is not a version such as 1.2.3, v1.2 or 1.2.3-rc.1",
            version=text[:MAX_LENGTH],
        )
    release = [int(number) for number in numbers]
    return Version(
        text,
        tuple(release + [0] * (4 - len(release))),
        tuple(
            (False, int(part)) if _DIGITS.issuperset(part) else (True, part) for part in prerelease
        ),
    )


def _are_identifiers(parts: List[str], alphabet: FrozenSet[str]) -> bool:
    return all(part and alphabet.issuperset(part) for part in parts)
