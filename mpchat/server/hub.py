"""Hub: takes posts from all workers, gives them one order, and sends every worker the same.

It runs in the supervisor's loop. Its counterpart in a worker is that worker's end of the :class:`Link`.
Nothing here grows: what a worker may have on its way up is bounded by its window, and while any worker's
backlog on the way down is full, nothing more is taken from anybody.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .channel import Item, Link
from .room import Room
from .wire import Down, Up


class Port:
    """The hub's end of one worker's channel.

    A worker may die at any moment. Sending to a dead one does nothing: its death is dealt with where it is
    noticed, after all that it had written was read, up to ``ended``.
    """

    def __init__(self, slot: int, link: Link) -> None:
        self.slot = slot
        self.link = link
        self.ended = False

    def send(self, kind: int, payload: Any = None) -> None:
        with suppress(OSError):
            self.link.send(kind, payload)

    def send_frames(self, count: int, frames: bytes) -> None:
        with suppress(OSError):
            self.link.send_frames(Down.BATCH, count, frames)

    def take(self, cost: int) -> None:
        with suppress(OSError):
            self.link.take(cost)

    def receive(self) -> Item | None:
        try:
            return self.link.receive()
        except (EOFError, OSError):
            self.ended = True
            return None


class Hub:
    """One order for everything. ``on_news(port, kind, payload)`` gets what is not about messages."""

    def __init__(self, room: Room, backlog_limit: int, on_news: Callable[[Port, int, Any], None]) -> None:
        """``backlog_limit`` is how many bytes one worker may be behind before everybody has to wait."""
        self.room = room
        self.backlog_limit = backlog_limit
        self.ports: list[Port] = []
        self._inbox: deque[tuple[Port, Item]] = deque()
        self._on_news = on_news

    def attach(self, port: Port) -> None:
        """Let a worker take part, from the next message on."""
        self.ports.append(port)

    def detach(self, port: Port) -> None:
        """Forget a dead worker, after everything that it had written was received and is in the order."""
        while not port.ended:
            self.receive(port)
        self.ports.remove(port)

    def receive(self, port: Port) -> None:
        """Read one item; call it when the port's link is readable."""
        item = port.receive()
        if item is None:
            return
        if item.kind in (Up.BEAT, Up.READY, Up.KICKED):
            self._on_news(port, item.kind, item.payload)
        else:
            self._inbox.append((port, item))

    @property
    def waiting(self) -> bool:
        """True while a worker is so far behind that nothing is taken from anybody."""
        return any(port.link.backlog_size > self.backlog_limit for port in self.ports)

    def turn(self, now: float) -> None:
        """Put what has come in into the order and send it to everybody."""
        while self._inbox and not self.waiting:
            self._take(*self._inbox.popleft())
        for count, frames in self.room.batch(now):
            for port in self.ports:
                port.send_frames(count, frames)

    def _take(self, port: Port, item: Item) -> None:
        if item.kind == Up.POSTS:
            self.room.post(*item.payload)
        elif item.kind == Up.LEFT:
            self.room.leave(item.payload)
        else:
            self._on_news(port, item.kind, item.payload)
        port.take(item.cost)

    @property
    def empty(self) -> bool:
        """True when nothing that was received waits for its place in the order."""
        return not self._inbox
