"""Control server: listens for commands in the supervisor's loop."""

import logging
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from mpchat.control.messages import _READ_SIZE, REQUEST_LIMIT, VERSION, Answer, Reply, Request, _address
from mpchat.errors import Exit, MpchatError
from mpchat.reactor import READ, WRITE, Reactor
from mpchat.text import visible

log = logging.getLogger("mpchat.control")


# Bytes of progress that wait for a command that does not read; what is more is left out.
PROGRESS_LIMIT = 64 << 10


# Requests at a time; a command has one each.
CONNECTIONS = 64


# Seconds without accepting when there is no descriptor for another command.
REST = 0.1


def _peer_uid(sock: socket.socket) -> int:
    if hasattr(socket, "SO_PEERCRED"):
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", packed)[1])
    return os.geteuid()  # the socket's mode and its folder's are the check there


class _Peer:
    """One command's connection: reads a line, gets lines up to a final one, and then reads the next.

    While it waits for its answer it is read from all the same: that is how its end is noticed, be it minutes
    before the answer comes.
    """

    def __init__(self, server: "Server", sock: socket.socket) -> None:
        self.sock = sock
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
        data = self.sock.recv(_READ_SIZE)
        self._received += data
        if not self._busy:
            self._serve_next()
        # One that has sent all it wanted to and has gone is the same to a Unix socket.
        if not self._unsent and (not data or len(self._received) > REQUEST_LIMIT):
            self._server.drop(self)

    def _serve_next(self) -> None:
        line, newline, rest = self._received.partition(b"\n")
        if newline:
            self._received = rest
            self._busy = True
            self._server.serve(self, bytes(line))

    def answer(self, answer: Answer) -> None:
        """Send the answer or a line of progress, whenever it comes; the peer may have gone."""
        if self.sock.fileno() < 0 or not self._busy:
            return
        line = _encode_answer(answer)
        if answer.final:
            self._busy = False
        elif len(self._unsent) + len(line) > PROGRESS_LIMIT:
            return
        if not self._unsent:
            self._server.wait_to_write(self)
        self._unsent += line

    def send_what_can_be_sent(self) -> None:
        """Send the rest of the answers, as far as it goes at once: there is no later."""
        with suppress(OSError):
            self._unsent = self._unsent[self.sock.send(self._unsent) :]

    def _send(self) -> None:
        self._unsent = self._unsent[self.sock.send(self._unsent) :]
        if not self._unsent:
            self._server.wait_to_read(self)
            if not self._busy:
                self._serve_next()


def _encode_answer(answer: Answer) -> bytes:
    try:
        return msgspec.json.encode(answer) + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair: a path of bytes that are no text
        text = visible(answer.text) or "the answer holds what is no text"
        code = answer.exit or (Exit.FAILED if answer.final else Exit.OK)
        return _encode_answer(Answer(exit=code, text=text, final=answer.final))


class Server:
    """Listens for commands in the supervisor's loop."""

    def __init__(self, reactor: Reactor, path: Path, handle: Callable[[Request, Reply], None]) -> None:
        """``handle(request, reply)`` is called for each request and calls ``reply`` once, now or later.

        Before that it may call ``reply`` with answers that are not final, as often as it likes: none of them
        waits for anything, and a command that does not read them gets fewer.
        """
        self._reactor = reactor
        self._path = path
        self._handle = handle
        # In the order in which they came.
        self._peers: dict[_Peer, None] = {}
        # True while there is no descriptor for another command, and the listener is not watched.
        self._resting = False
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with suppress(FileNotFoundError):
            self._path.unlink()
        before = os.umask(0o177)
        try:
            with _address(self._path) as address:
                listener.bind(address)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(before)
        listener.listen(CONNECTIONS)
        listener.setblocking(False)
        self._reactor.watch(listener, READ, self._accept)
        return listener

    def heal(self) -> None:
        """Listen anew if somebody deleted the socket's file."""
        if not self._path.is_socket():
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
        except OSError:  # no descriptor for it: it waits in the kernel's queue and would be reported for ever
            self._resting = True
            self._reactor.forget(self._listener)
            self._reactor.call_later(REST, self._go_on)
            return
        if _peer_uid(sock) not in (os.geteuid(), 0):
            sock.close()
            return
        if len(self._peers) >= CONNECTIONS:  # connections that ask nothing must not keep commands out
            idle = (each for each in self._peers if each.idle)
            self.drop(next(idle, next(iter(self._peers))))
        sock.setblocking(False)
        peer = _Peer(self, sock)
        self._peers[peer] = None
        self._reactor.watch(sock, READ, peer.on_event)

    def _go_on(self) -> None:
        if self._resting:
            self._resting = False
            self._reactor.watch(self._listener, READ, self._accept)

    def serve(self, peer: _Peer, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            peer.answer(Answer(exit=Exit.FAILED, text=f"not a request: {error}"))
            return
        if request.version != VERSION:
            text = f"the server speaks version {VERSION} of the control protocol, not {request.version}"
            peer.answer(Answer(exit=Exit.FAILED, text=text))
            return
        try:
            self._handle(request, peer.answer)
        except MpchatError as error:
            peer.answer(Answer(exit=error.exit_code, text=str(error)))
        except KeyError as error:
            peer.answer(Answer(exit=Exit.FAILED, text=f"{request.command} needs the argument {error}"))
        except Exception:  # one command must not end the server
            log.exception("failed: command %s", request.command)
            peer.answer(Answer(exit=Exit.FAILED, text=f"the server failed at {request.command}, see its log"))

    def wait_to_write(self, peer: _Peer) -> None:
        self._reactor.change(peer.sock, WRITE, peer.on_event)

    def wait_to_read(self, peer: _Peer) -> None:
        self._reactor.change(peer.sock, READ, peer.on_event)

    def drop(self, peer: _Peer) -> None:
        self._peers.pop(peer, None)
        self._reactor.forget(peer.sock)
        peer.sock.close()

    def close(self) -> None:
        """Take the socket's file away and close all connections, answers that were just given sent first."""
        for peer in list(self._peers):
            peer.send_what_can_be_sent()
            self.drop(peer)
        if not self._resting:
            self._reactor.forget(self._listener)
        self._resting = False
        self._listener.close()
        with suppress(OSError):
            self._path.unlink()
