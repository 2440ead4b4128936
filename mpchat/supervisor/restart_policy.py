"""When a dead worker is replaced, and when a start is given up: a pure decision.

The place of a worker that has served is taken again, always: the pause grows, and the tries go on.
"""

from random import Random

# First pause before a dead worker is replaced, its growth, and its ceiling, in seconds. The first is short:
# a worker killed by hand should be back before anybody looks.
BACKOFF_FIRST = 0.1
BACKOFF_FACTOR = 2.0
BACKOFF_MOST = 60.0
# Doublings of the pause, at most: far above the ceiling, and far below what a float holds.
_MOST_DOUBLINGS = 20
# A worker that served for this long (seconds) was all right: its next death starts the count anew.
PROVEN = 10.0
# Deaths in a row, none of them proven, after which no client is to wait for the slot's next worker.
DEATHS_TO_FAILING = 6
# The same while the server starts, which then fails: a mistake that kills every worker should be reported at
# once.
DEATHS_AT_START = 3


class BackOff:
    """Counts one slot's deaths in a row and decides what follows each."""

    def __init__(self, random: Random) -> None:
        self.deaths = 0
        self._random = random

    @property
    def failing(self) -> bool:
        """True when worker after worker has died: the next one will probably die too."""
        return self.deaths >= DEATHS_TO_FAILING

    def after_death(self, lived: float, most: int | None = None) -> float | None:
        """Take note of a death after ``lived`` seconds of service (0: it was never ready).

        Return the pause in seconds before the next try, or None after ``most`` deaths. The pause doubles with
        each death and is drawn from its upper half, so that slots do not come back in step.
        """
        self.deaths = 1 if lived >= PROVEN else self.deaths + 1
        if most is not None and self.deaths >= most:
            return None
        doublings = min(self.deaths - 1, _MOST_DOUBLINGS)
        pause = min(BACKOFF_MOST, BACKOFF_FIRST * BACKOFF_FACTOR**doublings)
        return pause * self._random.uniform(0.5, 1.0)
