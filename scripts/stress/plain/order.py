"""Many streams compared with one order, byte for byte, while they arrive. Pure: bytes in, findings out.

Whichever reader is ahead extends the order; all others are compared with it, which costs one ``memcmp`` per
read. No reader is believed for being first: where streams disagree, the order becomes what most readers
received, and the others are named. The class serves twice: in a client process its connections are the
readers, and in the parent the processes are, each with the weight of its connections.

The rule: every byte of every reader is either matched or the subject of a finding, from the first message
sent after the reader had joined to the moment it left. Memory is bounded: what all readers have passed is
settled and dropped, and a reader that holds up more than :data:`WINDOW_BYTES` is given up with a finding.
"""

from dataclasses import dataclass, field
from functools import partial

from scripts.common.frames import split_frames
from scripts.stress.findings import Findings
from scripts.stress.plain.conflicts import NEVER, Conflict, Namer, Reader, State, meeting, regions
from scripts.stress.plain.messages import MARK_SENDER, TestMessages
from scripts.stress.plain.window import Window

__all__ = ["NEVER", "OneOrder", "Reader", "State"]

# Kept behind the slowest reader: a connection on a worker that lags may begin a little before what the others
# have passed. A quarter of a second at 1000 messages of 250 bytes a second.
KEEP_BYTES = 64 * 1024
# What a slow or stalled reader may hold up: five minutes at 1000 messages of 100 bytes a second.
WINDOW_BYTES = 32 * 1024 * 1024
# Equal frames in a row after which two streams count as together again.
AGREEMENT = 8
# Frames after which a stream that has not met the order again is given up.
APART_FRAMES = 256
# Frames by which a stream that went apart may be longer than the order; past that the order continues with
# its frames. If the stream that is wrong was the one ahead, the order would otherwise end there.
TAKE_OVER = 3 * AGREEMENT
# Times that a reader which left before its first message was known is looked at again.
LATE_TRIES = 10


@dataclass
class OneOrder:
    """The order that the readers share."""

    tests: TestMessages
    findings: Findings
    window: int = WINDOW_BYTES
    segment: int = 0  # a new one begins when all readers had left
    seen: dict[int, int] = field(default_factory=dict)  # sender → highest number
    marks: dict[int, int] = field(default_factory=dict)  # number of a mark → offset of its end
    delivered: int = 0  # frames of readers that left
    readers: list[Reader] = field(default_factory=list)
    began: dict[int, int] = field(default_factory=dict)  # segment → when its first reader had joined, in ns

    def __post_init__(self) -> None:
        """Begin the first segment."""
        self._settled: list[tuple[int, bytes]] = []
        self._namer = Namer(self.tests, self.findings)
        self._reset()

    def _reset(self) -> None:
        self._kept = Window(self.tests)
        self._told = 0  # up to where it is decided; what is kept before that is for late joiners
        self._conflicts: list[Conflict] = []
        self.marks.clear()

    @property
    def end(self) -> int:
        """Offset after the last frame."""
        return self._kept.end

    # Readers come, read and go.

    def add(self, reader: Reader, floor: int | None = None) -> Reader:
        """Add a reader that is about to join; its stream may begin at ``floor`` or later."""
        reader.floor = self.end if floor is None else floor
        self.readers.append(reader)
        return reader

    def feed(self, reader: Reader, data: bytes) -> None:
        """Compare the next bytes of a reader's stream."""
        if reader.state is State.FOLLOWING:
            if not reader.tail and self._kept.matches(data, reader.position):
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
        """Note that the reader has left; it owes nothing after what it received."""
        self._last_look(reader, owes_all=False)
        if reader.state is State.WAITING and self._has_tests(reader.tail):
            reader.leaving = True  # its first message may reach the others yet
            return
        self._remove(reader)

    def complete(self, reader: Reader, mark: int) -> bool:
        """Say whether the reader, which still is there, has all up to the mark."""
        end = self.marks.get(mark)
        return end is not None and reader.state is State.FOLLOWING and reader.position >= end

    def finish(self, mark: int) -> None:
        """End: every reader that is still here should have everything up to the mark."""
        self._retry_waiting()
        end = self.marks.get(mark, self.end)
        for reader in list(self.readers):
            self._last_look(reader, owes_all=True)
            if reader.state is State.WAITING and not reader.leaving:
                reader.start = reader.position = max(reader.floor, self._kept.base)
                self._missed(reader, reader.floor, end, "it never got a message")
            elif reader.state is State.FOLLOWING:
                self._missed(reader, reader.position, end, "it was not delivered in time")
        self.settle(final=True)

    def frames_of(self, reader: Reader) -> int:
        """Return how many frames of the order the reader has received."""
        if reader.state not in (State.FOLLOWING, State.APART):
            return 0
        return self._kept.count_before(self._kept.frame_at(reader.position)) - reader.first

    def sent_between(self, start: int, end: int) -> list[int]:
        """Return when the test messages were sent that end in ``start`` < offset ≤ ``end``, in ns."""
        return self._kept.sent_between(start, end)

    def _last_look(self, reader: Reader, owes_all: bool) -> None:
        """Decide what is still open: nothing more comes from this reader."""
        if reader.state is State.FOLLOWING and reader.tail:
            self._follow(reader, reader.tail)
        while reader.state is State.APART:
            self._rejoin_at_end(reader, owes_all)

    def _remove(self, reader: Reader) -> None:
        if reader.state is State.GONE:
            return
        self.delivered += self.frames_of(reader)
        reader.state = State.GONE
        self.readers.remove(reader)

    # Finding a reader's place.

    def _has_tests(self, data: bytes) -> bool:
        return any(map(self.tests.read, split_frames(data)[0]))

    def _place(self, reader: Reader) -> None:
        """Find where a new stream begins, by the first test message that the order knows."""
        at = 0
        for frame in split_frames(reader.tail)[0]:
            offset = self._kept.where.get(frame)
            if offset is not None:
                self._start(reader, offset, at)
                return
            at += len(frame)
        alone = not any(other.state in (State.FOLLOWING, State.APART) for other in self.readers)
        if alone and self._has_tests(reader.tail):
            if self.end:
                self._begin_segment()
            self.began[self.segment] = reader.joined
            self._begin(reader, 0)

    def _begin_segment(self) -> None:
        self.settle(final=True)
        self.segment += 1
        self._reset()
        for reader in self.readers:
            reader.floor = 0

    def _start(self, reader: Reader, offset: int, before: int) -> None:
        """Begin a stream whose bytes from ``before`` on are the order's from ``offset`` on."""
        base = self._kept.base
        start = offset - before
        if start < base:
            self._drop_front(reader, base - start)
            start = base
        # All from the first message on that was sent after it had joined is due, whatever came first.
        due = next(iter(self._kept.sent_after(reader.floor, start, reader.joined)), start)
        if due < start or not self._kept.matches(reader.tail[:before], start):
            start = self._kept.frame_at(due)
        self._begin(reader, start)

    def _drop_front(self, reader: Reader, size: int) -> None:
        """Of ``size`` bytes before the order began, leave out those that are due to no other reader."""
        at_origin = self._kept.base == 0
        if not at_origin:
            self.findings.note("unchecked", f"{reader.name} begins before what is kept")
        latest = max((other.joined for other in self.readers if other.state is State.FOLLOWING), default=0)
        dropped = 0
        for frame in split_frames(reader.tail[:size])[0]:
            stamp = self.tests.read(frame)
            if stamp and stamp.sent > latest and at_origin:
                break
            dropped += len(frame)
        reader.tail = reader.tail[dropped:]

    def _begin(self, reader: Reader, start: int) -> None:
        data, reader.tail = reader.tail, b""
        reader.state = State.FOLLOWING
        reader.start = reader.position = start
        reader.first = self._kept.count_before(start)
        self._follow(reader, data)
        if reader.leaving:
            self._remove(reader)

    # Comparing.

    def _follow(self, reader: Reader, data: bytes) -> None:
        """Match ``data`` from the reader's position on; what goes beyond the order extends it."""
        head = data[: self.end - reader.position]
        if not self._kept.matches(head, reader.position):
            self._part(reader, data)
            return
        reader.position += len(head)
        rest = data[len(head) :]
        reader.tail = split_frames(rest)[1]
        fresh = rest[: len(rest) - len(reader.tail)]
        if fresh:
            self._extend(fresh)
            reader.position = self.end

    def _extend(self, fresh: bytes) -> None:
        for stamp, end in self._kept.append(fresh):
            if stamp.number > self.seen.get(stamp.sender, -1):
                self.seen[stamp.sender] = stamp.number
            if stamp.sender == MARK_SENDER:
                self.marks[stamp.number] = end

    def _part(self, reader: Reader, data: bytes) -> None:
        """Go back to the beginning of the first frame that differs."""
        start = self._kept.frame_at(reader.position)
        data = self._kept.cut(start, reader.position) + data
        at = 0
        for frame in split_frames(data)[0]:
            if not self._kept.matches(frame, start + at):
                break
            at += len(frame)
        reader.position = start + at
        reader.tail = data[at:]
        reader.state = State.APART
        self._rejoin(reader)

    def _ahead(self, reader: Reader) -> tuple[bytes, ...]:
        """Return the order's frames in which a reader that went apart may meet it again."""
        stop = self._kept.end_of_frames(reader.position, APART_FRAMES + AGREEMENT)
        return self._kept.frames(reader.position, stop)

    def _rejoin(self, reader: Reader) -> None:
        """Look for the place where the two streams agree again."""
        got, rest = split_frames(reader.tail)
        ours = self._ahead(reader)
        place = meeting(ours, got[: APART_FRAMES + AGREEMENT], AGREEMENT)
        if place is None and len(got) > len(ours) + TAKE_OVER:
            place = (len(ours), 0)
        if place is not None:
            self._meet(reader, ours, place, (got, rest))
        elif len(got) > APART_FRAMES and len(ours) > APART_FRAMES:
            self.findings.note("differing", f"{reader.name} never meets the order of the others again")
            self._remove(reader)

    def _rejoin_at_end(self, reader: Reader, owes_all: bool) -> None:
        """Decide about a reader that sends no more; ``owes_all``: it should have the order to its end."""
        got, rest = split_frames(reader.tail)
        if not got:
            self.findings.note(
                "strange", f"the last {len(rest)} bytes of {reader.name} are not what others got"
            )
            reader.state, reader.tail = State.FOLLOWING, b""
            return
        ours = self._ahead(reader)
        place = meeting(ours, got[: APART_FRAMES + AGREEMENT], 1)
        self._meet(reader, ours, place or (len(ours) if owes_all else 0, len(got)), (got, rest))

    def _meet(
        self,
        reader: Reader,
        ours: tuple[bytes, ...],
        place: tuple[int, int],
        theirs: tuple[list[bytes], bytes],
    ) -> None:
        """Keep what lies before the meeting place as a conflict, and follow the reader from there on."""
        (skipped, kept), (got, rest) = place, theirs
        end = reader.position + sum(map(len, ours[:skipped]))
        if skipped or kept:
            self._conflicts.append(Conflict(reader.position, end, tuple(got[:kept]), reader))
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
            keep = max(self._kept.base, min(cut, self.end - KEEP_BYTES))
            self._kept.drop(cut if final else self._kept.frame_at(keep))
        if self.end - self._kept.base > self.window:
            self._give_up_slowest()

    def take(self) -> list[tuple[int, bytes]]:
        """Return what was settled since the last call: whole frames, with the segment they belong to."""
        settled, self._settled = self._settled, []
        return settled

    def _retry_waiting(self) -> None:
        """Place readers that were ahead of the others when they came."""
        for reader in [reader for reader in self.readers if reader.state is State.WAITING and reader.tail]:
            if reader.state is State.WAITING:
                self._place(reader)
            reader.tries += reader.leaving
            if reader.state is State.WAITING and reader.tries > LATE_TRIES:
                self.findings.note("unchecked", f"{reader.name} left with messages that no other client got")
                self._remove(reader)

    def _holds(self, reader: Reader) -> int:
        return reader.floor if reader.state is State.WAITING else reader.position

    def _cut(self) -> int:
        low = min(map(self._holds, self.readers), default=self.end)
        low = self._kept.frame_at(low) if low > self._told else self._told
        for conflict in sorted(self._conflicts, key=lambda c: c.start, reverse=True):
            if conflict.end >= low:
                low = min(low, conflict.start)
        return max(low, self._told)

    def _give_up_slowest(self) -> None:
        slowest = min(self.readers, key=self._holds)
        self.findings.note("unchecked", f"{slowest.name} is too far behind to go on being checked")
        self._remove(slowest)

    def _missed(self, reader: Reader, start: int, end: int, why: str) -> None:
        """Report what the reader lacks between two offsets: all that was sent after it had joined."""
        for offset in self._kept.sent_after(start, end, reader.joined):
            name = self.tests.shown(self._kept.frame_from(offset))
            self.findings.note("lost", f"{reader.name} did not get {name}; {why}")

    def _truth(self, cut: int, conflicts: list[Conflict]) -> bytes:
        """Return the order up to ``cut``: where readers disagree, what most of them received."""
        pieces = []
        at = self._told
        for start, end, members in regions(conflicts):
            if start < self._told:  # a late joiner whose frames differ from what was decided
                self._vote(start, end, members, decided=True)
                continue
            pieces.append(self._kept.cut(at, start))
            pieces += self._vote(start, end, members)
            at = end
        pieces.append(self._kept.cut(at, cut))
        return b"".join(pieces)

    def _vote(
        self, start: int, end: int, conflicts: list[Conflict], decided: bool = False
    ) -> tuple[bytes, ...]:
        """Decide a region, and name readers that received something else than the most."""
        ours = self._kept.frames(start, end)
        versions = self._versions(start, end, conflicts)
        truth = ours
        if not decided:
            truth = max(versions, key=lambda version: sum(reader.weight for reader in versions[version]))
        for frame in set(ours).difference(truth):  # it may belong to where it comes again
            if start <= self._kept.where.get(frame, end) < end:
                self._kept.move(frame, end)
        here = {stamp[:2] for stamp in map(self.tests.read, truth) if stamp}
        known = partial(self._known, start, end, here)
        for version, readers in versions.items():
            for reader in readers if version != truth else ():
                self._namer.compare(reader.name, truth, version, known)
        return truth

    def _versions(
        self, start: int, end: int, conflicts: list[Conflict]
    ) -> dict[tuple[bytes, ...], list[Reader]]:
        """Return what the readers received in a region, the order's own version first."""
        dissenters = {conflict.reader for conflict in conflicts}
        agree = [
            reader
            for reader in self.readers
            if reader.state in (State.FOLLOWING, State.APART)  # apart from its position on, not before
            and reader.start <= start
            and reader.position >= end
            and reader not in dissenters
        ]
        versions = {self._kept.frames(start, end): agree}
        for reader in dissenters:
            version = self._version(start, end, [c for c in conflicts if c.reader is reader])
            versions.setdefault(version, []).append(reader)
        return versions

    def _version(self, start: int, end: int, conflicts: list[Conflict]) -> tuple[bytes, ...]:
        """Return what a reader received in a region, from its own conflicts and the order between them."""
        version: tuple[bytes, ...] = ()
        at = start
        for conflict in sorted(conflicts, key=lambda c: (c.start, c.end)):
            version += self._kept.frames(at, conflict.start) + conflict.got
            at = conflict.end
        return version + self._kept.frames(at, end)

    def _known(self, start: int, end: int, here: set[tuple[int, int]], frame: bytes) -> bool:
        """Say whether the order has ``frame`` outside of this region, or had it before.

        ``here`` are the sender and number of those that belong in the region: an altered one is not known.
        """
        offset = self._kept.where.get(frame)
        if offset is not None:
            return not start <= offset < end
        stamp = self.tests.read(frame)
        if stamp is None or stamp[:2] in here:
            return False
        return stamp.number <= self.seen.get(stamp.sender, -1)
