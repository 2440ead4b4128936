"""A change under way, and what reload, scale and rebalance share.

A change is a generator. It does what can be done now, yields, and is resumed at every turn of the
supervisor's loop. So it reads from top to bottom, although nothing in it ever waits. At any moment each
connection is with exactly one worker or in transit to one.
"""

import logging
import time

from mpchat.config import Config
from mpchat.control.answers import Pauses, Progress, ReloadResult, ScaleResult
from mpchat.control.messages import Answer, Reply
from mpchat.errors import StartError
from mpchat.reactor import Reactor
from mpchat.supervisor.move_out import Mover, Steps, nap, wake
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.restart_policy import BACKOFF_FIRST
from mpchat.supervisor.slot import Slot
from mpchat.supervisor.worker_handle import WorkerHandle

# The names of changes, in the status, in errors and in the log.
RELOAD = "reload"
SCALE = "scale"
REBALANCE = "rebalance"
# Seconds that a worker without connections has to post its last words and end.
RETIRE_TIMEOUT = 5.0
# Seconds between two reports of progress.
REPORT_EVERY = 0.1

log = logging.getLogger("mpchat.supervisor")


class Renewal:
    """What a reload has done so far."""

    def __init__(self) -> None:
        # Slots with a new worker, settings that have changed, settings that need a restart and the reasons.
        self.renewed: list[int] = []
        self.changed: list[str] = []
        self.kept: dict[str, str] = {}


class Change:
    """The change under way: what its steps work with, and what its answer will say."""

    def __init__(
        self, name: str, pool: WorkerPool, placement: Placement, reactor: Reactor, reply: Reply | None
    ) -> None:
        """Take note of what there is before. ``reply`` is None for a change that no command asked for."""
        self.name = name
        # What it has done, if it is a reload.
        self.renewal = Renewal() if name == RELOAD else None
        self.pool = pool
        self.placement = placement
        self.mover = Mover(pool, placement, reactor)
        # How many workers the change leads to, as far as that is known.
        self.aim: int | None = None
        self.began = time.monotonic()
        self._reactor = reactor
        self._reply = reply
        self._lost_before = pool.lost
        self._moves_before = placement.transit.moves
        self._reported_at = 0.0
        placement.transit.take_pauses()

    # What it says.

    def report(self, phase: str, worker: int, done: int, of: int, connections: int = 0) -> None:
        """Send a report of progress to the command that asked: ``done`` ``of`` the workers are done.

        ``connections`` is how many the worker still has to move.
        """
        now = time.monotonic()
        if self._reply is None or now - self._reported_at < REPORT_EVERY:
            return
        self._reported_at = now
        moved = self.placement.transit.moves - self._moves_before
        progress = Progress(
            phase=phase, worker=worker, done=done, workers=of, moved=moved, connections=connections
        )
        self._reply(Answer(progress, final=False))

    def answer(self, result: ScaleResult | ReloadResult, code: int, text: str) -> None:
        """Send the final answer to the command that asked."""
        if self._reply is not None:
            self._reply(Answer(result, code, text))

    def result(self, code: int) -> ScaleResult | ReloadResult:
        """Return what was done up to now; ``code`` is the exit code."""
        pauses = sorted(self.placement.transit.take_pauses())
        done = ScaleResult(
            generation=self.pool.generation,
            workers=len(self.pool),
            moved=len(pauses),
            failed=self._left_behind() if code else 0,
            lost=self.pool.lost - self._lost_before,
            pauses=Pauses(p50=_share(pauses, 0.5), p99=_share(pauses, 0.99), max=_share(pauses, 1.0)),
            seconds=time.monotonic() - self.began,
        )
        if self.renewal is None:
            return done
        fields = {name: getattr(done, name) for name in ScaleResult.__struct_fields__}
        return ReloadResult(
            renewed=self.renewal.renewed, changed=self.renewal.changed, kept=self.renewal.kept, **fields
        )

    def _left_behind(self) -> int:
        """How many connections are with workers older than the settings that should hold."""
        behind = (each for each in self.pool.handles if each.generation < self.pool.generation)
        return sum(each.load for each in behind)

    # What changes have in common.

    def nap(self, seconds: float) -> Steps:
        """Yield for ``seconds``."""
        return nap(self._reactor, seconds)

    def check_room(self, workers: int) -> None:
        """Raise :class:`StartError` if ``workers`` workers cannot hold the connections that there are."""
        check_room(self.pool, self.placement, workers)

    @property
    def lacks_room(self) -> bool:
        """True when the workers that will stay cannot hold the connections that there are."""
        return _connections(self.pool, self.placement) > self.pool.able * self.placement.per_worker

    def start_next(self, slot: Slot, config: Config, generation: int) -> WorkerHandle:
        """Start the worker that will take a slot over. Raise :class:`StartError` if that is impossible."""
        try:
            return self.pool.start_next(slot, config, generation)
        except OSError as error:
            if not slot.handles:
                self.pool.start(slot)
            raise StartError(f"worker {slot.number} could not be started: {error.strerror}") from None

    def until_ready(self, new: WorkerHandle) -> Steps:
        """Yield until a new worker is ready. Raise :class:`StartError` if it dies before its turn comes."""
        while not new.ready or new.closed:
            if new.closed:
                slot = self.pool.slots.get(new.slot)
                if slot is not None and not slot.handles:
                    self.pool.start_later(slot, BACKOFF_FIRST)
                serves = slot is not None and slot.handle is not None and slot.handle.ready
                raise StartError(
                    f"the new worker {new.slot} ended before it could serve, {new.how}; "
                    f"{'the worker that served before serves on; ' if serves else ''}the log says why"
                )
            yield

    def retire(self, old: WorkerHandle) -> Steps:
        """Let a worker without connections post its last words and end; kill it when it takes too long."""
        if old.closed:
            return
        self.pool.retire(old)
        deadline = time.monotonic() + RETIRE_TIMEOUT
        self._reactor.call_later(RETIRE_TIMEOUT, wake)
        while not old.closed:
            if time.monotonic() >= deadline:
                log.warning("has not ended in time after it was replaced, killed: worker %d", old.slot)
                old.kill()
                deadline += RETIRE_TIMEOUT
            yield


def check_room(pool: WorkerPool, placement: Placement, workers: int) -> None:
    """Raise :class:`StartError` if ``workers`` workers cannot hold the connections that there are."""
    connections = _connections(pool, placement)
    fit = workers * placement.per_worker
    if connections > fit:
        raise StartError(
            f"{workers} workers have room for {fit} connections, there are {connections}; nothing has changed"
        )


def _connections(pool: WorkerPool, placement: Placement) -> int:
    return pool.connections + len(placement)


def _share(values: list[float], share: float) -> float:
    """Return the value of sorted ``values`` that ``share`` of them do not exceed; 0.0 if there is none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0
