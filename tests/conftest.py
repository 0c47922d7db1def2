"""How all tests run: hypothesis without deadlines, since other work shares the cores, and the same examples at every run of CI."""
from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("nuitkal", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("nuitkal")
