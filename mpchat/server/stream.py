"""Stream: the encoded frames of one room in one dialect, as one growing byte sequence with a bounded memory.

Pure. A stream knows offsets, not clients: whoever reads it keeps a cursor, an absolute offset, and asks for
what stands there. Blobs are appended whole and end at a frame's end. Memory is ``limit`` bytes and the last
blob, however many cursors there are; a cursor that falls out at the old end belongs to a slow consumer.
"""

from bisect import bisect_right

# How many blobs one read gathers at most. Far below the system's limit for one sendmsg (IOV_MAX, 1024),
# and enough to fill a socket's buffer where blobs are small.
GATHER = 64


class Stream:
    """A ring of blobs between the absolute offsets ``start`` and ``end``, in bytes."""

    __slots__ = ("_blobs", "_first", "_offsets", "end", "limit", "messages", "start")

    def __init__(self, limit: int) -> None:
        """Keep the last ``limit`` bytes, at least the last blob."""
        self.limit = limit
        self.start = 0
        self.end = 0
        # Messages ever appended; the difference of two readings counts what a late client was owed.
        self.messages = 0
        self._blobs: list[bytes] = []
        self._offsets: list[int] = []
        # Blobs before this index are forgotten; they are cut off the lists now and then, not each time.
        self._first = 0

    def append(self, blob: bytes, messages: int) -> None:
        """Add ``blob``, ``messages`` whole frames, and forget what is over the limit. Amortised O(1)."""
        self._offsets.append(self.end)
        self._blobs.append(blob)
        self.end += len(blob)
        self.messages += messages
        blobs, first = self._blobs, self._first
        while self.end - self.start > self.limit and first < len(blobs) - 1:
            self.start += len(blobs[first])
            blobs[first] = b""
            first += 1
        self._first = first
        if first > 1024 and first * 2 > len(blobs):
            del blobs[:first], self._offsets[:first]
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
