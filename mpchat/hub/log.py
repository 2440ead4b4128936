"""Log: the one order in which the hub takes what changes its state.

An entry comes out once, in its place in the order. The worker's item that it came in is acknowledged when the
entry was applied. Steps are local, and keep their places between entries.

This log is in memory. :mod:`mpchat.hub.shared_log` keeps the same promises, and several hosts share it.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from mpchat.auth.grant import Proof
from mpchat.cluster.store import Place
from mpchat.hub.endpoint import Endpoint
from mpchat.hub.entries import Asked, Entry


class Sync(NamedTuple):
    """A worker is about to let connections go that have all got to message ``number`` of the plain stream."""

    number: int
    identities: list[int]


class More(NamedTuple):
    """A member has read the part of the past that it was sent."""

    identity: int


class Follow(NamedTuple):
    """A member was moved to a worker, and has got to message ``number`` of a room."""

    identity: int
    room: int
    number: int


class SaidAll(NamedTuple):
    """Clients have ended their streams, and want to hear what they said before they go."""

    identities: list[int]


class Prove(NamedTuple):
    """A join shows a proof, or needs one: it becomes an entry when that was checked."""

    asked: Asked
    proof: Proof


class Proved(NamedTuple):
    """A join's proof was checked: ``asked`` says what has come of that."""

    asked: Asked


class Died(NamedTuple):
    """A worker has died; ``speakers`` of its connections had sent a message or asked to join.

    Other processes have the connections ``in_transit`` by now.
    """

    speakers: int
    in_transit: set[int]


class Applied(NamedTuple):
    """A batch of a shared log ends here, the batch ``number`` of the host ``epoch``.

    That host had applied ``total`` bytes of batches when it sent it. ``number`` is 0 where a host has come or
    gone.
    """

    place: Place
    epoch: int
    number: int
    total: int


class Settled(NamedTuple):
    """These records of this host stood in the batch before, of an epoch that it has given up."""

    records: list[Any]


class Then(NamedTuple):
    """Call this when all that came from here before is in the order."""

    call: Callable[[], None]


Step = Then | Settled | Sync | More | Follow | SaidAll | Prove | Proved | Died | Applied


class Record(NamedTuple):
    """What stands in one place of the log, its worker, and the bytes to acknowledge to that worker.

    ``host`` is the epoch of the host that an entry is from; 0: there is only one. Without a worker it is the
    server's own, or another host's.
    """

    content: Entry | Step
    origin: Endpoint | None
    cost: int
    host: int = 0


class OrderLog(Protocol):
    """The log that keeps the order."""

    @property
    def owes(self) -> bool:
        """True while something that was added has not come out."""

    def __bool__(self) -> bool: ...

    def append(self, content: Entry | Step, origin: Endpoint | None, cost: int) -> None:
        """Add at the end."""

    def next(self) -> Record:
        """Return the first record that has not come out yet. There must be one."""

    def take_from(self, endpoint: Endpoint) -> list[Record]:
        """Return, out of turn, what came from one worker, which has died, and does not come out by itself."""


class MemoryLog:
    """A log that lasts as long as the process."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque()

    def __bool__(self) -> bool:
        return bool(self._records)

    @property
    def owes(self) -> bool:
        """True while something that was added has not come out."""
        return bool(self._records)

    def append(self, content: Entry | Step, origin: Endpoint | None, cost: int) -> None:
        """Add at the end."""
        self._records.append(Record(content, origin, cost))

    def next(self) -> Record:
        """Return the first record that has not come out yet. There must be one."""
        return self._records.popleft()

    def take_from(self, endpoint: Endpoint) -> list[Record]:
        """Return, out of turn, all that came from one worker, which has died."""
        taken = [each for each in self._records if each.origin is endpoint]
        if taken:
            self._records = deque(each for each in self._records if each.origin is not endpoint)
        return taken
