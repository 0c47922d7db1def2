"""A folder becomes a manifest: what is in it, what stays out, what each file's SHA-256 is.

Files are read once, in parallel threads (hashlib releases the interpreter's lock). What was hashed
is remembered in the user's cache folder under size, times and inode, as git's index does:
publishing an unchanged tree again reads nothing but its folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..entries import FileEntry, check_tree, link_entry
from ..manifest import Manifest, Terms, dumps, loads
from ..paths import VERSION_FILE
from ..progress import Progress
from . import ignore

IGNORE_FILE = ".nuitkalignore"
LEFT_OUT = ("__pycache__/", ".update", ".backup", ".git", f"/{IGNORE_FILE}", f"/{VERSION_FILE}")
WORKERS = min(8, os.cpu_count() or 1)
_CHUNK = 2**20
_RACY_NS = (
    2 * 10**9
)  # FAT counts time in 2 s: a file younger than that can change without showing it


class PublishError(Exception):
    """Publishing cannot go on; the message is one sentence for the developer."""


class FolderFile(NamedTuple):
    """A file or link of the folder.

    `path` is its name in the release, `file` where it is here, `key` what the cache knows it by.
    """

    path: str
    file: str
    size: int
    mtime_ns: int
    key: str
    mode: str
    link: Optional[str]


class FolderTree(NamedTuple):
    """A folder as a release: its manifest, and where each path's bytes are."""

    folder: Path
    manifest: Manifest
    sources: Dict[str, str]
    empty_folders: Tuple[str, ...] = ()  # a release has none

    def contents(self) -> List[FileEntry]:
        """Its files, without its links."""
        return [entry for entry in self.manifest.files if entry.link is None]


def read_tree(
    folder: Path,
    app: str,
    version: str,
    patterns: Sequence[str] = (),
    outputs: FrozenSet[str] = frozenset(),
    terms: Terms = Terms(),
    main: str = "",
) -> FolderTree:
    """The folder as a release of `app`.

    `patterns` come after those of the folder's .nuitkalignore; `outputs` are paths in it that this
    very command writes; `main` is the path of the file that clients start, or empty.

    Raises:
        PublishError: nothing is left, a special file, or a file that changes while it is read.
        UnsafePath: a name or a link that not every system can have.
        ManifestError: terms that no client would understand.
        OSError: something cannot be read.
    """
    release = loads(dumps(Manifest(app, version, (), terms)))  # checks, before minutes of hashing
    rules = ignore.parse([*LEFT_OUT, *_ignore_lines(folder), *patterns])
    empty: List[str] = []
    found = _walk(folder, rules, empty)
    sources = sorted(source for source in found if source.path not in outputs)
    if not sources:
        raise PublishError(
            f"{folder} has nothing to publish: it is empty, or everything in it is excluded"
        )
    if main and not any(source.path == main and source.link is None for source in sources):
        raise PublishError(f"--main {main} is not a file of {folder}; give its path in that folder")
    check_tree(_entry(source, "") for source in sources)
    digests = _digests(folder, [source for source in sources if source.link is None])
    entries = tuple(_entry(source, digests.get(source.path, "")) for source in sources)
    return FolderTree(
        folder,
        loads(dumps(release._replace(files=entries, main=main))),
        {source.path: source.file for source in sources},
        tuple(sorted(empty)),
    )


def _ignore_lines(folder: Path) -> List[str]:
    try:
        return (folder / IGNORE_FILE).read_text(encoding="utf-8-sig").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except UnicodeDecodeError as error:
        raise PublishError(f"{folder / IGNORE_FILE} is not UTF-8; save it as UTF-8") from error


def _walk(folder: Path, rules: List[ignore.Rule], empty: List[str]) -> Iterator[FolderFile]:
    """The files and links that the rules leave; the folders with nothing in them go to `empty`."""
    todo: List[Tuple[str, str]] = [(str(folder), "")]
    while todo:
        place, prefix = todo.pop()
        names = os.listdir(place)
        if not names and prefix:
            empty.append(prefix[:-1])
        for name in names:
            file = os.path.join(place, name)
            path = prefix + unicodedata.normalize("NFC", name)  # macOS lists names decomposed
            status = os.lstat(file)
            is_folder = stat.S_ISDIR(status.st_mode)
            if ignore.excluded(rules, path, is_folder):
                continue
            if is_folder:
                todo.append((file, path + "/"))
            elif stat.S_ISLNK(status.st_mode):
                yield _source(path, file, status, _target(file))
            elif stat.S_ISREG(status.st_mode):
                yield _source(path, file, status, None)
            else:
                raise PublishError(
                    f"{path!r} is a socket, a pipe or a device; remove it or exclude it"
                )


def _source(path: str, file: str, status: os.stat_result, link: Optional[str]) -> FolderFile:
    # ctime as well: tools that make builds reproducible set mtimes back. (Windows has the time of
    # creation there.)
    key = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} {path}"
    return FolderFile(
        path,
        file,
        status.st_size,
        status.st_mtime_ns,
        key,
        "755" if status.st_mode & stat.S_IXUSR else "644",
        link,
    )


def _target(file: str) -> str:
    target = unicodedata.normalize("NFC", os.readlink(file))
    return target.replace("\\", "/") if os.name == "nt" else target


def _entry(source: FolderFile, sha256: str) -> FileEntry:
    if source.link is not None:
        return link_entry(source.path, source.link)
    return FileEntry(source.path, source.size, sha256, source.mode)


def _digests(folder: Path, sources: List[FolderFile]) -> Dict[str, str]:
    """Each path's SHA-256, from the cache where nothing about the file has changed."""
    known = _load_cache(folder)
    unknown = [source for source in sources if source.key not in known]
    with Progress("hashing", sum(source.size for source in unknown)) as progress, workers() as pool:
        settled_before = time.time_ns() - _RACY_NS
        hashed = pool.map(lambda source: _hash(source, progress.advance), unknown)
        digests = {**known, **{source.key: digest for source, digest in zip(unknown, hashed)}}
    settled = {
        source.key: digests[source.key]
        for source in sources
        if source.key in known or source.mtime_ns < settled_before
    }
    if settled != known:
        _save_cache(folder, settled)
    return {source.path: digests[source.key] for source in sources}


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that are not waited for when something fails, or Ctrl-C is pressed, in between."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


def _hash(source: FolderFile, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with open(source.file, "rb", buffering=0) as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
            advance(len(chunk))
        after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (source.size, source.mtime_ns):
        raise PublishError(
            f"{source.path!r} changed while it was being packed; run the command again"
        )
    return digest.hexdigest()


# --- the cache: one JSON file per folder, `size mtime ctime inode path` -> SHA-256 ----------------


def _cache_file(folder: Path) -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
    return Path(base, "nuitkal_mini", f"{name}.json")


def _load_cache(folder: Path) -> Dict[str, str]:
    try:
        document = json.loads(_cache_file(folder).read_bytes())
    except (OSError, ValueError):
        return {}  # none yet, or damaged: everything is hashed again
    return (
        document
        if isinstance(document, dict)
        and all(isinstance(digest, str) for digest in document.values())
        else {}
    )


def _save_cache(folder: Path, cache: Dict[str, str]) -> None:
    file = _cache_file(folder)
    temporary = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(cache), encoding="utf-8")
        os.replace(temporary, file)
    except OSError:
        pass  # a cache that cannot be kept costs time, nothing else


def forget(folder: Path) -> None:
    """Drop what is remembered of the folder's files: one of them was not what the cache said."""
    try:
        _cache_file(folder).unlink()
    except OSError:
        pass
