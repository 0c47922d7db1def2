"""How all tests run.

Hypothesis without deadlines, since other work shares the cores, and the same examples at every run
of CI.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile(
    "nuitkal", deadline=None, max_examples=40, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("nuitkal")

# A shell's background job, as CI's steps are, ignores Ctrl-C, and one under nohup the end of its
# terminal: both are part of what is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
