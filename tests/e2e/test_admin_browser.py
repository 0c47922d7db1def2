"""The admin site as an operator uses it: a real server, a real Chromium, with its script and
without.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator

import pytest

from ..server.caller import make_zip
from ..support import ROOT, RunningServer, start_server
from ..webdriver import Browser


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with start_server(tmp_path / "data") as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(opened: Browser) -> Browser:
    """One browser for all tests, as a newcomer each time: cookies count for all ports of a host."""
    opened.open("about:blank")
    opened.call("POST", "goog/cdp/execute", {"cmd": "Network.clearBrowserCookies", "params": {}})
    opened.complaints()
    return opened


def log_in(browser: Browser, server: RunningServer) -> None:
    browser.open(server.url + "admin/")
    browser.fill(username="admin", password=str(server.password))
    browser.find("main button[type=submit]").click()
    browser.find(".logout")


def upload(
    browser: Browser, server: RunningServer, version: str, package: Path, changelog: str = ""
) -> None:
    browser.open(server.url + "admin/upload/")
    browser.fill(version=version, file=str(package), changelog=changelog)
    browser.find("#upload button[type=submit]").click()


def click(browser: Browser, version: str, action: str) -> None:
    browser.find(f'tr[data-version="{version}"] button[name=action][value={action}]').click()


def update(server: RunningServer, folder: Path) -> str:
    command = [
        sys.executable,
        "-m",
        "nuitkal_mini.client",
        "update",
        "--url",
        server.api + "check/",
        "--dir",
        str(folder),
    ]
    subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NO_PROXY": "*"},
    )
    return (folder / "main.py").read_text()


@pytest.mark.parametrize(
    "scripts",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["with the script", "without any script"],
)
def test_an_operator_does_the_whole_job_in_a_browser(
    server: RunningServer, tmp_path: Path, scripts: bool
) -> None:
    for version in ("1.0.0", "1.1.0"):
        (tmp_path / f"{version}.zip").write_bytes(
            make_zip({"main.py": f"print({version!r})".encode(), "data/same.txt": b"same"})
        )
    with Browser(scripts=scripts) as browser:
        log_in(browser, server)
        assert (
            "publish upload" in browser.find("pre code").text
        )  # nothing here yet: what to do next

        upload(browser, server, "1.0.0", tmp_path / "1.0.0.zip", "<b>first</b>")
        assert "1.0.0" in browser.find(".notice").text and browser.url.endswith(
            "/admin/versions/1.0.0/"
        )
        upload(browser, server, "1.1.0", tmp_path / "1.1.0.zip")
        assert "Against 1.0.0: 0 new, 1 changed, 0 removed." in browser.find("#files").text
        assert update(server, tmp_path / "client") == "print('1.1.0')"

        browser.open(server.url + "admin/")
        assert (
            "UTC" in browser.find("td time").text
        ) != scripts  # or this test would not be about what it says
        assert "<b>first</b>" in browser.find('tr[data-version="1.0.0"]').text
        assert browser.find("tr.active td").text.startswith("1.1.0")
        click(browser, "1.0.0", "activate")
        assert "clients go back" in browser.find(".notice").text
        assert update(server, tmp_path / "client") == "print('1.0.0')"

        click(browser, "1.1.0", "delete")
        browser.find("main form.panel button[value=delete]").click()
        browser.find(".notice")
        assert [row.text.split()[0] for row in browser.find_all("tr[data-version]")] == ["1.0.0"]

        browser.open(server.url + "admin/fleet/")
        assert "1.1.0" in browser.find("table").text and browser.find("svg polygon")
        assert browser.complaints() == []
        browser.find(".logout button").click()
        browser.find("input[name=password]")
        browser.open(server.url + "admin/tokens/")
        assert "/admin/login/?next=" in browser.url


@pytest.mark.slow
def test_a_token_made_in_the_browser_publishes_until_it_is_revoked(
    browser: Browser, server: RunningServer, tmp_path: Path
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text("pass")

    def publish(version: str, token: str) -> int:
        command = [
            sys.executable,
            "-m",
            "nuitkal_mini.publish",
            "upload",
            str(tmp_path / "app"),
            "--app",
            "a",
            "--version",
            version,
            "--server",
            server.api,
        ]
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "NUITKAL_TOKEN": token},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode

    log_in(browser, server)
    browser.open(server.url + "admin/tokens/")
    browser.fill(name="builder")
    browser.find("main form button[value=create]").click()
    token = browser.find("code.token").text
    assert publish("1.0", token) == 0
    browser.find('tr[data-token="builder"] button[value=revoke]').click()
    browser.find(".notice")
    assert publish("1.1", token) == 1
    browser.open(server.url + "admin/log/")
    assert [
        row.text.split("\n")[0]
        for row in browser.find_all("tr[data-action=upload] td:nth-child(2)")
    ] == ["token builder"]
    assert browser.complaints() == []


@pytest.mark.slow
def test_what_was_typed_and_chosen_stays_when_an_upload_is_refused(
    browser: Browser, server: RunningServer, tmp_path: Path
) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no ZIP at all")
    log_in(browser, server)
    upload(browser, server, "1.0", tmp_path / "bad.zip", "all new")
    assert "not a ZIP" in browser.find(".error").text
    assert browser.find("[name=changelog]").property("value") == "all new" and browser.find(
        "[name=file]"
    ).property("value").endswith("bad.zip")
    # the browser itself notes the 400 in its console
    assert all("400" in message for message in browser.complaints())


@pytest.mark.slow
def test_times_are_in_the_zone_of_the_browser_and_texts_in_the_language_that_is_chosen(
    browser: Browser, server: RunningServer
) -> None:
    log_in(browser, server)
    browser.find(".language a").click()
    assert browser.find("html[lang=zh-CN] h1").text == "版本"
    browser.open(server.url + "admin/log/")
    time = browser.find("td time")
    assert time.property("title").endswith("UTC") and "UTC" not in time.text
    assert time.text == browser.run(
        "return new Date(arguments[0].dateTime).toLocaleString('zh-CN', "
        "{dateStyle: 'medium', timeStyle: 'short'})",
        time.reference,
    )


@pytest.mark.slow
def test_the_script_filters_while_one_types_and_takes_files_that_are_dropped(
    browser: Browser, server: RunningServer, tmp_path: Path
) -> None:
    log_in(browser, server)
    for version in ("1.0.0", "1.1.0"):
        (tmp_path / "a.zip").write_bytes(make_zip({"a": version.encode()}))
        upload(browser, server, version, tmp_path / "a.zip")
        browser.find(".notice")
    browser.open(server.url + "admin/")
    browser.find("input[name=q]").type("1.1")
    assert [row.text.split()[0] for row in browser.find_all("tbody tr") if row.text] == ["1.1.0"]
    browser.open(server.url + "admin/upload/")
    assert (
        browser.run("""const files = new DataTransfer();
        files.items.add(new File(["x"], "app.zip"));
        const drop = {dataTransfer: files, bubbles: true, cancelable: true};
        document.querySelector("main").dispatchEvent(new DragEvent("drop", drop));
        return document.querySelector("[name=file]").files[0].name;""")
        == "app.zip"
    )
    assert browser.complaints() == []


EVIL = """<!DOCTYPE html><iframe src="{url}admin/"></iframe>
<form method="post" action="{url}admin/tokens/"><input name="action" value="create"><input
name="name" value="evil"></form>"""


@pytest.mark.slow
def test_a_page_of_another_origin_can_neither_post_nor_frame(
    browser: Browser, server: RunningServer
) -> None:
    """Another port of the same host is another origin, but the same site: the browser does send the
    session's cookie.
    """

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(EVIL.format(url=server.url).encode())

        def log_message(self, *args: object) -> None:
            pass

    log_in(browser, server)
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), Evil
    ) as evil:  # browsers connect ahead of need, and one such connection would hold a single thread
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{evil.server_port}/admin/")
        assert any("frame-ancestors" in message for message in browser.complaints())
        browser.run("document.querySelector('form').submit()")
        assert "from another site" in browser.find(".error").text
        evil.shutdown()
    browser.open(server.url + "admin/tokens/")
    assert "evil" not in browser.find("table").text
