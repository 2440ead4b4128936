"""Figures of a worker: bytes, errors, waits and clients by what they speak, counted where they happen."""

import socket
from collections.abc import Iterator

import pytest
from support.harness import frame, raw_frame
from support.one_worker import Bench, unread
from support.websocket_peer import HANDSHAKE

from mpchat.ipc.items import Down, Up
from mpchat.protocol.frames import cut_frames


@pytest.fixture
def worker() -> Iterator[Bench]:
    bench = Bench(web=True, listen_grace=0.0, lag_limit=64 << 20)
    try:
        yield bench
    finally:
        bench.close()


def test_bytes_messages_and_errors_are_counted(worker: Bench) -> None:
    sender, _ = worker.connect(1)
    sent = raw_frame(b"no json") + raw_frame(b"nor this") + frame("hello") + raw_frame(b"[]")
    sender.send_raw(sent)
    found = worker.received(sender, lambda data: data.count(b'"error"') == 3)
    worker.worker.uplink.work(1e9)
    figures = worker.worker.figures()
    assert (figures.bytes_in, figures.messages_in, figures.from_members) == (len(sent), 1, 0)
    assert figures.bytes_out == len(found)
    assert figures.errors == {"not_json": 2, "not_a_message": 1}


def test_members_messages_are_counted_apart(worker: Bench) -> None:
    member, _ = worker.member(1)
    plain, _ = worker.connect(2)
    member.send_raw(frame("one") + frame("two"))
    plain.send_raw(frame("three"))
    worker.until(lambda: len(worker.worker.uplink.posts) >= 2)
    worker.worker.uplink.work(1e9)
    figures = worker.worker.figures()
    assert (figures.messages_in, figures.from_members) == (3, 2)


def test_bytes_of_clients_that_fall_behind_and_catch_up_are_counted_once(worker: Bench) -> None:
    clients = [worker.connect(identity) for identity in (1, 2)]
    for client, connection in clients:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        client.send_raw(frame("here"))
    worker.turn()
    blob = frame("x" * 30_000) * 10
    for _ in range(3):
        worker.order(Down.BATCH, (10, blob))
        worker.turn()
    assert worker.worker.figures().late == 2
    assert worker.worker.figures().streams > 0
    total = 0
    for client, _ in clients:
        total += len(worker.received(client, lambda data: len(data) >= 3 * len(blob)))
    assert total == 6 * len(blob)
    figures = worker.worker.figures()
    assert (figures.bytes_out, figures.messages_out, figures.late) == (total, 60, 0)


def test_a_client_that_costs_too_much_waits_and_is_counted() -> None:
    bench = Bench(flood_burst=1, flood_rate=1)
    try:
        client, _ = bench.connect(1)
        client.send_raw(frame("a") * 3)
        bench.until(lambda: bool(bench.worker.uplink.posts))
        assert bench.worker.figures().waits == 1
    finally:
        bench.close()


def test_clients_are_counted_by_what_they_speak_wherever_they_are_moved(worker: Bench) -> None:
    plain, _ = worker.connect(1)
    browser, _ = worker.connect(2)
    websocket, _ = worker.connect(3)
    worker.connect(4)  # says nothing
    plain.send_raw(frame("a"))
    browser.send_raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    websocket.send_raw(HANDSHAKE)
    worker.received(websocket, lambda data: b"101 Switching" in data)
    worker.received(browser, lambda data: b"200 OK" in data)

    def kinds() -> tuple[int, ...]:
        figures = worker.worker.figures()
        return figures.connections, figures.websockets, figures.browsers

    assert kinds() == (4, 1, 1)
    states = worker.move_out(4)
    assert kinds() == (0, 0, 0)
    for identity, state in states.items():
        sock = worker.socks[identity - 1]
        worker.take(identity, socket.socket(fileno=sock.detach()) if sock.fileno() >= 0 else sock, state)
    assert kinds() == (4, 1, 1)
    for client in worker.clients:
        client.close()
    worker.until(lambda: worker.worker.figures().connections == 0)
    assert kinds() == (0, 0, 0)


def test_turns_are_counted(worker: Bench) -> None:
    worker.worker.uplink.say(Up.SPEAKERS, 0)
    worker.worker.reactor.call_later(0.0, lambda: None)
    worker.worker.turn()
    figures = worker.worker.figures()
    assert sum(figures.turns) == 1
    assert 0 < figures.turn_time < 10


def test_a_trip_is_answered_with_what_it_said(worker: Bench) -> None:
    worker.order(Down.TRIP, 12.5)
    assert [(each.kind, each.payload) for each in worker.link.receive()] == [(Up.TRIP, 12.5)]


def test_nothing_unread_is_left_out(worker: Bench) -> None:
    """What is kept for one client counts as waiting, and is counted as sent once it has gone."""
    client, connection = worker.connect(1)
    client.send_raw(raw_frame(b"?"))
    worker.until(lambda: worker.worker.figures().bytes_out > 0)
    found = unread(client)
    assert worker.worker.figures().bytes_out == len(found) == cut_frames(found, 1)
    assert worker.worker.figures().outboxes == 0
    assert not connection.outbox
