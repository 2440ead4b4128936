"""Web: connections that speak HTTP, until they end or are WebSockets.

Requests are served one at a time for each client, in the same turns as messages, and charged to its budget.
"""

import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from mpchat.config import Config
from mpchat.ipc.reasons import HALF_A_FRAME
from mpchat.protocol import mask
from mpchat.protocol.http import HttpDialect, bare_answer, is_passed_on
from mpchat.protocol.websocket_dialect import WebSocketDialect
from mpchat.reactor import READ, Reactor
from mpchat.worker.budget import charge_answer
from mpchat.worker.connection import Connection
from mpchat.worker.reading import Reading
from mpchat.worker.uplink import Uplink

if TYPE_CHECKING:
    from mpchat.worker import http_answers
    from mpchat.worker.passed_on import PassedOn

# Charged for a request beside its answer's bytes; see ``budget.BUDGET``: h11 and the handshake take 0.3 ms.
HTTP_COST = 3000
# Seconds between two looks whether what answers are made with is loaded.
LOOK_EVERY = 0.005
# The answer when loading fails. The log has the stack.
_FAILED = "500 Internal Server Error", "the server cannot answer; its log says why"

log = logging.getLogger("mpchat.worker")


class Owner(Protocol):
    """What this needs of the part that owns the connections; see ``clients.Clients``."""

    def send(self, connection: Connection, data: bytes) -> None:
        """Send a client bytes of its dialect."""

    def finish(self, connection: Connection, last: bytes) -> None:
        """Send a client ``last`` after what has begun to go to it, and then end its connection."""

    def end(self, connection: Connection, reason: str) -> None:
        """End a connection and tell the hub."""

    def upgrade(self, connection: Connection, answer: bytes, rest: bytes) -> None:
        """Answer a client, and let it go on as a WebSocket that has sent ``rest`` already."""


class Web:
    """The HTTP connections of a worker."""

    def __init__(
        self, config: Config, reactor: Reactor, uplink: Uplink, owner: Owner, reading: Reading
    ) -> None:
        """Begin with none, and with nothing loaded."""
        self._config = config
        self._reactor = reactor
        self._owner = owner
        self._reading = reading
        self._uplink = uplink
        # The requests that the supervisor answers, from the first one on.
        self.passed_on: PassedOn | None = None
        # What answers are made with, from when it is loaded.
        self._site: http_answers.Site | None = None
        self._loading: threading.Thread | None = None
        # Connections whose requests wait until all is loaded.
        self._waiting: dict[Connection, None] = {}
        # All connections that speak HTTP.
        self._browsers: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._browsers)

    def resume(self, connection: Connection) -> None:
        """Take note of a connection, if it speaks HTTP, that has come from another worker.

        For a WebSocket load what the first one of all loads: what takes its mask off is part of that.
        """
        if isinstance(connection.dialect, HttpDialect):
            self._browsers[connection] = None
        elif self._site is None and isinstance(connection.dialect, WebSocketDialect):
            self._load()

    def begin(self, connection: Connection, data: bytes) -> None:
        """Take a client whose first bytes are HTTP."""
        connection.dialect = HttpDialect()
        self._browsers[connection] = None
        if self._site is None:
            self._load()
        self._reading.half.pop(connection, None)
        self.take(connection, data)

    def take(self, connection: Connection, data: bytes) -> None:
        """Take bytes of a client, and answer one request if there is a whole one."""
        dialect = connection.dialect
        assert isinstance(dialect, HttpDialect)
        if connection not in connection.fanout:  # it cannot be answered any more
            self._owner.end(connection, "lost")
            return
        self._reading.hear(connection)
        begins = not dialect.held
        dialect.receive_data(data, [])
        if not dialect.has_more:
            if begins or connection not in self._reading.half:
                self._reading.note_half(connection)
            if not connection.reading:  # its turn came from the line
                self._reading.read_again(connection)
            return
        self._reading.half.pop(connection, None)
        connection.no_longer(self._reactor, READ)
        if self._site is None:
            self._waiting[connection] = None
            self._load()
        else:
            self._answer(connection, dialect, self._site)

    def _answer(self, connection: Connection, dialect: HttpDialect, site: "http_answers.Site") -> None:
        from mpchat.worker import http_answers

        if is_passed_on(dialect.head):
            self._pass_on(connection, dialect)
            return
        head = dialect.take_head()
        if head is None:
            self._reading.read_again(connection)
            return
        given = http_answers.answer(head, site, time.time())
        if given.upgraded:
            self._charge(connection, given, 0)
            self._browsers.pop(connection, None)
            self._owner.upgrade(connection, given.data, dialect.take_rest())
        else:
            self.give(connection, given)

    def _charge(self, connection: Connection, given: "http_answers.Answer", more: int) -> None:
        charge_answer(connection, len(given.data), HTTP_COST + more)
        if connection.budget < 0:
            self._reading.slow_down(connection)

    def give(self, connection: Connection, given: "http_answers.Answer", more: int = 0) -> None:
        """Send a client an answer, and let it ask again or end. Charge it ``more`` than for any answer."""
        self._charge(connection, given, more)
        if connection not in connection.fanout:  # it cannot be answered any more
            self._owner.end(connection, "lost")
            return
        if given.last:
            self._owner.finish(connection, given.data)
            return
        self._owner.send(connection, given.data)
        if not connection.closed:
            self._reading.note_half(connection)
            self._reading.read_again(connection)

    # Requests that the supervisor answers.

    def _pass_on(self, connection: Connection, dialect: HttpDialect) -> None:
        if self.passed_on is None:
            from mpchat.worker.passed_on import PassedOn

            self.passed_on = PassedOn(self._config, self._reactor, self._uplink, self._reading, self)
        self.passed_on.take(connection, dialect)

    def send_part(self, connection: Connection, data: bytes) -> None:
        """Send a client something that is no answer yet."""
        self._owner.send(connection, data)

    def end(self, connection: Connection, reason: str) -> None:
        """End a connection."""
        self._owner.end(connection, reason)

    def take_answer(self, payload: tuple[int, bytes]) -> None:
        """Take the supervisor's answer to a request."""
        if self.passed_on is not None:
            self.passed_on.take_answer(*payload)

    def is_asking(self, connection: Connection) -> bool:
        """Tell whether the supervisor is to answer a request of a connection: it must stay until then."""
        return connection.asking and isinstance(connection.dialect, HttpDialect)

    @property
    def asking(self) -> bool:
        """True while the supervisor is to answer a request of any connection."""
        return self.passed_on is not None and bool(self.passed_on)

    def end_unanswered(self, now: float) -> None:
        """Answer those in the supervisor's place that have waited for it for too long."""
        if self.passed_on is not None:
            self.passed_on.end_unanswered(now)

    def end_overdue(self, connection: Connection) -> None:
        """End a connection whose next request did not come in time; tell the client if it has begun one.

        One that still reads the answer before gets the rest of that.
        """
        connection.heard = self._reactor.now
        if not connection.dialect.held:
            self._owner.finish(connection, b"")
            return
        if self.passed_on is not None and self.passed_on.has_begun(connection):
            self._owner.send(connection, self.passed_on.too_slow(connection))
        elif self._site is not None:
            from mpchat.worker import http_answers

            self._owner.send(connection, http_answers.too_slow(self._config.frame_timeout, time.time()))
        self._owner.end(connection, HALF_A_FRAME)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that has ended or leaves."""
        self._waiting.pop(connection, None)
        if self.passed_on is not None:
            self.passed_on.forget(connection)
        self._browsers.pop(connection, None)

    # What answers are made with is loaded when the first browser comes, in a thread: it takes 0.1 s.

    def _load(self) -> None:
        if self._loading is None:
            loading = threading.Thread(target=self._import, daemon=True)
            loading.start()
            self._loading = loading
            self._reactor.call_later(LOOK_EVERY, self._look)

    def _import(self) -> None:
        try:
            from mpchat.worker.http_answers import Site
            from mpchat.worker.site import load_site

            mask.load()
            self._site = Site(load_site(), self._config.origins)
        except Exception:
            log.exception("the page cannot be served")

    def _look(self) -> None:
        """Go on with those that wait, if all is loaded."""
        if self._loading is not None and self._loading.is_alive():
            self._reactor.call_later(LOOK_EVERY, self._look)
            return
        self._loading = None
        waiting, self._waiting = self._waiting, {}
        for connection in waiting:
            if self._site is None:
                dialect = connection.dialect
                assert isinstance(dialect, HttpDialect)
                asked = dialect.take_head() or b""
                self._owner.finish(connection, bare_answer(asked, *_FAILED, time.time()))
            else:
                self._reading.read_again(connection)
