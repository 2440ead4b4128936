"""Hostile clients, and the innocent ones beside them, which measure their own round trips."""

import json
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.common.frames import HEADER, split_frames
from scripts.common.latency import Latency
from scripts.stress.clients import READ_SIZE, ClientLoop, Connection, Plan, Report
from scripts.stress.hostile.kinds import BIG, DEAF, KINDS, payload

# Messages of the room with a long past: what the server keeps of a room by default.
PAST = 1000
# Messages of the past that are sent at once; further ones go out when these have come back.
PAST_STEP = 50
# Seconds from the end of a round trip to the next.
TRIP_EVERY = 0.01
# Seconds: a trip that is under way for so long when its phase ends counts. The least delay that is judged.
LONG = 0.05


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
        self._missing = list(range(plan.connections))

    def turn(self, now: float) -> None:
        """Come, come again, and send."""
        while self._missing:
            number = self._missing.pop()
            connection = Connection(f"hostile{number}")
            connection.reading = self.plan.reads
            connection.out = self.kind.first(number)
            self._numbers[connection] = number
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
        """Count what came."""
        self.counts["bytes"] += len(data)

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

    def report(self) -> Report:
        """Return the counts."""
        return Report(findings=self.findings, counts=self.counts, latency={})


class Innocent(Connection):
    """A client that sends a message, waits until it has come back, and sends the next."""

    def __init__(self, name: str, room: str) -> None:
        """Prepare to join a room."""
        super().__init__(name)
        self.room = room
        self.trips = 0
        self.sent_at = 0
        self.next_at = 0.0
        self.waits = False
        self.welcome = False
        self.out = payload(join={"name": name, "room": room})


class Innocents(ClientLoop[Innocent]):
    """Innocent clients in a room of their own; first, one of them fills another room with a long past."""

    def __init__(self, plan: Plan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare to connect."""
        super().__init__(plan, pipe)
        self.plan = plan
        self._filler: Innocent | None = None
        self._heard = 0

    def turn(self, now: float) -> None:
        """Connect, fill the big room, and measure."""
        if self._filler is None:
            self._filler = Innocent("filler", BIG)
            for each in (self._filler, Innocent(DEAF, BIG)):
                self.connect(each)
            for number in range(self.plan.connections):
                self.connect(Innocent(f"innocent{number}", "quiet"))
        if not self.acting:
            return
        for each in list(self.connections):
            if each.room != BIG and not each.waits and now >= each.next_at:
                each.trips += 1
                each.waits = True
                each.sent_at = time.monotonic_ns()
                self.write(each, payload(message=f"{each.name} {each.trips}"))

    def received(self, connection: Innocent, data: bytes) -> None:
        """Look for the own message."""
        frames, connection.carry = split_frames(connection.carry + data)
        for frame in frames:
            said = json.loads(frame[HEADER:])
            if "welcome" in said:
                connection.welcome = True
                self._begin(connection)
            elif said.get("message") == f"{connection.name} {connection.trips}" and connection.waits:
                self._came_back(connection)
            elif connection is self._filler and said.get("from") == "filler":
                self._heard += 1
                self._fill()

    def _begin(self, connection: Innocent) -> None:
        if connection.name == DEAF:
            connection.reading = False
            self.watch(connection)
        elif connection is self._filler:
            self._fill()

    def _fill(self) -> None:
        assert self._filler is not None
        if self._heard % PAST_STEP == 0 and self._heard < PAST:
            self.write(self._filler, payload(message="past" * 25) * PAST_STEP)

    def _came_back(self, connection: Innocent) -> None:
        connection.waits = False
        took = time.monotonic_ns() - connection.sent_at
        connection.next_at = time.monotonic() + TRIP_EVERY
        self.counts["deliveries"] += 1
        self._note(took)

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent. A trip that is still under way when its phase ends has taken at least so long."""
        if verb == "phase":
            self._note_waiting()
        super().command(verb, *args)

    def _note_waiting(self) -> None:
        now = time.monotonic_ns()
        for each in self.connections:
            if each.waits and now - each.sent_at > LONG * 1e9:
                self._note(now - each.sent_at)

    def _note(self, took: int) -> None:
        """Record a trip of ``took`` nanoseconds, and those that the client would have begun meanwhile.

        A client that waits asks no more. Without these a stall of seconds would be one trip among hundreds.
        """
        if not self.phase:
            return
        latency = self.latency.setdefault(self.phase, Latency())
        for rest in range(took, 0, -int(TRIP_EVERY * 1e9)):
            latency.record(rest)

    def ended(self, connection: Innocent, why: str) -> None:
        """Note an innocent client that was cut off; the deaf one is expected to be."""
        self.close(connection)
        if connection.name != DEAF:
            self.died.append((connection.address, f"{connection.name}: {why}"))

    def joined(self) -> int:
        """Return how many measure and are let in, once the past is there."""
        ready = sum(each.welcome for each in self.connections if each.room != BIG)
        return ready if self._heard >= PAST else 0

    def quiet(self, now: float) -> bool:
        """Say whether no message is under way."""
        return not any(each.waits for each in self.connections)

    def report(self) -> Report:
        """Return what was measured."""
        return Report(findings=self.findings, counts=self.counts, latency=self.latency)
