"""WebSocket clients at a worker: what they say and hear, how they end, and how they move."""

import json
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.harness import raw_frame
from support.one_worker import ROOM, Bench, unread
from support.websocket_peer import (
    HANDSHAKE,
    Browser,
    Event,
    close,
    close_event,
    cut,
    fragments,
    masked,
    ping,
    posted,
    text,
)

from mpchat.ipc.items import PLAIN, Down
from mpchat.protocol import mask
from mpchat.protocol.websocket_decoder import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT
from mpchat.protocol.websocket_dialect import WebSocketDialect
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING
from mpchat.reactor import READ
from mpchat.worker import budget
from mpchat.worker.reading import OUTBOX_LIMIT, TURN_WORK

HELLO = b'{"message":"hello"}'
CODE = "code"


@contextmanager
def workers(count: int, **changed: object) -> Iterator[list[Bench]]:
    made = [Bench(listen_grace=60.0, **changed) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:  # a socket may have been moved from one to another
            each.worker.clients.lingering.close()
        for each in made:
            each.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with workers(1) as (made,):
        yield made


@pytest.fixture
def two() -> Iterator[list[Bench]]:
    with workers(2) as made:
        yield made


def publish(benches: Sequence[Bench], *payloads: bytes) -> None:
    """Say something in the room of plain clients."""
    for bench in benches:
        bench.order(Down.BATCH, (len(payloads), b"".join(map(raw_frame, payloads))))
        bench.turn()


def texts(*payloads: bytes) -> list[Event]:
    return [(TEXT, each) for each in payloads]


def errors(events: list[Event]) -> list[tuple[str, int]]:
    """Return the codes of errors, and how often each came."""
    told = [json.loads(payload)["error"] for _, payload in events]
    return [(error[CODE], error.get("times", 1)) for error in told]


def long(number: int) -> bytes:
    """Return a message of which a few fill the sockets of a client that does not read."""
    return b"%d" % number + b"x" * (50_000 + 777 * number)


def stand_still(browser: Browser) -> None:
    """Wait until a client that does not read is inside a frame, and nothing moves towards it any more."""
    for _ in range(100):
        before, since = -1, time.monotonic()
        while before != browser.connection.cursor or time.monotonic() - since < 0.05:
            if before != browser.connection.cursor:
                before, since = browser.connection.cursor, time.monotonic()
            browser.bench.turn()
        if browser.connection.fanout.rest_of_frame(browser.connection):
            return
        # The sockets were full at the end of a frame, by chance.
        browser.data += browser.client.sock.recv(10_000)
    raise AssertionError("it is never inside a frame")


def make_late(benches: Sequence[Bench], browser: Browser) -> list[bytes]:
    """Say so much that a client that does not read stands inside a frame; returns what was said."""
    said = [long(number) for number in range(12)]
    for each in said:
        publish(benches, each)
    stand_still(browser)
    return said


# The handshake.


def test_frames_that_come_with_the_handshake_count_however_they_are_cut(bench: Bench) -> None:
    behind = text(HELLO) + ping(b"!")
    sent = HANDSHAKE + behind
    cuts = [*range(1, len(HANDSHAKE) - 4, 9), *range(len(HANDSHAKE) - 4, len(sent))]
    for number, place in enumerate(cuts, 1):
        client, connection = bench.connect(number)
        client.send_raw(sent[:place])
        bench.turn()
        client.send_raw(sent[place:])
        data = bench.received(client, lambda data: data.endswith(b"!"))
        assert cut(data.partition(b"\r\n\r\n")[2]) == ([(PONG, b"!")], b"")
        assert posted([bench]) == [HELLO]
        bench.worker.clients.end(connection, "test")
    client, _ = bench.connect(1000)
    for byte in sent:
        client.send_raw(bytes((byte,)))
        bench.turn(1)
    bench.received(client, lambda data: data.endswith(b"!"))
    assert posted([bench]) == [HELLO]


def test_a_client_hears_what_is_said_from_its_handshake_on(bench: Bench) -> None:
    publish([bench], b"before")
    browser = Browser(bench, 1)
    publish([bench], b"after")
    assert browser.take(1) == texts(b"after")


def test_a_handshake_behind_other_requests_comes_behind_their_answers(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + HANDSHAKE + text(HELLO))
    data = bench.received(client, lambda data: b" 101 " in data)
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.index(b"loop turns") < data.index(b" 101 ")
    bench.until(lambda: connection.spoke)


def test_bytes_of_another_protocol_behind_the_handshake_break_this_one(bench: Bench) -> None:
    browser = Browser(bench, 1)
    browser.send(b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n")
    ((opcode, payload),) = browser.take_to_the_end()
    assert (opcode, payload[:2]) == (CLOSE, (1002).to_bytes(2))


# Messages of such clients, and to them.


def test_plain_and_websocket_clients_are_in_one_order(bench: Bench) -> None:
    plain, _ = bench.connect(1)
    plain.send_raw(raw_frame(HELLO))
    bench.until(lambda: bool(posted([bench])))
    browser = Browser(bench, 2)
    order: list[bytes] = []
    for size in (0, 1, 112, 113, 114, 300, 59_000):
        payload = json.dumps({"message": "x" * size}, separators=(",", ":")).encode()
        for plainly in (True, False):
            if plainly:
                plain.send_raw(raw_frame(payload))
            else:
                browser.send(text(payload))
            bench.until(lambda: bool(bench.worker.uplink.posts))
            (said,) = posted([bench])
            order.append(said)
            publish([bench], said)
    assert browser.take(len(order)) == texts(*order)
    frames = b"".join(map(raw_frame, order))
    assert bench.received(plain, lambda data: len(data) >= len(frames)) == frames
    assert bench.worker.counters.delivered == 2 * len(order)


def test_a_member_reads_its_room_and_gets_what_is_for_it_alone(bench: Bench) -> None:
    plain, _ = bench.member(1)
    browser = Browser(bench, 2)
    publish([bench], b"for plain clients")
    browser.send(text(b'{"join":{"name":"y"}}'))
    assert browser.connection.dialect.asked
    bench.order(Down.ENTER, ((2, ROOM, 0, True), raw_frame(b"welcome")))
    bench.order(Down.ANSWERED, 2)
    publish([bench], b"not for members")
    assert browser.take(2) == texts(b"for plain clients", b"welcome")
    bench.order(Down.TELL, (2, raw_frame(b"secret")))
    bench.order(Down.ROOMS, ([(ROOM, 2, 205)], raw_frame(b"one") + raw_frame(b"2" * 198)))
    assert browser.take(3) == texts(b"secret", b"one", b"2" * 198)
    assert bench.received(plain, lambda data: len(data) >= 205) == raw_frame(b"one") + raw_frame(b"2" * 198)
    assert WEBSOCKET_FRAMING in bench.worker.rooms.by_number[ROOM]
    browser.send(close(1000))
    assert browser.take_to_the_end() == [close_event(1000, "")]
    assert WEBSOCKET_FRAMING not in bench.worker.rooms.by_number[ROOM]


def test_what_is_wrong_is_told_and_the_same_again_is_counted(bench: Bench) -> None:
    browser = Browser(bench, 1)
    browser.send(text(b"junk") + text(b"{}") * 5)
    assert errors(browser.take(3)) == [("not_json", 1), ("not_a_message", 1), ("not_a_message", 4)]
    browser.send(text(b"{}") * (TURN_WORK * 3))
    told = errors(bench_errors(browser, TURN_WORK * 3))
    assert len(told) < TURN_WORK
    assert not browser.connection.closed


def bench_errors(browser: Browser, count: int) -> list[Event]:
    """Return the frames that tell of so many errors."""

    def told(data: bytes) -> bool:
        return sum(times for _, times in errors(cut(data)[0])) >= count

    return cut(browser.bench.received(browser.client, told))[0]


def test_empty_messages_pings_and_fragments_are_paid_for_also_between_messages(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "BUDGET_RATE", 1e-6)  # nothing is regained meanwhile
    browser = Browser(bench, 1)
    for sent in (text(b""), ping(b"x"), fragments(TEXT, b"", HELLO)):
        for between in (b"", text(HELLO)):
            browser.connection.budget = 100_000.0
            browser.send(between + sent)
            assert browser.connection.budget < 100_000.0
    browser.send(text(HELLO))


# Ends.


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (close(1000, b"bye"), close_event(1000, "bye")),
        (close(3001), close_event(3001, "")),
        (masked(FIN | CLOSE), (CLOSE, b"")),
        (close(1001) + text(b'{"message":"behind it"}') + ping(), close_event(1001, "")),
    ],
)
def test_a_close_is_answered_with_its_code_and_then_comes_the_end(
    bench: Bench, sent: bytes, answer: Event
) -> None:
    browser = Browser(bench, 1)
    browser.send(text(HELLO) + ping(b"before") + sent)
    assert browser.take_to_the_end() == [(PONG, b"before"), answer]
    assert posted([bench]) == [HELLO]
    assert browser.connection.closed
    assert bench.worker.uplink.left == [browser.connection.address]
    assert bench.worker.counters.ended["closed"] == 1


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x00", 1002),
        (masked(FIN | CONTINUATION, b"x"), 1002),
        (masked(FIN | 3), 1002),
        (close(1005), 1002),
        (text(b"\xff"), 1007),
        (fragments(TEXT, b"\xed\x95", b"x"), 1007),
        (text(b"x" * 60_001), 1009),
        (fragments(BINARY, b"x" * 60_000, b"x"), 1009),
        (text(b"x" * 700_000), 1009),
    ],
)
def test_what_breaks_the_protocol_is_told_by_a_code_and_then_comes_the_end(
    bench: Bench, sent: bytes, code: int
) -> None:
    browser = Browser(bench, 1)
    sender = threading.Thread(target=browser.client.sock.sendall, args=(text(HELLO) + sent,))
    sender.start()
    bench.until(lambda: not sender.is_alive() and browser.connection.closed)
    sender.join()
    ((opcode, payload),) = browser.take_to_the_end()
    assert (opcode, payload[:2]) == (CLOSE, code.to_bytes(2))
    assert posted([bench]) == [HELLO]


def test_a_client_that_ends_its_stream_without_a_word_is_ended(bench: Bench) -> None:
    browser = Browser(bench, 1)
    browser.client.close()
    bench.until(lambda: browser.connection.closed)
    assert bench.worker.clients.websockets._pinged == {}


@pytest.mark.parametrize("member", [False, True])
def test_a_kicked_client_is_told_so(bench: Bench, *, member: bool) -> None:
    browser = Browser(bench, 1)
    if member:
        browser.send(text(b'{"join":{"name":"y"}}'))
    assert bench.worker.clients.kick(browser.connection.address) == 1
    *events, last = browser.take_to_the_end()
    assert last == close_event(1008, "kicked")
    assert [code for code, _ in errors(events)] == ["kicked"] * member


def test_a_browser_that_comes_is_given_nothing_of_what_was_said_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make frames for it of all that is kept would take the worker a second."""
    encoded: list[int] = []
    encode = WEBSOCKET_FRAMING.encode

    def note(_: object, frames: bytes) -> bytes:
        encoded.append(len(frames))
        return encode(frames)

    monkeypatch.setattr(type(WEBSOCKET_FRAMING), "encode", note)
    for _ in range(100):
        bench.order(Down.BATCH, (1, raw_frame(HELLO)))
        bench.turn(1)
    for number in (1, 2):
        browser = Browser(bench, number)
        bench.turn()
        assert sum(encoded) == 0
        fanout = bench.worker.rooms._plain_too[WEBSOCKET_FRAMING]
        assert fanout.stream.size == 0
        bench.worker.clients.end(browser.connection, "gone")
    browser = Browser(bench, 3)
    bench.order(Down.BATCH, (1, raw_frame(HELLO)))
    assert browser.take(1) == [(TEXT, HELLO)]
    bench.turn()
    assert bench.worker.rooms._plain_too[WEBSOCKET_FRAMING].stream.size == 0, "nobody needs it any more"


@pytest.mark.parametrize("begun", [b"", close(1000)], ids=["reset", "closed and reset"])
def test_a_client_that_is_reset_behind_its_close_frame_ends_at_once(bench: Bench, begun: bytes) -> None:
    browser = Browser(bench, 1)
    browser.client.send_raw(begun)
    browser.client.reset()
    bench.until(lambda: browser.connection.closed)


def test_a_client_that_is_kicked_while_a_message_goes_out_gets_it_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpchat.worker.fanout.SLICE", 1)
    browsers = [Browser(bench, number) for number in range(1, 5)]
    bench.order(Down.BATCH, (1, raw_frame(HELLO)))
    fanout = bench.worker.rooms._plain_too[WEBSOCKET_FRAMING]
    fanout.work(bench.worker.reactor.now + 1)
    assert not fanout.between_flushes
    for each in browsers:
        bench.worker.clients.kick(each.connection.address)
    assert [each.take_to_the_end() for each in browsers] == [[(TEXT, HELLO), close_event(1008, "kicked")]] * 4


def test_a_client_that_the_hub_ends_while_a_message_goes_out_is_told_why(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpchat.worker.fanout.SLICE", 1)
    browsers = [Browser(bench, number) for number in range(1, 4)]
    for number, each in enumerate(browsers, 1):
        each.send(text(b'{"join":{"name":"y"}}'))
        bench.order(Down.ENTER, ((number, ROOM, 0, True), b""))
        bench.order(Down.ANSWERED, number)
    bench.turn()
    bench.order(Down.ROOMS, ([(ROOM, 1, len(HELLO) + 2)], raw_frame(HELLO)))
    fanout = bench.worker.rooms.fanout_of(browsers[0].connection)
    fanout.work(bench.worker.reactor.now + 1)
    assert not fanout.between_flushes
    why = b'{"error":{"code":"taken_over","text":""}}'
    for number in range(1, 4):
        bench.order(Down.TELL, (number, raw_frame(why)))
        bench.order(Down.END, (number, "taken over"))
    told = [(TEXT, HELLO), (TEXT, why), close_event(1008, "taken over")]
    assert [each.take_to_the_end() for each in browsers] == [told] * 3


@pytest.mark.parametrize(("last", "code"), [(close(1000), 1000), (b"\xff\xff", 1002)])
def test_a_member_that_closes_in_the_middle_of_a_rooms_past_is_ended_at_once(
    bench: Bench, last: bytes, code: int
) -> None:
    browser = Browser(bench, 1)
    browser.send(text(b'{"join":{"name":"y"}}'))
    bench.order(Down.ENTER, ((1, ROOM, 0, False), raw_frame(HELLO)))
    bench.order(Down.ANSWERED, 1)
    browser.send(last)
    kind, payload = browser.take_to_the_end()[-1]
    assert (kind, payload[:2]) == (CLOSE, code.to_bytes(2))
    assert browser.connection.closed


def test_a_client_that_does_not_read_its_pongs_is_not_read_from(bench: Bench) -> None:
    browser = Browser(bench, 1)
    connection, reading = browser.connection, bench.worker.clients.reading
    with suppress(BlockingIOError):
        while True:
            connection.sock.send(masked(FIN | PONG) * 30_000)
    asked = ping(b"p" * 125)
    for _ in range(OUTBOX_LIMIT // 125):
        if connection.reading:
            connection.budget = float(budget.BUDGET)  # as time gives it back
            reading._take(connection, asked)
    assert not connection.reading
    assert len(connection.outbox) < OUTBOX_LIMIT + len(asked)


def test_a_stop_is_told_after_the_farewell(bench: Bench) -> None:
    browser, member = Browser(bench, 1), Browser(bench, 2)
    member.send(text(b'{"join":{"name":"y"}}'))
    bench.order(Down.ENTER, ((2, ROOM, 0, True), b""))
    bench.order(Down.DRAIN, None)
    publish([bench], b"farewell")
    bench.order(Down.ROOMS, ([(ROOM, 1, 10)], raw_frame(b"farewell")))
    bench.turn()
    for each in (browser, member):
        each.client.sock.shutdown(1)  # it closes as soon as it is told so
    assert bench.worker.rooms.all_sent
    bench.worker._close_when_done(bench.worker.reactor.now, time.monotonic() + 60)
    for each in (browser, member):
        events, _ = cut(unread(each.client))
        assert events == [(TEXT, b"farewell"), close_event(1001, "the server is stopping")]


def test_a_failure_of_the_server_is_told_as_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> bytes:
        raise RuntimeError("a bug")

    browser, other = Browser(bench, 1), Browser(bench, 2)
    with monkeypatch.context() as patch:
        patch.setattr(WebSocketDialect, "receive_data", fail)
        browser.send(text(HELLO))
    assert browser.take_to_the_end() == [close_event(1011, "internal error")]
    other.send(text(HELLO))
    assert posted([bench]) == [HELLO]


# Clients that are late.


def assert_cut_off(browser: Browser, said: list[bytes]) -> None:
    """Assert that a client was sent the messages, as far as it came, and no other byte."""
    events, rest = browser.take_to_any_end()
    assert len(events) < len(said)
    assert events == texts(*said[: len(events)])
    assert WEBSOCKET_FRAMING.encode(raw_frame(said[len(events)])).startswith(rest)


def test_a_late_client_that_is_kicked_gets_no_close_frame_inside_another_one(bench: Bench) -> None:
    browser = Browser(bench, 1, cramped=True)
    said = make_late([bench], browser)
    while not select.select([], [browser.connection.sock], [], 0)[
        1
    ]:  # it reads, and the worker does not know
        browser.data += unread(browser.client)
    bench.worker.clients.kick(browser.connection.address)
    assert_cut_off(browser, said)


def test_a_slow_consumer_is_cut_off_between_no_bytes_but_those_of_messages() -> None:
    with workers(1, lag_limit=100_000) as (bench,):
        browser = Browser(bench, 1, cramped=True)
        said: list[bytes] = []
        while not browser.connection.closed:
            said.append(long(len(said)))
            publish([bench], said[-1])
        assert bench.worker.counters.ended["slow consumer"] == 1
        assert_cut_off(browser, said)


def test_a_client_whose_unread_answers_are_too_many_is_cut_off_alike(bench: Bench) -> None:
    browser = Browser(bench, 1, cramped=True)
    said = make_late([bench], browser)
    bench.worker.clients.outboxes.limit = 10_000
    browser.send(text(b"{}") + text(b"junk"))
    bench.order(Down.TELL, (1, raw_frame(b"z" * 20_000)))
    assert browser.connection.closed
    assert bench.worker.counters.ended["answers not read"] == 1
    assert_cut_off(browser, said)


def test_a_late_client_that_closes_gets_the_frame_that_it_is_in_and_the_answer(bench: Bench) -> None:
    browser = Browser(bench, 1, cramped=True)
    said = make_late([bench], browser)
    publish([bench], *[b"more"] * 10)
    browser.send(ping(b"!") + close(1000, b"bye"))
    publish([bench], *[b"after the end"] * 10)
    *events, pong, last = browser.take_to_the_end()
    assert (pong, last) == ((PONG, b"!"), close_event(1000, "bye"))
    assert events == texts(*said[: len(events)])
    assert browser.connection.closed
    assert (bench.worker.counters.late, bench.worker.clients.outboxes.held) == (0, 0)


def test_a_member_that_has_closed_enters_no_room_and_is_told_nothing_more(bench: Bench) -> None:
    browser = Browser(bench, 1, cramped=True)
    browser.send(text(b'{"join":{"name":"y"}}'))
    bench.order(Down.ANSWERED, 1)
    make_late([bench], browser)
    browser.send(close(1000))
    assert not browser.connection.closed
    bench.order(Down.ENTER, ((1, ROOM, 0, True), raw_frame(b"welcome")))
    bench.order(Down.TELL, (1, raw_frame(b"secret")))
    bench.order(Down.ROOMS, ([(ROOM, 1, 5)], raw_frame(b"one")))
    events = browser.take_to_the_end()
    assert events[-1] == close_event(1000, "")
    assert {payload[-4:] for _, payload in events[:-1]} == {b"xxxx"}


def test_a_client_that_closes_and_does_not_read_is_not_waited_for(bench: Bench) -> None:
    browser = Browser(bench, 1, cramped=True)
    make_late([bench], browser)
    browser.send(close(1000))
    assert not browser.connection.closed
    bench.worker.clients.end_overdue(bench.worker.reactor.now + 31)
    assert browser.connection.closed


# Silence. Instead of the clock the past is moved.


def silent_for(browser: Browser, seconds: float) -> None:
    """Let so much time pass, and the worker look at it."""
    browser.connection.heard -= seconds
    pinged = browser.bench.worker.clients.websockets._pinged
    pinged[browser.connection] -= seconds if pinged[browser.connection] else 0.0
    browser.bench.worker.clients.end_overdue(browser.bench.worker.reactor.now)


def test_a_silent_client_is_pinged_and_one_that_does_not_answer_is_ended(bench: Bench) -> None:
    browser = Browser(bench, 1)
    silent_for(browser, 59)
    assert unread(browser.client) == b""
    silent_for(browser, 2)
    assert browser.take(1) == [(PING, b"")]
    silent_for(browser, 59)
    assert unread(browser.client) == b""
    silent_for(browser, 2)
    assert browser.take_to_the_end() == [close_event(1008, "no pong")]
    assert bench.worker.counters.ended["no pong"] == 1


def test_a_client_that_answers_pings_stays(bench: Bench) -> None:
    browser = Browser(bench, 1)
    for _ in range(3):
        silent_for(browser, 61)
        assert browser.take(1) == [(PING, b"")]
        browser.send(masked(FIN | PONG))
        silent_for(browser, 1)
    assert not browser.connection.closed


def test_no_client_is_pinged_without_keepalive() -> None:
    with workers(1, keepalive=0.0) as (bench,):
        browser = Browser(bench, 1)
        silent_for(browser, 1e6)
        assert unread(browser.client) == b""


def test_a_client_that_is_not_read_from_is_not_missed(bench: Bench) -> None:
    browser = Browser(bench, 1)
    silent_for(browser, 61)
    browser.take(1)
    browser.connection.no_longer(bench.worker.reactor, READ)
    browser.client.send_raw(masked(FIN | PONG))
    for _ in range(3):
        silent_for(browser, 61)
    browser.connection.also(bench.worker.reactor, READ)
    silent_for(browser, 0)
    assert not browser.connection.closed
    bench.turn()
    silent_for(browser, 59)
    assert not browser.connection.closed


def test_a_client_that_must_wait_for_its_allowance_is_not_missed(bench: Bench) -> None:
    browser = Browser(bench, 1)
    browser.connection.quiet_until = bench.worker.reactor.now - 30
    silent_for(browser, 80)
    assert unread(browser.client) == b""


def test_a_late_client_is_not_missed_for_a_ping_that_it_was_not_sent(bench: Bench) -> None:
    browser = Browser(bench, 1, cramped=True)
    said = make_late([bench], browser)
    for _ in range(3):
        silent_for(browser, 61)
    assert not browser.connection.closed
    assert browser.take(len(said)) == texts(*said)
    silent_for(browser, 61)
    assert browser.take(1) == [(PING, b"")]


def test_a_client_is_pinged_where_it_was_moved_to(two: list[Bench]) -> None:
    browser = Browser(two[0], 1)
    silent_for(browser, 61)
    browser.take(1)
    browser.move(two[1])
    silent_for(browser, 1)
    assert browser.take(1) == [(PING, b"")]
    silent_for(browser, 61)
    assert browser.take_to_the_end() == [close_event(1008, "no pong")]
    assert two[0].worker.clients.websockets._pinged == {}


# Moves.

IN_FRAGMENTS = fragments(TEXT, b'{"mess', b'age":"\xec\x95', b'\x88"}', between=ping(b"!"))


@pytest.mark.parametrize(
    ("sent", "said", "answers"),
    [(text(HELLO), HELLO, set()), (IN_FRAGMENTS, '{"message":"안"}'.encode(), {(PONG, b"!")})],
    ids=["whole", "in fragments"],
)
def test_a_client_is_moved_anywhere_in_a_message(
    two: list[Bench], sent: bytes, said: bytes, answers: set[Event]
) -> None:
    browser = Browser(two[0], 1)
    for place in range(1, len(sent)):
        browser.send(sent[:place])
        browser.move(two[place % 2])
        browser.send(sent[place:])
        assert posted(two) == [said]
        assert set(browser.take_all()) == answers


def test_a_client_is_moved_with_a_part_of_a_frame_and_the_pong_behind_it(two: list[Bench]) -> None:
    publish(two, b"before")
    browser = Browser(two[0], 1, cramped=True)
    said = make_late(two, browser)
    browser.send(ping(b"!"))
    state = browser.move(two[1])
    assert (state.room, state.outbox) == (PLAIN, b"\x8a\x01!")
    assert state.place.byte > 0
    assert browser.take(len(said) + 1) == [*texts(*said), (PONG, b"!")]
    publish(two, b"after")
    assert browser.take(1) == texts(b"after")
    assert two[0].worker.counters.delivered + two[1].worker.counters.delivered == len(said) + 1


def test_a_client_is_moved_in_the_middle_of_a_close_handshake(two: list[Bench]) -> None:
    browser = Browser(two[0], 1, cramped=True)
    said = make_late(two, browser)
    browser.send(text(HELLO) + close(3002, b"bye"))
    state = browser.move(two[1])
    assert state.half_closed
    publish(two, b"after the end")
    two[1].order(Down.ECHOED, [1])
    two[1].worker.clients.half_closed.work()
    *events, last = browser.take_to_the_end()
    assert last == close_event(3002, "bye")
    assert events == texts(*said[: len(events)])
    assert posted(two) == [HELLO]


def test_a_close_that_overtakes_the_rest_of_a_frame_is_not_answered_inside_it(two: list[Bench]) -> None:
    publish(two, b"before")
    browser = Browser(two[0], 1, cramped=True)
    said = make_late(two[:1], browser)
    state = browser.move(two[1])
    assert state.place.byte > 0
    browser.send(ping(b"!") + close(1000))
    two[1].turn()
    assert browser.connection.closed
    assert_cut_off(browser, said)


def test_a_member_is_moved_in_the_middle_of_a_replay(two: list[Bench]) -> None:
    browser = Browser(two[0], 1, cramped=True)
    browser.send(text(b'{"join":{"name":"y"}}'))
    past = [b"%d" % number + b"p" * 7000 for number in range(60)]
    two[0].order(Down.ENTER, ((1, ROOM, 0, False), b"".join(map(raw_frame, past))))
    two[0].order(Down.ANSWERED, 1)
    two[0].turn()
    assert browser.connection.replaying
    state = browser.move(two[1])
    assert state.outbox_open
    assert state.dialect_state.asked
    two[1].order(Down.ENTER, ((1, ROOM, 0, True), raw_frame(b"the rest")))
    two[1].order(Down.ROOMS, ([(ROOM, 1, 5)], raw_frame(b"one")))
    assert browser.take(len(past) + 2) == texts(*past, b"the rest", b"one")


def test_a_moved_member_gets_a_part_of_a_frame_of_its_room_first(two: list[Bench]) -> None:
    browser = Browser(two[0], 1, cramped=True)
    browser.send(text(b'{"join":{"name":"y"}}'))
    two[0].order(Down.ENTER, ((1, ROOM, 0, True), b""))
    two[0].order(Down.ANSWERED, 1)
    said = [long(number) for number in range(12)]
    for each in said:
        two[0].order(Down.ROOMS, ([(ROOM, 1, len(each) + 2)], raw_frame(each)))
        two[0].turn()
    stand_still(browser)
    state = browser.move(two[1])
    two[1].order(Down.TELL, (1, raw_frame(b"secret")))
    two[1].order(
        Down.ENTER,
        ((1, ROOM, len(said), True), b"".join(map(raw_frame, said[state.place.number :]))),
    )
    events = browser.take(len(said) + 1)
    events.remove((TEXT, b"secret"))
    assert events == texts(*said)


# Anything, cut anywhere, with moves in between.

FRAMES = st.one_of(
    st.builds(lambda size: text(b'{"message":"%s"}' % (b"m" * size)), st.sampled_from([0, 1, 111, 112, 300])),
    st.builds(lambda parts: fragments(BINARY, b'{"message":"', *parts, b'"}'), st.lists(st.just(b"ab"))),
    st.builds(ping, st.binary(max_size=3)),
    st.just(fragments(TEXT, b"", HELLO, between=ping(b"between"))),
    st.sampled_from([masked(FIN | PONG, b"x"), text(b"{}"), text(b""), text(b'{"who":{}}')]),
)
ENDS = st.sampled_from([close(1000, b"bye"), masked(FIN | CLOSE), text(b"\xff"), b"\xff\xff"])
# Where to cut, and what happens there: the client is moved, something is said, both or nothing.
STEPS = st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.booleans()), max_size=8)


@pytest.fixture(scope="module")
def lasting_two() -> Iterator[list[Bench]]:
    with workers(2) as made:
        yield made


def conversation(
    benches: list[Bench], sent: bytes, steps: list[tuple[int, bool, bool]], *, moving: bool
) -> tuple[list[bytes], list[Event]]:
    """Return what a client has said, and what it has heard up to its end."""
    numbers = (place % (len(sent) + 1) for place, _, _ in steps)
    marks = sorted((place, move, said) for place, (_, move, said) in zip(numbers, steps, strict=True))
    browser = Browser(benches[0], 1)
    heard: list[bytes] = []
    begin = 0
    for place, move, said in marks:
        if place > begin and not browser.connection.closed:
            browser.send(sent[begin:place])
            begin = place
            heard += posted(benches)
        if said:
            publish(benches, b"said at %d" % place)
        if move and moving and not browser.connection.closed:
            browser.move(benches[browser.bench is benches[0]])
            browser.bench.turn()
            heard += posted(benches)
    if not browser.connection.closed:
        browser.send(sent[begin:])
    events = browser.take_to_the_end()
    browser.client.close()
    for bench in benches:
        bench.until(lambda bench=bench: not len(bench.worker.clients.lingering))  # type: ignore[misc]
        bench.worker.uplink.left.clear()
    return heard + posted(benches), events


@settings(max_examples=40)
@given(st.lists(FRAMES, max_size=8), ENDS, STEPS)
def test_moves_change_nothing_of_what_a_client_says_and_hears(
    lasting_two: list[Bench], frames: list[bytes], end: bytes, steps: list[tuple[int, bool, bool]]
) -> None:
    sent = b"".join(frames) + end
    moved = conversation(lasting_two, sent, steps, moving=True)
    assert moved == conversation(lasting_two, sent, steps, moving=False)
    assert [opcode for opcode, _ in moved[1]].count(CLOSE) == 1


def test_a_worker_that_a_client_was_moved_to_loads_what_takes_its_mask_off(
    two: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = Browser(two[0], 1)
    monkeypatch.setattr(mask, "_unmask", mask.unmask_with_integers)  # as in a process that has just begun
    browser.move(two[1])
    two[1].until(lambda: mask.best_unmask() is not mask.unmask_with_integers)
    two[1].until(lambda: two[1].worker.clients.web._loading is None)
    assert two[1].worker.clients.web._site is not None
