"""When a dead worker is replaced, and when its slot is given up: a pure decision."""

from random import Random

# First pause before a dead worker is replaced, its growth, and its ceiling, in seconds. The first is short:
# a worker killed by hand should be back before anybody looks.
BACKOFF_FIRST = 0.1
BACKOFF_FACTOR = 2.0
BACKOFF_MOST = 30.0
# A worker that served for this long (seconds) was all right: its next death starts the count anew.
PROVEN = 10.0
# Deaths in a row, none of them proven, after which a slot is given up.
DEATHS_TO_FATAL = 6
# The same while the server starts: a mistake that kills every worker should be reported at once.
DEATHS_AT_START = 3


class BackOff:
    """Counts one slot's deaths in a row and decides what follows each."""

    def __init__(self, random: Random) -> None:
        self.deaths = 0
        self._random = random

    def after_death(self, lived: float, most: int = DEATHS_TO_FATAL) -> float | None:
        """Take note of a death after ``lived`` seconds of service (0: it was never ready).

        Return the pause in seconds before the next try, or None when the slot should be given up. The pause
        doubles with each death and is drawn from its upper half, so that slots do not come back in step.
        """
        self.deaths = 1 if lived >= PROVEN else self.deaths + 1
        if self.deaths >= most:
            return None
        pause = min(BACKOFF_MOST, BACKOFF_FIRST * BACKOFF_FACTOR ** (self.deaths - 1))
        return pause * self._random.uniform(0.5, 1.0)
