"""Hand-off: live connections on their way between processes, over a Unix socket used for nothing else.

A handoff message goes with the descriptors that it speaks of. The socket carries handoff messages only:
bytes without descriptors in front of one would be merged with it. Nothing here blocks, and what is received
is close on exec. What the messages say stands at the top; who acts on them is the supervisor and the worker.
"""

import array
import errno
import os
import socket
import struct
from collections import deque
from typing import NamedTuple

import msgspec

from mpchat.ipc.connection_state import FRESH

# The kernel's limit for one message (SCM_MAX_FD); one more is EINVAL.
MAX_DESCRIPTORS = 253
# What passes, and is not the other process's end: too many descriptors of this user in flight, no memory.
_PASSING = frozenset({errno.ETOOMANYREFS, errno.ENOMEM, errno.ENOBUFS})
# Seconds until what could not be sent for such a reason is tried again: the socket stays writable meanwhile.
REST = 0.1
# Length of the message in bytes, number of descriptors.
_HEADER = struct.Struct(">IH")
# Bytes read at a time.
_READ_SIZE = 64 << 10
_ANCILLARY_SIZE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
# Linux can mark received descriptors close-on-exec as they arrive; elsewhere it is done right after.
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class ConnectionInTransit(msgspec.Struct, frozen=True, array_like=True):
    """A connection on its way. A fresh one has no state; a moved one's is passed on unread.

    The peer's address travels too, because ``getpeername`` fails after a reset.
    """

    identity: int
    host: str
    port: int
    state: msgspec.Raw = FRESH
    # True when the client has sent a message or asked to join; see ``items.Up.SPEAKERS``.
    speaker: bool = False
    # True when a TLS process encrypts it: the socket is the end of a pair.
    secure: bool = False
    # True when a proxy has connected, and has not said yet for whom. And the proxy's host, where it has just
    # said that: the address above is the client's, and this is no move.
    proxied: bool = False
    proxy: str = ""


class Handoff(msgspec.Struct, frozen=True, array_like=True, tag="handoff"):
    """Take these connections; one descriptor each, in the same order.

    From a worker it is the answer to being asked to let connections move, and may be empty.
    """

    connections: list[ConnectionInTransit]


class Passed(msgspec.Struct, frozen=True, array_like=True, tag="passed"):
    """Connections that nobody asked for, like :class:`Handoff`: another kind of process is to have them.

    From a worker they have begun to speak TLS, or a proxy has said whose they are; from a TLS process they
    have shaken hands.
    """

    connections: list[ConnectionInTransit]


class Receipt(msgspec.Struct, frozen=True, array_like=True, tag="receipt"):
    """What became of connections. Only an ack makes a connection the receiver's."""

    acks: list[int] = []
    nacks: list[int] = []
    # The hosts of connections that have ended, one entry each.
    closed: list[str] = []
    # For each moved connection among the acks, how long nobody served it, in seconds.
    pauses: list[float] = []
    # Identities of connections that a TLS process had passed on, and whose clients have gone.
    tunnels: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.acks or self.nacks or self.closed or self.tunnels)


Message = Handoff | Passed | Receipt


def read_message(message: bytes) -> Message:
    """Decode what a message says."""
    decoded: Message = _decoder.decode(message)
    return decoded


_decoder = msgspec.msgpack.Decoder(Message)


class HandoffMessage(NamedTuple):
    """A message as it arrived; ``descriptors`` is None when not all of them could be received."""

    message: bytes
    descriptors: list[int] | None


class HandoffSocket:
    """One end of a hand-off socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        # Why what is to be sent waits for a moment to pass; then :meth:`pump` is to be called again.
        self.resting: OSError | None = None
        self._out: deque[tuple[bytes | memoryview, list[int]]] = deque()
        self._in = bytearray()
        self._groups: deque[list[int] | None] = deque()

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self.sock.fileno()

    @property
    def unsent(self) -> bool:
        """True while something waits for the socket to become writable."""
        return bool(self._out) and self.resting is None

    def send(self, message: bytes, descriptors: list[int]) -> None:
        """Send a message as soon as it can go; the descriptors must stay open until it has gone.

        Raises ``OSError`` when the other process is gone.
        """
        self._out.append((_HEADER.pack(len(message), len(descriptors)) + message, descriptors))
        if self.resting is None:
            self.pump()

    def pump(self) -> None:
        """Send what can be sent now. Raises ``OSError`` when the other process is gone."""
        self.resting = None
        while self._out:
            data, descriptors = self._out[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            try:
                sent = self.sock.sendmsg([data], rights if descriptors else [])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                self.resting = error
                return
            if sent == len(data):
                self._out.popleft()
            else:  # the descriptors went with the first byte
                self._out[0] = (memoryview(data)[sent:], [])

    def receive(self) -> list[HandoffMessage]:
        """Return the messages that have arrived; ``EOFError`` when the other process is gone."""
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(_READ_SIZE, _ANCILLARY_SIZE, _CLOEXEC)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            raise EOFError from None
        descriptors = _descriptors(ancillary)
        if flags & socket.MSG_CTRUNC:
            close_all(descriptors)
            self._groups.append(None)
        elif descriptors:
            self._groups.append(descriptors)
        if not data:
            raise EOFError
        self._in += data
        return self._whole_messages()

    def _whole_messages(self) -> list[HandoffMessage]:
        messages = []
        while len(self._in) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._in)
            end = _HEADER.size + length
            if len(self._in) < end:
                break
            message = bytes(self._in[_HEADER.size : end])
            del self._in[:end]
            messages.append(HandoffMessage(message, self._groups.popleft() if count else []))
        return messages

    def close(self) -> None:
        """Close the socket and every descriptor that arrived and was not taken."""
        for group in self._groups:
            close_all(group or [])
        self._groups.clear()
        self.sock.close()


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    received = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    if not _CLOEXEC:
        for descriptor in received:
            os.set_inheritable(descriptor, False)
    return list(received)


def close_all(descriptors: list[int]) -> None:
    """Close plain descriptors that never became anybody's socket."""
    for descriptor in descriptors:
        os.close(descriptor)
