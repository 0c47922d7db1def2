"""The main job, visibly: python3 tools/demo.py [--serve]

A server on a data folder of its own, two releases of a small real program, and the machine of a
user who installs the first, gets the second at the next start, and is taken back. Every step is a
command that you could type; what they print is theirs. Everything lies in one temporary folder that
is removed at the end. --serve keeps the server running until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Dict, List, NamedTuple, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
API = "api/nuitkal_pack/"
LINE_BYTES_A_SECOND = 2_000_000  # slow enough for progress to be seen

# The program: "topics" shows what Python's language reference says about a word. As programs that
# nobody installs do, it brings its libraries along.
PROGRAM = {
    "main.py": '''\
"""Topics: what Python's language reference says about a word."""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE / "lib"))  # the libraries that come with the program

from about import NAME, VERSION
from finder import find
from layout import show

print("%s %s, on %s:" % (NAME, VERSION, " ".join(sys.argv[1:])))
for topic, line in find(HERE / "texts", sys.argv[1]):
    print(show(topic, line))
''',
    "about.py": """\
NAME, VERSION = "Topics", "1.0.0"
""",
    "finder.py": '''\
def find(texts, word, most=3):
    """The first texts, by name, with a line that has the word."""
    hits = []
    for text in sorted(texts.glob("*.txt")):
        every = text.read_text(encoding="utf-8").splitlines()
        lines = [line for line in every if word in line.split()]
        hits += [(text.stem, line) for line in lines[:1]]
    return hits[:most]
''',
    "layout.py": """\
from textwrap import shorten

def show(topic, line):
    return "  %-22s %s" % (topic, shorten(line, 70))
""",
}
NEXT_RELEASE = {
    "about.py": PROGRAM["about.py"].replace("1.0.0", "1.0.1"),
    "finder.py": '''\
def find(texts, word, most=3):
    """The texts that speak most of the word, each with the first line that has it."""
    hits = []
    for text in texts.glob("*.txt"):
        every = text.read_text(encoding="utf-8").splitlines()
        lines = [line for line in every if word in line.split()]
        hits += [(-len(lines), text.stem, line) for line in lines[:1]]
    return [(topic, line) for _, topic, line in sorted(hits)[:most]]
''',
    "layout.py": PROGRAM["layout.py"].replace("shorten(line, 70)", "shorten(line, 70).upper()"),
}
LIBRARIES = (
    "asyncio",
    "collections",
    "concurrent",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "sqlite3",
    "unittest",
    "urllib",
    "wsgiref",
    "xml",
    "xmlrpc",
)


class Travelled(NamedTuple):
    step: str
    requests: int
    up: int
    down: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Publish a program, update a user's copy, roll it back."
    )
    parser.add_argument(
        "--serve", action="store_true", help="keep the server running at the end, until Ctrl-C"
    )
    serve = parser.parse_args().serve
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # also then the folder and the server go
    with tempfile.TemporaryDirectory(prefix="nuitkal-demo-") as folder:
        with contextlib.suppress(KeyboardInterrupt), Demo(Path(folder)) as demo:
            demonstrate(demo)
            explain(demo, serve)
            if serve:
                demo.server.wait()
    print("Removed %s." % folder)


def demonstrate(demo: Demo) -> None:
    say(
        "A developer has a program, Topics, which looks words up in Python's language reference, "
        "and publishes it as 1.0.0"
    )
    files, size = write_program(demo.folder / "topics")
    print("%d files, %s" % (files, readable(size)))
    demo.publish("1.0.0")

    say("A user starts the program for the first time")
    demo.start_program("first start")

    say("The developer changes %s, and publishes 1.0.1: only they travel" % ", ".join(NEXT_RELEASE))
    for name, text in NEXT_RELEASE.items():
        (demo.folder / "topics" / name).write_text(text, encoding="utf-8")
    demo.publish("1.0.1")

    say("The user's next start")
    demo.start_program("next start: 1.0.1")

    say("1.0.1 shouts, which nobody asked for: 1.0.0 is made active again")
    demo.run(
        "activate 1.0.0", "nuitkal_mini.publish", "activate", "1.0.0", "--server", demo.url + API
    )

    say("The user's next start is 1.0.0 again")
    demo.start_program("next start: 1.0.0")

    say("And one more, with nothing to do")
    demo.start_program("next start: no news")


def explain(demo: Demo, serve: bool) -> None:
    say("What travelled, headers and all")
    print("%-22s %8s %12s %12s %8s" % ("", "requests", "to server", "from server", "time"))
    for step in demo.travelled:
        print(
            "%-22s %8d %12s %12s %6.1f s"
            % (step.step, step.requests, readable(step.up), readable(step.down), step.seconds)
        )
    if not serve:
        print("\nTo look at the server in a browser: python3 tools/demo.py --serve")
        return
    say("The server runs until Ctrl-C")
    print(demo.server_url + "admin/")
    for part in ("check/", "versions/", "health/"):
        print(demo.server_url + API + part)
    print(
        "admin user %s, password %s, token %s"
        % tuple(map(demo.secret, ("admin user", "password", "token"))),
        flush=True,
    )


def say(heading: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and os.name != "nt" else ("", "")
    print("\n%s== %s%s" % (bold, heading, plain), flush=True)


def readable(count: int) -> str:
    return "%.1f MB" % (count / 1e6) if count >= 1e6 else "%.1f kB" % (count / 1e3)


def write_program(folder: Path) -> Tuple[int, int]:
    """Lay the program down: its modules, Python's reference, libraries. Its files and bytes."""
    for package in LIBRARIES:
        shutil.copytree(
            str(Path(sysconfig.get_path("stdlib")) / package),
            str(folder / "lib" / package),
            ignore=shutil.ignore_patterns("__pycache__", "test*"),
        )
    for module in Path(sysconfig.get_path("stdlib")).glob("*.py"):
        shutil.copy(str(module), str(folder / "lib"))
    (folder / "texts").mkdir()
    for topic, text in topics.items():
        (folder / "texts" / (topic + ".txt")).write_text(text, encoding="utf-8")
    for name, text in PROGRAM.items():
        (folder / name).write_text(text, encoding="utf-8")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


class Demo:
    """The temporary folder, the server over it, and what travelled."""

    def __init__(self, folder: Path) -> None:
        """Start the server and wait until it accepts connections.

        Its log, with the secrets of the first start, goes to a file.
        """
        say("An operator starts a server on an empty data folder")
        self.folder = folder
        self.travelled: List[Travelled] = []
        self.environment: Dict[str, str] = dict(os.environ, PYTHONPATH=str(ROOT))
        arguments = ("nuitkal_mini.server", "--data", "data", "--port", "0")
        say_command(arguments)
        with (folder / "server.log").open("w") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=str(folder),
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                universal_newlines=True,
            )
        assert self.server.stdout is not None
        ready = self.server.stdout.readline()
        if not ready:
            sys.exit("It did not start:\n" + self.log())
        print(ready, end="")
        self.server_url = ready.split()[-1]
        self.meter = Meter(int(self.server_url.rstrip("/").rpartition(":")[2]), LINE_BYTES_A_SECOND)
        self.url = "http://127.0.0.1:%d/" % self.meter.port
        print(
            "Before it, a line of %s/s that counts bytes: %s"
            % (readable(LINE_BYTES_A_SECOND), self.url)
        )
        self.environment["NUITKAL_TOKEN"] = self.secret("token")

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_: object) -> None:
        with self.server:
            self.server.terminate()

    def log(self) -> str:
        return (self.folder / "server.log").read_text(encoding="utf-8")

    def secret(self, name: str) -> str:
        found = re.search(name + r": (\S+)", self.log())
        return (
            found.group(1) if found else sys.exit("The server made no %s:\n%s" % (name, self.log()))
        )

    def publish(self, version: str) -> None:
        self.run(
            "publish " + version,
            "nuitkal_mini.publish",
            "upload",
            "topics",
            "--app",
            "topics",
            "--version",
            version,
            "--server",
            self.url + API,
        )

    def start_program(self, step: str) -> None:
        self.run(
            step,
            "nuitkal_mini.client",
            "run",
            "--dir",
            "user",
            "--url",
            self.url + API + "check/",
            "--",
            "yield",
        )

    def run(self, step: str, *arguments: str) -> None:
        """One command of the package, on this terminal."""
        say_command(arguments)
        up, down, requests, begun = (
            self.meter.up,
            self.meter.down,
            self.meter.requests,
            time.monotonic(),
        )
        code = subprocess.call(
            [sys.executable, "-m", *arguments], cwd=str(self.folder), env=self.environment
        )
        if code != 0:
            sys.exit("That failed with exit code %d. The server's log:\n%s" % (code, self.log()))
        self.travelled.append(
            Travelled(
                step,
                self.meter.requests - requests,
                self.meter.up - up,
                self.meter.down - down,
                time.monotonic() - begun,
            )
        )


def say_command(arguments: Sequence[str]) -> None:
    print("$ python3 -m " + " ".join(arguments), flush=True)


class Meter:
    """A TCP relay in front of a server: counts requests and bytes, and can be slow."""

    def __init__(self, server_port: int, bytes_a_second: float = float("inf")) -> None:
        self.requests = self.up = self.down = 0
        self._bytes_a_second = bytes_a_second
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            threading.Thread(
                target=self._connect, args=(self._listener.accept()[0],), daemon=True
            ).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            upwards = threading.Thread(target=self._relay, args=(client, server, "up"), daemon=True)
            upwards.start()
            self._relay(server, client, "down")
            upwards.join()

    def _relay(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):  # either side may hang up
            while chunk := source.recv(1 << 16):
                self.requests += direction == "up" and re.match(rb"[A-Z]+ /", chunk) is not None
                setattr(self, direction, getattr(self, direction) + len(chunk))
                time.sleep(len(chunk) / self._bytes_a_second)
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
