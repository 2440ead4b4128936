"""Entries of every kind at random, from a seed, that fit a state: an endless day in a small, busy chat."""

import random
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import NamedTuple

import msgspec

from mpchat.auth.grant import Grant, Identity
from mpchat.auth.lookalikes import looks
from mpchat.hub.effects import Effect
from mpchat.hub.entries import (
    Announced,
    Arrived,
    Asked,
    ClockStepped,
    Configured,
    CutOff,
    Denied,
    Entry,
    Gone,
    HostBeat,
    Kicked,
    Left,
    Lifted,
    Moderated,
    NoticesDue,
    Posted,
    Returned,
    RoomClosed,
    RoomHeld,
    Sender,
    Spoken,
    Swept,
    Told,
    WorkerDied,
)
from mpchat.hub.hosts import HostInfo, encode_info, global_identity, host_of
from mpchat.hub.limits import Kept, Limits
from mpchat.hub.state import HubState
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import CloseRoom, Join, ListRooms, ReadHistory, Request, Target, Who

NAMES = [
    "앨리스",
    "밥",
    "철수",
    "영희",
    *"가나다라마바사아자차카타파하",
    "alice",
    "ALICE",
    "al1ce",
    "bob",
    "b0b",
    "틀린 이름",
]
ROOMS = ["방", "방-2", "비밀", "x", "X", "lobby", "room with space"]
HOSTS = ["192.0.2.1", "192.0.2.2", "198.51.100.7", "2001:db8::1"]
TEXTS = ["안녕", "네", "hello", "긴 글 " * 40]
PATTERNS = [None, None, ("*",), ("*",), ("방*",), ("lobby", "비밀"), ()]
EPOCHS = ["시대", "earlier", "unknown"]
REASONS = ["closed", "lost", "lost", "slow consumer", "kicked"]


def limits(rng: random.Random) -> Limits:
    """Return limits that a few clients run into."""
    kept = Kept(rng.choice([3, 10, 30]), rng.choice([1500, 4000, 1 << 20]), rng.choice([0.0, 5.0, 40.0]))
    return Limits(
        rooms=rng.choice([3, 6, 10]),
        rooms_per_address=rng.choice([0, 1, 2]),
        members=rng.choice([0, 0, 2, 3]),
        name_hold=rng.choice([0.0, 3.0, 60.0, 60.0]),
        kept=kept,
        lag=1 << 20,
        answers=1 << 30,
        auth=rng.choice(["open", "open", "open", "names", "closed"]),
        proofs=("password", "jwt"),
    )


class Placed(NamedTuple):
    """An entry, and its host and batch; 0 and 0: there is only one host, or it is the log's own."""

    entry: Entry
    host: int
    batch: int


def put(state: HubState, placed: Placed) -> list[Effect]:
    """Apply an entry as a batch of its own; return its effects."""
    effects = state.apply(placed.entry, placed.host)
    state.hosts.note(placed.batch, b"%d" % placed.batch)
    if placed.host:
        state.hosts.count(placed.host, placed.batch, 100 * placed.batch, 1.0 * placed.batch)
    return effects


class AnyEntries:
    """Makes one entry after the other; it looks into the state for what is there.

    With ``shared`` they are those of several hosts, which come and go.
    """

    def __init__(self, seed: int, state: HubState, *, shared: bool = False) -> None:
        self.rng = random.Random(seed)
        self.state = state
        self.shared = shared
        # The host whose entry is made, the hosts that there were, and the batches.
        self.host = 0
        self.epochs = 0
        self.batches = 0
        self.now = 1000.0
        self.offset = 1.7e9
        self.identities = 0
        self.asked = 0

    @property
    def at(self) -> float:
        return self.now + self.offset

    def __iter__(self) -> Iterator[Placed]:
        makers: list[tuple[int, Callable[[], Entry]]] = [
            (30, self.posted),
            (40, self.join),
            (8, self.question),
            (8, self.list_rooms),
            (8, self.left),
            (2, self.cut_off),
            (1, self.worker_died),
            (2, self.announced),
            (3, self.spoken),
            (2, self.told),
            (4, self.moderated),
            (3, self.lifted),
            (2, self.room_closed),
            (2, self.configured),
            (1, self.clock_stepped),
            (12, self.notices_due),
            (12, self.swept),
        ]
        if self.shared:
            makers += [
                (2, self.arrived),
                (2, self.gone),
                (12, self.host_beat),
                (20, self.returned),
                (6, self.room_held),
                (1, self.kicked),
            ]
        weights = [weight for weight, _ in makers]
        while True:
            self.now += self.rng.choice([0.0, 0.0, 0.01, 0.05, 0.2, 1.0, 1.0, 4.0])
            if self.shared:
                self.host = self.rng.choice(list(self.state.hosts.by_epoch) or [0])
            self.batches += 1
            make = self.rng.choices(makers, weights)[0][1]
            entry = self.arrived() if self.shared and not self.host else make()
            of_the_log = isinstance(entry, Arrived | Gone)
            yield (
                Placed(entry, 0, 0) if of_the_log or not self.host else Placed(entry, self.host, self.batches)
            )

    def here(self, identities: Iterable[int]) -> list[int]:
        """Return those of the host whose entry is made, as it knows them itself."""
        base = global_identity(self.host, 0)
        return [each - base for each in identities if host_of(each) == self.host]

    def some(self, *, ending: bool = True) -> int:
        """Return the identity of a connection of the host, nearly always of one that is there."""
        members = self.state.members
        known: list[int] = [*members.by_identity, *(members.ending if ending else ())]
        if self.rng.random() < 0.7:
            known = [each for each in known if each in members.by_identity and members.by_identity[each].name]
        there = self.here(known)
        if there and self.rng.random() < 0.95:
            return self.rng.choice(there)
        return self.rng.randint(1, self.identities + 1)

    def address(self, identity: int) -> str:
        return f"{HOSTS[identity % len(HOSTS)]}:{identity}"

    def posted(self) -> Posted:
        runs: list[tuple[Sender, int, int]] = []
        parts = []
        plain = self.rng.random() < 0.2
        for _ in range(self.rng.randint(1, 3)):
            texts = self.rng.choices(TEXTS, k=self.rng.randint(1, 4))
            frames = b"".join(map(message_frame, texts))
            speaker: Sender = self.some()
            if plain or self.rng.random() < 0.2:
                speaker = f"203.0.113.9:{self.rng.randint(1, 3)}"
            runs.append((speaker, len(texts), len(frames)))
            parts.append(frames)
        return Posted(self.now, self.at, runs, b"".join(parts))

    def join(self) -> Asked:
        rng = self.rng
        name: str | None = rng.choice(NAMES)
        if rng.random() < 0.6:
            self.identities += 1
            identity = self.identities
        else:
            identity = self.some(ending=False)
            member = self.state.members.by_identity.get(global_identity(self.host, identity))
            if member is not None and member.claim is not None:
                name = rng.choice([None, None, name])
        claim = self.state.members.claims.get(name or "")
        known = [claim.token, claim.token, claim.before, claim.before] if claim is not None else []
        shown = rng.choice([None, "틀린 열쇠", *known])
        room = rng.choice([None, None, *ROOMS])
        epoch = self.epoch()
        wanted = Join(name=name, room=room, token=shown, after=rng.choice([None, 0, 3, 12]), epoch=epoch)
        return self.proven(self.ask(identity, Request(join=wanted)), name)

    def epoch(self) -> str:
        return self.rng.choice(list(dict.fromkeys([self.state.members.past.epoch, *EPOCHS])))

    def proven(self, asked: Asked, name: str | None) -> Asked:
        """Let a check have had an outcome, or none."""
        rng = self.rng
        chance = rng.random()
        if name is None or chance < 0.5:
            return asked
        if chance < 0.55:
            return _with(asked, denied=Denied("bad_credentials", "틀렸습니다", ("jwt",)))
        grant = None
        if chance < 0.9:
            ends = rng.choice([None, None, self.at + rng.choice([-1.0, 2.0, 9.0, 50.0])])
            role = rng.choice(["member", "operator"])
            grant = Grant(rng.choice([name, name, ""]), role, rng.choice(PATTERNS), ends)
        began = rng.choice([None, None, self.now - 0.5, self.now - 11.0])
        return _with(asked, identified=Identity(name, grant, looks(name)), began=began)

    def ask(self, identity: int, request: Request) -> Asked:
        self.asked += 1
        token = f"열쇠 {self.asked}"
        return Asked(self.now, self.at, identity, self.address(identity), request, token)

    def question(self) -> Asked:
        rng = self.rng
        requests = [
            Request(who=Who(room=rng.choice([None, *ROOMS]))),
            Request(rooms=ListRooms()),
            Request(history=ReadHistory(rng.choice([None, 5, 20]), rng.choice([None, 3]))),
            Request(message="쉿", to=rng.choice(NAMES)),
            Request(kick=Target(rng.choice(NAMES))),
            Request(close=CloseRoom(rng.choice(ROOMS))),
        ]
        return self.ask(self.some(), rng.choice(requests))

    def list_rooms(self) -> Asked:
        """Let a member ask whose token is for some rooms only, if there is one."""
        members = self.state.members.by_identity.values()
        some = self.here(each.identity for each in members if each.grant is not None and each.grant.rooms)
        return self.ask(self.rng.choice(some) if some else self.some(), Request(rooms=ListRooms()))

    def left(self) -> Left:
        clients: list[str | tuple[int, str, str]] = []
        for _ in range(self.rng.randint(1, 2)):
            identity = self.some()
            client = (identity, self.address(identity), self.rng.choice(REASONS))
            clients.append(client if self.rng.random() < 0.8 else f"203.0.113.9:{identity}")
        return Left(self.now, clients)

    def cut_off(self) -> CutOff:
        return CutOff(self.now, self.some(), "slow consumer")

    def worker_died(self) -> WorkerDied:
        there = self.here(self.state.members.by_identity)
        identities = [each for each in there if self.rng.random() < 0.3]
        return WorkerDied(self.now, identities, self.rng.randint(0, 9))

    def announced(self) -> Announced:
        return Announced(self.now, self.at, message_frame("공지"))

    def spoken(self) -> Spoken:
        room = self.rng.choice([0, 99, *self.state.rooms.by_number])
        return Spoken(self.now, self.at, "알림", room, message_frame(self.rng.choice(TEXTS)))

    def told(self) -> Told:
        return Told(self.now, self.at, "알림", self.rng.choice(NAMES), "쉿")

    def moderated(self) -> Moderated:
        target = self.rng.choice(NAMES)
        until = self.rng.choice([None, self.at + 3.0, self.at + 30.0])
        return Moderated(self.rng.choice(["bans", "mutes", "mutes"]), target.lower(), target, until)

    def lifted(self) -> Lifted:
        return Lifted(self.rng.choice(["bans", "mutes"]), self.rng.choice(NAMES).lower())

    def room_closed(self) -> RoomClosed:
        return RoomClosed(self.now, self.at, self.rng.choice(list(self.state.rooms.by_number)))

    def configured(self) -> Configured:
        return Configured(limits(self.rng), self.rng.random() < 0.8, self.now)

    def clock_stepped(self) -> ClockStepped:
        by = self.rng.choice([-3600.0, 5.0, 3600.0])
        self.offset += by
        return ClockStepped(by)

    def notices_due(self) -> NoticesDue:
        return NoticesDue(self.now)

    def swept(self) -> Swept:
        return Swept(self.now, self.at, self.renewing())

    def renewing(self) -> tuple[int, ...]:
        there = self.here(self.state.members.by_identity)
        return tuple(each for each in there if self.rng.random() < 0.1)

    # Of several hosts.

    def arrived(self) -> Arrived:
        self.epochs += 1
        info = HostInfo(name=f"서버-{self.epochs}", version=self.rng.choice([1, 2]), release="0.2.0")
        return Arrived(self.now, self.at, self.epochs, encode_info(info))

    def gone(self) -> Gone:
        return Gone(self.now, self.at, self.rng.choice(list(self.state.hosts.by_epoch)))

    def host_beat(self) -> HostBeat:
        clients, speakers = self.rng.randint(0, 9), self.rng.choice([0, 1, 9])
        return HostBeat(self.now, self.at, self.batches, b"digest", clients, speakers, self.renewing())

    def returned(self) -> Returned:
        """Let a member return, nearly always one whose name is held for it."""
        rng, state = self.rng, self.state
        self.identities += 2  # the next one may have asked something already
        self.asked += 1
        name = rng.choice(NAMES)
        claims = [claim for claim in map(state.members.claims.get, NAMES) if claim is not None]
        held = [claim for claim in claims if claim.identity is None]
        token = f"열쇠 {self.asked}"
        if claims and rng.random() < 0.9:
            claim = rng.choice(held or claims)
            name, token = claim.name, rng.choice([claim.token, claim.token, claim.before])
        room = state.rooms.get(wanted := rng.choice([*ROOMS, *state.rooms.names]))
        number, seq = (room.number, room.seq) if room is not None else (0, 0)
        identified = self.proven(self.ask(self.identities, Request()), name).identified
        return Returned(
            self.now,
            self.at,
            self.identities,
            self.address(self.identities),
            name,
            token,
            f"새 열쇠 {self.asked}",
            wanted,
            rng.choice([number, number, 0]),
            max(0, seq + rng.choice([-5, -1, 0, 0, 3])),
            self.epoch(),
            identified,
            since=self.now if self.asked % 2 else inf,
        )

    def room_held(self) -> RoomHeld:
        return RoomHeld(self.rng.choice([*self.state.rooms.by_number, 99]), self.rng.random() < 0.5)

    def kicked(self) -> Kicked:
        return Kicked(self.rng.choice([*NAMES, *HOSTS]))


def _with(asked: Asked, **fields: object) -> Asked:
    return msgspec.structs.replace(asked, **fields)
