"""Actions of the HTTP API: what each operation does, as the same command or the same request does.

A token that names rooms is for these alone: see :class:`~mpchat.auth.grant.Grant`.
"""

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec

from mpchat.auth.grant import Grant
from mpchat.config import Config
from mpchat.control.answers import Kicked, RoomFacts, RoomsPage, ServerStatus
from mpchat.control.messages import Answer as CommandAnswer
from mpchat.errors import MpchatError, ProtocolError
from mpchat.hub.hub import Hub
from mpchat.hub.members import MUTED
from mpchat.hub.moderation import BANS, MUTES
from mpchat.hub.rooms import Room
from mpchat.ipc import audit
from mpchat.ipc.audit import Act
from mpchat.protocol.messages import PastMessage
from mpchat.protocol.requests import CloseRoom, Sanction, Target, history_messages
from mpchat.protocol.sign_in import NOT_ALLOWED, TRY_LATER
from mpchat.reactor import Reactor
from mpchat.supervisor.api.shapes import (
    HISTORY_SIZE,
    EndOf,
    HistoryOf,
    HistoryWanted,
    PageWanted,
    RoomPage,
    SaidIn,
    ToldTo,
    ToSay,
    ToTell,
)
from mpchat.supervisor.audited import result_of
from mpchat.supervisor.client_commands import ClientCommands
from mpchat.supervisor.room_commands import facts_of
from mpchat.text import visible
from mpchat.worker.budget import BUDGET_RATE, HISTORY_COST

# Rooms that are looked at for a page of a token that names rooms: each takes some microseconds.
MOST_LOOKED_AT = 1000
# Characters of a target: longer than any name and any network.
TARGET_LENGTH = 128


class Call(NamedTuple):
    """One request of a program: its token's grant, what it wants, and where its result goes."""

    grant: Grant
    # The room that the path names, or "".
    room: str
    # The query or the body, as the operation's shape has it.
    wanted: Any
    # The program's address.
    host: str
    # Takes the result and what it costs beside any request. And an error that comes later.
    reply: Callable[[object, int], None]
    refuse: Callable[[MpchatError], None]

    def act(self, action: str, target: str, seconds: float | None = None) -> Act:
        """Return what is asked for, for the audit trail."""
        return Act(f"service {audit.quoted(self.grant.name)}", action, target, seconds, self.host)

    def must_allow(self, room: str) -> None:
        """Raise ``not_allowed`` if the token names rooms, and this is none of them."""
        if not self.grant.allows(room):
            raise ProtocolError(NOT_ALLOWED, "the token is not for this room")

    def must_allow_all(self) -> None:
        """Raise ``not_allowed`` if the token names rooms."""
        if self.grant.rooms is not None:
            raise ProtocolError(NOT_ALLOWED, "the token is for some rooms only, not for this")


class Actions:
    """Carries operations out. What goes wrong is raised as :class:`MpchatError`, or refused later."""

    def __init__(
        self,
        reactor: Reactor,
        hub: Hub,
        clients: ClientCommands,
        status: Callable[[], ServerStatus],
        config: Callable[[], Config],
    ) -> None:
        """``status`` and ``config`` return what is so now."""
        self._reactor = reactor
        self._hub = hub
        self._clients = clients
        self._status = status
        self._config = config

    # Messages.

    def say(self, call: Call) -> None:
        """Say something in a room, or to all clients."""
        wanted: ToSay = call.wanted
        self._must_be_heard(call)
        room = None
        if wanted.room is None:
            call.must_allow_all()
        else:
            room = self._room(call, wanted.room)
        decide = partial(self._hub.say_as, call.grant.name, room, wanted.message, self._reactor.now)

        def said() -> None:
            if room is None:
                audit.record(call.act("say", wanted.message))
            result = SaidIn(room.name, room.seq) if room is not None else SaidIn(None, None)
            call.reply(result, self._message_cost)

        self._clients.speak(decide, said)

    def tell(self, call: Call) -> None:
        """Say something to one member alone."""
        wanted: ToTell = call.wanted
        self._must_be_heard(call)
        name = self._present(call, wanted.to)
        decide = partial(self._hub.tell_as, call.grant.name, name, wanted.message, self._reactor.now)

        def told() -> None:
            # With several hosts the member may have left before the message had its place.
            if self._hub.is_present(name):
                call.reply(ToldTo(name), self._message_cost)
            else:
                call.refuse(_nobody(name))

        self._clients.speak(decide, told)

    @property
    def _message_cost(self) -> int:
        """What a message is charged: so much that there are no more than ``flood_rate`` allows."""
        rate = self._config().flood_rate
        return round(BUDGET_RATE / rate) if rate else 0

    def _must_be_heard(self, call: Call) -> None:
        if self._hub.state.moderation.muted(call.grant.name, self._hub.wall()):
            raise ProtocolError("muted", MUTED)

    def _present(self, call: Call, name: str) -> str:
        """Return the name of a member as it spells it. Raise for one that is not here or not allowed."""
        member = self._hub.state.members.named(name[:TARGET_LENGTH])
        if member is None or member.room is None:
            raise _nobody(name)
        call.must_allow(member.room.name)
        return member.name

    # Rooms.

    def list_rooms(self, call: Call) -> None:
        """Return a page of the rooms."""
        wanted: PageWanted = call.wanted
        rooms = self._hub.state.rooms
        begin = bisect_right(rooms.names, wanted.after) if wanted.after else 0
        found: list[RoomFacts] = []
        end = min(len(rooms.names), begin + MOST_LOOKED_AT)
        following = begin
        while following < end and len(found) < wanted.limit:
            name = rooms.names[following]
            following += 1
            if call.grant.allows(name) and (room := rooms.get(name)) is not None:
                found.append(facts_of(room))
        more = rooms.names[following - 1] if following < len(rooms.names) else None
        call.reply(RoomsPage(found, more), 0)

    def show_room(self, call: Call) -> None:
        """Return a room and a page of its members."""
        wanted: PageWanted = call.wanted
        room = self._room(call, call.room)
        begin = bisect_right(room.names, wanted.after) if wanted.after else 0
        names = room.names[begin : begin + wanted.limit]
        facts = facts_of(room)
        page = RoomPage(
            room=room.name,
            members=facts.members,
            names=names,
            next=names[-1] if begin + wanted.limit < len(room.names) else None,
            seq=room.seq,
            messages=facts.messages,
            bytes=facts.bytes,
            made=facts.made,
            active=facts.active,
        )
        call.reply(page, 0)

    def read_history(self, call: Call) -> None:
        """Return messages of a room."""
        wanted: HistoryWanted = call.wanted
        room = self._room(call, call.room)
        if wanted.after is None:
            messages, following = room.past(room.seq + 1, wanted.limit, HISTORY_SIZE)[0], None
        else:
            messages, following = read_on(room, wanted.after, wanted.limit)
        result = HistoryOf(
            room=room.name,
            epoch=self._hub.state.members.past.epoch,
            messages=cast(list[PastMessage], [msgspec.Raw(each) for each in messages]),
            first=room.history.first,
            last=room.seq,
            next=following,
        )
        call.reply(result, HISTORY_COST)

    def _room(self, call: Call, name: str) -> Room:
        call.must_allow(name)
        room = self._hub.state.rooms.get(name)
        if room is None:
            raise ProtocolError("bad_room", f"there is no room {visible(name[:TARGET_LENGTH])}")
        return room

    # What operators do.

    def kick(self, call: Call) -> None:
        """End the connections of a name, an address or a network."""
        wanted: Target = call.wanted
        target = _target(wanted.name)
        if call.grant.rooms is not None:
            self._present(call, target)

        def check(result: object) -> object:
            if isinstance(result, Kicked) and not (result.ended or result.hosts or result.silent):
                raise _nobody(target)
            return result

        _carry_out(call, call.act("kick", target), partial(self._clients.kick, target), check)

    def ban(self, call: Call) -> None:
        """Ban a name, an address or a network."""
        self._sanction(call, "ban", self._clients.ban)

    def mute(self, call: Call) -> None:
        """Mute a name."""
        self._sanction(call, "mute", self._clients.mute)

    def _sanction(self, call: Call, action: str, command: Callable[..., None]) -> None:
        wanted: Sanction = call.wanted
        call.must_allow_all()
        target = _target(wanted.name)
        act = call.act(action, target, wanted.seconds)
        try:
            _carry_out(call, act, partial(command, target, wanted.seconds))
        except MpchatError as error:
            raise _as("bad_name", error) from None

    def unban(self, call: Call) -> None:
        """End a ban."""
        self._lift(call, "unban", BANS)

    def unmute(self, call: Call) -> None:
        """End a mute."""
        self._lift(call, "unmute", MUTES)

    def _lift(self, call: Call, action: str, table: Any) -> None:
        wanted: Target = call.wanted
        call.must_allow_all()
        target = _target(wanted.name)

        def failed(text: str) -> MpchatError:
            there = self._hub.moderator.is_sanctioned(table, target)
            return MpchatError(text) if there else ProtocolError("no_such_name", text)

        command = partial(self._clients.lift, table, target)
        _carry_out(call, call.act(action, target), command, lambda result: EndOf(target), failed)

    def close(self, call: Call) -> None:
        """End a room."""
        wanted: CloseRoom = call.wanted
        room = self._room(call, wanted.room)
        code = TRY_LATER if self._hub.can_close(room.name) else "cannot_close"
        try:
            _carry_out(call, call.act("close", room.name), partial(self._clients.close, room.name))
        except MpchatError as error:
            raise _as(code, error) from None

    def status(self, call: Call) -> None:
        """Return the status."""
        call.must_allow_all()
        call.reply(self._status(), 0)


def read_on(room: Room, after: int, most: int) -> tuple[list[bytes], int | None]:
    """Return messages with numbers above ``after``, oldest first, and the number to read on after.

    That number is None when there are no more. These are at most ``most`` messages, as history has them, and
    at most HISTORY_SIZE bytes, or a single message that is longer.
    """
    found: list[bytes] = []
    size, reached = 0, after
    for run in room.history.since(after + 1):
        first = max(run.seq, after + 1)
        part = run.between(first, min(run.last, first + most - len(found) - 1))
        messages = history_messages(part.frames, part.sender, part.seq, part.at)
        for number, message in enumerate(messages, part.seq):
            size += len(message)
            if found and size > HISTORY_SIZE:
                return found, reached
            found.append(message)
            reached = number
        if len(found) >= most:
            break
    return found, reached if found and reached < room.seq else None


def _carry_out(
    call: Call,
    act: Act,
    command: Callable[[Callable[[CommandAnswer[object]], None]], None],
    check: Callable[[object], object] = lambda result: result,
    failed: Callable[[str], MpchatError] = MpchatError,
) -> None:
    """Carry a command out, and keep the audit trail of it.

    ``check`` returns what is answered, or raises; ``failed`` makes the error of a command that failed.
    """

    def take(answer: CommandAnswer[object]) -> None:
        audit.record(act, result_of(answer))
        if answer.exit:
            call.refuse(failed(answer.text))
            return
        try:
            result = check(answer.result)
        except MpchatError as error:
            call.refuse(error)
        else:
            call.reply(result, 0)

    try:
        command(take)
    except MpchatError as error:
        audit.record(act, str(error))
        raise


def _target(name: str) -> str:
    if len(name) > TARGET_LENGTH:
        raise ProtocolError("bad_name", "this is neither a name nor an address")
    return name


def _nobody(name: str) -> ProtocolError:
    return ProtocolError("no_such_name", f"nobody here is called {visible(name[:TARGET_LENGTH])}")


def _as(code: str, error: MpchatError) -> MpchatError:
    """Return an error with a code, if it has none and says something of the request."""
    return ProtocolError(code, str(error)) if type(error) is MpchatError else error
