"""Fan-out over real sockets: each client gets the stream's bytes exactly, its replies between two frames."""

import errno
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from operator import sub

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from support.harness import raw_frame
from support.waiting import eventually

from mpchat.hub.sender_holds import most_struggle
from mpchat.ipc.client_socket import tune
from mpchat.ipc.stream_buffer import StreamBuffer
from mpchat.protocol.framing import PLAIN_FRAMING, Framing
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING
from mpchat.reactor import WRITE, Reactor
from mpchat.worker import fanout as module
from mpchat.worker import flush
from mpchat.worker.connection import LIVE, Connection
from mpchat.worker.counters import Counters
from mpchat.worker.fanout import ENOUGH, SLICE, TRY_AGAIN, Fanout
from mpchat.worker.flush import SHARED_BY, SHARED_SIZE
from mpchat.worker.outboxes import Outboxes

SocketPair = tuple[socket.socket, socket.socket]

LAG = 256 << 10
# What a socket is asked to buffer, in bytes: little, so that a client is late soon.
BUFFER = 4096


def unix_pair() -> SocketPair:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    ours.setblocking(False)
    return ours, theirs


def tcp_pair() -> SocketPair:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
    tune(ours, 0)
    return ours, theirs


class Member:
    """A client of the room: the server's end, the client's end, and what the client has read."""

    def __init__(self, room: "Hall", make: Callable[[], SocketPair]) -> None:
        ours, self.sock = make()
        self.sock.setblocking(False)
        self.connection = Connection(id(self), ours, "192.0.2.1", 1, PlainDialect())
        self.connection.on_event = partial(room.on_event, self.connection)
        # How many messages had been given to the stream when it joined: it gets all further ones.
        self.joined_at = room.fanout.stream.messages
        self.data = bytearray()
        self.replies: list[bytes] = []
        room.fanout.join(self.connection)

    def read(self, most: int = 1 << 20) -> int:
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            return 0
        self.data += data
        return len(data)

    def close(self) -> None:
        self.connection.sock.close()
        self.sock.close()


class Hall:
    """A fan-out with its loop, as a worker has them. What it is given is plain frames."""

    def __init__(
        self, framing: Framing = PLAIN_FRAMING, *, lag_limit: int = LAG, keeps: bool = False
    ) -> None:
        """``keeps``: the stream keeps what all here have got, for clients that come from elsewhere."""
        self.framing = framing
        self.reactor = Reactor()
        self.counters = Counters()
        self.outboxes = Outboxes(1 << 30)
        self.fanout = Fanout(
            self.reactor,
            StreamBuffer(lag_limit, framing),
            coalesce=0.0,
            keeper=self,
            counters=self.counters,
        )
        # As clients are to get it.
        self.published: list[bytes] = []
        self.members: list[Member] = []
        self.gone: dict[Connection, OSError | None] = {}
        self.now = 1.0
        self.at_once, self.keeps = False, keeps

    def on_event(self, connection: Connection, mask: int) -> None:
        if mask & WRITE:
            self.fanout.on_writable(connection)

    def lost(self, connection: Connection, error: OSError | None) -> None:
        assert connection not in self.gone, "told twice"
        self.gone[connection] = error
        self.end(connection)

    def drained(self, connection: Connection) -> None:
        """Nothing is read here, so nothing waits for it."""

    def ack_arrivals(self) -> None:
        """No supervisor waits for an ack here."""

    def end(self, connection: Connection) -> None:
        connection.closed = True
        self.fanout.leave(connection)
        connection.unwatch(self.reactor)
        connection.sock.close()

    def join(self, make: Callable[[], SocketPair] = unix_pair) -> Member:
        self.members.append(Member(self, make))
        return self.members[-1]

    def publish(self, *frames: bytes) -> None:
        self.published += map(self.framing.encode, frames)
        self.fanout.publish(len(frames), b"".join(frames))

    def reply(self, member: Member, frame: bytes, *, in_order: bool = False) -> None:
        frame = self.framing.encode(frame)
        member.replies.append(frame)
        self.fanout.reply(member.connection, frame, in_order=in_order)

    def work(self) -> None:
        """One slice; every other time all at once, where that goes, as in a room of few members."""
        self.now += 0.001
        self.at_once = not (self.at_once or self.keeps)
        if not (self.at_once and self.fanout.send_all(self.now)):
            self.fanout.work(self.now)
        assert self.counters.late == self.fanout.late

    def turn(self) -> None:
        """What sockets can take, and one slice."""
        self.reactor.turn(0)
        self.work()

    def flush(self) -> None:
        """Send all that is pending, as far as sockets take it."""
        while not self.fanout.idle:
            self.work()

    def deliver(self, *members: Member) -> None:
        """Turn, and have these read, until everybody was sent everything and they have read it."""

        def done() -> bool:
            while True:
                self.turn()
                if not sum(each.read() for each in members):
                    return self.fanout.idle and not self.fanout.late

        eventually(done, "everything to be delivered")
        for each in members:  # TCP may need a moment for the last bytes
            eventually(partial(self._has_all, each), "the last bytes")

    def deliver_to_prompt(self, *members: Member) -> None:
        """The same for these alone, however far others are behind."""
        for each in members:

            def has_all(member: Member = each) -> bool:
                self.turn()
                return self._has_all(member)

            eventually(has_all, "everything to be delivered to those that read")
        self.flush()

    def _has_all(self, member: Member) -> bool:
        member.read()
        return len(member.data) >= len(b"".join(self.owed(member))) + len(b"".join(member.replies))

    def owed(self, member: Member) -> list[bytes]:
        return self.published[member.joined_at :]

    def check(self, member: Member) -> None:
        """It got every message since it joined and every reply, each in its order, and whole."""
        frames = list(cut(bytes(member.data), self.framing))
        assert [each for each in frames if self._kind(each) == b"s"] == self.owed(member)
        assert [each for each in frames if self._kind(each) == b"r"] == member.replies

    def _kind(self, frame: bytes) -> bytes:
        begin, _ = span(frame, self.framing)
        return frame[begin : begin + 1]

    def close(self) -> None:
        for member in self.members:
            if not member.connection.closed:
                self.end(member.connection)
            member.close()
        self.reactor.close()


def span(data: bytes, framing: Framing) -> tuple[int, int]:
    """Return where the payload of the first frame begins, and where it ends."""
    if framing is PLAIN_FRAMING:
        return 2, 2 + int.from_bytes(data[:2], "big")
    assert data[0] == 0x81, "no whole text message"
    begin, size = (4, int.from_bytes(data[2:4], "big")) if data[1] == 126 else (2, data[1])
    return begin, begin + size


def cut(data: bytes, framing: Framing = PLAIN_FRAMING) -> Iterator[bytes]:
    while data:
        _, end = span(data, framing)
        assert len(data) >= end, "the stream ends inside a frame"
        yield data[:end]
        data = data[end:]


def message(number: int, size: int = 0) -> bytes:
    return raw_frame(b"s%d " % number + bytes([number % 251]) * size)


def answer(number: int, size: int = 0) -> bytes:
    return raw_frame(b"r%d " % number + bytes([number % 251]) * size)


@contextmanager
def hall(framing: Framing = PLAIN_FRAMING, *, lag_limit: int = LAG) -> Iterator[Hall]:
    room = Hall(framing, lag_limit=lag_limit)
    try:
        yield room
    finally:
        room.close()


@pytest.fixture(params=["copied", "shared"])
def pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs are copied to each socket, or all go by way of pages that sockets share."""
    shared = request.param == "shared"
    monkeypatch.setattr(flush, "SHARED_SIZE", 1 if shared else 1 << 30)
    monkeypatch.setattr(flush, "SHARED_BY", 1)


PAIRS = pytest.mark.parametrize("make", [unix_pair, tcp_pair])
FRAMINGS = pytest.mark.parametrize("framing", [PLAIN_FRAMING, WEBSOCKET_FRAMING], ids=["plain", "websocket"])


@pytest.mark.usefixtures("pages")
@PAIRS
@FRAMINGS
def test_a_late_client_catches_up_byte_by_byte(make: Callable[[], SocketPair], framing: Framing) -> None:
    with hall(framing, lag_limit=8 << 20) as room:
        prompt, late = room.join(make), room.join(make)
        for number in range(100):
            room.publish(message(number, 10_000))
            room.flush()
            prompt.read()
        assert room.fanout.late
        room.deliver(prompt, late)
        room.check(prompt)
        room.check(late)
        assert room.counters.delivered == 200
        room.publish(message(100))
        room.deliver(prompt, late)
        room.check(late)


@PAIRS
def test_a_reply_waits_for_the_frame_that_is_half_sent_and_comes_before_the_next_ones(
    make: Callable[[], SocketPair],
) -> None:
    with hall() as room:
        late = room.join(make)
        room.publish(message(0, 60_000))
        room.flush()
        assert room.fanout.late == 1
        for number in range(3):
            room.reply(late, answer(number))
        room.deliver(late)
        room.check(late)
        room.publish(message(1))
        room.deliver(late)
        assert [each[2:3] for each in cut(bytes(late.data))] == [b"s", b"r", b"r", b"r", b"s"]


def test_a_reply_that_goes_out_in_parts_is_finished_before_the_next_message() -> None:
    with hall() as room:
        member = room.join()
        room.reply(member, answer(0, 60_000))
        room.reply(member, answer(1, 60_000))
        room.publish(message(0, 1_000))
        room.flush()
        assert room.fanout.late == 1
        room.deliver(member)
        room.check(member)
        assert [each[2:3] for each in cut(bytes(member.data))] == [b"r", b"r", b"s"]


def test_a_reply_during_a_flush_does_not_get_in_front_of_the_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 1)
    with hall() as room:
        members = [room.join() for _ in range(4)]
        room.publish(message(0))
        room.work()
        for number, each in enumerate(members):
            room.reply(each, answer(number))
        room.deliver(*members)
        for each in members:
            room.check(each)
            assert [frame[2:3] for frame in cut(bytes(each.data))] == [b"s", b"r"]


FEW = [1, 4, SLICE // module.FEW]


@PAIRS
@FRAMINGS
@pytest.mark.parametrize("members", FEW)
def test_a_few_are_sent_all_at_once_and_nothing_is_kept(
    make: Callable[[], SocketPair], framing: Framing, members: int
) -> None:
    with hall(framing) as room:
        few = [room.join(make) for _ in range(members)]
        for number in range(20):
            room.publish(message(number))
            room.publish(message(1000 + number))
            assert room.fanout.send_all(room.now + number)
            assert room.fanout.at_rest
            assert room.fanout.idle
            assert not room.fanout.stream.size
            for each in few:
                eventually(partial(room._has_all, each), "all of it")
        for each in few:
            room.check(each)
        assert room.fanout.messages == 40
        assert room.counters.delivered == 40 * members
        assert room.counters.bytes_out == sum(len(each.data) for each in few)


def test_nothing_is_sent_at_once_before_it_is_due_or_to_more_than_a_few() -> None:
    with hall() as room:
        assert not room.fanout.send_all(1.0), "nothing is pending"
        room.join()
        room.fanout._coalesce = 0.5
        room.publish(message(0))
        assert room.fanout.send_all(1.0)
        room.publish(message(1))
        assert not room.fanout.send_all(1.4)
        assert room.fanout.send_all(1.5)
        for _ in range(SLICE // module.FEW):
            room.join()
        room.publish(message(2))
        assert not room.fanout.send_all(9.0)
        assert room.fanout.pending


@PAIRS
@FRAMINGS
@pytest.mark.parametrize("late", range(3))
def test_one_of_a_few_that_cannot_take_all_at_once_misses_nothing(
    make: Callable[[], SocketPair], framing: Framing, late: int
) -> None:
    with hall(framing, lag_limit=8 << 20) as room:
        members = [room.join(make) for _ in range(3)]
        prompt = [each for each in members if each is not members[late]]
        number = 0
        while room.fanout.at_rest:
            room.publish(message(number, 5_000))
            room.fanout.send_all(room.now + number)
            number += 1
            for each in prompt:
                each.read()
        assert room.fanout.pending or room.fanout.stream.size, "the rest is kept for it"
        room.publish(message(number))
        assert not room.fanout.send_all(room.now + number)
        room.deliver(*members)
        for each in members:
            room.check(each)
        assert room.counters.delivered == 3 * (number + 1)
        assert room.counters.bytes_out == sum(len(each.data) for each in members)
        room.publish(message(number + 1))
        assert room.fanout.send_all(1e6), "and then it is one of the few again"


@pytest.mark.parametrize("gone", range(3))
def test_one_of_a_few_that_has_gone_is_told_once_and_the_others_get_all(gone: int) -> None:
    with hall() as room:
        members = [room.join() for _ in range(3)]
        members[gone].sock.close()
        room.publish(message(0))
        room.fanout.send_all(room.now)
        room.flush()
        assert list(room.gone) == [members[gone].connection]
        assert isinstance(room.gone[members[gone].connection], BrokenPipeError)
        rest = [each for each in members if each is not members[gone]]
        room.deliver(*rest)
        for each in rest:
            room.check(each)


def kinds(member: Member) -> list[bytes]:
    """Return what a member has read: ``s`` for a message of the stream, ``r`` for a reply."""
    return [frame[2:3] for frame in cut(bytes(member.data))]


@pytest.mark.parametrize("under_way", [False, True], ids=["no flush", "a flush under way"])
def test_what_is_sent_in_order_comes_after_what_is_pending(
    under_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 1)
    with hall() as room:
        members = [room.join() for _ in range(3)]
        before = [b"s"] * under_way
        if under_way:
            room.publish(message(0))
            room.work()
        room.publish(message(1))
        for number, each in enumerate(members):
            room.reply(each, answer(number), in_order=True)
            room.reply(each, answer(number))  # behind that, though it need not wait for anything
        room.deliver(*members)
        room.publish(message(2))
        room.deliver(*members)
        for each in members:
            room.check(each)
            assert kinds(each) == [*before, b"s", b"r", b"r", b"s"]


def test_what_is_sent_in_order_comes_after_all_blobs_of_what_is_pending() -> None:
    with hall(lag_limit=8 << 20) as room:
        member = room.join()
        for number in range(8):
            room.publish(message(number, 60_000))
        room.reply(member, answer(0), in_order=True)
        room.deliver(member)
        room.check(member)
        assert kinds(member) == [b"s"] * 8 + [b"r"]


def test_what_is_sent_in_order_goes_at_once_when_nothing_is_pending_and_with_the_client_when_it_leaves() -> (
    None
):
    with hall() as room:
        member, other = room.join(), room.join()
        room.reply(member, answer(0), in_order=True)
        assert member.read()
        room.publish(message(0))
        room.reply(member, answer(1), in_order=True)
        room.fanout.complete_for(other.connection, room.now)
        assert not member.read()
        room.fanout.complete_for(member.connection, room.now)
        member.read()
        room.check(member)
        assert kinds(member) == [b"r", b"s", b"r"]


@pytest.mark.usefixtures("pages")
@PAIRS
@FRAMINGS
def test_a_client_that_never_reads_is_cut_off_past_the_lag_limit_and_costs_no_memory(
    make: Callable[[], SocketPair], framing: Framing
) -> None:
    with hall(framing) as room:
        prompt, stalled = room.join(make), room.join(make)
        for number in range(100):
            room.publish(message(number, 10_000))
            room.deliver_to_prompt(prompt)
        assert room.gone == {stalled.connection: None}
        room.check(prompt)
        assert len(room.fanout) == 1
        assert room.fanout.stream.end - room.fanout.stream.start <= LAG + 10_100  # and one blob


def test_clients_beyond_one_slice_get_the_same_and_the_loop_has_a_turn_in_between() -> None:
    with hall() as room:
        members = [room.join() for _ in range(2 * SLICE + 3)]
        room.publish(message(0))
        room.work()
        assert [bool(each.read()) for each in members].count(True) == SLICE
        assert not room.fanout.idle
        room.publish(message(1))
        room.work()
        assert [bool(each.read()) for each in members].count(True) == SLICE
        room.deliver(*members)
        for each in members:
            room.check(each)


@pytest.mark.usefixtures("pages")
@FRAMINGS
def test_much_at_once_goes_out_in_blobs_of_whole_frames_that_are_not_too_long(framing: Framing) -> None:
    with hall(framing, lag_limit=4 << 20) as room:
        members = [room.join(tcp_pair) for _ in range(3)]
        sizes = random.Random(5).choices([0, 90, 1_000, 60_000], weights=[50, 50, 20, 1], k=4_000)
        room.publish(*[message(number, size) for number, size in enumerate(sizes)])
        offsets = [0, *accumulate(map(len, room.published))]
        ends = [0]
        while room.fanout.due() is not None:
            room.work()
            stream = room.fanout.stream
            assert stream.end == offsets[stream.messages], "a blob ends inside a frame, or is miscounted"
            if stream.end != ends[-1]:
                ends.append(stream.end)
        assert ends[-1] == offsets[-1]
        assert max(map(sub, ends[1:], ends)) <= ENOUGH
        assert min(map(sub, ends[1:-1], ends)) > ENOUGH - max(map(len, room.published))
        room.deliver(*members)
        for each in members:
            room.check(each)


def test_who_joins_in_the_middle_of_a_flush_gets_the_next_message_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SLICE", 1)
    with hall() as room:
        members = [room.join() for _ in range(3)]
        room.publish(message(0))
        room.work()
        newcomer = room.join()
        assert newcomer.joined_at == 1
        room.publish(message(1))
        room.deliver(*members, newcomer)
        for each in [*members, newcomer]:
            room.check(each)


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("late", [False, True])
@FRAMINGS
def test_who_leaves_in_the_middle_of_a_flush_is_sent_nothing_more(
    monkeypatch: pytest.MonkeyPatch, late: bool, framing: Framing
) -> None:
    monkeypatch.setattr(module, "SLICE", 1)
    with hall(framing) as room:
        members = [room.join() for _ in range(4)]
        if late:
            room.publish(message(0, 60_000))
            room.flush()
        room.publish(message(1))
        room.work()
        for each in members[1:3]:
            room.end(each.connection)
        room.deliver(members[0], members[3])
        room.check(members[0])
        room.check(members[3])
        assert not room.gone
        assert len(room.fanout) == 2


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def big_blobs(room: Hall, count: int) -> None:
    """So much that it goes by way of pages, and more than a socket takes."""
    for number in range(count):
        room.publish(*[message(number * 100 + each, 1_000) for each in range(SHARED_SIZE // 1_000 + 1)])
        room.flush()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has pages that sockets share")
@PAIRS
@FRAMINGS
def test_shared_pages_hold_what_was_sent_however_late_it_is_read(
    make: Callable[[], SocketPair], framing: Framing
) -> None:
    with hall(framing, lag_limit=64 << 20) as room:
        members = [room.join(make) for _ in range(SHARED_BY)]
        before = descriptors()
        big_blobs(room, 30)
        assert room.fanout.late == len(members)  # nobody has read anything
        assert descriptors() == before
        room.deliver(*members)
        for each in members:
            room.check(each)


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "no descriptor"), AttributeError("not Linux")])
def test_where_no_pages_can_be_had_everybody_gets_a_copy(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    asked = []

    def refuse(*arguments: object) -> int:
        asked.append(arguments)
        raise fault

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    with hall() as room:
        members = [room.join() for _ in range(SHARED_BY)]
        big_blobs(room, 2)
        room.deliver(*members)
        for each in members:
            room.check(each)
    assert asked


def test_no_memory_for_pages_costs_no_descriptor_and_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with hall() as room:
        members = [room.join() for _ in range(SHARED_BY)]
        before = descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda descriptor, data, offset: len(data) // 2)
            big_blobs(room, 1)
        assert descriptors() == before
        room.deliver(*members)
        for each in members:
            room.check(each)


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("late", [False, True])
@FRAMINGS
def test_a_peer_that_has_closed_is_told_once_with_its_error(late: bool, framing: Framing) -> None:
    with hall(framing) as room:
        gone, other = room.join(), room.join()
        if late:
            room.publish(message(0, 60_000))
            room.flush()
        gone.sock.close()
        room.publish(message(1))
        room.reply(gone, answer(0))
        room.deliver(other)
        assert isinstance(room.gone[gone.connection], ConnectionError)
        room.check(other)


# Is the room faster than its members?


# How many are far behind, how many are not, and whether that is most of them.
MAJORITIES = [(1, 0, True), (2, 1, True), (1, 1, False), (1, 3, False)]


def late_hall(stack: ExitStack, late: int, prompt: int) -> Hall:
    """A room where so many are far behind and so many are not."""
    room = stack.enter_context(hall())
    stalled = [room.join() for _ in range(late)]
    reading = [room.join() for _ in range(prompt)]
    for number in range(20):
        room.publish(message(number, 10_000))
        room.deliver_to_prompt(*reading)
    assert room.fanout.late == len(stalled)
    return room


def _must_hold(room: Hall, later: float) -> bool:
    """Whether the hub would let the senders of a room with nobody else wait."""
    return most_struggle(room.fanout.struggling(room.now + later), len(room.fanout))


@pytest.mark.parametrize(
    ("late", "prompt", "hold"), [(1, 0, True), (2, 1, True), (1, 1, False), (1, 3, False)]
)
def test_a_room_is_held_when_most_are_far_behind_although_they_are_quick(
    late: int, prompt: int, hold: bool
) -> None:
    with ExitStack() as stack:
        room = late_hall(stack, late, prompt)
        assert _must_hold(room, 0.1) is hold


def test_a_room_is_not_held_for_those_that_do_not_read() -> None:
    with ExitStack() as stack:
        room = late_hall(stack, 2, 1)
        assert _must_hold(room, 60.0) is False


def test_a_room_is_not_held_any_more_once_they_have_caught_up() -> None:
    with ExitStack() as stack:
        room = late_hall(stack, 2, 0)
        assert _must_hold(room, 0.1)
        room.deliver(*room.members)
        assert not _must_hold(room, 0.2)


# Everything at once.

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["publish", "publish", "reply", "read", "read", "work", "turn", "join", "leave"]),
        st.integers(0, 1 << 30),
    ),
    min_size=10,
    max_size=120,
)


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("slice_size", [1, 3, SLICE])
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(framing=st.sampled_from([PLAIN_FRAMING, WEBSOCKET_FRAMING]), steps=STEPS)
def test_any_interleaving_gives_every_client_exactly_its_bytes(
    monkeypatch: pytest.MonkeyPatch, slice_size: int, framing: Framing, steps: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(module, "SLICE", slice_size)
    with hall(framing, lag_limit=64 << 20) as room:
        present = [room.join() for _ in range(3)]
        for number, (step, seed) in enumerate(steps):
            take_step(room, present, step, number, random.Random(seed))
        room.deliver(*present)
        for each in present:
            room.check(each)
        assert not room.gone


def take_step(room: Hall, present: list[Member], step: str, number: int, chance: random.Random) -> None:
    size = chance.choice([0, 10, 1_000, 20_000])
    if step == "publish":
        room.publish(message(number, size), message(number + 1000))
    elif step == "work":
        room.work()
    elif step == "turn":
        room.turn()
    elif step == "join":
        present.append(room.join())
    elif present and step == "reply":
        room.reply(chance.choice(present), answer(number, size))
    elif present and step == "read":
        chance.choice(present).read(chance.choice([1, 100, 5_000, 100_000]))
    elif present and step == "leave":
        room.end(present.pop(chance.randrange(len(present))).connection)


# From one worker to another.


@PAIRS
def test_a_late_client_in_a_busy_room_is_tried_again_before_the_system_is_asked(
    make: Callable[[], SocketPair],
) -> None:
    with hall(lag_limit=16 << 20) as room:
        member = room.join(make)
        while not room.fanout.late:
            room.publish(message(len(room.published), 50_000))
            room.flush()
        assert not member.connection.interest & WRITE, "the next flush will try"
        member.read()
        room.publish(message(len(room.published), 50_000))
        room.flush()
        assert not member.connection.interest & WRITE or not room.fanout.late
        # One that takes nothing is not tried for ever.
        while not room.fanout.late or not member.connection.interest & WRITE:
            room.publish(message(len(room.published), 50_000))
            room.flush()
        room.deliver(member)
        assert not member.connection.interest & WRITE
        room.check(member)


@PAIRS
def test_a_late_client_in_a_room_that_falls_silent_waits_for_its_socket(
    make: Callable[[], SocketPair],
) -> None:
    with hall(lag_limit=16 << 20) as room:
        member = room.join(make)
        while not room.fanout.late:
            room.publish(message(len(room.published), 50_000))
            room.flush()
        assert room.fanout.due() is not None
        room.now += TRY_AGAIN
        room.work()
        assert member.connection.interest & WRITE
        assert room.fanout.due() is None
        room.deliver(member)
        room.check(member)


class Mover:
    """Two fan-outs of one room, as two workers have them, and the members that go from one to the other."""

    def __init__(self, lag_limit: int = LAG) -> None:
        self.halls = [Hall(lag_limit=lag_limit, keeps=True) for _ in range(2)]
        # Offsets are private to each of them.
        stream = self.halls[1].fanout.stream
        stream.append(bytes(12_345), 1)
        stream.begin(0)
        # How much of what was published each has got.
        self.heard = [0, 0]
        self.published: list[bytes] = []

    def publish(self, frame: bytes) -> None:
        self.published.append(frame)

    def hear(self, which: int, count: int = 1 << 30) -> None:
        """Let one of them have more of what was published, in one blob."""
        frames = self.published[self.heard[which] :][:count]
        self.heard[which] += len(frames)
        if frames:
            self.halls[which].publish(*frames)

    def move(self, member: Member, source: int, target: int) -> None:
        """Take a member out of one and go on with it in the other, as workers do."""
        old, new = self.halls[source], self.halls[target]
        while not old.fanout.between_flushes:
            old.work()
        connection = member.connection
        connection.unwatch(old.reactor)
        place = old.fanout.take_out(connection)
        assert connection not in old.fanout
        again = Connection(connection.identity, connection.sock, "192.0.2.1", 1, PlainDialect())
        again.outbox, again.outbox_open = connection.outbox, connection.outbox_open
        again.on_event = partial(new.on_event, again)
        member.connection = again
        old.members.remove(member)
        new.members.append(member)
        new.fanout.resume(again, place)

    def close(self) -> None:
        for each in self.halls:
            each.close()


@contextmanager
def mover(lag_limit: int = LAG) -> Iterator[Mover]:
    made = Mover(lag_limit)
    try:
        yield made
    finally:
        made.close()


STEP = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([0, 10, 3_000, 20_000])),
    st.tuples(st.just("hear"), st.integers(0, 1)),
    st.tuples(st.just("reply"), st.sampled_from([0, 50, 9_000])),
    st.tuples(st.just("read"), st.sampled_from([1, 700, 30_000])),
    st.tuples(st.just("turn"), st.integers(0, 1)),
    st.tuples(st.just("move"), st.just(0)),
)


@pytest.mark.usefixtures("pages")
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(st.lists(STEP, max_size=60), st.sampled_from([unix_pair, tcp_pair]))
def test_wherever_and_whenever_a_client_is_moved_it_gets_the_same_bytes(
    steps: list[tuple[str, int]], make: Callable[[], SocketPair]
) -> None:
    """Late, early, live, with an outbox begun or not; and the two fan-outs hear at different times."""
    with mover(lag_limit=16 << 20) as made:
        member = made.halls[0].join(make)
        where = 0
        for number, (what, value) in enumerate(steps):
            if what == "publish":
                made.publish(message(number, value))
            elif what == "hear":
                made.hear(value)
            elif what == "reply":
                made.halls[where].reply(member, answer(number, value))
            elif what == "read":
                member.read(value)
            elif what == "turn":
                made.halls[value].turn()
            else:
                made.move(member, where, 1 - where)
                where = 1 - where
        for which in (0, 1):
            made.hear(which)
            made.halls[which].flush()

        def has_everything() -> bool:
            for each in made.halls:
                each.turn()
            member.read()
            everything = sum(map(len, [*made.published, *member.replies]))
            return len(member.data) >= everything and not made.halls[where].fanout.late

        eventually(has_everything, "the last bytes")
        frames = list(cut(bytes(member.data)))
        assert [each for each in frames if each[2:3] == b"s"] == made.published
        assert [each for each in frames if each[2:3] == b"r"] == member.replies
        assert made.halls[where].fanout.late == 0
        assert not made.halls[0].gone
        assert not made.halls[1].gone
        # Each message is counted once for it, wherever it was given.
        assert sum(each.counters.delivered for each in made.halls) == len(made.published)


def test_a_client_that_is_ahead_waits_until_the_stream_has_come_there() -> None:
    with mover() as made:
        member = made.halls[0].join()
        for number in range(4):
            made.publish(message(number))
        made.hear(0, 3)
        made.halls[0].flush()
        made.hear(1, 1)
        made.halls[1].flush()
        made.move(member, 0, 1)
        assert made.halls[1].fanout.late == 1
        made.halls[1].reply(member, answer(9))
        made.hear(1, 1)
        made.halls[1].flush()
        made.halls[1].turn()
        member.read()
        assert list(cut(bytes(member.data))) == made.published[:3], "nothing yet, the answer neither"
        made.hear(1)
        made.halls[1].flush()

        def has_all() -> bool:
            made.halls[1].turn()
            member.read()
            return len(list(cut(bytes(member.data)))) == 5

        eventually(has_all, "the last message and the answer")
        assert made.halls[1].fanout.late == 0


def test_a_client_that_has_fallen_out_of_the_next_workers_stream_is_a_slow_consumer() -> None:
    with mover(lag_limit=1000) as made:
        member = made.halls[0].join()
        made.publish(message(1, 60_000))
        made.hear(0)
        made.halls[0].flush()
        assert made.halls[0].fanout.late == 1
        made.halls[1].fanout.stream.begin(2)
        made.move(member, 0, 1)
        assert list(made.halls[1].gone.values()) == [None]


def test_how_far_the_one_furthest_behind_has_got() -> None:
    with hall() as room:
        prompt, slow = room.join(), room.join()
        both = [prompt.connection, slow.connection]
        fanout = room.fanout
        room.publish(message(1, 100))
        room.flush()
        assert fanout.furthest_behind([]) == fanout.furthest_behind(both) == 1
        room.publish(message(2, 100), message(3, 60_000))
        room.flush()
        while prompt.connection.cursor != LIVE:
            prompt.read()
            room.turn()
        assert slow.connection.cursor > fanout.stream.start
        assert fanout.furthest_behind(both) == 2
        assert fanout.furthest_behind(both[:1]) == 3
