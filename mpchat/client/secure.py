"""TLS for both clients: a thread encrypts, and the client has a socket as before, one end of a pair."""

import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial

from mpchat.tunnel import READ, Tunnel

# What ``connect`` takes: whether, or how.
Tls = bool | ssl.SSLContext
# Seconds from the end of what a chat sends: until then the server has to take it, and to end its side. And
# seconds between two looks whether the chat has closed meanwhile.
LAST_WORDS = 5.0
LOOK_EVERY = 0.05
# Words for what OpenSSL says of a server that is none for TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def context_for(tls: Tls) -> ssl.SSLContext | None:
    """Return how to encrypt; None: not at all. ``True`` means: as the system trusts servers."""
    return ssl.create_default_context() if tls is True else tls or None


def trusting(ca: str | None) -> Tls:
    """Return how to encrypt: trust the certificates in the file ``ca``, or those that the system trusts.

    Raise ``OSError`` for a file that cannot be used.
    """
    return ssl.create_default_context(cafile=ca) if ca else True


def secure(sock: socket.socket, context: ssl.SSLContext, host: str, timeout: float) -> socket.socket:
    """Shake hands with the server ``host`` within ``timeout`` seconds; return the socket to go on with.

    Takes ``sock`` over. Raises ``TimeoutError``, or another ``OSError`` that says what is wrong.
    """
    try:
        return _Encryption(sock, Tunnel(sock, context, host)).begin(time.monotonic() + timeout)
    except BaseException as error:
        sock.close()
        if isinstance(error, ssl.SSLError):
            raise OSError(error.errno, _in_words(error)) from None
        raise


def _in_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message.rstrip('.')}"
    if error.reason in _NO_TLS or isinstance(error, ssl.SSLEOFError):
        return "it does not speak TLS"
    return f"no TLS with it: {(error.reason or str(error)).replace('_', ' ').lower()}"


class _Loop(selectors.DefaultSelector):
    """Watches the two sockets of a tunnel."""

    def watch(self, target: socket.socket, events: int, on_event: Callable[[int], None]) -> None:
        self.register(target, events, on_event)

    def change(self, target: socket.socket, events: int, on_event: Callable[[int], None]) -> None:
        self.modify(target, events, on_event)

    def forget(self, target: socket.socket) -> None:
        self.unregister(target)

    def turn(self, timeout: float | None) -> None:
        """Wait at most ``timeout`` seconds (None: as long as it takes), and handle what is ready."""
        for key, mask in self.select(timeout):
            key.data(mask)


class _Encryption:
    """A tunnel and the loop that drives it: the caller's while hands are shaken, then a thread's."""

    def __init__(self, sock: socket.socket, tunnel: Tunnel) -> None:
        self._sock = sock
        self._tunnel = tunnel
        self._loop = _Loop()
        tunnel.on_network, tunnel.on_near = self._on_network, self._on_near

    def begin(self, deadline: float) -> socket.socket:
        """Shake hands; return the far end of the pair, which the thread serves from now on."""
        try:
            self._shake(deadline)
            near, far = socket.socketpair()
        except BaseException:
            self._loop.close()
            raise
        near.setblocking(False)
        far.setblocking(False)
        self._tunnel.open(near)
        # A daemon: a program that forgets to close the chat can still end.
        threading.Thread(target=partial(self._run, near), name="mpchat-tls", daemon=True).start()
        return far

    def _shake(self, deadline: float) -> None:
        while not self._tunnel.shake():
            self._tunnel.listen(self._loop)
            while not self._tunnel.has_more:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._loop.turn(left)

    def _run(self, near: socket.socket) -> None:
        """Encrypt until both sides have ended, or the network fails: then the near side sees the end."""
        until: float | None = None
        try:
            while not self._is_over(until):
                if self._tunnel.can_decrypt:
                    self._tunnel.decrypt()
                self._tunnel.listen(self._loop)
                waiting = LOOK_EVERY if self._tunnel.near_ended or self._tunnel.blocked else None
                self._loop.turn(0.0 if self._tunnel.can_decrypt else waiting)
                if until is None and (self._tunnel.near_ended or self._tunnel.deserted):
                    until = time.monotonic() + LAST_WORDS
            self._sock.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            pass
        finally:
            self._loop.close()
            near.close()
            self._sock.close()

    def _is_over(self, until: float | None) -> bool:
        """Tell whether nothing more is to come. The near side has ended if there is an ``until``."""
        if until is None:
            return False
        # A socket that is closed with unread input resets the connection, and what was sent last is lost.
        both_ended = self._tunnel.done and (self._tunnel.network_ended or self._tunnel.near_closed)
        return both_ended or time.monotonic() >= until

    def _on_network(self, mask: int) -> None:
        if mask & READ:
            self._tunnel.receive()
        if mask & ~READ:
            self._tunnel.flush()

    def _on_near(self, mask: int) -> None:
        if mask & READ:
            self._tunnel.encrypt()
        if mask & ~READ:
            self._tunnel.pass_on()
