"""The lecture's second server: a thread per client, a lock around the list, for the bench to compare with.

mpchat works otherwise: here every message takes the one lock, every client costs a stack, and while a client
does not read, the lock is held. The rule it keeps is the lecture's: the list is touched under the lock only.

Run as ``python -m scripts.lecture.peer_threads PORT``; it serves on 127.0.0.1 until it is killed.
"""

import socket
import sys
import threading

from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

# Bytes taken in one read: the lecture's buffer.
READ_SIZE = 4096
# Connections that may wait to be accepted: enough for all that the bench opens at once.
BACKLOG = 512
# Bytes of stack for each thread: ample for this, and a thousand of them are still small.
STACK_SIZE = 256 * 1024


class Room:
    """The clients, and the lock that guards the list."""

    def __init__(self) -> None:
        """Begin empty."""
        self._lock = threading.Lock()
        self._clients: list[socket.socket] = []

    def join(self, client: socket.socket) -> None:
        """Put ``client`` on the list."""
        with self._lock:
            self._clients.append(client)

    def leave(self, client: socket.socket) -> None:
        """Take ``client`` off the list."""
        with self._lock:
            self._clients.remove(client)

    def broadcast(self, frame: bytes) -> None:
        """Send ``frame`` to all on the list; all get the same order, because the lock is held."""
        with self._lock:
            for client in self._clients:
                try:
                    client.sendall(frame)
                except OSError:
                    continue  # closed: its own thread takes it off the list


def talk(client: socket.socket, room: Room) -> None:
    """Read and relay what one client sends, in its own thread, until it leaves."""
    decoder = FrameDecoder()
    room.join(client)
    try:
        while data := client.recv(READ_SIZE):
            for payload in decoder.feed(data):
                if isinstance(payload, Oversized):
                    continue
                if payload:
                    room.broadcast(encode_frame(payload))
                else:  # An empty frame is a question, "am I served?", and goes back to the client that asked.
                    client.sendall(encode_frame(payload))
    except ConnectionError:
        pass  # reset: the same as an end of stream here
    finally:
        room.leave(client)
        client.close()


def serve(port: int) -> None:
    """Accept clients, and start a thread for each, until the process is killed."""
    threading.stack_size(STACK_SIZE)
    room = Room()
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=talk, args=(client, room), daemon=True).start()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
