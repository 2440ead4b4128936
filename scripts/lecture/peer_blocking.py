"""The lecture's very first server: one client at a time, for models.py to compare with.

Not a chat: the room is whoever is being served, and all others wait in the kernel's accept queue until that
one goes. The rule it keeps is the lecture's: every call blocks, and nothing watches more than one socket.

Run as ``python -m scripts.lecture.peer_blocking PORT``; it serves on 127.0.0.1 until it is killed.
"""

import contextlib
import socket
import sys

from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

# Bytes taken in one read: the lecture's buffer.
READ_SIZE = 4096
# Connections that may wait to be accepted: here it is where everybody but one is.
BACKLOG = 512


def serve(port: int) -> None:
    """Serve one client until it goes, then the next, for ever."""
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(ConnectionError):  # reset: the same as an end of stream here
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                talk(client)


def talk(client: socket.socket) -> None:
    """Send this client's messages to everybody who is served: itself."""
    decoder = FrameDecoder()
    while data := client.recv(READ_SIZE):
        for payload in decoder.feed(data):
            if not isinstance(payload, Oversized):
                client.sendall(encode_frame(payload))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
