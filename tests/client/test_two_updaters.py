"""Two updaters over one folder: at every operation of the first, the second does all that it can.

Both live in this process, since a lock of `flock` belongs to an open file and not to a process;
where the first one dies, it is a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple

import pytest

from nuitkal_mini import ClientUpdater, UpdaterConfig, UpdaterError
from nuitkal_mini.client.disk import Disk

from ..trees import Tree, read_tree, write_tree
from .conftest import Serve
from .site import Site
from .sweep import OURS, Dying, Image, Unsynced, image_of, lay_down

pytestmark = pytest.mark.skipif(os.name != "posix", reason="images need hard links and links")

# The program ends with 7 when all that it imports is of its own version.
PROGRAM = b"import sys\nfrom lib import part\nsys.exit(7 if part.VERSION == %d else 1)\n"
MINE: Tree = {"notes.txt": (b"mine", "644"), "lib/mine.py": (b"mine", "644")}


def release(version: int) -> Tree:
    return {
        "main.py": (PROGRAM % version, "644"),
        "lib/__init__.py": (b"", "644"),
        "lib/part.py": (b"VERSION = %d\n" % version, "644"),
        f"only/in/{version}": (b"x", "644"),
        "same": (b"same", "644"),
    }


RELEASES = {f"{number}.0.0": release(number) for number in (1, 2, 3)}


class Meeting(Unsynced):
    """A disk that calls `meet` before its operation number `at`."""

    def __init__(self, at: int, meet: Callable[[], object]) -> None:
        super().__init__()
        self.left, self._meet = at, meet

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        self.left -= 1
        if self.left == -1:
            self._meet()
        return super().perform(operation, path, call, *args)


class Scene(NamedTuple):
    """Version 2 with version 1 behind it and files of the user; version 3 is offered."""

    site: Site
    folder: Path
    start: Image

    def updater(self, disk: Disk, lock_seconds: float = 0.0) -> ClientUpdater:
        config = UpdaterConfig(
            self.site.url,
            self.folder,
            python=sys.executable,
            retries=0,
            lock_seconds=lock_seconds,
            log_file=False,
        )
        return ClientUpdater(config, disk=disk)

    def assert_one_version(self) -> str:
        """Which version lies there, whole, with the user's files and nothing else."""
        installed = self.updater(Unsynced()).installed_version or ""
        found = read_tree(self.folder, OURS)
        found = {path: item for path, item in found.items() if "__pycache__" not in path}
        assert found == {**RELEASES[installed], **MINE}
        return installed

    def assert_the_next_update_works(self) -> None:
        self.updater(Unsynced()).update(force=True)
        assert self.assert_one_version() == "3.0.0"
        assert set(os.listdir(self.folder / ".update")) <= {"lock", "runs", "state.json"}


@pytest.fixture
def scene(serve: Serve) -> Iterator[Scene]:
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as scratch:
        scene = Scene(Site(serve), Path(scratch) / "app", ())
        write_tree(scene.folder, MINE)
        for version, tree in RELEASES.items():
            scene.site.publish(version, tree)
            if version != "3.0.0":
                scene.updater(Unsynced()).update()
        yield scene._replace(start=image_of(str(scene.folder)))


def look(updater: ClientUpdater) -> None:
    updater.check()
    updater.verify()
    updater.status()


ACTS: Dict[str, Callable[[ClientUpdater], object]] = {
    "update": ClientUpdater.update,
    "rollback": ClientUpdater.rollback,
    "look": look,
    "run": lambda updater: updater.update_and_run([]),
}


@pytest.mark.parametrize(
    "step", [29, pytest.param(1, marks=pytest.mark.slow)], ids=["sample", "all"]
)
@pytest.mark.parametrize("second", ACTS)
@pytest.mark.parametrize("first", ["update", "rollback"])
def test_whatever_a_second_updater_does_meanwhile_one_version_is_there_and_runs(
    scene: Scene, first: str, second: str, step: int
) -> None:
    def meet() -> None:
        with contextlib.suppress(UpdaterError):  # that the first one is at work
            done = ACTS[second](scene.updater(Unsynced()))
            assert second != "run" or done == 7

    at, left = 0, -1
    while left < 0:
        lay_down(scene.start, str(scene.folder))
        disk = Meeting(at, meet)
        with contextlib.suppress(UpdaterError):  # that the second one has changed what was planned
            ACTS[first](scene.updater(disk))
        left, at = disk.left, at + step
        scene.assert_one_version()
        scene.assert_the_next_update_works()
    assert at > 50


@pytest.mark.parametrize(
    "step", [29, pytest.param(3, marks=pytest.mark.slow)], ids=["sample", "all"]
)
def test_a_second_updater_that_waits_takes_over_from_the_first_that_dies(
    scene: Scene, step: int
) -> None:
    at, is_there = 0, True
    while is_there:
        lay_down(scene.start, str(scene.folder))
        arrived, arrive = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                scene.updater(Dying(at, lambda: (os.write(arrive, b"x"), signal.pause()))).update()
            finally:
                os._exit(0)
        os.close(arrive)
        is_there = os.read(arrived, 1) == b"x"
        os.close(arrived)
        kill = threading.Timer(0.1, os.kill, (child, signal.SIGKILL))
        if is_there:
            kill.start()
        scene.updater(Unsynced(), lock_seconds=30).update()
        kill.join() if is_there else None
        os.waitpid(child, 0)
        assert scene.assert_one_version() == "3.0.0"
        at += step
    assert at > 50
