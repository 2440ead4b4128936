"""Link watch: a link in a process's loop: its items, and room in a pipe that was too small for an item."""

from collections.abc import Callable

from mpchat.ipc.channel import Link, WritingEnd
from mpchat.reactor import READ, WRITE, Reactor, Timer

# Seconds between two looks for room in a pipe that cannot be watched.
LOOK_EVERY = 0.01


class LinkWatch:
    """Watches a link until :meth:`close`. The pipe to the other process is watched only while it is full."""

    def __init__(self, reactor: Reactor, link: Link, on_items: Callable[[int], None]) -> None:
        """Call ``on_items`` when :meth:`Link.receive` has something to return."""
        self._reactor = reactor
        self._link = link
        self._full: WritingEnd | None = None
        # Instead of that, where the system has no watch left.
        self._look: Timer | None = None
        link.on_full = self._on_full
        reactor.watch(link, READ, on_items)

    def _on_full(self) -> None:
        if self._full is not None or self._look is not None:
            return
        end = self._link.writing_end
        try:
            self._reactor.watch(end, WRITE, self._on_room)
        except OSError:  # the system's limit of watches
            self._look = self._reactor.call_later(LOOK_EVERY, self._look_for_room)
        else:
            self._full = end

    def _look_for_room(self) -> None:
        self._look = None
        try:
            self._link.write_on()
        except OSError:  # as in ``_on_room``
            return
        if self._link.full:
            self._on_full()

    def _on_room(self, mask: int) -> None:
        if self._full is None:  # closed earlier in this turn
            return
        try:
            self._link.write_on()
        except OSError:  # the other process is gone: what it wrote before is still to be read
            self._forget_room()
            return
        if not self._link.full:
            self._forget_room()

    def _forget_room(self) -> None:
        if self._full is not None:
            self._reactor.forget(self._full)
            self._full = None

    def close(self) -> None:
        """Watch no more, before the link is closed."""
        self._link.on_full = _nothing
        if self._look is not None:
            self._look.cancel()
        self._forget_room()
        self._reactor.forget(self._link)


def _nothing() -> None:
    """React to nothing."""
