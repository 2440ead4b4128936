"""One port, several protocols, at a worker: first bytes decide what a client speaks, however they come."""

import time
from collections.abc import Iterator

import msgspec
import pytest
from support.harness import Client, frame, raw_frame
from support.one_worker import Bench, unread

from mpchat.ipc.items import PLAIN, Down
from mpchat.ipc.stream_buffer import Place
from mpchat.worker.connection import LIVE

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
# Seconds of silence after which a brief worker takes a client for a plain one.
GRACE = 0.05
SAID = raw_frame('{"message":"안녕하세요"}'.encode())


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(listen_grace=60.0)
    yield made
    made.close()


@pytest.fixture
def hasty() -> Iterator[Bench]:
    """A worker that takes silence for a plain client at once."""
    made = Bench(listen_grace=0.0)
    yield made
    made.close()


@pytest.fixture
def brief() -> Iterator[Bench]:
    """A worker that takes silence for a plain client after a moment."""
    made = Bench(listen_grace=GRACE)
    yield made
    made.close()


def wait(bench: Bench, seconds: float) -> None:
    """Let the worker work for a while: all that is due before its end is done."""
    over: list[bool] = []
    bench.worker.reactor.call_later(seconds, lambda: over.append(True))
    bench.until(lambda: bool(over))


def publish(bench: Bench, text: str) -> None:
    bench.order(Down.BATCH, (1, frame(text)))
    bench.turn()


def answered(bench: Bench, client: Client) -> bytes:
    """Return the answer to a request."""
    return bench.received(client, lambda found: b"\r\n\r\n" in found and found.endswith(b"\n"))


def in_pieces(bench: Bench, client: Client, data: bytes, cuts: tuple[int, ...]) -> None:
    begin = 0
    for cut in (*cuts, len(data)):
        client.send_raw(data[begin:cut])
        begin = cut
        bench.turn()
        bench.turn()


CUTS = [(), *((cut,) for cut in range(1, 12)), tuple(range(1, len(REQUEST)))]


@pytest.mark.parametrize("cuts", CUTS)
def test_a_request_cut_anywhere_is_a_request(bench: Bench, cuts: tuple[int, ...]) -> None:
    client, connection = bench.connect(1)
    publish(bench, "before")
    in_pieces(bench, client, REQUEST, cuts)
    assert answered(bench, client).startswith(b"HTTP/1.1 200 OK\r\n")
    publish(bench, "after")
    assert unread(client) == b""
    assert connection.dialect.name == "http"


def test_a_connection_takes_one_request_after_the_other(bench: Bench) -> None:
    client, _ = bench.connect(1)
    for _ in range(3):
        in_pieces(bench, client, REQUEST, ())
        assert answered(bench, client).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (3,), (1, 2, 3), (5,), tuple(range(1, len(SAID)))])
def test_a_frame_cut_anywhere_is_a_frame_and_nothing_said_since_it_came_is_lost(
    bench: Bench, cuts: tuple[int, ...]
) -> None:
    client, connection = bench.connect(1)
    for text in ("하나", "둘"):
        publish(bench, text)
    assert unread(client) == b""
    in_pieces(bench, client, SAID, cuts)
    bench.until(lambda: bool(bench.worker.uplink.posts))
    assert bench.worker.uplink.posts[0][2] == SAID
    assert unread(client) == frame("하나") + frame("둘")
    assert connection.spoke


@pytest.mark.parametrize("letters", [b"GE", b"HE", b"PU", b"CO"])
def test_a_long_frame_whose_length_is_the_beginning_of_a_method_is_a_frame(
    bench: Bench, letters: bytes
) -> None:
    payload = b'{"message":"x"}'.rjust(int.from_bytes(letters, "big"))
    client, _ = bench.connect(1)
    in_pieces(bench, client, letters + payload, (1, 2))
    bench.until(lambda: bool(bench.worker.uplink.posts))
    assert bench.worker.uplink.posts[0][2] == raw_frame(payload.lstrip())


def test_a_client_that_says_nothing_gets_all_in_the_end_and_keeps_its_place(hasty: Bench) -> None:
    client, connection = hasty.connect(1)
    hasty.order(Down.BATCH, (1, frame("first")))
    hasty.worker.rooms.work(hasty.worker.reactor.now + 1)
    hasty.until(lambda: unread(client) == frame("first"))
    assert connection.undecided
    publish(hasty, "second")
    assert unread(client) == frame("second")


def test_a_pause_inside_the_first_bytes_is_no_silence_however_long_it_is(brief: Bench) -> None:
    client, connection = brief.connect(1)
    client.send_raw(REQUEST[:2])
    brief.until(lambda: connection in brief.worker.clients.reading.half)
    publish(brief, "before the grace is over")
    wait(brief, 2 * GRACE)
    publish(brief, "after it")
    assert unread(client) == b""
    client.send_raw(REQUEST[2:])
    assert answered(brief, client).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("first", [b"", REQUEST[:2]], ids=["silent", "begun"])
def test_each_silent_client_has_a_grace_of_its_own(brief: Bench, first: bytes) -> None:
    earlier, connection = brief.connect(1)
    if first:
        earlier.send_raw(first)
        brief.until(lambda: connection in brief.worker.clients.reading.half)
    wait(brief, GRACE / 2)
    came = time.monotonic()
    later, _ = brief.connect(2)
    publish(brief, "said")
    brief.until(lambda: unread(later) == frame("said"))
    assert time.monotonic() - came >= GRACE
    assert unread(earlier) == (b"" if first else frame("said"))


def test_silence_in_a_quiet_room_does_not_prevent_a_request(hasty: Bench) -> None:
    """A browser opens connections before it needs them."""
    client, connection = hasty.connect(1)
    hasty.until(lambda: connection.cursor == LIVE)
    client.send_raw(REQUEST)
    assert answered(hasty, client).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_request_of_a_client_that_was_sent_messages_is_no_request_any_more(hasty: Bench) -> None:
    client, connection = hasty.connect(1)
    hasty.until(lambda: connection.cursor == LIVE)
    publish(hasty, "said")
    client.send_raw(REQUEST)
    hasty.until(lambda: connection.closed)
    assert client.receive() == {"message": "said"}
    told = client.receive()
    assert told is not None
    assert told["error"]["code"] == "bad_frame"
    assert client.receive() is None


def test_nothing_is_lost_when_much_is_said_while_a_client_is_silent() -> None:
    bench = Bench(listen_grace=60.0, lag_limit=256 << 10)
    try:
        client, connection = bench.connect(1)
        blobs = [frame(f"{number}".ljust(30_000, "x")) for number in range(20)]
        got = bytearray()
        for each in blobs:
            publish(bench, "")
            bench.order(Down.BATCH, (1, each))
            bench.turn()
            got += unread(client)

        def has_all() -> bool:
            bench.turn()
            got.extend(unread(client))
            return len(got) >= sum(map(len, blobs)) + len(blobs) * len(frame(""))

        bench.until(has_all)
        assert not connection.closed
        assert bytes(got) == b"".join(frame("") + each for each in blobs)
    finally:
        bench.close()


@pytest.mark.parametrize("begun", [b"", b"G", b"GE", b"GET"])
def test_a_move_takes_the_place_and_the_first_bytes_along(bench: Bench, begun: bytes) -> None:
    client, connection = bench.connect(1)
    client.send_raw(begun)
    if begun:
        bench.until(lambda: connection in bench.worker.clients.reading.half)
    publish(bench, "on the way")
    state = bench.worker.migration.export_state(connection)
    assert state.undecided
    assert (state.room, state.place.number, state.dialect_state.partial) == (PLAIN, 0, begun)
    moved = bench.take(1, connection.sock, state)
    assert moved.undecided
    bench.turn()
    assert unread(client) == b""
    client.send_raw(REQUEST[len(begun) :])
    assert answered(bench, client).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("begun", [b"", b"GE"])
def test_a_request_is_answered_where_the_stream_is_not_yet_as_far(bench: Bench, begun: bytes) -> None:
    client, connection = bench.connect(1)
    client.send_raw(begun)
    if begun:
        bench.until(lambda: connection in bench.worker.clients.reading.half)
    state = bench.worker.migration.export_state(connection)
    ahead = bench.worker.rooms.plain.messages + 1
    bench.take(1, connection.sock, msgspec.structs.replace(state, place=Place(ahead)))
    client.send_raw(REQUEST[len(begun) :])
    assert answered(bench, client).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("begun", [b"", b"GE"])
def test_a_client_ahead_of_the_stream_is_sent_nothing_when_the_stream_comes_there(
    bench: Bench, begun: bytes
) -> None:
    client, connection = bench.connect(1)
    client.send_raw(begun)
    if begun:
        bench.until(lambda: connection in bench.worker.clients.reading.half)
    state = bench.worker.migration.export_state(connection)
    bench.take(1, connection.sock, msgspec.structs.replace(state, place=Place(1)))
    publish(bench, "before it came")
    publish(bench, "since")
    assert unread(client) == b""
    client.send_raw(REQUEST[len(begun) :])
    assert answered(bench, client).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("published", [1, 2])
def test_a_client_ahead_of_the_stream_that_is_a_plain_one_gets_what_was_said_since(
    bench: Bench, published: int
) -> None:
    client, connection = bench.connect(1)
    state = bench.worker.migration.export_state(connection)
    moved = bench.take(1, connection.sock, msgspec.structs.replace(state, place=Place(1)))
    texts = ["before it came", "since"]
    for text in texts[: published - 1]:
        publish(bench, text)
    client.send_raw(SAID)
    bench.until(lambda: not moved.undecided)
    for text in texts[published - 1 :]:
        publish(bench, text)
    assert unread(client) == frame("since")


def test_a_silent_client_that_was_moved_gets_what_was_said_meanwhile(bench: Bench) -> None:
    client, connection = bench.connect(1)
    publish(bench, "on the way")
    moved = bench.take(1, connection.sock, bench.worker.migration.export_state(connection))
    client.send_raw(SAID)
    bench.until(lambda: not moved.undecided)
    bench.turn()
    assert unread(client) == frame("on the way")


def test_a_moved_client_that_was_sent_something_is_plain_with_what_it_had_begun(hasty: Bench) -> None:
    client, connection = hasty.connect(1)
    hasty.until(lambda: connection.cursor == LIVE)
    publish(hasty, "said")
    client.send_raw(b"GE")
    hasty.until(lambda: connection in hasty.worker.clients.reading.half)
    state = hasty.move_out(1)[1]
    assert not state.undecided
    assert state.dialect_state.partial == b"GE"
    assert not connection.reading


def test_first_bytes_that_do_not_go_on_are_half_a_frame(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(b"GE")
    bench.until(lambda: connection in bench.worker.clients.reading.half)
    bench.worker.clients.end_overdue(bench.worker.reactor.now + bench.worker.config.frame_timeout + 1)
    told = client.receive()
    assert told is not None
    assert "18245" in told["error"]["text"]
    assert client.receive() is None
    assert bench.worker.counters.ended["half a frame"] == 1


def test_a_stop_sends_silent_clients_what_they_are_owed(bench: Bench) -> None:
    client, _ = bench.connect(1)
    publish(bench, "the last words")
    bench.order(Down.DRAIN, None)
    bench.turn()
    assert unread(client) == frame("the last words")
    assert bench.worker.rooms.all_sent
