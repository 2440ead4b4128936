"""Room commands: what the operator sees of rooms and does to them: list, close."""

import logging
from bisect import bisect_right

from mpchat.control.answers import Closed, RoomFacts, RoomsPage
from mpchat.hub.hub import Hub
from mpchat.hub.rooms import Room
from mpchat.reactor import Reactor
from mpchat.text import visible

# Rooms in an answer: all of them at once could take the loop too long.
PAGE = 1000

log = logging.getLogger("mpchat.supervisor")


class RoomCommands:
    """Carries these commands out, from the hub's state."""

    def __init__(self, reactor: Reactor, hub: Hub) -> None:
        self._reactor = reactor
        self._hub = hub

    def list(self, after: str | None) -> RoomsPage:
        """Return a page of rooms whose names follow ``after``."""
        rooms = self._hub.state.rooms
        begin = 0 if after is None else bisect_right(rooms.names, after)
        names = rooms.names[begin : begin + PAGE]
        found = [facts_of(room) for name in names if (room := rooms.get(name)) is not None]
        return RoomsPage(found, names[-1] if begin + PAGE < len(rooms.names) else None)

    def close(self, name: str) -> Closed:
        """End a room. Raise :class:`MpchatError` if there is none of this name."""
        room, members = self._hub.close_room(name, self._reactor.now)
        log.info("room closed, %d members put into the lobby: %s", members, visible(room))
        return Closed(room, members)


def facts_of(room: Room) -> RoomFacts:
    """Return what the operator sees of a room."""
    return RoomFacts(
        room=room.name,
        members=len(room.members),
        messages=room.history.count,
        bytes=room.history.size,
        made=room.made_at,
        active=room.active_at,
        made_by=room.owner,
    )
