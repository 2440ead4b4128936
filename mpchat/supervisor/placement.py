"""Placement: where clients are between the acceptor and a worker, and between two workers.

A connection is here from its accept until a worker has acked it: at home nowhere, or on its way. A worker
that dies or nacks gives its own back, and they go to another one. One that a worker gives away because it was
asked to comes in the same way and leaves in the same way, and is never refused. Nobody is lost in between.
Which worker a connection goes to is decided in :mod:`mpchat.supervisor.placement_policy`.
"""

import logging
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import count

from mpchat.hub.hub import Hub
from mpchat.ipc.handoff import REST
from mpchat.reactor import READ, WRITE, Reactor
from mpchat.supervisor.acceptor import Acceptor
from mpchat.supervisor.placement_policy import MAX_UNACKED, choose_worker
from mpchat.supervisor.refusals import Refusal
from mpchat.supervisor.worker_handle import Arrivals, HeldConnection, WorkerHandle

WORKERS_FULL = Refusal("the workers are out of descriptors; try again later")

log = logging.getLogger("mpchat.supervisor")


class Placement:
    """Clients on their way to workers, and how many of them there are from each host."""

    def __init__(self, reactor: Reactor, acceptor: Acceptor, hub: Hub, per_worker: int) -> None:
        """``per_worker`` is how many connections fit one worker."""
        self.per_worker = per_worker
        self._reactor = reactor
        self._acceptor = acceptor
        self._unplaced: list[HeldConnection] = []
        # Connections by host, wherever they are by now.
        self._hosts: Counter[str] = Counter()
        self._identities = count(1)
        self._turn = 0
        self._hub = hub
        # Moved connections that no worker has taken yet, by their identity.
        self._moving: set[int] = set()
        # Workers to whom nothing can be sent for a moment.
        self._resting: set[WorkerHandle] = set()
        # Moves since the start, and how long each waited (seconds) since somebody last asked.
        self.moves = 0
        self._pauses: list[float] = []

    def __len__(self) -> int:
        return len(self._unplaced)

    @property
    def moving(self) -> int:
        """How many connections are between two workers."""
        return len(self._moving)

    @property
    def in_transit(self) -> set[int]:
        """The identities of those connections."""
        return self._moving

    def take_pauses(self) -> list[float]:
        """Return how long each connection moved since the last call was served by nobody, in seconds."""
        pauses, self._pauses = self._pauses, []
        return pauses

    def from_host(self, host: str) -> int:
        """How many connections there are from ``host``."""
        return self._hosts[host]

    def enter(self, sock: socket.socket, host: str, port: int) -> None:
        """Take a connection that may come in; the acceptor rests while too many wait."""
        self._hosts[host] += 1
        self._unplaced.append(HeldConnection(next(self._identities), sock, host, port))
        if len(self._unplaced) >= MAX_UNACKED:
            self._acceptor.pause()

    def watch(self, handle: WorkerHandle) -> None:
        """Listen to a worker that was just started."""
        self._reactor.watch(handle.handoff, READ, partial(self._on_handoff, handle))

    def unwatch(self, handle: WorkerHandle) -> None:
        """Take a dead worker's last receipts, and its connections back."""
        while self._receive(handle):
            pass
        self._reactor.forget(handle.handoff)
        self._hosts.subtract(handle.hosts)
        self._hosts += Counter()  # drops those that none are left of
        self._unplaced += handle.close()

    def place(self, handles: Sequence[WorkerHandle], now: float, expected: int) -> None:
        """Send each connection to the one of ``handles`` that has the fewest, as far as they take them.

        Moved ones first, for the room waits for them: fresh ones leave the places of those, and of so many as
        are ``expected`` to be moved yet.
        """
        candidates = [handle.candidate(self.per_worker, now) for handle in handles]
        free = sum(each.free for each in candidates) - expected
        self._unplaced.sort(key=lambda each: not each.moved)
        by_slot = {handle.slot: handle for handle in handles}
        placed = 0
        for connection in self._unplaced:
            chosen = choose_worker(candidates, self._turn)
            if chosen is None or (placed >= free and not connection.moved):
                break
            self._turn += 1
            placed += 1
            by_slot[chosen.slot].assign(connection, now)
            candidates[candidates.index(chosen)] = chosen.with_one_more()
        del self._unplaced[:placed]
        for handle in handles:
            if handle.has_assigned:
                self._send_handoffs(handle)
        if self._unplaced and handles and all(now < handle.full_until for handle in handles):
            self.refuse(WORKERS_FULL)

    def refuse(self, refusal: Refusal, most: int | None = None, *, host: str | None = None) -> None:
        """Send away everybody, or everybody from ``host``, who has come in and is not on the way to a worker,
        or the last ``most`` of them."""
        here = [each for each in self._unplaced if not each.moved and host in (None, each.host)]
        refused = here if most is None else here[-most:]
        for connection in refused:
            self._forget_host(connection.host)
            self._acceptor.refuse(connection.sock, refusal)
        gone = {each.identity for each in refused}
        self._unplaced = [each for each in self._unplaced if each.identity not in gone]

    def _send_handoffs(self, handle: WorkerHandle) -> None:
        with suppress(OSError):  # it is gone: its death gives the connections back
            handle.send_handoffs()
        self._watch_again(handle)

    def _watch_again(self, handle: WorkerHandle) -> None:
        interest = READ | WRITE if handle.handoff.unsent else READ
        self._reactor.change(handle.handoff, interest, partial(self._on_handoff, handle))
        if handle.handoff.resting is not None and handle not in self._resting:
            log.warning("clients wait, %s: worker %d", handle.handoff.resting.strerror, handle.slot)
            self._resting.add(handle)
            self._reactor.call_later(REST, partial(self._try_again, handle))

    def _try_again(self, handle: WorkerHandle) -> None:
        if not handle.closed:
            with suppress(OSError):
                handle.handoff.pump()
            if handle.handoff.resting is not None:
                self._reactor.call_later(REST, partial(self._try_again, handle))
                return
            self._watch_again(handle)
        self._resting.discard(handle)

    def _on_handoff(self, handle: WorkerHandle, mask: int) -> None:
        if handle.closed:  # its death was dealt with earlier in this turn
            return
        if mask & WRITE:
            with suppress(OSError):
                handle.handoff.pump()
            self._watch_again(handle)
        if mask & READ and self._receive(handle) and (handle.handoff.unsent or handle.handoff.resting):
            self._watch_again(handle)

    def _receive(self, handle: WorkerHandle) -> bool:
        """Read receipts; returns False when there is nothing more to read ever."""
        try:
            messages = handle.handoff.receive()
        except (EOFError, OSError):
            return False
        for arrived in messages:
            arrivals = handle.on_message(arrived)
            self._unplaced += arrivals.unplaced
            self._note_moves(handle, arrivals)
            self._pauses += arrivals.pauses
            self.moves += len(arrivals.pauses)
            for host in arrivals.ended:
                self._forget_host(host)
        return True

    def _note_moves(self, handle: WorkerHandle, arrivals: Arrivals) -> None:
        for each in arrivals.taken:
            self._moving.discard(each.identity)
            self._hub.transit_ended(each.identity, handle.endpoint)
        if handle.asked:
            return
        # A connection that another worker has refused is in transit already.
        begun = [
            each.identity for each in arrivals.unplaced if each.moved and each.identity not in self._moving
        ]
        self._moving.update(begun)
        self._hub.transit_began(handle.endpoint, begun)

    def _forget_host(self, host: str) -> None:
        self._hosts[host] -= 1
        if self._hosts[host] <= 0:
            del self._hosts[host]
