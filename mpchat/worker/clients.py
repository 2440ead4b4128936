"""Clients: the connections that this worker owns, from when they have come until they have ended or left.

What clients send is read in :mod:`mpchat.worker.reading`, what they are sent goes through
:mod:`mpchat.worker.rooms`. This keeps the register, sends what is for one client alone, and ends connections.
"""

import logging
import time
from contextlib import suppress

from mpchat.config import Config
from mpchat.ipc.addresses import means
from mpchat.ipc.handoff_channel import HandoffChannel
from mpchat.ipc.lifetime import Lifetime
from mpchat.ipc.lingering import Lingering
from mpchat.ipc.reasons import (
    CLOSED,
    HALF_A_FRAME,
    INTERNAL_ERROR,
    NOT_A_FRAME,
    SLOW,
    UNENCRYPTED,
    UNPROVEN,
    UNREAD,
)
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.first_bytes import Speaks, speaks
from mpchat.protocol.http import HttpDialect, bare_answer
from mpchat.protocol.likely_cause import half_frame_text
from mpchat.protocol.messages import error_frame
from mpchat.protocol.websocket_dialect import WebSocketDialect
from mpchat.reactor import READ, WRITE, Reactor
from mpchat.worker.barred import Barred
from mpchat.worker.budget import ENTER_COST, PROOF_COST, charge_answer
from mpchat.worker.connection import Connection
from mpchat.worker.counters import Counters
from mpchat.worker.cut_offs import CutOffs
from mpchat.worker.first_bytes import FirstBytes
from mpchat.worker.half_closed import HalfClosed
from mpchat.worker.outboxes import Outboxes
from mpchat.worker.reading import OUTBOX_LIMIT, READ_SIZE, Reading
from mpchat.worker.rooms import Rooms
from mpchat.worker.uplink import Uplink
from mpchat.worker.web import Web
from mpchat.worker.websockets import WebSockets

# Why the server itself ends a connection; an operator wants to know, so these are logged as warnings.
IDLE, DEAD = "idle", "no pong"
KICKED = "kicked"
CUT_OFF = frozenset({SLOW, UNREAD, IDLE, HALF_A_FRAME})
# Ends that an operator is shown with the client's name or address.
REPORTED = CUT_OFF | {DEAD, KICKED, INTERNAL_ERROR}

# What a member is told whose connection the operator ends.
_KICKED = error_frame("kicked", "the operator has ended your connection")

# What a client is told that may not go on as it has begun, and why it ends, by the error's code.
_REFUSED = {
    "tls_required": (
        "this server takes encrypted connections only: connect with TLS, a browser with https://",
        UNENCRYPTED,
    ),
    "bad_frame": ("connections from your address must begin with a PROXY header", NOT_A_FRAME),
}

log = logging.getLogger("mpchat.worker")


class Clients:
    """The connections of a worker."""

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        uplink: Uplink,
        handoff: HandoffChannel,
        counters: Counters,
        lifetime: Lifetime,
    ) -> None:
        """Begin with none."""
        self.config = config
        self.by_identity: dict[int, Connection] = {}
        self.outboxes = Outboxes(config.answers_memory)
        self.rooms = Rooms(config, reactor, counters, self)
        self.reading = Reading(config, reactor, uplink, self, lifetime)
        self.half_closed = HalfClosed(reactor, uplink, self.end)
        self.barred = Barred(config)
        self.websockets = WebSockets(config, self.rooms)
        self.web = Web(config, reactor, uplink, self, self.reading)
        self.first_bytes = FirstBytes(config, reactor, self.rooms, self.reading, self.web, self._refuse_first)
        self.lingering = Lingering(reactor)
        self._cut_offs = CutOffs(reactor, uplink)
        self._reactor = reactor
        self._uplink = uplink
        self._handoff = handoff
        self._counters = counters
        self._lifetime = lifetime

    def __len__(self) -> int:
        return len(self.by_identity)

    def find(self, identity: int) -> Connection | None:
        """Return the connection of this identity, if it is here: it has neither ended nor left."""
        return self.by_identity.get(identity)

    def enter(self, head: tuple[int, int, int, bool], frames: bytes) -> None:
        """Let a client read another stream, after what it is owed of the one before and ``frames``."""
        identity, room_number, number, live = head
        self._uplink.requests.entered(identity)
        connection = self.by_identity.get(identity)
        if connection is None or connection not in connection.fanout or connection.dialect.closing:
            return  # it is gone, or waits for its end
        if connection.barred:
            self.barred.let_in(connection)
        if connection.asking or connection.replaying:
            charge_answer(connection, len(frames), ENTER_COST)
        connection.replaying, connection.more_asked = not live, False
        self.rooms.enter(connection, frames, room_number, Place(number) if live else None)
        self.keep_to_memory()
        if connection.half_closed:
            self.half_closed.settle(connection)

    def reply(self, connection: Connection, frames: bytes) -> None:
        """Send a client an answer."""
        log.debug("> answered: %s", connection.address)
        self._counters.note_errors(frames)
        self.send(connection, connection.dialect.framing.encode(frames))

    def keep_to_memory(self) -> None:
        """Cut off the clients that hold most of what is kept for single clients, where that is too much."""
        if self.outboxes.over:
            for connection in self.outboxes.largest(self.by_identity.values()):
                self.end(connection, UNREAD)

    def tell(self, identity: int, frames: bytes) -> None:
        """Send a client what others have to say to it alone; one that does not read it is cut off."""
        connection = self.by_identity.get(identity)
        if connection is None or connection not in connection.fanout or connection.dialect.closing:
            return  # it is gone, but for its last words, or waits for its end
        if connection.asking:
            charge_answer(connection, len(frames))
        self._counters.note_errors(frames)
        log.debug("> answered: %s", connection.address)
        self.send(connection, connection.dialect.framing.encode(frames), in_order=True)
        if not connection.closed and len(connection.outbox) > self.config.lag_limit:
            self.end(connection, SLOW)

    def answered(self, identity: int) -> None:
        """Read again from a client: its request was served."""
        self._uplink.requests.answered(identity)
        connection = self.by_identity.get(identity)
        if connection is not None:
            if connection.barred:  # refused, at the cost to the hub of a way into a room
                charge_answer(connection, 0, ENTER_COST)
            self.reading.answered(connection)

    def checking(self, head: tuple[int, bool]) -> None:
        """Let others ask the hub meanwhile: a client's answer takes a while. Charge it for a check."""
        identity, charged = head
        self._uplink.requests.answered(identity)
        connection = self.by_identity.get(identity)
        if connection is not None and charged:
            charge_answer(connection, 0, PROOF_COST)

    def drained(self, connection: Connection) -> None:
        """A client has been sent all that is for it alone: it may have waited for that."""
        if connection.half_closed:
            self.half_closed.settle(connection)
        elif not connection.reading:
            self.reading.read_again(connection)

    def ack_arrivals(self) -> None:
        """Ack the connections that have come in this turn: before that nothing may be sent to them."""
        self._handoff.send_receipt()

    def on_writable(self, connection: Connection) -> None:
        """Send a client what it is owed; ask for more of a room's past when it has what there was."""
        connection.fanout.on_writable(connection)
        asks_for_more = connection.replaying and not connection.more_asked
        if asks_for_more and connection.fanout.is_live(connection):
            connection.more_asked = True
            self._uplink.ask_for_more(connection.identity)
        if connection.half_closed:
            self.half_closed.settle(connection)
        elif not connection.closed and not connection.reading:
            self.reading.read_again(connection)

    def spoke_first(self, connection: Connection) -> None:
        """Take note that a client has sent its first message or request."""
        connection.speaker = True
        self._uplink.speakers += 1

    # The end of connections.

    # Browsers, and clients of which it is not known what they speak.

    def take_first_bytes(self, connection: Connection, data: bytes) -> None:
        """Take what a client has sent whose protocol is not known."""
        self.first_bytes.take(connection, data)

    def take_begun(self, connection: Connection) -> bool:
        """Take what an undecided client had said before it came here; returns False if it is not enough."""
        if not self.first_bytes.has_begun(connection):
            return False
        self.first_bytes.take(connection, b"")
        return True

    def take_plain(self, connection: Connection) -> None:
        """Let a client whose protocol is not known be a plain one."""
        self.first_bytes.be_plain(connection)

    def browse(self, connection: Connection, data: bytes) -> None:
        """Take what a client has sent that speaks HTTP."""
        self.web.take(connection, data)

    def send(self, connection: Connection, data: bytes, *, in_order: bool = False) -> None:
        """Send a client bytes of its dialect; while it does not read them it is not read from.

        ``in_order``: after what was said in its room before, if it is caught up.
        """
        self.rooms.send(connection, data, in_order=in_order)
        if not connection.closed and len(connection.outbox) >= OUTBOX_LIMIT:
            connection.no_longer(self._reactor, READ)
        self.keep_to_memory()

    def finish(self, connection: Connection, last: bytes) -> None:
        """Send a client ``last`` after what has begun to go to it, and then end its connection."""
        self.rooms.set_apart(connection)
        if connection not in connection.fanout:
            self.end(connection, "lost")
            return
        self.send(connection, last)
        if connection.closed:
            return
        if connection not in connection.fanout:  # that has just failed
            self.end(connection, "lost")
        else:
            self.half_closed.finish(connection)

    def upgrade(self, connection: Connection, answer: bytes, rest: bytes) -> None:
        """Answer a client, and let it go on as a WebSocket that has sent ``rest`` already."""
        self.websockets.begin(connection, answer)
        self.barred.take(connection, self._reactor.now)
        if rest:
            self.reading.take_first(connection, rest)
        if not connection.closed:
            self.reading.read_again(connection)

    def refuse_posts(self, posts: list[tuple[int, bytes]]) -> tuple[bytes, int]:
        """Refuse what barred clients say; see ``barred``."""
        return self.barred.refuse_posts(posts)

    def half_close(self, connection: Connection) -> None:
        """Take a client that has ended its stream: one that is owed something is sent it before the end."""
        if self._lifetime.draining or not (connection.speaker or connection.outbox):
            self.end(connection, CLOSED)
        else:
            self.half_closed.begin(connection)

    def echoed(self, identities: list[int]) -> None:
        """Take note that all that these clients said has come back."""
        for identity in identities:
            connection = self.by_identity.get(identity)
            if connection is not None:
                self.half_closed.echoed(connection)

    def lost(self, connection: Connection, error: OSError | None) -> None:
        """Take a client that a fan-out has given up. One that is gone may have said something before it went,
        which is still to be read; reading comes to an end by itself."""
        if error is None:
            self.end(connection, SLOW)
        elif connection.half_closed:  # it has closed both sides
            self.end(connection, CLOSED)
        elif isinstance(error, ConnectionError) and not self._lifetime.draining:
            self.rooms.leave(connection)
            self.outboxes.drop(connection)
            connection.no_longer(self._reactor, WRITE)
            self.reading.read_again(connection)
        else:
            self.end(connection, error.strerror or "send failed")

    def _refuse_first(self, connection: Connection, head: bytes, code: str) -> None:
        """End a client that may not go on as it has begun, with ``head``; tell it so first."""
        self.rooms.leave(connection)
        self.rooms.put_aside(connection)
        text, reason = _REFUSED[code]
        if speaks(head) is Speaks.HTTP:
            connection.dialect = HttpDialect()
            self.finish(connection, bare_answer(head, "403 Forbidden", text, time.time()))
        else:
            self.refuse(connection, text, reason, code)

    def refuse(self, connection: Connection, text: str, reason: str, code: str = "bad_frame") -> None:
        """Tell a client that its bytes are no frames, or another error, and end its connection.

        One that does not read what it is sent does not hear why: nothing is kept for that.
        """
        self._refuse(connection, error_frame(code, text), reason)

    def _refuse(self, connection: Connection, told: bytes, reason: str) -> None:
        connection.fanout.complete_for(connection, self._reactor.now)
        if not connection.closed:
            self._counters.note_errors(told)
            self.rooms.reply(connection, told)
        if not connection.closed:
            with suppress(OSError):  # unread input would turn the end into a reset, which destroys the answer
                connection.sock.recv(READ_SIZE)
            self.end(connection, reason)

    def end(self, connection: Connection, reason: str) -> None:
        """End a connection and tell the hub, once, after the last of its posts."""
        if connection.closed:
            return
        connection.closed = True
        self._counters.ended[reason] += 1
        self.websockets.say_end(connection, reason)
        self.websockets.forget(connection)
        self.barred.forget(connection)
        del self.by_identity[connection.identity]
        self.reading.forget(connection)
        self.first_bytes.forget(connection)
        self.web.forget(connection)
        self.half_closed.forget(connection)
        self.rooms.leave(connection)
        self.outboxes.drop(connection)
        connection.unwatch(self._reactor)
        if isinstance(connection.dialect, HttpDialect | WebSocketDialect):
            self.lingering.take(connection.release())  # its last bytes are an answer, or say why
        else:
            connection.close()
        if connection.dialect.asked:
            self._uplink.left.append((connection.identity, connection.address, reason))
        elif connection.spoke:  # health checks and speculative connections are no news to anybody
            self._uplink.left.append(connection.address)
        self._handoff.receipt.closed.append(connection.host)
        self._uplink.speakers -= connection.speaker
        if reason in REPORTED:
            self._cut_offs.report(connection, reason)
        level = logging.WARNING if reason in CUT_OFF else logging.DEBUG
        log.log(level, "= ended, %s: %s", reason, connection.address)

    def end_by_identity(self, identity: int, reason: str) -> None:
        """End a connection because the hub says so, if it is still here."""
        connection = self.by_identity.get(identity)
        if connection is None:
            return
        connection.fanout.complete_for(connection, self._reactor.now)  # its last answers wait for the flush
        if not connection.closed:
            self.end(connection, reason)

    def stop_reading(self) -> None:
        """Read from no client any more; the worker drains."""
        self._uplink.requests.send_all()
        self.first_bytes.send_all()
        for connection in list(self.by_identity.values()):
            connection.no_longer(self._reactor, READ)
            self.reading.end_run(connection)

    def kick(self, address: str) -> int:
        """End the connections from "host:port", a host or a network; returns how many there were."""
        kicked = [each for each in self.by_identity.values() if means(address, each.host, each.port)]
        for connection in kicked:
            log.info("kicked: %s", connection.address)
            connection.fanout.complete_for(
                connection, self._reactor.now
            )  # what it is told goes between two blobs
            if connection.closed:  # by that, or with the one before
                continue
            if connection.dialect.asked:  # plain clients get nothing that they know nothing of
                self._counters.note_errors(_KICKED)
                self.rooms.reply(connection, _KICKED)
            self.end(connection, KICKED)
        return len(kicked)

    def end_overdue(self, now: float) -> None:
        """End connections that the idle timeout and the half-frame timeout have caught up with."""
        self.half_closed.end_overdue(now)
        self.web.end_unanswered(now)
        for connection in self.websockets.ping_silent(now):
            self.end(connection, DEAD)
        for connection in self.barred.overdue(now):
            self._end_barred(connection)
        self._end_idle(now)
        if limit := self.config.frame_timeout:
            for connection in self.reading.inside_a_frame(now - limit):
                if isinstance(connection.dialect, HttpDialect):
                    self.web.end_overdue(connection)
                    continue
                if connection.undecided:
                    self.first_bytes.be_plain(connection)
                if connection.closed:
                    continue
                half = connection.dialect.half_frame()
                if half is None or connection not in connection.fanout:
                    self.end(connection, HALF_A_FRAME)
                else:
                    self.refuse(connection, half_frame_text(half), HALF_A_FRAME)

    def _end_idle(self, now: float) -> None:
        if limit := self.config.idle_timeout:
            silent = [
                each for each in self.by_identity.values() if now - max(each.heard, each.quiet_until) > limit
            ]
            for connection in silent:
                self.end(connection, IDLE)

    def _end_barred(self, connection: Connection) -> None:
        """End the connection of a client that has not shown who it is; one that waits for an answer stays."""
        if isinstance(connection.dialect, HttpDialect):  # a browser that loads the page
            self.barred.forget(connection)
            return
        if connection.asking or connection.closed:
            return
        if connection.undecided:
            self.first_bytes.be_plain(connection)
        if connection.closed:
            return
        if connection in connection.fanout:
            self._refuse(connection, self.barred.told, UNPROVEN)
        else:
            self.end(connection, UNPROVEN)
