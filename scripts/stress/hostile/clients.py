"""Hostile clients: what they send stands in :mod:`~scripts.stress.hostile.kinds`."""

import re
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.common.frames import is_error, split_frames
from scripts.stress.clients import READ_SIZE, ClientLoop, Connection, Plan, Report, reset_at_close
from scripts.stress.hostile.kinds import KINDS

# How many errors an error stands for, if it is for more than one.
_TIMES = re.compile(rb'"times":(\d+)')


@dataclass(frozen=True, kw_only=True)
class HostilePlan(Plan):
    """The work of one process of hostile clients."""

    kind: str
    reads: bool


class Hostile(ClientLoop[Connection]):
    """Clients of one kind, as fast as they can. A client that is cut off comes again."""

    look_for = 0.001

    def __init__(self, plan: HostilePlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare to connect all at once."""
        super().__init__(plan, pipe)
        self.plan = plan
        self.kind = KINDS[plan.kind]
        self._numbers: dict[Connection, int] = {}
        self._errors: Counter[Connection] = Counter()
        self._missing = list(range(plan.connections))
        self._next_number = plan.connections

    def turn(self, now: float) -> None:
        """Come, come again, and send."""
        while self._missing:
            number = self._missing.pop()
            connection = Connection(f"hostile{number}")
            connection.reading = self.plan.reads
            connection.out = self.kind.first(number)
            self._numbers[connection] = number
            if self.kind.leaves_after:
                connection.sock.bind((_address(number), 0))
            self.connect(connection)
        if not self.acting:
            return
        for connection in list(self.connections):
            if connection.connected and not connection.out:
                self.write(connection, self.kind.again(self._numbers[connection]))
                self.counts["rounds"] += 1

    def flush(self, connection: Connection) -> None:
        """Send what is kept; in pieces where the kind wants that."""
        if not self.kind.piece:
            super().flush(connection)
            return
        rest, connection.out = connection.out[self.kind.piece :], connection.out[: self.kind.piece]
        super().flush(connection)
        connection.out += rest
        self.watch(connection)

    def read(self, connection: Connection, size: int = READ_SIZE) -> None:
        """Read; byte by byte where the kind wants that."""
        super().read(connection, self.kind.piece or size)

    def received(self, connection: Connection, data: bytes) -> None:
        """Count what came; where proofs are checked, the errors too."""
        self.counts["bytes"] += len(data)
        if self.kind.auth == "open":
            return
        if self.kind.http:  # an error in two pieces is not counted
            self.counts["errors"] += data.count(b'{"error":')
            self.counts["checked"] += data.count(b'"bad_credentials"')
            return
        frames, connection.carry = split_frames(connection.carry + data)
        for frame in frames:
            self.counts["let in"] += b'"welcome"' in frame
        for frame in filter(is_error, frames):
            times = _TIMES.search(frame)
            self.counts["errors"] += int(times[1]) if times else 1
            self.counts["checked"] += b'"bad_credentials"' in frame
            self._errors[connection] += 1
        if 0 < self.kind.leaves_after <= self._errors[connection]:
            self.close(connection)
            self._missing.append(self._next_number)
            self._next_number += 1

    def forget(self, connection: Connection) -> None:
        """Forget the errors of a connection that has ended."""
        del self._errors[connection]

    def ended(self, connection: Connection, why: str) -> None:
        """Come again."""
        self.close(connection)
        self.counts["cut off"] += 1
        if self.acting:
            self._missing.append(self._numbers.pop(connection))

    def joined(self) -> int:
        """Return how many are connected, or have been."""
        return self.plan.connections if self.acting else sum(each.connected for each in self.connections)

    def quiet(self, now: float) -> bool:
        """Say that nothing is outstanding: nobody waits for an answer."""
        return True

    def finish(self) -> None:
        """Report, and end with resets.

        Of a connection that is full in both directions neither kernel tells the other for minutes that it was
        closed.
        """
        for connection in self.connections:
            reset_at_close(connection.sock)
        super().finish()

    def report(self) -> Report:
        """Return the counts."""
        return Report(findings=self.findings, counts=self.counts, latency={})


def _address(number: int) -> str:
    """Return an address of loopback for each number, below those of innocent clients."""
    return f"127.{1 + (number >> 16) % 100}.{number >> 8 & 255}.{number & 255}"
