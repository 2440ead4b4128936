"""Backpressure: which clients are worth waiting for. Pure."""

# A client that falls behind counts as keeping up with its own network while it takes this much (bytes per
# second). Only such clients can slow a room down, and only when they are most of it.
BRISK = 256 << 10
# Seconds before a late client's pace can be judged at all.
BRISK_GRACE = 0.25


def is_brisk(taken: int, seconds: float) -> bool:
    """Tell whether a late client that took ``taken`` bytes in ``seconds`` is still worth waiting for."""
    return seconds < BRISK_GRACE or taken >= BRISK * seconds
