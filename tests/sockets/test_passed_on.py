"""HTTP requests that a worker passes on to the supervisor: bodies, answers, clients that are slow or gone."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.harness import Client
from support.one_worker import Bench, unread

from mpchat.ipc.connection_state import decode_state, encode_state
from mpchat.ipc.http_questions import Answer, Question, as_json, decode_question, encode_answer
from mpchat.ipc.items import Down, Up
from mpchat.protocol.http import HEAD_LIMIT
from mpchat.worker import passed_on
from mpchat.worker.budget import ANSWER_COST, BUDGET, WRONG_COST
from mpchat.worker.connection import Connection
from mpchat.worker.incoming import Incoming
from mpchat.worker.web import HTTP_COST

TEXT = '{"text":"안녕"}'.encode()
OK = as_json(200, {"said": "안녕"})


def request(path: str = "/api/say", body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    fields = {"Host": "a", "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k.replace('_', '-')}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def in_chunks(body: bytes, size: int = 7, trailer: bytes = b"") -> bytes:
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    head = b"POST /api/say HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n%b\r\n" % trailer


class Desk:
    """Plays the supervisor for one worker's requests."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.asked: dict[int, Question] = {}

    def look(self) -> None:
        while self.bench.link.readable:
            for item in self.bench.link.receive():
                if item.kind == Up.HTTP:
                    number, packed = item.payload
                    self.asked[number] = decode_question(packed)

    def wait(self, count: int = 1) -> list[Question]:
        """Return the requests that have come and were not answered, when there are so many."""

        def come() -> bool:
            self.bench.turn(1)
            self.look()
            return len(self.asked) >= count

        self.bench.until(come)
        assert len(self.asked) == count
        return list(self.asked.values())

    def answer(self, given: Answer = OK) -> int:
        """Answer the oldest request; return its number."""
        number = next(iter(self.asked))
        del self.asked[number]
        self.bench.order(Down.HTTP, (number, encode_answer(given)))
        return number


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(listen_grace=60.0)
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Bench]:
    made = Bench(listen_grace=60.0)
    yield made
    made.close()


@pytest.fixture
def desk(bench: Bench) -> Desk:
    return Desk(bench)


def heard(bench: Bench, client: Client, count: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
    """Return so many answers that a client has got, with nothing behind them."""
    found: list[tuple[int, dict[str, str], bytes]] = []
    kept = b""

    def enough(data: bytes) -> bool:
        nonlocal kept
        found.clear()
        kept = data
        while b"\r\n\r\n" in kept:
            head, _, rest = kept.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            fields = {k.lower(): v for k, _, v in (each.partition(": ") for each in lines[1:])}
            size = int(fields.get("content-length", 0))
            if len(rest) < size:
                break
            found.append((int(lines[0].split()[1]), fields, rest[:size]))
            kept = rest[size:]
        return len(found) >= count

    bench.received(client, enough)
    assert (len(found), kept) == (count, b"")
    return found


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


# What is passed on, and how the answer comes back.


def test_a_request_is_passed_on_with_what_matters_of_it_and_answered(bench: Bench, desk: Desk) -> None:
    client, connection = bench.connect(1)
    more = {"Authorization": "Bearer x", "Content_Type": "application/json", "Cookie": "secret"}
    client.send_raw(request("/api/rooms/%EB%B0%A9?limit=5&after=2", TEXT, **more))
    (asked,) = desk.wait()
    passed = {"authorization": "Bearer x", "content-type": "application/json"}
    path, query = "/api/rooms/%EB%B0%A9", "limit=5&after=2"
    assert asked == Question("127.0.0.1", "POST", path, query, passed, TEXT, secure=False)
    assert "Bearer" not in repr(asked)
    desk.answer(as_json(201, {"a": 1}, ("Location", "/api/x")))
    ((status, headers, body),) = heard(bench, client)
    assert (status, json.loads(body), headers["location"]) == (201, {"a": 1}, "/api/x")
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert not connection.closed


@pytest.mark.parametrize("path", ["/metrics", "/api", "/api/", "/api/a/b", "/metrics?x", "http://a.b/api/x"])
def test_these_paths_are_the_supervisors(bench: Bench, desk: Desk, path: str) -> None:
    client, _ = bench.connect(1)
    client.send_raw(request(path, method="GET"))
    assert desk.wait()[0].method == "GET"


@pytest.mark.parametrize("path", ["/", "/apis", "/healthz", "/metrics/x", "/ws", "/x/api"])
def test_others_are_the_workers(bench: Bench, desk: Desk, path: str) -> None:
    client, _ = bench.connect(1)
    client.send_raw(request(path, method="GET"))
    assert heard(bench, client)[0][0] in (200, 404, 426)
    desk.look()
    assert not desk.asked
    assert bench.worker.clients.web.passed_on is None


def test_head_has_the_size_alone(bench: Bench, desk: Desk) -> None:
    client, _ = bench.connect(1)
    client.send_raw(request("/api", method="HEAD"))
    desk.wait()
    desk.answer()
    found = bench.received(client, lambda data: b"\r\n\r\n" in data)
    assert found.endswith(b"\r\n\r\n")
    assert f"Content-Length: {len(OK.body)}".encode() in found


def test_requests_in_one_packet_go_up_one_by_one_and_are_answered_in_their_order(
    bench: Bench, desk: Desk
) -> None:
    client, connection = bench.connect(1)
    client.send_raw(
        request("/api/a", TEXT)
        + request("/healthz", method="GET")
        + in_chunks(TEXT)
        + request("/api/c", b"x")
    )
    for number, path in enumerate(("/api/a", "/api/say", "/api/c")):
        assert [each.path for each in desk.wait()] == [path]
        assert not connection.reading
        desk.answer(as_json(200, number))
    answers = heard(bench, client, 4)
    assert [body for _, _, body in answers] == [b"0\n", b"the server's loop turns\n", b"1\n", b"2\n"]


def test_a_body_byte_by_byte(bench: Bench, desk: Desk) -> None:
    client, _ = bench.connect(1)
    for sent in (request(body=TEXT), in_chunks(TEXT, 3, b"X-Sum: 1\r\n")):
        for at in range(len(sent)):
            desk.look()
            assert not desk.asked
            client.send_raw(sent[at : at + 1])
            bench.turn(1)
        assert desk.wait()[0].body == TEXT
        desk.answer()
        assert heard(bench, client)[0][0] == 200


def test_a_client_that_asks_whether_to_send_its_body_is_told_to(bench: Bench, desk: Desk) -> None:
    client, _ = bench.connect(1)
    sent = request(body=TEXT, Expect="100-continue")
    client.send_raw(sent[: -len(TEXT)])
    assert heard(bench, client) == [(100, {}, b"")]
    client.send_raw(TEXT[:4])
    bench.turn()
    assert unread(client) == b""
    client.send_raw(TEXT[4:])
    assert desk.wait()[0].body == TEXT


@given(st.binary(max_size=60), st.integers(1, 9), st.lists(st.integers(0, 400), max_size=6), st.booleans())
@settings(max_examples=200, deadline=None)
def test_bodies_in_any_pieces_are_as_h11_reads_them_whole(
    body: bytes, size: int, cuts: list[int], chunked: bool
) -> None:
    sent = in_chunks(body, size) if chunked else request(body=body)
    head = sent[: sent.index(b"\r\n\r\n") + 4]
    behind = b"GET / HTTP/1.1\r\n"
    whole = h11.Connection(h11.SERVER)
    whole.receive_data(sent)
    assert isinstance(whole.next_event(), h11.Request)
    expected = b""
    while isinstance(event := whole.next_event(), h11.Data):
        expected += event.data
    assert expected == body
    incoming = Incoming(head, 1000, 0.0)
    everything = sent + behind
    edges = sorted({len(head), len(everything), *(min(len(head) + cut, len(everything)) for cut in cuts)})
    outcome = incoming.take(everything[: edges[0]])
    for begin, end in pairwise(edges):
        if outcome is None:
            outcome = incoming.take(everything[begin:end])
    assert isinstance(outcome, h11.EndOfMessage)
    assert incoming.question("h", secure=True).body == body
    assert incoming.size == len(sent)


def test_a_client_that_asks_for_the_end_gets_it_behind_its_answer(bench: Bench, desk: Desk) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request(Connection="close") + request())
    desk.wait()
    desk.answer()
    assert bench.received_to_the_end(client).count(b"HTTP/1.1 ") == 1
    assert connection.closed
    desk.look()
    assert not desk.asked


def test_nothing_of_it_is_loaded_before_somebody_asks() -> None:
    late = "h11", "mpchat.worker.passed_on", "mpchat.supervisor.api.page", "mpchat.supervisor.api.table"
    loads = "import sys, mpchat.supervisor.supervisor, mpchat.worker.worker"
    script = f"{loads}; print(sys.modules.keys() & {set(late)})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# What is refused at the worker.


def refused(bench: Bench, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    client, connection = bench.connect(1)
    client.send_raw(sent)
    ((status, headers, body),) = heard(bench, client)
    bench.until(lambda: connection.closed)
    assert headers["connection"] == "close"
    assert json.loads(body)["error"]["text"]
    return status, headers, body


def test_a_body_over_the_limit_is_refused_as_soon_as_that_is_known(bench: Bench, desk: Desk) -> None:
    limit = bench.worker.config.payload_limit
    head = f"POST /api/say HTTP/1.1\r\nHost: a\r\nContent-Length: {limit + 1}\r\n\r\n".encode()
    status, _, body = refused(bench, head)
    assert (status, code(body)) == (413, "too_long")
    assert str(limit) in json.loads(body)["error"]["text"]
    desk.look()
    assert not desk.asked


def test_chunks_over_the_limit_and_chunks_that_are_mostly_lengths_are_refused(bench: Bench) -> None:
    limit = bench.worker.config.payload_limit
    assert refused(bench, in_chunks(b"x" * (limit + 1), 5000))[0] == 413
    endless = in_chunks(b"x" * 30_000, 1)[:-5]
    assert len(endless) > HEAD_LIMIT + 2 * limit
    assert refused(bench, endless)[0] == 413


def test_the_longest_body_is_taken(bench: Bench, desk: Desk) -> None:
    client, _ = bench.connect(1)
    body = b"x" * bench.worker.config.payload_limit
    client.send_raw(request(body=body))
    assert desk.wait()[0].body == body


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /api/say HTTP/1.1\r\n\r\n",  # no host
        b"POST /api/say HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n",
        b"POST /api/say HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /api/say HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/say HTTP/1.1\r\nHost: a\n\nGET /metrics HTTP/1.1\r\nHost: b\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(bench: Bench, sent: bytes) -> None:
    status, _, body = refused(bench, sent)
    assert (status, code(body)) == (400, "bad_request")


def test_a_body_that_does_not_come_in_time_is_refused_however_it_drips(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request(body=TEXT)[:-5])
    bench.until(lambda: connection in bench.worker.clients.reading.half)
    begun = bench.worker.clients.reading.half[connection]
    client.send_raw(TEXT[-5:-4])
    bench.turn()
    assert bench.worker.clients.reading.half[connection] == begun
    bench.worker.clients.end_overdue(begun + bench.worker.config.frame_timeout + 0.1)
    found = bench.received_to_the_end(client)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert code(found.partition(b"\r\n\r\n")[2]) == "too_slow"
    assert connection.closed


# What a client pays.


def test_the_client_is_charged_for_the_request_the_answer_and_what_the_page_says(
    bench: Bench, desk: Desk
) -> None:
    client, connection = bench.connect(1)
    sent = request(body=b"x" * 10_000)
    client.send_raw(sent)
    desk.wait()
    desk.answer(Answer(200, [], b"y" * 5000, cost=7000))
    ((_, _, body),) = heard(bench, client)
    spent = BUDGET - connection.budget
    least = HTTP_COST + 7000 + len(body) * ANSWER_COST + len(sent) * WRONG_COST
    assert least <= spent < least + 1000


def test_a_client_that_has_spent_its_budget_is_not_read_from(bench: Bench, desk: Desk) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request() * 2)
    desk.wait()
    desk.answer(Answer(200, [], b"", cost=BUDGET))
    assert heard(bench, client)[0][0] == 200
    assert connection.budget < 0
    bench.turn()
    desk.look()
    assert not desk.asked


def test_a_client_that_reads_no_answers_gets_no_further_request_served(bench: Bench, desk: Desk) -> None:
    client, connection = bench.connect(1)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.send_raw(request() * 500)
    answered = 0
    for _ in range(500):
        bench.turn(2)
        desk.look()
        if not desk.asked:
            break
        connection.budget = BUDGET
        desk.answer(Answer(200, [], b"z" * 40_000))
        answered += 1
    assert answered < 250
    assert len(connection.outbox) < 120_000


def test_the_supervisor_has_a_few_requests_of_a_worker_at_a_time(bench: Bench, desk: Desk) -> None:
    count = passed_on.AT_A_TIME + 3
    clients = [bench.connect(each + 1)[0] for each in range(count)]
    for client in clients:
        client.send_raw(request())
    desk.wait(passed_on.AT_A_TIME)
    bench.turn(10)
    desk.wait(passed_on.AT_A_TIME)
    for _ in range(count):
        desk.wait(min(passed_on.AT_A_TIME, len(desk.asked)))
        desk.answer()
        bench.turn()
        desk.look()
    assert [heard(bench, each)[0][0] for each in clients] == [200] * count


# Clients, supervisors and workers that are gone.


def test_a_client_that_waits_in_vain_is_told_and_a_late_answer_is_ignored(bench: Bench, desk: Desk) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request())
    desk.wait()
    bench.worker.clients.end_overdue(bench.worker.reactor.now + passed_on.PATIENCE / 2)
    assert not connection.closed
    bench.worker.clients.end_overdue(bench.worker.reactor.now + passed_on.PATIENCE + 1)
    found = bench.received_to_the_end(client)
    assert found.startswith(b"HTTP/1.1 504 ")
    assert code(found.partition(b"\r\n\r\n")[2]) == "try_later"
    assert not bench.worker.clients.web.asking
    desk.answer()
    bench.turn()


def test_a_supervisor_that_has_not_answered_before_is_asked_again(bench: Bench, desk: Desk) -> None:
    for each in range(passed_on.AT_A_TIME):
        bench.connect(each + 1)[0].send_raw(request())
    desk.wait(passed_on.AT_A_TIME)
    bench.worker.clients.end_overdue(bench.worker.reactor.now + passed_on.PATIENCE + 1)
    desk.asked.clear()
    client, _ = bench.connect(99)
    client.send_raw(request())
    desk.wait()
    desk.answer()
    assert heard(bench, client)[0][0] == 200


def test_an_answer_for_a_connection_that_has_ended_is_ignored(bench: Bench, desk: Desk) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request())
    desk.wait()
    bench.worker.clients.kick(client.address)
    assert connection.closed
    assert not bench.worker.clients.web.asking
    desk.answer()
    other, _ = bench.connect(2)
    other.send_raw(request())
    desk.wait()
    desk.answer()
    assert heard(bench, other)[0][0] == 200


def test_a_client_that_was_reset_while_it_waited_ends_with_its_answer(bench: Bench, desk: Desk) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request())
    desk.wait()
    client.reset()
    desk.answer()
    bench.until(lambda: connection.closed)


def test_a_client_that_has_ended_its_stream_gets_its_answer(bench: Bench, desk: Desk) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request())
    client.sock.shutdown(socket.SHUT_WR)
    desk.wait()
    desk.answer()
    assert bench.received_to_the_end(client).startswith(b"HTTP/1.1 200 ")
    bench.until(lambda: connection.closed)


def test_an_answer_that_cannot_be_written_ends_one_connection(
    bench: Bench, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    client, connection = bench.connect(1)
    client.send_raw(request())
    desk.wait()
    desk.answer(Answer(200, [("X", "a\r\nb")]))
    assert connection.closed
    assert "no answer could be made" in caplog.text


# Moves.


def test_a_connection_with_a_request_under_way_stays_until_it_is_answered(bench: Bench, desk: Desk) -> None:
    client, _ = bench.connect(1)
    client.send_raw(request())
    desk.wait()
    idle, _ = bench.connect(2)
    assert list(bench.move_out(5)) == [2]
    desk.answer()
    assert heard(bench, client)[0][0] == 200
    assert list(bench.move_out(5)) == [1]
    idle.close()


@pytest.mark.parametrize("cut", [1, 60, -1])
def test_a_request_that_is_not_whole_moves_and_is_read_on(
    bench: Bench, other: Bench, desk: Desk, cut: int
) -> None:
    client, connection = bench.connect(1)
    sent = in_chunks(TEXT, 5)
    client.send_raw(sent[:cut])
    bench.until(lambda: connection in bench.worker.clients.reading.half)
    bench.turn(5)
    there = moved(bench, other, connection)
    client.send_raw(sent[cut:])
    next_desk = Desk(other)
    assert next_desk.wait()[0].body == TEXT
    next_desk.answer()
    assert heard(other, client)[0][0] == 200
    assert not there.closed
    assert not bench.worker.clients.web.asking


def moved(bench: Bench, to: Bench, connection: Connection) -> Connection:
    """Move a connection as it is moved between processes."""
    state = decode_state(encode_state(bench.worker.migration.export_state(connection)))
    assert state is not None
    return to.take(connection.identity, connection.sock, state)


def test_a_worker_that_is_to_end_waits_for_answers(bench: Bench, desk: Desk) -> None:
    client, _ = bench.connect(1)
    client.send_raw(request())
    desk.wait()
    bench.order(Down.DRAIN, None)
    bench.order(Down.CLOSE, 30.0)
    worker = bench.worker
    worker._close_when_done(worker.reactor.now, worker.lifetime.closing_until or 0.0)
    assert not worker.lifetime.finished
    desk.answer()
    assert heard(bench, client)[0][0] == 200
    worker._close_when_done(worker.reactor.now, worker.lifetime.closing_until or 0.0)
    assert worker.lifetime.finished
