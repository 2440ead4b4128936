"""Clients that speak TLS, by the standard module: none of mpchat's own code encrypts here."""

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

from support.crowd import Listener
from support.harness import Client, Server, settle
from support.members import Member
from support.tls import Authority
from support.waiting import PATIENCE, eventually

# Bytes taken from the network at a time.
READ_SIZE = 64 << 10
Address = tuple[str, int]


class Encrypted(socket.socket):
    """A connected socket with TLS on it. One thread may read while others write.

    The end of the stream is ``b""`` only behind the server's ``close_notify``; any other end is an error.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        """Shake hands with the server ``name``, within the socket's timeout. Takes the socket over."""
        timeout = sock.gettimeout()
        super().__init__(fileno=sock.detach())
        self.settimeout(timeout)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._lock, self._sending = threading.Lock(), threading.Lock()
        # What came before this side ended its half, and was not taken yet.
        self._ahead = bytearray()
        try:
            self._shake()
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect_to(cls, address: Address, authority: Authority) -> Self:
        """Connect to a server and shake hands."""
        return cls(socket.create_connection(address, timeout=PATIENCE), authority.context(), address[0])

    def _shake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                super().sendall(self._outgoing.read())
                self._receive()
            else:
                super().sendall(self._outgoing.read())
                return

    def _receive(self) -> None:
        data = super().recv(READ_SIZE)
        with self._lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        while True:
            try:
                with self._lock:
                    if self._ahead:
                        taken = bytes(self._ahead[:size])
                        del self._ahead[:size]
                        return taken
                    return self.tls.read(size)
            except ssl.SSLWantReadError:
                self._receive()
            except ssl.SSLZeroReturnError:
                return b""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        with self._sending:
            with self._lock:
                self.tls.write(data)
                encrypted = self._outgoing.read()
            super().sendall(encrypted)

    def shutdown(self, how: int, /) -> None:
        """End the own half as TLS does, or the connection."""
        if how == socket.SHUT_WR:
            with self._sending:
                with self._lock:
                    with suppress(ssl.SSLError):
                        while data := self.tls.read(READ_SIZE):
                            self._ahead += data
                    with suppress(ssl.SSLError):  # the other half has not ended
                        self.tls.unwrap()
                    encrypted = self._outgoing.read()
                super().sendall(encrypted)
        super().shutdown(how)

    @property
    def certificate(self) -> bytes | None:
        """What the server has shown."""
        return self.tls.getpeercert(binary_form=True)


class TlsClient(Client):
    """A plain client over TLS."""

    def __init__(self, address: Address, authority: Authority, **more: Any) -> None:
        self._context = authority.context()
        super().__init__(address, **more)

    def _connect(self, address: Address, timeout: float, source: str) -> socket.socket:
        return Encrypted(super()._connect(address, timeout, source), self._context, address[0])

    @property
    def certificate(self) -> bytes | None:
        assert isinstance(self.sock, Encrypted)
        return self.sock.certificate


class TlsMember(TlsClient, Member):
    """A named client over TLS."""


class TlsListener(TlsClient, Listener):
    """A plain client over TLS that reads all the time."""


@contextmanager
def tls_listeners(server: Server, authority: Authority, count: int) -> Iterator[list[TlsListener]]:
    """So many clients over TLS in the room, all of them reading."""
    address = server.address
    with ExitStack() as stack:
        joined = [stack.enter_context(TlsListener(address, authority)) for _ in range(count)]
        settle(joined)
        for each in joined:
            each.listen()
        yield joined


def refused_alert(address: Address, authority: Authority, *, source: str = "127.0.0.1") -> str:
    """Shake hands with a server that refuses it; return what OpenSSL says of the alert."""
    try:
        TlsClient(address, authority, source=source).close()
    except ssl.SSLError as error:
        return str(error.reason)
    raise AssertionError("the server did not refuse")


def first_bytes() -> bytes:
    """Return what a client that speaks TLS says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(incoming, outgoing, server_hostname="a")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def tls_of(server: Server) -> dict[str, Any]:
    """The status of TLS."""
    found: dict[str, Any] = server.status()["tls"]
    return found


def tls_pids(server: Server) -> list[int]:
    return [each["pid"] for each in tls_of(server)["processes"] if each["pid"]]


def tls_runs(server: Server, count: int, but: Sequence[int] = ()) -> list[int]:
    """Wait until so many TLS processes serve, none of them among ``but``; return them."""

    def found() -> list[int] | None:
        processes = tls_of(server)["processes"]
        pids = [each["pid"] for each in processes if each["state"] == "RUNNING"]
        return pids if len(pids) == len(processes) == count and not set(pids) & set(but) else None

    return eventually(found, f"{count} TLS processes to serve", PATIENCE)
