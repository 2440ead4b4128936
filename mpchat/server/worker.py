"""Worker: what runs in a worker process. It owns its clients' connections and nothing else.

Clients' bytes → session → posts → hub; batches from the hub → fan-out → clients. A message reaches a client
by no other way, not even its own sender's: that is what makes one order. The loop never waits for a client
nor for the hub, and the process ends by itself when the supervisor does.

A connection that is to go to another worker is first no longer read from; when all that it has said is in the
order, its state is written down, and socket and state leave together, between two flushes.

What the parent knows of a worker is in :mod:`mpchat.server.handle`.
"""

import gc
import logging
import os
import signal
import socket
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from multiprocessing import parent_process
from typing import Any

import msgspec

from ..config import Config
from ..instance import hold_as_worker
from ..protocol.session import Session
from . import logs, process
from .channel import ITEM_SIZE, Link, Queue
from .connection import Connection, tune
from .fanout import JUDGE_EVERY, Fanout, Place
from .handoff import (
    REST,
    Baggage,
    Offer,
    Parcel,
    ParcelSocket,
    Passenger,
    Receipt,
    close_all,
    own,
    pack,
    read_message,
    unpack,
)
from .policy import beat_every, next_post
from .reactor import READ, WRITE, Reactor
from .room import joined
from .wire import Beat, Down, Up

# Bytes read from a client in one turn: a client that sends as fast as it can gets its share, no more. What is
# read together is sent together, and a send of twice as much costs a third less per byte. Below what the C
# library would map and unmap memory for (128 KiB).
READ_SIZE = 120 << 10
# Posts of this size (bytes) that the hub has not taken: stop reading from clients, TCP tells them.
POSTS_LIMIT = 128 << 10
# Replies (bytes) that a client has not read: stop reading from it.
OUTBOX_LIMIT = 64 << 10
# The share of the setting coalesce for which posts are gathered when the last ones went up just before; the
# rest is the fan-out's. Nearly all of it: a trip to the hub and back wakes two processes, and what went up
# together comes down together.
GATHER_SHARE = 0.9
# Seconds for which a worker that gathers posts looks at nothing but the hub, at most.
NAP = 0.005
# What connections that are moved together may bring along (bytes), beyond the first: replies that were not
# read and halves of frames. It bounds what the supervisor holds of them.
BAGGAGE_LIMIT = 256 << 10
# Addresses of leavers in one item: 21 bytes each for IPv4, 47 for IPv6, all below ITEM_SIZE.
LEAVERS_PER_ITEM = 300
# After an orderly end, seconds that clients have to close their side before the socket is closed on them.
LINGER = 0.5
# Why the server itself ends a connection; an operator wants to know, so these are logged as warnings.
SLOW, IDLE, HALF_A_FRAME = "slow consumer", "idle", "half a frame"
CUT_OFF = frozenset({SLOW, IDLE, HALF_A_FRAME})

# How often to look whether the end has come once everything is on its way, in seconds.
CLOSE_EVERY = 0.01

log = logging.getLogger("mpchat.worker")


class Worker:
    """One worker process's loop and what it holds."""

    def __init__(self, config: Config, link: Link, parcels: ParcelSocket) -> None:
        self.config = config
        self.link = link
        self.parcels = parcels
        self.reactor = Reactor(config.multiplexer)
        self.gather = config.coalesce * GATHER_SHARE
        self.fanout = Fanout(
            self.reactor,
            lag_limit=config.lag_limit,
            coalesce=config.coalesce - self.gather,
            on_gone=self._on_gone,
        )
        self.connections: dict[int, Connection] = {}
        # Clients that have begun a frame, and when its beginning or its last progress was.
        self.half: dict[Connection, float] = {}
        # Clients that are not read from because the hub is behind.
        self.paused: dict[Connection, None] = {}
        # How many messages and their frames, in order.
        self.posts: list[tuple[int, bytes]] = []
        self.posts_size = 0
        # When posts may go up again (seconds, monotonic).
        self.post_due = 0.0
        self.left: list[str] = []
        self.receipt = Receipt([], [], [], [])
        # Clients that are to be moved, and whether the hub has said that it has all their posts.
        self.leaving: list[Connection] | None = None
        self.synced = False
        # When they were last read from (seconds, monotonic).
        self.left_at = 0.0
        # Moved ones that the supervisor has not taken yet, with what is needed to have them back.
        self.offered: dict[int, tuple[Connection, Baggage]] = {}
        # True while nothing can be sent to the supervisor for a moment.
        self.resting = False
        # Bytes from the hub that clients could not keep up with: taken when they have caught up.
        self.held = 0
        self.messages_in = 0
        self.ended: Counter[str] = Counter()
        self.longest_turn = 0.0
        self.draining = False
        self.drained = False
        self.closing_until: float | None = None
        self.finished = False

    def run(self) -> None:
        """Serve until told to close, or until the supervisor is gone."""
        parent = parent_process()
        assert parent is not None
        self.reactor.watch(parent.sentinel, READ, self._on_orphaned)
        self.reactor.watch(self.link, READ, self._on_link)
        self.reactor.watch(self.parcels, READ, self._on_parcels)
        self._beat()
        self.link.send(Up.STARTED, None)
        while not self.finished:
            self.turn()

    def turn(self) -> None:
        """Go once round the loop: what is ready, what goes up, what goes down."""
        timeout = self._timeout()
        if self.posts and timeout and not self.fanout.late:
            # What clients send meanwhile goes up with these posts: one wake-up for all of it, not one each.
            self.reactor.nap(self.link, min(timeout, NAP))
            timeout = 0.0
        self.reactor.turn(timeout)
        now = self.reactor.now
        # First of all: a connection must be acked before a byte is read from it or sent to it.
        if self.receipt:
            self._send_receipt()
        self._send_up(now)
        self.fanout.work(now)
        if self.synced and self.fanout.between_flushes:
            self._give_away()
        if self.held and not self.fanout.behind and not self.fanout.must_hold(now):
            self.link.take(self.held)
            self.held = 0
        if self.paused and not self.link.congested:
            self._resume()
        if self.closing_until is not None:
            self._close_when_done(now)
        self.longest_turn = max(self.longest_turn, time.monotonic() - now)

    def _timeout(self) -> float | None:
        """Return how long the loop may wait: until the first of what wants to be looked at again."""
        until = self.post_due if self.posts or self.left else None
        if (due := self.fanout.due()) is not None and (until is None or due < until):
            until = due
        timeout = None if until is None else max(0.0, until - time.monotonic())
        if self.held or self.closing_until is not None:
            again = JUDGE_EVERY if self.held else CLOSE_EVERY
            timeout = again if timeout is None else min(timeout, again)
        return timeout

    # The hub.

    def _on_link(self, mask: int) -> None:
        try:
            items = self.link.receive()
        except (EOFError, OSError):
            self._on_orphaned(mask)
            return
        for item in items:
            self.held += item.cost
            if item.kind == Down.BATCH:
                self.fanout.publish(*item.payload)
            else:
                self._on_order(item.kind, item.payload)

    def _on_order(self, kind: int, payload: Any) -> None:
        if kind == Down.BEGIN:
            self.fanout.stream.begin(*payload)
        elif kind == Down.FILL:
            count, frames = payload
            self.fanout.stream.append(frames, count)
        elif kind == Down.FILLED:
            self._say(Up.READY)
            log.info("ready: worker %d", os.getpid())
        elif kind == Down.MOVE:
            self._prepare_to_give(payload)
        elif kind == Down.SYNCED:
            self.synced = True
        elif kind == Down.DRAIN:
            self.draining = True
            for connection in self.connections.values():
                connection.no_longer(self.reactor, READ)
        elif kind == Down.CLOSE:
            self.closing_until = time.monotonic() + payload
        elif kind == Down.KICK:
            request, address = payload
            self._say(Up.KICKED, (request, self._kick(address)))

    def _kick(self, address: str) -> int:
        kicked = [each for each in self.connections.values() if address in (each.address, each.host)]
        for connection in kicked:
            log.info("kicked: %s", connection.address)
            self.end(connection, "kicked")
        return len(kicked)

    def _on_orphaned(self, mask: int) -> None:
        log.warning("the supervisor is gone: worker %d ends", os.getpid())
        self.finished = True

    def _send_up(self, now: float) -> None:
        """Post what clients sent, at once when the last posts went up a while ago; then say who has left."""
        if not (self.posts or self.left):
            if self.draining and not self.drained:
                self.drained = True
                self._say(Up.DRAINED)
            return
        gathering = now < self.post_due and self.posts_size < ITEM_SIZE
        if gathering and not self.draining and self.leaving is None:
            return
        self.post_due = next_post(now, self.gather)
        self.messages_in += sum(count for count, _ in self.posts)
        try:
            for count, frames in joined(self.posts):
                self.link.send_frames(Up.POSTS, count, frames)
            while self.left:
                leavers = self.left[:LEAVERS_PER_ITEM]
                del self.left[:LEAVERS_PER_ITEM]
                self.link.send(Up.LEFT, leavers, sum(map(len, leavers)))
        except OSError:
            self.finished = True
        self.posts = []
        self.posts_size = 0

    def _say(self, kind: Up, payload: Any = None) -> None:
        try:
            self.link.send(kind, payload)
        except OSError:  # the supervisor is gone
            self.finished = True

    def _beat(self) -> None:
        self.reactor.call_later(beat_every(self.config.hang_timeout), self._beat)
        beat = Beat(
            len(self.connections),
            self.messages_in,
            self.fanout.delivered,
            self.longest_turn,
            self.fanout.late,
            dict(self.ended),
            time.process_time(),
        )
        self.longest_turn = 0.0
        try:
            self.link.send_now(Up.BEAT, tuple(beat))
        except OSError:
            self.finished = True
        self._end_overdue(self.reactor.now)

    # Connections arriving.

    def _on_parcels(self, mask: int) -> None:
        try:
            if mask & WRITE:
                self.parcels.pump()
                self._watch_parcels()
            parcels = self.parcels.receive()
        except EOFError:
            self._on_orphaned(mask)
            return
        except OSError as error:
            self._cannot_go_on(error)
            return
        for parcel in parcels:
            message = read_message(parcel.message)
            if isinstance(message, Offer):
                self._adopt(message.passengers, parcel)
            else:
                self._on_receipt(message)

    def _adopt(self, passengers: list[Passenger], parcel: Parcel) -> None:
        if parcel.descriptors is None or self.draining:
            close_all(parcel.descriptors or [])
            self.receipt.nacks.extend(each.identity for each in passengers)
            return
        for passenger, descriptor in zip(passengers, parcel.descriptors, strict=True):
            self._welcome(passenger, own(descriptor, passenger.host))

    def _welcome(self, passenger: Passenger, sock: socket.socket) -> None:
        """Take a connection over: from the ack on it is this worker's."""
        self.receipt.acks.append(passenger.identity)
        baggage = unpack(passenger.baggage)
        session = Session(self.config.payload_limit, baggage.session if baggage else None)
        connection = Connection(passenger.identity, sock, passenger.host, passenger.port, session)
        connection.heard = self.reactor.now
        connection.on_event = partial(self._on_client, connection)
        self.connections[connection.identity] = connection
        try:
            tune(sock, self.config.keepalive)
            if baggage is None:
                connection.listen(self.reactor, READ)
            else:
                self._go_on(connection, baggage)
        except (OSError, ValueError) as error:  # reset while it was on its way; the system's limit of watches
            self.end(connection, str(error))
        if baggage is not None:
            self.receipt.pauses.append(max(0.0, time.monotonic() - baggage.left_at))
        elif not connection.closed:
            self.fanout.join(connection)
            log.debug("= joined: %s", connection.address)

    def _go_on(self, connection: Connection, baggage: Baggage) -> None:
        """Serve a connection from where a worker, another one or this one, had stopped."""
        connection.heard = baggage.heard
        connection.outbox, connection.outbox_open = baggage.outbox, baggage.outbox_open
        if baggage.half_since is not None:
            self.half[connection] = baggage.half_since
        if len(connection.outbox) < OUTBOX_LIMIT:
            self._read_again(connection)
        self.fanout.resume(connection, Place(baggage.cursor, baggage.messages))

    def _send_receipt(self) -> None:
        receipt, self.receipt = self.receipt, Receipt([], [], [], [])
        self._send_parcel(receipt, [])

    def _send_parcel(self, message: Offer | Receipt, descriptors: list[int]) -> None:
        try:
            self.parcels.send(msgspec.msgpack.encode(message), descriptors)
        except OSError as error:
            self._cannot_go_on(error)
            return
        self._watch_parcels()

    def _watch_parcels(self) -> None:
        interest = READ | WRITE if self.parcels.unsent else READ
        self.reactor.change(self.parcels, interest, self._on_parcels)
        if self.parcels.resting is not None and not self.resting:
            log.warning("connections wait, %s: worker %d", self.parcels.resting.strerror, os.getpid())
            self.resting = True
            self.reactor.call_later(REST, self._send_again)

    def _send_again(self) -> None:
        try:
            self.parcels.pump()
        except OSError as error:
            self._cannot_go_on(error)
            return
        if self.parcels.resting is not None:
            self.reactor.call_later(REST, self._send_again)
            return
        self.resting = False
        self._watch_parcels()

    def _cannot_go_on(self, error: OSError) -> None:
        log.warning("no way to the supervisor, %s: worker %d ends", error.strerror, os.getpid())
        self.finished = True

    # Connections leaving for another worker.

    def _prepare_to_give(self, count: int) -> None:
        """Stop reading from up to ``count`` clients; ask to be told when all they said is in the order."""
        chosen: list[Connection] = []
        size = 0
        for connection in self.connections.values():
            if len(chosen) >= count or size > BAGGAGE_LIMIT:
                break
            if connection in self.fanout:  # else it is gone, and only its last words are still to be read
                chosen.append(connection)
                size += len(connection.outbox) + connection.session.held
        self.leaving = chosen
        self.left_at = time.monotonic()
        for connection in chosen:
            connection.leaving = True
            connection.no_longer(self.reactor, READ)
            self.paused.pop(connection, None)
        self._send_up(self.reactor.now)
        self._say(Up.SYNC, self.fanout.furthest_behind(chosen))

    def _give_away(self) -> None:
        """Offer the chosen ones to the supervisor. Until it has taken them they are kept, untouched."""
        chosen, self.leaving = self.leaving or [], None
        self.synced = False
        passengers, descriptors = [], []
        for connection in chosen:
            connection.leaving = False
            if connection.closed:
                continue
            if connection not in self.fanout:
                self._read_again(connection)
                continue
            baggage = self._pack(connection)
            self.offered[connection.identity] = connection, baggage
            passengers.append(Passenger(connection.identity, connection.host, connection.port, pack(baggage)))
            descriptors.append(connection.sock.fileno())
        self._send_parcel(Offer(passengers), descriptors)

    def _pack(self, connection: Connection) -> Baggage:
        """Take a connection out of everything, and write down what it was."""
        connection.listen(self.reactor, 0)
        del self.connections[connection.identity]
        place = self.fanout.take_out(connection)
        return Baggage(
            connection.session.export(),
            place.cursor,
            place.messages,
            connection.outbox,
            connection.outbox_open,
            connection.heard,
            self.half.pop(connection, None),
            self.left_at,
        )

    def _on_receipt(self, receipt: Receipt) -> None:
        """Let go of what was taken, and go on with what was not."""
        for identity in receipt.acks:
            self.offered.pop(identity)[0].sock.close()
        for identity in receipt.nacks:
            connection, baggage = self.offered.pop(identity)
            self.connections[identity] = connection
            self._go_on(connection, baggage)

    # Clients.

    def _on_client(self, connection: Connection, mask: int) -> None:
        try:
            self._serve(connection, mask)
        except Exception:  # what one client brought about must not end the others' process
            log.exception("failed, its connection is ended: %s", connection.address)
            self.end(connection, "internal error")

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & WRITE and not connection.closed:
            self.fanout.on_writable(connection)
            if not connection.closed and not connection.reading and len(connection.outbox) < OUTBOX_LIMIT:
                self._read_again(connection)
        # Asked again: what was ready at the turn's beginning may have been told to leave in the middle of it.
        if mask & READ and connection.reading and not connection.closed:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        if self.posts_size > POSTS_LIMIT or self.link.congested:
            connection.no_longer(self.reactor, READ)
            self.paused[connection] = None
            return
        try:
            data = connection.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(connection, error.strerror or "read failed")
            return
        if not data:
            self.end(connection, "closed" if connection.session.receive_eof() else "closed inside a frame")
            return
        connection.heard = self.reactor.now
        before = len(self.posts)
        replies = connection.session.receive_data(data, self.posts)
        completed = self.posts[before:]
        self.posts_size += sum(len(frames) for _, frames in completed)
        if connection.session.mid_frame:
            if completed or replies or connection not in self.half:
                self.half[connection] = self.reactor.now
        elif self.half:
            self.half.pop(connection, None)
        if replies:
            self._reply(connection, replies)

    def _reply(self, connection: Connection, frames: bytes) -> None:
        log.debug("> refused: %s", connection.address)
        self.fanout.reply(connection, frames)
        if not connection.closed and len(connection.outbox) >= OUTBOX_LIMIT:
            connection.no_longer(self.reactor, READ)

    def _read_again(self, connection: Connection) -> None:
        if not self.draining and not connection.leaving:
            connection.also(self.reactor, READ)

    def _resume(self) -> None:
        paused, self.paused = self.paused, {}
        for connection in paused:
            if not connection.closed:
                self._read_again(connection)

    def _on_gone(self, connection: Connection, error: OSError | None) -> None:
        """The fan-out gave a client up. One that is gone may have said something before it went, which is
        still to be read; reading comes to an end by itself."""
        if error is None:
            self.end(connection, SLOW)
        elif isinstance(error, ConnectionError) and not self.draining:
            self.fanout.leave(connection)
            connection.outbox = b""
            connection.no_longer(self.reactor, WRITE)
            self._read_again(connection)
        else:
            self.end(connection, error.strerror or "send failed")

    def end(self, connection: Connection, reason: str) -> None:
        """End a connection and tell the room, once, after the last of its posts."""
        if connection.closed:
            return
        connection.closed = True
        self.ended[reason] += 1
        del self.connections[connection.identity]
        self.half.pop(connection, None)
        self.fanout.leave(connection)
        connection.listen(self.reactor, 0)
        connection.sock.close()
        self.left.append(connection.address)
        self.receipt.closed.append(connection.host)
        level = logging.WARNING if reason in CUT_OFF else logging.DEBUG
        log.log(level, "= ended, %s: %s", reason, connection.address)

    def _end_overdue(self, now: float) -> None:
        """End connections that the idle timeout and the half-frame timeout have caught up with."""
        if limit := self.config.idle_timeout:
            for connection in [each for each in self.connections.values() if now - each.heard > limit]:
                self.end(connection, IDLE)
        if limit := self.config.frame_timeout:
            # Oldest first as a rule, but a client that makes progress moves on in place: look at all.
            for connection in [each for each, since in self.half.items() if now - since > limit]:
                self.end(connection, HALF_A_FRAME)

    # The end.

    def _close_when_done(self, now: float) -> None:
        """After the last batch: give clients what they are owed until the deadline, then end in order."""
        assert self.closing_until is not None
        if now < self.closing_until and (self.fanout.late or not self.fanout.idle):
            return
        _say_goodbye([each.sock for each in self.connections.values()])
        self.finished = True


def _say_goodbye(socks: list[socket.socket]) -> None:
    """Close so that clients get all that was sent: a socket closed with unread input would reset them."""
    reactor = Reactor()
    open_socks = set(socks)

    def discard(sock: socket.socket, mask: int) -> None:
        with suppress(BlockingIOError):
            try:
                if sock.recv(READ_SIZE):
                    return
            except ConnectionError:
                pass
            reactor.forget(sock)
            open_socks.remove(sock)
            sock.close()

    for sock in socks:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        reactor.watch(sock, READ, partial(discard, sock))
    deadline = time.monotonic() + LINGER
    while open_socks and (left := deadline - time.monotonic()) > 0:
        reactor.turn(left)
    reactor.close()
    for sock in open_socks:
        sock.close()


def main(
    config: Config,
    slot: int,
    supervisor: int,
    queues: tuple[Queue, Queue, int],
    sock: socket.socket,
    workers_lock: str,
) -> None:
    """Run a worker: the target of the process that :class:`~mpchat.server.handle.Handle` starts.

    ``supervisor`` is its process id, ``queues`` are down, up and their window in bytes.
    """
    process.end_with_parent(supervisor)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    hold_as_worker(workers_lock)
    process.raise_descriptor_limit()
    logs.set_up(config.log_level, f"worker {slot}")
    if config.log_file:
        with suppress(OSError):  # what was inherited is open
            logs.point_at(config.log_file)
    logs.reopen_on_signal(config.log_file)
    logs.dump_on_signal()
    down, up, window = queues
    link = Link(down, up, window)
    link.close_far_ends()
    worker = Worker(config, link, ParcelSocket(sock))
    # What stands now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    worker.run()
