"""Python source in fewer bytes: what vendoring leaves out of the text of a module.

Pure: text in, text out. The names that are `offered` are those that a program may use.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
from collections import Counter
from typing import Collection, Iterator, List, Optional, Sequence, Set, Tuple, Union

MAX_COLUMNS = 120


def compact(code: str, offered: Collection[str]) -> str:
    """The code with tabs, without comments, and with docstrings and types of what is offered."""
    code = _without_types(_without_docstrings(_without_comments(code), offered), offered)
    lines = code.split("\n")
    docstrings = [node.body[0] for node, _ in _definitions(ast.parse(code).body, offered)]
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


def without_unused(body: str, offered: Collection[str]) -> str:
    """The sections without functions and constants that nothing in the file names again."""
    words = Counter(re.findall(r"\w+", body))
    lines: List[Optional[str]] = list(body.split("\n"))
    for node in ast.parse(body).body:
        if isinstance(node, (ast.FunctionDef, ast.Assign)):
            names = names_defined(node).difference(offered)
            acts = isinstance(node, ast.Assign) and _calls(node)
            if names and not acts and all(words[name] == 1 for name in names):
                drop(lines, node)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line is not None))


def drop(lines: List[Optional[str]], node: ast.stmt) -> None:
    """Make None of the statement's lines, those of its decorators too."""
    assert node.end_lineno is not None
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    lines[first - 1 : node.end_lineno] = [None] * (node.end_lineno - first + 1)


def names_defined(node: ast.stmt) -> Set[str]:
    """The names that a definition or an assignment gives; none for another statement."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return set()
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [part for target in targets for part in ast.walk(target)]
    return {part.id for part in parts if isinstance(part, ast.Name)}


def statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, and those within if and try, which define names of the same level."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            handlers = [
                inner for handler in getattr(node, "handlers", []) for inner in handler.body
            ]
            yield from statements(
                [*node.body, *node.orelse, *handlers, *getattr(node, "finalbody", [])]
            )


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


def _without_docstrings(code: str, offered: Collection[str]) -> str:
    """Only what the package offers keeps its docstring."""
    lines: List[Optional[str]] = list(code.split("\n"))
    for node, is_offered in _definitions(ast.parse(code).body, offered):
        if not is_offered and ast.get_docstring(node) is not None and len(node.body) > 1:
            drop(lines, node.body[0])
    code = "\n".join(line for line in lines if line is not None)
    return re.sub(r":\n\n+(?= )", ":\n", code)  # where a docstring was the first line


def _without_types(code: str, offered: Collection[str]) -> str:
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

    for function, is_offered in _definitions(ast.parse(code).body, offered):
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


def _definitions(
    body: Sequence[ast.stmt], offered: Collection[str], is_within_offered: bool = False
) -> Iterator[Tuple[Union[ast.FunctionDef, ast.ClassDef], bool]]:
    """Every function and class at any depth, and whether a program may call it."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            is_public = node.name[0] != "_" or node.name == "__init__"
            is_offered = node.name in offered or is_within_offered and is_public
            yield node, is_offered
            is_class = isinstance(node, ast.ClassDef)
            yield from _definitions(node.body, offered, is_offered and is_class)
        else:
            inner = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)]
            yield from _definitions(inner, offered)


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


def _calls(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))
