"""The sweep over what changes the state: remembering, staging, adopting, and the steps of a trial.

Killed at every operation, the power cut at every operation, and every call failing once. The next
start finds the state before or the state after, and the tree that belongs to it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

from nuitkal_mini import UpdaterConfig
from nuitkal_mini.client.client_folder import ClientFolder
from nuitkal_mini.client.disk import Disk
from nuitkal_mini.client.errors import UpdaterError
from nuitkal_mini.client.install import Installation
from nuitkal_mini.client.locks import RUNS
from nuitkal_mini.client.state import State
from nuitkal_mini.client.state_files import COPY
from nuitkal_mini.client.trial import Trial
from nuitkal_mini.client.trust import TrustState
from nuitkal_mini.manifest import dumps

from ..trees import Tree, manifest_of, read_tree, write_tree
from .scenarios import SMALL_NEW, SMALL_OLD
from .sweep import (
    FIRST,
    OURS,
    SECOND,
    THIRD,
    Failing,
    Image,
    Recorder,
    Unsynced,
    Watch,
    image_of,
    lay_down,
    survivors,
    update,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="images need links")

VERSION = "local_version.json"


def installation(folder: str, disk: Optional[Disk] = None) -> Installation:
    return Installation(folder, VERSION, disk=disk or Unsynced())


def known(found: Installation) -> State:
    state = found.state()
    assert state is not None
    return state


def by_hand(folder: str) -> None:
    write_tree(Path(folder), SMALL_NEW)


def on_trial(folder: str) -> None:
    """The second release is on trial, and has started once."""
    found = installation(folder)
    update(found, SMALL_OLD, "1.0.0", FIRST)
    update(found, SMALL_NEW, "2.0.0", SECOND)
    found.remember(known(found)._replace(trial_starts=1))


def staged(folder: str) -> None:
    on_trial(folder)
    os.mkdir(os.path.join(folder, ".update", "staging"))


def trial(folder: str, disk: Disk) -> Trial:
    config = UpdaterConfig("http://nowhere/", folder, confirm_seconds=5.0, log_file=False)
    return Trial(config, ClientFolder(config, disk))


def remember(folder: str, disk: Disk) -> None:
    found = installation(folder, disk)
    found.recover()
    found.remember(known(found)._replace(trust=TrustState(app="app", keys=("a key",))))


def stage(folder: str, disk: Disk) -> None:
    found = installation(folder, disk)
    found.recover()
    found.stage(State("3.0.0", manifest="{}"))


def adopt(folder: str, disk: Disk) -> None:
    found = installation(folder, disk)
    found.recover()
    found.remember(State("2.0.0", manifest=dumps(manifest_of(SMALL_NEW)).decode()))


def start_on_trial(folder: str, disk: Disk) -> None:
    held, _ = trial(folder, disk).right_to_run(installation(folder, disk))
    held.close()


def confirm(folder: str, disk: Disk) -> None:
    trial(folder, disk).end(confirmed=True)


def crash(folder: str, disk: Disk) -> None:
    trial(folder, disk).crashed(1, interrupted=False)


class Change(NamedTuple):
    """`prepare` makes the folder; `act` changes its state through a disk."""

    prepare: Callable[[str], None]
    act: Callable[[str, Disk], None]


CHANGES = {
    "remember": Change(on_trial, remember),
    "stage": Change(staged, stage),
    "adopt": Change(by_hand, adopt),
    "start on trial": Change(on_trial, start_on_trial),
    "confirm": Change(on_trial, confirm),
    "crash on trial": Change(on_trial, crash),
}


class Swept:
    """A change, the folder before it, and the states and trees that may be found after it."""

    def __init__(self, change: Change, folder: str) -> None:
        self.folder, self.change = folder, change
        lay_down((), folder)
        os.mkdir(os.path.join(folder, ".update"))
        change.prepare(folder)
        self.start = image_of(folder)
        self.allowed = [self._found()]
        change.act(folder, Unsynced())
        self.allowed.append(self._found())
        if (
            change.act is crash
        ):  # a rollback that fails ends the trial, so that it is not tried for ever
            state, tree = self.allowed[0]
            assert state is not None
            self.allowed.append((state._replace(trial_starts=None), tree))

    def _found(self) -> Tuple[Optional[State], Tree]:
        return installation(self.folder).state(), read_tree(Path(self.folder), OURS)

    def judge(self, image: Image) -> None:
        """The next start finds the folder before or after, and nothing left over."""
        lay_down(image, self.folder)
        found = installation(self.folder)
        found.recover()
        assert self._found() in self.allowed and not found.pending()
        left = set(os.listdir(found.at(".update")))
        assert left <= {"lock", RUNS, "state.json", "staging"}
        state = found.state()
        if state is not None:
            assert Installation(self.folder, COPY).state() == state
            assert set(os.listdir(found.at(".backup"))) <= {"trust.json", state.backup}


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name == "crash on trial" else name
        for name in CHANGES
    ],
    autouse=True,
)
def swept(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Swept]:
    monkeypatch.setattr("nuitkal_mini.client.trial.new_identifier", lambda: THIRD)
    logging.disable(logging.CRITICAL)
    yield Swept(CHANGES[request.param], str(tmp_path / "client"))
    logging.disable(logging.NOTSET)


def judge_all(swept: Swept, images: Iterator[Image]) -> int:
    seen: Dict[Image, None] = dict.fromkeys(images)
    for image in seen:
        swept.judge(image)
    return len(seen)


def test_a_kill_at_any_operation_leaves_the_state_before_or_after(swept: Swept) -> None:
    lay_down(swept.start, swept.folder)
    watch = Watch(swept.folder)
    swept.change.act(swept.folder, watch)
    assert judge_all(swept, iter(watch.images)) > 1


def test_a_power_cut_at_any_operation_leaves_the_state_before_or_after(swept: Swept) -> None:
    lay_down(swept.start, swept.folder)
    recorder = Recorder(swept.folder)
    swept.change.act(swept.folder, recorder)
    log = tuple(recorder.ops)
    cuts = (
        image
        for count in range(len(log) + 1)
        for image in survivors(swept.start, log[:count], draws=4)
    )
    assert judge_all(swept, cuts) > 1


def test_a_failing_call_leaves_the_state_before_or_after(swept: Swept) -> None:
    lay_down(swept.start, swept.folder)
    counted: List[str] = []

    class Counting(Unsynced):
        def perform(self, operation: str, path: str, call: Callable[..., object], *args: object):  # type: ignore[no-untyped-def]
            counted.append(operation)
            return super().perform(operation, path, call, *args)

    swept.change.act(swept.folder, Counting())
    for number in (errno.EIO, errno.ENOSPC, errno.EACCES):
        for at in range(len(counted)):
            lay_down(swept.start, swept.folder)
            failing = Failing(at, lambda path, n=number: OSError(n, os.strerror(n), path), 0)  # type: ignore[misc]
            with contextlib.suppress(OSError, UpdaterError):  # the updater makes it a sentence
                swept.change.act(swept.folder, failing)
            swept.judge(image_of(swept.folder))
