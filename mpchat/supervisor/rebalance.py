"""Rebalance: move connections from the fullest workers to the emptiest, slowly unless after a scale."""

from collections.abc import Sequence

from mpchat.supervisor.balance_policy import UNEVEN_FOR, surpluses, uneven
from mpchat.supervisor.change import Change
from mpchat.supervisor.move_out import Steps

# A change that no command asked for moves small batches, with a pause (seconds) after each.
GENTLE_BATCH = 32
GENTLE_PAUSE = 0.05
# Rounds of evening out; clients that come and go meanwhile may make another one necessary.
ROUNDS = 8


def rebalance(change: Change) -> Steps:
    """Even workers out so that no client notices."""
    return even_out(change, GENTLE_BATCH, GENTLE_PAUSE)


def even_out(change: Change, batch: int, pause: float) -> Steps:
    """Move connections until the fullest and the emptiest worker have about as many."""
    for _ in range(ROUNDS):
        serving = change.pool.serving
        excess = surpluses([each.load for each in serving])
        if not any(excess):
            return
        for handle, surplus in zip(serving, excess, strict=True):
            while surplus > 0 and not handle.closed:
                change.report("move", handle.slot, 0, len(serving), surplus)
                before = handle.connections.moved_out
                yield from change.mover.move_from(handle, min(surplus, batch), lambda: False)
                surplus -= handle.connections.moved_out - before
                if handle.connections.moved_out == before:
                    break
                if pause:
                    yield from change.nap(pause)
        yield from change.mover.all_arrived()


class BalanceWatch:
    """Notices that workers have been uneven for a while."""

    def __init__(self) -> None:
        self._uneven_since: float | None = None

    def reset(self) -> None:
        """Begin anew: connections are being moved, or not every worker serves."""
        self._uneven_since = None

    def is_due(self, loads: Sequence[int], now: float) -> bool:
        """Tell whether to move connections; ``loads`` counts them by worker at ``now`` (seconds)."""
        if not uneven(loads):
            self.reset()
            return False
        if self._uneven_since is None:
            self._uneven_since = now
        return now - self._uneven_since >= UNEVEN_FOR
