"""Connect rates: how fast each address may connect. Pure.

Each address has a burst of connections, and gets some back with time. An address that has all of its burst
is not remembered, and no more than :data:`MOST` are: past that the address that connected longest ago starts
with a whole burst again.
"""

from collections import OrderedDict
from typing import NamedTuple

# Addresses that are remembered: about 20 MB.
MOST = 100_000
# Addresses that are looked at to be forgotten, for each new one: more than one, so the table shrinks.
LOOKED_AT = 2

# Connections by which sums of times may be wrong.
ROUNDING = 0.01


class Rate(NamedTuple):
    """New connections per second of one address (0: any number), and how many may come at once."""

    per_second: int
    burst: int


class ConnectRates:
    """When each address will have its whole burst again (seconds, monotonic)."""

    def __init__(self) -> None:
        # The address that connected longest ago comes first.
        self._whole_at = OrderedDict[str, float]()

    def __len__(self) -> int:
        return len(self._whole_at)

    def admit(self, owner: str, rate: Rate, now: float) -> bool:
        """Tell whether an address may connect once more, and count that connection. O(1)."""
        if not rate.per_second:
            self._whole_at.clear()
            return True
        self._forget(now)
        whole_at = max(now, self._whole_at.get(owner, now)) + 1 / rate.per_second
        if whole_at - now > (rate.burst + ROUNDING) / rate.per_second:
            return False
        self._whole_at.pop(owner, None)
        self._whole_at[owner] = whole_at
        if len(self._whole_at) > MOST:
            del self._whole_at[next(iter(self._whole_at))]
        return True

    def _forget(self, now: float) -> None:
        for _ in range(min(LOOKED_AT, len(self._whole_at))):
            oldest = next(iter(self._whole_at))
            if self._whole_at[oldest] > now:
                return
            del self._whole_at[oldest]
