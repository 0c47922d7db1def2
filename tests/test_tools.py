"""tools/test.py in a copy of its own: which environment it makes, keeps and fills."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "test.py"
VERSION = "%d.%d" % sys.version_info[:2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The tool, with one test that passes and one that fails."""
    (tmp_path / "tools").mkdir()
    shutil.copy(str(TOOL), str(tmp_path / "tools"))
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """From another folder, with an index that nobody answers: whatever it installs fails."""
    environment = dict(os.environ, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    return subprocess.run(
        [sys.executable, str(project / "tools" / "test.py"), *arguments],
        cwd=str(project.parent),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def make_environment(folder: Path) -> None:
    """A complete one without a network.

    It borrows the tools from the Python that runs this test.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site_packages,) = folder.glob(
        "Lib/site-packages" if os.name == "nt" else "lib/python3*/site-packages"
    )
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))


def pretend_version(folder: Path, version: str) -> None:
    """An environment whose Python says that it is another version."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text("#!/bin/sh\necho %s\n" % version)
    python.chmod(0o755)


@pytest.mark.slow
def test_an_environment_that_has_the_tools_is_used_as_it_is(project: Path) -> None:
    make_environment(project / ".venv")
    done = run(project, "-q", "-k", "good")
    assert (done.returncode, "1 passed, 1 deselected" in done.stdout) == (0, True), done.stdout
    assert "Making" not in done.stdout


@pytest.mark.slow
def test_pytests_exit_code_is_handed_on(project: Path) -> None:
    make_environment(project / ".venv")
    assert run(project, "-q").returncode == 1
    assert run(project, "-q", "-k", "nothing").returncode == 5


@pytest.mark.skipif(os.name == "nt", reason="the pretended Python is a shell script")
def test_another_python_gets_an_environment_of_its_own(project: Path) -> None:
    pretend_version(project / ".venv", "2.7")
    make_environment(project / (".venv-" + VERSION))
    assert run(project, "-q", "-k", "good").returncode == 0
    assert (project / ".venv" / "bin" / "python").read_text().startswith("#!/bin/sh")


@pytest.mark.slow
def test_a_broken_environment_is_made_anew_and_a_failed_install_is_said(project: Path) -> None:
    (project / ".venv").mkdir()
    (project / ".venv" / "left over").touch()
    done = run(project)
    assert "Making .venv with Python " + VERSION in done.stdout
    assert "Could not install pytest and hypothesis" in done.stdout and done.returncode == 1
    assert not (project / ".venv" / "left over").exists()


def test_without_arguments_all_tests_run_in_several_processes(project: Path) -> None:
    """What any of them finds is in the exit code and in the output."""
    make_environment(project / ".venv")
    for name, test in (
        ("tests/client", "def test_client(): pass\n"),
        ("tests/server", "def test_server(): assert False\n"),
        ("tests/publish", "def test_publish(): pass\n"),
    ):
        (project / name).mkdir(parents=True)
        (project / name / "test_part.py").write_text(test)
    done = run(project)
    if os.cpu_count() == 1:
        pytest.skip("one core: one process")
    assert done.returncode == 1
    assert "1 failed" in done.stdout and done.stdout.count("1 passed") == 2
