"""What was said in every room: one message under one number, each sender in its own order. Pure."""

from collections import Counter
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


class Ledger:
    """All messages that a member has received, by room and number."""

    def __init__(self, run: str, findings: Findings, *, checked: bool = False) -> None:
        """Report to ``findings``; ``checked``: each message was already checked by another ledger."""
        self.run = run
        self.findings = findings
        self.checked = checked
        self.rooms: dict[tuple[str, str], dict[int, Said]] = {}
        # The highest number that a welcome or a message has named.
        self.last: Counter[tuple[str, str]] = Counter()
        # Messages whose sender left the past of a room right after them: it need not have received them.
        self.owed: list[Sent] = []
        self._fresh: list[Heard] = []

    def __len__(self) -> int:
        """Return the number of different messages."""
        return sum(map(len, self.rooms.values()))

    def heard(self, label: str, heard: Heard) -> None:
        """Compare a message that ``label`` received with what all others received under its number."""
        room = self.rooms.setdefault((heard.epoch, heard.room), {})
        known = room.get(heard.seq)
        if known is None:
            room[heard.seq] = heard.said
            self._fresh.append(heard)
            self.reached(heard.epoch, heard.room, heard.seq)
            if not self.checked:
                self._check(label, heard)
        elif known != heard.said:
            self.findings.note("differing", f"{label} got {heard}; others {known}, at {known.at}")

    def _check(self, label: str, heard: Heard) -> None:
        sent = read(self.run, heard.said.text)
        if sent is None or sent.number == NEVER or (sent.room, sent.name) != (heard.room, heard.said.sender):
            self.findings.note("strange", f"{label} got {heard}")

    def reached(self, epoch: str, room: str, seq: int) -> None:
        """Note that a room has reached the number ``seq``."""
        if seq > self.last[epoch, room]:
            self.last[epoch, room] = seq

    def take_fresh(self) -> list[Heard]:
        """Return the messages that were received for the first time since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def judge(self) -> None:
        """Compare the order of every room with its senders' own counts; once, at the end."""
        seen: set[tuple[str, int]] = set()
        for (_, name), room in self.rooms.items():
            self._judge_room(name, room, seen)
        self._judge_owed(seen)

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
