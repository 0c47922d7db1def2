"""Measure what we promise, comparing in one run: `python3 tools/bench.py
[job|check|server|memory|start|frozen|bytes]…` (default: job, check, start).

job     a 180-file, 10 MB tree over a counting relay: requests and bytes of a first install, a
one-file update, a check that finds nothing; wall time and peak memory of each process; publishing
an unchanged tree server  check/ (200 and 304, 16 and 128 connections) and a download of 60 MB,
beside waitress, gunicorn and nginx; p99, errors, ratios; peak memory; the cold start
(tools/bench_server.py) check   check/ per second at 16 keep-alive connections, against
wsgiref.simple_server memory  peak memory of server, publisher and client with a release of 1 GB,
above idle; what a start that finds nothing takes then start   what `import nuitkal_mini.client`
costs, against `import urllib.request` alone bytes   deltas of wheels from PyPI beside bsdiff,
zstd and xdelta3; see tools/bench_bytes.py frozen  a start of a launcher that Nuitka compiled and
that finds nothing, against one that makes one urllib request (builds it first)
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
API = "api/nuitkal_pack/"
CONNECTIONS = 16


class Finished(NamedTuple):
    """A process that has ended: wall seconds, peak memory in MB, and what it printed."""

    seconds: float
    peak_mb: float
    output: str


def run(*command: str, token: str = "") -> Finished:
    """Run a module of the package to its end; the kernel counts its peak memory."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "NUITKAL_TOKEN": token},
    )
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.stdout.close()
    process.returncode = os.WEXITSTATUS(status)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    return Finished(seconds, usage.ru_maxrss / 1024, output)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Tuple[str, str, int]]:
    """A real server on a free port: its URL, a token, its process id."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "nuitkal_mini.server",
            "--port",
            "0",
            "--data",
            str(folder / "data"),
            "--max-upload",
            str(2**32),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=open(folder / "server.log", "w"),
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[-1]
        token = re.search(r"token: (\S+)", (folder / "server.log").read_text())
        assert token is not None
        yield url, token[1], process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def make_tree(folder: Path, files: int, total: int) -> None:
    """Half of each file compresses, half does not, as in programs; the same tree on every run."""
    noise = random.Random(1)
    for number in range(files):
        path = folder / f"lib/package_{number // 12:02}/module_{number:03}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = total // files // 2
        path.write_bytes(
            noise.getrandbits(8 * half).to_bytes(half, "big")
            + b"def function(argument): return argument\n" * (half // 40)
        )
    (folder / "main.py").write_text("print('hello')\n")


def job(folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from tools.demo import Meter

    tree = folder / "tree"
    make_tree(tree, 179, 10_000_000)
    with server(folder) as (url, token, _):
        meter = Meter(urlsplit(url).port or 0)
        check = f"http://127.0.0.1:{meter.port}/{API}check/"

        def publish(version: str) -> Finished:
            return run(
                "nuitkal_mini.publish",
                "upload",
                str(tree),
                "--app",
                "bench",
                "--version",
                version,
                "--server",
                url + API,
                token=token,
            )

        def client(what: str, verb: str = "update") -> None:
            meter.requests = meter.up = meter.down = 0
            done = run("nuitkal_mini.client", verb, "--url", check, "--dir", str(folder / "client"))
            print(
                f"{what:<34}{meter.requests:>3} requests {meter.up + meter.down:>12,} bytes"
                f" {done.seconds:>7.2f} s {done.peak_mb:>6.1f} MB"
            )

        first = publish("1.0.0")
        print(f"{'publish, first':<58}{first.seconds:>13.2f} s {first.peak_mb:>6.1f} MB")
        client("first install")
        changed = tree / "lib/package_07/module_090.bin"
        changed.write_bytes(random.Random(2).getrandbits(8 * 30_000).to_bytes(30_000, "big"))
        second = publish("1.0.1")
        print(
            f"{'publish, one file changed':<58}{second.seconds:>13.2f} s {second.peak_mb:>6.1f} MB"
        )
        client("update, one file of 30 kB")
        client("check that finds nothing", "check")
        again = publish("1.0.1")
        print(
            f"{'publish, unchanged':<58}{again.seconds:>13.2f} s {again.peak_mb:>6.1f} MB  "
            f" {again.seconds / first.seconds:.2f} of the first"
        )


def throughput(port: int, path: str, seconds: float = 3.0) -> float:
    """Requests per second over keep-alive connections, where the server keeps them."""
    counts: List[int] = []
    end = time.perf_counter() + seconds

    def ask() -> None:
        count, connection = 0, http.client.HTTPConnection("127.0.0.1", port)
        while time.perf_counter() < end:
            connection.request("GET", path)
            connection.getresponse().read()
            count += 1
        connection.close()
        counts.append(count)

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


SIMPLE = """
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server
from nuitkal_mini.server import create_app
class Quiet(WSGIRequestHandler):
    def log_message(self, *_): pass
server = make_server("127.0.0.1", 0, create_app(sys.argv[1]), handler_class=Quiet)
print(server.server_port, flush=True)
server.serve_forever()
"""


def check(folder: Path) -> None:
    tree = folder / "tree"
    make_tree(tree, 3, 30_000)
    with server(folder) as (url, token, _):
        run(
            "nuitkal_mini.publish",
            "upload",
            str(tree),
            "--app",
            "bench",
            "--version",
            "1.0.0",
            "--server",
            url + API,
            token=token,
        )
        simple = subprocess.Popen(
            [sys.executable, "-c", SIMPLE, str(folder / "data")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert simple.stdout is not None
        port = int(simple.stdout.readline())
        rates: Dict[str, List[float]] = {"ours": [], "wsgiref.simple_server": []}
        for _ in range(3):  # in turn: the machine's speed drifts
            rates["ours"].append(throughput(urlsplit(url).port or 0, f"/{API}check/"))
            rates["wsgiref.simple_server"].append(throughput(port, f"/{API}check/"))
        simple.kill()
        simple.wait()
        simple.stdout.close()
    for name, values in rates.items():
        print(
            f"check/, {CONNECTIONS} connections, {name:<24}{statistics.median(values):>10,.0f} per"
            " second"
        )
    ratios = [ours / other for ours, other in zip(*rates.values())]
    print(
        f"ratio{statistics.median(ratios):>53.1f}   (the client, in Python too, takes its share of"
        " the processors)"
    )


def memory(folder: Path) -> None:
    tree = folder / "tree"
    tree.mkdir()
    with open(tree / "big.bin", "wb") as file:
        for _ in range(1000):
            file.write(os.urandom(2**20))
    (tree / "main.py").write_text("print('hello')\n")
    with server(folder) as (url, token, pid):

        def peak() -> float:
            return (
                int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
                / 1024
            )

        idle = peak()
        publisher = run(
            "nuitkal_mini.publish",
            "upload",
            str(tree),
            "--app",
            "bench",
            "--version",
            "1.0.0",
            "--server",
            url + API,
            token=token,
        )
        print(
            f"1 GB upload: server {peak() - idle:>6.1f} MB above idle, publisher"
            f" {publisher.peak_mb:.1f} MB in all, {publisher.seconds:.1f} s"
        )
        nothing = run("nuitkal_mini.client", "--help")
        update = (
            "nuitkal_mini.client",
            "update",
            "--url",
            url + API + "check/",
            "--dir",
            str(folder / "client"),
        )
        client = run(*update)
        print(
            f"1 GB install: client {client.peak_mb - nothing.peak_mb:>5.1f} MB above idle, server"
            f" {peak() - idle:.1f} MB, {client.seconds:.1f} s"
        )
        time.sleep(3)  # what was written a moment ago is read at every start
        first, later = run(*update).seconds, run(*update).seconds
        print(
            f"1 GB, nothing new: {later:.2f} s; {first:.2f} s, {first / later:.1f} times as long,"
            " at the first start after an update: it reads every file"
        )


def start(folder: Path) -> None:
    def milliseconds(module: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True)
        return (time.perf_counter() - began) * 1000

    def imported(module: str) -> float:
        shown = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", f"import {module}"],
            cwd=ROOT,
            check=True,
            stderr=subprocess.PIPE,
            text=True,
        )
        return int(shown.stderr.splitlines()[-1].split("|")[1]) / 1000

    for name, measure in (("import, by -X importtime", imported), ("whole process", milliseconds)):
        pairs = [(measure("nuitkal_mini.client"), measure("urllib.request")) for _ in range(11)]
        ours, theirs = (statistics.median(values) for values in zip(*pairs))
        print(
            f"{name:<28} nuitkal_mini.client {ours:6.1f} ms, urllib.request {theirs:6.1f} ms, ratio"
            f" {statistics.median(a / b for a, b in pairs):.2f}"
        )


def frozen(folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.nuitka import build

    script = (ROOT / "tests/nuitka/launcher.py").read_text(encoding="utf-8")
    make_tree(folder / "tree", 20, 1_000_000)
    with server(folder) as (url, token, _):
        run(
            "nuitkal_mini.publish",
            "upload",
            str(folder / "tree"),
            "--app",
            "bench",
            "--version",
            "1.0.0",
            "--server",
            url + API,
            token=token,
        )
        for mode in ("standalone", "onefile"):
            own = build.copy_to(folder / mode, build.binary(script, mode, build.one_file()))
            environment = {**os.environ, "TEST_URL": f"{url}{API}check/"}
            subprocess.run(
                [str(own)],
                env={**environment, "TEST_VERB": "update"},
                check=True,
                stderr=subprocess.DEVNULL,
            )
            taken: Dict[str, List[float]] = {"request": [], "update": []}
            for _ in range(15):  # by turns
                for verb, seconds in taken.items():
                    began = time.perf_counter()
                    subprocess.run(
                        [str(own)],
                        env={**environment, "TEST_VERB": verb},
                        check=True,
                        stderr=subprocess.DEVNULL,
                    )
                    seconds.append(1000 * (time.perf_counter() - began))
            request, update = (statistics.median(seconds) for seconds in taken.values())
            print(
                f"{mode:<12} one request {request:6.1f} ms, an update that finds nothing"
                f" {update:6.1f} ms, {update - request:+.1f} ms"
            )


def compare_servers(folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from tools import bench_server

    tree = folder / "tree"
    tree.mkdir()
    (tree / "big.bin").write_bytes(os.urandom(bench_server.FILE_BYTES))
    with server(folder) as (url, token, pid):
        arguments = [str(tree), "--app", "bench", "--version", "1.0.0", "--server", url + API]
        run("nuitkal_mini.publish", "upload", *arguments, token=token)
        with urllib.request.urlopen(url + API + "check/") as reply:
            package = json.load(reply)["download_url"]
        bench_server.run(pid, url + API + "check/", package, folder)
    bench_server.cold_start(ROOT, folder / "data")


def bytes_of_updates(folder: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "tools" / "bench_bytes.py")], check=True)


BENCHMARKS: Dict[str, Callable[[Path], None]] = {
    "job": job,
    "check": check,
    "server": compare_servers,
    "memory": memory,
    "start": start,
    "frozen": frozen,
    "bytes": bytes_of_updates,
}


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "which", nargs="*", choices=[[], *BENCHMARKS], help="which benchmarks to run"
    )
    for name in parser.parse_args(arguments).which or ["job", "check", "start"]:
        print(f"--- {name}")
        folder = Path(tempfile.mkdtemp(prefix="nuitkal_bench"))
        try:
            BENCHMARKS[name](folder)
        finally:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
