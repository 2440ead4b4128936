"""Log link: reaches the shared log in threads, because Redis may take its time and no loop may wait.

One thread appends and does all else in the order in which it was asked; one reads; one saves snapshots, which
take long. What they find out comes to the loop as events. A call that cannot reach the log is made again
until it can; only a snapshot is not.
"""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

from mpchat.cluster.store import (
    WAIT,
    Batch,
    FencedError,
    Place,
    RefusedError,
    RewoundError,
    Snapshot,
    Store,
    TrimmedError,
    UnavailableError,
)
from mpchat.errors import MpchatError
from mpchat.hub.membership import (
    Away,
    Event,
    Fenced,
    Founded,
    Loaded,
    Registration,
    Rewound,
    Stood,
    Stopped,
    Trimmed,
)
from mpchat.hub.shared_hub import SharedPast
from mpchat.hub.shared_log import Outgoing
from mpchat.reactor import READ, Reactor

# Seconds that a read waits for a batch, and between two tries to reach the log.
READ_WAIT = 1.0
TRY_AGAIN = 0.2
# Seconds between two questions whether this host is to begin a new log.
STAND_EVERY = 0.1
# Bytes that are read at a time, that wait for the loop at most, and that one turn of the loop takes.
READ_SIZE = 256 << 10
MOST_WAITING = 4 << 20
TURN_SIZE = 512 << 10
# Bytes of a read after which the next one waits so many seconds. Where much is said, all that hosts say
# meanwhile goes to their clients together, with one send for each client: a third less CPU. Where more comes
# than in a short pause, a longer one saves a fifth more. So it does where nobody here is told anything.
MUCH, VERY_MUCH = 4 << 10, 80 << 10
PAUSE, PAUSE_UNHEARD, LONG_PAUSE = 0.005, 0.01, 0.02
# Batches that are appended in one go.
APPENDED_AT_ONCE = 64
# Seconds that the reading thread gets to end: it holds nothing.
READER_PATIENCE = 0.2

log = logging.getLogger("mpchat.supervisor")


class Me(NamedTuple):
    """What this host registers with; see ``Store.register``. ``lease`` is in seconds."""

    name: str
    instance: str
    version: int
    lease: float


class LogLink:
    """Does what :class:`mpchat.hub.membership.LogLink` says, over two stores."""

    def __init__(
        self,
        reactor: Reactor,
        stores: tuple[Store, Store, Store],
        me: Me,
        restore: Callable[[Snapshot], SharedPast],
    ) -> None:
        """``stores`` are one to append, one to read, and one to save snapshots. The loop turns for news."""
        self._reactor = reactor
        self._store, self._reading_store, self._saving_store = stores
        self._me = me
        self._restore = restore
        self.is_heard = True
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._saves: SimpleQueue[Callable[[], Snapshot] | None] = SimpleQueue()
        self._events: SimpleQueue[tuple[int, Event]] = SimpleQueue()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Where to read on, the number of that order, and what was read and not taken (bytes of it).
        self._from: Place | None = None
        self._serial = 0
        self._read: deque[Batch] = deque()
        self._waiting = 0
        # Why each thread cannot reach the log.
        self._away = ["", ""]
        self._near, self._far = socket.socketpair()
        for each in (self._near, self._far):
            each.setblocking(False)
        reactor.watch(self._near, READ, self._on_wake)
        self._threads = [
            threading.Thread(target=self._write, name="log appender", daemon=True),
            threading.Thread(target=self._follow, name="log reader", daemon=True),
            threading.Thread(target=self._save, name="log saver", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self, timeout: float) -> None:
        """Do what waits, for at most ``timeout`` seconds; the loop does not turn any more."""
        self._jobs.put(None)
        self._saves.put(None)
        self._threads[0].join(timeout)
        self._closing.set()
        with self._lock:
            self._changed.notify_all()
        self._threads[1].join(READER_PATIENCE)
        self._reactor.forget(self._near)
        self._near.close()

    # For the loop.

    def follow(self, place: Place) -> None:
        """Read on from a place, and forget what was read before and not taken."""
        with self._lock:
            self._serial += 1
            self._from = place
            self._read.clear()
            self._waiting = 0
            self._changed.notify_all()

    @property
    def has_reads(self) -> bool:
        """True when :meth:`reads` has something to return."""
        return bool(self._read)

    def reads(self) -> list[Batch]:
        """Return what was read since, in order; as much as one turn of the loop can apply."""
        taken, size = [], 0
        with self._lock:
            while self._read and size < TURN_SIZE:
                taken.append(self._read.popleft())
                size += len(taken[-1].payload)
            self._waiting -= size
            if taken:
                self._changed.notify_all()
        return taken

    def events(self) -> list[Event]:
        """Return what else has happened since."""
        found: list[Event] = []
        while True:
            try:
                serial, event = self._events.get_nowait()
            except Empty:
                return found
            if serial in (0, self._serial):  # not what ended an earlier reading
                found.append(event)

    def register(self, generation: str, info: bytes) -> None:
        """Begin to register."""
        self._jobs.put(_Job(partial(self._register, generation, info)))

    def append(self, generation: str, epoch: int, position: int, batches: list[Outgoing]) -> None:
        """Append batches, again and again until they are there."""
        self._jobs.put(_Append(generation, epoch, position, batches))

    def leave(self, generation: str, epoch: int) -> None:
        """Say that this host takes part no longer."""
        self._jobs.put(_Job(partial(self._leave, generation, epoch)))

    def save(self, make: Callable[[], Snapshot]) -> None:
        """Keep a snapshot, if that can be done now: the next one comes anyway."""
        self._saves.put(make)

    def load(self) -> None:
        """Load the newest snapshot."""
        self._jobs.put(_Job(self._load))

    def stand(self, generation: str, place: Place) -> None:
        """Ask again and again what the others' places mean for this one."""
        self._jobs.put(_Job(partial(self._stand, generation, place)))

    def found(self, old: str, make: Callable[[], Snapshot]) -> None:
        """Begin a new log with a snapshot."""
        self._jobs.put(_Job(lambda: Founded(self._store.found(old, make()))))

    # In the saving thread.

    def _save(self) -> None:
        while (make := self._saves.get()) is not None:
            try:
                self._saving_store.save(make())
            except Exception as error:  # noqa: BLE001 (the log is only trimmed later)
                log.warning("snapshot not saved: %s", error)
        self._saving_store.close()

    # In the appending thread.

    def _write(self) -> None:
        waiting: deque[_Job | None] = deque()
        while True:
            job = waiting.popleft() if waiting else self._jobs.get()
            if job is None:
                break
            if isinstance(job, _Append):
                self._gather(job, waiting)
            self._do(job)
        self._store.close()

    def _gather(self, first: "_Append", waiting: "deque[_Job | None]") -> None:
        """Add the appends that wait behind one to it: they need one round trip together."""
        while len(first.batches) < APPENDED_AT_ONCE:
            if not waiting:
                try:
                    waiting.append(self._jobs.get_nowait())
                except Empty:
                    return
            job = waiting[0]
            if not isinstance(job, _Append) or (job.generation, job.epoch) != (first.generation, first.epoch):
                return
            waiting.popleft()
            first.batches += job.batches
            first.position = job.position

    def _do(self, job: "_Job") -> None:
        while not self._closing.is_set():
            try:
                event = self._append(job) if isinstance(job, _Append) else job.call()
            except UnavailableError as error:
                self._note_away(0, str(error))
                self._closing.wait(TRY_AGAIN)
                continue
            except RewoundError as error:
                event = Rewound(str(error))
            except RefusedError as error:
                event = Stopped(str(error))
            except Exception as error:  # the loop decides, as about a refusal
                log.exception("the log cannot be used")
                event = Stopped(f"the log cannot be used: {error}")
            self._note_away(0, "")
            if event is not None:
                self._report(0, event)
            return

    def _append(self, job: "_Append") -> Event | None:
        try:
            self._store.append(job.generation, job.epoch, job.position, self._me.lease, job.batches)
        except FencedError:
            return Fenced(job.epoch)
        return None

    def _register(self, generation: str, info: bytes) -> Event:
        name, instance, version, lease = self._me
        return Registration(*self._store.register(generation, name, instance, version, info, lease))

    def _leave(self, generation: str, epoch: int) -> None:
        with suppress(RewoundError):  # then it takes part no longer
            self._store.leave(generation, epoch)

    def _load(self) -> Event:
        loaded = self._store.load()
        return Loaded(self._restore(loaded) if loaded is not None else None)

    def _stand(self, generation: str, place: Place) -> Event | None:
        while not self._closing.is_set():
            standing = self._store.stand(generation, place, self._me.name)
            if standing.answer != WAIT:
                return Stood(standing)
            self._closing.wait(STAND_EVERY)
        return None

    # In the reading thread.

    def _follow(self) -> None:
        unsure = False
        while not self._closing.is_set():
            with self._lock:
                place, serial = self._from, self._serial
                if place is None or self._waiting > MOST_WAITING:
                    self._changed.wait()
                    continue
            try:
                if unsure:
                    self._reading_store.check(place)
                batches = self._reading_store.read(place, READ_WAIT, READ_SIZE)
            except UnavailableError as error:
                unsure = True
                self._note_away(1, str(error))
                self._closing.wait(TRY_AGAIN)
                continue
            except (RewoundError, TrimmedError) as error:
                self._end_reading(serial, Trimmed() if isinstance(error, TrimmedError) else error)
                continue
            except Exception as error:  # the loop decides
                log.exception("the log cannot be read")
                self._end_reading(serial, RewoundError(str(error)))
                continue
            unsure = False
            self._note_away(1, "")
            self._keep(serial, place, batches)
            self._pause_after(sum(len(each.payload) for each in batches))
        self._reading_store.close()

    def _pause_after(self, size: int) -> None:
        if size >= VERY_MUCH:
            time.sleep(LONG_PAUSE)
        elif size >= MUCH:
            time.sleep(PAUSE if self.is_heard else PAUSE_UNHEARD)

    def _end_reading(self, serial: int, why: Trimmed | MpchatError) -> None:
        with self._lock:
            if serial == self._serial:
                self._from = None
        self._report(serial, why if isinstance(why, Trimmed) else Rewound(str(why)))

    def _keep(self, serial: int, place: Place, batches: list[Batch]) -> None:
        if not batches:
            return
        with self._lock:
            if serial != self._serial:
                return
            self._read += batches
            self._waiting += sum(len(each.payload) for each in batches)
            for each in batches:
                place = place.after(each)
            self._from = place
            self.wake()

    # In both.

    def _note_away(self, thread: int, why: str) -> None:
        with self._lock:
            before = next(filter(None, self._away), "")
            self._away[thread] = why
            now = next(filter(None, self._away), "")
        if now != before:
            self._report(0, Away(now))

    def _report(self, serial: int, event: Event) -> None:
        self._events.put((serial, event))
        self.wake()

    def wake(self) -> None:
        """Let the loop turn once more. Any thread may call it."""
        with suppress(OSError):  # full: the loop will look anyway
            self._far.send(b"\0")

    def _on_wake(self, mask: int) -> None:
        with suppress(BlockingIOError):
            self._near.recv(4096)


class _Job:
    """Something for the appending thread; what it returns is reported."""

    def __init__(self, call: Callable[[], Event | None]) -> None:
        self.call = call


class _Append(_Job):
    def __init__(self, generation: str, epoch: int, position: int, batches: list[Outgoing]) -> None:
        self.generation, self.epoch, self.position = generation, epoch, position
        self.batches: list[tuple[int, int, bytes]] = [(*each,) for each in batches]
