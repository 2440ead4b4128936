"""Members: connections that have asked to join, their names and rooms, and their requests. Pure.

Times are given; what is to be sent is returned as effects. How a member is reached is not known here.
"""

from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter

from mpchat.errors import ProtocolError
from mpchat.hub.claims import Claim, Claims
from mpchat.hub.effects import Effect, End, Enter, ForgetHistory, Leave, RoomNumbered, Tell
from mpchat.hub.entries import Asked
from mpchat.hub.limits import Limits
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.replay import HISTORY_AT_JOIN
from mpchat.hub.rooms import Room, Rooms
from mpchat.ipc.addresses import owner_of_client
from mpchat.ipc.reasons import CLOSED, REPLACED
from mpchat.protocol.messages import Welcome, error_frame
from mpchat.protocol.names import checked_name, checked_room, name_key
from mpchat.protocol.requests import (
    LOBBY,
    Join,
    ReadHistory,
    history_frame,
    private_frame,
    rooms_frame,
    welcome_frame,
    who_frame,
)

# Names or rooms on a page.
PAGE = 100
# Messages of an answer with history where the request names no limit: a screen or two. And their bytes, where
# they are several: as many as a part of the past at a join, so that as many may be on their way.
HISTORY_PAGE = 50
HISTORY_SIZE = 32 << 10
# The text of the error that a muted member gets.
MUTED = "you are muted: nobody gets what you say"


class Member:
    """A connection that has asked to join. Until it has a room it is served as a plain client."""

    __slots__ = ("address", "claim", "identity", "room")

    def __init__(self, identity: int, address: str) -> None:
        self.identity = identity
        self.address = address
        self.claim: Claim | None = None
        self.room: Room | None = None

    @property
    def name(self) -> str:
        """The member's name; empty before it has one."""
        return self.claim.name if self.claim is not None else ""


class Members:
    """All members, by identity and by name."""

    def __init__(
        self,
        limits: Limits,
        rooms: Rooms,
        moderation: Moderation,
        past: Past,
        emit: Callable[[Effect], None],
    ) -> None:
        """``emit`` takes each effect."""
        self.limits = limits
        self.past = past
        self.by_identity: dict[int, Member] = {}
        # Connections that the server is ending, until they have ended: they may still post and ask.
        self.ending: dict[int, Member] = {}
        self.claims = Claims()
        # Rooms in which a notice has begun to wait since the state looked last.
        self.stirred: dict[Room, None] = {}
        # Rooms whose last member has left since the state looked last, and when (seconds, monotonic).
        self.emptied: dict[Room, float] = {}
        self._rooms = rooms
        self._moderation = moderation
        self._emit = emit

    def named(self, name: str) -> Member | None:
        """Return the member that has this name and is connected."""
        claim = self.claims.get(name)
        return self.by_identity.get(claim.identity) if claim and claim.identity is not None else None

    def is_muted(self, member: Member, at: float) -> bool:
        """Tell whether the others get nothing of what the member says."""
        return self._moderation.muted(member.name, at)

    def ask(self, asked: Asked) -> None:
        """Do what a connection asks for, and answer it."""
        if asked.identity in self.ending:
            return
        member = self.by_identity.get(asked.identity)
        if member is None:
            member = self.by_identity[asked.identity] = Member(asked.identity, asked.address)
        try:
            self._serve(member, asked)
        except ProtocolError as error:
            self._emit(Tell(member.identity, error_frame(error.code, error.text)))

    def _serve(self, member: Member, asked: Asked) -> None:
        request = asked.request
        if request.join is not None:
            self._join(member, request.join, asked)
        elif member.room is None:
            raise ProtocolError("not_joined", 'send {"join": {"name": "…"}} first')
        elif request.to is not None:
            self._tell(member, request.to, request.message or "", asked.at)
        elif request.who is not None:
            self._who(member, request.who.room, request.who.after)
        elif request.rooms is not None:
            self._list_rooms(member, request.rooms.after)
        elif request.history is not None:
            self._read_history(member, member.room, request.history)

    def gone(self, identity: int, reason: str, now: float) -> Member | None:
        """Forget a connection that has ended. Hold its name for a while, unless it was closed in order."""
        self.ending.pop(identity, None)
        member = self.by_identity.pop(identity, None)
        if member is not None:
            room, claim = member.room, member.claim
            self._leave(member, reason, now)
            if claim is not None and claim.identity == identity:
                if reason == CLOSED:
                    self.claims.free(claim)
                else:
                    self.claims.hold(claim, now, self.limits.name_hold, owner_of_client(member.address))
                    if room is not None:
                        room.awaited = max(room.awaited, claim.until)
        return member

    def end(self, member: Member, reason: str) -> None:
        """Close the connection of a member that is forgotten already; drop what it still sends."""
        self.ending[member.identity] = member
        self._emit(End(member.identity, reason))

    def close(self, room: Room, now: float, at: float) -> None:
        """End a room and forget its history. Its members go into the lobby, with an error that says so."""
        lobby = self._rooms.lobby
        closed = error_frame(
            "room_closed", f"{room.name} was closed by the operator; you are in {lobby.name}"
        )
        # From the last name on: to take names from the end of a list moves no others.
        for identity, _ in sorted(room.members.items(), key=itemgetter(1), reverse=True):
            member = self.by_identity[identity]
            self._leave(member, "closed", now)
            self._emit(Tell(identity, closed))
            self._enter(member, lobby, at)
            self._welcome(member, lobby, Join())
        room.history.clear()
        room.awaited = 0.0
        self.emptied[room] = now
        self._emit(ForgetHistory(room.name, room.seq))

    # Joining.

    def _join(self, member: Member, join: Join, asked: Asked) -> None:
        if join.name is None and member.claim is None:
            raise ProtocolError("bad_request", "join needs a name")
        wanted = member.name if join.name is None else checked_name(join.name)
        if member.claim is not None and name_key(wanted) != name_key(member.name):
            raise ProtocolError("bad_request", f"you are {member.name} already; come again to be {wanted}")
        if self._moderation.banned_name(wanted, asked.at):
            raise ProtocolError("banned", f"{wanted} is banned here")
        before = member.room
        room = self._room_to_enter(join.room, before, self._room_given_up(wanted, join.token), asked)
        if member.claim is None:
            member.claim = self._claim(member, wanted, join.token, asked)
        if room is None:
            room = self._rooms.make(
                checked_room(join.room or LOBBY), owner_of_client(member.address), asked.at
            )
            if room.seq:
                self._emit(RoomNumbered(room.name, room.seq, asked.at))
        if room is not before:
            self._leave(member, "moved", asked.now)
            self._enter(member, room, asked.at)
        self._welcome(member, room, join)

    def _enter(self, member: Member, room: Room, at: float) -> None:
        room.enter(member.identity, member.name, at)
        self.stirred[room] = None
        member.room = room

    def _room_given_up(self, name: str, token: str | None) -> Room | None:
        """Return the room of the connection that a join with this token replaces."""
        claim = self.claims.get(name)
        if claim is None or claim.identity is None or not claim.is_shown(token):
            return None
        return self.by_identity[claim.identity].room

    def _room_to_enter(
        self, name: str | None, before: Room | None, given_up: Room | None, asked: Asked
    ) -> Room | None:
        """Return the room, or None for a room that must be made. Raises :class:`ProtocolError`.

        In ``before`` and in ``given_up`` the member leaves a place that it may take itself.
        """
        if name is None and before is not None:
            return before
        name = checked_room(name if name is not None else LOBBY)
        room = self._rooms.get(name)
        if room is None:
            self._check_for_a_new_room(before, asked)
        elif room not in (before, given_up) and 0 < self.limits.members <= len(room.members):
            raise ProtocolError("room_full", f"{room.name} has {len(room.members)} members, no more fit")
        return room

    def _check_for_a_new_room(self, before: Room | None, asked: Asked) -> None:
        """Raise :class:`ProtocolError` when there are too many rooms, were the member to leave ``before``."""
        rooms, owner = self._rooms, owner_of_client(asked.address)
        ending = before if before is not None and rooms.is_unused(before, asked.now, members=1) else None
        if len(rooms) - (ending is not None) >= self.limits.rooms:
            raise ProtocolError("too_many_rooms", f"there are {len(rooms)} rooms, no more are allowed")
        made = rooms.made_by[owner]
        if 0 < self.limits.rooms_per_address <= made - (ending is not None and ending.owner == owner):
            raise ProtocolError(
                "too_many_rooms_by_address",
                f"your address has made {made} rooms that still exist, no more are allowed; "
                "enter one that exists, or come again when one of yours has ended",
            )

    def _claim(self, member: Member, name: str, token: str | None, asked: Asked) -> Claim:
        held = self.claims.get(name)
        text = f"{held.name if held else name} has come again, elsewhere"
        claim, replaced = self.claims.take(name, member.identity, token, asked.token, asked.now)
        if replaced is not None:
            other = self.by_identity.pop(replaced)
            self._leave(other, REPLACED, asked.now)
            self._emit(Tell(other.identity, error_frame("taken_over", text)))
            self.end(other, REPLACED)
        return claim

    def _welcome(self, member: Member, room: Room, join: Join) -> None:
        first, recovered, lost = self._missed(room, join)
        assert member.claim is not None
        welcome = Welcome(
            name=member.claim.name,
            room=room.name,
            seq=room.seq,
            epoch=self.past.epoch,
            members=len(room.members),
            token=member.claim.token,
            recovered=recovered,
            lost=lost,
        )
        self._emit(Enter(member.identity, room.number, first, room.seq, welcome_frame(welcome)))

    def _missed(self, room: Room, join: Join) -> tuple[int, bool, tuple[int, int | None] | None]:
        """Return the first number to send, whether none is missing before it, and the range that is lost."""
        oldest = room.history.first or room.seq + 1
        if join.after is None or not self._knows(join.epoch, room, join.after):
            first = max(oldest, room.seq + 1 - HISTORY_AT_JOIN)
            return first, False, None if join.after is None else (join.after + 1, None)
        after = max(0, min(join.after, room.seq))
        first = max(oldest, after + 1)
        recovered = first == after + 1
        return first, recovered, None if recovered else (after + 1, first - 1)

    def _knows(self, epoch: str | None, room: Room, after: int) -> bool:
        """Tell whether the numbers up to ``after`` that a client has seen are those of this room."""
        return epoch is not None and self.past.knows(epoch, room.name, after)

    def _leave(self, member: Member, reason: str, now: float) -> None:
        room, member.room = member.room, None
        if room is not None:
            room.leave(member.identity, reason)
            self.stirred[room] = None
            if not room.members:
                self.emptied[room] = now
            self._emit(Leave(member.identity))

    # Questions.

    def _tell(self, member: Member, to: str, text: str, at: float) -> None:
        if self.is_muted(member, at):
            raise ProtocolError("muted", MUTED)
        other = self.named(to)
        if other is None or other.room is None:
            raise ProtocolError("no_such_name", f"nobody here is called {to[:40]!r}")
        frames = private_frame(text, member.name, other.name, at)
        for each in dict.fromkeys((other, member)):
            self._emit(Tell(each.identity, frames))

    def _who(self, member: Member, name: str | None, after: str | None) -> None:
        room = member.room if name is None else self._rooms.get(checked_room(name))
        if room is None:
            raise ProtocolError("bad_room", f"there is no room {name!r}")
        names, following = _page(room.names, after)
        self._emit(Tell(member.identity, who_frame(room.name, names, len(room.members), following)))

    def _list_rooms(self, member: Member, after: str | None) -> None:
        names, following = _page(self._rooms.names, after)
        rooms = [(name, len(self._rooms.by_key[name_key(name)].members)) for name in names]
        self._emit(Tell(member.identity, rooms_frame(rooms, len(self._rooms), following)))

    def _read_history(self, member: Member, room: Room, wanted: ReadHistory) -> None:
        before = room.seq + 1 if wanted.before is None else wanted.before
        messages, following = room.past(before, wanted.limit or HISTORY_PAGE, HISTORY_SIZE)
        self._emit(Tell(member.identity, history_frame(room.name, messages, following)))


def _page(names: list[str], after: str | None) -> tuple[list[str], str | None]:
    """Return the names that follow ``after``, and the text to ask for the next page with.

    ``after`` is compared as it is: composing the text of a hostile client can take seconds.
    """
    begin = bisect_right(names, after) if after is not None else 0
    page = names[begin : begin + PAGE]
    return page, page[-1] if begin + PAGE < len(names) else None
