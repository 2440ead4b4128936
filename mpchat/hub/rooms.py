"""Rooms of named members: numbers, history, who is in, and what members get. Pure; the hub owns them.

What members of a room get is one stream of frames, made once, here: the hub and all workers count the same
frames under the same numbers, as with the stream of plain clients. History is kept as it was said, and made
into frames only for somebody who asks for it.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from mpchat.hub.sequencer import NOTICE_GATHER
from mpchat.ipc.stream_buffer import Outside, Place, StreamBuffer
from mpchat.protocol.frames import cut_frames
from mpchat.protocol.requests import joined_frame, left_frame, numbered_frames, room_field

# What a run takes in memory beside its frames, in bytes.
RUN_OVERHEAD = 300
# Messages that somebody gets who comes without saying what was seen before: a screen or two.
HISTORY_AT_JOIN = 50


class Run(msgspec.Struct, frozen=True, gc=False):
    """``count`` messages, one after the other, of one sender in one room, taken at one moment.

    Rooms keep millions: the collector need not look at them.
    """

    room: str
    # The first one's number, from 1 on; the others follow without a gap.
    seq: int
    count: int
    # Seconds since 1970.
    at: float
    # A name, or host:endpoint of a plain client; "" is the server itself.
    sender: str
    # What plain clients get: for each message two bytes of length and {"message": …}.
    frames: bytes

    @property
    def last(self) -> int:
        """The last message's number."""
        return self.seq + self.count - 1

    def since(self, number: int) -> "Run":
        """Return the run without the messages before ``number``, one of its own."""
        skipped = number - self.seq
        frames = self.frames[cut_frames(self.frames, skipped) :]
        return msgspec.structs.replace(self, seq=number, count=self.count - skipped, frames=frames)


def size_of(run: Run) -> int:
    """Return what a run takes in memory, in bytes: short messages take hardly less than longer ones."""
    return len(run.frames) + RUN_OVERHEAD


class Kept(NamedTuple):
    """How much history a room keeps: messages, bytes of memory, and seconds (0: however old)."""

    messages: int
    size: int
    age: float


class History:
    """The last messages of a room."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        self._count = self._size = 0

    def add(self, run: Run, kept: Kept) -> None:
        """Keep a run. What came before a gap in the numbers is forgotten: what is kept has none."""
        if self._runs and run.seq != self._runs[-1].last + 1:
            self.clear()
        self._runs.append(run)
        self._count += run.count
        self._size += size_of(run)
        if self._count > kept.messages or self._size > kept.size or kept.age:
            self.trim(run.at, kept)

    def trim(self, at: float, kept: Kept) -> None:
        """Forget what is too old at ``at``, or too much. The last run stays while it is not too old."""
        runs = self._runs
        while runs and (
            (kept.age and runs[0].at < at - kept.age)
            or (len(runs) > 1 and (self._count - runs[0].count >= kept.messages or self._size > kept.size))
        ):
            run = runs.popleft()
            self._count -= run.count
            self._size -= size_of(run)

    def clear(self) -> None:
        self._runs.clear()
        self._count = self._size = 0

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
        """Yield the runs that hold messages numbered ``seq`` and above. To find the first is O(log n): who
        enters is given the last few of what may be a million."""
        first = bisect_left(self._runs, seq, key=lambda run: run.last)
        return (self._runs[place] for place in range(first, len(self._runs)))


class OvertakenError(Exception):
    """Somebody was given a part of the past so slowly that the next part is not kept any more."""


class Room:
    """One room. Members are known by their connection's identity, workers by their endpoint."""

    def __init__(self, number: int, name: str, seq: int = 0) -> None:
        self.number = number
        self.name = name
        # The number of the last message.
        self.seq = seq
        self.history = History()
        self.stream = StreamBuffer(0)
        self._field = room_field(name)
        # Names by identity; and sorted, for to sort thousands for whoever asks would hold everybody else up.
        self.members: dict[int, str] = {}
        self.names: list[str] = []
        # How many members of this room each worker serves live; only those workers are told.
        self.endpoints: Counter[object] = Counter()
        self._pending: list[Run] = []
        self._joined: dict[str, None] = {}
        self._left: dict[str, str] = {}
        self._next_notice = 0.0

    def post(self, sender: str, count: int, frames: bytes, at: float, kept: Kept) -> Run:
        """Number ``count`` messages; ``sender`` is a name, an address, or empty for the server itself."""
        run = Run(self.name, self.seq + 1, count, at, sender, frames)
        self.seq += count
        self.history.add(run, kept)
        if self.members:
            self._pending.append(run)
        return run

    def enter(self, identity: int, name: str) -> None:
        self.members[identity] = name
        insort(self.names, name)
        if self._left.pop(name, None) is None:
            self._joined[name] = None

    def leave(self, identity: int, reason: str) -> None:
        name = self.members.pop(identity)
        del self.names[bisect_left(self.names, name)]
        if name in self._joined:
            del self._joined[name]
        else:
            self._left[name] = reason
        if not self.members:  # nobody is owed anything of it
            self.stream.forget()

    def trim(self, at: float, kept: Kept) -> None:
        """Keep no more than this from now on: where nobody says anything, nothing else would see to it."""
        self.history.trim(at, kept)
        if self.stream.limit > kept.size:
            self.stream.limit = kept.size
            self.stream.append(b"", 0)  # which forgets what is too much

    def notice_due(self) -> float | None:
        """Return when the waiting notice is due, on the clock of :meth:`flush`; None: none waits."""
        return self._next_notice if self._joined or self._left else None

    def flush(self, now: float, share: int) -> tuple[int, bytes]:
        """Return what members get since the last call: how many frames, notices included, and the frames.

        ``share`` is how many bytes of its stream the room may keep.

        Comers and leavers are told at once, and those of the next :data:`NOTICE_GATHER` seconds together.
        """
        runs, self._pending = self._pending, []
        if not self.members:
            self._joined, self._left = {}, {}
            return 0, b""
        if len(runs) == 1 and not (self._joined or self._left):  # as nearly always
            count, frames = runs[0].count, self.numbered(runs[0])
        else:
            count = sum(run.count for run in runs)
            parts = [self.numbered(run) for run in runs]
            if (self._joined or self._left) and now >= self._next_notice:
                notices = self._notices()
                count += len(notices)
                parts += notices
                self._next_notice = now + NOTICE_GATHER
            frames = b"".join(parts)
        if frames:
            self.stream.limit = share
            self.stream.append(frames, count)
        return count, frames

    def numbered(self, run: Run) -> bytes:
        """Return what members get for a run of this room."""
        return numbered_frames(run.frames, run.sender, self._field, run.seq, run.at)

    def _notices(self) -> list[bytes]:
        members = len(self.members)
        frames = []
        for reason in dict.fromkeys(self._left.values()):
            names = [name for name, why in self._left.items() if why == reason]
            frames.append(left_frame(self.name, names, members, reason))
        if self._joined:
            frames.append(joined_frame(self.name, list(self._joined), members))
        self._joined, self._left = {}, {}
        return frames


class Replay:
    """What somebody is still to be given before the room's stream: history, then the stream from a place."""

    def __init__(self, room: Room, first: int, last: int, number: int) -> None:
        """Give the messages ``first`` to ``last``, and then the stream after its first ``number`` frames."""
        self.room = room
        self._next, self._last = first, last
        offset = room.stream.cursor_of(Place(number))
        # What the stream has forgotten is overtaken from the beginning.
        self._offset = -1 if isinstance(offset, Outside) else offset

    @property
    def done(self) -> bool:
        """True when what follows is what the room says from now on."""
        return self._next > self._last and self._offset == self.room.stream.end

    def chunk(self, most: int) -> bytes:
        """Return the next part, about ``most`` bytes. Raises :class:`OvertakenError`."""
        parts: list[bytes] = []
        size = 0
        if self._next <= self._last:
            first = self.room.history.first
            if first is None or first > self._next:
                raise OvertakenError
            for run in self.room.history.since(self._next):
                if size >= most or self._next > self._last:
                    break
                parts.append(self.room.numbered(run.since(self._next) if run.seq < self._next else run))
                size += len(parts[-1])
                self._next = run.last + 1
        if self._next > self._last and size < most and self._offset < self.room.stream.end:
            if self._offset < self.room.stream.start:
                raise OvertakenError
            views = self.room.stream.read(self._offset, most - size)
            self._offset += sum(map(len, views))
            parts += map(bytes, views)
        return b"".join(parts)
