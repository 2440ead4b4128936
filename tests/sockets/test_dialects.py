"""A further dialect is one class and one entry of a table: fan-out, rooms and moves are used as they are."""

from collections.abc import Iterator
from contextlib import suppress
from math import inf
from typing import ClassVar

import pytest
from support.crowd import payloads
from support.harness import Client, raw_frame
from support.one_worker import ROOM, Bench

from mpchat.ipc.connection_state import ConnectionState
from mpchat.ipc.items import PLAIN, Down
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.dialects import DIALECTS
from mpchat.protocol.framing import Framing
from mpchat.protocol.session import DialectState, Session
from mpchat.worker import migration
from mpchat.worker.connection import Connection

HEAD = 4


def long_frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(HEAD, "big") + payload


def long_frames(data: bytes) -> Iterator[bytes]:
    """Cut a stream of whole frames into payloads."""
    while data:
        end = HEAD + int.from_bytes(data[:HEAD], "big")
        assert len(data) >= end, "the stream ends inside a frame"
        yield data[HEAD:end]
        data = data[end:]


class LongFraming:
    """Four bytes of length in front of each payload."""

    def encode(self, frames: bytes) -> bytes:
        return b"".join(map(long_frame, payloads(frames)))

    def leading(self, frames: bytes, most: int) -> tuple[int, int]:
        count = end = 0
        while end < len(frames):
            after = end + HEAD + int.from_bytes(frames[end : end + HEAD], "big")
            if after > most:
                break
            count, end = count + 1, after
        return count, end

    def cut(self, frames: bytes, count: int) -> int:
        end = 0
        for _ in range(count):
            end += HEAD + int.from_bytes(frames[end : end + HEAD], "big")
        return end


class LongDialect(Session):
    """The toy: the same payloads in longer frames."""

    name: ClassVar[str] = "long"
    framing: ClassVar[Framing] = LongFraming()

    def __init__(self, limit: int = 60_000, resumed: DialectState | None = None) -> None:
        super().__init__(limit, asked=resumed is not None and resumed.asked)
        self._partial = resumed.partial if resumed else b""

    has_more = False  # it takes all at once

    @property
    def mid_frame(self) -> bool:
        return bool(self._partial)

    @property
    def held(self) -> int:
        return len(self._partial)

    def receive_data(self, data: bytes, posts: list[tuple[int, bytes]], most: float = inf) -> bytes:
        data = self._partial + data
        _, end = self.framing.leading(data, len(data))
        self._partial = data[end:]
        replies: list[bytes] = []
        for payload in long_frames(data[:end]):
            self.take(payload, posts, replies)
        return b"".join([*replies, self.end_run()])

    def receive_eof(self) -> bool:
        return not self._partial

    def export(self) -> DialectState:
        return DialectState(self._partial, 0, self.asked)


def speaking_long(number: int = 0) -> ConnectionState:
    """Return the state of a client that speaks it and has got ``number`` frames of the plain stream."""
    return ConnectionState(
        "long", DialectState(), PLAIN, Place(number), b"", False, 0.0, None, 0.0, 100.0, 0.0
    )


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bench, Bench]]:
    """Two workers that know the dialect."""
    monkeypatch.setattr(migration, "DIALECTS", {**DIALECTS, LongDialect.name: LongDialect})
    made = Bench(), Bench()
    yield made
    for each in made:
        each.close()


def read(bench: Bench, client: Client, size: int) -> bytes:
    """Let the worker work until the client has read ``size`` bytes."""
    data = bytearray()
    client.sock.setblocking(False)

    def has_all() -> bool:
        bench.worker.rooms.work(bench.worker.reactor.now + 1)
        with suppress(BlockingIOError):
            data.extend(client.sock.recv(1 << 20))
        return len(data) >= size

    bench.until(has_all)
    return bytes(data)


def say(bench: Bench, *texts: bytes) -> None:
    frames = b"".join(map(raw_frame, texts))
    bench.order(Down.BATCH, (len(texts), frames))


def test_both_dialects_read_the_same_stream_each_in_its_frames(benches: tuple[Bench, Bench]) -> None:
    bench, _ = benches
    plain, _ = bench.connect(1)
    assert list(bench.worker.rooms._plain_too) == [], "a dialect that is not used costs nothing"
    say(bench, b"before")
    assert read(bench, plain, 8) == raw_frame(b"before")
    other, connection = bench.connect(2, speaking_long(1))
    say(bench, b"one", b"two")
    assert list(long_frames(read(bench, other, 14))) == [b"one", b"two"]
    assert list(payloads(read(bench, plain, 10))) == [b"one", b"two"]
    bench.worker.clients.end(connection, "gone")
    assert list(bench.worker.rooms._plain_too) == []


def test_a_message_and_an_answer_come_through_it(benches: tuple[Bench, Bench]) -> None:
    bench, _ = benches
    client, _ = bench.connect(1, speaking_long())
    client.send_raw(long_frame(b'{"message":"hello"}') + long_frame(b"junk"))
    bench.until(lambda: bool(bench.worker.uplink.posts))
    assert [(count, frames) for _, count, frames in bench.worker.uplink.posts] == [
        (1, raw_frame(b'{"message":"hello"}'))
    ]
    data = read(bench, client, HEAD + 1)
    assert b'"not_json"' in next(long_frames(data))


def late_in_the_middle_of_a_frame(bench: Bench, connection: Connection, count: int) -> list[bytes]:
    """Say so much that a client that does not read is late."""
    said = [b"%d" % number + bytes(50_000) for number in range(count)]
    for text in said:
        say(bench, text)
        bench.worker.rooms.work(bench.worker.reactor.now + 1)
        for fanout in list(bench.worker.rooms.busy):
            fanout.complete(bench.worker.reactor.now, pending=True)
    assert connection.cursor > 0
    return said


def test_a_move_goes_on_in_the_middle_of_a_frame_both_ways(benches: tuple[Bench, Bench]) -> None:
    """The next worker has the same frames, in one blob, and has not had a client of the dialect before."""
    first, second = benches
    client, connection = first.connect(1, speaking_long())
    said = late_in_the_middle_of_a_frame(first, connection, 120)
    post = long_frame(b'{"message":"in two pieces"}')
    client.send_raw(post[:9])
    first.until(lambda: connection.dialect.mid_frame)
    state = first.worker.migration.export_state(connection)
    assert (state.dialect, state.dialect_state.partial) == ("long", post[:9])
    assert state.place.byte > 0
    second.order(Down.BEGIN, 0)
    second.order(Down.FILL, (len(said), b"".join(map(raw_frame, said))))
    second.take(1, connection.sock, state)
    client.send_raw(post[9:])
    second.until(lambda: bool(second.worker.uplink.posts))
    assert second.worker.uplink.posts[0][2] == raw_frame(b'{"message":"in two pieces"}')
    say(second, b"after")
    size = sum(len(long_frame(each)) for each in [*said, b"after"])
    assert list(long_frames(read(second, client, size))) == [*said, b"after"]


def test_a_member_reads_its_room_in_its_own_dialect(benches: tuple[Bench, Bench]) -> None:
    bench, _ = benches
    plain, _ = bench.member(1)
    other, connection = bench.connect(2, speaking_long())
    other.send_raw(long_frame(b'{"join":{"name":"y"}}'))
    bench.until(lambda: connection.dialect.asked)
    bench.order(Down.ENTER, ((2, ROOM, 0, True), raw_frame(b"welcome")))
    bench.order(Down.TELL, (2, raw_frame(b"for you alone")))
    bench.order(Down.ROOMS, ([(ROOM, 2, 10)], raw_frame(b"one") + raw_frame(b"two")))
    assert sorted(long_frames(read(bench, other, 4 * HEAD + 26))) == [
        b"for you alone",
        b"one",
        b"two",
        b"welcome",
    ]
    assert list(payloads(read(bench, plain, 10))) == [b"one", b"two"]
    assert bench.worker.counters.delivered == 4
