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
import io
import itertools
import re
import sys
import textwrap
import tokenize
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from .tree import PublishError

PACKAGE_FOLDER = Path(__file__).resolve().parent.parent
PACKAGE = "nuitkal_mini"
LAST, FRONT, WINDOW = "client.__main__", "client.__init__", "client.window"
LOGGER = "logger"
MAX_COLUMNS = 120
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
        return set().union(*map(_names_defined, _statements(self.tree.body)))


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
    sections = [_section(source) for source in sources]
    body = _without_unused(
        "\n\n".join(f"{section.heading}\n\n{section.code}\n" for section in sections),
        _all_names(sources),
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
                _offered(sources),
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


def _section(source: ModuleSource) -> Section:
    lines: List[Optional[str]] = list(source.text.splitlines())
    for_types: Set[Imported] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__"):
            _module_of(source.name, node)
            _drop(lines, node)
    for statement in source.tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)) or _is_logger(statement):
            _drop(lines, statement)
        elif isinstance(statement, ast.If) and getattr(statement.test, "id", "") == "TYPE_CHECKING":
            for_types |= set(_standard(statement.body))
            _drop(lines, statement)
    _drop(lines, source.tree.body[0])  # the docstring
    code = "\n".join(line for line in lines if line is not None)
    code = re.sub(r":\n\n+(?= )", ":\n", code)  # where an import was the first line of a function
    return Section(
        source.name,
        _heading(source),
        re.sub(r"\n{3,}", "\n\n", _compact(code)).strip("\n"),
        set(_standard(source.tree.body)),
        for_types,
    )


def _compact(code: str) -> str:
    """The code with tabs, without comments, and with docstrings and types of what is offered."""
    code = _without_types(_without_docstrings(_without_comments(code)))
    lines = code.split("\n")
    docstrings = [node.body[0] for node, _ in _definitions(ast.parse(code).body)]
    inside = _lines_inside_strings(code) - {
        number
        for node in docstrings
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for number in range(node.lineno, node.end_lineno or 0)
    }
    for number, line in enumerate(lines):
        if number not in inside:
            depth = (len(line) - len(line.lstrip(" "))) // 4
            lines[number] = "\t" * depth + line[4 * depth :]
    return _filled("\n".join(lines))


def _filled(code: str) -> str:
    """The code with as much of a bracket in a line as fits: 2 % of the file are indentation."""
    inside, open_brackets = _lines_inside_strings(code), 0
    continued: Set[int] = set()
    behind: Set[int] = set()  # a comment, which would swallow what is joined to it
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.OP:
            open_brackets += (token.string in "([{") - (token.string in ")]}")
        elif token.type == tokenize.COMMENT:
            behind.add(token.start[0])
        elif token.type == tokenize.NL and open_brackets:
            continued.add(token.start[0])
    filled: List[str] = []
    for number, line in enumerate(code.split("\n")):
        text = line.strip()
        if number in continued and number not in inside and filled[-1] and number not in behind:
            space = "" if filled[-1][-1] in "([{" or text[:1] in ")]}" else " "
            if len(filled[-1].expandtabs(4)) + len(space + text) <= MAX_COLUMNS:
                filled[-1] += space + text
                continue
        filled.append(line)
    return "\n".join(filled)


def _without_comments(code: str) -> str:
    lines: List[Optional[str]] = list(code.split("\n"))
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("# type:"):
            row, column = token.start
            lines[row - 1] = (lines[row - 1] or "")[:column].rstrip() or None
    return "\n".join(line for line in lines if line is not None)


def _without_docstrings(code: str) -> str:
    """Only what the package offers keeps its docstring."""
    lines: List[Optional[str]] = list(code.split("\n"))
    for node, is_offered in _definitions(ast.parse(code).body):
        if not is_offered and ast.get_docstring(node) is not None and len(node.body) > 1:
            _drop(lines, node.body[0])
    code = "\n".join(line for line in lines if line is not None)
    return re.sub(r":\n\n+(?= )", ":\n", code)  # where a docstring was the first line


def _definitions(
    body: Sequence[ast.stmt], is_within_offered: bool = False
) -> Iterator[Tuple[Union[ast.FunctionDef, ast.ClassDef], bool]]:
    """Every function and class at any depth, and whether a program may call it."""
    offered = set(_offered_names())
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            is_public = node.name[0] != "_" or node.name == "__init__"
            is_offered = node.name in offered or is_within_offered and is_public
            yield node, is_offered
            yield from _definitions(node.body, is_offered and isinstance(node, ast.ClassDef))
        else:
            inner = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)]
            yield from _definitions(inner)


def _without_types(code: str) -> str:
    """Only what the package offers keeps its annotations, and the fields of classes keep theirs."""
    lines = code.encode("utf-8").split(b"\n")  # columns of `ast` count bytes
    starts = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
    text = b"\n".join(lines)
    cuts: List[Tuple[int, int]] = []

    def offset(line: Optional[int], column: Optional[int]) -> int:
        assert line is not None and column is not None
        return starts[line - 1] + column

    def cut_after(begin: int, annotation: ast.expr) -> None:
        cuts.append((begin, offset(annotation.end_lineno, annotation.end_col_offset)))

    for function, is_offered in _definitions(ast.parse(code).body):
        if not isinstance(function, ast.FunctionDef):
            continue
        if not is_offered:
            for argument in _arguments(function):
                if argument.annotation is not None:
                    name_ends = offset(argument.lineno, argument.col_offset) + len(
                        argument.arg.encode("utf-8")
                    )
                    cut_after(name_ends, argument.annotation)
            if function.returns is not None:
                returns = offset(function.returns.lineno, function.returns.col_offset)
                cut_after(text.rindex(b")", 0, returns) + 1, function.returns)
        for node in _statements_of(function):
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                cut_after(
                    offset(node.target.end_lineno, node.target.end_col_offset), node.annotation
                )
    for begin, end in sorted(set(cuts), reverse=True):
        text = text[:begin] + text[end:]
    return text.decode("utf-8")


def _statements_of(function: ast.FunctionDef) -> Iterator[ast.stmt]:
    """A function's statements at any depth, except those of classes within: fields keep theirs."""
    waiting: List[ast.AST] = [function]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.stmt) and not isinstance(node, ast.ClassDef):
                yield node
                waiting.append(node)
            elif isinstance(node, ast.ExceptHandler):
                waiting.append(node)


def _arguments(function: ast.FunctionDef) -> List[ast.arg]:
    found = function.args
    named = [*found.posonlyargs, *found.args, *found.kwonlyargs]
    return [*named, *(argument for argument in (found.vararg, found.kwarg) if argument)]


def _lines_inside_strings(code: str) -> Set[int]:
    """The numbers, from 0, of the lines that begin inside of a string."""
    found: Set[int] = set()
    starts: List[int] = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind = tokenize.tok_name[token.type]  # f-strings have tokens of their own since Python 3.12
        if kind in ("STRING", "FSTRING_START"):
            starts.append(token.start[0])
        if kind in ("STRING", "FSTRING_END"):
            found.update(range(starts.pop(), token.end[0]))
    return found


def _drop(lines: List[Optional[str]], node: ast.stmt) -> None:
    assert node.end_lineno is not None
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    lines[first - 1 : node.end_lineno] = [None] * (node.end_lineno - first + 1)


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


def _calls(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


def _names_defined(node: ast.stmt) -> Set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return set()
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [part for target in targets for part in ast.walk(target)]
    return {part.id for part in parts if isinstance(part, ast.Name)}


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


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            handlers = [
                inner for handler in getattr(node, "handlers", []) for inner in handler.body
            ]
            yield from _statements(
                [*node.body, *node.orelse, *handlers, *getattr(node, "finalbody", [])]
            )


def _without_unused(body: str, offered: Sequence[str]) -> str:
    """The sections without functions and constants that nothing in the file names again."""
    words = Counter(re.findall(r"\w+", body))
    lines: List[Optional[str]] = list(body.split("\n"))
    for node in ast.parse(body).body:
        if isinstance(node, (ast.FunctionDef, ast.Assign)):
            names = _names_defined(node) - set(offered)
            acts = isinstance(node, ast.Assign) and _calls(node)
            if names and not acts and all(words[name] == 1 for name in names):
                _drop(lines, node)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line is not None))


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


def _all_names(sources: Sequence[ModuleSource]) -> List[str]:
    """What the package offers, and the window's function if it is there."""
    return _offered_names() + [
        name
        for source in sources
        if source.name == WINDOW
        for name in sorted(source.defined())
        if name[0] != "_" and not name.isupper()
    ]


def _offered(sources: Sequence[ModuleSource]) -> str:
    return textwrap.fill(
        f"__all__ = [{', '.join(map(repr, _all_names(sources)))}]".replace("'", '"'),
        100,
        subsequent_indent="           ",
    )


def _offered_names() -> List[str]:
    front = next(
        node.value for node in ModuleSource(FRONT).tree.body if isinstance(node, ast.Assign)
    )
    return list(ast.literal_eval(front))
