"""Locks on a client folder: updaters, programs, helpers, other users, no locks at all."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from nuitkal_mini.client import ClientUpdater, InstallError, UpdaterConfig, UpdaterError, locks
from nuitkal_mini.client.locks import FolderLocks, HeldLock

from ..support import need_tool, unavailable
from .conftest import Serve
from .site import Site

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
posix = pytest.mark.skipif(os.name != "posix", reason="descriptors, users and flock are POSIX's")
as_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can be another user"
)
HOLD = (
    "import sys, time; from nuitkal_mini.client.locks import FolderLocks\n"
    "folder = FolderLocks(sys.argv[1])\n"
    "held = folder.lock_run() if sys.argv[2] == 'run' else folder.lock_update(0)\n"
    "print(bool(held), flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts another process that takes a lock (`update` or `run`) and keeps it."""
    children: List[subprocess.Popen[bytes]] = []

    def hold(kind: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), kind],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        children.append(child)
        assert child.stdout is not None and child.stdout.readline().strip() == b"True"
        return child

    yield hold
    for child in children:
        child.kill()
        child.communicate()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- one updater, many programs -------------------------------------------------------------------


def test_one_updater_works_at_a_time_and_its_lock_dies_with_it(
    tmp_path: Path, holder: Callable[[str], Any]
) -> None:
    child = holder("update")
    started = time.monotonic()
    assert FolderLocks(str(tmp_path)).lock_update(0.3) is None
    assert 0.3 <= time.monotonic() - started < 5
    child.kill()
    with FolderLocks(str(tmp_path)).lock_update(5) or pytest.fail("still locked"):
        assert FolderLocks(str(tmp_path)).lock_update(0) is None
    with FolderLocks(str(tmp_path)).lock_update(0) or pytest.fail("still locked"):
        pass


def test_any_number_of_programs_run_beside_each_other_and_beside_an_updater(
    tmp_path: Path, holder: Callable[[str], Any]
) -> None:
    folder = FolderLocks(str(tmp_path))
    assert not folder.is_running()
    children = [holder("run"), holder("run"), holder("update")]
    with folder.lock_run():
        pass
    for child in children[:2]:
        assert folder.is_running()
        child.kill()
        child.wait()
    wait_until(lambda: not folder.is_running())


@posix
def test_lock_files_have_mode_600_and_are_never_unlinked(tmp_path: Path) -> None:
    (tmp_path / "lock").touch(0o644)  # as earlier versions left it
    folder = FolderLocks(str(tmp_path))
    for _ in range(2):
        with folder.lock_run(), folder.lock_update(0) or pytest.fail("locked"):
            modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("lock", "runs/0")]
            assert modes == [0o600, 0o600]
    assert sorted(os.listdir(tmp_path)) == ["lock", "runs"] and os.listdir(tmp_path / "runs") == [
        "0"
    ]


@posix
def test_no_descriptor_stays_open_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FolderLocks(str(tmp_path))
    before = len(os.listdir("/dev/fd"))

    def failing(*_: Any) -> None:
        raise OSError(errno.EIO, "I/O error")

    with folder.lock_run():
        for call in (folder.lock_run, lambda: folder.lock_update(0), folder.is_running):
            with monkeypatch.context() as broken:
                broken.setattr(locks.os, "fstat", failing)
                with pytest.raises(OSError):
                    call()
    assert len(os.listdir("/dev/fd")) == before


@posix
def test_a_full_table_of_descriptors_is_not_taken_for_freedom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FolderLocks(str(tmp_path))
    with folder.lock_run():

        def full(*_: Any) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as broken:
            broken.setattr(locks.os, "open", full)
            with pytest.raises(OSError):
                folder.is_running()


# --- helpers and killed launchers -----------------------------------------------------------------

LAUNCHER = """
import os, subprocess, sys
from nuitkal_mini.client.locks import FolderLocks
program = '''
import os, sys, time
if "helper" in sys.argv:
    os.system("sleep 60 >/dev/null & echo $! > helper")
print(os.getpid(), flush=True)
sys.stdin.read()
'''
with FolderLocks(sys.argv[1]).lock_run() as held:
    child = subprocess.Popen([sys.executable, "-c", program, *sys.argv[2:]], cwd=sys.argv[1],
                             pass_fds=held.descriptors)
    held.record(child.pid)
    child.wait()
"""


class Launched:
    """A launcher whose program runs until its input ends, and perhaps leaves a helper."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._folder = folder
        self.launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(folder), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        assert self.launcher.stdout is not None
        self.program = int(self.launcher.stdout.readline())

    def end_program(self) -> None:
        self.launcher.communicate()

    def kill_helper(self) -> None:
        os.kill(int((self._folder / "helper").read_text()), signal.SIGKILL)


@posix
@pytest.mark.parametrize("is_killed", [False, True], ids=["launcher ends", "launcher is killed"])
def test_a_helper_that_outlives_the_program_does_not_count_as_the_program(
    tmp_path: Path, is_killed: bool
) -> None:
    if is_killed and sys.platform != "linux":
        pytest.skip("elsewhere a process id says nothing for sure")
    launched = Launched(tmp_path, "helper")
    try:
        assert FolderLocks(str(tmp_path)).is_running()
        if is_killed:
            launched.launcher.kill()
            assert FolderLocks(str(tmp_path)).is_running()
        launched.end_program()
        wait_until(lambda: not FolderLocks(str(tmp_path)).is_running())
    finally:
        launched.kill_helper()


@posix
def test_a_program_keeps_its_lock_when_the_launcher_is_killed(tmp_path: Path) -> None:
    launched = Launched(tmp_path)
    launched.launcher.kill()
    launched.launcher.wait()
    assert FolderLocks(str(tmp_path)).is_running()
    os.kill(launched.program, signal.SIGKILL)
    launched.end_program()
    wait_until(lambda: not FolderLocks(str(tmp_path)).is_running())


@posix
def test_a_process_id_of_another_machine_says_nothing(tmp_path: Path) -> None:
    folder = FolderLocks(str(tmp_path))
    with folder.lock_run() as held:
        os.pwrite(held.descriptors[0], b"999999999 another boot 1", 0)
        assert folder.is_running()


# --- file systems without locks -------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    "number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EIO]
)
def test_without_flock_the_recorded_process_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    def no_flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    folder = FolderLocks(str(tmp_path))
    with folder.lock_update(0) or pytest.fail("locked"):
        if sys.platform == "linux":
            assert folder.lock_update(0) is None
    with folder.lock_run() as held:
        held.record(os.getpid())
        assert folder.is_running() or sys.platform != "linux"
        with folder.lock_run() as second:
            assert sys.platform != "linux" or second.descriptors != held.descriptors
    assert not folder.is_running()
    with folder.lock_update(0) or pytest.fail("locked"):
        pass


# --- other users ----------------------------------------------------------------------------------


def without_privileges() -> List[str]:
    user = f"--reuid={NOBODY}"
    return [need_tool("setpriv"), user, f"--regid={NOBODY}", "--clear-groups"]


def python_of_nobody() -> str:
    """A Python that another user may run, which one in /root is not."""
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*without_privileges(), python, "-c", ""]
        with contextlib.suppress(OSError):
            if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
                return python
    return unavailable("no Python here can be run by another user")


def as_nobody(*arguments: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """A Python process of another user."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    return subprocess.Popen(
        [*without_privileges(), python_of_nobody(), *arguments],
        cwd=str(cwd),
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.fixture
def shared(serve: Serve) -> Iterator[Path]:
    """A folder that everybody may enter, with the client's code; `tmp_path` has mode 700."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(REPOSITORY / "nuitkal_mini", folder / "nuitkal_mini")
    for vendored in REPOSITORY.glob(
        "nuitkal_update.py"
    ):  # of which the package is made in test_vendor
        shutil.copy(str(vendored), str(folder))
    yield folder
    shutil.rmtree(folder)


def program(version: int) -> bytes:
    return (
        b"import sys\nsys.path.insert(0, '.')\nprint('up', flush=True)\nsys.stdin.read()\n"
        b"import late\nprint(%d, late.VERSION)\n" % version
    )


@as_root
def test_a_program_that_a_reader_runs_is_not_changed_and_no_reader_holds_an_update_up(
    shared: Path, serve: Serve
) -> None:
    site, app = Site(serve), shared / "app"
    updater = ClientUpdater(UpdaterConfig(site.url, app))
    for version in (1, 2):
        late = (b"VERSION = %d\n" % version, "644")
        site.publish(f"1.0.{version}", {"main.py": (program(version), "644"), "late.py": late})
        if version == 1:
            assert updater.update()
    client = ["-m", "nuitkal_mini.client", "run", "--url", "http://127.0.0.1:9/"]
    reader = as_nobody(*client, "--dir", str(app), cwd=shared)
    assert reader.stdout is not None and reader.stdout.readline() == "up\n"
    assert not updater.update() and updater.installed_version == "1.0.1"
    with pytest.raises(UpdaterError):
        updater.rollback()
    out, err = reader.communicate("")
    assert reader.returncode == 0 and out == "1 1\n", err
    lock = (
        "import fcntl, os, sys, time\n"
        "for folder, folders, files in os.walk(sys.argv[1]):\n"
        "    for path in [folder, *(os.path.join(folder, name) for name in files)]:\n"
        "        try:\n"
        "            fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "        except OSError:\n"
        "            pass\n"
        "print('up', flush=True)\n"
        "time.sleep(60)"
    )
    attacker = as_nobody("-c", lock, str(app), cwd=shared)
    try:
        assert attacker.stdout is not None and attacker.stdout.readline() == "up\n"
        assert updater.update() and (app / "late.py").read_bytes() == b"VERSION = 2\n"
        assert updater.rollback() == "1.0.1"
    finally:
        attacker.kill()
        attacker.communicate()


@as_root
def test_a_program_that_starts_between_the_two_looks_is_seen_through_the_journal(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(serve)
    updater = ClientUpdater(UpdaterConfig(site.url, tmp_path / "app"))
    site.publish("1.0.1", {"main.py": (b"1", "644")})
    updater.update()
    site.publish("1.0.2", {"main.py": (b"2", "644")})
    looks = iter([False, True])
    with monkeypatch.context() as patched:
        patched.setattr(FolderLocks, "is_running", lambda _: next(looks, False))
        with pytest.raises(InstallError, match="was started"):
            updater.update()
    assert (tmp_path / "app" / "main.py").read_bytes() == b"1"
    assert not (tmp_path / "app" / ".update" / "journal.json").exists()
    assert updater.update() and (tmp_path / "app" / "main.py").read_bytes() == b"2"


@as_root
@pytest.mark.parametrize(
    "what", ["fifo", "link", "folder", "another's name", "hard link", "secret"]
)
def test_whatever_else_lies_in_that_folder_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    import fcntl

    shared, prefix = FolderLocks(str(tmp_path))._files_of_others()
    assert stat.S_IMODE(os.stat(shared).st_mode) == 0o1777
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(locks, "SHARED_FOLDERS", (str(folder),))
    path = folder / f"{prefix}{NOBODY}-0"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to("/etc/passwd")
    elif what == "folder":
        path.mkdir()
    else:
        path = folder / (f"{prefix}0-0" if what == "another's name" else path.name)
        path.touch()
        if what == "hard link":
            os.link(path, tmp_path / "other")
        held = os.open(path, os.O_RDWR)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.chown(path, NOBODY, -1)
        is_locked = what == "secret"  # to root nothing is secret
        assert FolderLocks(str(tmp_path)).is_running() == is_locked
        os.close(held)
    assert not FolderLocks(str(tmp_path)).is_running()


def test_a_lock_without_descriptors_does_nothing() -> None:
    with HeldLock() as held:
        held.record(1)


# --- verbs that only look -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["check", "status", "verify", "rollback", "confirm"])
def test_a_verb_that_installs_nothing_creates_nothing(
    tmp_path: Path, serve: Serve, verb: str
) -> None:
    site = Site(serve)
    site.publish("1.0.1", {"main.py": (b"1", "644")})
    with ClientUpdater(UpdaterConfig(site.url, tmp_path / "typo")) as updater:
        try:
            getattr(updater, verb)()
        except UpdaterError:
            assert verb in ("verify", "rollback")
    assert os.listdir(tmp_path) == []


@as_root
def test_who_may_not_write_may_check_verify_and_look(shared: Path, serve: Serve) -> None:
    site, app = Site(serve), shared / "app"
    site.publish("1.0.1", {"main.py": (b"1", "644")})
    ClientUpdater(UpdaterConfig(site.url, app)).update()
    site.publish("1.0.2", {"main.py": (b"2", "644")})
    before = sorted(path.relative_to(app) for path in app.rglob("*"))
    for verb, code in (("check", 10), ("verify", 0), ("status", 0), ("update", 1)):
        client = ["-m", "nuitkal_mini.client", verb, "--url", site.url]
        reader = as_nobody(*client, "--dir", str(app), cwd=shared)
        out, err = reader.communicate()
        assert reader.returncode == code and "Traceback" not in err, (verb, out, err)
    assert sorted(path.relative_to(app) for path in app.rglob("*")) == before
