"""The client as one file, for a launcher to carry along: no package needs to be installed.

The client's modules and the formats that they use stand one below the other, each name defined
before it is needed. What merging asks for is changed: imports between the modules go, those of the
standard library are gathered at the top, the names of modules become headings, one logger serves
all, and what only server and publisher use goes. Comments, and the docstrings and types of what a
program does not call, stay in the package: with them, and with four spaces for a level of
indentation, the file would be half as large again.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
import sys
import textwrap
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from .compact import compact, drop, names_defined, statements, without_unused
from .tree import PublishError

PACKAGE_FOLDER = Path(__file__).resolve().parent.parent
PACKAGE = "nuitkal_mini"
LAST, FRONT, WINDOW = "client.__main__", "client.__init__", "client.window"
LOGGER = "logger"
HEADER = '''"""The client of nuitkal_mini {version} as one file: keeps a program up to date.

    python nuitkal_update.py update --url https://host/api/nuitkal_pack/check/ --dir app
    from nuitkal_update import ClientUpdater, UpdaterConfig

Made by `python -m nuitkal_mini.publish vendor` from the modules below: change those, not this.
The package has their comments, all docstrings and all types.
SHA-256 of these sources: {digest}

{licence}
"""

# mypy: ignore-errors
'''


class VendorError(PublishError):
    """The modules cannot become one file; the sentence says which line is in the way."""


class Imported(NamedTuple):
    """A name of the standard library; `name` is empty for a module as a whole."""

    module: str
    name: str

    @property
    def binds(self) -> str:
        return self.name or self.module.split(".")[0]


class Section(NamedTuple):
    """What one module contributes."""

    name: str
    heading: str
    code: str
    imported: Set[Imported]
    for_types: Set[Imported]


class ModuleSource:
    """One module of the package as text and as syntax; `name` is like `client.plan`."""

    def __init__(self, name: str) -> None:
        self.name = name
        file = PACKAGE_FOLDER.joinpath(*name.split(".")).with_suffix(".py")
        self.text = file.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    def uses(self, nodes: Iterator[ast.AST]) -> List[str]:
        """The modules of the package that these nodes import from."""
        return [
            _module_of(self.name, node)
            for node in nodes
            if isinstance(node, ast.ImportFrom) and node.level
        ]

    def defined(self) -> Set[str]:
        """The names of the module's own level."""
        return set().union(*map(names_defined, statements(self.tree.body)))


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line of tools/vendor.py; its exit code."""
    parser = argparse.ArgumentParser(
        description="Write nuitkal_mini's client as one self-contained module."
    )
    add_arguments(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 when the file is not what would be written",
    )
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check(options.destination)
        else:
            write(options.destination, options.window)
    except VendorError as error:
        print(f"vendor: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"vendor: {options.destination}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `tools/vendor.py` and `publish vendor` have in common."""
    parser.add_argument("destination", type=Path, metavar="DEST.py")
    parser.add_argument(
        "--window",
        action="store_true",
        help="with the window for programs without a console (tkinter)",
    )


def write(destination: Path, window: bool) -> None:
    """Write the one file. Raises VendorError and OSError."""
    destination.write_bytes(merged(window).encode("utf-8"))


def check(destination: Path) -> None:
    """Refuse a file that these sources do not make, with or without the window."""
    made = [merged(window).encode("utf-8") for window in (False, True)]
    if destination.read_bytes() not in made:
        raise VendorError(f"{destination} is not what these sources make; make it again")


def merged(window: bool = False) -> str:
    """The text of the one file.

    Raises:
        VendorError: two modules define one name, or import what cannot be merged.
    """
    sources = _in_order(_reachable([LAST, *([WINDOW] if window else [])]))
    _check_names(sources)
    documented = _offered_names()
    offered = documented + _window_names(sources)
    sections = [_section(source, documented) for source in sources]
    body = without_unused(
        "\n\n".join(f"{section.heading}\n\n{section.code}\n" for section in sections),
        offered,
    )
    needed = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)} | {
        "logging"
    }
    imported = {item for section in sections for item in section.imported if item.binds in needed}
    for_types = {
        item for section in sections for item in section.for_types if item.binds in needed
    } - imported
    if for_types:
        imported.add(Imported("typing", "TYPE_CHECKING"))
    return (
        "\n".join(
            [
                _header(sources),
                "from __future__ import annotations\n",
                *_import_lines(imported),
                "",
                *(
                    ["if TYPE_CHECKING:", *("    " + line for line in _import_lines(for_types)), ""]
                    if for_types
                    else []
                ),
                _offered(offered),
                f'__version__ = "{_version()}"',
                "",
                f'{LOGGER} = logging.getLogger("{PACKAGE}.client")',
                "\n",
                body,
            ]
        ).rstrip()
        + "\n"
    )


# --- which modules, in which order


def _reachable(roots: Sequence[str]) -> Dict[str, ModuleSource]:
    sources: Dict[str, ModuleSource] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = ModuleSource(name)
            waiting += sources[name].uses(ast.walk(sources[name].tree))
    return sources


def _in_order(sources: Dict[str, ModuleSource]) -> List[ModuleSource]:
    """Each module after those that it imports: formats first, the command line last."""
    placed: List[str] = []

    def place(name: str, above: Tuple[str, ...]) -> None:
        if name in above:
            raise VendorError(f"{' imports '.join([*above, name])}: a circle")
        if name not in placed:
            for used in sources[name].uses(iter(sources[name].tree.body)):
                place(used, (*above, name))
            placed.append(name)

    for name in sorted(sources, key=lambda name: (name == LAST, name.startswith("client."), name)):
        place(name, ())
    return [sources[name] for name in placed]


def _check_names(sources: Sequence[ModuleSource]) -> None:
    owner: Dict[str, str] = {}
    for source in sources:
        for name in source.defined() - {LOGGER}:
            if name in owner:
                raise VendorError(
                    f"{owner[name]} and {source.name} both define {name}; "
                    "one of them needs another name"
                )
            owner[name] = source.name
    for source in sources:
        for item in _standard(source.tree.body):
            if item.binds in owner:
                raise VendorError(
                    f"{source.name} imports {item.binds}, and {owner[item.binds]} defines that name"
                )


# --- one module -----------------------------------------------------------------------------------


def _section(source: ModuleSource, documented: Sequence[str]) -> Section:
    lines: List[Optional[str]] = list(source.text.splitlines())
    for_types: Set[Imported] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__"):
            _module_of(source.name, node)
            drop(lines, node)
    for statement in source.tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)) or _is_logger(statement):
            drop(lines, statement)
        elif isinstance(statement, ast.If) and getattr(statement.test, "id", "") == "TYPE_CHECKING":
            for_types |= set(_standard(statement.body))
            drop(lines, statement)
    drop(lines, source.tree.body[0])  # the docstring
    code = "\n".join(line for line in lines if line is not None)
    code = re.sub(r":\n\n+(?= )", ":\n", code)  # where an import was the first line of a function
    return Section(
        source.name,
        _heading(source),
        re.sub(r"\n{3,}", "\n\n", compact(code, documented)).strip("\n"),
        set(_standard(source.tree.body)),
        for_types,
    )


def _is_logger(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [
        getattr(target, "id", "") for target in node.targets
    ] == [LOGGER]


def _standard(body: Sequence[ast.stmt]) -> Iterator[Imported]:
    """What these statements import from the standard library."""
    for node in body:
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.asname:
                    raise VendorError(f"line {node.lineno} imports {name.name} under another name")
                yield Imported(name.name, "")
        elif (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and node.module
            and node.module != "__future__"
        ):
            for name in node.names:
                if name.asname:
                    raise VendorError(f"line {node.lineno} imports {name.name} under another name")
                yield Imported(node.module, name.name)


def _module_of(importer: str, node: ast.ImportFrom) -> str:
    """The module of the package that a relative import takes names from."""
    if node.level == 0:
        return ""
    home = importer.split(".")[: -node.level]
    if node.module is None or any(name.asname or name.name == "*" for name in node.names):
        raise VendorError(
            f"{importer}, line {node.lineno}: only names can be merged, under their own names"
        )
    return ".".join([*home, node.module])


# --- the text -------------------------------------------------------------------------------------


def _header(sources: Sequence[ModuleSource]) -> str:
    licence = (PACKAGE_FOLDER / "LICENSE").read_text(encoding="utf-8").strip()
    digest = hashlib.sha256(
        "\0".join(f"{source.name}\0{source.text}" for source in sources).encode("utf-8")
    )
    return HEADER.format(version=_version(), digest=digest.hexdigest(), licence=licence)


def _version() -> str:
    front = (PACKAGE_FOLDER / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', front, re.M)
    if found is None:
        raise VendorError("nuitkal_mini/__init__.py names no version")
    return found[1]


def _heading(source: ModuleSource) -> str:
    return f"# --- {source.name.replace('.', '/')}.py ---"


def _import_lines(items: Set[Imported]) -> List[str]:
    lines = sorted(f"import {item.module}" for item in items if not item.name)
    for module in sorted({item.module for item in items if item.name}):
        names = ", ".join(
            sorted({item.name for item in items if item.module == module and item.name})
        )
        line = f"from {module} import {names}"
        if len(line) > 100:
            wrapped = textwrap.fill(names, 96, initial_indent="    ", subsequent_indent="    ")
            line = f"from {module} import (\n{wrapped})"
        lines.append(line)
    return lines


def _window_names(sources: Sequence[ModuleSource]) -> List[str]:
    """The window's function, if it is there."""
    return [
        name
        for source in sources
        if source.name == WINDOW
        for name in sorted(source.defined())
        if name[0] != "_" and not name.isupper()
    ]


def _offered(names: Sequence[str]) -> str:
    return textwrap.fill(
        f"__all__ = [{', '.join(map(repr, names))}]".replace("'", '"'),
        100,
        subsequent_indent="           ",
    )


def _offered_names() -> List[str]:
    front = next(
        node.value for node in ModuleSource(FRONT).tree.body if isinstance(node, ast.Assign)
    )
    return list(ast.literal_eval(front))
