"""A worker in the test's own process: the test turns its loop and plays the hub and the supervisor."""

import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from mpchat.config import resolve
from mpchat.ipc.channel import Link, make_queue
from mpchat.ipc.connection_state import FRESH, ConnectionState, decode_state, encode_state
from mpchat.ipc.handoff import ConnectionInTransit, Handoff, HandoffSocket, close_all, read_message
from mpchat.ipc.items import Down
from mpchat.protocol.framing import PLAIN_FRAMING
from mpchat.worker.connection import Connection
from mpchat.worker.fanout import Fanout
from mpchat.worker.worker import Worker
from support.harness import Client, raw_frame

# The number of the room that members enter.
ROOM = 7


def unread(client: Client) -> bytes:
    """Return what has come for a client and was not read; a reset is an error."""
    client.sock.setblocking(False)
    found = b""
    try:
        while data := client.sock.recv(1 << 20):
            found += data
    except BlockingIOError:
        pass
    finally:
        client.sock.settimeout(10)
    return found


class Bench:
    """A worker whose loop the test turns, and the hub's end of its channel."""

    def __init__(self, **settings: Any) -> None:
        """``settings`` are other ones than the defaults."""
        up, window = make_queue()
        down, _ = make_queue()
        self.near, self.far = socket.socketpair()
        self.link = Link(up, down, window)
        config = msgspec.structs.replace(resolve([])[0], **settings)
        self.worker = Worker(config, Link(down, up, window), HandoffSocket(self.near))
        self.worker.handoff.serve(self.worker.migration)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.clients: list[Client] = []
        # The workers' ends of connections, wherever they are by now.
        self.socks: list[socket.socket] = []

    def connect(self, identity: int, state: ConnectionState | None = None) -> tuple[Client, Connection]:
        """Return a client and its connection here, fresh or with a state."""
        client = Client(self.listener.getsockname())
        self.clients.append(client)
        sock, _ = self.listener.accept()
        return client, self.take(identity, sock, state)

    def take(self, identity: int, sock: socket.socket, state: ConnectionState | None) -> Connection:
        """Let the worker take a connection over."""
        self.socks.append(sock)
        host, port = sock.getpeername()
        encoded = FRESH if state is None else encode_state(state)
        self.worker.migration.take(ConnectionInTransit(identity, host, port, encoded), sock)
        return self.worker.clients.by_identity[identity]

    def move_out(self, count: int) -> dict[int, ConnectionState]:
        """Let so many connections leave; return the states of those that did, by identity."""
        migration = self.worker.migration
        migration.prepare(count)
        migration.synced()
        migration.work()
        found = {}
        for arrived in HandoffSocket(self.far).receive():
            message = read_message(arrived.message)
            assert isinstance(message, Handoff)
            close_all(arrived.descriptors or [])
            for each in message.connections:
                state = decode_state(each.state)
                assert state is not None
                found[each.identity] = state
        return found

    def member(self, identity: int) -> tuple[Client, Connection]:
        """Return a client and its connection here, in the room."""
        client, connection = self.connect(identity)
        client.send_raw(raw_frame(b'{"join":{"name":"x"}}'))
        self.until(lambda: connection.dialect.asked)
        self.order(Down.ENTER, ((identity, ROOM, 0, True), b""))
        self.order(Down.ANSWERED, identity)
        return client, connection

    def room(self) -> Fanout:
        """Return what members in the room are served by."""
        return self.worker.rooms.by_number[ROOM][PLAIN_FRAMING]

    def order(self, kind: Down, payload: object) -> None:
        self.worker.downlink.take(kind, payload)

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline, "waited 10 s for the worker"
            self.worker.clients.reading.begin_round()
            self.worker.reactor.turn(0.01)

    def turn(self, rounds: int = 3) -> None:
        """Let the worker do all that there is to do: read, send what is due, read again."""
        for _ in range(rounds):
            self.worker.clients.reading.begin_round()
            self.worker.reactor.turn(0.0)
            self.worker.rooms.work(self.worker.reactor.now + 1)
            for fanout in (self.worker.rooms.plain, *self.worker.rooms.busy):
                fanout.complete(self.worker.reactor.now, pending=True)

    def received(self, client: Client, done: Callable[[bytes], bool]) -> bytes:
        """Let the worker work until what a client has been sent is enough."""
        found = bytearray()

        def enough() -> bool:
            self.turn(1)
            found.extend(unread(client))
            return done(bytes(found))

        self.until(enough)
        return bytes(found)

    def received_to_the_end(self, client: Client) -> bytes:
        """Let the worker work until a client's stream is at its end, which is an orderly one."""
        found = bytearray()

        def ended() -> bool:
            self.turn(1)
            client.sock.setblocking(False)
            try:
                while data := client.sock.recv(1 << 20):
                    found.extend(data)
            except BlockingIOError:
                return False
            finally:
                client.sock.settimeout(10)
            return True

        self.until(ended)
        return bytes(found)

    def close(self) -> None:
        self.worker.clients.lingering.close()
        for sock in self.socks:
            sock.close()
        for client in self.clients:
            client.close()
        for each in (self.near, self.far, self.listener, self.link, self.worker.uplink.link):
            each.close()
        self.worker.reactor.close()
