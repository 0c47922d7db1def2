"""The command line, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator, List, Optional

import pytest

from nuitkal_mini.problem import Problem
from nuitkal_mini.server import auth, service_manager, workers
from nuitkal_mini.server.__main__ import main
from nuitkal_mini.server.store import open_database
from tests.support import ROOT, RunningServer, need_tool, start_server

from .caller import BOUNDARY, files_below, make_form, make_zip

# More than the form parser reads at once
BIG = make_form({"version": "1.0", "file": make_zip({"a": os.urandom(900_000)})})


def run(*args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "nuitkal_mini.server", *map(str, args)]
    return subprocess.run(
        command,
        cwd=ROOT,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )


def request(server: RunningServer, path: str, body: Optional[bytes] = None, **headers: str) -> Any:
    """The JSON of an answer of the API."""
    asked = urllib.request.Request(
        server.api + path, body, {"Authorization": f"Bearer {server.token}", **headers}
    )
    with urllib.request.urlopen(asked, timeout=30) as reply:
        return json.load(reply)


def upload(server: RunningServer, version: str, package: bytes) -> Any:
    return request(
        server,
        "upload/",
        make_form({"version": version, "file": package}),
        **{"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )


def begin_upload(server: RunningServer, body: bytes, sent: int) -> socket.socket:
    """A connection on which an upload has begun."""
    client = socket.create_connection(("127.0.0.1", port_of(server)), timeout=20)
    head = (
        f"POST /api/nuitkal_pack/upload/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        f"{server.token}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: "
        f"{len(body)}\r\n\r\n"
    )
    client.sendall(head.encode() + body[:sent])
    return client


def test_the_first_start_shows_a_user_and_a_token_once(data: Path) -> None:
    with start_server(data) as server:
        assert server.password and server.token
        assert upload(server, "1.0", make_zip({"a": b"a"}))["message"] == "版本上传成功"
        first = server.log()
        database = open_database(data)
        assert auth.check_password(database, "admin", server.password)
        database.close()
        assert server.stop() == 0
    assert server.token not in first.split("token: ")[1].split("\n", 1)[1]  # nor in the access log
    with start_server(data) as again:
        assert again.password is None
        assert request(again, "check/")["version"] == "1.0"


def test_a_released_package_can_be_downloaded_by_its_url(data: Path) -> None:
    package = make_zip({"a": os.urandom(100_000)})
    with start_server(data) as server:
        url = upload(server, "1.0", package)["download_url"]
        assert url.startswith(server.url + "media/nuitkal_packs/")
        with urllib.request.urlopen(url) as reply:
            assert reply.read() == package


def test_sigterm_lets_a_running_upload_finish(data: Path) -> None:
    body = make_form({"version": "1.0", "file": make_zip({"a": os.urandom(50_000)})})
    with start_server(data) as server:
        with begin_upload(server, body, 50) as client:
            wait_until(lambda: any((data / "incoming").glob("*/*")))
            server.process.terminate()
            wait_until(lambda: not can_connect(port_of(server)))
            client.sendall(body[50:])
            assert client.recv(1000).startswith(b"HTTP/1.1 201 Created\r\n")
        assert server._wait() == 0
    assert len(files_below(data / "media")) == 2 and files_below(data / "incoming") == []


def test_an_upload_that_breaks_off_leaves_nothing(data: Path) -> None:
    with start_server(data) as server:
        with begin_upload(server, BIG, 600_000):
            wait_until(lambda: any((data / "incoming").glob("*/*/upload-*")))
        wait_until(lambda: not any((data / "incoming").glob("*/*")))
        assert "ERROR" not in server.log()


def test_a_killed_server_s_half_upload_is_gone_after_the_next_start(data: Path) -> None:
    with start_server(data) as server, begin_upload(server, BIG, 600_000):
        wait_until(lambda: any((data / "incoming").glob("*/*/upload-*")))
        server.kill()
    assert any(path.name.startswith("upload-") for path in (data / "incoming").rglob("*"))
    with start_server(data):
        assert not any(path.name.startswith("upload-") for path in (data / "incoming").rglob("*"))


def test_two_servers_over_one_data_folder_agree(data: Path) -> None:
    with start_server(data) as one, start_server(data) as two:
        upload(one, "1.0", make_zip({"a": b"1"}))
        assert request(two, "check/")["version"] == "1.0"
        upload(two, "1.1", make_zip({"a": b"2"}))
        assert request(one, "check/")["version"] == "1.1"
        statuses: List[int] = []

        def race(server: RunningServer) -> None:
            try:
                upload(server, "2.0", make_zip({"a": b"3"}))
                statuses.append(201)
            except urllib.error.HTTPError as error:
                with error:
                    statuses.append(error.code)

        threads = [threading.Thread(target=race, args=(server,)) for server in (one, two) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [201, 409, 409, 409]


def worker_ids(server: RunningServer) -> List[int]:
    found = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return [int(pid) for pid in found.split()]


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody has waited for has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")


@needs_proc
def test_workers_share_the_port_the_limit_and_the_figures(data: Path) -> None:
    with start_server(data, "--workers", "3") as server:
        assert len(worker_ids(server)) == 3
        upload(server, "1.0", make_zip({"a": b"1"}))
        for number in range(2, 30):  # whichever worker answers, it knows the last upload
            upload(server, f"1.{number}", make_zip({"a": b"%d" % number}))
            assert request(server, "check/?version=1.0")["version"] == f"1.{number}"
        statuses = []
        for _ in range(20):
            try:
                request(server, "missing/", b"{}", Authorization="Bearer wrong")
            except urllib.error.HTTPError as error:
                with error:
                    statuses.append(error.code)
        assert statuses == [401] * 10 + [429] * 10
        assert server.stop() == 0
    with closing(open_database(data)) as database, database.read() as db:
        assert db.execute("SELECT sum(count) FROM fleet").fetchone() == (28,)


@needs_proc
def test_a_worker_that_died_is_replaced_and_workers_end_with_their_parent(data: Path) -> None:
    with start_server(data, "--workers", "2") as server:
        request(server, "health/")
        old = worker_ids(server)
        time.sleep(workers.START_SECONDS)  # or the parent takes it for a wrong command line
        os.kill(old[0], signal.SIGKILL)
        wait_until(lambda: len(worker_ids(server)) == 2 and old[0] not in worker_ids(server))
        assert request(server, "health/") == {"status": "ok"}
        last = worker_ids(server)
        server.kill()
        wait_until(lambda: all(is_gone(pid) for pid in last))


@needs_proc
def test_workers_that_cannot_begin_end_the_command(data: Path) -> None:
    done = run("--data", data, "--port", 0, "--workers", 2, "--certfile", "missing.pem")
    assert done.returncode == 1
    assert "the certificate missing.pem or its key is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_servers_can_start_on_a_new_folder_at_once(data: Path) -> None:
    servers: List[RunningServer] = []
    threads = [
        threading.Thread(target=lambda: servers.append(start_server(data))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(servers) == 4 and sum(server.password is not None for server in servers) == 1
    for server in servers:
        with server:
            assert request(server, "health/") == {"status": "ok"}


# --- users and tokens


def test_a_user_is_made_with_a_password_from_stdin(data: Path) -> None:
    made = run(
        "createsuperuser",
        "--data",
        data,
        "--username",
        "anna",
        "--password-stdin",
        stdin="secret word\n",
    )
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    database = open_database(data)
    assert auth.check_password(database, "anna", "secret word")
    database.close()
    again = run(
        "createsuperuser", "--data", data, "--username", "anna", "--password-stdin", stdin="x\n"
    )
    assert (again.returncode, again.stderr) == (
        1,
        "there is a user 'anna' already; choose another name\n",
    )


def test_tokens_are_made_listed_and_revoked(data: Path) -> None:
    made = run("token", "create", "ci", "--data", data)
    assert (
        made.returncode == 0
        and re.fullmatch(r"nk_[A-Za-z0-9_-]{43}\n", made.stdout)
        and made.stderr == ""
    )
    listed = run("token", "list", "--data", data).stdout
    assert re.fullmatch(r"ci\tcreated \S+Z\tnever used\n", listed)
    # --data may stand before the command, too
    assert run("--data", data, "token", "revoke", "ci").returncode == 0
    assert run("token", "revoke", "ci", "--data", data).stderr == "there is no token 'ci'\n"
    assert run("token", "list", "--data", data).stdout == ""


def test_a_token_made_while_the_server_runs_works_at_once(data: Path) -> None:
    with start_server(data) as server:
        server.token = run("token", "create", "late", "--data", data).stdout.strip()
        assert request(server, "missing/", b'{"hashes": []}') == {"missing": []}
        run("token", "revoke", "late", "--data", data)
        with pytest.raises(urllib.error.HTTPError) as caught:
            request(server, "missing/", b'{"hashes": []}')
        with caught.value as error:
            assert error.code == 401


# --- what can be wrong: one sentence, exit code 1


def only_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and all(part in done.stderr for part in parts), done.stderr


def test_a_port_in_use_is_named(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        only_sentence(
            run("--data", data, "--port", port), "cannot listen on 127.0.0.1", str(port), "in use"
        )


def test_a_host_that_is_not_ours_is_named(data: Path) -> None:
    only_sentence(
        run("--data", data, "--host", "192.0.2.1", "--port", 0), "cannot listen on 192.0.2.1"
    )


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    only_sentence(
        run("--data", tmp_path / "file" / "data"), str(tmp_path / "file" / "data"), "cannot be used"
    )


def test_a_database_of_a_newer_version_is_left_alone(data: Path) -> None:
    open_database(data).close()
    with sqlite3.connect(str(data / "nuitkal.db")) as database:
        database.execute("PRAGMA user_version = 1000")
    database.close()
    only_sentence(run("--data", data), "newer version")


def test_a_file_that_is_no_database_is_left_alone(data: Path) -> None:
    data.mkdir()
    (data / "nuitkal.db").write_bytes(b"precious" * 1000)
    only_sentence(run("--data", data), "nuitkal.db", "cannot be used as a database")
    assert (data / "nuitkal.db").read_bytes() == b"precious" * 1000


def test_a_missing_certificate_is_named(data: Path) -> None:
    only_sentence(run("--data", data, "--certfile", "nowhere.pem"), "nowhere.pem", "missing")


def test_a_bad_certificate_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("not a certificate")
    only_sentence(
        run("--data", data, "--certfile", tmp_path / "bad.pem"),
        "bad.pem",
        "cannot be used for HTTPS",
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="systemd is Linux's")
def test_a_socket_of_another_kind_and_several_are_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        monkeypatch.setattr(service_manager, "FIRST_DESCRIPTOR", os.dup(listener.fileno()))
        for count in ("1", "2"):
            monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
            monkeypatch.setenv("LISTEN_FDS", count)
            with pytest.raises(Problem, match="one TCP socket"):
                service_manager.inherited_listener()
        monkeypatch.setenv("LISTEN_PID", "1")
        assert service_manager.inherited_listener() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="systemd is Linux's")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_service_manager_passes_the_socket_and_hears_when_it_is_served(
    data: Path, tmp_path: Path, workers: str
) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(30)
    manager.bind(str(tmp_path / "notify"))
    with manager, socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/nuitkal_pack/health/"
        # `execv` keeps the process id that LISTEN_PID names.
        script = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); "
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.executable, [sys.executable, '-m', 'nuitkal_mini.server', *sys.argv[2:]])"
        )
        options = [str(listener.fileno()), "--data", str(data), "--workers", workers]
        process = subprocess.Popen(
            [sys.executable, "-c", script, *options],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with process:
            try:
                assert manager.recv(100) == b"READY=1"
                with urllib.request.urlopen(url) as response:
                    assert response.status == 200
            finally:
                process.terminate()
        assert process.returncode in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    "args",
    [
        ["--port", "x"],
        ["--public-url", "ftp://x"],
        ["--public-url", "example.com"],
        ["--trusted-proxy", "nobody"],
        ["token"],
        ["nonsense"],
        ["createsuperuser"],
        ["--max-upload", "-1"],
        ["--port", "70000"],
        ["--keyfile", "x"],
    ],
)
def test_usage_errors_are_exit_code_2(
    args: List[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(data), *args])
    assert ended.value.code == 2 and "usage:" in capsys.readouterr().err
    assert not data.exists()


def test_https_is_served_with_a_certificate(data: Path, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    subprocess.run(
        [
            need_tool("openssl"),
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(tmp_path / "key.pem"),
            "-out",
            str(certificate),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with start_server(
        data, "--certfile", str(certificate), "--keyfile", str(tmp_path / "key.pem")
    ) as server:
        assert server.url.startswith("https://")
        with urllib.request.urlopen(
            server.api + "health/", context=ssl.create_default_context(cafile=str(certificate))
        ) as reply:
            assert json.load(reply) == {"status": "ok"}


def test_importing_the_package_for_another_server_is_light() -> None:
    program = (
        "import sys; before = set(sys.modules); import nuitkal_mini.server; "
        "print('sqlite3' in sys.modules, 'nuitkal_mini.server.api' in sys.modules)"
    )
    assert subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE
    ).stdout.split() == [b"False", b"False"]


@pytest.mark.slow
def test_an_upload_of_a_gigabyte_takes_little_memory(data: Path, tmp_path: Path) -> None:
    block = os.urandom(2**20)
    package = tmp_path / "big.zip"
    with zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as out, out.open(
        "noise", "w", force_zip64=True
    ) as member:
        for _ in range(1024):
            member.write(block)
    head, tail = make_form({"version": "1.0", "file": b"@@"}).split(b"@@")
    with start_server(data) as server:
        request(server, "health/")
        idle = resident(server.process.pid, "VmRSS")

        def pieces() -> Iterator[bytes]:
            yield head
            with open(package, "rb") as file:
                yield from iter(lambda: file.read(2**20), b"")
            yield tail

        asked = urllib.request.Request(
            server.api + "upload/",
            pieces(),
            {
                "Authorization": f"Bearer {server.token}",
                "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
                "Content-Length": str(len(head) + package.stat().st_size + len(tail)),
            },
        )
        with urllib.request.urlopen(asked, timeout=120) as reply:
            assert reply.status == 201
        assert resident(server.process.pid, "VmHWM") - idle < 64 * 2**10


def resident(pid: int, field: str) -> int:
    """kB of memory of a process, as Linux tells them."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("no /proc here")
    return int(re.findall(rf"{field}:\s+(\d+) kB", status.read_text())[0])


def port_of(server: RunningServer) -> int:
    return int(server.url.rsplit(":", 1)[1].strip("/"))


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    except OSError:
        return False


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 20 seconds"
        time.sleep(0.02)
