"""Line: clients that wait until their proofs are checked, each address in its turn. Pure.

A check can take 0.2 s. An address that sends a thousand waits behind every other that sends a few. When the
line is full, the address that has most of it gives way.

Addresses that have proven a name before have a line of their own for it. It has every second turn, and
strangers cannot fill it.
"""

import sys
from collections import OrderedDict
from typing import NamedTuple

from mpchat.auth.grant import Proof

# Passwords that wait at most in a line: 0.2 s of CPU each.
MOST_WAITING = 256
# Bytes of other proofs that wait at most in a line: those of some ten thousand clients. Each is checked
# within a millisecond.
MOST_BYTES = 8 << 20
# Bytes of a try beside its texts.
TRY_SIZE = 400


class Try(NamedTuple):
    """The proof of one connection. ``address`` is its client's host, or for IPv6 the network.

    ``name`` is the key of the name that the proof is for, as its client says; "" for a proof without a name.
    """

    identity: int
    address: str
    proof: Proof
    name: str = ""

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        proof = self.proof
        shown = (proof.name, proof.password, proof.jwt, proof.secret)
        return TRY_SIZE + sum(sys.getsizeof(each) for each in shown if each is not None)


class Line:
    """The tries that wait."""

    def __init__(self, most: int) -> None:
        """Begin with none. So many may wait, and :data:`MOST_BYTES` of them."""
        self._most = most
        self._bytes = 0
        # By address and by identity; the address whose turn comes next is first.
        self._waiting = OrderedDict[str, OrderedDict[int, Try]]()
        self._addresses: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, new: Try) -> Try | None:
        """Let a try wait. Return the one that must give way, if one must: perhaps the same."""
        own = len(self._waiting.get(new.address, ()))
        out = None
        if len(self) >= self._most or self._bytes >= MOST_BYTES:
            longest = max(self._waiting, key=lambda address: len(self._waiting[address]))
            if own + 1 >= len(self._waiting[longest]):
                return new
            out = self._take(longest, last=True)
        self._waiting.setdefault(new.address, OrderedDict())[new.identity] = new
        self._addresses[new.identity] = new.address
        self._bytes += new.size
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
        self._bytes -= found.size
        if not tries:
            del self._waiting[address]
        return found

    def forget(self, identity: int) -> None:
        """Forget the try of a connection that has ended, if it waits."""
        address = self._addresses.pop(identity, None)
        if address is not None:
            tries = self._waiting[address]
            self._bytes -= tries.pop(identity).size
            if not tries:
                del self._waiting[address]


class Lines:
    """The line of names that their addresses have proven before, and that of all others, each in its turn.

    A member with the right password can make many tries of the first kind: they must not hold up all others.
    """

    def __init__(self, most: int) -> None:
        """Begin with none; so many may wait in each of the two."""
        self._proven, self._others = Line(most), Line(most)
        self._others_turn = False

    def add(self, new: Try, *, proven: bool) -> Try | None:
        """Let a try wait. Return the one that must give way, if one must: perhaps the same."""
        return (self._proven if proven else self._others).add(new)

    def take(self) -> Try | None:
        """Return the try whose turn it is, None: none waits."""
        first, second = self._proven, self._others
        if self._others_turn:
            first, second = second, first
        taken = first.take() or second.take()
        self._others_turn = not self._others_turn
        return taken

    def forget(self, identity: int) -> None:
        """Forget the try of a connection that has ended, if it waits."""
        self._proven.forget(identity)
        self._others.forget(identity)
