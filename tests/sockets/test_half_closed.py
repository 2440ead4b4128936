"""A client that sends and then closes its side gets what it is owed; then its connection ends in order."""

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from support.harness import Client, frame, raw_frame
from support.one_worker import ROOM, Bench

from mpchat.ipc.items import Down
from mpchat.worker.connection import LIVE, Connection
from mpchat.worker.half_closed import HALF_CLOSED_TIMEOUT

OWN = frame("나가기 전에")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def half_close(bench: Bench, client: Client, connection: Connection) -> None:
    client.sock.shutdown(socket.SHUT_WR)
    bench.until(lambda: connection.half_closed)


def work(bench: Bench, connection: Connection) -> None:
    """Let the worker do what the clients' sockets allow, until the connection has ended."""

    def done() -> bool:
        bench.worker.rooms.work(bench.worker.reactor.now + 1)
        bench.worker.clients.half_closed.work()
        return connection.closed

    bench.until(done)


def test_its_own_message_comes_back_before_the_end(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(OWN)
    half_close(bench, client, connection)
    assert bench.worker.uplink.said_all == [1]
    bench.order(Down.BATCH, (2, frame("다른 사람") + OWN))
    bench.order(Down.ECHOED, [1])
    work(bench, connection)
    assert [client.hear(), client.hear(), client.receive()] == ["다른 사람", "나가기 전에", None]
    assert bench.worker.counters.ended == {"closed": 1}


def test_a_client_that_catches_up_with_a_flush_ends_then(bench: Bench) -> None:
    """In a busy room: its socket is not waited for, it is tried again with what comes next."""
    client, connection = bench.connect(1)
    client.send_raw(OWN)
    half_close(bench, client, connection)
    rooms, now = bench.worker.rooms, bench.worker.reactor.now
    while not rooms.plain.late:
        bench.order(Down.BATCH, (1, frame("x" * 50_000)))
        now += 1
        rooms.work(now)
    bench.order(Down.ECHOED, [1])
    bench.worker.clients.half_closed.work()
    client.sock.settimeout(0.1)
    for _ in range(20):
        with suppress(TimeoutError):
            while client.sock.recv(1 << 20):
                pass
        bench.order(Down.BATCH, (1, frame("more")))
        now += 1
        rooms.work(now)
        if connection.closed:
            break
    assert bench.worker.counters.ended == {"closed": 1}


def test_a_member_gets_its_answers_and_its_message(bench: Bench) -> None:
    client, connection = bench.member(1)
    client.send_raw(OWN)
    half_close(bench, client, connection)
    bench.order(Down.TELL, (1, frame("답")))
    bench.order(Down.ROOMS, ([(ROOM, 1, len(OWN))], OWN))
    bench.order(Down.ECHOED, [1])
    work(bench, connection)
    assert [client.hear(), client.hear(), client.receive()] == ["답", "나가기 전에", None]


def test_a_client_that_has_said_nothing_ends_at_once(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.sock.shutdown(socket.SHUT_WR)
    bench.until(lambda: connection.closed)
    assert bench.worker.uplink.said_all == []


def test_a_client_that_has_closed_both_sides_ends_with_the_first_byte(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(OWN)
    client.close()
    bench.until(lambda: connection.half_closed)
    bench.order(Down.BATCH, (1, OWN))
    bench.order(Down.ECHOED, [1])
    work(bench, connection)
    assert bench.worker.counters.ended == {"closed": 1}


def late(bench: Bench, connection: Connection) -> int:
    """Publish more than the client's socket takes; returns how many messages that was."""
    count = 0
    while connection.cursor == LIVE:
        bench.order(Down.BATCH, (1, raw_frame(b'{"message":"%s"}' % (b"x" * 50_000))))
        connection.fanout.complete(bench.worker.reactor.now, pending=True)
        count += 1
    return count


def test_a_client_that_reads_late_gets_everything(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(OWN)
    half_close(bench, client, connection)
    count = late(bench, connection)
    bench.order(Down.BATCH, (1, OWN))
    bench.order(Down.ECHOED, [1])
    client.sock.setblocking(False)
    data = bytearray()

    def read_until_the_end() -> bool:
        bench.worker.rooms.work(bench.worker.reactor.now + 1)
        bench.worker.clients.half_closed.work()
        with suppress(BlockingIOError):
            while piece := client.sock.recv(1 << 20):
                data.extend(piece)
            return True
        return False

    bench.until(read_until_the_end)
    assert data.count(b"xx}") + data.count(b'xx"}') == count
    assert data.endswith(OWN)
    assert bench.worker.counters.ended == {"closed": 1}


def test_a_client_that_does_not_read_does_not_stay(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(OWN)
    half_close(bench, client, connection)
    late(bench, connection)
    bench.order(Down.ECHOED, [1])
    bench.worker.clients.half_closed.work()
    bench.worker.clients.end_overdue(connection.heard + HALF_CLOSED_TIMEOUT - 1)
    assert not connection.closed
    bench.worker.clients.end_overdue(connection.heard + HALF_CLOSED_TIMEOUT + 1)
    assert connection.closed


def test_a_move_carries_it(bench: Bench) -> None:
    other = Bench()
    try:
        client, connection = bench.connect(1)
        client.send_raw(OWN)
        half_close(bench, client, connection)
        bench.order(Down.ECHOED, [1])  # the answer to the first worker comes too late
        state = bench.worker.migration.export_state(connection)
        bench.worker.clients.half_closed.work()
        moved = other.take(1, connection.sock, state)
        assert other.worker.uplink.said_all == [1]
        other.order(Down.BATCH, (1, OWN))
        other.order(Down.ECHOED, [1])
        work(other, moved)
        assert [client.hear(), client.receive()] == ["나가기 전에", None]
    finally:
        other.close()


@pytest.mark.parametrize("sent", [b"", frame("안녕")[:5], raw_frame(b""), raw_frame(b"junk") * 3])
def test_a_client_that_has_said_nothing_valid_leaves_without_a_notice(bench: Bench, sent: bytes) -> None:
    client, connection = bench.connect(1)
    client.send_raw(sent)
    client.reset()
    bench.until(lambda: connection.closed)
    assert bench.worker.uplink.left == []


def test_a_client_that_has_said_something_is_told_of_also_after_a_move(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(OWN)
    bench.until(lambda: bool(bench.worker.uplink.posts))
    moved = bench.take(1, connection.sock, bench.worker.migration.export_state(connection))
    client.reset()
    bench.until(lambda: moved.closed)
    assert bench.worker.uplink.left == [client_address(moved)]


def client_address(connection: Connection) -> str:
    return f"{connection.host}:{connection.port}"
