"""The one order against its senders' own counts. Pure.

:mod:`scripts.stress.plain.order` compares clients with each other: it finds what happened to one client
alone. :class:`Numbers` finds what happened to all clients alike.
"""

from dataclasses import dataclass, field

from scripts.stress.findings import Findings
from scripts.stress.plain.messages import TestMessages


@dataclass
class _Sender:
    next: int
    missing: set[int] = field(default_factory=set)


class Numbers:
    """Checks that each sender's messages are 0, 1, 2 … in the one order: none missing, doubled or early."""

    def __init__(self, tests: TestMessages, findings: Findings) -> None:
        """Report to ``findings``."""
        self._tests = tests
        self._findings = findings
        self._senders: dict[int, _Sender] = {}
        self._segment = 0
        self.messages = 0  # test messages in the order
        self.others = 0  # notices and all other frames

    def feed(self, segment: int, frames: list[bytes]) -> None:
        """Check the next frames of the order.

        A new ``segment`` begins after a time in which no client listened.
        """
        if segment != self._segment:
            self._segment = segment
            # A sender may have sent meanwhile and goes on at any number; missing numbers stay missing.
            for sender in self._senders.values():
                sender.next = -1
        for frame in frames:
            stamp = self._tests.read(frame)
            if stamp is None:
                self.others += 1
            else:
                self.messages += 1
                self._check(stamp.sender, stamp.number)

    def _check(self, name: int, number: int) -> None:
        sender = self._senders.get(name)
        if sender is None:
            # The first segment begins before any client sends.
            sender = self._senders[name] = _Sender(number if self._segment else 0)
        if sender.next < 0:
            sender.next = number
        if number >= sender.next:
            sender.missing.update(range(sender.next, number))
            sender.next = number + 1
        elif number in sender.missing:
            sender.missing.remove(number)
            self._findings.note(
                "reordered", f"{name}:{number} comes after {name}:{sender.next - 1} for all clients"
            )
        else:
            self._findings.note("doubled", f"all clients got {name}:{number} twice")

    def finish(self, sent: dict[int, int]) -> None:
        """Report missing messages; ``sent``: messages of each sender that lived to the end."""
        for name, sender in self._senders.items():
            for number in sorted(sender.missing):
                self._findings.note("lost", f"no client got {name}:{number}")
        for name, count in sent.items():
            seen = self._senders[name].next if name in self._senders else 0
            for number in range(seen, count) if seen >= 0 else ():
                self._findings.note("lost", f"no client got {name}:{number}, the last of a sender that lived")
