"""Placement: connections that wait for a worker, and how they get one.

A connection waits here from its accept, or from its move out of a worker, until it is assigned to a worker.
If that worker nacks or dies, the connection comes back and goes to another one. A moved connection is never
refused. Which worker is chosen is decided in :mod:`mpchat.supervisor.placement_policy`.
"""

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count

from mpchat.config import format_address
from mpchat.hub.hub import Hub
from mpchat.ipc.addresses import covers, means, owner_of
from mpchat.ipc.connection_state import decode_state
from mpchat.ipc.items import Down
from mpchat.reactor import Reactor
from mpchat.supervisor.acceptor import Acceptor
from mpchat.supervisor.ask_workers import NO_QUESTION
from mpchat.supervisor.handoff_sockets import HandoffSockets
from mpchat.supervisor.placement_policy import MAX_UNACKED, choose_worker
from mpchat.supervisor.refusals import BANNED, Refusal
from mpchat.supervisor.transit import Transit
from mpchat.supervisor.worker_connections import Arrivals, HeldConnection
from mpchat.supervisor.worker_handle import WorkerHandle
from mpchat.supervisor.worker_process import WORKER

WORKERS_FULL = Refusal("the workers are out of descriptors; try again later")
TLS_FULL = Refusal("no process can encrypt for you; try again later")
# Connections that may wait for a TLS process to start, or to have room; with more, the oldest are closed.
MOST_FOR_TLS = 100
# Seconds that each of them may wait: nobody hears of a client that leaves meanwhile.
TLS_PATIENCE = 10.0


class Placement:
    """Connections that wait for a worker, and the number of connections from each host."""

    def __init__(self, reactor: Reactor, acceptor: Acceptor, hub: Hub, per_worker: int) -> None:
        """``per_worker`` is how many connections fit one worker."""
        self.per_worker = per_worker
        self.transit = Transit(hub)
        self._hub = hub
        self._acceptor = acceptor
        self._handoffs = HandoffSockets(reactor, self._on_arrivals)
        self._unplaced: list[HeldConnection] = []
        # Addresses, networks and ``host:port`` whose connections all workers are asked to close just now.
        self.kicking: list[str] = []
        # Are told of each connection that comes back here from a process.
        self.witnesses: list[Callable[[HeldConnection], None]] = []
        # Says why a client whose proxy has told its address may not come in; None: it may.
        self.admit: Callable[[str], Refusal | None] = lambda host: None
        # Connections by host, wherever they are by now.
        self._hosts: Counter[str] = Counter()
        self._identities = count(1)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._unplaced)

    @property
    def holds_up(self) -> bool:
        """True while connections wait for a worker: those that wait for a TLS process hold up nobody."""
        return any(not each.wants_tls for each in self._unplaced)

    def from_host(self, host: str) -> int:
        """How many connections there are from where ``host`` is; see ``addresses.owner_of``."""
        return self._hosts[owner_of(host)]

    def fresh_from(self, target: str, handles: Iterable[WorkerHandle]) -> set[int]:
        """Return the identities of fresh connections that ``target`` means and no worker has yet.

        ``target`` is an address, a network or ``host:port``.
        """
        unacked = (each for handle in handles for each in handle.connections.unacked.values())
        return {
            each.identity
            for each in (*self._unplaced, *unacked)
            if not each.moved and means(target, each.host, each.port)
        }

    def held(self, handles: Iterable[WorkerHandle]) -> Iterator[HeldConnection]:
        """Return the connections that wait here or are in transit to ``handles``."""
        return chain(self._unplaced, *(handle.connections.unacked.values() for handle in handles))

    def enter(self, sock: socket.socket, host: str, port: int, *, proxied: bool = False) -> None:
        """Take a connection that may come in; the acceptor pauses while too many wait.

        ``proxied``: it is a proxy's, which has not said yet for whom.
        """
        self._hosts[owner_of(host)] += 1
        self._unplaced.append(HeldConnection(next(self._identities), sock, host, port, proxied=proxied))
        if len(self._unplaced) >= MAX_UNACKED:
            self._acceptor.pause()

    def watch(self, handle: WorkerHandle) -> None:
        """Listen to a worker that was just started."""
        self._handoffs.watch(handle)

    def unwatch(self, handle: WorkerHandle) -> None:
        """Read a dead worker's last receipts; let connections in transit to it wait for another worker."""
        self._handoffs.unwatch(handle)
        for host, connections in handle.connections.hosts.items():
            self._hosts[owner_of(host)] -= connections
        self._hosts += Counter()  # drops hosts without connections
        self._take_back(handle.close())

    def place_for_tls(
        self, handles: Sequence[WorkerHandle], now: float, patience: float = TLS_PATIENCE
    ) -> None:
        """Send each connection that speaks TLS to the one of these TLS processes that has the fewest.

        Refuse those that have waited for more than ``patience`` seconds.
        """
        waiting = [each for each in self._unplaced if each.wants_tls]
        if not waiting:
            return
        self._unplaced = [each for each in self._unplaced if not each.wants_tls]
        candidates = [handle.candidate(self.per_worker, now) for handle in handles]
        by_slot = {handle.slot: handle for handle in handles}
        for placed, connection in enumerate(waiting):
            chosen = choose_worker(candidates, self._turn)
            if chosen is None:
                self._let_wait(waiting[placed:], now - patience)
                break
            self._turn += 1
            by_slot[chosen.slot].connections.assign(connection, now)
            candidates[candidates.index(chosen)] = chosen.with_one_more()
        for handle in handles:
            if handle.connections.has_assigned:
                self._handoffs.send_assigned(handle)

    def _let_wait(self, for_tls: list[HeldConnection], since: float) -> None:
        """Let connections wait that have not waited since then, and not too many; refuse the others."""
        patient = [each for each in for_tls if each.since > since][-MOST_FOR_TLS:]
        refused = [each for each in for_tls if each not in patient]
        self._unplaced += patient
        for connection in refused:
            self._refuse(connection, TLS_FULL)

    def place(self, handles: Sequence[WorkerHandle], now: float, expected: int) -> None:
        """Send each connection to the one of ``handles`` that has the fewest, as far as they have room.

        Moved connections go first, for the room waits for them. Fresh ones leave enough places for those, and
        for the ``expected`` connections that are still to be moved. Those that are to shake hands first stay.
        """
        candidates = [handle.candidate(self.per_worker, now) for handle in handles]
        free = sum(each.free for each in candidates) - expected
        self._unplaced.sort(key=lambda each: (each.wants_tls, not each.moved))
        by_slot = {handle.slot: handle for handle in handles}
        placed = 0
        for connection in self._unplaced:
            chosen = choose_worker(candidates, self._turn)
            if chosen is None or connection.wants_tls or (placed >= free and not connection.moved):
                break
            self._turn += 1
            placed += 1
            by_slot[chosen.slot].connections.assign(connection, now)
            candidates[candidates.index(chosen)] = chosen.with_one_more()
        del self._unplaced[:placed]
        for handle in handles:
            if handle.connections.has_assigned:
                self._handoffs.send_assigned(handle)
        if self._unplaced and handles and all(now < each.connections.full_until for each in handles):
            self.refuse(WORKERS_FULL)

    def refuse(self, refusal: Refusal, most: int | None = None, *, host: str | None = None) -> None:
        """Refuse fresh connections that wait for a worker: all, those from ``host``, or the last ``most``.

        ``host`` may be a network.
        """
        here = [
            each for each in self._unplaced if not each.moved and (host is None or covers(host, each.host))
        ]
        refused = here if most is None else here[-most:]
        for connection in refused:
            self._refuse(connection, refusal)
        gone = {each.identity for each in refused}
        self._unplaced = [each for each in self._unplaced if each.identity not in gone]

    def _refuse(self, connection: HeldConnection, refusal: Refusal) -> None:
        self._forget_host(connection.host)
        state = decode_state(connection.state)
        self._acceptor.refuse(connection.sock, refusal, state.dialect_state.partial if state else b"")

    def _take_back(self, connections: Sequence[HeldConnection]) -> None:
        """Let connections wait that no worker has. A fresh one may have been banned meanwhile."""
        self._unplaced += connections
        for witness in self.witnesses:
            for each in connections:
                witness(each)
        now = self._hub.wall()
        for host in {each.host for each in connections if not each.moved}:
            if self._hub.state.moderation.banned_host(host, now):
                self.refuse(BANNED, host=host)

    def _kick_banned(self, handle: WorkerHandle, acked: Sequence[HeldConnection]) -> None:
        """Close connections that were banned on their way, unless workers are still being asked for them."""
        if not self._hub.state.moderation.bans:
            return
        for each in acked:
            asked_for = any(means(target, each.host, each.port) for target in self.kicking)
            if not asked_for and self._hub.moderator.is_banned(each.identity, each.host):
                handle.endpoint.send(Down.KICK, (NO_QUESTION, format_address(each.host, each.port)))

    def _on_arrivals(self, handle: WorkerHandle, arrivals: Arrivals) -> None:
        """Take note of what a worker or a TLS process says about connections."""
        self._take_back([each for each in arrivals.unplaced if not arrivals.passed or self._may_stay(each)])
        if handle.kind is WORKER:
            self.transit.ended(handle.endpoint, (each.identity for each in arrivals.acked), arrivals.pauses)
            self._kick_banned(handle, arrivals.acked)
            if not (handle.connections.asked or arrivals.passed):
                moved = (each.identity for each in arrivals.unplaced if each.moved)
                self.transit.began(handle.endpoint, moved)
        for host in arrivals.ended:
            self._forget_host(host)

    def _may_stay(self, connection: HeldConnection) -> bool:
        """Count a connection where its client is, as its proxy has told; refuse it if it may not come."""
        if not connection.proxy:
            return True
        self._forget_host(connection.proxy)
        refusal = self.admit(connection.host)
        self._hosts[owner_of(connection.host)] += 1
        if refusal is not None:
            self._refuse(connection, refusal)
        return refusal is None

    def _forget_host(self, host: str) -> None:
        owner = owner_of(host)
        self._hosts[owner] -= 1
        if self._hosts[owner] <= 0:
            del self._hosts[owner]
