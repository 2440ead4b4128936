"""Endpoint: the hub's end of one worker's channel."""

from contextlib import suppress
from typing import Any

from mpchat.ipc.channel import ITEM_SIZE, Item, Link
from mpchat.ipc.items import Down

# Bytes that may wait for a worker that is busy but moves: more would only be delay, for all.
PROMPT_BACKLOG = 64 << 10
# A worker that has acknowledged nothing for this long (seconds) is stuck, not busy. The others go on without
# it, as far as the backlog's limit allows, until it moves again or is found to hang.
STUCK_AFTER = 1.0
# The part of the stream's limit by which they go on. The clients of the stuck worker get all of it at once
# when it moves again, and none of them may be cut off as slow because of that.
STUCK_SHARE = 2
# What an entry of a head takes, in bytes: three numbers, or an address and two.
HEAD_COST = 40


class Endpoint:
    """Sends items to one worker and receives its items.

    A worker may die at any moment. Sending to a dead one does nothing: its death is dealt with where it is
    noticed, after all that it had written was received, up to ``ended``.
    """

    def __init__(self, slot: int, link: Link) -> None:
        self.slot = slot
        self.link = link
        # Before it is ready a worker has no clients, so it need not hear, and must not hold up, anything.
        self.ready = False
        # Up to where in the plain stream the worker was filled; None when it is not being filled.
        self.filled: int | None = None
        # True once it is to end: it has no clients any more.
        self.retired = False
        self.ended = False
        # When the worker last acknowledged something (seconds, monotonic), and how much it had acknowledged.
        self._progress_at = 0.0
        self._progress = 0
        # What the worker's members get at the end of this turn, for `send_rooms`: room, count, frames.
        self.gathered: list[tuple[int, int, bytes]] = []

    def retire(self) -> None:
        """Send a worker that is to end nothing more of what clients get, so that it holds nobody up."""
        self.retired, self.ready, self.filled = True, False, None

    def send(self, kind: int, payload: Any = None) -> None:
        """Send an item in order."""
        with suppress(OSError):
            self.link.send(kind, payload)

    def send_now(self, kind: int, payload: Any = None) -> None:
        """Send a small item past the backlog and the window."""
        with suppress(OSError):
            self.link.send_now(kind, payload)

    # These two come with every batch: suppress() would be three further calls in a process just woken.

    def send_frames(self, kind: int, head: Any, frames: bytes, head_size: int = 0) -> None:
        """Send ``(head, frames)`` in order; see :meth:`Link.send_frames`."""
        try:  # noqa: SIM105
            self.link.send_frames(kind, head, frames, head_size)
        except OSError:
            pass

    def take(self, cost: int) -> None:
        """Acknowledge an item that was dealt with."""
        try:  # noqa: SIM105
            self.link.take(cost)
        except OSError:
            pass

    def receive(self, now: float) -> list[Item]:
        """Return the items that have arrived; sets ``ended`` when no more will."""
        try:
            items = self.link.receive()
        except (EOFError, OSError):
            self.ended = True
            return []
        if self.link.acknowledged != self._progress:
            self._progress = self.link.acknowledged
            self._progress_at = now
        return items

    def holds_up(self, now: float, limit: int) -> bool:
        """Tell whether all must wait for this worker: it is busy, or more than ``limit`` bytes behind."""
        size = self.link.backlog_size
        if size <= PROMPT_BACKLOG or self.ended or not self.ready:
            return False
        return size > limit or now - self._progress_at < STUCK_AFTER

    def send_rooms(self) -> None:
        """Send what was gathered for rooms, as much as fits into each item."""
        rooms, self.gathered = self.gathered, []
        head: list[tuple[int, int, int]] = []
        parts: list[bytes] = []
        size = 0
        for number, count, frames in rooms:
            if head and size + len(frames) > ITEM_SIZE:
                self.send_frames(Down.ROOMS, head, b"".join(parts), len(head) * HEAD_COST)
                head, parts, size = [], [], 0
            head.append((number, count, len(frames)))
            parts.append(frames)
            size += len(frames) + HEAD_COST
        self.send_frames(Down.ROOMS, head, b"".join(parts), len(head) * HEAD_COST)
