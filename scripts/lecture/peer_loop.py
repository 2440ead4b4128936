"""One process, one loop, any of the system's ways to wait for many sockets, to compare the ways.

mpchat works otherwise: here a client that does not read stops all others. The rule it keeps: ``select``,
``poll`` and ``epoll`` run the same lines, so that what differs in their figures is the waiting alone. And it
hides no limit: where ``select`` refuses a descriptor, its error is the last thing that this program says.

Run as ``python -m scripts.lecture.peer_loop PORT select|poll|epoll``; it serves on 127.0.0.1 until killed.
"""

import selectors
import socket
import sys

from mpchat.multiplexer import make_selector
from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame
from mpchat.reactor import READ

# Bytes taken in one read: the lecture's buffer.
READ_SIZE = 4096
# Connections that may wait to be accepted: enough for all that come at once.
BACKLOG = 512

Room = dict[socket.socket, FrameDecoder]


def serve(port: int, selector: selectors.BaseSelector) -> None:
    """Relay what any client sends to all clients, until the process is killed."""
    room: Room = {}
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
        selector.register(listener, READ)
        while True:
            for key, _ in selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is listener:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    room[client] = FrameDecoder()
                    selector.register(client, READ)
                elif not hear(sock, room):
                    selector.unregister(sock)
                    del room[sock]
                    sock.close()


def hear(sock: socket.socket, room: Room) -> bool:
    """Relay what ``sock`` sent; return False when it is closed."""
    try:
        data = sock.recv(READ_SIZE)
    except ConnectionError:
        return False
    for payload in room[sock].feed(data):
        if isinstance(payload, Oversized):
            continue
        frame = encode_frame(payload)
        # An empty frame is a question, "am I served?", and goes back to the client that asked.
        for client in room if payload else [sock]:
            try:
                client.sendall(frame)
            except ConnectionError:
                continue  # closed: the next read of it says so
    return bool(data)


if __name__ == "__main__":
    serve(int(sys.argv[1]), make_selector(sys.argv[2]))
