from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

from nuitkal_mini.client.disk import Disk, check_owned
from nuitkal_mini.client.errors import InstallError


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
