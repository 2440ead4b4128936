"""Late clients: those that are not where their stream is, and how they catch up.

A client that could not take all of a blob is late: it keeps a cursor, and is sent slices of the stream until
it has caught up. That is with the next flush if there is one in a moment, for a busy room fills sockets and
readers empty them all the time; else when its socket becomes writable. A client that falls out of the stream
is a slow consumer. A client that is ahead of the stream is early, and is sent nothing until the stream is
there.
"""

from mpchat.ipc.stream_buffer import Outside, Place, StreamBuffer
from mpchat.reactor import WRITE, Reactor
from mpchat.worker.connection import EARLY, Connection
from mpchat.worker.counters import Counters
from mpchat.worker.outboxes import Outboxes

# Bytes a late client is sent in one go, about what its socket's buffer takes.
CATCH_UP = 128 << 10
# Seconds between two judgements of whether the room is faster than its members.
JUDGE_EVERY = 0.01
# A client that falls behind counts as keeping up with its own network while it takes this much (bytes per
# second). Only such clients can slow a room down, and only when they are most of it.
BRISK = 256 << 10
# Seconds before a late client's pace can be judged at all.
BRISK_GRACE = 0.25
# Bytes that may still come when a room's senders are told to wait: what eight workers have under way to the
# hub (``reading.UNDER_WAY``), what the hub has under way to this one (``channel.WINDOW_SHARE``), and what is
# pending here (``rooms.SWAMPED``).
ON_ITS_WAY = 4 << 20
# The share of a shorter stream after which the senders are told.
LEAST_SHARE = 8


def is_brisk(taken: int, seconds: float) -> bool:
    """Tell whether a late client that took ``taken`` bytes in ``seconds`` is still worth waiting for."""
    return seconds < BRISK_GRACE or taken >= BRISK * seconds


def far_behind(limit: int) -> int:
    """Return how many bytes a client may owe before it is far behind; ``limit`` bytes of the stream are kept.

    The room's senders wait from then on. The rest holds ``ON_ITS_WAY`` bytes, unless the stream is too short
    for that.
    """
    return min(limit // 2, max(limit // LEAST_SHARE, limit - ON_ITS_WAY))


class LateClients:
    """The clients of one fan-out that are late or early."""

    def __init__(
        self, reactor: Reactor, stream: StreamBuffer, counters: Counters, outboxes: Outboxes
    ) -> None:
        """Begin with none."""
        self.late: dict[Connection, None] = {}
        self.early: dict[Connection, Place] = {}
        # Late ones that are tried again with the next flush.
        self.again: dict[Connection, None] = {}
        self._reactor = reactor
        self._stream = stream
        self._counters = counters
        self._outboxes = outboxes
        # Those of them whose turn it is in this one.
        self.trying: list[Connection] = []
        self._judged_at = 0.0
        self._struggling = 0

    def __len__(self) -> int:
        return len(self.late) + len(self.early)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self.late or connection in self.early

    def forget(self, connection: Connection) -> None:
        """Forget a client that has gone or is not late any more."""
        if connection not in self:
            return
        self._counters.late -= 1
        self.late.pop(connection, None)
        self.early.pop(connection, None)
        self.again.pop(connection, None)

    def fall_behind(self, connection: Connection, cursor: int, messages: int, now: float) -> None:
        """Let a client be late from ``cursor`` on; it has been given ``messages`` frames."""
        _note(connection, cursor, messages, now)
        self._counters.late += 1
        self.late[connection] = self.again[connection] = None

    def resume(self, connection: Connection, cursor: int, messages: int) -> None:
        """The same for a client that comes from elsewhere: its socket may take something at once."""
        _note(connection, cursor, messages, self._reactor.now)
        self._counters.late += 1
        self.late[connection] = None
        connection.also(self._reactor, WRITE)

    def hold_early(self, connection: Connection, place: Place) -> None:
        """Let a client wait until the stream is at ``place``."""
        connection.cursor = EARLY
        self._counters.late += 1
        self.early[connection] = place

    def resume_early(self) -> None:
        """Let clients that the stream has reached go on."""
        for connection, place in list(self.early.items()):
            cursor = self._stream.cursor_of(place)
            if not isinstance(cursor, Outside):
                self.forget(connection)
                self.resume(connection, cursor, place.number)

    def slow_consumers(self) -> list[Connection]:
        """Return the slow consumers: what they would get next is not kept any more."""
        oldest = self._stream.oldest
        return [each for each in self.late if each.cursor < oldest]

    def begin_retries(self) -> None:
        """Let those that are to be tried again have their turn in the flush that begins."""
        self.trying = list(self.again)
        self.again.clear()

    def next_retries(self, most: int) -> list[Connection]:
        """Return up to ``most`` clients whose turn it is; they have had it then."""
        following = self.trying[:most]
        del self.trying[:most]
        return following

    def wait_until_writable(self) -> None:
        """There is no next flush in a moment: let the system tell which sockets can take more."""
        for connection in self.again:
            connection.also(self._reactor, WRITE)
        self.again.clear()

    def send_more(self, connection: Connection, *, hold: bool) -> bool:
        """Send a late client what it is owed: the begun reply, the stream, further replies unless ``hold``.

        Returns True when it has all of that. Raises ``OSError`` when sending fails.
        """
        try:
            if connection.outbox_open and not self._continue_outbox(connection):
                return False
            if not self._catch_up(connection):
                return False
            return hold or not connection.outbox or self._continue_outbox(connection)
        except BlockingIOError:
            return False

    def _continue_outbox(self, connection: Connection) -> bool:
        self._outboxes.sent(connection, connection.sock.send(connection.outbox))
        connection.outbox_open = bool(connection.outbox)
        return not connection.outbox

    def _catch_up(self, connection: Connection) -> bool:
        views = self._stream.read(connection.cursor, CATCH_UP)
        if views:
            taken = connection.sock.sendmsg(views)
            connection.cursor += taken
            self._counters.bytes_out += taken
        return connection.cursor == self._stream.end

    def struggling(self, now: float) -> int:
        """Return how many clients are far behind although they read fast; judged now and then."""
        if not self.late:
            return 0
        if now - self._judged_at >= JUDGE_EVERY:
            self._judged_at = now
            far = self._stream.end - far_behind(self._stream.limit)
            self._struggling = sum(
                each.cursor < far and is_brisk(each.cursor - each.late_from, now - each.late_since)
                for each in self.late
            )
        return self._struggling


def _note(connection: Connection, cursor: int, messages: int, now: float) -> None:
    connection.cursor = connection.late_from = cursor
    connection.late_since = now
    connection.late_messages = messages
