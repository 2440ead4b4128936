"""The one order against its senders' own counts. Pure.

:mod:`scripts.stress.plain.order` compares clients with each other: it finds what happened to one client
alone. :class:`Numbers` finds what happened to all clients alike.
"""

import sys
from collections import defaultdict

from scripts.stress.findings import Findings
from scripts.stress.plain.messages import TestMessages

# The next number of a sender that was last heard in an earlier segment.
ANY = sys.maxsize


class Numbers:
    """Checks that each sender's messages are 0, 1, 2 … in the one order: none missing, doubled or early."""

    def __init__(self, tests: TestMessages, findings: Findings) -> None:
        """Report to ``findings``."""
        self._tests = tests
        self._findings = findings
        # Segment → sender → numbers in their order. A new segment begins after a time in which no client
        # listened: a sender may have sent meanwhile, and goes on at any number.
        self._segments: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self.messages = 0  # test messages in the order
        self.others = 0  # notices and all other frames

    def feed(self, segment: int, frames: list[bytes]) -> None:
        """Take the next frames of the order."""
        for stamp in map(self._tests.read, frames):
            if stamp is None:
                self.others += 1
            else:
                self.messages += 1
                self._segments[segment][stamp.sender].append(stamp.number)

    def finish(self, sent: dict[int, int]) -> None:
        """Report what is wrong; ``sent``: messages of each sender that lived to the end."""
        ends: dict[int, int] = {}  # the number that would come next
        for segment, senders in self._segments.items():
            ends = dict.fromkeys(ends, ANY)
            for name, numbers in senders.items():
                # The first segment begins before any client sends.
                ends[name] = self._check(name, numbers, numbers[0] if segment else 0)
        for name, count in sent.items():
            for number in range(ends.get(name, 0), count):
                self._findings.note("lost", f"no client got {name}:{number}, the last of a sender that lived")

    def _check(self, name: int, numbers: list[int], first: int) -> int:
        """Compare a sender's numbers with those from ``first`` on; return the number that would come next."""
        seen: set[int] = set()
        end = first
        for number in numbers:
            if number in seen:
                self._findings.note("doubled", f"all clients got {name}:{number} twice")
            elif number < end:
                text = f"{name}:{number} comes after {name}:{end - 1} for all clients"
                self._findings.note("reordered", text)
            seen.add(number)
            end = max(end, number + 1)
        for number in sorted(set(range(first, end)) - seen):
            self._findings.note("lost", f"no client got {name}:{number}")
        return end
