"""The rules for a path of a release, and the key under which file systems compare it.

One set of rules serves packing, uploading and installing: a path that passes here is relative,
stays in its folder, can be made on Linux, macOS and Windows alike, and names one file on all of
them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import FrozenSet, Tuple

from .problem import Problem

# macOS's PATH_MAX. Windows' 260 characters depend on the client's folder; the client checks them.
MAX_PATH_BYTES = 1024
MAX_COMPONENT_BYTES = 255  # NAME_MAX of every common file system

# The updater's own names in a client's folder: no release may bring them.
UPDATE_FOLDER = ".update"
BACKUP_FOLDER = ".backup"
VERSION_FILE = "local_version.json"
_OWNED = frozenset([UPDATE_FOLDER, BACKUP_FOLDER, VERSION_FILE])

# Windows' own list; a backslash separates folders there and nowhere else.
_FORBIDDEN = frozenset('<>:"|?*\\')
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: device names, with any extension.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [port + number for port in ("com", "lpt") for number in "0123456789¹²³"]
)

# The patterns below are compiled when a path needs them: compiling all takes 5 ms of every start.
# FAT and NTFS give each long name a short one of at most 8.3 characters, such as UPDATE~1 for
# .update. Its first part has 8 characters, or fewer for a long name of fewer than six, and no small
# letters. `chunk~1.js` is therefore a name of its own.
_SHORT_NAME = r"(?=[^.]{8}(\.|\Z)|[^a-z]*\Z)(?=[^.]{1,8}(\.|\Z))[^.~]*~[0-9]+(\.[^.]{0,3})?"
_UNPRINTABLE = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
# Default_Ignorable_Code_Point outside category Cf: HFS+ ignores them, and people do not see them.
_IGNORABLE = (
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_INVISIBLE_IN_NAMES = re.compile(f"[{_NON_JOINER}{_JOINER}\ufe0f]")
# UTS #51: emoji, each with U+FE0F or a skin tone, joined by U+200D; keycaps; flags of regions.
# Emoji outside the category So are listed, as `re` has no property for them.
_EMOJI = "[\u203c\u2049\u2139\u2190-\u21ff\u2300-\u2bff\u3030\u303d\u3297\u3299\u00a9\u00ae\u2122"
_EMOJI += "\U0001f000-\U0001faff]"
_EMOJI_SEQUENCE = (
    f"{_EMOJI}[\ufe0f\U0001f3fb-\U0001f3ff]?"
    f"(?:\u200d{_EMOJI}[\ufe0f\U0001f3fb-\U0001f3ff]?)*"
    "|[0-9#*]\ufe0f\u20e3"
)
_REGION_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f"


class UnsafePath(Problem):
    """A path that would leave its folder, or name something else on another system."""


def fold(path: str) -> str:
    """The key under which Windows and macOS see a path: equal keys are one file there.

    Unicode's case folding, and two things that it leaves out: a dotless i is an I in the up-case
    table of Microsoft's exFAT specification (section 7.2, U+0131 to U+0049) and of older NTFS
    volumes, and HFS+ ignores joiners and variation selectors.
    """
    if path.isascii():
        return path.lower()
    folded = nfc(nfc(path).replace("\u0131", "i").casefold())
    return nfc(_INVISIBLE_IN_NAMES.sub("", folded))


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
    """Refuse a name between two slashes; `path` is what the sentence names."""
    if component in ("", ".", ".."):
        raise UnsafePath(
            "{path!r} has an empty, '.' or '..' component and could leave its folder", path=path
        )
    if not _FORBIDDEN.isdisjoint(component) or component[-1] in ". ":
        raise UnsafePath(
            "{path!r} has a character that Windows forbids in names "
            '(< > : " | ? * \\, or a dot or space at the end)',
            path=path,
        )
    if not (component.isascii() and component.isprintable()) and _is_deceptive(component):
        raise UnsafePath("{path!r} has a control or invisible character", path=path)
    is_device = component.split(".")[0].rstrip(" ").lower() in _DEVICES
    if is_device or "~" in component and re.fullmatch(_SHORT_NAME, component):
        raise UnsafePath("{path!r} is a device or a short 8.3 name on Windows", path=path)
    if len(component.encode("utf-8")) > MAX_COMPONENT_BYTES:
        raise UnsafePath("{path!r} has a component longer than 255 bytes", path=path[:100])


def _is_deceptive(name: str) -> bool:
    """Whether the name holds what people cannot see, and no script or emoji needs it there."""
    import unicodedata

    if not _INVISIBLE_IN_NAMES.search(name) and not re.search(_IGNORABLE, name):
        return any(unicodedata.category(char) in _UNPRINTABLE for char in name)
    # A letter in place of each emoji keeps its neighbours apart.
    rest = re.sub(_EMOJI_SEQUENCE, "x", re.sub(_REGION_FLAG, "x", name))
    for at, char in enumerate(rest):
        if char == _NON_JOINER and (_breaks_a_ligature(rest, at) or _follows_a_virama(rest, at)):
            continue
        if char == _JOINER and _follows_a_virama(rest, at):
            continue
        if unicodedata.category(char) in _UNPRINTABLE or re.match(_IGNORABLE, char):
            return True
    return False


def _follows_a_virama(name: str, at: int) -> bool:
    """UAX #31, rules A2 and B: a letter and its virama stand before the joiner at `at`."""
    import unicodedata

    end = at
    while end and unicodedata.category(name[end - 1])[0] == "M":
        end -= 1
    letter, marks, after = name[end - 1 : end], name[end:at], name[at + 1 : at + 2]
    viramas = [mark for mark in marks if unicodedata.combining(mark) == 9]
    if not letter or not viramas or _script(letter) != _script(viramas[-1]):
        return False
    kind = unicodedata.category(after)[0] if after else ""
    return kind == "L" if name[at] == _NON_JOINER else kind != "M"


def _script(char: str) -> str:
    """The first word of the character's name: of a letter or a mark, its script."""
    import unicodedata

    return unicodedata.name(char, "").split(" ")[0]


def _breaks_a_ligature(name: str, at: int) -> bool:
    """UAX #31, rule A1: the non-joiner at `at` parts two Arabic letters that would join."""
    import unicodedata

    before, after = at - 1, at + 1
    while before >= 0 and unicodedata.category(name[before]) == "Mn":
        before -= 1
    while after < len(name) and unicodedata.category(name[after]) == "Mn":
        after += 1
    if before < 0 or after >= len(name):
        return False
    on_their_left, on_their_right = _joining_letters()
    return name[before] in on_their_left and name[after] in on_their_right


@lru_cache(maxsize=None)
def _joining_letters() -> Tuple[FrozenSet[str], FrozenSet[str]]:
    """The Arabic letters that join the next letter, and those that join the one before.

    `unicodedata` lacks the property Joining_Type; its presentation forms tell the same.
    """
    import unicodedata

    forms = [
        unicodedata.decomposition(chr(code)).split()
        for block in (range(0xFB50, 0xFC00), range(0xFE80, 0xFEF5))
        for code in block
    ]
    letters = [(form[0], chr(int(form[1], 16))) for form in forms if len(form) == 2]
    return (
        frozenset(letter for form, letter in letters if form == "<initial>"),
        frozenset(letter for form, letter in letters if form == "<final>"),
    )
