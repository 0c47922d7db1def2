"""What systemd passes to a service, and what it wants to hear: sd_listen_fds(3), sd_notify(3)."""

from __future__ import annotations

import os
import socket
from typing import Optional

FIRST_DESCRIPTOR = 3


def inherited_listener() -> Optional[socket.socket]:
    """The socket of a .socket unit; None when this process was not started through one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # they are not our children's
        os.environ.pop(name, None)
    return socket.socket(fileno=FIRST_DESCRIPTOR)


def notify_ready() -> None:
    """Tell the service manager, if there is one, that connections are accepted.

    Raises:
        OSError: it does not take the message.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # A name that begins with @ is in Linux's abstract namespace.
            sock.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)
