"""Small chat servers for bench and lecture to compare with: one client at a time, one loop, threads, asyncio.

mpchat works otherwise: a client that does not read stops all others here. The rules they keep:

* ``blocking`` is the lecture's very first server and no chat: the room is the client that is served. All
  others wait in the kernel's accept queue until that client leaves.
* ``select``, ``poll`` and ``epoll`` run the same lines, so that what differs in their figures is the waiting
  alone. Where ``select`` refuses a descriptor, its error is the last thing that the program says.
* ``threads`` has a thread per client, and touches the list of clients under its one lock only.
* ``asyncio`` is no server of the lecture.

Run as ``python -m scripts.lecture.peer KIND PORT``; it serves on 127.0.0.1 until it is killed.
"""

import selectors
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial

from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

# Bytes taken in one read: the lecture's buffer.
READ_SIZE = 4096
# Connections that may wait to be accepted: enough for all that come at once.
BACKLOG = 512
# Bytes of stack for each thread: ample for this, and a thousand of them are still small.
STACK_SIZE = 256 * 1024


def accept(listener: socket.socket) -> socket.socket:
    """Wait for the next client."""
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def hear(client: socket.socket, decoder: FrameDecoder, broadcast: Callable[[bytes], None]) -> bool:
    """Read once and broadcast each frame that is complete; return False when ``client`` has closed."""
    try:
        data = client.recv(READ_SIZE)
    except ConnectionError:
        return False
    for payload in decoder.feed(data):
        if isinstance(payload, Oversized):
            continue
        if payload:
            broadcast(encode_frame(payload))
        else:  # An empty frame is a question, "am I served?", and goes back to the client that asked.
            send(encode_frame(payload), [client])
    return bool(data)


def send(frame: bytes, clients: Iterable[socket.socket]) -> None:
    """Send ``frame`` to each of ``clients``."""
    for client in clients:
        try:
            client.sendall(frame)
        except OSError:
            continue  # closed: the next read of it says so


def blocking(listener: socket.socket) -> None:
    """Serve a client until it leaves, then the next."""
    while True:
        with accept(listener) as client:
            decoder, broadcast = FrameDecoder(), partial(send, clients=[client])
            while hear(client, decoder, broadcast):
                pass


def loop(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    """Serve all clients in one loop, which waits with ``selector``."""
    room: dict[socket.socket, FrameDecoder] = {}
    broadcast = partial(send, clients=room)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                client = accept(listener)
                room[client] = FrameDecoder()
                selector.register(client, selectors.EVENT_READ)
            elif not hear(sock, room[sock], broadcast):
                selector.unregister(sock)
                del room[sock]
                sock.close()


def threads(listener: socket.socket) -> None:
    """Serve each client in a thread of its own; all get the same order, because the lock is held."""
    lock = threading.Lock()
    room: list[socket.socket] = []

    def broadcast(frame: bytes) -> None:
        with lock:
            send(frame, room)

    def serve(client: socket.socket) -> None:
        decoder = FrameDecoder()
        with lock:
            room.append(client)
        while hear(client, decoder, broadcast):
            pass
        with lock:
            room.remove(client)
        client.close()

    threading.stack_size(STACK_SIZE)
    while True:
        threading.Thread(target=serve, args=(accept(listener),), daemon=True).start()


def asynchronous(listener: socket.socket) -> None:
    """Serve all clients in asyncio's loop, as it would be written today, with protocols: they cost least.

    A client that does not read stops no other one here: its buffer grows without end.
    """
    import asyncio  # here, because it takes memory, which is measured for each kind

    room: set[asyncio.WriteTransport] = set()

    class Member(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:  # with TCP_NODELAY already
            assert isinstance(transport, asyncio.WriteTransport)
            self._transport = transport
            self._decoder = FrameDecoder()
            room.add(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            room.discard(self._transport)

        def data_received(self, data: bytes) -> None:
            for payload in self._decoder.feed(data):
                if isinstance(payload, Oversized):
                    continue
                frame = encode_frame(payload)
                for transport in room if payload else [self._transport]:
                    transport.write(frame)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Member, sock=listener, backlog=BACKLOG)
        await server.serve_forever()

    asyncio.run(serve())


KINDS: dict[str, Callable[[socket.socket], None]] = {
    "blocking": blocking,
    "threads": threads,
    "asyncio": asynchronous,
}


def main(kind: str, port: int) -> None:
    """Serve in the way that ``kind`` names, until the process is killed."""
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
        if kind in KINDS:
            KINDS[kind](listener)
        else:
            loop(listener, getattr(selectors, f"{kind.capitalize()}Selector")())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
