"""Fuzzes the delta codec: `python -m tests.delta.fuzz SECONDS [FILE…]`; prints what came of it.

By turns: a changed file must come out of its delta; a damaged delta must give a file or DeltaError.
Further files (executables) join the two that the tests use.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

from nuitkal_mini.delta.decode import decode_file
from nuitkal_mini.delta.encode import _encode_executable, _encode_plain
from nuitkal_mini.delta.format import DeltaError
from tests.delta.mutations import changed, damaged
from tests.delta.programs import library, program


def main(seconds: float, paths: list[str]) -> int:
    """Run for so long; 1 when anything came out wrong."""
    seed = random.randrange(2**32)
    source = random.Random(seed)
    bases = [library("old"), program(60), *(Path(path).read_bytes() for path in paths)]
    counts: Counter[str] = Counter()
    slowest = 0.0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        old = source.choice(bases)
        new = changed(old, source)
        if source.random() < 0.3:
            old, new = new, old
        for encode in (_encode_executable, _encode_plain):
            coded = encode(old, new)
            if coded is None:
                counts["not encoded"] += 1
                continue
            try:
                right = decode_file(coded, bytearray(old), len(new)) == new
            except DeltaError:
                right = False
            counts["right" if right else "wrong, so another way is taken"] += 1
            for _ in range(10):
                started = time.process_time()
                try:
                    result = decode_file(damaged(coded, source), bytearray(old), len(new))
                    counts["damaged: a file"] += 1
                    assert len(result) == len(new)
                except DeltaError:
                    counts["damaged: DeltaError"] += 1
                except Exception as error:
                    counts[f"FAULT {error!r:.80}"] += 1
                slowest = max(slowest, time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"seed {seed}, slowest decode {slowest:.2f} s CPU, peak memory {peak} MB")
    for name, count in sorted(counts.items()):
        print(f"{count:8} {name}")
    return int(any(name.startswith("FAULT") for name in counts))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
