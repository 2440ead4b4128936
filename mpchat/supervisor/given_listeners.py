"""Given listeners: listening sockets that a service manager has opened and hands over at the start.

The protocol is that of sd_listen_fds(3): descriptors from 3 on, as many as ``LISTEN_FDS`` says. They stay
open with the service manager when this process ends, so clients wait in their queue for the next server.
"""

import os
import socket

from mpchat.errors import StartError
from mpchat.supervisor.listeners import RECEIVE_BUFFER
from mpchat.text import visible

# The first descriptor, SD_LISTEN_FDS_START.
FIRST = 3
# More than any system gives a process.
MOST = 65_536


def take_listeners(count: str, names: str) -> list[socket.socket]:
    """Return the sockets, which no process that is started from now on inherits.

    ``count`` and ``names`` are ``LISTEN_FDS`` and ``LISTEN_FDNAMES``. Raise :class:`StartError` for a
    descriptor that is no listening TCP socket; then all of them are closed.
    """
    if not (count.isascii() and count.isdigit() and len(count) < 6 and int(count) < MOST):
        raise StartError(f"LISTEN_FDS is {visible(count)!r}: no number of sockets; look at the socket unit")
    called = names.split(":")
    taken: list[socket.socket] = []
    try:
        for place in range(int(count)):
            name = called[place] if place < len(called) else ""
            taken.append(_take(FIRST + place, visible(name)))
    except BaseException:
        for each in taken:
            each.close()
        raise
    return taken


def _take(descriptor: int, name: str) -> socket.socket:
    where = f"descriptor {descriptor}{f' ({name})' if name else ''} of the service manager"
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise StartError(f"{where} is no socket: {error.strerror}; look at the socket unit") from None
    try:
        if fault := _fault(listener):
            raise StartError(f"{where} {fault}")
        # Accepted sockets inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _fault(listener: socket.socket) -> str:
    """Return why clients cannot come in by a socket, and the next step; empty: they can."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return "is no TCP socket; use ListenStream= with an IP address and a port"
    if listener.type != socket.SOCK_STREAM:
        return "is no TCP socket; use ListenStream= instead of ListenDatagram="
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen; leave Accept= out of the socket unit"
    return ""
