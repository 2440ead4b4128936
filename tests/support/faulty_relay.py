"""A chat relay that breaks its promises on request, to show that the stress test notices.

One process, one thread, ``select``; honest unless told otherwise. It prints its port and serves until its
standard input ends. ``python faulty_relay.py MODE`` breaks message number :data:`WHEN` of the run, once.
"""

import selectors
import socket
import sys

# The message that is broken, counted over the whole run: every client has joined by then, none has left.
WHEN = 60
# The client that it is broken for, in the order of joining.
VICTIM = 3

Frames = list[bytes]


class Relay:
    """Sends every message to everybody, in the order in which they come."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        self.clients: dict[socket.socket, bytes] = {}  # and what is left of their last read
        self.ports: dict[socket.socket, int] = {}
        self.joined: list[socket.socket] = []
        self.count = 0
        self.held = b""

    def serve(self) -> None:
        print(self.listener.getsockname()[1], flush=True)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is self.listener:
                    self.accept()
                elif isinstance(key.fileobj, socket.socket):
                    self.read(key.fileobj)

    def accept(self) -> None:
        client, address = self.listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients[client] = b""
        self.ports[client] = address[1]
        self.joined.append(client)
        self.selector.register(client, selectors.EVENT_READ)

    def read(self, client: socket.socket) -> None:
        try:
            data = client.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.leave(client)
            return
        data = self.clients[client] + data
        while len(data) >= 2 and len(data) >= (end := 2 + int.from_bytes(data[:2], "big")):
            frame, data = data[:end], data[end:]
            if end == 2:
                self.send(client, [framed(b'{"error":{"code":"not_json","text":"the frame is empty"}}')])
            else:
                self.count += 1
                self.relay(frame)
        if client in self.clients:
            self.clients[client] = data

    def leave(self, client: socket.socket) -> None:
        if client not in self.clients:
            return
        self.selector.unregister(client)
        del self.clients[client]
        client.close()
        for other in list(self.clients):
            self.send(other, [framed(b'{"message":" Disconnect : 127.0.0.1:%d "}' % self.ports[client])])

    def relay(self, frame: bytes) -> None:
        """Give one message to everybody, or what the mode makes of it."""
        for number, client in enumerate(self.joined):
            if client in self.clients:
                self.send(client, self.broken(number, frame))
        if self.count == WHEN:
            self.held = frame
            if self.mode == "hang-up-one":
                self.joined[VICTIM].shutdown(socket.SHUT_RDWR)

    def broken(self, number: int, frame: bytes) -> Frames:
        """Return what client ``number`` gets instead of ``frame``."""
        place = self.count - WHEN
        one = number == VICTIM
        if place == 0 and (
            (self.mode == "drop-one" and one)
            or self.mode == "drop-all"
            or (self.mode == "swap-one" and one)
            or (self.mode == "swap-half" and number % 2)
        ):
            return []
        if place == 0 and self.mode == "double-one" and one:
            return [frame, frame]
        if place == 0 and self.mode == "alter-one" and one:
            return [frame.replace(b":x", b":y", 1)]
        if place == 1 and ((self.mode == "swap-one" and one) or (self.mode == "swap-half" and number % 2)):
            return [frame, self.held]
        return [frame]

    def send(self, client: socket.socket, frames: Frames) -> None:
        try:
            client.sendall(b"".join(frames))
        except ConnectionError:
            return  # its own read will say so


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(2, "big") + payload


if __name__ == "__main__":
    Relay(sys.argv[1]).serve()
