"""Channel: the two queues between the hub and one worker, with a window on each so that no end ever blocks.

Each end has a :class:`Link`. A queue is a ``multiprocessing.SimpleQueue``: no feeder thread, what was put is
written. It has one writer and one reader, so it gets no lock: nothing that a killed process could hold, and
no named semaphore that could outlive everybody. The two private attributes of the queue that are needed for
waiting (``_reader``) and closing (``_writer``) are touched in this module and nowhere else.

An item is one ``write`` of at most 16 KiB, and there is always room for it in the pipe, so an item is whole
or not there at all, whatever kills or stops the process that writes it.
"""

import fcntl
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing.queues import SimpleQueue
from typing import Any, NamedTuple

# What an item's data may take, in bytes. Up to 16 KiB ``multiprocessing`` writes an item in one system call;
# the rest is for pickling and the other fields.
ITEM_SIZE = (16 << 10) - 512
# What a pipe is asked to hold, in bytes. What is on its way is delay for whatever comes after it: a window of
# a quarter of this keeps both ends busy, and a larger one adds nothing but that.
PIPE_SIZE = 256 << 10
# Of a pipe's size, the share that data may take: an item just over half a page takes a whole page, and items
# outside the window (beats, acknowledgements) need room too.
WINDOW_SHARE = 4
# What an item costs beside its data, in bytes.
ITEM_COST = 128
# Linux's F_SETPIPE_SZ; the name is in fcntl there, and nothing like it is elsewhere.
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)
# What a pipe holds where its size cannot be set, in bytes (macOS, and Linux past pipe-user-pages-soft).
_PIPE_SIZE_FLOOR = 16 << 10

Queue = SimpleQueue[tuple[int, int, int, Any]]


class _Unlocked:
    """Stands where the queue expects a multiprocessing context, to be given no locks."""

    Lock = staticmethod(nullcontext)


def make_queue() -> tuple[Queue, int]:
    """Return a queue for one writer and one reader, and its window: how many bytes may be on their way."""
    queue: Queue = SimpleQueue(ctx=_Unlocked())
    size = _PIPE_SIZE_FLOOR
    if _F_SETPIPE_SZ is not None:
        try:
            size = fcntl.fcntl(queue._writer.fileno(), _F_SETPIPE_SZ, PIPE_SIZE)  # type: ignore[attr-defined]
        except PermissionError:
            size = 64 << 10
    return queue, size // WINDOW_SHARE


class Item(NamedTuple):
    """What :meth:`Link.receive` returns. ``cost`` is to be given back with :meth:`Link.take`."""

    kind: int
    payload: Any
    cost: int


# Kinds below this one are the link's own; the parties' kinds start here.
ACK = 0
PIECE = 1
FIRST_KIND = 2


class Link:
    """One end of a channel.

    ``send`` never blocks: past the window items wait in a backlog here, in order. The other end acknowledges
    bytes once it has *taken* them, with whatever it sends next, or with an item of its own when much is due.
    """

    def __init__(self, incoming: Queue, outgoing: Queue, window: int) -> None:
        """Take the near ends of two queues and close the far ones: without that a dead peer's end-of-file
        would never come, and half an item of a killed one would block for ever. ``window`` is in bytes."""
        self.window = window
        self.backlog_size = 0
        self._backlog: deque[tuple[int, Any, int]] = deque()
        self._sent = self._acknowledged = 0
        self._taken = self._told = 0
        self._pieces: list[bytes] = []
        self._incoming, self._outgoing = incoming, outgoing
        self._reader: Any = incoming._reader  # type: ignore[attr-defined]
        self._writer: Any = outgoing._writer  # type: ignore[attr-defined]

    def close_far_ends(self) -> None:
        """Close the other process's ends in this process; in the parent only after the child was started."""
        self._incoming._writer.close()  # type: ignore[attr-defined]
        self._outgoing._reader.close()  # type: ignore[attr-defined]

    def fileno(self) -> int:
        """The descriptor that is readable when :meth:`receive` has something to return."""
        return int(self._reader.fileno())

    @property
    def acknowledged(self) -> int:
        """Bytes that the other end has taken, ever."""
        return self._acknowledged

    @property
    def congested(self) -> bool:
        """True while something waits for the other end to take what is on its way."""
        return bool(self._backlog)

    def send(self, kind: int, payload: Any, size: int = 0) -> None:
        """Send, in order. ``size`` is about how many bytes ``payload`` takes, at most :data:`ITEM_SIZE`.

        Raises ``BrokenPipeError`` when the other process is gone.
        """
        self._backlog.append((kind, payload, size + ITEM_COST))
        self.backlog_size += size + ITEM_COST
        self._pump()

    def send_frames(self, kind: int, count: int, frames: bytes) -> None:
        """Send ``count`` frames as ``(count, frames)``; a frame too long for an item goes in pieces."""
        for piece in self._leading_pieces(frames):
            self.send(PIECE, piece, len(piece))
        last = len(frames) % ITEM_SIZE or ITEM_SIZE
        self.send(kind, (count, frames if last >= len(frames) else frames[-last:]), min(last, len(frames)))

    @staticmethod
    def _leading_pieces(frames: bytes) -> Iterator[bytes]:
        for start in range(0, len(frames) - ITEM_SIZE, ITEM_SIZE):
            yield frames[start : start + ITEM_SIZE]

    def send_now(self, kind: int, payload: Any) -> None:
        """Send something small past the backlog and the window; at most a few a second."""
        self._told = self._taken
        self._outgoing.put((kind, self._taken, 0, payload))

    def _pump(self) -> None:
        backlog = self._backlog
        while backlog and self._sent - self._acknowledged < self.window:
            kind, payload, cost = backlog.popleft()
            self.backlog_size -= cost
            self._sent += cost
            self._told = self._taken
            self._outgoing.put((kind, self._taken, cost, payload))

    def receive(self) -> Item | None:
        """Read one item; None when it was the link's own. ``EOFError`` when the other process is gone.

        Call it only when the descriptor is readable: it would wait.
        """
        kind, acknowledged, cost, payload = self._incoming.get()
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            if self._backlog:
                self._pump()
        if kind == ACK:
            return None
        if kind == PIECE:
            self._pieces.append(payload)
            self.take(cost)  # at once: a window smaller than a frame would wait for the rest for ever
            return None
        if self._pieces:
            payload = (payload[0], b"".join([*self._pieces, payload[1]]))
            self._pieces.clear()
        return Item(kind, payload, cost)

    def take(self, cost: int) -> None:
        """Say that an item was dealt with; its bytes may be replaced by others."""
        self._taken += cost
        if self._taken - self._told > self.window // 4:
            self.send_now(ACK, None)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
