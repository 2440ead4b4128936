"""The lecture's very first server: one client at a time, for scripts.lecture to compare with.

It is no chat: the room is the client that is served, and all others wait in the kernel's accept queue until
that client leaves. The rule it keeps is the lecture's: every call blocks, and only one socket is watched.

Run as ``python -m scripts.lecture.peer_blocking PORT``; it serves on 127.0.0.1 until it is killed.
"""

import contextlib
import socket
import sys

from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

# Bytes taken in one read: the lecture's buffer.
READ_SIZE = 4096
# Connections that may wait to be accepted: all clients but the one that is served.
BACKLOG = 512


def serve(port: int) -> None:
    """Serve a client until it leaves, then the next, until the process is killed."""
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(ConnectionError):  # reset: the same as an end of stream here
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                talk(client)


def talk(client: socket.socket) -> None:
    """Send this client's messages to all clients that are served: to itself."""
    decoder = FrameDecoder()
    while data := client.recv(READ_SIZE):
        for payload in decoder.feed(data):
            if not isinstance(payload, Oversized):
                client.sendall(encode_frame(payload))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
