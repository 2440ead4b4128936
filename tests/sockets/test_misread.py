"""Bytes that are no frames, at a worker: the client hears why before its connection ends, in order.

HTTP is no exception where the server has no page: see test_web."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.harness import Client, frame, raw_frame
from support.one_worker import Bench

HELLO = '{"message":"안녕하세요"}'.encode()
TLS = bytes.fromhex("16030102000100") + bytes(100)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(web=False)
    yield made
    made.close()


def ended(bench: Bench, client: Client, reason: str) -> list[dict[str, Any]]:
    """Wait until the worker has ended the connection; return what the client was sent. A reset fails."""
    bench.until(lambda: bench.worker.counters.ended[reason] == 1)
    return list(iter(client.receive, None))


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP"),
        # Long enough to hold a whole frame, if it were one.
        (b"POST / HTTP/1.1\r\n\r\n" + b"x" * 60_000, "HTTP"),
        (TLS, "TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (HELLO, "JSON without a length"),
    ],
)
@pytest.mark.parametrize("step", [1, 100_000])
def test_another_protocol_is_told_at_once(bench: Bench, sent: bytes, name: str, step: int) -> None:
    client, connection = bench.connect(1)
    for begin in range(0, len(sent), step):
        if connection.closed:
            break
        client.send_raw(sent[begin : begin + step])
        bench.until(lambda: connection.closed or not _unread(connection.sock))
    (heard,) = ended(bench, client, "not a frame")
    assert heard["error"]["code"] == "bad_frame"
    assert f"this looks like {name}" in heard["error"]["text"]


def _unread(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


@pytest.mark.parametrize("length", [0x4745, 0x1603, 0x5353, 0x5052])
def test_a_long_frame_whose_length_is_letters_is_a_frame(bench: Bench, length: int) -> None:
    """0x4745 is GE; of 0x7B22, the beginning of JSON, test_likely_cause tests every length."""
    client, _ = bench.connect(1)
    payload = HELLO.rjust(length)
    sent = raw_frame(payload)
    for begin in range(70):
        client.send_raw(sent[begin : begin + 1])
        bench.until(lambda: not _unread(bench.worker.clients.by_identity[1].sock))
    client.send_raw(sent[70:])
    bench.until(lambda: bool(bench.worker.uplink.posts))
    assert bench.worker.uplink.posts[0][2] == raw_frame(HELLO)


def test_a_client_that_has_said_something_is_not_suspected_of_another_protocol(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(frame("안녕") + b"GET / HTTP/1.1\r\n\r\n")
    bench.until(lambda: connection.dialect.mid_frame)
    assert not connection.closed


def test_a_length_in_the_wrong_order_is_told_when_the_time_for_a_frame_is_over(bench: Bench) -> None:
    client, connection = bench.connect(1)
    client.send_raw(len(HELLO).to_bytes(2, "little") + HELLO)
    bench.until(lambda: connection.dialect.mid_frame)
    bench.worker.clients.end_overdue(bench.worker.reactor.now + bench.worker.config.frame_timeout + 1)
    (heard,) = ended(bench, client, "half a frame")
    assert f"announced and {len(HELLO)} came" in heard["error"]["text"]
    assert f"little-endian: read so it is {len(HELLO)}" in heard["error"]["text"]


@pytest.mark.parametrize("member", [False, True])
def test_a_client_that_ends_its_stream_inside_a_frame_is_told(bench: Bench, *, member: bool) -> None:
    client, _ = bench.member(1) if member else bench.connect(1)
    client.send_raw(b"hello\n")
    client.sock.shutdown(socket.SHUT_WR)
    (heard,) = ended(bench, client, "closed inside a frame")
    assert "text without a length" in heard["error"]["text"]


def test_a_client_that_does_not_read_is_ended_all_the_same(bench: Bench) -> None:
    client, connection = bench.connect(1)
    while connection.cursor < 0 and not connection.outbox:
        bench.worker.rooms.reply(connection, bytes(1 << 20))
    client.send_raw(b"hello\n")
    client.sock.shutdown(socket.SHUT_WR)
    bench.until(lambda: bench.worker.counters.ended["closed inside a frame"] == 1)
