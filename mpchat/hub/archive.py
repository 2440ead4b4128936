"""Archive: keeps rooms' history in a file, from the supervisor's loop and never in its way.

:meth:`Archive.save` appends to a queue; a thread of the archive's own writes what has gathered, one
transaction for all of it. Whatever is wrong with the file or its disk, the server goes on: what cannot be
written waits, up to a limit, and is tried again; past the limit the oldest of it is dropped, so that what
comes into the file in the end is the newest, up to now. What was dropped is missing in the file as numbers
are: between one run and the next.

The rule it keeps: within an epoch no number of a room is given to two messages, and a number that a client
has seen means to it for ever what it meant when it came. A file that was not closed in order may lack the
last messages that clients have seen (those of the last :data:`GATHER` seconds, or all since the disk was
full). So the next start begins a new epoch. Its numbers go on from what the file has, and up to there the
epochs agree: the file remembers that, and :meth:`Past.knows` tells whether what a client has seen is still
so.
"""

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mpchat.errors import StartError
from mpchat.hub.history import Run, size_of
from mpchat.hub.history_file import EARLIER_KEPT, MOVE_AWAY, HistoryFile, Numbering, UnusableFile, token
from mpchat.hub.past import Past

__all__ = ["Archive", "ArchiveStatus", "Past", "Run"]

# Seconds in which messages gather for one transaction. A crash may take these and the time of one sync.
GATHER = 0.05
# Bytes that may wait to be written: minutes of a busy server, on a disk that is full or hangs. While a write
# hangs, memory is twice that at most: it still holds what is dropped meanwhile.
QUEUE_LIMIT = 32 << 20
# Seconds until the first further try after one that failed, doubled each time, up to the last.
FIRST_RETRY = 1.0
LAST_RETRY = 30.0
# Seconds between two looks for what is too old.
SWEEP = 60.0
# Rooms whose numbers are remembered. A client can make as many as it likes, one after the other.
ROOMS = 10_000
# Seconds that a start waits for a server that is just ending to give the file free.
LOCK_PATIENCE = 0.5
_POLL = 0.02
# Bytes of the lock's file: a process number, and spaces.
_PID_SIZE = 20

# Bytes of memory that are loaded of it at most: what rooms may keep together (see rooms.ROOMS_MEMORY).
LOADED = 128 << 20

# What can be wrong with the file; everything else would be a bug.
_FAULTS = (sqlite3.Error, OSError, UnusableFile, StartError)

_log = logging.getLogger("mpchat.archive")


class ArchiveStatus(NamedTuple):
    """How the writing goes."""

    path: str
    # "ok", or "failing: " and the reason.
    state: str
    # Bytes that are not written yet, with what they take in memory.
    waiting: int
    # Messages written, and messages given up, since the start.
    saved: int
    dropped: int


class Archive:
    """History in one file. All methods are for one thread; another one, its own, does what may take long.

    Every number that is given to a message goes through :meth:`save`, and none is given after :meth:`close`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, messages: int, age: float, rooms: int = ROOMS
    ) -> None:
        """Touches nothing yet.

        ``messages``: how many are kept of each room, at least 1. ``age``: for how many seconds, 0 for no
        limit; what is older is not loaded, and leaves the file within :data:`SWEEP` seconds. ``rooms``: how
        many rooms are remembered, those that were used last.
        """
        self.path = Path(path).resolve()
        self._messages = messages
        self._age = age
        self._rooms = rooms
        self._file: HistoryFile | None = None
        self._lock_file: int | None = None
        self._numbering = Numbering(token(), token())
        # Who may have written the file that this run goes on with: this run, and whose file it has read.
        self._owners = {self._numbering.owner}
        # Whether there was a file with this run's numbering. A new one has not all the numbers of the epoch,
        # and so cannot be closed in order.
        self._had_file = False
        self._whole = True
        self._next_sweep = 0.0
        self._state = "ok"

        # Shared with the thread, under the lock, which nobody holds during I/O.
        self._lock = threading.Lock()
        self._queue: deque[Run] = deque()
        # By room: its last number that is not in the file yet, and when it was given. Of dropped runs too.
        self._marks: dict[str, tuple[int, float]] = {}
        # How many runs have left the queue, written or dropped; and the bytes that are in it.
        self._gone = 0
        self._waiting = 0
        self._saved = self._dropped = 0

        self._wake = threading.Event()
        self._closing = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._work, name="archive", daemon=True)

    def open(self) -> Past:
        """Read the file, or create it, and begin to write. Called once, before any message is numbered.

        Takes as long as reading takes, and up to three seconds when somebody else holds a lock. Never fails
        for what is wrong with the file (see :meth:`status`): then there is no history, or all that could be
        read, and a new epoch. Raises :class:`StartError` when another server uses the file.
        """
        runs: list[Run] = []
        try:
            self._take_lock(LOCK_PATIENCE)
            runs = self._read()
            self._attach()
        except StartError:
            raise
        except _FAULTS as error:
            self._failed(error)
            if self._had_file:  # it does not know that its epoch is in use, and may have it closed in order
                self._begin_epoch()
        self._thread.start()
        now = self._numbering
        return Past(now.epoch, now.last, now.floor, runs, now.earlier)

    def save(self, run: Run) -> None:
        """Let ``run`` be written soon. Never blocks: a few µs; when too much waits, the oldest is dropped."""
        with self._lock:
            self._marks[run.room] = (run.last, run.at)
            self._queue.append(run)
            self._waiting += size_of(run)
            while self._waiting > QUEUE_LIMIT and self._queue:
                dropped = self._queue.popleft()
                self._gone += 1
                self._waiting -= size_of(dropped)
                self._dropped += dropped.count
            if len(self._marks) > self._rooms:
                del self._marks[next(iter(self._marks))]
                self._whole = False
        if not self._wake.is_set():
            self._wake.set()

    def status(self) -> ArchiveStatus:
        """Tell how the writing goes."""
        with self._lock:
            return ArchiveStatus(str(self.path), self._state, self._waiting, self._saved, self._dropped)

    def close(self, timeout: float) -> bool:
        """Write what waits, for at most ``timeout`` seconds; False when that was not enough, or failed.

        What is not written then is lost, and the next start begins a new epoch.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        return self._finished and not self._thread.is_alive()

    # At start, in the caller's thread.

    def _read(self) -> list[Run]:
        """Take from the file how the numbering goes on, and what is kept."""
        try:
            self._file = HistoryFile(self.path)
            return self._load(self._file)
        except sqlite3.OperationalError:
            # A full disk has no room for the memory that connections share.
            self._let_go()
            with closing(HistoryFile(self.path, alone=True)) as file:
                return self._load(file)

    def _load(self, file: HistoryFile) -> list[Run]:
        if file.new:
            return []
        found = file.numbering()
        runs, damaged = file.runs(found.last, self._messages, self._oldest(), LOADED)
        self._owners.add(found.owner)
        self._had_file = True
        self._numbering = found._replace(owner=self._numbering.owner)
        if not found.clean:
            self._begin_epoch()
        if damaged:  # so may be what it says of its numbers
            _log.error("history damaged, %d runs of messages are left out: %s", damaged, self.path)
            self._numbering = self._numbering._replace(epoch=token(), earlier={})
        return runs

    def _begin_epoch(self) -> None:
        before = self._numbering
        earlier = [*before.earlier.items(), (before.epoch, before.last)][-EARLIER_KEPT:]
        self._numbering = before._replace(epoch=token(), earlier=dict(earlier))

    def _oldest(self) -> float:
        return time.time() - self._age if self._age else 0.0

    # In the archive's thread; :meth:`_attach`, :meth:`_take_lock` and :meth:`_failed` at start too.

    def _work(self) -> None:
        pause = GATHER
        if self._state != "ok":
            pause = FIRST_RETRY
            self._wake.set()
        try:
            closing = False
            while not closing:
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
        except Exception:  # noqa: BLE001 - a bug here must not pass for a history that is written
            self._state = "failing: a bug, see the log; nothing more is written"
            _log.exception("history not written any more: %s", self.path)
        finally:
            self._let_go()
            if self._lock_file is not None:
                os.close(self._lock_file)

    def _write(self) -> None:
        """Write all that waits. Raises one of the faults, and then it still waits."""
        if self._file is not None and not self._file.in_place:
            self._let_go()
        if self._file is None:
            self._attach()
        assert self._file is not None
        with self._lock:
            runs, first = list(self._queue), self._gone
            marks, self._marks = self._marks, {}
        if marks or runs:
            try:
                self._file.write(runs, {run.room: (run.last, run.at) for run in runs} | marks, self._messages)
            except _FAULTS:
                with self._lock:
                    self._marks = marks | self._marks
                raise
            self._written(runs, first)
        if time.monotonic() >= self._next_sweep:
            self._file.expire(self._oldest(), self._rooms)
            self._next_sweep = time.monotonic() + SWEEP
        self._works()

    def _written(self, runs: list[Run], first: int) -> None:
        """Take out of the queue what is in the file now; ``first`` is how many had left it before."""
        size, count = sum(map(size_of, runs)), sum(run.count for run in runs)
        with self._lock:
            dropped = runs[: self._gone - first]  # while they were being written: so they were not lost
            left = len(runs) - len(dropped)
            self._queue = deque(islice(self._queue, left, None))
            self._gone += left
            self._waiting -= size - sum(map(size_of, dropped))
            self._saved += count
            self._dropped -= sum(run.count for run in dropped)

    def _attach(self) -> None:
        """Make the file that lies there this run's. Only the one it has read, or a new one."""
        self._take_lock(0.0)
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

    def _take_lock(self, patience: float) -> None:
        """Keep other servers off. Raises :class:`StartError` when there is one, ``OSError``.

        The lock is on a file of its own: SQLite's own lock says nothing of who holds it, and on some systems
        a second kind of lock on the same file is in its way.
        """
        if self._lock_file is not None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(f"{self.path}-lock", flags, 0o600)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if isinstance(error, BlockingIOError) and time.monotonic() < deadline:
                    time.sleep(_POLL)
                    continue
                holder = os.pread(descriptor, _PID_SIZE, 0).decode(errors="replace").strip()
                os.close(descriptor)
                if not isinstance(error, BlockingIOError):
                    raise
                raise StartError(
                    f"the history file {self.path} is used by another server, pid {holder or 'unknown'}; "
                    "stop that one, or choose another file"
                ) from None
        with suppress(OSError):  # a full disk
            os.pwrite(descriptor, f"{os.getpid()}".ljust(_PID_SIZE).encode(), 0)
        self._lock_file = descriptor

    def _finish(self) -> None:
        """Say that the file is closed in order, if everything is in it."""
        try:
            if self._file is not None and not self._waiting:
                if self._whole:
                    self._file.finish()
                self._finished = True
        except _FAULTS as error:
            self._failed(error)

    def _let_go(self) -> None:
        if self._file is not None:
            with suppress(sqlite3.Error):
                self._file.close()
            self._file = None

    def _failed(self, error: Exception) -> None:
        self._let_go()
        state = f"failing: {_reason(error, self.path)}"
        if state != self._state:
            _log.error("history not written, %s: %s", state, self.path)
            self._state = state

    def _works(self) -> None:
        if self._state != "ok":
            self._state = "ok"
            _log.warning("history written again, %d messages dropped so far: %s", self._dropped, self.path)


def _reason(error: Exception, path: Path) -> str:
    """Say in a few words what is wrong; SQLite does not always tell a full disk from a broken one."""
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
