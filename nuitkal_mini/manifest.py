"""A release's manifest: its values, its JSON form, and what it demands of clients.

A manifest is what gets signed, so whatever it allows can happen on an end user's machine: `loads`
checks everything about it, the tree's paths and links included.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from .entries import MAX_FILES, FileEntry, check_tree, link_entry
from .problem import Problem
from .semver import parse
from .strict_json import brief, json_object

FORMAT = 1
MAX_BYTES = 64 * 2**20  # of a manifest: 200,000 entries of 300 bytes
MAX_FILE_SIZE = 2**40
MAX_APP_LENGTH = 64
_MAX_ITEMS = 100  # of each list but the files'
_HEX = frozenset("0123456789abcdef")
_KEY_ID = "[0-9A-Fa-f]{16}"
_PUBLIC_KEY = "RW[Q-T][A-Za-z0-9+/]{53}"  # base64 of 42 bytes, of which the first two are "Ed"
_COMPARISON = r"(>=|<=|==|!=|>|<) ?([0-9]{1,4}(?:\.[0-9]{1,4}){0,2})"
# For fnmatch: no brackets, which it may not compile, and no two stars in a row, which take Python
# 3.8 for ever.
_PLATFORM = re.compile(r"(?!.*\*\*)[A-Za-z0-9_.*?-]{1,64}")


class ManifestError(Problem):
    """A manifest that breaks a rule."""


class Terms(NamedTuple):
    """What the developer asks of clients, all optional.

    `minimum`: versions below it are refused for ever; `python`: comma-separated comparisons such as
    `>=3.9`; `platforms`: names or patterns such as `linux-*`; `revoked`: ids of keys that count no
    more; `keys`: the public keys that clients believe from now on, oldest first.
    """

    minimum: str = ""
    python: str = ""
    platforms: Tuple[str, ...] = ()
    revoked: Tuple[str, ...] = ()
    keys: Tuple[str, ...] = ()


class Manifest(NamedTuple):
    """A release's tree: `files` are sorted by path.

    `app` is empty while nobody has named it; `main` is the path of the file to start, or empty.
    """

    app: str
    version: str
    files: Tuple[FileEntry, ...]
    terms: Terms = Terms()
    main: str = ""


def loads(data: bytes) -> Manifest:
    """The manifest in `data`, with everything about it checked.

    Raises:
        ManifestError: not a manifest of format 1.
        JsonError: not JSON.
        UnsafePath: a path or a link that no release may have.
        BadVersion: its version, or its minimum, is none.
    """
    if len(data) > MAX_BYTES:
        raise ManifestError("the manifest is larger than 64 MiB")
    document = json_object(data)
    form = document.get("format")
    if type(form) is not int or form != FORMAT:  # `true` and 1.0 equal 1
        raise ManifestError(
            "the manifest's format is {format!r}, this program reads 1; a newer one is needed",
            format=brief(form),
        )
    app, version, items = (document.get(key) for key in ("app", "version", "files"))
    if not isinstance(version, str) or not isinstance(items, list) or len(items) > MAX_FILES:
        raise ManifestError("the manifest lacks a version or a list of at most 200,000 files")
    parse(version)
    files = tuple(_entry(item) for item in items)
    if any(a.path >= b.path for a, b in zip(files, files[1:])):
        raise ManifestError("the manifest's files are not sorted by path, each once")
    check_tree(files)
    main = _main(document.get("main", ""), files)
    return Manifest(check_app(app), version, files, _terms(document, version), main)


def _main(main: object, files: Sequence[FileEntry]) -> str:
    if isinstance(main, str) and (
        not main or any(entry.path == main and entry.link is None for entry in files)
    ):
        return main
    raise ManifestError(
        "the manifest's main program {main!r} is not one of its files", main=brief(main)
    )


def _terms(document: Dict[str, Any], version: str) -> Terms:
    requires = document.get("requires", {})
    requires = requires if isinstance(requires, dict) else {"python": None}
    minimum, python = document.get("minimum", ""), requires.get("python", "")
    lists = requires.get("platform", []), document.get("revoked", []), document.get("keys", [])
    if not (
        isinstance(minimum, str)
        and isinstance(python, str)
        and all(isinstance(items, list) and len(items) <= _MAX_ITEMS for items in lists)
        and all(isinstance(item, str) for items in lists for item in items)
    ):
        raise ManifestError(
            "the manifest's minimum, requires, revoked or keys is not what it should be"
        )
    if minimum and parse(minimum) > parse(version):
        raise ManifestError(
            "the manifest's minimum {minimum} is above its own version", minimum=minimum
        )
    platforms, revoked, keys = lists
    _check_requirements(python, platforms)
    _check_keys(revoked, keys)
    return Terms(
        minimum, python, tuple(platforms), tuple(key.upper() for key in revoked), tuple(keys)
    )


def _check_requirements(python: str, platforms: List[str]) -> None:
    for comparison in python.split(",") if python else ():
        if not re.fullmatch(_COMPARISON, comparison.strip()):
            raise ManifestError(
                "the manifest requires the Python {comparison!r}; write it as >=3.9",
                comparison=brief(comparison),
            )
    for platform in platforms:
        if not _PLATFORM.fullmatch(platform):
            raise ManifestError(
                "the manifest requires the platform {platform!r}; "
                "write it as linux-x86_64 or linux-*",
                platform=brief(platform),
            )


def _check_keys(revoked: List[str], keys: List[str]) -> None:
    for key in revoked:
        if not re.fullmatch(_KEY_ID, key):
            raise ManifestError(
                "the manifest revokes {key!r}, which is no key id of 16 hex digits", key=brief(key)
            )
    for key in keys:
        if not re.fullmatch(_PUBLIC_KEY, key) or keys.count(key) > 1:
            raise ManifestError(
                "the manifest names the key {key!r}, which is no public key of 56 characters, "
                "or there twice",
                key=brief(key),
            )


def check_app(app: object) -> str:
    """The app's name, if it is one: at most 64 printable characters.

    A trusted comment holds it on one line.
    """
    if (
        not isinstance(app, str)
        or len(app) > MAX_APP_LENGTH
        or not app.isprintable()
        or app != app.strip()
    ):
        raise ManifestError(
            "the app's name must be at most 64 printable characters, not {app!r}", app=brief(app)
        )
    return app


def _entry(item: object) -> FileEntry:
    values = item if isinstance(item, dict) else {}
    path, link, size, sha256, mode = (
        values.get(key) for key in ("path", "link", "size", "sha256", "mode")
    )
    if (
        isinstance(path, str)
        and isinstance(link, str)
        and mode in (None, "644", "755")
        and size is None
        and sha256 is None
    ):
        return link_entry(path, link)
    if (
        isinstance(path, str)
        and link is None
        and type(size) is int
        and 0 <= size <= MAX_FILE_SIZE
        and isinstance(sha256, str)
        and len(sha256) == 64
        and _HEX.issuperset(sha256)
        and mode in ("644", "755")
    ):
        return FileEntry(path, size, sha256, mode)
    raise ManifestError(
        "the manifest's entry {path!r} lacks a field or has a wrong one", path=brief(path)
    )


def dumps(manifest: Manifest) -> bytes:
    """The manifest's bytes: one entry a line, the same for the same tree everywhere."""
    terms = manifest.terms
    requires = _given(python=terms.python, platform=terms.platforms)
    head = json.dumps(
        {
            "format": FORMAT,
            "app": manifest.app,
            "version": manifest.version,
            **_given(main=manifest.main, keys=terms.keys, minimum=terms.minimum),
            **_given(requires=requires, revoked=terms.revoked),
        },
        ensure_ascii=False,
    )
    lines = []
    for entry in sorted(manifest.files):
        fields: Dict[str, Any] = {"path": entry.path}
        if entry.link is None:
            fields.update(size=entry.size, sha256=entry.sha256, mode=entry.mode)
        else:
            fields.update(link=entry.link, mode=entry.mode)
        lines.append(json.dumps(fields, ensure_ascii=False))
    return (head[:-1] + ', "files": [\n' + ",\n".join(lines) + "\n]}\n").encode("utf-8")


def _given(**values: Any) -> Dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def python_fits(python: str, running: Tuple[int, ...]) -> bool:
    """Whether the Python version `running` meets a `Terms.python` that `loads` has accepted."""
    for operator, version in re.findall(_COMPARISON, python):
        wanted = tuple(map(int, version.split(".")))
        order = (running[: len(wanted)] > wanted) - (running[: len(wanted)] < wanted)
        if not {
            ">=": order >= 0,
            "<=": order <= 0,
            "==": order == 0,
            "!=": order != 0,
            ">": order > 0,
            "<": order < 0,
        }[operator]:
            return False
    return True
