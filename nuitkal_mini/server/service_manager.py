"""What systemd passes to a service, and what it wants to hear: sd_listen_fds(3), sd_notify(3)."""

from __future__ import annotations

import os
import socket
from typing import Optional

from ..problem import Problem

FIRST_DESCRIPTOR = 3


def inherited_listener() -> Optional[socket.socket]:
    """The socket of a .socket unit; None when this process was not started through one.

    Raises:
        Problem: there are several sockets, or it is not TCP's.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # they are not our children's
        os.environ.pop(name, None)
    sock = socket.socket(fileno=FIRST_DESCRIPTOR) if count == "1" else None
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        if sock is not None:
            sock.close()
        raise Problem("the .socket unit must pass one TCP socket: give it one ListenStream= a port")
    return sock


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
