"""Totals: what all processes of a kind have counted since the server's start. They never go back.

A process counts from its own start. What it had counted when it ended is kept here, by the title of its slot.
So a worker that is replaced or dies takes nothing away; what it counted after its last beat is lost.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from mpchat.ipc.durations import CLASSES
from mpchat.ipc.items import Beat
from mpchat.supervisor.heartbeat import Heartbeat


class Counted(msgspec.Struct):
    """What one process, or several, have counted: each field of a beat that only grows."""

    messages_in: int = 0
    from_members: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    waits: int = 0
    handshakes: int = 0
    log_dropped: int = 0
    # Seconds.
    cpu: float = 0.0
    turn_time: float = 0.0
    # By reason, and by code: the server's own words and the system's, so there are few.
    ended: Counter[str] = msgspec.field(default_factory=Counter)
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    turns: list[int] = msgspec.field(default_factory=lambda: [0] * CLASSES)

    def add(self, beat: "Beat | Counted") -> None:
        """Add what a process says in a beat, or what others have counted."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(beat, name))
        self.ended.update(beat.ended)
        self.errors.update(beat.errors)
        for index, count in enumerate(beat.turns[:CLASSES]):
            self.turns[index] += count


_SUMS = (
    "messages_in",
    "from_members",
    "messages_out",
    "bytes_in",
    "bytes_out",
    "waits",
    "handshakes",
    "log_dropped",
    "cpu",
    "turn_time",
)


class Totals:
    """The processes that run, and what those that have ended had counted."""

    def __init__(self) -> None:
        """Begin with none."""
        # By process id: the title of its slot, and its beats.
        self._running: dict[int, tuple[str, Heartbeat]] = {}
        self._ended: dict[str, Counted] = {}

    def begin(self, pid: int, title: str, heartbeat: Heartbeat) -> None:
        """Take note of a process that has just been started."""
        self._running[pid] = title, heartbeat

    def end(self, pid: int) -> None:
        """Keep what a process had counted when it ended. Its last beat must have been heard."""
        title, heartbeat = self._running.pop(pid)
        self._ended.setdefault(title, Counted()).add(heartbeat.beat)

    def by_title(self) -> dict[str, Counted]:
        """Return what the processes of each slot have counted; also for slots that are no more."""
        found: dict[str, Counted] = {}
        for title, ended in self._ended.items():
            found.setdefault(title, Counted()).add(ended)
        for title, heartbeat in self._running.values():
            found.setdefault(title, Counted()).add(heartbeat.beat)
        return found

    def running(self) -> list[tuple[int, str, Beat]]:
        """Return the processes that run: their ids, titles and last beats."""
        return [(pid, title, heartbeat.beat) for pid, (title, heartbeat) in self._running.items()]


def total(counted: Iterable[Counted]) -> Counted:
    """Return the sum."""
    found = Counted()
    for each in counted:
        found.add(each)
    return found
