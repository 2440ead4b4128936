"""Connections on their way through a TLS process: where they wait, and how they are counted and refused."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from mpchat.config import resolve
from mpchat.hub.moderation import Moderation, Rule
from mpchat.ipc.connection_state import ConnectionState, encode_state
from mpchat.ipc.handoff import (
    ConnectionInTransit,
    Handoff,
    HandoffMessage,
    HandoffSocket,
    Message,
    Passed,
    Receipt,
    read_message,
)
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.session import DialectState
from mpchat.reactor import Reactor
from mpchat.supervisor import placement
from mpchat.supervisor.placement import TLS_FULL, Placement
from mpchat.supervisor.refusals import ACCESS_DENIED, Refusals
from mpchat.supervisor.worker_connections import HeldConnection, WorkerConnections
from mpchat.supervisor.worker_handle import WorkerHandle
from mpchat.supervisor.worker_process import TLS, WORKER, ProcessKind

ONE, OTHER = "192.0.2.1", "198.51.100.7"
# What a worker sends along with a client that speaks TLS.
GREETING = bytes.fromhex("16030102000100")
STATE = encode_state(
    ConnectionState(
        dialect="plain",
        dialect_state=DialectState(GREETING),
        room=0,
        place=Place(0),
        outbox=b"",
        outbox_open=False,
        heard=0.0,
        half_since=None,
        left_at=0.0,
        allowance=1.0,
        undecided=True,
    )
)


class Process:
    """A worker or a TLS process that the test plays: the supervisor's account of it is real."""

    closed = select = False
    endpoint = None
    candidate = WorkerHandle.candidate

    def __init__(self, kind: ProcessKind, slot: int) -> None:
        near, far = socket.socketpair()
        self.kind, self.slot = kind, slot
        self.connections = WorkerConnections(near, encrypts=kind is TLS)
        self._far = HandoffSocket(far)
        # What it has got, by identity.
        self.socks: dict[int, socket.socket] = {}
        self.arrived: dict[int, ConnectionInTransit] = {}

    @property
    def handle(self) -> WorkerHandle:
        return cast(WorkerHandle, self)

    def take(self) -> list[Message]:
        """Take what was sent here; return the messages."""
        messages = []
        for each in self._far.receive():
            message = read_message(each.message)
            messages.append(message)
            if isinstance(message, Handoff):
                for connection, descriptor in zip(message.connections, each.descriptors or [], strict=True):
                    self.socks[connection.identity] = socket.socket(fileno=descriptor)
                    self.arrived[connection.identity] = connection
        return messages

    def say(self, message: Message, *socks: socket.socket) -> None:
        self._far.send(msgspec.msgpack.encode(message), [each.fileno() for each in socks])

    def die(self) -> None:
        self._far.close()

    def close(self) -> list[HeldConnection]:
        for sock in self.socks.values():
            sock.close()
        return self.connections.close()

    def close_all(self) -> None:
        for each in self.close():
            each.sock.close()


class Desk:
    """A placement, a worker, two TLS processes, and the clients."""

    def __init__(self, cleanup: ExitStack) -> None:
        self.reactor = Reactor()
        self.cleanup = cleanup
        cleanup.callback(self.reactor.close)
        self.refusals = Refusals(self.reactor)
        self.refusals.follow(msgspec.structs.replace(resolve([])[0], tls_cert="chain.pem", listen_grace=0.0))
        cleanup.callback(self.refusals.close)
        self.paused = 0
        acceptor = SimpleNamespace(refuse=self.refusals.refuse, pause=self._pause)
        self.moderation = Moderation()
        hub = SimpleNamespace(
            state=SimpleNamespace(moderation=self.moderation),
            wall=time.time,
            transit_began=lambda *_: None,
            transit_ended=lambda *_: None,
            moderator=SimpleNamespace(is_banned=lambda identity, host: False),
        )
        self.placement = Placement(self.reactor, cast(Any, acceptor), cast(Any, hub), per_worker=1000)
        self.worker, self.tls, self.other_tls = Process(WORKER, 1), Process(TLS, 1), Process(TLS, 2)
        for each in (self.worker, self.tls, self.other_tls):
            self.placement.watch(each.handle)
            cleanup.callback(each.close_all)
            cleanup.callback(each.die)
        cleanup.callback(self._close_unplaced)
        self.clients: list[socket.socket] = []

    def _close_unplaced(self) -> None:
        for each in self.placement._unplaced:
            each.sock.close()

    def _pause(self) -> None:
        self.paused += 1

    def turn(self) -> None:
        for _ in range(3):
            self.reactor.turn(0.0)

    def hear(self, process: Process, message: Message, *socks: socket.socket) -> None:
        process.say(message, *socks)
        self.turn()

    def place(self) -> list[int]:
        """Let the worker get what waits, and ack it; return the identities."""
        self.placement.place([self.worker.handle], self.reactor.now, expected=0)
        return self._acked(self.worker)

    def place_for_tls(self, *processes: Process) -> None:
        self.placement.place_for_tls([each.handle for each in processes], self.reactor.now)

    def _acked(self, process: Process) -> list[int]:
        had = set(process.arrived)
        process.take()
        came = [each for each in process.arrived if each not in had]
        self.hear(process, Receipt(acks=came))
        return came

    def wanting_tls(self, *hosts: str) -> list[int]:
        """Let clients come that speak TLS, as far as a worker has seen that; return their identities."""
        for host in hosts:
            client, sock = socket.socketpair()
            self.cleanup.callback(client.close)
            self.clients.append(client)
            self.placement.enter(sock, host, 4000)
        came = self.place()
        for identity in came:
            host = self.worker.arrived[identity].host
            passed = Passed([ConnectionInTransit(identity, host, 4000, STATE)])
            self.hear(self.worker, passed, self.worker.socks[identity])
            self.worker.socks.pop(identity).close()
        assert [each.acks for each in self.worker.take() if isinstance(each, Receipt)] == [
            [each] for each in came
        ]
        return came

    def shaking(self, *hosts: str) -> list[int]:
        """Let clients come that shake hands with the first TLS process."""
        self.wanting_tls(*hosts)
        self.place_for_tls(self.tls)
        return self._acked(self.tls)

    def secure(self, identity: int) -> socket.socket:
        """Let the first TLS process pass on a client that has shaken hands; return its end of the pair."""
        near, far = socket.socketpair()
        self.cleanup.callback(near.close)
        arrived = self.tls.arrived[identity]
        with far:
            passed = Passed([ConnectionInTransit(identity, arrived.host, arrived.port, secure=True)])
            self.hear(self.tls, passed, far)
        return near

    def counts(self) -> tuple[int, int, int, int]:
        """Return the connections of the worker, and its clients; the same of the first TLS process."""
        found = [each.connections for each in (self.worker, self.tls)]
        return tuple(number for each in found for number in (each.count, each.hosts.total()))  # type: ignore[return-value]


@pytest.fixture
def desk() -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(stack)


def test_a_client_counts_once_for_its_address_wherever_it_is(desk: Desk) -> None:
    (identity,) = desk.wanting_tls(ONE)
    assert (desk.placement.from_host(ONE), desk.counts()) == (1, (0, 0, 0, 0))
    desk.place_for_tls(desk.tls)
    assert desk.tls.connections.load == 1
    desk.tls.take()
    arrived = desk.tls.arrived[identity]
    assert (arrived.host, arrived.port, arrived.state, arrived.secure) == (ONE, 4000, STATE, False)
    desk.hear(desk.tls, Receipt(acks=[identity]))
    assert (desk.placement.from_host(ONE), desk.counts()) == (1, (0, 0, 1, 1))
    near = desk.secure(identity)
    assert (desk.placement.from_host(ONE), desk.counts()) == (1, (0, 0, 1, 0))
    del desk.worker.arrived[identity]
    assert desk.place() == [identity]
    assert (desk.placement.from_host(ONE), desk.counts()) == (1, (1, 1, 1, 0))
    secure = desk.worker.arrived[identity]
    assert (secure.host, secure.secure, msgspec.msgpack.decode(secure.state)) == (ONE, True, None)
    near.send(b"said")
    assert desk.worker.socks[identity].recv(10) == b"said"
    desk.hear(desk.worker, Receipt(closed=[ONE]))
    assert (desk.placement.from_host(ONE), desk.counts()) == (0, (0, 0, 1, 0))
    desk.hear(desk.tls, Receipt(tunnels=[identity]))
    assert (desk.placement.from_host(ONE), desk.counts()) == (0, (0, 0, 0, 0))


def test_a_handshake_that_comes_to_nothing_is_taken_from_the_count(desk: Desk) -> None:
    desk.shaking(ONE, OTHER, ONE)
    desk.hear(desk.tls, Receipt(closed=[ONE]))
    assert [desk.placement.from_host(each) for each in (ONE, OTHER)] == [1, 1]
    assert desk.counts() == (0, 0, 2, 2)


def test_the_death_of_a_tls_process_takes_those_that_shake_hands_from_the_count_and_no_others(
    desk: Desk,
) -> None:
    shaking, done = desk.shaking(ONE, OTHER)
    desk.secure(done)
    desk.worker.arrived.clear()
    assert desk.place() == [done]
    desk.tls.die()
    desk.placement.unwatch(desk.tls.handle)
    assert [desk.placement.from_host(each) for each in (ONE, OTHER)] == [0, 1]
    desk.hear(desk.worker, Receipt(closed=[OTHER]))
    assert [desk.placement.from_host(each) for each in (ONE, OTHER)] == [0, 0]
    assert shaking not in desk.worker.arrived


def test_a_dead_tls_processs_unacked_clients_go_to_another_one(desk: Desk) -> None:
    identities = desk.wanting_tls(ONE, OTHER)
    desk.place_for_tls(desk.tls)
    assert desk.tls.connections.load == 2
    desk.tls.die()
    desk.placement.unwatch(desk.tls.handle)
    assert desk.place() == []
    desk.place_for_tls(desk.other_tls)
    desk.other_tls.take()
    assert list(desk.other_tls.arrived) == identities
    assert all(each.state == STATE for each in desk.other_tls.arrived.values())
    assert [desk.placement.from_host(each) for each in (ONE, OTHER)] == [1, 1]


def test_the_death_of_a_worker_takes_its_encrypted_clients_from_the_count_once(desk: Desk) -> None:
    (identity,) = desk.shaking(ONE)
    desk.secure(identity)
    desk.worker.arrived.clear()
    desk.place()
    desk.worker.die()
    desk.placement.unwatch(desk.worker.handle)
    assert desk.placement.from_host(ONE) == 0
    desk.hear(desk.tls, Receipt(tunnels=[identity]))
    assert (desk.placement.from_host(ONE), desk.tls.connections.count) == (0, 0)


def test_clients_whose_ends_the_supervisor_cannot_take_are_taken_from_the_count(desk: Desk) -> None:
    """The TLS process ends them, and says of those that had shaken hands only which they are."""
    (identity,) = desk.shaking(ONE)
    handoff = desk.tls.connections.handoff
    receive = handoff.receive

    def receive_without_descriptors() -> list[HandoffMessage]:
        arrived = receive()
        for each in arrived:
            for descriptor in each.descriptors or []:
                socket.socket(fileno=descriptor).close()
        return [HandoffMessage(each.message, None) for each in arrived]

    handoff.receive = receive_without_descriptors  # type: ignore[method-assign]
    desk.secure(identity)
    handoff.receive = receive  # type: ignore[method-assign]
    (told,) = desk.tls.take()
    assert told == Receipt(nacks=[identity])
    desk.hear(desk.tls, Receipt(tunnels=[identity]))
    assert (desk.placement.from_host(ONE), desk.counts()) == (0, (0, 0, 0, 0))


def test_clients_that_wait_for_a_tls_process_hold_up_no_others(desk: Desk) -> None:
    waiting = desk.wanting_tls(ONE, OTHER)
    assert (len(desk.placement), desk.placement.holds_up) == (2, False)
    client, sock = socket.socketpair()
    desk.cleanup.callback(client.close)
    desk.placement.enter(sock, ONE, 4001)
    assert desk.placement.holds_up
    assert len(desk.place()) == 1
    assert (len(desk.placement), desk.placement.holds_up) == (2, False)
    desk.place_for_tls()
    assert len(desk.placement) == 2
    desk.place_for_tls(desk.tls)
    desk.tls.take()
    assert list(desk.tls.arrived) == waiting


def test_of_too_many_that_wait_the_oldest_are_refused_with_an_alert(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "MOST_FOR_TLS", 2)
    desk.wanting_tls(ONE, ONE, OTHER)
    desk.place_for_tls()
    assert [desk.placement.from_host(each) for each in (ONE, OTHER)] == [1, 1]
    assert (len(desk.placement), dict(desk.refusals.counts)) == (2, {TLS_FULL.code: 1})
    assert desk.clients[0].recv(100) == ACCESS_DENIED
    assert desk.clients[0].recv(100) == b""
    for client in desk.clients[1:]:
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
    desk.place_for_tls(desk.tls)
    assert desk.tls.connections.load == 2


def test_clients_wait_no_longer_than_they_are_let(desk: Desk) -> None:
    desk.wanting_tls(ONE)
    desk.place_for_tls()
    desk.placement.place_for_tls([], time.monotonic() + placement.TLS_PATIENCE + 1)
    assert desk.clients[0].recv(100) == ACCESS_DENIED
    assert (len(desk.placement), desk.placement.from_host(ONE)) == (0, 0)


def test_where_no_process_is_to_come_nobody_waits_for_one(desk: Desk) -> None:
    desk.wanting_tls(ONE)
    desk.placement.place_for_tls([], time.monotonic(), 0.0)
    assert desk.clients[0].recv(100) == ACCESS_DENIED
    assert len(desk.placement) == 0


def test_a_client_behind_a_proxy_that_a_worker_cannot_take_counts_once(desk: Desk) -> None:
    admitted: list[str] = []
    desk.placement.admit = admitted.append
    for _ in range(2):
        client, sock = socket.socketpair()
        desk.clients.append(client)
        desk.cleanup.callback(client.close)
        desk.placement.enter(sock, OTHER, 4000, proxied=True)
    (identity, _) = desk.place()
    passed = Passed([ConnectionInTransit(identity, ONE, 4711, STATE, proxy=OTHER)])
    desk.hear(desk.worker, passed, desk.worker.socks[identity])
    desk.worker.socks.pop(identity).close()
    desk.placement.place([desk.worker.handle], desk.reactor.now, expected=0)
    desk.worker.take()
    desk.hear(desk.worker, Receipt(nacks=[identity]))
    assert [desk.placement.from_host(each) for each in (ONE, OTHER)] == [1, 1]
    assert admitted == [ONE]


def test_the_alert_is_one_that_clients_understand() -> None:
    incoming = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="chat.test")
    incoming.write(ACCESS_DENIED)
    with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
        client.do_handshake()


def test_a_client_banned_before_its_handshake_is_refused_with_an_alert_and_after_it_in_words(
    desk: Desk,
) -> None:
    (done,) = desk.shaking(ONE)
    desk.moderation.bans.update({each: Rule(each, None) for each in (ONE, OTHER)})
    desk.wanting_tls(OTHER)
    assert desk.clients[1].recv(100) == ACCESS_DENIED
    near = desk.secure(done)
    assert b'"banned"' in near.recv(1000)
    assert near.recv(1) == b""
    assert [desk.placement.from_host(each) for each in (ONE, OTHER)] == [0, 0]


def test_a_tls_process_that_nacks_gets_nobody_for_a_while(desk: Desk) -> None:
    (identity,) = desk.wanting_tls(ONE)
    desk.place_for_tls(desk.tls)
    desk.tls.take()
    desk.hear(desk.tls, Receipt(nacks=[identity]))
    desk.place_for_tls(desk.tls)
    assert (desk.tls.connections.load, len(desk.placement)) == (0, 1)
    desk.place_for_tls(desk.tls, desk.other_tls)
    desk.other_tls.take()
    assert desk.other_tls.arrived[identity].state == STATE


def test_clients_go_to_the_tls_process_that_has_the_fewest(desk: Desk) -> None:
    desk.wanting_tls(*[ONE] * 5)
    desk.place_for_tls(desk.tls, desk.other_tls)
    assert sorted(each.connections.load for each in (desk.tls, desk.other_tls)) == [2, 3]


def test_a_tls_process_takes_half_as_many_clients_as_a_worker(desk: Desk) -> None:
    """Each costs it a socket, and the end of a pair."""
    desk.placement.per_worker = 4
    desk.wanting_tls(ONE, ONE, ONE)
    desk.place_for_tls(desk.tls)
    assert (desk.tls.connections.load, len(desk.placement)) == (2, 1)
