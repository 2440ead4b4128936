"""Autobahn's cases for WebSocket servers, by way of ``kosoku``, against the dialect and the framing.

The server here takes what clients send as a worker does, and sends each message back as the hub would. The
cases about compression are left out. No case sends a message of the chat: how the dialect takes many of those
together is tested elsewhere.
"""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol

from mpchat.protocol.frames import MAX_PAYLOAD, encode_frame
from mpchat.protocol.session import MESSAGE_WORK
from mpchat.protocol.websocket_decoder import (
    EIGHT_BYTES,
    FIN,
    TEXT,
    TWO_BYTES,
    Decoder,
)
from mpchat.protocol.websocket_dialect import WebSocketDialect
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING
from mpchat.worker.reading import READ_SIZE, TURN_WORK

pytestmark = pytest.mark.one_python

# Autobahn's longest message, in bytes.
LIMIT = 16 << 20
# Seconds without a byte after which a connection is given up: a case waits for 10 at most.
PATIENCE = 60.0
# Cases at a time: some wait for a second or two.
AT_A_TIME = 8
CASES = 301
COMPRESSION = ("12.*", "13.*")
# A text that is wrong in the middle of a frame is refused when the frame is whole: strict is at once.
NOT_STRICT = {"6.4.3", "6.4.4"}
# The standard leaves open what has to happen.
OPEN = {"7.1.6", "7.13.1", "7.13.2"}
# Ten pings at once. The server may answer the last one alone (RFC 6455, section 5.5.3), and does so for all
# that it reads together. The cases want ten pongs, and say themselves that the standard does not.
PINGS = {"2.10", "2.11"}
LATEST = "LATEST"
# Many cases give a server one second. A machine that was too busy for one is asked again, case by case.
ATTEMPTS = 3


def echoed(opcode: int, payload: bytes) -> bytes:
    """Return the server's frame of a message; that of a stream where a stream could hold it."""
    size = len(payload)
    if opcode == TEXT and size <= MAX_PAYLOAD:
        return WEBSOCKET_FRAMING.encode(encode_frame(payload))
    if size < TWO_BYTES:
        head = bytes((FIN | opcode, size))
    elif size <= MAX_PAYLOAD:
        head = bytes((FIN | opcode, TWO_BYTES)) + size.to_bytes(2)
    else:
        head = bytes((FIN | opcode, EIGHT_BYTES)) + size.to_bytes(8)
    return head + payload


class NotingDecoder(Decoder):
    """Keeps the opcode of the last event: to the dialect a text and a binary message are the same."""

    __slots__ = ("opcode",)

    def cut(self, data: bytes, position: int) -> tuple[int, bytes, int]:
        self.opcode, payload, end = super().cut(data, position)
        return self.opcode, payload, end


class EchoDialect(WebSocketDialect):
    """The dialect of clients that may say anything: what is posted are opcodes and payloads."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(LIMIT)
        self._decoder = NotingDecoder(LIMIT)

    def _work(self, payload: bytes, posts: list[tuple[int, bytes]], replies: list[bytes]) -> float:
        assert isinstance(self._decoder, NotingDecoder)
        posts.append((self._decoder.opcode, payload))
        return MESSAGE_WORK


def answer(dialect: EchoDialect, data: bytes) -> bytes:
    """Return what a client gets for bytes that it has sent.

    A message comes back by way of the hub: behind the pong for what was read with it. Only an end would come
    before it, and waits here.
    """
    posts: list[tuple[int, bytes]] = []
    assert dialect.receive_data(data, posts, TURN_WORK) == b""
    control, echoes = dialect.take_control(), b"".join(echoed(*post) for post in posts)
    return control + echoes if dialect.closing is None else echoes + control


def shake_hands(sock: socket.socket) -> bytes:
    """Do the opening handshake; returns what the client has sent after it."""
    protocol = ServerProtocol()
    while not (events := protocol.events_received()):
        data = sock.recv(1 << 16)
        assert data, "the client has left before the handshake"
        protocol.receive_data(data)
    (request,) = events
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    sock.sendall(b"".join(protocol.data_to_send()))
    return bytes(protocol.reader.buffer)


def serve(sock: socket.socket) -> None:
    """Send every message back until one side closes."""
    with sock:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        dialect = EchoDialect()
        data = shake_hands(sock)
        while True:
            sock.sendall(answer(dialect, data))
            if dialect.closing is not None:
                break
            data = b""
            if not (dialect.has_more or (data := sock.recv(READ_SIZE))):
                return
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 18):  # what was sent and not read would reset the connection
            pass


@contextmanager
def echo_server() -> Iterator[int]:
    """Serve on a free port, and yield it. What goes wrong in a thread is a warning, and so an error."""
    threads: list[threading.Thread] = []

    def guarded(sock: socket.socket) -> None:
        with suppress(OSError):  # some cases drop the connection
            serve(sock)

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            if stopping.is_set():
                sock.close()
                return
            threads.append(threading.Thread(target=guarded, args=(sock,)))
            threads[-1].start()

    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield port
        finally:
            stopping.set()
            socket.create_connection(("127.0.0.1", port)).close()
            for each in (acceptor, *threads):
                each.join(PATIENCE + 10)
                assert not each.is_alive()


def outcomes(port: int, folder: Path, *options: str) -> dict[str, tuple[str, str]]:
    """Run cases; returns for each how the server behaved, and how it closed the connection."""
    kosoku = Path(sys.executable).with_name("kosoku")
    command = [str(kosoku), f"127.0.0.1:{port}", "--outdir", str(folder), *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    index = folder / "index.json"
    assert index.exists(), ran.stderr
    (cases,) = json.loads(index.read_text()).values()
    found = {case: (each["behavior"], each["behaviorClose"]) for case, each in cases.items()}
    for case in PINGS & found.keys():
        report = json.loads((folder / cases[case]["reportfile"]).read_text())
        if found[case][0] == "FAILED" and has_the_latest(report["received"], report["expected"]["OK"]):
            found[case] = LATEST, found[case][1]
    return found


def has_the_latest(received: list[list[str]], expected: list[list[str]]) -> bool:
    """Tell whether the last event came, and of those before it some, in their order."""
    left = iter(expected)
    return received[-1:] == expected[-1:] and all(each in left for each in received)


def passed(case: str, outcome: tuple[str, str]) -> bool:
    if case in OPEN:
        return outcome == ("INFORMATIONAL", "INFORMATIONAL")
    if case in PINGS and outcome == (LATEST, "OK"):
        return True
    return outcome == ("OK", "OK") or (case in NOT_STRICT and outcome == ("NON-STRICT", "OK"))


def test_every_case_passes(tmp_path: Path) -> None:
    without = [word for case in COMPRESSION for word in ("--exclude", case)]
    with echo_server() as port:
        found = outcomes(port, tmp_path / "0", "--parallelism", str(AT_A_TIME), *without)
        assert len(found) == CASES
        for attempt in range(1, ATTEMPTS):
            again = [each for each, outcome in found.items() if not passed(each, outcome)]
            if again:
                only = [word for case in again for word in ("--include", case)]
                found |= outcomes(port, tmp_path / f"{attempt}", *only)
    assert {each: outcome for each, outcome in found.items() if not passed(each, outcome)} == {}
