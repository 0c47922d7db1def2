"""The rules for a path of a release, and the key under which file systems compare it.

One set of rules serves packing, uploading and installing: a path that passes here is relative, stays in
its folder, can be made on Linux, macOS and Windows alike, and names one file on all of them.
"""

from __future__ import annotations

import re

from .problem import Problem

MAX_PATH_BYTES = 1024  # macOS's PATH_MAX; Windows' 260 characters depend on the folder and are the client's matter
MAX_COMPONENT_BYTES = 255  # NAME_MAX of every common file system

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


class UnsafePath(Problem):
    """A path that would leave its folder, or name something else on another system."""


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
        check_component(component, path)
    if fold(path.split("/", 1)[0]) in _OWNED:
        raise UnsafePath("{path!r} belongs to the updater; leave it out of the release", path=path)


def check_component(component: str, path: str) -> None:
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
