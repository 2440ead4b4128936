"""What plain clients received, compared with the numbers that members saw. Pure.

A plain client gets no numbers. Its messages are found in what the members of the lobby received: their
numbers there must follow each other without a gap, on every host.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from scripts.stress.findings import Findings
from scripts.stress.members.ledger import Ledger
from scripts.stress.members.texts import NEVER, Sent, read

LOBBY = "lobby"
# The notice for leavers, of whatever number; the members get another one.
_LEFT = re.compile(r" Disconnect : .+ ", re.DOTALL)


class Place(NamedTuple):
    """Where in the order of the lobby a message stands."""

    epoch: str
    seq: int


@dataclass(eq=False)
class Stay:
    """One connection of a plain client: what it sent and received, in order."""

    label: str
    run: str
    findings: Findings
    got: list[Sent] = field(default_factory=list)
    unseen: list[Sent] = field(default_factory=list)  # sent, and not back yet

    def says(self, sent: Sent) -> None:
        """Note a message; it must come back."""
        self.unseen.append(sent)

    def take(self, got: dict[str, object]) -> None:
        """Take an object that came."""
        text = got.get("message")
        if len(got) != 1 or not isinstance(text, str):
            self.findings.note("strange", f"{self.label} got {got}")
            return
        if _LEFT.fullmatch(text):
            return
        before, found, rest = text.partition(f"{self.run}|")
        sent = read(self.run, found + rest)
        # Members are named before what they say, plain clients are not: their names are addresses.
        expected = "" if sent is None or ":" in sent.name else f"{sent.name}: "
        if sent is None or sent.number == NEVER or sent.room != LOBBY or before != expected:
            self.findings.note("strange", f"{self.label} got {text[:100]!r}")
            return
        self.got.append(sent)
        if sent in self.unseen:
            place = self.unseen.index(sent)
            for missing in self.unseen[:place]:
                self.findings.note("lost", f"{self.label}: {sent.number} came back, {missing.number} did not")
            del self.unseen[: place + 1]


def places(ledger: Ledger) -> dict[Sent, list[Place]]:
    """Return where in the lobby each message stands; in a new epoch it may stand there again."""
    found: dict[Sent, list[Place]] = {}
    for (epoch, room), messages in ledger.rooms.items():
        for seq, said in messages.items() if room == LOBBY else ():
            sent = read(ledger.run, said.text)
            if sent is not None:
                found.setdefault(sent, []).append(Place(epoch, seq))
    return found


def judge(stay: Stay, known: dict[Sent, list[Place]], findings: Findings) -> int:
    """Check the order of one plain client; return how many of its messages were compared.

    Messages that no member received have no known place: as many numbers may be left out between their
    neighbours. A step into another epoch is checked no further: the members are told what is uncertain.
    """
    seen: set[Sent] = set()
    before: Place | None = None
    unknown = compared = 0
    for sent in stay.got:
        if sent in seen:
            findings.note("doubled", f"{stay.label} got {sent.name}'s {sent.number} again")
            continue
        seen.add(sent)
        where = known.get(sent)
        if where is None:
            unknown += 1
            continue
        here = next((each for each in where if before and each.epoch == before.epoch), where[0])
        if before is not None and here.epoch == before.epoch:
            compared += 1
            _compare(stay, sent, (before.seq, here.seq, unknown), findings)
        before, unknown = here, 0
    return compared


def _compare(stay: Stay, sent: Sent, places: tuple[int, int, int], findings: Findings) -> None:
    before, here, unknown = places
    if here < before:
        findings.note("differing", f"{stay.label} got {sent.name}'s {sent.number}, {here}, after {before}")
    elif here - before - 1 > unknown:
        findings.note("lost", f"{stay.label} got {here} after {before}, and {unknown} in between")
    elif here - before - 1 < unknown:
        text = f"{stay.label} got {unknown} messages between {before} and {here} that no member got"
        findings.note("differing", text)
