"""Any first bytes in any pieces at a worker: it goes on, keeps nothing, and disturbs nobody.

``MPCHAT_FUZZ=100000`` runs so many cases; the test suite runs a few.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.harness import Client, raw_frame
from support.one_worker import Bench, unread
from support.waiting import eventually
from support.websocket_peer import HANDSHAKE

from mpchat.ipc.handoff import ConnectionInTransit, HandoffSocket, Passed, Receipt, close_all, read_message
from mpchat.ipc.reasons import INTERNAL_ERROR

CASES = int(os.environ.get("MPCHAT_FUZZ", "150"))
HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(506)
LINE = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 4000\r\n"
SECOND = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)
REQUEST = HANDSHAKE[:-2] + b"X-Forwarded-For: 192.0.2.9\r\n\r\n"
MESSAGE = raw_frame(b'{"message":"hello"}')
WHOLE = st.sampled_from([HELLO, LINE, SECOND, REQUEST, MESSAGE, HANDSHAKE, b"GET / HTTP/1.0\r\n\r\n"])
# A part of something, with a few bytes changed.
PART = st.builds(
    lambda whole, begin, end, position, change: (
        whole[begin : len(whole) - end][:position] + change + whole[begin : len(whole) - end][position:]
    ),
    WHOLE,
    st.integers(0, 3),
    st.integers(0, 20),
    st.integers(0, 60),
    st.binary(max_size=3),
)
PIECES = st.lists(WHOLE | PART | st.binary(max_size=30), min_size=1, max_size=5)


class Worker:
    """A worker in all the ways at once: web, TLS and proxies; and an innocent client."""

    def __init__(self) -> None:
        self.bench = Bench(
            proxy_from=("127.0.0.1/32",), tls_cert="chain.pem", tls="optional", listen_grace=0.0
        )
        self.supervisor = HandoffSocket(self.bench.far)
        self.innocent, _ = self.bench.connect(1)
        self.innocent.sock.sendall(MESSAGE)
        self.bench.turn()
        self.number = 2
        browser, _ = self.bench.connect(2)
        browser.sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        # What answers are made with is loaded when the first browser comes.
        eventually(lambda: self._heard(browser), "the first answer")

    def _heard(self, client: Client) -> bytes:
        self.bench.turn()
        return unread(client)

    def take(self, pieces: list[bytes], *, proxied: bool) -> None:
        """Let a client come, say the pieces, and leave."""
        self.number += 1
        client = Client(self.bench.listener.getsockname())
        sock, _ = self.bench.listener.accept()
        migration = self.bench.worker.migration
        migration.take(ConnectionInTransit(self.number, "127.0.0.1", 9, proxied=proxied), sock)
        self.bench.turn()
        for piece in pieces:
            try:
                client.sock.sendall(piece)
            except ConnectionError:
                break
            self.bench.turn()
            self._answer()
        client.sock.close()
        for _ in range(4):
            self.bench.turn()
            self._answer()

    def _answer(self) -> None:
        """Be a supervisor without descriptors, or one that takes what comes and lets it end."""
        for arrived in self.supervisor.receive():
            close_all(arrived.descriptors or [])
            message = read_message(arrived.message)
            if isinstance(message, Passed):
                identities = [each.identity for each in message.connections]
                receipt = Receipt(nacks=identities) if self.number % 2 else Receipt(acks=identities)
                self.bench.worker.migration.take_receipt(receipt)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    try:
        yield made
    finally:
        made.bench.close()


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pieces=PIECES, proxied=st.booleans())
def test_any_first_bytes_are_taken_refused_or_passed_on(
    worker: Worker, pieces: list[bytes], proxied: bool
) -> None:
    worker.take(pieces, proxied=proxied)
    assert worker.bench.worker.counters.ended[INTERNAL_ERROR] == 0
    clients = worker.bench.worker.clients
    clients.end_overdue(1e12)
    worker.bench.turn()
    left = [each for each in clients.by_identity.values() if each.identity != 1]
    assert left == []
    assert clients.first_bytes._begun == {}
    assert not unread(worker.innocent).startswith(b"\0\0")
