from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

from nuitkal_mini import (
    CheckError,
    ClientUpdater,
    InstallError,
    LaunchError,
    RollbackError,
    UpdaterConfig,
    UpdaterError,
    VerificationError,
)
from nuitkal_mini.client.disk import Disk
from nuitkal_mini.client.http_client import HttpClient
from nuitkal_mini.client.install import SETTLED_SECONDS
from nuitkal_mini.client.locks import FolderLocks
from nuitkal_mini.client.tree import Tree as Folder
from nuitkal_mini.client.trial import Trial
from nuitkal_mini.progress import readable_size

from ..trees import Tree, here, read_tree
from .conftest import Serve
from .site import Site

NO_WINDOWS = pytest.mark.skipif(
    os.name == "nt", reason="Windows has no executable bits, and links only for administrators"
)
OURS = (".update", ".backup", "local_version.json")


def program(name: str, code: str = "0") -> Tuple[bytes, str]:
    """A main.py that says its name in `ran`, and ends with an exit code."""
    return f"import sys\nopen('ran', 'a').write({name!r} + ' ')\nsys.exit({code})\n".encode(), "644"


ONE: Tree = here(
    {
        "main.py": program("one"),
        "lib/a.py": (b"a = 1\n", "644"),
        "tool": (b"#!/bin/sh\n", "755"),
        "gone": (b"g", "644"),
        "d/x": (b"x", "644"),
        "f": (b"file", "644"),
        "link": "lib/a.py",
    }
)
TWO: Tree = here(
    {
        "main.py": program("two"),
        "lib/a.py": (b"a = 1\n", "644"),
        "tool": (b"#!/bin/sh\n", "644"),
        "d": (b"now a file", "644"),
        "f/deep": (b"a folder now", "644"),
        "link": "main.py",
        "copy": (b"a = 1\n", "755"),
    }
)


@pytest.fixture
def config(site: Site, tmp_path: Path) -> UpdaterConfig:
    return UpdaterConfig(
        site.url, tmp_path / "client", python=sys.executable, retries=0, lock_seconds=0.2
    )


@pytest.fixture
def updater(config: UpdaterConfig) -> ClientUpdater:
    return ClientUpdater(config)


def app_of(config: UpdaterConfig) -> Tree:
    return {
        path: item
        for path, item in read_tree(config.client_dir).items()
        if path.split("/")[0] not in (*OURS, "ran")
    }


def ran(config: UpdaterConfig) -> List[str]:
    path = config.client_dir / "ran"
    return path.read_text().split() if path.exists() else []


def left_over(config: UpdaterConfig) -> List[str]:
    names = {path.name for path in (config.client_dir / ".update").iterdir()}
    return sorted(names - {"runs", "log.txt"})


def test_a_first_install_takes_three_requests_and_starts(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    assert updater.installed_version is None
    assert updater.update_and_run([]) == 0
    assert updater.installed_version == "1.0.0"
    assert app_of(config) == ONE and ran(config) == ["one"]
    assert len(site.requests()) == 3
    assert left_over(config) == ["lock", "state.json"]


def test_an_update_a_rollback_and_the_way_back_are_exact(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO)
    assert updater.check() is not None and updater.update() and updater.check() is None
    assert app_of(config) == TWO
    assert updater.rollback() == "1.0.0" and app_of(config) == ONE
    assert not updater.update(), "what was rolled back by hand stays away"
    with pytest.raises(RollbackError, match="no earlier version"):
        updater.rollback()
    assert updater.update(force=True) and app_of(config) == TWO


def test_a_version_that_was_rolled_back_comes_again_when_the_server_changes_it(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO)
    updater.update()
    updater.rollback()
    assert not updater.update()
    site.publish("1.0.2", TWO)
    assert updater.update() and updater.installed_version == "1.0.2"


def test_the_servers_active_version_is_followed_down_unless_forbidden(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO)
    updater.update()
    site.publish("1.0.0", ONE)
    config.allow_downgrade = False
    assert updater.check() is None and not updater.update()
    config.allow_downgrade = None
    assert updater.check() is not None and updater.update() and updater.installed_version == "1.0.0"


def test_a_check_that_finds_nothing_is_one_request(site: Site, updater: ClientUpdater) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.requests()
    assert not updater.update()
    assert site.requests() == ["/check?version=1.0.0"]


def test_a_small_change_comes_with_the_packages_tail_in_three_requests(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    noise = random.Random(1)
    tree: Tree = {
        f"lib/module_{number:03}.bin": (
            noise.getrandbits(8 * 50_000).to_bytes(50_000, "big"),
            "644",
        )
        for number in range(100)
    }
    site.publish("1.0.0", {**tree, "main.py": program("one")})
    updater.update()
    new = {
        **tree,
        "main.py": program("two"),
        "lib/module_007.bin": (noise.getrandbits(8 * 30_000).to_bytes(30_000, "big"), "644"),
    }
    newest_last = sorted(new, key=lambda path: (path in ("main.py", "lib/module_007.bin"), path))
    site.publish("1.0.1", new, order=newest_last)
    site.requests()
    seen: List[Tuple[int, int]] = []
    config.progress_callback = lambda have, total: seen.append((have, total))
    assert updater.update() and app_of(config) == new
    assert site.requests() == ["/check?version=1.0.0", "/1.0.1.json", "/1.0.1.zip"]
    assert seen[-1][0] == seen[-1][1] < 60_000


def test_changes_in_the_middle_of_a_package_come_by_ranges(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    noise = random.Random(2)
    tree: Tree = {
        f"{number:03}.bin": (noise.getrandbits(8 * 50_000).to_bytes(50_000, "big"), "644")
        for number in range(100)
    }
    tree["000.py"] = program("one")
    config.main_script = "000.py"
    site.publish("1.0.0", tree)
    updater.update()
    new = {
        **tree,
        **{
            f"{number:03}.bin": (noise.getrandbits(8 * 50_000).to_bytes(50_000, "big"), "644")
            for number in (3, 4, 50)
        },
    }
    site.publish("1.0.1", new)
    site.requests()
    seen: List[Tuple[int, int]] = []
    config.progress_callback = lambda have, total: seen.append((have, total))
    assert updater.update() and app_of(config) == new
    assert len(site.requests()) == 5, "check, manifest, directory, two ranges"
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] < 170_000
    assert {total for have, total in seen if have > 10_000} == {seen[-1][1]}, (
        "behind the directory it is known how much comes"
    )


def test_a_moved_file_is_not_fetched_again(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    big = (os.urandom(300_000), "644")
    site.publish("1.0.0", {"old/name": big, "main.py": program("one")})
    updater.update()
    site.publish("1.0.1", {"new/name": big, "main.py": program("one")})
    site.requests()
    assert updater.update() and app_of(config) == {"new/name": big, "main.py": program("one")}
    assert site.requests() == ["/check?version=1.0.0", "/1.0.1.json"]


def test_going_back_to_the_version_in_the_backup_needs_no_download(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO)
    updater.update()
    site.publish("1.0.0", ONE)
    site.requests()
    assert updater.update() and app_of(config) == ONE
    assert site.requests() == ["/check?version=1.0.1", "/1.0.0.json"]


def test_a_server_that_knows_only_the_basic_fields_works(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE, basic=True)
    assert updater.update() and app_of(config) == ONE
    site.publish("1.0.1", TWO, basic=True)
    assert updater.update() and app_of(config) == TWO
    assert updater.rollback() == "1.0.0" and app_of(config) == ONE


def test_one_http_client_serves_a_whole_update(
    site: Site, updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: List[str] = []
    begin = HttpClient.__init__

    def counted(self: HttpClient, origin_url: str, **options: Any) -> None:
        made.append(origin_url)
        begin(self, origin_url, **options)

    monkeypatch.setattr(HttpClient, "__init__", counted)
    site.publish("1.0.0", ONE)
    assert updater.update() and made == [site.url]
    site.publish("1.0.1", TWO)
    assert updater.update() and made == [site.url] * 2


def test_a_basic_servers_package_travels_once_and_its_answer_says_how_much_comes(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, caplog: pytest.LogCaptureFixture
) -> None:
    site.publish(
        "1.0.0",
        {"main.py": (random.Random(1).getrandbits(8 * 100_000).to_bytes(100_000, "big"), "644")},
        basic=True,
    )
    size = len(site.files["1.0.0.zip"])
    seen: List[Tuple[int, int]] = []
    config.progress_callback = lambda have, total: seen.append((have, total))
    with caplog.at_level(logging.INFO):
        assert updater.update()
    assert f"{readable_size(size)} travelled" in caplog.text
    assert len(seen) > 10 and seen[-1] == (size, size) and {total for _, total in seen} == {size}


def test_a_progress_callback_that_fails_does_not_keep_the_program_from_starting(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO)
    config.progress_callback = lambda have, total: print(1 // 0)
    with pytest.raises(UpdaterError, match="progress_callback failed: ZeroDivisionError"):
        updater.update()
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"]


@pytest.mark.parametrize(
    "basic", [False, True], ids=["its manifest says so", "its package says so"]
)
def test_a_release_without_files_does_not_take_the_program_away(
    basic: bool, site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", {}, basic=basic)
    with pytest.raises(VerificationError, match="1.0.1 has no files; nothing was installed"):
        updater.update()
    assert app_of(config) == ONE and updater.run([]) == 0 and ran(config) == ["one"]


def test_a_package_with_another_hash_than_announced_is_not_installed(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO, basic=True)
    site.files["1.0.1.zip"] += b"x"
    with pytest.raises(VerificationError, match="SHA-256"):
        updater.update()
    assert app_of(config) == ONE and updater.run([]) == 0 and ran(config) == ["one"]


def test_damage_is_found_and_repaired_with_only_what_is_damaged(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO)
    updater.update()
    (config.client_dir / "lib/a.py").write_text("a = 2\n")
    (config.client_dir / "f/deep").unlink()
    assert updater.verify() == ["f/deep", "lib/a.py"]
    assert updater.update() and updater.verify() == [] and app_of(config) == TWO
    assert updater.rollback() == "1.0.0" and app_of(config) == ONE, (
        "a repair does not cost the way back"
    )


class TestFilesThatLookAsTheyDid:
    """A start that finds nothing new reads no file that it has read before, and still sees every
    damage.
    """

    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> List[str]:
        """The paths that were compared in full."""
        paths: List[str] = []
        holds = Folder.holds
        monkeypatch.setattr(
            Folder,
            "holds",
            lambda installation, path, entry: (
                paths.append(path) or holds(installation, path, entry)
            ),
        )
        return paths

    @pytest.fixture(autouse=True)
    def settled(
        self,
        site: Site,
        config: UpdaterConfig,
        updater: ClientUpdater,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A release that has been installed for a while, and was started since."""
        config.preserve = ["*.ini"]
        site.publish("1.0.0", {**TWO, "app.ini": (b"default", "644")})
        updater.update()
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 2 * SETTLED_SECONDS)
        assert not updater.update()

    def test_are_not_read_again(
        self, updater: ClientUpdater, config: UpdaterConfig, read: List[str]
    ) -> None:
        assert not updater.update() and read == []
        (config.client_dir / "app.ini").write_bytes(b"mine")
        assert not updater.update() and read == [], "an edit of a preserved file is no reason"
        assert updater.verify() == [] and len(read) == len(TWO) + 1, (
            "whoever asks gets a full answer"
        )

    def test_are_read_again_when_they_were_touched_a_moment_ago(
        self,
        updater: ClientUpdater,
        config: UpdaterConfig,
        read: List[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        os.utime(config.client_dir / "copy", (time.time(), time.time()))
        for _ in range(2):
            read.clear()
            assert not updater.update() and "copy" in read

    @pytest.mark.parametrize(
        "path, damage",
        [
            pytest.param(
                "lib/a.py",
                lambda path: path.write_bytes(b"a = 2\n"),
                id="other contents of the same size",
            ),
            pytest.param("copy", lambda path: path.unlink(), id="a file is missing"),
            pytest.param("app.ini", lambda path: path.unlink(), id="a preserved file is missing"),
            pytest.param(
                "link",
                lambda path: (path.unlink(), path.symlink_to("lib/a.py")),
                id="a link leads elsewhere",
                marks=NO_WINDOWS,
            ),
            pytest.param(
                "copy",
                lambda path: path.chmod(0o644),
                id="an executable bit is gone",
                marks=NO_WINDOWS,
            ),
            pytest.param(
                "f",
                lambda path: (
                    path.rename(path.with_name("elsewhere")),
                    path.symlink_to("elsewhere"),
                ),
                id="a folder is behind a link",
                marks=NO_WINDOWS,
            ),
        ],
    )
    def test_are_damaged_all_the_same(
        self,
        updater: ClientUpdater,
        config: UpdaterConfig,
        path: str,
        damage: Callable[[Path], object],
    ) -> None:
        full = config.client_dir / path
        before = full.lstat()
        damage(full)
        if path == "lib/a.py" and os.name == "posix":
            os.utime(
                full, ns=(before.st_atime_ns, before.st_mtime_ns)
            )  # even the time is put back; that of the change cannot be
        if path == "f":
            with pytest.raises(InstallError, match="link"):
                updater.update()
        else:
            assert updater.update() and updater.verify() == []

    def test_are_read_at_every_start_where_nothing_can_be_remembered(
        self, updater: ClientUpdater, config: UpdaterConfig, read: List[str]
    ) -> None:
        class Full(Disk):
            def perform(
                self, operation: str, path: str, call: Callable[..., Any], *args: Any
            ) -> Any:
                if operation == "read":
                    return super().perform(operation, path, call, *args)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        (config.client_dir / "lib/a.py").touch()
        assert not ClientUpdater(config, disk=Full()).update() and "lib/a.py" in read


def test_an_edited_file_that_is_preserved_stays_and_the_shipped_one_comes_beside(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    config.preserve = ["*.ini"]
    site.publish(
        "1.0.0",
        {
            "main.py": program("one"),
            "app.ini": (b"default 1", "644"),
            "other.ini": (b"other", "644"),
        },
    )
    updater.update()
    (config.client_dir / "app.ini").write_bytes(b"mine")
    (config.client_dir / "other.ini").write_bytes(b"mine too")
    assert updater.verify() == [] and not updater.update()
    site.publish(
        "1.0.1",
        {
            "main.py": program("one"),
            "app.ini": (b"default 2", "644"),
            "other.ini": (b"other", "644"),
        },
    )
    assert updater.update()
    assert app_of(config) == {
        "main.py": program("one"),
        "app.ini": (b"mine", "644"),
        "app.ini.new": (b"default 2", "644"),
        "other.ini": (b"mine too", "644"),
    }


def test_the_users_own_files_survive_even_where_the_release_wants_their_place(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    (config.client_dir / "copy").write_bytes(b"my own copy")
    (config.client_dir / "d/notes.txt").write_bytes(b"notes")
    site.publish("1.0.1", TWO)
    with pytest.raises(InstallError, match="notes.txt"):
        updater.update()
    assert app_of(config) == {
        **ONE,
        "copy": (b"my own copy", "644"),
        "d/notes.txt": (b"notes", "644"),
    }
    (config.client_dir / "d/notes.txt").unlink()
    assert updater.update()
    kept = {path: item for path, item in app_of(config).items() if path not in TWO}
    assert list(kept.values()) == [(b"my own copy", "644")] and list(kept)[0].startswith(
        "copy.user-"
    )


def test_a_start_without_a_server_starts_what_is_installed_at_once(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, caplog: pytest.LogCaptureFixture
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    config.check_api_url = "http://127.0.0.1:9/check"
    config.retries = 3
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        assert updater.update_and_run([]) == 0 and ran(config) == ["one"]
    assert time.monotonic() - began < 5
    assert "starting what is" in caplog.text


def test_nothing_installed_and_no_server_is_a_launch_error_that_says_why(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    config.check_api_url = "http://127.0.0.1:9/check"
    with pytest.raises(
        LaunchError, match="nothing is installed yet: 127.0.0.1:9 refuses connections"
    ):
        updater.update_and_run([])
    site.publish("1.0.0", {"other.py": program("one")})
    config.check_api_url = site.url
    with pytest.raises(LaunchError, match="nothing is installed yet: .* has no main.py"):
        updater.update_and_run([])


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in</html>",
        b"[]",
        b"{}",
        b'{"version": 1}',
        b'{"version": "x", "download_url": "a", "file_hash": "b"}',
        b'{"version": "1.0", "download_url": "file:///etc/passwd", "file_hash": "b"}',
        b"\xff",
        pytest.param(b"[" * 100_000, id="deep"),
        b'{"version": "1.0", "file_hash": "b"}',
        b'{"version": "1.0", "download_url": "x"}',
    ],
)
def test_an_answer_that_describes_no_release_is_a_check_error(
    serve: Serve, tmp_path: Path, body: bytes
) -> None:
    origin = serve(lambda exchange: exchange.reply(200, body))
    with pytest.raises(CheckError):
        ClientUpdater(UpdaterConfig(origin.url, tmp_path / "client", retries=0)).update()


def test_another_apps_release_is_refused(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE, app="mine")
    updater.update()
    site.publish("1.0.1", TWO, app="other")
    with pytest.raises(VerificationError, match="other"):
        updater.update()
    assert app_of(config) == ONE


def test_a_second_updater_waits_and_then_starts_what_is_installed(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO)
    held = FolderLocks(str(config.client_dir / ".update")).lock_update(0)
    assert held is not None
    with held:
        with pytest.raises(InstallError, match="another updater"):
            updater.update()
        assert updater.update_and_run([]) == 0 and ran(config) == ["one"]
    assert updater.update()


@pytest.mark.parametrize(
    "online, basic", [(True, False), (True, True), (False, False), (False, True)]
)
def test_an_update_waits_staged_while_the_program_runs(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, online: bool, basic: bool
) -> None:
    waiting = b"import sys, time\nopen('ran', 'a').write('one ')\nsys.stdin.read()\n"
    site.publish("1.0.0", {**ONE, "main.py": (waiting, "644")})
    updater.update()
    command = [
        sys.executable,
        "-m",
        "nuitkal_mini.client",
        "run",
        "--url",
        site.url,
        "--dir",
        str(config.client_dir),
    ]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        while not ran(config):
            time.sleep(0.01)
        site.publish("1.0.1", TWO, basic=basic)
        assert not updater.update() and updater.installed_version == "1.0.0"
        if os.name == "posix":
            running.kill()  # the launcher dies, the program lives on and keeps its lock
            running.wait()
        assert not updater.update()
    finally:
        assert running.stdin is not None
        running.stdin.close()
        running.wait()
    locks = FolderLocks(str(config.client_dir / ".update"))
    end = time.monotonic() + 10
    while locks.is_running() and time.monotonic() < end:
        time.sleep(0.01)
    site.requests()
    if not online:
        config.check_api_url = "http://127.0.0.1:9/check"
    assert updater.update_and_run([]) == 0 and ran(config) == ["one", "two"]
    assert "/1.0.1.zip" not in site.requests()
    assert app_of(config) == TWO and left_over(config) == ["lock", "state.json"]


def test_a_stub_without_a_server_recovers_a_launcher_that_is_missing(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's stub: as on Windows, the power goes between the two renames of the launcher."""
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO)

    class PowerCut(Exception):
        pass

    class Cut(Disk):
        def rename(self, source: str, target: str) -> None:
            super().rename(source, target)
            if (
                source.endswith("main.py") and source != target
            ):  # Windows first probes by renaming to the same name
                raise PowerCut()

    with pytest.raises(PowerCut):
        ClientUpdater(config, disk=Cut()).update()
    assert not (config.client_dir / "main.py").exists()
    stub = ClientUpdater(
        UpdaterConfig("", config.client_dir, main_script="main.py", python=sys.executable)
    )
    assert stub.run_launcher([]) == 0 and ran(config) == ["one"] and app_of(config) == ONE


def test_a_launcher_that_a_stub_starts_updates_and_judges_as_ever(
    site: Site, config: UpdaterConfig
) -> None:
    def release(number: int, code: str) -> Tree:
        """A launcher in its own release; what it starts is beside it."""
        launcher = (
            f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(Path.cwd())!r})\n"
            "from nuitkal_mini import ClientUpdater, UpdaterConfig\n"
            f"config = UpdaterConfig({site.url!r}, Path(__file__).parent, confirm_seconds=5.0)\n"
            "sys.exit(ClientUpdater(config).update_and_run())\n"
        )
        return {
            "start.py": (f"# {number}\n{launcher}".encode(), "644"),
            "main.py": program(str(number), code),
        }

    site.publish("1.0.0", release(1, "0"))
    ClientUpdater(config).update()
    stub = ClientUpdater(
        UpdaterConfig("", config.client_dir, main_script="start.py", python=sys.executable)
    )
    site.publish("1.0.1", release(2, "0"))
    assert (
        stub.run_launcher([]) == 0
        and ran(config) == ["2"]
        and app_of(config) == here(release(2, "0"))
    )
    site.publish("1.0.2", release(3, "3"))
    assert (
        stub.run_launcher([]) == 0
        and ran(config) == ["2", "3", "2"]
        and app_of(config) == here(release(2, "0"))
    )


class TestTrial:
    @pytest.fixture(autouse=True)
    def one_installed(self, site: Site, config: UpdaterConfig, updater: ClientUpdater) -> None:
        site.publish("1.0.0", ONE)
        updater.update()
        config.confirm_seconds = 5.0

    def test_a_crash_rolls_back_starts_the_old_one_and_keeps_the_bad_one_away(
        self, site: Site, config: UpdaterConfig, updater: ClientUpdater
    ) -> None:
        site.publish("1.0.1", {**TWO, "main.py": program("bad", "3")})
        assert updater.update_and_run([]) == 0
        assert ran(config) == ["bad", "one"] and app_of(config) == ONE
        assert updater.update_and_run([]) == 0 and ran(config) == ["bad", "one", "one"]

    def test_exit_code_zero_confirms(
        self, site: Site, config: UpdaterConfig, updater: ClientUpdater
    ) -> None:
        site.publish("1.0.1", TWO)
        assert updater.update_and_run([]) == 0
        site.files["1.0.1.zip"] = b""
        (config.client_dir / "main.py").write_bytes(program("later", "1")[0])
        assert updater.run([]) == 1 and updater.installed_version == "1.0.1", (
            "a crash after the trial is no reason to go back"
        )

    def test_living_long_enough_confirms(
        self, site: Site, config: UpdaterConfig, updater: ClientUpdater
    ) -> None:
        config.confirm_seconds = 0.05
        site.publish(
            "1.0.1",
            {**TWO, "main.py": (b"import sys, time\ntime.sleep(0.4)\nsys.exit(7)\n", "644")},
        )
        assert updater.update_and_run([]) == 7 and updater.installed_version == "1.0.1"
        assert updater.run([]) == 7 and updater.installed_version == "1.0.1"

    def test_the_program_confirms_itself(
        self, site: Site, config: UpdaterConfig, updater: ClientUpdater
    ) -> None:
        code = (
            "import subprocess, sys\n"
            "command = [sys.executable, '-m', 'nuitkal_mini.client', 'confirm', '--dir', '.']\n"
            "subprocess.run(command,"
            f" env={{'PYTHONPATH': {str(Path.cwd())!r}}}, check=True)\nsys.exit(9)\n"
        )
        site.publish("1.0.1", {**TWO, "main.py": (code.encode(), "644")})
        assert updater.update_and_run([]) == 9 and updater.installed_version == "1.0.1"

    def test_ctrl_c_is_no_crash_and_not_held_against_it(
        self, site: Site, config: UpdaterConfig, updater: ClientUpdater
    ) -> None:
        site.publish("1.0.1", {**TWO, "main.py": program("two", "130")})
        for _ in range(5):
            assert updater.update_and_run([]) == 130
        assert updater.installed_version == "1.0.1"

    @pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_what_a_program_exits_with_after_a_signal_is_no_crash(
        self, number: int, site: Site, config: UpdaterConfig, updater: ClientUpdater
    ) -> None:
        code = (
            f"import os, signal, sys, time\nsignal.signal({number}, lambda *_: sys.exit(1))\n"
            f"os.kill(os.getppid(), {number})\ntime.sleep(60)\n"
        )
        site.publish("1.0.1", {**TWO, "main.py": (code.encode(), "644")})
        for _ in range(5):
            assert updater.update_and_run([]) == 1
        assert updater.installed_version == "1.0.1"

    def test_three_starts_without_confirmation_roll_back(
        self,
        site: Site,
        config: UpdaterConfig,
        updater: ClientUpdater,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        site.publish("1.0.1", TWO)
        updater.update()
        with monkeypatch.context() as power_cut:  # nobody is left to judge
            power_cut.setattr(Trial, "crashed", lambda *_: False)
            for _ in range(3):
                updater.run([])
        assert updater.installed_version == "1.0.1"
        assert (
            updater.run([]) == 0
            and updater.installed_version == "1.0.0"
            and ran(config) == ["two"] * 3 + ["one"]
        )

    def test_a_second_instance_never_judges(
        self, site: Site, config: UpdaterConfig, updater: ClientUpdater
    ) -> None:
        site.publish("1.0.1", {**TWO, "main.py": program("bad", "3")})
        updater.update()
        first = FolderLocks(str(config.client_dir / ".update")).lock_run()
        with first:
            assert updater.run([]) == 3 and updater.installed_version == "1.0.1"
        assert updater.run([]) == 0 and updater.installed_version == "1.0.0"

    def test_a_damaged_way_back_leaves_the_new_version(
        self, site: Site, config: UpdaterConfig, updater: ClientUpdater
    ) -> None:
        site.publish("1.0.1", {**TWO, "main.py": program("bad", "3")})
        updater.update()
        for path in (config.client_dir / ".backup").glob("*/[0-9]"):
            if not path.is_symlink():
                path.write_bytes(b"damaged")
        assert updater.run([]) == 3
        assert updater.installed_version == "1.0.1" and app_of(config) == {
            **TWO,
            "main.py": program("bad", "3"),
        }


def test_a_folder_filled_by_hand_is_adopted_and_only_what_differs_is_fetched(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    big = (os.urandom(300_000), "644")
    config.client_dir.mkdir()
    for name, content in (("main.py", program("old")[0]), ("big", big[0]), ("notes.txt", b"mine")):
        (config.client_dir / name).write_bytes(content)
    (config.client_dir / "local_version.json").write_text('{"version": "0.9"}')
    site.publish("1.0.0", {"main.py": program("one"), "big": big})
    assert updater.adopt() == "0.9"
    site.requests()
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"]
    assert app_of(config) == {"main.py": program("one"), "big": big, "notes.txt": (b"mine", "644")}
    assert updater.rollback() == "0.9" and app_of(config)["main.py"] == program("old")
    with pytest.raises(InstallError, match="nothing to adopt"):
        updater.adopt()


def test_the_version_file_is_restored_and_never_taken_for_a_first_install(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    (config.client_dir / "local_version.json").write_bytes(b'{"version": "1.0')
    assert updater.installed_version == "1.0.0" and not updater.update() and app_of(config) == ONE


def test_the_log_tells_an_updates_story_in_five_lines(
    site: Site, config: UpdaterConfig, tmp_path: Path
) -> None:
    config.log_file = tmp_path / "log" / "update.log"
    config.log_file.parent.mkdir()
    site.publish("1.0.0", ONE)
    handlers = list(logging.getLogger("nuitkal_mini.client").handlers)
    with ClientUpdater(config) as updater:
        updater.update_and_run([])
    story = [line.split(" INFO ")[1] for line in config.log_file.read_text().splitlines()]
    assert (
        len(story) == 5
        and story[0].startswith("nothing is installed")
        and story[-1] == "starting main.py"
    )
    assert logging.getLogger("nuitkal_mini.client").handlers == handlers


def test_a_folder_that_cannot_be_written_still_starts(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    site.publish("1.0.1", TWO)

    def read_only(*args: Any, **kwargs: Any) -> int:
        raise OSError(30, "Read-only file system", args[0])

    monkeypatch.setattr("nuitkal_mini.client.locks.os.open", read_only)
    with pytest.raises(UpdaterError, match="Read-only file system"):
        updater.update()
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"]


def test_a_file_where_the_updater_has_its_folder_does_not_stop_the_program(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.0", ONE)
    updater.update()
    shutil.rmtree(config.client_dir / ".update")
    (config.client_dir / ".update").write_bytes(b"")
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"]
