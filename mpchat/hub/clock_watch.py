"""Clock watch: notices steps of the wall clock by comparing it with the steady clock. Pure."""

from mpchat.hub.history_age import STEP


class ClockWatch:
    """Times are in seconds; ``now`` is on the steady clock, ``at`` on the wall clock."""

    def __init__(self, now: float, at: float) -> None:
        self._offset = at - now

    def step(self, now: float, at: float) -> float:
        """Return by how much the wall clock was stepped since the last call; 0: it was not."""
        step = at - now - self._offset
        if abs(step) <= STEP:
            return 0.0
        self._offset += step
        return step
