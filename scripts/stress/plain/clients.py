"""Plain clients: they send test messages, read everything, and compare it with one order at once.

The rule: a connection counts as joined when the server has answered it (an empty frame, rejected), so that
every message sent later is due to it. A loop reads in sweeps with a pause in between: many small reads would
cost more than the server itself.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, ClassVar, NamedTuple

from scripts.common.frames import HEADER, is_error
from scripts.common.latency import Latency
from scripts.stress.clients import ClientLoop, Connection, Plan, Report
from scripts.stress.plain.conflicts import Reader
from scripts.stress.plain.messages import TestMessages
from scripts.stress.plain.order import OneOrder

# The first bytes of every connection: the server rejects them, so it answers, and no other client sees it.
HELLO = b"\0\0"
# Connections of one process on their way in at a time: fewer than any listen backlog.
MAX_OPENING = 64
# Seconds between two sweeps of a loop that only has to keep up.
SWEEP_PAUSE = 0.03
# Seconds that an own message may take to come back before the loop says that it is missing.
ECHO_TIMEOUT = 30.0
# While frames are cut in two: the part of all messages after which the next one is begun at once, and the
# seconds that half a frame stays so at most; the server takes a client for dead after more than twice that.
HALVES_PART = 0.6
HALF_FOR = 10.0
# Distance between the sender numbers of two processes.
SENDERS_PER_PROCESS = 10_000_000
# Seconds after which a sender that fell behind forgets what it did not send, instead of a burst.
MAX_BACKLOG = 1.0


@dataclass(frozen=True, kw_only=True)
class PlainPlan(Plan):
    """What one process of plain clients is to do."""

    messages: int = 0  # of each connection; 0: no limit
    size: int = 100  # bytes of payload
    halves: bool = False  # many frames are sent in two pieces in the phase with faults
    inputs: int = 0  # garbage: how many


class OrderPart(NamedTuple):
    """To the parent: the next part of the order; ``joined``: since when the process has been there (ns)."""

    segment: int
    joined: int
    frames: list[bytes]


@dataclass(frozen=True, kw_only=True)
class PlainReport(Report):
    """To the parent, last."""

    senders: dict[int, int]  # messages of each that lived to the end
    lived: bool  # some connection is there at the end, so its order goes up to the mark


class PlainConnection(Connection):
    """One client: its reader in the order, and how much it has sent."""

    def __init__(self, name: str, reader: Reader, sender: int) -> None:
        """Open a socket for the client that sends as ``sender``."""
        super().__init__(name)
        self.reader = reader
        self.sender = sender
        self.number = 0  # of its next message
        self.begun = 0  # bytes of that message's frame that were sent already
        self.joined = False
        self.out = HELLO


class PlainLoop(ClientLoop[PlainConnection]):
    """Clients that send at a steady rate, and read and compare everything."""

    pause = SWEEP_PAUSE
    look_for = 0.0
    sampled: ClassVar[bool] = False  # latencies are measured here

    def __init__(self, plan: PlainPlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare; ``pipe`` leads to the parent."""
        super().__init__(plan, pipe)
        self.plan = plan
        self.tests = TestMessages(plan.run)
        self.order = OneOrder(self.tests, self.findings)
        self.wanted = plan.connections
        self._joined = 0
        self._halved: dict[PlainConnection, float] = {}  # since when half a frame has been under way
        self._next_sender = plan.number * SENDERS_PER_PROCESS
        self._mark: int | None = None
        self._deadline = 0.0
        self._send_from = 0.0
        self._turn = 0
        self._phases = [(0, "")]  # when each phase began (ns, monotonic)

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent; ``finish MARK SECONDS`` lets the clients read up to the mark first."""
        super().command(verb, *args)
        if verb == "phase":
            self._phases.append((time.monotonic_ns(), self.phase))
        elif verb == "go":
            self._send_from = time.monotonic() - self.counts["sent"] / (self.plan.rate or 1)
        elif verb == "quiet":
            self._complete_begun(float("inf"))
        elif verb == "finish":
            self.wanted = 0
            if args:
                self._mark, seconds = args
                self._deadline = time.monotonic() + seconds

    # What clients send.

    def turn(self, now: float) -> None:
        """Open connections that are missing, and act."""
        opening = len(self.connections) - self._joined
        for _ in range(min(self.wanted - len(self.connections), MAX_OPENING - opening)):
            self._next_sender += 1
            name = f"{self.plan.name}/{self._next_sender}"
            reader = self.order.add(Reader(name))
            connection = PlainConnection(name, reader, self._next_sender)
            self.prepare(connection)
            self.connect(connection)
        self.act(now)

    def prepare(self, connection: PlainConnection) -> None:
        """Set options of a socket before it connects."""

    def act(self, now: float) -> None:
        """Send the messages that are due at ``now``."""
        if not self.acting or not self.plan.rate:
            return
        self._complete_begun(now)
        due = int((now - self._send_from) * self.plan.rate) - self.counts["sent"]
        if due > self.plan.rate * MAX_BACKLOG + 1:
            self._send_from = now - self.counts["sent"] / self.plan.rate
        for connection in self._senders(due):
            self.send(connection)

    def send(self, connection: PlainConnection) -> None:
        """Send the connection's next message, or the rest of it; then, often, begin another one."""
        frame = self.tests.frame(connection.sender, connection.number, self.plan.size)[connection.begun :]
        connection.number += 1
        connection.begun = 0
        self._halved.pop(connection, None)
        self.counts["sent"] += 1
        halving = self.plan.halves and self.acting and self.phase == "faults"
        if halving and self.random.random() < HALVES_PART and not self._has_sent_all(connection):
            frame += self._half(connection)
        self.write(connection, frame)

    def _half(self, connection: PlainConnection) -> bytes:
        """Return a piece of the next message's frame: from one byte to all before its time."""
        head = self.tests.head(connection.sender, connection.number, self.plan.size)
        connection.begun = self.random.randint(1, len(head))
        self._halved[connection] = time.monotonic()
        self.counts["halves"] += 1
        return head[: connection.begun]

    def _complete_begun(self, now: float) -> None:
        for connection, since in list(self._halved.items()):  # the oldest first
            if now - since < HALF_FOR:
                return
            self.send(connection)

    def _senders(self, count: int) -> Iterator[PlainConnection]:
        """Take all connections in turn, so that every worker publishes; skip those that cannot send now."""
        for _ in range(len(self.connections)):
            if count <= 0 or not self.connections:
                return
            self._turn = (self._turn + 1) % len(self.connections)
            connection = self.connections[self._turn]
            if connection.joined and not connection.out and not self._has_sent_all(connection):
                count -= 1
                yield connection

    def _has_sent_all(self, connection: PlainConnection) -> bool:
        return 0 < self.plan.messages <= connection.number

    # Connections come and go.

    def has_joined(self, connection: PlainConnection) -> None:
        """Note that the server has answered: all that is sent from now on is due."""
        connection.joined = True
        connection.reader.joined = time.monotonic_ns()
        self._joined += 1

    def ended(self, connection: PlainConnection, why: str) -> None:
        """Report a connection that the server or the network has ended, and close it."""
        self.died.append((connection.address, f"{connection.name}: {why}"))
        self.close(connection)

    def forget(self, connection: PlainConnection) -> None:
        """Let a closed connection owe nothing more."""
        self._halved.pop(connection, None)
        self._joined -= connection.joined
        self.order.close(connection.reader)

    def joined(self) -> int:
        """Return how many connections are there."""
        return self._joined

    # What clients receive.

    def received(self, connection: PlainConnection, data: bytes) -> None:
        """Compare the next frames with the order, and measure how long messages took."""
        frames = self.look(connection, data)
        reader = connection.reader
        before = reader.position
        self.order.feed(reader, frames)
        if self.sampled and before and reader.position > before:
            now = time.monotonic_ns()
            for sent in self.order.sent_between(before, reader.position):
                if phase := self._phase_at(sent):
                    self.latency.setdefault(phase, Latency()).record(now - sent)

    def _phase_at(self, moment: int) -> str:
        """Return the phase of a moment: what a fault delays may come when the faults are over."""
        return next(name for begun, name in reversed(self._phases) if begun <= moment)

    def look(self, connection: PlainConnection, data: bytes) -> list[bytes]:
        """Handle replies to this client alone; return the other frames, which are for the order."""
        shared = []
        for frame in connection.reader.split(data):
            if not is_error(frame):
                shared.append(frame)
            elif connection.joined:
                self.rejected(connection, frame)
            else:
                self.has_joined(connection)
        return shared

    def rejected(self, connection: PlainConnection, frame: bytes) -> None:
        """Note that the server rejected something that this connection sent."""
        self.findings.note("strange", f"{connection.name} was rejected: {frame[HEADER:100]!r}")

    # What the parent is told.

    def tell(self) -> None:
        """Report the next part of the order, and how far the clients are."""
        self.order.settle()
        for segment, frames in self.order.take():
            self.pipe.send(OrderPart(segment, self.order.began.get(segment, 0), frames))
        there = sum(self.order.frames_of(connection.reader) for connection in self.connections)
        self.counts["deliveries"] = self.order.delivered + there
        super().tell()

    def complete(self) -> bool:
        """Say whether every connection has sent all that it was to send."""
        if not self.plan.rate:
            return True
        return bool(self.plan.messages) and all(map(self._has_sent_all, self.connections))

    def quiet(self, now: float) -> bool:
        """Say whether all own messages came back, or are missing for good."""
        missing = any(
            self.order.seen.get(connection.sender, -1) < connection.number - 1
            for connection in self.connections
        )
        return not missing or now > self.quiet_since + ECHO_TIMEOUT

    def finished(self) -> bool:
        """Say whether all have read up to the mark, or take too long."""
        if not self.finishing or self._mark is None:
            return self.finishing
        mark = self._mark
        return time.monotonic() > self._deadline or all(
            self.order.complete(connection.reader, mark)
            for connection in self.connections
            if connection.joined
        )

    def finish(self) -> None:
        """Compare all to the end, then report."""
        for connection in [connection for connection in self.connections if not connection.joined]:
            self.close(connection)
        if self._mark is not None:
            self.order.finish(self._mark)
        super().finish()

    def report(self) -> PlainReport:
        """Return the last report."""
        senders = {connection.sender: connection.number for connection in self.connections}
        return PlainReport(
            findings=self.findings,
            counts=self.counts,
            latency=self.latency,
            senders=senders,
            lived=bool(senders),
        )


class Probes(PlainLoop):
    """Clients that read at once whatever comes, and measure how long it took."""

    pause = 0.0
    look_for = 0.05
    sampled = True
