"""All that a worker keeps for single clients is counted to the byte, and stays below one limit."""

import random
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from support.harness import Client, frame, raw_frame
from support.one_worker import ROOM, Bench

import mpchat.worker
from mpchat.ipc.connection_state import ConnectionState, encode_state
from mpchat.ipc.handoff import ConnectionInTransit
from mpchat.ipc.items import Down
from mpchat.ipc.reasons import SLOW, UNREAD
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.worker.connection import Connection
from mpchat.worker.outboxes import MADE_FREE, OUTBOX_COST, Outboxes, charge

LIMIT = 4 << 20
# More bytes than the system takes for a client that does not read.
MUCH = 8 << 20


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(answers_memory=LIMIT)
    yield made
    made.close()


def filled(bench: Bench, identity: int, size: int) -> Connection:
    """Return a member that has ``size`` bytes in its outbox, and whose socket takes nothing more."""
    _, connection = bench.member(identity)
    fill_socket(connection)
    bench.worker.clients.reply(connection, bytes(size))
    assert connection.closed or len(connection.outbox) == size
    return connection


def fill_socket(connection: Connection) -> None:
    with suppress(BlockingIOError):
        while True:
            connection.sock.send(bytes(1 << 20))


def take(bench: Bench, connection: Connection, state: ConnectionState) -> None:
    """Let the worker take a connection that comes back to it."""
    arrived = ConnectionInTransit(connection.identity, "127.0.0.1", 1, encode_state(state))
    bench.worker.migration.take(arrived, connection.sock)


def is_exact(bench: Bench) -> bool:
    connections = bench.worker.clients.by_identity.values()
    return bench.worker.clients.outboxes.held == sum(charge(len(each.outbox)) for each in connections)


def ended(bench: Bench) -> int:
    return bench.worker.counters.ended[UNREAD]


def test_past_the_limit_the_client_that_holds_most_is_cut_off(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {1: LIMIT // 10, 2: LIMIT * 4 // 10, 3: LIMIT // 5}
    connections = {number: filled(bench, number, size) for number, size in sizes.items()}
    assert ended(bench) == 0
    last = filled(bench, 4, LIMIT // 8)
    assert [number for number, each in connections.items() if each.closed] == [2]
    assert not last.closed
    assert ended(bench) == 1
    assert f"= ended, {UNREAD}: {connections[2].address}" in caplog.text
    assert is_exact(bench)
    assert bench.worker.clients.outboxes.held <= LIMIT - LIMIT // MADE_FREE


@pytest.mark.parametrize("kind", [Down.TELL, Down.ENTER], ids=["private messages", "the past"])
def test_what_comes_for_clients_that_do_not_read_stays_below_the_limit(bench: Bench, kind: Down) -> None:
    for number in range(1, 40):
        fill_socket(bench.member(number)[1])
    part = frame("x" * 50_000)
    most = 0
    for turn in range(8):
        for number in range(1, 40):
            head = number if kind == Down.TELL else (number, ROOM, 0, turn == 7)
            bench.order(kind, (head, part))
            most = max(most, bench.worker.clients.outboxes.held)
    assert LIMIT - (128 << 10) < most <= LIMIT
    assert 0 < ended(bench) < 39
    assert is_exact(bench)


def test_a_client_that_takes_what_it_is_owed_of_a_room_along_counts(bench: Bench) -> None:
    late = [bench.member(number)[1] for number in (1, 2)]
    said = frame("x" * 50_000)
    for _ in range(MUCH // len(said) - 20):
        bench.worker.rooms.publish([(ROOM, 1, len(said))], said)
        bench.room().complete(time.monotonic(), pending=True)
    assert all(each.cursor > 0 for each in late)
    owed = [bench.room().owed_size(each) for each in late]
    assert bench.worker.clients.outboxes.held == 0
    assert all(each > LIMIT // 2 for each in owed), "otherwise this test says nothing"
    for number in (1, 2):
        bench.order(Down.ENTER, ((number, ROOM + number, 0, True), b""))
        assert bench.worker.clients.outboxes.held <= LIMIT
    assert is_exact(bench)
    assert ended(bench) + bench.worker.counters.ended[SLOW] >= 1


def test_what_moved_connections_bring_along_counts_and_what_they_take_away_does_not(bench: Bench) -> None:
    connection = filled(bench, 1, LIMIT // 2)
    state = bench.worker.migration.export_state(connection)
    assert bench.worker.clients.outboxes.held == 0
    bench.take(1, connection.sock, state)
    assert is_exact(bench)
    assert bench.worker.clients.outboxes.held == charge(LIMIT // 2)
    other = bench.member(2)[1]
    fill_socket(other)
    empty = bench.worker.migration.export_state(other)
    take(bench, other, msgspec.structs.replace(empty, outbox=bytes(LIMIT * 3 // 4)))
    assert list(bench.worker.clients.by_identity) == [1]
    assert ended(bench) == 1
    assert is_exact(bench)


def test_a_client_that_reads_gets_all_and_is_not_counted_any_more(bench: Bench) -> None:
    client, connection = bench.member(1)
    answer = raw_frame(b"a" * 60_000) * (LIMIT * 3 // 4 // 60_002)
    bench.worker.clients.reply(connection, answer)
    assert connection.outbox
    bench.room().work(time.monotonic())  # from now on the loop waits for the socket
    read = bytearray()
    client.sock.setblocking(False)

    def has_all() -> bool:
        with suppress(BlockingIOError):
            read.extend(client.sock.recv(1 << 20))
        return len(read) >= len(answer)

    bench.until(has_all)
    assert bytes(read) == answer
    bench.until(lambda: bench.worker.clients.outboxes.held == 0)


class Events:
    """What happens to the connections of a worker, one random thing after the other."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.choose = random.Random(seed)
        self.clients: dict[int, Client] = {}

    def happen(self) -> str:
        """Let one of them happen; return which."""
        here = self.bench.worker.clients.by_identity
        open_ = [each for each in here if self.clients[each].sock.fileno() >= 0]
        often, seldom = [self.tell, self.answer, self.enter, self.read, self.move], [self.go, self.kick]
        kinds = [*often * 4, *seldom, self.say]
        event = self.choose.choice(kinds) if open_ and self.choose.random() < 0.9 else self.come
        event(self.choose.choice(open_) if open_ else 0)
        return event.__name__

    def come(self, _: int) -> None:
        identity = len(self.clients) + 1
        self.clients[identity], connection = self.bench.member(identity)
        if not connection.closed:  # what it would go on with may be forgotten
            fill_socket(connection)

    def tell(self, identity: int) -> None:
        self.bench.order(Down.TELL, (identity, frame("x" * self.choose.choice([0, 50, 60_000]))))

    def answer(self, identity: int) -> None:
        connection = self.bench.worker.clients.by_identity[identity]
        self.bench.worker.clients.reply(connection, bytes(self.choose.choice([10, 900_000])))

    def enter(self, identity: int) -> None:
        room, live = ROOM + self.choose.randrange(3), self.choose.random() < 0.7
        self.bench.order(Down.ENTER, ((identity, room, 0, live), frame("y" * 20_000)))

    def say(self, _: int) -> None:
        said = frame("z" * 60_000) * 20
        self.bench.worker.rooms.publish([(ROOM, 20, len(said))], said)
        self.bench.worker.rooms.work(time.monotonic())

    def read(self, identity: int) -> None:
        self.clients[identity].sock.setblocking(False)
        with suppress(BlockingIOError):
            self.clients[identity].sock.recv(4 << 20)

    def go(self, identity: int) -> None:
        self.clients[identity].close()

    def kick(self, identity: int) -> None:
        self.bench.worker.clients.kick(self.bench.worker.clients.by_identity[identity].address)

    def move(self, identity: int) -> None:
        connection = self.bench.worker.clients.by_identity[identity]
        take(self.bench, connection, self.bench.worker.migration.export_state(connection))


def test_whatever_happens_the_sum_is_exact(bench: Bench) -> None:
    events = Events(bench, seed=7)
    for step in range(500):
        what = events.happen()
        bench.worker.clients.reading.begin_round()
        bench.worker.reactor.turn(0.0)
        assert is_exact(bench), f"step {step}, {what}"
        assert bench.worker.clients.outboxes.held <= LIMIT, f"step {step}, {what}"
    assert ended(bench) > 1


def test_one_module_alone_changes_outboxes() -> None:
    changed = {
        path.name
        for path in Path(mpchat.worker.__file__).parent.glob("*.py")
        if re.search(r"\.outbox\s*\+?=(?!=)", path.read_text())
    }
    assert changed == {"outboxes.py"}


class Some:
    """As much of a connection as its outbox needs."""

    def __init__(self, size: int) -> None:
        self.outbox = bytes(size)


@pytest.mark.parametrize("count", [100, 10_000])
def test_to_cut_off_one_after_the_other_does_not_mean_to_look_at_all_for_each(count: int) -> None:
    """Ten thousand clients that hold the same, and one that comes for each that is cut off."""
    size = 1000
    outboxes = Outboxes(count * charge(size))
    connections: dict[int, Connection] = {}
    looks = cut_off = 0
    for number in range(2 * count):
        connection = Connection(number, None, "", 0, PlainDialect())  # type: ignore[arg-type]
        connections[number] = connection
        outboxes.put(connection, bytes(size))
        if outboxes.over:
            looks += 1
            for each in outboxes.largest(connections.values()):
                outboxes.drop(each)
                del connections[each.identity]
                cut_off += 1
    assert cut_off >= count
    assert looks <= MADE_FREE + 2


def test_the_charge_covers_the_object_and_the_room_to_spare() -> None:
    assert charge(0) == 0
    outboxes = Outboxes(1 << 30)
    connection = Connection(1, None, "", 0, PlainDialect())  # type: ignore[arg-type]
    for _ in range(10_000):
        outboxes.put(connection, b"x" * 61)
        assert connection.outbox.__sizeof__() <= charge(len(connection.outbox))
    assert charge(1) > OUTBOX_COST
