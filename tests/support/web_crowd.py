"""WebSocket clients of another library in a crowd, and crowds that talk while something happens."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psutil
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from support.crowd import Listener, everybody_hears, worker_pids
from support.harness import Client, Server, raw_frame
from support.tls import Authority
from support.tls_peer import Address, Encrypted
from support.waiting import eventually

# Seconds between two messages of a speaker.
PACE = 0.005


def shake_hands(address: Address, *, sock: socket.socket | None = None, **more: str) -> ClientConnection:
    """Begin a WebSocket, on ``sock`` if there is one; ``more`` are headers."""
    host, port = address
    headers = [(name.replace("_", "-"), value) for name, value in more.items()]
    return connect(
        f"ws://{host}:{port}/ws",
        sock=sock,
        additional_headers=headers,
        compression=None,
        proxy=None,
        open_timeout=20,
    )


class WebListener(Listener):
    """The same over WebSocket: ``data`` is what a plain client would have got, frame by frame."""

    def __init__(self, address: Address, authority: Authority | None = None) -> None:
        """Connect; with ``authority`` over TLS."""
        self._stack = ExitStack()
        sock = Encrypted.connect_to(address, authority) if authority is not None else None
        self.web = self._stack.enter_context(shake_hands(address, sock=sock))
        super().__init__(address)
        # The code and the reason of the server's close frame, once it has come.
        self.closing: tuple[int, str] | None = None

    def _connect(self, address: Address, timeout: float, source: str) -> socket.socket:
        return self.web.socket

    def _listen(self) -> None:
        try:
            while True:
                message = self.web.recv()
                assert isinstance(message, str)
                self.data += raw_frame(message.encode())
        except ConnectionClosed as error:
            self.ended = str(error)
            if error.rcvd is not None:
                self.closing = error.rcvd.code, error.rcvd.reason

    def say(self, text: str) -> None:
        self.web.send(json.dumps({"message": text}))

    def close(self) -> None:
        self._stack.close()
        super().close()


@contextmanager
def web_listeners(
    server: Server, count: int, authority: Authority | None = None
) -> Iterator[list[WebListener]]:
    address = server.address
    with ExitStack() as stack:
        joined = [stack.enter_context(WebListener(address, authority)) for _ in range(count)]
        for each in joined:
            each.listen()
        yield joined


@contextmanager
def talking(speakers: Sequence[Listener]) -> Iterator[dict[str, int]]:
    """Let everybody speak at an even pace during the block; how often each has is known after it.

    Then the last message of each is in the order.
    """
    stop = threading.Event()
    counts: dict[str, int] = {}

    def talk(name: str, client: Listener) -> None:
        counts[name] = 0
        while not stop.wait(PACE):
            client.say(f"{name} {counts[name]}")
            counts[name] += 1

    threads = [threading.Thread(target=talk, args=(str(name), each)) for name, each in enumerate(speakers)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for name, count in counts.items():
        everybody_hears(speakers, f"{name} {count - 1}")


def worker_of(server: Server, client: Client) -> int:
    """Return the worker that has a client's connection."""
    port = client.sock.getsockname()[1]

    def found() -> int | None:
        for pid in worker_pids(server):
            for each in psutil.Process(pid).net_connections("tcp"):
                if each.raddr and each.raddr.port == port:
                    return pid
        return None

    return eventually(found, "a worker to have the connection")
