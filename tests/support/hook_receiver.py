"""A receiver of the webhook, on a real socket: it keeps what it gets, and answers as a test wants.

As a program (``python -m support.hook_receiver PORT FILE``) it writes each body as a line of FILE before it
answers: so that it can be killed.
"""

import json
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from support.waiting import PATIENCE, eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# More than any test waits for, in bytes.
ENDLESS = 1 << 50


class Posted(NamedTuple):
    """One request."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        """The batch."""
        found: dict[str, Any] = json.loads(self.body)
        return found


# Answers a request on its connection; returns whether the connection stays open. The event is set at the end.
Answering = Callable[[socket.socket, threading.Event], bool]


def with_status(status: int, *headers: str) -> Answering:
    """Answer with a status."""
    lines = "".join(f"{each}\r\n" for each in headers)

    def answer(sock: socket.socket, over: threading.Event) -> bool:
        sock.sendall(f"HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n{lines}\r\n".encode())
        return True

    return answer


def with_bytes(data: bytes, *, stays: bool = False) -> Answering:
    """Answer with these bytes, whatever they are; then close, unless the connection ``stays``."""

    def answer(sock: socket.socket, over: threading.Event) -> bool:
        sock.sendall(data)
        return stays

    return answer


def hang(sock: socket.socket, over: threading.Event) -> bool:
    """Never answer."""
    over.wait()
    return False


def drip(sock: socket.socket, over: threading.Event) -> bool:
    """Answer a byte at a time, and never come to an end."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 4096:
        sock.sendall(bytes([byte]))
        if over.wait(0.02):
            break
    return False


def huge(sock: socket.socket, over: threading.Event) -> bool:
    """Accept, with a body that takes for ever."""
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ENDLESS)
    while not over.is_set():
        sock.sendall(bytes(1 << 16))
    return False


class HookReceiver:
    """Listens until :meth:`close`. ``answers`` are for the next requests; all others are accepted."""

    def __init__(
        self,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        on_request: Callable[[Posted], None] = lambda posted: None,
    ) -> None:
        self.answers: deque[Answering] = deque()
        self.requests: list[Posted] = []
        self.connections = 0
        self._on_request = on_request
        self._tls = tls
        self._over = threading.Event()
        self._socks: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=50)
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/events"

    @property
    def batches(self) -> list[dict[str, Any]]:
        """The batches in the order in which they came, repeats left out."""
        found = {each.headers["x-mpchat-delivery"]: each.content for each in self.requests}
        return list(found.values())

    @property
    def events(self) -> list[dict[str, Any]]:
        return [each for batch in self.batches for each in batch["events"]]

    def wait_for(self, count: int, what: str = "requests") -> list[Posted]:
        """Wait for so many requests, repeats included."""
        eventually(lambda: len(self.requests) >= count, f"{count} {what}")
        return self.requests

    def wait_for_event(self, **fields: Any) -> dict[str, Any]:
        """Wait for an event with these fields."""

        def found() -> dict[str, Any] | None:
            return next((each for each in self.events if fields.items() <= each.items()), None)

        return eventually(found, f"the event {fields}", PATIENCE, pause=0.05)

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for each in self._threads:
            each.join(PATIENCE)
            assert not each.is_alive()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            secure = self._tls.wrap_socket(sock, server_side=True) if self._tls else sock
            with secure:
                received = bytearray()
                while (posted := _read(secure, received)) is not None:
                    self.requests.append(posted)
                    self._on_request(posted)
                    answer = self.answers.popleft() if self.answers else with_bytes(OK, stays=True)
                    if not answer(secure, self._over):
                        return


def _read(sock: socket.socket, received: bytearray) -> Posted | None:
    """Read a request; None: the connection has ended."""
    while b"\r\n\r\n" not in received:
        if not (data := sock.recv(65536)):
            return None
        received += data
    head, _, rest = bytes(received).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers["content-length"])
    body = bytearray(rest)
    while len(body) < length:
        if not (data := sock.recv(65536)):
            return None
        body += data
    received[:] = body[length:]
    return Posted(first.split()[1], headers, bytes(body[:length]))


@contextmanager
def hook_receiver(**more: Any) -> Iterator[HookReceiver]:
    receiver = HookReceiver(**more)
    try:
        yield receiver
    finally:
        receiver.close()


def main(port: int, path: Path) -> None:
    """Serve until killed."""
    with path.open("ab", buffering=0) as file:

        def write(posted: Posted) -> None:
            file.write(posted.body + b"\n")

        HookReceiver(port=port, on_request=write)
        print("ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
