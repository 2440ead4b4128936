"""What a hub under test keeps to."""

from mpchat.hub.limits import Kept, Limits


def limits(lag: int) -> Limits:
    """Return limits that no test comes near, but for the lag limit, in bytes."""
    kept = Kept(1000, lag, 0.0)
    return Limits(
        rooms=100, rooms_per_address=0, members=0, name_hold=60.0, kept=kept, lag=lag, answers=1 << 30
    )
