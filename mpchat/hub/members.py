"""Members: who is called what, who is where, and what they ask for. The hub asks this, which alone decides.

Pure: times are given, and what is to be sent is handed to :class:`Post`, which the hub is.
"""

import secrets
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from mpchat.errors import ProtocolError
from mpchat.hub.rooms import HISTORY_AT_JOIN, Kept, Replay, Room, Run
from mpchat.ipc.reasons import CLOSED
from mpchat.protocol.messages import Welcome, error_frame
from mpchat.protocol.names import checked_name, checked_room, name_key
from mpchat.protocol.requests import (
    LOBBY,
    Join,
    Request,
    private_frame,
    rooms_frame,
    welcome_frame,
    who_frame,
)

# Names or rooms on a page.
PAGE = 100
# What somebody is told who may not speak.
MUTED = "you are muted: nobody gets what you say"
# Bytes that the streams and histories of all rooms take here together, and the least of each for a room. A
# member who is further behind than its room's share is cut off when it is moved.
ROOMS_MEMORY = 256 << 20
LEAST_SHARE = 16 << 10
# Names that are held for members who may come back, at most; past it the longest held goes.
MOST_HELD = 100_000
# Rooms that are looked at in one sweep, at least, and sweeps until all have been: 1000 take a millisecond.
SWEPT = 500
SWEEPS = 10


class Limits(NamedTuple):
    """Settings: how many rooms, members of one room (0: no limit), seconds a name is held, what is kept."""

    rooms: int
    members: int
    name_hold: float
    kept: Kept
    lag: int


class Member:
    """A connection that has asked to be somebody. Without a name it is served as a plain client."""

    __slots__ = ("address", "came_from", "claim", "endpoint", "identity", "live", "replay", "room", "waiting")

    def __init__(self, identity: int, address: str, endpoint: Any) -> None:
        self.identity = identity
        self.address = address
        # The worker that serves it, or None while it is between two; then, which one it comes from.
        self.endpoint = endpoint
        self.came_from: Any = None
        self.claim: Claim | None = None
        self.room: Room | None = None
        # What it is still to get before it is live, and whether it is.
        self.replay: Replay | None = None
        self.live = False
        # Frames for it alone that came while it was between two workers.
        self.waiting = bytearray()

    @property
    def name(self) -> str:
        return self.claim.name if self.claim is not None else ""


class Claim:
    """A name, whose it is, and until when it is held for somebody who is not there."""

    __slots__ = ("before", "member", "name", "token", "until")

    def __init__(self, name: str, member: Member) -> None:
        self.name = name
        self.member: Member | None = member
        self.token = _token()
        # The one before a takeover: good while nobody is here, for who was cut off before it got the new one.
        self.before = ""
        self.until = 0.0

    def is_shown(self, token: str | None) -> bool:
        """Tell whether ``token`` proves that somebody owns the name."""
        good = [self.token] if self.member is not None else [self.token, self.before]
        return bool(token) and any(
            secrets.compare_digest(str(token).encode(), each.encode()) for each in good
        )


def _token() -> str:
    return secrets.token_urlsafe(12)


class Past(Protocol):
    """What is known of the time before; see ``archive.Loaded``."""

    @property
    def epoch(self) -> str: ...

    @property
    def last(self) -> Mapping[str, int]: ...

    @property
    def floor(self) -> int: ...

    def knows(self, epoch: str, room: str, number: int) -> bool: ...


class Moderators(Protocol):
    """Who may not come, and who may not speak; see ``moderation.Moderation``."""

    def banned_name(self, name: str, at: float) -> bool: ...

    def muted(self, name: str, at: float) -> bool: ...


class Post(Protocol):
    """What members need of the hub."""

    def tell(self, member: Member, frames: bytes) -> None:
        """Send something to one member alone, after everything that is in the order by now."""

    def begin(self, member: Member, frames: bytes) -> None:
        """Send ``frames`` and then what ``member.replay`` holds, and let it be live after that."""

    def end(self, member: Member, reason: str) -> None:
        """End somebody's connection, who is forgotten here already."""


class Members:
    """Everybody with a name or about to get one, and all rooms."""

    def __init__(self, limits: Limits, post: Post) -> None:
        # What every room may keep of its stream, and of its history, in bytes.
        self.share = 0
        self._kept = limits.kept
        self.limits = limits
        self.epoch = secrets.token_urlsafe(9)
        # Gets every run of messages that is numbered.
        self.on_run: Callable[[Run], None] | None = None
        self.moderation: Moderators | None = None
        self._past: Past | None = None
        # The number after which a new room begins, if not one of its own: no number of a room that was
        # forgotten is given again.
        self._floor = 0
        self._last: dict[str, int] = {}
        self.by_identity: dict[int, Member] = {}
        # Whose connection is about to be ended; until it has, it may still say and ask for something.
        self._ended: dict[int, Member] = {}
        self.rooms: dict[str, Room] = {}
        self._room_names: list[str] = []
        self._unswept: list[tuple[str, Room]] = []
        # Rooms that have something to say.
        self.stirred: dict[Room, None] = {}
        self._post = post
        self._claims: dict[str, Claim] = {}
        # Held names, the longest held first.
        self._held: dict[str, Claim] = {}
        self._numbers = 0
        self.lobby = self._make_room(LOBBY)

    def change_limits(self, limits: Limits) -> None:
        """Keep to other limits from now on."""
        self.limits = limits
        self._share_out()

    # Who is there.

    def ask(
        self, identity: int, address: str, endpoint: Any, request: Request, now: float, at: float
    ) -> None:
        """Do what a connection asks for, and answer it. ``now`` is monotonic, ``at`` the time of day."""
        if identity in self._ended:
            return
        member = self.by_identity.get(identity)
        if member is None:
            member = self.by_identity[identity] = Member(identity, address, endpoint)
        try:
            if request.join is not None:
                self._join(member, request.join, now, at)
            elif member.room is None:
                raise ProtocolError("not_joined", 'send {"join": {"name": "…"}} first')
            elif request.to is not None:
                self._tell(member, request.to, request.message or "", at)
            elif request.who is not None:
                self._who(member, request.who.room, request.who.after)
            elif request.rooms is not None:
                self._rooms(member, request.rooms.after)
        except ProtocolError as error:
            self._post.tell(member, error_frame(error.code, error.text))

    def gone(self, identity: int, reason: str, now: float) -> Member | None:
        """Forget a connection that has ended; hold its name for a while, unless it has gone in order."""
        self._ended.pop(identity, None)
        member = self.by_identity.pop(identity, None)
        if member is not None:
            self._leave(member, reason)
            if member.claim is not None and member.claim.member is member:
                if reason == CLOSED:
                    del self._claims[name_key(member.name)]
                else:
                    self._hold(member.claim, now)
        return member

    def end(self, member: Member, reason: str) -> None:
        """End the connection of somebody who is forgotten already; what is on its way from it is void."""
        self._ended[member.identity] = member
        self._post.end(member, reason)

    def named(self, name: str) -> Member | None:
        """Return who has this name and is here."""
        claim = self._claims.get(name_key(name))
        return claim.member if claim else None

    def _hold(self, claim: Claim, now: float) -> None:
        claim.member = None
        claim.until = now + self.limits.name_hold
        key = name_key(claim.name)
        self._held[key] = claim
        while self._held:
            oldest = next(iter(self._held))
            if self._held[oldest].until > now and len(self._held) <= MOST_HELD:
                return
            del self._held[oldest], self._claims[oldest]

    def is_muted(self, member: Member, at: float) -> bool:
        return self.moderation is not None and self.moderation.muted(member.name, at)

    def say(self, room: Room, sender: str, count: int, frames: bytes, at: float) -> None:
        """Number ``count`` messages of a room; an empty ``sender`` is the server itself."""
        run = room.post(sender, count, frames, at, self._kept)
        if self.on_run is not None:
            self.on_run(run)
        if room.members:
            self.stirred[room] = None

    # Joining.

    def _join(self, member: Member, join: Join, now: float, at: float) -> None:
        if join.name is None and member.claim is None:
            raise ProtocolError("bad_request", "join needs a name")
        wanted = member.name if join.name is None else checked_name(join.name)
        if member.claim is not None and name_key(wanted) != name_key(member.name):
            raise ProtocolError("bad_request", f"you are {member.name} already; come again to be {wanted}")
        if self.moderation is not None and self.moderation.banned_name(wanted, at):
            raise ProtocolError("banned", f"{wanted} is banned here")
        before = member.room
        room = self._room_to_enter(join.room, before, self._room_given_up(wanted, join.token))
        claim = member.claim or self._claim(member, wanted, join.token, now)
        if room is None:
            room = self._make_room(checked_room(join.room or LOBBY))
        if room is not before:
            self._leave(member, "moved")
            room.enter(member.identity, claim.name)
            self.stirred[room] = None
        elif member.live:
            self._not_live(member)
        member.claim, member.room = claim, room
        self._welcome(member, room, join)

    def _room_given_up(self, name: str, token: str | None) -> Room | None:
        """Return where the connection is that a join with this token replaces."""
        claim = self._claims.get(name_key(name))
        return claim.member.room if claim and claim.member and claim.is_shown(token) else None

    def _room_to_enter(self, name: str | None, before: Room | None, given_up: Room | None) -> Room | None:
        """Return the room, or None for one that is to be made. Raises :class:`ProtocolError`.

        In ``before`` and in ``given_up`` somebody makes room for himself.
        """
        if name is None and before is not None:
            return before
        name = checked_room(name if name is not None else LOBBY)
        room = self.rooms.get(name_key(name))
        if room is None:
            if len(self.rooms) >= self.limits.rooms:
                raise ProtocolError(
                    "too_many_rooms", f"there are {len(self.rooms)} rooms, no more are allowed"
                )
        elif room not in (before, given_up) and 0 < self.limits.members <= len(room.members):
            raise ProtocolError("room_full", f"{room.name} has {len(room.members)} members, no more fit")
        return room

    def _claim(self, member: Member, name: str, token: str | None, now: float) -> Claim:
        key = name_key(name)
        claim = self._claims.get(key)
        if claim is None or (claim.member is None and claim.until <= now):
            claim = self._claims[key] = Claim(name, member)
        elif not claim.is_shown(token):
            left = f"held for {claim.until - now:.0f} s more" if claim.member is None else "in use"
            raise ProtocolError("name_taken", f"{claim.name} is {left}; its owner comes back with the token")
        elif claim.member is not None:  # it has come back before the server knew that it had gone
            other = claim.member
            if other.identity > member.identity:  # this join was longer on its way; its connection is gone
                raise ProtocolError("name_taken", f"{claim.name} has come back by a later connection")
            del self.by_identity[other.identity]
            self._leave(other, "replaced")
            self._post.tell(other, error_frame("taken_over", f"{claim.name} has come again, elsewhere"))
            self.end(other, "replaced")
            claim.before, claim.token = claim.token, _token()  # the other one would take it back
        self._held.pop(key, None)
        claim.name, claim.member = name, member
        return claim

    def _welcome(self, member: Member, room: Room, join: Join) -> None:
        first, recovered = room.seq + 1, False
        lost: tuple[int, int | None] | None = None
        oldest = room.history.first or room.seq + 1
        if join.after is None or not self._knows(join.epoch, room, join.after):
            first = max(oldest, room.seq + 1 - HISTORY_AT_JOIN)
            if join.after is not None:
                lost = join.after + 1, None
        else:
            after = max(0, min(join.after, room.seq))
            first = max(oldest, after + 1)
            recovered = first == after + 1
            if not recovered:
                lost = after + 1, first - 1
        assert member.claim is not None
        welcome = Welcome(
            name=member.claim.name,
            room=room.name,
            seq=room.seq,
            epoch=self.epoch,
            members=len(room.members),
            token=member.claim.token,
            recovered=recovered,
            lost=lost,
        )
        member.replay = Replay(room, first, room.seq, room.stream.messages)
        self._post.begin(member, welcome_frame(welcome))

    def _knows(self, epoch: str | None, room: Room, after: int) -> bool:
        """Tell whether the numbers up to ``after`` that somebody has seen are those of this room."""
        if epoch is None or epoch == self.epoch:
            return epoch is not None
        return self._past is not None and self._past.knows(epoch, room.name, after)

    def live(self, member: Member) -> None:
        """From now on its worker gets what the room says for this member too."""
        assert member.room is not None
        member.live, member.replay = True, None
        member.room.endpoints[member.endpoint] += 1

    def _not_live(self, member: Member) -> None:
        assert member.room is not None
        member.live = False
        endpoints = member.room.endpoints
        endpoint = member.came_from if member.endpoint is None else member.endpoint
        endpoints[endpoint] -= 1
        if not endpoints[endpoint]:
            del endpoints[endpoint]

    def _leave(self, member: Member, reason: str) -> None:
        if member.live:
            self._not_live(member)
        member.replay = None
        room, member.room = member.room, None
        if room is not None:
            room.leave(member.identity, reason)
            self.stirred[room] = None

    # Between two workers.

    def departs(self, identity: int) -> None:
        """Somebody's worker is about to give the connection away, and has all that was sent until now.

        It goes on hearing the room: until the connection has gone it holds the room's stream, which others
        who enter there go on with.
        """
        member = self.by_identity.get(identity)
        if member is not None and member.endpoint is not None:
            member.came_from, member.endpoint = member.endpoint, None

    def arrives(self, identity: int, endpoint: Any) -> Member | None:
        """Somebody's connection is at a worker, the next one or the same; returns who is still known."""
        if identity in self._ended:
            self._ended[identity].endpoint = endpoint
            return None
        member = self.by_identity.get(identity)
        if member is not None and member.endpoint is None:
            if member.live:
                self._not_live(member)
            member.endpoint, member.came_from = endpoint, None
            waiting, member.waiting = member.waiting, bytearray()
            if waiting:
                self._post.tell(member, bytes(waiting))
        return member

    def died_with(self, endpoint: Any, on_their_way: set[int], now: float) -> None:
        """A worker has died: forget whom it served, or was about to give away and did not."""
        for member in [*self.by_identity.values(), *self._ended.values()]:
            stayed = member.came_from is endpoint and member.identity not in on_their_way
            if member.endpoint is endpoint or stayed:
                self.gone(member.identity, "lost", now)
            elif member.came_from is endpoint and member.live:
                self._not_live(member)
        for room in self.rooms.values():
            room.endpoints.pop(endpoint, None)

    # Rooms.

    def _make_room(self, name: str) -> Room:
        self._numbers += 1
        key = name_key(name)
        room = Room(self._numbers, name, self._last.get(key, self._floor))
        self.rooms[key] = room
        insort(self._room_names, name)
        self._share_out()
        return room

    def remember(self, past: Past, runs: Iterable[Run]) -> None:
        """Go on where another server has stopped, which kept ``runs``. Only before anybody has come."""
        self.epoch, self._past, self._floor = past.epoch, past, past.floor
        for name, last in past.last.items():  # one room may have been spelled in several ways, in its turn
            key = name_key(name)
            self._last[key] = max(last, self._last.get(key, 0))
        self.lobby.seq = self._last.get(name_key(LOBBY), past.floor)
        for run in runs:
            room = self.rooms.get(name_key(run.room)) or self._make_room(run.room)
            if run.room != room.name:
                run = msgspec.structs.replace(run, room=room.name)
            room.history.add(run, self._kept)
        for room in self.rooms.values():
            if room.history.last != room.seq:  # the last messages were lost, and with them what is before
                room.history.clear()

    def sweep(self, at: float) -> None:
        """Forget rooms that are empty and whose history has expired, and in the others what is more than
        their share by now. Call it now and then; each call looks at some, for ten thousand take a while."""
        if not self._unswept:
            self._unswept = list(self.rooms.items())
        part = max(SWEPT, len(self.rooms) // SWEEPS)
        due, self._unswept = self._unswept[:part], self._unswept[part:]
        for key, room in due:
            room.trim(at, self._kept)
            if not room.members and room is not self.lobby and not room.history:
                del self.rooms[key]
                del self._room_names[bisect_left(self._room_names, room.name)]
                self._floor = max(self._floor, room.seq)
                self._last.pop(key, None)
        self._share_out()

    def _share_out(self) -> None:
        """Divide the memory among the rooms: half of each share for the stream, half for the history."""
        share = ROOMS_MEMORY // (2 * len(self.rooms))
        self.share = max(LEAST_SHARE, min(self.limits.lag, share))
        self._kept = self.limits.kept._replace(size=self.share)

    # Questions.

    def _tell(self, member: Member, to: str, text: str, at: float) -> None:
        if self.is_muted(member, at):
            raise ProtocolError("muted", MUTED)
        other = self.named(to)
        if other is None or other.room is None:
            raise ProtocolError("no_such_name", f"nobody here is called {to[:40]!r}")
        frames = private_frame(text, member.name, other.name, at)
        for each in dict.fromkeys((other, member)):
            self._post.tell(each, frames)

    def _who(self, member: Member, name: str | None, after: str | None) -> None:
        room = member.room if name is None else self.rooms.get(name_key(checked_room(name)))
        if room is None:
            raise ProtocolError("bad_room", f"there is no room {name!r}")
        names, following = _page(room.names, after)
        self._post.tell(member, who_frame(room.name, names, len(room.members), following))

    def _rooms(self, member: Member, after: str | None) -> None:
        names, following = _page(self._room_names, after)
        rooms = [(name, len(self.rooms[name_key(name)].members)) for name in names]
        self._post.tell(member, rooms_frame(rooms, len(self.rooms), following))


def _page(names: list[str], after: str | None) -> tuple[list[str], str | None]:
    """Return the names that come after ``after``, and what to ask for next.

    ``after`` is compared as it is: to compose what somebody sends can take seconds.
    """
    begin = bisect_right(names, after) if after is not None else 0
    page = names[begin : begin + PAGE]
    return page, page[-1] if begin + PAGE < len(names) else None
