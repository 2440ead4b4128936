"""Control server: accepts commands' connections in the supervisor's loop and answers their requests.

It never waits: an answer is sent as far as the peer reads, and what a peer does not read is bounded.
"""

import logging
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mpchat.control.messages import (
    READ_SIZE,
    REQUEST_LIMIT,
    Answer,
    Reply,
    decode_request,
    encode_answer,
    refusal,
)
from mpchat.control.requests import Request
from mpchat.control.socket_address import socket_address
from mpchat.errors import Exit, MpchatError
from mpchat.reactor import READ, WRITE, Reactor

# Bytes of progress kept for a command that does not read; reports beyond that are left out.
PROGRESS_LIMIT = 64 << 10
# Connections at a time; a command has one each.
CONNECTIONS = 64
# Seconds without accepting when no descriptor or no watch is left.
REST = 0.1

# Gets a request, what takes its answers, and the user who asks.
Handle = Callable[[Request, Reply, int], None]

log = logging.getLogger("mpchat.control")


class _Peer:
    """One command's connection: reads a request, sends its answers up to the final one, reads the next.

    While a request is being served the connection is read from all the same: that is how the end of the
    peer is noticed, even minutes before the answer comes.
    """

    def __init__(self, server: "Server", sock: socket.socket, uid: int) -> None:
        self.sock = sock
        self.uid = uid
        self._server = server
        self._received = bytearray()
        self._unsent = b""
        # True from a request to its final answer.
        self._busy = False

    @property
    def idle(self) -> bool:
        return not (self._busy or self._unsent)

    def on_event(self, mask: int) -> None:
        if self.sock.fileno() < 0:  # dropped earlier in this turn
            return
        try:
            if self._unsent:
                self._send()
            else:
                self._receive()
        except OSError:
            self._server.drop(self)

    def _receive(self) -> None:
        data = self.sock.recv(READ_SIZE)
        self._received += data
        if not self._busy:
            self._serve_next()
        # A Unix socket cannot tell a peer that has sent its last request from a peer that has gone.
        if not self._unsent and (not data or len(self._received) > REQUEST_LIMIT):
            self._server.drop(self)

    def _serve_next(self) -> None:
        line, newline, rest = self._received.partition(b"\n")
        if newline:
            self._received = rest
            self._busy = True
            self._server.serve(self, bytes(line))

    def answer(self, answer: Answer[object]) -> None:
        """Send an answer or a report of progress, whenever it comes; the peer may have gone."""
        if self.sock.fileno() < 0 or not self._busy:
            return
        line = encode_answer(answer)
        if answer.final:
            self._busy = False
        elif len(self._unsent) + len(line) > PROGRESS_LIMIT:
            return
        if not self._unsent:
            self._server.wait_to_write(self)
        self._unsent += line

    def send_what_can_be_sent(self) -> None:
        """Send as much of the rest as the socket takes at once: there is no later."""
        with suppress(OSError):
            self._unsent = self._unsent[self.sock.send(self._unsent) :]

    def _send(self) -> None:
        self._unsent = self._unsent[self.sock.send(self._unsent) :]
        if not self._unsent:
            self._server.wait_to_read(self)
            if not self._busy:
                self._serve_next()


class Server:
    """Listens for commands in the supervisor's loop."""

    def __init__(self, reactor: Reactor, path: Path, handle: Handle) -> None:
        """Listen at ``path``. Raise ``OSError`` if that is not possible.

        ``handle(request, reply, uid)`` is called for each request, with the user's id, and calls ``reply``
        with one final answer, at once or later. Before that it may call ``reply`` with any number of answers
        that are not final. No call waits; a command that does not read gets fewer of them.
        """
        self._reactor = reactor
        self._path = path
        self._handle = handle
        # The oldest first.
        self._peers: dict[_Peer, None] = {}
        # True while the listener is not watched, because no descriptor or no watch is left.
        self._resting = False
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with suppress(FileNotFoundError):
            self._path.unlink()
        before = os.umask(0o177)
        try:
            with socket_address(self._path) as address:
                listener.bind(address)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(before)
        try:
            listener.listen(CONNECTIONS)
            listener.setblocking(False)
            self._reactor.watch(listener, READ, self._accept)
        except OSError:  # the system's limit of watches
            listener.close()
            # With nobody behind it, the file would be taken for a socket that is in place.
            self._path.unlink(missing_ok=True)
            raise
        return listener

    @property
    def in_place(self) -> bool:
        """Tell whether the socket's file is there."""
        return self._path.is_socket()

    def heal(self) -> None:
        """Listen anew if the socket's file was deleted."""
        if not self.in_place:
            before, self._listener = self._listener, self._listen()
            if not self._resting:
                self._reactor.forget(before)
            self._resting = False
            before.close()

    def _accept(self, mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor: the connection stays in the kernel's queue, ready in every turn
            self._rest()
            return
        uid = _peer_uid(sock)
        if uid not in (os.geteuid(), 0):
            sock.close()
            return
        if len(self._peers) >= CONNECTIONS:  # connections that ask nothing must not keep commands out
            idle = (each for each in self._peers if each.idle)
            self.drop(next(idle, next(iter(self._peers))))
        sock.setblocking(False)
        peer = _Peer(self, sock, uid)
        try:
            self._reactor.watch(sock, READ, peer.on_event)
        except OSError as error:  # the system's limit of watches
            log.warning("a command was not answered: %s", error.strerror)
            sock.close()
            return
        self._peers[peer] = None

    def _rest(self) -> None:
        self._resting = True
        self._reactor.forget(self._listener)
        self._reactor.call_later(REST, self._resume)

    def _resume(self) -> None:
        if not self._resting:
            return
        try:
            self._reactor.watch(self._listener, READ, self._accept)
        except OSError:  # the system's limit of watches
            self._reactor.call_later(REST, self._resume)
        else:
            self._resting = False

    def serve(self, peer: _Peer, line: bytes) -> None:
        """Answer the request in a line, now or later."""
        try:
            request = decode_request(line)
        except MpchatError as error:
            peer.answer(refusal(error.exit_code, str(error)))
            return
        try:
            self._handle(request, peer.answer, peer.uid)
        except MpchatError as error:
            peer.answer(refusal(error.exit_code, str(error)))
        except Exception:  # a failing command must not end the server
            command = request.command()
            log.exception("failed: command %s", command)
            peer.answer(refusal(Exit.FAILED, f"the server failed at {command}, see its log"))

    def wait_to_write(self, peer: _Peer) -> None:
        """Wake the peer when its answer can be written on."""
        self._reactor.change(peer.sock, WRITE, peer.on_event)

    def wait_to_read(self, peer: _Peer) -> None:
        """Wake the peer when it says something or goes."""
        self._reactor.change(peer.sock, READ, peer.on_event)

    def drop(self, peer: _Peer) -> None:
        """Close a peer's connection."""
        self._peers.pop(peer, None)
        self._reactor.forget(peer.sock)
        peer.sock.close()

    def close(self) -> None:
        """Send the answers that were just given, close all connections and remove the socket's file."""
        for peer in list(self._peers):
            peer.send_what_can_be_sent()
            self.drop(peer)
        if not self._resting:
            self._reactor.forget(self._listener)
        self._resting = False
        self._listener.close()
        with suppress(OSError):
            self._path.unlink()


def _peer_uid(sock: socket.socket) -> int:
    if hasattr(socket, "SO_PEERCRED"):
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", packed)[1])
    return os.geteuid()  # there the modes of the socket and its folder are the check
