"""Stream buffer: the end of a stream, the encoded frames of one room in one dialect, in bounded memory.

Pure. A stream knows offsets, not clients: a reader keeps a cursor, which is an absolute offset, and asks for
what stands there. Offsets are private to a process. What leaves a process is a :class:`Place`, which counts
frames and means the same in every process, however the frames are cut into blobs there.

Blobs are appended whole and end at a frame's end. Memory is ``limit`` bytes and one blob, however many
cursors there are; a cursor that is more than ``limit`` behind the end belongs to a slow consumer.
"""

from bisect import bisect_right
from enum import Enum
from typing import NamedTuple

from mpchat.protocol.framing import PLAIN_FRAMING, Framing

# How many blobs one read gathers at most. Far below the system's limit for one sendmsg (IOV_MAX, 1024),
# and enough to fill a socket's buffer where blobs are small.
GATHER = 64
# Forgotten blobs are cut off the lists when there are so many of them, and one in so many: what a stream
# takes beside its bytes (``memory.BLOB_COST``) has room for these.
FORGOTTEN_LEAST, FORGOTTEN_SHARE = 64, 8


class Place(NamedTuple):
    """Where in a stream a client is, the same in every process."""

    # How many whole frames come before, counted from the first frame that the stream ever had.
    number: int
    # How many bytes of the next frame come before.
    byte: int = 0


class Outside(Enum):
    """Why no cursor belongs to a place."""

    # What stands there is not kept any more.
    FORGOTTEN = "forgotten"
    # What stands there has not been appended yet.
    AHEAD = "ahead"


class StreamBuffer:
    """A ring of blobs between the absolute offsets ``start`` and ``end``, in bytes."""

    __slots__ = ("_blobs", "_first", "_numbers", "_offsets", "end", "framing", "limit", "messages", "start")

    def __init__(self, limit: int, framing: Framing = PLAIN_FRAMING) -> None:
        """Keep at least the last ``limit`` bytes, once there are that many; ``framing`` finds frames."""
        self.limit = limit
        self.framing = framing
        self.end = 0
        self.begin(0)

    def begin(self, messages: int, offset: int | None = None) -> None:
        """Forget everything and go on where ``messages`` frames have come before, perhaps at ``offset``."""
        if offset is not None:
            self.end = offset
        self.start = self.end
        # How many frames there have been; a late client's difference to it is what the client is owed.
        self.messages = messages
        self._blobs: list[bytes] = []
        self._offsets: list[int] = []
        # For each blob, how many frames there were before it.
        self._numbers: list[int] = []
        # Blobs before this index are forgotten; they are cut off the lists now and then, not each time.
        self._first = 0

    @property
    def oldest(self) -> int:
        """How far back a cursor may be, as an offset."""
        return max(self.start, self.end - self.limit)

    @property
    def messages_before(self) -> int:
        """How many frames there were before ``start``."""
        return self._numbers[self._first] if self._first < len(self._numbers) else self.messages

    def append(self, blob: bytes, messages: int) -> None:
        """Add ``blob``, ``messages`` whole frames; forget what no cursor may need. Amortised O(1)."""
        self._offsets.append(self.end)
        self._numbers.append(self.messages)
        self._blobs.append(blob)
        self.end += len(blob)
        self.messages += messages
        blobs, first = self._blobs, self._first
        while self.end - self.start - len(blobs[first]) >= self.limit:
            self.start += len(blobs[first])
            blobs[first] = b""
            first += 1
        self._first = first
        if first > FORGOTTEN_LEAST:
            self._cut_off_forgotten()

    def _cut_off_forgotten(self) -> None:
        first = self._first
        if first * FORGOTTEN_SHARE > len(self._blobs):
            del self._blobs[:first], self._offsets[:first], self._numbers[:first]
            self._first = 0

    def append_in_pieces(self, frames: bytes, messages: int, most: int) -> int:
        """Add whole frames in blobs of at most ``most`` bytes, which is more than the longest frame.

        The last blob is kept whatever the limit is, so a long one would be kept beyond it. Returns by how
        much more is kept, in bytes.
        """
        kept = self.start - self.end
        while len(frames) > most:
            count, end = self.framing.leading(frames, most)
            self.append(frames[:end], count)
            frames = frames[end:]
            messages -= count
        self.append(frames, messages)
        return self.end - self.start + kept

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self.end - self.start

    def trim(self, most: int) -> None:
        """Forget the oldest blobs until no more than ``most`` bytes are kept, perhaps none."""
        while self.size > most:
            self.start += len(self._blobs[self._first])
            self._blobs[self._first] = b""
            self._first += 1
        self._cut_off_forgotten()

    def read(self, cursor: int, most: int) -> list[memoryview]:
        """Return what stands from ``cursor`` on, about ``most`` bytes, as views to hand to ``sendmsg``.

        ``cursor`` must lie between ``start`` and ``end``; at ``end`` there is nothing, an empty list.
        O(log n) to find the place.
        """
        index = bisect_right(self._offsets, cursor) - 1
        if index < 0 or cursor >= self.end:
            return []
        views = [memoryview(self._blobs[index])[cursor - self._offsets[index] :]]
        total = len(views[0])
        for blob in self._blobs[index + 1 : index + GATHER]:
            if total >= most:
                break
            views.append(memoryview(blob))
            total += len(blob)
        return views

    def pass_by(self, size: int, messages: int) -> None:
        """Go on behind ``size`` bytes, ``messages`` whole frames, and keep nothing."""
        self.forget()
        self.end += size
        self.start = self.end
        self.messages += messages

    def forget(self) -> None:
        """Keep nothing of what there is."""
        if self.start != self.end:
            self.start = self.end
            self._blobs.clear()
            self._offsets.clear()
            self._numbers.clear()
            self._first = 0

    def place_of(self, cursor: int) -> Place:
        """Return the place of a cursor between ``start`` and ``end``.

        O(log n) to find the blob, and a walk over the blob's frames.
        """
        if cursor >= self.end:
            return Place(self.messages)
        index = bisect_right(self._offsets, cursor) - 1
        inside = cursor - self._offsets[index]
        count, begin = self.framing.leading(self._blobs[index], inside)
        return Place(self._numbers[index] + count, inside - begin)

    def cursor_of(self, place: Place) -> int | Outside:
        """Return the cursor of a place, or why there is none. Costs what :meth:`place_of` costs."""
        number, byte = place
        if number >= self.messages:
            return self.end if place == (self.messages, 0) else Outside.AHEAD
        if number < self.messages_before:
            return Outside.FORGOTTEN
        index = bisect_right(self._numbers, number) - 1
        begin = self.framing.cut(self._blobs[index], number - self._numbers[index])
        return self._offsets[index] + begin + byte

    def rest_of_frame(self, cursor: int) -> bytes:
        """Return what is left of the frame that ``cursor`` is inside of; nothing where a frame begins."""
        if cursor >= self.end:
            return b""
        index = bisect_right(self._offsets, cursor) - 1
        blob, inside = self._blobs[index], cursor - self._offsets[index]
        count, begin = self.framing.leading(blob, inside)
        return blob[inside : self.framing.cut(blob, count + 1)] if begin != inside else b""

    def read_all(self, cursor: int) -> list[memoryview]:
        """Return everything from ``cursor`` on; see :meth:`read`."""
        found = []
        while views := self.read(cursor, self.limit):
            found += views
            cursor += sum(map(len, views))
        return found

    def put_before(self, other: "StreamBuffer", number: int) -> None:
        """Put frames in front, in this one's framing: those of a stream of plain frames from ``number`` on.

        That stream must have what comes before this one's first frame; what it has forgotten stays away.
        """
        offsets, numbers, blobs = list[int](), list[int](), list[bytes]()
        size, begin, end = 0, max(number, other.messages_before), self.messages_before
        index = bisect_right(other._numbers, begin) - 1
        while begin < end:
            blob, before = other._blobs[index], other._numbers[index]
            stop = min(end, other._numbers[index + 1] if index + 1 < len(other._numbers) else other.messages)
            cut = other.framing.cut
            part = self.framing.encode(blob[cut(blob, begin - before) : cut(blob, stop - before)])
            offsets.append(size)
            numbers.append(begin)
            blobs.append(part)
            size += len(part)
            begin, index = stop, index + 1
        self.start -= size
        first, self._first = self._first, 0
        self._offsets[:first] = [self.start + each for each in offsets]
        self._numbers[:first], self._blobs[:first] = numbers, blobs

    def copy(self, cursor: int, most: int) -> tuple[int, bytes]:
        """Return whole blobs from ``cursor`` on, joined: how many frames, and their bytes.

        ``cursor`` must be where a blob begins. About ``most`` bytes, at least one blob; nothing at ``end``.
        """
        index = stop = max(self._first, bisect_right(self._offsets, cursor) - 1)
        if cursor >= self.end:
            return 0, b""
        size = 0
        while stop < len(self._blobs) and (size < most or stop == index):
            size += len(self._blobs[stop])
            stop += 1
        after = self._numbers[stop] if stop < len(self._numbers) else self.messages
        return after - self._numbers[index], b"".join(self._blobs[index:stop])
