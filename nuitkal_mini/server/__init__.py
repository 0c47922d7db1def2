"""The server: stores releases, answers `check/`, sends packages, has an admin site.

`create_app` returns the WSGI application for any WSGI server; `python -m nuitkal_mini.server` runs
the one of this package.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Callable, Iterable, Optional, Sequence, Union

__all__ = ["create_app"]


def create_app(
    data_dir: Union[str, os.PathLike[str]],
    public_url: str = "",
    max_upload: int = 0,
    public_keys: Sequence[str] = (),
    admin: bool = True,
    max_data: Optional[int] = None,
    keep: Optional[int] = None,
) -> Callable[..., Iterable[bytes]]:
    """The WSGI application over a data folder, which is made when it is missing.

    Args:
        public_url: what URLs begin with; else the address that each request was sent to.
        max_upload: the largest upload in bytes; 0: 4 GiB.
        public_keys: minisign public keys; any at all mean that only releases signed by one of them
            are taken.
        admin: whether there is an admin site.
        max_data: bytes that the data folder may take; None: what the disk has room for.
        keep: how many releases older than a channel's active one stay; None: all.
    """
    from ..minisign import parse_public_key  # here, so that importing this package stays light
    from .api import MAX_UPLOAD, Settings
    from .application import Application

    keys = tuple(map(parse_public_key, public_keys))
    _exit_on_sigterm()
    return Application(
        Path(data_dir),
        Settings(
            public_url.rstrip("/") or None,
            max_upload or MAX_UPLOAD,
            keys,
            admin,
            max_data=max_data,
            keep=keep,
        ),
    )


def _exit_on_sigterm() -> None:
    """Let SIGTERM end the process by SystemExit where nobody handles it, as in waitress.

    By default the system ends it at once, and figures that are not written yet would be lost.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
