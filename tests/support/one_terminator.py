"""A TLS process in the test's own process. The test turns its loop, and plays everybody else."""

import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mpchat.config import resolve
from mpchat.ipc.channel import Link, make_queue
from mpchat.ipc.client_socket import own
from mpchat.ipc.connection_state import FRESH, ConnectionState, encode_state
from mpchat.ipc.handoff import ConnectionInTransit, Handoff, HandoffSocket, Passed, Receipt, read_message
from mpchat.ipc.items import PLAIN, Down
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.session import DialectState
from mpchat.tls.terminator import Terminator

# What certificates here are for.
NAME = "chat.test"


def begun(first: bytes) -> ConnectionState:
    """Return the state of a client that has sent a worker ``first``, and nothing else."""
    return ConnectionState(
        "plain", DialectState(first), PLAIN, Place(0), b"", False, 0.0, None, 0.0, 0.0, undecided=True
    )


class Peer:
    """A client. It moves bytes only when the test says so."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=NAME)
        self.shaken = False
        # What has come; True from the end of the stream on; True when that was announced (close_notify).
        self.got = bytearray()
        self.ended = self.ended_in_order = False
        # Bytes that are to be sent.
        self.unsent = bytearray()
        self.sock: Any = None
        self.identity = 0

    def advance(self) -> None:
        """Do what can be done with what has come, without the network."""
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            while data := self.tls.read(1 << 16):
                self.got += data
            self.ended_in_order = True
        except ssl.SSLZeroReturnError:
            self.ended_in_order = True
        except (ssl.SSLWantReadError, ssl.SSLEOFError):
            pass
        self.unsent += self._outgoing.read()

    def write(self, data: bytes) -> None:
        """Encrypt; :meth:`send` sends."""
        self.tls.write(data)
        self.unsent += self._outgoing.read()

    def send(self) -> None:
        """Send what the system takes now."""
        with suppress(BlockingIOError):
            while self.unsent:
                del self.unsent[: self.sock.send(self.unsent)]

    def receive(self, size: int = 1 << 16) -> None:
        """Take what has come from the network."""
        with suppress(BlockingIOError):
            while data := self.sock.recv(size):
                self._incoming.write(data)
            self.ended = True
            self._incoming.write_eof()
        self.advance()

    def say_end(self) -> None:
        """Say that nothing more will come (close_notify)."""
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        self.unsent += self._outgoing.read()


class TlsBench:
    """A TLS process whose loop the test turns."""

    def __init__(self, files: tuple[Path, Path], **settings: Any) -> None:
        """``files`` are the certificate's chain and key; ``settings`` are other ones than the defaults."""
        up, window = make_queue()
        down, _ = make_queue()
        self.link = Link(up, down, window)
        near, far = socket.socketpair()
        self._near, self.supervisor = near, HandoffSocket(far)
        config = msgspec.structs.replace(resolve([])[0], **settings)
        self._process_link = Link(down, up, window)
        self.terminator = Terminator(config, self._process_link, HandoffSocket(near))
        self.terminator.serve()
        self.show(files)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.peers: list[Peer] = []
        # The workers' ends of connections, by identity.
        self.workers: dict[int, socket.socket] = {}
        # What the process has said, in order.
        self.receipts: list[Receipt] = []
        self.passed: list[ConnectionInTransit] = []
        # True when the supervisor refuses what is passed on.
        self.refuses = False

    def show(self, files: tuple[Path, Path]) -> None:
        """Have a certificate shown to those that come from now on."""
        self.terminator.take(Down.CERTIFICATE, tuple(each.read_bytes() for each in files))

    def connect(
        self,
        context: ssl.SSLContext,
        host: str = "192.0.2.1",
        *,
        first: int | None = None,
        raw: bytes | None = None,
        buffer: int = 0,
    ) -> Peer:
        """Return a client of which a worker has read the ``first`` bytes that it sends, or all of them.

        The bytes are ``raw`` or a ClientHello. ``buffer`` is what the system holds for it, each way (bytes).
        """
        peer = Peer(context)
        peer.sock = socket.socket()
        if buffer:
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sock.connect(self.listener.getsockname())
        peer.sock.setblocking(False)
        sock, _ = self.listener.accept()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        peer.identity = len(self.peers) + 1
        self.peers.append(peer)
        if raw is None:
            peer.advance()
        else:
            peer.unsent += raw
        read = len(peer.unsent) if first is None else first
        state = encode_state(begun(bytes(peer.unsent[:read]))) if read else FRESH
        del peer.unsent[:read]
        arrived = ConnectionInTransit(peer.identity, host, peer.sock.getsockname()[1], state)
        self.terminator.take_handoff(Handoff([arrived]), [sock.detach()])
        return peer

    def shaken(self, context: ssl.SSLContext, host: str = "192.0.2.1", **more: Any) -> Peer:
        """Return a client that has shaken hands and is with a worker; what is left of its bytes is sent."""
        peer = self.connect(context, host, **more)
        self.until(lambda: peer.shaken and peer.identity in self.workers, peer)
        return peer

    def worker(self, peer: Peer) -> socket.socket:
        """Return the worker's end of a client's connection."""
        return self.workers[peer.identity]

    def turn(self) -> None:
        """Let the process go once round its loop, without a pause; the supervisor answers."""
        self.terminator.reactor.call_later(0.0, lambda: None)
        self.terminator.turn()
        self._supervise()

    def _supervise(self) -> None:
        for arrived in self.supervisor.receive():
            message = read_message(arrived.message)
            if isinstance(message, Receipt):
                self.receipts.append(message)
                continue
            assert isinstance(message, Passed)
            assert arrived.descriptors is not None
            self.passed += message.connections
            identities = [each.identity for each in message.connections]
            for each, descriptor in zip(message.connections, arrived.descriptors, strict=True):
                self.workers[each.identity] = own(descriptor, each.host, secure=each.secure)
            answer = Receipt(nacks=identities) if self.refuses else Receipt(acks=identities)
            self.supervisor.send(msgspec.msgpack.encode(answer), [])

    def deliver(self, peer: Peer) -> None:
        """Send what the system takes now, and wait until it has come: on a busy machine that is later."""
        peer.send()
        sock = self.terminator.clients[peer.identity].sock
        assert select.select([sock], [], [], 10)[0] == [sock]

    def until(self, done: Callable[[], object], *moving: Peer) -> None:
        """Turn the loop, and move the bytes of these clients, until ``done``."""
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline, "waited 10 s for the TLS process"
            for peer in moving:
                peer.send()
            self.turn()
            for peer in moving:
                peer.receive()

    def settle(self, *moving: Peer, turns: int = 20) -> None:
        """Turn the loop so often that all that can happen has happened."""
        for _ in range(turns):
            for peer in moving:
                peer.send()
            self.turn()
            for peer in moving:
                peer.receive()

    def said(self, what: str) -> list[Any]:
        """Return all that the receipts have said of one thing."""
        return [each for receipt in self.receipts for each in getattr(receipt, what)]

    def close(self) -> None:
        for client in list(self.terminator.clients.values()):
            client.sock.close()
            if client.near is not None:
                client.near.close()
        self.terminator._lingering.close()
        for sock in (*self.terminator._passed.values(), *(far for _, far in self.terminator._secured)):
            sock.close()
        for each in (*self.workers.values(), *(peer.sock for peer in self.peers)):
            each.close()
        for closing in (self._near, self.supervisor, self.listener, self.link, self._process_link):
            closing.close()
        self.terminator.reactor.close()


def drained(sock: socket.socket) -> tuple[bytes, bool]:
    """Return what a worker's end has got and not read, and whether its stream is at its end."""
    found = b""
    with suppress(BlockingIOError):
        while data := sock.recv(1 << 16):
            found += data
        return found, True
    return found, False
