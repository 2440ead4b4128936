"""Membership: one host's part in a chat of several hosts: it registers, beats, returns, and recovers. No I/O.

A host follows the log from a place on and registers; from its registration on it appends. When it finds its
own end in the log, because it was silent longer than its lease, it registers again and enters its members
again: they have heard everything meanwhile. When the log itself was lost or does not fit its state, it takes
a snapshot, and its members are told what is uncertain.

The link does what blocks, in threads; its answers come as events, and any may come late.
"""

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from typing import Any, NamedTuple, Protocol

import msgspec

from mpchat.auth.grant import Identity
from mpchat.cluster.store import AGAIN, Batch, Place, Snapshot, Standing
from mpchat.errors import MpchatError
from mpchat.hub import snapshot
from mpchat.hub.effects import End
from mpchat.hub.entries import Asked, HostBeat, Returned
from mpchat.hub.hosts import HostInfo, encode_info, global_identity, host_of
from mpchat.hub.log import Applied
from mpchat.hub.members import Member
from mpchat.hub.shared_hub import SharedHub, SharedPast
from mpchat.hub.shared_log import VERSION, Outgoing, StrangerError
from mpchat.hub.state import HubState
from mpchat.ipc.reasons import SLOW
from mpchat.protocol.requests import Join

# Seconds between two beats, or a fourth of the lease if that is less.
BEAT_EVERY = 1.0
BEATS_IN_A_LEASE = 4
# Bytes of batches that a host applies at most before it says how far it is.
TELL_EVERY = 2 << 20
# Bytes of batches that a host may be behind before all hosts wait with what their clients say. And seconds of
# silence after which no host is waited for.
MOST_BEHIND = 16 << 20
WAITED_FOR = 3.0
# Seconds for which the log is read without delay after clients here were told something of it.
HEARD_FOR = 0.1
# Batches, bytes and seconds after which the log gets another snapshot, if anything was said.
SNAPSHOT_BATCHES = 20_000
SNAPSHOT_BYTES = 16 << 20
SNAPSHOT_EVERY = 300.0
# Batches for which the digest is remembered: as many as may come while a beat is on its way.
REMEMBERED = 4096

log = logging.getLogger("mpchat.hub")


# Events of the link.


class Registration(NamedTuple):
    """This host has an epoch; its arrival stands at ``position``."""

    epoch: int
    position: int


class Fenced(NamedTuple):
    """The log refuses this host: its lease is over."""

    epoch: int


class Rewound(NamedTuple):
    """The log is not what was read."""

    why: str


class Trimmed(NamedTuple):
    """The log does not have the next batch any more."""


class Loaded(NamedTuple):
    """The newest snapshot, as a state; None: there is none."""

    restored: SharedPast | None


class Stood(NamedTuple):
    """The decision that follows from the places of all hosts; see ``Store.stand``."""

    standing: Standing


class Founded(NamedTuple):
    """Whether the log begins with this host's state."""

    done: bool


class Away(NamedTuple):
    """The log cannot be reached, for the reason ``why``; or it can again, if that is empty."""

    why: str


class Stopped(NamedTuple):
    """The log refuses this host for good."""

    why: str


Event = Registration | Fenced | Rewound | Trimmed | Loaded | Stood | Founded | Away | Stopped


class LogLink(Protocol):
    """The way to the log. Nothing here blocks."""

    def follow(self, place: Place) -> None:
        """Read on from a place, and forget what was read before and not taken."""

    def reads(self) -> list[Batch]:
        """Return what was read since, in order; as much as one turn of the loop can apply."""

    @property
    def has_reads(self) -> bool:
        """True when :meth:`reads` has something to return."""

    def wake(self) -> None:
        """Let the loop turn once more."""

    def events(self) -> list[Event]:
        """Return what else has happened since."""

    # Whether clients of this host were told something of what was read lately.
    is_heard: bool

    def register(self, generation: str, info: bytes) -> None:
        """Begin to register with a description; see :func:`~mpchat.hub.hosts.encode_info`."""

    def append(self, generation: str, epoch: int, position: int, batches: list[Outgoing]) -> None:
        """Append batches, again and again until they are there."""

    def leave(self, generation: str, epoch: int) -> None:
        """Say that this host takes part no longer."""

    def save(self, make: Callable[[], Snapshot]) -> None:
        """Keep a snapshot."""

    def load(self) -> None:
        """Load the newest snapshot."""

    def stand(self, generation: str, place: Place) -> None:
        """Ask again and again what the others' places mean for this one."""

    def found(self, old: str, make: Callable[[], Snapshot]) -> None:
        """Begin a new log with a snapshot."""


class Part(Enum):
    """The part of a host in the chat; the values are shown to operators."""

    JOINING = "joining"
    MEMBER = "member"
    RETURNING = "returning"
    RECOVERING = "recovering"
    LEFT = "left"


class Membership:
    """This host's part in the chat of several hosts."""

    def __init__(self, hub: SharedHub, link: LogLink, info: HostInfo, lease: float) -> None:
        """``lease`` is in seconds."""
        self.part = Part.JOINING
        # Why the part is what it is; why the log cannot be reached, and since when (seconds since 1970).
        self.why = ""
        self.since = hub.wall()
        self.away = ""
        self.away_since = self._away_from = 0.0
        # Why this host cannot go on at all.
        self.stopped = ""
        self.info = info
        self.hub = hub
        self.log = hub.log
        self.link = link
        self.beat_every = min(BEAT_EVERY, lease / BEATS_IN_A_LEASE)
        # The number of clients here, and of plain ones that have said something.
        self.count: Callable[[], tuple[int, int]] = lambda: (0, 0)
        # The epoch of this host, also after its end and until it has another one.
        self._epoch = 0
        self._generation = ""
        self._arrival = 0
        # Whether this process knows what the log has had so far.
        self._knows = info.knows
        # Members that are to be entered again.
        self._returning: list[Returned] = []
        # A lost log: wait until all that was read is applied. What log is in its place.
        self._lost, self._rewound, self._recovering = "", False, False
        # Why this host, whose state differs, waits for its end in the log before it takes a snapshot.
        self._differs = ""
        self._replaced = ""
        # True while it waits for the end of an epoch that it has given up.
        self._waits = False
        # How often it was begun to follow a log.
        self._followed = 0
        self._told = 0
        self._snapshot_place = hub.place
        self._snapshot_at = 0.0
        self._compared = 0
        self._readings: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
        hub.on_applied = self._on_applied
        hub.on_own_end = self._on_own_end

    @property
    def place(self) -> Place:
        """How far the log was applied."""
        return self.hub.place

    @property
    def serves(self) -> bool:
        """True when this host has caught up and takes part."""
        return self.part is Part.MEMBER and self.place.position >= self._arrival

    @property
    def is_leader(self) -> bool:
        """True when this host does what one host is to do for all."""
        return bool(self.log.epoch) and self.hub.state.hosts.leader == self.log.epoch

    # Called by the loop.

    def begin(self) -> None:
        """Follow the log, and register."""
        self._followed += 1
        self.link.follow(self.place)
        self._waits = bool(self.log.former)
        if not self._waits:
            self._register()

    def receive(self, now: float) -> None:
        """Take what has come from the link; call before the hub's turn, in which it is applied."""
        followed = self._followed
        for event in self.link.events():
            if followed != self._followed and isinstance(event, Rewound | Trimmed):
                continue  # it is about what was followed before
            self._on_event(event, now)
        if self.part is Part.LEFT or self._lost or self.log:  # else it would wait here and not in the link
            return
        try:
            self.log.receive(self.link.reads())
        except StrangerError as error:
            self.stopped = str(error)
        except MpchatError as error:
            self._lose(str(error), now)

    def send(self, now: float) -> None:
        """Send what is to be put in order; call after the hub's turn."""
        if not self.log and self.link.has_reads:
            self.link.wake()
        if self._lost and not self.log and not self._recovering:
            self._recover(now)
        if self._waits and not self._lost and not self.log and not self.log.former:
            self._waits = False
            self._register()
        self.link.is_heard = now - self.hub.told_at < HEARD_FOR
        if self._lost or self._differs or not self.log.epoch:
            return
        if self.place.total - self._told >= TELL_EVERY:
            self._tell(now)
        if not self._is_waiting():
            self._append()

    def beat(self, now: float) -> None:
        """Tell the others that this host is there; call every ``beat_every`` seconds."""
        if self._lost or self._differs:
            return
        epoch = self.log.epoch
        if epoch and self.place.position >= self._arrival and epoch not in self.hub.state.hosts.by_epoch:
            # Its end came before it was known here that it had begun.
            self._on_own_end(now)
            self.hub.take_part(0)
            self.log.lose_epoch()
        if self.log.epoch:
            if not self.log.has(HostBeat):  # as long as the log is away, one is enough
                self._tell(now)
            self._append()
            # Not in the middle of a batch: a part of it may be applied while a worker is waited for.
            if self.is_leader and not self.log and self._snapshot_is_due(now):
                self._save(now)

    def leave(self) -> None:
        """Take part no longer: the names of members here are held from now on."""
        if self.log.epoch:
            self.link.leave(self.place.generation, self.log.epoch)
        self._change(Part.LEFT, "")

    # Sending.

    def _tell(self, now: float) -> None:
        clients, speakers = self.count()
        place = self.place
        self._told = place.total
        reading = self._readings[-1] if self._readings else (place.position, b"")
        renewing = self.hub.proofs.waiting
        self.log.append(HostBeat(0.0, 0.0, *reading, clients, speakers, renewing), None, 0)

    def _is_waiting(self) -> bool:
        """Tell whether a host is so far behind that all wait for it."""
        hosts, now = self.hub.state.hosts.by_epoch.values(), self.place.time
        return any(
            self.place.total - each.total > MOST_BEHIND and now - each.heard < WAITED_FOR
            for each in hosts
            if each.total
            and each.epoch != self.log.epoch  # one that has just come has not said how far it is
        )

    def _append(self) -> None:
        version = min(VERSION, self.hub.state.hosts.version or VERSION)
        batches = self.log.take_batches(version, self.place.total)
        if batches:
            self.link.append(self.place.generation, self.log.epoch, self.place.position, batches)

    def _snapshot_is_due(self, now: float) -> bool:
        before, place = self._snapshot_place, self.place
        batches, size = place.position - before.position, place.total - before.total
        late = now - self._snapshot_at > SNAPSHOT_EVERY and size > 0
        return batches >= SNAPSHOT_BATCHES or size >= SNAPSHOT_BYTES or late

    def _save(self, now: float) -> None:
        self._snapshot_place, self._snapshot_at = self.place, now
        self.link.save(self._snapshot())

    def _snapshot(self) -> Callable[[], Snapshot]:
        """Return what makes a snapshot of now, in a thread."""
        taken, place = snapshot.take(self.hub.state, self.place.time), self.place

        @cache  # the parts come once, and the link may try more often
        def make() -> Snapshot:
            parts = []
            for part in snapshot.parts(taken):
                parts.append(part)
                time.sleep(0)  # the loop goes on meanwhile
            return Snapshot(place, snapshot.FORMAT, parts)

        return make

    # Events.

    def _on_event(self, event: Event, now: float) -> None:
        match event:
            case Registration():
                self._on_registered(event, now)
            case Fenced():
                log.warning("this host's lease is over, it will register again: epoch %d", event.epoch)
            case Rewound(why):
                self._lose(why, now)
            case Trimmed():
                self._lose("this host was away for longer than the log is kept", now, rewound=False)
            case Loaded(restored):
                self._on_loaded(restored, now)
            case Stood(standing):
                self._on_stood(standing, now)
            case Founded(done):
                self._on_founded(done, now)
            case Away(why):
                self._on_away(why)
            case Stopped(why):
                self.stopped = why

    def _on_away(self, why: str) -> None:
        if why and not self.away:
            self.away_since, self._away_from = self.hub.wall(), time.monotonic()
            log.warning("Redis is not reachable, senders wait: %s", why)
        elif self.away and not why:
            log.warning("Redis is reachable again after %.1f s", time.monotonic() - self._away_from)
        self.away = why

    def _change(self, part: Part, why: str) -> None:
        self.part, self.why, self.since = part, why, self.hub.wall()

    def _register(self) -> None:
        same = self._generation == self.place.generation
        self.info = msgspec.structs.replace(self.info, knows=self._knows, former=self._epoch if same else 0)
        self.link.register(self.place.generation, encode_info(self.info))

    def _on_registered(self, registration: Registration, now: float) -> None:
        if self.part in (Part.LEFT, Part.RECOVERING):
            return
        self._epoch, self._arrival = registration
        self._generation, self._knows = self.place.generation, True
        self._snapshot_at = now
        self.log.join(self._epoch, list(self._returning), self._arrival, encode_info(self.info))
        self._returning = []
        self.hub.take_part(self._epoch)
        self._change(Part.MEMBER, "")
        log.info("takes part as host %s: epoch %d", self.info.name, self._epoch)
        self._tell(now)

    # Its own end.

    def _on_own_end(self, now: float) -> None:
        """Note the members of this host that the others lose now, to enter them again."""
        if self.part is Part.LEFT:
            return
        if self._differs:
            self._note_members(self.hub.state, self.hub.state)
            self._lose(self._differs, now, rewound=False)
            return
        log.warning("the others took this host for gone; it returns with its members: epoch %d", self._epoch)
        state, delivery = self.hub.state, self.hub.delivery
        for local, member in self._members_here(state):
            recipient = delivery.recipient(local)
            if recipient is None or recipient.ending:
                continue
            number = member.room.number if member.room and recipient.stream else 0
            after = member.room.seq if member.room else 0
            self._returning.append(self._returned(state, local, member, number, after))
        self._change(Part.RETURNING, "it was silent for longer than its lease")
        self._register()

    def _members_here(self, state: HubState) -> Iterator[tuple[int, Member]]:
        """Yield the members of this host with their identities here, those that are in a room."""
        base = global_identity(self._epoch, 0)
        for identity, member in state.members.by_identity.items():
            if host_of(identity) == self._epoch and member.room is not None and member.claim is not None:
                yield identity - base, member

    def _returned(self, state: HubState, local: int, member: Member, number: int, after: int) -> Returned:
        claim, room = member.claim, member.room
        assert claim is not None
        assert room is not None
        identified = None
        if member.grant is not None or claim.looks:
            identified = Identity(claim.name, member.grant, claim.looks)
        return Returned(
            0.0,
            0.0,
            local,
            member.address,
            claim.name,
            claim.token,
            secrets.token_urlsafe(12),
            room.name,
            number,
            after,
            state.members.past.epoch,
            identified,
            since=claim.since,
        )

    # A lost log.

    def _lose(self, why: str, now: float, *, rewound: bool = True) -> None:
        """Give up the log as it was followed, once all that was read is applied."""
        if self._lost or self.part is Part.LEFT:
            return
        log.warning("the log cannot be followed: %s", why)
        self._lost, self._rewound = why, rewound
        self._change(Part.RECOVERING, why)

    def _recover(self, now: float) -> None:
        self._recovering = True
        if self._rewound:
            self._stand(self.place.generation)
            return
        if self.log.epoch:
            self.link.leave(self.place.generation, self.log.epoch)
        self.link.load()

    def _stand(self, generation: str) -> None:
        """Ask whether the log that is there, of some generation, is to begin anew with this host's state."""
        self._replaced = generation
        self.link.stand(generation, self.place)

    def _on_stood(self, standing: Standing, now: float) -> None:
        if standing.answer == AGAIN:
            self.link.load()
            return
        # This host has got further than all others that are there: the log goes on from its state.
        state, place = self.hub.state, self.place
        # Others have read other batches behind the loss: a number of the old epoch says nothing then.
        is_known = all(state.hosts.has_read(position, chain) for position, chain in standing.others)
        self._note_members(state, state)
        state.begin_anew(secrets.token_urlsafe(9), place.generation, place.time, is_known=is_known)
        self._keep_numbers(state)
        generation = new_generation(place.generation)
        self.hub.place = place._replace(generation=generation, chain=secrets.token_hex(20).encode())
        self.link.found(self._replaced, self._snapshot())

    def _on_founded(self, done: bool, now: float) -> None:
        if not done:
            self.link.load()
            return
        log.warning("the log begins anew with the state of this host: %s", self.place.generation)
        self._go_on(self.hub.state, self.place, now)

    def _on_loaded(self, restored: SharedPast | None, now: float) -> None:
        if restored is None:  # gone again
            self._stand(self.place.generation)
            return
        generation = restored.place.generation
        if serial(generation) < serial(self.place.generation):  # rolled back to a log that was replaced
            self._stand(generation)
            return
        # Numbers that this host's members have may stand for other messages there.
        same = not self._rewound or self.hub.state.hosts.agrees(restored.state.hosts)
        self._note_members(self.hub.state, restored.state)
        self._knows = False
        if same:
            self._keep_numbers(restored.state)
        else:
            self._returning = [msgspec.structs.replace(each, epoch="") for each in self._returning]
        self._go_on(restored.state, restored.place, now)

    def _keep_numbers(self, state: HubState) -> None:
        """Let members that return to ``state`` have their numbers in its epoch, if theirs is unknown there.

        The log of that state has begun with the numbers that this host knows.
        """
        past, rooms = state.members.past, state.rooms

        def has(each: Returned) -> bool:
            room = rooms.get(each.room)
            unknown = each.epoch and past.agreed(each.epoch, each.room) is None
            return bool(unknown) and room is not None and each.after <= room.seq

        self._returning = [
            msgspec.structs.replace(each, epoch=past.epoch) if has(each) else each for each in self._returning
        ]

    def _go_on(self, state: HubState, place: Place, now: float) -> None:
        number = state.hosts.number(self._generation, self._epoch, place.generation)
        # This host has just left, perhaps behind the snapshot: up to its end batches of its own may come.
        follows = place.generation == self._generation and bool(self.log.epoch or self.log.former)
        is_known = self._epoch in state.hosts.by_epoch or place.position < self._arrival
        self._change(Part.RETURNING, self.why)
        self._lost, self._recovering, self._replaced, self._differs = "", False, "", ""
        self._readings.clear()
        # An earlier digest may be that of a state that was given up since, and would be met again and again.
        self._compared = max(self._compared, self.place.position)
        self._snapshot_place, self._snapshot_at = place, now
        entered = {each.identity for each in self._returning if each.join is not None}
        self.hub.replace_state(
            SharedPast(state, place), number, entered, now, ends_later=follows and is_known
        )
        # Their ends may be among what was settled.
        self._returning = [each for each in self._returning if self.hub.delivery.recipient(each.identity)]
        self.log.drop(Returned)  # those that have not come back are among the others now
        self.begin()

    def _note_members(self, before: HubState, after: HubState) -> None:
        """Note the members to be entered again: by the state that they know, or else by the other one."""
        known = dict(self._members_here(before))
        later = dict(self._members_here(after))
        # Those that were on their way back when the log was lost.
        pending = {each.identity: each for each in (*self.log.waiting(Returned), *self._returning)}
        self._returning = []
        asked = self.log.waiting(Asked)
        joins = {each.identity: each.request.join for each in asked if each.request.join is not None}
        delivery = self.hub.delivery
        for local in known | pending | later:
            recipient = delivery.recipient(local)
            if recipient is None or recipient.ending:
                continue
            reached = delivery.reached(recipient)
            if local in pending and local not in known and recipient.stream is None:
                self._returning.append(pending[local])  # it has heard nothing since
            elif reached is None and (local in known or local in pending):
                # The server does not know how far it has read: the client comes again and says so.
                delivery.carry_out([End(delivery.base + local, SLOW)])
            elif local in known:
                self._returning.append(self._returned(before, local, known[local], 0, reached or 0))
            elif local in pending:
                again = msgspec.structs.replace(pending[local], number=0, after=reached or 0)
                self._returning.append(again)
            else:
                room = later[local].room
                assert room is not None
                returned = self._returned(after, local, later[local], 0, room.seq)
                self._returning.append(msgspec.structs.replace(returned, join=joins.get(local, Join())))

    # Applied batches.

    def _on_applied(self, applied: Applied, now: float) -> None:
        position = applied.place.position
        reading = _encode(self.hub.state.read_digest())
        self._readings.append((position, reading))
        leader = self.hub.state.hosts.leader
        if applied.epoch == leader and leader != self.log.epoch:
            self._compare(leader, now)

    def _compare(self, leader: int, now: float) -> None:
        """Compare this host's state with that of the leader, where that has said how it was."""
        host = self.hub.state.hosts.by_epoch[leader]
        position, digest = host.position, host.digest
        if position <= self._compared or not digest or position < self._readings[0][0]:
            return
        self._compared = position
        mine = self._readings[position - self._readings[0][0]][1]
        if mine != digest and not self._lost and not self._differs:
            log.error("state differs from that of %s at %d: %s, here %s", host.name, position, digest, mine)
            self._give_up_state(f"the state differs from that of host {host.name}", now)

    def _give_up_state(self, why: str, now: float) -> None:
        """Leave, and take a snapshot behind that: up to its end a host may find batches of its own."""
        if not self.log.epoch:
            self._lose(why, now, rewound=False)
            return
        self._differs = why
        self.link.leave(self.place.generation, self.log.epoch)


def new_generation(before: str = "") -> str:
    """Return the name of a new log that follows the one called ``before``; see :func:`serial`."""
    return f"{serial(before) + 1:x}-{secrets.token_urlsafe(9)}"


def serial(generation: str) -> int:
    """Return the number of a log's generation: one that was rolled back may be an earlier one."""
    return int(generation.partition("-")[0] or "0", 16)


_encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
