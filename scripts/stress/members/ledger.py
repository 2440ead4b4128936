"""What was said in every room: one message under one number, each sender in its own order. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from scripts.stress.findings import Findings
from scripts.stress.members.texts import NEVER, Sent, read


class Said(NamedTuple):
    """A message of a room: what must be the same for every member."""

    sender: str
    text: str
    at: float

    def __str__(self) -> str:
        """Return sender and text for a finding."""
        return f"{self.sender!r}: {self.text[:40]!r}"


class Heard(NamedTuple):
    """A message and its place."""

    epoch: str
    room: str
    seq: int
    said: Said

    def __str__(self) -> str:
        """Return place and message for a finding."""
        return f"{self.seq} in {self.room}, {self.said}"


@dataclass
class Ledger:
    """All messages that the members of a process have received, by room and number."""

    run: str
    findings: Findings
    rooms: dict[tuple[str, str], dict[int, Said]] = field(default_factory=dict)
    # The highest number that a welcome or a message has named.
    last: Counter[tuple[str, str]] = field(default_factory=Counter)
    # Messages whose sender left the room while it still got history: they need not have come back to it.
    owed: list[Sent] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of different messages."""
        return sum(map(len, self.rooms.values()))

    def heard(self, label: str, heard: Heard) -> None:
        """Check a message that ``label`` received, the first time also against its sender and room."""
        if self._compare(label, heard):
            self.reached(heard.epoch, heard.room, heard.seq)
            self._check(label, heard)

    def _compare(self, label: str, heard: Heard) -> bool:
        """Compare a message with what all others received under its number; True: it is the first."""
        known = self.rooms.setdefault((heard.epoch, heard.room), {}).setdefault(heard.seq, heard.said)
        if known != heard.said:
            self.findings.note("differing", f"{label} got {heard}; others {known}, at {known.at}")
        return known is heard.said

    def add(self, name: str, other: "Ledger") -> None:
        """Compare with the ledger of another process, which is called ``name``, and take over what it has."""
        for (epoch, room), messages in other.rooms.items():
            for seq, said in messages.items():
                self._compare(name, Heard(epoch, room, seq, said))
        self.last |= other.last
        self.owed += other.owed

    def _check(self, label: str, heard: Heard) -> None:
        sent = read(self.run, heard.said.text)
        if sent is None or sent.number == NEVER or (sent.room, sent.name) != (heard.room, heard.said.sender):
            self.findings.note("strange", f"{label} got {heard}")

    def reached(self, epoch: str, room: str, seq: int) -> None:
        """Note that a room has reached the number ``seq``."""
        if seq > self.last[epoch, room]:
            self.last[epoch, room] = seq

    def judge(self) -> None:
        """Compare the order of every room with its senders' own counts; once, at the end."""
        seen: dict[str, set[tuple[str, int]]] = {}  # by epoch: a new one may begin with the old one's end
        for (epoch, name), room in self.rooms.items():
            self._judge_room(name, room, seen.setdefault(epoch, set()))
        self._judge_owed(set[tuple[str, int]]().union(*seen.values()))

    def _judge_room(self, room: str, messages: dict[int, Said], seen: set[tuple[str, int]]) -> None:
        last: dict[str, int] = {}
        for seq in sorted(messages):
            sent = read(self.run, messages[seq].text)
            if sent is None or sent.number == NEVER:
                continue
            before = last.get(sent.name, -1)
            if (sent.name, sent.number) in seen:
                self.findings.note("doubled", f"{room} {seq}: {sent.name}'s {sent.number} again")
            elif sent.number < before:
                text = f"{room} {seq}: {sent.name}'s {sent.number} after its {before}"
                self.findings.note("reordered", text)
            seen.add((sent.name, sent.number))
            last[sent.name] = max(sent.number, before)

    def _judge_owed(self, seen: set[tuple[str, int]]) -> None:
        missing: dict[str, list[Sent]] = {}
        for sent in self.owed:
            if (sent.name, sent.number) not in seen:
                missing.setdefault(sent.room, []).append(sent)
        for room, unseen in missing.items():
            # Perhaps no member was there to receive it; then there is a number that no member received.
            unheard = sum(
                last - len(self.rooms.get(key, {})) for key, last in self.last.items() if key[1] == room
            )
            for sent in unseen[unheard:]:
                self.findings.note("lost", f"no member in {room} got {sent.name}'s {sent.number}")
