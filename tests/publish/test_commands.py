"""`python -m nuitkal_mini.publish` as a process: files, exit codes, sentences, progress, Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from nuitkal_mini import manifest
from nuitkal_mini.publish import __main__ as commands
from nuitkal_mini.publish import api
from nuitkal_mini.zip_read import PARTIAL_COMMENT, read_tree

from .conftest import TOKEN, ScriptedServer, write

ROOT = Path(commands.__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and terminals")


def environment(**more: str) -> Dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("env", environment())
    options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
    return subprocess.run(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        **options,
    )


def command(*arguments: Any) -> List[str]:
    return [sys.executable, "-m", "nuitkal_mini.publish", *map(str, arguments)]


def test_pack_writes_the_package_and_the_manifest_beside_it(program: Path, tmp_path: Path) -> None:
    result = run(
        "pack",
        program,
        "--app",
        "app",
        "--version",
        "1.0.1",
        "-o",
        tmp_path / "update_1.0.1.zip",
        "--exclude",
        "*.bin",
    )
    assert (result.returncode, result.stdout.startswith("packed 1.0.1: 3 files, 0.0 MB, in ")) == (
        0,
        True,
    ), result.stderr
    written = manifest.loads((tmp_path / "update_1.0.1.json").read_bytes())
    with open(tmp_path / "update_1.0.1.zip", "rb") as package:
        assert read_tree(package, "app", "1.0.1") == written
    assert [entry.path for entry in written.files] == ["empty", "lib/tool.sh", "main.py"]


def test_terms_of_a_release_stand_in_its_manifest(program: Path, tmp_path: Path) -> None:
    terms = [
        "--minimum",
        "1.0",
        "--python",
        ">=3.9",
        "--platform",
        "linux-*",
        "--platform",
        "win-amd64",
        "--revoke",
        "0123456789abcdef",
    ]
    assert (
        run(
            "pack", program, "--app", "app", "--version", "1.0.1", "-o", tmp_path / "o.zip", *terms
        ).returncode
        == 0
    )
    written = manifest.loads((tmp_path / "o.json").read_bytes())
    assert written.terms == manifest.Terms(
        "1.0", ">=3.9", ("linux-*", "win-amd64"), ("0123456789ABCDEF",)
    )
    refused = run(
        "pack",
        program,
        "--app",
        "app",
        "--version",
        "1.0.1",
        "-o",
        tmp_path / "o.zip",
        "--minimum",
        "2.0",
    )
    assert (refused.returncode, refused.stderr) == (
        1,
        "error: the manifest's minimum 2.0 is above its own version\n",
    )


def test_a_path_that_the_console_cannot_show_is_no_failure(program: Path, tmp_path: Path) -> None:
    result = run(
        "pack",
        program,
        "--app",
        "app",
        "--version",
        "1",
        "-o",
        tmp_path / "包.zip",
        env=environment(PYTHONIOENCODING="cp1252"),
    )
    assert result.returncode == 0 and "\\u5305.zip" in result.stdout
    assert run("upload", "--help", env=environment(PYTHONIOENCODING="ascii")).returncode == 0


def test_what_pack_writes_into_its_own_folder_is_not_packed(program: Path) -> None:
    packages = []
    for _ in range(2):
        assert (
            run(
                "pack", ".", "--app", "app", "--version", "1.0.1", "-o", "lib/out.zip", cwd=program
            ).returncode
            == 0
        )
        packages.append((program / "lib/out.zip").read_bytes())
    assert packages[0] == packages[1] and b"out." not in packages[0]


def test_pack_with_a_server_leaves_out_what_it_holds(
    program: Path, tmp_path: Path, scripted: ScriptedServer
) -> None:
    server = ["--server", scripted.base, "--token", TOKEN]
    assert run("upload", program, "--app", "app", "--version", "1.0.0", *server).returncode == 0
    write(program, "main.py", b"print(2)\n")
    assert run(
        "pack", program, "--app", "app", "--version", "1.0.1", "-o", tmp_path / "o.zip", *server
    ).stdout.startswith("packed 1.0.1: 1 files")
    assert (tmp_path / "o.zip").read_bytes().endswith(PARTIAL_COMMENT)
    assert len(manifest.loads((tmp_path / "o.json").read_bytes()).files) == 4


def test_a_pack_that_fails_leaves_what_was_there(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("o.zip", "o.json"):
        write(tmp_path, name, b"old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commands, "write_package", full)
    assert (
        commands.main(
            ["pack", str(program), "--app", "app", "--version", "1", "-o", str(tmp_path / "o.zip")]
        )
        == 1
    )
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == {
        "o.zip": b"old",
        "o.json": b"old",
    }


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            [
                "upload",
                ".",
                "--app",
                "a",
                "--version",
                "1.x",
                "--server",
                "http://h/",
                "--token",
                "t",
            ],
            "'1.x' is not a version",
        ),
        (
            [
                "upload",
                ".",
                "--app",
                "a\n",
                "--version",
                "1",
                "--server",
                "http://h/",
                "--token",
                "t",
            ],
            "the app's name",
        ),
        (
            [
                "upload",
                ".",
                "--app",
                "a",
                "--version",
                "1",
                "--server",
                "file:///h",
                "--token",
                "t",
            ],
            "'file:///h' is not an address",
        ),
        (
            [
                "upload",
                ".",
                "--app",
                "a",
                "--version",
                "1",
                "--server",
                "http://h:port/",
                "--token",
                "t",
            ],
            "Port could not be cast",
        ),
        (["upload", ".", "--app", "a", "--version", "1", "--server", "http://h/"], "--token"),
        (
            [
                "upload",
                ".",
                "--app",
                "a",
                "--version",
                "1",
                "--server",
                "http://h/",
                "--token",
                "s3cret\u00e9",
            ],
            "characters that no token has",
        ),
        (["activate", "1"], "--server"),
        (["promote", "1", "--server", "http://h/", "--token", "t"], "--from"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_is_exit_code_2(arguments: List[str], sentence: str) -> None:
    result = run(*arguments)
    assert (
        result.returncode == 2
        and sentence in result.stderr.splitlines()[-1]
        and "s3cret" not in result.stderr
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            ["pack", "nowhere", "--app", "a", "--version", "1", "-o", "o.zip"],
            "nowhere: No such file or directory",
        ),
        (
            ["pack", ".", "--app", "a", "--version", "1", "-o", "nowhere/o.zip"],
            "nowhere is not a folder; make it first",
        ),
        (
            ["pack", ".", "--app", "a", "--version", "1", "-o", "o.zip", "--exclude", "*"],
            ". has nothing to publish: it is empty, or everything in it is excluded",
        ),
        (
            [
                "pack",
                ".",
                "--app",
                "a",
                "--version",
                "1",
                "-o",
                "o.zip",
                "--server",
                "http://127.0.0.1:1/",
            ],
            "--server needs --token, or NUITKAL_TOKEN",
        ),
        (
            [
                "upload",
                "main.py",
                "--app",
                "a",
                "--version",
                "1",
                "--server",
                "http://h/",
                "--token",
                "t",
            ],
            "main.py: Not a directory",
        ),
        (
            [
                "upload",
                ".",
                "--app",
                "a",
                "--version",
                "1",
                "--server",
                "http://h/",
                "--token",
                "t",
                "--key",
                "nowhere",
            ],
            "nowhere: No such file or directory",
        ),
        (
            ["activate", "1", "--server", "http://127.0.0.1:1/", "--token", "t"],
            "no answer from http://127.0.0.1:1: Connection refused",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_failure_is_exit_code_1_and_one_sentence(
    program: Path,
    arguments: List[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(program)
    monkeypatch.setattr(api, "PAUSES", (0.01,))
    assert commands.main(arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and sentence in line and "Errno" not in line


def test_the_token_may_come_from_the_environment_and_is_never_shown(
    program: Path, scripted: ScriptedServer
) -> None:
    upload = ["upload", program, "--app", "app", "--version", "1.0.0", "--server", scripted.base]
    result = run(*upload, env=environment(NUITKAL_TOKEN=TOKEN))
    assert (result.returncode, result.stdout) == (
        0,
        "uploaded 1.0.0: 4 of 4 files sent, 0.1 MB of 0.1 MB\n",
    )
    failed = run(
        "activate",
        "1.0.0",
        "--server",
        scripted.base,
        "--token",
        "wr0ng",
        env=environment(NUITKAL_TOKEN=TOKEN),
    )
    assert failed.returncode == 1 and "check --token" in failed.stderr
    shown = (
        run("--help").stdout + run("upload", "--help", env=environment(NUITKAL_TOKEN=TOKEN)).stdout
    )
    assert not any(secret in result.stderr + failed.stderr + shown for secret in (TOKEN, "wr0ng"))


@posix
def test_ctrl_c_ends_at_once_with_130_and_leaves_nothing(program: Path, tmp_path: Path) -> None:
    for number in range(4):
        write(program, f"slow{number}", os.urandom(300_000) * 100)
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        command("pack", program, "--app", "app", "--version", "1", "-o", out / "o.zip"),
        env=environment(),
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("packing"):
            break
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in rest and rest.endswith("interrupted\n")
    assert time.monotonic() - began < 2
    assert not list(out.iterdir())


@posix
def test_a_terminal_gets_a_bar_and_a_log_gets_lines(program: Path, tmp_path: Path) -> None:
    import pty

    pack = ["pack", program, "--app", "app", "--version", "1", "-o", tmp_path / "o.zip"]
    assert run(*pack).stderr.splitlines()[0] == "hashing: 0.1 MB"
    master, terminal = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen, os.fdopen(terminal, "wb") as stderr:
        assert (
            subprocess.call(
                command(*pack), env=environment(), stdout=subprocess.DEVNULL, stderr=stderr
            )
            == 0
        )
        seen = screen.read(4096).decode()
    assert re.search(r"\rpacking \[########################\] 100 %  (.+) of \1 kB, ", seen)


def test_keys_are_made_and_minisign_verifies_what_they_sign(
    program: Path, tmp_path: Path, scripted: ScriptedServer
) -> None:
    key = tmp_path / "release.key"
    made = run("keygen", key)
    assert made.returncode == 0 and key.stat().st_mode & 0o077 == 0, made.stderr
    assert run("keygen", key).returncode == 1
    server = ["--server", scripted.base, "--token", TOKEN]
    assert (
        run(
            "upload", program, "--app", "app", "--version", "1.0.0", "--key", key, *server
        ).returncode
        == 0
    )
    first = scripted.releases["1.0.0"]["signature"]
    assert run("resign", "1.0", "--key", key, *server).stdout == "signed 1.0 again\n"
    manifest_file = write(tmp_path, "update.json", scripted.manifests["1.0.0"])
    assert run("sign", manifest_file, "--key", key).returncode == 0
    for signature in (
        first,
        scripted.releases["1.0.0"]["signature"],
        (tmp_path / "update.json.minisig").read_text(),
    ):
        (tmp_path / "update.json.minisig").write_text(signature)
        assert "\tapp:app\tversion:1.0.0" in signature
        if shutil.which("minisign"):
            subprocess.run(
                ["minisign", "-V", "-q", "-p", f"{key}.pub", "-m", str(manifest_file)], check=True
            )


@pytest.mark.slow  # scrypt as minisign parametrises it takes seconds, twice
def test_a_password_may_come_from_standard_input(tmp_path: Path) -> None:
    file = write(tmp_path, "notes.txt", b"hello")
    assert run("keygen", tmp_path / "k", "--password-stdin", input="pass word\n").returncode == 0
    assert (
        run(
            "sign", file, "--key", tmp_path / "k", "--password-stdin", input="pass word\n"
        ).returncode
        == 0
    )
    assert "password" in run("sign", file, "--key", tmp_path / "k").stderr
