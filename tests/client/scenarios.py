"""The transactions that the sweep interrupts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable, List

from nuitkal_mini.client.errors import InstallError
from nuitkal_mini.client.install import Installation

from ..trees import Tree, write_tree
from .sweep import FIRST, SECOND, Failing, Scenario, update

OLD: Tree = {
    "main.py": (b"print(1)\n", "644"),
    "lib/a.py": (b"a = 1\n", "644"),
    "lib/same.py": (b"same\n", "644"),
    "tool": (b"#!/bin/sh\n", "755"),
    "gone/deep/x": (b"x", "644"),
    "folder/in/it": (b"it", "644"),
    "folder/b": (b"b", "644"),
    "file": (b"file", "644"),
    "link": "lib/a.py",
    "to_link": (b"t", "644"),
    "from_link": "tool",
    "Case/Readme": (b"r", "644"),
    "shipped/m.py": (b"m = 1\n", "644"),
    "shipped/__pycache__/m.cpython-311.pyc": (b"m1", "644"),
}
NEW: Tree = {
    "main.py": (b"print(2)\n", "644"),
    "lib/a.py": (b"a = 2\n", "644"),
    "lib/same.py": (b"same\n", "644"),
    "tool": (b"#!/bin/sh\n", "644"),
    "folder": (b"a file now", "644"),
    "file/is/folder": (b"f", "755"),
    "link": "main.py",
    "to_link": "tool",
    "from_link": (b"no link", "644"),
    "case/README": (b"r", "644"),
    "added/y": (b"y", "644"),
    "copy": (b"a = 1\n", "644"),
    "shipped/m.py": (b"m = 2\n", "644"),
    "shipped/__pycache__/m.cpython-311.pyc": (b"m2", "644"),
}
MINE: Tree = {
    "notes.txt": (b"mine", "644"),
    "lib/mine.py": (b"mine = 1\n", "644"),
    "gone/mine": (b"mine", "644"),
    "my/link": "../notes.txt",
}
# In the way of NEW:
IN_THE_WAY: Tree = {
    "added": (b"mine, a file where a folder comes", "644"),
    "copy": (b"mine as well", "755"),
}
KEPT: Tree = {path + ".user-{id}": item for path, item in IN_THE_WAY.items()}
CACHE: Tree = {
    "lib/__pycache__/a.cpython-311.pyc": (b"a1", "644"),
    "lib/__pycache__/mine.cpython-311.pyc": (b"mine", "644"),
    "folder/__pycache__/b.cpython-311.pyc": (b"b", "644"),
}


def put(installation: Installation, tree: Tree) -> None:
    write_tree(Path(installation.folder), tree)


def installed(*trees: Tree) -> Callable[[Installation], None]:
    """The first tree as it was installed, the others as the user put them there."""

    def prepare(installation: Installation) -> None:
        update(installation, trees[0], "1.0.0", FIRST)
        for tree in trees[1:]:
            put(installation, tree)

    return prepare


def updated(old: Tree, new: Tree, mine: Tree) -> Callable[[Installation], None]:
    def prepare(installation: Installation) -> None:
        update(installation, old, "1.0.0", FIRST)
        put(installation, mine)
        update(installation, new, "2.0.0", SECOND)

    return prepare


def failed_before(installation: Installation) -> None:
    """An update was undone, and what it had staged is still there."""
    installed(OLD, {**MINE, **IN_THE_WAY})(installation)
    failing = Installation(
        installation.folder,
        "local_version.json",
        disk=Failing(70, lambda path: OSError(28, "No space left on device", path), 0),
    )
    try:
        update(failing, NEW, "2.0.0", SECOND)
    except InstallError:
        return
    raise AssertionError("this operation was to fail within the swap")


def to(tree: Tree, version: str) -> Callable[[Installation, str], None]:
    return lambda installation, identifier: update(installation, tree, version, identifier)


def roll_back(installation: Installation, identifier: str) -> None:
    installation.rollback(identifier, "a test")


SMALL_OLD: Tree = {"main.py": (b"1", "644"), "d/x": (b"x", "644")}
SMALL_NEW: Tree = {"main.py": (b"2", "644"), "d": (b"d", "644"), "e/y": (b"y", "755")}
# Nothing changes in the folder itself: no rename there makes the names of `.backup/` durable
DEEP_1: Tree = {
    "main.py": (b"0", "644"),
    "d/x": (b"1", "644"),
    "e/f/gone": (b"g", "644"),
    "e/stays": (b"s", "644"),
}
DEEP_2: Tree = {
    "main.py": (b"0", "644"),
    "d/x": (b"2", "644"),
    "e/new/y": (b"y", "644"),
    "e/stays": (b"s", "644"),
}
EDITED: Tree = {"settings.ini": (b"edited", "644")}
WITH_SETTINGS_1: Tree = {"main.py": (b"1", "644"), "settings.ini": (b"shipped 1", "644")}
WITH_SETTINGS_2: Tree = {"main.py": (b"2", "644"), "settings.ini": (b"shipped 2", "644")}
LAUNCHER_1: Tree = {
    "start": (b"#!/bin/sh\necho 1\n", "755"),
    "main.py": (b"1", "644"),
    "z": (b"1", "644"),
}
LAUNCHER_2: Tree = {
    "start": (b"#!/bin/sh\necho 2\n", "755"),
    "main.py": (b"2", "644"),
    "z": (b"2", "644"),
}
NO_LAUNCHER: Tree = {"main.py": (b"2", "644"), "start2": (b"2", "755")}


def without_backup(installation: Installation) -> None:
    installed(DEEP_1)(installation)
    shutil.rmtree(installation.at(".backup"))


def damaged(installation: Installation) -> None:
    installed(OLD, MINE)(installation)
    put(installation, {"main.py": (b"damaged", "644")})
    os.unlink(installation.at("tool"))


def updated_settings(installation: Installation) -> None:
    installed(WITH_SETTINGS_1, EDITED)(installation)
    update(installation, WITH_SETTINGS_2, "2.0.0", SECOND)


SCENARIOS: List[Scenario] = [
    Scenario(
        "first install",
        lambda installation: put(installation, {**MINE, **IN_THE_WAY}),
        to(NEW, "2.0.0"),
        {**MINE, **IN_THE_WAY},
        {**MINE, **KEPT, **NEW},
        (None, "2.0.0"),
    ),
    Scenario(
        "update",
        installed(OLD, {**MINE, **IN_THE_WAY, **CACHE}),
        to(NEW, "2.0.0"),
        {**OLD, **MINE, **IN_THE_WAY},
        {**NEW, **MINE, **KEPT},
        ("1.0.0", "2.0.0"),
    ),
    Scenario(
        "second update",
        updated(SMALL_OLD, SMALL_NEW, MINE),
        to(SMALL_OLD, "3.0.0"),
        {**SMALL_NEW, **MINE},
        {**SMALL_OLD, **MINE},
        ("2.0.0", "3.0.0"),
    ),
    Scenario(
        "update in a subfolder",
        without_backup,
        to(DEEP_2, "2.0.0"),
        DEEP_1,
        DEEP_2,
        ("1.0.0", "2.0.0"),
    ),
    Scenario(
        "update after a failed update",
        failed_before,
        to(NEW, "2.0.0"),
        {**OLD, **MINE, **IN_THE_WAY},
        {**NEW, **MINE, **KEPT},
        ("1.0.0", "2.0.0"),
    ),
    Scenario(
        "update over another staged one",
        failed_before,
        to(SMALL_NEW, "3.0.0"),
        {**OLD, **MINE, **IN_THE_WAY},
        {**SMALL_NEW, **MINE, **IN_THE_WAY},
        ("1.0.0", "3.0.0"),
    ),
    Scenario(
        "rollback",
        updated(OLD, NEW, MINE),
        roll_back,
        {**NEW, **MINE},
        {**OLD, **MINE},
        ("2.0.0", "1.0.0"),
    ),
    Scenario(
        "repair",
        damaged,
        to(OLD, "1.0.0"),
        {
            **MINE,
            **{path: item for path, item in OLD.items() if path != "tool"},
            "main.py": (b"damaged", "644"),
        },
        {**OLD, **MINE},
        ("1.0.0", "1.0.0"),
    ),
    Scenario(
        "preserved settings",
        installed(WITH_SETTINGS_1, EDITED),
        to(WITH_SETTINGS_2, "2.0.0"),
        {**WITH_SETTINGS_1, **EDITED},
        {**WITH_SETTINGS_2, **EDITED, "settings.ini.new": WITH_SETTINGS_2["settings.ini"]},
        ("1.0.0", "2.0.0"),
        preserve=("settings.ini",),
    ),
    Scenario(
        "rollback with preserved settings",
        updated_settings,
        roll_back,
        {**WITH_SETTINGS_2, **EDITED, "settings.ini.new": WITH_SETTINGS_2["settings.ini"]},
        {**WITH_SETTINGS_1, **EDITED},
        ("2.0.0", "1.0.0"),
        preserve=("settings.ini",),
    ),
    Scenario(
        "launcher in its own release",
        installed(LAUNCHER_1),
        to(LAUNCHER_2, "2.0.0"),
        LAUNCHER_1,
        LAUNCHER_2,
        ("1.0.0", "2.0.0"),
        launcher="start",
    ),
    Scenario(
        "launcher goes",
        installed(LAUNCHER_1),
        to(NO_LAUNCHER, "2.0.0"),
        LAUNCHER_1,
        NO_LAUNCHER,
        ("1.0.0", "2.0.0"),
        launcher="start",
    ),
    Scenario(
        "launcher rolls back",
        updated(LAUNCHER_1, LAUNCHER_2, {}),
        roll_back,
        LAUNCHER_2,
        LAUNCHER_1,
        ("2.0.0", "1.0.0"),
        launcher="start",
    ),
    Scenario(
        "launcher comes",
        installed(NO_LAUNCHER),
        to(LAUNCHER_2, "2.0.0"),
        NO_LAUNCHER,
        LAUNCHER_2,
        ("1.0.0", "2.0.0"),
        launcher="start",
    ),
]
