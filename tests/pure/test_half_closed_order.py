"""Half-closed clients without sockets: which ends when, and which does not."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpchat.ipc.reasons import CLOSED
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.reactor import READ
from mpchat.worker.connection import Connection
from mpchat.worker.half_closed import HALF_CLOSED_TIMEOUT, HalfClosed


class Fanout:
    """What half-closed clients ask of a fan-out."""

    def __init__(self, stream: SimpleNamespace) -> None:
        self.messages = 0
        self.stream = stream
        self.between_flushes = True
        self.all_live = True

    def is_live(self, connection: Connection) -> bool:
        return self.all_live


class Worker:
    """What half-closed clients need of a worker; a client is owed messages by number."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.uplink: Any = SimpleNamespace(said_all=[])
        self.stream = SimpleNamespace(messages=0)
        self.fanout = Fanout(self.stream)
        self.clients = HalfClosed(None, self.uplink, self.end)  # type: ignore[arg-type]

    def end(self, connection: Connection, reason: str) -> None:
        assert reason == CLOSED
        self.ended.append(connection.identity)
        self.clients.forget(connection)

    def connection(self, identity: int, *, begun: bool = True) -> Connection:
        connection = Connection(identity, None, "", 0, PlainDialect())  # type: ignore[arg-type]
        connection.fanout = self.fanout
        if begun:
            self.clients.begin(connection)
        return connection

    def echoed(self, connection: Connection, at: int) -> None:
        self.fanout.messages = at
        self.clients.echoed(connection)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_each_ends_when_the_stream_has_come_to_its_own_last_message(worker: Worker) -> None:
    worker.echoed(worker.connection(1), at=3)
    worker.echoed(worker.connection(2), at=5)
    ended = []
    for worker.stream.messages in range(7):
        worker.clients.work()
        ended.append(list(worker.ended))
        assert worker.clients.busy is (len(worker.ended) < 2)
    assert ended == [[], [], [], [1], [1], [1, 2], [1, 2]]
    assert worker.uplink.said_all == [1, 2]


def test_none_ends_while_a_flush_is_under_way(worker: Worker) -> None:
    worker.echoed(worker.connection(1), at=0)
    worker.fanout.between_flushes = False
    worker.clients.work()
    assert worker.ended == []
    worker.fanout.between_flushes = True
    worker.clients.work()
    assert worker.ended == [1]


@pytest.mark.parametrize("wait", ["outbox", "replaying", "late"])
def test_a_client_that_is_still_owed_something_ends_when_it_has_got_it(worker: Worker, wait: str) -> None:
    connection = worker.connection(1)
    worker.echoed(connection, at=0)
    connection.outbox = b"answer" if wait == "outbox" else b""
    connection.replaying = wait == "replaying"
    worker.fanout.all_live = wait != "late"
    worker.clients.work()
    assert worker.ended == []
    assert not worker.clients.busy
    connection.outbox = b""
    connection.replaying = False
    worker.fanout.all_live = True
    worker.clients.settle(connection)
    assert worker.ended == [1]


def test_a_client_that_is_not_half_closed_or_has_left_is_nothing_to_wait_for(worker: Worker) -> None:
    open_client = worker.connection(1, begun=False)
    worker.echoed(open_client, at=0)
    assert not worker.clients.busy
    worker.clients.settle(open_client)
    left = worker.connection(2)
    worker.echoed(left, at=0)
    worker.clients.forget(left)
    worker.clients.work()
    worker.clients.settle(left)
    assert worker.ended == []


def test_a_client_that_has_been_sent_all_is_forgotten_at_its_end(worker: Worker) -> None:
    connection = worker.connection(1)
    worker.echoed(connection, at=0)
    worker.clients.work()
    worker.clients.settle(connection)
    worker.clients.end_overdue(2 * HALF_CLOSED_TIMEOUT)
    assert worker.ended == [1]


def test_a_client_that_takes_nothing_ends_in_time_and_others_do_not(worker: Worker) -> None:
    for identity, heard in ((1, 100.0), (2, 101.0)):
        worker.connection(identity).heard = heard
    worker.connection(3, begun=False).heard = 1.0
    worker.clients.end_overdue(100.0 + HALF_CLOSED_TIMEOUT)
    assert worker.ended == []
    worker.clients.end_overdue(100.5 + HALF_CLOSED_TIMEOUT)
    assert worker.ended == [1]


def test_a_client_is_read_from_no_more(worker: Worker) -> None:
    class Pausing:
        def pause(self, sock: object) -> None:
            paused.append(sock)

    paused: list[object] = []
    clients = HalfClosed(Pausing(), worker.uplink, worker.end)  # type: ignore[arg-type]
    connection = worker.connection(1, begun=False)
    connection.interest = READ
    clients.begin(connection)
    assert paused == [connection.sock]
    assert not connection.reading
    assert connection.half_closed
