"""HTTP at a worker: many requests of one connection, in any pieces, from clients that are slow or gone."""

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.harness import Client, frame
from support.one_worker import Bench, unread
from support.websocket_peer import HANDSHAKE

from mpchat.ipc.connection_state import decode_state, encode_state
from mpchat.ipc.items import Down
from mpchat.protocol.http import HEAD_LIMIT, HttpDialect
from mpchat.reactor import READ
from mpchat.worker import budget
from mpchat.worker import site as site_module
from mpchat.worker.budget import ANSWER_COST, BUDGET
from mpchat.worker.connection import Connection
from mpchat.worker.http_answers import Site
from mpchat.worker.reading import OUTBOX_LIMIT
from mpchat.worker.site import File
from mpchat.worker.web import HTTP_COST

# Bytes of the file that a request for /long gets.
LONG = 40_000


def request(path: str = "/healthz", method: str = "GET", **headers: str) -> bytes:
    fields = [f"{name.replace('_', '-')}: {value}" for name, value in {"Host": "a", **headers}.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *fields, "", ""]).encode()


def answers(data: bytes) -> list[tuple[int, bytes]]:
    """Cut whole answers: their statuses and bodies. A part of an answer is left out."""
    found = []
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        size = int(fields[b"content-length"])
        if len(rest) < size:
            break
        found.append((int(head.split()[1]), rest[:size]))
        data = rest[size:]
    return found


def statuses(data: bytes) -> list[int]:
    return [status for status, _ in answers(data)]


def answered(bench: Bench, client: Client, count: int = 1) -> list[tuple[int, bytes]]:
    """Return so many answers, with nothing behind them."""
    found = answers(bench.received(client, lambda data: len(answers(data)) >= count))
    assert len(found) == count
    return found


@contextmanager
def on_a_bench(**settings: object) -> Iterator[Bench]:
    made = Bench(listen_grace=60.0, **settings)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with on_a_bench() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Bench]:
    """Another worker, to which no browser has come yet."""
    with on_a_bench() as made:
        yield made


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for a budget."""
    monkeypatch.setattr(budget, "BUDGET_RATE", 1e12)


def loaded(bench: Bench) -> None:
    """Have everything loaded, and a long file among the files."""
    client, connection = bench.connect(99)
    client.send_raw(request(Connection="close"))
    bench.received_to_the_end(client)
    bench.until(lambda: connection.closed)
    site = bench.worker.clients.web._site
    assert site is not None
    files = {**site.files, "/long": File(b"x" * LONG, "text/plain", '"long"')}
    bench.worker.clients.web._site = Site(files, ())


def moved(bench: Bench, to: Bench, connection: Connection) -> Connection:
    """Move a connection as it is moved between processes."""
    state = decode_state(encode_state(bench.worker.migration.export_state(connection)))
    assert state is not None
    return to.take(connection.identity, connection.sock, state)


def overdue(bench: Bench, seconds: float = 0.0) -> None:
    """Move the clock past the time that a head may take, and ``seconds`` more."""
    late = bench.worker.reactor.now + bench.worker.config.frame_timeout + seconds + 1
    bench.worker.clients.end_overdue(late)


# Requests.


def test_a_connection_is_kept_for_further_requests(bench: Bench) -> None:
    client, connection = bench.connect(1)
    for path, status in (("/healthz", 200), ("/nothing", 404), ("/", 200)):
        client.send_raw(request(path))
        assert [each for each, _ in answered(bench, client)] == [status]
    assert not connection.closed


def test_requests_in_one_packet_are_answered_in_their_order(bench: Bench) -> None:
    client, connection = bench.connect(1)
    paths = ["/healthz", "/nothing", "/", "/ws", "/healthz"]
    client.send_raw(b"".join(map(request, paths)))
    assert [status for status, _ in answered(bench, client, 5)] == [200, 404, 200, 426, 200]
    assert not connection.closed


@pytest.mark.parametrize("begun", [b"G", request()[:10]])
def test_a_client_whose_turn_came_from_the_line_is_read_again(bench: Bench, begun: bytes) -> None:
    """On a busy worker all but the first of a round wait in the line, and are not listened to meanwhile."""
    client, connection = bench.connect(1)
    client.send_raw(begun)
    connection.no_longer(bench.worker.reactor, READ)
    bench.worker.clients.reading._light[connection] = None
    bench.until(lambda: connection in bench.worker.clients.reading.half)
    client.send_raw(request()[len(begun) :])
    assert [status for status, _ in answered(bench, client)] == [200]


def test_requests_in_any_two_pieces_and_byte_by_byte(bench: Bench) -> None:
    both = request("/healthz") + request("/nothing")
    client, _ = bench.connect(1)
    for cut in range(1, len(both)):
        client.send_raw(both[:cut])
        bench.turn()
        client.send_raw(both[cut:])
        bench.worker.clients.by_identity[1].budget = BUDGET
        assert [status for status, _ in answered(bench, client, 2)] == [200, 404]
    for byte in both:
        client.send_raw(bytes((byte,)))
        bench.turn()
    assert [status for status, _ in answered(bench, client, 2)] == [200, 404]


@pytest.mark.parametrize("size", [HEAD_LIMIT + 1, 100_000, 300_000])
@pytest.mark.parametrize("ended", [False, True])
def test_a_head_that_is_too_long_is_told_so_before_an_orderly_end(
    bench: Bench, size: int, *, ended: bool
) -> None:
    head = request(X="y" * size)
    client, connection = bench.connect(1)
    sender = threading.Thread(target=client.sock.sendall, args=(head if ended else head[:-4],))
    sender.start()
    bench.until(lambda: connection.closed)
    bench.until(lambda: not sender.is_alive())
    sender.join()
    (status, body), *more = answers(bench.received_to_the_end(client))
    assert (status, more) == (431, [])
    assert b"8192 bytes" in body


def test_a_body_ends_the_connection_after_the_answer_and_not_with_a_reset(bench: Bench) -> None:
    client, connection = bench.connect(1)
    body = b"x" * 500_000
    posted = request("/", "POST", Content_Length=f"{len(body)}") + body
    sender = threading.Thread(target=client.sock.sendall, args=(posted,))
    sender.start()
    bench.until(lambda: connection.closed)
    bench.until(lambda: not sender.is_alive())
    sender.join()
    assert statuses(bench.received_to_the_end(client)) == [405]
    client.close()
    bench.until(lambda: not len(bench.worker.clients.lingering))


def test_a_client_that_ends_its_stream_behind_a_request_gets_the_answer(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request())
    client.sock.shutdown(socket.SHUT_WR)
    assert statuses(bench.received_to_the_end(client)) == [200]
    bench.until(lambda: connection.closed)


# Which pages may connect.


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://other.example", 101), ("http://a", 101), ("https://third.example", 403), ("null", 403)],
)
def test_the_setting_origins_decides_which_pages_connect(origin: str, status: int) -> None:
    with on_a_bench(origins=("https://other.example",)) as bench:
        client, connection = bench.connect(1)
        client.send_raw(HANDSHAKE[:-2] + f"Origin: {origin}\r\n\r\n".encode())
        head = bench.received(client, lambda data: b"\r\n\r\n" in data)
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert connection.dialect.name == ("websocket" if status == 101 else "http")


# Time.


def test_a_head_that_comes_too_slowly_is_told_so_however_steadily_it_comes(bench: Bench) -> None:
    client, connection = bench.connect(1)
    reading = bench.worker.clients.reading
    client.send_raw(request()[:10])
    bench.until(lambda: connection in reading.half)
    reading.half[connection] -= bench.worker.config.frame_timeout
    client.send_raw(request()[10:12])
    bench.until(lambda: connection.dialect.held == 12)
    assert not connection.closed
    bench.until(lambda: bench.worker.clients.web._site is not None)
    bench.worker.clients.end_overdue(bench.worker.reactor.now + 1)
    (status, body), *_ = answers(bench.received_to_the_end(client))
    assert status == 408
    assert b"30 seconds" in body
    assert bench.worker.counters.ended["half a frame"] == 1


def test_the_time_for_a_head_begins_with_the_head(bench: Bench) -> None:
    client, connection = bench.connect(1)
    reading = bench.worker.clients.reading
    client.send_raw(request())
    answered(bench, client)
    reading.half[connection] -= bench.worker.config.frame_timeout
    client.send_raw(request()[:10])
    bench.until(lambda: connection.dialect.held == 10)
    bench.worker.clients.end_overdue(bench.worker.reactor.now + 1)
    client.send_raw(request()[10:])
    assert [status for status, _ in answered(bench, client)] == [200]


def test_a_connection_without_a_further_request_ends_without_a_word(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request())
    answered(bench, client)
    overdue(bench)
    assert connection.closed
    assert bench.received_to_the_end(client) == b""
    assert bench.worker.counters.ended["closed"] == 1


def cramped(bench: Bench, identity: int) -> tuple[Client, Connection]:
    """Return a client and its connection, which takes less than a long answer while nobody reads."""
    client, connection = bench.connect(identity)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return client, connection


def unread_answers(bench: Bench) -> tuple[Client, Connection, int]:
    """Return a client that has read no answer, and how many it has asked for; not all have been sent."""
    loaded(bench)
    client, connection = cramped(bench, 1)
    count = 0
    while not connection.outbox:
        count += 1
        connection.budget = BUDGET
        client.send_raw(request("/long"))
        bench.until(lambda: connection.budget < BUDGET)
        bench.turn()
    assert 0 < len(connection.outbox) < OUTBOX_LIMIT
    return client, connection, count


def test_a_client_that_still_reads_its_answer_is_let_read_it(bench: Bench) -> None:
    client, connection, count = unread_answers(bench)
    overdue(bench)
    assert not connection.closed
    assert statuses(bench.received_to_the_end(client)) == [200] * count


def test_an_answer_that_is_not_read_is_not_kept_for_ever(bench: Bench) -> None:
    client, connection, count = unread_answers(bench)
    overdue(bench)
    bench.worker.clients.end_overdue(bench.worker.reactor.now + 60)
    assert connection.closed
    assert len(bench.received_to_the_end(client)) < count * LONG


# What it costs.


@pytest.mark.usefixtures("generous")
def test_a_client_that_does_not_read_its_answers_is_not_read_from(bench: Bench) -> None:
    client, connection, count = unread_answers(bench)
    client.send_raw(request("/long") * 40)
    bench.until(lambda: not connection.reading)
    bench.until(lambda: not bench.worker.clients.reading.busy)
    assert OUTBOX_LIMIT <= len(connection.outbox) < OUTBOX_LIMIT + LONG + 1000
    assert not connection.reading
    client.send_raw(request(Connection="close"))
    assert statuses(bench.received_to_the_end(client)) == [200] * (count + 41)


def test_an_answer_is_charged_by_its_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(bench)
    monkeypatch.setattr(budget, "BUDGET_RATE", 1e-6)
    client, connection = bench.connect(1)
    for path in ("/healthz", "/long", "/ws"):
        before = connection.budget
        client.send_raw(request(path))
        sent = bench.received(client, lambda data: bool(answers(data)))
        assert before - connection.budget == pytest.approx(HTTP_COST + len(sent) * ANSWER_COST, abs=1)


def test_a_client_in_a_loop_of_requests_is_slowed_down_and_gets_its_budget_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(bench)
    monkeypatch.setattr(budget, "BUDGET_RATE", 100)
    client, connection = bench.connect(1)
    count = 100
    client.send_raw(request() * count)
    bench.until(lambda: connection.quiet_until > bench.worker.reactor.now)
    bench.until(lambda: not bench.worker.clients.reading.busy)
    got = len(answers(unread(client)))
    assert BUDGET / (2 * HTTP_COST) < got < count
    assert not connection.reading
    connection.heard -= BUDGET / 100
    connection.quiet_until = 0.0
    bench.worker.clients.reading.read_again(connection)
    bench.until(lambda: connection.budget > 0)
    assert connection.budget <= BUDGET


# Ends and moves.


@pytest.mark.parametrize(
    "sent", [b"", request()[:20], request(), request() * 3 + b"GET", request(Connection="close")]
)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_nothing_is_kept_of_a_client_that_goes_away_and_nobody_is_told(
    bench: Bench, sent: bytes, how: str
) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request())
    answered(bench, client)
    client.send_raw(sent)
    getattr(client, how)()
    bench.until(lambda: connection.closed)
    clients = bench.worker.clients
    assert (len(clients), clients.reading.half, clients.outboxes.held) == (0, {}, 0)
    assert (bench.worker.uplink.left, bench.worker.counters.late) == ([], 0)


@pytest.mark.usefixtures("generous")
def test_a_client_that_goes_away_with_unread_answers_is_ended_and_gets_no_more_made(bench: Bench) -> None:
    client, connection, _ = unread_answers(bench)
    client.send_raw(request("/long") * 15)
    client.reset()
    bench.until(lambda: connection.closed)
    assert bench.worker.clients.outboxes.held == 0
    assert bench.worker.counters.late == 0


@pytest.mark.parametrize("cut", [3, 9, len(request()) - 1])
def test_a_client_is_moved_in_the_middle_of_a_head(bench: Bench, other: Bench, cut: int) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request() + request()[:cut])
    answered(bench, client)
    bench.until(lambda: connection.dialect.held == cut)
    connection = moved(bench, other, connection)
    assert isinstance(connection.dialect, HttpDialect)
    assert connection in other.worker.clients.reading.half
    client.send_raw(request()[cut:])
    assert [status for status, _ in answered(other, client)] == [200]


def test_a_client_is_moved_while_all_is_loaded(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loading(monkeypatch):
        client, connection = bench.connect(1)
        client.send_raw(request())
        bench.until(lambda: connection in bench.worker.clients.web._waiting)
        moved(bench, other, connection)
    assert [status for status, _ in answered(other, client)] == [200]
    assert unread(client) == b""
    bench.until(lambda: bench.worker.clients.web._loading is None)
    bench.turn()
    assert unread(client) == b"", "two workers have answered"
    assert not connection.closed


@pytest.mark.usefixtures("generous")
def test_a_client_is_moved_with_answers_that_it_has_not_read(bench: Bench, other: Bench) -> None:
    client, connection, count = unread_answers(bench)
    connection = moved(bench, other, connection)
    client.send_raw(request() * 2)
    assert [status for status, _ in answered(other, client, count + 2)] == [200] * (count + 2)
    assert (connection.outbox, other.worker.clients.outboxes.held) == (b"", 0)


def test_a_client_is_moved_with_the_last_answer_that_it_gets(bench: Bench, other: Bench) -> None:
    client, connection, count = unread_answers(bench)
    client.send_raw(request(Connection="close") + request())
    bench.until(lambda: connection.half_closed)
    moved(bench, other, connection)
    other.order(Down.ECHOED, [1])
    other.worker.clients.half_closed.work()
    assert statuses(other.received_to_the_end(client)) == [200] * (count + 1)


def test_the_operator_can_kick_a_browser(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request() + b"GET")
    answered(bench, client)
    assert bench.worker.clients.kick(connection.address) == 1
    assert bench.received_to_the_end(client) == b""


def test_a_kept_connection_gets_no_answer_any_more_when_the_server_stops(bench: Bench) -> None:
    client, _ = bench.connect(1)
    client.send_raw(request())
    answered(bench, client)
    bench.order(Down.DRAIN, None)
    client.send_raw(request("/readyz"))
    bench.turn()
    assert unread(client) == b""


def test_a_browser_hears_nothing_of_what_is_said(bench: Bench) -> None:
    client, _ = bench.connect(1)
    client.send_raw(request())
    answered(bench, client)
    bench.order(Down.BATCH, (1, frame("secret")))
    bench.turn()
    client.send_raw(request(Connection="close"))
    assert statuses(bench.received_to_the_end(client)) == [200]


# What answers are made with is loaded meanwhile.


def test_a_worker_to_which_no_browser_comes_does_not_load_it() -> None:
    code = "import sys, mpchat.worker.worker; print({'h11', 'websockets'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@contextmanager
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the files take as long to load as the block takes."""
    go_on, load = threading.Event(), site_module.load_site
    monkeypatch.setattr(site_module, "load_site", lambda: go_on.wait(10) and load())
    try:
        yield
    finally:
        monkeypatch.setattr(site_module, "load_site", load)
        go_on.set()


def test_others_are_served_while_all_is_loaded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with loading(monkeypatch):
        client, connection = bench.connect(1)
        client.send_raw(request())
        slow, half = bench.connect(2)
        slow.send_raw(request()[:10])
        bench.until(lambda: connection in bench.worker.clients.web._waiting and half.dialect.held == 10)
        plain, _ = bench.connect(3)
        plain.say("meanwhile")
        bench.until(lambda: bool(bench.worker.uplink.posts))
        assert unread(client) == b""
    assert [status for status, _ in answered(bench, client)] == [200]
    slow.send_raw(request()[10:])
    assert [status for status, _ in answered(bench, slow)] == [200]


def test_a_client_may_go_while_all_is_loaded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with loading(monkeypatch):
        _, connection = bench.connect(1)
        bench.clients[0].send_raw(request())
        bench.until(lambda: connection in bench.worker.clients.web._waiting)
        bench.worker.clients.end(connection, "test")
        assert bench.worker.clients.web._waiting == {}
    bench.until(lambda: bench.worker.clients.web._loading is None)


def test_when_loading_fails_the_client_is_told_and_the_next_one_may_have_more_luck(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("no such folder")

    plain, _ = bench.connect(1)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(site_module, "load_site", fail)
        client, _ = bench.connect(2)
        client.send_raw(request())
        assert answers(bench.received_to_the_end(client)) == [
            (500, b"the server cannot answer; its log says why\n")
        ]
        assert "no such folder" in caplog.text
        client, _ = bench.connect(4)
        client.send_raw(request(method="HEAD"))
        head = bench.received_to_the_end(client)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert head.endswith(b"\r\n\r\n"), "HEAD has no body"
    plain.say("still here")
    bench.until(lambda: bool(bench.worker.uplink.posts))
    client, _ = bench.connect(3)
    client.send_raw(request())
    assert [status for status, _ in answered(bench, client)] == [200]


def test_without_a_thread_to_load_it_one_client_is_ended_and_the_next_one_is_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        client, connection = bench.connect(1)
        client.send_raw(request())
        bench.until(lambda: connection.closed)
    client, _ = bench.connect(2)
    client.send_raw(request())
    assert [status for status, _ in answered(bench, client)] == [200]
