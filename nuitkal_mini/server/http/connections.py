"""The open connections: how many there may be, whose they are, and which of them to close when
there are too many.

The leader runs everything here.
"""

from __future__ import annotations

import heapq
import ipaddress
import time
from collections import Counter
from functools import lru_cache, partial
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from ..responses import parse_address
from .connection import BODY_SECONDS, HEAD_SECONDS, WINDOW_SECONDS, Connection, State
from .request import Network, is_trusted

MAX_CONNECTIONS = 10_000  # 4 kB each at rest
MAX_WITH_SELECT = 400  # below the 512 descriptors of select() on Windows
RESERVED_DESCRIPTORS = 124  # for the database, for files being written, for the interpreter
CROWDED = 0.9  # of the limit: from there on answers close their connection
PER_ADDRESS = 0.25  # of the limit: many people may share one address
PATIENCE_SECONDS = 2.0  # for which a new connection is not counted as slow


def system_limit() -> int:
    """How many connections this process may have: a descriptor for each, and one for the file that
    it gets.

    Raises the soft limit on open files to what the hard limit allows.
    """
    try:
        import resource
    except ImportError:  # Windows
        return MAX_WITH_SELECT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        higher = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (higher, hard))
            soft = higher
        except (ValueError, OSError):  # macOS: the kernel's limit is lower
            pass
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, (soft - RESERVED_DESCRIPTORS) // 2))


class Connections:
    """All connections that are open, at most `limit`."""

    def __init__(self, limit: int, trusted: Sequence[Network]) -> None:
        self.limit = limit
        # Remembered, because a proxy forwards another client with each request.
        self._key_of = lru_cache(maxsize=1024)(partial(_counted_as, trusted=trusted))
        self._open: Dict[Connection, None] = {}
        self._of_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._open))

    @property
    def is_full(self) -> bool:
        return len(self._open) >= self.limit

    @property
    def is_crowded(self) -> bool:
        return len(self._open) > CROWDED * self.limit

    def add(self, connection: Connection) -> None:
        self._open[connection] = None
        self.count(connection)

    def remove(self, connection: Connection) -> None:
        if connection in self._open:
            del self._open[connection]
            self._uncount(connection)

    def count(self, connection: Connection) -> None:
        """Count the connection among those of its present client, when that is no trusted proxy."""
        key = self._key_of(connection.client)
        if key != connection.counted_as:
            self._uncount(connection)
            connection.counted_as = key
            if key:
                self._of_address[key] += 1

    def _uncount(self, connection: Connection) -> None:
        key, connection.counted_as = connection.counted_as, ""
        if key:
            self._of_address[key] -= 1
            if not self._of_address[key]:
                del self._of_address[key]

    def over_share(self, connection: Connection) -> Optional[Connection]:
        """The connection to close when the client of this one has more than its share."""
        key = connection.counted_as
        if not key or self._of_address[key] <= max(1, PER_ADDRESS * self.limit):
            return None
        mine = (other for other in self._open if other.counted_as == key)
        return next(iter(self._least(mine, 1)), connection)

    def victims(self) -> List[Connection]:
        """The connections to close when all places are taken: one in 200, those with the least
        progress.
        """
        return self._least(iter(self._open), max(1, len(self._open) // 200))

    def slowest_reader(self) -> Optional[Connection]:
        """The connection whose thread waits for the slowest client."""
        waiting = (other for other in self._open if other.is_waiting)
        return min(waiting, key=lambda other: other.deadline, default=None)

    def _least(self, among: Iterator[Connection], count: int) -> List[Connection]:
        now = time.monotonic()
        ranked: List[Tuple[Tuple[int, float], Connection]] = []
        for connection in among:
            progress = _progress(connection, now)
            if progress is not None:
                ranked.append((progress, connection))
        return [item[1] for item in heapq.nsmallest(count, ranked, key=lambda item: item[0])]


def _progress(connection: Connection, now: float) -> Optional[Tuple[int, float]]:
    """Smaller for less progress; None for a request in the app's hands, which is never closed for
    another.
    """
    state, left = connection.state, connection.deadline - now
    if state is State.LINGERING:
        return 0, left
    if state is State.RUNNING:
        return ((1 if left < WINDOW_SECONDS / 2 else 4), left) if connection.is_waiting else None
    if state is State.SENDING:
        connection.has_stalled()  # brings the deadline up to date
        left = connection.deadline - now
        return (1 if left < WINDOW_SECONDS / 2 else 4), left
    has_begun = connection.head is not None or bool(connection.received)
    if has_begun or state is State.HANDSHAKE:
        total = BODY_SECONDS if connection.head is not None else HEAD_SECONDS
        return (1 if left < total - PATIENCE_SECONDS else 4), left
    if connection.has_been_served or now - connection.since < PATIENCE_SECONDS:
        return 3, connection.since
    return 2, connection.since  # silent since it was opened


def _counted_as(client: str, trusted: Sequence[Network]) -> str:
    """An address, or the network of 2**64 that an IPv6 client has to itself; empty for a trusted
    proxy.
    """
    address = parse_address(client)
    if address is None or is_trusted(address, trusted):
        return ""
    if address.version == 6:
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
