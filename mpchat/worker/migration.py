"""Migration: connections that come from the supervisor, fresh or moved, and connections that leave.

A connection that is to leave is first no longer read from. When all that it has said is in the order, its
state is exported, and socket and state leave together, between two flushes. Until the supervisor has taken
it the connection is kept, untouched. A move is export, send, import; a fresh connection has no state.
"""

import logging
import socket
import time
from functools import partial

import msgspec

from mpchat.config import Config
from mpchat.ipc.addresses import means
from mpchat.ipc.client_socket import own, tune
from mpchat.ipc.connection_state import ConnectionState, decode_state, encode_state
from mpchat.ipc.handoff import ConnectionInTransit, Handoff, Passed, Receipt, close_all
from mpchat.ipc.handoff_channel import HandoffChannel
from mpchat.ipc.items import PLAIN, Up
from mpchat.ipc.lifetime import Lifetime
from mpchat.ipc.reasons import NO_DESCRIPTOR
from mpchat.protocol.dialects import DIALECTS
from mpchat.protocol.http import HttpDialect
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.protocol.session import DialectState
from mpchat.reactor import READ, Reactor
from mpchat.worker.budget import BUDGET
from mpchat.worker.clients import Clients
from mpchat.worker.connection import Connection
from mpchat.worker.uplink import Uplink

# What connections that are moved together may bring along (bytes), beyond the first: replies that were not
# read and halves of frames. It bounds what the supervisor holds of them.
STATE_LIMIT = 256 << 10

log = logging.getLogger("mpchat.worker")


class Migration:
    """Both directions of moves, and connections that are new."""

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        clients: Clients,
        uplink: Uplink,
        handoff: HandoffChannel,
        lifetime: Lifetime,
    ) -> None:
        """Begin with no connection on its way."""
        self._config = config
        self._reactor = reactor
        self._clients = clients
        self._uplink = uplink
        self._handoff = handoff
        self._lifetime = lifetime
        # Clients that are to be moved, and whether the hub has said that it has all their posts.
        self._leaving: list[Connection] = []
        self._synced = False
        # When they were last read from (seconds, monotonic).
        self._left_at = 0.0
        # Connections that the supervisor has not taken yet, with what is needed to have them back. And those
        # among them that were to be kicked.
        self._in_transit: dict[int, tuple[Connection, ConnectionState]] = {}
        self._kicked: set[int] = set()
        # Those among them that speak TLS.
        self._passed: set[int] = set()
        # Members that have come in this turn: identity, room and number.
        self._followers: list[tuple[int, int, int]] = []

    # Connections that come.

    def take_handoff(self, handoff: Handoff, descriptors: list[int] | None) -> None:
        """Take connections over, or none of them; see ``handoff_channel.Arrivals``."""
        if descriptors is None or self._lifetime.draining:
            close_all(descriptors or [])
            self._handoff.receipt.nacks.extend(each.identity for each in handoff.connections)
            return
        for arrived, descriptor in zip(handoff.connections, descriptors, strict=True):
            self.take(arrived, own(descriptor, arrived.host, secure=arrived.secure))

    def take(self, arrived: ConnectionInTransit, sock: socket.socket) -> None:
        """Take a connection over: from the ack on it is this worker's."""
        receipt, reading = self._handoff.receipt, self._clients.reading
        state = decode_state(arrived.state)
        receipt.acks.append(arrived.identity)
        if state is not None and not arrived.proxy:
            receipt.pauses.append(max(0.0, time.monotonic() - state.left_at))
        make_dialect = DIALECTS[state.dialect if state else PlainDialect.name]
        apart = self._config.tells_protocols_apart or arrived.proxied
        known = state is not None and not (state.undecided and apart)
        dialect = make_dialect(self._config.payload_limit, state.dialect_state if state and known else None)
        connection = Connection(arrived.identity, sock, arrived.host, arrived.port, dialect)
        connection.fanout = self._clients.rooms.aside
        connection.speaker = arrived.speaker
        connection.secure, connection.proxied = arrived.secure, arrived.proxied
        connection.since = connection.heard = self._reactor.now
        connection.allowance, connection.budget = self._config.flood_burst, BUDGET
        connection.on_event = partial(reading.on_event, connection)
        self._clients.by_identity[connection.identity] = connection
        try:
            tune(sock, self._config.keepalive)
            if state is None:
                connection.listen(self._reactor, READ)
            else:
                self.import_state(connection, state)
        except (OSError, ValueError) as error:  # reset while it was on its way; the system's limit of watches
            self._clients.end(connection, str(error))
        if state is None and not connection.closed:
            self._clients.barred.take(connection, self._reactor.now)
            if apart:
                self._clients.first_bytes.wait(connection)
            else:
                self._clients.rooms.join_plain(connection)
            log.debug("= joined: %s", connection.address)

    def import_state(self, connection: Connection, state: ConnectionState) -> None:
        """Serve a connection from where a worker, another one or this one, had stopped."""
        rooms, reading = self._clients.rooms, self._clients.reading
        connection.since, connection.heard = state.since, state.heard
        connection.allowance, connection.budget = state.allowance, state.budget
        connection.spoke, connection.asking = state.spoke, state.asking
        self._clients.websockets.resume(connection)
        self._clients.web.resume(connection)
        if state.half_closed:
            self._clients.half_closed.begin(connection)
        reading.slow_down(connection)
        self._clients.outboxes.set(connection, state.outbox)
        connection.outbox_open = state.outbox_open
        reading.read_again(connection)
        if state.half_since is not None:
            reading.half[connection] = state.half_since
        barred = self._clients.barred
        if state.barred or state.room == PLAIN:
            barred.take(connection, self._reactor.now)
        if state.undecided and (self._config.tells_protocols_apart or connection.proxied):
            place = state.place if state.room == PLAIN else None
            self._clients.first_bytes.wait(connection, place, state.dialect_state.partial)
        elif state.room == PLAIN:
            rooms.resume_plain(connection, state.place)
        elif state.barred and not barred.closed and not isinstance(connection.dialect, HttpDialect):
            rooms.enter_plain(connection)  # the chat is open by now
        else:
            connection.replaying = connection.more_asked = False
            rooms.put_aside(connection)
        if connection.dialect.asked and not connection.closed:
            self._followers.append((connection.identity, state.room, state.place.number))
        self._clients.keep_to_memory()

    def send_receipt(self) -> None:
        """Tell the supervisor what became of connections, and then the hub which members have come.

        In this order: should the worker die in between, they are still the supervisor's for both.
        """
        self._handoff.send_receipt()
        if self._followers:
            followers, self._followers = self._followers, []
            for each in followers:
                self._uplink.say(Up.FOLLOW, each)

    # Connections that leave.

    def prepare(self, count: int) -> None:
        """Stop reading from up to ``count`` clients; ask to be told when all they said is in the order."""
        rooms = self._clients.rooms
        self._leaving = self._choose(count)
        self._left_at = time.monotonic()
        for connection in self._leaving:
            self._clients.reading.stop(connection)
        self._uplink.hurried = True
        self._uplink.work(self._reactor.now)
        members = [each.identity for each in self._leaving if each.dialect.asked]
        self._uplink.say(Up.SYNC, (rooms.furthest_behind(self._leaving), members))

    def _choose(self, count: int) -> list[Connection]:
        chosen: list[Connection] = []
        size = 0
        for connection in self._clients.by_identity.values():
            if len(chosen) >= count or size > STATE_LIMIT:
                break
            # Else it is gone, but for its last words; or it leaves when its request was answered.
            if connection in connection.fanout and not self._clients.web.is_asking(connection):
                chosen.append(connection)
                size += len(connection.outbox) + connection.dialect.held
                size += self._clients.rooms.rest_of_frame(connection)
        return chosen

    def synced(self) -> None:
        """Take note that the hub has everything that the leaving clients have said."""
        self._synced = True

    def work(self) -> None:
        """Let the chosen connections leave as soon as that is possible."""
        if self._synced and self._clients.rooms.plain.between_flushes:
            self.send()

    def send(self) -> None:
        """Hand the chosen connections to the supervisor. Until it has taken them they are kept, untouched."""
        leaving, self._leaving = self._leaving, []
        self._synced = self._uplink.hurried = False
        connections, descriptors = [], []
        for connection in leaving:
            if not connection.closed:
                self._settle(connection)
            connection.leaving = False
            if connection.closed:
                continue
            if connection not in connection.fanout:
                if connection.asking:  # the hub answers it where it arrives, and it goes nowhere
                    self._clients.end(connection, "lost")
                else:
                    self._clients.reading.read_again(connection)
                continue
            connections.append(self._export(connection))
            descriptors.append(connection.sock.fileno())
        self._handoff.send(Handoff(connections), descriptors)

    def _export(self, connection: Connection) -> ConnectionInTransit:
        """Keep a connection that leaves, untouched; return what goes to the supervisor."""
        state = self.export_state(connection)
        self._in_transit[connection.identity] = connection, state
        return ConnectionInTransit(
            connection.identity,
            connection.host,
            connection.port,
            encode_state(state),
            connection.speaker,
            connection.secure,
            connection.proxied,
        )

    def pass_on(self, connection: Connection, client: tuple[str, int] | None = None) -> None:
        """Hand a client that has been sent nothing to the supervisor: it speaks TLS, or is behind a proxy.

        ``client`` is then its own address.
        """
        self._passed.add(connection.identity)
        self._handoff.send_receipt()  # the supervisor must have heard that it came
        before, self._left_at = self._left_at, time.monotonic()  # others may be about to leave
        gone = self._export(connection)
        self._left_at = before
        if client is not None:
            host, port = client
            gone = msgspec.structs.replace(gone, host=host, port=port, proxied=False, proxy=gone.host)
        self._handoff.send(Passed([gone]), [connection.sock.fileno()])

    def _settle(self, connection: Connection) -> None:
        """Bring a connection to where it can leave: this may end it, or show that nothing can be sent to it.

        While it is ``leaving`` nothing makes it be read from again.
        """
        rooms = self._clients.rooms
        rooms.fanout_of(connection).complete_for(connection, self._reactor.now)
        if connection.undecided and not connection.closed and not rooms.was_sent_nothing(connection):
            self._clients.first_bytes.be_plain(connection)

    def export_state(self, connection: Connection) -> ConnectionState:
        """Take a connection out of everything, and return what it was. No flush of its room is under way."""
        connection.unwatch(self._reactor)
        undecided = connection.undecided
        begun = self._clients.first_bytes.forget(connection)
        self._clients.web.forget(connection)
        self._clients.websockets.forget(connection)
        self._clients.barred.forget(connection)
        del self._clients.by_identity[connection.identity]
        self._clients.half_closed.forget(connection)
        room, place = self._clients.rooms.take_out(connection)
        outbox = bytes(connection.outbox)
        self._clients.outboxes.drop(connection)
        assert not connection.interest, "what leaves is watched by nobody here"
        return ConnectionState(
            dialect=connection.dialect.name,
            dialect_state=DialectState(begun) if undecided else connection.dialect.export(),
            room=room,
            place=place,
            outbox=outbox,
            outbox_open=connection.outbox_open,
            heard=connection.heard,
            half_since=self._clients.reading.forget(connection),
            left_at=self._left_at,
            allowance=connection.allowance,
            budget=connection.budget,
            spoke=connection.spoke,
            half_closed=connection.half_closed,
            undecided=undecided,
            asking=connection.asking,
            barred=connection.barred,
            since=connection.since,
        )

    def take_receipt(self, receipt: Receipt) -> None:
        """Let go of what was taken, and go on with what was not."""
        for identity in receipt.acks:
            self._in_transit.pop(identity)[0].close()
            self._kicked.discard(identity)
            self._passed.discard(identity)
        for identity in receipt.nacks:
            connection, state = self._in_transit.pop(identity)
            self._clients.by_identity[identity] = connection
            self.import_state(connection, state)
            if identity in self._passed:
                self._passed.remove(identity)
                self._clients.end(connection, NO_DESCRIPTOR)
            elif identity in self._kicked:
                self._kicked.remove(identity)
                self._clients.kick(connection.address)

    @property
    def in_transit(self) -> dict[int, tuple[Connection, ConnectionState]]:
        """Connections that have left and that the supervisor has not taken, by identity."""
        return self._in_transit

    def kick(self, address: str) -> None:
        """Remember to end the connections from ``address`` that come back from the supervisor.

        Those that do not come back are another worker's to end.
        """
        self._kicked.update(
            identity
            for identity, (each, _) in self._in_transit.items()
            if means(address, each.host, each.port)
        )
