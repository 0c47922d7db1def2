"""The client as one file: what merging changes and refuses; the client's tests hold for it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List
from unittest import mock

import pytest

import nuitkal_mini
from nuitkal_mini.publish import compact, vendor

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vendored") / "nuitkal_update.py"
    assert vendor.main([str(path), "--window"]) == 0
    return path


def python(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=str(cwd),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        **options,
    )


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_runs_write_the_same_and_check_knows_whether_they_did(
    one_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vendor.merged(window=True).encode("utf-8") == one_file.read_bytes()
    other = one_file.with_name("other.py")
    assert vendor.main([str(other)]) == 0 and other.stat().st_size < one_file.stat().st_size
    assert (
        vendor.main(["--check", str(other)]) == 0 and vendor.main(["--check", str(one_file)]) == 0
    )
    assert (
        vendor.main(["--check", str(one_file.with_name("none.py"))]) == 1
        and vendor.main([str(one_file / "in" / "a file")]) == 1
    )
    other.write_bytes(other.read_bytes() + b"\n")
    assert vendor.main(["--check", str(other)]) == 1
    assert "make it again" in capsys.readouterr().err


def without_own_imports(node: ast.AST) -> str:
    """The definition's syntax, without the package's imports, docstrings and functions' types."""

    class Drop(ast.NodeTransformer):
        def visit_ImportFrom(self, found: ast.ImportFrom) -> Any:
            return None if found.level else found

        def visit_FunctionDef(self, found: ast.FunctionDef) -> Any:
            found.returns = None
            for node in ast.walk(found):
                if isinstance(node, ast.arg):
                    node.annotation = None
            return self.generic_visit(found)

        def visit_AnnAssign(self, found: ast.AnnAssign) -> Any:
            if found.value is None:
                return found  # a field
            return ast.Assign([found.target], found.value)

        def visit_Expr(self, found: ast.Expr) -> Any:
            return None if isinstance(found.value, ast.Constant) else found

    return ast.dump(Drop().visit(node))


def definitions(tree: ast.Module) -> Iterator[ast.stmt]:
    return (
        node
        for node in compact.statements(tree.body)
        if not isinstance(node, (ast.Import, ast.ImportFrom, ast.If, ast.Try, ast.Expr))
    )


@pytest.mark.slow
def test_every_definition_of_every_module_stands_in_it_unchanged(one_file: Path) -> None:
    tree = ast.parse(one_file.read_bytes())
    written = [without_own_imports(node) for node in definitions(tree)]
    words = set(re.findall(r"\w+", one_file.read_text("utf-8")))
    sources = vendor._in_order(vendor._reachable([vendor.LAST, vendor.WINDOW]))
    wanted = [
        without_own_imports(node)
        for source in sources
        for node in definitions(source.tree)
        if not vendor._is_logger(node)
        and (compact.names_defined(node) & words or not compact.names_defined(node))
    ]
    # Before them: __all__, __version__ and the logger.
    assert written[3:] == wanted and len(wanted) > 300


def test_it_is_at_most_260_kb_and_200_without_the_delta_decoder(tmp_path: Path) -> None:
    assert vendor.main([str(tmp_path / "one.py")]) == 0
    text = (tmp_path / "one.py").read_text("utf-8")
    parts = re.split(r"^# --- (\S+) ---$", text, flags=re.M)
    decoder = [part for name, part in zip(parts[1::2], parts[2::2]) if name.startswith("delta/")]
    assert len(text) <= 260_000 and len(decoder) > 10
    assert len(text) - sum(map(len, decoder)) <= 200_000


def test_what_a_program_calls_keeps_its_types_and_other_functions_do_not(one_file: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(one_file.read_bytes()))
        if isinstance(node, ast.FunctionDef)
    ]
    typed = {node.name for node in functions if node.returns is not None}
    assert (
        {"check", "update", "own_folder", "rollback"} <= typed < {node.name for node in functions}
    )
    assert "_verify_installed_is_active" not in typed and "parse_manifest" not in typed


def test_what_a_program_calls_keeps_its_docstring(one_file: Path) -> None:
    tree = ast.parse(one_file.read_bytes())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    updater = classes["ClientUpdater"]
    methods = [node for node in updater.body if isinstance(node, ast.FunctionDef)]
    for node in [updater, classes["UpdaterConfig"], *methods]:
        assert node.name.startswith("_") or ast.get_docstring(node), node.name


def test_brackets_fill_lines_and_strings_of_several_lines_are_left_as_they_are() -> None:
    code = 'def f():\n    x = """\n    a\n        b"""\n    return [\n        x,  # why\n    ]'
    assert compact.compact(code, []) == ('def f():\n\tx = """\n    a\n        b"""\n\treturn [x,]')


def test_types_go_from_functions_and_stay_in_fields() -> None:
    code = """
def f(é: int, *rest: List[
    int], key: "Ü" = 1) -> Tuple[int, int]:
    class Local(NamedTuple):
        x: int
    try:
        y: int = 1
    except OSError:
        z: List[int] = []
    return [
        a,  # type: ignore
        b,
    ]
"""
    made = compact.compact(code, [])
    assert made.strip().splitlines() == [
        "def f(é, *rest, key = 1):",
        "\tclass Local(NamedTuple):",
        "\t\tx: int",
        "\ttry:",
        "\t\ty = 1",
        "\texcept OSError:",
        "\t\tz = []",
        "\treturn [a,  # type: ignore",
        "\t\tb,]",
    ]


def test_what_nothing_names_goes_with_its_decorators_unless_it_acts() -> None:
    body = "@cache\ndef f(): pass\nA = 1\nB = act()\ndef offered(): pass\ndef g(): pass\ng()\n"
    left = "B = act()\ndef offered(): pass\ndef g(): pass\ng()\n"
    assert compact.without_unused(body, ["offered"]) == left


@pytest.mark.slow
def test_the_publisher_writes_the_same_file(tmp_path: Path, one_file: Path) -> None:
    made = tmp_path / "made.py"
    done = python("-m", "nuitkal_mini.publish", "vendor", made, "--window", cwd=ROOT)
    assert (done.returncode, done.stdout.split(" (")[0]) == (0, f"wrote {made}"), done.stderr
    assert made.read_bytes() == one_file.read_bytes()


def test_it_says_what_it_is_and_under_which_licence(one_file: Path) -> None:
    said = ast.get_docstring(ast.parse(one_file.read_bytes())) or ""
    assert nuitkal_mini.__version__ in said and "MIT License" in said and "WITHOUT WARRANTY" in said
    assert re.search(r"SHA-256 of these sources: [0-9a-f]{64}$", said, re.M)


def test_it_can_be_read_and_hides_nothing(one_file: Path) -> None:
    text = one_file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"exec", "eval", "compile", "__import__"}
    constants = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
    ]
    assert max(len(word) for value in constants for word in value.split()) < 300
    assert max(map(len, text.splitlines())) < 240
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def test_importing_it_loads_no_more_than_the_package_does(one_file: Path) -> None:
    script = (
        "import sys\n"
        "import __future__, array, typing, urllib.request, json, logging, pathlib, unicodedata\n"
        "before = set(sys.modules)\n"
        "sys.path.insert(0, '.')\n"
        "from nuitkal_update import ClientUpdater, UpdaterConfig\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = python("-W", "error", "-I", "-S", "-c", script, cwd=one_file.parent)
    assert (done.stdout, done.stderr) == ("['nuitkal_update']\n", "")


def test_its_command_line_works_with_nothing_else_around(one_file: Path, tmp_path: Path) -> None:
    """Off to a folder of its own, without site-packages, environment or working directory."""
    copy = tmp_path / "一个 文件.py"
    copy.write_bytes(one_file.read_bytes())
    status = python(
        "-W", "error", "-I", "-S", "-E", copy, "status", "--dir", tmp_path / "app", cwd=tmp_path
    )
    assert (status.returncode, status.stdout, status.stderr) == (0, "installed: nothing\n", "")
    update = python(
        "-I",
        copy,
        "update",
        "--dir",
        tmp_path / "app",
        "--url",
        "http://127.0.0.1:9/check/",
        cwd=tmp_path,
    )
    assert (
        update.returncode == 1
        and update.stderr.splitlines()[-1].startswith("update: ")
        and "Traceback" not in update.stderr
    )
    assert (
        copy.name
        in python(copy, "--help", cwd=tmp_path, env={**os.environ, "PYTHONUTF8": "1"}).stdout
    )


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module, more, sentence",
    [
        pytest.param(
            "client/plan.py",
            "def fold() -> None: ...",
            "paths and client.plan both define fold",
            id="one name twice",
        ),
        pytest.param(
            "semver.py",
            "contextlib = 1",
            "imports contextlib, and semver defines",
            id="a name that is a module",
        ),
        pytest.param(
            "client/errors.py",
            "from ..paths import fold as folded",
            "client.errors, line",
            id="another name",
        ),
        pytest.param(
            "client/errors.py",
            "from .. import manifest",
            "client.errors, line",
            id="a module as a whole",
        ),
        pytest.param(
            "client/errors.py",
            "import socket as s",
            "imports socket under another name",
            id="a standard module under another name",
        ),
        pytest.param("problem.py", "from .semver import parse", "a circle", id="a circle"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_its_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    more: str,
    sentence: str,
) -> None:
    shutil.copytree(ROOT / "nuitkal_mini", tmp_path / "nuitkal_mini")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "nuitkal_mini" / module, "a", encoding="utf-8") as file:
        file.write(f"\n{more}\n")
    monkeypatch.setattr(vendor, "PACKAGE_FOLDER", tmp_path / "nuitkal_mini")
    assert vendor.main([str(tmp_path / "out.py")]) == 1
    assert sentence in capsys.readouterr().err and not (tmp_path / "out.py").exists()


# --- the client's own tests -----------------------------------------------------------------------

STUB = """import sys

import nuitkal_update

if __name__ == "__main__":
    sys.exit(nuitkal_update.main())
sys.modules[__name__] = nuitkal_update
"""


def copy_with_one_file(folder: Path) -> List[str]:
    """Copy the repository, with each merged module as another name of the one file.

    Returns those modules. The file has here also what only server and publisher use, which the
    tests import.
    """
    for name in ("nuitkal_mini", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    with mock.patch.object(vendor, "without_unused", lambda body, _: body):
        vendor.write(folder / "nuitkal_update.py", True)
    replaced = sorted(vendor._reachable([vendor.LAST, vendor.WINDOW]))
    for name in replaced:
        folder.joinpath("nuitkal_mini", *name.split(".")).with_suffix(".py").write_text(
            STUB, encoding="utf-8"
        )
    return replaced


def test_in_the_copy_the_package_is_the_one_file(tmp_path: Path) -> None:
    """Or the test below would run the client's tests on the client's modules once more."""
    replaced = copy_with_one_file(tmp_path)
    script = (
        "import importlib, json, sys\n"
        "names = ['nuitkal_mini.' + name for name in sys.argv[1:]]\n"
        "modules = [importlib.import_module(name) for name in names]\n"
        "from nuitkal_mini import ClientUpdater\n"
        "from nuitkal_mini.client import launch\n"
        "assert launch.ClientUpdater is ClientUpdater\n"
        "print(json.dumps([module.__file__ for module in modules]))"
    )
    files = json.loads(python("-c", script, *replaced, cwd=tmp_path).stdout)
    assert len(files) == len(replaced) > 15 and {Path(path) for path in files} == {
        tmp_path / "nuitkal_update.py"
    }


@pytest.mark.slow
def test_the_clients_tests_hold_for_it_as_well(tmp_path: Path) -> None:
    copy_with_one_file(tmp_path)
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/client", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"^[4-9]\d\d passed|^\d{4,} passed", done.stdout, re.M), done.stdout[-300:]
