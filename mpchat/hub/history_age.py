"""History age: which stamps of the wall clock are too old, although the clock may have been stepped. Pure.

A message carries the wall clock's time for people and the steady clock's for its age. The file has only the
first. Between two steps of the wall clock both go at one pace, so the difference tells what a stamp means.
"""

from math import inf

# Seconds by which the clocks may come apart before it counts as a step.
STEP = 1.0


class StampedAges:
    """Tells which stamps in a file are too old; where it cannot know, the message is kept.

    Times are in seconds; ``now`` and ``taken`` are on the steady clock.
    """

    def __init__(self, now: float, at: float) -> None:
        """Begin at ``at`` by the wall clock. Earlier stamps may come from any clock."""
        self._offset = at - now
        # The lowest difference of the clocks before the last step, and when that step was.
        self._lowest_before = self._offset
        self._stepped = now

    def note(self, taken: float, at: float) -> None:
        """Take note of a message's two times."""
        if abs(at - taken - self._offset) > STEP:
            self._lowest_before = min(self._lowest_before, self._offset)
            self._offset = at - taken
            self._stepped = taken

    def span(self, now: float, age: float) -> tuple[float, float]:
        """Return the oldest and the newest stamp that a message no older than ``age`` can have.

        Until ``age`` after a step, stamps from before it count too. So a message stays for
        at most twice ``age``.
        """
        oldest = now + self._offset - age
        if self._stepped >= now - age:
            return min(oldest, now + self._lowest_before - age), inf
        self._lowest_before = self._offset
        return oldest, now + self._offset + 2 * STEP
