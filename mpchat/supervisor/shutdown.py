"""Shutdown: the steps of an orderly stop, each with the same deadline.

First connections in transit arrive, and so do clients that wait for a worker, if nobody is to be refused.
Then the workers post what they have read, and the hub delivers it. Then clients get the farewell and what
they are owed, and the workers end. At last the TLS processes end, when they have passed that on. A process
that is late is killed.
"""

import logging
from enum import Enum

from mpchat.hub.hub import Hub
from mpchat.supervisor.cluster_part import ClusterPart
from mpchat.supervisor.live_settings import LiveSettings
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import Phase, WorkerPool
from mpchat.supervisor.refusals import Refusal
from mpchat.supervisor.tls_pool import TlsPool

# Seconds that a second request to stop leaves of the deadline.
QUICK = 0.5
# Seconds that workers get beyond the deadline that they were told, before they are killed.
STOP_GRACE = 1.5
# Seconds within which a client that was just accepted has begun to speak TLS, and has shaken hands: a silent
# client must not keep the server.
FIRST_BYTES = 0.3
HANDSHAKES = 1.0
STOPPING = Refusal("the server is stopping")

log = logging.getLogger("mpchat.supervisor")


class Step(Enum):
    """What the shutdown waits for, in order."""

    ARRIVALS = 1
    LAST_POSTS = 2
    WORKERS = 3
    KILLED_WORKERS = 4
    TLS = 5


class Shutdown:
    """An orderly stop, from :meth:`begin` until no worker is left."""

    def __init__(
        self, settings: LiveSettings, hub: Hub, pool: WorkerPool, tls: TlsPool, placement: Placement
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._pool = pool
        self._tls = tls
        self._placement = placement
        # This server as one of several hosts; None: it is alone.
        self.cluster: ClusterPart | None = None
        # Clients that were accepted are placed, not refused: the next server has the same listeners.
        self.refuses_nobody = False
        self._step = Step.ARRIVALS
        self._hurried = False
        # Seconds, monotonic.
        self._begun = 0.0
        # When the present step must have come to its end (seconds, monotonic); None: it is not limited.
        self.deadline: float | None = None

    def begin(self, now: float) -> None:
        """Start no worker any more; ``now`` is monotonic."""
        self._begun, self.deadline = now, now + self._settings.config.stop_timeout
        self._pool.phase = self._tls.phase = Phase.ENDING
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Refuse clients that wait for a worker, unless they will get one."""
        if not self._places:
            self._placement.refuse(STOPPING)

    @property
    def _places(self) -> bool:
        """True while clients that were accepted still go to workers."""
        waits = self.refuses_nobody and self._step is Step.ARRIVALS and not self._hurried
        return waits and bool(self._pool.serving)

    def due(self, now: float) -> float | None:
        """Return when it must go on whatever happens (seconds, monotonic); None: it is not limited."""
        if self.deadline is None or not self.refuses_nobody or self._step is not Step.ARRIVALS:
            return self.deadline
        looks = (self._begun + FIRST_BYTES, self._begun + HANDSHAKES)
        return min(each for each in (*looks, self.deadline) if each > now or each == self.deadline)

    def _arriving(self, now: float) -> bool:
        """Tell whether a connection is on its way to a worker: a worker that drains would send it back."""
        if self._pool.moving or not self._places:
            return self._pool.moving
        unacked = any(each.connections.unacked for each in self._pool.handles)
        return self._placement.holds_up or unacked or self._shaking(now)

    def _shaking(self, now: float) -> bool:
        """Tell whether a client may still come by a TLS process."""
        if not any(self._tls.handles):
            return False
        passed = now - self._begun
        return passed < FIRST_BYTES or (passed < HANDSHAKES and bool(self._tls.shaking or self._placement))

    def hurry(self, now: float) -> None:
        """Skip to the farewell, and leave clients little time for it.

        First connections in transit arrive, for as long at most: without a worker they hear no farewell.
        """
        self._hurried = True
        self.deadline = min(self.deadline or now, now + QUICK)
        if not (self._step is Step.ARRIVALS and self._pool.moving):
            self._skip_to_the_farewell(now)

    def _skip_to_the_farewell(self, now: float) -> None:
        if self._step is Step.ARRIVALS:
            self._drain_workers()
        self._close_workers(now)

    def proceed(self, now: float) -> None:
        """Go on as far as possible; call it in every turn of the loop."""
        self._refuse_waiting()
        ended = self._step in (Step.WORKERS, Step.KILLED_WORKERS) and not any(self._pool.handles)
        if ended and any(self._tls.handles):
            self._close_tls(now)
        if self.deadline is None:
            return
        late = now >= self.deadline
        if self._step is Step.ARRIVALS and (late or not self._arriving(now)):
            if self._hurried:
                self.deadline = now + QUICK
                self._skip_to_the_farewell(now)
            else:
                self._drain_workers()
        elif self._step is Step.LAST_POSTS and (late or self._delivered):
            self._close_workers(now)
        elif late:
            self._kill_workers()

    def _drain_workers(self) -> None:
        self._step = Step.LAST_POSTS
        self._pool.drain()

    @property
    def _delivered(self) -> bool:
        """True when the workers have posted everything and the hub has put it in order."""
        return self._pool.drained and self._hub.empty

    def _close_workers(self, now: float) -> None:
        """Send the farewell; tell the workers to give clients what they are owed and to end."""
        assert self.deadline is not None
        if self._step in (Step.WORKERS, Step.KILLED_WORKERS):
            return
        self._step = Step.WORKERS
        self._hub.turn(now)
        if farewell := self._settings.config.farewell:
            self._hub.say_farewell(farewell, now)
            self._hub.turn(now)
        # The farewell is the last message: that other clients have gone is no news now.
        self._hub.silence_notices(now)
        if self.cluster is not None:
            self.cluster.leave()
        self._pool.close(max(0.0, self.deadline - now))
        self.deadline = max(self.deadline, now) + STOP_GRACE

    def _close_tls(self, now: float) -> None:
        """Let the TLS processes end when clients have what the workers had for them."""
        self._step = Step.TLS
        left = max(QUICK, (self.deadline or now) - now)
        self.deadline = now + left + STOP_GRACE
        self._tls.close(left)

    def _kill_workers(self) -> None:
        if self._step is Step.TLS:
            log.warning("not ended in time, killed: TLS processes")
            self._tls.kill()
        else:
            self._step = Step.KILLED_WORKERS
            slots = sorted({handle.slot for handle in self._pool.handles})
            log.warning("not ended in time, killed: workers %s", slots)
            self._pool.kill()
        self.deadline = None
