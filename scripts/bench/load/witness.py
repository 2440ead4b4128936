"""A witness parses everything that one connection receives: each message once, in order, unchanged.

Pure: it gets bytes and times, and has no socket. It also takes the age of the messages.
"""

import re
import struct
from collections.abc import Iterator

from scripts.bench.wire import FILL, STAMP_SIZE, MemberWire, Wire
from scripts.common.latency import Latency

# Sender, number and time of a message, as its stamp has them.
Stamp = tuple[bytes, bytes, bytes]


class Witness:
    """Checks every message of one connection; ``fault`` is the first thing that was wrong."""

    def __init__(self, wire: Wire, size: int) -> None:
        """Expect texts of ``size`` bytes, the first of each sender with the number 0."""
        self._before, after = wire.delivery(size)
        self._after = FILL * (size - STAMP_SIZE) + after
        self._fields = struct.Struct(f"{len(self._before)}s2sx10sx18sx{len(self._after)}s")
        self._noise = wire.noise
        self._rest = b""
        self._expected: dict[bytes, int] = {}
        self._last_time = b""
        self.ages = Latency()
        self.fault = ""

    def feed(self, data: bytes, now_ns: int) -> None:
        """Check the bytes that were read at ``now_ns``. Of a burst, whose times are equal, take one age."""
        if self.fault:
            return
        for sender, number, time in self._stamps(self._rest + data):
            expected = self._expected.get(sender, 0)
            if int(number) != expected:
                self.fault = f"sender {sender.decode()}: expected number {expected}, got {number.decode()}"
                return
            self._expected[sender] = expected + 1
            if time != self._last_time:
                self._last_time = time
                self.ages.record(now_ns - int(time))

    def forget(self) -> None:
        """Drop the ages taken so far: what came before the measured time."""
        self.ages = Latency()

    def _stamps(self, data: bytes) -> Iterator[Stamp]:
        """Yield the stamps of the whole messages in ``data``; keep the rest for the next call."""
        if self._noise and self._noise in data:
            data = data.replace(self._noise, b"")
        whole = len(data) - len(data) % self._fields.size
        self._rest = data[whole:]
        for before, sender, number, time, after in self._fields.iter_unpack(data[:whole]):
            if before != self._before or after != self._after:
                self.fault = f"garbled: {before + sender + number!r}"
                return
            yield sender, number, time


class MemberWitness(Witness):
    """The same for a named member: each message has the room's next number, and a sender has one name."""

    def __init__(self, wire: MemberWire, size: int) -> None:
        """Expect texts of ``size`` bytes in the wire's room, the first with the room's number 2."""
        super().__init__(wire, size)
        # One pattern for all rooms, so that it is compiled once.
        self._next = re.compile(
            rb'(..){"message":"(\d\d) (\d{10}) (\d{18}) %b{%d}",'
            rb'"from":"(\w+)","room":"(\w+)","seq":(\d+),"at":\d{10}\.\d{3}}' % (FILL, size - STAMP_SIZE),
            re.DOTALL,
        ).match
        self._room = wire.room
        # The go was number 1 and was not shown to a witness.
        self._seq = 1
        self._names: dict[bytes, bytes] = {}

    def _stamps(self, data: bytes) -> Iterator[Stamp]:
        position = 0
        while len(data) - position >= 2:
            end = position + 2 + (data[position] << 8 | data[position + 1])
            if end > len(data):
                break
            found = self._next(data, position, end)
            if found is None or found.end() != end:
                self.fault = f"garbled: {data[position:end]!r}"
                return
            _, sender, number, time, name, room, seq = found.groups()
            self._seq += 1
            if int(seq) != self._seq or room != self._room or self._names.setdefault(sender, name) != name:
                self.fault = f"expected number {self._seq} in {self._room!r}, got {data[position:end]!r}"
                return
            yield sender, number, time
            position = end
        self._rest = data[position:]


def witness_of(wire: Wire, size: int) -> Witness:
    """Return the witness for this wire."""
    return MemberWitness(wire, size) if isinstance(wire, MemberWire) else Witness(wire, size)
