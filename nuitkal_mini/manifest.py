"""The tree of a release: its JSON form, the rules for paths, and the difference between two trees.

A manifest is what gets signed, so whatever it allows can happen on an end user's machine. One set of
rules serves packing, uploading and installing: a tree that passes here can be laid down on Linux, macOS
and Windows alike, inside its folder, and each path names one file on all of them.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from .problem import Problem
from .semver import parse

FORMAT = 1
MAX_FILES = 200_000  # PySide6's whole wheel has 4,000 files; the rest is headroom. Of folders too
MAX_LINKS = 20_000  # each is walked; a Qt framework has dozens
MAX_STEPS = 100  # of one such walk: Linux follows 40 links
MAX_COMMAS = (
    10 * MAX_FILES
)  # in JSON: they bound its values, and 64 MiB of `[],[],...` would take 1.5 GB
MAX_BYTES = 64 * 2**20  # of a manifest: 200,000 entries of 300 bytes
MAX_FILE_SIZE = 2**40
MAX_PATH_BYTES = 1024  # macOS's PATH_MAX; Windows' 260 characters depend on the folder and are the client's matter
MAX_COMPONENT_BYTES = 255  # NAME_MAX of every common file system
MAX_APP_LENGTH = 64

# What belongs to the updater in a client's folder: no release may bring it.
UPDATE_FOLDER = ".update"
BACKUP_FOLDER = ".backup"
VERSION_FILE = "local_version.json"
_OWNED = frozenset([UPDATE_FOLDER, BACKUP_FOLDER, VERSION_FILE])

_FORBIDDEN = frozenset(
    '<>:"|?*\\'
)  # Windows' own list; a backslash separates there and does not here
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: with any extension, superscript digits included
_DEVICES = frozenset(
    [
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        "clock$",
        *(port + number for port in ("com", "lpt") for number in "0123456789¹²³"),
    ]
)
# Patterns that few manifests need: compiling them all would take 5 ms of every start.
_SHORT_NAME = (
    r"[^.]{0,6}~[0-9]{1,6}(\.[^.]{0,3})?"  # `UPDATE~1` is another name of `.update` on FAT and NTFS
)
# Default_Ignorable_Code_Point outside category Cf: HFS+ and people's eyes skip them
_IGNORABLE = "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
_UNPRINTABLE = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
_HEX = frozenset("0123456789abcdef")
_KEY_ID = "[0-9A-Fa-f]{16}"
_COMPARISON = r"(>=|<=|==|!=|>|<) ?([0-9]{1,4}(?:\.[0-9]{1,4}){0,2})"
# For fnmatch: no brackets, which it may not compile, no two stars in a row, which take Python 3.8 for ever.
_PLATFORM = re.compile(r"(?!.*\*\*)[A-Za-z0-9_.*?-]{1,64}")


class ManifestError(Problem):
    """A manifest, or the tree in it, that breaks a rule."""


class UnsafePath(ManifestError):
    """A path that would leave its folder, or name something else on another system."""


class FileEntry(NamedTuple):
    """A file of a release, or a symlink when `link` is its target (then size 0, no sha256, mode 755)."""

    path: str
    size: int
    sha256: str
    mode: str
    link: Optional[str] = None


class Terms(NamedTuple):
    """What the developer asks of clients, all optional.

    `minimum`: versions below it are refused for ever; `revoked`: ids of keys that count no more;
    `python`: comma-separated comparisons such as `>=3.9`; `platforms`: names or patterns such as `linux-*`.
    """

    minimum: str = ""
    python: str = ""
    platforms: Tuple[str, ...] = ()
    revoked: Tuple[str, ...] = ()


class Manifest(NamedTuple):
    """A release's tree; `files` are sorted by path, `app` is empty while nobody has named it."""

    app: str
    version: str
    files: Tuple[FileEntry, ...]
    terms: Terms = Terms()


class Diff(NamedTuple):
    """What turns one tree into another: `removed` of the old, `added` of the new, `changed` as (old, new)."""

    removed: Tuple[FileEntry, ...]
    added: Tuple[FileEntry, ...]
    changed: Tuple[Tuple[FileEntry, FileEntry], ...]


def link_entry(path: str, target: str) -> FileEntry:
    """The entry of a symlink."""
    return FileEntry(path, 0, "", "755", target)


def fold(path: str) -> str:
    """The key under which Windows and macOS see a path: equal keys are one file there."""
    return nfc(nfc(path).casefold())


def nfc(text: str) -> str:
    """The text in Unicode's normal form C."""
    if text.isascii():
        return text  # nearly all paths; the tables stay unloaded
    import unicodedata

    return unicodedata.normalize("NFC", text)


def check_path(path: str) -> None:
    """Refuse a path that is not relative, NFC and nameable on every system.

    Raises:
        UnsafePath: with a sentence that names the path and the rule.
    """
    try:
        length = len(path.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise UnsafePath("{path!r} is not valid Unicode; rename it", path=path) from error
    if not path or path.startswith("/") or length > MAX_PATH_BYTES:
        raise UnsafePath("{path!r} is empty, absolute, or longer than 1,024 bytes", path=path[:100])
    if nfc(path) != path:
        raise UnsafePath("{path!r} is not in Unicode's normal form C", path=path)
    for component in path.split("/"):
        _check_component(component, path)
    if fold(path.split("/", 1)[0]) in _OWNED:
        raise UnsafePath("{path!r} belongs to the updater; leave it out of the release", path=path)


def _check_component(component: str, path: str) -> None:
    if component in ("", ".", ".."):
        raise UnsafePath(
            "{path!r} has an empty, '.' or '..' component and could leave its folder", path=path
        )
    if not _FORBIDDEN.isdisjoint(component) or component[-1] in ". ":
        raise UnsafePath(
            '{path!r} has a character that Windows forbids in names (< > : " | ? * \\, or a dot or space at the end)',
            path=path,
        )
    if not (component.isascii() and component.isprintable()) and _is_invisible(component):
        raise UnsafePath("{path!r} has a control or invisible character", path=path)
    if (
        component.split(".")[0].rstrip(" ").lower() in _DEVICES
        or "~" in component
        and re.fullmatch(_SHORT_NAME, component)
    ):
        raise UnsafePath("{path!r} is a device or a short 8.3 name on Windows", path=path)
    if len(component.encode("utf-8")) > MAX_COMPONENT_BYTES:
        raise UnsafePath("{path!r} has a component longer than 255 bytes", path=path[:100])


def _is_invisible(component: str) -> bool:
    import unicodedata

    return bool(re.search(_IGNORABLE, component)) or any(
        unicodedata.category(char) in _UNPRINTABLE for char in component
    )


def check_tree(files: Iterable[FileEntry], folders: Iterable[str] = ()) -> None:
    """Refuse a tree whose paths collide on some system or whose links lead out of it; `folders` are further ones.

    Raises:
        UnsafePath: two paths are one file after case folding, a folder is spelt two ways, a file is also a
            folder (so nothing lies behind a link), a link's target is outside, or there is too much of it.
    """
    entries: Dict[str, FileEntry] = {}  # by fold, as the folders
    spelling: Dict[str, str] = {}
    for entry in files:
        check_path(entry.path)
        key = fold(entry.path)
        if key in entries:
            raise UnsafePath(
                "{path!r} and {other!r} are one file on Windows and macOS",
                path=entry.path,
                other=entries[key].path,
            )
        entries[key] = entry
        _note_folder(entry.path.rpartition("/")[0], spelling)
    for folder in folders:
        _note_folder(folder, spelling)
    for key in entries.keys() & spelling.keys():
        raise UnsafePath("{path!r} is both a file and a folder", path=entries[key].path)
    links = [entry for entry in entries.values() if entry.link is not None]
    if len(links) > MAX_LINKS:
        raise UnsafePath("the release has more than 20,000 links")
    spelling.update((key, entry.path) for key, entry in entries.items())
    for entry in links:
        _check_link(entry, entries, spelling)


def _note_folder(folder: str, spelling: Dict[str, str]) -> None:
    """Note a folder and those above it, up to the first known one: work and memory grow with the folders, not the depth."""
    while folder:
        key = fold(folder)
        other = spelling.get(key)
        if other == folder:
            return
        if other is not None:
            raise UnsafePath(
                "{path!r} and {other!r} are one folder on Windows and macOS",
                path=folder,
                other=other,
            )
        if len(spelling) == MAX_FILES:
            raise UnsafePath("the release has more than 200,000 folders")
        spelling[key] = folder
        folder = folder.rpartition("/")[0]


def _check_link(entry: FileEntry, entries: Dict[str, FileEntry], spelling: Dict[str, str]) -> None:
    """Walk the target as the file system would, through the tree's other links, and stay inside."""
    place = entry.path.rpartition("/")[0]
    todo = _target_parts(entry)
    for _ in range(MAX_STEPS):  # a loop of links does not end
        if not todo:
            return
        part = todo.pop(0)
        if part == ".." and not place:
            raise UnsafePath("the link {path!r} leads out of the release", path=entry.path)
        if part == "..":
            place = place.rpartition("/")[0]
        elif part not in ("", "."):
            step = f"{place}/{part}" if place else part
            key = fold(step)
            if (
                spelling.get(key, step) != step
            ):  # it would lead to different places on Linux and Windows
                raise UnsafePath(
                    "the link {path!r} spells {other!r} in another way",
                    path=entry.path,
                    other=spelling[key],
                )
            if key in entries and entries[key].link is not None:
                todo = _target_parts(entries[key]) + todo
            else:
                place = step
    raise UnsafePath("the link {path!r} leads through too many links", path=entry.path)


def _target_parts(entry: FileEntry) -> List[str]:
    target = entry.link or ""
    if (
        not target
        or target.startswith("/")
        or len(target.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES
    ):
        raise UnsafePath(
            "the link {path!r} has an empty, absolute or too long target", path=entry.path
        )
    parts = target.split("/")
    for part in parts:
        if part not in ("", ".", ".."):
            _check_component(part, entry.path)
    return parts


def loads(data: bytes) -> Manifest:
    """The manifest in `data`, with everything about it checked.

    Raises:
        ManifestError: not a manifest of format 1 (UnsafePath for its paths and links).
        BadVersion: its version is none.
    """
    if len(data) > MAX_BYTES:
        raise ManifestError("the manifest is larger than 64 MiB")
    document = json_object(data)
    if document.get("format") != FORMAT:
        raise ManifestError(
            "the manifest's format is {format!r}, this program reads 1; a newer one is needed",
            format=_brief(document.get("format")),
        )
    app, version, items = (document.get(key) for key in ("app", "version", "files"))
    if not isinstance(version, str) or not isinstance(items, list) or len(items) > MAX_FILES:
        raise ManifestError("the manifest lacks a version or a list of at most 200,000 files")
    parse(version)
    files = tuple(_entry(item) for item in items)
    if any(a.path >= b.path for a, b in zip(files, files[1:])):
        raise ManifestError("the manifest's files are not sorted by path, each once")
    check_tree(files)
    return Manifest(check_app(app), version, files, _terms(document, version))


def _terms(document: Dict[str, Any], version: str) -> Terms:
    requires = document.get("requires", {})
    requires = requires if isinstance(requires, dict) else {"python": None}
    minimum, python = document.get("minimum", ""), requires.get("python", "")
    platforms, revoked = requires.get("platform", []), document.get("revoked", [])
    if not (
        isinstance(minimum, str)
        and isinstance(python, str)
        and all(
            isinstance(items, list)
            and len(items) <= 100
            and all(isinstance(item, str) for item in items)
            for items in (platforms, revoked)
        )
    ):
        raise ManifestError("the manifest's minimum, requires or revoked is not what it should be")
    if minimum and parse(minimum) > parse(version):
        raise ManifestError(
            "the manifest's minimum {minimum} is above its own version", minimum=minimum
        )
    for comparison in python.split(",") if python else ():
        if not re.fullmatch(_COMPARISON, comparison.strip()):
            raise ManifestError(
                "the manifest requires the Python {comparison!r}; write it as >=3.9",
                comparison=_brief(comparison),
            )
    for platform in platforms:
        if not _PLATFORM.fullmatch(platform):
            raise ManifestError(
                "the manifest requires the platform {platform!r}; write it as linux-x86_64 or linux-*",
                platform=_brief(platform),
            )
    for key in revoked:
        if not re.fullmatch(_KEY_ID, key):
            raise ManifestError(
                "the manifest revokes {key!r}, which is no key id of 16 hex digits", key=_brief(key)
            )
    return Terms(minimum, python, tuple(platforms), tuple(key.upper() for key in revoked))


def check_app(app: object) -> str:
    """The app's name, if it is one: at most 64 printable characters (a trusted comment holds it on one line)."""
    if (
        not isinstance(app, str)
        or len(app) > MAX_APP_LENGTH
        or not app.isprintable()
        or app != app.strip()
    ):
        raise ManifestError(
            "the app's name must be at most 64 printable characters, not {app!r}", app=_brief(app)
        )
    return app


def json_object(data: bytes, max_commas: int = MAX_COMMAS) -> Dict[str, Any]:
    """The JSON object in `data`, from whoever: any depth and any number of digits ends in a ManifestError."""
    if data.count(b",") > max_commas:
        raise ManifestError("this JSON has too many values")
    try:
        document = json.loads(data.decode("utf-8"), parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ManifestError("this is not JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise ManifestError("this is not a JSON object")
    return document


def _integer(digits: str) -> int:
    if len(digits) > 20:  # int() takes quadratic time in the number of digits before Python 3.11
        raise ValueError("a number of too many digits")
    return int(digits)


def _brief(value: object) -> object:
    """A JSON value as a sentence may show it: str() of a deeply nested one would overflow the stack."""
    return (
        value[:100]
        if isinstance(value, str)
        else value
        if value is None or isinstance(value, (int, float))
        else type(value).__name__
    )


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
        "the manifest's entry {path!r} lacks a field or has a wrong one", path=_brief(path)
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
            **_given(minimum=terms.minimum, requires=requires, revoked=terms.revoked),
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


def diff(old: Iterable[FileEntry], new: Iterable[FileEntry]) -> Diff:
    """What turns the tree `old` into the tree `new`; paths that only differ in case are one file, changed."""
    before = {fold(entry.path): entry for entry in old}
    after = {fold(entry.path): entry for entry in new}
    return Diff(
        tuple(entry for key, entry in before.items() if key not in after),
        tuple(entry for key, entry in after.items() if key not in before),
        tuple(
            (before[key], entry)
            for key, entry in after.items()
            if key in before and before[key] != entry
        ),
    )
