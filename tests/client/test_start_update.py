"""A start is never held up: what is slow goes on behind the program, and the next start has it."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest

from nuitkal_mini import (
    ClientUpdater,
    LaunchError,
    RollbackError,
    UpdaterConfig,
    VerificationError,
)
from nuitkal_mini.client.start_update import FIRST_BACK_OFF_SECONDS, BackOff

from ..support import ROOT
from ..trees import Tree
from .conftest import Exchange, Serve
from .site import Site
from .test_updater import ONE, app_of, left_over, program, ran

WAITING = (
    "import os, sys, time\n"
    "open('ran', 'a').write('{name} ')\n"
    "end = time.monotonic() + 30\n"
    "while time.monotonic() < end and not os.path.exists({until!r}):\n"
    "    time.sleep(0.02)\n"
)
STAGED = ".update/staging/next.json"
TWO: Tree = {**ONE, "main.py": program("two")}


def waits_for(name: str, until: str) -> Tree:
    """ONE with a program that ends when a file appears in the client folder."""
    return {**ONE, "main.py": (WAITING.format(name=name, until=until).encode(), "644")}


@pytest.fixture
def config(site: Site, tmp_path: Path) -> UpdaterConfig:
    return UpdaterConfig(
        site.url, tmp_path / "client", python=sys.executable, retries=0, lock_seconds=2.0
    )


def delay(site: Site, suffix: str, seconds: float) -> None:
    """Have the server wait before it answers for paths that end so."""
    answer = site.origin.answer

    def slow(exchange: Exchange) -> None:
        if exchange.path.split("?")[0].endswith(suffix):
            time.sleep(seconds)
        answer(exchange)

    site.origin.answer = slow


def installed(site: Site, config: UpdaterConfig, tree: Tree) -> ClientUpdater:
    site.publish("1.0.0", tree)
    updater = ClientUpdater(config)
    assert updater.update()
    return updater


@pytest.mark.parametrize("slow", [".zip", ".json", "check"])
def test_what_takes_longer_than_allowed_is_staged_behind_the_program_and_installed_next(
    site: Site, config: UpdaterConfig, slow: str
) -> None:
    updater = installed(site, config, waits_for("one", STAGED))
    site.publish("1.0.1", TWO)
    delay(site, slow, 1.5)
    config.wait_seconds, config.check_seconds = 0.5, 0.3
    began = time.monotonic()
    assert updater.update_and_run([]) == 0
    assert ran(config) == ["one"] and updater.installed_version == "1.0.0"
    assert time.monotonic() - began < 20, "the program ended because its update was staged"
    assert ClientUpdater(config).update_and_run([]) == 0
    assert ran(config) == ["one", "two"] and app_of(config) == TWO


def test_a_start_is_up_within_its_seconds_while_the_server_says_nothing(
    site: Site, config: UpdaterConfig
) -> None:
    updater = installed(site, config, ONE)
    site.publish("1.0.1", TWO)
    delay(site, ".zip", 30)
    config.wait_seconds = 1.0
    began = time.monotonic()
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"]
    assert time.monotonic() - began < 8


def test_after_a_start_that_was_held_up_the_next_does_not_wait(
    site: Site, config: UpdaterConfig
) -> None:
    updater = installed(site, config, ONE)
    site.publish("1.0.1", TWO)
    delay(site, "check", 6)
    config.check_seconds = 1.5
    began = time.monotonic()
    updater.try_update()
    first, began = time.monotonic() - began, time.monotonic()
    updater._start_update.cancel()  # type: ignore[union-attr]
    again = ClientUpdater(config)
    config.lock_seconds = 8.0
    began = time.monotonic()
    again.try_update()
    assert first >= 1.5 and "backoff.json" in left_over(config)
    assert again._start_update is not None and again._start_update.is_behind
    assert time.monotonic() - began < 7.5


def test_without_waiting_what_is_staged_is_installed_all_the_same(
    site: Site, config: UpdaterConfig
) -> None:
    updater = installed(site, config, waits_for("one", STAGED))
    site.publish("1.0.1", TWO)
    config.wait_seconds = 0
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"]
    delay(site, "check", 5)
    assert ClientUpdater(config).update_and_run([]) == 0 and ran(config) == ["one", "two"]


def test_a_first_install_is_waited_for(site: Site, config: UpdaterConfig) -> None:
    site.publish("1.0.0", ONE)
    delay(site, ".zip", 1.0)
    config.wait_seconds, config.check_seconds = 0, 0.01
    assert ClientUpdater(config).update_and_run([]) == 0 and ran(config) == ["one"]


def test_the_user_may_start_now(site: Site, config: UpdaterConfig) -> None:
    updater = installed(site, config, ONE)
    site.publish("1.0.1", TWO)
    delay(site, ".zip", 20)
    threading.Timer(0.7, updater.start_now).start()
    began = time.monotonic()
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"]
    assert time.monotonic() - began < 10


def test_no_progress_is_shown_behind_the_program(site: Site, config: UpdaterConfig) -> None:
    updater = installed(site, config, waits_for("one", STAGED))
    site.publish("1.0.1", TWO)
    config.wait_seconds = 0
    seen: List[Any] = []
    config.progress_callback = lambda *numbers: seen.append(numbers)
    assert updater.update_and_run([]) == 0 and seen == []


def test_a_callback_that_fails_in_any_way_does_not_stop_the_start(
    site: Site, config: UpdaterConfig
) -> None:
    updater = installed(site, config, ONE)
    site.publish("1.0.1", TWO)
    config.progress_callback = lambda *numbers: numbers[2]
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"]


@pytest.mark.parametrize(
    "failures, after, is_on",
    [
        (1, 0, True),
        (1, FIRST_BACK_OFF_SECONDS - 1, True),
        (1, FIRST_BACK_OFF_SECONDS + 1, False),
        (3, 4 * FIRST_BACK_OFF_SECONDS - 1, True),
        (3, 4 * FIRST_BACK_OFF_SECONDS + 1, False),
        (1, -10, False),
        (0, 0, False),
        (5000, 6 * 3600 + 1, False),
    ],
    ids=["at once", "within", "over", "longer", "over at last", "clock back", "none", "many"],
)
def test_starts_back_off_for_longer_with_each_failure(
    tmp_path: Path, failures: int, after: float, is_on: bool
) -> None:
    path = tmp_path / "backoff.json"
    if failures:
        BackOff(path).failed(1000.0)
        path.write_text(path.read_text().replace('"failures": 1', f'"failures": {failures}'))
    assert BackOff(path).is_on(1000.0 + after) is is_on
    BackOff(path).succeeded()
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"failed_at": "x", "failures": 1}', '{"failed_at": 1, "failures": []}'],
)
def test_a_damaged_record_of_failures_means_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "backoff.json").write_text(text)
    assert not BackOff(tmp_path / "backoff.json").is_on(time.time())


def test_a_start_without_a_server_warns_of_nothing(
    site: Site, config: UpdaterConfig, caplog: pytest.LogCaptureFixture
) -> None:
    updater = installed(site, config, ONE)
    config.check_api_url = "http://127.0.0.1:9/check"
    with caplog.at_level(logging.INFO):
        assert updater.update_and_run([]) == 0
    assert "starting what is here" in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class TestFallbackUrls:
    def test_are_asked_in_order_when_the_address_before_is_away(
        self, site: Site, config: UpdaterConfig, serve: Serve
    ) -> None:
        broken = serve(lambda exchange: exchange.reply(503, b""))
        config.check_api_url = "http://127.0.0.1:9/check"
        config.fallback_urls = [broken.url + "check", site.url]
        site.publish("1.0.0", ONE)
        assert ClientUpdater(config).update() and app_of(config) == ONE
        assert len(broken.asked) == 1

    def test_are_asked_when_the_address_before_is_silent(
        self, site: Site, config: UpdaterConfig, serve: Serve
    ) -> None:
        silent = serve(lambda exchange: time.sleep(5))
        config.check_api_url, config.fallback_urls = silent.url, [site.url]
        config.check_seconds = 0.5
        site.publish("1.0.0", ONE)
        assert ClientUpdater(config).update() and app_of(config) == ONE

    def test_do_not_get_the_headers_of_the_first_address(
        self, site: Site, config: UpdaterConfig
    ) -> None:
        config.check_api_url, config.fallback_urls = "http://127.0.0.1:9/check", [site.url]
        config.headers = {"Authorization": "secret"}
        site.publish("1.0.0", ONE)
        assert ClientUpdater(config).update()
        assert not [request for request in site.origin.asked if "Authorization" in request.headers]


class TestMain:
    def test_of_the_manifest_wins_over_the_configured_one(
        self, site: Site, config: UpdaterConfig
    ) -> None:
        updater = installed(site, config, ONE)
        moved: Tree = {"x/start.py": program("moved"), "main.py": program("wrong")}
        site.publish("1.0.1", moved, main="x/start.py")
        assert updater.update_and_run([]) == 0 and ran(config) == ["moved"]
        assert updater.rollback() == "1.0.0"
        assert updater.run([]) == 0 and ran(config) == ["moved", "one"]

    @pytest.mark.parametrize("main_script", ["main.py", "./main.py", "lib/../main.py"])
    def test_a_release_with_the_program_is_installed(
        self, site: Site, config: UpdaterConfig, main_script: str
    ) -> None:
        config.main_script = main_script
        installed(site, config, ONE)

    @pytest.mark.parametrize("main_script", ["main.py", "d/x", "MAIN.PY/x"])
    def test_a_release_without_the_program_is_refused_before_anything_is_fetched(
        self, site: Site, config: UpdaterConfig, main_script: str
    ) -> None:
        updater = installed(site, config, ONE)
        config.main_script = main_script
        site.publish("1.0.1", {"x/main.py": program("moved")})
        site.requests()
        with pytest.raises(VerificationError, match=f"has no {main_script}"):
            updater.update()
        assert app_of(config) == ONE and "/1.0.1.zip" not in site.requests()


def test_a_rollback_never_goes_up_to_what_the_server_has_withdrawn(
    site: Site, config: UpdaterConfig
) -> None:
    updater = installed(site, config, ONE)
    site.publish("1.0.1", TWO)
    assert updater.update()
    site.publish("1.0.0", ONE)
    assert updater.update() and app_of(config) == ONE
    with pytest.raises(RollbackError, match="withdrawn"):
        updater.rollback()
    assert app_of(config) == ONE


def test_adopt_takes_what_lies_there_and_fetches_only_the_rest(
    site: Site, config: UpdaterConfig
) -> None:
    config.adopt = True
    config.client_dir.mkdir()
    (config.client_dir / "f").write_bytes(b"old")
    (config.client_dir / "notes").write_bytes(b"the user's")
    site.publish("1.0.0", ONE)
    assert ClientUpdater(config).update()
    assert app_of(config) == {**ONE, "notes": (b"the user's", "644")}


def test_whatever_the_configuration_is_only_a_launch_error_is_raised(config: UpdaterConfig) -> None:
    config.version_file = "a/b"
    with pytest.raises(LaunchError):
        ClientUpdater(config).update_and_run([])


@pytest.fixture
def client(config: UpdaterConfig, site: Site) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nuitkal_mini.client", *arguments]
        command += ["--url", site.url, "--dir", str(config.client_dir)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return run


def test_a_client_that_is_offered_something_lower_says_so(
    site: Site,
    config: UpdaterConfig,
    client: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    from .test_trust import KEY, line

    config.public_keys = [line(KEY)]
    site.publish("1.0.1", ONE, secret=KEY)
    assert ClientUpdater(config).update()
    site.publish("1.0.0", TWO, secret=KEY)
    said = client("check")
    assert (said.returncode, said.stdout) == (
        0,
        "1.0.1 stays: the server offers 1.0.0, which is lower\n",
    )


def test_ctrl_c_in_a_download_is_one_line_and_130(
    site: Site, config: UpdaterConfig, tmp_path: Path
) -> None:
    import os
    import signal

    if os.name != "posix":
        pytest.skip("a console's Ctrl-C reaches the whole group on Windows")
    site.publish("1.0.0", ONE)
    asked = threading.Event()

    def slow(exchange: Exchange) -> None:
        if exchange.path.endswith(".zip"):
            asked.set()
            time.sleep(10)
        site._answer(exchange)

    site.origin.answer = slow
    command = [sys.executable, "-m", "nuitkal_mini.client", "update"]
    command += ["--url", site.url, "--dir", str(config.client_dir)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert asked.wait(20)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=20)
    assert child.returncode == 130
    assert said.splitlines()[-1] == "update: interrupted; what was downloaded is kept"
    assert "Traceback" not in said


def test_the_help_has_a_line_for_each_verb() -> None:
    from nuitkal_mini.client.__main__ import VERBS, _parser

    lines = [line.split() for line in _parser().format_help().splitlines()]
    for verb in VERBS:
        assert any(line[:1] == [verb] and len(line) > 3 for line in lines), verb


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "log"])
def test_a_launcher_on_a_terminal_shows_progress_without_a_callback(
    site: Site, config: UpdaterConfig, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    site.publish("1.0.0", ONE)
    stderr = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert ClientUpdater(config).update()
    shown = stderr.getvalue()
    assert ("100 %" in shown and shown.endswith("\n")) if is_terminal else shown == ""


def test_a_version_on_trial_is_judged_although_an_update_is_slow(
    site: Site, config: UpdaterConfig
) -> None:
    config.confirm_seconds = 20.0
    updater = installed(site, config, ONE)
    site.publish("1.0.1", {**ONE, "main.py": program("bad", "3")})
    assert updater.update()
    site.publish("1.0.2", TWO)
    answer = site.origin.answer
    delay(site, ".zip", 3)
    config.wait_seconds = 0.3
    assert updater.update_and_run([]) == 0 and ran(config) == ["bad", "one"]
    site.origin.answer = answer
