"""The end of a worker's connections: orderly for each client, whatever another client's connection does."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.harness import frame
from support.waiting import PATIENCE

from mpchat.ipc.goodbye import say_goodbye

LAST = frame("안녕히 가세요")
# Milliseconds after which the kernel gives up a connection whose peer takes nothing.
GIVEN_UP = 50


@pytest.fixture
def pair() -> Iterator[tuple[list[socket.socket], list[socket.socket]]]:
    """The server's and the client's ends of two connections over TCP."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        theirs = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(2)]
        ours = [stack.enter_context(listener.accept()[0]) for _ in theirs]
        for each in ours:
            each.setblocking(False)
        for each in theirs:
            each.settimeout(PATIENCE)
        yield ours, theirs


def fill(sock: socket.socket) -> None:
    """Send until the peer, which does not read, has no room."""
    try:
        while True:
            sock.send(bytes(1 << 20))
    except BlockingIOError:
        pass


def read_to_the_end(sock: socket.socket) -> bytes:
    """Return all that comes; a reset fails the test."""
    received = b""
    while data := sock.recv(1 << 16):
        received += data
    return received


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux gives up a peer on request")
@pytest.mark.parametrize("faulty", [0, 1], ids=["first", "last"])
def test_a_peer_that_times_out_spoils_nobody_s_orderly_end(
    pair: tuple[list[socket.socket], list[socket.socket]], faulty: int
) -> None:
    ours, theirs = pair
    honest = 1 - faulty
    ours[faulty].setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVEN_UP)
    fill(ours[faulty])
    theirs[honest].sendall(frame("읽히지 않은 말"))  # unread input: a plain close would be a reset
    ours[honest].send(LAST)
    say_goodbye(ours)
    assert read_to_the_end(theirs[honest]) == LAST
    assert [each.fileno() for each in ours] == [-1, -1]


def test_a_peer_that_resets_spoils_nobody_s_orderly_end(
    pair: tuple[list[socket.socket], list[socket.socket]],
) -> None:
    ours, theirs = pair
    fill(ours[0])
    theirs[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs[0].close()
    theirs[1].sendall(frame("읽히지 않은 말"))
    ours[1].send(LAST)
    say_goodbye(ours)
    assert read_to_the_end(theirs[1]) == LAST
