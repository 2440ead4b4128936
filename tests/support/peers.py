"""A real peer for tests of the client: a small threaded relay, with the faults that servers have.

Everybody gets every frame, the sender too, as from mpchat; nothing is checked and nothing is numbered.
"""

import socket
import threading
from types import TracebackType
from typing import Self

from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame
from mpchat.protocol.messages import message_frame


class Relay:
    """Serves from construction to ``stop``.

    ``greeting`` is sent to every client at once; ``closes`` then closes the connection. With ``reads`` false
    nothing is ever read. The same port again is ``Relay(port)``.
    """

    def __init__(
        self, port: int = 0, *, greeting: bytes = b"", closes: bool = False, reads: bool = True
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._greeting, self._closes, self._reads = greeting, closes, reads
        self._lock = threading.Lock()
        self._clients: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        # Payloads, in the order they came; how many connections were greeted.
        self.received: list[bytes] = []
        self.accepted = 0
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    @property
    def clients(self) -> int:
        """How many connections there are."""
        with self._lock:
            return len(self._clients)

    def say(self, text: str) -> None:
        """Send a message to everybody."""
        self.send(message_frame(text))

    def send(self, data: bytes) -> None:
        """Send bytes to everybody, whatever they are."""
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            try:
                client.sendall(data)
            except OSError:
                continue

    def drop(self) -> None:
        """End all connections."""
        with self._lock:
            for client in self._clients:
                _shut(client)

    def stop(self) -> None:
        """Go away: no listener, no connection, no thread stays."""
        self._stopped.set()
        _shut(self._listener)
        self._acceptor.join()
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            # Known before its thread runs: stop() ends this loop first, and then everybody that is known.
            with self._lock:
                self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                client.sendall(self._greeting)
                self.accepted += 1
                self._converse(client)
            except OSError:
                return
            finally:
                with self._lock:
                    self._clients.remove(client)

    def _converse(self, client: socket.socket) -> None:
        if self._closes:
            return
        if self._reads:
            self._relay(client)
        else:
            self._stopped.wait()

    def _relay(self, client: socket.socket) -> None:
        decoder = FrameDecoder()
        while data := client.recv(65_536):
            for payload in decoder.feed(data):
                assert not isinstance(payload, Oversized)
                with self._lock:
                    self.received.append(payload)
                self.send(encode_frame(payload))


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
