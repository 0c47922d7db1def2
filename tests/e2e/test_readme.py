"""Every command block of the README is run, in its order, in one shell, as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from ..support import ROOT, need_tool, start_server

README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN_ELSEWHERE = (
    "python3 tools/",
)  # CI runs demo.py and test.py; from here the latter would never end


def blocks(language: str) -> List[str]:
    """The code blocks of one language; those in lists are indented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_blocks_run_as_they_stand(tmp_path: Path) -> None:
    need_tool("curl")
    port = str(free_port())
    (launcher,) = [
        block
        for block in blocks("python")
        if "update_and_run" in block and "from nuitkal_mini import" in block
    ]
    (tmp_path / "launcher.py").write_text(launcher.replace("8000", port))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    lines = [
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if not line.startswith(RUN_ELSEWHERE)
    ]
    script = "\n".join(["set -eu", "trap 'kill $(jobs -p) 2>/dev/null' EXIT", *lines]).replace(
        "8000", port
    )
    script = script.replace("--data ./data &", f"--data ./data --port {port} &")
    environ = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith("hello from")]
    assert said[:4] == [
        "hello from 1.0.0",
        "hello from 1.0.1",
        "hello from 1.0.0",
        "hello from 1.0.0",
    ], done.stdout
    assert "Traceback" not in done.stdout


def test_the_systemd_unit_is_valid_and_its_command_starts(tmp_path: Path) -> None:
    (unit,) = blocks("ini")
    command = re.search(r"^ExecStart=/usr/bin/python3 (.+)$", unit, re.M)
    assert command is not None
    arguments = command[1].replace("/var/lib/nuitkal", str(tmp_path / "data")).split()
    started = subprocess.run(
        [sys.executable, *arguments, "--port", "70000"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert started.returncode == 2 and "70000" in started.stderr  # every other word is understood
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / "nuitkal.service").write_text(unit)
    verified = subprocess.run(
        [analyze, "verify", str(tmp_path / "nuitkal.service")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "nuitkal.service" not in verified.stdout, verified.stdout


def test_the_nginx_block_serves_the_api_and_packages(tmp_path: Path) -> None:
    nginx = need_tool("nginx")
    port = free_port()
    with start_server(tmp_path / "data") as server:
        (block,) = blocks("nginx")
        block = block.replace("listen 80;", f"listen 127.0.0.1:{port};").replace(
            "http://127.0.0.1:8000", server.url.rstrip("/")
        )
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {tmp_path}/a;"
            f" proxy_temp_path {tmp_path}/b; fastcgi_temp_path {tmp_path}/c;"
            f" uwsgi_temp_path {tmp_path}/d; scgi_temp_path {tmp_path}/e;\n{block}}}\n"
        )
        process = subprocess.Popen(
            [nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
            stderr=subprocess.DEVNULL,
        )
        try:
            (tmp_path / "app").mkdir()
            (tmp_path / "app/main.py").write_text("print('through nginx')\n")
            for command in (
                [
                    "publish",
                    "upload",
                    "app",
                    "--app",
                    "n",
                    "--version",
                    "1",
                    "--server",
                    f"http://127.0.0.1:{port}/api/nuitkal_pack/",
                    "--token",
                    server.token,
                ],
                [
                    "client",
                    "run",
                    "--url",
                    f"http://127.0.0.1:{port}/api/nuitkal_pack/check/",
                    "--dir",
                    "user",
                ],
            ):
                done = subprocess.run(
                    [sys.executable, "-m", f"nuitkal_mini.{command[0]}", *command[1:]],
                    cwd=tmp_path,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
            assert done.stdout == "through nginx\n"
        finally:
            process.terminate()
            process.wait()


def test_the_nuitka_chapters_launcher_says_in_a_sentence_why_nothing_starts(tmp_path: Path) -> None:
    (launcher,) = [
        block for block in blocks("python") if "own_folder" in block and "update_and_run" in block
    ]
    (tmp_path / "start.py").write_text(
        launcher.replace("https://updates.example.com", "http://127.0.0.1:9")
    )
    subprocess.run(
        [sys.executable, str(ROOT / "tools/vendor.py"), "nuitkal_update.py"],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run(
        [sys.executable, "start.py"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (
        done.returncode == 1
        and "My App: nothing is installed yet: " in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+…?)`", README))))
def test_the_readme_names_tests_that_exist(name: str) -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("**/test_*.py")
    )
    assert re.search(rf"def {re.escape(name.rstrip('…'))}", sources)


def test_every_setting_of_the_client_is_in_the_table() -> None:
    import inspect

    from nuitkal_mini import UpdaterConfig

    table = README[
        README.index("## Settings of the client") : README.index("## When things go wrong")
    ]
    missing = [
        name for name in inspect.signature(UpdaterConfig).parameters if f"`{name}`" not in table
    ]
    assert not missing and shutil.which("python3")
