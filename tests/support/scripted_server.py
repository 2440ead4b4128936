"""A server that says and reads exactly what a test tells it, one connection at a time."""

import json
import socket
from types import TracebackType
from typing import Any, Self

from support.harness import raw_frame
from support.waiting import PATIENCE

Object = dict[str, Any]


def payload(**content: Any) -> bytes:
    """Return the frame of an object."""
    return raw_frame(json.dumps(content, ensure_ascii=False).encode())


def welcome(name: str = "alice", **more: Any) -> bytes:
    """Return the frame of a welcome."""
    facts = {"name": name, "room": "lobby", "seq": 0, "epoch": "one", "members": 1, "token": "t"}
    return payload(welcome={"recovered": False, "lost": None, **facts, **more})


class ScriptedServer:
    """Listens from construction to the end of its ``with``."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    def accept(self) -> "Connection":
        """Wait for the next connection."""
        return Connection(self._listener.accept()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()


class Connection:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = sock.makefile("rb")

    def send(self, *frames: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(b"".join(frames))

    def receive(self) -> Object | None:
        """Return the next object, None at the end of the stream."""
        header = self._file.read(2)
        if not header:
            return None
        decoded: Object = json.loads(self._file.read(int.from_bytes(header, "big")))
        return decoded

    def close(self) -> None:
        """End the connection in order."""
        self._file.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
