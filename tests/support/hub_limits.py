"""What a hub under test keeps to."""

from mpchat.hub.limits import Kept, Limits


def limits(lag: int) -> Limits:
    """Return limits that no test comes near, but for the lag limit, in bytes."""
    return Limits(rooms=100, members=0, name_hold=60.0, kept=Kept(1000, lag, 0.0), lag=lag, answers=1 << 30)
