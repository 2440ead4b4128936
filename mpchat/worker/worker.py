"""Worker: what runs in a worker process. It owns its clients' connections and nothing else.

Clients' bytes → dialect → posts → hub; batches from the hub → fan-out → clients. A message reaches a client
by no other way, not even its own sender's: that is what makes one order. The loop never waits for a client
nor for the hub, and the process ends by itself when the supervisor does.

Here are the loop and the life cycle. What is read is in :mod:`mpchat.worker.reading`, what is sent in
:mod:`mpchat.worker.rooms`, what moves in :mod:`mpchat.worker.migration`; :mod:`mpchat.worker.uplink` and
:mod:`mpchat.worker.downlink` are the two ways between the worker and the hub.

What the parent knows of a worker is in :mod:`mpchat.supervisor.worker_handle`.
"""

import gc
import socket
import time
from multiprocessing import parent_process

from mpchat.config import Config
from mpchat.ipc import logs
from mpchat.ipc import os_process as process
from mpchat.ipc.beat import beat_every
from mpchat.ipc.channel import Link, Queue
from mpchat.ipc.goodbye import say_goodbye
from mpchat.ipc.handoff import HandoffSocket
from mpchat.ipc.handoff_channel import HandoffChannel
from mpchat.ipc.items import Beat, Up
from mpchat.ipc.lifetime import Lifetime
from mpchat.reactor import READ, Reactor
from mpchat.worker.clients import Clients
from mpchat.worker.counters import Counters
from mpchat.worker.downlink import Downlink
from mpchat.worker.late_clients import JUDGE_EVERY
from mpchat.worker.migration import Migration
from mpchat.worker.post_timing import gather_time
from mpchat.worker.uplink import Uplink

# Seconds for which a worker that gathers posts looks at nothing but the hub, at most.
NAP = 0.005
# How often to look whether the end has come once everything is on its way, in seconds.
CLOSE_EVERY = 0.01


class Worker:
    """One worker process's loop, and its parts."""

    def __init__(self, config: Config, link: Link, handoff: HandoffSocket) -> None:
        """Make the parts; nothing is listened to before :meth:`run`."""
        self.config = config
        self.reactor = Reactor(config.multiplexer)
        self.lifetime = Lifetime()
        self.counters = Counters()
        self.uplink = Uplink(link, self.lifetime, self.counters, gather_time(config.coalesce))
        self.handoff = HandoffChannel(self.reactor, handoff, self.lifetime)
        self.clients = Clients(config, self.reactor, self.uplink, self.handoff, self.counters, self.lifetime)
        self.rooms = self.clients.rooms
        self.migration = Migration(
            config, self.reactor, self.clients, self.uplink, self.handoff, self.lifetime
        )
        self.clients.first_bytes.pass_on = self.migration.pass_on
        self.downlink = Downlink(self.reactor, self.uplink, self.clients, self.migration, self.lifetime)
        self._longest_turn = 0.0

    def run(self) -> None:
        """Serve until told to close, or until the supervisor is gone."""
        parent = parent_process()
        assert parent is not None
        self.reactor.watch(parent.sentinel, READ, self._on_orphaned)
        self.downlink.serve()
        self.handoff.serve(self.migration)
        self._beat()
        self.uplink.say(Up.STARTED)
        while not self.lifetime.finished:
            self.turn()

    def turn(self) -> None:
        """Go once round the loop: what is ready, what goes up, what goes down."""
        self.clients.reading.begin_round()
        timeout = self._timeout()
        if timeout != 0.0 and (rest := self._rest(timeout)) > 0.0:
            self.reactor.nap(self.uplink.link, rest)
            timeout = 0.0
        self.reactor.turn(timeout)
        now = self.reactor.now
        # First of all: a connection must be acked before a byte is read from it or sent to it.
        self.migration.send_receipt()
        self.uplink.work(now)
        self.downlink.work(now)
        self.rooms.work(now)
        if self.clients.half_closed.busy:
            self.clients.half_closed.work()
        self.migration.work()
        if self.lifetime.closing_until is not None:
            self._close_when_done(now, self.lifetime.closing_until)
        length = time.monotonic() - now
        self.counters.turns.add(length)
        if length > self._longest_turn:
            self._longest_turn = length

    def _timeout(self) -> float | None:
        """Return how long the loop may wait: until the first of what wants to be looked at again."""
        until = self.uplink.due()
        if (due := self.rooms.due()) is not None and (until is None or due < until):
            until = due
        timeout = None if until is None else max(0.0, until - time.monotonic())
        if self.clients.reading.busy:
            return 0.0
        if self.downlink.judging or self.lifetime.closing_until is not None:
            again = JUDGE_EVERY if self.downlink.judging else CLOSE_EVERY
            timeout = again if timeout is None else min(timeout, again)
        return timeout

    def _rest(self, timeout: float | None) -> float:
        """Return for how long the worker hears nothing but the hub (seconds), ``timeout`` at most.

        What clients send meanwhile goes up with what has been gathered, or would have been gathered: one
        wake-up for all of it, not one each.
        """
        if self.uplink.posts:
            rest = 0.0 if self.rooms.plain.late else NAP
        elif self.counters.late or self.rooms.aside.late:
            rest = 0.0
        else:
            rest = min(NAP, self.uplink.rest(time.monotonic()))
        return rest if timeout is None else min(rest, timeout)

    def _on_orphaned(self, mask: int) -> None:
        self.lifetime.lose_supervisor()

    def _beat(self) -> None:
        self.reactor.call_later(beat_every(self.config.hang_timeout), self._beat)
        self.uplink.beat(self.figures())
        self._longest_turn = 0.0
        self.clients.end_overdue(self.reactor.now)
        self.rooms.widen_share()

    def figures(self) -> Beat:
        """Return what the next beat says."""
        counters, clients = self.counters, self.clients
        return Beat(
            connections=len(clients),
            messages_in=counters.messages_in,
            messages_out=counters.delivered,
            lag=self._longest_turn,
            late=counters.late,
            ended=dict(counters.ended),
            cpu=time.process_time(),
            from_members=counters.from_members,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out + clients.outboxes.gone,
            errors=dict(counters.errors),
            waits=counters.waits,
            turns=counters.turns.counts,
            turn_time=counters.turns.total,
            outboxes=clients.outboxes.held,
            streams=self.rooms.kept_bytes,
            websockets=len(clients.websockets),
            browsers=len(clients.web),
            undecided=len(clients.first_bytes),
            barred=len(clients.barred),
            half_closed=len(clients.half_closed),
            log_dropped=logs.dropped(),
        )

    def _close_when_done(self, now: float, deadline: float) -> None:
        """After the last batch: give clients what they are owed until the deadline, then end in order."""
        if now >= deadline or (self.rooms.all_sent and not self.clients.web.asking):
            self.clients.websockets.say_goodbye()
            say_goodbye([each.sock for each in self.clients.by_identity.values()])
            self.lifetime.finished = True


def main(
    config: Config,
    slot: int,
    supervisor: int,
    queues: tuple[Queue, Queue, int],
    sock: socket.socket,
    workers_lock: str,
) -> None:
    """Run a worker, in a process that begins in :mod:`mpchat.worker.boot`.

    ``supervisor`` is its process id, ``queues`` are down, up and their window in bytes.
    """
    process.begin(config, f"worker {slot}", supervisor, workers_lock)
    down, up, window = queues
    link = Link(down, up, window)
    link.close_far_ends()
    worker = Worker(config, link, HandoffSocket(sock))
    # What stands now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.enable()
    worker.run()
    process.end(0)
