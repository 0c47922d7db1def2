"""Breaking an installation in every way that a machine can: a folder as a value, and disks that
die, forget, or fail.

A `Scenario` is one transaction, with the tree before and the tree after it. `Image` is what lies
in a folder, so each state that a kill or a power cut can leave is a value: it is laid down again,
recovered, and judged, once. From there the recovery itself is killed at each of its operations,
and so on, until no new state turns up: that is every depth of dying again.

The power cut keeps what was fsynced. Of the operations since, any subset may survive, an
operation whose folder or file was lost is lost with it. A file's rename between two folders may
have arrived without having left; and once the folder that it left was fsynced, but not the one
where it arrives, it may be gone, until it is renamed into a folder that is fsynced then. A
folder's rename is done or not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from nuitkal_mini.client.disk import Disk
from nuitkal_mini.client.errors import InstallError, RollbackError
from nuitkal_mini.client.install import STAGING, Installation
from nuitkal_mini.client.staging import Package, Staging
from nuitkal_mini.client.state import State, parse_state
from nuitkal_mini.client.swap_plan import SwapPlan
from nuitkal_mini.manifest import dumps

from ..trees import Tree, manifest_of, read_tree
from .site import package_of

OURS = (".update", ".backup", "local_version.json")
FIRST, SECOND, THIRD, FOURTH = ("%d" % number * 16 for number in range(1, 5))  # ids of transactions


# --- a folder as a value --------------------------------------------------------------------------


class Node(NamedTuple):
    """`kind` is dir, file or link (`content` is its target then).

    The names of one file or link share a `number`.
    """

    path: str
    kind: str
    content: bytes = b""
    mode: int = 0
    number: int = 0


Image = Tuple[Node, ...]


def image_of(folder: str) -> Image:
    nodes: List[Node] = []
    numbers: Dict[int, int] = {}

    def visit(path: str) -> None:
        for entry in sorted(os.scandir(os.path.join(folder, path)), key=lambda entry: entry.name):
            name, found = os.path.join(path, entry.name), entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                nodes.append(Node(name, "dir"))
                visit(name)
                continue
            number = numbers.setdefault(found.st_ino, len(numbers) + 1)
            if stat.S_ISLNK(found.st_mode):
                nodes.append(Node(name, "link", os.fsencode(os.readlink(entry.path)), 0, number))
            else:
                nodes.append(
                    Node(
                        name,
                        "file",
                        Path(entry.path).read_bytes(),
                        stat.S_IMODE(found.st_mode),
                        number,
                    )
                )

    visit("")
    return tuple(nodes)


def lay_down(image: Image, folder: str) -> None:
    """Make the folder the image, whatever is in it now."""
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    first: Dict[int, str] = {}
    for node in image:
        path = os.path.join(folder, node.path)
        if node.kind == "dir":
            os.mkdir(path)
        elif node.number in first:
            os.link(first[node.number], path, follow_symlinks=False)
        elif node.kind == "link":
            os.symlink(os.fsdecode(node.content), path)
        else:
            with open(path, "wb") as file:
                file.write(node.content)
            os.chmod(path, node.mode)
        first.setdefault(node.number, path)


# --- one transaction ------------------------------------------------------------------------------


class Shop:
    """A transport whose server has one package."""

    def __init__(self, package: bytes) -> None:
        self._package = package

    def download(
        self,
        url: str,
        path: Path,
        size: Optional[int],
        progress: Callable[[int, int], None],
        *,
        max_bytes: int,
    ) -> None:
        path.write_bytes(self._package)


def update(installation: Installation, tree: Tree, version: str, identifier: str) -> None:
    """What `ClientUpdater` does between the manifest and the end."""
    manifest, package = manifest_of(tree, version=version), package_of(tree)
    staging = Staging(
        installation,
        Shop(package),
        Package("http://shop/", hashlib.sha256(package).hexdigest(), 0),
        lambda *_: None,
    )  # type: ignore[arg-type]
    number = {entry.path: index for index, entry in enumerate(manifest.files)}

    def arranged() -> SwapPlan:
        return installation.plan_swap(
            manifest.files, identifier, lambda entry: f"{STAGING}/{number[entry.path]}"
        )

    staging.open(dumps(manifest))
    staging.fill(manifest, [(move.source, move.entry) for move in arranged().move_in])
    backup = identifier if installation.state() else ""
    installation.install(arranged(), State(version, identifier, backup, dumps(manifest).decode()))


class Scenario(NamedTuple):
    """`prepare` makes the folder, `act` is the transaction that gets interrupted; `{id}` in a
    path stands for its id.

    The trees are all that lies in the folder, the user's files included; cached bytecode is left
    out unless it is shipped.
    """

    name: str
    prepare: Callable[[Installation], None]
    act: Callable[[Installation, str], None]
    before: Tree
    after: Tree
    versions: Tuple[Optional[str], str]
    launcher: str = ""
    preserve: Tuple[str, ...] = ()


class Sweep:
    """One scenario, in a scratch folder, and what was tried on it."""

    def __init__(self, scenario: Scenario, scratch: str) -> None:
        self.scenario = scenario
        self.folder = os.path.join(scratch, "client")
        lay_down((), self.folder)
        os.mkdir(os.path.join(self.folder, ".update"))
        scenario.prepare(self.installation(Unsynced()))
        self.start = image_of(self.folder)
        self.kill_points = self.cuts = 0
        self._verdicts: Dict[Image, str] = {}
        self._reached: Set[Image] = set()

    def installation(self, disk: Optional[Disk] = None) -> Installation:
        scenario = self.scenario
        return Installation(
            self.folder,
            "local_version.json",
            disk=disk or Unsynced(),
            launcher=scenario.launcher,
            preserve=tuple(scenario.preserve),
        )

    def act(self, disk: Disk, identifier: str = THIRD) -> None:
        self.scenario.act(self.installation(disk), identifier)

    # the judge

    def verdict(self, image: Image) -> str:
        """`old` or `new`, or what is broken, after a start has recovered the image."""
        if image not in self._verdicts:
            verdict = self._start(image)
            if verdict == "new" and not self._is_committed(image):
                verdict = "broken: it went forward without a commit"
            self._verdicts[image] = verdict
        return self._verdicts[image]

    def _start(self, image: Image) -> str:
        copies = [node.content for node in image if node.path == ".update/state.json"]
        lay_down(image, self.folder)
        try:
            for copy in copies:
                parse_state(copy)
            self.installation().recover()
            return self.judge()
        except Exception as error:
            return f"broken: recovery ended in {error!r}"

    def _is_committed(self, image: Image) -> bool:
        ids = [b'"id": "%s"' % identifier.encode() for identifier in (THIRD, FOURTH)]
        return any(
            node.path == "local_version.json" and identifier in node.content
            for node in image
            for identifier in ids
        )

    def deaths(self, image: Image) -> List[Image]:
        """The states in which the recovery from the image can die."""
        lay_down(image, self.folder)
        watch = Watch(self.folder)
        self.installation(watch).recover()
        return watch.images

    def judge(self) -> str:
        """`old` or `new`, once nothing is pending; the next transaction must reach the new tree."""
        installation = self.installation()
        state = installation.state()
        verdict = self.judge_tree()
        is_new = verdict == "new"
        if installation.pending():
            return "broken: a journal is left"
        if verdict.startswith("broken"):
            return verdict
        left = set(os.listdir(os.path.join(self.folder, ".update"))) - {
            "lock",
            "state.json",
            *((["staging", "download"]) if not is_new else []),
        }
        backups = (
            os.listdir(os.path.join(self.folder, ".backup"))
            if os.path.isdir(os.path.join(self.folder, ".backup"))
            else []
        )
        if left or set(backups) - {"trust.json", state.backup if state else ""}:
            return f"broken: left over {left} {backups}"
        if (
            state is not None
            and Installation(os.path.join(self.folder, ".update"), "state.json").state() != state
        ):
            return "broken: the copy of the state is not the state"
        if not is_new:
            self._reach_new()
        return verdict

    def judge_tree(self) -> str:
        """Whether the tree is that of the version that the version file names."""
        scenario, state = self.scenario, self.installation().state()
        is_new = state is not None and state.id in (THIRD, FOURTH)
        found, wanted = (
            self.tree(),
            named(scenario.after, state.id) if state and is_new else scenario.before,
        )
        if found != wanted or (state and state.version) != scenario.versions[is_new]:
            name = "new" if is_new else "old"
            return f"broken: {name} version with {sorted(difference(found, wanted))}"
        if is_new and self.stale_bytecode():
            return f"broken: stale bytecode {self.stale_bytecode()}"
        return "new" if is_new else "old"

    def _reach_new(self) -> None:
        image = image_of(self.folder)
        if image in self._reached:
            return
        self.act(Unsynced(), FOURTH)
        verdict = self.judge()
        assert verdict == "new", f"the next update did not reach the new tree: {verdict}"
        self._reached.add(image)

    def tree(self) -> Tree:
        """All but the updater's own, and cached bytecode that is not shipped."""
        shipped = {*self.scenario.before, *self.scenario.after}
        return {
            path: item
            for path, item in read_tree(Path(self.folder), OURS).items()
            if "__pycache__" not in path or path in shipped
        }

    def stale_bytecode(self) -> List[str]:
        """Cached bytecode of a module that came or went with the transaction."""
        scenario, found = self.scenario, read_tree(Path(self.folder), OURS)
        changed = {
            path[: -len(".py")]
            for path in {*scenario.before, *scenario.after}
            if path.endswith(".py")
            and scenario.before.get(path, scenario.after.get(path)) != scenario.after.get(path)
        }
        return [
            path
            for path in found
            if "__pycache__/" in path
            and path not in scenario.after
            and path.replace("__pycache__/", "").split(".")[0] in changed
        ]

    # the ways to break it

    def kills(self, depth: int) -> Iterator[Image]:
        """Every state in which the process can die.

        In the transaction, in the recovery from that, and so on down to `depth`.
        """
        lay_down(self.start, self.folder)
        watch = Watch(self.folder)
        self.act(watch)
        level, seen = watch.images + [image_of(self.folder)], set()
        for _ in range(depth):
            below: List[Image] = []
            for image in level:
                self.kill_points += 1
                if image not in seen:
                    seen.add(image)
                    yield image
                    below += self.deaths(image)
            level = below

    def log_of_next_start(self, killed_at: int) -> Tuple[Op, ...]:
        """A transaction that was killed, the recovery from that, and the transaction again.

        What was not fsynced before still is not.
        """
        log = self.log()[:killed_at]
        ops = folded(log)
        lay_down(replay(self.start, ops, [DONE] * len(ops)), self.folder)
        recorder = Recorder(self.folder)
        self.installation(recorder).recover()
        if self.judge_tree() == "old":
            self.act(recorder, FOURTH)
        return (*log, *recorder.ops)

    def log(self, fail_at: int = -1) -> Tuple[Op, ...]:
        """The operations of the transaction; at `fail_at`, the disk fails once."""
        lay_down(self.start, self.folder)
        recorder = Recorder(self.folder, fail_at)
        with contextlib.suppress(OSError, InstallError, RollbackError):
            self.act(recorder)
        return tuple(recorder.ops)

    def power_cuts(
        self, log: Tuple[Op, ...], first: int = 0, step: int = 1, draws: int = 6
    ) -> Iterator[Image]:
        """What a power cut can leave, before each operation from `first` on and at the end."""
        seen: Set[Image] = set()
        for count in range(first, len(log) + 1, step):
            for image in survivors(self.start, log[:count], draws):
                self.cuts += 1
                if image not in seen:
                    seen.add(image)
                    yield image


def named(tree: Tree, identifier: str) -> Tree:
    return {path.replace("{id}", identifier): item for path, item in tree.items()}


def difference(found: Tree, wanted: Tree) -> List[Tuple[str, Any, Any]]:
    return [
        (path, found.get(path), wanted.get(path))
        for path in {*found, *wanted}
        if found.get(path) != wanted.get(path)
    ]


# --- disks ----------------------------------------------------------------------------------------


class Unsynced(Disk):
    """A disk without the slow part: in these tests nothing but the model cuts the power."""

    def __init__(self) -> None:
        self.clock = 0.0
        super().__init__(sleep=self._pass)

    def _pass(self, seconds: float) -> None:
        self.clock += seconds

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        return None if operation == "fsync" else call(*args)


class Watch(Unsynced):
    """Notes, before every operation, what a kill would leave.

    Of a file that is being written, also half.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.images: List[Image] = []
        self._folder = folder

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        self.images.append(image_of(self._folder))
        if operation == "chmod":
            name = os.path.relpath(path, self._folder)
            self.images.append(
                tuple(
                    node._replace(content=node.content[: len(node.content) // 2])
                    if node.path == name
                    else node
                    for node in self.images[-1]
                )
            )
        return super().perform(operation, path, call, *args)


class Dying(Disk):
    """Ends the process at an operation, without a goodbye."""

    def __init__(self, at: int, end: Callable[[], object]) -> None:
        super().__init__()
        self._left, self._end = at, end

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        if self._left == 0:
            self._end()
        self._left -= 1
        return call(*args)


class Failing(Unsynced):
    """From operation `at` on, those on its path (or `everything`) fail for `seconds`; 0: once."""

    def __init__(
        self, at: int, error: Callable[[str], OSError], seconds: float, everything: bool = False
    ) -> None:
        super().__init__()
        self._at, self._error, self._seconds, self._everything = at, error, seconds, everything
        self._end: Optional[float] = None
        self.path = self.operation = ""

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        if self._at == 0:
            self.path, self.operation, self._end = path, operation, self.clock + self._seconds
        self._at -= 1
        is_same = path == self.path and (operation == "fsync") == (
            self.operation == "fsync"
        )  # who holds a file open does not hinder that
        if (
            self._at == -1
            or self._end is not None
            and self.clock < self._end
            and (is_same or self._everything)
        ):
            raise self._error(path)
        return super().perform(operation, path, call, *args)


NEEDS_SPACE = ("create", "write", "flush", "mkdir", "symlink", "link")
NEEDS_AN_INODE = ("create", "mkdir", "symlink")


class Full(Unsynced):
    """From operation `at` on, all that needs space (or an inode) fails; renames work."""

    def __init__(self, at: int, error: int, needing: Tuple[str, ...] = NEEDS_SPACE) -> None:
        super().__init__()
        self._left, self._error, self._needing = at, error, needing
        self.refused: List[Tuple[str, str]] = []

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        self._left -= 1
        if self._left < 0 and operation in self._needing:
            self.refused.append((operation, path))
            raise OSError(self._error, os.strerror(self._error), path)
        return super().perform(operation, path, call, *args)


# --- the power cut --------------------------------------------------------------------------------


class Op(NamedTuple):
    """An operation with names relative to the folder.

    `target` is that of a rename, a link or a symlink.
    """

    kind: str
    path: str
    target: str = ""
    data: bytes = b""


class Recorder(Unsynced):
    """Does everything, and writes down what it did."""

    def __init__(self, folder: str, fail_at: int = -1) -> None:
        super().__init__()
        self.ops: List[Op] = []
        self._folder = folder
        self._fail_at = fail_at

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        self._fail_at -= 1
        if self._fail_at == -1:
            raise OSError(errno.EIO, "Input/output error", path)
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        result = super().perform(operation, path, call, *args)
        if operation == "read":
            return result
        name = self._name(path)
        if operation in ("rename", "link"):
            kind = "move folder" if is_folder else operation
            self.ops.append(Op(kind, name, self._name(args[1])))
        elif operation == "symlink":
            self.ops.append(Op(operation, name, args[0]))
        elif operation == "chmod":
            self.ops.append(Op(operation, name, data=b"%o" % args[1]))
        else:
            self.ops.append(
                Op(operation, name, data=bytes(args[0]) if operation == "write" and args else b"")
            )
        return result

    def _name(self, path: str) -> str:
        name = os.path.relpath(path, self._folder)
        return "" if name == "." else name


DONE, LOST, BOTH, GONE, HALF, EMPTY = "done", "lost", "both", "gone", "half", "empty"
RENAMES = ("rename", "link", "move folder")


def folded(log: Tuple[Op, ...]) -> List[Op]:
    """The log with each file that was written as one operation, `file`.

    Its content stands in `data`, its mode in `target`.
    """
    ops: List[Op] = []
    begun: Dict[str, int] = {}
    for op in log:
        if op.kind == "create":
            begun[op.path] = len(ops)
            ops.append(Op("file", op.path, "600"))
        elif op.kind == "write":
            written = ops[begun[op.path]]
            ops[begun[op.path]] = written._replace(data=written.data + op.data)
        elif op.kind == "chmod" and op.path in begun:
            ops[begun[op.path]] = ops[begun[op.path]]._replace(target=op.data.decode())
        else:
            ops.append(op)
    return ops


def fates(ops: List[Op]) -> List[Tuple[str, ...]]:
    """What may have become of each operation, now that the power is gone.

    The best first, the worst last.
    """
    synced = {op.path: index for index, op in enumerate(ops) if op.kind == "fsync"}  # when last
    removed = {op.path: index for index, op in enumerate(ops) if op.kind == "rmdir"}
    made = {op.path: index for index, op in enumerate(ops) if op.kind == "mkdir"}
    made.update((op.target, index) for index, op in enumerate(ops) if op.kind == "move folder")

    def is_kept(index: int, name: str) -> bool:
        """Whether the folder of the name was fsynced since, or has durably gone itself."""
        folder = os.path.dirname(name)
        if removed.get(folder, -1) > index and is_kept(removed[folder], folder):
            return True
        is_folder_kept = folder not in made or is_kept(made[folder], folder)
        return synced.get(folder, -1) > index and is_folder_kept

    found: List[Tuple[str, ...]] = []
    for index, op in enumerate(ops):
        if op.kind == "fsync":
            found.append((DONE,))
        elif op.kind == "file":
            contents = (DONE,) if synced.get(op.path, -1) > index else (DONE, HALF, EMPTY)
            found.append(contents if is_kept(index, op.path) else (*contents, LOST))
        elif op.kind == "chmod":  # of a file that somebody wrote before
            found.append((DONE,) if synced.get(op.path, -1) > index else (DONE, LOST))
        elif op.kind in ("rename", "move folder") and os.path.dirname(op.path) != os.path.dirname(
            op.target
        ):
            arrived, left = is_kept(index, op.target), is_kept(index, op.path)
            if op.kind == "rename" and not left:
                found.append((DONE, BOTH) if arrived else (DONE, BOTH, LOST))
            elif arrived:
                found.append((DONE,))
            else:  # where it left is durable, where it arrived is not
                found.append((DONE, GONE) if left else (DONE, LOST))
        else:
            found.append(
                (DONE,)
                if is_kept(index, op.target if op.kind in RENAMES else op.path)
                else (DONE, LOST)
            )
    return found


def survivors(start: Image, log: Tuple[Op, ...], draws: int) -> Iterator[Image]:
    """States after a cut.

    Nothing lost, all lost, each single one lost or kept, and random subsets with fixed seeds.
    """
    ops = folded(log)
    choices = fates(ops)
    best, worst = [choice[0] for choice in choices], [choice[-1] for choice in choices]
    yield replay(start, ops, best)
    yield replay(start, ops, worst)
    undecided = [index for index, choice in enumerate(choices) if len(choice) > 1]
    for index in undecided:
        for choice in choices[index]:
            yield replay(start, ops, best[:index] + [choice] + best[index + 1 :])
            yield replay(start, ops, worst[:index] + [choice] + worst[index + 1 :])
    chance = random.Random(len(log))
    for _ in range(draws if len(undecided) > 2 else 0):
        yield replay(start, ops, [chance.choice(choice) for choice in choices])


def replay(start: Image, ops: List[Op], chosen: List[str]) -> Image:
    """The image after the operations that survived."""
    files = {node.number: node for node in start}
    names: Dict[str, Optional[int]] = {
        node.path: node.number if node.kind != "dir" else None for node in start
    }

    def is_folder(path: str) -> bool:
        return not path or names.get(path, 0) is None

    truth = dict(names)  # had nothing been lost
    nowhere: Dict[
        str, Optional[int]
    ] = {}  # what is gone, by the names under which it did not arrive
    for number, (op, fate) in enumerate(zip(ops, chosen), 10**6):
        if op.kind == "chmod":
            file = names.get(op.path)
            if fate != LOST and file is not None and file == truth.get(op.path):
                files[file] = files[file]._replace(mode=int(op.data, 8))
            continue
        content = {HALF: op.data[: len(op.data) // 2], EMPTY: b""}.get(fate, op.data)
        files[number] = (
            Node("", "link", os.fsencode(op.target))
            if op.kind == "symlink"
            else Node("", "file", content, int(op.target, 8) if op.kind == "file" else 0)
        )
        if op.kind in RENAMES and fate in (DONE, BOTH):
            for path in [path for path in nowhere if (path + "/").startswith(op.path + "/")]:
                if is_folder(os.path.dirname(path)):
                    names[path] = nowhere.pop(path)  # it did arrive later
                elif is_folder(os.path.dirname(op.target)):  # out of a folder that was lost
                    names[op.target + path[len(op.path) :]] = nowhere.pop(path)
        if fate != LOST and names.get(op.path) == truth.get(op.path):
            # else it was done to a file that has not come there
            if fate == GONE and op.path in names:
                nowhere.update(_below(names, op.path, op.target))
            _survive(op, fate, number, names)
        _survive(op, DONE, number, truth)
    numbers: Dict[int, int] = {}
    nodes: List[Node] = []
    for path in sorted(names, key=lambda path: path.split("/")):
        file = names[path]
        nodes.append(
            Node(path, "dir")
            if file is None
            else files[file]._replace(path=path, number=numbers.setdefault(file, len(numbers) + 1))
        )
    return tuple(nodes)


def _survive(op: Op, fate: str, number: int, names: Dict[str, Optional[int]]) -> None:
    """Do the operation, unless what it needs was lost. A folder has no number."""

    def is_folder(path: str) -> bool:
        return not path or names.get(path, 0) is None

    target = op.target if op.kind in RENAMES else op.path
    inside = [name for name in names if name.startswith(op.path + "/")]
    if fate == GONE:
        for name in _below(names, op.path, op.path):
            del names[name]
        return
    if not is_folder(os.path.dirname(target)):
        return
    if op.kind in ("file", "symlink") and not is_folder(op.path):
        names[op.path] = number
    elif op.kind == "mkdir":
        names.setdefault(op.path, None)
    elif op.kind == "rmdir" and is_folder(op.path) and not inside:
        names.pop(op.path, None)
    elif op.kind == "unlink" and not is_folder(op.path):
        names.pop(op.path, None)
    elif op.kind == "move folder" and is_folder(op.path) and target not in names:
        arrived = _below(names, op.path, target)
        for name in _below(names, op.path, op.path):
            del names[name]
        names.update(arrived)
    elif (
        op.kind in ("rename", "link")
        and names.get(op.path) is not None
        and not is_folder(target)
        and names.get(target) != names[op.path]
    ):
        names[target] = names[op.path]
        if op.kind == "rename" and fate != BOTH:
            del names[op.path]


def _below(names: Dict[str, Optional[int]], path: str, target: str) -> Dict[str, Optional[int]]:
    """What lies at a path and below it, under the names that it has after a move to `target`."""
    return {
        target + name[len(path) :]: number
        for name, number in names.items()
        if name == path or name.startswith(path + "/")
    }
