"""The window, on a display of its own (Xvfb), with a real and slow server and real events of Tk."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from ..support import need_tool, unavailable
from ..trees import Tree
from .conftest import Exchange
from .site import Site

REPOSITORY = Path(__file__).resolve().parents[2]
posix_only = pytest.mark.skipif(os.name == "nt", reason="Xvfb")
PROGRAM = b"import sys; print('started', *sys.argv[1:]); sys.exit(7)\n"
OLD: Tree = {"main.py": (PROGRAM, "644")}
NEW: Tree = {
    "main.py": (PROGRAM.replace(b"started", b"new"), "644"),
    "large.bin": (os.urandom(600_000), "644"),
}

# What a launcher does; `watch(window)` is called at every redraw, with the widgets' texts.
LAUNCHER = """
    import sys
    from nuitkal_mini.client import UpdaterConfig, window
    from nuitkal_mini.client.window import update_and_run_in_window

    seen = []
    real_wait, real_close = window._Window._wait, window._Window.close

    def wait(self):
        real_wait(self)
        text = " | ".join(str(part.cget("text")) for part in (self._line, self._numbers, self._button))
        if text not in seen:
            seen.append(text)
            print("window:", text, flush=True)
        watch(self, text)

    def watch(self, text):
        {watch}

    window._Window._wait = wait
    config = UpdaterConfig(sys.argv[1], sys.argv[2], python=sys.executable, retries=0, chunk_size=8192, timeout=5.0)
    sys.exit(update_and_run_in_window(config, ["an argument"], title="My Program"))
"""  # noqa: E501


@pytest.fixture(scope="module")
def display(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a display that nobody looks at."""
    try:
        import tkinter
    except ImportError:
        unavailable("this Python has no tkinter")
    assert tkinter.TkVersion
    reading, writing = os.pipe()
    server = subprocess.Popen(
        [
            need_tool("Xvfb"),
            "-displayfd",
            str(writing),
            "-screen",
            "0",
            "800x600x24",
            "-nolisten",
            "tcp",
            "-noreset",
        ],
        pass_fds=(writing,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with open(reading) as said:
            number = said.readline().strip()  # to the end of the line: it comes in two pieces, and a closed pipe would kill the server  # noqa: E501
        assert number, "Xvfb did not start"
        yield ":" + number
    finally:
        server.terminate()
        server.wait()


def launch(
    site: Site, folder: Path, watch: str = "pass", **environment: str
) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(LAUNCHER).format(watch=watch)
    env: Dict[str, Any] = {
        **{name: value for name, value in os.environ.items() if name != "DISPLAY"},
        "PYTHONPATH": str(REPOSITORY),
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, site.url, str(folder)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
    )


def install_first(site: Site, folder: Path) -> None:
    from nuitkal_mini.client import ClientUpdater, UpdaterConfig

    site.publish("1.0.0", OLD)
    ClientUpdater(UpdaterConfig(site.url, folder)).update()


def slowly(site: Site, seconds: float) -> None:
    """Everything but check/ and manifests takes so long from now on, a piece at a time."""
    plain = site.origin.answer

    def answer(exchange: Exchange) -> None:
        name = exchange.path.split("?")[0].lstrip("/")
        if not name.endswith(".zip"):
            return plain(exchange)
        body = site.files[name]
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(body)))
        exchange.end_headers()
        for start in range(0, len(body), 16384):
            exchange.wfile.write(body[start : start + 16384])
            time.sleep(seconds * 16384 / len(body))

    site.origin.answer = answer


def shown(done: subprocess.CompletedProcess[str]) -> List[str]:
    return [
        line[len("window: ") :] for line in done.stdout.splitlines() if line.startswith("window: ")
    ]


@posix_only
def test_a_slow_update_is_shown_and_then_the_new_program_starts(
    site: Site, display: str, tmp_path: Path
) -> None:
    install_first(site, tmp_path / "app")
    site.publish("1.0.1", NEW)
    slowly(site, 2.0)
    done = launch(site, tmp_path / "app", DISPLAY=display)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (7, "new an argument"), done.stderr
    lines = shown(done)
    assert any(
        "files change" in line and "B/s" in line and " left" in line and line.endswith("Cancel")
        for line in lines
    ), lines


@posix_only
def test_an_update_that_finds_nothing_shows_no_window(
    site: Site, display: str, tmp_path: Path
) -> None:
    install_first(site, tmp_path / "app")
    done = launch(site, tmp_path / "app", DISPLAY=display)
    assert (done.returncode, done.stdout) == (7, "started an argument\n"), done.stderr


@posix_only
def test_cancel_starts_the_installed_version_and_the_next_start_updates(
    site: Site, display: str, tmp_path: Path
) -> None:
    install_first(site, tmp_path / "app")
    site.publish("1.0.1", NEW)
    slowly(site, 20.0)
    began = time.monotonic()
    done = launch(
        site, tmp_path / "app", "if 'B/s' in text: self._button.invoke()", DISPLAY=display
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (7, "started an argument"), (
        done.stderr
    )
    assert time.monotonic() - began < 10
    slowly(site, 0.0)
    assert (
        launch(site, tmp_path / "app", DISPLAY=display).stdout.splitlines()[-1] == "new an argument"
    )


@posix_only
@pytest.mark.slow
def test_closing_the_window_while_a_connection_hangs_does_not_wait_for_it(
    site: Site, display: str, tmp_path: Path
) -> None:
    install_first(site, tmp_path / "app")
    plain = site.origin.answer
    site.origin.answer = lambda exchange: (
        time.sleep(5) if exchange.path.endswith(".zip") else plain(exchange)
    )
    site.publish("1.0.1", NEW)
    began = time.monotonic()
    done = launch(
        site,
        tmp_path / "app",
        "self._root.tk.eval(self._root.protocol('WM_DELETE_WINDOW'))",
        DISPLAY=display,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (7, "started an argument"), (
        done.stderr
    )
    assert time.monotonic() - began < 4.5


@posix_only
def test_an_error_stays_until_it_was_read_and_then_the_installed_version_starts(
    site: Site, display: str, tmp_path: Path
) -> None:
    install_first(site, tmp_path / "app")
    site.publish("1.0.1", NEW)
    site.files["1.0.1.zip"] = bytes(len(site.files["1.0.1.zip"]))
    slowly(site, 1.0)
    done = launch(
        site, tmp_path / "app", "if text.endswith('Start'): self._button.invoke()", DISPLAY=display
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (7, "started an argument"), (
        done.stderr
    )
    assert "nothing was installed" in shown(done)[-1]


@posix_only
def test_when_nothing_can_start_the_window_says_so(
    site: Site, display: str, tmp_path: Path
) -> None:
    site.origin.answer = lambda exchange: exchange.reply(503)
    done = launch(
        site, tmp_path / "app", "if text.endswith('Close'): self._button.invoke()", DISPLAY=display
    )
    assert done.returncode == 1 and "LaunchError" in done.stderr
    assert "nothing is installed yet" in shown(done)[-1] and "503" in shown(done)[-1]


@posix_only
@pytest.mark.parametrize("missing", ["display", "tkinter"])
def test_without_a_window_the_update_works_all_the_same(
    site: Site, display: str, tmp_path: Path, missing: str
) -> None:
    install_first(site, tmp_path / "app")
    site.publish("1.0.1", NEW)
    slowly(site, 1.0)
    environment = (
        {"DISPLAY": ":4711"}
        if missing == "display"
        else {"DISPLAY": display, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    )
    if missing == "tkinter":
        (tmp_path / "tkinter.py").write_text("raise ImportError('not in this distribution')\n")
    done = launch(site, tmp_path / "app", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (7, "new an argument\n", "")
