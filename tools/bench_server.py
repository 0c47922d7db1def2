"""The server beside waitress, gunicorn and nginx, all in one run: `python3 tools/bench.py server`.

wrk and nginx come from the system (Debian packages), waitress and gunicorn from PyPI into an
environment that is made for the run and deleted with it. Each measurement is taken by turns,
three times; the median of the ratios counts. What is missing is left out, with a line that says
so.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
import venv
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

SECONDS = 3
ROUNDS = 3
FILE_BYTES = 60_000_000

CONSTANT = """
import pathlib
BODY = pathlib.Path("body").read_bytes()
HEADERS = [("Content-Type", "application/json"), ("ETag", '"x"')]
def app(environ, start_response):
    if environ.get("HTTP_IF_NONE_MATCH"):
        start_response("304 Not Modified", HEADERS)
        return []
    start_response("200 OK", HEADERS + [("Content-Length", str(len(BODY)))])
    return [BODY]
"""

NGINX = """
daemon off; {user} worker_processes 1; pid nginx.pid; error_log stderr;
events {{ worker_connections 512; }}
http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {root}; }} }}
"""


class Load(NamedTuple):
    """What wrk measured: requests and megabytes a second, the 99th percentile in ms, errors."""

    requests: float
    megabytes: float
    p99: float
    errors: int


def wrk(url: str, connections: int, etag: str = "") -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}", "--latency", url]
    if etag:
        command += ["-H", f"If-None-Match: {etag}"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    number, unit = re.findall(r"99%\s+([\d.]+)(us|ms|s)", shown)[0]
    size, prefix = re.findall(r"Transfer/sec:\s+([\d.]+)([KMG]?)B", shown)[0]
    failed = re.findall(r"(?:connect|read|write|timeout) (\d+)", shown)
    return Load(
        float(re.findall(r"Requests/sec:\s+([\d.]+)", shown)[0]),
        float(size) * {"": 1e-6, "K": 1e-3, "M": 1, "G": 1e3}[prefix],
        float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit],
        sum(map(int, failed)),
    )


def by_turns(
    what: str, measures: Dict[str, Callable[[], Load]], of: Callable[[Load], float]
) -> None:
    """Print each server's median and the ratio of the first to each other one."""
    taken: Dict[str, List[Load]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            taken[name].append(measure())
    ours = [of(load) for load in next(iter(taken.values()))]
    for name, loads in taken.items():
        values = [of(load) for load in loads]
        ratio = statistics.median(mine / other for mine, other in zip(ours, values))
        p99 = statistics.median(load.p99 for load in loads)
        errors = sum(load.errors for load in loads)
        print(f"{what:<28}{name:<10}{statistics.median(values):>10,.0f}/s", end="")
        print(f"   p99 {p99:7.1f} ms   errors {errors}   ratio {ratio:5.2f}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def start(stack: ExitStack, port: int, command: List[str], folder: Path) -> Optional[str]:
    """A server that accepts connections; None when it does not within ten seconds."""
    process = subprocess.Popen(
        command, cwd=str(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return f"http://127.0.0.1:{port}/"
        except OSError:
            time.sleep(0.05)
    return None


def others(stack: ExitStack, folder: Path) -> Dict[str, str]:
    """The URLs of waitress and gunicorn, which answer with the file `body` in the folder."""
    (folder / "constant.py").write_text(CONSTANT)
    python = folder / "environment/bin/python"
    venv.create(str(folder / "environment"), with_pip=True)
    urls: Dict[str, str] = {}
    commands = {
        "waitress": ["waitress", "--threads=4", "--listen=127.0.0.1:{port}", "constant:app"],
        "gunicorn": [
            *("gunicorn", "-k", "gthread", "--threads", "16"),
            *("-b", "127.0.0.1:{port}", "constant:app"),
        ],
    }  # fmt: skip
    for name, arguments in commands.items():
        install = [str(python), "-m", "pip", "install", "-q", name]
        port = free_port()
        command = [str(python), "-m", *(word.format(port=port) for word in arguments)]
        if subprocess.run(install, stderr=subprocess.DEVNULL).returncode:
            print(f"{name} cannot be installed: left out")
            continue
        url = start(stack, port, command, folder)
        if url:
            urls[name] = url
    return urls


def nginx(stack: ExitStack, folder: Path) -> Optional[str]:
    if not shutil.which("nginx"):
        print("nginx is not installed: left out")
        return None
    port = free_port()
    user = "" if os.geteuid() else "user root;"  # else it may not read a temporary folder
    (folder / "nginx.conf").write_text(NGINX.format(port=port, root=folder, user=user))
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    return start(stack, port, command, folder)


def run(process_id: int, check_url: str, package_url: str, folder: Path) -> None:
    """Measure a running server of ours that has a release whose package is `package_url`."""
    if not shutil.which("wrk"):
        print("wrk is not installed: nothing is measured")
        return
    with urllib.request.urlopen(check_url) as reply:
        (folder / "body").write_bytes(reply.read())
        etag = reply.headers["ETag"]
    with ExitStack() as stack:
        urls = {"ours": check_url, **others(stack, folder)}
        for connections in (16, 128):
            measures = {name: _measure(one, connections) for name, one in urls.items()}
            by_turns(f"check/, {connections} connections", measures, lambda load: load.requests)
        measures = {name: _measure(one, 16, etag) for name, one in urls.items()}
        by_turns("check/, 304", measures, lambda load: load.requests)
        plain = nginx(stack, folder)
        with urllib.request.urlopen(package_url) as reply, open(folder / "package", "wb") as file:
            shutil.copyfileobj(reply, file)
        downloads = {"ours": package_url}
        if plain:
            downloads["nginx"] = plain + "package"
        measures = {name: _measure(one, 1) for name, one in downloads.items()}
        by_turns("60 MB download, MB", measures, lambda load: load.megabytes)
    print(f"peak memory of ours: {peak_megabytes(process_id):.0f} MB")


def peak_megabytes(process_id: int) -> float:
    """Of the process so far; Linux only."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def _measure(url: str, connections: int, etag: str = "") -> Callable[[], Load]:
    return lambda: wrk(url, connections, etag)


def cold_start(root: Path, data: Path) -> None:
    """The seconds and the memory until `Serving on`."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "nuitkal_mini.server", "--port", "0", "--data", str(data)],
            cwd=str(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.readline()
        seconds.append(time.perf_counter() - began)
        peak = peak_megabytes(process.pid)
        process.terminate()
        process.wait()
        process.stdout.close()
    print(f"cold start: {statistics.median(seconds):.2f} s, {peak:.0f} MB")
