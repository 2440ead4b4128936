"""Line: clients that wait until their proofs are checked, each address in its turn. Pure.

A check can take 0.2 s. An address that sends a thousand waits behind every other that sends a few. When the
line is full, the address that has most of it gives way.
"""

from collections import OrderedDict
from typing import NamedTuple

from mpchat.auth.grant import Proof

# Tries that wait at most.
MOST_WAITING = 256


class Try(NamedTuple):
    """What one connection shows. ``address`` is what counts as one address, of its client."""

    identity: int
    address: str
    proof: Proof


class Line:
    """The tries that wait."""

    def __init__(self) -> None:
        """Begin with none."""
        # By address and by identity; the address whose turn comes next is first.
        self._waiting = OrderedDict[str, OrderedDict[int, Try]]()
        self._addresses: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, new: Try) -> Try | None:
        """Let a try wait. Return the one that must give way, if one must: perhaps the same."""
        own = len(self._waiting.get(new.address, ()))
        out = None
        if len(self) >= MOST_WAITING:
            longest = max(self._waiting, key=lambda address: len(self._waiting[address]))
            if own + 1 >= len(self._waiting[longest]):
                return new
            out = self._take(longest, last=True)
        self._waiting.setdefault(new.address, OrderedDict())[new.identity] = new
        self._addresses[new.identity] = new.address
        return out

    def take(self) -> Try | None:
        """Return the try whose turn it is, None: none waits."""
        if not self._waiting:
            return None
        address = next(iter(self._waiting))
        self._waiting.move_to_end(address)
        return self._take(address, last=False)

    def _take(self, address: str, *, last: bool) -> Try:
        tries = self._waiting[address]
        identity, found = tries.popitem(last=last)
        del self._addresses[identity]
        if not tries:
            del self._waiting[address]
        return found

    def forget(self, identity: int) -> None:
        """Forget the try of a connection that has ended, if it waits."""
        address = self._addresses.pop(identity, None)
        if address is not None:
            tries = self._waiting[address]
            del tries[identity]
            if not tries:
                del self._waiting[address]
