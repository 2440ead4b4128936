"""Cut-offs: the last clients that were cut off, and why, for the operator. Pure; the time is given."""

from collections import deque
from typing import NamedTuple

# Clients that are remembered.
KEPT = 20


class CutOff(NamedTuple):
    """A client that was cut off."""

    # host:port.
    address: str
    # Empty for a client without a name.
    name: str
    reason: str
    # Seconds since 1970.
    at: float


class CutOffs:
    """The last KEPT of them, the oldest first."""

    def __init__(self) -> None:
        self.last: deque[CutOff] = deque(maxlen=KEPT)

    def add(self, address: str, name: str, reason: str, at: float) -> None:
        """Remember a client in the place of the oldest."""
        self.last.append(CutOff(address, name, reason, at))
