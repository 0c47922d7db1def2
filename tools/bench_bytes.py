"""Bytes of updates: `python3 tools/bench_bytes.py [PAIR…]`; needs bsdiff, zstd and xdelta3.

Fetches pairs of wheels from PyPI (or takes `NAME=OLD.whl,NEW.whl`), makes a release of each, and
prints in one run: the delta with manifest, check/ and HTTP heads; bsdiff, zstd -19 --patch-from and
xdelta3 on each changed file; the changed files as a ZIP; the whole package. CPU seconds and peak
memory are of a process of its own for each.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nuitkal_mini.delta.apply import DeltaReader  # noqa: E402
from nuitkal_mini.delta.pairs import pair_files  # noqa: E402
from nuitkal_mini.delta.write import Release, write_delta  # noqa: E402
from nuitkal_mini.entries import FileEntry  # noqa: E402
from nuitkal_mini.manifest import Manifest, dumps, loads  # noqa: E402

HTTP_BYTES = 2 * 500 + 1000  # two requests with the heads of their answers, and check/
LINUX = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
WINDOWS = ("win_amd64",)
PAIRS: Dict[str, Tuple[str, str, str, Sequence[str]]] = {
    "pydantic": ("pydantic-core", "2.20.0", "2.20.1", LINUX),
    "pydantic-win": ("pydantic-core", "2.20.0", "2.20.1", WINDOWS),
    "cryptography": ("cryptography", "42.0.7", "42.0.8", LINUX),
    "cryptography-win": ("cryptography", "42.0.7", "42.0.8", WINDOWS),
    "numpy": ("numpy", "2.0.0", "2.0.1", LINUX),
    "numpy-win": ("numpy", "2.0.0", "2.0.1", WINDOWS),
    "lxml": ("lxml", "5.2.1", "5.2.2", LINUX),
    "pillow": ("pillow", "10.3.0", "10.4.0", LINUX),
    "pillow-win": ("pillow", "10.3.0", "10.4.0", WINDOWS),
    "matplotlib": ("matplotlib", "3.9.0", "3.9.1", LINUX),
    "grpcio": ("grpcio", "1.64.0", "1.64.1", LINUX),
}
# A tool, and its command for (old, new, patch).
TOOLS: Dict[str, Callable[[str, str, str], List[str]]] = {
    "bsdiff": lambda old, new, patch: ["bsdiff", old, new, patch],
    "zstd": lambda old, new, patch: [
        "zstd", "-19", "--long=27", "-q", "-f", f"--patch-from={old}", new, "-o", patch,
    ],
    "xdelta3": lambda old, new, patch: ["xdelta3", "-9", "-f", "-s", old, new, patch],
}  # fmt: skip


class Cost(NamedTuple):
    """Bytes that travel, CPU seconds, and peak memory in MB of the largest process."""

    size: int
    seconds: float
    peak_mb: float


def main(names: List[str]) -> int:
    """Print a line for each pair, and the sum."""
    print(
        f"{'pair':18}{'changed MB':>11}{'ours':>10}{'bsdiff':>10}{'zstd':>10}{'xdelta3':>10}",
        end="",
    )
    print(f"{'zip':>11}{'package':>11}  ours/bsdiff  CPU s: encode apply bsdiff  MB: encode apply")
    totals = {"ours": 0, "bsdiff": 0}
    for name in names or list(PAIRS):
        with tempfile.TemporaryDirectory() as scratch:
            old, new = _wheels(name, Path(scratch))
            shown = _measure(name.split("=")[0], old, new, Path(scratch))
        totals = {key: totals[key] + shown[key] for key in totals}
    print(f"sum: ours {totals['ours']:,}, bsdiff {totals['bsdiff']:,}", end="")
    print(f", {totals['ours'] / max(1, totals['bsdiff']):.3f}")
    return 0


def _wheels(name: str, folder: Path) -> Tuple[Path, Path]:
    if "=" in name:
        old, new = name.partition("=")[2].split(",")
        return Path(old), Path(new)
    package, before, after, platforms = PAIRS[name]
    for version in (before, after):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        command += ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
        command += ["--abi=cp311", "--abi=abi3", "--abi=none"]
        command += [f"--platform={platform}" for platform in platforms]
        subprocess.run([*command, f"{package}=={version}"], check=True)
    found = {path.name.split("-")[1]: path for path in folder.glob("*.whl")}
    return found[before], found[after]


def _measure(name: str, old: Path, new: Path, scratch: Path) -> Dict[str, int]:
    delta = scratch / "delta"
    encode = _child("encode", old, new, delta)
    apply = _child("apply", old, new, delta)
    old_contents, new_contents = dict(_contents(old)), dict(_contents(new))
    old_files, new_files = (
        loads(_manifest(contents.items())).files for contents in (old_contents, new_contents)
    )
    pairs = [
        (old_contents[old_files[pair.source].path] if pair.source >= 0 else b"",
         new_contents[new_files[pair.target].path])
        for pair in pair_files(old_files, new_files)
    ]  # fmt: skip
    others = {tool: _patches(tool, pairs, scratch) for tool in TOOLS}
    changed = sum(len(content) for _, content in pairs)
    ours = encode.size + HTTP_BYTES
    bsdiff = others["bsdiff"]
    print(f"{name:18}{changed / 1e6:11.1f}{ours:10,}", end="")
    print("".join(f"{others[tool].size:10,}" for tool in TOOLS), end="")
    print(f"{_zipped([content for _, content in pairs]):11,}{new.stat().st_size:11,}", end="")
    print(f"{ours / max(1, bsdiff.size):13.3f}{encode.seconds:15.1f}{apply.seconds:6.1f}", end="")
    print(f"{bsdiff.seconds:7.1f}{encode.peak_mb:12.0f}{apply.peak_mb:6.0f}", flush=True)
    return {"ours": ours, "bsdiff": bsdiff.size}


def _patches(tool: str, pairs: Sequence[Tuple[bytes, bytes]], scratch: Path) -> Cost:
    """All changed files by one tool; a file without a source counts as bzip2 makes it."""
    size, seconds, peak = 0, 0.0, 0.0
    before, after, patch = (str(scratch / part) for part in ("before", "after", "patch"))
    for old, new in pairs:
        if not old or not new:  # bsdiff cannot map an empty file
            size += len(bz2.compress(new))
            continue
        Path(before).write_bytes(old)
        Path(after).write_bytes(new)
        cost = _run(TOOLS[tool](before, after, patch))
        size += Path(patch).stat().st_size
        seconds += cost.seconds
        peak = max(peak, cost.peak_mb)
    return Cost(size, seconds, peak)


def _child(verb: str, old: Path, new: Path, delta: Path) -> Cost:
    cost = _run(
        [sys.executable, str(Path(__file__).resolve()), verb, str(old), str(new), str(delta)]
    )
    return cost._replace(size=delta.stat().st_size)


def _run(command: List[str]) -> Cost:
    """Run a command; its CPU seconds and peak memory."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"{command[0]} failed: {said.decode(errors='replace')}")
    return Cost(0, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _contents(wheel: Path) -> Iterator[Tuple[str, bytes]]:
    """One file at a time, so that the peaks are those of encoding and decoding."""
    with zipfile.ZipFile(wheel) as package:
        for name in package.namelist():
            if name[-1] != "/":
                yield name, package.read(name)


def _manifest(contents: Iterable[Tuple[str, bytes]]) -> bytes:
    entries = sorted(
        FileEntry(path, len(content), hashlib.sha256(content).hexdigest(), "644")
        for path, content in contents
    )
    return dumps(Manifest("bench", "1.0.0", tuple(entries)))


def _zipped(contents: Sequence[bytes]) -> int:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for number, content in enumerate(contents):
            package.writestr(str(number), content)
    return len(out.getvalue())


def _encode(old: Path, new: Path, delta: Path) -> None:
    with open(delta, "wb") as out:
        for piece in write_delta(_release(old), _release(new)):
            out.write(piece)


def _release(wheel: Path) -> Release:
    package = zipfile.ZipFile(wheel)
    return Release(_manifest(_contents(wheel)), lambda entry: package.read(entry.path))


def _apply(old: Path, new: Path, delta: Path) -> None:
    package = zipfile.ZipFile(old)
    text = _manifest(_contents(old))
    with open(delta, "rb") as file:
        reader = DeltaReader(file.read)
        manifest, _ = reader.manifest(text)
        files = reader.files(
            loads(manifest).files, loads(text).files, lambda entry: package.read(entry.path)
        )
        for _, pieces in files:
            for _ in pieces:
                pass


if __name__ == "__main__":
    if sys.argv[1:2] in (["encode"], ["apply"]):
        paths = [Path(argument) for argument in sys.argv[2:]]
        (_encode if sys.argv[1] == "encode" else _apply)(*paths)
    else:
        sys.exit(main(sys.argv[1:]))
