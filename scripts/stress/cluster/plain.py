"""A process of plain clients: each stays with its host, talks, and comes back when its host is back."""

import json
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.common.address import Address
from scripts.common.frames import HEADER, framed, split_frames
from scripts.stress.clients import ClientLoop, Connection, Plan, Report
from scripts.stress.cluster.clients import Directory
from scripts.stress.cluster.conversation import FAREWELL
from scripts.stress.cluster.hosts import Ended
from scripts.stress.cluster.stays import LOBBY, Stay
from scripts.stress.members.texts import Sent, write

# Seconds until a client that lost its host tries again.
BACK_AFTER = 0.5
# Messages that are made up for after a pause, at most.
MOST_AT_ONCE = 10


@dataclass(frozen=True, kw_only=True)
class PlainHostsPlan(Plan):
    """What the process is to do; ``address`` is not used."""

    hosts: tuple[Address | None, ...]


@dataclass(frozen=True, kw_only=True)
class PlainHostsReport(Report):
    """To the parent, last."""

    stays: list[Stay]


class PlainConnection(Connection):
    """A connection of the client ``client`` to its host."""

    def __init__(self, client: int, host: int, stay: Stay) -> None:
        """Open a socket with a port of its own: no other client's name is the same."""
        super().__init__(stay.label)
        self.sock.bind(("127.0.0.1", 0))
        self.client = client
        self.host = host
        self.stay = stay
        self.said = False  # the first message makes it a plain client


class PlainHostsLoop(ClientLoop[PlainConnection]):
    """All plain clients; client ``n`` belongs to host ``n`` modulo the number of hosts."""

    plan: PlainHostsPlan

    def __init__(self, plan: PlainHostsPlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare; ``pipe`` leads to the parent."""
        super().__init__(plan, pipe)
        self.plan = plan
        self.hosts = Directory(plan.hosts)
        self.stays: list[Stay] = []
        self._here: dict[int, PlainConnection] = {}
        self._back_at = [0.0] * plan.connections
        self._numbers = 0
        self._since = self._sent = 0.0
        self._waiting: deque[int] = deque()

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent; ``hosts ADDRESSES``: which are there."""
        super().command(verb, *args)
        if verb == "hosts":
            self.hosts.update(*args)
        elif verb == "go":
            self._since = time.monotonic()

    def turn(self, now: float) -> None:
        """Connect clients that are not there, and let one after the other say something."""
        for client in range(self.plan.connections):
            host = client % len(self.plan.hosts)
            if client not in self._here and now >= self._back_at[client] and host in self.hosts.living:
                self._connect(client, host)
        if self.acting and self.plan.rate:
            due = min(int((now - self._since) * self.plan.rate - self._sent), MOST_AT_ONCE)
            if due == MOST_AT_ONCE:
                self._since, self._sent = now, 0
            else:
                self._sent += due
            for _ in range(due):
                self._say_next()

    def _connect(self, client: int, host: int) -> None:
        label = f"plain-{client}/{len(self.stays) + 1}@{host + 1}"
        connection = PlainConnection(client, host, Stay(label, self.plan.run, self.findings))
        self._here[client] = connection
        self.stays.append(connection.stay)
        self.connect(connection)

    def _say_next(self) -> None:
        if not self._waiting:
            self._waiting.extend(self.random.sample(range(self.plan.connections), self.plan.connections))
        connection = self._here.get(self._waiting.popleft())
        if connection is not None and connection.connected and not connection.out:
            self._say(connection)

    def _say(self, connection: PlainConnection) -> None:
        sent = Sent(LOBBY, f"{connection.address[0]}:{connection.address[1]}", self._numbers)
        self._numbers += 1
        self.counts["sent"] += 1
        connection.stay.says(sent)
        text = write(self.plan.run, sent.room, sent.name, sent.number)
        self.write(connection, framed(json.dumps({"message": text}).encode()))

    def writable(self, connection: PlainConnection) -> None:
        """Say the first message as soon as the connection is there: members say less at first."""
        super().writable(connection)
        if not connection.said and not connection.closed:
            connection.said = True
            self._say(connection)

    def received(self, connection: PlainConnection, data: bytes) -> None:
        """Note what came."""
        frames, connection.carry = split_frames(connection.carry + data)
        for frame in frames:
            self.counts["deliveries"] += 1
            if (got := json.loads(frame[HEADER:])) != FAREWELL:
                connection.stay.take(got)

    def ended(self, connection: PlainConnection, why: str) -> None:
        """Close a connection that ended with its host, and come back later."""
        if connection.address[1]:
            self.pipe.send(Ended(connection.host, time.monotonic(), f"{connection.name}: {why}"))
        self.close(connection)
        self._here.pop(connection.client, None)
        self._back_at[connection.client] = time.monotonic() + BACK_AFTER

    def address_of(self, connection: PlainConnection) -> Address:
        """Return the address of the connection's host."""
        return self.hosts.last[connection.host]

    def joined(self) -> int:
        """Return how many have received something: the server takes them for plain clients."""
        return sum(bool(each.stay.got) for each in self._here.values())

    def quiet(self, now: float) -> bool:
        """Say whether all are there and their messages have come back."""
        here = self._here.values()
        return len(here) == self.plan.connections and not any(each.stay.unseen for each in here)

    def report(self) -> PlainHostsReport:
        """Return the last report."""
        for connection in self._here.values():
            for sent in connection.stay.unseen:
                self.findings.note("lost", f"{connection.name}: its own {sent.number} did not come back")
        return PlainHostsReport(
            findings=self.findings, counts=self.counts, latency=self.latency, stays=self.stays
        )
