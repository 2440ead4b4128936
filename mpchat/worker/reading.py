"""Reading: what clients send, as far as each of them may send it and the hub can take it.

A client is not read from while it has said too much, waits for an answer, does not read its answers, is about
to be moved, or the hub is behind. TCP tells it to wait.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Protocol

from mpchat.config import Config
from mpchat.ipc.lifetime import Lifetime
from mpchat.ipc.reasons import CLOSED_INSIDE, INTERNAL_ERROR, NOT_A_FRAME
from mpchat.protocol.http import HttpDialect
from mpchat.protocol.likely_cause import HEAD_SIZE, foreign, foreign_text, half_frame_text
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.protocol.session import REQUEST
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING
from mpchat.reactor import READ, WRITE, Reactor
from mpchat.worker.budget import ERROR_COST, WRONG_COST, pause, refill, request_cost
from mpchat.worker.connection import Connection
from mpchat.worker.uplink import Sender, Uplink

# Bytes read from a client in one turn: a client that sends as fast as it can gets its share, no more. What is
# read together is sent together, and a send of twice as much costs a third less per byte. Below what the C
# library would map and unmap memory for (128 KiB).
READ_SIZE = 120 << 10
# Bytes that are not in the order yet, past which nobody is read from who sends much: TCP makes them wait.
# What is under way is delay for everybody. Less when so many wait for their turns: then there is always
# somebody whose bytes follow. And more for those who send little. Eight are few: only with long parts do they
# fill what the hub takes. Fourteen are many: with the larger limit, others wait a millisecond longer.
UNDER_WAY = 192 << 10
UNDER_WAY_OF_MANY = 96 << 10
MANY = 12
UNDER_WAY_OF_LIGHT = 96 << 10
# Bytes read in a round from all that wait for their turns, about, in equal parts. With a third of it the
# parts of eight senders were too short to be cheap: 0.85 of the messages a second.
ROUND_SIZE = 3 * READ_SIZE
# Bytes read from a client in one turn at least, however many wait for theirs.
READ_LEAST = 4 << 10
# A client that sent less than this (bytes) when it was read from last is served before those that send much.
LITTLE = 1 << 10
# Replies (bytes) that a client has not read: stop reading from it. So much, and one answer, is what a client
# that does not read can make a worker keep. More than a part of the past that is sent at once.
OUTBOX_LIMIT = 64 << 10
# Work that one turn does for a client, in errors (see ``session.MESSAGE_WORK``): some 80 µs.
TURN_WORK = 16
# Seconds of one round of the loop for what clients send; then what the hub has sent gets its turn. A message
# waits for about three rounds.
ROUND_TIME = 0.003
# Clients that are taken from a line together.
SERVED = 32
# Seconds of a pause before which a client is told how often its last error came, though more may follow.
LONG_PAUSE = 1.0
log = logging.getLogger("mpchat.worker")


class Owner(Protocol):
    """What reading needs of the part that owns the connections; see ``clients.Clients``."""

    def find(self, identity: int) -> Connection | None:
        """Return the connection of this identity, if it is here: it has neither ended nor left."""

    def end(self, connection: Connection, reason: str) -> None:
        """End a connection and tell the hub."""

    def reply(self, connection: Connection, frames: bytes) -> None:
        """Send a client an answer."""

    def spoke_first(self, connection: Connection) -> None:
        """Take note that a client has sent its first message or request."""

    def refuse_posts(self, posts: list[tuple[int, bytes]]) -> tuple[bytes, int]:
        """Refuse what barred clients say; see ``barred``."""

    def half_close(self, connection: Connection) -> None:
        """Take a client that has ended its stream: end its connection when it has what it is owed."""

    def refuse(self, connection: Connection, text: str, reason: str) -> None:
        """Tell a client that its bytes are no frames, and end its connection."""

    def on_writable(self, connection: Connection) -> None:
        """Send a client what it is owed."""

    def send(self, connection: Connection, data: bytes) -> None:
        """Send a client bytes of its dialect."""

    def finish(self, connection: Connection, last: bytes) -> None:
        """Send a client ``last`` after what has begun to go to it, and then end its connection."""

    def take_first_bytes(self, connection: Connection, data: bytes) -> None:
        """Take what a client has sent whose protocol is not known."""

    def take_begun(self, connection: Connection) -> bool:
        """Take what a client of unknown protocol had said before it came here, if that is enough."""

    def take_plain(self, connection: Connection) -> None:
        """Let a client whose protocol is not known be a plain one."""

    def browse(self, connection: Connection, data: bytes) -> None:
        """Take what a client has sent that speaks HTTP."""


class Reading:
    """The clients' bytes on their way in.

    Everybody gets a turn before anybody gets a second one: a client that is not done with its turn, or whose
    turn does not come because this round of the loop has done enough, waits in a line.
    """

    def __init__(
        self, config: Config, reactor: Reactor, uplink: Uplink, owner: Owner, lifetime: Lifetime
    ) -> None:
        """Begin with no client."""
        self.config = config
        self._reactor = reactor
        self._uplink = uplink
        self._counters = uplink.counters
        self._owner = owner
        self._lifetime = lifetime
        # Clients that have begun a frame, and when its beginning or its last progress was.
        self.half: dict[Connection, float] = {}
        # Clients whose turn has not come, and those that have had one and are not done, in the order in which
        # they will have theirs. They are not listened to.
        self._line: dict[Connection, None] = {}
        # Those before whom nobody waits for long: they sent little last time. And those that have said
        # nothing yet.
        self._light: dict[Connection, None] = {}
        self._new: dict[Connection, None] = {}
        self._again: dict[Connection, None] = {}
        self._waited = 0
        # Rooms that are too fast, and the clients that therefore wait before they say more there.
        self._held: dict[int, dict[Connection, None]] = {}
        # When this round has taken enough from those that waited in the line (seconds, monotonic).
        self._round_ends = 0.0

    @property
    def busy(self) -> bool:
        """True when a client waits for its turn and the hub can take what it sends."""
        if (self._light or self._new) and not self._full(light=True):
            return True
        return bool(self._line or self._again) and not self._full(light=False)

    def _full(self, *, light: bool) -> bool:
        """Tell whether the hub is so far behind that nobody is read from who sends little, or much."""
        under_way = self._uplink.under_way
        if not light:
            under_way += self._uplink.requests.size
        if under_way <= UNDER_WAY_OF_MANY:  # as a rule: it is asked before each read
            return False
        limit = UNDER_WAY if self._waiting < MANY else UNDER_WAY_OF_MANY
        return under_way > (limit + UNDER_WAY_OF_LIGHT if light else limit)

    @property
    def _waiting(self) -> int:
        """How many wait who send much, or waited when the round began."""
        return max(self._waited, len(self._line) + len(self._again))

    def begin_round(self) -> None:
        """Begin a round of the loop: those that wait in the line come first."""
        self._round_ends = time.monotonic() + ROUND_TIME
        if self._lifetime.draining:
            self._line, self._again, self._light, self._new = {}, {}, {}, {}
        self._waited = 0
        if not self.busy:
            return
        again = list(self._again)
        self._waited = len(self._line) + len(again)
        # A client that has said nothing yet may be anybody: those that have come before it.
        self._serve_those_who_wait(self._light)
        self._serve_those_who_wait(self._new)
        line_served = bool(self._line)
        self._serve_those_who_wait(self._line)
        for connection in again:
            if connection in self._again:  # it has neither ended nor left meanwhile
                del self._again[connection]
                self._serve_or_wait(connection, in_time=not line_served)
                line_served = True

    def _serve_those_who_wait(self, waiting: dict[Connection, None]) -> None:
        """Serve clients until this round has taken enough; the first has its turn though it is late.

        The others keep their places in ``waiting`` and are not looked at: many may wait for many rounds.
        """
        light, first, left = waiting is not self._line, True, len(waiting)
        while some := list(islice(waiting, min(left, SERVED))):
            left -= len(some)
            for connection in some:
                if not (first or self._in_time) or self._full(light=light):
                    return
                if connection in waiting:  # it has neither ended nor left meanwhile
                    del waiting[connection]
                    first = False
                    self._guard(self._read, connection)

    def _serve_or_wait(self, connection: Connection, *, in_time: bool = False) -> None:
        """Serve a client unless others wait or this round has taken enough; then it waits in a line."""
        if connection.closed or connection.leaving:
            return
        line = (self._light if connection.speaker else self._new) if connection.light else self._line
        if line or not (in_time or self._in_time) or self._full(light=connection.light):
            connection.no_longer(self._reactor, READ)
            line[connection] = None
        else:
            self._guard(self._read, connection)

    @property
    def _in_time(self) -> bool:
        """True while this round may take more. What came after a wait has its own time."""
        now = time.monotonic()
        return now <= self._round_ends or now <= self._reactor.now + ROUND_TIME

    def on_event(self, connection: Connection, mask: int) -> None:
        """Serve a client whose socket is ready."""
        if mask & WRITE and not connection.closed:
            self._guard(self._owner.on_writable, connection)
        # Asked again: what was ready when the turn began may have been told to leave in the middle of it.
        if mask & connection.interest & READ and not connection.closed:
            self._serve_or_wait(connection)

    def _guard(self, what: Callable[[Connection], None], connection: Connection) -> None:
        """Do something for a client. A failure ends its connection and no other."""
        try:
            what(connection)
        except Exception:  # a failure with one client must not end the process of all
            log.exception("failed, its connection is ended: %s", connection.address)
            self._owner.end(connection, INTERNAL_ERROR)

    def serve_soon(self, connection: Connection) -> None:
        """Let a new client have its turn although nothing more may come from it."""
        connection.no_longer(self._reactor, READ)
        self._new[connection] = None

    def hold(self, room: int, held: bool) -> None:
        """Read nothing from clients that speak in a room, or read from them again."""
        if held:
            self._held.setdefault(room, {})
            return
        for connection in self._held.pop(room, {}):
            if not connection.closed:
                self.read_again(connection)

    def _read(self, connection: Connection) -> None:
        waiting = self._held.get(connection.fanout.number) if self._held else None
        if waiting is not None and (connection.spoke or not connection.light):
            connection.no_longer(self._reactor, READ)
            waiting[connection] = None
            self.end_run(connection)
            return
        if connection.dialect.has_more:
            self._take(connection, b"")
            return
        if connection.undecided and self._owner.take_begun(connection):
            return
        # What a new client wants is not known yet: it may be to join another room.
        size = self._share() if waiting is None else LITTLE
        try:
            data = connection.sock.recv(size)
        except BlockingIOError:
            self.read_again(connection)
            return
        except OSError as error:
            self._owner.end(connection, error.strerror or "read failed")
            return
        self._counters.bytes_in += len(data)
        if not data:
            self._take_end(connection)
        elif connection.undecided:
            self._owner.take_first_bytes(connection, data)
        elif connection.spoke or connection.dialect.held or not self._refuse_foreign(connection, data):
            self._take(connection, data)

    def _share(self) -> int:
        """Return how many bytes are read from a client: all that wait share what is read in a round."""
        if not (self._waited or self._line or self._again):
            return READ_SIZE
        return min(READ_SIZE, max(READ_LEAST, ROUND_SIZE // (1 + self._waiting)))

    def take_first(self, connection: Connection, data: bytes) -> None:
        """Take the first bytes of a client that is a plain one."""
        if not self._refuse_foreign(connection, data):
            self._take(connection, data)

    def _take_end(self, connection: Connection) -> None:
        if connection.undecided:
            self._owner.take_plain(connection)
            if connection.closed:
                return
        in_order = connection.dialect.receive_eof()
        if connection not in connection.fanout:  # sending had failed: the end is that of a reset
            self._owner.end(connection, "lost")
        else:
            half = connection.dialect.half_frame()
            if in_order or half is None:
                self._owner.half_close(connection)
            else:  # it may have closed only its own side, and then it hears why nothing came of this
                self._owner.refuse(connection, half_frame_text(half), CLOSED_INSIDE)

    def _take(self, connection: Connection, data: bytes) -> None:
        if isinstance(connection.dialect, HttpDialect):
            self._owner.browse(connection, data)
        else:
            self._take_payloads(connection, data)

    def _take_payloads(self, connection: Connection, data: bytes) -> None:
        dialect, now, held = connection.dialect, self._reactor.now, connection.dialect.held
        connection.light = held + len(data) < LITTLE
        refill(connection, self.config, now)
        completed: list[tuple[int, bytes]] = []
        sender: Sender = connection.identity if dialect.asked else connection.address
        replies = dialect.receive_data(data, completed, TURN_WORK)
        if connection.barred and completed:
            replies = self._refuse_posts(connection, completed) + replies
        if completed:
            total = self._pass_on(connection, sender, completed)
            if self.config.flood_rate:  # else nobody owes anything, and is not to when there is a limit later
                connection.allowance -= total
        if replies or not completed:
            passed_on = sum(len(frames) for _, frames in completed)
            wrong = max(0, held + len(data) - dialect.held - passed_on)
            counted = len(replies) + dialect.take_counted()
            connection.budget -= wrong * WRONG_COST + counted * ERROR_COST
        elif dialect.framing is WEBSOCKET_FRAMING:  # fragments and pings between messages
            connection.budget -= dialect.take_counted() * ERROR_COST
        if connection.asking:
            connection.budget -= request_cost(completed[-1][1])
        if connection.allowance < 0 or connection.budget < 0:
            self.slow_down(connection)
            if connection.quiet_until > now + LONG_PAUSE:
                replies += dialect.end_run()
        if (replies or connection.asking) and connection not in connection.fanout:
            self._owner.end(connection, "lost")  # it cannot be answered any more
            return
        self._answer(connection, replies, progress=bool(completed or replies))

    def _refuse_posts(self, connection: Connection, completed: list[tuple[int, bytes]]) -> bytes:
        """Refuse what a barred client says, and charge it as other errors."""
        told, size = self._owner.refuse_posts(completed)
        connection.budget -= (size - len(told)) * ERROR_COST
        return told

    def _answer(self, connection: Connection, replies: bytes, *, progress: bool) -> None:
        """Send what a read gives the client itself, and read again when that may be."""
        dialect = connection.dialect
        if replies:
            self._owner.reply(connection, replies)
        if dialect.framing is WEBSOCKET_FRAMING:
            self._answer_control(connection)
        if dialect.mid_frame:
            self._note_half(connection, progress=progress)
        elif self.half:
            self.half.pop(connection, None)
        if (dialect.has_more or connection.asking or not connection.reading) and not connection.closed:
            connection.no_longer(self._reactor, READ)
            self.read_again(connection)

    def _answer_control(self, connection: Connection) -> None:
        """Send what the dialect itself answers, and end the connection if that is what the client wants."""
        control = connection.dialect.take_control()
        if connection.closed:
            return
        if connection.dialect.closing is not None:
            self._owner.finish(connection, control)
        elif control and connection not in connection.fanout:
            self._owner.end(connection, "lost")  # it cannot be answered any more
        elif control:
            self._owner.send(connection, control)

    def hear(self, connection: Connection) -> None:
        """Note that a client has sent something that is no message."""
        refill(connection, self.config, self._reactor.now)

    def note_half(self, connection: Connection) -> None:
        """Note that a client is in the middle of something which must not take too long."""
        self.half[connection] = self._reactor.now

    def _note_half(self, connection: Connection, *, progress: bool) -> None:
        """Note that a client is inside a frame. Refuse one that speaks another protocol."""
        if connection.closed:
            return
        if progress or connection not in self.half:
            self.half[connection] = self._reactor.now
        if not connection.spoke and (half := connection.dialect.half_frame()) is not None:
            self._refuse_foreign(connection, half.head)

    def _refuse_foreign(self, connection: Connection, head: bytes) -> bool:
        """Refuse a client that has said nothing yet, and whose first frame begins as another protocol does.

        Returns True if that was so. Another dialect than the plain one has been asked for by its first bytes.
        """
        if connection.dialect.asked or not isinstance(connection.dialect, PlainDialect):
            return False
        if not (name := foreign(head)) or connection not in connection.fanout:
            return False
        self._owner.refuse(connection, foreign_text(name, head[:HEAD_SIZE]), NOT_A_FRAME)
        return True

    def _pass_on(self, connection: Connection, sender: Sender, completed: list[tuple[int, bytes]]) -> int:
        """Give the hub messages and requests; returns how many there are."""
        total = 0
        if not connection.speaker:
            self._owner.spoke_first(connection)
        for count, frames in completed:
            if count == REQUEST:  # what came before the first one was said by the address
                sender = connection.identity
                connection.asking = True
                self._uplink.ask(sender, connection.address, frames)
            else:
                self._uplink.post(sender, count, frames)
                connection.spoke = True
            total += count or 1
        return total

    def answered(self, connection: Connection) -> None:
        """Read again from a client whose request has been answered."""
        connection.asking = False
        if connection.budget < 0:
            self.slow_down(connection)
        self.read_again(connection)

    def slow_down(self, connection: Connection) -> None:
        """Do not read from a client that has said or cost too much until it may go on."""
        seconds = pause(connection, self.config)
        if not seconds:
            return
        self._counters.waits += 1
        connection.quiet_until = connection.heard + seconds
        connection.no_longer(self._reactor, READ)
        self._reactor.call_later(
            connection.quiet_until - self._reactor.now, partial(self.quiet_is_over, connection.identity)
        )

    def quiet_is_over(self, identity: int) -> None:
        """Read again from a client that may say something again, if it is still here.

        By its identity: a timer that held the connection would keep it, and what it had sent, after its end.
        """
        connection = self._owner.find(identity)
        if connection is not None:
            self.read_again(connection)

    def read_again(self, connection: Connection) -> None:
        """Read from a client again unless there is a reason not to. One in a line has its turn anyway."""
        if connection.quiet_until and connection.quiet_until > time.monotonic():
            return
        full = len(connection.outbox) >= OUTBOX_LIMIT
        if self._lifetime.draining or connection.leaving or connection.asking or full:
            return
        if connection.half_closed or connection in self._line:
            return
        if connection in self._light or connection in self._new:
            return
        if connection.dialect.has_more:
            self._again[connection] = None
            return
        if connection in self.half:  # while it was not read from it could make no progress
            self.half[connection] = self._reactor.now
        connection.also(self._reactor, READ)

    def stop(self, connection: Connection) -> None:
        """Read no more from a client that is about to be moved."""
        connection.leaving = True
        connection.no_longer(self._reactor, READ)
        self._uplink.requests.send(connection.identity)
        self._leave_line(connection)
        self.end_run(connection)

    def end_run(self, connection: Connection) -> None:
        """Tell a client how often its last error came: nothing more is read from it for now."""
        if (told := connection.dialect.end_run()) and connection in connection.fanout:
            self._owner.reply(connection, told)

    def _leave_line(self, connection: Connection) -> None:
        for waiting in (self._line, self._again, self._light, self._new, *self._held.values()):
            waiting.pop(connection, None)

    def forget(self, connection: Connection) -> float | None:
        """Forget a client; returns since when it has been inside a frame (seconds, monotonic), or None."""
        self._leave_line(connection)
        self._uplink.requests.forget(connection.identity)
        return self.half.pop(connection, None)

    def inside_a_frame(self, before: float) -> list[Connection]:
        """Return the clients whose half frame has made no progress since ``before`` (seconds, monotonic)."""
        # Oldest first as a rule, but a client that makes progress moves on in place: look at all.
        # A client that is not read from can make none.
        return [
            each
            for each, since in self.half.items()
            if each.reading and max(since, each.quiet_until) < before
        ]
