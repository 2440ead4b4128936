"""Barred clients at a worker: they say and hear nothing until they are let in, also between two workers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.desk import Object, code, objects
from support.harness import Client, frame, raw_frame
from support.one_worker import ROOM, Bench, unread
from support.websocket_peer import HANDSHAKE

from mpchat.ipc.connection_state import ConnectionState
from mpchat.ipc.items import PLAIN, Down
from mpchat.ipc.reasons import UNPROVEN
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.messages import error_frame
from mpchat.protocol.requests import unpack_request
from mpchat.protocol.session import DialectState
from mpchat.worker.connection import Connection
from mpchat.worker.rooms import ASIDE

JOIN = raw_frame('{"join":{"name":"앨리스","password":"아주 비밀스러운 것"}}'.encode())
WELCOME = raw_frame(b'{"welcome":{}}')
CLOSED = {"auth": "closed", "auth_timeout": 30.0}


@contextmanager
def worker(**settings: Any) -> Iterator[Bench]:
    """Run a worker in the test's process."""
    bench = Bench(**settings)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture(params=[True, False], ids=["web", "no web"])
def closed(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A worker of a closed chat, which waits for first bytes to tell browsers apart, or does not."""
    with worker(**CLOSED, web=request.param) as bench:
        yield bench


@pytest.fixture
def opened() -> Iterator[Bench]:
    with worker() as bench:
        yield bench


def heard(bench: Bench, client: Client) -> list[Object]:
    """Return what a client has been sent, once the worker has done all that there is."""
    bench.turn(6)
    return objects(unread(client))


def publish(bench: Bench, text: str) -> None:
    """Let the hub say something to all plain clients."""
    bench.order(Down.BATCH, (1, frame(text)))


def let_in(bench: Bench, identity: int) -> None:
    """Let a client into the room, as the hub does for a proof."""
    bench.order(Down.ENTER, ((identity, ROOM, 0, True), WELCOME))
    bench.order(Down.ANSWERED, identity)


def said(bench: Bench) -> list[tuple[object, int, bytes]]:
    """Return what clients have said and is not sent to the hub yet; requests are none of that."""
    return [each for each in bench.worker.uplink.posts if each[1]]


def asked(bench: Bench) -> list[int]:
    """Return the clients whose requests are with the hub."""
    return list(bench.worker.uplink.requests._asked)


# Hearing and speaking.


def test_a_barred_client_hears_nothing_and_is_told_so_for_each_message(closed: Bench) -> None:
    client, connection = closed.connect(1)
    assert connection.barred
    client.send_raw(frame("하나") + frame("둘"))
    answers = heard(closed, client)
    assert sum(each["error"].get("times", 1) for each in answers) == 2
    assert {code(each) for each in answers} == {"auth_required"}
    assert {tuple(each["error"]["proofs"]) for each in answers} == {("password",)}
    publish(closed, "비밀")
    assert heard(closed, client) == []
    assert said(closed) == []
    assert not connection.spoke
    client.send_raw(raw_frame(b'{"ping":7}'))
    assert heard(closed, client) == [{"pong": 7}]


def test_in_an_open_chat_no_client_is_barred(opened: Bench) -> None:
    client, connection = opened.connect(1)
    client.send_raw(frame("하나"))
    opened.until(lambda: bool(said(opened)))
    publish(opened, "하나")
    assert [each["message"] for each in heard(opened, client)] == ["하나"]
    assert not connection.barred


def test_of_messages_around_a_join_in_one_read_only_those_after_it_are_said(closed: Bench) -> None:
    client, connection = closed.connect(1)
    client.send_raw(frame("앞") + frame("앞") + JOIN + frame("뒤") + frame("뒤의 뒤"))
    closed.until(lambda: connection.asking)
    answers = heard(closed, client)
    assert sum(each["error"].get("times", 1) for each in answers) == 2
    assert said(closed) == []
    let_in(closed, 1)
    closed.until(lambda: len(said(closed)) > 0 and not connection.dialect.has_more)
    assert sum(count for _, count, _ in said(closed)) == 2
    assert {sender for sender, _, _ in said(closed)} == {1}
    assert "앞".encode() not in b"".join(frames for *_, frames in said(closed))
    assert heard(closed, client) == [{"welcome": {}}]


def test_messages_after_a_join_that_is_refused_are_refused(closed: Bench) -> None:
    client, connection = closed.connect(1)
    client.send_raw(JOIN + frame("뒤"))
    closed.until(lambda: connection.asking)
    closed.order(Down.TELL, (1, error_frame("bad_credentials", "틀림")))
    closed.order(Down.ANSWERED, 1)
    closed.until(lambda: not connection.dialect.has_more)
    assert [code(each) for each in heard(closed, client)] == ["bad_credentials", "auth_required"]
    assert said(closed) == []
    publish(closed, "비밀")
    assert heard(closed, client) == []


def test_a_crowd_of_messages_is_answered_with_few_frames_and_costs_as_other_errors(closed: Bench) -> None:
    client, connection = closed.connect(1)
    client.send_raw(frame("") * 5_000)
    closed.until(lambda: connection.quiet_until > time.monotonic())
    answers = heard(closed, client)
    assert sum(each["error"].get("times", 1) for each in answers) > len(answers)
    assert not connection.reading


def test_a_barred_websocket_hears_nothing_either() -> None:
    with worker(**CLOSED, web=True) as bench:
        client, connection = bench.connect(1)
        client.sock.sendall(HANDSHAKE)
        bench.received(client, lambda data: data.endswith(b"\r\n\r\n"))
        assert connection.barred
        publish(bench, "비밀")
        bench.turn(6)
        assert unread(client) == b""
        let_in(bench, 1)
        assert not connection.barred
        assert b"welcome" in bench.received(client, lambda data: b"welcome" in data)


def test_a_browser_that_becomes_a_websocket_late_has_its_own_time_for_a_proof() -> None:
    with worker(auth="closed", auth_timeout=1.0, web=True) as bench:
        client, connection = bench.connect(1)
        client.sock.sendall(HANDSHAKE[:-2])
        bench.until(lambda: not connection.undecided)
        bench.worker.clients.end_overdue(time.monotonic() + 2.0)
        assert bench.worker.clients.barred._since == {}, "it may load the page"
        client.sock.sendall(HANDSHAKE[-2:])
        bench.received(client, lambda data: data.endswith(b"\r\n\r\n"))
        bench.worker.clients.end_overdue(time.monotonic() + 2.0)
        assert connection.closed


# The time for a proof.


def test_a_client_that_shows_nothing_for_long_is_told_and_ended(closed: Bench) -> None:
    client, connection = closed.connect(1)
    closed.worker.clients.end_overdue(time.monotonic() + 29.0)
    assert not connection.closed
    closed.worker.clients.end_overdue(time.monotonic() + 31.0)
    assert connection.closed
    assert [code(each) for each in objects(closed.received_to_the_end(client))] == ["auth_required"]
    assert closed.worker.counters.ended[UNPROVEN] == 1
    assert closed.worker.clients.barred._since == {}


def test_a_client_whose_proof_is_checked_or_that_is_let_in_is_not_ended(closed: Bench) -> None:
    client, connection = closed.connect(1)
    client.send_raw(JOIN)
    closed.until(lambda: connection.asking)
    closed.worker.clients.end_overdue(time.monotonic() + 1000.0)
    assert not connection.closed
    let_in(closed, 1)
    closed.worker.clients.end_overdue(time.monotonic() + 1000.0)
    assert not connection.closed
    assert closed.worker.clients.barred._since == {}


def test_a_barred_client_that_ends_is_forgotten(closed: Bench) -> None:
    client, connection = closed.connect(1)
    client.close()
    closed.until(lambda: connection.closed)
    assert closed.worker.clients.barred._since == {}
    assert closed.worker.uplink.left == []


# Checks that take a while.


def test_others_may_ask_while_proofs_are_checked(closed: Bench) -> None:
    many = [closed.connect(number) for number in range(1, 12)]
    for client, _ in many:
        client.send_raw(JOIN)
    closed.until(lambda: all(connection.asking for _, connection in many))
    first = asked(closed)
    assert len(first) == 8
    for identity in first:
        closed.order(Down.CHECKING, (identity, True))
    assert set(asked(closed)) == {9, 10, 11}
    for identity in range(1, 12):
        let_in(closed, identity)
    assert asked(closed) == []
    for client, connection in many:
        assert heard(closed, client) == [{"welcome": {}}]
        assert connection.reading


def test_a_client_whose_proof_is_checked_is_not_read_from(closed: Bench) -> None:
    client, connection = closed.connect(1)
    client.send_raw(JOIN)
    closed.until(lambda: connection.asking)
    closed.order(Down.CHECKING, (1, True))
    client.send_raw(frame("뒤"))
    closed.turn(6)
    assert not connection.reading
    assert said(closed) == []
    let_in(closed, 1)
    closed.until(lambda: len(said(closed)) > 0)


# Moves.


def moved(source: Bench, destination: Bench, connection: Connection) -> Connection:
    """Let a connection go from one worker to another."""
    state = source.worker.migration.export_state(connection)
    source.socks.remove(connection.sock)
    return destination.take(connection.identity, connection.sock, state)


def test_a_connection_moved_while_its_proof_is_checked_is_read_from_when_it_is_answered_there(
    closed: Bench,
) -> None:
    with worker(**CLOSED) as other:
        client, before = closed.connect(1)
        client.send_raw(JOIN + frame("뒤"))
        closed.until(lambda: before.asking)
        closed.order(Down.CHECKING, (1, True))
        after = moved(closed, other, before)
        assert (after.asking, after.barred) == (True, True)
        client.send_raw(frame("뒤의 뒤"))
        other.turn(6)
        assert not after.reading
        assert said(other) == []
        assert other.worker.migration._followers == [(1, ASIDE, 0)]
        other.worker.clients.end_overdue(time.monotonic() + 1000.0)
        let_in(other, 1)
        other.until(lambda: sum(count for _, count, _ in said(other)) == 2)
        assert heard(other, client) == [{"welcome": {}}]
        assert (after.asking, after.barred) == (False, False)
        assert (closed.worker.clients.barred._since, asked(closed)) == ({}, [])


def test_a_barred_client_is_barred_at_the_next_worker(closed: Bench) -> None:
    with worker(**CLOSED) as other:
        client, before = closed.connect(1)
        after = moved(closed, other, before)
        assert after.barred
        publish(other, "비밀")
        client.send_raw(frame("하나"))
        assert [code(each) for each in heard(other, client)] == ["auth_required"]
        other.worker.clients.end_overdue(time.monotonic() + 31.0)
        assert after.closed


def test_a_barred_client_that_comes_to_a_worker_of_an_open_chat_hears_it_from_there_on(
    closed: Bench, opened: Bench
) -> None:
    publish(opened, "그 전")
    opened.turn()
    client, before = closed.connect(1)
    client.send_raw(frame("하나"))
    assert [code(each) for each in heard(closed, client)] == ["auth_required"]
    after = moved(closed, opened, before)
    assert not after.barred
    publish(opened, "그 뒤")
    assert [each["message"] for each in heard(opened, client)] == ["그 뒤"]
    client.send_raw(frame("둘"))
    opened.until(lambda: bool(said(opened)))


def test_a_plain_client_that_comes_to_a_worker_of_a_closed_chat_hears_nothing_from_there_on(
    closed: Bench, opened: Bench
) -> None:
    client, before = opened.connect(1)
    client.send_raw(frame("하나"))
    publish(opened, "하나")
    assert [each["message"] for each in heard(opened, client)] == ["하나"]
    closed.order(Down.FILL, (1, frame("하나")))
    after = moved(opened, closed, before)
    assert after.barred
    publish(closed, "비밀")
    assert heard(closed, client) == []
    client.send_raw(frame("둘"))
    assert [code(each) for each in heard(closed, client)] == ["auth_required"]


@pytest.mark.parametrize("came", [False, True], ids=["the rest comes later", "the rest is there"])
def test_a_plain_client_in_the_middle_of_a_frame_gets_its_rest_and_no_more(closed: Bench, came: bool) -> None:
    """Half of a frame would make all that follows it unreadable."""
    whole = frame("가" * 2000)
    state = ConnectionState(
        dialect="plain",
        dialect_state=DialectState(),
        room=PLAIN,
        place=Place(1, 100),
        outbox=b"",
        outbox_open=False,
        heard=time.monotonic(),
        half_since=None,
        left_at=time.monotonic(),
        allowance=10.0,
        spoke=True,
    )
    closed.order(Down.FILL, (1, frame("처음")))
    if came:
        closed.order(Down.FILL, (1, whole))
    client, connection = closed.connect(1, state)
    if not came:  # nothing can be sent to it any more: the end comes with what it says next
        publish(closed, "비밀")
        closed.turn(6)
        client.send_raw(frame("하나"))
        assert closed.received_to_the_end(client) == b""
        return
    publish(closed, "비밀")
    closed.turn(6)
    client.send_raw(frame("하나"))
    found = closed.received(client, lambda data: b"auth_required" in data)
    assert found.startswith(whole[100:])
    assert [code(each) for each in objects(found[len(whole) - 100 :])] == ["auth_required"]
    assert connection.barred


def test_a_member_stays_one_where_the_chat_is_closed_by_now(closed: Bench, opened: Bench) -> None:
    """Whether it has shown a proof is the hub's to know."""
    client, before = opened.member(1)
    unread(client)
    after = moved(opened, closed, before)
    assert not after.barred
    client.send_raw(frame("하나"))
    closed.until(lambda: bool(said(closed)))
    assert said(closed)[0][0] == 1


def test_a_request_goes_to_the_hub_with_its_proof_and_is_shown_nowhere_else(
    closed: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    client, connection = closed.connect(1)
    client.send_raw(JOIN)
    closed.until(lambda: connection.asking)
    ((_, _, packed),) = closed.worker.uplink.posts
    request = unpack_request(packed)
    assert request.join is not None
    assert request.join.password == "아주 비밀스러운 것"
    assert "비밀스러운" not in caplog.text + repr(request)
