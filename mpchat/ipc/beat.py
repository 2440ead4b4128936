"""Beat: how often a worker says that its loop turns."""

# Seconds between a worker's beats, and between two looks at them, at most; and how many of each fit into the
# setting hang_timeout, so that one that comes late is no hang yet.
BEAT_MOST = 1.0


BEATS_PER_TIMEOUT = 4


def beat_every(hang_timeout: float) -> float:
    """Return the seconds between two beats of a worker, given how long (seconds) it may be silent."""
    return min(BEAT_MOST, hang_timeout / BEATS_PER_TIMEOUT)
