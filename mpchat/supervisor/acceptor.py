"""Acceptor: accepts clients and decides which may come in. Whom they go to is the supervisor's business.

Running out of descriptors is a state, not a failure: one descriptor is kept in reserve to answer "full" with,
and after that the acceptor rests for a moment instead of spinning.
"""

import errno
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import psutil

from mpchat.config import format_address
from mpchat.errors import StartError
from mpchat.protocol.messages import error_frame
from mpchat.reactor import READ, Reactor

# Connections accepted in one turn of the loop; what one hand-off message takes.
ACCEPTS_PER_TURN = 253
# Connections that the kernel completes before they are accepted; it caps this at net.core.somaxconn.
BACKLOG = 4096
# Seconds that the acceptor rests when there is no descriptor for another client.
REST = 0.1
# Refused clients that may still be reading their answer, and for how long (seconds).
LINGERING = 32
LINGER = 1.0
# What the kernel keeps of a client's unread input, in bytes; it doubles the number for its own accounting.
RECEIVE_BUFFER = 256 << 10
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger("mpchat.acceptor")

OnClient = Callable[[socket.socket, str, int], None]


def open_listeners(hosts: tuple[str, ...], port: int) -> list[socket.socket]:
    """Listen on every address that ``hosts`` stand for. Raises :class:`StartError`, nothing left open."""
    listeners: list[socket.socket] = []
    try:
        for host in hosts:
            for family, address in _resolve(host, port):
                listeners.append(_listen(family, address))
                port = port or listeners[0].getsockname()[1]
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _resolve(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"{host} is no address of this machine: {error.strerror}; see --host") from None
    return list(dict.fromkeys((int(family), (str(where[0]), port)) for family, _, _, _, where in found))


def _listen(family: int, address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from None
    return listener


def _addresses(listeners: list[socket.socket]) -> list[str]:
    return [format_address(*listener.getsockname()[:2]) for listener in listeners]


def _where(listener: socket.socket) -> tuple[int, tuple[str, int]]:
    host, port = listener.getsockname()[:2]
    return int(listener.family), (host, port)


def _cannot_listen(address: tuple[str, int], error: OSError) -> StartError:
    where = format_address(*address)
    if error.errno == errno.EADDRINUSE and _is_own(address[1]):
        return StartError(
            f"cannot listen at {where} beside another address of that port; "
            "to change between one address and all of them, stop and start"
        )
    if error.errno == errno.EADDRINUSE:
        return StartError(f"{where} is taken by {_holder(address[1])}; stop it or choose another --port")
    if error.errno == errno.EACCES:
        return StartError(f"no right to listen at {where}; choose a --port of 1024 or above")
    if error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"{address[0]} is no address of this machine; see --host")
    return StartError(f"cannot listen at {where}: {error.strerror}")


def _is_own(port: int) -> bool:
    try:
        mine = psutil.Process().net_connections("tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in mine)


def _holder(port: int) -> str:
    try:
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
                return f"{psutil.Process(each.pid).name()} (pid {each.pid})"
    except psutil.Error:
        pass
    return "another program (whose, only an administrator can see)"


class Lookup:
    """The addresses that hosts stand for, for a loop that must not wait for a name server: where a host is a
    name, a thread asks. It starts no process, and ends with its answer, wanted or not."""

    def __init__(self, hosts: tuple[str, ...], port: int) -> None:
        self._hosts, self._port = hosts, port
        self._found: list[tuple[int, tuple[str, int]]] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._ask, daemon=True)
        if all(map(_is_numeric, hosts)):
            self._ask()
        else:
            self._thread.start()

    def _ask(self) -> None:
        try:
            self._found = [pair for host in self._hosts for pair in _resolve(host, self._port)]
        except Exception as error:  # noqa: BLE001 (it is raised where somebody asks for the result)
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> list[tuple[int, tuple[str, int]]]:
        """Return families and addresses once it is done. Raises :class:`StartError`."""
        if self._error is not None:
            raise self._error
        return self._found


def _is_numeric(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return False
    return True


class Addresses(NamedTuple):
    """Listening sockets that are to be added and those that are to go."""

    added: list[socket.socket]
    gone: list[socket.socket]

    def give_up(self) -> None:
        """Add none after all."""
        for listener in self.added:
            listener.close()


class Acceptor:
    """The listening sockets in the supervisor's loop."""

    def __init__(self, reactor: Reactor, listeners: list[socket.socket], on_client: OnClient) -> None:
        """Begin closed: clients wait in the kernel's queue until :meth:`open`.

        ``on_client(sock, host, port)`` gets each accepted connection and owns it from then on.
        """
        self.listeners = listeners
        # As people write them; known after the end too.
        self.addresses = _addresses(listeners)
        self.refused = 0
        self._reactor = reactor
        self._on_client = on_client
        # What the supervisor wants, what is, and whether the acceptor has to wait for descriptors.
        self._wanted = self._open = self._resting = False
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        self._lingering: deque[socket.socket] = deque()
        self._closed = False

    def look_up(self, hosts: tuple[str, ...], port: int) -> Lookup:
        """Begin to find out what :meth:`prepare` needs; ``port`` 0 stands for the port that there is."""
        return Lookup(hosts, port or self.listeners[0].getsockname()[1])

    def prepare(self, lookup: Lookup) -> Addresses:
        """Begin to listen where a lookup that is done says and nobody listens yet; :meth:`change` makes it
        hold. Raises :class:`StartError`, nothing changed."""
        wanted = dict.fromkeys(lookup.result())
        have = {_where(listener): listener for listener in self.listeners}
        added: list[socket.socket] = []
        try:
            for family, address in wanted:
                if (family, address) not in have:
                    added.append(_listen(family, address))
        except StartError:
            Addresses(added, []).give_up()
            raise
        return Addresses(added, [listener for where, listener in have.items() if where not in wanted])

    def change(self, addresses: Addresses) -> None:
        """Listen at other addresses from now on. Who came in by one that goes stays, and who is in its queue
        has come in time."""
        self._shut()
        for listener in addresses.gone:
            self._empty(listener)
        for listener in addresses.gone:
            self.listeners.remove(listener)
            listener.close()
        self.listeners += addresses.added
        self.addresses = _addresses(self.listeners)
        if self._wanted:
            self.open()

    def open(self) -> None:
        """Accept clients."""
        self._wanted = not self._closed
        if self._wanted and not self._open and not self._resting:
            self._open = True
            for listener in self.listeners:
                self._reactor.watch(listener, READ, partial(self._accept, listener))

    def pause(self) -> None:
        """Let clients wait in the kernel's queue."""
        self._wanted = False
        self._shut()

    def _shut(self) -> None:
        if self._open:
            self._open = False
            for listener in self.listeners:
                self._reactor.forget(listener)

    def _accept(self, listener: socket.socket, mask: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._open:
                return
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._refuse_without_descriptors(listener, error)
                    return
                continue  # the client has gone again; the next one is its own case
            self._on_client(sock, peer[0], peer[1])

    def _empty(self, listener: socket.socket) -> None:
        """Accept everybody in a listener's queue, also while the acceptor is closed: they would be reset."""
        for _ in range(BACKLOG):
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    return
                continue
            self._on_client(sock, peer[0], peer[1])

    def _refuse_without_descriptors(self, listener: socket.socket, error: OSError) -> None:
        log.warning("full: %s; a client was refused", error.strerror)
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        try:
            sock, _ = listener.accept()
            self.refuse(sock, "the server is out of descriptors; try again later", linger=False)
        except OSError:
            pass
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._spare = None
        self._resting = True
        self._shut()
        self._reactor.call_later(REST, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self._wanted:
            self.open()

    def refuse(self, sock: socket.socket, text: str, *, code: str = "full", linger: bool = True) -> None:
        """Answer with an error and close, so that the client can read why."""
        self.refused += 1
        try:
            sock.setblocking(False)
            sock.send(error_frame(code, text))
            sock.shutdown(socket.SHUT_WR)
            # Unread input at close would reset the connection, and the answer with it.
            sock.recv(RECEIVE_BUFFER)
        except BlockingIOError:
            pass
        except OSError:
            linger = False
        if not linger:
            sock.close()
            return
        self._lingering.append(sock)
        self._reactor.call_later(LINGER, lambda: self._let_go(sock))
        if len(self._lingering) > LINGERING:
            self._lingering.popleft().close()

    def _let_go(self, sock: socket.socket) -> None:
        if sock in self._lingering:
            self._lingering.remove(sock)
            sock.close()

    def close(self) -> None:
        """Accept nobody any more and give the port free."""
        self.pause()
        self._closed = True
        for sock in (*self.listeners, *self._lingering):
            sock.close()
        self._lingering.clear()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
