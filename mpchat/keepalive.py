"""Keepalive: TCP notices a peer that has gone without a word, as when a machine or a network loses power."""

import socket

# Probes that must stay unanswered, and seconds between them, before TCP gives a silent peer up.
PROBES = 4
INTERVAL = 15


def probe_silent_peer(sock: socket.socket, silence: float) -> None:
    """Send probes after ``silence`` seconds, at least 1, in which the peer has sent nothing.

    The system's own default is two hours.
    """
    # macOS has its own name for it.
    idle: int = getattr(socket, "TCP_KEEPIDLE", None) or socket.TCP_KEEPALIVE  # type: ignore[attr-defined]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, idle, max(1, int(silence)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
