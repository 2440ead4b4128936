"""Control socket: how commands talk to a running server. One JSON object a line each way.

A Unix socket of mode 0600 in the instance's folder; the peer's user is checked too. Synchronous: an answer
comes when what was asked for is done. A path that is too long for a socket address is reached through its
folder's descriptor.
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

log = logging.getLogger("mpchat.control")

# Raised when a request or an answer changes its meaning.
VERSION = 1
# The longest request taken, in bytes: an announcement of the longest message, escaped, fits.
REQUEST_LIMIT = 512 << 10
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
    """``exit`` is the exit code the command ends with; ``text`` says why when it is not 0."""

    result: dict[str, Any] = {}
    exit: int = 0
    text: str = ""
    version: int = VERSION


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
    """One command's connection: reads a line, gets a line."""

    def __init__(self, server: "Server", sock: socket.socket) -> None:
        self.sock = sock
        self._server = server
        self._received = bytearray()
        self._unsent = b""

    def on_event(self, mask: int) -> None:
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
        line, newline, _ = self._received.partition(b"\n")
        if newline:
            self._server.serve(self, bytes(line))
            self._received.clear()
        elif not data or len(self._received) > REQUEST_LIMIT:
            self._server.drop(self)

    def answer(self, answer: Answer) -> None:
        """Send the answer, whenever it comes; the peer may have gone."""
        if self.sock.fileno() < 0:
            return
        self._unsent = msgspec.json.encode(answer) + b"\n"
        self._server.wait_to_write(self)

    def _send(self) -> None:
        self._unsent = self._unsent[self.sock.send(self._unsent) :]
        if not self._unsent:
            self._server.wait_to_read(self)


class Server:
    """Listens for commands in the supervisor's loop."""

    def __init__(self, reactor: Reactor, path: Path, handle: Callable[[Request, Reply], None]) -> None:
        """``handle(request, reply)`` is called for each request and calls ``reply`` once, now or later."""
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
            self.drop(next(iter(self._peers)))
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
        """Take the socket's file away and close all connections."""
        for peer in list(self._peers):
            self.drop(peer)
        if not self._resting:
            self._reactor.forget(self._listener)
        self._resting = False
        self._listener.close()
        with suppress(OSError):
            self._path.unlink()


def ask(path: Path, request: Request, timeout: float) -> Answer:
    """Send a request and wait for its answer, ``timeout`` seconds at most.

    Raises :class:`NotRunningError` when nobody listens, :class:`TimedOutError` when no answer comes in time,
    and :class:`MpchatError` when it cannot be asked or answers something else.
    """
    asked = _encode(request)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        deadline = time.monotonic() + timeout
        sock.settimeout(timeout)
        try:
            with _address(path) as address:
                sock.connect(address)
            sock.sendall(asked)
            line = _read_line(sock, deadline)
        except (TimeoutError, BlockingIOError):
            raise TimedOutError(f"no answer to {request.command} within {timeout:g} s") from None
        except PermissionError:
            raise MpchatError(f"no right to use {path}: only the server's own user may") from None
        except OSError as error:
            raise NotRunningError(f"nobody listens at {path}: {error.strerror}") from None
    if not line:
        raise NotRunningError(f"the server ended before it answered {request.command}")
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


def _read_line(sock: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(_READ_SIZE)
        if not data:
            return b""
        received += data
    return bytes(received)
