"""Control socket: how commands talk to a running server. One JSON object a line each way.

A Unix socket of mode 0600 in the instance's folder; the peer's user is checked too. Synchronous: an answer
comes when what was asked for is done; what takes long says in lines before it how far it is. A path that is
too long for a socket address is reached through its folder's descriptor.
"""

import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from .errors import Exit, MpchatError, NotRunningError, TimedOutError
from .server.reactor import READ, WRITE, Reactor
from .text import visible

log = logging.getLogger("mpchat.control")

# Raised when a request or an answer changes its meaning.
VERSION = 1
# The longest request taken, in bytes: an announcement of the longest message, escaped, fits.
REQUEST_LIMIT = 512 << 10
# Bytes of progress that wait for a command that does not read; what is more is left out.
PROGRESS_LIMIT = 64 << 10
# Requests at a time; a command has one each.
CONNECTIONS = 64
# Seconds without accepting when there is no descriptor for another command.
REST = 0.1
_READ_SIZE = 64 << 10
# What a Unix socket address holds, in bytes, with a margin for the system with the least (macOS: 104).
_PATH_MAX = 100


class Request(msgspec.Struct, frozen=True):
    """What a command asks for."""

    command: str
    arguments: dict[str, Any] = {}
    version: int = VERSION


class Answer(msgspec.Struct, frozen=True):
    """``exit`` is the exit code the command ends with; ``text`` says why when it is not 0.

    One that is not ``final`` says how far it is: only its ``result`` counts, and more will come.
    """

    result: dict[str, Any] = {}
    exit: int = 0
    text: str = ""
    version: int = VERSION
    final: bool = True


Reply = Callable[[Answer], None]


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield a name for ``path`` that fits a socket address."""
    if len(os.fsencode(path)) <= _PATH_MAX or sys.platform != "linux":
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


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


def ask(
    path: Path,
    request: Request,
    timeout: float,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> Answer:
    """Send a request and wait for its final answer; ``on_progress`` is called with each line before it.

    ``timeout`` is the longest silence, in seconds. Raises :class:`NotRunningError` when nobody listens,
    :class:`TimedOutError` when no answer comes in time, and :class:`MpchatError` when it cannot be asked or
    answers something else.
    """
    asked = _encode(request)
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        with _told(path, request, timeout), _address(path) as address:
            sock.connect(address)
            sock.sendall(asked)
        while True:
            with _told(path, request, timeout):
                line = _read_line(sock, received, time.monotonic() + timeout)
            if not line:
                raise NotRunningError(f"the server ended before it answered {request.command}")
            answer = _decode(line, path)
            if answer.final:
                return answer
            if on_progress is not None:
                on_progress(answer.result)


@contextmanager
def _told(path: Path, request: Request, timeout: float) -> Iterator[None]:
    """Tell an error of the socket as one of ours."""
    try:
        yield
    except (TimeoutError, BlockingIOError):
        raise TimedOutError(f"no answer to {request.command} within {timeout:g} s") from None
    except PermissionError:
        raise MpchatError(f"no right to use {path}: only the server's own user may") from None
    except OSError as error:
        raise NotRunningError(f"nobody listens at {path}: {error.strerror}") from None


def _decode(line: bytes, path: Path) -> Answer:
    try:
        return msgspec.json.decode(line, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MpchatError(f"what listens at {path} is another version of mpchat: {error}") from None


def _encode(request: Request) -> bytes:
    try:
        encoded = msgspec.json.encode(request) + b"\n"
    except UnicodeEncodeError:
        raise MpchatError(f"{request.command}: this is not text in the terminal's encoding") from None
    if len(encoded) > REQUEST_LIMIT:
        raise MpchatError(f"{request.command}: {len(encoded)} bytes are too long, {REQUEST_LIMIT} are taken")
    return encoded


def _read_line(sock: socket.socket, received: bytearray, deadline: float) -> bytes:
    """Take the next line out of ``received``, which keeps what comes behind it; b"" at the end of all."""
    while (end := received.find(b"\n")) < 0:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(_READ_SIZE)
        if not data:
            return b""
        received += data
    line = bytes(received[: end + 1])
    del received[: end + 1]
    return line
