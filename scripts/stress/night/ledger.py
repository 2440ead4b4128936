"""What the crowd has said and heard: one record of every room, by numbers. No I/O.

A message counts as lost when its sender stayed connected after it and nobody was ever told it. Where the
connection ended before it came back, nobody can know whether the server had it: that is *unsure*.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(eq=False)
class Ledger:
    """The record that all members of the crowd keep together."""

    # Texts by room and number: the same for every member.
    texts: dict[str, dict[int, str]] = field(default_factory=dict)
    # What was said and has not come back, by sender.
    outstanding: dict[str, set[str]] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    # What should not be, in words.
    wrong: list[str] = field(default_factory=list)

    def say(self, sender: str, text: str) -> None:
        """Take note that a member has sent a message."""
        self.counts["said"] += 1
        self.outstanding.setdefault(sender, set()).add(text)

    def hear(self, who: str, room: str, last: int | None, seq: int, text: str) -> int:
        """Take note that ``who`` was told a message, after the number ``last``; return its number."""
        self.counts["deliveries"] += 1
        if last is not None and seq != last + 1:
            self.wrong.append(f"{who} was told {seq} after {last} in {room}")
        known = self.texts.setdefault(room, {}).setdefault(seq, text)
        if known != text:
            self.wrong.append(f"{who} was told {text!r} as {seq} of {room}, another member {known!r}")
        sender = text.partition(" ")[0]
        if sender == who:
            self.outstanding.get(sender, set()).discard(text)
            self.unsure.discard(text)
        return seq

    def lose_connection(self, who: str) -> None:
        """Take note that a member's connection ended: what is outstanding may be lost on its way in."""
        self.counts["ended"] += 1
        self.unsure |= self.outstanding.pop(who, set())

    def finish(self) -> None:
        """Compare what was said and what was numbered, once all is quiet."""
        numbered = {text for room in self.texts.values() for text in room.values()}
        self.unsure -= numbered
        self.counts["unsure"] = len(self.unsure)
        for who, texts in self.outstanding.items():
            for text in texts - numbered:
                self.wrong.append(f"{who}'s message was lost: {text!r}")
        for room, known in self.texts.items():
            if len(set(known.values())) != len(known):
                self.wrong.append(f"a message has two numbers in {room}")
