"""Plain clients that do not read, and plain clients that leave all at once; each kind in its own process.

They are checked like all others: what a stalled client reads in the end is compared with the order, up to
where the server cut it off.
"""

import select
import socket
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.stress.faults import Fault
from scripts.stress.fleet import ClientProcess
from scripts.stress.plain.clients import PlainConnection, PlainLoop, PlainPlan

# Bytes of receive buffer of a stalled client: few, so that the server notices soon.
STALLED_BUFFER = 4096
# One of so many stalled clients reads a byte a second; the others read nothing.
TRICKLE_EVERY = 5
# Seconds between two bytes, and between two looks for connections that the server has ended.
TRICKLE_PAUSE = 1.0
# Seconds that a client process is stopped, and then continues.
STOPPED_FOR = 6.0
# Bytes that a client must have been behind when the server cut it off: half of the default of its lag_limit.
# And seconds until that is judged: a process that was stopped learns only then how far the others are.
CUT_OFF_BEHIND = 4 << 20
JUDGE_AFTER = 3.0
# The other side is gone; Linux says so without a read.
_HANGUP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


class Stopped(PlainLoop):
    """A process that the parent stops and continues (SIGSTOP); the server may cut its clients off."""

    def __init__(self, plan: PlainPlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare; ``pipe`` leads to the parent."""
        super().__init__(plan, pipe)
        # When a client was cut off (seconds, monotonic), in which segment, and behind how many of its bytes.
        self._cut: list[tuple[float, int, int]] = []

    def ended(self, connection: PlainConnection, why: str) -> None:
        """Count a client that was cut off; before it has joined, that is a fault as elsewhere."""
        if not connection.joined:
            super().ended(connection, why)
            return
        self.counts["cut_off"] += 1
        place = max(connection.reader.position, connection.reader.floor)
        self._cut.append((time.monotonic(), self.order.segment, self.order.bytes_before(place)))
        self.close(connection)

    def tell(self) -> None:
        """Judge those that were cut off some time ago, and report."""
        self._judge_cut(time.monotonic())
        super().tell()

    def finish(self) -> None:
        """Judge all that were cut off, and report."""
        self._judge_cut(float("inf"))
        super().finish()

    def _judge_cut(self, now: float) -> None:
        """Count clients that were cut off without being far behind.

        Where a new segment has begun since, it is not known how far they were.
        """
        while self._cut and now - self._cut[0][0] >= JUDGE_AFTER:
            _, segment, got = self._cut.pop(0)
            near = self.order.bytes_before(self.order.end) - got < CUT_OFF_BEHIND
            self.counts["unexplained"] += segment == self.order.segment and near


class Stalled(Stopped):
    """The first client reads and knows the order; the others stop reading as soon as they have joined."""

    _next_look = 0.0
    _stalling = True

    def prepare(self, connection: PlainConnection) -> None:
        """Make the buffer small for all but the first."""
        if self.connections:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER)

    def has_joined(self, connection: PlainConnection) -> None:
        """Stop reading, except at the first."""
        super().has_joined(connection)
        if self._stalling and connection is not self.connections[0]:
            connection.reading = False
            self.watch(connection)

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent; ``resume``: read everything that has gathered."""
        if verb == "resume":
            self._stalling = False
            for connection in self.connections:
                connection.reading = True
                self.watch(connection)
        super().command(verb, *args)

    def act(self, now: float) -> None:
        """Read the byte of each client that trickles, and look for those that were cut off."""
        if now < self._next_look:
            return
        self._next_look = now + TRICKLE_PAUSE
        stalled = [connection for connection in self.connections if not connection.reading]
        for connection in stalled[::TRICKLE_EVERY]:
            self.read(connection, size=1)
        self._read_ended([connection for connection in stalled if not connection.closed])

    def _read_ended(self, stalled: list[PlainConnection]) -> None:
        poll = select.poll()
        by_number = {connection.sock.fileno(): connection for connection in stalled}
        for number in by_number:
            poll.register(number, _HANGUP)
        for number, _ in poll.poll(0):
            by_number[number].reading = True
            self.watch(by_number[number])


class Leavers(PlainLoop):
    """All clients but the first leave in one moment when told to, half with a reset, and come again."""

    _told = False

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent; ``storm``: leave, once all are there."""
        self._told = self._told or verb == "storm"
        super().command(verb, *args)

    def act(self, now: float) -> None:
        """Leave if it is time: a worker may have been killed since the parent heard that all are there."""
        leavers = self.connections[1:]
        if self._told and all(connection.joined for connection in leavers):
            self._told = False
            for number, connection in enumerate(leavers):
                self.counts["left"] += 1
                self.close(connection, reset=number % 2 == 1)
        super().act(now)


class Stalls(Fault):
    """Clients that do not read, and a client process that is stopped and continued in turn."""

    def __init__(self, stalled: ClientProcess, stopped: ClientProcess) -> None:
        """Take the processes of :class:`Stalled` and :class:`Stopped` clients."""
        self.processes = (stalled, stopped)
        self._stops = 0
        self._next = 0.0

    def step(self, now: float) -> None:
        """Stop the process, or continue it, when it is time."""
        if now < self._next:
            return
        self._next = now + STOPPED_FOR
        self._stops += 1
        if self._stops % 2:
            self.processes[1].stop()
        else:
            self.processes[1].resume()

    def end(self) -> None:
        """Let all clients read again."""
        self.processes[1].resume()
        self.processes[0].tell("resume")

    def facts(self) -> dict[str, Any]:
        """Return how many stalled, how many were cut off, and how many of those were not far behind."""
        stalled, stopped = self.processes
        return {
            "stalled": stalled.plan.connections - 1,
            "stopped": stopped.plan.connections,
            "cut_off": sum(process.count("cut_off") for process in self.processes),
            "unexplained": sum(process.count("unexplained") for process in self.processes),
        }

    def reasons(self, killing: bool) -> list[str]:
        """Return how many were cut off too soon; with killed workers some have to be."""
        unexplained = self.facts()["unexplained"]
        return (
            [f"{unexplained} stalled connections ended without cause"] if unexplained and not killing else []
        )
