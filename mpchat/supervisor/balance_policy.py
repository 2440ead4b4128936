"""When connections are moved from fuller workers to emptier ones, and how many: pure decisions."""

from collections.abc import Sequence

# The fullest and the emptiest worker may differ by so many connections or by this share of the fullest's.
SPREAD_LEAST = 2
SPREAD_SHARE = 0.05
# The difference from which on connections are moved unasked, and the time that it must have lasted (seconds).
UNEVEN_LEAST = 8
UNEVEN_SHARE = 0.2
UNEVEN_FOR = 3.0


def spread_allowed(most: int) -> int:
    """Return by how much the fullest worker, with ``most`` connections, may exceed the emptiest."""
    return max(SPREAD_LEAST, int(most * SPREAD_SHARE))


def surpluses(loads: Sequence[int]) -> list[int]:
    """Return how many connections to move out of each worker so that all have about as many.

    None at all while the fullest and the emptiest differ by no more than :func:`spread_allowed`.
    """
    if not loads or max(loads) - min(loads) <= spread_allowed(max(loads)):
        return [0] * len(loads)
    fair = -(-sum(loads) // len(loads))
    return [max(0, load - fair) for load in loads]


def uneven(loads: Sequence[int]) -> bool:
    """Tell whether workers' loads differ so much that connections should be moved unasked.

    The limit is far above :func:`spread_allowed`: ordinary coming and going moves no connection.
    """
    return bool(loads) and max(loads) - min(loads) > max(UNEVEN_LEAST, max(loads) * UNEVEN_SHARE)
