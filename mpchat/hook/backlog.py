"""Backlog: events that wait for the receiver, within a number of bytes; batches are taken from it. Pure.

The rule it keeps: batches that the receiver accepts follow each other without a gap in the numbers. Numbers
of events that were dropped are told as such, in the next batch.
"""

from collections import deque
from dataclasses import dataclass

from mpchat.hook.events import Event, count_of, dropped, encoded, fitting, memory_of
from mpchat.hub.history import Run

# Events of a batch, and bytes of its body, roughly: receivers often take no more than 1 MiB, and the thread
# that writes a batch takes the interpreter from the loop for a few milliseconds at most.
MOST_EVENTS = 500
MOST_BYTES = 256 << 10


@dataclass(frozen=True)
class Batch:
    """Events with the numbers ``first`` to ``last``. The first ``missing`` of them were dropped."""

    first: int
    last: int
    missing: int
    events: list[Event]

    @property
    def count(self) -> int:
        """How many events are sent."""
        return self.last - self.first + 1 - self.missing

    def body(self, instance: str, server: str) -> bytes:
        """Return the JSON of the batch of a server, ``instance`` being the series of numbers."""
        head = b'{"instance":"%b","server":"%b","first":%d,"last":%d,"events":[' % (
            instance.encode(),
            server.encode(),
            self.first,
            self.last,
        )
        parts = [dropped(self.first, self.missing)] if self.missing else []
        number = self.first + self.missing
        for event in self.events:
            parts += encoded(event, number)
            number += count_of(event)
        return head + b",".join(parts) + b"]}"


class Backlog:
    """Numbers events, and keeps them until they are delivered or too many. One thread at a time."""

    def __init__(self, limit: int) -> None:
        """``limit`` is how many bytes of memory may wait."""
        self.limit = limit
        # Events that the receiver has accepted; events that it never gets.
        self.sent = self.dropped = 0
        # Numbers below `_told` are in a batch or were accepted; from there to `_head` they were dropped; from
        # there to `_next` they wait.
        self._told = self._head = self._next = 1
        self._queue: deque[Event] = deque()
        self._size = 0
        self._taken: Batch | None = None

    @property
    def waiting(self) -> int:
        """Events that are neither accepted nor dropped."""
        return self._next - self._head + (self._taken.count if self._taken is not None else 0)

    @property
    def has_batch(self) -> bool:
        """True when there is enough for a whole batch."""
        return self._next - self._head >= MOST_EVENTS or self._size >= MOST_BYTES

    def add(self, event: Event) -> None:
        """Keep an event, and drop the oldest when too much waits."""
        self._queue.append(event)
        self._next += count_of(event)
        self._size += memory_of(event)
        if self._size > self.limit:
            self.keep_to_limit()

    def keep_to_limit(self) -> None:
        """Drop the oldest events until what waits is within the limit."""
        while self._size > self.limit:
            event = self._queue.popleft()
            self._size -= memory_of(event)
            self._head += count_of(event)
            self.dropped += count_of(event)

    def take(self) -> Batch | None:
        """Return the batch that was taken before and is not settled, or the next one; None: nothing waits."""
        if self._taken is None and self._queue:
            first, missing = self._told, self._head - self._told
            events = self._take_events()
            self._told = self._head
            self._taken = Batch(first, self._head - 1, missing, events)
        return self._taken

    def _take_events(self) -> list[Event]:
        """Take as many events as a batch holds, at least one."""
        events: list[Event] = []
        count, size = MOST_EVENTS, MOST_BYTES
        while self._queue and count:
            event = self._queue[0]
            fits, used = fitting(event, count, size)
            if not fits and events:
                break
            fits = fits or 1
            self._take_first(event, fits, events)
            count, size = count - fits, size - used
        return events

    def _take_first(self, event: Event, count: int, events: list[Event]) -> None:
        """Move the first ``count`` messages of the queue's first event to ``events``."""
        self._queue.popleft()
        self._size -= memory_of(event)
        self._head += count
        if isinstance(event, Run) and count < event.count:
            rest = event.since(event.seq + count)
            self._queue.appendleft(rest)
            self._size += memory_of(rest)
            event = event.between(event.seq, event.seq + count - 1)
        events.append(event)

    def accepted(self) -> None:
        """The receiver has accepted the batch that was taken."""
        assert self._taken is not None
        self.sent += self._taken.count
        self._taken = None

    def refused(self) -> None:
        """The receiver will never accept the batch that was taken: its events are dropped."""
        assert self._taken is not None
        self.dropped += self._taken.count
        self._told = self._taken.first
        self._taken = None
