"""Channel: the two queues between the hub and one worker, with a window on each so that no end ever blocks.

Each end has a :class:`Link`. A queue is a ``multiprocessing.SimpleQueue``: no feeder thread, what was put is
written. It has one writer and one reader, so it gets no lock: nothing that a killed process could hold, and
no named semaphore that could outlive everybody.

The link writes and reads the queue's pipe itself (the private attributes ``_writer`` and ``_reader``, touched
in this module and nowhere else), because ``put`` and ``get`` may wait and a link may not. A window keeps what
is on its way below what the pipe takes. Where it does not, because the pipe is small and an item is not, the
link keeps the rest of the item until there is room (see :mod:`mpchat.ipc.link_watch`). Reading takes all that
is there and keeps half an item until the rest comes: a process that is stopped or killed in the middle of one
holds nobody up. It is cheaper too: one system call an item there, one for many items here.
"""

import fcntl
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from multiprocessing.queues import SimpleQueue
from pickle import HIGHEST_PROTOCOL, dumps, loads
from termios import FIONREAD
from typing import Any, NamedTuple

import msgspec

# What an item's data may take, in bytes: large, because each costs two processes a few microseconds.
ITEM_SIZE = 64 << 10
# What a pipe is asked to hold, in bytes. What is on its way is delay for whatever comes after it: a window of
# a quarter of this keeps both ends busy, and a larger one adds nothing but that.
PIPE_SIZE = 1 << 20
# Of a pipe's size, the share that data may take: an item just over half a page takes a whole page, and items
# outside the window (beats, acknowledgements) need room too.
WINDOW_SHARE = 4
# What an item costs beside its data, in bytes.
ITEM_COST = 128
# Linux's F_SETPIPE_SZ and F_GETPIPE_SZ; the names are in fcntl there, and nothing like them is elsewhere.
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)
_F_GETPIPE_SZ = getattr(fcntl, "F_GETPIPE_SZ", None)
# What a pipe holds where it cannot be asked, in bytes (macOS).
_PIPE_SIZE_FLOOR = 16 << 10
# Bytes read at a time; below what the C library would map and unmap memory for (128 KiB).
READ_SIZE = 120 << 10
# What FIONREAD answers, an int as C has it, for a pipe with nothing in it.
_NO_BYTES = bytes(4)
# Stands for the descriptor of a link that was closed: every call refuses it.
CLOSED = -1
# In front of an item: its length in bytes.
_LENGTH = struct.Struct("!I")

Queue = SimpleQueue[tuple[int, int, int, Any]]


def _nothing() -> None:
    """Stand for a reaction that nobody has asked for."""


class _Unlocked:
    """Stands where the queue expects a multiprocessing context, to be given no locks."""

    Lock = staticmethod(nullcontext)


def make_queue() -> tuple[Queue, int]:
    """Return a queue for one writer and one reader, and its window: how many bytes may be on their way."""
    queue: Queue = SimpleQueue(ctx=_Unlocked())
    return queue, _pipe_size(queue._writer.fileno()) // WINDOW_SHARE  # type: ignore[attr-defined]


def _pipe_size(descriptor: int) -> int:
    if _F_SETPIPE_SZ is None or _F_GETPIPE_SZ is None:
        return _PIPE_SIZE_FLOOR
    with suppress(PermissionError):  # this user's pipes take too much already (pipe-user-pages-soft)
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, PIPE_SIZE)
    return fcntl.fcntl(descriptor, _F_GETPIPE_SZ)


class WritingEnd(NamedTuple):
    """The end of a pipe that is watched for room."""

    descriptor: int

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self.descriptor


class Item(msgspec.Struct, frozen=True):
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
        """Take the near ends of two queues. ``window`` is in bytes."""
        self.window = window
        self.item_size = min(ITEM_SIZE, window)
        self.backlog_size = 0
        self._backlog: deque[tuple[int, Any, int]] = deque()
        self._sent = self._acknowledged = 0
        self._taken = self._told = 0
        self._half = b""
        # The rest of an item for which the pipe had no room, and small items behind it.
        self._unwritten = bytearray()
        # Called when the pipe has no room: :meth:`write_on` is to be called when it has some again.
        self.on_full: Callable[[], None] = _nothing
        self._pieces: list[bytes] = []
        self._incoming, self._outgoing = incoming, outgoing
        self._reader: Any = incoming._reader  # type: ignore[attr-defined]
        self._writer: Any = outgoing._writer  # type: ignore[attr-defined]
        # Their descriptors, asked for once.
        self._from: int = self._reader.fileno()
        self._to: int = self._writer.fileno()
        os.set_blocking(self._to, False)

    def close_far_ends(self) -> None:
        """Close the other process's ends in this process; in the parent only after the child was started.

        Without that a dead peer's end-of-file would never come.
        """
        self._incoming._writer.close()  # type: ignore[attr-defined]
        self._outgoing._reader.close()  # type: ignore[attr-defined]

    def fileno(self) -> int:
        """The descriptor that is readable when :meth:`receive` has something to return."""
        return self._from

    @property
    def writing_end(self) -> WritingEnd:
        """What to watch for room after ``on_full``."""
        return WritingEnd(self._to)

    @property
    def full(self) -> bool:
        """True while the pipe has no room for what was to be written."""
        return bool(self._unwritten)

    @property
    def readable(self) -> bool:
        """True when :meth:`receive` would not wait. Asks the system."""
        return fcntl.ioctl(self._from, FIONREAD, _NO_BYTES) != _NO_BYTES

    @property
    def acknowledged(self) -> int:
        """Bytes that the other end has taken, ever."""
        return self._acknowledged

    @property
    def under_way(self) -> int:
        """Bytes that were sent and that the other end has not taken."""
        return self._sent - self._acknowledged + self.backlog_size

    @property
    def congested(self) -> bool:
        """True while something waits for the other end to take what is on its way."""
        return bool(self._backlog)

    def send(self, kind: int, payload: Any, size: int = 0) -> None:
        """Send, in order. ``size`` is about how many bytes ``payload`` takes, at most ``item_size``.

        Raises ``BrokenPipeError`` when the other process is gone.
        """
        self._backlog.append((kind, payload, size + ITEM_COST))
        self.backlog_size += size + ITEM_COST
        self._pump()

    def send_frames(self, kind: int, head: Any, frames: bytes, head_size: int = 0) -> None:
        """Send ``(head, frames)``; frames too long for an item go in pieces.

        ``head`` is a number, or something that takes about ``head_size`` bytes.
        """
        size = len(frames)
        if size > self.item_size:
            for piece in self._leading_pieces(frames):
                self.send(PIECE, piece, len(piece))
            size = size % self.item_size or self.item_size
            frames = frames[-size:]
        self.send(kind, (head, frames), size + head_size)

    def _leading_pieces(self, frames: bytes) -> Iterator[bytes]:
        for start in range(0, len(frames) - self.item_size, self.item_size):
            yield frames[start : start + self.item_size]

    def send_now(self, kind: int, payload: Any) -> None:
        """Send something small past the backlog and the window; at most a few a second."""
        self._write(kind, 0, payload)

    def _pump(self) -> None:
        backlog = self._backlog
        while backlog and not self._unwritten and self._sent - self._acknowledged < self.window:
            kind, payload, cost = backlog.popleft()
            self.backlog_size -= cost
            self._sent += cost
            self._write(kind, cost, payload)

    def _write(self, kind: int, cost: int, payload: Any) -> None:
        self._told = self._taken
        # The kind as a plain number: as a member of its enum it would go by name, and be looked up there.
        item = dumps((int(kind), self._taken, cost, payload), HIGHEST_PROTOCOL)
        head = _LENGTH.pack(len(item))
        if self._unwritten:
            self._unwritten += head + item
            return
        written = 0
        with suppress(BlockingIOError):
            written = os.writev(self._to, (head, item))
        if written < len(head) + len(item):
            self._unwritten += (head + item)[written:]
            self.on_full()

    def write_on(self) -> None:
        """Write what the pipe had no room for, as far as it has now. Raise ``OSError`` if nobody reads it."""
        with suppress(BlockingIOError):
            del self._unwritten[: os.write(self._to, self._unwritten)]
        self._pump()

    def receive(self) -> list[Item]:
        """Read what is there; returns the items that are whole by now.

        Call it only when the descriptor is readable: it would wait. ``EOFError`` when the other process is
        gone.
        """
        data = os.read(self._from, READ_SIZE)
        if not data:
            raise EOFError
        if self._half:
            data = self._half + data
        items = []
        position, size = 0, len(data)
        while size - position >= _LENGTH.size:
            end = position + _LENGTH.size + _LENGTH.unpack_from(data, position)[0]
            if end > size:
                break
            if (item := self._item(loads(memoryview(data)[position + _LENGTH.size : end]))) is not None:
                items.append(item)
            position = end
        self._half = data[position:]
        return items

    def _item(self, received: tuple[int, int, int, Any]) -> Item | None:
        """Do what an item says to the link itself; returns it if it says something else too."""
        kind, acknowledged, cost, payload = received
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            if self._backlog:
                with suppress(OSError):  # it is gone, but what it wrote before is still to be read
                    self._pump()
        if kind == ACK:
            return None
        if kind == PIECE:
            self._pieces.append(payload)
            with suppress(OSError):
                self.take(cost)  # at once: a window smaller than a frame would wait for the rest for ever
            return None
        if self._pieces and cost:  # what was sent past the window costs nothing, and is no piece's end
            payload = (payload[0], b"".join([*self._pieces, payload[1]]))
            self._pieces.clear()
        return Item(kind, payload, cost)

    def take(self, cost: int) -> None:
        """Say that an item was dealt with; its bytes may be replaced by others."""
        self._taken += cost
        if self._taken - self._told > self.window // 8:
            self.send_now(ACK, None)

    def close(self) -> None:
        """Close this end; what was not read is lost."""
        self._reader.close()
        self._writer.close()
        self._from = self._to = CLOSED
