"""The supervisor's account of a worker's speakers: the clients whose loss others are told of when it dies."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from mpchat.ipc.handoff import ConnectionInTransit, Handoff, HandoffMessage, Receipt
from mpchat.supervisor.worker_connections import HeldConnection, WorkerConnections

HOST = "192.0.2.1"
MOVED = msgspec.Raw(b"\xc3")


class Account(WorkerConnections):
    """An account whose worker is the test."""

    def __init__(self, cleanup: ExitStack) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        super().__init__(near)
        cleanup.callback(far.close)
        cleanup.callback(self.handoff.close)
        self._cleanup = cleanup

    def hear(self, receipt: Receipt) -> None:
        self.on_message(HandoffMessage(msgspec.msgpack.encode(receipt), []))

    def take_out(self, *connections: ConnectionInTransit, received: bool = True) -> list[HeldConnection]:
        """Let the worker move connections out; not ``received``: the supervisor was short of descriptors."""
        descriptors = [socket.socket().detach() for _ in connections] if received else None
        message = msgspec.msgpack.encode(Handoff(list(connections)))
        held = list(self.on_message(HandoffMessage(message, descriptors)).unplaced)
        for each in held:
            self._cleanup.callback(each.sock.close)
        return held


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def with_three(cleanup: ExitStack) -> Account:
    """An account of three connections, of which the first two are speakers."""
    account = Account(cleanup)
    for identity in (1, 2, 3):
        account.assign(HeldConnection(identity, socket.socket(), HOST, identity), 0.0)
    account.hear(Receipt(acks=[1, 2, 3]))
    assert account.speakers == 0
    account.speakers = 2  # as the worker says later
    return account


def in_transit(identity: int, *, speaker: bool) -> ConnectionInTransit:
    return ConnectionInTransit(identity, HOST, identity, MOVED, speaker)


def test_a_connection_in_transit_counts_nowhere_and_then_where_it_was_acked(cleanup: ExitStack) -> None:
    one, dying, other = with_three(cleanup), Account(cleanup), Account(cleanup)
    held = one.take_out(in_transit(2, speaker=True), in_transit(3, speaker=False))
    assert (one.count, one.speakers) == (1, 1)
    for each in held:
        dying.assign(each, 0.0)
    assert (dying.load, dying.speakers) == (2, 0)
    for each in dying.close():  # it died before its acks came
        other.assign(each, 0.0)
    other.hear(Receipt(acks=[2, 3]))
    assert (other.count, other.speakers) == (2, 1)


def test_a_connection_that_another_worker_refuses_counts_where_it_is_acked(cleanup: ExitStack) -> None:
    one, full, other = with_three(cleanup), Account(cleanup), Account(cleanup)
    (held,) = one.take_out(in_transit(1, speaker=True))
    full.assign(held, 0.0)
    message = msgspec.msgpack.encode(Receipt(nacks=[1]))
    (returned,) = full.on_message(HandoffMessage(message, [])).unplaced
    other.assign(returned, 0.0)
    other.hear(Receipt(acks=[1]))
    assert (one.speakers, full.speakers, other.speakers) == (1, 0, 1)


def test_connections_that_could_not_be_received_count_where_they_stay(cleanup: ExitStack) -> None:
    one = with_three(cleanup)
    assert not one.take_out(in_transit(1, speaker=True), in_transit(2, speaker=True), received=False)
    assert (one.count, one.speakers) == (3, 2)


def test_what_a_worker_needs_to_count_goes_with_the_connection(cleanup: ExitStack) -> None:
    other = Account(cleanup)
    for held in with_three(cleanup).take_out(in_transit(2, speaker=True), in_transit(3, speaker=False)):
        other.assign(held, 0.0)
    sent: list[bytes] = []
    other.handoff.send = lambda message, descriptors: sent.append(message)  # type: ignore[method-assign]
    other.send_assigned()
    arrived = msgspec.msgpack.decode(sent[0], type=Handoff).connections
    assert [(each.identity, each.speaker) for each in arrived] == [(2, True), (3, False)]
    assert all(bytes(each.state) == bytes(MOVED) for each in arrived)
