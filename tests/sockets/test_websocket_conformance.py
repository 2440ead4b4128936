"""Autobahn's cases for WebSocket servers, by way of ``kosoku``, against the decoder and the framing.

The server here is a few lines that send each message back. The cases about compression are left out.
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
from mpchat.protocol.websocket_decoder import (
    BINARY,
    CLOSE,
    EIGHT_BYTES,
    FIN,
    PING,
    TEXT,
    TWO_BYTES,
    Decoder,
    close_frame,
    pong_frame,
)
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING

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


def answer(decoder: Decoder, opcode: int, payload: bytes) -> bytes:
    if opcode in (TEXT, BINARY):
        return echoed(opcode, payload)
    if opcode == PING:
        return pong_frame(payload)
    if opcode == CLOSE:
        assert decoder.closing is not None
        return close_frame(*decoder.closing)
    return b""


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
        decoder = Decoder(LIMIT)
        data = shake_hands(sock)
        while decoder.closing is None:
            answers = [answer(decoder, *event) for event in decoder.feed(data)]
            sock.sendall(b"".join(answers))
            if decoder.closing is None and not (data := sock.recv(1 << 18)):
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
    return {case: (each["behavior"], each["behaviorClose"]) for case, each in cases.items()}


def passed(case: str, outcome: tuple[str, str]) -> bool:
    if case in OPEN:
        return outcome == ("INFORMATIONAL", "INFORMATIONAL")
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
