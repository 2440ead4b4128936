"""Which messages of a room the application has got, over any number of connections. Pure.

The rule: every number is taken once, in ascending order, or is part of a gap that is reported. Messages from
before the first join, or from while the client was in another room on purpose, are not a gap.
"""

from mpchat.protocol.names import name_key

# Rooms that are remembered. A room that falls out of them begins as if it was never entered.
MAX_ROOMS = 256

# The first and the last number that will not come; the last is None when the server numbers anew.
Gap = tuple[int, int | None]


class Track:
    """How far one room has been read. ``epoch`` names the server's numbering that ``after`` belongs to."""

    __slots__ = ("_last", "_start", "epoch")

    def __init__(self) -> None:
        """Begin with nothing read."""
        self.epoch = ""
        # The last number that was taken or reported as lost.
        self._last = -1
        # Set between a first join and its first message: history may begin anywhere up to the next number.
        self._start: int | None = None

    @property
    def after(self) -> int:
        """The number to resume after; before the first message, the room's last number at the join."""
        return self._last if self._start is None else max(self._start, self._last)

    def join(self, epoch: str, seq: int) -> None:
        """Note a join that did not ask to resume, into a room whose last number is ``seq``."""
        if self._is_anew(epoch, seq):
            self._last = -1
        self.epoch, self._start = epoch, seq

    def resume(self, epoch: str, seq: int, recovered: bool, lost: Gap | None) -> Gap | None:
        """Note a join that asked to resume from :attr:`after`, or an unasked welcome; return the gap it left.

        ``lost`` is the range that the server no longer has. It may begin below what was read: with several
        hosts all that follows an agreed number is uncertain, and later numbers are given again. With
        ``recovered`` there is none, also when the epoch is another one: after a crash the new epoch agrees
        with the old one up to that number.
        """
        after = self.after
        goes_on = recovered or (lost is not None and lost[1] is not None)
        if self._is_anew(self.epoch if goes_on else epoch, seq) or (lost is not None and lost[1] is None):
            self.epoch, self._last, self._start = epoch, -1, seq
            return (after + 1 if lost is None else min(after + 1, lost[0])), None
        self.epoch, self._last, self._start = epoch, after, None
        if lost is None or lost[1] is None or lost[1] <= after:
            return None
        self._last = lost[1]
        return after + 1, lost[1]

    def take(self, seq: int) -> tuple[bool, Gap | None]:
        """Note that message ``seq`` came; return whether it is new, and the gap before it."""
        expected = self._last + 1
        if self._start is not None:
            expected = max(expected, min(seq, self._start + 1))
            self._start = None
        if seq < expected:
            return False, None
        self._last = seq
        return True, ((expected, seq - 1) if seq > expected else None)

    def _is_anew(self, epoch: str, seq: int) -> bool:
        # A last number below what was read: the server forgot messages, and would reuse their numbers.
        return epoch != self.epoch or seq < self.after


class Tracks:
    """The rooms that were entered, the last of them :data:`MAX_ROOMS`."""

    __slots__ = ("_tracks",)

    def __init__(self) -> None:
        """Begin without any."""
        self._tracks: dict[str, Track] = {}

    def get(self, room: str) -> Track | None:
        """Return the track of ``room``; None for a room that was never entered, or too long ago."""
        return self._tracks.get(room)

    def respelled(self, room: str, now: str) -> None:
        """Note that ``room`` is now spelled ``now``, if that is the same name.

        The first member that enters an empty room decides its spelling.
        """
        if room != now and room in self._tracks and name_key(room) == name_key(now):
            self._tracks[now] = self._tracks.pop(room)

    def entered(self, room: str) -> Track:
        """Return the track of ``room``, and mark it as the last to be forgotten."""
        track = self._tracks.pop(room, None) or Track()
        self._tracks[room] = track
        if len(self._tracks) > MAX_ROOMS:
            del self._tracks[next(iter(self._tracks))]
        return track
