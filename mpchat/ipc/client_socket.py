"""Client socket: a client's connection as a process finds it, and what it needs of the system."""

import socket

from mpchat.keepalive import probe_silent_peer

# Unsent bytes that the kernel holds for one client before it says "full": a lag must be seen here, where it
# is one cursor, not there, where it is megabytes. Two slices of the fan-out.
NOT_SENT_LOWAT = 256 << 10


def own(descriptor: int, host: str, *, secure: bool = False) -> socket.socket:
    """Make a received descriptor the socket that it is; the family is known, so the kernel is not asked.

    ``secure``: it is the end of a pair whose other end a TLS process has.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.socket(socket.AF_UNIX if secure else family, socket.SOCK_STREAM, 0, fileno=descriptor)


def tune(sock: socket.socket, keepalive: float) -> None:
    """Set what a client's socket needs: no blocking, no gathering by TCP, bounded kernel memory, keepalive.

    ``keepalive`` is in seconds of silence before the first probe; 0 leaves it off. For the end of a pair, TCP
    is the business of the process at the other end.
    """
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOWAT)
    if keepalive:
        probe_silent_peer(sock, keepalive)
    else:  # a moved connection may have had it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
