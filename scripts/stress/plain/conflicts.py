"""Where a stream differs from the order: where they meet again, and how the faults are named. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from scripts.common.frames import split_frames
from scripts.stress.findings import Findings
from scripts.stress.plain.messages import TestMessages

# The time of joining of a reader that has not joined yet, in ns.
NEVER = 2**63


class State(Enum):
    """How a reader stands towards the order."""

    WAITING = "its place is not known yet"
    FOLLOWING = "matches so far"
    APART = "differs, and has not met the order again"
    GONE = "left, or given up"


@dataclass(eq=False, slots=True)
class Reader:
    """One stream. Places count the frames of the order from where its segment began."""

    name: str
    joined: int = NEVER  # ns, monotonic; a message that was sent later must be in its stream
    weight: int = 1  # its votes
    segment: int = 0  # of the order that it reports, where it is a process
    state: State = State.WAITING
    floor: int = 0  # end of the order when it was about to join
    start: int = 0
    position: int = 0
    unmatched: list[bytes] = field(default_factory=list)  # all since it went apart, or since it came
    rest: bytes = b""  # half a frame
    leaving: bool = False
    tries: int = 0

    def split(self, data: bytes) -> list[bytes]:
        """Return the frames that ``data``, the next bytes of the stream, completes."""
        frames, self.rest = split_frames(self.rest + data)
        return frames


@dataclass(frozen=True)
class Conflict:
    """Instead of the order's frames from ``start`` to ``end``, ``reader`` received ``got``."""

    start: int
    end: int
    got: tuple[bytes, ...]
    reader: Reader


def meeting(ours: Sequence[bytes], got: Sequence[bytes], agreement: int) -> tuple[int, int] | None:
    """Return how many frames of each to leave out, as few as possible, until ``agreement`` frames are equal.

    With ``agreement`` 1 the streams are at their end: they must then agree for as long as both go on.
    """
    for left_out in range(len(ours) + len(got) + 1):
        for skipped in range(max(0, left_out - len(got)), min(left_out, len(ours)) + 1):
            kept = left_out - skipped
            length = min(len(ours) - skipped, len(got) - kept)
            if length < agreement:
                continue
            if agreement > 1:
                length = agreement
            if ours[skipped : skipped + length] == got[kept : kept + length]:
                return skipped, kept
    return None


def regions(conflicts: Iterable[Conflict]) -> list[tuple[int, int, list[Conflict]]]:
    """Join conflicts that overlap or touch: start, end, and the conflicts of each region."""
    found: list[tuple[int, int, list[Conflict]]] = []
    for conflict in sorted(conflicts, key=lambda c: (c.start, c.end)):
        if found and conflict.start <= found[-1][1]:
            start, end, members = found[-1]
            found[-1] = (start, max(end, conflict.end), [*members, conflict])
        else:
            found.append((conflict.start, conflict.end, [conflict]))
    return found


@dataclass(frozen=True)
class Namer:
    """Names how one client's frames differ from the truth."""

    tests: TestMessages
    findings: Findings

    def compare(
        self, client: str, truth: Sequence[bytes], got: Sequence[bytes], known: Callable[[bytes], bool]
    ) -> None:
        """Report how ``got`` differs from ``truth``; ``known``: is this frame elsewhere in the order?"""
        note, shown = self.findings.note, self.tests.shown
        missing = Counter(truth) - Counter(got)
        extra = Counter(got) - Counter(truth)
        for frame in missing.elements():
            note("lost", f"{client} did not get {shown(frame)}")
        for frame in extra.elements():
            if known(frame) or frame in truth:
                note("doubled", f"{client} got {shown(frame)} twice")
            else:
                note("strange", f"{client} got {shown(frame)}, which no other client got")
        if missing or extra:
            return
        names = ", ".join(map(shown, got[:6]))
        note("differing", f"{client} got {names} in another order than the others")
        if self._descends(got):
            note("reordered", f"{client} got one sender's messages out of order: {names}")

    def _descends(self, frames: Sequence[bytes]) -> bool:
        """Say whether any sender's numbers go down."""
        last: dict[int, int] = {}
        for stamp in filter(None, map(self.tests.read, frames)):
            if stamp.number < last.get(stamp.sender, -1):
                return True
            last[stamp.sender] = stamp.number
        return False
