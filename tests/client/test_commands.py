"""The client's command line: what the shell hands over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from nuitkal_mini.client.__main__ import _parse, _parser, main
from nuitkal_mini.client.state import State, dump_state
from nuitkal_mini.client.updater import ClientUpdater
from nuitkal_mini.manifest import dumps

from ..support import ROOT
from ..trees import manifest_of


@pytest.mark.parametrize(
    "arguments, program",
    [
        (["run", "--dir", "d", "--url", "u"], []),
        (["run", "--dir", "d", "--url", "u", "--"], []),
        (["run", "--dir", "d", "--url", "u", "--", "one", "--dir", "two"], ["one", "--dir", "two"]),
        (["--dir", "d", "run", "--", "--", "-x"], ["--", "-x"]),
    ],
    ids=["none", "only the dashes", "after the options", "dashes of its own"],
)
def test_what_stands_after_two_dashes_is_the_programs(
    arguments: List[str], program: List[str]
) -> None:
    options = _parse(_parser(), arguments)
    assert (options.verb, str(options.dir), options.args) == ("run", "d", program)


def test_an_argument_before_the_dashes_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _parse(_parser(), ["run", "stray", "--dir", "d"])
    assert stopped.value.code == 2 and "stray" in capsys.readouterr().err


def test_no_name_of_a_folder_is_a_usage_error_and_not_the_current_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["status", "--dir", ""])
    assert stopped.value.code == 2 and "--dir" in capsys.readouterr().err


def test_an_update_that_has_to_wait_does_not_say_that_nothing_newer_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClientUpdater, "update", lambda *_: False)
    monkeypatch.setattr(ClientUpdater, "installed_version", "1.0.0")
    assert main(["update", "--dir", "d", "--url", "u"]) == 0
    assert capsys.readouterr().out == "1.0.0 stays installed\n"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A client folder that lacks a file with a Chinese name."""
    manifest = dumps(manifest_of({"数据.txt": (b"x", "644")}))
    (tmp_path / "local_version.json").write_bytes(
        dump_state(State("1.0.0", manifest=manifest.decode("utf-8")))
    )
    return tmp_path


def verify(
    folder: Path, output: Any = subprocess.PIPE, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "nuitkal_mini.client",
        "verify",
        "--dir",
        str(folder),
    ]
    return subprocess.run(
        command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, env={**os.environ, **environ}
    )


def test_a_path_that_the_output_has_no_characters_for_is_escaped(damaged: Path) -> None:
    done = verify(damaged, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stdout.split(), done.stderr) == (11, [b"\\u6570\\u636e.txt"], b"")


def test_an_output_that_nobody_reads_is_one_sentence(damaged: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = verify(damaged, writer)
    os.close(writer)
    assert (
        done.returncode == 1
        and done.stderr.startswith(b"verify: ")
        and done.stderr.count(b"\n") == 1
    )


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere names are Unicode whatever the locale"
)
def test_a_locale_without_names_for_the_files_is_one_sentence(damaged: Path) -> None:
    done = verify(damaged, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 1 and b"UTF-8 locale" in done.stderr and done.stderr.count(b"\n") == 1
