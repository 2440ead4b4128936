"""TLS at a worker: clients that speak it are passed on untouched; with ``required`` others are ended."""

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from support.harness import Client, frame, raw_frame
from support.one_worker import Bench, unread

from mpchat.ipc.connection_state import FRESH, ConnectionState, decode_state, encode_state
from mpchat.ipc.handoff import ConnectionInTransit, HandoffSocket, Message, Passed, Receipt, read_message
from mpchat.ipc.items import Down
from mpchat.worker.connection import Connection

ELSEWHERE = "192.0.2.1"
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
SAID = raw_frame(b'{"message":"x"}')
# Seconds of silence after which a brief worker takes a client for a plain one.
GRACE = 0.05


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="chat.test").do_handshake()
    return outgoing.read()


HELLO = client_hello()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(tls_cert="there", listen_grace=60.0)
    yield made
    made.close()


@pytest.fixture
def strict() -> Iterator[Bench]:
    """A worker whose clients have to speak TLS."""
    made = Bench(tls_cert="there", tls="required", listen_grace=GRACE)
    yield made
    made.close()


class Supervisor:
    """The supervisor's end of a worker's hand-off socket."""

    def __init__(self, bench: Bench) -> None:
        self._handoff = HandoffSocket(bench.far)
        # Ends of connections that the worker has passed on.
        self.descriptors: list[int] = []

    def heard(self) -> list[Message]:
        """Return what the worker has said."""
        arrived = self._handoff.receive()
        self.descriptors += [number for each in arrived for number in each.descriptors or []]
        return [read_message(each.message) for each in arrived]

    def say(self, receipt: Receipt) -> None:
        self._handoff.send(msgspec.msgpack.encode(receipt), [])


def come(
    bench: Bench,
    host: str = ELSEWHERE,
    *,
    identity: int = 1,
    state: ConnectionState | None = None,
    secure: bool = False,
) -> tuple[Client, Connection]:
    """Return a client that comes from ``host``, and its connection here."""
    client = Client(bench.listener.getsockname())
    bench.clients.append(client)
    sock, (_, port) = bench.listener.accept()
    bench.socks.append(sock)
    encoded = FRESH if state is None else encode_state(state)
    arrived = ConnectionInTransit(identity, host, port, encoded, secure=secure)
    bench.worker.migration.take(arrived, sock)
    return client, bench.worker.clients.by_identity[identity]


def publish(bench: Bench, text: str) -> None:
    bench.order(Down.BATCH, (1, frame(text)))
    bench.turn()


def told_at_the_end(bench: Bench, client: Client) -> list[dict[str, Any]]:
    """Return the frames that a client got before its end."""
    found, told = bench.received_to_the_end(client), []
    while found:
        size = int.from_bytes(found[:2], "big")
        told.append(msgspec.json.decode(found[2 : 2 + size]))
        found = found[2 + size :]
    return told


# The first three bytes decide; of the cuts behind them some are enough.
@pytest.mark.parametrize("cut", [*range(12), *range(12, len(HELLO), 37), len(HELLO) - 1, len(HELLO)])
def test_a_client_hello_cut_anywhere_is_passed_on_with_all_that_came(bench: Bench, cut: int) -> None:
    supervisor = Supervisor(bench)
    client, connection = come(bench)
    publish(bench, "before")
    for piece in (HELLO[:cut], HELLO[cut:]):
        client.send_raw(piece)
        bench.turn()
        bench.turn()
    publish(bench, "after")
    assert unread(client) == b""
    acked, passed = supervisor.heard()
    assert acked == Receipt(acks=[1])
    assert isinstance(passed, Passed)
    (gone,) = passed.connections
    assert (gone.identity, gone.host, gone.port) == (1, ELSEWHERE, connection.port)
    assert (gone.secure, gone.speaker) == (False, False)
    state = decode_state(gone.state)
    assert state is not None
    with socket.socket(fileno=supervisor.descriptors[0]) as sock:
        came = state.dialect_state.partial
        assert len(came) in ((cut, len(HELLO)) if cut >= 3 else (len(HELLO),))
        assert came + (sock.recv(1 << 16) if came != HELLO else b"") == HELLO
    assert not bench.worker.clients.by_identity
    assert not connection.reading
    assert bench.worker.uplink.posts == []


def test_what_is_taken_is_closed_here_and_the_client_is_not_ended(bench: Bench) -> None:
    supervisor = Supervisor(bench)
    client, connection = come(bench)
    client.send_raw(HELLO)
    bench.until(lambda: not bench.worker.clients.by_identity)
    bench.turn()
    supervisor.heard()
    supervisor.say(Receipt(acks=[1]))
    bench.until(lambda: connection.sock.fileno() < 0)
    with socket.socket(fileno=supervisor.descriptors[0]) as sock:
        sock.send(b"by the TLS process")
        bench.turn()
        assert unread(client) == b"by the TLS process"
    assert not bench.worker.migration._passed
    assert supervisor.heard() == []


def test_a_client_that_the_supervisor_cannot_take_is_ended(bench: Bench) -> None:
    supervisor = Supervisor(bench)
    client, connection = come(bench)
    client.send_raw(HELLO)
    publish(bench, "not for it")
    bench.until(lambda: not bench.worker.clients.by_identity)
    supervisor.heard()
    for descriptor in supervisor.descriptors:
        socket.socket(fileno=descriptor).close()
    supervisor.say(Receipt(nacks=[1]))
    bench.until(lambda: connection.closed)
    assert bench.received_to_the_end(client) == b""
    bench.worker.migration.send_receipt()
    assert supervisor.heard() == [Receipt(closed=[ELSEWHERE])]
    assert bench.worker.counters.ended == {"no descriptor left": 1}
    assert not bench.worker.migration._passed


@pytest.mark.parametrize("begun", [1, 2])
def test_a_client_that_was_moved_within_its_first_bytes_is_passed_on(bench: Bench, begun: int) -> None:
    supervisor = Supervisor(bench)
    client, connection = come(bench)
    client.send_raw(HELLO[:begun])
    bench.until(lambda: connection in bench.worker.clients.reading.half)
    moved = bench.take(1, connection.sock, bench.worker.migration.export_state(connection))
    assert moved.undecided
    client.send_raw(HELLO[begun:])
    bench.until(lambda: not bench.worker.clients.by_identity)
    passed = supervisor.heard()[-1]
    assert isinstance(passed, Passed)
    state = decode_state(passed.connections[0].state)
    assert state is not None
    assert state.dialect_state.partial == HELLO
    for descriptor in supervisor.descriptors:
        socket.socket(fileno=descriptor).close()


def answer_to_a_hello(**settings: Any) -> list[dict[str, Any]]:
    bench = Bench(**settings)
    try:
        client, _ = come(bench)
        client.send_raw(HELLO)
        return told_at_the_end(bench, client)
    finally:
        bench.close()


def test_with_tls_off_a_client_hello_is_no_frame_as_without_a_certificate() -> None:
    (told,) = answer_to_a_hello(tls="off", tls_cert="there")
    assert told["error"]["code"] == "bad_frame"
    assert [told] == answer_to_a_hello()


def test_tls_within_tls_is_no_frame(bench: Bench) -> None:
    client, _ = come(bench, secure=True)
    client.send_raw(HELLO)
    (told,) = told_at_the_end(bench, client)
    assert told["error"]["code"] == "bad_frame"


def test_a_client_that_was_sent_something_cannot_begin_with_tls(strict: Bench) -> None:
    client, _ = come(strict, "127.0.0.1")
    publish(strict, "said")
    strict.received(client, lambda found: found == frame("said"))
    client.send_raw(HELLO)
    assert told_at_the_end(strict, client)[0]["error"]["code"] == "bad_frame"


# With ``required``.


def test_a_client_that_speaks_tls_is_passed_on_where_tls_is_required(strict: Bench) -> None:
    supervisor = Supervisor(strict)
    client, _ = come(strict)
    client.send_raw(HELLO)
    strict.until(lambda: not strict.worker.clients.by_identity)
    assert [type(each) for each in supervisor.heard()] == [Receipt, Passed]
    assert unread(client) == b""
    for descriptor in supervisor.descriptors:
        socket.socket(fileno=descriptor).close()


@pytest.mark.parametrize("first", [SAID, raw_frame(b'{"join":{"name":"x"}}'), b"\x16\x04\x00", b"\0\1?"])
@pytest.mark.parametrize("host", [ELSEWHERE, "2001:db8::1"])
def test_a_plain_client_from_elsewhere_is_told_that_tls_is_required(
    strict: Bench, first: bytes, host: str
) -> None:
    client, _ = come(strict, host)
    publish(strict, "not for it")
    client.send_raw(first)
    (told,) = told_at_the_end(strict, client)
    assert told["error"]["code"] == "tls_required"
    assert strict.worker.counters.ended == {"not encrypted": 1}
    assert not strict.worker.uplink.posts


def test_a_silent_client_from_elsewhere_is_told_after_a_while_that_tls_is_required(strict: Bench) -> None:
    client, connection = come(strict)
    publish(strict, "not for it")
    time.sleep(2 * GRACE)
    strict.turn()
    assert unread(client) == b""
    assert not connection.closed
    strict.worker.clients.end_overdue(time.monotonic() + 31)
    (told,) = told_at_the_end(strict, client)
    assert told["error"]["code"] == "tls_required"


def test_a_greeting_that_comes_late_is_passed_on_where_tls_is_required(strict: Bench) -> None:
    supervisor = Supervisor(strict)
    client, _ = come(strict)
    publish(strict, "not for it")
    time.sleep(2 * GRACE)
    strict.turn()
    client.send_raw(HELLO)
    strict.until(lambda: not strict.worker.clients.by_identity)
    assert [type(each) for each in supervisor.heard()] == [Receipt, Passed]
    assert unread(client) == b""
    for descriptor in supervisor.descriptors:
        socket.socket(fileno=descriptor).close()


@pytest.mark.parametrize("begun", [b"", b"G", b"\x16"])
def test_a_client_from_elsewhere_that_ends_its_stream_at_once_is_told_that_tls_is_required(
    strict: Bench, begun: bytes
) -> None:
    client, _ = come(strict)
    publish(strict, "not for it")
    client.send_raw(begun)
    strict.turn()
    client.sock.shutdown(socket.SHUT_WR)
    (told,) = told_at_the_end(strict, client)
    assert told["error"]["code"] == "tls_required"


def test_a_stop_sends_silent_clients_from_elsewhere_no_message_unencrypted(strict: Bench) -> None:
    client, _ = come(strict)
    local, _ = come(strict, "127.0.0.1", identity=2)
    publish(strict, "the last words")
    strict.order(Down.DRAIN, None)
    (told,) = told_at_the_end(strict, client)
    assert told["error"]["code"] == "tls_required"
    assert unread(local) == frame("the last words")


def test_a_request_from_elsewhere_is_told_that_tls_is_required(strict: Bench) -> None:
    client, _ = come(strict)
    client.send_raw(REQUEST)
    answer = strict.received_to_the_end(client)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"https://" in answer


@pytest.mark.parametrize(
    ("host", "secure"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        (ELSEWHERE, True),
    ],
)
@pytest.mark.parametrize("speaks", ["plain", "silent", "http"])
def test_clients_on_this_machine_and_encrypted_ones_go_on(
    strict: Bench, host: str, secure: bool, speaks: str
) -> None:
    client, connection = come(strict, host, secure=secure)
    if speaks == "http":
        client.send_raw(REQUEST)
        answer = strict.received(client, lambda found: b"\r\n\r\n" in found)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        return
    if speaks == "plain":
        client.send_raw(SAID)
        strict.until(lambda: bool(strict.worker.uplink.posts))
    publish(strict, "for it")
    strict.received(client, lambda found: found == frame("for it"))
    assert not connection.closed
