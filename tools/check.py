"""Runs the project's checks, each by its name and without root: python3 tools/check.py [STEP…].

    python3 tools/check.py            # format, lint, types, plain tests: before every commit
    python3 tools/check.py format     # ruff format; --fix writes what it would change
    python3 tools/check.py sweeps     # kill, power-cut and failing-call sweeps
    python3 tools/check.py --list     # every step with what it needs

The tools go into .venv-tools beside pyproject.toml, once. The exit code is 1 when a step fails; the
other steps run all the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.test import create, install, python_in  # noqa: E402

# Pinned: another version formats or complains differently, and a commit does not change by that.
TOOLS = (
    "ruff==0.17.6",
    "mypy==2.4.1",
    "build==1.6.1",
    "twine==7.0.0",
    "pytest",
    "hypothesis",
)
OTHER_PLATFORMS = ("win32", "darwin")
WINE_TESTS = (
    "tests/test_semver.py",
    "tests/test_minisign.py",
    "tests/client/test_swap_plan.py",
    "tests/client/test_commands.py",
    "tests/client/test_disk.py",
    "tests/client/test_install.py",
    "tests/client/test_launch.py",
    "tests/client/test_locks.py",
    "tests/client/test_staging.py",
    "tests/client/test_state.py",
    "tests/client/test_state_files.py",
    "tests/client/test_updater.py",
    "tests/client/test_trust.py",
    "tests/server/test_http_server.py",
    "tests/windows",
)
TYPED_PROGRAM = """
from pathlib import Path
from typing import Optional

import nuitkal_mini
from nuitkal_mini import ClientUpdater, Release, UpdaterConfig, UpdaterError

config = UpdaterConfig("https://updates.example/check/", Path("app"), main_script="main.py")
with ClientUpdater(config) as updater:
    found: Optional[Release] = None
    try:
        found = updater.check()
    except UpdaterError as error:
        print(error)
    name: str = found.version if found else nuitkal_mini.__version__
    code: int = updater.update_and_run(["--help"])
"""


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Run the project's checks.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="one of: " + ", ".join(STEPS))
    parser.add_argument("--fix", action="store_true", help="let ruff change what it can")
    parser.add_argument("--list", action="store_true", help="list the steps")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.steps if name not in STEPS]
    if unknown:
        parser.error(f"no step is called {unknown[0]}; --list names them")
    if options.list:
        for name, step in STEPS.items():
            print(f"{name:8}  {step.__doc__}")
        return 0
    failed = []
    for name in options.steps or ["format", "lint", "types", "tests"]:
        print(f"--- {name}", flush=True)
        if not STEPS[name](options.fix):
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


# --- the steps ------------------------------------------------------------------------------------


def format_code(fix: bool) -> bool:
    """ruff format, line length 100"""
    return _tool("ruff", "format", *([] if fix else ["--check"]), ".")


def lint(fix: bool) -> bool:
    """ruff check, rules in pyproject.toml"""
    return _tool("ruff", "check", *(["--fix"] if fix else []), ".")


def types(_: bool) -> bool:
    """mypy --strict, for the client on three systems, and for a program that vendored it"""
    client = [
        "nuitkal_mini/client",
        "nuitkal_mini/delta",
        *map(str, ROOT.glob("nuitkal_mini/*.py")),
    ]
    if not _tool("mypy"):
        return False
    if not all(_tool("mypy", "--platform", platform, *client) for platform in OTHER_PLATFORMS):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "program.py"
        program.write_text(TYPED_PROGRAM.replace("nuitkal_mini", "nuitkal_update"), "utf-8")
        vendored = str(Path(scratch) / "nuitkal_update.py")
        return _run(sys.executable, "tools/vendor.py", "--window", vendored) and _tool(
            "mypy", "--strict", str(program), cwd=Path(scratch)
        )


def tests(_: bool) -> bool:
    """the plain tests, as tools/test.py runs them: under three minutes"""
    return _run(sys.executable, "tools/test.py")


def slow(_: bool) -> bool:
    """the slow tests, the sweeps among them; needs the packages that .ci/run installs"""
    return _run(
        sys.executable, "tools/test.py", "-q", "-m", "slow", "--ignore=tests/nuitka", env=STRICT
    )


def sweeps(_: bool) -> bool:
    """the kill, power-cut and failing-call sweeps alone, of client and server"""
    return _run(
        sys.executable,
        "tools/test.py",
        "-q",
        "-m",
        "slow or not slow",
        "tests/client/test_sweep.py",
        "tests/server/test_sweep.py",
    )


def nuitka(_: bool) -> bool:
    """real Nuitka builds of launcher and program; needs gcc, patchelf and ccache"""
    return _run(sys.executable, "tools/test.py", "-q", "-m", "slow", "tests/nuitka")


def wine(_: bool) -> bool:
    """CPython for Windows under Debian's wine"""
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *WINE_TESTS)
    return _run(sys.executable, "tests/windows/wine.py", "3.11", *words)


def demo(_: bool) -> bool:
    """tools/demo.py without a warning, in threads and at exit too"""
    command = [sys.executable, "-W", "error", "tools/demo.py"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout)
    return done.returncode == 0 and "Warning" not in done.stdout


def package(_: bool) -> bool:
    """wheel and sdist: twine, the commands, a typed program, and the sdist's own tests"""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "dist"
        if not _tool("build", "--outdir", str(made), "."):
            return False
        (wheel,), (sdist,) = made.glob("*.whl"), made.glob("*.tar.gz")
        if not _tool("twine", "check", "--strict", str(wheel), str(sdist)):
            return False
        return _check_wheel(wheel, Path(scratch)) and _check_sdist(sdist, Path(scratch))


def _check_wheel(wheel: Path, scratch: Path) -> bool:
    """Nothing but the package comes; its commands start; a program that uses it passes mypy."""
    installed = scratch / "installed"
    create(installed)
    python = str(python_in(installed))
    program = scratch / "program.py"
    program.write_text(TYPED_PROGRAM, encoding="utf-8")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    folder = python_in(installed).parent
    commands = [str(folder / f"nuitkal-{role}") for role in ("server", "publish", "client")]
    return (
        _run(*pip, "install", "--quiet", "--no-index", str(wheel), cwd=scratch)
        and _run(python, "-I", "-c", FILES_OF_WHEEL, cwd=scratch)
        and all(_run(command, "--help", cwd=scratch, quiet=True) for command in commands)
        and _tool("mypy", "--strict", "--python-executable", python, str(program), cwd=scratch)
    )


FILES_OF_WHEEL = """
from importlib.metadata import files
named = [str(path).replace("\\\\", "/") for path in files("nuitkal_mini")]
other = [path for path in named if not path.startswith(("nuitkal_mini", "../"))]
assert not other, other
assert {"nuitkal_mini/py.typed", "nuitkal_mini/DESIGN.md"} <= set(named), named
assert any(path.endswith("LICENSE") and "dist-info" in path for path in named), named
"""


def _check_sdist(sdist: Path, scratch: Path) -> bool:
    """What was packed is enough to run the plain tests of formats, client, publisher and server."""
    import tarfile

    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "source")
    (root,) = (scratch / "source").iterdir()
    python = str(python_in(_environment()))
    return _run(python, "-m", "pytest", "-q", "--ignore=tests/e2e", "tests", cwd=root)


STEPS: Dict[str, Callable[[bool], bool]] = {
    "format": format_code,
    "lint": lint,
    "types": types,
    "tests": tests,
    "slow": slow,
    "sweeps": sweeps,
    "nuitka": nuitka,
    "wine": wine,
    "demo": demo,
    "package": package,
}
STRICT = {"PYTHONWARNINGS": "error"}  # a warning that is ours is an error, in child processes too


# --- running them ---------------------------------------------------------------------------------


def _environment() -> Path:
    folder = ROOT / ".venv-tools"
    marker = folder / "tools.txt"
    wanted = "\n".join(TOOLS)
    if not marker.exists() or marker.read_text(encoding="utf-8") != wanted:
        create(folder)
        install(folder, list(TOOLS))
        marker.write_text(wanted, encoding="utf-8")
    return folder


def _tool(name: str, *arguments: str, cwd: Path = ROOT) -> bool:
    return _run(str(python_in(_environment())), "-m", name, *arguments, cwd=cwd)


def _run(
    *command: str, cwd: Path = ROOT, env: Optional[Dict[str, str]] = None, quiet: bool = False
) -> bool:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL if quiet else None,
    )
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
