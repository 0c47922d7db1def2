"""Many idle, slow and greedy clients at once: the others notice nothing."""

from __future__ import annotations

import http.client
import re
import selectors
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import List

import pytest

from tests.support import RunningServer, start_server

IDLE, DRIPPING, CHECKS_A_SECOND, SECONDS = 1000, 500, 200, 15
GET = b"GET /api/nuitkal_pack/health/ HTTP/1.1\r\nHost: x\r\n\r\n"
DRIP = (
    b"POST /admin/login/ HTTP/1.1\r\nHost: x\r\nContent-Type:"
    b" application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n"
)


def connect(server: RunningServer) -> socket.socket:
    host, port = server.url.split("/")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def megabytes(server: RunningServer) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def threads(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"Threads:\s+(\d+)", status)[0])


def check_at_a_rate(server: RunningServer, per_second: float) -> List[float]:
    """The seconds of each request; raises when one fails."""
    connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=10)
    taken = []
    begin = time.monotonic()
    while time.monotonic() < begin + SECONDS:
        due = begin + len(taken) / per_second
        time.sleep(max(0.0, due - time.monotonic()))
        asked = time.monotonic()
        connection.request("GET", "/api/nuitkal_pack/health/")
        reply = connection.getresponse()
        assert reply.status == 200 and reply.read()
        taken.append(time.monotonic() - asked)
    connection.close()
    return taken


def drip(socks: List[socket.socket], stop: threading.Event) -> None:
    while not stop.wait(1.0):
        for sock in socks:
            try:
                sock.send(b"x")
            except OSError:  # the server has given it up
                pass


@pytest.mark.slow
@pytest.mark.parametrize("length", [1000, 500_000], ids=["small bodies", "large bodies"])
def test_idle_and_dripping_clients_cost_the_others_nothing(tmp_path: Path, length: int) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4000:
        pytest.skip("too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4000), hard))
    stop = threading.Event()
    with start_server(tmp_path / "data") as server, ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(IDLE)]
        for sock in idle:
            sock.sendall(GET)
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        dripping = [stack.enter_context(connect(server)) for _ in range(DRIPPING)]
        for sock in dripping:
            sock.sendall(DRIP % length)
        with ThreadPoolExecutor(9) as pool:
            dripper = pool.submit(drip, dripping, stop)
            try:
                checks = [
                    pool.submit(check_at_a_rate, server, CHECKS_A_SECOND / 8) for _ in range(8)
                ]
                taken = sorted(seconds for check in checks for seconds in check.result())
            finally:
                stop.set()
            dripper.result()
        print(f"{len(taken)} checks, p50 {1000 * statistics.median(taken):.1f} ms, ", end="")
        print(f"p99 {1000 * taken[len(taken) * 99 // 100]:.0f} ms, {megabytes(server):.0f} MB")
        assert len(taken) > 0.9 * CHECKS_A_SECOND * SECONDS
        assert megabytes(server) < 150
        with selectors.DefaultSelector() as watch:
            for sock in idle:
                watch.register(sock, selectors.EVENT_READ)
            assert watch.select(0) == []  # none was closed
        for sock in idle[:50]:
            sock.sendall(GET)
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        for sock in dripping[:50]:  # all were refused meanwhile
            answer = sock.recv(4096)  # empty: closed for others, beyond MAX_READERS
            assert answer.startswith(b"HTTP/1.1 4") or length > 16_384 and not answer
        deadline = time.monotonic() + 30
        while threads(server) > 12:
            assert time.monotonic() < deadline, "threads that a burst started have not ended"
            time.sleep(0.2)
