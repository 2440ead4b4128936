"""A server of the page, and of WebSockets that say and read exactly what a test tells them.

The page's files are those of the real server, with its policy. The site itself answers what the page asks
for on its own: the names and the rooms.
"""

import json
import queue
import socket
import threading
from base64 import b64encode
from hashlib import sha1
from types import TracebackType
from typing import Any, Self

from mpchat.worker.http_answers import _POLICY
from support.javascript import WEB
from support.waiting import PATIENCE

Object = dict[str, Any]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}
_TEXT, _CLOSE = 1, 8


def welcome(name: str = "앨리스", **more: Any) -> Object:
    """Return a welcome to a member."""
    facts = {"name": name, "room": "lobby", "seq": 0, "epoch": "one", "members": 1, "token": "t"}
    return {"welcome": {"recovered": False, "lost": None, **facts, **more}}


def refusal(code: str, text: str = "said by the server", **more: Any) -> Object:
    """Return an error."""
    return {"error": {"code": code, "text": text, **more}}


class Talk:
    """The server's end of one WebSocket."""

    def __init__(self, sock: socket.socket, site: "ScriptedSite") -> None:
        self._sock = sock
        self._site = site
        self._got: queue.Queue[Object | None] = queue.Queue()

    def send(self, *objects: Object) -> None:
        for each in objects:
            self._write(_TEXT, json.dumps(each, ensure_ascii=False).encode())

    def receive(self) -> Object | None:
        """Return the next object, None when the page has ended the connection."""
        return self._got.get(timeout=PATIENCE)

    def close(self, code: int = 1008) -> None:
        """End the connection from this side."""
        self._write(_CLOSE, code.to_bytes(2))

    def read(self) -> None:
        """Read to the end; for a thread of its own."""
        with self._sock, self._sock.makefile("rb") as file:
            while head := file.read(2):
                size = head[1] & 0x7F
                if size > 125:
                    size = int.from_bytes(file.read(2 if size == 126 else 8))
                key = file.read(4)
                payload = bytes(byte ^ key[at % 4] for at, byte in enumerate(file.read(size)))
                if head[0] & 15 == _CLOSE:
                    break
                self._take(json.loads(payload))
        self._got.put(None)

    def _take(self, content: Object) -> None:
        names = self._site.names
        if "who" in content:
            self.send({"who": {"room": "lobby", "names": names, "members": len(names), "next": None}})
        elif "rooms" in content:
            self.send(
                {"rooms": {"rooms": [{"room": "lobby", "members": len(names)}], "count": 1, "next": None}}
            )
        elif "ping" in content:
            self.send({"pong": 0})
        else:
            self._got.put(content)

    def _write(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2)
        self._sock.sendall(bytes((0x80 | opcode,)) + length + payload)


class ScriptedSite:
    """Listens during its ``with``. ``names`` are those that each room has."""

    def __init__(self) -> None:
        self.names: list[str] = ["앨리스"]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._talks: queue.Queue[Talk] = queue.Queue()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    def accept(self) -> Talk:
        """Wait for the page's next WebSocket."""
        return self._talks.get(timeout=PATIENCE)

    def join(self) -> tuple[Talk, Object]:
        """Wait for the page's next WebSocket and its join."""
        talk = self.accept()
        asked = talk.receive()
        assert asked is not None
        join: Object = asked["join"]
        return talk, join

    def _accept(self) -> None:
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return  # the end of the test
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                piece = sock.recv(1)
                if not piece:
                    return sock.close()
                head += piece
            first, *lines = head.split(b"\r\n")
            fields = {
                name.strip().lower(): value.strip() for name, _, value in (x.partition(b":") for x in lines)
            }
            if b"sec-websocket-key" in fields:
                sock.sendall(_handshake(fields[b"sec-websocket-key"]))
                talk = Talk(sock, self)
                self._talks.put(talk)
                talk.read()
            else:
                with sock:
                    sock.sendall(_file(first.split()[1].decode().lstrip("/") or "index.html"))
        except OSError:
            sock.close()  # the browser has gone, or the test has ended

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE)
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # ended already
        for thread in self._threads[1:]:
            thread.join(PATIENCE)


def _handshake(key: bytes) -> bytes:
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: mpchat\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def _file(name: str) -> bytes:
    path = WEB / name
    if path.parent != WEB or not path.is_file():
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    content = path.read_bytes()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {_TYPES[path.suffix[1:]]}\r\nContent-Length: {len(content)}\r\n"
        f"Content-Security-Policy: {_POLICY}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content
