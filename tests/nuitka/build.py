"""Real Nuitka builds, each made once: `binary(script, mode, …)` compiles a script or finds it.

Builds lie under ~/.cache/nuitkal-ci/nuitka (or NUITKAL_NUITKA), each under the SHA-256 of its
inputs; ccache keeps the C compiler's work for the next one. A first build takes a minute or two and
needs Debian's gcc, patchelf and ccache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict

from ..support import need_tool

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("NUITKAL_NUITKA") or Path.home() / ".cache" / "nuitkal-ci" / "nuitka")
NUITKA = "nuitka==4.*"
ONE_FILE = "nuitkal_update.py"


def binary(script: str, mode: str, modules: Dict[str, str]) -> Path:
    """The program that Nuitka makes of a script's text and its modules (path -> text).

    `mode` is standalone or onefile.
    """
    for tool in ("gcc", "patchelf", "ccache"):
        need_tool(tool)
    python = _nuitka()
    made_of = "\0".join(
        [
            sys.version,
            mode,
            _version(python),
            script,
            *(f"{path}\0{text}" for path, text in sorted(modules.items())),
        ]
    )
    kept = CACHE / hashlib.sha256(made_of.encode("utf-8")).hexdigest()[:20]
    if not kept.is_dir():
        with tempfile.TemporaryDirectory(dir=str(CACHE)) as scratch:
            folder = Path(scratch)
            for path, text in {**modules, "start.py": script}.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text, encoding="utf-8")
            done = subprocess.run(
                [
                    str(python),
                    "-m",
                    "nuitka",
                    f"--{mode}",
                    "--assume-yes-for-downloads",
                    "--output-dir=out",
                    "start.py",
                ],
                cwd=str(folder),
                env={**os.environ, "CCACHE_DIR": str(CACHE / "ccache")},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-4000:]
            made = folder / "made"
            if mode == "standalone":
                (folder / "out" / "start.dist").rename(made)
            else:
                made.mkdir()
                (folder / "out" / "start.bin").rename(made / "start.bin")
            made.rename(kept)  # complete or not there at all
    return kept / "start.bin"


def package() -> Dict[str, str]:
    """The modules of the client and its formats, as a launcher that uses the package has them."""
    from nuitkal_mini.publish import vendor

    names = [*vendor._reachable([vendor.LAST]), vendor.FRONT]
    paths = [f"nuitkal_mini/{name.replace('.', '/')}.py" for name in names] + [
        "nuitkal_mini/__init__.py"
    ]
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}


def one_file() -> Dict[str, str]:
    from nuitkal_mini.publish import vendor

    return {ONE_FILE: vendor.merged()}


def copy_to(folder: Path, made: Path) -> Path:
    """A user's copy of the build, in `folder`."""
    shutil.copytree(made.parent, folder)
    return folder / made.name


def _nuitka() -> Path:
    """A Python that has Nuitka."""
    folder = CACHE / ("venv-%d.%d" % sys.version_info[:2])
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", NUITKA],
            check=True,
        )
        (folder / "ready").touch()
    return python


def _version(python: Path) -> str:
    return next(python.parents[1].glob("lib/python*/site-packages/[Nn]uitka-*.dist-info")).name
