"""Rooms of members: the numbers of messages, the history, who is in, and notices of comers and leavers. Pure.

Not here: which worker serves a member, and how far a client has got; see :mod:`mpchat.hub.delivery`.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from mpchat.hub.history import History, Run
from mpchat.hub.limits import Kept, Limits
from mpchat.hub.past import by_key
from mpchat.hub.saved import SavedRoom, SavedRooms
from mpchat.hub.sequencer import NOTICE_GATHER
from mpchat.ipc.shares import HISTORY_MEMORY, Memory
from mpchat.protocol.names import name_key
from mpchat.protocol.requests import (
    LOBBY,
    history_messages,
    joined_frame,
    left_frame,
    numbered_frames,
    room_field,
)

# Rooms that one sweep looks at, at least, and sweeps until all were looked at: 1000 rooms take a millisecond.
SWEPT = 500
SWEEPS = 10

# So many numbers are left out when all rooms get others: rooms may have been made that are not known here.
RENUMBERED = 1_000_000

# The steady clock and the wall clock, in seconds.
Times = tuple[float, float]


class Room:
    """One room. It knows members by the identities of their connections."""

    def __init__(self, number: int, name: str, seq: int = 0, memory: Memory | None = None) -> None:
        """``memory`` is what the histories of all rooms take together."""
        self.number = number
        self.name = name
        # The number of the last message.
        self.seq = seq
        self.history = History(memory)
        self._field = room_field(name)
        # Names by identity; and sorted, because sorting thousands at each question would delay all others.
        self.members: dict[int, str] = {}
        self.names: list[str] = []
        self._joined: dict[str, None] = {}
        self._left: dict[str, str] = {}
        self._next_notice = 0.0
        # What counts as the address of the client that has made it; empty when no client has.
        self.owner = ""
        # When it was made, and when a message or a member last came in (seconds since 1970; None: never).
        self.made_at: float | None = None
        self.active_at: float | None = None
        # Until when a lost member may come back (seconds, monotonic); until then the room is kept.
        self.awaited = 0.0

    def saved(self) -> SavedRoom:
        """Return the room as values, without its history and its members."""
        return SavedRoom(
            self.number,
            self.name,
            self.seq,
            self.owner,
            self.made_at,
            self.active_at,
            self.awaited,
            list(self._joined),
            self._left.copy(),
            self._next_notice,
        )

    @classmethod
    def from_saved(cls, saved: SavedRoom, memory: Memory) -> "Room":
        """Return the room that was saved; history and members are still to be put back."""
        room = cls(saved.number, saved.name, saved.seq, memory)
        room.owner, room.made_at, room.active_at = saved.owner, saved.made_at, saved.active_at
        room.awaited, room._next_notice = saved.awaited, saved.next_notice
        room._joined, room._left = dict.fromkeys(saved.joined), saved.left
        return room

    def post(self, sender: str, count: int, frames: bytes, times: Times, kept: Kept) -> Run:
        """Number ``count`` messages; ``sender`` is a name, an address, or empty for the server itself."""
        run = Run(self.name, self.seq + 1, count, times[1], sender, frames, times[0])
        self.seq += count
        self.active_at = times[1]
        self.history.add(run, kept)
        return run

    def numbered(self, run: Run) -> bytes:
        """Return the frames that members get for a run of this room."""
        return numbered_frames(run.frames, run.sender, self._field, run.seq, run.at, run.count)

    def past(self, before: int, most: int, size: int) -> tuple[list[bytes], int | None]:
        """Return the newest messages below the number ``before``, oldest first, and the number of the first.

        That number is None where no older ones are kept. These are at most ``most`` messages in the form of
        :func:`history_messages`, and at most ``size`` bytes, or a single message that is longer.
        """
        found: list[bytes] = []
        for message in self._back_from(before, most):
            size -= len(message)
            if found and size < 0:
                break
            found.append(message)
        oldest, newest = self.history.first, self.history.last
        if not found or oldest is None or newest is None:
            return [], None
        first = min(before, newest + 1) - len(found)
        return found[::-1], first if oldest < first else None

    def _back_from(self, before: int, most: int) -> Iterator[bytes]:
        """Yield ``most`` messages with numbers below ``before``, the newest first."""
        for run in self.history.before(before):
            last = min(run.last, before - 1)
            part = run.between(max(run.seq, last + 1 - most), last)
            yield from reversed(history_messages(part.frames, part.sender, part.seq, part.at))
            most -= part.count
            if not most:
                return

    def enter(self, identity: int, name: str, at: float | None = None) -> None:
        """Let a member in."""
        self.active_at = at
        self.members[identity] = name
        insort(self.names, name)
        if self._left.pop(name, None) is None:
            self._joined[name] = None

    def leave(self, identity: int, reason: str, *, heard: bool = False) -> None:
        """Let a member out. ``heard``: the room may have hearers also when it has no member."""
        name = self.members.pop(identity)
        del self.names[bisect_left(self.names, name)]
        if name in self._joined:
            del self._joined[name]
        else:
            self._left[name] = reason
        if not self.members and not heard:  # no notice has a reader
            self._joined, self._left = {}, {}

    def notice_due(self) -> float | None:
        """Return when the waiting notices are due (monotonic clock, seconds); None: none wait."""
        return self._next_notice if self._joined or self._left else None

    def take_notices(self, now: float) -> list[bytes]:
        """Return the frames of the notices that are due, and begin to gather the next."""
        due = self.notice_due()
        if due is None or now < due:
            return []
        joined, left = self._joined, self._left
        self._joined, self._left = {}, {}
        self._next_notice = now + NOTICE_GATHER
        count = len(self.members)
        frames = []
        for reason in dict.fromkeys(left.values()):
            names = [name for name, why in left.items() if why == reason]
            frames.append(left_frame(self.name, names, count, reason))
        if joined:
            frames.append(joined_frame(self.name, list(joined), count))
        return frames


class Rooms:
    """All rooms, by name and by number, and the memory that their histories take."""

    def __init__(self, limits: Limits) -> None:
        """Begin with the lobby, which is always there."""
        # What each room may keep of its history, and what all of them may keep.
        self.kept = limits.kept
        self.memory = Memory(HISTORY_MEMORY)
        self.by_key: dict[str, Room] = {}
        self.by_number: dict[int, Room] = {}
        # How many of them clients of an address have made; see ``addresses.owner_of``.
        self.made_by: Counter[str] = Counter()
        # Sorted, for pages.
        self.names: list[str] = []
        # The number after which the messages of a new room begin, unless `_last` has its own: no number of a
        # forgotten room is given again.
        self._floor = 0
        self._last: dict[str, int] = {}
        self._numbers = 0
        self._unswept: list[Room] = []
        self.lobby = self.make(LOBBY)

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self) -> Iterator[Room]:
        return iter(self.by_key.values())

    def get(self, name: str) -> Room | None:
        """Return the room of this name, however it is spelled."""
        return self.by_key.get(name_key(name))

    def make(self, name: str, owner: str = "", at: float | None = None) -> Room:
        """Make the room of this name, which must not be there, for a client of the address ``owner``."""
        self._numbers += 1
        key = name_key(name)
        room = Room(self._numbers, name, self._last.get(key, self._floor), self.memory)
        self.by_key[key] = self.by_number[room.number] = room
        insort(self.names, name)
        room.made_at = at
        if owner:
            room.owner = owner
            self.made_by[owner] += 1
        return room

    def renumber(self) -> dict[int, int]:
        """Give each room another number, which no room had; return the new numbers by the old ones."""
        self._numbers += RENUMBERED
        numbers = {}
        for room in self:
            self._numbers += 1
            numbers[room.number] = room.number = self._numbers
        self.by_number = {room.number: room for room in self}
        return numbers

    def change_limits(self, limits: Limits) -> None:
        """Keep to other limits from now on."""
        self.kept = limits.kept

    def restore(self, last: Mapping[str, int], floor: int, runs: Sequence[Run]) -> None:
        """Continue where an earlier server stopped: last numbers by room, and its history. Call it first."""
        self._floor = floor
        self._last.update(by_key(last))
        self.lobby.seq = self._last.get(name_key(LOBBY), floor)
        for run in runs:
            room = self.get(run.room) or self.make(run.room, at=run.at)
            room.active_at = run.at
            if run.room != room.name:
                run = msgspec.structs.replace(run, room=room.name)
            room.history.add(run, self.kept)
        for room in self:
            if room.history.last != room.seq:  # the last messages were lost, and with them what is before
                room.history.clear()

    def saved(self) -> SavedRooms:
        """Return as values what is known beside each room."""
        unswept = [room.number for room in self._unswept]
        return SavedRooms(self._floor, self._last.copy(), self._numbers, unswept, self.memory.limit)

    def put_back(self, saved: SavedRooms, rooms: Iterable[SavedRoom]) -> None:
        """Have the rooms that were saved, and no other. The lobby is the first of them."""
        self.memory.limit = saved.memory
        self.by_key, self.by_number = {}, {}
        for each in rooms:
            room = Room.from_saved(each, self.memory)
            self.by_key[name_key(room.name)] = self.by_number[room.number] = room
        self.lobby = self.by_key[name_key(LOBBY)]
        self.names = sorted(room.name for room in self)
        self.made_by = Counter(room.owner for room in self if room.owner)
        self._floor, self._last, self._numbers = saved.floor, saved.last, saved.numbers
        # A room that was forgotten since still has its place.
        self._unswept = [
            self.by_number[number] if number in self.by_number else Room(number, "")
            for number in saved.unswept
        ]

    def is_unused(self, room: Room, now: float, members: int = 0) -> bool:
        """Tell whether nothing is lost with a room, once so many ``members`` have left it.

        It has no other member and no history, and no lost member may come back.
        """
        used = len(room.members) > members or room.history or room.awaited > now
        return not (used or room is self.lobby)

    def forget(self, room: Room) -> None:
        """Forget an unused room."""
        key = name_key(room.name)
        del self.by_key[key], self.by_number[room.number]
        del self.names[bisect_left(self.names, room.name)]
        self._floor = max(self._floor, room.seq)
        self._last.pop(key, None)
        if room.owner:
            self.made_by[room.owner] -= 1
            if not self.made_by[room.owner]:
                del self.made_by[room.owner]

    def sweep(self, now: float) -> list[Room]:
        """Forget history that is too old at ``now``, and some of the unused rooms; return these rooms.

        Each call looks at a part of all rooms, because 10 000 take a while.
        """
        if not self._unswept:
            self._unswept = list(self)
        part = max(SWEPT, len(self) // SWEEPS)
        looked_at, self._unswept = self._unswept[:part], self._unswept[part:]
        forgotten = []
        for room in looked_at:
            room.history.trim(now, self.kept)
            if room.number in self.by_number and self.is_unused(room, now):
                self.forget(room)
                forgotten.append(room)
        return forgotten

    def keep_to_memory(self) -> None:
        """Forget the oldest messages of the rooms that hold most. Call it when too much is kept."""
        share = self.memory.share(room.history.size for room in self)
        for room in self:
            if room.history.size > share:
                room.history.shrink(share)
                if self.memory.has_room:
                    return
