"""Hub: takes what all workers say, gives it one order, and sends every worker what follows from it.

It runs in the supervisor's loop. The log holds the order, the state decides, the delivery sends. Nothing here
grows: a window bounds what a worker may have on its way up, and while any worker's backlog on the way down is
full, nothing more is taken from any of them.
"""

import logging
import secrets
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec

from mpchat.auth.grant import Identity
from mpchat.cluster.store import Place
from mpchat.errors import MpchatError, ProtocolError
from mpchat.hub.delivery import Delivery
from mpchat.hub.effects import Hold, Order, Say, Tell
from mpchat.hub.endpoint import STUCK_AFTER, STUCK_SHARE, Endpoint
from mpchat.hub.entries import (
    Announced,
    Asked,
    Configured,
    CutOff,
    Entry,
    Gone,
    Kicked,
    Left,
    NoticesDue,
    Posted,
    RoomClosed,
    RoomHeld,
    Swept,
    WorkerDied,
    ended_identities,
)
from mpchat.hub.history import Run
from mpchat.hub.hosts import global_identity
from mpchat.hub.limits import Limits
from mpchat.hub.log import (
    Applied,
    Died,
    Follow,
    MemoryLog,
    More,
    Prove,
    Proved,
    Record,
    SaidAll,
    Settled,
    Step,
    Sync,
)
from mpchat.hub.moderation_keeper import ModerationKeeper
from mpchat.hub.moderator import Moderator
from mpchat.hub.past import Past
from mpchat.hub.plain_stream import PlainStream
from mpchat.hub.proofs import Proofs
from mpchat.hub.sender_holds import SenderHolds, Strain
from mpchat.hub.shared_log import SharedLog
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
# Seconds by which hosts differ that let time pass, should it be due: as a rule the first one is enough.
TICK_APART = 0.1
# Fits no identity of any host.
NOBODY = -1 << 80

log = logging.getLogger("mpchat.hub")


class SharedPast(NamedTuple):
    """What a log that several hosts share has made of a state, up to a place."""

    state: HubState
    place: Place


class Hub:
    """One order for everything."""

    def __init__(
        self,
        limits: Limits,
        *,
        notices: bool = True,
        past: Past | SharedPast | None = None,
        moderation: ModerationKeeper | None = None,
        on_run: Callable[[Run], None] | None = None,
        connections: Callable[[], int] = int,
    ) -> None:
        """Begin with no worker.

        ``limits.lag`` is how many bytes of the plain stream are kept; a stuck worker may be half as many
        behind before all wait for it. ``on_run`` gets every run of messages that is numbered.
        ``moderation`` has the file of bans and mutes. ``connections`` returns how many there are. With
        a :class:`SharedPast` the order is that of several hosts.
        """
        keeper = moderation or ModerationKeeper(None)
        shared = past if isinstance(past, SharedPast) else None
        self.shared = SharedLog(shared.place) if shared else None
        if isinstance(past, SharedPast):
            self.state = past.state
        else:
            past = past or Past(secrets.token_urlsafe(9))
            archived = on_run is not None
            self.state = HubState(limits, past, keeper.at_start, notices=notices, archived=archived)
        self.moderator = Moderator(self.state, keeper, self._decide)
        self.plain = PlainStream(limits.lag)
        self.delivery = Delivery(self.state.rooms, self.plain, limits.lag, limits.answers)
        self.delivery.on_run = on_run
        self._limits, self._notices = limits, notices
        self._log: MemoryLog | SharedLog = self.shared if self.shared is not None else MemoryLog()
        # Gets what was applied of a shared log, and the moment (seconds, monotonic).
        self.on_applied: Callable[[Applied, float], None] = _nothing
        # Called before this host's own end is applied.
        self.on_own_end: Callable[[float], None] = _nothing
        self._hold = StreamHold(self.plain.buffer)
        self._sender_holds = SenderHolds()
        # The rooms of which workers were told that their senders wait.
        self._told_held: set[int] = set()
        self._connections = connections
        self.proofs = Proofs(self.delivery)
        # True when nothing more of the order is for clients of this host: it is about to stop.
        self.closed = False
        # How far a shared log was applied; when that was here, on the log's clock, and on its wall clock.
        self.place = shared.place if shared else None
        self._heard = (time.monotonic(), shared.place.time, shared.place.at) if shared else (0.0, 0.0, 0.0)
        self._ticking = False
        # Up to which position plain clients have heard the log, where a snapshot was older.
        self._shown = 0
        if shared:
            self.moderator.wall = self.wall
            self.take_part(0)
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
            Died: self._died,
        }
        self.delivery.on_hold = self._on_hold

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

    def _on_strained(self, endpoint: Endpoint, payload: tuple[int, bool, int], now: float) -> None:
        """Take what a worker says of a room that is too fast, or is so no longer."""
        stream, behind, struggling = payload
        room = stream or self.state.rooms.lobby.number
        self._sender_holds.report(room, (endpoint, stream), Strain(behind, struggling, now))
        self._judge_hold(room)

    def _judge_hold(self, room: int) -> None:
        if not self._sender_holds.judge(room, self._clients_in(room)):
            return
        if self.shared is not None:  # the room's senders may be elsewhere
            self.shared.append(RoomHeld(room, room in self._sender_holds.held), None, 0)
        else:
            self._tell_hold_to_all(room)

    def _on_hold(self, hold: Hold) -> None:
        self._tell_hold_to_all(hold.room)

    def _tell_hold_to_all(self, room: int) -> None:
        for endpoint in self.delivery.endpoints:
            if endpoint.ready:
                self._tell_hold(endpoint, room)

    @property
    def _held(self) -> Collection[int]:
        """The rooms whose senders wait."""
        return self._sender_holds.held if self.shared is None else self.state.hosts.held

    def _tell_hold(self, endpoint: Endpoint, room: int) -> None:
        """Tell a worker whether a room's senders wait; in the lobby plain clients speak too."""
        held = room in self._held
        (self._told_held.add if held else self._told_held.discard)(room)
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
        if self.shared is not None:  # should its worker die, it is known who is lost
            self.delivery.meet(identity, endpoint)
        token = secrets.token_urlsafe(12) if request.join is not None else ""
        asked = Asked(now, time.time(), identity, address, request, token)
        return self._to_prove(asked)

    def _to_prove(self, asked: Asked) -> Prove | Asked:
        member = self.state.member_here(asked.identity)
        new = member is None or member.claim is None
        return self.proofs.to_prove(asked, self._limits, new=new)

    def detach(self, endpoint: Endpoint, now: float) -> None:
        """Put what a dead worker has still said into the order, and send it nothing more."""
        if isinstance(self._log, MemoryLog):
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
        died = Died(speakers, in_transit)
        if self.shared is not None:  # behind what it has still said
            self.shared.append(died, endpoint, 0)
        else:
            self._died(died, endpoint, now)

    def _died(self, died: Died, endpoint: Endpoint, now: float) -> None:
        lost = self.delivery.worker_died(endpoint, died.in_transit)
        if lost or died.speakers:
            self._decide(WorkerDied(now, lost, died.speakers), now)

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
        while self._log and not self.closed and not self.waits(now):
            record = self._log.next()
            self._apply(record, now)
            ordered += record.cost
            if ordered >= BATCH_SIZE:  # so that the look at what waits for workers sees it
                self.delivery.flush()
                ordered = 0
        due = self.notice_due()
        if due is not None and due <= now:
            self._tick(now)
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
        due = self.state.notice_due()
        if due is None or self.shared is None:
            return due
        return None if self._ticking else self.local_time(due) + TICK_APART * self._rank

    def _tick(self, now: float) -> None:
        """Let time pass in the order: notices are due."""
        self._ticking = True
        self._decide(NoticesDue(now), now)

    def _apply(self, record: Record, now: float) -> None:
        content, endpoint, cost, host = record
        if isinstance(content, Applied):
            self._applied(content, now)
            return
        if isinstance(content, Settled):
            self._settle_all(content.records, ())
            return
        serve = self._servers.get(type(content))
        if serve is None or endpoint is None:
            assert not isinstance(content, tuple), "steps have servers"
            self._put_in_order(content, now, host)
        else:
            serve(content, endpoint, now)
        if endpoint is not None:
            endpoint.take(cost)

    def _decide(self, entry: Entry, now: float) -> None:
        """Put something of the server itself in order: at once, or when it comes back from a shared log."""
        if self.shared is None:
            self._put_in_order(entry, now)
        else:
            self.shared.append(entry, None, 0)

    def _put_in_order(self, entry: Entry, now: float, host: int = 0) -> None:
        own = host == self.state.here
        if self.proofs and own and isinstance(entry, Left | WorkerDied):
            self.proofs.forget(entry)
        if self.shared is None:
            self.delivery.carry_out(self.state.apply(entry))
        else:
            self._put_in_shared_order(entry, now, host)
        while self.delivery.too_slow:
            too_slow = CutOff(now, self.delivery.too_slow.pop(), SLOW)
            if self.shared is None:
                self.delivery.carry_out(self.state.apply(too_slow))
            else:
                self.shared.append(too_slow, None, 0)

    # The order of several hosts.

    def _put_in_shared_order(self, entry: Entry, now: float, host: int) -> None:
        """Apply an entry as all hosts do, and carry out here what is for clients of this host."""
        if isinstance(entry, Gone) and entry.epoch == self.state.here:
            self.on_own_end(now)
            self.take_part(0)
        try:
            effects = self.state.apply(entry, host)
        except Exception:  # the same on every host; none may end because of one entry
            log.exception("failed, left out by all hosts: an entry of host %d", host)
            effects = []
        self.state.digest.add(effects)
        if self.place is not None and self.place.position < self._shown:
            effects = [each for each in effects if not isinstance(each, Say)]
        self.delivery.kicks = host != self.state.here
        self.delivery.carry_out(effects)

    def _applied(self, applied: Applied, now: float) -> None:
        """Note that a batch ends. What is due by then goes out on every host at this point."""
        place = applied.place
        due = self.state.notice_due()
        if due is not None and due <= place.time:
            self._put_in_shared_order(NoticesDue(place.time), now, 0)
            self._ticking = False
        if applied.number:
            self.state.hosts.count(applied.epoch, applied.number, applied.total, place.time)
        self.state.hosts.note(place.position, place.chain)
        self.place, self._heard = place, (now, place.time, place.at)
        self.on_applied(applied, now)

    def local_time(self, moment: float) -> float:
        """Return when a moment of the log's clock is here (seconds, monotonic), about."""
        heard, time_then, _ = self._heard
        return heard + moment - time_then

    def log_time(self, now: float) -> float:
        """Return what the log's clock says at ``now`` (seconds, monotonic), about."""
        heard, time_then, _ = self._heard
        return time_then + now - heard

    def wall(self) -> float:
        """Return the time that is shown and by which rules end, in seconds since 1970."""
        if self.shared is None:
            return time.time()
        heard, _, at = self._heard
        return at + time.monotonic() - heard

    @property
    def _rank(self) -> int:
        """How many hosts look after the time before this one."""
        return sum(epoch < self.state.here for epoch in self.state.hosts.by_epoch)

    def take_part(self, epoch: int) -> None:
        """Serve the connections of this process as those of a host; 0: as of none."""
        self.state.here = epoch
        self.delivery.base = global_identity(epoch, 0) if epoch else NOBODY
        if self.shared is not None and epoch:
            for room in self._sender_holds.held:  # of a host that has just come the others know no hold
                self.shared.append(RoomHeld(room, True), None, 0)

    def replace_state(
        self,
        state: HubState,
        place: Place,
        number: int,
        entered: Collection[int],
        now: float,
        *,
        ends_later: bool,
    ) -> None:
        """Go on from a snapshot, which has this host's batches up to ``number``; nobody hears a room then.

        The connections in ``entered`` are entered again. ``ends_later``: see :meth:`SharedLog.restart`.
        """
        assert self.shared is not None
        self._end_holds()
        same = self.place is not None and self.place.generation == place.generation
        self._shown = max(self._shown, self.place.position) if same and self.place is not None else 0
        self.delivery.leave_all()
        self.state = self.moderator.state = state
        self.delivery.use_rooms(state.rooms)
        self.take_part(0)
        self.place, self._heard = place, (now, place.time, place.at)
        self._ticking = False
        self._settle_all(self.shared.restart(place, number, ends_later=ends_later), entered)
        for room in self._held:
            self._tell_hold_to_all(room)

    def _end_holds(self) -> None:
        """Let all senders speak: the rooms may get other numbers."""
        for endpoint in self.delivery.endpoints:
            if endpoint.ready:
                for room in (PLAIN, *self._told_held):
                    endpoint.send(Down.HOLD, (room, False))
        self._told_held.clear()

    def _settle_all(self, records: list[Record], entered: Collection[int]) -> None:
        """Settle what a snapshot has, but ask again what was not answered here, in its place among steps."""
        assert self.shared is not None
        ended = {
            identity
            for content, *_ in records
            if isinstance(content, Left | WorkerDied)
            for identity in ended_identities(content)
        }
        again: list[Record] = []
        for record in records:
            content = record.content
            if isinstance(content, Asked) and content.identity not in ended:
                joins, is_in = content.request.join is not None, content.identity in entered
                # A private message has come to its receiver, and a member that is entered again is welcomed.
                if content.request.to is None and not (joins and is_in):
                    again.append(record)
                    continue
            if again and isinstance(content, tuple):
                again.append(record)
            else:
                self._settle(record)
        self.shared.put_first(again)

    def _settle(self, record: Record) -> None:
        """Acknowledge what a snapshot has, and that did not come out here."""
        content, endpoint, cost, _ = record
        if isinstance(content, tuple):
            self._apply(record, time.monotonic())
            return
        if isinstance(content, Left | WorkerDied):
            self.proofs.forget(content)
            self.delivery.forget_ended(content)
        if endpoint is not None:
            endpoint.take(cost)
            if isinstance(content, Asked):
                self.proofs.answered(content.identity)

    def _serve(self, asked: Asked, endpoint: Endpoint, now: float) -> None:
        """Let a request be served. What was said before it goes out first, to all."""
        if self.shared is None:  # else the setting is the same as long as the server runs
            prove = self._to_prove(asked)
            if isinstance(prove, Prove):  # another setting holds since it was read
                self._prove(prove, endpoint, now)
                return
            self.delivery.meet(asked.identity, endpoint)
        self.delivery.flush()
        self._answer(asked, now)
        ordered = any(order.identity == asked.identity for order in self.delivery.orders)
        # The answer to an order comes when it was carried out, and before that of any later request.
        if ordered:
            endpoint.send(Down.CHECKING, (asked.identity, False))
        elif asked.began is not None:  # its connection may be in transit
            self.proofs.answered(asked.identity)
        else:
            endpoint.send(Down.ANSWERED, asked.identity)

    def _answer(self, asked: Asked, now: float) -> None:
        if self.shared is not None:
            self._put_in_order(asked, now, self.state.here)
            return
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
        elif not self.proofs.take(identity, self._limits):
            pass
        elif self.shared is not None:
            began = self.log_time(asked.now)
            self.shared.append(msgspec.structs.replace(asked, began=began), endpoint, 0)
        else:
            self.delivery.flush()
            self._answer(msgspec.structs.replace(asked, now=now, at=time.time(), began=asked.now), now)
            self.proofs.answered(identity)

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
        frame = message_frame(text)
        if len(frame) > ANNOUNCEMENT_LIMIT:
            raise ProtocolError(
                "too_long", f"the message takes {len(frame)} bytes, {ANNOUNCEMENT_LIMIT} are allowed"
            )
        self._decide(Announced(now, time.time(), frame), now)

    def say_farewell(self, text: str, now: float) -> None:
        """Say something to all clients of this server, as the last word. Among hosts it gets no number.

        Raises as :meth:`announce`.
        """
        if self.shared is None:
            self.announce(text, now)
            return
        frame = message_frame(text)
        self.plain.post((1, frame))
        self.delivery.tell_all(frame)

    def close_room(self, name: str, now: float) -> tuple[str, int]:
        """End a room and forget its history; return its name and how many members are in the lobby for it.

        Raises :class:`MpchatError` when there is no such room, for the lobby, and while members are moved:
        they are still to get what was said there.
        """
        room = self.state.rooms.get(name)
        if room is None:
            raise MpchatError(f"there is no room {visible(name)}; mpchat rooms lists them")
        if room is self.state.rooms.lobby:
            raise MpchatError(f"{room.name} cannot be closed: members of closed rooms are put there")
        members = list(room.members)
        if self.shared is not None:
            self.shared.append(RoomClosed(now, 0.0, room.number), None, 0)
            return room.name, len(members)
        if any(map(self.delivery.in_transit, room.members)):
            raise MpchatError(f"members of {room.name} are just being moved to other workers; try again")
        self._put_in_order(RoomClosed(now, time.time(), room.number), now)
        lobby = self.state.rooms.lobby.members
        return room.name, sum(each in lobby for each in members)

    def can_close(self, name: str) -> bool:
        """Tell whether there is a room of this name that may be closed."""
        room = self.state.rooms.get(name)
        return room is not None and room is not self.state.rooms.lobby

    def change_limits(self, limits: Limits, *, notices: bool, now: float) -> None:
        """Keep to other limits from now on."""
        self._limits, self._notices = limits, notices
        if self.shared is None or differ(limits, notices, self.state):
            self._decide(Configured(limits, notices, now), now)
        self.plain.buffer.limit = limits.lag
        self.delivery.lag_limit, self.delivery.answers_memory = limits.lag, limits.answers

    def silence_notices(self, now: float) -> None:
        """Tell no client any more that others have gone. Clients of other hosts are told."""
        if self.shared is not None:
            self.closed = True
            return
        self.change_limits(self._limits, notices=False, now=now)

    def sweep(self, now: float) -> None:
        """Forget what is too old or unused; call it about once a second."""
        self.moderator.watch_clock()
        if self.shared is None:  # else hosts do it with their beats
            self._put_in_order(Swept(now, time.time(), self.proofs.waiting), now)
        for room in self._sender_holds.expire(now - STUCK_AFTER):
            self._judge_hold(room)

    # What is so.

    def address_of(self, name: str) -> str | None:
        """Return the address of the member of this name, if one is connected here."""
        member = self.state.members.named(name)
        return member.address if member is not None and self.state.is_here(member) else None

    def is_present(self, name: str) -> bool:
        """Tell whether a member of this name is connected, to whatever host."""
        return self.state.members.named(name) is not None

    def is_elsewhere(self, name: str) -> bool:
        """Tell whether a member of this name is connected to another host."""
        member = self.state.members.named(name)
        return member is not None and not self.state.is_here(member)

    def kick_everywhere(self, target: str) -> None:
        """Have the other hosts close the connections of a name, an address or a network too."""
        if self.shared is not None:
            self.shared.append(Kicked(target), None, 0)

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


def differ(limits: Limits, notices: bool, state: HubState) -> bool:
    """Tell whether limits that all hosts keep to are others than the state has."""
    shared = limits._replace(lag=state.limits.lag, answers=state.limits.answers)
    return (shared, notices) != (state.limits, state.sequencer.notices)


def _nothing(*args: object) -> None:
    pass


def _refuse_order(order: Order) -> None:
    raise AssertionError("there is nobody to carry it out")
