"""Connections of proxies at a worker: whose they are is told first, and nothing is sent before that."""

import socket
import time
from collections.abc import Iterator

import pytest
from support.harness import Client, raw_frame
from support.one_worker import Bench, unread
from support.websocket_peer import HANDSHAKE

from mpchat.config import resolve
from mpchat.ipc.connection_state import ConnectionState, decode_state, encode_state
from mpchat.ipc.handoff import ConnectionInTransit, HandoffSocket, Passed, Receipt, close_all, read_message
from mpchat.protocol.http import HEAD_LIMIT
from mpchat.reactor import Reactor
from mpchat.supervisor.refusals import BANNED, Refusals
from mpchat.worker.connection import Connection

LINE = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 4000\r\n"
HELLO = raw_frame(b'{"message":"hello"}')


class Proxied:
    """A worker with a connection of a proxy, and the supervisor's end."""

    def __init__(self, **settings: object) -> None:
        self.bench = Bench(proxy_from=("127.0.0.1/32",), listen_grace=0.0, **settings)
        self.supervisor = HandoffSocket(self.bench.far)
        self.client = Client(self.bench.listener.getsockname())
        self.bench.clients.append(self.client)
        sock, _ = self.bench.listener.accept()
        self.bench.socks.append(sock)
        self.connection = self._take(ConnectionInTransit(1, "127.0.0.1", 9, proxied=True), sock.dup())
        self.bench.socks.append(self.connection.sock)

    def _take(self, arrived: ConnectionInTransit, sock: object) -> Connection:
        self.bench.worker.migration.take(arrived, sock)  # type: ignore[arg-type]
        return self.bench.worker.clients.by_identity[arrived.identity]

    def send(self, data: bytes) -> None:
        self.client.sock.sendall(data)
        self.bench.turn()

    def passed(self) -> ConnectionInTransit | None:
        """Return the connection that the worker has handed to the supervisor, if it has."""
        found = None
        for arrived in self.supervisor.receive():
            close_all(arrived.descriptors or [])
            message = read_message(arrived.message)
            if isinstance(message, Passed):
                (found,) = message.connections
        return found

    def come_back(self, gone: ConnectionInTransit) -> None:
        """Let a worker, the same one, take the connection that was passed on: that is no move."""
        sock = self.connection.sock.dup()
        self.bench.worker.migration.take_receipt(Receipt(acks=[gone.identity]))
        self.connection = self._take(gone, sock)
        assert not self.bench.worker.handoff.receipt.pauses
        self.bench.socks.append(sock)
        for _ in range(3):
            self.bench.turn()


@pytest.fixture
def proxied() -> Iterator[Proxied]:
    made = Proxied()
    try:
        yield made
    finally:
        made.bench.close()


def state_of(gone: ConnectionInTransit) -> ConnectionState:
    state = decode_state(gone.state)
    assert state is not None
    return state


@pytest.mark.parametrize("cut", range(1, len(LINE) + len(HELLO)))
def test_the_address_is_told_however_the_header_comes(cut: int) -> None:
    proxied = Proxied()
    try:
        said = LINE + HELLO
        proxied.send(said[:cut])
        gone = proxied.passed()
        assert (gone is None) == (cut < len(LINE))
        if gone is None:
            proxied.send(said[cut:])
            gone = proxied.passed()
            rest = HELLO
        else:
            rest = said[len(LINE) : cut]
        assert gone is not None
        assert (gone.host, gone.port, gone.proxied, gone.proxy) == ("192.0.2.7", 4711, False, "127.0.0.1")
        assert state_of(gone).dialect_state.partial == rest
        proxied.come_back(gone)
        proxied.send(said[max(cut, len(LINE)) :] if rest != HELLO else b"")
        assert [frames for _, _, frames in proxied.bench.worker.uplink.posts] == [HELLO]
        assert proxied.bench.worker.uplink.posts[0][0] == "192.0.2.7:4711"
    finally:
        proxied.bench.close()


def test_nothing_is_sent_before_the_address_is_told(proxied: Proxied) -> None:
    proxied.bench.worker.rooms.publish_plain(1, raw_frame(b"secret"))
    time.sleep(0.01)
    for _ in range(3):
        proxied.bench.turn()
    assert unread(proxied.client) == b""


def test_what_was_said_since_the_proxy_came_is_sent_when_the_address_is_told(proxied: Proxied) -> None:
    proxied.bench.worker.rooms.publish_plain(1, raw_frame(b"news"))
    proxied.bench.turn()
    proxied.send(LINE)
    gone = proxied.passed()
    assert gone is not None
    proxied.come_back(gone)
    time.sleep(0.01)
    proxied.bench.turn()
    assert unread(proxied.client) == raw_frame(b"news")


def test_a_proxy_that_says_no_header_is_refused(proxied: Proxied, caplog: pytest.LogCaptureFixture) -> None:
    proxied.send(HELLO)
    assert b"must begin with a PROXY header" in unread(proxied.client)
    assert proxied.connection.closed
    assert proxied.passed() is None
    assert "no PROXY header, and proxy_from names its address: 127.0.0.1" in caplog.text


def test_a_proxy_that_says_nothing_is_ended_in_time(proxied: Proxied) -> None:
    proxied.bench.worker.clients.end_overdue(time.monotonic() + 31)
    assert proxied.connection.closed


@pytest.mark.parametrize("head", [HANDSHAKE, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["websocket", "page"])
def test_a_request_is_answered_to_the_client_that_it_was_forwarded_for(proxied: Proxied, head: bytes) -> None:
    forwarded = head[:-2] + b"X-Forwarded-For: 203.0.113.1, 192.0.2.7\r\n\r\n"
    proxied.send(forwarded[:50])
    assert proxied.passed() is None
    proxied.send(forwarded[50:])
    gone = proxied.passed()
    assert gone is not None
    assert (gone.host, gone.port, gone.proxy) == ("192.0.2.7", 9, "127.0.0.1")
    proxied.come_back(gone)
    answer = b""
    deadline = time.monotonic() + 10
    while b"\r\n\r\n" not in answer and time.monotonic() < deadline:
        proxied.bench.turn()
        answer += unread(proxied.client)
    assert answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200"))
    assert proxied.connection.address == "192.0.2.7:9"


def test_a_request_that_was_forwarded_for_nobody_is_the_proxy_s(proxied: Proxied) -> None:
    proxied.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    gone = proxied.passed()
    assert gone is not None
    assert (gone.host, gone.proxied, gone.proxy) == ("127.0.0.1", False, "127.0.0.1")


def test_x_forwarded_for_of_others_means_nothing(proxied: Proxied) -> None:
    client, connection = proxied.bench.connect(2)
    client.sock.sendall(HANDSHAKE[:-2] + b"X-Forwarded-For: 192.0.2.7\r\n\r\n")
    deadline = time.monotonic() + 10
    while not unread(client) and time.monotonic() < deadline:
        proxied.bench.turn()
    assert connection.host == "127.0.0.1"
    assert proxied.passed() is None


@pytest.mark.parametrize("header", [LINE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)])
def test_a_header_of_others_is_refused(proxied: Proxied, header: bytes) -> None:
    client, connection = proxied.bench.connect(2)
    client.sock.sendall(header)
    for _ in range(3):
        proxied.bench.turn()
    assert b"this looks like a PROXY header" in unread(client)
    assert connection.closed


def test_a_connection_is_moved_in_the_middle_of_a_header(proxied: Proxied) -> None:
    proxied.send(LINE[:20])
    state = proxied.bench.worker.migration.export_state(proxied.connection)
    sock = proxied.connection.sock
    moved = ConnectionInTransit(1, "127.0.0.1", 9, encode_state(state), proxied=True)
    proxied.connection = proxied._take(moved, sock)
    proxied.send(LINE[20:])
    gone = proxied.passed()
    assert gone is not None
    assert gone.host == "192.0.2.7"


def test_a_refused_request_whose_head_does_not_end_is_answered() -> None:
    """A worker may have read more of it than the supervisor would."""
    reactor = Reactor()
    refusals = Refusals(reactor)
    refusals.follow(resolve([])[0])
    ours, theirs = socket.socketpair()
    refusals.refuse(ours, BANNED, b"GET / HTTP/1.1\r\nX: " + b"a" * (HEAD_LIMIT + 1000))
    theirs.sendall(b"a")
    reactor.turn(0.0)
    assert theirs.recv(1000).startswith(b"HTTP/1.1 403")
    theirs.close()
    refusals.close()
    reactor.close()


def test_a_supervisor_without_descriptors_ends_the_connection(proxied: Proxied) -> None:
    proxied.send(LINE)
    assert proxied.passed() is not None
    proxied.bench.worker.migration.take_receipt(Receipt(nacks=[1]))
    assert proxied.connection.closed
