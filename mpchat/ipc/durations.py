"""Durations: how often something took how long, in few classes. Cheap enough for each turn of a loop. Pure.

Each class is four times as wide as the one before. A histogram of the metrics is made of these counts.
"""

# The first class ends here (seconds), and the last but one at 4.2 s.
SHORTEST = 64e-6
CLASSES = 10
# Where each class but the last ends, in seconds.
BOUNDS = tuple(round(SHORTEST * 4**index, 6) for index in range(CLASSES - 1))


class Durations:
    """Counts of durations by class, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        """Begin with none."""
        self.counts = [0] * CLASSES
        # Seconds.
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.total += seconds
        index = (int(seconds / SHORTEST).bit_length() + 1) >> 1
        self.counts[index if index < CLASSES else -1] += 1
