"""Post timing: for how long a worker gathers what its clients sent before it posts it to the hub. Pure."""

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
