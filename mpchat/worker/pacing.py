"""Pacing: when a worker posts, and when it lets its clients catch up. Pure."""

# A client that falls behind counts as keeping up with its own network while it takes this much (bytes per
# second). Only such clients can slow a room down, and only when they are most of it.
BRISK = 256 << 10


# Seconds before a late client's pace can be judged at all.
BRISK_GRACE = 0.25
# The share of the setting coalesce for which posts are gathered when the last ones went up just before; the
# rest is the fan-out's. Nearly all of it: a trip to the hub and back wakes two processes, and what went up
# together comes down together.
GATHER_SHARE = 0.9


def gather_time(coalesce: float) -> float:
    """Return for how long posts are gathered, in seconds, out of the setting coalesce."""
    return coalesce * GATHER_SHARE


def next_post(posted_at: float, gather: float) -> float:
    """Return when a worker that has posted at ``posted_at`` posts again: at most ``gather`` seconds later.

    The moments are multiples of ``gather`` on the clock that all processes share, so what several workers
    gathered meets at the hub, and goes to clients together.
    """
    return posted_at + gather - posted_at % gather if gather else posted_at


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
