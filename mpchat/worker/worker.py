"""Worker: what runs in a worker process. It owns its clients' connections and nothing else.

Clients' bytes → session → posts → hub; batches from the hub → fan-out → clients. A message reaches a client
by no other way, not even its own sender's: that is what makes one order. The loop never waits for a client
nor for the hub, and the process ends by itself when the supervisor does.

A connection that is to go to another worker is first no longer read from; when all that it has said is in the
order, its state is written down, and socket and state leave together, between two flushes.

What the parent knows of a worker is in :mod:`mpchat.supervisor.worker_handle`.
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

from mpchat.config import Config
from mpchat.ipc import logs
from mpchat.ipc import os_process as process
from mpchat.ipc.beat import beat_every
from mpchat.ipc.channel import ITEM_SIZE, Link, Queue
from mpchat.ipc.handoff import (
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
from mpchat.ipc.items import Beat, Down, Up
from mpchat.ipc.limits import BATCH_SIZE
from mpchat.ipc.reasons import CLOSED, INTERNAL_ERROR, SLOW
from mpchat.ipc.stream_buffer import Place
from mpchat.ipc.worker_lock import hold_as_worker
from mpchat.protocol.messages import error_frame
from mpchat.protocol.session import REQUEST, Session
from mpchat.reactor import READ, WRITE, Reactor
from mpchat.worker.connection import Connection, tune
from mpchat.worker.fanout import JUDGE_EVERY, Fanout
from mpchat.worker.pacing import must_hold, next_post

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
# Leavers in one item, and what one takes in bytes: an address of up to 47, a number, a reason.
LEAVERS_PER_ITEM = 300
LEAVER_COST = 80
# After an orderly end, seconds that clients have to close their side before the socket is closed on them.
LINGER = 0.5
# What an entry of a head takes, in bytes: an address and two numbers.
HEAD_COST = 40
# Instead of a room's number: the stream of plain clients, and none.
PLAIN, ASIDE = 0, -1
# Why the server itself ends a connection; an operator wants to know, so these are logged as warnings.
IDLE, HALF_A_FRAME = "idle", "half a frame"
CUT_OFF = frozenset({SLOW, IDLE, HALF_A_FRAME})

# How often to look whether the end has come once everything is on its way, in seconds.
CLOSE_EVERY = 0.01

# What somebody is told who is shown out.
_KICKED = error_frame("kicked", "the operator has ended your connection")
# Who says something: an address, or the identity of a connection that has asked to be somebody.
Who = int | str

log = logging.getLogger("mpchat.worker")


class Worker:
    """One worker process's loop and what it holds."""

    def __init__(self, config: Config, link: Link, parcels: ParcelSocket) -> None:
        self.config = config
        self.link = link
        self.parcels = parcels
        self.reactor = Reactor(config.multiplexer)
        self.gather = config.coalesce * GATHER_SHARE
        self.fanout = self._make_fanout(PLAIN)
        # Where members are who are not yet, or just not, live in a room: nothing is ever said here.
        self.aside = self._make_fanout(ASIDE)
        # The rooms that members here are live in, and those of them that have something to send.
        self.rooms: dict[int, Fanout] = {}
        self.busy: dict[Fanout, None] = {}
        self.connections: dict[int, Connection] = {}
        # Clients that have begun a frame, and when its beginning or its last progress was.
        self.half: dict[Connection, float] = {}
        # Clients that are not read from because the hub is behind.
        self.paused: dict[Connection, None] = {}
        # Who said it, how many messages, and their frames, in order; requests stand among them.
        self.posts: list[tuple[Who | tuple[int, str], int, bytes]] = []
        self.posts_size = 0
        # When posts may go up again (seconds, monotonic).
        self.post_due = 0.0
        self.left: list[str | tuple[int, str, str]] = []
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

    def _make_fanout(self, number: int) -> Fanout:
        return Fanout(
            self.reactor,
            lag_limit=self.config.lag_limit,
            coalesce=self.config.coalesce - self.gather,
            on_gone=self._on_gone,
            number=number,
        )

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
        if self.busy:
            self._work_in_rooms(now)
        if self.synced and self.fanout.between_flushes:
            self._give_away()
        if self.held and not self._must_hold(now):
            self.link.take(self.held)
            self.held = 0
        if self.paused and not self.link.congested:
            self._resume()
        if self.closing_until is not None:
            self._close_when_done(now)
        self.longest_turn = max(self.longest_turn, time.monotonic() - now)

    def _work_in_rooms(self, now: float) -> None:
        for room in list(self.busy):
            room.work(now)
            if not room.late and room.between_flushes:  # else somebody still has to be sent of it
                room.stream.forget()
            if room.due() is None:
                self.busy.pop(room, None)

    def _must_hold(self, now: float) -> bool:
        """Tell whether the hub is to be kept waiting because most clients here are not able to keep up.

        Most of all clients, not of a room's: a room of two must not hold everybody up.
        """
        struggling = self.fanout.struggling(now)
        if self.fanout.behind:
            return True
        for room in self.busy:
            struggling += room.struggling(now)
            if room.behind:
                return True
        return struggling > 0 and must_hold(struggling, len(self.connections))

    def _timeout(self) -> float | None:
        """Return how long the loop may wait: until the first of what wants to be looked at again."""
        until = self.post_due if self.posts or self.left else None
        if (due := self.fanout.due()) is not None and (until is None or due < until):
            until = due
        if self.busy:
            dues = [due for room in self.busy if (due := room.due()) is not None]
            until = min(dues if until is None else [*dues, until], default=until)
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
            elif item.kind == Down.ROOMS:
                self._publish_in_rooms(*item.payload)
            else:
                self._on_order(item.kind, item.payload)

    def _on_order(self, kind: int, payload: Any) -> None:
        if kind == Down.BEGIN:
            self.fanout.stream.begin(payload)
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
        elif kind == Down.ENTER:
            self._enter(*payload)
        elif kind == Down.TELL:
            self._tell(*payload)
        elif kind == Down.END:
            identity, reason = payload
            if identity in self.connections:
                self.end(self.connections[identity], reason)

    def _kick(self, address: str) -> int:
        kicked = [each for each in self.connections.values() if address in (each.address, each.host)]
        for connection in kicked:
            log.info("kicked: %s", connection.address)
            if connection.session.asked:  # plain clients get nothing that they know nothing of
                connection.fanout.reply(connection, _KICKED)
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
        self.messages_in += sum(count for _, count, _ in self.posts)
        try:
            self._send_posts()
            while self.left:
                leavers = self.left[:LEAVERS_PER_ITEM]
                del self.left[:LEAVERS_PER_ITEM]
                self.link.send(Up.LEFT, leavers, len(leavers) * LEAVER_COST)
        except OSError:
            self.finished = True
        self.posts = []
        self.posts_size = 0

    def _send_posts(self) -> None:
        """Send what clients said, as much as fits into each item, and their requests where they belong."""
        runs: list[tuple[Who | tuple[int, str], int, int]] = []
        parts: list[bytes] = []
        size = 0
        for who, count, frames in self.posts:
            if runs and (count == REQUEST or size + len(frames) > BATCH_SIZE):
                self.link.send_frames(Up.POSTS, runs, b"".join(parts), len(runs) * HEAD_COST)
                runs, parts, size = [], [], 0
            if count == REQUEST:
                self.link.send(Up.ASK, (who, frames), len(frames))
                continue
            runs.append((who, count, len(frames)))
            parts.append(frames)
            size += len(frames) + HEAD_COST
        if runs:
            frames = parts[0] if len(parts) == 1 else b"".join(parts)
            self.link.send_frames(Up.POSTS, runs, frames, len(runs) * HEAD_COST)

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
        connection.fanout = self.aside
        connection.heard = self.reactor.now
        connection.allowance = self.config.flood_burst
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
            connection.fanout = self.fanout
            self.fanout.join(connection)
            log.debug("= joined: %s", connection.address)

    def _go_on(self, connection: Connection, baggage: Baggage) -> None:
        """Serve a connection from where a worker, another one or this one, had stopped."""
        connection.heard, connection.allowance = baggage.heard, baggage.allowance
        self._slow_down(connection)
        connection.outbox, connection.outbox_open = baggage.outbox, baggage.outbox_open
        if baggage.half_since is not None:
            self.half[connection] = baggage.half_since
        self._read_again(connection)
        if baggage.room == PLAIN:
            connection.fanout = self.fanout
            self.fanout.resume(connection, Place(baggage.number, baggage.byte))
        else:
            connection.replaying = False
            self._put_aside(connection)
        if connection.session.asked and not connection.closed:
            self._say(Up.FOLLOW, (connection.identity, baggage.room, baggage.number))

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
            if connection in connection.fanout:  # else it is gone, but for its last words
                chosen.append(connection)
                size += len(connection.outbox) + connection.session.held
                if connection.fanout is not self.fanout:
                    size += len(connection.fanout.rest_of_frame(connection))
        self.leaving = chosen
        self.left_at = time.monotonic()
        for connection in chosen:
            connection.leaving = True
            connection.no_longer(self.reactor, READ)
            self.paused.pop(connection, None)
        self._send_up(self.reactor.now)
        furthest = self.fanout.furthest_behind(each for each in chosen if each.fanout is self.fanout)
        people = [each.identity for each in chosen if each.session.asked]
        self._say(Up.SYNC, (furthest, people))

    def _give_away(self) -> None:
        """Offer the chosen ones to the supervisor. Until it has taken them they are kept, untouched."""
        chosen, self.leaving = self.leaving or [], None
        self.synced = False
        passengers, descriptors = [], []
        for connection in chosen:
            connection.leaving = False
            if connection.closed:
                continue
            if connection not in connection.fanout:
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
        room = connection.fanout
        room.complete(self.reactor.now)
        if room is not self.fanout:
            self._finish_frame_first(connection, room)
        place = room.take_out(connection)
        self._forget_if_empty(room)
        return Baggage(
            connection.session.export(),
            room.number,
            place.number,
            place.byte,
            bytes(connection.outbox),
            connection.outbox_open,
            connection.heard,
            self.half.pop(connection, None),
            self.left_at,
            connection.allowance,
        )

    @staticmethod
    def _finish_frame_first(connection: Connection, room: Fanout) -> None:
        """Put the rest of a frame that a member has been sent a part of in front of its outbox.

        The next worker hears of the room later than it is asked to send the member something for it alone,
        and that must not get into the middle of a frame. A frame of a stream is never begun while a part of
        the outbox has gone.
        """
        if rest := room.rest_of_frame(connection):
            connection.cursor += len(rest)
            connection.outbox = rest + connection.outbox
            connection.outbox_open = True

    def _on_receipt(self, receipt: Receipt) -> None:
        """Let go of what was taken, and go on with what was not."""
        for identity in receipt.acks:
            self.offered.pop(identity)[0].sock.close()
        for identity in receipt.nacks:
            connection, baggage = self.offered.pop(identity)
            self.connections[identity] = connection
            self._go_on(connection, baggage)

    # Rooms.

    def _publish_in_rooms(self, head: list[tuple[int, int, int]], frames: bytes) -> None:
        position = 0
        for number, count, size in head:
            room = self.rooms.get(number)
            if room is not None:  # else the last of its members here has just gone
                room.publish(count, frames[position : position + size])
                self.busy[room] = None
            position += size

    def _enter(self, head: tuple[int, int, int, bool], frames: bytes) -> None:
        """Let a client read another stream, after what it is owed of the one before and ``frames``."""
        identity, room_number, number, live = head
        connection = self.connections.get(identity)
        if connection is None or connection not in connection.fanout:  # it is gone
            return
        before = connection.fanout
        before.complete(self.reactor.now, pending=True)
        if connection.closed or connection not in before:
            return
        owed, box = before.owed(connection), connection.outbox
        if len(owed) + len(box) > self.config.lag_limit:  # it has asked for the past again and again
            self.end(connection, SLOW)
            return
        before.take_out(connection)
        self._forget_if_empty(before)
        if owed:
            connection.outbox = box + owed if connection.outbox_open else owed + box
        connection.put(frames)
        if not live:
            self._put_aside(connection)
            connection.replaying = True
            return
        connection.replaying = False
        room = self.rooms.get(room_number)
        if room is None:
            room = self.rooms[room_number] = self._make_fanout(room_number)
            room.stream.begin(number)
        self._go_to(connection, room, Place(number))

    def _put_aside(self, connection: Connection) -> None:
        self._go_to(connection, self.aside, Place(0))

    @staticmethod
    def _go_to(connection: Connection, room: Fanout, place: Place) -> None:
        """Let a client get what is in its outbox, and go on in ``room`` from ``place``."""
        connection.fanout = room
        connection.outbox_open = bool(connection.outbox)
        room.resume(connection, place)

    def _forget_if_empty(self, room: Fanout) -> None:
        # Somebody who cannot be sent anything any more may be read from longer than his room is here.
        if self.rooms.get(room.number) is room and not len(room):
            del self.rooms[room.number]
            self.busy.pop(room, None)

    # Clients.

    def _on_client(self, connection: Connection, mask: int) -> None:
        try:
            self._serve(connection, mask)
        except Exception:  # what one client brought about must not end the others' process
            log.exception("failed, its connection is ended: %s", connection.address)
            self.end(connection, INTERNAL_ERROR)

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & WRITE and not connection.closed:
            connection.fanout.on_writable(connection)
            if connection.replaying and connection.fanout.is_live(connection):
                connection.replaying = False
                self._say(Up.MORE, connection.identity)
            if not connection.closed and not connection.reading:
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
            in_order = connection.session.receive_eof()
            if connection not in connection.fanout:  # sending had failed: the end is that of a reset
                self.end(connection, "lost")
            else:
                self.end(connection, CLOSED if in_order else "closed inside a frame")
            return
        regained = (self.reactor.now - connection.heard) * self.config.flood_rate
        allowance = min(connection.allowance + regained, self.config.flood_burst)
        connection.heard = self.reactor.now
        completed: list[tuple[int, bytes]] = []
        who: Who = connection.identity if connection.session.asked else connection.address
        replies = connection.session.receive_data(data, completed)
        for count, frames in completed:
            if count == REQUEST:  # what came before the first one was said by nobody in particular
                who = connection.identity
                self.posts.append(((who, connection.address), count, frames))
            else:
                self.posts.append((who, count, frames))
            self.posts_size += len(frames)
            allowance -= count or 1
        connection.allowance = allowance
        if allowance < 0:
            self._slow_down(connection)
        if connection.session.mid_frame:
            if completed or replies or connection not in self.half:
                self.half[connection] = self.reactor.now
        elif self.half:
            self.half.pop(connection, None)
        if replies:
            self._reply(connection, replies)

    def _reply(self, connection: Connection, frames: bytes) -> None:
        log.debug("> answered: %s", connection.address)
        connection.fanout.reply(connection, frames)
        if connection.fanout is not self.fanout:
            self.busy[connection.fanout] = None
        if not connection.closed and len(connection.outbox) >= OUTBOX_LIMIT:
            connection.no_longer(self.reactor, READ)

    def _tell(self, identity: int, frames: bytes) -> None:
        """Send a client what others have to say to it alone; one that does not read it is cut off."""
        connection = self.connections.get(identity)
        if connection is None:
            return
        self._reply(connection, frames)
        if not connection.closed and len(connection.outbox) > self.config.lag_limit:
            self.end(connection, SLOW)

    def _slow_down(self, connection: Connection) -> None:
        """Do not read from a client that has said too much until it may say something again."""
        if connection.allowance >= 0 or not self.config.flood_rate:
            return
        connection.quiet_until = connection.heard - connection.allowance / self.config.flood_rate
        connection.no_longer(self.reactor, READ)
        self.reactor.call_later(
            connection.quiet_until - self.reactor.now, partial(self._quiet_is_over, connection)
        )

    def _quiet_is_over(self, connection: Connection) -> None:
        if self.connections.get(connection.identity) is connection:  # else it has moved or ended
            self._read_again(connection)

    def _read_again(self, connection: Connection) -> None:
        quiet = connection.quiet_until > time.monotonic()
        full = len(connection.outbox) >= OUTBOX_LIMIT
        if not (self.draining or connection.leaving or quiet or full):
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
            connection.fanout.leave(connection)
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
        connection.fanout.leave(connection)
        self._forget_if_empty(connection.fanout)
        connection.listen(self.reactor, 0)
        connection.sock.close()
        if connection.session.asked:
            self.left.append((connection.identity, connection.address, reason))
        else:
            self.left.append(connection.address)
        self.receipt.closed.append(connection.host)
        level = logging.WARNING if reason in CUT_OFF else logging.DEBUG
        log.log(level, "= ended, %s: %s", reason, connection.address)

    def _end_overdue(self, now: float) -> None:
        """End connections that the idle timeout and the half-frame timeout have caught up with."""
        if limit := self.config.idle_timeout:
            silent = [
                each for each in self.connections.values() if now - max(each.heard, each.quiet_until) > limit
            ]
            for connection in silent:
                self.end(connection, IDLE)
        if limit := self.config.frame_timeout:
            # Oldest first as a rule, but a client that makes progress moves on in place: look at all.
            for connection in [
                each for each, since in self.half.items() if now - max(since, each.quiet_until) > limit
            ]:
                self.end(connection, HALF_A_FRAME)

    # The end.

    def _close_when_done(self, now: float) -> None:
        """After the last batch: give clients what they are owed until the deadline, then end in order."""
        assert self.closing_until is not None
        fanouts = (self.fanout, self.aside, *self.rooms.values())
        if now < self.closing_until and any(each.late or not each.idle for each in fanouts):
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
    """Run a worker: the target of the process that ``supervisor.worker_handle.WorkerHandle`` starts.

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
