"""Limits per address: all hosts of one IPv6 network of 64 bits share what one address may have."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from support.endpoints import RecordingEndpoint

from mpchat.config import resolve
from mpchat.hub.moderation import Moderation, Rule
from mpchat.ipc.handoff import Handoff, HandoffSocket, Receipt, close_all, read_message
from mpchat.ipc.items import Down
from mpchat.reactor import Reactor
from mpchat.supervisor.admission import TOO_FAST, Admission
from mpchat.supervisor.ask_workers import NO_QUESTION
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.worker_connections import HeldConnection, WorkerConnections
from mpchat.supervisor.worker_handle import WorkerHandle
from mpchat.supervisor.worker_process import WORKER

ONE, SAME_NETWORK, OTHER_NETWORK = "2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"


class Worker:
    """A worker that the test plays: the supervisor's account of it is real, the process is not there."""

    slot, kind = 1, WORKER
    closed = select = False
    endpoint: RecordingEndpoint | None = None
    # Placement asks a handle for itself; the rest of a handle is the process.
    candidate = WorkerHandle.candidate

    def __init__(self) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connections = WorkerConnections(near)
        self._far = HandoffSocket(far)

    def take(self) -> list[int]:
        """Take the connections that were sent here; return their identities."""
        taken = []
        for arrived in self._far.receive():
            message = read_message(arrived.message)
            assert isinstance(message, Handoff)
            close_all(arrived.descriptors or [])
            taken += [each.identity for each in message.connections]
        return taken

    def say(self, receipt: Receipt) -> None:
        self._far.send(msgspec.msgpack.encode(receipt), [])

    def die(self) -> None:
        self._far.close()

    def close(self) -> list[HeldConnection]:
        return self.connections.close()


def hub_without_bans(**more: object) -> SimpleNamespace:
    moderator = SimpleNamespace(is_banned=lambda identity, host: False, watch_clock=lambda: None)
    state = SimpleNamespace(moderation=Moderation())
    return SimpleNamespace(state=state, moderator=moderator, wall=time.time, **more)


class Desk:
    """A placement, one worker, and the clients of both."""

    def __init__(self, cleanup: ExitStack) -> None:
        self.reactor = Reactor()
        self.worker = Worker()
        self.hub = hub = hub_without_bans(transit_began=lambda *_: None, transit_ended=lambda *_: None)
        acceptor = SimpleNamespace(refuse=lambda sock, refusal, begun: sock.close())
        self.placement = Placement(self.reactor, cast(Any, acceptor), cast(Any, hub), per_worker=100)
        self.placement.watch(self.handle)
        self._cleanup = cleanup
        cleanup.callback(self.reactor.close)
        cleanup.callback(self.worker.close)
        cleanup.callback(self.worker.die)

    @property
    def handle(self) -> WorkerHandle:
        return cast(WorkerHandle, self.worker)

    def enter(self, *hosts: str) -> None:
        for host in hosts:
            near, far = socket.socketpair()
            self._cleanup.callback(near.close)
            self._cleanup.callback(far.close)
            self.placement.enter(near, host, 4000)

    def place(self) -> list[int]:
        """Let the worker take all that wait; return their identities."""
        self.placement.place([self.handle], self.reactor.now, expected=0)
        return self.worker.take()

    def hear(self, receipt: Receipt) -> None:
        """Let the worker say something of its connections."""
        self.worker.say(receipt)
        self.reactor.turn(1.0)

    @property
    def counts(self) -> list[int]:
        """How many connections there are from where each of the three hosts is."""
        return [self.placement.from_host(each) for each in (ONE, SAME_NETWORK, OTHER_NETWORK)]


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_connections_of_one_network_are_counted_together_until_each_has_ended(cleanup: ExitStack) -> None:
    desk = Desk(cleanup)
    desk.enter(ONE, SAME_NETWORK, OTHER_NETWORK)
    assert desk.counts == [2, 2, 1]
    desk.hear(Receipt(acks=desk.place()))
    assert desk.counts == [2, 2, 1]
    desk.hear(Receipt(closed=[SAME_NETWORK]))
    assert desk.counts == [1, 1, 1]
    desk.hear(Receipt(closed=[ONE, OTHER_NETWORK]))
    assert desk.counts == [0, 0, 0]


def test_a_refused_connection_is_taken_from_the_count_of_its_network(cleanup: ExitStack) -> None:
    desk = Desk(cleanup)
    desk.enter(ONE, SAME_NETWORK, OTHER_NETWORK)
    desk.placement.refuse(TOO_FAST, host=SAME_NETWORK)
    assert desk.counts == [1, 1, 1]


def test_the_death_of_a_worker_takes_its_connections_from_the_count_of_their_network(
    cleanup: ExitStack,
) -> None:
    """A connection that the worker has not acked waits for another worker, and still counts."""
    desk = Desk(cleanup)
    desk.enter(ONE, SAME_NETWORK, OTHER_NETWORK)
    desk.hear(Receipt(acks=desk.place()))
    desk.enter(SAME_NETWORK)
    assert len(desk.place()) == 1
    assert desk.counts == [3, 3, 1]
    desk.worker.die()
    desk.placement.unwatch(desk.handle)
    assert desk.counts == [1, 1, 0]
    assert len(desk.placement) == 1


def test_a_banned_connection_is_kicked_when_it_is_acked_unless_workers_are_asked_for_it(
    cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(cleanup)
    endpoint = RecordingEndpoint(1)
    monkeypatch.setattr(Worker, "endpoint", endpoint)
    desk.hub.moderator.is_banned = lambda identity, host: host == ONE
    desk.hub.state.moderation.bans["a"] = Rule("a", None)
    for asked_for in ([f"[{ONE}]:4000"], []):
        desk.placement.kicking = asked_for
        desk.enter(ONE, OTHER_NETWORK)
        desk.hear(Receipt(acks=desk.place()))
        assert endpoint.take_all(Down.KICK) == ([] if asked_for else [(NO_QUESTION, f"[{ONE}]:4000")])


def admission_of(desk: Desk, **settings: int) -> Admission:
    """Return an admission for this placement, with room for everybody and no ban."""
    config = msgspec.structs.replace(resolve([])[0], **settings)
    hub = hub_without_bans()
    pool, tls = SimpleNamespace(able=1, connections=0), SimpleNamespace(shaking=0)
    changes = SimpleNamespace(aim=None)
    parts: list[Any] = [SimpleNamespace(config=config), hub, pool, tls, desk.placement, changes]
    return Admission(*parts)


def test_hosts_of_one_network_share_one_burst(cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock stands still, so nothing of the burst comes back during the test.
    clock = SimpleNamespace(time=lambda: 0.0, monotonic=lambda: 100.0)
    monkeypatch.setattr("mpchat.supervisor.admission.time", clock)
    admission = admission_of(Desk(cleanup), connect_rate=1, connect_burst=4, max_per_address=0)
    hosts = [ONE, SAME_NETWORK, ONE, SAME_NETWORK, SAME_NETWORK, ONE, OTHER_NETWORK]
    assert [admission.check(host) for host in hosts] == [*[None] * 4, TOO_FAST, TOO_FAST, None]


def test_hosts_of_one_network_share_what_one_address_may_have(cleanup: ExitStack) -> None:
    desk = Desk(cleanup)
    admission = admission_of(desk, connect_rate=0, max_per_address=2)
    desk.enter(ONE)
    assert admission.check(SAME_NETWORK) is None
    desk.enter(SAME_NETWORK)
    for host in (ONE, SAME_NETWORK):
        refusal = admission.check(host)
        assert refusal is not None
        assert refusal.text == "2 clients are connected from your address already"
    assert admission.check(OTHER_NETWORK) is None
