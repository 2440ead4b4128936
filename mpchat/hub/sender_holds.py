"""Sender holds: rooms whose senders wait, because the room is faster than a worker or than its clients. Pure.

Only those who speak in such a room wait. TCP makes them: no worker reads from them.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple


class Strain(NamedTuple):
    """What a worker said last of a room, and when (seconds, monotonic)."""

    behind: bool
    struggling: int
    at: float


EASY = Strain(behind=False, struggling=0, at=0.0)


def most_struggle(struggling: int, clients: int) -> bool:
    """Tell whether those who send should wait until their readers have caught up.

    True when more than half of the clients are far behind although they read as fast as they can: then what
    is sent is more than they can take. A minority never slows the others down; it is cut off when it falls
    out of the stream.
    """
    return 2 * struggling > clients


class SenderHolds:
    """What workers have said of rooms that are too fast, and which of those rooms are held."""

    def __init__(self) -> None:
        """Begin with no room."""
        self.held: set[int] = set()
        # By room, and by worker and stream, for a room has two if plain clients read it.
        self._strains: dict[int, dict[tuple[Hashable, int], Strain]] = {}

    def report(self, room: int, source: tuple[Hashable, int], strain: Strain) -> None:
        """Take what a worker says of one of a room's streams (``source``)."""
        strains = self._strains.setdefault(room, {})
        if strain.behind or strain.struggling:
            strains[source] = strain
        else:
            strains.pop(source, None)
        if not strains:
            del self._strains[room]

    def forget(self, worker: Hashable) -> list[int]:
        """Forget a worker; return the rooms that it had said something of."""
        return self._forget(lambda source, strain: source[0] is worker)

    def expire(self, before: float) -> list[int]:
        """Forget what was said before that moment, by workers that are stuck; return the rooms."""
        return self._forget(lambda source, strain: strain.at < before)

    def _forget(self, wanted: Callable[[tuple[Hashable, int], Strain], bool]) -> list[int]:
        found = [
            (room, source)
            for room, strains in self._strains.items()
            for source, strain in strains.items()
            if wanted(source, strain)
        ]
        for room, source in found:
            self.report(room, source, EASY)
        return [room for room, _ in found]

    def judge(self, room: int, clients: int) -> bool:
        """Hold a room of so many clients, or let it go on; return whether that is a change."""
        strains = self._strains.get(room, {}).values()
        struggling = sum(each.struggling for each in strains)
        too_fast = any(each.behind for each in strains)
        held = too_fast or (struggling > 0 and most_struggle(struggling, clients))
        changed = held is not (room in self.held)
        if changed:
            self.held ^= {room}
        return changed
