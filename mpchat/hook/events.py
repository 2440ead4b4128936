"""Events: what the receiver of the webhook is told, and how that is written. Pure.

An event has a number: 1, 2, 3, and so on in the order in which all clients of a room see it. Messages that
one sender said in one go are one :class:`~mpchat.hub.history.Run` here, with as many numbers as messages.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from mpchat.hub.effects import Presence
from mpchat.hub.history import Run, size_of
from mpchat.protocol.frames import HEADER_SIZE
from mpchat.protocol.requests import history_messages

# Bytes of memory that a member's coming or going takes, with the longest names.
MOVED_SIZE = 600
# Bytes that an event takes beside the text of its message, with the longest names: for the size of a batch.
EVENT_OVERHEAD = 300

_encode = msgspec.json.Encoder().encode


class Moved(NamedTuple):
    """A member has entered a room or left it, at ``at`` (seconds since 1970)."""

    presence: Presence
    at: float


Event = Run | Moved


def count_of(event: Event) -> int:
    """Return how many numbers an event takes."""
    return event.count if isinstance(event, Run) else 1


def memory_of(event: Event) -> int:
    """Return the bytes of memory that an event takes."""
    return size_of(event) if isinstance(event, Run) else MOVED_SIZE


def fitting(event: Event, count: int, size: int) -> tuple[int, int]:
    """Return how many messages of an event fit ``count`` events and ``size`` bytes, and their bytes."""
    if not isinstance(event, Run):
        return (1, MOVED_SIZE) if size >= MOVED_SIZE else (0, 0)
    frames, position, fits, used = event.frames, 0, 0, 0
    while fits < min(event.count, count):
        length = HEADER_SIZE + (frames[position] << 8 | frames[position + 1])
        if used + length + EVENT_OVERHEAD > size:
            break
        position += length
        used += length + EVENT_OVERHEAD
        fits += 1
    return fits, used


def encoded(event: Event, number: int) -> Iterator[bytes]:
    """Yield the JSON of each event, numbered from ``number`` on."""
    if isinstance(event, Run):
        room = _encode(event.room)
        for message in history_messages(event.frames, event.sender, event.seq, event.at):
            yield b'{"event":"said","number":%d,"room":%b,%b' % (number, room, message[1:])
            number += 1
        return
    (room_name, name, members, reason), at = event
    what = {"event": "left" if reason else "joined", "number": number, "room": room_name, "name": name}
    why = {"reason": reason} if reason else {}
    yield _encode({**what, **why, "members": members, "at": round(at, 3)})


def dropped(first: int, count: int) -> bytes:
    """Return the JSON that stands for ``count`` events that are not sent, from number ``first`` on."""
    what = {"event": "dropped", "number": first, "last": first + count - 1, "count": count}
    return _encode(what)
