"""Archive: writes the rooms' history to a file, without ever delaying the supervisor's loop.

:meth:`Archive.save` appends to a queue. A thread of the archive writes the queue, all of it in one
transaction. The server goes on whatever is wrong with the file or its disk. Messages that cannot be written
wait, up to a limit, and are tried again. Past the limit the oldest are dropped, so that the file ends up with
the newest. Dropped messages leave a gap in the numbers.

The rule it keeps: within an epoch no number of a room is given to two messages, and a number that a client
has seen keeps its meaning. A file that was not closed in order may lack the last messages that clients have
seen: those of the last :data:`GATHER` seconds, or all since the disk was full. So the next start begins a new
epoch. Its numbers continue after the file's last one, and up to there the two epochs agree. The file keeps
that; :meth:`Past.knows` tells whether the numbers that a client has seen still hold.
"""

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from contextlib import closing, suppress
from itertools import islice
from math import inf
from pathlib import Path
from typing import NamedTuple

from mpchat.errors import StartError
from mpchat.hub.history import Run, size_of
from mpchat.hub.history_age import StampedAges
from mpchat.hub.history_file import EARLIER_KEPT, MOVE_AWAY, HistoryFile, Numbering, UnusableFile, token
from mpchat.hub.history_lock import lock_history
from mpchat.hub.past import Past, by_key
from mpchat.ipc.shares import HISTORY_MEMORY

__all__ = ["Archive", "ArchiveStatus", "Past", "Run"]

# Seconds in which messages gather for one transaction. A crash may take these and the time of one sync.
GATHER = 0.05
# Bytes that may wait to be written: minutes of a busy server on a disk that is full or hangs. While a write
# hangs, memory is at most twice that, because the write still holds messages that are dropped meanwhile.
QUEUE_LIMIT = 32 << 20
# Seconds until the first retry after a failed write, doubled each time, up to the last.
FIRST_RETRY = 1.0
LAST_RETRY = 30.0
# Seconds between two sweeps for messages that are too old.
SWEEP = 60.0
# Rooms whose numbers are remembered, because a client can make any number of rooms, one after the other.
ROOMS = 10_000
# Seconds that a start waits for a server that is just ending to release the file.
LOCK_PATIENCE = 0.5

# Errors of the file; every other one would be a bug.
_FAULTS = (sqlite3.Error, OSError, UnusableFile, StartError)

_log = logging.getLogger("mpchat.archive")


class ArchiveStatus(NamedTuple):
    """The state of the writing."""

    path: str
    # "ok", or "failing: " and the reason.
    state: str
    # Bytes that are not written yet, with their overhead in memory.
    waiting: int
    # Messages written, and messages dropped, since the start.
    saved: int
    dropped: int


class Archive:
    """History in one file. One thread calls all methods; the archive's own thread does the slow work.

    Every run of numbered messages goes through :meth:`save`, and none follows after :meth:`close`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, messages: int, age: float, rooms: int = ROOMS
    ) -> None:
        """Touch nothing yet.

        ``messages``: how many are kept of each room, at least 1. ``age``: for how many seconds, 0 for no
        limit; older messages are not loaded, and leave the file within :data:`SWEEP` seconds. ``rooms``: how
        many rooms are remembered, the most recently used.
        """
        self.path = Path(path).resolve()
        self._messages = messages
        self._age = age
        self._rooms = rooms
        self._file: HistoryFile | None = None
        self._lock_file: int | None = None
        self._numbering = Numbering(token(), token())
        # The owners whose file this run may continue: this run, and the owner of the file that it has read.
        self._owners = {self._numbering.owner}
        # Whether there was a file with this run's numbering. A new file lacks numbers of the epoch, and so
        # cannot be closed in order.
        self._had_file = False
        self._whole = True
        self._next_sweep = 0.0
        self._stamps = StampedAges(time.monotonic(), time.time())
        # The limits that the file followed last: messages of each room, and their age.
        self._followed = (messages, age)
        self._state = "ok"

        # Shared with the thread, under the lock, which neither thread holds during I/O.
        self._lock = threading.Lock()
        self._queue: deque[Run] = deque()
        # By room: its last number that is not in the file yet, and when it was given; of dropped runs too.
        self._marks: dict[str, tuple[int, float]] = {}
        # By room: up to which number its messages are to be removed from the file.
        self._forgotten: dict[str, int] = {}
        # How many runs have left the queue, written or dropped; and the bytes that are in it.
        self._gone = 0
        self._waiting = 0
        self._saved = self._dropped = 0

        self._wake = threading.Event()
        self._closing = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._work, name="archive", daemon=True)

    def open(self) -> Past:
        """Read the file, or create it, and begin to write. Call it once, before any message is numbered.

        It takes as long as reading takes, and up to three seconds when another program holds a lock. A file
        with a fault does not make it fail (see :meth:`status`): then there is no history, or only the part
        that could be read, and a new epoch. Raises :class:`StartError` when another server uses the file.
        """
        runs: list[Run] = []
        try:
            self._lock_file = lock_history(self.path, LOCK_PATIENCE)
            runs = self._read()
            self._attach()
        except StartError:
            raise
        except _FAULTS as error:
            self._failed(error)
            if self._had_file:  # the file may say that its epoch was closed in order, and it is in use
                self._begin_epoch()
        self._thread.start()
        now = self._numbering
        earlier = {epoch: by_key(last) for epoch, last in now.earlier.items()}
        return Past(now.epoch, now.last, now.floor, runs, earlier)

    def save(self, run: Run) -> None:
        """Queue a run for writing, in a few µs. When too much waits, drop the oldest. Never blocks."""
        with self._lock:
            self._mark(run.room, run.last, run.at)
            self._queue.append(run)
            self._waiting += size_of(run)
            while self._waiting > QUEUE_LIMIT and self._queue:
                dropped = self._queue.popleft()
                self._gone += 1
                self._waiting -= size_of(dropped)
                self._dropped += dropped.count
        if not self._wake.is_set():
            self._wake.set()

    def number(self, room: str, last: int, at: float) -> None:
        """Remember the last number of a room in which nothing is said yet. Never blocks.

        It was given at ``at``, in seconds since 1970.
        """
        with self._lock:
            self._mark(room, last, at)
        self._wake.set()

    def _mark(self, room: str, last: int, at: float) -> None:
        self._marks[room] = (last, at)
        if len(self._marks) > self._rooms:
            del self._marks[next(iter(self._marks))]
            self._whole = False

    def change_limits(self, *, messages: int, age: float) -> None:
        """Keep so many messages of each room from now on, for so many seconds; see :meth:`__init__`."""
        with self._lock:
            if (messages, age) == (self._messages, self._age):
                return
            self._messages, self._age = messages, age
        self._wake.set()

    def forget(self, room: str, last: int) -> None:
        """Remove a room's messages up to number ``last`` from the file, soon. Never blocks."""
        with self._lock:
            self._forgotten[room] = last
        self._wake.set()

    def status(self) -> ArchiveStatus:
        """Return the state of the writing."""
        with self._lock:
            return ArchiveStatus(str(self.path), self._state, self._waiting, self._saved, self._dropped)

    def close(self, timeout: float) -> bool:
        """Write all that waits, for at most ``timeout`` seconds; return False when that failed.

        Messages that are not written then are lost, and the next start begins a new epoch.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        return self._finished and not self._thread.is_alive()

    # At start, in the caller's thread.

    def _read(self) -> list[Run]:
        """Take the numbering from the file; return the messages that it keeps."""
        try:
            self._file = HistoryFile(self.path)
            return self._load(self._file)
        except sqlite3.OperationalError:
            # A full disk has no room for the memory that SQLite's connections share.
            self._close_file()
            with closing(HistoryFile(self.path, alone=True)) as file:
                return self._load(file)

    def _load(self, file: HistoryFile) -> list[Run]:
        if file.new:
            return []
        found = file.numbering()
        times = (time.monotonic(), time.time())
        runs, damaged = file.runs(found.last, self._messages, self._age, HISTORY_MEMORY, times)
        self._owners.add(found.owner)
        self._had_file = True
        self._numbering = found._replace(owner=self._numbering.owner)
        if not found.clean:
            self._begin_epoch()
        if damaged:  # its numbers may be damaged too
            _log.error("history damaged, %d runs of messages are left out: %s", damaged, self.path)
            self._numbering = self._numbering._replace(epoch=token(), earlier={})
        return runs

    def _begin_epoch(self) -> None:
        before = self._numbering
        earlier = [*before.earlier.items(), (before.epoch, before.last)][-EARLIER_KEPT:]
        self._numbering = before._replace(epoch=token(), earlier=dict(earlier))

    # In the archive's thread; at the start :meth:`_attach` and :meth:`_failed` are called too.

    def _work(self) -> None:
        pause = GATHER
        if self._state != "ok":
            pause = FIRST_RETRY
            self._wake.set()
        try:
            closing = False
            while not closing:
                if not self._closing.is_set():  # else what woke for it may have been cleared below
                    self._wake.wait(SWEEP)
                closing = self._closing.wait(pause)
                self._wake.clear()
                try:
                    self._write()
                    pause = GATHER
                except _FAULTS as error:
                    self._failed(error)
                    pause = min(max(FIRST_RETRY, 2 * pause), LAST_RETRY)
                    self._wake.set()
            self._finish()
        except Exception:  # noqa: BLE001 - status must not say that history is written when a bug stopped it
            self._state = "failing: a bug, see the log; nothing more is written"
            _log.exception("history not written any more: %s", self.path)
        finally:
            self._close_file()
            if self._lock_file is not None:
                os.close(self._lock_file)

    def _write(self) -> None:
        """Write all that waits. Raises one of the faults; then all of it still waits."""
        if self._file is not None and not self._file.in_place:
            self._close_file()
        if self._file is None:
            self._attach()
        assert self._file is not None
        with self._lock:
            runs, first = list(self._queue), self._gone
            marks, self._marks = self._marks, {}
            messages, age = self._messages, self._age
            forgotten, self._forgotten = self._forgotten, {}
        for each in runs:
            self._stamps.note(each.taken, each.at)
        try:
            if marks or runs:
                self._file.write(runs, {run.room: (run.last, run.at) for run in runs} | marks, messages)
            if forgotten:  # behind the runs: some of these may belong to it
                self._file.forget(forgotten)
        except _FAULTS:
            with self._lock:
                self._marks = marks | self._marks
                self._forgotten = forgotten | self._forgotten
            raise
        if runs:
            self._written(runs, first)
        changed = (messages, age) != self._followed
        if changed:
            self._file.keep_last(messages)
        if changed or time.monotonic() >= self._next_sweep:
            span = self._stamps.span(time.monotonic(), age) if age else (-inf, inf)
            self._file.expire(*span, self._rooms)
            self._next_sweep = time.monotonic() + SWEEP
            self._followed = (messages, age)
        self._works()

    def _written(self, runs: list[Run], first: int) -> None:
        """Remove written runs from the queue; ``first`` is how many runs had left it before the write."""
        size, count = sum(map(size_of, runs)), sum(run.count for run in runs)
        with self._lock:
            dropped = runs[: self._gone - first]  # dropped during the write, so they were not lost
            left = len(runs) - len(dropped)
            self._queue = deque(islice(self._queue, left, None))
            self._gone += left
            self._waiting -= size - sum(map(size_of, dropped))
            self._saved += count
            self._dropped -= sum(run.count for run in dropped)

    def _attach(self) -> None:
        """Take possession of the file at the path: the file that this run has read, or a new one."""
        if self._lock_file is None:
            self._lock_file = lock_history(self.path, 0.0)
        file = self._file = self._file or HistoryFile(self.path)
        numbering = self._numbering
        if not file.new:
            known = file.numbering()
            if known.owner not in self._owners:
                raise UnusableFile(
                    f"it has another history than this server; start the server again, or {MOVE_AWAY}"
                )
            numbering = numbering._replace(floor=max(numbering.floor, known.floor))
        elif self._had_file:
            _log.warning("history begun anew, its file was removed: %s", self.path)
            self._whole = False
        file.claim(numbering)
        self._had_file = True

    def _finish(self) -> None:
        """Mark the file as closed in order, if all messages are in it."""
        try:
            if self._file is not None and not self._waiting:
                if self._whole:
                    self._file.finish()
                self._finished = True
        except _FAULTS as error:
            self._failed(error)

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(sqlite3.Error):
                self._file.close()
            self._file = None

    def _failed(self, error: Exception) -> None:
        self._close_file()
        state = f"failing: {_reason(error, self.path)}"
        if state != self._state:
            _log.error("history not written, %s: %s", state, self.path)
            self._state = state

    def _works(self) -> None:
        if self._state != "ok":
            self._state = "ok"
            _log.warning("history written again, %d messages dropped so far: %s", self._dropped, self.path)


def _reason(error: Exception, path: Path) -> str:
    """Return the fault in a few words; SQLite does not always tell a full disk from a broken one."""
    with suppress(OSError):
        if not os.statvfs(path.parent).f_bavail:
            return "the disk is full"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"{error}; {MOVE_AWAY}"
    if code == sqlite3.SQLITE_IOERR:
        return f"{error} ({getattr(error, 'sqlite_errorname', '')})"
    return str(error)
