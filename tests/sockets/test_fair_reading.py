"""Everybody gets a turn before anybody gets a second one, however much a client sends; in one process."""

import gc
import json
from collections import Counter
from collections.abc import Iterator

import pytest
from support.crowd import payloads
from support.harness import Client, frame, raw_frame
from support.one_worker import Bench

from mpchat.hub.members import HISTORY_SIZE
from mpchat.ipc.handoff import Receipt
from mpchat.ipc.items import PLAIN, Down, Up
from mpchat.protocol.messages import message_frame
from mpchat.reactor import READ
from mpchat.worker import budget
from mpchat.worker.budget import ANSWER_COST, BUDGET, BUDGET_RATE, ERROR_COST, HISTORY_COST, REQUEST_COST
from mpchat.worker.connection import Connection
from mpchat.worker.reading import (
    LITTLE,
    OUTBOX_LIMIT,
    READ_LEAST,
    READ_SIZE,
    ROUND_SIZE,
    TURN_WORK,
    UNDER_WAY_OF_MANY,
)

EMPTY = b"\0\0"
# Two errors that are not the same: one after the other, each is answered and none is counted.
OBJECT = raw_frame(b"{}")
WRONG = EMPTY + OBJECT
WHO = raw_frame(b'{"who":{}}')


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def one_round(bench: Bench) -> None:
    """Go once round the worker's loop, as far as it reads."""
    bench.worker.clients.reading.begin_round()
    bench.worker.reactor.turn(0.0)


def errors_in(client_data: bytes) -> int:
    """Count errors, a counted one as often as it came."""
    told = [json.loads(payload)["error"] for payload in payloads(client_data)]
    return sum(error.get("times", 1) for error in told)


def received(client: Client) -> bytes:
    sock = client.sock
    sock.setblocking(False)
    data = b""
    try:
        while piece := sock.recv(1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return data


def test_one_round_takes_a_bounded_number_of_errors_from_a_client(bench: Bench) -> None:
    client, _ = bench.connect(1)
    client.send_raw(WRONG * 5_000)
    bench.until(lambda: bench.worker.clients.reading.busy)
    assert errors_in(received(client)) == TURN_WORK
    one_round(bench)
    assert errors_in(received(client)) == TURN_WORK


def test_a_message_does_not_wait_for_what_others_send_that_is_wrong(bench: Bench) -> None:
    noisy = [bench.connect(number)[0] for number in range(1, 9)]
    for each in noisy:
        each.send_raw(OBJECT * 20_000)
    bench.until(lambda: bench.worker.clients.reading.busy)
    client, _ = bench.connect(20)
    client.say("hello")
    for _ in range(3):
        one_round(bench)
    assert bench.worker.uplink.posts


def test_a_round_takes_bounded_time_and_everybody_has_a_turn_before_anybody_has_two(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [bench.connect(number)[0] for number in range(1, 60)]
    for each in clients:
        each.send_raw(WRONG * 500)
    for connection in bench.worker.clients.by_identity.values():
        connection.light = False
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", 0.0005)
    counts = [0] * len(clients)
    full_rounds = 0
    while min(counts) < 4 * TURN_WORK:
        one_round(bench)
        new = [errors_in(received(each)) for each in clients]
        full_rounds += all(new)
        counts = [before + more for before, more in zip(counts, new, strict=True)]
        assert max(counts) - min(counts) <= 2 * TURN_WORK
    assert not full_rounds, "a round took from everybody, however long that takes"


@pytest.mark.parametrize("light", [True, False])
def test_who_has_had_a_turn_and_says_more_has_the_next_one_after_those_that_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, light: bool
) -> None:
    """Also when the hub can take more again in the middle of a round, behind the turns of the line."""
    reading, room = bench.worker.clients.reading, [0]

    def full(*, light: bool) -> bool:
        room[0] -= 1
        return room[0] < 0

    monkeypatch.setattr(reading, "_full", full)
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", 60.0)
    clients = dict(bench.connect(number) for number in range(1, 5))
    for client, connection in clients.items():
        client.say("hello" if light else "x" * LITTLE)
        connection.light, connection.speaker = light, True
        bench.until(lambda each=connection: not each.reading)  # type: ignore[misc]
    (first, _), *_ = clients.items()
    room[0] = 2  # one is asked about before the round begins
    reading.begin_round()
    assert len(bench.worker.uplink.posts) == 1
    first.say("again" if light else "y" * LITTLE)
    room[0] = 100
    bench.worker.reactor.turn(10.0)
    assert len(bench.worker.uplink.posts) == 1, "three wait"
    reading.begin_round()
    order = [sender for sender, _, _ in bench.worker.uplink.posts]
    assert order == [each.address for each in (*clients.values(), clients[first])]


@pytest.mark.parametrize("light", [True, False])
def test_a_round_leaves_those_alone_whose_turn_does_not_come(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, light: bool
) -> None:
    """Each of a thousand rounds would look at a thousand clients otherwise."""
    for number in range(1, 101):
        client, connection = bench.connect(number)
        client.say("hello")
        connection.light = light
    connections = list(bench.worker.clients.by_identity.values())
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", -1.0)
    bench.until(lambda: not any(each.reading for each in connections))
    posts, touched = bench.worker.uplink.posts, list[Connection]()
    before = len(posts)
    monkeypatch.setattr(Connection, "no_longer", lambda self, *_: touched.append(self))
    bench.worker.clients.reading.begin_round()
    assert len(touched) <= 1
    assert len(posts) - before == 1, "the first has its turn, however late it is"
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", 60.0)
    bench.worker.clients.reading.begin_round()
    assert len(posts) == 100
    served = [bench.worker.clients.by_identity[number].address for number in range(1, 101)]
    assert sorted(post[0] for post in posts) == sorted(served)


def test_however_long_others_take_those_who_send_little_have_their_turns_and_so_have_newcomers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", -1.0)
    clients = [bench.connect(number)[0] for number in range(1, 21)]
    connections = list(bench.worker.clients.by_identity.values())
    for connection in connections[10:]:
        connection.speaker = connection.spoke = True
    for each in clients:
        each.say("hello")
    said = Counter[object]()
    for _ in range(60):
        one_round(bench)
        posts, bench.worker.uplink.posts = bench.worker.uplink.posts, []
        said.update(post[0] for post in posts)
        for each in clients[10:]:  # these never stop
            each.say("hello")
    assert all(said[each.address] for each in connections)


def test_a_client_is_not_served_while_its_request_is_out_although_it_waits_and_gets_an_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the round that serves it, another one's end completes the flush that its answer waits for."""
    monkeypatch.setattr("mpchat.worker.fanout.SLICE", 1)
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", 60.0)
    clients = [bench.connect(number) for number in range(1, 4)]
    for number in (0, 2):
        clients[number][0].say("hello")
    bench.until(lambda: clients[0][1].spoke and clients[2][1].spoke)
    (client, connection), (other, others), _ = clients
    bench.worker.uplink.posts.clear()
    bench.order(Down.BATCH, (1, frame("a flush under way")))
    bench.worker.rooms.work(bench.worker.reactor.now + 1)
    assert not bench.worker.rooms.plain.between_flushes
    client.send_raw(OBJECT * TURN_WORK + raw_frame(b'{"join":{"name":"x"}}') + OBJECT)
    bench.until(lambda: connection.dialect.has_more)
    other.send_raw(b"SSH-2.0-x\r\n")
    others.no_longer(bench.worker.reactor, READ)
    bench.worker.clients.reading._new[others] = None
    for _ in range(3):
        bench.worker.clients.reading.begin_round()
    assert others.closed
    assert connection.asking
    assert not connection.closed
    assert len(bench.worker.uplink.posts) == 1


def test_all_that_was_sent_is_taken_in_the_end_and_in_order(bench: Bench) -> None:
    client, _ = bench.connect(1)
    client.send_raw(b"".join(OBJECT * 20 + frame(f"{number}") for number in range(20)))
    bench.until(lambda: sum(count for _, count, _ in bench.worker.uplink.posts) == 20)
    said = b"".join(frames for _, _, frames in bench.worker.uplink.posts)
    assert [payload["message"] for payload in map(json.loads, payloads(said))] == list(map(str, range(20)))
    bench.until(lambda: not bench.worker.clients.reading.busy)
    assert errors_in(received(client)) == 400


def test_a_client_whose_request_is_with_the_hub_is_not_read_from(bench: Bench) -> None:
    client, connection = bench.member(1)
    client.send_raw(WHO * 5)
    bench.until(lambda: connection.asking)
    asked = len(bench.worker.uplink.posts)
    for _ in range(3):
        one_round(bench)
    assert not connection.reading
    assert len(bench.worker.uplink.posts) == asked
    bench.order(Down.ANSWERED, 1)
    bench.until(lambda: len(bench.worker.uplink.posts) == asked + 1)


def test_a_client_that_does_not_read_its_answers_makes_the_worker_keep_little(bench: Bench) -> None:
    client, connection = bench.connect(1)
    bench.worker.clients.reply(connection, bytes(8 << 20))  # more than the system's buffers take
    connection.outbox = connection.outbox[: OUTBOX_LIMIT - 1]
    client.send_raw(WRONG * 20_000)
    for _ in range(20):
        one_round(bench)
    assert len(connection.outbox) < OUTBOX_LIMIT + TURN_WORK * 100
    assert not connection.reading


def test_errors_nonsense_requests_and_answers_are_charged_and_messages_are_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "BUDGET_RATE", 1e-6)  # nothing is regained meanwhile
    client, connection = bench.member(1)
    connection.budget = before = 100_000.0
    client.send_raw(frame("hello"))
    bench.until(lambda: sum(count for _, count, _ in bench.worker.uplink.posts) == 1)
    assert connection.budget == pytest.approx(before)
    client.send_raw(EMPTY)
    bench.until(lambda: connection.budget < before - 50 * ERROR_COST)
    connection.budget = 10_000.0
    client.send_raw(WHO)
    bench.until(lambda: connection.asking)
    connection.budget = 1000.0
    bench.order(Down.TELL, (1, bytes(8_000)))
    bench.order(Down.ANSWERED, 1)
    assert connection.budget == pytest.approx(1000 - 8_000 * ANSWER_COST)
    assert not connection.reading


def test_a_client_that_reads_history_as_fast_as_it_can_is_served_what_its_budget_pays_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "BUDGET_RATE", 1e-6)  # nothing is regained meanwhile
    client, connection = bench.member(1)
    client.send_raw(raw_frame(b'{"history":{"limit":100}}') * 200)
    answer = frame("x" * (HISTORY_SIZE - 100))
    connection.budget = BUDGET
    served = 0
    while connection.budget >= 0:
        bench.until(lambda: connection.asking)
        bench.order(Down.TELL, (1, answer))
        bench.order(Down.ANSWERED, 1)
        served += 1
        assert len(received(client)) >= HISTORY_SIZE - 100
    assert served == 1 + int(BUDGET / (REQUEST_COST + HISTORY_COST + len(answer) * ANSWER_COST))
    asked = len(bench.worker.uplink.posts)
    for _ in range(3):
        one_round(bench)
    assert (connection.reading, len(bench.worker.uplink.posts)) == (False, asked)


def test_the_more_wait_the_less_is_read_from_each(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = bench.worker.clients.reading
    clients = [bench.connect(number)[0] for number in range(1, 60)]
    for each in clients:
        each.send_raw(message_frame("x" * 100) * 500)
    for connection in bench.worker.clients.by_identity.values():
        connection.light = False
    while bench.worker.uplink.under_way <= UNDER_WAY_OF_MANY:
        one_round(bench)
    assert not reading.busy
    before = len(bench.worker.uplink.posts)
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", 60.0)
    monkeypatch.setattr(type(bench.worker.uplink), "under_way", 0)
    one_round(bench)
    sizes = [len(frames) for _, _, frames in bench.worker.uplink.posts[before:]]
    assert len(sizes) >= 10
    assert max(sizes) <= 2 * READ_LEAST


def test_eight_that_wait_share_a_round_in_long_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, uplink = bench.worker.clients.reading, bench.worker.uplink
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", 60.0)
    monkeypatch.setattr(type(uplink), "under_way", UNDER_WAY_OF_MANY * 10)
    for number in range(1, 9):
        client, connection = bench.connect(number)
        client.send_raw(message_frame("x" * 100) * 500)
        connection.light = False
        bench.until(lambda each=connection: not each.reading)  # type: ignore[misc]
    monkeypatch.setattr(type(uplink), "under_way", 0)
    reading.begin_round()
    sizes = [len(frames) for _, _, frames in uplink.posts]
    assert len(sizes) == 8
    assert READ_SIZE // 4 < min(sizes) <= max(sizes) <= ROUND_SIZE // 8


def test_half_a_frame_is_as_old_as_the_time_that_its_sender_was_read_from(bench: Bench) -> None:
    client, connection = bench.member(1)
    client.send_raw(WHO + b"\0\x05ab")
    bench.until(lambda: connection.asking)
    reading = bench.worker.clients.reading
    bench.until(lambda: connection in reading.half or connection.dialect.mid_frame)
    reading.half[connection] = bench.worker.reactor.now - 1000
    bench.order(Down.ANSWERED, 1)
    assert reading.half[connection] == bench.worker.reactor.now


def test_half_a_frame_of_a_client_that_is_not_read_from_does_not_age(bench: Bench) -> None:
    reading = bench.worker.clients.reading
    client, connection = bench.connect(1)
    client.send_raw(b"\0\x05ab")
    bench.until(lambda: connection in reading.half)
    later = bench.worker.reactor.now + 3600
    assert reading.inside_a_frame(later) == [connection]
    connection.no_longer(bench.worker.reactor, READ)
    assert reading.inside_a_frame(later) == []


# Rooms that are too fast.


def strains_told(bench: Bench) -> list[tuple[int, bool, int]]:
    """Return what the worker has told the hub of rooms since the last call."""
    told = []
    while bench.link.readable:
        told += [item.payload for item in bench.link.receive() if item.kind == Up.STRAINED]
    return told


def test_a_worker_that_cannot_keep_up_with_a_room_says_so_and_says_when_it_can(bench: Bench) -> None:
    bench.connect(1)
    bench.order(Down.BATCH, (1, frame("x" * 1000) * 300))
    bench.worker.downlink.held = 1  # as if it had come over the link
    bench.worker.downlink.work(0.0)
    assert strains_told(bench) == [(PLAIN, True, 0)]
    bench.worker.downlink.work(0.0)
    assert strains_told(bench) == [], "nothing has changed"
    bench.worker.rooms.plain.complete(0.0, pending=True)
    bench.worker.downlink.work(0.0)
    assert strains_told(bench) == [(PLAIN, False, 0)]


def test_clients_that_cannot_keep_up_with_their_room_do_not_keep_the_hub_waiting() -> None:
    bench = Bench(lag_limit=1 << 20)
    try:
        slow = [bench.connect(number)[1] for number in range(1, 4)]
        downlink, plain = bench.worker.downlink, bench.worker.rooms.plain
        while not all(plain.owed_size(each) > 900 << 10 for each in slow):
            bench.order(Down.BATCH, (1, frame("x" * 10_000)))
            plain.complete(bench.worker.reactor.now, pending=True)
        downlink.held = 1  # as if it had come over the link
        downlink.work(bench.worker.reactor.now)
        assert strains_told(bench) == [(PLAIN, False, 3)]
        assert downlink.held == 0, "the hub waits, and with it everybody in other rooms"
    finally:
        bench.close()


def test_who_speaks_in_a_room_that_is_held_waits_and_nobody_else_does(bench: Bench) -> None:
    speaker, speaking = bench.connect(1)
    member, elsewhere = bench.member(2)
    speaker.say("before")
    bench.until(lambda: speaking.spoke)
    bench.order(Down.HOLD, (PLAIN, True))
    speaker.say("meanwhile")
    member.say("in another room")
    newcomer, fresh = bench.connect(3)
    newcomer.send_raw(raw_frame(b'{"join":{"name":"y"}}'))
    bench.until(lambda: elsewhere.spoke and fresh.asking and not speaking.reading)
    posted = b"".join(frames for _, _, frames in bench.worker.uplink.posts)
    assert b"in another room" in posted
    assert b"meanwhile" not in posted
    bench.order(Down.HOLD, (PLAIN, False))
    bench.until(lambda: b"meanwhile" in b"".join(frames for _, _, frames in bench.worker.uplink.posts))


def test_a_newcomer_in_a_room_that_is_held_is_not_read_far(bench: Bench) -> None:
    bench.order(Down.HOLD, (PLAIN, True))
    client, connection = bench.connect(1)
    client.send_raw(frame("x" * 30_000))
    bench.until(lambda: not connection.reading)
    assert not bench.worker.uplink.posts
    assert connection.dialect.held == LITTLE
    bench.order(Down.HOLD, (PLAIN, False))
    bench.until(lambda: bool(bench.worker.uplink.posts))


def test_a_client_that_waits_in_a_held_room_can_go_and_can_be_moved(bench: Bench) -> None:
    for number, leave in ((1, bench.worker.clients.reading.forget), (2, bench.worker.clients.reading.stop)):
        client, connection = bench.connect(number)
        client.say("before")
        bench.until(lambda each=connection: each.spoke)  # type: ignore[misc]
        bench.order(Down.HOLD, (PLAIN, True))
        client.say("meanwhile")
        bench.until(lambda each=connection: not each.reading)  # type: ignore[misc]
        leave(connection)
        bench.order(Down.HOLD, (PLAIN, False))
        assert not connection.reading


def test_who_sends_little_is_read_before_who_sends_much(bench: Bench) -> None:
    client, light = bench.connect(50)
    for number in range(1, 40):
        sender, heavy = bench.connect(number)
        sender.send_raw(frame("x" * 50_000) * 4)
        heavy.light = False
    while bench.worker.uplink.under_way <= UNDER_WAY_OF_MANY:
        one_round(bench)
    bench.worker.uplink.posts_size = UNDER_WAY_OF_MANY + 1  # the hub has taken some of it
    posted = len(bench.worker.uplink.posts)
    client.say("hello")
    for _ in range(2):
        one_round(bench)
    assert light.spoke
    assert len(bench.worker.uplink.posts) == posted + 1, "those who send much still wait"


def test_who_sends_much_has_a_turn_in_every_round(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", -1.0)  # time is always up
    client, connection = bench.connect(1)
    client.send_raw(WRONG * 1000)
    connection.light = False
    one_round(bench)
    assert not errors_in(received(client))
    one_round(bench)
    assert errors_in(received(client)) == TURN_WORK


# Clients that have gone.


def connections_in_memory() -> int:
    return sum(isinstance(each, Connection) for each in gc.get_objects())


def test_of_a_client_that_has_gone_nothing_is_kept_not_even_until_it_might_have_said_more(
    bench: Bench,
) -> None:
    """What it had sent was kept until the collector looked at old objects, or its time to wait was over."""
    gc.collect()
    before = connections_in_memory()
    gc.disable()
    try:
        for number in range(1, 6):
            bench.connect(number)[0].send_raw(OBJECT * 50_000)
        bench.until(lambda: all(each.quiet_until for each in bench.worker.clients.by_identity.values()))
        assert connections_in_memory() == before + 5
        for each in list(bench.worker.clients.by_identity.values())[:4]:
            bench.worker.clients.end(each, "test")
        state = bench.worker.migration.export_state(each := bench.worker.clients.by_identity[5])
        bench.worker.migration._in_transit[5] = each, state
        bench.worker.migration.take_receipt(Receipt(acks=[5]))
        del each, state
        assert connections_in_memory() == before
    finally:
        gc.enable()


# The same error again and again.


def told_of_errors(data: bytes) -> list[int]:
    """Return how many errors each frame stands for."""
    return [json.loads(payload)["error"].get("times", 1) for payload in payloads(data)]


def test_a_client_that_is_to_be_moved_is_told_first_how_often_its_error_came(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(OBJECT * 1000)
    bench.until(lambda: connection.dialect.has_more)
    assert told_of_errors(received(client)) == [1]
    bench.worker.clients.reading.stop(connection)
    state = bench.worker.migration.export_state(connection)
    assert told_of_errors(received(client) + state.outbox) == [TURN_WORK - 1]
    bench.take(1, connection.sock, state)
    bench.until(lambda: not bench.worker.clients.by_identity[1].dialect.has_more)
    assert errors_in(received(client)) == 1000 - TURN_WORK


def test_a_client_is_told_how_often_its_error_came_before_it_waits_for_long(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(OBJECT * 1000)
    connection.budget = -0.5 * BUDGET_RATE  # it is paused for half a second
    bench.until(lambda: bool(connection.quiet_until))
    assert told_of_errors(received(client)) == [1]
    connection.budget = -1.5 * BUDGET_RATE
    reading = bench.worker.clients.reading
    connection.quiet_until = 0.0
    reading.read_again(connection)
    bench.until(lambda: bool(connection.quiet_until))
    assert told_of_errors(received(client)) == [2 * TURN_WORK - 1]


def test_a_client_in_a_room_that_is_held_is_told_how_often_its_error_came(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.say("before")
    bench.until(lambda: connection.spoke)
    client.send_raw(OBJECT * 1000)
    bench.until(lambda: connection.dialect.has_more)
    bench.order(Down.HOLD, (PLAIN, True))
    one_round(bench)
    assert told_of_errors(received(client)) == [1, TURN_WORK - 1]


def test_a_client_of_a_worker_that_drains_is_told_how_often_its_error_came(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(OBJECT * 1000)
    bench.until(lambda: connection.dialect.has_more)
    bench.order(Down.DRAIN, None)
    assert told_of_errors(received(client)) == [1, TURN_WORK - 1]


def test_an_error_that_is_counted_is_charged_like_one_that_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "BUDGET_RATE", 1e-6)  # nothing is regained meanwhile
    client, connection = bench.connect(1)

    def cost(sent: bytes, answers: list[int]) -> float:
        connection.budget = 100_000.0
        client.send_raw(sent)
        data = b""

        def answered() -> bool:
            nonlocal data
            data += received(client)
            return told_of_errors(data) == answers

        bench.until(answered)
        return 100_000.0 - connection.budget

    one = cost(OBJECT, [1])
    assert one > 50 * ERROR_COST
    assert 100 * one <= cost(OBJECT * 100, [1, 99]) <= 101 * one


def test_zeros_behind_a_message_cost_little_although_each_two_are_an_error(bench: Bench) -> None:
    client, connection = bench.connect(1)
    for number in range(50):
        client.send_raw(frame(f"padded {number:3}").ljust(1024, b"\0"))
        bench.until(lambda: not bench.worker.uplink.posts)
    bench.until(lambda: connection.spoke and not connection.dialect.has_more)
    assert connection.budget > BUDGET / 2
