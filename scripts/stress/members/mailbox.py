"""Private messages: each reaches its addressee once, and comes back to its sender once. Pure."""

from dataclasses import dataclass, field
from typing import NamedTuple

from scripts.stress.findings import Findings

# Seconds by which the server's times, rounded to milliseconds, may be off.
ROUNDING = 0.002


class Told(NamedTuple):
    """A private message that came back to its sender."""

    sender: str
    number: int
    to: str
    at: float


class Span(NamedTuple):
    """The time in which a connection surely received all that was for its member; seconds since 1970."""

    begin: float
    end: float


@dataclass
class Mailbox:
    """Private messages of all members, and what is needed to say which are missing."""

    findings: Findings
    told: list[Told] = field(default_factory=list)
    spans: dict[str, list[Span]] = field(default_factory=dict)
    got: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    _confirmed: set[tuple[str, int]] = field(default_factory=set)

    def came(self, label: str, name: str, sender: str, number: int) -> None:
        """Note that ``name`` received a private message from ``sender``."""
        got = self.got.setdefault(name, set())
        if (sender, number) in got:
            self.findings.note("private", f"{label} got {sender}'s {number} twice")
        got.add((sender, number))

    def came_back(self, label: str, told: Told) -> None:
        """Note that a sender received its own private message."""
        if (told.sender, told.number) in self._confirmed:
            self.findings.note("private", f"{label} got its own {told.number} back twice")
        self._confirmed.add((told.sender, told.number))
        self.told.append(told)

    def add(self, other: "Mailbox") -> None:
        """Add what another process noted; its members are other ones."""
        self.told += other.told
        self.got |= other.got
        self.spans |= other.spans

    def judge(self) -> None:
        """Report messages that came back to their sender but not to an addressee that was surely there."""
        for told in self.told:
            if (told.sender, told.number) in self.got.get(told.to, ()):
                continue
            earliest, latest = told.at - ROUNDING, told.at + ROUNDING
            if any(begin < earliest < latest < end for begin, end in self.spans.get(told.to, ())):
                self.findings.note("private", f"{told.to} did not get {told.sender}'s {told.number}")
