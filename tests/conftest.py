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

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job, as CI's steps are: Ctrl-C is part of what is tested
    signal.signal(signal.SIGINT, signal.default_int_handler)
