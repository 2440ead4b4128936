"""What is wrong with a stream, counted and named. Pure.

Two checks, each of which can see what the other cannot. :meth:`Findings.compare` holds one client's frames
against what the others got: it finds what happened to one client alone. :class:`Numbers` holds the one order
against what the senders counted: it finds what happened to everybody alike.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stress_frames import Talk, shown, split_frames

# Findings that are written out; the rest are only counted. A broken server breaks every message.
MAX_EXAMPLES = 40
COUNTS = ("lost", "doubled", "reordered", "differing", "strange", "unchecked")


@dataclass
class Findings:
    """The count of each kind of fault, and the first ones in words."""

    lost: int = 0  # a message that should be in a stream and is not
    doubled: int = 0  # a message that is in a stream twice
    reordered: int = 0  # one sender's messages out of their own order
    differing: int = 0  # the same messages in another order than other clients got
    strange: int = 0  # bytes that nobody else got
    unchecked: int = 0  # a stream that could not be held against the order to its end
    examples: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the six counts by name."""
        return {name: getattr(self, name) for name in COUNTS}

    def note(self, kind: str, text: str) -> None:
        """Count one fault of ``kind`` and keep its ``text`` while there is room."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{kind}: {text}")

    def add(self, other: "Findings") -> None:
        """Take over what another process found."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.examples += other.examples[: MAX_EXAMPLES - len(self.examples)]

    def compare(
        self,
        who: str,
        truth: Sequence[bytes],
        got: Sequence[bytes],
        known: Callable[[bytes], bool],
        talk: Talk,
    ) -> None:
        """Name how ``got`` differs from ``truth``; ``known``: is this frame elsewhere in the order?"""
        missing = Counter(truth) - Counter(got)
        extra = Counter(got) - Counter(truth)
        for frame in missing.elements():
            self.note("lost", f"{who} did not get {shown(frame, talk)}")
        for frame in extra.elements():
            if known(frame) or frame in truth:
                self.note("doubled", f"{who} got {shown(frame, talk)} twice")
            else:
                self.note("strange", f"{who} got {shown(frame, talk)}, which nobody else got")
        if missing or extra:
            return
        names = ", ".join(shown(frame, talk) for frame in got[:6])
        self.note("differing", f"{who} got {names} in another order than the others")
        if _descends(got, talk):
            self.note("reordered", f"{who} got one sender's messages out of order: {names}")


def _descends(frames: Sequence[bytes], talk: Talk) -> bool:
    """Say whether any one sender's numbers go down."""
    last: dict[int, int] = {}
    for test in filter(None, map(talk.read, frames)):
        if test.number < last.get(test.sender, -1):
            return True
        last[test.sender] = test.number
    return False


@dataclass
class _Sender:
    next: int
    missing: set[int] = field(default_factory=set)


class Numbers:
    """Holds the one order against its senders: 0, 1, 2 … from each, none missing, none twice, none early."""

    def __init__(self, talk: Talk, findings: Findings) -> None:
        self._talk = talk
        self._findings = findings
        self._senders: dict[int, _Sender] = {}
        self._segment = 0
        self.messages = 0  # test messages in the order
        self.others = 0  # notices and whatever else was relayed

    def feed(self, segment: int, data: bytes) -> None:
        """Take whole frames of the order. A new ``segment`` begins after a time in which nobody listened."""
        if segment != self._segment:
            self._segment = segment
            # Who sent meanwhile may go on at any number; what was missing stays missing.
            for sender in self._senders.values():
                sender.next = -1
        for frame in split_frames(data)[0]:
            test = self._talk.read(frame)
            if test is None:
                self.others += 1
            else:
                self.messages += 1
                self._take(test.sender, test.number)

    def _take(self, name: int, number: int) -> None:
        sender = self._senders.get(name)
        if sender is None:
            # The first segment begins before anybody sends.
            sender = self._senders[name] = _Sender(number if self._segment else 0)
        if sender.next < 0:
            sender.next = number
        if number >= sender.next:
            sender.missing.update(range(sender.next, number))
            sender.next = number + 1
        elif number in sender.missing:
            sender.missing.remove(number)
            self._findings.note(
                "reordered", f"{name}:{number} comes after {name}:{sender.next - 1} for everybody"
            )
        else:
            self._findings.note("doubled", f"everybody got {name}:{number} twice")

    def finish(self, sent: dict[int, int]) -> None:
        """End: ``sent`` has, for each sender that lived to the end, how many messages it sent."""
        for name, sender in self._senders.items():
            for number in sorted(sender.missing):
                self._findings.note("lost", f"nobody got {name}:{number}")
        for name, count in sent.items():
            seen = self._senders[name].next if name in self._senders else 0
            for number in range(seen, count) if seen >= 0 else ():
                self._findings.note("lost", f"nobody got {name}:{number}, the last of a sender that lived")
