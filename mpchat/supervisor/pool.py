"""Worker pool: the slots and their worker processes, from the start of each to its end.

The pool knows which worker serves in which slot, and decides what a worker's death means. Why a worker is
replaced, and where its connections go, is decided in :mod:`mpchat.supervisor.change_runner`. When the next
worker starts is decided in :mod:`mpchat.supervisor.restart_policy`.
"""

import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from mpchat.config import Config, default_workers
from mpchat.cores import usable_cores
from mpchat.instance.record import Identity
from mpchat.ipc.durations import Durations
from mpchat.ipc.items import Down
from mpchat.reactor import Reactor
from mpchat.supervisor.metrics.totals import Totals
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.restart_policy import (
    BACKOFF_FIRST,
    BACKOFF_MOST,
    DEATHS_AT_START,
    DEATHS_TO_FAILING,
    BackOff,
)
from mpchat.supervisor.slot import Slot, SlotState
from mpchat.supervisor.worker_handle import WorkerHandle
from mpchat.supervisor.worker_process import WORKER
from mpchat.supervisor.worker_watch import WorkerEvents, WorkerWatch

# Seconds from one try to start a worker to the next when the system has no room for it.
START_AGAIN = 1.0
# Seconds between workers when a signal is passed on to all; a stack dump takes a few milliseconds.
SIGNALS_APART = 0.05

log = logging.getLogger("mpchat.supervisor")


class Phase(Enum):
    """Where the pool is between its start and its end."""

    # A slot whose workers die ends the start.
    STARTING = "starting"
    SERVING = "serving"
    # No worker is started or replaced.
    ENDING = "ending"


class PoolObserver(NamedTuple):
    """What the pool calls."""

    # A worker has become ready.
    on_ready: Callable[[], None]
    # Processes have come or gone; these are there now.
    on_processes: Callable[[list[Identity]], None]
    # The server cannot start, for this reason.
    on_hopeless: Callable[[str], None]


class WorkerPool:
    """All slots and their processes."""

    # What its processes are.
    kind = WORKER

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        placement: Placement,
        watch: WorkerWatch,
        workers_lock: Path,
        observer: PoolObserver,
    ) -> None:
        """Begin with no slot. ``config`` is what workers are started with, unless a change says otherwise."""
        self.config = config
        # The setting ``workers`` as it was last carried out, or overridden by a scaling.
        self.workers_setting = config.workers
        # One more than there were reloads; a worker keeps the generation of its start.
        self.generation = 1
        self.slots: dict[int, Slot] = {}
        self.phase = Phase.STARTING
        # Connections that ended because their worker did.
        self.lost = 0
        # Processes that died although nobody had told them to end, by how they did; those started instead.
        self.deaths: Counter[str] = Counter()
        self.restarts = 0
        self._reactor = reactor
        self._placement = placement
        self._watch = watch
        self._workers_lock = workers_lock
        self._observer = observer
        self._random = Random()

    # Processes and connections.

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def handles(self) -> Iterator[WorkerHandle]:
        """Every process, whatever it is doing."""
        return (handle for slot in self.slots.values() for handle in slot.handles)

    @property
    def ready(self) -> list[WorkerHandle]:
        """Processes that have been able to serve, whatever they are doing now."""
        return [handle for handle in self.handles if handle.ready]

    @property
    def serving(self) -> list[WorkerHandle]:
        """Workers that new connections may go to."""
        running = (slot.handle for slot in self.slots.values() if slot.state is SlotState.RUNNING)
        return [handle for handle in running if handle is not None]

    @property
    def able(self) -> int:
        """How many slots serve or will soon serve again: none that is new, failing or about to be removed."""
        return sum(slot.able and not slot.failing for slot in self.slots.values())

    @property
    def leaving(self) -> int:
        """How many connections are still with workers that all connections are moved out of."""
        return sum(slot.old.load for slot in self.slots.values() if slot.old is not None)

    @property
    def connections(self) -> int:
        """How many connections all workers have, or are about to have."""
        return sum(handle.load for handle in self.handles)

    @property
    def totals(self) -> Totals:
        """What all processes of this kind have counted, those that have ended included."""
        return self._watch.totals

    @property
    def trips(self) -> Durations:
        """Trips of items to a process and back."""
        return self._watch.trips

    @property
    def moving(self) -> bool:
        """True while a connection is in transit between two workers, or is about to be."""
        return bool(self._placement.transit) or any(handle.connections.asked for handle in self.handles)

    @property
    def identities(self) -> list[Identity]:
        """Every worker process, for the record and for whoever has to end them."""
        return [handle.identity for handle in self.handles]

    @staticmethod
    def wanted(config: Config) -> int:
        """How many workers a configuration asks for, on this machine."""
        return config.workers or default_workers(usable_cores())

    # Start.

    def add(self, count: int) -> list[Slot]:
        """Make ``count`` more slots, numbered from the lowest free number on; nothing is started."""
        free = (number for number in range(1, len(self.slots) + count + 1) if number not in self.slots)
        added = [Slot(number, self._random, self.kind.title) for number in list(free)[:count]]
        self.slots.update((slot.number, slot) for slot in added)
        return added

    def remove(self, slot: Slot) -> None:
        """Forget a slot that has no process."""
        assert not slot.handles
        slot.cancel_restart()
        del self.slots[slot.number]

    def start(self, slot: Slot) -> None:
        """Start the worker of a slot that has none; the worker before it may still be ending.

        If the system has no room for a process, try again later.
        """
        is_removed = self.slots.get(slot.number) is not slot
        if self.phase is Phase.ENDING or slot.handle or slot.next or is_removed:
            return
        slot.cancel_restart()
        try:
            slot.handle = self._start(slot, self.config, self.generation)
        except OSError as error:
            self._cannot_start(slot, error)
            return
        slot.state = SlotState.STARTING
        self._observer.on_processes(self.identities)

    def start_next(self, slot: Slot, config: Config, generation: int) -> WorkerHandle:
        """Start the worker that will replace a slot's worker. Raise ``OSError``."""
        assert slot.next is None
        slot.cancel_restart()
        slot.next = self._start(slot, config, generation)
        self._observer.on_processes(self.identities)
        return slot.next

    def _start(self, slot: Slot, config: Config, generation: int) -> WorkerHandle:
        handle = WorkerHandle(config, slot.number, generation, self._workers_lock, self.kind)
        events = WorkerEvents(partial(self._on_ready, slot), self._on_drained, partial(self._on_death, slot))
        try:
            self._watch.begin(handle, events)
        except OSError:  # the system's limit of watches
            handle.kill()
            handle.close()
            raise
        return handle

    def _cannot_start(self, slot: Slot, error: OSError) -> None:
        """Try again later: processes, descriptors or memory are short, for the moment."""
        if self.phase is Phase.STARTING:
            self._decide_restart(slot, 0.0, f"it could not be started: {error.strerror}")
            return
        log.warning("not started, %s, next try in %g s: %s", error.strerror, START_AGAIN, slot.title)
        self.start_later(slot, START_AGAIN)

    def start_later(self, slot: Slot, pause: float) -> None:
        """Start an empty slot's worker in ``pause`` seconds, and not when that was planned before."""
        slot.cancel_restart()
        slot.state = SlotState.BACKOFF
        slot.restart = self._reactor.call_later(pause, partial(self.start, slot))
        slot.restart_at = self._reactor.now + pause

    # Replacement.

    def promote(self, slot: Slot) -> WorkerHandle | None:
        """Let a slot's next worker serve; return the worker before, which gets no more connections."""
        assert slot.next is not None
        slot.cancel_restart()
        slot.handle, slot.next, slot.old = slot.next, None, slot.handle
        slot.state, slot.able = SlotState.RUNNING, True
        if slot.old is None:  # whatever was wrong before, it serves now
            slot.back_off = BackOff(self._random)
        return slot.old

    def dismiss(self, slot: Slot) -> WorkerHandle | None:
        """Send a slot's worker no more connections, and do not replace it; return the worker."""
        slot.cancel_restart()
        slot.handle, slot.old = None, slot.handle
        slot.state, slot.able = SlotState.DRAINING, False
        return slot.old

    def recall(self, slot: Slot) -> None:
        """Undo a promotion or a dismissal: the worker that served before serves again."""
        slot.handle, slot.old = slot.old, slot.handle
        slot.able = True
        is_ready = slot.handle is None or slot.handle.ready
        slot.state = SlotState.RUNNING if is_ready else SlotState.STARTING
        if slot.handle is None:
            self.start_later(slot, BACKOFF_FIRST)

    @staticmethod
    def retire(handle: WorkerHandle) -> None:
        """Let a worker without connections post its last items and end."""
        handle.retiring = True
        handle.endpoint.retire()
        handle.endpoint.send(Down.DRAIN)

    # What follows from news and deaths.

    def _on_ready(self, slot: Slot, handle: WorkerHandle) -> None:
        if handle is slot.handle and slot.state is SlotState.STARTING:
            slot.state, slot.able = SlotState.RUNNING, True
            self._observer.on_ready()

    def _on_drained(self, handle: WorkerHandle) -> None:
        if handle.retiring and self.phase is not Phase.ENDING:
            handle.endpoint.send(Down.CLOSE, 0.0)

    def _on_death(self, slot: Slot, handle: WorkerHandle) -> None:
        ready_at = handle.heartbeat.ready_at
        lived = self._reactor.now - ready_at if ready_at is not None else 0.0
        self.lost += handle.connections.count
        if not (handle.retiring or self.phase is Phase.ENDING):
            self.deaths[handle.how.partition(":")[0]] += 1
        self._leave_slot(slot, handle, lived)
        self._observer.on_processes(self.identities)

    def _leave_slot(self, slot: Slot, handle: WorkerHandle, lived: float) -> None:
        if handle is slot.next:
            slot.next = None
            log.warning("died before it took over: %s, %s", slot.title, handle.how)
        elif handle is slot.old:
            slot.old = None
            level = logging.INFO if handle.drained else logging.WARNING
            why = "replaced" if slot.able else "no longer wanted"
            log.log(level, "ended after it was %s: %s, %s", why, slot.title, handle.how)
        elif handle is not slot.handle:
            log.error("ended, and had no place: %s, %s", slot.title, handle.how)
        elif (
            slot.old is not None and not slot.old.retiring
        ):  # also at the end: connections in transit go back
            slot.handle, slot.old = slot.old, None
            log.warning("died, the one before it serves again: %s, %s", slot.title, handle.how)
        elif self.phase is Phase.ENDING:
            slot.handle = None
            log.info("ended: %s, %s", slot.title, handle.how)
        else:
            slot.handle = None
            self._decide_restart(slot, lived, handle.how)

    def _decide_restart(self, slot: Slot, lived: float, how: str) -> None:
        slot.died = how
        pause = slot.back_off.after_death(lived, DEATHS_AT_START if self.phase is Phase.STARTING else None)
        deaths = slot.back_off.deaths
        if pause is not None:
            slot.restarts += 1
            self.restarts += 1
            log.warning("died: %s, %s; the next starts in %.2f s", slot.title, how, pause)
            if deaths == DEATHS_TO_FAILING:
                log.error(
                    "dead %d times in a row, tried again for ever, at most %g s apart: %s, %s",
                    deaths,
                    BACKOFF_MOST,
                    slot.title,
                    how,
                )
            self.start_later(slot, pause)
            return
        slot.state = SlotState.FATAL
        self._observer.on_hopeless(f"{slot.title} died {deaths} times before it could serve, {how}")

    def pass_on(self, number: int) -> None:
        """Signal the workers one after the other: stacks written at the same time would be mixed."""
        log.info("passed on to the workers: signal %s", signal.Signals(number).name)
        for turn, handle in enumerate(self.ready, 1):
            self._reactor.call_later(turn * SIGNALS_APART, partial(_signal, handle, number))

    # The end.

    def drain(self) -> None:
        """Let every worker post what it has read; workers that are not ready have read nothing."""
        self.phase = Phase.ENDING
        for slot in self.slots.values():
            slot.cancel_restart()
            for handle in slot.handles:
                if not handle.ready:
                    handle.kill()
                else:
                    slot.state = SlotState.DRAINING
                    handle.endpoint.send(Down.DRAIN)

    @property
    def drained(self) -> bool:
        """True when every worker has posted all that its clients said."""
        return all(handle.drained for handle in self.handles)

    def close(self, seconds: float) -> None:
        """Tell the workers to send clients what they are owed, within ``seconds``, and to end."""
        for slot in self.slots.values():
            slot.state = SlotState.STOPPING
        for handle in self.handles:
            handle.endpoint.send(Down.CLOSE, seconds)

    def kill(self) -> None:
        """Kill all workers, and wait for their ends."""
        for handle in self.handles:
            handle.kill()
            handle.process.wait()


def _signal(handle: WorkerHandle, number: int) -> None:
    if not handle.closed:
        handle.process.signal(number)
