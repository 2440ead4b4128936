"""Members: connections that have asked to join, their names and rooms, and their requests. Pure.

Times are given; what is to be sent is returned as effects. How a member is reached is not known here.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from operator import itemgetter

import msgspec

from mpchat.auth.grant import MEMBER, OPERATOR, Grant
from mpchat.errors import ProtocolError
from mpchat.hub.claims import Claim, Claims
from mpchat.hub.effects import (
    Effect,
    End,
    Enter,
    ForgetHistory,
    Leave,
    Order,
    Presence,
    RoomNumbered,
    Tell,
)
from mpchat.hub.entries import Asked, Returned
from mpchat.hub.hosts import host_of
from mpchat.hub.limits import Limits
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.replay import HISTORY_AT_JOIN
from mpchat.hub.rooms import Room, Rooms
from mpchat.hub.saved import SavedMember, SavedMembers
from mpchat.ipc.addresses import owner_of_client
from mpchat.ipc.reasons import CLOSED, CLOSED_ROOM, REPLACED, UNPROVEN
from mpchat.protocol.messages import Welcome, error_frame
from mpchat.protocol.names import checked_name, checked_room, name_key
from mpchat.protocol.requests import (
    LOBBY,
    OPERATORS_REQUESTS,
    CloseRoom,
    Join,
    ReadHistory,
    Request,
    Sanction,
    history_frame,
    private_frame,
    rooms_frame,
    welcome_frame,
    who_frame,
)
from mpchat.protocol.sign_in import EXPIRED, NOT_ALLOWED, OPERATORS_ONLY, OTHER_ROOM, OVER, auth_required

# Names or rooms on a page.
PAGE = 100
# Messages of an answer with history where the request names no limit: a screen or two. And their bytes, where
# they are several: as many as a part of the past at a join, so that as many may be on their way.
HISTORY_PAGE = 50
HISTORY_SIZE = 32 << 10
# Seconds for which a list of the rooms that a token allows is good.
LISTED_FOR = 5.0
# Characters of what an operator's request is for: longer than any name and any network.
TARGET_LENGTH = 128
# The text of the error that a muted member gets.
MUTED = "you are muted: nobody gets what you say"


class Member:
    """A connection that has asked to join. Until it has a room it is served as a plain client."""

    __slots__ = ("address", "claim", "grant", "identity", "listed", "room")

    def __init__(self, identity: int, address: str) -> None:
        self.identity = identity
        self.address = address
        self.claim: Claim | None = None
        self.room: Room | None = None
        # What its proof allows; None: it has shown none.
        self.grant: Grant | None = None
        # The rooms that it may know of, and when they were listed (seconds, monotonic); see _allowed_rooms.
        self.listed: tuple[float, list[str]] | None = None

    @property
    def name(self) -> str:
        """The member's name; empty before it has one."""
        return self.claim.name if self.claim is not None else ""

    def saved(self, now: float, orphan: int | None = None) -> SavedMember:
        """Return the member as values. ``orphan`` is the place of its claim among those without a key.

        A list of rooms that is not used again at ``now`` is left out: for each member it may be long.
        """
        room = self.room.number if self.room is not None else 0
        listed = self.listed if self.listed is not None and self.listed[0] + LISTED_FOR > now else None
        return SavedMember(self.identity, self.address, self.name, room, self.grant, listed, orphan)


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
        # Is added to the identities of an entry: those of several hosts must differ.
        self.base = 0
        self.by_identity: dict[int, Member] = {}
        # Whether there is an effect for each member that enters or leaves a room.
        self.watched = False
        # Connections that the server is ending, until they have ended: they may still post and ask.
        self.ending: dict[int, Member] = {}
        self.claims = Claims()
        # Rooms in which a notice has begun to wait since the state looked last.
        self.stirred: dict[Room, None] = {}
        # Rooms whose last member has left since the state looked last, and when (seconds, monotonic).
        self.emptied: dict[Room, float] = {}
        # Members whose proof ends, by identity, and when (seconds, monotonic).
        self.expiring: dict[int, float] = {}
        self._rooms = rooms
        self._moderation = moderation
        self._emit = emit

    def saved(self, now: float) -> SavedMembers:
        """Return all members as values, without lists of rooms that are not used again at ``now``."""
        orphans: dict[Claim, int] = {}
        for member in self.ending.values():
            if member.claim is not None and self.claims.get(member.name) is not member.claim:
                orphans.setdefault(member.claim, len(orphans))
        return SavedMembers(
            [member.saved(now) for member in self.by_identity.values()],
            [
                member.saved(now, orphans.get(member.claim) if member.claim else None)
                for member in self.ending.values()
            ],
            [claim.saved() for claim in orphans],
            self.expiring.copy(),
        )

    def put_back(self, saved: SavedMembers) -> None:
        """Have, as the first, the members that were saved. Claims and rooms are there already."""
        orphans = [Claim.from_saved(each) for each in saved.orphans]
        for table, members in ((self.by_identity, saved.members), (self.ending, saved.ending)):
            for each in members:
                member = table[each.identity] = Member(each.identity, each.address)
                if each.orphan is not None:
                    member.claim = orphans[each.orphan]
                elif each.name:
                    member.claim = self.claims.get(each.name)
                if each.room:
                    member.room = self._rooms.by_number[each.room]
                member.grant, member.listed = each.grant, each.listed
        self.expiring = saved.expiring

    def named(self, name: str) -> Member | None:
        """Return the member that has this name and is connected."""
        claim = self.claims.get(name)
        return self.by_identity.get(claim.identity) if claim and claim.identity is not None else None

    def is_muted(self, member: Member, at: float) -> bool:
        """Tell whether the others get nothing of what the member says."""
        return self._moderation.muted(member.name, at)

    def ask(self, asked: Asked) -> None:
        """Do what a connection asks for, and answer it."""
        identity = self.base + asked.identity
        if identity in self.ending:
            return
        member = self.by_identity.get(identity)
        if member is None:
            member = self.by_identity[identity] = Member(identity, asked.address)
        try:
            self._serve(member, asked)
        except ProtocolError as error:
            self._emit(Tell(member.identity, error_frame(error.code, error.text, error.proofs)))

    def _serve(self, member: Member, asked: Asked) -> None:
        request = asked.request
        if asked.denied is not None:
            raise ProtocolError(asked.denied.code, asked.denied.text, asked.denied.proofs)
        if request.join is not None:
            self._join(member, request.join, asked)
        elif member.room is None:
            if self.limits.closed:
                raise auth_required(self.limits.proofs)
            raise ProtocolError("not_joined", 'send {"join": {"name": "…"}} first')
        elif request.to is not None:
            self._tell(member, request.to, request.message or "", asked.at)
        elif request.who is not None:
            self._who(member, request.who.room, request.who.after)
        elif request.rooms is not None:
            self._list_rooms(member, request.rooms.after, asked.now)
        elif request.history is not None:
            self._read_history(member, member.room, request.history)
        elif request.operators is not None:
            self._order(member, request)

    def gone(self, identity: int, reason: str, now: float) -> Member | None:
        """Forget a connection that has ended. Hold its name for a while, unless it was closed in order."""
        self.ending.pop(identity, None)
        member = self.by_identity.pop(identity, None)
        self.expiring.pop(identity, None)
        if member is not None:
            room, claim = member.room, member.claim
            self._leave(member, reason, now)
            if claim is not None and claim.identity == identity:
                several = bool(self.base)
                if reason == CLOSED:
                    self.claims.free(claim, now, remember=several)
                else:
                    address = owner_of_client(member.address)
                    self.claims.hold(claim, now, self.limits.name_hold, address, remember=several)
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
            if member.grant is not None and not member.grant.allows(lobby.name):
                away = error_frame("room_closed", f"{room.name} was closed by the operator")
                self.dismiss(member, away, CLOSED_ROOM, now)
                continue
            self._leave(member, "closed", now)
            self._emit(Tell(identity, closed))
            self._enter(member, lobby, at)
            self._welcome(member, lobby, Join())
        room.history.clear()
        room.awaited = 0.0
        self.emptied[room] = now
        self._emit(ForgetHistory(room.name, room.seq))

    def dismiss(self, member: Member, told: bytes, reason: str, now: float) -> None:
        """Tell a member why, and close its connection; its name is held."""
        self._emit(Tell(member.identity, told))
        self.gone(member.identity, reason, now)
        self.end(member, reason)

    def dismiss_unproven(self, now: float) -> None:
        """Close the connections of members that have shown no proof: the chat is closed by now."""
        needed = auth_required(self.limits.proofs)
        told = error_frame(needed.code, needed.text, needed.proofs)
        for member in [each for each in self.by_identity.values() if each.claim and each.grant is None]:
            self.dismiss(member, told, UNPROVEN, now)

    def expired(self, now: float, renewing: Collection[int]) -> list[Member]:
        """Return the members of a host whose proof has ended, but for those that are showing another one."""
        return [
            self.by_identity[each]
            for each, until in self.expiring.items()
            if until <= now and host_of(each) == host_of(self.base) and each - self.base not in renewing
        ]

    # Operators.

    def _order(self, member: Member, request: Request) -> None:
        """Have an operator's request carried out."""
        grant, wanted = member.grant, request.operators
        if grant is None or grant.role != OPERATOR:
            raise ProtocolError(NOT_ALLOWED, OPERATORS_ONLY)
        action = next(each for each in OPERATORS_REQUESTS if getattr(request, each) is not None)
        target = wanted.room if isinstance(wanted, CloseRoom) else wanted.name if wanted else ""
        if grant.rooms is not None and not self._is_within(grant, action, target):
            raise ProtocolError(NOT_ALLOWED, "your token is for some rooms only, not for this")
        if len(target) > TARGET_LENGTH:
            raise ProtocolError("bad_name", "this is neither a name nor an address")
        seconds = wanted.seconds if isinstance(wanted, Sanction) else None
        self._emit(Order(member.identity, member.name, action, target, seconds))

    def _is_within(self, grant: Grant, action: str, target: str) -> bool:
        """Tell whether an operator of some rooms may do this: close one, kick a member that is in one."""
        if action == "close":
            return grant.allows(target)
        other = self.named(target) if action == "kick" else None
        return other is not None and other.room is not None and grant.allows(other.room.name)

    # Joining.

    def _join(self, member: Member, join: Join, asked: Asked) -> None:
        before, wanted = member.room, self._wanted_name(member, join, asked)
        grant = (asked.identified and asked.identified.grant) or member.grant
        room_name = join.room if join.room is not None else before.name if before is not None else LOBBY
        if grant is not None and not grant.allows(room_name):
            raise ProtocolError(NOT_ALLOWED, OTHER_ROOM)
        room = self._room_to_enter(join.room, before, self._room_given_up(wanted, join.token, asked), asked)
        if member.claim is None:
            member.claim = self._claim(member, wanted, join.token, asked)
        self._grant(member, grant, asked)
        if before is not None and asked.identified is not None and join.room is None and join.after is None:
            self._emit(Tell(member.identity, welcome_frame(self._welcome_to(member, before))))
            return  # it has shown a fresh proof, and stays where it is
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

    def _wanted_name(self, member: Member, join: Join, asked: Asked) -> str:
        """Return the name that a member is to have. Raises :class:`ProtocolError`."""
        identified = asked.identified
        grant = (identified and identified.grant) or member.grant
        # The chat may have been closed, or a token have ended, since the proof was checked.
        if grant is None and self.limits.closed:
            raise auth_required(self.limits.proofs)
        if identified and grant and grant.expires is not None and grant.expires <= asked.at:
            raise ProtocolError(EXPIRED, OVER)
        name = identified.name if identified is not None else join.name
        if name is None and member.claim is None:
            raise ProtocolError("bad_request", "join needs a name")
        wanted = member.name if name is None else checked_name(name)
        if member.claim is not None and name_key(wanted) != name_key(member.name):
            raise ProtocolError("bad_request", f"you are {member.name} already; come again to be {wanted}")
        if self._moderation.banned_name(wanted, asked.at):
            raise ProtocolError("banned", f"{wanted} is banned here")
        return wanted

    def _grant(self, member: Member, grant: Grant | None, asked: Asked) -> None:
        """Let a member have what its proof allows, until that ends."""
        member.grant, member.listed = grant, None
        self.expiring.pop(member.identity, None)
        if grant is not None and grant.expires is not None:
            self.expiring[member.identity] = asked.now + grant.expires - asked.at

    def _enter(self, member: Member, room: Room, at: float) -> None:
        room.enter(member.identity, member.name, at)
        self.stirred[room] = None
        member.room = room
        if self.watched:
            self._emit(Presence(room.name, member.name, len(room.members)))

    def _room_given_up(self, name: str, token: str | None, asked: Asked) -> Room | None:
        """Return the room of the connection that a join with this token, or with a proof, replaces."""
        claim = self.claims.get(name)
        proven = asked.identified is not None and asked.identified.proves_name
        if claim is None or claim.identity is None or not (proven or claim.is_shown(token)):
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
        identified, began = asked.identified, asked.now if asked.began is None else asked.began
        # A proven name is its owner's, also where another that looks like it, and is not proven, was first.
        if identified is not None:
            similar = self.claims.similar(name, identified, asked.now)
            if similar is not None:
                raise ProtocolError("name_taken", f"{name} looks like {similar}; choose another name")
        claim, replaced = self.claims.take(name, member.identity, token, asked.token, began, identified)
        if replaced is not None:
            other = self.by_identity.pop(replaced)
            self.expiring.pop(replaced, None)
            self._leave(other, REPLACED, asked.now)
            self._emit(Tell(other.identity, error_frame("taken_over", text)))
            self.end(other, REPLACED)
        return claim

    def _welcome(self, member: Member, room: Room, join: Join) -> None:
        first, recovered, lost = self._missed(room, join)
        welcome = self._welcome_to(member, room, recovered=recovered, lost=lost)
        self._emit(Enter(member.identity, room.number, first, room.seq, welcome_frame(welcome)))

    def _welcome_to(
        self,
        member: Member,
        room: Room,
        *,
        recovered: bool = False,
        lost: tuple[int, int | None] | None = None,
    ) -> Welcome:
        assert member.claim is not None
        return Welcome(
            name=member.claim.name,
            room=room.name,
            seq=room.seq,
            epoch=self.past.epoch,
            members=len(room.members),
            token=member.claim.token,
            recovered=recovered,
            lost=lost,
            role=member.grant.role if member.grant else MEMBER,
            expires=member.grant.expires if member.grant else None,
        )

    def _missed(self, room: Room, join: Join) -> tuple[int, bool, tuple[int, int | None] | None]:
        """Return the first number to send, whether none is missing before it, and the range that is lost."""
        oldest = room.history.first or room.seq + 1
        known = join.after is not None and self._knows(join.epoch, room, join.after)
        if join.after is not None and not known and join.epoch is not None:
            agreed = self.past.agreed(join.epoch, room.name)
            if agreed is not None:  # the client has got more than there is now
                return max(oldest, agreed + 1), False, (agreed + 1, None)
        if join.after is None or not known:
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
            # The members of a host that was taken for gone hear on, and return.
            room.leave(member.identity, reason, heard=bool(self.base))
            self.stirred[room] = None
            if not room.members:
                self.emptied[room] = now
            self._emit(Leave(member.identity))
            if self.watched:
                self._emit(Presence(room.name, member.name, len(room.members), reason))

    # Returning.

    def come_back(self, entry: Returned) -> None:
        """Enter a member again that its own host has not lost. If that cannot be, say why and end it."""
        identity = self.base + entry.identity
        member = self.by_identity[identity] = Member(identity, entry.address)
        try:
            self._come_back(member, entry)
        except ProtocolError as error:
            self._emit(Leave(identity))
            self.dismiss(member, error_frame(error.code, error.text), REPLACED, entry.now)

    def _come_back(self, member: Member, entry: Returned) -> None:
        request = Request(join=Join(name=entry.name, room=entry.room, token=entry.token))
        asked = Asked(
            entry.now, entry.at, entry.identity, entry.address, request, entry.fresh, entry.identified
        )
        held = self.claims.get(entry.name)
        has = held is not None and held.identity is not None
        # A later connection had it, and was lost or has left too: what the older one has still to say would
        # come after what the later one has said.
        if has or self.claims.taken_since(entry.name, entry.since):
            name = held.name if held is not None else entry.name
            raise ProtocolError("taken_over", f"{name} has come again, elsewhere")
        name = self._wanted_name(member, Join(name=entry.name), asked)
        room = self._room_to_enter(entry.room, None, None, asked)
        member.claim = self._claim(member, name, entry.token, asked)
        if member.claim.token != entry.token:  # the client may be cut off before it gets the new one
            member.claim.before = entry.token
        self._grant(member, entry.identified.grant if entry.identified else None, asked)
        if room is None:
            room = self._rooms.make(checked_room(entry.room), owner_of_client(member.address), entry.at)
            if room.seq:
                self._emit(RoomNumbered(room.name, room.seq, entry.at))
        self._enter(member, room, entry.at)
        if entry.join is not None:
            self._welcome(member, room, entry.join)
            return
        if room.number == entry.number:  # it hears the room, and has missed nothing
            if (member.claim.token, self.past.epoch) != (entry.token, entry.epoch):
                self._emit(Tell(member.identity, self._welcome_again(member, room, None)))
            return
        self._emit(Leave(member.identity))
        first, lost = self._uncertain(room, entry)
        again = self._welcome_again(member, room, lost)
        self._emit(Enter(member.identity, room.number, first, room.seq, again))

    def tell_of_new_epoch(self, agreed: Mapping[str, int], suspects: Collection[int]) -> None:
        """Tell all members that another epoch has begun.

        ``agreed`` has the numbers up to which it agrees with the one before, by the keys of rooms. Members
        among ``suspects`` have had others of that epoch.
        """
        for member in self.by_identity.values():
            if member.room is not None:
                first = agreed.get(name_key(member.room.name), 0) + 1
                lost = (first, None) if member.identity in suspects else None
                self._emit(Tell(member.identity, self._welcome_again(member, member.room, lost)))

    def overtaken(self, identity: int, room: int, lost: tuple[int, int]) -> bytes:
        """Return what a member is told whose room has forgotten messages that it was still to be sent.

        ``room`` is the number of that room. Empty: it is not in there any more.
        """
        member = self.by_identity.get(identity)
        if member is None or member.room is None or member.room.number != room:
            return b""
        return self._welcome_again(member, member.room, lost)

    def _welcome_again(self, member: Member, room: Room, lost: tuple[int, int | None] | None) -> bytes:
        welcome = self._welcome_to(member, room, recovered=lost is None, lost=lost)
        return welcome_frame(msgspec.structs.replace(welcome, again=True))

    def _uncertain(self, room: Room, entry: Returned) -> tuple[int, tuple[int, int | None] | None]:
        """Return the first number to send to a member that returns, and the range that is uncertain."""
        known = self._knows(entry.epoch, room, entry.after)
        agreed = entry.after if known else self.past.agreed(entry.epoch, room.name)
        if agreed is None:
            return self._missed(room, Join(after=entry.after))[0], (entry.after + 1, None)
        first = max(room.history.first or room.seq + 1, agreed + 1)
        if not known:  # it has got more than there is now
            return first, (agreed + 1, None)
        return first, None if first == agreed + 1 else (agreed + 1, first - 1)

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
        if name is not None and member.grant is not None and not member.grant.allows(checked_room(name)):
            raise ProtocolError(NOT_ALLOWED, OTHER_ROOM)
        room = member.room if name is None else self._rooms.get(checked_room(name))
        if room is None:
            raise ProtocolError("bad_room", f"there is no room {name!r}")
        names, following = _page(room.names, after)
        self._emit(Tell(member.identity, who_frame(room.name, names, len(room.members), following)))

    def _list_rooms(self, member: Member, after: str | None, now: float) -> None:
        allowed = self._allowed_rooms(member, now)
        names, following = _page(allowed, after)
        found = [(name, self._rooms.get(name)) for name in names]
        rooms = [(name, len(room.members)) for name, room in found if room is not None]
        self._emit(Tell(member.identity, rooms_frame(rooms, len(allowed), following)))

    def _allowed_rooms(self, member: Member, now: float) -> list[str]:
        """Return the sorted names of the rooms that a member may know of.

        For a token of some rooms all rooms are looked at, 10 ms for 10 000, and not again for a while.
        """
        grant = member.grant
        if grant is None or grant.rooms is None:
            return self._rooms.names
        if member.listed is None or member.listed[0] + LISTED_FOR <= now:
            names = sorted(room.name for key, room in self._rooms.by_key.items() if grant.allows_key(key))
            member.listed = now, names
        return member.listed[1]

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
