from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

from nuitkal_mini.client import ClientUpdater, UpdaterConfig
from nuitkal_mini.client.disk import Disk, check_owned
from nuitkal_mini.client.errors import InstallError
from nuitkal_mini.client.install import Installation

from .conftest import Serve
from .site import Site


class Busy(Disk):
    """Somebody holds every file open, for some seconds of a clock that only pauses move."""

    def __init__(self, seconds: float, winerror: int = 32) -> None:
        self.pauses: List[float] = []
        super().__init__(sleep=self.pauses.append)
        self._seconds, self._winerror = seconds, winerror

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        if sum(self.pauses) < self._seconds:
            error = PermissionError(errno.EACCES, "in use")
            error.winerror = self._winerror  # type: ignore[attr-defined]
            raise error
        return super().perform(operation, path, call, *args)


@pytest.mark.parametrize("winerror", [5, 32, 33])
def test_a_file_that_is_held_open_for_a_while_is_tried_again_with_growing_pauses(
    tmp_path: Path, winerror: int
) -> None:
    disk = Busy(3, winerror)
    (tmp_path / "a").touch()
    disk.rename(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").exists()
    assert (
        disk.pauses == sorted(disk.pauses) and 3 <= sum(disk.pauses) < 4.1 and len(disk.pauses) < 10
    )


def test_patience_is_one_budget_for_all_files(tmp_path: Path) -> None:
    disk = Busy(1e9)
    for name in "abc":
        with pytest.raises(PermissionError):
            disk.mkdir(str(tmp_path / name))
    assert 9.9 < sum(disk.pauses) < 10.1


@pytest.mark.parametrize("winerror", [2, None])
def test_what_waiting_does_not_help_is_not_waited_for(tmp_path: Path, winerror: Any) -> None:
    disk = Busy(1e9, winerror)
    with pytest.raises(PermissionError):
        disk.mkdir(str(tmp_path / "a"))
    assert disk.pauses == []


def test_an_error_without_a_name_gets_the_files(tmp_path: Path) -> None:
    class Full(Disk):
        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            if operation == "write":
                raise OSError(
                    errno.ENOSPC, "No space left on device"
                )  # as write() and fsync() say it
            return super().perform(operation, path, call, *args)

    with pytest.raises(OSError) as caught:
        Full().write(str(tmp_path / "a"), [b"x"])
    assert caught.value.filename == str(tmp_path / "a")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
def test_nobody_else_can_write_to_a_file_even_while_it_is_written(tmp_path: Path) -> None:
    modes: List[int] = []

    class Looking(Disk):
        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            result = super().perform(operation, path, call, *args)
            if os.path.exists(path):
                modes.append(stat.S_IMODE(os.stat(path).st_mode))
            return result

    before = os.umask(0)
    try:
        Looking().write(str(tmp_path / "a"), [b"x"], 0o755)
        Looking().mkdir(str(tmp_path / "d"))
    finally:
        os.umask(before)
    assert not any(mode & 0o022 for mode in modes)
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o755


def test_contents_are_durable_before_a_write_returns(tmp_path: Path) -> None:
    done: List[str] = []

    class Noting(Disk):
        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            done.append(operation)
            return super().perform(operation, path, call, *args)

    Noting().write(str(tmp_path / "a"), [b"x", b"y"])
    assert done == ["create", "write", "write", "flush", "chmod", "fsync"]
    assert (tmp_path / "a").read_bytes() == b"xy"


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="a file system that refuses fsync for folders is at hand only there",
)
def test_a_file_system_that_cannot_sync_folders_is_no_failure() -> None:
    descriptor = os.open("/proc", os.O_RDONLY)
    with pytest.raises(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
    Disk().sync_folder("/proc")


@pytest.mark.skipif(os.name != "posix", reason="Windows has links only for developers")
def test_removing_a_folder_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "d" / "dangling").symlink_to("nowhere")
    Disk().remove(str(tmp_path / "d"))
    Disk().remove(str(tmp_path / "d"))  # nothing there is fine
    assert os.listdir(tmp_path) == ["mine"] and os.listdir(tmp_path / "mine") == ["file"]


# --- whose folder ---------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="Windows has links only for developers")
def test_a_folder_that_is_a_link_or_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    check_owned(str(tmp_path))
    for name in ("file", "link"):
        with pytest.raises(InstallError, match="is not a folder; remove it"):
            check_owned(str(tmp_path / name))


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give a folder away"
)
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, -1)
    with pytest.raises(InstallError, match="belongs to another user"):
        check_owned(str(tmp_path))
    check_owned(str(tmp_path), trust_owner=True)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give a folder away"
)
def test_on_a_share_whose_owners_differ_trust_owner_installs(site: Site, tmp_path: Path) -> None:
    config = UpdaterConfig(site.url, tmp_path / "app", main_script="main.sh")
    with ClientUpdater(config) as updater:
        assert updater.update_and_run([]) == 1
        site.publish("1.0.2", {"main.sh": (b"exit 2\n", "755")})
        for folder, _, files in os.walk(tmp_path / "app"):
            for name in (".", *files):
                os.chown(os.path.join(folder, name), 4711, -1)
        with pytest.raises(InstallError, match="trust_owner"):
            updater.update()
        config.trust_owner = True
        assert updater.update_and_run([]) == 2 and updater.rollback() == "1.0.1"


# --- file systems that lack something -------------------------------------------------------------

LACKING = [
    *[("chmod", number) for number in ("EPERM", "EACCES", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")],
    *[("fsync", number) for number in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF")],
    *[("fsync of folders", number) for number in ("EISDIR", "EACCES", "EPERM", "ENOTTY")],
    *[("flock", number) for number in ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EIO")],
    *[("link", number) for number in ("EPERM", "ENOTSUP", "EXDEV", "EMLINK")],
    *[("fchmod", number) for number in ("EPERM", "ENOTSUP")],
    *[("statvfs", number) for number in ("ENOSYS", "EACCES")],
]
NEEDED = [
    *[("fsync", number) for number in ("EIO", "ENOSPC", "EDQUOT", "EROFS")],
    *[("chmod", number) for number in ("EIO", "EROFS")],
    *[("replace", number) for number in ("EIO", "EPERM", "EXDEV", "EROFS", "ENOSPC")],
    *[("mkdir", number) for number in ("EROFS", "ENOSPC", "EDQUOT", "EACCES")],
]


def failing(monkeypatch: pytest.MonkeyPatch, operation: str, number: str) -> None:
    """From now on the operation fails, for every file (or every folder) of this process."""
    code = getattr(errno, number)
    if operation == "flock":
        fcntl = pytest.importorskip("fcntl")
        target, name = fcntl, "flock"
    else:
        target, name = os, operation.split()[0]
    real = getattr(target, name)

    def fail(*args: Any, **options: Any) -> Any:
        if operation == "fsync of folders" and not stat.S_ISDIR(os.fstat(args[0]).st_mode):
            return real(*args, **options)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(target, name, fail)


@pytest.fixture
def site(serve: Serve) -> Site:
    site = Site(serve)
    site.publish("1.0.1", {"main.sh": (b"exit 1\n", "755"), "a/b": (b"1", "644")})
    return site


@pytest.mark.skipif(os.name != "posix", reason="Windows reports errors of its own")
@pytest.mark.parametrize("operation, number", LACKING)
def test_what_a_file_system_lacks_and_nobody_needs_is_left_out(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: str
) -> None:
    failing(monkeypatch, operation, number)
    with ClientUpdater(UpdaterConfig(site.url, tmp_path / "app", main_script="main.sh")) as updater:
        assert updater.update_and_run([]) == 1
        site.publish("1.0.2", {"main.sh": (b"exit 2\n", "755"), "a/c": (b"1", "644")})
        assert updater.update_and_run([]) == 2 and updater.installed_version == "1.0.2"
        assert updater.verify() == [] and updater.rollback() == "1.0.1"
        assert updater.run([]) == 1


@pytest.mark.skipif(os.name != "posix", reason="Windows reports errors of its own")
@pytest.mark.parametrize("operation, number", NEEDED)
def test_what_is_needed_fails_with_a_sentence_and_the_program_starts(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: str
) -> None:
    with ClientUpdater(UpdaterConfig(site.url, tmp_path / "app", main_script="main.sh")) as updater:
        assert updater.update_and_run([]) == 1
        site.publish("1.0.2", {"main.sh": (b"exit 2\n", "755"), "new/c": (b"1", "644")})
        with monkeypatch.context() as broken:
            failing(broken, operation, number)
            with pytest.raises(InstallError, match=os.strerror(getattr(errno, number))):
                updater.update()
            assert not (tmp_path / "app" / ".update" / "journal.json").exists()
            assert updater.run([]) == 1
        assert updater.update_and_run([]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is another file system on Linux")
def test_a_client_folder_that_is_a_link_to_another_file_system(site: Site, tmp_path: Path) -> None:
    import shutil
    import tempfile

    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        (tmp_path / "app").symlink_to(elsewhere)
        config = UpdaterConfig(site.url, tmp_path / "app", main_script="main.sh")
        with ClientUpdater(config) as updater:
            assert updater.update_and_run([]) == 1
            site.publish("1.0.2", {"main.sh": (b"exit 2\n", "755"), "a/c": (b"1", "644")})
            assert updater.update_and_run([]) == 2 and (elsewhere / "a" / "c").exists()
    finally:
        shutil.rmtree(elsewhere)


def test_leftovers_that_somebody_holds_are_not_waited_for(tmp_path: Path) -> None:
    class Held(Busy):
        """The journal is not held: it is read, and is not there."""

        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            if operation == "read":
                return call(*args)
            return super().perform(operation, path, call, *args)

    disk = Held(1e9)
    (tmp_path / ".update" / "left").mkdir(parents=True)
    Installation(str(tmp_path), "local_version.json", disk=disk).recover()
    assert disk.pauses == [] and (tmp_path / ".update" / "left").exists()
