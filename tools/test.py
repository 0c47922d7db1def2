"""Runs the tests: python3 tools/test.py [pytest's arguments].

Makes a virtual environment beside pyproject.toml, installs pytest and hypothesis into it once, and
hands every argument on to pytest. Without arguments all tests run, in several processes.
The first Python gets .venv; any other version one of its own (.venv-3.8), so that two versions
never take turns rebuilding one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 4  # twice the cores that are common in CI: the tests wait a third of their time
TOOLS = ("pytest", "hypothesis")
VERSION = "%d.%d" % sys.version_info[:2]
# Printed by an environment's Python: its version, then the tools that it lacks.
PROBE = (
    "import sys; from importlib.util import find_spec; "
    "print('%d.%d' % sys.version_info[:2], "
    "*(name for name in sys.argv[1:] if find_spec(name) is None))"
)


def main(arguments: List[str]) -> int:
    if sys.version_info < (3, 8):
        sys.exit("These tests need Python 3.8 or newer; this is %s." % VERSION)
    python = environment()
    # The tests start hundreds of short processes, which would compile each module again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if arguments or (os.cpu_count() or 1) < 2:
        return subprocess.call([str(python), "-m", "pytest", *arguments], cwd=str(ROOT))
    return run_parts(python)


def run_parts(python: Path) -> int:
    """Run all tests in some processes; their outputs come one after the other.

    The files are dealt out by their size, which is about what they take.
    """
    print("%d processes run the tests; what they say comes at the end." % PROCESSES, flush=True)
    files = sorted(ROOT.glob("tests/**/test_*.py"), key=lambda path: -path.stat().st_size)
    code = 0
    with contextlib.ExitStack() as stack:
        parts = []
        for number in range(min(PROCESSES, len(files))):
            named = [str(path.relative_to(ROOT)) for path in files[number::PROCESSES]]
            output = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                [str(python), "-m", "pytest", "-q", *named],
                cwd=str(ROOT),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            parts.append((process, output))
        for process, output in parts:
            code = process.wait() or code
            output.seek(0)
            sys.stdout.flush()
            sys.stdout.buffer.write(output.read())
            sys.stdout.buffer.flush()
    return code


def environment() -> Path:
    """The Python of an environment that has the tools, made and filled where need be."""
    folder = ROOT / ".venv"
    said = probe(folder)
    if said and said[0] != VERSION:
        folder = ROOT / (".venv-" + VERSION)
        said = probe(folder)
    if not said or said[0] != VERSION:
        create(folder)
        said = [VERSION, *TOOLS]
    if said[1:]:
        install(folder, said[1:])
    return python_in(folder)


def probe(folder: Path) -> List[str]:
    """The version of the environment's Python and the tools that it lacks.

    Nothing when there is none or it does not run any more.
    """
    try:
        done = subprocess.run(
            [str(python_in(folder)), "-c", PROBE, *TOOLS],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return []
    return done.stdout.decode().split() if done.returncode == 0 else []


def python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def create(folder: Path) -> None:
    if (
        find_spec("ensurepip") is None
    ):  # Debian splits it off, and venv's own error comes late and long
        sys.exit(
            "Python %s cannot make virtual environments here. "
            "On Debian and Ubuntu: apt-get install python%s-venv" % (VERSION, VERSION)
        )
    print("Making %s with Python %s" % (folder.name, VERSION), flush=True)
    if subprocess.call([sys.executable, "-m", "venv", "--clear", str(folder)]) != 0:
        sys.exit("Could not make %s." % folder)


def install(folder: Path, tools: List[str]) -> None:
    command = [
        str(python_in(folder)),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *tools,
    ]
    if subprocess.call(command) != 0:
        sys.exit(
            "Could not install %s; once it is in %s, no network is needed."
            % (" and ".join(tools), folder.name)
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
