"""What holds the house up.

Arrows point down, pure modules stay pure, the client is light and can be merged into one file.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Set, Tuple

import pytest

from nuitkal_mini.publish import vendor

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "nuitkal_mini"
SOURCES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_bytes()) for name, path in SOURCES.items()}

# The formats, and which of the others each may use.
FORMATS: Dict[str, FrozenSet[str]] = {
    "problem": frozenset(),
    "semver": frozenset({"problem"}),
    "strict_json": frozenset({"problem"}),
    "paths": frozenset({"problem"}),
    "entries": frozenset({"paths"}),
    "manifest": frozenset({"problem", "semver", "strict_json", "entries"}),
    "tree_diff": frozenset({"paths", "entries"}),
    "ed25519": frozenset(),
    "minisign": frozenset({"problem", "ed25519"}),
    "signing": frozenset({"minisign", "ed25519"}),
    "zip_read": frozenset({"problem", "paths", "entries", "manifest"}),
    "zip_write": frozenset({"entries", "zip_read"}),
    "progress": frozenset(),
}
# The delta format is a package of its own; the client carries the part of it that decodes.
DELTA = sorted(name[len(PACKAGE) + 1 :] for name in SOURCES if name.startswith(f"{PACKAGE}.delta."))
FORMATS.update(
    (name, frozenset({"problem", "entries", "manifest", *DELTA}) - {name}) for name in DELTA
)
FORMATS["delta.packages"] |= {"zip_read"}
DELTA_ENCODER = {
    f"delta.{name}"
    for name in ("encode", "labels", "lzma2_encoder", "matching", "packages", "pairs", "write")
}
ROLES = ("client", "publish", "server")

# What touches the disk, the network, the clock or another process.
IMPURE = frozenset(
    {
        "asyncio",
        "ctypes",
        "fcntl",
        "glob",
        "http",
        "io",
        "logging",
        "mmap",
        "msvcrt",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "secrets",
        "select",
        "shutil",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "zipfile",
    }
)
PURE = (
    "problem",
    "semver",
    "strict_json",
    "paths",
    "entries",
    "manifest",
    "tree_diff",
    "ed25519",
    "minisign",
    "signing",
    *DELTA,
    "client.plan",
    "client.trust",
)
# What a pure module takes of an impure one: a function that only computes, or randomness for a key
# that is made.
ALLOWED = {("minisign", "os"): {"urandom"}, ("ed25519", "os"): {"urandom"}}


class Import(NamedTuple):
    """One imported module, absolute.

    `name` is what is taken from it, empty for the module itself.
    """

    module: str
    name: str
    alias: str
    relative: bool
    top_level: bool


@lru_cache(maxsize=None)
def imports(module: str) -> Tuple[Import, ...]:
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[Import]:
    tree = TREES[module]
    top = {id(node) for node in ast.walk(tree) if not isinstance(node, ast.Module)} - {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(function)
    }
    home = module.split(".")[:-1]  # of `a.b` and of `a.__init__` alike the package
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, "", name.asname or "", False, id(node) in top)
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) + 1 - node.level] if node.level else []
            for name in node.names:
                yield Import(
                    ".".join(base + (node.module.split(".") if node.module else [])),
                    name.name,
                    name.asname or "",
                    node.level > 0,
                    id(node) in top,
                )


def own_imports(module: str) -> Set[str]:
    """The modules of the package that a module imports, as names like `client.plan`."""
    found = set()
    for item in imports(module):
        if item.module.split(".")[0] == PACKAGE:
            inner = f"{item.module}.{item.name}"
            name = inner if inner in SOURCES else item.module
            found.add(name[len(PACKAGE) + 1 :])
    return found


def short(module: str) -> str:
    return module[len(PACKAGE) + 1 :]


def names_of(role: str) -> List[str]:
    return [name for name in SOURCES if name.startswith(f"{PACKAGE}.{role}.")]


def test_the_walk_sees_imports_of_every_form() -> None:
    """Or the tests below would pass for want of anything to see."""
    seen = [item for name in SOURCES for item in imports(name)]
    assert {item.relative for item in seen} == {item.top_level for item in seen} == {True, False}
    assert "manifest" in own_imports(f"{PACKAGE}.zip_read") and "entries" in own_imports(
        f"{PACKAGE}.client.plan"
    )
    assert set(ROLES) <= {short(name).split(".")[0] for name in SOURCES}


@pytest.mark.parametrize("name", [name for name in SOURCES if short(name).split(".")[0] in ROLES])
def test_client_publish_and_server_never_import_each_other(name: str) -> None:
    role = short(name).split(".")[0]
    for used in own_imports(name):
        assert used.split(".")[0] == role or used in FORMATS, f"{name} imports {used}"


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in SOURCES
        if (name.count(".") == 1 or short(name) in DELTA) and not name.endswith("__init__")
    ],
)
def test_a_format_imports_only_the_formats_below_it(name: str) -> None:
    assert own_imports(name) <= FORMATS[short(name)]


@pytest.mark.parametrize("name", sorted(set(DELTA) - DELTA_ENCODER))
def test_the_decoder_of_deltas_never_imports_the_encoder(name: str) -> None:
    assert not own_imports(f"{PACKAGE}.{name}") & DELTA_ENCODER


def test_the_package_itself_imports_only_the_client() -> None:
    assert own_imports(f"{PACKAGE}.__init__") - {""} == {"client", "client.window"}


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_imports_a_command_line_or_itself(name: str) -> None:
    for used in own_imports(name):
        assert not used.endswith("__main__") and used != short(name)


def test_modules_do_not_import_each_other_in_a_circle_at_import_time() -> None:
    waiting = {
        name: {item.module for item in imports(name) if item.top_level and item.module in SOURCES}
        for name in SOURCES
    }
    while waiting:
        ready = [name for name, needs in waiting.items() if not needs & waiting.keys()]
        assert ready, f"a circle among {sorted(waiting)}"
        for name in ready:
            del waiting[name]


# --- the standard library alone -------------------------------------------------------------------


def standard_modules() -> FrozenSet[str]:
    return frozenset(getattr(sys, "stdlib_module_names", ())) | {"__future__"}


@pytest.mark.skipif(
    sys.version_info < (3, 10), reason="the list of the standard library's modules came with 3.10"
)
@pytest.mark.parametrize("name", SOURCES)
def test_only_the_standard_library_is_imported(name: str) -> None:
    for item in imports(name):
        assert item.relative or item.module.split(".")[0] in standard_modules(), (
            f"{name} imports {item.module}"
        )


@pytest.mark.parametrize("name", SOURCES)
def test_modules_that_newer_pythons_have_dropped_are_not_used(name: str) -> None:
    gone = {
        "cgi",
        "cgitb",
        "distutils",
        "imp",
        "asyncore",
        "asynchat",
        "smtpd",
        "crypt",
        "pipes",
        "telnetlib",
        "uu",
        "nntplib",
    }
    assert not gone & {item.module.split(".")[0] for item in imports(name)}


@pytest.mark.parametrize("name", SOURCES)
def test_annotations_are_never_evaluated_so_that_38_reads_them(name: str) -> None:
    body = TREES[name].body
    if any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in body):
        assert any(
            item.module == "__future__" and item.name == "annotations" for item in imports(name)
        )


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_begins_with_its_map(name: str) -> None:
    assert ast.get_docstring(TREES[name])


# --- purity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PURE if f"{PACKAGE}.{name}" in SOURCES])
def test_a_pure_module_imports_nothing_that_does_io(name: str) -> None:
    for item in imports(f"{PACKAGE}.{name}"):
        top = item.module.split(".")[0]
        if item.relative or top not in IMPURE:
            continue
        assert item.name in ALLOWED.get((name, top), ()), (
            f"{name} imports {item.module} {item.name}"
        )


@pytest.mark.parametrize("name", [name for name in PURE if f"{PACKAGE}.{name}" in SOURCES])
def test_a_pure_module_neither_opens_nor_prints(name: str) -> None:
    calls = {
        node.func.id
        for node in ast.walk(TREES[f"{PACKAGE}.{name}"])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval", "__import__"}


# --- the client as one file -----------------------------------------------------------------------


def merged_modules() -> List[str]:
    """The client's modules and the formats that they use, directly or not."""
    names = set(names_of("client")) - {f"{PACKAGE}.client.__init__", f"{PACKAGE}.client.__main__"}
    todo = list(names)
    while todo:
        for used in own_imports(todo.pop()):
            name = f"{PACKAGE}.{used}"
            if name in SOURCES and name not in names and used in FORMATS:
                names.add(name)
                todo.append(name)
    return sorted(names)


def defined_names(module: str) -> Set[str]:
    return vendor.ModuleSource(module.partition(".")[2]).defined()


def test_the_clients_names_are_unique_over_all_that_is_merged() -> None:
    owner: Dict[str, str] = {}
    for module in merged_modules():
        for name in defined_names(module) - {
            "logger",
            "__all__",
        }:  # each module's logger is its own line of the same meaning
            assert name not in owner, f"{module} and {owner[name]} both define {name}"
            owner[name] = module


def test_no_name_of_the_merged_file_hides_a_module_that_it_imports() -> None:
    imported = {
        item.name or item.module.split(".")[0]
        for module in merged_modules()
        for item in imports(module)
        if not item.relative
    }
    assert not imported & {name for module in merged_modules() for name in defined_names(module)}


@pytest.mark.parametrize("module", merged_modules() + [f"{PACKAGE}.client.__main__"])
def test_merged_modules_import_each_other_by_plain_names(module: str) -> None:
    for item in imports(module):
        if item.module.split(".")[0] == PACKAGE:
            assert item.relative, f"{module} imports {item.module} absolutely"
            assert not item.alias and item.name != "*", (
                f"{module} imports {item.module} {item.name} under another name"
            )
            assert item.module in SOURCES, f"{module} imports the module {item.name} whole"
            assert item.name in defined_names(item.module), (
                f"{module} takes {item.name} from {item.module}, which is not where it is defined"
            )


# --- start-up -------------------------------------------------------------------------------------


def modules_after(program: str) -> Tuple[Set[str], Set[str]]:
    """The modules that a fresh Python has loaded without and with the program.

    Without it: what every client needs, with pathlib (the contract's `client_dir=Path(…)`) and
    unicodedata (NFC of every path).
    """
    script = (
        "import sys\nimport __future__, typing, urllib.request, json, logging, pathlib,"
        " unicodedata\nbefore = sorted(sys.modules)\n{}\nimport json\nprint(json.dumps([before,"
        " sorted(sys.modules)]))"
    )
    shown = subprocess.run(
        [sys.executable, "-S", "-c", script.format(program)],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        check=True,
    )
    before, after = json.loads(shown.stdout.decode("utf-8"))
    return set(before), set(after)


def test_the_client_loads_nothing_that_every_client_needs_not_anyway() -> None:
    before, after = modules_after("import nuitkal_mini.client")
    assert {name for name in after - before if name.split(".")[0] != PACKAGE} == set()


def test_the_client_loads_no_server_no_publisher_and_nothing_that_only_an_update_needs() -> None:
    _, after = modules_after("from nuitkal_mini import ClientUpdater")
    own = {short(name) for name in after if name.startswith(PACKAGE + ".")}
    assert {name.split(".")[0] for name in own} <= {"client", *FORMATS}
    assert not own & {*DELTA, "delta", "minisign", "ed25519"}
    assert not after & {
        "dataclasses",
        "inspect",
        "zipfile",
        "asyncio",
        "multiprocessing",
        "argparse",
        "sqlite3",
    }


def test_importing_the_package_loads_no_client_until_one_of_its_names_is_used() -> None:
    _, after = modules_after("import nuitkal_mini")
    assert {name for name in after if name.startswith(PACKAGE + ".")} == set()


def test_every_public_name_of_the_package_and_of_the_client_can_be_imported() -> None:
    import nuitkal_mini
    from nuitkal_mini import client

    for module in (nuitkal_mini, client):
        assert [name for name in module.__all__ if getattr(module, name, None) is None] == []
    with pytest.raises(AttributeError, match="no_such_name"):
        nuitkal_mini.no_such_name  # noqa: B018


def test_importing_the_server_package_is_light_until_an_application_is_made() -> None:
    _, after = modules_after("import nuitkal_mini.server")
    assert not after & {"sqlite3", "http.server"}


def test_the_design_names_every_module() -> None:
    design = (ROOT / PACKAGE / "DESIGN.md").read_text(encoding="utf-8")
    modules = [
        path.relative_to(ROOT / PACKAGE).as_posix() for path in (ROOT / PACKAGE).rglob("*.py")
    ]
    named = [name for name in modules if not name.endswith(("__init__.py", "__main__.py"))]
    assert [name for name in named if f"`{name}`" not in design] == []
    mapped = set(re.findall(r"^\| `([a-z0-9_/]+\.py)` \|", design, re.M))
    assert mapped - set(modules) == set()


def test_the_design_specifies_every_key_of_manifest_version_file_and_journal() -> None:
    """Each key that is written stands there in backquotes."""
    from nuitkal_mini.client.journal import Journal
    from nuitkal_mini.client.state import State
    from nuitkal_mini.client.swap_plan import SwapPlan
    from nuitkal_mini.client.trust import KeyRecord, TrustState
    from nuitkal_mini.entries import FileEntry

    design = (ROOT / PACKAGE / "DESIGN.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`[^`\n]*`", design))
    words = {word for span in known for word in re.findall(r"\w+", span)}
    keys = {
        name
        for values in (State, TrustState, KeyRecord, Journal, SwapPlan, FileEntry)
        for name in values._fields
    }
    manifest = {"format", "app", "version", "files", "main", "keys", "minimum", "revoked"}
    assert keys | manifest | {"requires", "python", "platform"} <= words
