"""A member's connection to one of several hosts: what may happen there, and to a single server may not. Pure.

A host that lost its lease, or whose Redis came back with less than was shown, enters its members again. It
may tell a member so with a welcome that the member has not asked for. The numbers then go on without a gap,
or the welcome names the range that is lost.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

from scripts.stress.members.conversation import Ask, Asked, Conversation, Object

# The last word of a host that stops in order, as the setting farewell has it. It has no number: it is that
# host's alone.
FAREWELL = {"message": "The server is stopping."}

# The first number that follows, by epoch, room and number of the welcome: the same from every host.
Edges = dict[tuple[str, str, int], int]


@dataclass(eq=False)
class HostConversation(Conversation):
    """Checks a connection to any of the hosts."""

    # A host that was taken for gone hears on: its members are told that they have left, and then return.
    fewest: ClassVar[int] = 0

    kept: int = 0  # messages that each room keeps
    may_rewind: bool = False  # Redis may lose what was shown: a new epoch is no fault
    edges: Edges = field(default_factory=dict)  # of all connections of a process
    entered_again: int = 0
    told_lost: int = 0  # messages that a welcome named as lost
    uncertain: int = 0  # welcomes of another epoch
    # Requests from before a new epoch; their answers may have been lost with the old one.
    doubtful: deque[Asked] = field(default_factory=deque)

    def _on_welcome(self, welcome: Object, now: float) -> None:
        if not welcome.get("again"):
            super()._on_welcome(welcome, now)
        elif self.welcomes:
            self._enter_again(welcome)
        else:
            self.findings.note("strange", f"{self.label} was entered again at first: {welcome}")

    def _on_message(self, got: Object) -> None:
        if got != FAREWELL:
            super()._on_message(got)

    # An answer to a join.

    def _first(self, asked: Asked, welcome: Object) -> int | None:
        """Return the number that must come first; check the range that is lost."""
        after, lost, epoch = asked.after, welcome["lost"], welcome["epoch"]
        if after is not None and asked.epoch == epoch and lost is not None:
            if lost[1] is None:
                self.findings.note("strange", f"{self.label} asked for {asked} and got {welcome}")
                return None
            self._check_lost(welcome, lost)
        if after is None or asked.epoch == epoch or not self._was_epoch(asked.epoch):
            return super()._first(asked, welcome)
        # Redis lost a part of what the member has seen, or may have.
        self.uncertain += 1
        if lost is None and welcome["recovered"]:
            return after + 1
        if lost is None or welcome["recovered"] or not 1 <= lost[0] <= after + 1:
            self.findings.note("strange", f"{self.label} asked for {asked} and got {welcome}")
            return None
        return self._behind(lost)

    def _was_epoch(self, epoch: str | None) -> bool:
        """Say whether an epoch was this chat's: a member may also name one that never was."""
        return self.may_rewind and epoch is not None and any(known == epoch for known, _ in self.ledger.last)

    def _check_lost(self, welcome: Object, lost: list[int]) -> None:
        """Check that a range is lost only because the room keeps no more, and is the same on all hosts."""
        self.told_lost += lost[1] - lost[0] + 1
        epoch, room, seq = welcome["epoch"], welcome["room"], welcome["seq"]
        if lost[1] > seq - self.kept:
            text = f"{self.label} was told that {lost} of {seq} in {room} are lost; it keeps {self.kept}"
            self.findings.note("lost", text)
        first = self.edges.setdefault((epoch, room, seq), lost[1] + 1)
        if first != lost[1] + 1:
            text = f"{self.label} was told {lost} of {seq} in {room}; to others {first} was the first left"
            self.findings.note("differing", text)

    def _behind(self, lost: list[int | None]) -> int | None:
        """Return the number behind a range that is lost; None: any number."""
        self.gaps += 1
        begin, last = lost
        if last is None or begin is None:
            return None
        self.told_lost += last - begin + 1
        return last + 1

    # A welcome that was not asked for.

    def _enter_again(self, welcome: Object) -> None:
        self.entered_again += 1
        same = welcome["epoch"] == self.welcome["epoch"]
        right = welcome["name"] == self.name and (welcome["room"] == self.room or not same)
        lost, expected = welcome["lost"], self.position + 1
        if same and lost is None:
            # What the member has not received yet still follows: as history, or as new messages.
            right = right and welcome["seq"] >= self.position
            self.next = expected if self.next is not None else None
        elif lost is None:
            right = right and self.may_rewind and bool(welcome["recovered"])
        else:
            # In a new epoch the range may begin before the end of what the member has.
            begin = lost[0] == expected if same else self.may_rewind and 1 <= lost[0] <= expected
            right = right and begin and (lost[1] is not None or not same)
            self.next = self._behind(lost)
        if not same:
            self.uncertain += 1
            self.doubtful += self.asked
            self.asked.clear()
            self.unseen.clear()
        if not right:
            self.findings.note("strange", f"{self.label}, at {expected - 1} in {self.room}, got {welcome}")
        self.room, self.welcome = welcome["room"], welcome
        self.welcomes += 1
        self.ledger.reached(welcome["epoch"], self.room, welcome["seq"])
        self.members, self._balance, self._told = welcome["members"], None, None

    # Answers that may never come.

    def _answered(self, kind: Ask, got: object) -> Asked | None:
        if all(each.kind is not kind for each in self.asked):
            while self.doubtful:
                if (asked := self.doubtful.popleft()).kind is kind:
                    return asked
        return super()._answered(kind, got)

    def _on_error(self, error: Object) -> None:
        if self.doubtful:  # requests are answered in their order
            self.doubtful.popleft()
        else:
            super()._on_error(error)
