"""The lecture's first server: one process, one ``select()`` loop, for bench.py to compare with.

Not what mpchat does: a client that does not read stops it for everybody, and ``select`` takes descriptors
up to 1023 only. The rule it keeps is the lecture's: a frame that came in goes out at once, one ``send`` for
each client.

Run as ``python -m scripts.lecture.peer_select PORT``; it serves on 127.0.0.1 until it is killed.
"""

import select
import socket
import sys

from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

# Bytes taken in one read: the lecture's buffer.
READ_SIZE = 4096
# Connections that may wait to be accepted: all that the bench opens at once fit.
BACKLOG = 512


def serve(port: int) -> None:
    """Relay for ever what any client sends to all of them."""
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
        clients: dict[socket.socket, FrameDecoder] = {}
        while True:
            readable, _, _ = select.select([listener, *clients], [], [])
            for sock in readable:
                if sock is listener:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    clients[client] = FrameDecoder()
                else:
                    hear(sock, clients)


def hear(sock: socket.socket, clients: dict[socket.socket, FrameDecoder]) -> None:
    """Take what ``sock`` sent; its end of stream takes it off the list."""
    try:
        data = sock.recv(READ_SIZE)
    except ConnectionError:
        data = b""
    if not data:
        del clients[sock]
        sock.close()
        return
    for payload in clients[sock].feed(data):
        if isinstance(payload, Oversized):
            continue
        # An empty frame is a question, "am I served?", and comes back to the one who asked.
        for client in list(clients) if payload else [sock]:
            try:
                client.sendall(encode_frame(payload))
            except ConnectionError:
                continue  # gone: the next read of it says so


if __name__ == "__main__":
    serve(int(sys.argv[1]))
