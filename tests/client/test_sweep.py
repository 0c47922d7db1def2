"""The sweep: every operation with which the client changes the disk is the one at which it dies,
the power goes, or the disk fails.

The plain run does this to a small scenario; `-m slow` to all of them. See sweep.py for how,
scenarios.py for what.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Callable, Iterator, Tuple

import pytest

from nuitkal_mini import ClientUpdater, InstallError, RollbackError, UpdaterConfig

from ..trees import Tree, read_tree
from .conftest import Serve
from .scenarios import MINE, NEW, OLD, SCENARIOS
from .site import Site
from .sweep import (
    NEEDS_AN_INODE,
    NEEDS_SPACE,
    OURS,
    Dying,
    Failing,
    Full,
    Image,
    Node,
    Scenario,
    Sweep,
    image_of,
    lay_down,
)

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="images need hard links and links; Windows has its own sweep"
)

SMALL = "update in a subfolder"
SWEPT = [
    pytest.param(
        scenario, id=scenario.name, marks=() if scenario.name == SMALL else pytest.mark.slow
    )
    for scenario in SCENARIOS
]
tally: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def summary(request: pytest.FixtureRequest) -> Iterator[None]:
    started = time.monotonic()
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        print(
            "\n%d kill points, %d lost-write states, %d failing calls, %d broken trees (%.0f s)"
            % (
                tally["kills"],
                tally["cuts"],
                tally["failures"],
                tally["broken"],
                time.monotonic() - started,
            )
        )


@pytest.fixture(scope="module")
def scratch() -> Iterator[str]:
    """In memory where the system has that: these tests make a hundred thousand files."""
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    ) as folder:
        yield folder


@pytest.fixture(scope="module", params=SWEPT)
def sweep(request: pytest.FixtureRequest, scratch: str) -> Iterator[Sweep]:
    """One for all tests of a scenario: what was judged once is known."""
    sweep = Sweep(request.param, scratch)
    yield sweep
    tally["kills"] += sweep.kill_points
    tally["cuts"] += sweep.cuts


def assert_whole(
    sweep: Sweep, images: Iterator[Image], allowed: Tuple[str, ...] = ("old", "new")
) -> Counter[str]:
    verdicts = Counter(map(sweep.verdict, images))
    broken = {verdict: count for verdict, count in verdicts.items() if verdict not in allowed}
    tally["broken"] += sum(broken.values())
    assert not broken
    return verdicts


# --- death ----------------------------------------------------------------------------------------


def in_child(act: Callable[[], object]) -> int:
    """Run in a forked child; how it ended, as `os.waitpid` says."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 dislikes forks beside the test server's threads
        child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_process_that_ends_at_any_operation_leaves_the_old_or_the_new_tree(sweep: Sweep) -> None:
    died, count = True, 0
    while died:
        lay_down(sweep.start, sweep.folder)
        died = in_child(lambda: sweep.act(Dying(count, lambda: os._exit(77)))) != 0
        assert_whole(sweep, iter([image_of(sweep.folder)]))
        count += 1
    tally["kills"] += count
    assert count > 30


def test_a_recovery_that_dies_at_any_operation_and_again_at_any_is_finished_by_the_next(
    sweep: Sweep,
) -> None:
    verdicts = assert_whole(sweep, sweep.kills(depth=3))
    assert verdicts["old"] and verdicts["new"]


@pytest.mark.parametrize(
    "scenario",
    [
        scenario
        for scenario in SCENARIOS
        if scenario.launcher in {*scenario.before} & {*scenario.after}
    ],
    ids=lambda scenario: scenario.name,
)
def test_the_launcher_is_never_missing_and_changes_last(scenario: Scenario, scratch: str) -> None:
    sweep = Sweep(scenario, scratch)
    before, after = (
        {(node.path, node.content, "%o" % node.mode) for node in entries}
        for entries in (nodes(scenario.before), nodes(scenario.after))
    )
    for image in sweep.kills(depth=1):
        there = {
            (node.path, node.content, "%o" % node.mode) for node in image if node.kind == "file"
        }
        launcher = {file for file in there if file[0] == scenario.launcher}
        assert launcher and launcher <= before | after
        assert launcher <= before or after <= there
    assert all(
        any(node.path == scenario.launcher for node in image) for image in sweep.kills(depth=2)
    )


def nodes(tree: Tree) -> Iterator[Node]:
    return (
        Node(path, "file", item[0], int(item[1], 8))
        for path, item in tree.items()
        if not isinstance(item, str)
    )


def killed_updates(site: Site, folder: Path, start: Tree, points: Iterator[int]) -> None:
    """SIGKILL `ClientUpdater.update` at each of the points.

    Whoever comes next finds a whole program, and updates it.
    """
    config = UpdaterConfig(site.url, folder, python=sys.executable, retries=0, lock_seconds=0.2)

    def app() -> Tree:
        return read_tree(folder, OURS)

    for point in points:
        site.publish("1.0.0", start)
        ClientUpdater(config).update(force=True)
        site.publish("2.0.0", NEW)
        killed = in_child(
            lambda: ClientUpdater(
                config, disk=Dying(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
            ).update()
        )
        version = dict(ClientUpdater(config).status())["installed"]
        assert app() == {**MINE, **(NEW if version == "2.0.0" else start)}
        tally["kills"] += 1
        ClientUpdater(config).update()
        assert app() == {**MINE, **NEW}
        left = set(os.listdir(folder / ".update")) - {"runs", "log.txt"}
        assert left == {"lock", "state.json"}
        if not os.WIFSIGNALED(killed):
            return
    assert os.WIFSIGNALED(killed)


@pytest.mark.parametrize(
    "points",
    [range(5, 150, 20), pytest.param(range(1000), marks=pytest.mark.slow)],
    ids=["sample", "all"],
)
def test_a_killed_updater_is_no_trouble_for_the_next(
    serve: Serve, tmp_path: Path, points: Iterator[int]
) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    for path, item in MINE.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(item) if isinstance(item, str) else (folder / path).write_bytes(
            item[0]
        )
    killed_updates(Site(serve), folder, OLD, points)


# --- power ----------------------------------------------------------------------------------------


def test_a_power_cut_at_any_operation_leaves_the_old_or_the_new_tree(sweep: Sweep) -> None:
    log = sweep.log()
    verdicts = assert_whole(sweep, sweep.power_cuts(log, step=1 if len(log) < 80 else 2))
    assert verdicts["old"] and verdicts["new"]


def test_only_the_commit_decides_after_a_power_cut(sweep: Sweep) -> None:
    log = sweep.log()
    commit = next(index for index, op in enumerate(log) if op.target == "local_version.json")
    durable = next(index for index in range(commit, len(log)) if log[index].kind == "fsync")
    assert_whole(sweep, sweep.power_cuts(log[:commit], step=3), allowed=("old",))
    assert_whole(sweep, sweep.power_cuts(log, durable + 1, step=2), allowed=("new",))


def test_a_power_cut_while_a_failed_update_is_undone_leaves_the_old_tree(sweep: Sweep) -> None:
    complete = sweep.log()
    begun = next(index for index, op in enumerate(complete) if op.target == ".update/journal.json")
    commit = next(index for index, op in enumerate(complete) if op.target == "local_version.json")
    for failing in sorted({begun + 2, (begun + commit) // 2, commit - 3, commit}):
        log = sweep.log(failing)
        if any(op.target == "local_version.json" for op in log):
            continue  # it did without that operation
        assert_whole(sweep, sweep.power_cuts(log, failing, step=3, draws=2), allowed=("old",))


@pytest.mark.slow
def test_a_power_cut_after_a_kill_takes_along_what_was_not_yet_durable(sweep: Sweep) -> None:
    count = len(sweep.log())
    for killed in range(0, count, count // 10):
        assert_whole(
            sweep, sweep.power_cuts(sweep.log_of_next_start(killed), killed, step=7, draws=1)
        )


@pytest.mark.slow
def test_each_fsync_is_needed(scratch: str) -> None:
    """Without any one of them some power cut breaks the tree, or leaves rubbish for good."""
    sweep = Sweep(
        next(scenario for scenario in SCENARIOS if scenario.name == "update in a subfolder"),
        scratch,
    )
    log = sweep.log()
    needless = [
        op.path
        for index, op in enumerate(log)
        if op.kind == "fsync"
        and all(
            sweep.verdict(image) in ("old", "new")
            for image in sweep.power_cuts(log[:index] + log[index + 1 :], index, draws=6)
        )
    ]
    # The first saves a download; the other is mended by the next start
    assert needless == [".update/staging/manifest.json", ".backup/trust.json.new"]


def test_an_update_costs_an_fsync_a_new_file_and_one_or_two_a_folder(sweep: Sweep) -> None:
    log = sweep.log()
    files = len({op.path for op in log if op.path.startswith(".update/staging/")})
    folders = {
        os.path.dirname(path)
        for tree in (sweep.scenario.before, sweep.scenario.after)
        for path in tree
    }
    assert sum(op.kind == "fsync" for op in log) <= files + len(folders) + 12


# --- failing calls --------------------------------------------------------------------------------


def unix(number: int) -> Callable[[str], OSError]:
    return lambda path: OSError(number, os.strerror(number), path)


def windows(number: int) -> Callable[[str], OSError]:
    def error(path: str) -> OSError:
        error = PermissionError(errno.EACCES, "The process cannot access the file", path)
        error.winerror = number  # type: ignore[attr-defined]
        return error

    return error


FOR_EVER = 1e9
FAULTS = [
    pytest.param(error, seconds, id=name)
    for name, error, seconds in [
        ("ENOSPC", unix(errno.ENOSPC), 0),
        ("ENOSPC for ever", unix(errno.ENOSPC), FOR_EVER),
        ("EIO", unix(errno.EIO), 0),
        ("EIO for ever", unix(errno.EIO), FOR_EVER),
        ("EACCES", unix(errno.EACCES), 0),
        ("winerror 5 once", windows(5), 0),
        ("winerror 32 for 3 s", windows(32), 3),
        ("winerror 32 for ever", windows(32), FOR_EVER),
    ]
]


@pytest.mark.parametrize("error, seconds", FAULTS)
def test_a_failing_call_is_outlasted_or_undone_with_a_sentence_that_names_the_file(
    sweep: Sweep, error: Callable[[str], OSError], seconds: float
) -> None:
    is_busy = hasattr(error(""), "winerror")
    for at in range(len(sweep.log())):
        lay_down(sweep.start, sweep.folder)
        disk = Failing(at, error, seconds)
        said = ""
        try:
            sweep.act(disk)
        except (
            OSError,
            InstallError,
            RollbackError,
        ) as failure:  # OSError: the updater makes its sentence while staging
            said = str(failure)
        tally["failures"] += 1
        verdict, is_pending = sweep.judge_tree(), sweep.installation().pending()
        assert not said or disk.path in said
        if is_pending:
            assert disk.operation == "fsync" and seconds == FOR_EVER and "the next start" in said
        else:
            assert verdict == ("old" if said else "new"), said
        assert not said or not is_busy or seconds == FOR_EVER
        assert_whole(sweep, iter([image_of(sweep.folder)]))


def test_a_disk_that_dies_for_good_is_no_worse_than_a_kill(sweep: Sweep) -> None:
    for at in range(len(sweep.log())):
        lay_down(sweep.start, sweep.folder)
        with contextlib.suppress(OSError, InstallError, RollbackError):
            sweep.act(Failing(at, unix(errno.EIO), FOR_EVER, everything=True))
        tally["failures"] += 1
        assert_whole(sweep, iter([image_of(sweep.folder)]))


FULL = [
    pytest.param(errno.ENOSPC, NEEDS_SPACE, id="ENOSPC"),
    pytest.param(errno.EDQUOT, NEEDS_SPACE, id="EDQUOT"),
    pytest.param(errno.ENOSPC, NEEDS_AN_INODE, id="no inodes"),
]


@pytest.mark.parametrize("error, needing", FULL)
def test_a_disk_that_fills_up_stops_no_undo_and_no_start(
    sweep: Sweep, error: int, needing: Tuple[str, ...]
) -> None:
    for at in range(len(sweep.log())):
        lay_down(sweep.start, sweep.folder)
        disk = Full(at, error, needing)
        said = ""
        try:
            sweep.act(disk)
        except (OSError, InstallError, RollbackError) as failure:
            said = str(failure)
        tally["failures"] += 1
        assert not sweep.installation().pending(), said
        assert sweep.judge_tree() == ("old" if said else "new"), said
        assert not said or os.strerror(error) in said and disk.refused
        full = sweep.installation(Full(0, error, needing))
        full.recover()  # the next start, and there still is no room
        assert not full.pending()
        assert sweep.judge_tree() == ("old" if said else "new")
        assert_whole(sweep, iter([image_of(sweep.folder)]))


def test_a_killed_update_is_undone_on_a_full_disk(sweep: Sweep) -> None:
    for image in set(sweep.kills(depth=1)):
        lay_down(image, sweep.folder)
        disk = Full(0, errno.ENOSPC)
        full = sweep.installation(disk)
        full.recover()
        assert not full.pending() and sweep.judge_tree() in ("old", "new")
        allowed = {"create": (".new", "next.json"), "mkdir": (".backup",), "link": ("",)}
        for operation, path in disk.refused:  # the state's copies, and a launcher's second name
            assert path.endswith(allowed[operation])
        assert_whole(sweep, iter([image_of(sweep.folder)]))
