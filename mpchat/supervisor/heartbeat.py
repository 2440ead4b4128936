"""Heartbeat: what a worker's beats say: its figures, its silence, and whether it hangs.

No clock, no process: time comes in as an argument, and :mod:`mpchat.supervisor.hang_watch` acts.
"""

from enum import Enum
from typing import NamedTuple

from mpchat.ipc.items import Beat

# Seconds that a new worker has to become ready.
READY_TIMEOUT = 30.0
# Seconds from a hung worker's stack dump to its end.
DUMP_GRACE = 1.0


class Health(Enum):
    """What a worker's silence means."""

    WELL = "well"
    # It has not become ready in time.
    NOT_READY = "not ready"
    # Its loop does not turn: first its stacks are written, then, if it stays silent, it is killed.
    HUNG = "hung"
    HUNG_AFTER_DUMP = "hung after dump"


class Rates(NamedTuple):
    """Figures per second, between the last two beats."""

    messages_in: float = 0.0
    messages_out: float = 0.0
    # CPU seconds.
    cpu: float = 0.0


class Heartbeat:
    """One worker's beats. All times are in seconds, monotonic."""

    def __init__(self, hang_timeout: float, now: float) -> None:
        """Begin with the start of the process. The worker beats as its own settings say."""
        self.hang_timeout = hang_timeout
        self.ready_at: float | None = None
        self.last_at = now
        self.beat = Beat()
        self._started = now
        self._before = Beat()
        self._beat_at = self._before_at = now
        self._dumped_at: float | None = None

    def on_ready(self, now: float) -> None:
        """Take note that the worker can serve."""
        self.ready_at = self.last_at = now

    def on_beat(self, beat: Beat, now: float) -> None:
        """Take note of a beat: the loop turns."""
        self._before, self._before_at = self.beat, self._beat_at
        self.beat, self._beat_at = beat, now
        self.last_at = now
        self._dumped_at = None

    def on_dump(self, now: float) -> None:
        """Take note that the worker's stacks are being written."""
        self._dumped_at = now

    def forgive(self, seconds: float, now: float) -> None:
        """Leave time out of account in which this process could not have heard a beat."""
        self.last_at = min(now, self.last_at + seconds)
        self._started = min(now, self._started + seconds)
        if self._dumped_at is not None:
            self._dumped_at += seconds

    def silence(self, now: float) -> float:
        """Return the seconds since the last beat."""
        return now - self.last_at

    def health(self, now: float) -> Health:
        """Return what the silence up to ``now`` means."""
        if self.ready_at is None:
            return Health.NOT_READY if now - self._started > READY_TIMEOUT else Health.WELL
        if self._dumped_at is not None:
            return Health.HUNG_AFTER_DUMP if now - self._dumped_at >= DUMP_GRACE else Health.WELL
        return Health.HUNG if self.silence(now) > self.hang_timeout else Health.WELL

    def rates(self) -> Rates:
        """Return figures per second."""
        beat, before = self.beat, self._before
        span = max(self._beat_at - self._before_at, 0.001)
        return Rates(
            (beat.messages_in - before.messages_in) / span,
            (beat.messages_out - before.messages_out) / span,
            (beat.cpu - before.cpu) / span,
        )
