"""First bytes: connections that have said nothing yet, until it is known what they speak.

No client is sent a byte before its protocol is known, and its place in the stream is fixed when it comes. Its
first bytes decide. A client that says nothing for a while is taken for a plain one as far as sending goes;
while nothing has come to be sent, its first bytes still decide.
"""

import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable

from mpchat.config import Config
from mpchat.ipc.addresses import is_loopback
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.first_bytes import Speaks, speaks
from mpchat.protocol.http import HEAD_END, HEAD_LIMIT
from mpchat.protocol.proxy_header import forwarded_for, read_header
from mpchat.reactor import Reactor
from mpchat.worker.connection import Connection
from mpchat.worker.reading import Reading
from mpchat.worker.rooms import Rooms
from mpchat.worker.web import Web

log = logging.getLogger("mpchat.worker")


def _nowhere(connection: Connection, client: tuple[str, int] | None) -> None:
    """Stand for what a worker sets."""
    raise AssertionError("there is no way to the supervisor")


class FirstBytes:
    """The connections of a worker whose protocol is not known."""

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        rooms: Rooms,
        reading: Reading,
        web: Web,
        refuse: Callable[[Connection, bytes, str], None],
    ) -> None:
        """Begin with none. ``refuse`` ends a client that has begun with some bytes, with an error's code."""
        self._grace = config.listen_grace
        self._serves_web = config.web
        self._tls_on = config.tls_on
        self._tls_required = config.tls_on and config.tls == "required"
        self._refuse_client = refuse
        self._proxies = config.proxy_from
        # Takes a client that speaks TLS; one behind a proxy with its own address.
        self.pass_on: Callable[[Connection, tuple[str, int] | None], None] = _nowhere
        self._reactor = reactor
        self._rooms = rooms
        self._reading = reading
        self._web = web
        # Those that are sent nothing yet, the oldest first, and until when (seconds, monotonic).
        self._silent = OrderedDict[Connection, float]()
        self._watching = False
        # Those whose first bytes are too few to tell.
        self._begun: dict[Connection, bytes] = {}

    def __len__(self) -> int:
        return len(self._silent) + len(self._begun)

    def wait(self, connection: Connection, place: Place | None = None, begun: bytes = b"") -> None:
        """Take a connection that has come. Its client's place in the stream is the end.

        One that was moved here has its place, and may have begun to say something.
        """
        connection.undecided = True
        self._rooms.wait_plain(connection, place)
        if connection.closed:  # its place is not kept any more
            return
        if begun:
            self._begun[connection] = begun
            if connection.proxied or speaks(begun) is Speaks.UNKNOWN:
                self._reading.note_half(connection)
            else:
                self._reading.serve_soon(connection)
            return
        if connection.proxied:  # a proxy speaks first, and at once
            self._reading.note_half(connection)
            return
        self._silent[connection] = time.monotonic() + self._grace
        if not self._watching:
            self._watch(self._grace)

    def _watch(self, seconds: float) -> None:
        self._watching = True
        self._reactor.call_later(seconds, self._end_grace)

    def _end_grace(self) -> None:
        """Send those that have been silent for long enough what there is for plain clients."""
        self._watching = False
        now = time.monotonic()
        while self._silent:
            connection, until = next(iter(self._silent.items()))
            if until > now:
                self._watch(until - now)
                return
            del self._silent[connection]
            if _has_spoken(connection):
                continue
            if self._must_encrypt(connection):  # its greeting may be late
                self._reading.note_half(connection)
            else:
                self._rooms.begin_plain(connection)

    def has_begun(self, connection: Connection) -> bool:
        """Tell whether an undecided client that has come here has said enough to decide."""
        begun = self._begun.get(connection)
        return begun is not None and not connection.proxied and speaks(begun) is not Speaks.UNKNOWN

    def take(self, connection: Connection, data: bytes) -> None:
        """Take what an undecided client has sent."""
        head = self._begun.pop(connection, b"") + data
        if connection.proxied:
            self._take_proxied(connection, head)
            return
        spoken = speaks(head)
        untouched = self._rooms.was_sent_nothing(connection)
        if spoken is Speaks.TLS and self._tls_on and untouched and not connection.secure:
            self._silent.pop(connection, None)
            self._begun[connection] = head
            self.pass_on(connection, None)
        elif spoken is not Speaks.UNKNOWN and self._must_encrypt(connection):
            self._refuse(connection, head)
        elif spoken is Speaks.HTTP and untouched and self._serves_web:
            self._decide(connection)
            self._rooms.leave(connection)
            self._rooms.put_aside(connection)
            self._web.begin(connection, head)
        elif spoken is Speaks.UNKNOWN:
            self._silent.pop(connection, None)
            self._await_more(connection, head)
        else:
            self.be_plain(connection, head)

    def _await_more(self, connection: Connection, head: bytes) -> None:
        self._begun[connection] = head
        self._reading.note_half(connection)
        if not connection.reading:  # its turn came from the line
            self._reading.read_again(connection)

    def _take_proxied(self, connection: Connection, head: bytes) -> None:
        """Take what a proxy has sent: whose connection it is, and perhaps what that client says."""
        if speaks(head) is Speaks.HTTP and self._serves_web:
            if HEAD_END not in head and len(head) <= HEAD_LIMIT:
                self._await_more(connection, head)
            else:
                host = forwarded_for(head, self._proxies) or connection.host
                self._tell_address(connection, (host, connection.port), head)
            return
        try:
            header = read_header(head)
        except ValueError as error:
            if speaks(head) is Speaks.UNKNOWN:
                self._await_more(connection, head)
            else:
                self._refuse_proxy(connection, str(error))
            return
        if header is None:
            self._await_more(connection, head)
            return
        client = (header.host, header.port) if header.host else (connection.host, connection.port)
        self._tell_address(connection, client, head[header.size :])

    def _tell_address(self, connection: Connection, client: tuple[str, int], rest: bytes) -> None:
        """Hand a connection on as that of ``client``, which has sent ``rest``."""
        if rest:
            self._begun[connection] = rest
        self._reading.half.pop(connection, None)
        self.pass_on(connection, client)

    def _refuse_proxy(self, connection: Connection, why: str) -> None:
        log.warning("refused, %s, and proxy_from names its address: %s", why, connection.host)
        connection.proxied = False
        self._decide(connection)
        self._refuse_client(connection, b"", "bad_frame")

    def _must_encrypt(self, connection: Connection) -> bool:
        """Tell whether a client may not go on unencrypted: one from this machine may."""
        return self._tls_required and not (connection.secure or is_loopback(connection.host))

    def _refuse(self, connection: Connection, head: bytes) -> None:
        self._decide(connection)
        self._refuse_client(connection, head, "tls_required")

    def be_plain(self, connection: Connection, head: bytes = b"") -> None:
        """Let an undecided client be a plain one, whose first bytes are ``head`` or what it has begun."""
        head = self._begun.pop(connection, b"") or head
        if connection.proxied:
            self._refuse_proxy(connection, "no PROXY header")
            return
        if self._must_encrypt(connection):
            self._refuse(connection, head)
            return
        self._decide(connection)
        self._rooms.begin_plain(connection)
        if head and not connection.closed:
            self._reading.take_first(connection, head)

    def _decide(self, connection: Connection) -> None:
        connection.undecided = False
        self._silent.pop(connection, None)

    def send_all(self) -> None:
        """Send all of them what there is for plain clients: the worker drains."""
        silent, self._silent = self._silent, OrderedDict()
        for connection in silent:
            if self._must_encrypt(connection):
                self._refuse(connection, b"")
            else:
                self._rooms.begin_plain(connection)

    def forget(self, connection: Connection) -> bytes:
        """Forget a connection that has ended or leaves; returns its first bytes."""
        self._silent.pop(connection, None)
        return self._begun.pop(connection, b"")


def _has_spoken(connection: Connection) -> bool:
    """Tell whether first bytes wait to be read: this process stood still, or others had their turn first."""
    try:
        return bool(connection.sock.recv(1, socket.MSG_PEEK))
    except OSError:  # nothing has come, or the connection was reset
        return False
