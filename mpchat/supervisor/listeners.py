"""Listeners: the listening sockets, from the setting ``host`` to what an error says.

Opening a listener never accepts a client; that is :mod:`mpchat.supervisor.acceptor`'s part. An error
names the address, the cause and the next step.
"""

import errno
import os
import socket
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import psutil

from mpchat.config import format_address
from mpchat.errors import StartError
from mpchat.instance.record import server_folder
from mpchat.supervisor.slow_call import SlowCall
from mpchat.text import visible

# Connections that the kernel completes before they are accepted; it caps this at net.core.somaxconn.
BACKLOG = 4096
# Servers of other users that an error names at most.
_SHOWN = 3
# What the kernel keeps of a client's unread input, in bytes; it doubles the number for its own accounting.
RECEIVE_BUFFER = 256 << 10


class ListenAddress(NamedTuple):
    """Where a socket listens."""

    family: int
    address: tuple[str, int]
    # Whether it is ``::`` and takes the connections to all IPv4 addresses too.
    dual: bool = False


class AddressTakenError(StartError):
    """The address of a listener is taken; :func:`taken_by` tells the user more."""

    def __init__(self, where: ListenAddress) -> None:
        super().__init__(f"{format_address(*where.address)} is taken; choose another --port")
        self.where = where


def open_listeners(wanted: list[ListenAddress]) -> list[socket.socket]:
    """Listen on every address.

    Raise :class:`AddressTakenError` or another :class:`StartError` with nothing left open. With port 0 all
    addresses share the port that the system gives the first one.
    """
    listeners: list[socket.socket] = []
    try:
        for where in wanted:
            port = where.address[1] or (port_of(listeners[0]) if listeners else 0)
            listeners.append(_listen(where._replace(address=(where.address[0], port))))
    except BaseException:
        close_all(listeners)
        raise
    return listeners


def close_all(listeners: list[socket.socket]) -> None:
    """Close listeners that nothing watches."""
    for listener in listeners:
        listener.close()


def addresses_of(listeners: list[socket.socket]) -> list[str]:
    """Return addresses as people write them: HOST:PORT or [HOST]:PORT."""
    return [format_address(*listener.getsockname()[:2]) for listener in listeners]


def port_of(listener: socket.socket) -> int:
    """Return the port that a listener has, also where the setting is 0."""
    port: int = listener.getsockname()[1]
    return port


class ListenerChange(NamedTuple):
    """Listeners that are open and will be added, and listeners that will go."""

    added: list[socket.socket]
    gone: list[socket.socket]

    def give_up(self) -> None:
        """Close those that would have been added."""
        close_all(self.added)


NO_CHANGE = ListenerChange([], [])


def prepare_change(listeners: list[socket.socket], wanted: list[ListenAddress]) -> ListenerChange:
    """Listen on those of ``wanted`` that are new.

    Raise :class:`AddressTakenError` or another :class:`StartError` with nothing changed.
    """
    have = {_address_of(listener): listener for listener in listeners}
    added: list[socket.socket] = []
    try:
        for where in dict.fromkeys(wanted):
            if where not in have:
                added.append(_listen(where))
    except StartError:
        close_all(added)
        raise
    return ListenerChange(added, [listener for where, listener in have.items() if where not in wanted])


def look_up(hosts: tuple[str, ...], port: int) -> SlowCall[list[ListenAddress]]:
    """Begin to find the addresses of ``hosts``.

    Host names take as long as a name server takes, IP addresses no time. The result raises
    :class:`StartError` for an unknown host.
    """
    return SlowCall(partial(_resolve_all, hosts, port), at_once=all(map(_is_numeric, hosts)))


def check_free(where: ListenAddress) -> None:
    """Raise :class:`AddressTakenError` or another :class:`StartError` if a server could not listen there.

    No client can connect meanwhile.
    """
    _bound(where).close()


def _resolve_all(hosts: tuple[str, ...], port: int) -> list[ListenAddress]:
    found = list(dict.fromkeys(each for host in hosts for each in _resolve(host, port)))
    if any(each.family == socket.AF_INET for each in found):
        return found
    return [each._replace(dual=each.address[0] == "::") for each in found]


def _resolve(host: str, port: int) -> list[ListenAddress]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"{host} is no address of this machine: {error.strerror}; see --host") from None
    return [ListenAddress(int(family), (str(where[0]), port)) for family, _, _, _, where in found]


def _is_numeric(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return False
    return True


def _listen(where: ListenAddress) -> socket.socket:
    listener = _bound(where)
    try:
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _cannot_listen(where, error) from None
    return listener


def _bound(where: ListenAddress) -> socket.socket:
    """Return a socket that has its address, and does not listen."""
    try:
        listener = socket.socket(where.family, socket.SOCK_STREAM)
    except OSError as error:  # a system without IPv6
        raise _cannot_listen(where, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if where.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not where.dual)
        listener.bind(where.address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(where, error) from None
    return listener


def _address_of(listener: socket.socket) -> ListenAddress:
    host, port = listener.getsockname()[:2]
    dual = listener.family == socket.AF_INET6 and not listener.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )
    return ListenAddress(int(listener.family), (host, port), dual)


# What an error says.


def _cannot_listen(where: ListenAddress, error: OSError) -> StartError:
    text = format_address(*where.address)
    if error.errno == errno.EADDRINUSE:
        return AddressTakenError(where)
    if error.errno == errno.EACCES:
        return StartError(f"no right to listen at {text}; choose a --port of 1024 or above")
    if error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"{where.address[0]} is no address of this machine; see --host")
    if error.errno == errno.EAFNOSUPPORT:
        return StartError(f"cannot listen at {text}: this system has no IPv6; choose another --host")
    return StartError(f"cannot listen at {text}: {error.strerror}")


def taken_by(where: ListenAddress) -> StartError:
    """Return an error that names the holder of an address that is taken.

    It looks through all processes of the machine, which takes a second where there are thousands.
    """
    text, port = format_address(*where.address), where.address[1]
    if _is_own(port):
        return StartError(
            f"cannot listen at {text} beside another address of that port; "
            "to change between one address and all of them, stop and start"
        )
    return StartError(f"{text} is taken by {_holder(port)}; stop it or choose another --port")


def _is_own(port: int) -> bool:
    """Tell whether this process listens on a port."""
    try:
        mine = psutil.Process().net_connections("tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in mine)


def holder(port: int) -> psutil.Process | None:
    """Return the process that listens on a port; None if the system does not tell this user.

    It looks through all processes of the machine. Raise ``psutil.Error`` if the process has just ended.
    """
    for each in psutil.net_connections("tcp"):
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
            return psutil.Process(each.pid)
    return None


def _holder(port: int) -> str:
    """Name the program that listens on a port."""
    with suppress(psutil.Error):
        found = holder(port)
        if found is not None:
            return _described(found)
    return f"another program (whose, only an administrator can see{_servers_of_others()})"


def _described(process: psutil.Process) -> str:
    folder = server_folder(process)
    if folder is None:
        return f"{visible(process.name())} (pid {process.pid})"
    return f"mpchat (pid {process.pid}, runtime folder {visible(folder)})"


def _servers_of_others() -> str:
    """Name the servers of other users: the system does not tell this user what listens, but what runs."""
    found: list[str] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real != os.getuid() and server_folder(process) is not None:
                found.append(f"{_described(process)} of {visible(process.username())}")
    return f"; perhaps {' or '.join(found[:_SHOWN])}" if found else ""
