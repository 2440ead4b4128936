"""Hub: takes posts from all workers, gives them one order, and sends every worker the same.

It runs in the supervisor's loop. Its counterpart in a worker is that worker's end of the :class:`Link`.
Nothing here grows: what a worker may have on its way up is bounded by its window, and while any worker's
backlog on the way down is full, nothing more is taken from anybody.

The hub keeps the stream too. A worker that comes later is filled with it before it serves anybody, so that
clients which are behind can be moved to it.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .channel import Item, Link
from .room import Room
from .stream import Stream
from .wire import Down, Up

# Bytes that may wait for a worker that is busy but moves: more would only be delay, for everybody.
PROMPT_BACKLOG = 128 << 10
# A worker that has acknowledged nothing for this long (seconds) is stuck, not busy: the others go on without
# it, as far as the backlog's limit allows, until it moves again or is found to hang.
STUCK_AFTER = 1.0
# The part of the stream's limit by which the room goes on while connections are between two workers: they get
# nothing meanwhile, and nobody may be taken for slow because of that. Somebody who was more than half a limit
# behind before gets less: he would fall out of the stream.
GOES_ON = 4
# Bytes of the stream that a new worker is sent at a time.
FILL_SIZE = 30 << 10
# What a worker says that does not wait for its place behind posts.
NEWS = frozenset({Up.BEAT, Up.READY, Up.KICKED})


class Port:
    """The hub's end of one worker's channel.

    A worker may die at any moment. Sending to a dead one does nothing: its death is dealt with where it is
    noticed, after all that it had written was read, up to ``ended``.
    """

    def __init__(self, slot: int, link: Link) -> None:
        self.slot = slot
        self.link = link
        # Before it is ready a worker has no clients, so it need not hear, and must not hold up, anything.
        self.ready = False
        # Up to where in the stream it was filled; None when it is not being filled.
        self.filled: int | None = None
        self.ended = False
        # When it last acknowledged something (seconds, monotonic), and how much it had acknowledged then.
        self.progress_at = 0.0
        self._progress = 0

    def send(self, kind: int, payload: Any = None) -> None:
        with suppress(OSError):
            self.link.send(kind, payload)

    def send_now(self, kind: int, payload: Any = None) -> None:
        with suppress(OSError):
            self.link.send_now(kind, payload)

    # These two come with every batch: suppress() would be three further calls in a process just woken.

    def send_frames(self, kind: int, count: int, frames: bytes) -> None:
        try:  # noqa: SIM105
            self.link.send_frames(kind, count, frames)
        except OSError:
            pass

    def take(self, cost: int) -> None:
        try:  # noqa: SIM105
            self.link.take(cost)
        except OSError:
            pass

    def receive(self, now: float) -> list[Item]:
        try:
            items = self.link.receive()
        except (EOFError, OSError):
            self.ended = True
            return []
        if self.link.acknowledged != self._progress:
            self._progress = self.link.acknowledged
            self.progress_at = now
        return items


class Hub:
    """One order for everything. ``on_news(port, kind, payload)`` gets what is not about messages."""

    def __init__(self, room: Room, lag_limit: int, on_news: Callable[[Port, int, Any], None]) -> None:
        """Begin with no worker. ``lag_limit`` is how many bytes of the stream are kept, and how many a stuck
        worker may be behind before everybody has to wait for it."""
        self.room = room
        self.stream = Stream(lag_limit)
        self.ports: list[Port] = []
        # From where on the room may go on by that part, though connections are on their way: by the port of
        # the worker that gives them away until they have come, then by each connection's identity until
        # another worker has it.
        self.anchors: dict[Port | int, int] = {}
        self._inbox: deque[tuple[Port, Item]] = deque()
        self._on_news = on_news

    def attach(self, port: Port) -> None:
        """Let a worker take part: heard at once, and hearing from the next message on once it is ready."""
        self.ports.append(port)

    def detach(self, port: Port) -> None:
        """Forget a dead worker, after everything that it had written was received and is in the order."""
        while not port.ended:
            self.receive(port, 0.0)
        self.ports.remove(port)

    def receive(self, port: Port, now: float) -> None:
        """Read what a worker has written; call it when the port's link is readable."""
        for item in port.receive(now):
            if item.kind in NEWS:
                self._on_news(port, item.kind, item.payload)
            elif item.kind == Up.STARTED:
                self._fill_from_the_start(port)
            else:
                self._inbox.append((port, item))

    def waits(self, now: float) -> bool:
        """Tell whether a worker, or a connection between two, is so far behind that nothing may be taken from
        anybody."""
        if self.anchors and self._has_left_behind(min(self.anchors.values())):
            return True
        return any(self._holds_up(port, now) for port in self.ports)

    def _has_left_behind(self, anchor: int) -> bool:
        return self.stream.end - anchor > self.stream.limit // GOES_ON

    def _holds_up(self, port: Port, now: float) -> bool:
        size = port.link.backlog_size
        if size <= PROMPT_BACKLOG or port.ended or not port.ready:
            return False
        return size > self.stream.limit or now - port.progress_at < STUCK_AFTER

    def turn(self, now: float) -> None:
        """Put what has come in into the order and send it to everybody."""
        while self._inbox and not self.waits(now):
            self._take(*self._inbox.popleft())
        for count, frames in self.room.batch(now):
            self.stream.append(frames, count)
            for port in self.ports:
                if port.ready:
                    port.send_frames(Down.BATCH, count, frames)
        for port in self.ports:
            if port.filled is not None:
                self._fill(port)

    def _fill_from_the_start(self, port: Port) -> None:
        port.filled = self.stream.start
        port.send(Down.BEGIN, (self.stream.start, self.stream.messages_before))

    def _fill(self, port: Port) -> None:
        """Send a new worker more of the stream, as it takes it; when it has all, it hears what is new."""
        assert port.filled is not None
        if port.filled < self.stream.start:  # it was overtaken
            self._fill_from_the_start(port)
        while not port.link.backlog_size:
            count, frames = self.stream.copy(port.filled, FILL_SIZE)
            if not count:
                port.filled = None
                port.ready = True
                port.send(Down.FILLED)
                return
            port.send_frames(Down.FILL, count, frames)
            port.filled += len(frames)

    def _take(self, port: Port, item: Item) -> None:
        if item.kind == Up.POSTS:
            self.room.post(*item.payload)
        elif item.kind == Up.LEFT:
            self.room.leave(item.payload)
        elif item.kind == Up.SYNC:
            if not port.ended:
                self.anchors[port] = min(self.stream.end, item.payload + self.stream.limit // 2)
                port.send_now(Down.SYNCED)
        else:
            self._on_news(port, item.kind, item.payload)
        port.take(item.cost)

    @property
    def empty(self) -> bool:
        """True when nothing that was received waits for its place in the order."""
        return not self._inbox
