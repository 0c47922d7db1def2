"""A program that tells what it was given, and waits for a signal when it is asked to."""

import os
import signal
import sys
import time

print("program version 1", sys.argv[1:], os.path.basename(os.getcwd()), flush=True)
for name in ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH"):
    print(name, os.environ.get(name), flush=True)
if sys.argv[1:2] == ["wait"]:

    def leave(number: int, _: object) -> None:
        print("signal", number, flush=True)
        sys.exit(33)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    print("ready", flush=True)
    time.sleep(60)
print("read", sys.stdin.read(), flush=True)
sys.exit(7)
