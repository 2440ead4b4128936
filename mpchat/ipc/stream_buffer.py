"""Stream buffer: the end of a stream, the encoded frames of one room in one dialect, in bounded memory.

Pure. A stream knows offsets, not clients: whoever reads it keeps a cursor, an absolute offset, and asks for
what stands there. The hub and all workers hold the same bytes under the same offsets, however they are cut
into blobs, so a cursor that leaves one process means the same in another.

Blobs are appended whole and end at a frame's end. Memory is ``limit`` bytes and one blob, however many
cursors there are; a cursor that is more than ``limit`` behind the end belongs to a slow consumer.
"""

from bisect import bisect_right

# How many blobs one read gathers at most. Far below the system's limit for one sendmsg (IOV_MAX, 1024),
# and enough to fill a socket's buffer where blobs are small.
GATHER = 64


class StreamBuffer:
    """A ring of blobs between the absolute offsets ``start`` and ``end``, in bytes."""

    __slots__ = ("_blobs", "_first", "_numbers", "_offsets", "end", "limit", "messages", "start")

    def __init__(self, limit: int) -> None:
        """Keep at least the last ``limit`` bytes, once there are that many."""
        self.limit = limit
        self.begin(0, 0)

    def begin(self, start: int, messages: int) -> None:
        """Forget everything and go on at the offset ``start``, before which there were ``messages``."""
        self.start = self.end = start
        # The number of the last message; a late client's difference to it is what it is owed.
        self.messages = messages
        self._blobs: list[bytes] = []
        self._offsets: list[int] = []
        # For each blob, how many messages there were before it.
        self._numbers: list[int] = []
        # Blobs before this index are forgotten; they are cut off the lists now and then, not each time.
        self._first = 0

    @property
    def oldest(self) -> int:
        """How far back a cursor may be, as an offset."""
        return max(self.start, self.end - self.limit)

    @property
    def messages_before(self) -> int:
        """How many messages there were before ``start``."""
        return self._numbers[self._first] if self._first < len(self._numbers) else self.messages

    def append(self, blob: bytes, messages: int) -> None:
        """Add ``blob``, ``messages`` whole frames, and forget what nobody may need. Amortised O(1)."""
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
        if first > 1024 and first * 2 > len(blobs):
            del blobs[:first], self._offsets[:first], self._numbers[:first]
            self._first = 0

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

    def forget(self) -> None:
        """Keep nothing of what there is."""
        if self.start != self.end:
            self.begin(self.end, self.messages)

    def read_all(self, cursor: int) -> list[memoryview]:
        """Return everything from ``cursor`` on; see :meth:`read`."""
        found = []
        while views := self.read(cursor, self.limit):
            found += views
            cursor += sum(map(len, views))
        return found

    def copy(self, cursor: int, most: int) -> tuple[int, bytes]:
        """Return whole blobs from ``cursor`` on, joined: how many messages, and their bytes.

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
