"""The client as one file: `python3 tools/vendor.py DEST.py [--window] [--check]`.

The same as `python -m nuitkal_mini.publish vendor`, from a checkout. `--check` compares instead of
writing, and exits with 1 on a difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nuitkal_mini.publish.vendor import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
