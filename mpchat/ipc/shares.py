"""Shares: how rooms divide memory when together they want more than there is. Pure.

The rule: a room takes memory by what it holds. Below the limit nothing is taken from any room. Past it the
rooms that hold most are cut down to one size, and all that hold less stay whole. So many small rooms, or one
large one, cannot take from a room more than its fair share.
"""

from collections.abc import Iterable

# Bytes of the histories of all rooms. Bytes of the streams of all rooms, in the hub and in each worker.
HISTORY_MEMORY = 128 << 20
STREAM_MEMORY = 128 << 20
# The part of the memory that is freed at a time: to look at 10 000 rooms takes milliseconds.
FREED = 32


class Memory:
    """Bytes that many holders use together; each adds to ``used`` what it takes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def is_over(self) -> bool:
        """True when the holders must be cut down to :meth:`share`."""
        return self.used > self.limit

    @property
    def has_room(self) -> bool:
        """True when enough is free again."""
        return self.used <= self.limit - self.limit // FREED

    def share(self, sizes: Iterable[int]) -> int:
        """Return the size to cut the largest holders down to, until :attr:`has_room`. O(n log n)."""
        return highest_share(sizes, self.limit - self.limit // FREED)


def highest_share(sizes: Iterable[int], memory: int) -> int:
    """Return the highest size to which all larger ones must be cut down to fit ``memory`` together."""
    left, ascending = memory, sorted(sizes)
    for place, size in enumerate(ascending):
        rest = len(ascending) - place
        if size * rest > left:
            return left // rest
        left -= size
    return ascending[-1] if ascending else memory
