"""Shared log: the one order of several hosts, as one host sees it. No I/O.

What this host puts into it goes out in batches and takes effect when it comes back, in its place among the
batches of all hosts. Steps are local: they keep their places between this host's own entries.

A batch that was not read back when the host's lease ended was not appended, and never will be: the log
refuses a host after its end. So what is left goes out again under the next host epoch, once.
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple, TypeVar

import msgspec

from mpchat.cluster.store import ARRIVED, BATCH, Batch, Place, RewoundError
from mpchat.errors import MpchatError
from mpchat.hub.endpoint import Endpoint
from mpchat.hub.entries import Arrived, Entry, Gone
from mpchat.hub.log import Applied, More, Record, Settled, Step

# The version of entries that this mpchat writes if all hosts can read it, and the oldest that it reads. Since
# version 2 there are Spoken and Told.
VERSION = 2
OLDEST_VERSION = 1
# Bytes of entries in a batch, about: a batch is sent and applied as a whole.
BATCH_SIZE = 128 << 10
# What an entry takes in a batch beside the frames that came with it, in bytes; about.
ENTRY_COST = 100

EntryType = TypeVar("EntryType", bound=msgspec.Struct)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, list[Entry]]).decode


class StrangerError(MpchatError):
    """The log has entries of a version that this mpchat cannot read."""


class Outgoing(NamedTuple):
    """A batch on its way: its number, and what it holds."""

    number: int
    version: int
    payload: bytes


class SharedLog:
    """This host's end of the log; has what :class:`~mpchat.hub.log.MemoryLog` has."""

    def __init__(self, place: Place) -> None:
        """Begin behind ``place``, as a host that does not take part yet."""
        # How far batches were received; they are applied as :meth:`next` returns them.
        self.place = place
        # The epoch under which this host takes part; 0: it does not.
        self.epoch = 0
        # All that came from here and has not come out yet, in order; the entries that no batch has.
        self._mine: deque[Record] = deque()
        self._unsent: list[tuple[Entry, int]] = []
        # Number, entries and told total of each batch that was not read back.
        self._sent: deque[tuple[int, int, int]] = deque()
        self._number = 0
        # Number and entries of each batch of the last epoch that was not read back: they may stand in a log
        # that another host begins anew.
        self._before: list[tuple[int, list[Record]]] = []
        # The epoch that this host has given up, until its end was read: batches of it may still come. Then,
        # what is to be said again of it, and the kind of entry that is to be dropped.
        self.former = 0
        self._again: list[Record] = []
        self._dropped: type | None = None
        # Where this host's arrival must stand, and with what, until it was read.
        self._arrival: tuple[int, bytes] | None = None
        self._ready: deque[Record] = deque()

    def __bool__(self) -> bool:
        """True when :meth:`next` has something to return."""
        return bool(self._ready)

    @property
    def owes(self) -> bool:
        """True while something that came from a worker has not come out."""
        return bool(self._ready) or any(each.origin is not None for each in self._mine)

    def append(self, content: Entry | Step, origin: Endpoint | None, cost: int) -> None:
        """Add something of this host; ``cost`` is about its bytes."""
        record = Record(content, origin, cost)
        if not isinstance(content, tuple):
            self._mine.append(record)
            self._unsent.append((content, cost))
        elif self._mine and not isinstance(content, More):
            self._mine.append(record)
        else:  # the past that a member reads does not wait for the log: what is new would overtake it
            self._ready.append(record)

    def take_from(self, endpoint: Endpoint) -> list[Record]:
        """Return nothing: what a dead worker has said comes out in its place among all hosts."""
        return []

    def next(self) -> Record:
        """Return the next record of the order. There must be one."""
        return self._ready.popleft()

    def take_batches(self, version: int, total: int) -> list[Outgoing]:
        """Return batches of all entries that none has, to be appended in this order.

        ``total`` is how far this host has applied the log, in bytes; it goes with each batch.
        """
        if not self.epoch or not self._unsent:
            return []
        batches: list[Outgoing] = []
        entries: list[Entry] = []
        size = 0
        for entry, cost in self._unsent:
            if entries and size + cost > BATCH_SIZE:
                batches.append(self._batch(entries, version, total))
                entries, size = [], 0
            entries.append(entry)
            size += cost + ENTRY_COST
        batches.append(self._batch(entries, version, total))
        self._unsent.clear()
        return batches

    def _batch(self, entries: list[Entry], version: int, total: int) -> Outgoing:
        self._number += 1
        self._sent.append((self._number, len(entries), total))
        return Outgoing(self._number, version, _encode((total, entries)))

    def waiting(self, kind: type[EntryType]) -> list[EntryType]:
        """Return the entries of one kind that came from here and have not come out, in order."""
        return [each.content for each in self._mine if isinstance(each.content, kind)]

    def has(self, kind: type) -> bool:
        """Tell whether an entry of one kind that came from here has not come out."""
        return any(isinstance(each.content, kind) for each in self._mine)

    def drop(self, kind: type) -> None:
        """Drop the entries of one kind that no batch has; call it while this host takes no part.

        While batches of an epoch that it has given up may come, it is done behind them.
        """
        if self.former:
            self._dropped = kind
            return
        self._mine = deque(each for each in self._mine if not isinstance(each.content, kind))
        self._unsent = [each for each in self._unsent if not isinstance(each[0], kind)]

    # Batches that were read.

    def receive(self, batches: Iterable[Batch]) -> None:
        """Take batches that were read, in order. Raises :class:`RewoundError`, :class:`StrangerError`."""
        for batch in batches:
            if batch.position != self.place.position + 1:
                raise RewoundError(f"read {batch.position} after {self.place.position}")
            if self._arrival is not None and batch.position == self._arrival[0]:
                self._check_arrival(batch)
            total, settled = 0, []
            if batch.kind == BATCH and batch.epoch == self.former:
                total, settled = self._take_other(batch), self._take_former(batch)
            elif batch.kind == BATCH:
                own = self.epoch and batch.epoch == self.epoch and self._arrival is None
                total = self._take_own(batch) if own else self._take_other(batch)
            elif batch.kind == ARRIVED:
                self._add(Arrived(batch.time, batch.at, batch.epoch, batch.payload))
            else:
                self._add(Gone(batch.time, batch.at, batch.epoch))
                if batch.epoch in (self.epoch, self.former):
                    self.lose_epoch()
            self.place = self.place.after(batch)
            self._ready.append(Record(Applied(self.place, batch.epoch, batch.number, total), None, 0))
            if settled:
                self._ready.append(Record(Settled(settled), None, 0))
            self._take_steps()

    def _take_former(self, batch: Batch) -> list[Record]:
        """Return what stood in a batch of the epoch that was given up, if it did not come out before."""
        if not self._sent or self._sent[0][0] != batch.number:
            return []
        return self._take_first(self._sent.popleft()[1])

    def _take_first(self, count: int) -> list[Record]:
        """Return so many entries of this host, with the steps before each."""
        taken: list[Record] = []
        while count:
            taken.append(self._mine.popleft())
            count -= not isinstance(taken[-1].content, tuple)
        return taken

    def _check_arrival(self, batch: Batch) -> None:
        """Check that the epoch of this host is no other's: the log may have lost the registration since."""
        assert self._arrival is not None
        found, expected = (batch.kind, batch.epoch, batch.payload), (ARRIVED, self.epoch, self._arrival[1])
        if found != expected:
            raise RewoundError(f"this host's arrival is not at {batch.position} any more")
        self._arrival = None

    def _add(self, entry: Entry, host: int = 0) -> None:
        self._ready.append(Record(entry, None, 0, host))

    def _take_other(self, batch: Batch) -> int:
        if not OLDEST_VERSION <= batch.version <= VERSION + 1:
            raise StrangerError(
                f"the log has entries of version {batch.version}; "
                f"this mpchat reads {OLDEST_VERSION} to {VERSION + 1}: "
                "update mpchat in steps of one version, on all hosts"
            )
        try:
            total, entries = _decode(batch.payload)
        except msgspec.MsgspecError as error:
            raise StrangerError(
                f"the log has an entry of version {batch.version} that this mpchat cannot read ({error}): "
                "update mpchat"
            ) from None
        for entry in entries:
            _stamp(entry, batch)
            self._add(entry, batch.epoch)
        return total

    def _take_own(self, batch: Batch) -> int:
        """Let what was sent come out, each entry behind the steps that were before it."""
        if not self._sent or self._sent[0][0] != batch.number:
            raise RewoundError(f"this host's batch {batch.number} came back out of turn")
        _, count, total = self._sent.popleft()
        for _ in range(count):
            self._take_steps()
            content, origin, cost, _ = self._mine.popleft()
            assert not isinstance(content, tuple)
            _stamp(content, batch)
            self._ready.append(Record(content, origin, cost, batch.epoch))
        return total

    def _take_steps(self) -> None:
        while self._mine and isinstance(self._mine[0].content, tuple):
            self._ready.append(self._mine.popleft())

    # Taking part.

    def lose_epoch(self) -> None:
        """Take part no longer: what was sent and not read back waits for the next epoch."""
        self.epoch = self.former = 0
        self._arrival = None
        if self._sent:
            entries = (each for each in self._mine if not isinstance(each.content, tuple))
            self._before = [(number, list(islice(entries, count))) for number, count, _ in self._sent]
            self._sent.clear()
        self._mine.extendleft(reversed(self._again))
        self._again = []
        if self._dropped is not None:
            kind, self._dropped = self._dropped, None
            self.drop(kind)
        self._unsent = [
            (each.content, each.cost) for each in self._mine if not isinstance(each.content, tuple)
        ]

    def join(self, epoch: int, first: list[Entry], position: int, info: bytes) -> None:
        """Take part under a new epoch; ``first`` goes out before all that waits.

        ``position`` and ``info`` are those of this host's arrival.
        """
        self.epoch, self._number, self._before = epoch, 0, []
        self._arrival = (position, info) if position > self.place.position else None
        self._mine.extendleft(Record(each, None, 0) for each in reversed(first))
        self._unsent[:0] = [(each, 0) for each in first]

    def restart(self, place: Place, number: int, *, ends_later: bool = False) -> list[Record]:
        """Go on behind the place of a snapshot, which has this host's batches up to ``number``.

        ``ends_later``: the end of this host's epoch stands behind that place, and perhaps batches of it.

        Nothing but steps may be ready. Return the records that the snapshot has and that did not come out,
        and the steps among and right behind them.
        """
        assert all(isinstance(each.content, tuple) for each in self._ready), "what was read is applied first"
        settled = list(self._ready)
        self._ready.clear()
        while self._sent and self._sent[0][0] <= number:
            settled += self._take_first(self._sent.popleft()[1])
        known = {id(record) for sent, records in self._before if sent <= number for record in records}
        settled += [each for each in self._mine if id(each) in known]
        self._mine = deque(each for each in self._mine if id(each) not in known)
        while self._mine and isinstance(self._mine[0].content, tuple):
            settled.append(self._mine.popleft())
        if ends_later:
            self.former, self.epoch, self._arrival = self.epoch or self.former, 0, None
        else:
            self.lose_epoch()
        self.place = place
        return settled

    def put_first(self, records: list[Record]) -> None:
        """Put records before all that has not come out; this host must not take part."""
        self._again += records
        if not self.former:
            self.lose_epoch()


def _stamp(entry: Entry, batch: Batch) -> None:
    """Give an entry the times of the log."""
    for name, value in (("now", batch.time), ("at", batch.at)):
        if name in entry.__struct_fields__:
            msgspec.structs.force_setattr(entry, name, value)
