"""Multiplexer: which of the system's ways to wait for many descriptors the setting ``multiplexer`` means.

Where there is epoll it is used without :mod:`selectors`. That module makes a key for each registration, and
looks it up for each event: a worker that pauses and resumes its readers spent 5 % of its CPU time on that.

Commands use this module to check the setting before they start a server, so it does not load the loop.
"""

import select
import selectors
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from mpchat.errors import ConfigError

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
OnEvent = Callable[[int], None]

_SELECTORS = {
    "auto": "DefaultSelector",
    "epoll": "EpollSelector",
    "kqueue": "KqueueSelector",
    "poll": "PollSelector",
    "select": "SelectSelector",
}


def _ignore(mask: int) -> None:
    """Take an event that nobody waits for."""


_NOBODY = _ignore, 0


class Multiplexer(Protocol):
    """Watches descriptors for READ, WRITE or both, as long as they are ready."""

    def register(self, target: Any, events: int, on_event: OnEvent) -> object:
        """Watch a descriptor, or what has one. Raise ``KeyError`` if it is watched already."""

    def modify(self, target: Any, events: int, on_event: OnEvent) -> object:
        """Watch it for other events, or for somebody else. Raise ``KeyError`` if it is not watched."""

    def pause(self, target: Any) -> object:
        """Say nothing of it until :meth:`modify` is called. Raise ``KeyError`` if it is not watched."""

    def unregister(self, target: Any) -> object:
        """Watch it no longer. Raise ``KeyError`` if it is not watched."""

    def select(self, timeout: float | None) -> list[tuple[OnEvent, int]]:
        """Wait at most ``timeout`` seconds (None: as long as it takes); return what is to be called."""

    def close(self) -> None:
        """Watch nothing any more."""


def make_multiplexer(name: str) -> Multiplexer:
    """Return the multiplexer of a name. Raise :class:`ConfigError` if the system lacks it."""
    kind = getattr(selectors, _SELECTORS[name], None)
    if kind is None:
        have = ", ".join(each for each, attribute in _SELECTORS.items() if hasattr(selectors, attribute))
        raise ConfigError(f"this system has no {name}; multiplexer can be one of {have}")
    return Epoll() if kind is getattr(selectors, "EpollSelector", None) else Standard(kind())


class Standard:
    """A multiplexer of the standard library."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.register = selector.register
        self.close = selector.close
        self._selector = selector
        self._paused: set[int] = set()

    def modify(self, target: Any, events: int, on_event: OnEvent) -> None:
        """Watch otherwise; see :class:`Multiplexer`."""
        descriptor = _descriptor(target)
        if descriptor in self._paused:
            self._selector.register(target, events, on_event)
            self._paused.discard(descriptor)
        else:
            self._selector.modify(target, events, on_event)

    def pause(self, target: Any) -> None:
        """Say nothing of it; see :class:`Multiplexer`."""
        self._selector.unregister(target)
        self._paused.add(_descriptor(target))

    def unregister(self, target: Any) -> None:
        """Watch no longer; see :class:`Multiplexer`."""
        descriptor = _descriptor(target)
        if descriptor in self._paused:
            self._paused.discard(descriptor)
        else:
            self._selector.unregister(target)

    def select(self, timeout: float | None) -> list[tuple[OnEvent, int]]:
        """Wait; see :class:`Multiplexer`."""
        return [(key.data, mask) for key, mask in self._selector.select(timeout)]


class Epoll:
    """The system's epoll. It reports a descriptor as long as it is ready (level-triggered)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[OnEvent, int]] = {}
        both = select.EPOLLIN | select.EPOLLOUT
        self._asked = {READ: select.EPOLLIN, WRITE: select.EPOLLOUT, READ | WRITE: both}
        # Anything else is an error or an end: whoever waits for the descriptor finds out by using it.
        self._said = {asked: events for events, asked in self._asked.items()}

    def register(self, target: Any, events: int, on_event: OnEvent) -> None:
        """Watch; see :class:`Multiplexer`. Raise ``OSError`` if the system refuses it."""
        descriptor = _descriptor(target)
        if descriptor in self._watched:
            raise KeyError(f"watched already: {target!r}")
        self._epoll.register(descriptor, self._asked[events])
        self._watched[descriptor] = on_event, events

    def modify(self, target: Any, events: int, on_event: OnEvent) -> None:
        """Watch otherwise; see :class:`Multiplexer`."""
        descriptor = _descriptor(target)
        if self._watched[descriptor][1] != events:
            self._epoll.modify(descriptor, self._asked[events])
        self._watched[descriptor] = on_event, events

    def pause(self, target: Any) -> None:
        """Say nothing of it; see :class:`Multiplexer`.

        An end and an error are always reported; edge-triggered, they are so once and not again and again.
        """
        descriptor = _descriptor(target)
        on_event, _ = self._watched[descriptor]
        self._epoll.modify(descriptor, select.EPOLLET)
        self._watched[descriptor] = on_event, 0

    def unregister(self, target: Any) -> None:
        """Watch no longer; see :class:`Multiplexer`."""
        descriptor = _descriptor(target)
        del self._watched[descriptor]
        with suppress(OSError):  # it was closed, which is not to be, and the system has forgotten it
            self._epoll.unregister(descriptor)

    def select(self, timeout: float | None) -> list[tuple[OnEvent, int]]:
        """Wait; see :class:`Multiplexer`."""
        watched, said, found = self._watched, self._said, []
        for descriptor, event in self._epoll.poll(timeout, len(watched) or 1):
            # Nothing where somebody has closed it without a word, and another process has it.
            on_event, events = watched.get(descriptor, _NOBODY)
            if events:
                found.append((on_event, said.get(event, events) & events))
        return found

    def close(self) -> None:
        """Watch nothing; see :class:`Multiplexer`."""
        self._epoll.close()
        self._watched.clear()


def _descriptor(target: Any) -> int:
    descriptor: int = target if isinstance(target, int) else target.fileno()
    return descriptor
