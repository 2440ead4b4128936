"""Many streams held against one order, byte for byte, while they arrive. Pure: bytes in, findings out.

Whichever reader is ahead extends the order; all others are compared with it, which costs one ``memcmp`` per
read. Nobody is believed for being first: where streams disagree, what most readers got becomes the order, and
the others are named. The same class serves twice: in each client process its connections are the readers, and
in the parent the processes are, each with the weight of its connections.

The rule: every byte of every reader is either matched or the subject of a finding, from the first message
sent after the reader had joined to the moment it left. Memory is bounded: what all readers have passed is
settled and dropped, and a reader that holds up more than :data:`WINDOW_BYTES` is given up with a finding.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from stress_findings import Findings
from stress_frames import HERALD, Talk, split_frames

# Kept behind the slowest reader: a connection on a worker that lags may begin a little before what the others
# have passed. A quarter of a second at 1000 messages of 250 bytes a second.
KEEP_BYTES = 64 * 1024
# What a slow or stalled reader may hold up: five minutes at 1000 messages of 100 bytes a second.
WINDOW_BYTES = 32 * 1024 * 1024
# Equal frames in a row after which two streams count as together again.
AGREEMENT = 8
# Frames after which a stream that has not met the order again is given up.
APART_FRAMES = 256
# Frames by which a stream that went apart may be longer than the order before it is what the order goes on
# with. Were the one that is wrong the one that was ahead, the order would otherwise end there.
TAKE_OVER = 3 * AGREEMENT
# Times that a reader which left before its first message was known is looked at again.
LATE_TRIES = 10
# The time of joining of one that has not joined yet, in ns.
NEVER = 2**63


class State(Enum):
    """Where a reader stands towards the order."""

    WAITING = "its place is not known yet"
    FOLLOWING = "matches so far"
    APART = "differs, and has not met the order again"
    GONE = "left, or given up"


@dataclass(eq=False, slots=True)
class Reader:
    """One stream. Offsets are bytes of the order, counted from where its segment began."""

    name: str
    joined: int = NEVER  # ns, monotonic; what was sent later must be in its stream
    weight: int = 1  # its votes
    state: State = State.WAITING
    floor: int = 0  # end of the order when it was about to join
    start: int = 0
    position: int = 0
    tail: bytes = b""  # read, but not matched yet: half a frame, or all since it went apart
    first: int = 0  # count of the frame it began with
    leaving: bool = False
    tries: int = 0


@dataclass(frozen=True)
class _Conflict:
    """Instead of the order's bytes from ``start`` to ``end``, ``reader`` got ``got``."""

    start: int
    end: int
    got: tuple[bytes, ...]
    reader: Reader


@dataclass
class OneOrder:
    """The order that the readers share."""

    talk: Talk
    findings: Findings
    window: int = WINDOW_BYTES
    segment: int = 0  # a new one begins when all readers had left
    seen: dict[int, int] = field(default_factory=dict)  # sender → highest number
    marks: dict[int, int] = field(default_factory=dict)  # number of a mark → offset of its end
    delivered: int = 0  # frames of readers that left

    def __post_init__(self) -> None:
        self.readers: list[Reader] = []
        self.began: dict[int, int] = {}  # segment → when the reader had joined that began it, in ns
        self._settled: list[tuple[int, bytes]] = []
        self._reset()

    def _reset(self) -> None:
        self._data = bytearray()
        self._origin = self._base = 0  # where the segment begins, where _data does
        self._told = 0  # up to where it is decided; what is kept before that is for late joiners
        self._starts: list[int] = []  # offset of each frame in _data
        self._sent: list[int] = []  # when it was sent, 0 for no test message
        self._count = 0  # count of the first of them
        self._where: dict[bytes, int] = {}  # test message → offset
        self._conflicts: list[_Conflict] = []
        self.marks.clear()

    @property
    def end(self) -> int:
        """Offset after the last frame."""
        return self._base + len(self._data)

    # Readers come, read and go.

    def add(self, reader: Reader, floor: int | None = None) -> Reader:
        """Take a reader that is about to join; its stream may begin at ``floor`` or later."""
        reader.floor = self.end if floor is None else floor
        self.readers.append(reader)
        return reader

    def feed(self, reader: Reader, data: bytes) -> None:
        """Take the next bytes of a reader's stream."""
        if reader.state is State.FOLLOWING:
            if not reader.tail and self._data.startswith(data, reader.position - self._base):
                reader.position += len(data)
                return
            self._follow(reader, reader.tail + data)
            return
        if reader.state is State.GONE:
            return
        reader.tail += data
        if reader.state is State.WAITING:
            self._place(reader)
        else:
            self._rejoin(reader)

    def close(self, reader: Reader) -> None:
        """The reader has left; it owes nothing after what it got."""
        self._last_look(reader, owes_all=False)
        if reader.state is State.WAITING and self._tests(reader.tail):
            reader.leaving = True  # its first message may reach the others yet
            return
        self._remove(reader)

    def complete(self, reader: Reader, mark: int) -> bool:
        """Say whether the reader, which still is there, has all up to the mark."""
        end = self.marks.get(mark)
        return end is not None and reader.state is State.FOLLOWING and reader.position >= end

    def finish(self, mark: int) -> None:
        """The end: whoever is still here should have everything up to the mark."""
        self._retry_waiting()
        end = self.marks.get(mark, self.end)
        for reader in list(self.readers):
            self._last_look(reader, owes_all=True)
            if reader.state is State.WAITING and not reader.leaving:
                reader.start = reader.position = max(reader.floor, self._base)
                self._missed(reader, reader.floor, end, "it never got a message")
            elif reader.state is State.FOLLOWING:
                self._missed(reader, reader.position, end, "it was not delivered in time")
        self.settle(final=True)

    def frames_of(self, reader: Reader) -> int:
        """Return how many frames of the order the reader has got."""
        if reader.state not in (State.FOLLOWING, State.APART):
            return 0
        return self._count + bisect_left(self._starts, self._frame_at(reader.position)) - reader.first

    def sent_between(self, start: int, end: int) -> list[int]:
        """Return when the test messages were sent that end in ``start`` < offset ≤ ``end``, in ns."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        sent = []
        for index in range(first, bisect_left(self._starts, end)):
            frame_end = self._starts[index + 1] if index + 1 < len(self._starts) else self.end
            if start < frame_end <= end and self._sent[index]:
                sent.append(self._sent[index])
        return sent

    def _last_look(self, reader: Reader, owes_all: bool) -> None:
        """Nothing more comes from this reader: decide what is still open. Who left early owes no more."""
        if reader.state is State.FOLLOWING and reader.tail:
            self._follow(reader, reader.tail)
        while reader.state is State.APART:
            self._rejoin(reader, final=True, owes_all=owes_all)

    def _remove(self, reader: Reader) -> None:
        if reader.state is State.GONE:
            return
        self.delivered += self.frames_of(reader)
        reader.state = State.GONE
        self.readers.remove(reader)

    # Finding a reader's place.

    def _tests(self, data: bytes) -> bool:
        return any(map(self.talk.read, split_frames(data)[0]))

    def _place(self, reader: Reader) -> None:
        """Find where a new stream begins, by the first test message that the order knows."""
        at = 0
        tests = False
        for frame in split_frames(reader.tail)[0]:
            offset = self._where.get(frame)
            if offset is not None:
                self._start(reader, offset, at)
                return
            tests = tests or self.talk.read(frame) is not None
            at += len(frame)
        if tests and not any(other.state in (State.FOLLOWING, State.APART) for other in self.readers):
            if self._data or self._base:
                self.settle(final=True)
                self.segment += 1
                self._reset()
                for other in self.readers:
                    other.floor = 0
            self.began[self.segment] = reader.joined
            self._begin(reader, 0)

    def _start(self, reader: Reader, offset: int, before: int) -> None:
        """The stream's bytes from ``before`` on are the order's from ``offset`` on."""
        start = offset - before
        if start < self._base:
            self._drop_front(reader, self._base - start)
            start = self._base
        # All from the first message on that was sent after it had joined is due, whatever came first.
        due = self._first_due(reader, start)
        if due < start or not self._data.startswith(reader.tail[:before], start - self._base):
            start = self._frame_at(due)
        self._begin(reader, start)

    def _first_due(self, reader: Reader, end: int) -> int:
        for index in range(bisect_left(self._starts, reader.floor), bisect_left(self._starts, end)):
            if self._sent[index] > reader.joined:
                return self._starts[index]
        return end

    def _drop_front(self, reader: Reader, size: int) -> None:
        """Of ``size`` bytes before the order began, leave out what is due to nobody else who is here."""
        if self._base != self._origin:
            self.findings.note("unchecked", f"{reader.name} begins before what is kept")
        latest = max((other.joined for other in self.readers if other.state is State.FOLLOWING), default=0)
        dropped = 0
        for frame in split_frames(reader.tail[:size])[0]:
            test = self.talk.read(frame)
            if test and test.sent > latest and self._base == self._origin:
                break
            dropped += len(frame)
        reader.tail = reader.tail[dropped:]

    def _begin(self, reader: Reader, start: int) -> None:
        data, reader.tail = reader.tail, b""
        reader.state = State.FOLLOWING
        reader.start = reader.position = start
        reader.first = self._count + bisect_left(self._starts, start)
        self._follow(reader, data)
        if reader.leaving:
            self._remove(reader)

    def _index(self, data: bytes, at: int) -> tuple[list[int], list[int]]:
        starts, times = [], []
        for frame in split_frames(data)[0]:
            test = self.talk.read(frame)
            starts.append(at)
            times.append(test.sent if test else 0)
            at += len(frame)
            if test is None:
                continue
            self._where.setdefault(frame, at - len(frame))
            if test.number > self.seen.get(test.sender, -1):
                self.seen[test.sender] = test.number
            if test.sender == HERALD:
                self.marks[test.number] = at
        return starts, times

    # Comparing.

    def _follow(self, reader: Reader, data: bytes) -> None:
        """Match ``data`` from the reader's position on; what goes beyond the order extends it."""
        head = data[: self.end - reader.position]
        if not self._data.startswith(head, reader.position - self._base):
            self._part(reader, data)
            return
        reader.position += len(head)
        rest = data[len(head) :]
        if not rest:
            reader.tail = b""
            return
        reader.tail = split_frames(rest)[1]
        fresh = rest[: len(rest) - len(reader.tail)]
        starts, sent = self._index(fresh, self.end)
        self._starts += starts
        self._sent += sent
        self._data += fresh
        reader.position = self.end

    def _frame_at(self, offset: int) -> int:
        """Return where the frame begins that ``offset`` lies in."""
        index = bisect_right(self._starts, offset) - 1
        return self.end if offset >= self.end or index < 0 else self._starts[index]

    def _part(self, reader: Reader, data: bytes) -> None:
        """Go back to the beginning of the first frame that differs."""
        start = self._frame_at(reader.position)
        data = bytes(self._data[start - self._base : reader.position - self._base]) + data
        at = 0
        for frame in split_frames(data)[0]:
            if not self._data.startswith(frame, start - self._base + at):
                break
            at += len(frame)
        reader.position = start + at
        reader.tail = data[at:]
        reader.state = State.APART
        self._rejoin(reader)

    def _frames(self, start: int, end: int) -> tuple[bytes, ...]:
        return tuple(split_frames(bytes(self._data[start - self._base : end - self._base]))[0])

    def _rejoin(self, reader: Reader, final: bool = False, owes_all: bool = False) -> None:
        """Look for the place where the two streams agree again, and keep what lies before as a conflict."""
        got, rest = split_frames(reader.tail)
        if final and not got:
            self.findings.note(
                "strange", f"the last {len(rest)} bytes of {reader.name} are not what others got"
            )
            reader.state, reader.tail = State.FOLLOWING, b""
            return
        first = bisect_left(self._starts, reader.position)
        last = min(len(self._starts), first + APART_FRAMES + AGREEMENT)
        stop = self._starts[last] if last < len(self._starts) else self.end
        ours = self._frames(reader.position, stop)
        place = _meeting(ours, got[: APART_FRAMES + AGREEMENT], 1 if final else AGREEMENT)
        if place is None and final:
            place = (len(ours) if owes_all else 0, len(got))
        elif place is None and len(got) > len(ours) + TAKE_OVER:
            place = (len(ours), 0)
        if place is None:
            if len(got) > APART_FRAMES and len(ours) > APART_FRAMES:
                self.findings.note("differing", f"{reader.name} never meets the order of the others again")
                self._remove(reader)
            return
        skipped, kept = place
        end = reader.position + sum(map(len, ours[:skipped]))
        if skipped or kept:
            self._conflicts.append(_Conflict(reader.position, end, tuple(got[:kept]), reader))
        reader.position = end
        reader.state = State.FOLLOWING
        reader.tail = b""
        self._follow(reader, b"".join(got[kept:]) + rest)

    # Settling.

    def settle(self, final: bool = False) -> None:
        """Decide and drop what every reader has passed; with ``final`` all there is."""
        if not final:
            self._retry_waiting()
        cut = self.end if final else self._cut()
        if cut > self._told or final:
            decided = [conflict for conflict in self._conflicts if final or conflict.end < cut]
            truth = self._truth(cut, decided)
            if truth:
                self._settled.append((self.segment, truth))
            self._conflicts = [conflict for conflict in self._conflicts if conflict not in decided]
            self._told = cut
            self._trim(cut if final else self._frame_at(max(self._base, min(cut, self.end - KEEP_BYTES))))
        if self.end - self._base > self.window:
            self._give_up_slowest()

    def take(self) -> list[tuple[int, bytes]]:
        """Return what was settled since the last call: whole frames, with the segment they belong to."""
        settled, self._settled = self._settled, []
        return settled

    def _retry_waiting(self) -> None:
        """Place those who were ahead of the others when they came."""
        for reader in [reader for reader in self.readers if reader.state is State.WAITING and reader.tail]:
            if reader.state is State.WAITING:
                self._place(reader)
            reader.tries += reader.leaving
            if reader.state is State.WAITING and reader.tries > LATE_TRIES:
                self.findings.note("unchecked", f"{reader.name} left with messages that nobody else got")
                self._remove(reader)

    def _holds(self, reader: Reader) -> int:
        return reader.floor if reader.state is State.WAITING else reader.position

    def _cut(self) -> int:
        low = min(map(self._holds, self.readers), default=self.end)
        for conflict in sorted(self._conflicts, key=lambda c: c.start, reverse=True):
            if conflict.end >= low:
                low = min(low, conflict.start)
        return self._frame_at(low) if low > self._told else self._told

    def _give_up_slowest(self) -> None:
        slowest = min(self.readers, key=self._holds)
        self.findings.note("unchecked", f"{slowest.name} is too far behind to go on being checked")
        self._remove(slowest)

    def _missed(self, reader: Reader, start: int, end: int, why: str) -> None:
        """Name what the reader should have got between two offsets: all that was sent after it had joined."""
        for index in range(bisect_left(self._starts, start), bisect_left(self._starts, end)):
            if self._sent[index] > reader.joined:
                test = self.talk.read(self._frame(index))
                if test:
                    name = f"{test.sender}:{test.number}"
                    self.findings.note("lost", f"{reader.name} did not get {name}; {why}")

    def _frame(self, index: int) -> bytes:
        end = self._starts[index + 1] if index + 1 < len(self._starts) else self.end
        return bytes(self._data[self._starts[index] - self._base : end - self._base])

    def _trim(self, cut: int) -> None:
        first = bisect_left(self._starts, cut)
        for frame in split_frames(bytes(self._data[: cut - self._base]))[0]:
            if self._where.get(frame, cut) < cut:
                del self._where[frame]
        del self._data[: cut - self._base]
        del self._starts[:first]
        del self._sent[:first]
        self._count += first
        self._base = cut

    def _truth(self, cut: int, conflicts: list[_Conflict]) -> bytes:
        """Return the order up to ``cut``, with what most readers got wherever they disagree."""
        pieces = []
        at = self._told
        for start, end, members in _regions(conflicts):
            if start < self._told:  # one who joined late, and what it got differs from what was decided
                self._vote(start, end, members, decided=True)
                continue
            pieces.append(bytes(self._data[at - self._base : start - self._base]))
            pieces += self._vote(start, end, members)
            at = end
        pieces.append(bytes(self._data[at - self._base : cut - self._base]))
        return b"".join(pieces)

    def _vote(
        self, start: int, end: int, conflicts: list[_Conflict], decided: bool = False
    ) -> tuple[bytes, ...]:
        """Decide one region, and name those who got something else than the most."""
        ours = self._frames(start, end)
        versions: dict[tuple[bytes, ...], list[Reader]] = {ours: []}
        dissenters = {conflict.reader for conflict in conflicts}
        for reader in self.readers:
            here = reader.state in (State.FOLLOWING, State.APART)  # apart from its position on, not before
            passed = here and reader.start <= start and reader.position >= end
            if passed and reader not in dissenters:
                versions[ours].append(reader)
        for reader in dissenters:
            version = self._version(start, end, [c for c in conflicts if c.reader is reader])
            versions.setdefault(version, []).append(reader)
        truth = ours
        if not decided:
            truth = max(versions, key=lambda version: sum(reader.weight for reader in versions[version]))
        for frame in set(ours).difference(truth):  # it may belong to where it comes again
            again = self._data.find(frame, end - self._base)
            if again >= 0 and start <= self._where.get(frame, end) < end:
                self._where[frame] = self._base + again
        known = partial(self._known, start, end, {test[:2] for test in map(self.talk.read, truth) if test})
        for version, readers in versions.items():
            for reader in readers if version != truth else ():
                self.findings.compare(reader.name, truth, version, known, self.talk)
        return truth

    def _version(self, start: int, end: int, conflicts: list[_Conflict]) -> tuple[bytes, ...]:
        """Return what one reader got in a region, from its own conflicts and the order between them."""
        version: tuple[bytes, ...] = ()
        at = start
        for conflict in sorted(conflicts, key=lambda c: (c.start, c.end)):
            version += self._frames(at, conflict.start) + conflict.got
            at = conflict.end
        return version + self._frames(at, end)

    def _known(self, start: int, end: int, here: set[tuple[int, int]], frame: bytes) -> bool:
        """Say whether the order has ``frame`` outside of this region, or had it before.

        ``here`` are the sender and number of those that belong in the region: an altered one is not known.
        """
        offset = self._where.get(frame)
        if offset is not None:
            return not start <= offset < end
        test = self.talk.read(frame)
        if test is None or test[:2] in here:
            return False
        return test.number <= self.seen.get(test.sender, -1)


def _meeting(ours: tuple[bytes, ...], got: list[bytes], agreement: int) -> tuple[int, int] | None:
    """Return how many frames of each to leave out, as few as possible, until ``agreement`` frames are equal.

    With ``agreement`` 1 the streams are at their end: they must then agree for as long as both go on.
    """
    for left_out in range(len(ours) + len(got) + 1):
        for skipped in range(max(0, left_out - len(got)), min(left_out, len(ours)) + 1):
            kept = left_out - skipped
            length = min(len(ours) - skipped, len(got) - kept)
            if agreement > 1:
                if length < agreement:
                    continue
                length = agreement
            elif length < 1:
                continue
            if ours[skipped : skipped + length] == tuple(got[kept : kept + length]):
                return skipped, kept
    return None


def _regions(conflicts: Iterable[_Conflict]) -> list[tuple[int, int, list[_Conflict]]]:
    """Join conflicts that overlap or touch."""
    regions: list[tuple[int, int, list[_Conflict]]] = []
    for conflict in sorted(conflicts, key=lambda c: (c.start, c.end)):
        if regions and conflict.start <= regions[-1][1]:
            start, end, members = regions[-1]
            regions[-1] = (start, max(end, conflict.end), [*members, conflict])
        else:
            regions.append((conflict.start, conflict.end, [conflict]))
    return regions
