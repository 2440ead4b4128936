"""What named clients must see, and what is wrong with what they saw. Pure: objects and times are given.

Four books, each of which can find what the others cannot. :class:`Conversation` is one connection: numbers
without a gap or repeat, answers in the order of what was asked, the members that it was told of.
:class:`Ledger` is what all connections heard: one message under one number, each sender's in its own order.
:class:`Mailbox` is who told whom what in private, :class:`Holders` who has which name. :func:`census` holds
the quiet end against what the server says of it.

Written apart from ``mpchat.protocol`` on purpose, like ``stress_frames``. A test message is
``RUN|ROOM|NAME|NUMBER|PAD`` in a room, ``RUN|>TO|NAME|NUMBER|PAD`` in private, NUMBER counted by its sender.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

# What can be wrong, by name.
KINDS = (
    "lost",  # a message that should have come and did not
    "doubled",  # one that came twice
    "reordered",  # numbers, or a sender's own counts, that do not go up
    "differing",  # two messages under one number
    "strange",  # what nobody had sent, or what nobody had asked for
    "names",  # two with one name, or a name refused that nobody has
    "members",  # who is there, told wrongly
    "private",  # a private message that went astray, came twice or not at all
    "hung",  # what did not happen in time
)
# Findings that are written out; the rest are only counted.
MAX_EXAMPLES = 40
# Names of a notice; the rest is counted.
NAMED = 8
# History up to this size (bytes) is at once followed by what is live. Past it, who leaves in the middle of
# the past never gets what was said after it.
AT_ONCE = 24 << 10
# What stands in the place of a number in messages that are never sent whole.
NEVER = -1

Object = dict[str, Any]


@dataclass
class Wrong:
    """The count of each kind of fault, and the first ones in words."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, kind: str, text: str) -> None:
        assert kind in KINDS
        self.counts[kind] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{kind}: {text}")

    def add(self, other: "Wrong") -> None:
        self.counts += other.counts
        self.examples += other.examples[: MAX_EXAMPLES - len(self.examples)]


class Sent(NamedTuple):
    """What a test message says of itself; ``number`` may be :data:`NEVER`."""

    room: str
    name: str
    number: int


def write(run: str, room: str, name: str, number: int, pad: int = 0) -> str:
    """Return the text of a test message."""
    return f"{run}|{room}|{name}|{number}|{'x' * pad}"


def read(run: str, text: object) -> Sent | None:
    """Return what a text says, or None when it is no test message of this run."""
    fields = text.split("|", 4) if isinstance(text, str) else []
    if len(fields) != 5 or fields[0] != run:
        return None
    try:
        return Sent(fields[1], fields[2], int(fields[3]))
    except ValueError:
        return None


class Said(NamedTuple):
    """A message of a room: what must be the same for everybody."""

    sender: str
    text: str
    at: float

    def __str__(self) -> str:
        return f"{self.sender!r}: {self.text[:40]!r}"


class Heard(NamedTuple):
    """A message and its place."""

    epoch: str
    room: str
    seq: int
    said: Said

    def __str__(self) -> str:
        return f"{self.seq} in {self.room}, {self.said}"


class Ledger:
    """What was said in every room, as far as somebody has heard it."""

    def __init__(self, run: str, wrong: Wrong, *, looking: bool = True) -> None:
        """``looking``: whether what is heard has to be looked at; else somebody has done that."""
        self.run = run
        self.wrong = wrong
        self.looking = looking
        self.rooms: dict[tuple[str, str], dict[int, Said]] = {}
        # The highest number that a welcome or a message has named.
        self.last: Counter[tuple[str, str]] = Counter()
        # What somebody said right before leaving the past of a room, and need not have seen come back itself.
        self.owed: list[Sent] = []
        self._fresh: list[Heard] = []

    def __len__(self) -> int:
        return sum(map(len, self.rooms.values()))

    def heard(self, who: str, heard: Heard) -> None:
        """Somebody got a message: it must be what everybody else got under this number."""
        room = self.rooms.setdefault((heard.epoch, heard.room), {})
        known = room.get(heard.seq)
        if known is None:
            room[heard.seq] = heard.said
            self._fresh.append(heard)
            self.reached(heard.epoch, heard.room, heard.seq)
            if self.looking:
                self._look(who, heard)
        elif known != heard.said:
            self.wrong.note("differing", f"{who} got {heard}; others {known}, at {known.at}")

    def _look(self, who: str, heard: Heard) -> None:
        test = read(self.run, heard.said.text)
        if test is None or test.number == NEVER or (test.room, test.name) != (heard.room, heard.said.sender):
            self.wrong.note("strange", f"{who} got {heard}")

    def reached(self, epoch: str, room: str, seq: int) -> None:
        """A room has got to this number."""
        if seq > self.last[epoch, room]:
            self.last[epoch, room] = seq

    def take_fresh(self) -> list[Heard]:
        """Return what was first heard since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def judge(self) -> None:
        """Hold the order of every room against what its senders counted. At the end, once."""
        seen: set[tuple[str, int]] = set()
        for (_, name), room in self.rooms.items():
            last: dict[str, int] = {}
            for seq in sorted(room):
                test = read(self.run, room[seq].text)
                if test is None or test.number == NEVER:
                    continue
                if (test.name, test.number) in seen:
                    self.wrong.note("doubled", f"{name} {seq}: {test.name}'s {test.number} again")
                elif test.number < last.get(test.name, -1):
                    self.wrong.note(
                        "reordered",
                        f"{name} {seq}: {test.name}'s {test.number} after its {last[test.name]}",
                    )
                seen.add((test.name, test.number))
                last[test.name] = max(test.number, last.get(test.name, -1))
        self._judge_owed(seen)

    def _judge_owed(self, seen: set[tuple[str, int]]) -> None:
        missing: dict[str, list[Sent]] = {}
        for test in self.owed:
            if (test.name, test.number) not in seen:
                missing.setdefault(test.room, []).append(test)
        for room, tests in missing.items():
            # Nobody may have been there to hear it; then there is a number that nobody has heard of.
            unheard = sum(
                last - len(self.rooms.get(key, {})) for key, last in self.last.items() if key[1] == room
            )
            for test in tests[unheard:]:
                self.wrong.note("lost", f"nobody in {room} got {test.name}'s {test.number}")


class Told(NamedTuple):
    """A private message that its sender got back."""

    sender: str
    number: int
    to: str
    at: float


class Span(NamedTuple):
    """A connection: since when it was surely somebody's, and up to when it surely had all that was for it
    alone; seconds since 1970."""

    begin: float
    end: float


class Mailbox:
    """Private messages of all clients of a process, and what is needed to tell which are missing."""

    def __init__(self, wrong: Wrong) -> None:
        self.wrong = wrong
        self.told: list[Told] = []
        self.spans: dict[str, list[Span]] = {}
        self.got: dict[str, set[tuple[str, int]]] = {}
        self._confirmed: set[tuple[str, int]] = set()

    def came(self, who: str, name: str, sender: str, number: int) -> None:
        """``name`` got one from ``sender``: once and never again."""
        got = self.got.setdefault(name, set())
        if (sender, number) in got:
            self.wrong.note("private", f"{who} got {sender}'s {number} twice")
        got.add((sender, number))

    def came_back(self, who: str, told: Told) -> None:
        """Somebody got its own one back."""
        if (told.sender, told.number) in self._confirmed:
            self.wrong.note("private", f"{who} got its own {told.number} back twice")
        self._confirmed.add((told.sender, told.number))
        self.told.append(told)

    def judge(self) -> None:
        """Find those that came back to their sender, and not to who was surely there to get them."""
        for told in self.told:
            if (told.sender, told.number) in self.got.get(told.to, ()):
                continue
            # Times are rounded to milliseconds.
            if any(
                begin < told.at - 0.002 < told.at + 0.002 < end for begin, end in self.spans.get(told.to, ())
            ):
                self.wrong.note("private", f"{told.to} did not get {told.sender}'s {told.number}")


class Holders:
    """Who has which name, as its clients know it."""

    def __init__(self, wrong: Wrong, hold: float, patience: float) -> None:
        """``hold``: seconds that the server keeps a name for its owner; ``patience``: seconds after which
        what should have happened has not."""
        self.wrong = wrong
        self.hold = hold
        self.patience = patience
        self._here: dict[str, dict[int, str]] = {}
        # When a name was last somebody's.
        self._left: dict[str, float] = {}
        # Those whose owner has closed the connection in order: they may be free.
        self._freed: set[str] = set()
        self._to_end: dict[int, tuple[float, str]] = {}

    def welcomed(self, name: str, number: int, who: str, now: float, *, owner: bool) -> None:
        """A connection was let in under a name; those that had it before have to be ended."""
        here = self._here.setdefault(name, {})
        if owner:
            self._freed.discard(name)
        # A client learns later than the server that its worker was killed.
        if not owner and self.held(name, now + self.hold / 2) and name not in self._freed:
            self.wrong.note("names", f"{who} was let in as {name}, who is somebody else")
        for other, which in here.items():
            if other != number:
                self._to_end.setdefault(other, (now, f"{which}, after {who} had come as {name}"))
        here[number] = who

    def freed(self, name: str) -> None:
        """The owner has closed the connection in order."""
        self._freed.add(name)

    def gone(self, name: str, number: int, now: float) -> None:
        """A connection has ended, whoever ended it."""
        here = self._here.get(name, {})
        if here.pop(number, None) is not None:
            self._left[name] = now
        self._to_end.pop(number, None)

    def held(self, name: str, now: float) -> bool:
        """True while a name is somebody's: someone is here with it, or was until a moment ago."""
        return bool(self._here.get(name)) or now < self._left.get(name, float("-inf")) + self.hold

    def refused(self, name: str, who: str, now: float, *, owner: bool, since: float) -> None:
        """``name_taken``: somebody must have it, and not the one who proves that the name is its own.
        ``since``: when it was asked for."""
        if owner:
            self.wrong.note("names", f"{who} was refused its own name {name}")
        elif not self.held(name, since - self.patience):
            self.wrong.note("names", f"{who} was refused {name}, which nobody has")

    def overdue(self, now: float) -> None:
        """Find connections that were taken over and are still there."""
        for number, (since, which) in list(self._to_end.items()):
            if now - since > self.patience:
                del self._to_end[number]
                self.wrong.note("names", f"still there: {which}")

    @property
    def waiting(self) -> bool:
        return bool(self._to_end)


class Ask(Enum):
    """What is answered in the order of asking."""

    JOIN = "join"
    TELL = "private"
    WHO = "who"
    ROOMS = "rooms"


class Asked(NamedTuple):
    """A question that waits for its answer."""

    kind: Ask
    room: str = ""
    after: int | None = None
    epoch: str | None = None
    number: int = 0
    to: str = ""
    at: float = 0.0


class Conversation:
    """One connection. What is sent is noted before what comes is taken."""

    def __init__(self, who: str, run: str, ledger: Ledger, mailbox: Mailbox, wrong: Wrong) -> None:
        self.who = who
        self.run = run
        self.ledger = ledger
        self.mailbox = mailbox
        self.wrong = wrong
        self.name = ""
        self.room = ""
        self.welcome: Object = {}
        self.welcomes = 0
        self.refusal = ""
        self.recovered = self.gaps = 0
        self.deliveries = 0
        self.privates = 0
        # Nobody acts on it any more; it only reads to its end.
        self.former = False
        self.asked: deque[Asked] = deque()
        self.pings: deque[int] = deque()
        # Own messages that have not come back.
        self.unseen: deque[int] = deque()
        self.found: list[Object] = []
        # The next message's number; None: whatever comes first, after a join that did not say.
        self.next: int | None = None
        self.size = 0
        self.members = 0
        self._at_once = True
        # Members by who came and went since the first notice after the welcome, and by the last notice.
        self._balance: int | None = None
        self._told: int | None = None
        self._begin = self._end = 0.0
        self._last_private: dict[str, int] = {}

    # What is sent.

    def asks(self, asked: Asked) -> None:
        self.asked.append(asked)

    def says(self, number: int) -> None:
        self.unseen.append(number)

    def give_up(self) -> None:
        """From now on nobody acts here; another connection has taken its place, or will."""
        self.former = True
        self.unseen.clear()

    # What comes.

    def take(self, got: Object, now: float) -> None:
        """Take an object; ``now`` is seconds since 1970."""
        if "message" in got:
            self._on_message(got)
        elif "welcome" in got:
            self._on_welcome(got["welcome"], now)
        elif "joined" in got:
            self._on_notice(got["joined"], 1)
        elif "left" in got:
            self._on_notice(got["left"], -1)
        elif "who" in got:
            self._on_who(got["who"])
        elif "rooms" in got:
            self._answered(Ask.ROOMS, got)
        elif "error" in got:
            self._on_error(got["error"])
        elif "pong" in got:
            if not self.pings or self.pings.popleft() != got["pong"]:
                self.wrong.note("strange", f"{self.who} got {got}")
        else:
            self.wrong.note("strange", f"{self.who} got {got}")

    def _answered(self, kind: Ask, got: object) -> Asked | None:
        """Take the question that this answers; those before it were not answered, each in its turn."""
        if all(each.kind is not kind for each in self.asked):
            self.wrong.note("strange", f"{self.who} did not ask for {str(got)[:150]}")
            return None
        while (asked := self.asked.popleft()).kind is not kind:
            if not self.former:
                self.wrong.note("lost", f"{self.who} got no answer to {asked}, but {str(got)[:100]}")
        return asked

    def _on_error(self, error: Object) -> None:
        if error["code"] == "taken_over" and self.former:
            return
        asked = self.asked.popleft() if self.asked else None
        kind = asked.kind if asked else None
        expected = {Ask.TELL: "no_such_name", Ask.WHO: "bad_room"}
        if kind is Ask.JOIN:
            self.refusal = error["code"]
        elif kind is None or error["code"] != expected.get(kind):
            self.wrong.note("strange", f"{self.who} got {error} for {asked}")

    # A room.

    def _on_welcome(self, welcome: Object, now: float) -> None:
        asked = self._answered(Ask.JOIN, welcome)
        if asked is None:
            return
        if self.room:
            self._leave_room(asked)
        if welcome["room"] != asked.room or (self.name and welcome["name"] != self.name):
            self.wrong.note("strange", f"{self.who} asked for {asked} and got {welcome}")
        self.name, self.room = welcome["name"], welcome["room"]
        self.welcome = welcome
        self.welcomes += 1
        self.ledger.reached(welcome["epoch"], self.room, welcome["seq"])
        self._begin = self._begin or now
        self.next = self._first(asked, welcome)
        self.recovered += bool(welcome["recovered"])
        past = welcome["seq"] - (self.next or welcome["seq"] - 50)
        self._at_once = past * max(self.size, 300) < AT_ONCE
        self.members, self._balance, self._told = welcome["members"], None, None
        if self.members < 1:
            self.wrong.note("members", f"{self.who} is in {self.room} of {self.members}")

    def _first(self, asked: Asked, welcome: Object) -> int | None:
        """Return the number that must come first, by what was asked and answered."""
        after, lost, seq = asked.after, welcome["lost"], welcome["seq"]
        right = lost is None and not welcome["recovered"]
        first = None
        if after is not None and asked.epoch != welcome["epoch"]:
            right = lost == [after + 1, None] and not welcome["recovered"]
        elif after is not None and lost is None:
            right = welcome["recovered"] and after <= seq
            first = after + 1
        elif after is not None:
            right = lost[0] == after + 1 <= lost[1] <= seq and not welcome["recovered"]
            first = lost[1] + 1
            self.gaps += 1
        if not right:
            self.wrong.note("strange", f"{self.who} asked for {asked} and got {welcome}")
        return first

    def _leave_room(self, asked: Asked) -> None:
        """Everything that was said before the join must have come back before the welcome."""
        while self.unseen and self.unseen[0] < asked.number:
            test = Sent(self.room, self.name, self.unseen.popleft())
            if self._at_once:
                self.wrong.note(
                    "lost", f"{self.who} left {self.room} and its own {test.number} was not there"
                )
            else:
                self.ledger.owed.append(test)

    @property
    def position(self) -> int:
        """The number of the last message that this connection has got, or been told of."""
        return self.next - 1 if self.next is not None else int(self.welcome["seq"])

    @property
    def in_the_past(self) -> bool:
        """True while history is still to come."""
        if self.next is None:
            return bool(self.welcome.get("seq"))
        return self.next <= int(self.welcome["seq"])

    def _on_message(self, got: Object) -> None:
        if "to" in got:
            self._on_private(got)
        elif "seq" in got:
            self._on_said(got)
        elif self.welcomes:
            self.wrong.note("strange", f"{self.who} got {got} as a member")

    def _on_said(self, got: Object) -> None:
        self.deliveries += 1
        seq = got["seq"]
        if got["room"] != self.room:
            self.wrong.note("strange", f"{self.who} is in {self.room or 'no room'} and got {got}")
            return
        if self.next is None and seq > self.welcome["seq"] + 1:
            self.wrong.note(
                "lost", f"{self.who} began with {seq} in {self.room}, not {self.welcome['seq'] + 1}"
            )
        if self.next is not None and seq != self.next:
            kind = "lost" if seq > self.next else "doubled"
            self.wrong.note(kind, f"{self.who} got {seq} instead of {self.next} in {self.room}")
        self.next = max(seq, self.next or 0) + 1 if seq >= (self.next or 0) else self.next
        said = Said(got.get("from", ""), got["message"], got["at"])
        self.ledger.heard(self.who, Heard(self.welcome["epoch"], self.room, seq, said))
        self.size = max(self.size, len(said.text) + 120)
        test = read(self.run, said.text)
        if test is not None and said.sender == self.name and not self.former:
            self._came_back(test.number)

    def _came_back(self, number: int) -> None:
        if not self.unseen or number < self.unseen[0]:
            return  # it was said before, on another connection; whether twice, the ledger finds
        while self.unseen and self.unseen[0] < number:
            self.wrong.note("lost", f"{self.who}: {number} came back, {self.unseen.popleft()} did not")
        if self.unseen:
            self.unseen.popleft()

    # Who is there.

    def _on_notice(self, notice: Object, sign: int) -> None:
        names, count, members = notice["names"], notice["count"], notice["members"]
        if notice["room"] != self.room or len(names) != min(count, NAMED) or not count or members < 1:
            self.wrong.note("members", f"{self.who} in {self.room} got {notice}")
            return
        # Those of one moment come together, and all of them name the members after it.
        if self._told is not None and members != self._told:
            self.balance_up()
            self._balance = self._told
        if self._balance is not None:
            self._balance += sign * count
        self._told = self.members = members

    def balance_up(self) -> None:
        """Hold who came and went against how many there are, as of the last notice.

        But for the first one after a welcome: it may be about some who were counted there already.
        """
        if self._balance is not None and self._balance != self._told:
            self.wrong.note(
                "members", f"{self.who} counts {self._balance} in {self.room}, and was told {self._told}"
            )
            self._balance = self._told

    def _on_who(self, who: Object) -> None:
        asked = self._answered(Ask.WHO, who)
        if asked is None:
            return
        self.found.append(who)
        names = who["names"]
        whole = asked.to == "" and who["next"] is None
        if (
            who["room"] != asked.room
            or names != sorted(set(names))
            or (
                whole
                and (len(names) != who["members"] or (asked.room == self.room and self.name not in names))
            )
        ):
            self.wrong.note("members", f"{self.who} in {self.room} asked {asked} and got {who}")

    # In private.

    def _on_private(self, got: Object) -> None:
        self.privates += 1
        sender, to, at = got["from"], got["to"], got["at"]
        test = read(self.run, got["message"])
        # Somebody may have the name in other letters than it was asked for.
        asked_for = test.room.casefold() if test is not None else ""
        if (
            test is None
            or asked_for != f">{to}".casefold()
            or test.name != sender
            or self.name not in (sender, to)
        ):
            self.wrong.note("private", f"{self.who}, who is {self.name!r}, got {got}")
            return
        self._end = at
        if to == self.name:
            self.mailbox.came(self.who, to, sender, test.number)
            if test.number <= self._last_private.get(sender, -1):
                self.wrong.note("reordered", f"{self.who} got {sender}'s private {test.number} too late")
            self._last_private[sender] = test.number
        if sender == self.name and not self.former:
            asked = self._answered(Ask.TELL, got)
            if asked is not None and asked.number != test.number:
                self.wrong.note("private", f"{self.who} told {asked}, and {got} came back")
            self.mailbox.came_back(self.who, Told(sender, test.number, to, at))

    # The end.

    def ended(self) -> None:
        """The connection has ended."""
        if self._begin and self._end > self._begin:
            self.mailbox.spans.setdefault(self.name, []).append(Span(self._begin, self._end))
        self._begin = 0.0

    @property
    def quiet(self) -> bool:
        """True when everything that it waits for has come."""
        return bool(self.welcomes) and not (self.asked or self.unseen or self.pings or self.in_the_past)


class Present(NamedTuple):
    """A client at the end: where it is, how far it has got, how many it believes are there."""

    name: str
    room: str
    position: int
    members: int


def census(
    present: Iterable[Present], who: Mapping[str, set[str]], last: Callable[[str], int], wrong: Wrong
) -> None:
    """Hold who is there at the end against what ``who`` says, and how far everybody has got against the
    room's last number."""
    there: dict[str, set[str]] = {}
    for each in present:
        there.setdefault(each.room, set()).add(each.name)
        if each.position < last(each.room):
            wrong.note("lost", f"{each.name} has got to {each.position} of {last(each.room)} in {each.room}")
        if each.room in who and each.members != len(who[each.room]):
            wrong.note(
                "members",
                f"{each.name} believes {each.members} are in {each.room}, not {len(who[each.room])}",
            )
    for room in sorted(there.keys() | who.keys()):
        missing, ghosts = (
            there.get(room, set()) - who.get(room, set()),
            who.get(room, set()) - there.get(room, set()),
        )
        if missing:
            wrong.note("members", f"{sorted(missing)[:5]} are in {room}, and it does not say so")
        if ghosts:
            wrong.note("members", f"{sorted(ghosts)[:5]} are not in {room}, and it says so")
