"""Updates under Windows' own rules: open files, running programs, attributes, batch files, paths.

And TerminateProcess.

    python3 tests/windows/wine.py 3.11 -m pytest tests/windows

runs them on a CPython for Windows; elsewhere they are skipped.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from nuitkal_mini.client import ClientUpdater, InstallError, UpdaterConfig, install
from nuitkal_mini.client.__main__ import main

from ..client.conftest import no_proxies, serve  # the fixtures
from ..client.site import Site
from ..trees import Tree, read_tree

pytestmark = pytest.mark.skipif(os.name != "nt", reason="Windows, or Wine: see wine.py")
__all__ = ["no_proxies", "serve"]
REPOSITORY = Path(__file__).resolve().parents[2]
OURS = (".update", ".backup", "local_version.json")
ONE: Tree = {
    "main.bat": (b"@echo version 1 %*\r\n@exit /b 5\r\n", "755"),
    "lib/a.py": (b"a = 1\n", "644"),
    "lib/same": (b"s", "644"),
    "gone": (b"g", "644"),
}
TWO: Tree = {
    "main.bat": (b"@echo version 2 %*\r\n@exit /b 6\r\n", "755"),
    "lib/a.py": (b"a = 2\n", "644"),
    "lib/same": (b"s", "644"),
    "new/b": (b"b", "644"),
}


@pytest.fixture
def site(serve: Any) -> Site:
    return Site(serve)


@pytest.fixture
def config(site: Site, tmp_path: Path) -> UpdaterConfig:
    return UpdaterConfig(
        site.url, tmp_path / "app", main_script="main.bat", retries=0, lock_seconds=5.0
    )


@pytest.fixture
def updater(site: Site, config: UpdaterConfig) -> ClientUpdater:
    """With ONE installed and TWO on the server."""
    updater = ClientUpdater(config)
    site.publish("1.0.1", ONE)
    updater.update()
    site.publish("1.0.2", TWO)
    return updater


def copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, copy_function=shutil.copyfile
    )  # copy2, from Python 3.13 on, calls what Wine 8 has not


def is_wine() -> bool:
    import ctypes

    return hasattr(ctypes.windll.ntdll, "wine_get_version")


def tree(config: UpdaterConfig) -> Tree:
    return read_tree(config.client_dir, without=OURS)


def python(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def ended(process: subprocess.Popen[bytes]) -> Tuple[int, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, (out + err).decode("utf-8", "replace")


# --- files that somebody holds --------------------------------------------------------------------


@pytest.mark.parametrize("held", ["lib/a.py", "gone", "main.bat"])
def test_a_file_that_is_held_open_for_two_seconds_is_waited_for(
    updater: ClientUpdater, config: UpdaterConfig, held: str
) -> None:
    """As antivirus does it with fresh files."""
    file = open(config.client_dir / held, "rb")
    threading.Timer(2.0, file.close).start()
    began = time.monotonic()
    assert updater.update()
    assert tree(config) == TWO and time.monotonic() - began >= 1.9


@pytest.mark.parametrize("held", ["lib/a.py", "gone", "local_version.json"])
def test_a_file_that_is_held_open_for_ever_is_named_and_nothing_has_changed(
    updater: ClientUpdater, config: UpdaterConfig, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "BUSY_SECONDS", 1.0)
    with open(config.client_dir / held, "rb"):
        with pytest.raises(InstallError, match=Path(held).name):
            updater.update()
        assert tree(config) == ONE and updater.installed_version == "1.0.1"
        assert updater.run(["x"]) == 5
    assert updater.update() and tree(config) == TWO


def test_a_backup_that_is_held_open_stays_until_it_can_go(
    updater: ClientUpdater, site: Site, config: UpdaterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    updater.update()
    monkeypatch.setattr(install, "BUSY_SECONDS", 0.5)
    old = next(
        path
        for path in (config.client_dir / ".backup").rglob("*")
        if path.is_file() and path.read_bytes() == ONE["lib/a.py"][0]
    )
    site.publish("1.0.3", {**ONE, "third": (b"3", "644")})
    with open(old, "rb"):
        assert updater.update() and "third" in tree(config)
    site.publish("1.0.4", TWO)
    assert updater.update() and tree(config) == TWO
    backups = [path for path in (config.client_dir / ".backup").iterdir() if path.is_dir()]
    assert len(backups) == 1


# --- attributes, paths, batch files ---------------------------------------------------------------


def test_read_only_files_are_replaced_and_removed(
    updater: ClientUpdater, site: Site, config: UpdaterConfig
) -> None:
    for path in ("lib/a.py", "gone", "main.bat", "local_version.json"):
        os.chmod(config.client_dir / path, stat.S_IREAD)
    assert updater.update() and tree(config) == TWO
    assert updater.rollback() == "1.0.1" and tree(config) == ONE
    site.publish("1.0.3", {**TWO, "third": (b"3", "644")})
    assert updater.update() and "third" in tree(config)


def test_a_path_longer_than_windows_allows_is_refused_before_anything_changes(
    updater: ClientUpdater, site: Site, config: UpdaterConfig
) -> None:
    site.publish("1.0.3", {**TWO, "d" * 100 + "/" + "e" * 100 + "/" + "f" * 60: (b"far", "644")})
    with pytest.raises(InstallError, match="260 characters"):
        updater.update()
    assert tree(config) == ONE and updater.run(["x"]) == 5


@pytest.mark.parametrize(
    "argument", ["plain", "a b", "100%", "%PATH%", "a&b", "a|b>c", "^", "(x)", "中"]
)
def test_a_batch_file_gets_its_arguments_as_they_are(
    updater: ClientUpdater, config: UpdaterConfig, argument: str
) -> None:
    """Behind the batch file a program looks at them, as %* hands them on."""
    if "%" in argument and is_wine():
        pytest.skip("Wine's cmd looks for variables in what %* brings, Windows' own does not")
    (config.client_dir / "show.py").write_text(
        "import sys\nopen('seen', 'w', encoding='utf-8').write(repr(sys.argv[1:]))\n"
    )
    (config.client_dir / "main.bat").write_bytes(
        b'@"%s" show.py %%*\r\n@exit /b 9\r\n' % sys.executable.encode()
    )
    assert updater.run([argument, "last"]) == 9
    assert (config.client_dir / "seen").read_text(encoding="utf-8") == repr([argument, "last"])


def test_run_updates_starts_and_exits_with_the_programs_code(
    updater: ClientUpdater, site: Site, config: UpdaterConfig
) -> None:
    assert (
        main(
            [
                "run",
                "--url",
                site.url,
                "--dir",
                str(config.client_dir),
                "--main",
                "main.bat",
                "--",
                "one",
            ]
        )
        == 6
    )


# --- more than one process ------------------------------------------------------------------------


def test_two_updaters_at_once_leave_one_whole_version(
    updater: ClientUpdater, site: Site, config: UpdaterConfig
) -> None:
    words = ("--url", site.url, "--dir", config.client_dir, "--main", "main.bat")
    both = [python("-m", "nuitkal_mini.client", "update", *words) for _ in range(2)]
    assert [ended(process) for process in both] and [process.returncode for process in both] == [
        0,
        0,
    ]
    assert tree(config) == TWO and updater.installed_version == "1.0.2"


def test_an_update_waits_staged_while_the_program_runs_and_no_second_instance_is_kept_out(
    updater: ClientUpdater, site: Site, config: UpdaterConfig
) -> None:
    (config.client_dir / "wait.bat").write_bytes(b"@set /p line=\r\n@exit /b 3\r\n")
    running = [
        python(
            "-m",
            "nuitkal_mini.client",
            "run",
            "--url",
            "http://127.0.0.1:9/check",
            "--dir",
            config.client_dir,
            "--main",
            "wait.bat",
        )
        for _ in range(2)
    ]
    time.sleep(3.0)  # a batch file cannot say that it is there
    assert not updater.update() and tree(config)["lib/a.py"] == ONE["lib/a.py"]
    assert [ended(process)[0] for process in running] == [3, 3]
    assert (
        updater.update_and_run([]) == 6
        and {path: item for path, item in tree(config).items() if path != "wait.bat"} == TWO
    )


KILLED = """
import os, sys
from nuitkal_mini.client import ClientUpdater, UpdaterConfig
from nuitkal_mini.client.disk import Disk

class Dying(Disk):
    left = int(sys.argv[3])

    def perform(self, operation, path, call, *args):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), 9)  # TerminateProcess
        return super().perform(operation, path, call, *args)

if sys.argv[4:]:
    sys.frozen = True  # as a compiled launcher is
config = UpdaterConfig(sys.argv[1], sys.argv[2], main_script="main.bat", retries=0)
ClientUpdater(config, disk=Dying()).update()
"""


def test_terminated_at_any_operation_the_next_start_is_a_whole_version(
    updater: ClientUpdater, site: Site, config: UpdaterConfig, tmp_path: Path
) -> None:
    copy_tree(config.client_dir, tmp_path / "kept")
    seen: List[int] = []
    for number in range(1, 500, 4):
        shutil.rmtree(config.client_dir)
        copy_tree(tmp_path / "kept", config.client_dir)
        code, said = ended(python("-c", KILLED, site.url, config.client_dir, number))
        assert code in (0, 9), said
        offline = ClientUpdater(
            UpdaterConfig(
                "http://127.0.0.1:9/check", config.client_dir, main_script="main.bat", retries=0
            )
        )
        started = offline.update_and_run([])
        assert (started, tree(config)) in ((5, ONE), (6, TWO)), number
        seen.append(started)
        if code == 0:
            break
    assert set(seen) == {5, 6} and len(seen) > 10
    print(len(seen), "of the operations of an update")


# --- the launcher that runs -----------------------------------------------------------------------

LAUNCH = (
    "import sys; sys.frozen = True; "
    "from nuitkal_mini.client.__main__ import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Path]:
    """A launcher.exe in a folder of its own: python.exe renamed, with its DLLs.

    A `._pth` says where the library is.
    """
    home, own = Path(sys.executable).parent, tmp_path / "own"
    own.mkdir()
    shutil.copy(home / "python.exe", own / "launcher.exe")
    for library in [*home.glob("python3*.dll"), *home.glob("vcruntime*.dll")]:
        shutil.copy(library, own)
    (own / ("python%d%d._pth" % sys.version_info[:2])).write_text(
        f"{home / 'Lib'}\n{home / 'DLLs'}\n{REPOSITORY}\n"
    )
    yield own / "launcher.exe"


def own_release(launcher: Path, number: int) -> Tree:
    """A release with the launcher in it; Windows ignores what stands behind a program."""
    first = (Path(sys.executable).parent / "python.exe").read_bytes()
    return {
        "launcher.exe": (first + b"version %d" % number, "755"),
        "main.bat": (b"@exit /b %d\r\n" % (10 + number), "755"),
        "lib/data": (b"%d" % number, "644"),
    }


def ours(own: Path) -> Tree:
    found = read_tree(own, without=OURS)
    return {path: found[path] for path in ("launcher.exe", "main.bat", "lib/data") if path in found}


def launch(launcher: Path, *arguments: object) -> Tuple[int, str]:
    env: Dict[str, str] = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    return ended(
        subprocess.Popen(
            [str(launcher), *map(str, arguments)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )


def test_a_running_exe_replaces_itself_and_the_next_start_is_the_new_one(
    launcher: Path, site: Site
) -> None:
    for number in (1, 2, 3):
        site.publish(f"1.0.{number}", own_release(launcher, number))
        code, said = launch(
            launcher,
            "-c",
            LAUNCH,
            "run",
            "--url",
            site.url,
            "--dir",
            launcher.parent,
            "--main",
            "main.bat",
        )
        assert code == 10 + number, said
        assert ours(launcher.parent) == own_release(launcher, number)
    kept = [
        path
        for path in (launcher.parent / ".backup").rglob("*")
        if path.is_file() and path.read_bytes() == own_release(launcher, 2)["launcher.exe"][0]
    ]
    assert len(kept) == 1


def test_a_running_exe_that_is_terminated_at_any_operation_leaves_a_launcher_or_the_way_back(
    launcher: Path, site: Site, tmp_path: Path
) -> None:
    """Between two renames there is no launcher; the program that is started then recovers."""
    own = launcher.parent
    site.publish("1.0.1", own_release(launcher, 1))
    assert launch(launcher, "-c", KILLED, site.url, own, 0, "frozen")[0] == 0
    copy_tree(own, tmp_path / "kept")
    site.publish("1.0.2", own_release(launcher, 2))
    gaps = starts = 0
    for number in range(1, 500, 4):
        shutil.rmtree(own)
        copy_tree(tmp_path / "kept", own)
        code, said = launch(launcher, "-c", KILLED, site.url, own, number, "frozen")
        assert code in (0, 9), said
        gaps += not launcher.exists()
        starter = launcher if launcher.exists() else Path(sys.executable)
        again, said = (
            launch(starter, "-c", KILLED, site.url, own, 0, "frozen")
            if starter == launcher
            else ended(python("-c", KILLED, site.url, own, 0))
        )
        assert again == 0, said
        assert ours(own) == own_release(launcher, 2), number
        starts += 1
        if code == 0:
            break
    assert starts > 10 and gaps <= 1
    print(starts, "of the operations;", gaps, "without a launcher")
