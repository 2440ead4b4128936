"""WorkerHandle: what the parent knows of one worker process, and the ways it can reach it.

It starts the process, keeps each connection's socket until the worker has acked it, takes those that the
worker was asked to give away, and remembers the last beat. What runs in the process is in
:mod:`mpchat.worker.worker`.
"""

import multiprocessing
import os
import signal
import socket
import time
from collections import Counter
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from mpchat.config import Config
from mpchat.hub.endpoint import Endpoint
from mpchat.instance.record import Identity
from mpchat.ipc import os_process as process
from mpchat.ipc.channel import Link, make_queue
from mpchat.ipc.connection_state import FRESH
from mpchat.ipc.handoff import (
    MAX_DESCRIPTORS,
    ConnectionInTransit,
    Handoff,
    HandoffMessage,
    HandoffSocket,
    Receipt,
    own,
    read_message,
)
from mpchat.ipc.items import Down
from mpchat.supervisor.capacity import SELECT_LIMIT, connections_per_worker
from mpchat.supervisor.heartbeat import Heartbeat
from mpchat.supervisor.placement_policy import Candidate
from mpchat.worker import worker

# Seconds for which a worker that had no descriptor left for a connection gets no further one.
SHORT_OF_DESCRIPTORS = 1.0


class HeldConnection(NamedTuple):
    """A connection on its way, from accept or from another worker, until it is acked.

    ``since`` is when it was assigned to a worker (seconds, monotonic); ``state`` is that of a moved one.
    """

    identity: int
    sock: socket.socket
    host: str
    port: int
    since: float = 0.0
    state: msgspec.Raw = FRESH

    @property
    def moved(self) -> bool:
        """True for a connection that another worker had before."""
        return self.state is not FRESH


class Arrivals(NamedTuple):
    """What a message from a worker brought: connections that need a place, the hosts of connections that
    ended, connections that it has taken, and how long each of the moved ones among them had to wait."""

    unplaced: list[HeldConnection]
    ended: list[str]
    taken: list[HeldConnection]
    pauses: list[float]


class WorkerHandle:
    """One worker process, from its start to its end."""

    def __init__(self, config: Config, slot: int, generation: int, workers_lock: Path) -> None:
        """Start the process. Only from the main thread: the kernel's death signal follows the thread."""
        assert process.own_thread_starts_children()
        self.slot = slot
        # How many reloads there had been when it was started, plus one.
        self.generation = generation
        # It beats, and has room, as its own settings say.
        self.heartbeat = Heartbeat(config.hang_timeout, time.monotonic())
        self.select = config.multiplexer == "select"
        self.unacked: dict[int, HeldConnection] = {}
        self.connections = 0
        self.hosts: Counter[str] = Counter()
        self.full_until = 0.0
        self.closed = False
        # True while it has been asked to give connections away and has not answered.
        self.asked = False
        # How many it has given away, and how many of its handoffs had to be refused.
        self.given = 0
        self.refused = 0
        # It was told to end because it has no connections any more; it has posted everything; how it ended.
        self.retiring = False
        self.drained = False
        self.how = ""
        self._assigned: list[HeldConnection] = []
        up, window = make_queue()
        down, _ = make_queue()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.handoff = HandoffSocket(near)
        self.endpoint = Endpoint(slot, Link(up, down, window))
        with far:
            self.process = self._start(config, (down, up, window), far, workers_lock)
        self.endpoint.link.close_far_ends()
        self.identity = Identity.of(self.pid)

    def _start(
        self, config: Config, queues: tuple[object, object, int], far: socket.socket, workers_lock: Path
    ) -> SpawnProcess:
        # Ctrl-C reaches the whole group; blocked around the start, it is blocked in the child from its birth,
        # and one that comes meanwhile is not lost here. The tracker unblocks it when it is started itself.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            child = multiprocessing.get_context("spawn").Process(
                target=worker.main,
                args=(config, self.slot, os.getpid(), queues, far, str(workers_lock)),
                name=f"mpchat-worker-{self.slot}",
            )
            child.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child

    @property
    def ready(self) -> bool:
        """True when it has been able to serve, whatever it is doing now."""
        return self.heartbeat.ready_at is not None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def load(self) -> int:
        """Connections that it has or is about to have."""
        return self.connections + len(self.unacked)

    def candidate(self, limit: int, now: float) -> Candidate:
        """Describe this worker to placement; ``limit`` is how many connections fit a worker."""
        if now < self.full_until:
            limit = self.load
        elif self.select:
            limit = min(limit, connections_per_worker(SELECT_LIMIT, "select"))
        oldest = now - next(iter(self.unacked.values())).since if self.unacked else 0.0
        return Candidate(self.slot, self.connections, len(self.unacked), oldest, limit)

    def assign(self, connection: HeldConnection, now: float) -> None:
        """Put a connection on its way; :meth:`send_handoffs` sends all of a turn in one message."""
        self.unacked[connection.identity] = connection._replace(since=now)
        self._assigned.append(connection)

    def send_handoffs(self) -> None:
        """Send what was assigned. Raises ``OSError`` when the worker is gone; nothing is lost by that."""
        while self._assigned:
            batch = self._assigned[:MAX_DESCRIPTORS]
            del self._assigned[:MAX_DESCRIPTORS]
            in_transit = [
                ConnectionInTransit(each.identity, each.host, each.port, each.state) for each in batch
            ]
            handoff = Handoff(in_transit)
            self.handoff.send(msgspec.msgpack.encode(handoff), [each.sock.fileno() for each in batch])

    @property
    def has_assigned(self) -> bool:
        """True while connections wait to be sent to the worker."""
        return bool(self._assigned)

    def ask_for(self, count: int) -> None:
        """Ask the worker to give up to ``count`` connections away; its answer is a handoff."""
        self.asked = True
        self.endpoint.send_now(Down.MOVE, count)

    def on_message(self, arrived: HandoffMessage) -> Arrivals:
        """Take what the worker says about connections."""
        message = read_message(arrived.message)
        if isinstance(message, Handoff):
            return self._on_handoff(message, arrived)
        return self._on_receipt(message)

    def _on_receipt(self, receipt: Receipt) -> Arrivals:
        taken = [self.unacked.pop(identity) for identity in receipt.acks]
        for connection in taken:
            self.hosts[connection.host] += 1
            connection.sock.close()
        returned = [self.unacked.pop(identity) for identity in receipt.nacks]
        if returned:
            self.full_until = time.monotonic() + SHORT_OF_DESCRIPTORS
        self.connections += len(taken) - len(receipt.closed)
        for host in receipt.closed:
            self._one_less_from(host)
        return Arrivals(returned, receipt.closed, taken, receipt.pauses)

    def _on_handoff(self, handoff: Handoff, arrived: HandoffMessage) -> Arrivals:
        """Take connections back from the worker, or leave them with it when there are no descriptors."""
        self.asked = False
        identities = [each.identity for each in handoff.connections]
        if arrived.descriptors is None:
            self.refused += 1
            self._answer(Receipt(nacks=identities))
            return Arrivals([], [], [], [])
        unplaced = []
        for each, descriptor in zip(handoff.connections, arrived.descriptors, strict=True):
            sock = own(descriptor, each.host)
            unplaced.append(HeldConnection(each.identity, sock, each.host, each.port, state=each.state))
            self._one_less_from(each.host)
        self.connections -= len(unplaced)
        self.given += len(unplaced)
        self._answer(Receipt(acks=identities))
        return Arrivals(unplaced, [], [], [])

    def _answer(self, receipt: Receipt) -> None:
        with suppress(OSError):  # it is gone, and needs no answer
            self.handoff.send(msgspec.msgpack.encode(receipt), [])

    def _one_less_from(self, host: str) -> None:
        self.hosts[host] -= 1
        if not self.hosts[host]:
            del self.hosts[host]

    def memory(self) -> int:
        """Resident memory in bytes, 0 once the process has gone or when there is no descriptor to look."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except (psutil.Error, OSError):
            return 0

    def dump(self, now: float) -> None:
        """Have the process write its stacks to the log."""
        self.heartbeat.on_dump(now)
        os.kill(self.pid, signal.SIGUSR2)

    def kill(self) -> None:
        """End it at once. It is our child and not yet waited for, so its number is its own."""
        self.process.kill()

    def close(self) -> list[HeldConnection]:
        """Give everything free once the process has ended; returns what was on its way to it."""
        self.closed = True
        self.process.join()
        self.process.close()
        self.handoff.close()
        self.endpoint.link.close()
        held, self.unacked = list(self.unacked.values()), {}
        return held
