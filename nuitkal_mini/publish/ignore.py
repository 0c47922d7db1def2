"""Which paths stay out of a release: gitignore's pattern language, as gitignore(5) describes it.

The last pattern that matches decides. A pattern with a slash before its end is anchored to the top,
one without matches a name at any depth; `dir/` matches folders only; `!` takes back. Nobody asks
about a path below an excluded folder, so nothing there can come back. Differences: upper and lower
case differ on every system, and `[[:alpha:]]` classes are not known.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Iterable, List, NamedTuple, Optional, Pattern

# Trailing spaces go unless escaped; a lone backslash at the end stays, and makes the pattern match
# nothing.
_SIGNIFICANT = re.compile(r"(?:\\.|[^ \\]| +(?=[^ ])|\\$)*", re.DOTALL)
_TOKEN = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*\*+/)|(?P<below>(?:(?<=/)|^)\*\*+$)|(?P<stars>\*+)|(?P<one>\?)"
    r"|\[(?P<negated>[!^]?)(?P<members>(?:\\.|[^\\])(?:\\.|[^\]\\])*)\]"
    r"|\\(?P<escaped>.)|(?P<plain>[^\\\[])",
    re.DOTALL,
)
_RANGE = re.compile(r"\\?(.)(?:-\\?(.))?", re.DOTALL)


# Parts of a glob: `**/` before a name, and a star.
_FOLDERS, _STAR = "**/", "*"


class Rule(NamedTuple):
    """One pattern: `regex` matches whole paths, `excludes` is False after `!`."""

    regex: Pattern[str]
    excludes: bool
    folders_only: bool


def parse(lines: Iterable[str]) -> List[Rule]:
    """The rules in the lines of an ignore file; comments give none."""
    rules = (_rule(line.rstrip("\r\n")) for line in lines)
    return [rule for rule in rules if rule is not None]


def excluded(rules: List[Rule], path: str, is_folder: bool) -> bool:
    """Whether the rules leave out `path` (relative, `/`-separated, NFC).

    Its folder must not be left out itself.
    """
    for rule in reversed(rules):
        if (is_folder or not rule.folders_only) and rule.regex.fullmatch(path):
            return rule.excludes
    return False


def _rule(line: str) -> Optional[Rule]:
    match = _SIGNIFICANT.match(line)
    pattern = unicodedata.normalize("NFC", match[0]) if match and not line.startswith("#") else ""
    excludes = not pattern.startswith("!")
    pattern = pattern if excludes else pattern[1:]
    folders_only = pattern.endswith("/")
    pattern = pattern[:-1] if folders_only else pattern
    tokens = _tokens(pattern[1:] if pattern.startswith("/") else pattern)
    if not tokens:
        return None
    regex = _regex(tokens if "/" in pattern else [_FOLDERS, *tokens])
    return Rule(re.compile(regex, re.DOTALL), excludes, folders_only)


def _tokens(pattern: str) -> Optional[List[str]]:
    """A glob's parts: `_FOLDERS`, `_STAR`, or a regular expression without a choice.

    None for an unclosed bracket or a lone backslash.
    """
    tokens: List[str] = []
    position = 0
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None:
            return None
        tokens.append(_token(token))
        position = token.end()
    return tokens


def _token(token: re.Match[str]) -> str:
    if token["folders"]:
        return _FOLDERS
    if token["below"]:
        return ".*"
    if token["stars"]:
        return _STAR
    if token["one"]:
        return "[^/]"
    if token["members"]:
        return _set_regex(token["members"], bool(token["negated"]))
    return re.escape(token["escaped"] or token["plain"])


def _regex(tokens: List[str]) -> str:
    """The regular expression for a glob; it never tries the ways to divide a path among stars.

    What stands between two stars is taken where it comes first, and what stands between two `**/`
    in the first folders that fit: a later place never helps. Only the part behind the last star,
    and the one behind the last `**/`, must reach the end of the path.
    """
    *others, last = _split(tokens, _FOLDERS)
    regex = ""
    for number, part in enumerate([*others, last]):
        is_last = number == len(others)
        first, *chunks = ("".join(chunk) for chunk in _split(part, _STAR))
        for at, chunk in enumerate(chunks):
            to_end = is_last and at == len(chunks) - 1
            first += f"[^/]*{chunk}" if to_end else _atomic(f"[^/]*?{chunk}", f"c{number}_{at}")
        if number:
            first = "(?:[^/]*/)*?" + first
            first = first if is_last else _atomic(first, f"f{number}")
        regex += first
    return regex


def _split(tokens: List[str], separator: str) -> List[List[str]]:
    parts: List[List[str]] = [[]]
    for token in tokens:
        if token == separator:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _atomic(regex: str, name: str) -> str:
    """The regular expression, whose first match is final; `(?>...)` came with Python 3.11."""
    return f"(?=(?P<{name}>{regex}))(?P={name})"


def _set_regex(members: str, negated: bool) -> str:
    ranges = "".join(
        re.escape(low) + (f"-{re.escape(high)}" if high else "")
        for low, high in _RANGE.findall(members)
        if low <= (high or low)  # z-a holds nothing
    )
    if negated:
        return f"[^/{ranges}]"
    return f"(?!/)[{ranges}]" if ranges else "(?!)"
