"""A relay between a client and a server that cuts connections after so many bytes of either direction."""

import selectors
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"


class CuttingRelay:
    """Relays from construction to ``stop``. The budgets count bytes from when they are set; None: no end."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        # Bytes until all connections are cut, of requests and of replies.
        self.requests_left: int | None = None
        self.replies_left: int | None = None
        self.cuts = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        # Each socket's other side, and whether it is the client's.
        self._others: dict[socket.socket, tuple[socket.socket, bool]] = {}
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._wake.close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self) -> None:
        with self._listener, self._woken, self._selector:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._woken:
                        self._cut()
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._others:
                        self._relay(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection((LOOPBACK, self._target))
        except OSError:
            client.close()
            return
        for one, other, is_client in ((client, server, True), (server, client, False)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._others[one] = (other, is_client)
            self._selector.register(one, selectors.EVENT_READ)

    def _relay(self, sock: socket.socket) -> None:
        other, is_client = self._others[sock]
        left = self.requests_left if is_client else self.replies_left
        data = b""
        with suppress(OSError):
            data = sock.recv(65536 if left is None else max(1, min(65536, left)))
        if not data:
            self._close(sock, other)
            return
        if left is not None:
            data = data[:left]
        with suppress(OSError):
            other.sendall(data)
        if left is not None:
            left -= len(data)
            if is_client:
                self.requests_left = left
            else:
                self.replies_left = left
            if left <= 0:
                self.requests_left = self.replies_left = None
                self.cuts += 1
                self._cut()

    def _cut(self) -> None:
        for sock, (other, _) in list(self._others.items()):
            self._close(sock, other)

    def _close(self, *socks: socket.socket) -> None:
        for sock in socks:
            if self._others.pop(sock, None):
                self._selector.unregister(sock)
                sock.close()
