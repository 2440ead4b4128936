"""Many streams compared with one order, frame for frame, while they arrive. Pure: frames in, findings out.

The reader that is ahead extends the order; all others are compared with it. No reader is believed for being
first: where streams disagree, the order becomes what most readers received, and the others are named. The
class serves twice: in a client process its connections are the readers, and in the parent the processes are,
each with the weight of its connections.

The rule: every frame of every reader is either matched or the subject of a finding, from the first message
sent after the reader had joined to the moment it left. Memory is bounded: what all readers have passed is
settled and dropped, and a reader that holds up more than :data:`WINDOW_BYTES` is given up with a finding.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from scripts.stress.findings import Findings
from scripts.stress.plain.conflicts import Conflict, Namer, Reader, State, meeting, regions
from scripts.stress.plain.messages import MARK_SENDER, TestMessages

# Frames kept behind the slowest reader: a connection on a worker that lags may begin a little before what the
# others have passed. Half a second at 1000 messages a second.
KEEP = 500
# What a slow or stalled reader may hold up: five minutes at 1000 messages of 100 bytes a second.
WINDOW_BYTES = 32 * 1024 * 1024
# Equal frames in a row after which two streams count as together again.
AGREEMENT = 8
# Frames after which a stream that has not met the order again is given up.
APART = 256
# Frames by which a stream that went apart may be longer than the order; past that the order continues with
# its frames. If the stream that is wrong was the one ahead, the order would otherwise end there.
TAKE_OVER = 3 * AGREEMENT
# Times that a reader which left before its first message was known is looked at again.
LATE_TRIES = 10


@dataclass
class OneOrder:
    """The order that the readers share. Places count frames from where the segment began."""

    tests: TestMessages
    findings: Findings
    window: int = WINDOW_BYTES
    segment: int = 0  # a new one begins after all readers have left
    seen: dict[int, int] = field(default_factory=dict)  # sender → highest number
    marks: dict[int, int] = field(default_factory=dict)  # number of a mark → the place after it
    delivered: int = 0  # frames of readers that left
    readers: list[Reader] = field(default_factory=list)
    began: dict[int, int] = field(default_factory=dict)  # segment → when its first reader had joined, in ns

    def __post_init__(self) -> None:
        """Begin the first segment."""
        self._settled: list[tuple[int, list[bytes]]] = []
        self._namer = Namer(self.tests, self.findings)
        self._reset()

    def _reset(self) -> None:
        self._base = 0  # the place of the first frame that is kept
        self._frames: list[bytes] = []
        self._sent: list[int] = []  # when each was sent (ns), 0 for no test message
        self._bytes = [0]  # of the segment, before each frame and after the last
        self._where: dict[bytes, int] = {}  # test message → its place
        self._told = 0  # up to where it is decided; what is kept before that is for late joiners
        self._conflicts: list[Conflict] = []
        self.marks.clear()

    @property
    def end(self) -> int:
        """The place after the last frame."""
        return self._base + len(self._frames)

    def frames(self, start: int, end: int) -> list[bytes]:
        """Return the frames between two places."""
        return self._frames[start - self._base : end - self._base]

    def bytes_before(self, place: int) -> int:
        """Return the bytes of the segment before a place."""
        return self._bytes[place - self._base]

    def sent_between(self, start: int, end: int) -> list[int]:
        """Return when the test messages between two places were sent, in ns."""
        return list(filter(None, self._sent[start - self._base : end - self._base]))

    def _due(self, start: int, end: int, joined: int) -> list[int]:
        """Return the places, between two places, of test messages that were sent after ``joined`` (ns)."""
        return [at for at in range(max(start, self._base), end) if self._sent[at - self._base] > joined]

    # Readers come, read and go.

    def add(self, reader: Reader, floor: int | None = None) -> Reader:
        """Add a reader that is about to join; its stream may begin at ``floor`` or later."""
        reader.floor = self.end if floor is None else floor
        self.readers.append(reader)
        return reader

    def feed(self, reader: Reader, frames: list[bytes]) -> None:
        """Compare the next frames of a reader's stream."""
        if reader.state is State.GONE or not frames:
            return
        reader.unmatched += frames
        if reader.state is State.FOLLOWING:
            self._follow(reader)
        elif reader.state is State.WAITING:
            self._place(reader)
        else:
            self._rejoin(reader)

    def close(self, reader: Reader) -> None:
        """Note that the reader has left; it owes nothing after what it received."""
        self._last_look(reader, owes_all=False)
        if reader.state is State.WAITING and self._has_tests(reader):
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
                reader.start = reader.position = max(reader.floor, self._base)
                self._missed(reader, end, "it never got a message")
            elif reader.state is State.FOLLOWING:
                self._missed(reader, end, "it was not delivered in time")
        self.settle(final=True)

    def frames_of(self, reader: Reader) -> int:
        """Return how many frames of the order the reader has received."""
        return reader.position - reader.start if reader.state in (State.FOLLOWING, State.APART) else 0

    def _last_look(self, reader: Reader, owes_all: bool) -> None:
        """Decide what is still open: nothing more comes from this reader."""
        while reader.state is State.APART:
            self._rejoin_at_end(reader, owes_all)
        follows = reader.state is State.FOLLOWING and reader.position < self.end
        if follows and not self._frames[reader.position - self._base].startswith(reader.rest):
            text = f"the last {len(reader.rest)} bytes of {reader.name} are not what others got"
            self.findings.note("strange", text)

    def _remove(self, reader: Reader) -> None:
        if reader.state is State.GONE:
            return
        self.delivered += self.frames_of(reader)
        reader.state = State.GONE
        self.readers.remove(reader)

    # Finding a reader's place.

    def _has_tests(self, reader: Reader) -> bool:
        return any(map(self.tests.read, reader.unmatched))

    def _place(self, reader: Reader) -> None:
        """Find where a new stream begins, by the first test message that the order knows."""
        for before, frame in enumerate(reader.unmatched):
            place = self._where.get(frame)
            if place is not None:
                self._start(reader, place, before)
                return
        alone = not any(other.state in (State.FOLLOWING, State.APART) for other in self.readers)
        if alone and self._has_tests(reader):
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

    def _start(self, reader: Reader, place: int, before: int) -> None:
        """Begin a stream that has ``before`` frames before the one that the order has at ``place``."""
        start = place - before
        if start < self._base:
            self._drop_front(reader, self._base - start)
            start = self._base
        # All from the first message on that was sent after it had joined is due, whatever came first.
        due = next(iter(self._due(reader.floor, start, reader.joined)), start)
        if due < start or reader.unmatched[: place - start] != self.frames(start, place):
            start = due
        self._begin(reader, start)

    def _drop_front(self, reader: Reader, count: int) -> None:
        """Of ``count`` frames before the order began, leave out those that are due to no other reader."""
        at_origin = self._base == 0
        if not at_origin:
            self.findings.note("unchecked", f"{reader.name} begins before what is kept")
        latest = max((other.joined for other in self.readers if other.state is State.FOLLOWING), default=0)
        dropped = 0
        for stamp in map(self.tests.read, reader.unmatched[:count]):
            if stamp and stamp.sent > latest and at_origin:
                break
            dropped += 1
        del reader.unmatched[:dropped]

    def _begin(self, reader: Reader, start: int) -> None:
        reader.state = State.FOLLOWING
        reader.start = reader.position = start
        self._follow(reader)
        if reader.leaving:
            self._remove(reader)

    # Comparing.

    def _follow(self, reader: Reader) -> None:
        """Match frames from the reader's position on; what goes beyond the order extends it."""
        got = reader.unmatched
        ours = self.frames(reader.position, reader.position + len(got))
        if ours != got[: len(ours)]:
            equal = next(at for at, (our, their) in enumerate(zip(ours, got, strict=False)) if our != their)
            reader.position += equal
            del got[:equal]
            reader.state = State.APART
            self._rejoin(reader)
            return
        self._extend(got[len(ours) :])
        reader.position += len(got)
        reader.unmatched = []

    def _extend(self, fresh: list[bytes]) -> None:
        for place, frame in enumerate(fresh, self.end):
            stamp = self.tests.read(frame)
            self._frames.append(frame)
            self._sent.append(stamp.sent if stamp else 0)
            self._bytes.append(self._bytes[-1] + len(frame))
            if stamp:
                self._where.setdefault(frame, place)
                self.seen[stamp.sender] = max(stamp.number, self.seen.get(stamp.sender, -1))
                if stamp.sender == MARK_SENDER:
                    self.marks[stamp.number] = place + 1

    def _ahead(self, reader: Reader) -> tuple[list[bytes], list[bytes]]:
        """Return the order's frames and the reader's in which a reader that went apart may meet it again."""
        most = APART + AGREEMENT
        return self.frames(reader.position, reader.position + most), reader.unmatched[:most]

    def _rejoin(self, reader: Reader) -> None:
        """Look for the place where the two streams agree again."""
        ours, got = self._ahead(reader)
        place = meeting(ours, got, AGREEMENT)
        if place is None and len(reader.unmatched) > len(ours) + TAKE_OVER:
            place = (len(ours), 0)
        if place is not None:
            self._meet(reader, *place)
        elif len(got) > APART and len(ours) > APART:
            self.findings.note("differing", f"{reader.name} never meets the order of the others again")
            self._remove(reader)

    def _rejoin_at_end(self, reader: Reader, owes_all: bool) -> None:
        """Decide about a reader that gets no more; ``owes_all``: it should have the order to its end."""
        ours, got = self._ahead(reader)
        nowhere = (len(ours) if owes_all else 0, len(reader.unmatched))
        self._meet(reader, *(meeting(ours, got, 1) or nowhere))

    def _meet(self, reader: Reader, skipped: int, kept: int) -> None:
        """Keep what lies before the meeting place as a conflict, and follow the reader from there on."""
        end = reader.position + skipped
        if skipped or kept:
            got = tuple(reader.unmatched[:kept])
            self._conflicts.append(Conflict(reader.position, end, got, reader))
        reader.position = end
        reader.state = State.FOLLOWING
        del reader.unmatched[:kept]
        self._follow(reader)

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
            self._drop(cut if final else max(self._base, min(cut, self.end - KEEP)))
        if self._bytes[-1] - self._bytes[0] > self.window:
            slowest = min(self.readers, key=self._holds)
            self.findings.note("unchecked", f"{slowest.name} is too far behind to go on being checked")
            self._remove(slowest)

    def take(self) -> list[tuple[int, list[bytes]]]:
        """Return the frames that were settled since the last call, with the segment they belong to."""
        settled, self._settled = self._settled, []
        return settled

    def _drop(self, cut: int) -> None:
        """Forget everything before a place."""
        for frame in self.frames(self._base, cut):
            if self._where.get(frame, cut) < cut:
                del self._where[frame]
        for kept in (self._frames, self._sent, self._bytes):
            del kept[: cut - self._base]
        self._base = cut

    def _retry_waiting(self) -> None:
        """Place readers that were ahead of the others when they came."""
        for reader in [reader for reader in self.readers if reader.state is State.WAITING]:
            self._place(reader)
            reader.tries += reader.leaving
            if reader.state is State.WAITING and reader.tries > LATE_TRIES:
                self.findings.note("unchecked", f"{reader.name} left with messages that no other client got")
                self._remove(reader)

    def _holds(self, reader: Reader) -> int:
        return reader.floor if reader.state is State.WAITING else reader.position

    def _cut(self) -> int:
        low = min(map(self._holds, self.readers), default=self.end)
        for conflict in sorted(self._conflicts, key=lambda c: c.start, reverse=True):
            if conflict.end >= low:
                low = min(low, conflict.start)
        return max(low, self._told)

    def _missed(self, reader: Reader, end: int, why: str) -> None:
        """Report what the reader lacks up to a place: all that was sent after it had joined."""
        for place in self._due(reader.position, end, reader.joined):
            name = self.tests.shown(self._frames[place - self._base])
            self.findings.note("lost", f"{reader.name} did not get {name}; {why}")

    def _truth(self, cut: int, conflicts: list[Conflict]) -> list[bytes]:
        """Return the order up to ``cut``: where readers disagree, what most of them received."""
        truth: list[bytes] = []
        at = self._told
        for start, end, members in regions(conflicts):
            decided = start < self._told  # a late joiner whose frames differ from what was decided
            voted = self._vote(start, end, members, decided)
            if not decided:
                truth += [*self.frames(at, start), *voted]
                at = end
        return truth + self.frames(at, cut)

    def _vote(self, start: int, end: int, conflicts: list[Conflict], decided: bool) -> tuple[bytes, ...]:
        """Decide a region, and name readers that received something else than the most."""
        ours = truth = tuple(self.frames(start, end))
        versions = self._versions(start, end, conflicts)
        if not decided:
            truth = max(versions, key=lambda version: sum(reader.weight for reader in versions[version]))
        for frame in set(ours).difference(truth):  # it may belong to where it comes again
            if start <= self._where.get(frame, end) < end:
                with suppress(ValueError):
                    self._where[frame] = self._base + self._frames.index(frame, end - self._base)
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
        versions = {tuple(self.frames(start, end)): agree}
        for reader in dissenters:
            version, at = [], start
            for conflict in sorted(
                (each for each in conflicts if each.reader is reader), key=lambda c: (c.start, c.end)
            ):
                version += [*self.frames(at, conflict.start), *conflict.got]
                at = conflict.end
            versions.setdefault((*version, *self.frames(at, end)), []).append(reader)
        return versions

    def _known(self, start: int, end: int, here: set[tuple[int, int]], frame: bytes) -> bool:
        """Say whether the order has ``frame`` outside of this region, or had it before.

        ``here`` are the sender and number of those that belong in the region: an altered one is not known.
        """
        place = self._where.get(frame)
        if place is not None:
            return not start <= place < end
        stamp = self.tests.read(frame)
        if stamp is None or stamp[:2] in here:
            return False
        return stamp.number <= self.seen.get(stamp.sender, -1)
