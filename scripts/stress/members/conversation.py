"""One member's connection: numbers without a gap or repeat, answers in the order of asking. Pure.

Written apart from ``mpchat.protocol`` on purpose: a checker that shares the server's decoder would share its
mistakes.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from scripts.stress.findings import Findings
from scripts.stress.members.ledger import Heard, Ledger, Said
from scripts.stress.members.mailbox import Mailbox, Span, Told
from scripts.stress.members.texts import Sent, read

# Names in a notice; further ones are only counted.
NAMED = 8
# History of up to so many bytes comes in one piece, and what is said later comes right behind. A member that
# leaves in the middle of a longer history never receives what was said after it.
AT_ONCE = 24 << 10

Object = dict[str, Any]
# The keys that say what an object is, in the order in which they are looked for.
_HANDLED = ("message", "welcome", "joined", "left", "who", "rooms", "error", "pong")


class Ask(Enum):
    """Requests that are answered in the order of asking."""

    JOIN = "join"
    TELL = "private"
    WHO = "who"
    ROOMS = "rooms"


class Asked(NamedTuple):
    """A request that waits for its answer."""

    kind: Ask
    room: str = ""
    after: int | None = None
    epoch: str | None = None
    number: int = 0
    to: str = ""
    at: float = 0.0


@dataclass(eq=False)
class Conversation:
    """Checks a connection: note what is sent before taking what comes."""

    label: str
    run: str
    ledger: Ledger  # these two of all connections of a process
    mailbox: Mailbox
    findings: Findings
    name: str = ""
    room: str = ""
    welcome: Object = field(default_factory=dict)
    welcomes: int = 0
    refusal: str = ""
    recovered: int = 0
    gaps: int = 0
    deliveries: int = 0
    privates: int = 0
    former: bool = False  # the member sends nothing more here; the connection only reads to its end
    asked: deque[Asked] = field(default_factory=deque)
    pings: deque[int] = field(default_factory=deque)
    unseen: deque[int] = field(default_factory=deque)  # own messages that have not come back
    found: list[Object] = field(default_factory=list)
    next: int | None = None  # the next message's number; None: any number, after a join without ``after``
    size: int = 0
    members: int = 0
    _at_once: bool = True
    # The number of members: counted by notices since the first one after the welcome, and as last told.
    fewest: ClassVar[int] = 1  # members that a notice may name: the client itself is one
    _balance: int | None = None
    _told: int | None = None
    _begin: float = 0.0
    _end: float = 0.0
    _last_private: dict[str, int] = field(default_factory=dict)

    # What is sent.

    def asks(self, asked: Asked) -> None:
        """Note a request."""
        self.asked.append(asked)

    def says(self, number: int) -> None:
        """Note a message to the room; it must come back."""
        self.unseen.append(number)

    def give_up(self) -> None:
        """Note that the member sends nothing more here: another connection takes its place."""
        self.former = True
        self.unseen.clear()

    # What comes.

    def take(self, got: Object, now: float) -> None:
        """Check an object that came; ``now``: seconds since 1970."""
        kind = next((key for key in _HANDLED if key in got), "")
        body: Any = got.get(kind)
        if kind == "message":
            self._on_message(got)
        elif kind == "welcome":
            self._on_welcome(body, now)
        elif kind in ("joined", "left"):
            self._on_notice(body, 1 if kind == "joined" else -1)
        elif kind == "who":
            self._on_who(body)
        elif kind == "rooms":
            self._answered(Ask.ROOMS, got)
        elif kind == "error":
            self._on_error(body)
        elif kind != "pong" or not self.pings or self.pings.popleft() != body:
            self.findings.note("strange", f"{self.label} got {got}")

    def _answered(self, kind: Ask, got: object) -> Asked | None:
        """Return the request that this answers; report those before it, which were not answered."""
        if all(each.kind is not kind for each in self.asked):
            self.findings.note("strange", f"{self.label} did not ask for {str(got)[:150]}")
            return None
        while (asked := self.asked.popleft()).kind is not kind:
            if not self.former:
                self.findings.note("lost", f"{self.label} got no answer to {asked}, but {str(got)[:100]}")
        return asked

    def _on_error(self, error: Object) -> None:
        # A member that ends its stream may do so inside a frame.
        if error["code"] in ("taken_over", "bad_frame") and self.former:
            return
        asked = self.asked.popleft() if self.asked else None
        kind = asked.kind if asked else None
        expected = {Ask.TELL: "no_such_name", Ask.WHO: "bad_room"}
        if kind is Ask.JOIN:
            self.refusal = error["code"]
        elif kind is None or error["code"] != expected.get(kind):
            self.findings.note("strange", f"{self.label} got {error} for {asked}")

    # A room.

    def _on_welcome(self, welcome: Object, now: float) -> None:
        asked = self._answered(Ask.JOIN, welcome)
        if asked is None:
            return
        if self.room:
            self._leave_room(asked)
        if welcome["room"] != asked.room or (self.name and welcome["name"] != self.name):
            self.findings.note("strange", f"{self.label} asked for {asked} and got {welcome}")
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
            self.findings.note("members", f"{self.label} is in {self.room} of {self.members}")

    def _first(self, asked: Asked, welcome: Object) -> int | None:
        """Return the number that must come first, by request and answer."""
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
            self.findings.note("strange", f"{self.label} asked for {asked} and got {welcome}")
        return first

    def _leave_room(self, asked: Asked) -> None:
        """Check that the welcome came after all messages that were sent before the join."""
        while self.unseen and self.unseen[0] < asked.number:
            sent = Sent(self.room, self.name, self.unseen.popleft())
            if self._at_once:
                self.findings.note(
                    "lost", f"{self.label} left {self.room} and its own {sent.number} was not there"
                )
            else:
                self.ledger.owed.append(sent)

    @property
    def position(self) -> int:
        """The number of the last message that came, or that the welcome named."""
        return self.next - 1 if self.next is not None else int(self.welcome["seq"])

    @property
    def in_the_past(self) -> bool:
        """Whether history is still to come."""
        if self.next is None:
            return bool(self.welcome.get("seq"))
        return self.next <= int(self.welcome["seq"])

    def _on_message(self, got: Object) -> None:
        if "to" in got:
            self._on_private(got)
        elif "seq" in got:
            self._on_said(got)
        elif self.welcomes:
            self.findings.note("strange", f"{self.label} got {got} as a member")

    def _on_said(self, got: Object) -> None:
        self.deliveries += 1
        seq = got["seq"]
        if got["room"] != self.room:
            self.findings.note("strange", f"{self.label} is in {self.room or 'no room'} and got {got}")
            return
        if self.next is None and seq > self.welcome["seq"] + 1:
            self.findings.note(
                "lost", f"{self.label} began with {seq} in {self.room}, not {self.welcome['seq'] + 1}"
            )
        if self.next is not None and seq != self.next:
            kind = "lost" if seq > self.next else "doubled"
            self.findings.note(kind, f"{self.label} got {seq} instead of {self.next} in {self.room}")
        self.next = max(seq, self.next or 0) + 1 if seq >= (self.next or 0) else self.next
        said = Said(got.get("from", ""), got["message"], got["at"])
        self.ledger.heard(self.label, Heard(self.welcome["epoch"], self.room, seq, said))
        self.size = max(self.size, len(said.text) + 120)
        sent = read(self.run, said.text)
        if sent is not None and said.sender == self.name and not self.former:
            self._came_back(sent.number)

    def _came_back(self, number: int) -> None:
        if not self.unseen or number < self.unseen[0]:
            return  # it was said before, on another connection; the ledger finds whether it came twice
        while self.unseen and self.unseen[0] < number:
            self.findings.note("lost", f"{self.label}: {number} came back, {self.unseen.popleft()} did not")
        if self.unseen:
            self.unseen.popleft()

    # Who is there.

    def _on_notice(self, notice: Object, sign: int) -> None:
        names, count, members = notice["names"], notice["count"], notice["members"]
        if (
            notice["room"] != self.room
            or len(names) != min(count, NAMED)
            or not count
            or members < self.fewest
        ):
            self.findings.note("members", f"{self.label} in {self.room} got {notice}")
            return
        # Notices of one moment come together, and all of them name the members after it.
        if self._told is not None and members != self._told:
            self.balance_up()
            self._balance = self._told
        if self._balance is not None:
            self._balance += sign * count
        self._told = self.members = members

    def balance_up(self) -> None:
        """Compare the count of those that came and left with the last notice's number of members.

        The first notice after a welcome does not count: the welcome may have counted its members already.
        """
        if self._balance is not None and self._balance != self._told:
            self.findings.note(
                "members", f"{self.label} counts {self._balance} in {self.room}, and was told {self._told}"
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
            self.findings.note("members", f"{self.label} in {self.room} asked {asked} and got {who}")

    # In private.

    def _on_private(self, got: Object) -> None:
        self.privates += 1
        sender, to, at = got["from"], got["to"], got["at"]
        sent = read(self.run, got["message"])
        # A member may have its name in other letters than the sender wrote.
        asked_for = sent.room.casefold() if sent is not None else ""
        if (
            sent is None
            or asked_for != f">{to}".casefold()
            or sent.name != sender
            or self.name not in (sender, to)
        ):
            self.findings.note("private", f"{self.label}, who is {self.name!r}, got {got}")
            return
        self._end = at
        if to == self.name:
            self.mailbox.came(self.label, to, sender, sent.number)
            if sent.number <= self._last_private.get(sender, -1):
                self.findings.note("reordered", f"{self.label} got {sender}'s private {sent.number} too late")
            self._last_private[sender] = sent.number
        if sender == self.name and not self.former:
            asked = self._answered(Ask.TELL, got)
            if asked is not None and asked.number != sent.number:
                self.findings.note("private", f"{self.label} told {asked}, and {got} came back")
            self.mailbox.came_back(self.label, Told(sender, sent.number, to, at))

    # The end.

    def ended(self) -> None:
        """Note that the connection has ended."""
        if self._begin and self._end > self._begin:
            self.mailbox.spans.setdefault(self.name, []).append(Span(self._begin, self._end))
        self._begin = 0.0

    @property
    def quiet(self) -> bool:
        """Whether everything that the connection waits for has come."""
        return bool(self.welcomes) and not (self.asked or self.unseen or self.pings or self.in_the_past)
