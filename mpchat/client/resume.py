"""Which messages of a room the application has had, over any number of connections. Pure.

The rule: every number is taken once, in ascending order, or is part of a gap that is named. What was said
before one came in, or while one was in another room on purpose, is no gap.
"""

from mpchat.protocol.names import name_key

# Rooms that are remembered; one that was entered longer ago than so many others begins as if never seen.
MAX_ROOMS = 256

# The first and the last number that will not come; None: the server numbers anew, nobody can tell.
Gap = tuple[int, int | None]


class Track:
    """How far one room has been read. ``epoch`` names the server's numbering that ``after`` belongs to."""

    __slots__ = ("_last", "_start", "epoch")

    def __init__(self) -> None:
        """Begin with nothing read."""
        self.epoch = ""
        # The last number that was taken or named as lost.
        self._last = -1
        # Set between a first join and its first message: history may begin anywhere up to the next number.
        self._start: int | None = None

    @property
    def after(self) -> int:
        """The number after which to go on; before the first message, where the room stood at the join."""
        return self._last if self._start is None else max(self._start, self._last)

    def join(self, epoch: str, seq: int) -> None:
        """Note a join that did not ask to go on, into a room whose last number is ``seq``."""
        if self._is_anew(epoch, seq):
            self._last = -1
        self.epoch, self._start = epoch, seq

    def resume(self, epoch: str, seq: int, recovered: bool, lost: Gap | None) -> Gap | None:
        """Note a join that asked to go on from :attr:`after`; returns the gap that it left.

        ``lost`` is what the server says is gone. With ``recovered`` nothing is, also when the epoch is
        another one: after a crash a server begins one that agrees with the one before up to there.
        """
        after = self.after
        goes_on = recovered or (lost is not None and lost[1] is not None)
        if self._is_anew(self.epoch if goes_on else epoch, seq) or (lost is not None and lost[1] is None):
            self.epoch, self._last, self._start = epoch, -1, seq
            return after + 1, None
        self.epoch, self._last, self._start = epoch, after, None
        if lost is None or lost[1] is None or lost[1] <= after:
            return None
        self._last = lost[1]
        return after + 1, lost[1]

    def take(self, seq: int) -> tuple[bool, Gap | None]:
        """Note that message ``seq`` came: is it new, and which gap is before it?"""
        expected = self._last + 1
        if self._start is not None:
            expected = max(expected, min(seq, self._start + 1))
            self._start = None
        if seq < expected:
            return False, None
        self._last = seq
        return True, ((expected, seq - 1) if seq > expected else None)

    def _is_anew(self, epoch: str, seq: int) -> bool:
        # Behind what was read already: the server forgot some, and would use their numbers again.
        return epoch != self.epoch or seq < self.after


class Tracks:
    """The rooms that were entered, the last of them :data:`MAX_ROOMS`."""

    __slots__ = ("_tracks",)

    def __init__(self) -> None:
        """Begin without any."""
        self._tracks: dict[str, Track] = {}

    def get(self, room: str) -> Track | None:
        """Return the track of ``room``, None for a room that was never entered, or too long ago."""
        return self._tracks.get(room)

    def respelled(self, room: str, now: str) -> None:
        """Note that ``room`` is called ``now`` by now, if that is the same name in another spelling: who came
        first after it had been empty has spelled it so."""
        if room != now and room in self._tracks and name_key(room) == name_key(now):
            self._tracks[now] = self._tracks.pop(room)

    def entered(self, room: str) -> Track:
        """Return the track of ``room``, which becomes the one to be forgotten last."""
        track = self._tracks.pop(room, None) or Track()
        self._tracks[room] = track
        if len(self._tracks) > MAX_ROOMS:
            del self._tracks[next(iter(self._tracks))]
        return track
