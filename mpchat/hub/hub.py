"""Hub: takes what all workers say, gives it one order, and sends every worker what follows from it.

It runs in the supervisor's loop. The log holds the order, the state decides, the delivery sends. Nothing here
grows: a window bounds what a worker may have on its way up, and while any worker's backlog on the way down is
full, nothing more is taken from any of them.
"""

import logging
import secrets
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from mpchat.auth.grant import Identity
from mpchat.errors import MpchatError, ProtocolError
from mpchat.hub.cut_offs import CutOffs
from mpchat.hub.delivery import Delivery
from mpchat.hub.effects import Order, Presence, Tell
from mpchat.hub.endpoint import STUCK_AFTER, STUCK_SHARE, Endpoint
from mpchat.hub.entries import (
    Announced,
    Asked,
    Configured,
    CutOff,
    Entry,
    Left,
    NoticesDue,
    Posted,
    RoomClosed,
    Spoken,
    Swept,
    Told,
    WorkerDied,
)
from mpchat.hub.history import Run
from mpchat.hub.limits import Limits
from mpchat.hub.log import (
    Follow,
    MemoryLog,
    More,
    OrderLog,
    Prove,
    Proved,
    Record,
    SaidAll,
    Step,
    Sync,
)
from mpchat.hub.moderation_keeper import ModerationKeeper
from mpchat.hub.moderator import Moderator
from mpchat.hub.past import Past
from mpchat.hub.plain_stream import PlainStream
from mpchat.hub.proofs import Proofs
from mpchat.hub.rooms import Room
from mpchat.hub.sender_holds import SenderHolds, Strain
from mpchat.hub.state import HubState
from mpchat.hub.stream_hold import StreamHold
from mpchat.ipc.channel import Item
from mpchat.ipc.items import PLAIN, Down, Up
from mpchat.ipc.limits import BATCH_SIZE
from mpchat.ipc.reasons import INTERNAL_ERROR, SLOW
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import unpack_request
from mpchat.text import visible

# Bytes of an announcement: room, number and time must still fit into a member's frame.
ANNOUNCEMENT_LIMIT = 65_000
# The version of a shared log's entries since which programs may say something; see ``shared_log.VERSION``.
SPOKEN_SINCE = 2
log = logging.getLogger("mpchat.hub")


class Hub:
    """One order for everything."""

    def __init__(
        self,
        limits: Limits,
        *,
        notices: bool = True,
        past: Past | HubState | None = None,
        moderation: ModerationKeeper | None = None,
        on_run: Callable[[Run], None] | None = None,
        connections: Callable[[], int] = int,
    ) -> None:
        """Begin with no worker.

        ``limits.lag`` is how many bytes of the plain stream are kept; a stuck worker may be half as many
        behind before all wait for it. ``on_run`` gets every run of messages that is numbered.
        ``moderation`` has the file of bans and mutes. ``connections`` returns how many there are.
        ``past`` is what is known of the time before, or the whole state, with which it goes on.
        """
        keeper = moderation or ModerationKeeper(None)
        if isinstance(past, HubState):
            self.state = past
        else:
            past = past or Past(secrets.token_urlsafe(9))
            archived = on_run is not None
            self.state = HubState(limits, past, keeper.at_start, notices=notices, archived=archived)
        self.moderator = Moderator(self.state, keeper, self._decide)
        self.plain = PlainStream(limits.lag)
        self.delivery = Delivery(self.state.rooms, self.plain, limits.lag, limits.answers)
        self.delivery.on_run = on_run
        self._limits, self._notices = limits, notices
        self._log: OrderLog = MemoryLog()
        self._hold = StreamHold(self.plain.buffer)
        self._sender_holds = SenderHolds()
        self._connections = connections
        self.proofs = Proofs(self.delivery)
        # Messages to one member that clients and programs here have asked to send; announcements of this
        # server, and what programs have said.
        self.private = self.announced = 0
        self.cut_offs = CutOffs()
        # Gets what an operator asks for from a client.
        self.on_order: Callable[[Order], None] = _refuse_order
        self._readers: dict[int, Callable[[Endpoint, Any, float], Entry | Step]] = {
            Up.POSTS: lambda endpoint, payload, now: Posted(now, time.time(), *payload),
            Up.LEFT: lambda endpoint, payload, now: Left(now, payload),
            Up.ASK: self._read_request,
            Up.SYNC: lambda endpoint, payload, now: Sync(*payload),
            Up.MORE: lambda endpoint, payload, now: More(payload),
            Up.FOLLOW: lambda endpoint, payload, now: Follow(*payload),
            Up.SAID_ALL: lambda endpoint, payload, now: SaidAll(payload),
        }
        # What needs the worker that it came from; everything else is only put in order.
        self._servers: dict[type, Callable[[Any, Endpoint, float], None]] = {
            Asked: self._serve,
            Sync: self._sync,
            More: self._replay_more,
            Follow: self._follow,
            SaidAll: self._echoed,
            Prove: self._prove,
            Proved: self._proved,
        }

    # Workers.

    def attach(self, endpoint: Endpoint) -> None:
        """Let a worker take part: heard at once, and hearing from the next message on once it is ready."""
        self.delivery.endpoints.append(endpoint)

    def take(self, endpoint: Endpoint, item: Item, now: float) -> None:
        """Take an item of a worker, in the order in which the worker sent them."""
        read = self._readers.get(item.kind)
        if read is not None:
            self._log.append(read(endpoint, item.payload, now), endpoint, item.cost)
            return
        endpoint.take(item.cost)
        if item.kind == Up.STARTED and not endpoint.retired:
            self.plain.begin_to_fill(endpoint)
        elif item.kind == Up.STRAINED:
            self._on_strained(endpoint, item.payload, now)
        elif item.kind == Up.CUT_OFF:
            identity, address, reason = item.payload
            member = self.state.member_here(identity)
            self.cut_offs.add(address, member.name if member is not None else "", reason, time.time())

    def _on_strained(self, endpoint: Endpoint, payload: tuple[int, bool, int], now: float) -> None:
        """Take what a worker says of a room that is too fast, or is so no longer."""
        stream, behind, struggling = payload
        room = stream or self.state.rooms.lobby.number
        self._sender_holds.report(room, (endpoint, stream), Strain(behind, struggling, now))
        self._judge_hold(room)

    def _judge_hold(self, room: int) -> None:
        if self._sender_holds.judge(room, self._clients_in(room)):
            self._hold_changed(room)

    def _hold_changed(self, room: int) -> None:
        self._tell_hold_to_all(room)

    def _tell_hold_to_all(self, room: int) -> None:
        for endpoint in self.delivery.endpoints:
            if endpoint.ready:
                self._tell_hold(endpoint, room)

    @property
    def _held(self) -> Collection[int]:
        """The rooms whose senders wait."""
        return self._sender_holds.held

    def _tell_hold(self, endpoint: Endpoint, room: int) -> None:
        """Tell a worker whether a room's senders wait; in the lobby plain clients speak too."""
        held = room in self._held
        if room == self.state.rooms.lobby.number:
            endpoint.send(Down.HOLD, (PLAIN, held))
        endpoint.send(Down.HOLD, (room, held))

    def _clients_in(self, number: int) -> int:
        members = self.delivery.recipients_in(number)
        if number != self.state.rooms.lobby.number:
            return members
        return members + self._connections() - self.delivery.recipients

    def _read_request(self, endpoint: Endpoint, payload: Any, now: float) -> Asked | CutOff | Prove:
        self.moderator.watch_clock()
        (identity, address), packed = payload
        try:
            request = unpack_request(packed)
        except msgspec.DecodeError as error:
            log.error("not understood, its connection is ended, %s: %s", error, address)
            return CutOff(now, identity, INTERNAL_ERROR)
        self.private += request.to is not None and request.message is not None
        token = secrets.token_urlsafe(12) if request.join is not None else ""
        asked = Asked(now, time.time(), identity, address, request, token)
        return self._to_prove(asked)

    def _to_prove(self, asked: Asked) -> Prove | Asked:
        member = self.state.member_here(asked.identity)
        new = member is None or member.claim is None
        return self.proofs.to_prove(asked, self._limits, new=new)

    def detach(self, endpoint: Endpoint, now: float) -> None:
        """Put what a dead worker has still said into the order, and send it nothing more."""
        for record in self._log.take_from(endpoint):
            self._apply(record, now)
        self.delivery.endpoints.remove(endpoint)

    def worker_died(self, endpoint: Endpoint, speakers: int, in_transit: set[int], now: float) -> None:
        """End the connections of a detached worker; ``speakers`` of them had sent a message or asked to join.

        Those that other processes have by now (``in_transit``) live on.
        """
        self._hold.die(endpoint)
        for room in self._sender_holds.forget(endpoint):
            self._judge_hold(room)
        self._end_lost(endpoint, speakers, in_transit, now)

    def _end_lost(self, endpoint: Endpoint, speakers: int, in_transit: set[int], now: float) -> None:
        lost = self.delivery.worker_died(endpoint, in_transit)
        if lost or speakers:
            self._decide(WorkerDied(now, lost, speakers), now)

    # Connections that change their worker.

    def transit_began(self, endpoint: Endpoint, identities: list[int]) -> None:
        """Connections, perhaps none, have left their worker."""
        self._hold.left(endpoint, identities)

    def transit_ended(self, identity: int, endpoint: Endpoint) -> None:
        """A worker has a connection, be it a new one or one that was in transit."""
        self._hold.arrive(identity)
        self.delivery.arrive(identity, endpoint)

    # The order.

    def waits(self, now: float) -> bool:
        """Tell whether a worker, or a connection in transit, is so far behind that all must wait for it."""
        if self._hold.holds_up():
            return True
        limit = self.plain.buffer.limit // STUCK_SHARE
        return any(endpoint.holds_up(now, limit) for endpoint in self.delivery.endpoints)

    @property
    def empty(self) -> bool:
        """True when nothing that was received waits for its place in the order."""
        return not self._log.owes

    def turn(self, now: float) -> None:
        """Put what has come in into the order, and send what follows from it."""
        ordered = 0
        while self._log and not self.waits(now):
            record = self._log.next()
            self._apply(record, now)
            ordered += record.cost
            if ordered >= BATCH_SIZE:  # so that the look at what waits for workers sees it
                self.delivery.flush()
                ordered = 0
        due = self.notice_due()
        if due is not None and due <= now:
            self._decide(NoticesDue(now), now)
        self.delivery.flush()
        for endpoint in self.delivery.endpoints:
            if endpoint.filled is not None:
                self._fill(endpoint)
        while self.delivery.orders:
            self.on_order(self.delivery.orders.pop(0))

    def _fill(self, endpoint: Endpoint) -> None:
        self.plain.fill(endpoint)
        if endpoint.ready:
            for room in self._held:
                self._tell_hold(endpoint, room)

    def notice_due(self) -> float | None:
        """Return when clients are to be told who has come and gone (monotonic clock, seconds), or None."""
        return self.state.notice_due()

    def _apply(self, record: Record, now: float) -> None:
        content, endpoint, cost, _ = record
        serve = self._servers.get(type(content))
        if serve is None or endpoint is None:
            assert not isinstance(content, tuple), "steps have servers"
            self._put_in_order(content, now)
        else:
            serve(content, endpoint, now)
        if endpoint is not None:
            endpoint.take(cost)

    def _decide(self, entry: Entry, now: float) -> None:
        """Put something of the server itself in order."""
        self._put_in_order(entry, now)

    def _put_in_order(self, entry: Entry, now: float) -> None:
        if self.proofs and isinstance(entry, Left | WorkerDied):
            self.proofs.forget(entry)
        self.delivery.carry_out(self.state.apply(entry))
        while self.delivery.too_slow:
            too_slow = CutOff(now, self.delivery.too_slow.pop(), SLOW)
            self.delivery.carry_out(self.state.apply(too_slow))

    def _serve(self, asked: Asked, endpoint: Endpoint, now: float) -> None:
        """Let a request be served. What was said before it goes out first, to all."""
        prove = self._to_prove(asked)
        if isinstance(prove, Prove):  # another setting holds since it was read
            self._prove(prove, endpoint, now)
            return
        self.delivery.meet(asked.identity, endpoint)
        self._answer_in_order(asked, endpoint, now)

    def _answer_in_order(self, asked: Asked, endpoint: Endpoint, now: float) -> None:
        self.delivery.flush()
        self._answer(asked, now)
        ordered = any(order.identity == asked.identity for order in self.delivery.orders)
        # The answer to an order comes when it was carried out, and before that of any later request.
        if ordered:
            endpoint.send(Down.CHECKING, (asked.identity, False))
        else:
            self._answered(asked, endpoint)

    def _answered(self, asked: Asked, endpoint: Endpoint) -> None:
        endpoint.send(Down.ANSWERED, asked.identity)

    def _answer(self, asked: Asked, now: float) -> None:
        try:
            self._put_in_order(asked, now)
        except Exception:  # what one client asks for must not end the server of all
            log.exception("failed, its connection is ended: %s", asked.address)
            self._put_in_order(CutOff(now, asked.identity, INTERNAL_ERROR), now)

    def _prove(self, prove: Prove, endpoint: Endpoint, now: float) -> None:
        """Have a join's proof checked. Send all earlier messages first."""
        self.delivery.flush()
        self.proofs.begin(prove, endpoint, self._limits)

    def proved(self, identity: int, outcome: Identity | ProtocolError) -> None:
        """Take what has come of a proof: the join gets its place in the order."""
        proved = self.proofs.outcome(identity, outcome)
        if proved is not None:
            self._log.append(*proved, 0)

    def _proved(self, proved: Proved, endpoint: Endpoint, now: float) -> None:
        """Let a join be served whose proof was checked."""
        identity, asked = proved.asked.identity, proved.asked
        if self.delivery.in_transit(identity):  # it has not got all that its room was told
            self.proofs.hold(proved)
        elif self.proofs.take(identity, self._limits):
            self._let_join(asked, endpoint, now)

    def _let_join(self, asked: Asked, endpoint: Endpoint, now: float) -> None:
        self.delivery.flush()
        self._answer(msgspec.structs.replace(asked, now=now, at=time.time(), began=asked.now), now)
        self.proofs.answered(asked.identity)

    def _replay_more(self, more: More, endpoint: Endpoint, now: float) -> None:
        self.delivery.replay_more(more.identity, endpoint)

    def _follow(self, follow: Follow, endpoint: Endpoint, now: float) -> None:
        self.delivery.follow(endpoint, *follow)
        held = self.proofs.arrived(follow.identity, endpoint)
        if held is not None:
            self._log.append(held, endpoint, 0)

    def _sync(self, sync: Sync, endpoint: Endpoint, now: float) -> None:
        """Tell a worker that all its connections said so far is in the order, and sent."""
        if endpoint.ended:
            return
        self._hold.begin(endpoint, sync.number)
        self.delivery.flush()
        for identity in sync.identities:
            self.delivery.depart(identity)
        if sync.identities:  # behind all that they were sent; else past it, because nothing waits for that
            endpoint.send(Down.SYNCED)
        else:
            endpoint.send_now(Down.SYNCED)

    def _echoed(self, said_all: SaidAll, endpoint: Endpoint, now: float) -> None:
        """Tell a worker that all that these clients said has been sent to it."""
        self.delivery.flush()
        endpoint.send(Down.ECHOED, said_all.identities)

    # What operators and settings want.

    def tell(self, identity: int, frame: bytes) -> None:
        """Send a client the answer to what it has ordered, if it is still here, and read from it again."""
        self.delivery.carry_out([Tell(self.delivery.base + identity, frame)])
        self.proofs.answered(identity)

    def announce(self, text: str, now: float) -> None:
        """Say something to all clients. Raises :class:`ProtocolError` if it fits no frame."""
        frame = _announcement(text)
        self.announced += 1
        self._decide(Announced(now, time.time(), frame), now)

    def say_as(self, sender: str, room: Room | None, text: str, now: float) -> None:
        """Say something in a room, or in all (None), as a program called ``sender``. Raises as
        :meth:`announce`, and :class:`MpchatError` while another host cannot read it."""
        self._must_be_read()
        number, frame = room.number if room is not None else 0, _announcement(text)
        self.announced += 1
        self._decide(Spoken(now, time.time(), sender, number, frame), now)

    def tell_as(self, sender: str, to: str, text: str, now: float) -> None:
        """Send the member of the name ``to`` a private message. Raises as :meth:`say_as`."""
        self._must_be_read()
        _announcement(text)
        self.private += 1
        self._decide(Told(now, time.time(), sender, to, text), now)

    def _must_be_read(self) -> None:
        if (self.state.hosts.version or SPOKEN_SINCE) < SPOKEN_SINCE:
            raise MpchatError("a host of the chat has an older mpchat, which cannot read this: update it")

    def say_farewell(self, text: str, now: float) -> None:
        """Say something to all clients of this server, as the last word. Raises as :meth:`announce`."""
        self.announce(text, now)

    def close_room(self, name: str, now: float) -> tuple[str, int]:
        """End a room and forget its history; return its name and how many members are in the lobby for it.

        Raises :class:`MpchatError` when there is no such room, for the lobby, and while members are moved:
        they are still to get what was said there.
        """
        room = self._closable(name)
        members = list(room.members)
        if any(map(self.delivery.in_transit, room.members)):
            raise MpchatError(f"members of {room.name} are just being moved to other workers; try again")
        self._put_in_order(RoomClosed(now, time.time(), room.number), now)
        lobby = self.state.rooms.lobby.members
        return room.name, sum(each in lobby for each in members)

    def _closable(self, name: str) -> Room:
        room = self.state.rooms.get(name)
        if room is None:
            raise MpchatError(f"there is no room {visible(name)}; mpchat rooms lists them")
        if room is self.state.rooms.lobby:
            raise MpchatError(f"{room.name} cannot be closed: members of closed rooms are put there")
        return room

    def can_close(self, name: str) -> bool:
        """Tell whether there is a room of this name that may be closed."""
        room = self.state.rooms.get(name)
        return room is not None and room is not self.state.rooms.lobby

    def change_limits(self, limits: Limits, *, notices: bool, now: float) -> None:
        """Keep to other limits from now on."""
        self._limits, self._notices = limits, notices
        self._configure(limits, notices, now)
        self.plain.buffer.limit = limits.lag
        self.delivery.lag_limit, self.delivery.answers_memory = limits.lag, limits.answers

    def _configure(self, limits: Limits, notices: bool, now: float) -> None:
        self._decide(Configured(limits, notices, now), now)

    def silence_notices(self, now: float) -> None:
        """Tell no client any more that others have gone."""
        self.change_limits(self._limits, notices=False, now=now)

    def sweep(self, now: float) -> None:
        """Forget what is too old or unused; call it about once a second."""
        self.moderator.watch_clock()
        self._sweep(now)
        for room in self._sender_holds.expire(now - STUCK_AFTER):
            self._judge_hold(room)

    def _sweep(self, now: float) -> None:
        self._put_in_order(Swept(now, time.time(), self.proofs.waiting), now)

    def be_watched(
        self, said: Callable[[Run], None] | None, moved: Callable[[Presence], None] | None
    ) -> None:
        """Tell from now on what is said in every room, and which members enter and leave; None: no more."""
        self.state.members.watched = moved is not None
        self.delivery.on_said, self.delivery.on_presence = said, moved

    # What is so.

    def wall(self) -> float:
        """Return the time by which bans and mutes end, in seconds since 1970."""
        return time.time()

    def address_of(self, name: str) -> str | None:
        """Return the address of the member of this name, if one is connected here."""
        member = self.state.members.named(name)
        return member.address if member is not None and self.state.is_here(member) else None

    def address_at(self, identity: int) -> str:
        """Return the address of the member that a connection of this process is; empty if it is none now."""
        member = self.state.member_here(identity)
        return member.address if member is not None else ""

    def is_present(self, name: str) -> bool:
        """Tell whether a member of this name is connected, to whatever host."""
        return self.state.members.named(name) is not None

    def is_elsewhere(self, name: str) -> bool:
        """Tell whether a member of this name is connected to another host."""
        member = self.state.members.named(name)
        return member is not None and not self.state.is_here(member)

    @property
    def other_hosts(self) -> int:
        """How many other hosts the chat has."""
        return len(self.state.hosts.by_epoch.keys() - {self.state.here})

    def when_ordered(self, call: Callable[[], None]) -> None:
        """Call ``call`` when all that was decided before is in the order: now."""
        call()

    def kick_everywhere(self, target: str) -> None:
        """Have other hosts close the connections of a name, an address or a network; here are none."""

    @property
    def messages(self) -> int:
        """Messages that were put in order since the start, in all rooms, each counted once."""
        return self.state.messages

    @property
    def members(self) -> int:
        """Connections that have asked to join."""
        return len(self.state.members.by_identity)

    @property
    def rooms(self) -> int:
        """Rooms that there are, the lobby among them."""
        return len(self.state.rooms)


def _announcement(text: str) -> bytes:
    """Return the frame of a message that is not a client's. Raises :class:`ProtocolError`."""
    frame = message_frame(text)
    if len(frame) > ANNOUNCEMENT_LIMIT:
        raise ProtocolError(
            "too_long", f"the message takes {len(frame)} bytes, {ANNOUNCEMENT_LIMIT} are allowed"
        )
    return frame


def _refuse_order(order: Order) -> None:
    raise AssertionError("there is nobody to carry it out")
