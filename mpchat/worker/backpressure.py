"""Backpressure: when a worker takes nothing more from the hub, so that its clients can catch up. Pure."""

# A client that falls behind counts as keeping up with its own network while it takes this much (bytes per
# second). Only such clients can slow a room down, and only when they are most of it.
BRISK = 256 << 10
# Seconds before a late client's pace can be judged at all.
BRISK_GRACE = 0.25


def is_brisk(taken: int, seconds: float) -> bool:
    """Tell whether a late client that took ``taken`` bytes in ``seconds`` is still worth waiting for."""
    return seconds < BRISK_GRACE or taken >= BRISK * seconds


def must_hold(brisk_and_far_behind: int, connections: int) -> bool:
    """Tell whether a worker should let its clients catch up before it takes more from the hub.

    True when more than half of all clients are far behind although they read as fast as they can: then the
    room is faster than its members, and the senders have to wait. A minority never slows the others down;
    it is cut off when it falls out of the stream.
    """
    return 2 * brisk_and_far_behind > connections
