"""What runs in one client process of the stress test of named clients: people who talk, move and are cut.

Every client acts at random and everything that it gets is held against the books of ``stress_people_check``
as it comes. Nothing is known here of the server's processes: a connection that the server ended is reported
with its own address, and the parent knows whether its worker was killed.
"""

import json
import random
import resource
import selectors
import signal
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from enum import Enum
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

from stress_people_check import (
    NEVER,
    Ask,
    Asked,
    Conversation,
    Heard,
    Holders,
    Ledger,
    Mailbox,
    Present,
    Sent,
    Span,
    Told,
    Wrong,
    write,
)

Address = tuple[str, int]

# Seconds between two looks at what is due, and between two reports.
TURN = 0.01
REPORT_EVERY = 0.5
# Bytes of one read, and what the system keeps for those clients that shall fall behind.
READ_SIZE = 64 << 10
TINY = 4096
# Connections on their way in at a time, of one process.
MOST_OPENING = 32
# Actions that are made up for after a pause, at most: no burst.
MOST_AT_ONCE = 50
# Strangers at a time who wait for the name of somebody who has gone for good.
HEIRS = 3
HEIR_EVERY = 0.5
# What an acting client does, and how often.
ACTIONS = {
    "say": 60,
    "tell": 14,
    "move": 8,
    "who": 5,
    "rooms": 1,
    "ping": 3,
    "deaf": 2,
    "thief": 3,
    "heir": 1,
}
# How a connection is cut, and how often. The last four are decided when it begins.
CUTS = {
    "reset": 20,
    "close": 20,
    "half a frame": 10,
    "behind a message": 10,
    "behind a room change": 10,
    "taken over": 5,
}
FATES = {"": 12, "behind the join": 3, "inside the join": 1, "in the past": 3}


def room_name(number: int) -> str:
    """Return what a room is called."""
    return "lobby" if number == 0 else f"방-{number}" if number % 4 == 1 else f"room-{number}"


class Plan(NamedTuple):
    """What one process is to do."""

    number: int
    address: Address
    run: str
    clients: int
    rooms: int
    rate: float  # actions a second
    cuts: int
    seconds: float
    hold: float  # seconds that the server keeps a name
    patience: float  # seconds for anything that the server owes to happen
    seed: int


class Tick(NamedTuple):
    """To the parent: how far it is."""

    heard: list[Heard]
    died: list[tuple[Address, str]]  # by their own addresses: ended by the server
    cuts: int
    here: int
    quiet: bool


class Census(NamedTuple):
    """To the parent: who is there by its own account, and who is in which room by the server's."""

    round: int
    present: list[Present]
    who: dict[str, set[str]]


class Report(NamedTuple):
    """To the parent, last."""

    wrong: Wrong
    counts: Counter[str]
    owed: list[Sent]
    last: Counter[tuple[str, str]]
    told: list[Told]
    got: dict[str, set[tuple[str, int]]]
    spans: dict[str, list[Span]]


class Role(Enum):
    """Whose a connection is."""

    OWN = "own"
    THIEF = "thief"
    HEIR = "heir"


class Line:
    """One connection: its socket, its conversation, and how it is meant to end."""

    def __init__(self, number: int, sock: socket.socket, role: Role, talk: Conversation) -> None:
        self.number = number
        self.sock = sock
        self.role = role
        self.talk = talk
        self.client: Client | None = None
        self.address: Address = ("", 0)
        self.out = b""
        self.carry = b""
        self.fate = ""
        self.connected = False
        self.closed = False
        self.shown = 0  # welcomes that were looked at
        self.name = ""
        self.asked_at = 0.0
        self.deadline = float("inf")

    @property
    def live(self) -> bool:
        return bool(self.talk.welcomes) and not self.talk.former and not self.closed


class Client:
    """Somebody: what it takes along from one connection to the next."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.token = ""
        self.room = ""
        self.epoch = ""
        self.seen: dict[str, int] = {}
        self.number = 0
        self.private = 0
        self.line: Line | None = None
        self.back_at = 0.0
        # When it surely had its name (seconds, monotonic).
        self.had_name = 0.0
        # It may have got another token that it has never seen, or have given its name away.
        self.unsure = False
        self.names = 0


class Heir:
    """Waits for the name of a guest who has gone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next = 0.0
        self.gone = False
        self.line: Line | None = None


class Crowd:
    """All clients of a process, and their loop."""

    def __init__(self, plan: Plan, pipe: "Pipe[Any, Any]") -> None:
        self.plan = plan
        self.pipe = pipe
        self.random = random.Random(f"{plan.seed}:{plan.number}")
        self.wrong = Wrong()
        self.ledger = Ledger(plan.run, self.wrong)
        self.mailbox = Mailbox(self.wrong)
        self.holders = Holders(self.wrong, plan.hold, plan.patience)
        self.counts: Counter[str] = Counter()
        self.selector = selectors.DefaultSelector()
        self.clients = [Client(self._name(number, 0)) for number in range(plan.clients)]
        self.lines: dict[int, Line] = {}
        self.heirs: list[Heir] = []
        self.died: list[tuple[Address, str]] = []
        self.deaf: list[tuple[float, Line]] = []
        self.acting = False
        self.cutting = False
        self.census = 0
        self.who: dict[str, set[str]] = {}
        self.asking: Line | None = None
        self.finishing = False
        self._lines = 0
        self._guests = 0
        self._since = self._acted = 0.0
        self._cut_since = 0.0
        self._next_report = 0.0

    def _name(self, number: int, again: int) -> str:
        kind = ("p", "Ü", "누", "p", "p")[number % 5]
        return f"{kind}{self.plan.number}-{number}" + (f".{again}" if again else "")

    def run(self) -> None:
        """Go on until the parent says finish, or is gone."""
        try:
            while not self.finishing:
                while self.pipe.poll():
                    self.command(*self.pipe.recv())
                for key, events in self.selector.select(TURN):
                    self._serve(key.data, events)
                now = time.monotonic()
                self._come_back(now)
                if self.acting:
                    self._act(now)
                self._look_after(now)
                if now >= self._next_report:
                    self._next_report = now + REPORT_EVERY
                    self._report()
            self._finish()
        finally:
            for line in self.lines.values():
                line.sock.close()
            self.selector.close()

    def command(self, verb: str, *args: Any) -> None:
        """Do what the parent asks for."""
        now = time.monotonic()
        if verb == "act":
            self.acting = self.cutting = True
            self._since = self._cut_since = now
        elif verb == "quiet":
            self.acting = self.cutting = False
            for heir in self.heirs:
                if heir.line is not None:
                    self._close(heir.line)
            self.heirs = []
        elif verb == "census":
            self.census = args[0]
            self._ask_who()
        elif verb == "finish":
            self.finishing = True

    # Connections.

    def _open(self, role: Role, who: str) -> Line | None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._lines % 3 == 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY)
        self._lines += 1
        talk = Conversation(f"{who}/{self._lines}", self.plan.run, self.ledger, self.mailbox, self.wrong)
        line = Line(self._lines, sock, role, talk)
        try:
            sock.connect(self.plan.address)
        except BlockingIOError:
            pass
        except OSError as error:
            self.counts[f"connect: {error.strerror}"] += 1
            sock.close()
            return None
        line.address = sock.getsockname()[:2]
        line.deadline = time.monotonic() + self.plan.patience
        self.lines[line.number] = line
        self.selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, line)
        return line

    def _come_back(self, now: float) -> None:
        """Let those come who are not there, not too many at a time."""
        opening = sum(not line.talk.welcomes for line in self.lines.values())
        for client in self.clients:
            if opening >= MOST_OPENING:
                return
            if client.line is None and now >= client.back_at:
                opening += self._connect(client, now)

    def _connect(self, client: Client, now: float) -> bool:
        line = self._open(Role.OWN, client.name)
        if line is None:
            client.back_at = now + 0.1
            return False
        line.client, client.line = client, line
        if client.token and self.cutting and self._cuts_due(now):
            line.fate = self.random.choices(list(FATES), list(FATES.values()))[0]
        stays = client.room and self.random.random() < 0.7
        room = client.room if stays else self._room()
        self._join(line, room, past=line.fate == "in the past")
        if line.fate == "inside the join":
            line.out = line.out[: self.random.randrange(1, len(line.out))]
            line.talk.asked.clear()
        elif not line.fate and self._owns(client, now) and self.random.random() < 0.3:
            self._say(line)  # right behind the join: where that is refused, it is said to the lobby
        return True

    def _room(self) -> str:
        return room_name(self.random.randrange(self.plan.rooms))

    def _join(self, line: Line, room: str, past: bool = False) -> None:
        """Ask to be in a room, with or without what was seen of it."""
        client = line.client
        assert client is not None
        join: dict[str, Any] = {"room": room}
        if not line.talk.welcomes or self.random.random() < 0.1:
            join["name"] = client.name
            if client.token:
                join["token"] = client.token
        seen, chance = client.seen.get(room), self.random.random()
        after, epoch = None, None
        if seen is not None and (past or chance < 0.9):
            after, epoch = seen, client.epoch
            if past or chance < 0.1:
                after = max(0, seen - self.random.randrange(400))
            if chance < 0.01:
                epoch = "of another server"
            join.update(after=after, epoch=epoch)
        client.room = line.name = room
        line.asked_at = time.monotonic()
        line.talk.asks(Asked(Ask.JOIN, room, after, epoch, client.number, at=line.asked_at))
        self._send(line, {"join": join})

    def _send(self, line: Line, what: dict[str, Any]) -> None:
        payload = json.dumps(what, ensure_ascii=False).encode()
        line.out += len(payload).to_bytes(2, "big") + payload
        if line.connected:
            self._flush(line)

    def _flush(self, line: Line) -> None:
        try:
            line.out = line.out[line.sock.send(line.out) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(line, error.strerror or "send")
            return
        self._watch(line)

    def _watch(self, line: Line, reading: bool = True) -> None:
        if line.closed:
            return
        events = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if line.out else 0)
        known = self.selector.get_map().get(line.sock)
        if known is None:
            if events:
                self.selector.register(line.sock, events, line)
        elif not events:
            self.selector.unregister(line.sock)
        elif known.events != events:
            self.selector.modify(line.sock, events, line)

    def _serve(self, line: Line, events: int) -> None:
        if line.closed:
            return
        if events & selectors.EVENT_WRITE:
            line.connected = True
            self._flush(line)
            if not line.out and line.fate in ("behind the join", "inside the join") and not line.closed:
                self._cut(line, line.fate)
        if events & selectors.EVENT_READ and not line.closed:
            self._read(line)

    def _read(self, line: Line) -> None:
        try:
            data = line.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(line, error.strerror or "read")
            return
        if not data:
            self._lost(line, "closed by the server")
            return
        data = line.carry + data
        at, now = 0, time.time()
        while len(data) - at >= 2 and len(data) - at - 2 >= (size := data[at] << 8 | data[at + 1]):
            got = json.loads(data[at + 2 : at + 2 + size])
            at += 2 + size
            line.talk.take(got, now)
            if line.talk.welcomes != line.shown or line.talk.refusal:
                self._answered(line)
            if line.closed:
                return
        line.carry = data[at:]
        if line.client is not None and line.talk.welcomes:
            client, talk = line.client, line.talk
            if line is client.line:
                client.seen[talk.room] = talk.position
            if line.fate == "in the past" and line is client.line:
                self._cut(line, line.fate)

    def _answered(self, line: Line) -> None:
        """A join was granted or refused."""
        now = time.monotonic()
        if line.role is not Role.OWN:
            self._stranger_answered(line, now)
            return
        client, talk = line.client, line.talk
        assert client is not None
        if talk.refusal and talk.former:  # a later connection was quicker
            talk.refusal = ""
            return
        if talk.refusal:
            self._own_refused(line, client, now)
            return
        line.shown = talk.welcomes
        if talk.former:
            return
        welcome = talk.welcome
        if client.epoch not in ("", welcome["epoch"]):
            self.wrong.note("strange", f"{talk.who}: the epoch is {welcome['epoch']}, it was {client.epoch}")
        client.token, client.epoch = welcome["token"], welcome["epoch"]
        if talk.welcomes == 1:
            self.counts["welcomes"] += 1
            self.holders.welcomed(client.name, line.number, talk.who, now, owner=True)
            client.unsure = False

    def _owns(self, client: Client, now: float) -> bool:
        """True for somebody whose name the server surely holds, and who knows the token."""
        return bool(client.token) and now - client.had_name < self.plan.hold / 2 and not client.unsure

    def _own_refused(self, line: Line, client: Client, now: float) -> None:
        code, line.talk.refusal = line.talk.refusal, ""
        if code != "name_taken":
            self.wrong.note("strange", f"{line.talk.who} was refused: {code}")
        elif not self._owns(client, now):  # the server let it in and it never heard; or it came too late
            self.counts["renamed"] += 1
            client.names += 1
            client.unsure = False
            client.name, client.token = self._name(self.clients.index(client), client.names), ""
        else:
            self.holders.refused(client.name, line.talk.who, now, owner=True, since=line.asked_at)
        self._close(line)
        self._away(client, now + 0.2)

    def _lost(self, line: Line, why: str) -> None:
        """The server has ended a connection."""
        client = line.client
        own = client is not None and client.line is line
        if client is not None and own:
            self._be_unsure(line, client)
        if own or line.role is not Role.OWN:  # else it was to be ended, or has ended itself
            self.died.append((line.address, f"{line.talk.who}: {why}"))
        self._close(line)
        if client is not None and own:
            self._away(client, 0.0)

    def _close(self, line: Line, reset: bool = False) -> None:
        if line.closed:
            return
        line.closed = True
        with suppress(KeyError, ValueError):
            self.selector.unregister(line.sock)
        if reset:
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.sock.close()
        del self.lines[line.number]
        line.talk.ended()
        if line.talk.name:
            self.holders.gone(line.talk.name, line.number, time.monotonic())
        for name in ("deliveries", "privates", "recovered", "gaps"):
            self.counts[name] += getattr(line.talk, name)

    def _away(self, client: Client, back_at: float) -> None:
        now = time.monotonic()
        if client.line is not None and client.line.talk.welcomes:
            client.had_name = now
        client.line = None
        client.back_at = back_at or now + (0.0 if self.random.random() < 0.7 else self.random.random())

    # Cuts.

    def _cuts_due(self, now: float) -> bool:
        due = (now - self._cut_since) / self.plan.seconds * self.plan.cuts
        return self.counts["cuts"] < min(due, self.plan.cuts)

    def _cut(self, line: Line, how: str) -> None:
        """End a client's connection in some way; it will be back."""
        client = line.client
        assert client is not None
        self.counts["cuts"] += 1
        self.counts[f"cut: {how}"] += 1
        if how == "half a frame":
            whole = write(self.plan.run, client.room, client.name, NEVER, self.random.randrange(400))
            frame = json.dumps({"message": whole}).encode()
            frame = len(frame).to_bytes(2, "big") + frame
            self._push(line, frame[: self.random.randrange(1, len(frame))])
        elif how == "behind a message":
            for _ in range(self.random.randrange(1, 4)):
                self._say(line)
        elif how == "behind a room change":
            self._join(line, self._room())
        if line.closed:
            return
        self._be_unsure(line, client)
        if how == "taken over":
            line.talk.give_up()
            # That it is still there is for the holders to find.
            line.deadline = time.monotonic() + 2 * self.plan.patience
            client.line = None
            self._connect(client, time.monotonic())
            return
        if how != "close" and self.random.random() < 0.5:
            self._close(line, reset=True)
        else:
            with suppress(OSError):
                line.sock.shutdown(socket.SHUT_WR)
            line.out = b""
            line.talk.give_up()
            client.unsure = True
            self.holders.freed(client.name)
            line.deadline = time.monotonic() + self.plan.patience
            self._watch(line)
        self._away(client, 0.0)

    @staticmethod
    def _be_unsure(line: Line, client: Client) -> None:
        """Note that a join may be granted of which the client will never hear."""
        if any(each.kind is Ask.JOIN for each in line.talk.asked):
            client.unsure = True

    def _push(self, line: Line, data: bytes) -> None:
        line.out += data
        self._flush(line)

    # What clients do.

    def _act(self, now: float) -> None:
        due = min(int((now - self._since) * self.plan.rate - self._acted), MOST_AT_ONCE)
        if due == MOST_AT_ONCE:
            self._since, self._acted = now, 0
        else:
            self._acted += due
        live = [each for each in self.clients if each.line is not None and each.line.live]
        if not live:
            return
        for _ in range(due):
            client = self.random.choice(live)
            line = client.line
            if line is not None and line.live and not line.out:
                action = self.random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
                self.counts[action] += 1
                getattr(self, f"_{action}")(line)
        for _ in range(MOST_AT_ONCE):
            if not self._cuts_due(now):
                return
            line = self.random.choice(live).line
            if line is not None and line.live:
                self._cut(line, self.random.choices(list(CUTS), list(CUTS.values()))[0])

    def _say(self, line: Line) -> None:
        client = line.client
        assert client is not None
        text = write(self.plan.run, client.room, client.name, client.number, self.random.randrange(400))
        line.talk.says(client.number)
        client.number += 1
        self.counts["said"] += 1
        self._send(line, {"message": text})

    def _tell(self, line: Line) -> None:
        client, to = line.client, self.random.choice(self.clients).name
        assert client is not None
        text = write(self.plan.run, f">{to}", client.name, client.private)
        line.talk.asks(Asked(Ask.TELL, number=client.private, to=to))
        client.private += 1
        self._send(line, {"message": text, "to": to})

    def _move(self, line: Line) -> None:
        self._join(line, self._room())
        if self.random.random() < 0.3:
            self._say(line)

    def _who(self, line: Line) -> None:
        line.talk.found.clear()
        room = line.name if self.random.random() < 0.6 else self._room()
        line.talk.asks(Asked(Ask.WHO, room))
        self._send(line, {"who": {"room": room} if room != line.name else {}})

    def _rooms(self, line: Line) -> None:
        line.talk.asks(Asked(Ask.ROOMS))
        self._send(line, {"rooms": {}})

    def _ping(self, line: Line) -> None:
        number = self.random.randrange(1 << 30)
        line.talk.pings.append(number)
        self._send(line, {"ping": number})

    def _deaf(self, line: Line) -> None:
        """Read nothing for a while."""
        self.deaf.append((time.monotonic() + self.random.random(), line))
        self._watch(line, reading=False)

    def _thief(self, line: Line) -> None:
        """Somebody tries to be somebody else."""
        client = line.client
        assert client is not None
        thief = self._open(Role.THIEF, "thief")
        if thief is not None:
            thief.name = client.name
            tricks: list[dict[str, Any]] = [
                {},
                {"token": "x" * 16},
                {"token": ""},
                {"after": 0, "epoch": client.epoch, "room": client.room},
            ]
            name = client.name.swapcase() if self.random.random() < 0.5 else client.name
            self._ask_for(thief, {"name": name, **self.random.choice(tricks)})

    def _heir(self, line: Line) -> None:
        """A guest comes and goes; somebody waits for the name."""
        if len(self.heirs) < HEIRS:
            self._guests += 1
            heir = Heir(f"guest{self.plan.number}.{self._guests}")
            self.heirs.append(heir)

    def _ask_for(self, line: Line, join: dict[str, Any]) -> None:
        room = join.setdefault("room", "lobby")
        line.asked_at = time.monotonic()
        line.talk.asks(Asked(Ask.JOIN, room, join.get("after"), join.get("epoch")))
        self._send(line, {"join": join})

    def _stranger_answered(self, line: Line, now: float) -> None:
        code, talk = line.talk.refusal, line.talk
        if not code:
            self.counts["strangers let in"] += 1
            self.holders.welcomed(line.name, line.number, talk.who, now, owner=False)
        elif code == "name_taken":
            self.counts["name_taken"] += 1
            self.holders.refused(line.name, talk.who, now, owner=False, since=line.asked_at)
        else:
            self.wrong.note("strange", f"{talk.who} was refused: {code}")
        heir = next((each for each in self.heirs if each.line is line), None)
        if heir is not None:
            heir.line = None
            heir.next = now + HEIR_EVERY
            if not code and heir.gone:
                self.counts["inherited"] += 1
                self.heirs.remove(heir)
            heir.gone = heir.gone or not code
        talk.refusal = ""
        line.shown = talk.welcomes
        self._close(line, reset=True)  # in order, it would give the name away
        if not code:
            self.holders.gone(line.name, line.number, now)

    # What is looked after.

    def _look_after(self, now: float) -> None:
        for until, line in [each for each in self.deaf if now >= each[0]]:
            self.deaf.remove((until, line))
            self._watch(line)
        for heir in self.heirs:
            if heir.line is None and now >= heir.next:
                heir.line = self._open(Role.HEIR, "heir")
                if heir.line is not None:
                    heir.line.name = heir.name
                    self._ask_for(heir.line, {"name": heir.name})
            elif heir.line is not None and heir.line.closed:
                heir.line, heir.next = None, now + HEIR_EVERY
        self._hear_who()
        self.holders.overdue(now)
        for line in list(self.lines.values()):
            if not line.live and now > line.deadline:
                what = "its end" if line.talk.former else "an answer to its join"
                self.wrong.note("hung", f"{line.talk.who} waited {self.plan.patience:.0f} s for {what}")
                self._close(line, reset=True)
                if line.client is not None and line.client.line is line:
                    self._away(line.client, 0.0)

    # The end.

    def _report(self) -> None:
        here = sum(client.line is not None and client.line.live for client in self.clients)
        quiet = self._is_quiet()
        self.pipe.send(Tick(self.ledger.take_fresh(), self.died, self.counts["cuts"], here, quiet))
        self.died = []

    def _is_quiet(self) -> bool:
        """True when everybody is there and nobody waits for anything."""
        lines = [client.line for client in self.clients]
        all_quiet = all(line is not None and line.live and line.talk.quiet for line in lines)
        return all_quiet and len(self.lines) == len(self.clients) and not self.deaf

    def _ask_who(self) -> None:
        """Ask who is in every room."""
        self.who = {}
        self.asking = next((each.line for each in self.clients if each.line and each.line.live), None)
        if self.asking is not None:
            self.asking.talk.found.clear()
            for number in range(self.plan.rooms):
                self._ask_page(self.asking, room_name(number), "")

    def _ask_page(self, line: Line, room: str, after: str) -> None:
        line.talk.asks(Asked(Ask.WHO, room, to=after))
        self._send(line, {"who": {"room": room, **({"after": after} if after else {})}})

    def _hear_who(self) -> None:
        """Take the pages that have come; when there are no more, tell the parent."""
        line = self.asking
        if line is None:
            return
        if line.closed:
            self._ask_who()
            return
        found, line.talk.found = line.talk.found, []
        for page in found:
            self.who.setdefault(page["room"], set()).update(page["names"])
            if page["next"] is not None:
                self._ask_page(line, page["room"], page["next"])
        if line.talk.asked:
            return
        self.asking = None
        present = []
        for client in self.clients:
            if client.line is not None and client.line.live:
                talk = client.line.talk
                present.append(Present(client.name, talk.room, talk.position, talk.members))
        self.pipe.send(Census(self.census, present, self.who))

    def _finish(self) -> None:
        for line in list(self.lines.values()):
            if line.live:
                line.talk.balance_up()
            self._close(line)
        self._report()
        self.pipe.send(
            Report(
                self.wrong,
                self.counts,
                self.ledger.owed,
                self.ledger.last,
                self.mailbox.told,
                self.mailbox.got,
                self.mailbox.spans,
            )
        )


def serve(plan: Plan, pipe: "Pipe[Any, Any]") -> None:
    """Run one crowd in this process, until told to finish or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone: nobody to tell
        Crowd(plan, pipe).run()
