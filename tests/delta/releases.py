"""Pairs of releases for deltas, in memory."""

from __future__ import annotations

import hashlib
import io
from typing import Dict, NamedTuple, Tuple

from nuitkal_mini.delta.apply import DeltaReader
from nuitkal_mini.delta.write import Release, write_delta
from nuitkal_mini.entries import FileEntry
from nuitkal_mini.manifest import Manifest, dumps, loads
from tests.delta.programs import Numbers, library, program

SIGNATURE = "untrusted comment: a signature\nRWQ…\n"


class Tree(NamedTuple):
    """A release's contents by path, and its manifest."""

    contents: Dict[str, bytes]
    manifest: bytes

    def read(self, entry: FileEntry) -> bytes:
        return self.contents[entry.path]


def tree(version: str, contents: Dict[str, bytes]) -> Tree:
    """A release of these contents."""
    entries = sorted(
        FileEntry(path, len(content), hashlib.sha256(content).hexdigest(), "644")
        for path, content in contents.items()
    )
    return Tree(contents, dumps(Manifest("app", version, tuple(entries))))


def release_pair() -> Tuple[Tree, Tree]:
    """Executables, texts, a file that moves, one with another name, new ones, a large one."""
    numbers = Numbers(3)
    text = b"".join(b"%d: line %d of a text\n" % (n, numbers.below(1000)) for n in range(3000))
    backwards = library("old")[::-1]
    blob = Numbers(8).bytes(3000) * 100
    old = {
        "app/lib.so": library("old"),
        "app/main.exe": program(60),
        "app/same.bin": bytes(1000),
        "doc/text.txt": text,
        "doc/gone.txt": text[:5000],
        "lib/libfoo-1a2b3c4d.so.1": backwards,
        "old/place.txt": text[500:9000],
    }
    new = {
        "app/lib.so": library("new"),
        "app/main.exe": program(60, (10, 30), 64),
        "app/same.bin": bytes(1000),
        "app/small.cfg": b"a new small file\n",
        "app/empty": b"",
        "doc/text.txt": text[:20_000] + b"something new\n" + text[20_100:],
        "lib/libfoo-99aabbcc.so.1": backwards[:20_000] + b"!" + backwards[20_000:],
        "new/blob.bin": blob,
        "new/place.txt": text[500:9000],
    }
    return tree("1.0.0", old), tree("1.0.1", new)


def written(old: Tree, new: Tree) -> bytes:
    """The delta between two releases."""
    return b"".join(
        write_delta(Release(old.manifest, old.read), Release(new.manifest, new.read, SIGNATURE))
    )


def apply_all(delta: bytes, old: Tree) -> Dict[str, bytes]:
    """The contents that come out of a delta, by path. Raises DeltaError."""
    reader = DeltaReader(io.BytesIO(delta).read)
    manifest, _ = reader.manifest(old.manifest)
    files = reader.files(loads(manifest).files, loads(old.manifest).files, old.read)
    return {entry.path: b"".join(pieces) for entry, pieces in files}
