"""A worker's members who cannot be sent anything any more, and are still read from; in one process."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from msgspec.structs import replace
from support.crowd import payloads
from support.harness import frame, raw_frame
from support.one_worker import ROOM, Bench, unread

from mpchat.ipc.connection_state import ConnectionState
from mpchat.ipc.handoff import HandoffSocket, Receipt, read_message
from mpchat.ipc.items import PLAIN, Down, Up
from mpchat.ipc.reasons import CLOSED
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.session import DialectState
from mpchat.worker import fanout
from mpchat.worker import rooms as rooms_module
from mpchat.worker.connection import Connection
from mpchat.worker.fanout import ENOUGH
from mpchat.worker.reading import OUTBOX_LIMIT
from mpchat.worker.request_line import AT_A_TIME

# Bytes that rooms may keep where memory is short.
SHORT_MEMORY = 4 << 20
# What Linux says of a connection that is no more (TCP_CLOSE).
GONE = b"\x07"


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells the state of a connection")
def test_who_is_read_from_after_the_last_of_his_room_has_gone_leaves_like_everybody(bench: Bench) -> None:
    alice, alices = bench.member(1)
    bob, bobs = bench.member(2)
    alice.reset()
    # It learns of the reset by sending: the room speaks before it looks at its sockets.
    said = frame("hello")
    bench.until(lambda: alices.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == GONE)
    bench.worker.rooms.publish([(ROOM, 1, len(said))], said)
    bench.room().work(time.monotonic())
    assert alices not in alices.fanout
    assert not alices.closed
    bob.close()
    bench.until(lambda: bobs.closed)
    bench.until(lambda: alices.closed)
    assert {each[0] for each in bench.worker.uplink.left} == {1, 2}
    # Who was reset has not gone in order: his name is held for him.
    assert CLOSED not in {each[2] for each in bench.worker.uplink.left if each[0] == 1}
    assert not bench.worker.rooms.by_number


def test_who_has_been_silent_for_an_hour_may_not_say_at_once_what_an_hour_allows(bench: Bench) -> None:
    client, connection = bench.member(1)
    bench.worker.clients.reading.config = replace(bench.worker.config, flood_burst=10, flood_rate=10)
    connection.heard -= 3600.0
    client.send_raw(frame("x") * 100)
    bench.until(lambda: sum(count for _, count, _ in bench.worker.uplink.posts) > 10)
    assert not connection.reading


def test_who_spoke_while_there_was_no_limit_owes_nothing_when_a_reload_sets_one(bench: Bench) -> None:
    reading = bench.worker.clients.reading
    reading.config = replace(bench.worker.config, flood_burst=10, flood_rate=0)
    client, connection = bench.member(1)
    connection.allowance = 10
    client.send_raw(frame("x") * 1000)
    bench.until(lambda: sum(count for _, count, _ in bench.worker.uplink.posts) == 1000)
    reading.config = replace(bench.worker.config, flood_burst=10, flood_rate=10)
    reading.slow_down(connection)  # as the next worker does
    assert connection.reading


def test_who_asks_for_the_past_again_and_again_and_does_not_read_it_is_cut_off(bench: Bench) -> None:
    _, connection = bench.member(1)
    most = bench.worker.config.lag_limit
    past = frame("x" * (32 << 10))
    for _ in range(2 * most // len(past)):
        bench.order(Down.ENTER, ((1, ROOM, 0, False), past))
        assert len(connection.outbox) <= most + len(past)
    assert connection.closed
    assert bench.worker.counters.ended["slow consumer"] == 1


def test_a_member_moved_in_the_middle_of_a_frame_gets_it_whole_before_anything_else(bench: Bench) -> None:
    """Also before what others say to this member alone, which comes before the room does."""
    client, connection = bench.member(1)
    frames = [raw_frame(b"%d" % number + bytes(60_000)) for number in range(100)]
    bench.worker.rooms.publish([(ROOM, len(frames), sum(map(len, frames)))], b"".join(frames))
    bench.room().complete(time.monotonic(), pending=True)
    assert connection.cursor > 0
    others = [b"an answer", b"for you alone"]
    bench.worker.clients.reply(connection, raw_frame(others[0]))
    state = bench.worker.migration.export_state(connection)
    assert (state.place.byte, state.outbox_open) == (0, True)
    assert 0 < len(state.outbox) < len(frames[0]) + 11
    assert 0 < state.place.number < len(frames)
    bench.take(1, connection.sock, state)
    bench.order(Down.TELL, (1, raw_frame(others[1])))
    bench.order(Down.ENTER, ((1, ROOM, len(frames), True), b"".join(frames[state.place.number :])))
    data = bytearray()
    client.sock.setblocking(False)

    def has_all() -> bool:
        with suppress(BlockingIOError):
            data.extend(client.sock.recv(1 << 20))
        return len(data) >= sum(map(len, [*frames, *others]))

    bench.until(has_all)
    got = list(payloads(bytes(data)))
    assert [each for each in got if each in others] == others
    assert [each for each in got if each not in others] == [each[2:] for each in frames]


def test_small_answers_that_are_not_read_are_not_copied_for_each_further_one(bench: Bench) -> None:
    _, connection = bench.member(1)
    told = frame("x" * 50)
    began = time.process_time()
    while not connection.closed:
        bench.order(Down.TELL, (1, told))
    assert time.process_time() - began < 5.0  # 8 MiB, one answer after the other; it was half a minute


def test_who_does_not_read_answers_is_not_read_from_when_he_has_been_quiet_long_enough(bench: Bench) -> None:
    client, connection = bench.member(1)
    bench.worker.clients.reply(connection, b"\0\0" * (4 << 20))
    held = len(connection.outbox)
    assert held >= OUTBOX_LIMIT
    client.send_raw(b"\0\0" * 1000)
    bench.worker.clients.reading.quiet_is_over(1)
    bench.worker.clients.reading.begin_round()
    assert not connection.reading
    assert len(connection.outbox) == held


def test_who_reads_a_long_answer_while_the_room_speaks_is_read_from_again(bench: Bench) -> None:
    client, connection = bench.member(1)
    bench.worker.clients.reply(connection, bytes(8 << 20))
    gone = (8 << 20) - len(connection.outbox)
    connection.outbox = connection.outbox[: 2 * OUTBOX_LIMIT]  # what one more send will take
    while gone:
        gone -= len(client.sock.recv(gone))
    said = frame("hello")
    bench.worker.rooms.publish([(ROOM, 1, len(said))], said)
    bench.room().work(time.monotonic())
    bench.until(lambda: not connection.outbox)
    bench.until(lambda: connection.reading)


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A worker whose rooms keep 4 MiB together."""
    monkeypatch.setattr(rooms_module, "STREAM_MEMORY", SHORT_MEMORY)
    bench = Bench()
    yield bench
    bench.close()


def deaf_member(bench: Bench, number: int) -> Connection:
    """A member of a room of its own, whose socket takes nothing more; number and identity are the room's."""
    client, connection = bench.connect(number)
    client.send_raw(raw_frame(b'{"join":{"name":"x"}}'))
    bench.until(lambda: connection.dialect.asked)
    bench.order(Down.ENTER, ((number, number, 0, True), b""))
    with suppress(BlockingIOError):
        while True:
            connection.sock.send(bytes(1 << 20))
    return connection


def say(bench: Bench, number: int, size: int) -> None:
    """Let a room say about so many bytes, in messages of 10 000."""
    said = frame("x" * 10_000)
    for _ in range(size // len(said)):
        bench.worker.rooms.publish([(number, 1, len(said))], said)
        bench.worker.rooms.work(time.monotonic() + 1)


def kept(bench: Bench) -> list[int]:
    """The bytes that each room keeps."""
    rooms = bench.worker.rooms.by_number.values()
    return [sum(fanout.stream.size for fanout in room.values()) for room in rooms]


def test_rooms_keep_a_bounded_amount_together_also_where_clients_in_each_do_not_read(
    short_of_memory: Bench,
) -> None:
    bench, most = short_of_memory, 0
    for number in range(1, 17):
        deaf_member(bench, number)
        say(bench, number, SHORT_MEMORY // 8)
        most = max(most, sum(kept(bench)))
    assert SHORT_MEMORY // 2 < most <= SHORT_MEMORY + ENOUGH
    assert bench.worker.counters.ended["slow consumer"] > 0


def test_rooms_that_keep_little_take_nothing_from_a_room_that_keeps_much(short_of_memory: Bench) -> None:
    """Forty rooms had a share of 100 KB each, whatever they kept."""
    bench = short_of_memory
    deaf_member(bench, 1)
    say(bench, 1, SHORT_MEMORY // 4)
    for number in range(2, 41):
        deaf_member(bench, number)
        say(bench, number, 20_000)
    say(bench, 1, 20_000)
    assert kept(bench)[0] > SHORT_MEMORY // 4
    assert not bench.worker.counters.ended


def test_a_room_whose_last_member_has_left_in_the_middle_of_a_flush_counts_for_nothing(
    short_of_memory: Bench,
) -> None:
    """Its bytes were added once more and never taken away: in the end every room was cut down."""
    bench = short_of_memory
    member, rooms = deaf_member(bench, 1), bench.worker.rooms
    say(bench, 1, 100_000)
    room = rooms.fanout_of(member)
    room.leave(member)
    rooms._note_kept(room)
    assert rooms._memory.used == sum(rooms._kept.values()) == 0


def test_a_room_may_keep_as_much_as_before_when_memory_is_not_short_any_more(short_of_memory: Bench) -> None:
    bench = short_of_memory
    members = [deaf_member(bench, number) for number in range(1, 9)]
    for number in range(1, 9):
        say(bench, number, SHORT_MEMORY // 4)
    for each in members:
        bench.worker.clients.end(each, "kicked")
    bench.worker.rooms.widen_share()
    deaf_member(bench, 9)
    say(bench, 9, SHORT_MEMORY // 2)
    assert kept(bench)[0] > SHORT_MEMORY // 3
    assert not bench.worker.counters.ended["slow consumer"] > 8


def test_a_member_that_has_gone_ends_although_others_still_have_much_to_say_to_it(bench: Bench) -> None:
    """What it was told filled its outbox, and so it was not read from: its end was never seen."""
    client, connection = bench.member(1)
    with suppress(BlockingIOError):
        while True:
            connection.sock.send(bytes(1 << 20))
    bench.order(Down.TELL, (1, frame("x" * 60_000)))
    client.reset()
    bench.worker.clients.lost(connection, ConnectionResetError(104, "Connection reset by peer"))
    for _ in range(3):
        bench.order(Down.TELL, (1, frame("x" * 60_000)))
    bench.until(lambda: connection.closed)
    assert bench.worker.clients.outboxes.held == 0


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells the state of a connection")
def test_whoever_comes_after_a_reset_member_that_is_no_longer_of_the_room_misses_nothing(
    bench: Bench,
) -> None:
    """The hub tells a worker nothing more of a room whose last member there has left."""
    client, connection = bench.member(1)
    client.send_raw(raw_frame(b'{"join":{"room":"other"}}'))
    bench.until(lambda: connection.asking)
    client.reset()
    bench.until(lambda: connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == GONE)
    said = [frame(f"m{number}") for number in range(1, 4)]
    bench.worker.rooms.publish([(ROOM, 1, len(said[0]))], said[0])
    bench.worker.rooms.work(bench.worker.reactor.now + 1)
    assert connection not in connection.fanout
    assert not connection.closed
    bench.order(Down.ENTER, ((1, ROOM + 1, 0, True), b""))
    # The second message was said while nobody here was in the room.
    other, others = bench.connect(2)
    other.send_raw(raw_frame(b'{"join":{"name":"x"}}'))
    bench.until(lambda: others.dialect.asked)
    welcome = raw_frame(b'{"welcome":{}}')
    bench.order(Down.ENTER, ((2, ROOM, 2, True), welcome))
    bench.worker.rooms.publish([(ROOM, 1, len(said[2]))], said[2])
    assert bench.received(other, lambda found: len(found) >= len(welcome + said[2])) == welcome + said[2]


def test_a_kick_keeps_nothing_of_a_connection_that_ends_with_the_flush_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "SLICE", 1)
    members = [bench.member(identity) for identity in (1, 2)]
    bench.turn()
    said = frame("hello")
    bench.worker.rooms.publish([(ROOM, 1, len(said))], said)
    bench.worker.rooms.work(bench.worker.reactor.now + 1)
    assert not bench.room().between_flushes
    client, connection = members[1]
    connection.half_closed = True  # nothing is read from it any more: a reset is its end
    client.reset()
    bench.until(lambda: connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == GONE)
    assert bench.worker.clients.kick("127.0.0.1") == 2
    assert connection.closed
    assert bench.worker.clients.outboxes.held == 0


def test_the_hub_waits_when_much_is_pending_in_all_rooms_together_and_little_in_each(bench: Bench) -> None:
    rooms, said = bench.worker.rooms, frame("x" * 50_000) * 10
    for number in range(1, 11):
        bench.connect(number)[0].send_raw(raw_frame(b'{"join":{"name":"x"}}'))
        bench.until(lambda each=number: bench.worker.clients.by_identity[each].dialect.asked)  # type: ignore[misc]
        bench.order(Down.ENTER, ((number, number, 0, True), b""))
        rooms.publish([(number, 10, len(said))], said)
        assert rooms.swamped is (number * len(said) > rooms_module.SWAMPED_TOGETHER)
    assert rooms.swamped


# A flush that is under way when members are moved.


@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half closed"])
def test_who_is_found_reset_while_he_is_moved_stays_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, half_closed: bool
) -> None:
    monkeypatch.setattr(fanout, "SLICE", 1)
    pairs = [bench.member(identity) for identity in (1, 2, 3)]
    client, connection = pairs[0]
    bench.order(Down.ENTER, ((1, ROOM, 0, True), b""))  # first to be moved, last to be sent to
    if half_closed:
        client.sock.shutdown(socket.SHUT_WR)
        bench.until(lambda: connection.half_closed)
    said = frame("hello")
    bench.worker.rooms.publish([(ROOM, 1, len(said))], said)
    bench.worker.rooms.work(bench.worker.reactor.now + 1)
    assert not bench.room().between_flushes
    client.reset()
    bench.until(lambda: connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == GONE)
    assert sorted(bench.move_out(3)) == [2, 3]
    bench.until(lambda: connection.closed)
    assert [each[0] for each in bench.worker.uplink.left if not isinstance(each, str)] == [1]


@pytest.mark.parametrize(("checked", "times"), [(True, 6), (False, 41)], ids=["checked", "refused"])
def test_who_shows_proofs_again_and_again_has_to_pause(*, checked: bool, times: int) -> None:
    bench = Bench(auth="closed")
    try:
        client, connection = bench.connect(1)
        tries = 0
        while connection.quiet_until <= time.monotonic():
            tries += 1
            client.send_raw(raw_frame('{"join":{"name":"앨리스","password":"비밀번호"}}'.encode()))
            bench.until(lambda: connection.asking)
            if checked:
                bench.order(Down.CHECKING, (1, True))
            bench.order(Down.ANSWERED, 1)
            assert tries < 100, "no pause"
        assert times - 1 <= tries <= times + 4  # some comes back meanwhile
        client.send_raw(raw_frame('{"join":{"name":"앨리스","password":"비밀번호"}}'.encode()))
        bench.turn()
        assert not connection.asking
    finally:
        bench.close()


def test_a_member_whose_proof_is_checked_ends_if_it_is_found_reset_while_it_is_moved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub answers it where it would have arrived: no worker would ever read from it again."""
    monkeypatch.setattr(fanout, "SLICE", 1)
    pairs = [bench.member(identity) for identity in (1, 2)]
    client, connection = pairs[0]
    bench.order(Down.ENTER, ((1, ROOM, 0, True), b""))  # first to be moved, last to be sent to
    client.send_raw(raw_frame('{"join":{"name":"앨리스","password":"비밀번호"}}'.encode()))
    bench.until(lambda: connection.asking)
    bench.order(Down.CHECKING, (1, True))
    said = frame("안녕")
    bench.worker.rooms.publish([(ROOM, 1, len(said))], said)
    bench.worker.rooms.work(bench.worker.reactor.now + 1)
    assert not bench.room().between_flushes
    client.reset()
    bench.until(lambda: connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == GONE)
    assert sorted(bench.move_out(2)) == [2]
    assert connection.closed
    assert [each[0] for each in bench.worker.uplink.left if not isinstance(each, str)] == [1]


def test_a_member_is_acked_before_the_hub_hears_that_it_has_come(bench: Bench) -> None:
    """Should the worker die in between, it is still the supervisor's."""
    _, connection = bench.member(1)
    state = bench.move_out(1)[1]
    bench.link.receive()
    bench.take(2, connection.sock, state)
    assert not bench.link.readable
    bench.worker.migration.send_receipt()
    (receipt,) = HandoffSocket(bench.far).receive()
    assert read_message(receipt.message).acks[-1] == 2  # type: ignore[union-attr]
    assert [each.kind for each in bench.link.receive()] == [Up.FOLLOW]


def moved(dialect: str) -> ConnectionState:
    """The state of a client that has been sent all that plain clients were."""
    return ConnectionState(
        dialect=dialect,
        dialect_state=DialectState(),
        room=PLAIN,
        place=Place(0),
        outbox=b"",
        outbox_open=False,
        heard=0.0,
        half_since=None,
        left_at=0.0,
        allowance=1.0,
        spoke=True,
    )


def enters(bench: Bench) -> None:
    """A client that is here leaves the stream of plain clients for a room."""
    bench.order(Down.ENTER, ((1, ROOM, 0, True), b""))


def comes(bench: Bench) -> None:
    """The first one comes that gets the stream of plain clients in another framing."""
    bench.connect(3, moved("websocket"))


@pytest.mark.parametrize("what", [enters, comes])
def test_a_connection_is_acked_before_anything_is_sent_to_it(
    bench: Bench, what: Callable[[Bench], None]
) -> None:
    """Should the worker die in between, it is still the supervisor's, and the next one sends all of it."""
    speaker, asking = bench.connect(1)
    speaker.send_raw(raw_frame(b'{"join":{"name":"x"}}'))
    bench.until(lambda: asking.dialect.asked)
    client, _ = bench.connect(2, moved("plain"))
    said = frame("said when it came")
    bench.order(Down.BATCH, (1, said))
    assert unread(client) == b""
    what(bench)
    assert unread(client) == said
    assert 2 not in bench.worker.handoff.receipt.acks


@pytest.mark.parametrize(("address", "kicked"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_a_kick_ends_who_comes_back_from_a_supervisor_without_descriptors(
    bench: Bench, address: str, *, kicked: bool
) -> None:
    client, connection = bench.connect(1)
    client.say("hello")
    bench.until(lambda: connection.spoke)
    bench.move_out(1)
    bench.order(Down.KICK, (1, address))
    assert not connection.closed
    bench.worker.migration.take_receipt(Receipt(nacks=[1]))
    assert connection.closed is kicked


# Requests and their answers.

TWO_JOINS = raw_frame(b'{"join":{"room":"a","after":0}}') + raw_frame(b'{"join":{"room":"b"}}')
WHO = raw_frame(b'{"who":{}}')


def asked(bench: Bench) -> list[int]:
    """Return who has asked the hub, in order, since the last call."""
    posts, bench.worker.uplink.posts = bench.worker.uplink.posts, []
    return [post[0][0] for post in posts if isinstance(post[0], tuple)]


def test_those_who_leave_a_room_in_the_middle_of_its_past_hold_up_nobody_s_requests(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub has no more of that past: whoever asks for it then is not answered."""
    # However slow the machine is, a round serves all: else the hub would be asked in another order.
    monkeypatch.setattr("mpchat.worker.reading.ROUND_TIME", 60.0)
    count = 2 * AT_A_TIME
    members = [bench.member(identity) for identity in range(1, count + 1)]
    client, innocent = bench.member(99)
    bench.turn()
    asked(bench)
    for each, _ in members:
        each.send_raw(TWO_JOINS)
    first, second = set[int](), list[int]()

    def all_have_asked_twice() -> bool:
        bench.turn(1)
        for identity in asked(bench):
            if identity in first:
                second.append(identity)
                continue
            first.add(identity)
            bench.order(Down.ENTER, ((identity, ROOM, 0, False), frame("x" * 32_000)))
            bench.order(Down.ANSWERED, identity)
        return len(set(second)) == count

    bench.until(all_have_asked_twice)
    for identity in second:
        bench.order(Down.ENTER, ((identity, ROOM + 1, 0, True), frame("welcome")))
        bench.order(Down.ANSWERED, identity)
    bench.turn(5)
    client.send_raw(WHO)
    bench.until(lambda: innocent.asking)
    assert asked(bench) == [99]


def test_who_waits_in_the_line_is_not_served_out_of_it(bench: Bench) -> None:
    client, connection = bench.member(1)
    bench.turn()
    reading, uplink = bench.worker.clients.reading, bench.worker.uplink
    uplink.posts_size = 1 << 20  # the hub is behind
    client.send_raw(WHO + b"\0")
    reading.begin_round()
    bench.worker.reactor.turn(0.05)
    bench.order(Down.TELL, (1, frame("private")))
    reading.begin_round()
    uplink.posts_size = 0
    bench.worker.reactor.turn(0.05)
    assert not connection.asking
    client.send_raw(b"\x0a")
    reading.begin_round()
    reading.begin_round()
    assert not connection.closed
    assert connection.asking


def test_a_member_alone_in_its_room_that_closes_leaves_nothing_behind(bench: Bench) -> None:
    client, connection = bench.member(1)
    bench.turn()
    client.sock.close()
    bench.until(lambda: connection.half_closed)
    said = frame("x" * 59_000)
    bench.order(Down.ROOMS, ([(ROOM, 8, len(said) * 8)], said * 8))
    bench.order(Down.ECHOED, [1])

    def done() -> bool:
        bench.worker.rooms.work(bench.worker.reactor.now + 1)
        bench.worker.clients.half_closed.work()
        return connection.closed and not bench.worker.clients.half_closed.busy

    bench.until(done)


def test_a_half_closed_member_gets_all_of_the_past_that_it_asked_for(bench: Bench) -> None:
    client, connection = bench.member(1)
    bench.turn()
    client.send_raw(raw_frame(b'{"join":{"room":"a","after":0}}'))
    bench.until(lambda: connection.asking)
    bench.order(Down.ENTER, ((1, ROOM, 0, False), frame("part 1")))
    bench.order(Down.ANSWERED, 1)
    client.sock.shutdown(socket.SHUT_WR)
    bench.until(lambda: connection.half_closed)
    bench.turn(2)  # more is asked for
    bench.order(Down.ECHOED, [1])
    bench.worker.clients.half_closed.work()
    assert not connection.closed
    bench.order(Down.ENTER, ((1, ROOM, 0, True), frame("part 2")))
    assert bench.received_to_the_end(client).endswith(frame("part 1") + frame("part 2"))
