"""The faults that a checker found in what clients received: counts by kind, and examples. Pure."""

from collections import Counter
from dataclasses import dataclass, field

# Findings that are written out; the rest are only counted. A broken server breaks every message.
MAX_EXAMPLES = 40
# Every kind of finding. A scenario shows those that its checker can report.
KINDS = {
    "lost": "a message that a client should have received and did not",
    "doubled": "a message that came twice",
    "reordered": "one sender's messages out of their own order",
    "differing": "an order, or a message under a number, that other clients do not have",
    "strange": "bytes that no client sent or asked for",
    "unchecked": "a stream that could not be compared to its end",
    "answers": "garbage that the server answered too rarely or too often",
    "names": "two members with one name, or a free name refused",
    "members": "a wrong answer about the members of a room",
    "private": "a private message that went astray, came twice or not at all",
    "hung": "something that the server owed and did not do in time",
}


@dataclass
class Findings:
    """The count of each kind of fault, and examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, kind: str, text: str) -> None:
        """Count one fault of ``kind``, and keep ``text`` while there is room for examples."""
        assert kind in KINDS
        self.counts[kind] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{kind}: {text}")

    def add(self, other: "Findings") -> None:
        """Add the findings of another process."""
        self.counts += other.counts
        self.examples += other.examples[: MAX_EXAMPLES - len(self.examples)]
