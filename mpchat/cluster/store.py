"""Store: the log that several hosts share, as one protocol with its values and errors. Pure.

The log is one sequence of batches without a gap. Each host appends batches of its own and reads all of them
back in one order. A snapshot holds what all batches up to its place have made of the hub's state, as bytes
that mean nothing to a store.

A generation is one life of the log, named by a random text. A store that has lost entries, or that
contradicts what a host has read, is given up for a new generation; see :meth:`Store.stand`.

Hosts prove their life by leases that a store keeps by its own clock. A store refuses all from a host whose
lease is over, and tells all hosts about it in the log itself: one ``gone``, at one position.

::

    StoreError
    ├── UnavailableError   the store cannot be reached now, or does not write; try again
    │   └── UnreachableError   there is no connection
    ├── FencedError        this host's lease is over: read on to its own "gone", then register again
    ├── RewoundError       the log is empty, rolled back or of another generation
    ├── TrimmedError       the batches after this place are gone: load the snapshot
    └── RefusedError       the operator must change something
"""

import hashlib
from typing import NamedTuple, Protocol

from mpchat.errors import Exit, MpchatError

# Kinds of batches: entries of a host; a host's registration; the end of a host's lease.
BATCH, ARRIVED, GONE = "batch", "arrived", "gone"

# Answers of :meth:`Store.stand`.
WAIT, FOUND, AGAIN = "wait", "found", "again"
# Seconds in which hosts state their positions after the loss of a log, before a new one is begun.
STAND_TIME = 1.0


class StoreError(MpchatError):
    """Base of what a store raises."""


class UnavailableError(StoreError):
    """The store cannot be reached now, or does not write now; the text says why. Try again.

    What was asked for may have been done nevertheless. Each verb can be repeated.
    """


class UnreachableError(UnavailableError):
    """There is no connection to the store."""


class FencedError(StoreError):
    """The lease of this host's epoch is over. Its "gone" is in the log, or comes with the next append."""


class RewoundError(StoreError):
    """The log is not the one that was read: empty, rolled back or another generation; the text says which."""


class TrimmedError(StoreError):
    """Batches right after this place are not kept any more: load the snapshot."""


class RefusedError(StoreError):
    """This store or this host cannot be used as it is; the text is one line for the operator."""

    exit_code = Exit.NOT_STARTED


class Batch(NamedTuple):
    """One element of the log."""

    # Dense within a generation.
    position: int
    # BATCH, ARRIVED or GONE.
    kind: str
    # The host epoch of the host that it is from or about, from 1 on.
    epoch: int
    # Counts the batches of one host epoch from 1 on; 0 for other kinds.
    number: int
    # The log's clock in seconds. It never goes back, and stands still while no host reaches the store.
    time: float
    # The store's wall clock, seconds since 1970.
    at: float
    # Bytes of all payloads up to and with this one, over all generations.
    total: int
    # The version of the payload's encoding.
    version: int
    payload: bytes
    # See chained().
    chain: bytes


class Place(NamedTuple):
    """A place right behind a batch, with all that proves that the log up to it is the same."""

    generation: str
    position: int
    chain: bytes
    # As in the batch at `position`.
    total: int
    time: float
    at: float

    def after(self, batch: Batch) -> "Place":
        """Return the place behind ``batch``."""
        return Place(self.generation, batch.position, batch.chain, batch.total, batch.time, batch.at)


class Snapshot(NamedTuple):
    """The state at a place, in parts that are bytes to a store."""

    place: Place
    # The version of the parts' encoding.
    version: int
    parts: list[bytes]


class Registered(NamedTuple):
    """A new host epoch, and the position of its "arrived"."""

    epoch: int
    position: int


def chained(chain: bytes, epoch: int, number: int, time_ms: int, kind: str) -> bytes:
    """Return the chain of a batch that follows one with ``chain``: 40 hexadecimal digits.

    ``time_ms`` is the log's clock in milliseconds. The first batch of a generation follows the chain of the
    snapshot that the generation begins with, which is random.
    """
    link = chain + f"{epoch}:{number}:{time_ms}:{kind}".encode()
    return hashlib.sha1(link, usedforsecurity=False).hexdigest().encode()


class Standing(NamedTuple):
    """The answer of :meth:`Store.stand`; with FOUND the positions and chains of the other hosts."""

    answer: str
    others: tuple[tuple[int, bytes], ...] = ()


class Store(Protocol):
    """The verbs of a store. All of them block, and each may raise :class:`UnavailableError`.

    After any error the store can be used on. One store is used by one thread.
    """

    def open(self) -> Snapshot | None:
        """Check that this store can be used, and return the newest snapshot. None: there is no log yet.

        Raises RefusedError: too old, evicts keys, wrong password, or keys of that name are another program's.
        """

    def register(
        self, place_generation: str, name: str, instance: str, version: int, info: bytes, lease: float
    ) -> Registered:
        """Append an ARRIVED entry with ``info`` as its payload and a new host epoch, and start its lease.

        ``name`` names the host. ``instance`` is random text of this machine's installation: a living host of
        that name and instance is our own dead predecessor, whose GONE is appended first. ``version`` is that
        of the payload's encoding. ``lease`` is in seconds.
        Raises RefusedError: a living host of that name has another instance, or a living host's version
        differs by more than one. Raises RewoundError.
        """

    def append(
        self, generation: str, epoch: int, position: int, lease: float, batches: list[tuple[int, int, bytes]]
    ) -> list[int]:
        """Append batches, each as its number, version and payload, and renew the lease for ``lease`` seconds.

        The numbers of an epoch begin with 1 and have no gap; a batch whose number was there already is
        dropped. ``position``: how far this host has applied the log. Any other host whose lease is over gets
        its GONE first.
        Returns each batch's position, 0 for one that was there already.
        Raises FencedError, and RewoundError: another generation, a head before ``position``, an epoch that
        the log does not know or has given to another host, or a gap in the numbers. Nothing is appended then.
        """

    def leave(self, generation: str, epoch: int) -> None:
        """Append GONE for this host's own epoch and end its lease; do nothing where that is done already.

        Raises RewoundError for another generation.
        """

    def read(self, place: Place, wait: float, most: int) -> list[Batch]:
        """Return batches after ``place``, in order: as many as fit ``most`` bytes, but one at least.

        Waits up to ``wait`` seconds for the first; an empty list: there was none.
        Raises RewoundError (also for a wrong chain), and TrimmedError.
        """

    def check(self, place: Place) -> None:
        """Return if reading can go on after ``place``; else raise RewoundError or TrimmedError."""

    def save(self, snapshot: Snapshot) -> None:
        """Keep the snapshot, unless a newer one is there or the generation is another one; then trim."""

    def load(self) -> Snapshot | None:
        """Return the newest snapshot; None: there is no log."""

    def stand(self, generation: str, place: Place, name: str) -> Standing:
        """State where this host is in a log that was lost, as a candidate to begin the new one.

        ``generation`` is the lost one. The answer is WAIT: ask again soon. FOUND: this host has the highest
        position, so call :meth:`found`. AGAIN: there is a new generation, so load its snapshot.
        """

    def found(self, old: str | None, snapshot: Snapshot) -> bool:
        """Begin a new log with ``snapshot``, whose place has the new generation, any position and any chain.

        ``old``: the generation that it replaces; None: there was no log. Returns False where another host
        was faster, and with None while hosts stand that have lost their log: load again soon. The host epochs
        of the new log go on where the old one's ended, if that is known.
        """

    def close(self) -> None:
        """Close the connections; can be repeated."""
