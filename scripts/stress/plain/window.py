"""The part of the one order that is kept: its bytes, and where its frames and test messages are. Pure."""

from bisect import bisect_left, bisect_right

from scripts.common.frames import split_frames
from scripts.stress.plain.messages import Stamp, TestMessages


class Window:
    """Bytes of the order from ``base`` to ``end``; offsets count from where the segment began."""

    def __init__(self, tests: TestMessages) -> None:
        """Begin an empty segment."""
        self.base = 0
        self.where: dict[bytes, int] = {}  # test message → offset
        self._tests = tests
        self._data = bytearray()
        self._starts: list[int] = []  # offset of each frame
        self._sent: list[int] = []  # when it was sent (ns), 0 for no test message
        self._dropped = 0  # frames before the first of them

    @property
    def end(self) -> int:
        """Offset after the last frame."""
        return self.base + len(self._data)

    def matches(self, data: bytes, offset: int) -> bool:
        """Say whether the order has ``data`` at ``offset``."""
        return self._data.startswith(data, offset - self.base)

    def cut(self, start: int, end: int) -> bytes:
        """Return the bytes between two offsets."""
        return bytes(self._data[start - self.base : end - self.base])

    def frames(self, start: int, end: int) -> tuple[bytes, ...]:
        """Return the frames between two offsets."""
        return tuple(split_frames(self.cut(start, end))[0])

    def append(self, data: bytes) -> list[tuple[Stamp, int]]:
        """Add whole frames; return its test messages, each with the offset of its end."""
        stamps = []
        at = self.end
        for frame in split_frames(data)[0]:
            stamp = self._tests.read(frame)
            self._starts.append(at)
            self._sent.append(stamp.sent if stamp else 0)
            if stamp:
                self.where.setdefault(frame, at)
                stamps.append((stamp, at + len(frame)))
            at += len(frame)
        self._data += data
        return stamps

    def frame_at(self, offset: int) -> int:
        """Return where the frame begins that ``offset`` lies in."""
        index = bisect_right(self._starts, offset) - 1
        return self.end if offset >= self.end or index < 0 else self._starts[index]

    def count_before(self, offset: int) -> int:
        """Return the number of frames of the segment before ``offset``, dropped ones included."""
        return self._dropped + bisect_left(self._starts, offset)

    def end_of_frames(self, start: int, count: int) -> int:
        """Return the offset ``count`` frames after ``start``, or the end."""
        index = bisect_left(self._starts, start) + count
        return self._starts[index] if index < len(self._starts) else self.end

    def sent_between(self, start: int, end: int) -> list[int]:
        """Return when the test messages were sent that end in ``start`` < offset ≤ ``end``, in ns."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        sent = []
        for index in range(first, bisect_left(self._starts, end)):
            if start < self._frame_end(index) <= end and self._sent[index]:
                sent.append(self._sent[index])
        return sent

    def sent_after(self, start: int, end: int, time: int) -> list[int]:
        """Return the offsets, between two offsets, of test messages that were sent after ``time`` (ns)."""
        between = range(bisect_left(self._starts, start), bisect_left(self._starts, end))
        return [self._starts[index] for index in between if self._sent[index] > time]

    def frame_from(self, offset: int) -> bytes:
        """Return the frame that begins at ``offset``."""
        return self.cut(offset, self._frame_end(bisect_left(self._starts, offset)))

    def move(self, frame: bytes, after: int) -> bool:
        """Note that ``frame`` belongs to where it comes again ``after`` an offset; False: nowhere."""
        again = self._data.find(frame, after - self.base)
        if again >= 0:
            self.where[frame] = self.base + again
        return again >= 0

    def drop(self, cut: int) -> None:
        """Drop everything before the offset ``cut``."""
        first = bisect_left(self._starts, cut)
        for frame in self.frames(self.base, cut):
            if self.where.get(frame, cut) < cut:
                del self.where[frame]
        del self._data[: cut - self.base]
        del self._starts[:first]
        del self._sent[:first]
        self._dropped += first
        self.base = cut

    def _frame_end(self, index: int) -> int:
        return self._starts[index + 1] if index + 1 < len(self._starts) else self.end
