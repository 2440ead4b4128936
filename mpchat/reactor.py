"""The loop of a process: descriptors and times, each with the function to call.

It keeps nothing of what it watches but the registration, so that a live connection can be taken out and
handed to another process at any moment between two calls.
"""

import heapq
import select
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from mpchat.multiplexer import READ, WRITE, make_multiplexer

__all__ = ["READ", "WRITE", "Reactor", "Timer"]
# select() takes no descriptor number of this and above.
FD_SETSIZE = 1024


class Timer:
    """A call that is to come; :meth:`cancel` takes it back."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Keep the timer from being called."""
        self.call = None


class Reactor:
    """Calls ``on_event(mask)`` for ready descriptors and timers when they are due, one after the other."""

    def __init__(self, multiplexer: str = "auto") -> None:
        self._multiplexer = make_multiplexer(multiplexer)
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial = count()
        # The time of this turn (seconds, monotonic); good enough for everything that happens in it.
        self.now = time.monotonic()

    def watch(self, target: Any, events: int, on_event: Callable[[int], None]) -> None:
        """Call ``on_event`` with READ, WRITE or both when ``target`` is ready for them."""
        self._multiplexer.register(target, events, on_event)

    def change(self, target: Any, events: int, on_event: Callable[[int], None]) -> None:
        """Watch a target for other ``events``."""
        self._multiplexer.modify(target, events, on_event)

    def pause(self, target: Any) -> None:
        """Call nobody for a target that is watched until :meth:`change` is called."""
        self._multiplexer.pause(target)

    def forget(self, target: Any) -> None:
        """Stop watching. Always before a descriptor is closed or handed over: a duplicate elsewhere would
        keep its events coming with nobody able to take them out."""
        self._multiplexer.unregister(target)

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` once, in ``delay`` seconds counted from now."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._serial), timer))
        return timer

    def turn(self, timeout: float | None = None) -> None:
        """Wait at most ``timeout`` seconds (None: as long as it takes) for something, and handle it."""
        if self._timers:
            until = max(0.0, self._timers[0][0] - time.monotonic())
            timeout = until if timeout is None else min(timeout, until)
        ready = self._multiplexer.select(timeout)
        self.now = time.monotonic()
        for on_event, mask in ready:
            on_event(mask)
        while self._timers and self._timers[0][0] <= self.now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                call()

    def nap(self, target: Any, seconds: float) -> None:
        """Wait at most ``seconds`` for ``target`` to become readable, and for nothing else.

        To the microsecond, which selectors do not offer: they wait for whole milliseconds.
        """
        descriptor = target.fileno()
        if descriptor < FD_SETSIZE:
            select.select([descriptor], [], [], seconds)
        else:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(seconds * 1000)

    def close(self) -> None:
        """Give the multiplexer's descriptor back; nothing is watched any more."""
        self._multiplexer.close()
