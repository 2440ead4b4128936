"""History: the last messages of a room, kept as they were said. Pure.

Frames for members are made from it only when a member asks for them.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator

import msgspec

from mpchat.hub.limits import Kept
from mpchat.ipc.shares import HISTORY_MEMORY, Memory
from mpchat.protocol.frames import cut_frames

# What a run takes in memory beside its frames, in bytes.
RUN_OVERHEAD = 300


class Run(msgspec.Struct, frozen=True, gc=False):
    """``count`` consecutive messages of one sender in one room, taken at one moment.

    Rooms keep millions of runs, so the garbage collector is told not to look at them.
    """

    room: str
    # The first one's number, from 1 on; the others follow without a gap.
    seq: int
    count: int
    # Seconds since 1970.
    at: float
    # A name, or host:port of a plain client; "" is the server itself.
    sender: str
    # What plain clients get: for each message two bytes of length and {"message": …}.
    frames: bytes
    # Seconds on the steady clock, which its age is counted from: the wall clock may be stepped.
    taken: float = 0.0

    @property
    def last(self) -> int:
        """The last message's number."""
        return self.seq + self.count - 1

    def since(self, number: int) -> "Run":
        """Return the run without the messages before ``number``, one of its own."""
        skipped = number - self.seq
        frames = self.frames[cut_frames(self.frames, skipped) :]
        return msgspec.structs.replace(self, seq=number, count=self.count - skipped, frames=frames)

    def between(self, first: int, last: int) -> "Run":
        """Return the run with only the messages ``first`` to ``last``, both of its own."""
        rest = self.since(first) if first > self.seq else self
        if last == rest.last:
            return rest
        count = last - first + 1
        return msgspec.structs.replace(
            rest, count=count, frames=rest.frames[: cut_frames(rest.frames, count)]
        )


def size_of(run: Run) -> int:
    """Return the bytes of memory that a run takes; a short message takes hardly less than a long one."""
    return len(run.frames) + RUN_OVERHEAD


class History:
    """The last messages of a room."""

    def __init__(self, memory: Memory | None = None) -> None:
        """``memory`` is what the histories of all rooms take together."""
        # Messages, and bytes of memory.
        self.count = self.size = 0
        self._runs: deque[Run] = deque()
        # The number that follows the last one, if there are runs.
        self._next = 0
        self._memory = memory if memory is not None else Memory(HISTORY_MEMORY)

    def add(self, run: Run, kept: Kept) -> None:
        """Keep a run. A gap in the numbers empties the history first: kept numbers have no gaps."""
        if run.seq != self._next and self._runs:
            self.clear()
        self.put_back(run)
        too_old = kept.age and self._runs[0].taken < run.taken - kept.age
        if too_old or self.count > kept.messages or self.size > kept.size:
            self.trim(run.taken, kept)

    def trim(self, now: float, kept: Kept) -> None:
        """Forget runs that are too old at ``now`` (steady clock) or too many.

        The last run stays while it is not too old.
        """
        runs = self._runs
        while runs and (
            (kept.age and runs[0].taken < now - kept.age)
            or (len(runs) > 1 and (self.count - runs[0].count >= kept.messages or self.size > kept.size))
        ):
            self._forget_oldest()

    def shrink(self, size: int) -> None:
        """Forget the oldest runs until no more than ``size`` bytes are left, perhaps none."""
        while self.size > size:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        run = self._runs.popleft()
        size = size_of(run)
        self.count -= run.count
        self.size -= size
        self._memory.used -= size

    def clear(self) -> None:
        """Forget everything."""
        self.shrink(0)

    def runs(self) -> list[Run]:
        """Return all runs, the oldest first: 10 ms for a million."""
        return list(self._runs)

    def put_back(self, run: Run) -> None:
        """Add a run that a snapshot has kept: nothing is forgotten for it."""
        self._runs.append(run)
        self._next = run.seq + run.count
        self.count += run.count
        size = size_of(run)
        self.size += size
        self._memory.used += size

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def first(self) -> int | None:
        """The number of the oldest message that is kept."""
        return self._runs[0].seq if self._runs else None

    @property
    def last(self) -> int | None:
        """The number of the newest message that is kept."""
        return self._runs[-1].last if self._runs else None

    def since(self, seq: int) -> Iterator[Run]:
        """Yield the runs that hold messages numbered ``seq`` and above.

        Finding the first is O(log n): a member that enters gets the last few of perhaps a million.
        """
        first = bisect_left(self._runs, seq, key=lambda run: run.last)
        return (self._runs[place] for place in range(first, len(self._runs)))

    def before(self, seq: int) -> Iterator[Run]:
        """Yield the runs that hold messages numbered below ``seq``, the newest first."""
        end = bisect_left(self._runs, seq, key=lambda run: run.seq)
        return (self._runs[place] for place in range(end - 1, -1, -1))
