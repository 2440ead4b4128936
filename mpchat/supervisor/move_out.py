"""Moving connections out of a worker, batch by batch; they go wherever there is most room.

At most two batches are in transit: one arrives while the next is being prepared. The supervisor needs a
descriptor for each connection in transit, so batches shrink while descriptors are short.
"""

import logging
import time
from collections.abc import Callable, Generator

from mpchat.errors import StartError
from mpchat.reactor import Reactor
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.worker_handle import WorkerHandle

# Connections that leave a worker together: their state and descriptors fit one message, and each waits only
# for the others of its batch.
BATCH = 128
# Seconds until a worker that had no connection to move, or could not move any, is asked again.
ASK_AGAIN = 0.02
# Requests in a row for a single connection that fail for want of descriptors before the change is given up.
TRIES = 100

log = logging.getLogger("mpchat.supervisor")

# What a change consists of: a generator that never waits, but yields and is resumed at every turn of the
# loop.
Steps = Generator[None, None, None]


def nap(reactor: Reactor, seconds: float) -> Steps:
    """Yield for ``seconds``."""
    until = time.monotonic() + seconds
    reactor.call_later(seconds, wake)
    while time.monotonic() < until:
        yield


def wake() -> None:
    """Do nothing: a due timer makes the loop turn, and the turn resumes the change."""


class Mover:
    """Moves connections out of workers for one change."""

    def __init__(self, pool: WorkerPool, placement: Placement, reactor: Reactor) -> None:
        self._pool = pool
        self._placement = placement
        self._reactor = reactor
        # Connections that are moved together: fewer while descriptors are short.
        self._batch = BATCH
        # Descriptors were short, which the log says once; single connections asked for in vain, in a row.
        self._was_short = False
        self._in_vain = 0

    def move_from(self, handle: WorkerHandle, count: int, given_up: Callable[[], bool]) -> Steps:
        """Move a batch of at most ``count`` connections out of a worker, unless ``given_up`` meanwhile.

        Raise :class:`StartError` when for want of descriptors not even one could be moved for a while.
        """
        while handle.connections.asked or not self._can_place:
            if handle.closed or given_up():
                return
            yield
        connections = handle.connections
        before, refused = connections.moved_out, connections.refused
        handle.move_out(min(count, self._batch))
        while connections.asked and not handle.closed:
            yield
        if connections.refused > refused and not handle.closed:
            self._shrink_batch()
        elif connections.moved_out > before:
            self._batch, self._in_vain = min(BATCH, 2 * self._batch), 0
        if connections.moved_out == before and not handle.closed:  # its connections just arrive, or end
            yield from nap(self._reactor, ASK_AGAIN)

    @property
    def _can_place(self) -> bool:
        """True when a further batch may be in transit and there is a worker to take it."""
        return len(self._placement.transit) <= self._batch and bool(self._pool.serving)

    def never_give_up(self) -> None:
        """Forget failures so far; called before each batch, it makes moving go on as long as it takes."""
        self._in_vain = 0

    def _shrink_batch(self) -> None:
        """Take note that a batch had more connections than this process has free descriptors."""
        if not self._was_short:
            self._was_short = True
            log.warning("short of descriptors: connections are moved in smaller batches")
        if self._batch == 1:
            self._in_vain += 1
        if self._in_vain >= TRIES:
            raise StartError("no descriptor is free to move a connection with; see ulimit -n")
        self._batch = max(1, self._batch // 2)

    def all_arrived(self) -> Steps:
        """Yield until no connection is in transit between two workers."""
        while self._placement.transit:
            yield
