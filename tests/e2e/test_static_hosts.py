"""A static site on real hosts.

Nginx, and an S3 server that rclone copies it to; signed, with ranges.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from ..support import ROOT, need_tool, start_server
from ..trees import write_tree
from .test_readme import free_port

BLOB = os.urandom(400_000)


def run(*words: object, cwd: Path, token: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NUITKAL_TOKEN": token},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def publish(folder: Path, version: str, *more: str, blob: bytes = BLOB) -> None:
    tree = {
        "main.py": (f"print('this is {version}')\n".encode(), "644"),
        "blob": (blob, "644"),
    }
    write_tree(folder / "app", tree)
    words = ("--app", "static", "--version", version, "--key", "key")
    run("nuitkal_mini.publish", "static", "site", "app", *words, *more, cwd=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run("nuitkal_mini.publish", "keygen", "key", cwd=tmp_path)
    publish(tmp_path, "1.0.0")
    return tmp_path


def start_program(folder: Path, url: str, user: str = "user") -> str:
    key = (folder / "key.pub").read_text().splitlines()[1]
    words = ("run", "--url", url, "--dir", user, "--public-key", key)
    return run("nuitkal_mini.client", *words, cwd=folder)


def wait_for(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing answers on port {port}")


@contextlib.contextmanager
def running(command: List[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield
    finally:
        process.terminate()
        process.wait()


def nginx_conf(folder: Path, body: str) -> List[str]:
    paths = "".join(
        f" {name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; user root; events {{}}\n"
        f"http {{ log_format bytes '$request_uri $status $body_bytes_sent';"
        f" access_log {folder}/access.log bytes;{paths}\n{body}\n}}\n"
    )
    return [need_tool("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def test_a_client_takes_a_delta_of_the_static_site(folder: Path) -> None:
    port = free_port()
    server = f"server {{ listen 127.0.0.1:{port}; root {folder}/site; }}"
    with running(nginx_conf(folder, server), port):
        url = f"http://127.0.0.1:{port}/api/nuitkal_pack/check.json"
        assert start_program(folder, url) == "this is 1.0.0\n"
        changed = BLOB[:200_000] + b"changed" + BLOB[200_000:]
        publish(folder, "1.1.0", "--delta-from", "1", blob=changed)
        (folder / "access.log").write_text("")
        assert start_program(folder, url) == "this is 1.1.0\n"
        assert (folder / "user/blob").read_bytes() == changed
        sent = re.findall(r"(\S+) (\d+) (\d+)", (folder / "access.log").read_text())
    assert [Path(path.split("?")[0]).suffix for path, _, _ in sent] == [".json", ".delta"]
    assert sum(int(size) for _, _, size in sent) < 5000


def test_nginx_serves_the_folder_and_a_client_fetches_only_what_changed(folder: Path) -> None:
    port = free_port()
    server = f"server {{ listen 127.0.0.1:{port}; root {folder}/site; index index.html; }}"
    with running(nginx_conf(folder, server), port):
        for form in ("check/", "check.json"):
            url = f"http://127.0.0.1:{port}/api/nuitkal_pack/{form}"
            assert start_program(folder, url, f"user-{form.strip('/')}") == "this is 1.0.0\n"
        publish(folder, "1.1.0")
        (folder / "access.log").write_text("")
        assert start_program(folder, url, "user-check.json") == "this is 1.1.0\n"
        sent = re.findall(r"(\S+) (\d+) (\d+)", (folder / "access.log").read_text())
    assert [status for path, status, _ in sent if path.endswith(".zip")] == ["206"]
    assert sum(int(size) for _, _, size in sent) < 10_000  # of 400 kB


def test_a_cache_in_front_asks_the_server_once_for_each_file(folder: Path) -> None:
    port = free_port()
    public_url = f"http://127.0.0.1:{port}"
    with start_server(folder / "data", "--public-url", public_url) as origin:
        cache = (
            f"proxy_cache_path {folder}/cache keys_zone=cdn:1m; log_format origin "
            f"'$uri $upstream_cache_status $upstream_status'; server {{ listen 127.0.0.1:{port};"
            f" access_log {folder}/origin.log origin; location / {{ proxy_pass {origin.url};"
            " proxy_cache cdn; proxy_cache_lock on; proxy_cache_revalidate on; } }"
        )
        with running(nginx_conf(folder, cache), port):
            for version in ("1.0.0", "1.1.0"):
                publish(folder, version)
                words = ("upload", "app", "--version", version, "--key", "key", "--app", "cached")
                upload = ("nuitkal_mini.publish", *words, "--server", origin.api)
                run(*upload, cwd=folder, token=origin.token)
                for user in ("one", "two", "three"):
                    url = f"{public_url}/api/nuitkal_pack/check/"
                    assert start_program(folder, url, user) == f"this is {version}\n"
        asked = [line.split() for line in (folder / "origin.log").read_text().splitlines()]
    names = [(path.rpartition("/")[2], cached) for path, cached, _ in asked]
    assert (
        names.count(("update_1.0.0.zip", "MISS")) == names.count(("update_1.1.0.zip", "MISS")) == 1
    )
    assert (
        names.count(("update_1.1.0.zip", "HIT")) == names.count(("update_1.1.0.json", "HIT")) == 2
    )
    assert sum(path.endswith("/check/") and status != "-" for path, _, status in asked) == 6


@pytest.mark.slow
def test_rclone_copies_the_site_to_an_s3_server_and_clients_update_from_it(folder: Path) -> None:
    rclone, moto = need_tool("rclone"), need_tool("moto_server")
    port = free_port()
    (folder / "rclone.conf").write_text(
        "[s3]\ntype = s3\nprovider = Other\naccess_key_id = x\nsecret_access_key = x\n"
        f"endpoint = http://127.0.0.1:{port}\nacl = public-read\n"
    )
    environ = {name: text for name, text in os.environ.items() if name != "AWS_CA_BUNDLE"}

    def copy(*words: str) -> None:
        command = [rclone, "--config", str(folder / "rclone.conf"), *words]
        subprocess.run(command, cwd=folder, env=environ, check=True)

    with running([moto, "-H", "127.0.0.1", "-p", str(port)], port):
        copy("mkdir", "s3:bucket")
        copy("sync", "site", "s3:bucket")
        url = f"http://127.0.0.1:{port}/bucket/api/nuitkal_pack/check.json"
        assert start_program(folder, url) == "this is 1.0.0\n"
        publish(folder, "1.1.0")
        copy("sync", "site/media", "s3:bucket/media")  # packages first, then what names them
        copy("sync", "site", "s3:bucket")
        assert start_program(folder, url) == "this is 1.1.0\n"
        shutil.rmtree(folder / "user")
        assert start_program(folder, url) == "this is 1.1.0\n"
