"""Tunnel: a TLS connection between a socket of the network and one end of a socket pair.

Who has the pair's other end needs to know nothing of TLS. What comes from there is encrypted, what comes
from the network is decrypted, a bounded piece at a time. What one side does not take is kept, and the other
side is not read from meanwhile: at most one piece each way.
"""

import select
import selectors
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Bytes that are encrypted at a time. OpenSSL keeps a buffer of this size for each connection that was sent so
# much, and a TLS record holds 16 KiB.
CHUNK = 32 << 10
# Bytes that are decrypted at a time: with the smallest records there are, half a millisecond. And where the
# last ones gave nothing: a change of keys takes 30 µs, and has 27 bytes and nothing for the near side.
PIECE = 8 << 10
SCANT_PIECE = 1 << 10
# TLS records, of the smallest ones, that are decrypted at a time.
RECORDS = 64
_RECORD = 16 << 10


class Loop(Protocol):
    """What watches the sockets; see ``reactor.Reactor``."""

    def watch(self, target: Any, events: int, on_event: Callable[[int], None]) -> None:
        """Call ``on_event`` with READ, WRITE or both when ``target`` is ready for them."""

    def change(self, target: Any, events: int, on_event: Callable[[int], None]) -> None:
        """Watch a target for other ``events``."""

    def forget(self, target: Any) -> None:
        """Stop watching."""


class Tunnel:
    """One connection. :meth:`shake` goes on until it is done; then :meth:`open` gives it the pair's end."""

    __slots__ = (
        "_incoming",
        "_near_interest",
        "_network_interest",
        "_outgoing",
        "_said_end",
        "_scant",
        "_to_near",
        "_to_network",
        "_unheard",
        "ended",
        "has_more",
        "near",
        "near_ended",
        "network_ended",
        "on_near",
        "on_network",
        "sock",
        "tls",
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None = None) -> None:
        """Begin with a connection that has not shaken hands, as its server; with a name, as its client."""
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        # The pair's end; None until hands are shaken.
        self.near: socket.socket | None = None
        # What was encrypted and is not sent; what was decrypted and is not sent.
        self._to_network: bytes | memoryview = b""
        self._to_near: bytes | memoryview = b""
        # True once the network takes nothing any more: what it had sent before is still read.
        self._unheard = False
        # True once it was said that nothing more is sent.
        self._said_end = False
        # True when the last piece from the network held nothing for the near side; None before the first one.
        self._scant: bool | None = None
        # True when more of what has come from the network can be decrypted.
        self.has_more = False
        # True from when a side has ended its stream; and when nothing is left to do.
        self.network_ended = self.near_ended = self.ended = False
        self._network_interest = self._near_interest = 0
        # What to call when a socket is ready.
        self.on_network: Callable[[int], None] = _unwatched
        self.on_near: Callable[[int], None] = _unwatched

    # The handshake.

    def take(self, data: bytes) -> None:
        """Take bytes that have come from the network already."""
        self._incoming.write(data)
        self.has_more = True

    def receive(self) -> None:
        """Read a piece from the network, for :meth:`shake` or :meth:`decrypt`. Raise ``OSError``."""
        try:
            data = self.sock.recv(SCANT_PIECE if self._scant else PIECE)
        except BlockingIOError:
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        self.has_more = True

    def shake(self) -> bool:
        """Go on with the handshake; returns True when it is done. Raise ``OSError``, as ``ssl.SSLError``."""
        self.has_more = False
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        except ssl.SSLError:
            self.flush()  # an alert says why
            raise
        self.flush()
        return True

    def open(self, near: socket.socket) -> None:
        """Go on with one end of a pair."""
        self.near = near
        self.has_more = True  # it may have come with the handshake's last bytes

    # From the network.

    def decrypt(self) -> None:
        """Pass on a piece of what has come from the network. Raise ``OSError``, as ``ssl.SSLError``."""
        parts = []
        self.has_more = False
        try:
            for _ in range(RECORDS):
                data = self.tls.read(_RECORD)
                if not data:
                    self.network_ended = True
                    break
                parts.append(data)
            else:
                self.has_more = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.network_ended = True
        except ssl.SSLError:
            self._take_decrypted(parts)  # it was whole
            self.flush()  # an alert says why
            raise
        self._take_decrypted(parts)
        if self.near_ended:
            self._say_end()
        if self._outgoing.pending:  # the farewell, or an answer to a change of keys
            self.flush()

    def _take_decrypted(self, parts: list[bytes]) -> None:
        self._scant = not parts and self._scant is not None
        if parts:
            self._to_near = parts[0] if len(parts) == 1 else b"".join(parts)
        self.pass_on()

    def pass_on(self) -> None:
        """Send the near side what is there for it. One that takes nothing any more ends soon itself."""
        assert self.near is not None
        try:
            if self._to_near:
                sent = self.near.send(self._to_near)
                self._to_near = memoryview(self._to_near)[sent:] if sent < len(self._to_near) else b""
            if self.network_ended and not self._to_near:
                self.near.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._to_near, self.network_ended = b"", True

    # To the network.

    def encrypt(self) -> None:
        """Encrypt and send a piece of what the near side has sent. Raise ``OSError``."""
        assert self.near is not None
        try:
            data = self.near.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:  # closed with something unread
            data = b""
        if data:
            size = self.tls.write(data)
            while size < len(data):
                size += self.tls.write(memoryview(data)[size:])
        else:
            self.near_ended = True
            self._say_end()
        self.flush()

    def _say_end(self) -> None:
        """Say that nothing more is sent, once; not before all that has come is decrypted: TLS would fail."""
        if not (self._said_end or self.has_more):
            self._said_end = True
            with suppress(ssl.SSLError):  # nobody waits for the other half of the farewell
                self.tls.unwrap()

    def flush(self) -> None:
        """Send the network what is there for it. Raise ``OSError``."""
        if self._outgoing.pending:
            data = self._outgoing.read()
            self._to_network = bytes(self._to_network) + data if self._to_network else data
        if self._to_network:
            try:
                sent = len(self._to_network) if self._unheard else self.sock.send(self._to_network)
            except BlockingIOError:
                return
            except ConnectionError:
                self._unheard, sent = True, len(self._to_network)
            self._to_network = memoryview(self._to_network)[sent:] if sent < len(self._to_network) else b""

    @property
    def done(self) -> bool:
        """True when the near side has ended and all that it sent is sent."""
        return self._said_end and not self._to_network

    @property
    def blocked(self) -> bool:
        """True while the network does not take what is there for it; the near side is not read from."""
        return bool(self._to_network)

    @property
    def deserted(self) -> bool:
        """True when the near side has closed, and the network does not take the rest. Asks the system."""
        return self.blocked and (self.near_ended or self.near_closed)

    @property
    def near_closed(self) -> bool:
        """True when the near side has closed, and not only ended its stream. Asks the system."""
        if self.near is None:
            return False
        poll = select.poll()
        poll.register(self.near, 0)  # for its end alone
        return bool(poll.poll(0))

    # What is waited for.

    @property
    def can_decrypt(self) -> bool:
        """True when more of what has come from the network can be taken."""
        return self.has_more and not (self._to_near or self.ended or self._stuffed)

    @property
    def _stuffed(self) -> bool:
        """True when so much is there for the network that nothing may be added by what comes from it."""
        return len(self._to_network) > 2 * CHUNK

    def listen(self, loop: Loop) -> None:
        """Watch both sockets for what can go on. Raise ``OSError`` where the system has no watch left."""
        reads = not (self.network_ended or self._to_near or self.has_more or self._stuffed)
        interest = (READ if reads else 0) | (WRITE if self._to_network else 0)
        if interest != self._network_interest:
            _watch(loop, self.sock, self._network_interest, interest, self.on_network)
            self._network_interest = interest
        if self.near is None:
            return
        reads = not (self.near_ended or self._to_network)
        interest = (READ if reads else 0) | (WRITE if self._to_near else 0)
        if interest != self._near_interest:
            _watch(loop, self.near, self._near_interest, interest, self.on_near)
            self._near_interest = interest

    def stop_listening(self, loop: Loop) -> None:
        """Watch neither socket any more."""
        if self._network_interest:
            loop.forget(self.sock)
        if self._near_interest:
            loop.forget(self.near)
        self._network_interest = self._near_interest = 0
        self.on_network = self.on_near = _unwatched


def _watch(
    loop: Loop, sock: socket.socket, before: int, interest: int, on_event: Callable[[int], None]
) -> None:
    if not before:
        loop.watch(sock, interest, on_event)
    elif not interest:
        loop.forget(sock)
    else:
        loop.change(sock, interest, on_event)


def _unwatched(mask: int) -> None:
    """React to nothing: an event of this turn that came before the end."""
