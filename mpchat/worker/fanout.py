"""Fan-out: one message in, one ``send`` per client out. What a worker does most, and all it does slowly.

Clients that are caught up get each new blob with one ``send`` of the same bytes: no copy, no queue per
connection; see :mod:`mpchat.worker.flush`. The others catch up from the stream; see
:mod:`mpchat.worker.late_clients`. No client waits for another one.

What is for one client alone goes out between two blobs, never inside a frame.
"""

import socket
from collections.abc import Iterable
from itertools import repeat, takewhile
from typing import Protocol

from mpchat.ipc.stream_buffer import Outside, Place, StreamBuffer
from mpchat.protocol.framing import Framing
from mpchat.reactor import WRITE, Reactor
from mpchat.worker.connection import EARLY, LIVE, Connection
from mpchat.worker.counters import Counters
from mpchat.worker.flush import FAILED, SHARED_SIZE, Flush
from mpchat.worker.late_clients import LateClients
from mpchat.worker.outboxes import Outboxes

# Sends between two looks at the other descriptors: about a millisecond's worth.
SLICE = 512
# Bytes past which gathering longer does not make a send cheaper; no blob has more. Two of the largest
# segments that TCP makes: 65 483 bytes on loopback, 65 160 where a packet has 1500. What goes beyond is a
# further segment for each client, however short; a third one is often kept back by pacing, with a timer.
ENOUGH = 130_000
NEARLY_ENOUGH = ENOUGH * 9 // 10
# Seconds after a flush for which a client that could not take all of it waits for the next one: to ask for
# its socket to become writable, and not to ask any more, costs more than to try once again.
TRY_AGAIN = 0.002
# A room is small with a sixteenth of a slice, 32 clients: it is sent to without a flush.
FEW = 16
# An unbound method; see ``flush``.
_SEND = socket.socket.send


class Keeper(Protocol):
    """What a fan-out needs of the part of the worker that owns connections."""

    outboxes: Outboxes

    def lost(self, connection: Connection, error: OSError | None) -> None:
        """Take a client whose send failed; with None a slow consumer, which has fallen too far behind."""

    def drained(self, connection: Connection) -> None:
        """Take note that a client has been sent all that is for it alone."""

    def ack_arrivals(self) -> None:
        """Ack the connections that have come in this turn: before that nothing may be sent to them."""


class Pending:
    """Frames that wait for the next flush."""

    __slots__ = ("_framing", "_pieces", "messages", "size")

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self.size = self.messages = 0
        # Whole frames, with how many they are, as the hub sent them.
        self._pieces: list[tuple[int, bytes]] = []

    def __bool__(self) -> bool:
        return self.size > 0

    def add(self, count: int, frames: bytes) -> None:
        """Add ``count`` frames."""
        self._pieces.append((count, frames))
        self.size += len(frames)
        self.messages += count

    def take(self) -> tuple[bytes, int]:
        """Return all of it, or as many whole frames as fit into :data:`ENOUGH`; and how many frames.

        Then it is as many pieces as fit, if these are nearly that: to find a frame's end in a piece takes
        50 ns for each frame before.
        """
        pieces = self._pieces
        if self.size <= ENOUGH:
            blob = pieces[0][1] if len(pieces) == 1 else b"".join([frames for _, frames in pieces])
            count = self.messages
            pieces.clear()
            self.size = self.messages = 0
            return blob, count
        fit = count = size = 0
        for number, frames in pieces:
            if size + len(frames) > ENOUGH:
                break
            fit += 1
            count += number
            size += len(frames)
        parts = [frames for _, frames in pieces[:fit]]
        del pieces[:fit]
        if size < NEARLY_ENOUGH:
            all_of_it, frames = pieces[0]
            more, end = self._framing.leading(frames, ENOUGH - size)
            pieces[0] = all_of_it - more, frames[end:]
            parts.append(frames[:end])
            count += more
            size += end
        self.size -= size
        self.messages -= count
        return b"".join(parts), count


class Fanout:
    """The clients of one room on this worker, and the stream that they read."""

    def __init__(
        self,
        reactor: Reactor,
        stream: StreamBuffer,
        *,
        coalesce: float,
        keeper: Keeper,
        counters: Counters,
        number: int = 0,
    ) -> None:
        """Begin with no client. ``coalesce`` is in seconds; ``number`` is the room's."""
        self.number = number
        self.stream = stream
        self._coalesce = coalesce
        self._reactor = reactor
        self._keeper = keeper
        self._counters = counters
        self._live: dict[Connection, socket.socket] = {}
        # The same in lists, made when they are needed next after a client has come or gone.
        self._lists: tuple[list[Connection], list[socket.socket]] | None = None
        self._outboxes = keeper.outboxes
        self._late = LateClients(reactor, self.stream, counters, self._outboxes)
        # Clients that keep their places and are sent nothing yet, in the order in which they came.
        self._waiting: dict[Connection, None] = {}
        # The same for those whose places the stream has not reached.
        self._waiting_early: dict[Connection, Place] = {}
        self._pending = Pending(stream.framing)
        self._flush: Flush | None = None
        self._flushed_at = 0.0
        self._behind = False
        # Clients that a reply waits for until the flush is over.
        self._replies: list[Connection] = []
        # Clients that are sent something when what is pending now has been sent: up to which message.
        self._later: dict[Connection, int] = {}

    def __len__(self) -> int:
        return len(self._live) + len(self._late) + len(self._waiting) + len(self._waiting_early)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._live or connection in self._late or self._waits(connection)

    def _waits(self, connection: Connection) -> bool:
        return connection in self._waiting or connection in self._waiting_early

    def is_live(self, connection: Connection) -> bool:
        """True for a client that has been sent everything."""
        return connection in self._live

    @property
    def messages(self) -> int:
        """The number of the last message that this fan-out has been given."""
        return self.stream.messages + self._pending.messages

    @property
    def idle(self) -> bool:
        """True when every client has been sent everything, except those that are late."""
        return self._flush is None and not self._pending

    @property
    def at_ease(self) -> bool:
        """True when it is plain that neither this worker nor any client is behind: most rooms, most times."""
        return self._pending.size <= ENOUGH and not self._behind and not self._late.late

    @property
    def at_rest(self) -> bool:
        """True when :meth:`due` is None."""
        return self._flush is None and not self._pending.size and not self._late.again

    def judge_behind(self) -> bool:
        """Tell whether so much is pending that the room's senders should wait; then, until little is."""
        self._behind = self._pending.size > (ENOUGH if self._behind else 2 * ENOUGH)
        return self._behind

    @property
    def pending(self) -> int:
        """Bytes that wait for the next flush."""
        return self._pending.size

    @property
    def between_flushes(self) -> bool:
        """True when no flush is under way: every client's place in the stream is known."""
        return self._flush is None

    @property
    def needs_nothing_past(self) -> bool:
        """True when no client here is to get anything of the stream again: it may be forgotten."""
        return self._flush is None and not self._late.late and not self._late.early

    @property
    def late(self) -> int:
        """How many clients are not where the stream is."""
        return len(self._late)

    # Clients that come and go.

    def join(self, connection: Connection) -> None:
        """Let a client take part from the stream's end on."""
        connection.cursor = LIVE
        self._live[connection] = connection.sock
        self._lists = None

    def wait(self, connection: Connection, place: Place | None = None) -> None:
        """Keep a client's place, which is the stream's end or ``place``; :meth:`begin` lets it be sent to."""
        place = place or Place(self.stream.messages)
        cursor = self.stream.cursor_of(place)
        if cursor is Outside.AHEAD:
            connection.cursor = EARLY
            self._waiting_early[connection] = place
        elif cursor is Outside.FORGOTTEN:
            self.resume(connection, place)
        else:
            connection.cursor = cursor
            connection.late_messages = place.number
            self._waiting[connection] = None

    def begin(self, connection: Connection) -> None:
        """Send a client that waits, if it does, what there is from its place on."""
        if connection in self._waiting_early:
            self.resume(connection, self._waiting_early.pop(connection))
            return
        if connection not in self._waiting:
            return
        del self._waiting[connection]
        if connection.cursor == self.stream.end and not connection.outbox:
            self.join(connection)
        else:
            self._late.resume(connection, connection.cursor, connection.late_messages)

    def has_sent_nothing(self, connection: Connection) -> bool:
        """True for a client that waits, or waited, and has been sent nothing since it came."""
        if connection in self._live:
            return connection.late_messages == self.stream.messages
        return self._waits(connection) or connection in self._late.early

    def resume(self, connection: Connection, place: Place) -> None:
        """Let a client go on from its place in the stream, the outbox that it brought first where it must."""
        cursor = self.stream.cursor_of(place)
        if cursor is Outside.AHEAD:
            self._late.hold_early(connection, place)
        elif cursor is Outside.FORGOTTEN or cursor < self.stream.oldest:
            self._keeper.lost(connection, None)
        elif cursor == self.stream.end and not connection.outbox:
            self.join(connection)
        else:
            self._late.resume(connection, cursor, place.number)

    def leave(self, connection: Connection) -> None:
        """Forget a client; what was under way to it is dropped."""
        if self._live.pop(connection, None) is not None:
            self._lists = None
        self._late.forget(connection)
        self._waiting.pop(connection, None)
        self._waiting_early.pop(connection, None)
        self._later.pop(connection, None)

    def complete(self, now: float, *, pending: bool = False) -> None:
        """Go on with the flush that is under way to its end, without a look at anything else; with
        ``pending``, send what waits for the next one too."""
        if pending and self._pending:
            self._keeper.ack_arrivals()
        while self._flush is not None or (pending and self._pending):
            self._send_slice(self._flush or self._begin(), now)

    def complete_for(self, connection: Connection, now: float) -> None:
        """Go on with the flush that is under way, and send a client what it is to get after that."""
        self.complete(now, pending=connection in self._later)

    def owed_size(self, connection: Connection) -> int:
        """Return the size of :meth:`owed` in bytes."""
        return self.stream.end - connection.cursor if connection.cursor >= 0 else 0

    def owed(self, connection: Connection) -> bytes:
        """Return what a client is still to get of the stream, but for what is not in it yet."""
        if connection.cursor < 0:
            return b""
        return b"".join(self.stream.read_all(connection.cursor))

    def take_out(self, connection: Connection) -> Place:
        """Forget a client and return its place. Only between flushes."""
        assert self.between_flushes
        place = self._late.early.get(connection) or self._waiting_early.get(connection)
        if place is None:
            place = Place(self.stream.messages)
            if connection.cursor != LIVE:
                place = self.stream.place_of(connection.cursor)
                self._counters.delivered += place.number - connection.late_messages
        self.leave(connection)
        return place

    def rest_of_frame(self, connection: Connection) -> bytes:
        """Return what is left of the frame that a client has been sent a part of, if it has."""
        return self.stream.rest_of_frame(connection.cursor) if connection.cursor >= 0 else b""

    def furthest_behind(self, connections: Iterable[Connection]) -> int:
        """Return how many frames of the stream all of these have got."""
        cursors = (each.cursor for each in connections if each.cursor >= 0)
        return self.stream.place_of(min(cursors, default=self.stream.end)).number

    def trim(self, limit: int) -> None:
        """Keep ``limit`` bytes of the stream, and cut off the clients that need more. Between two flushes."""
        self.stream.limit = limit
        self.stream.trim(limit)
        for connection in self._late.slow_consumers():
            self._keeper.lost(connection, None)

    # What goes out.

    def publish(self, count: int, frames: bytes) -> None:
        """Take ``count`` plain frames for all clients; :meth:`work` sends them."""
        self._pending.add(count, self.stream.framing.encode(frames))

    def reply(self, connection: Connection, frames: bytes, *, in_order: bool = False) -> None:
        """Send something to one client, after what it is being sent and before what it is not yet sent.

        ``in_order``: after what is pending too.
        """
        self._outboxes.put(connection, frames)
        if connection in self._later:
            return
        if in_order and self._pending:
            self._later[connection] = self.messages
        elif connection.cursor != LIVE:
            return
        elif self._flush is not None:
            self._replies.append(connection)
        else:
            self._send_outbox(connection)

    def due(self) -> float | None:
        """Return when :meth:`work` wants a call (seconds, monotonic): 0 for now, None for not at all."""
        if self._flush is not None or self._pending.size >= ENOUGH:
            return 0.0
        if self._pending:
            return self._flushed_at + self._coalesce
        return self._flushed_at + TRY_AGAIN if self._late.again else None

    def work(self, now: float) -> None:
        """Send a slice of what is pending: at once when the last flush is a while ago, else when due."""
        flush = self._flush
        if flush is None:
            due = self.due()
            if due is None or due > now:
                return
            if not self._pending.size:
                self._late.wait_until_writable()
                return
            flush = self._begin()
        self._send_slice(flush, now)

    def send_all(self, now: float) -> bool:
        """Send what is pending if it is due and all can be sent it at once; returns True if all have got it.

        For a small room where nothing is special: the fan-out's own time, without the sends, is a quarter
        less than with :meth:`work`. Nothing of it is kept then. What did not go out is left for that.
        """
        if not self._has_few(now):
            return False
        blob, messages = self._pending.take()
        if self._lists is None:
            self._lists = list(self._live), list(self._live.values())
        connections, socks = self._lists
        sent: list[int] = []
        failed: OSError | None = None
        try:
            sent.extend(map(_SEND, socks, repeat(blob)))
        except BlockingIOError:
            sent.append(0)
        except OSError as error:  # the system tells it only once
            sent.append(FAILED)
            failed = error
        size, stream, counters = len(blob), self.stream, self._counters
        whole = sent.count(size)
        counters.delivered += whole * messages
        counters.bytes_out += whole * size
        if whole == len(socks):
            stream.pass_by(size, messages)
            self._flushed_at = now
            return True
        stream.append(blob, messages)
        for connection, taken in zip(connections, sent, strict=False):
            if taken not in (size, FAILED):
                counters.bytes_out += taken
                self._fall_behind(connection, stream.end - size + taken, stream.messages - messages, now)
        self._flush = Flush(blob, messages, connections[len(sent) :], socks[len(sent) :])
        if failed is not None:
            self._fail(connections[len(sent) - 1], failed)
        return False

    def _has_few(self, now: float) -> bool:
        """Tell whether what is pending is due, and is for a few live clients and for nobody else."""
        late = self._late
        if len(self._live) > SLICE // FEW or not 0 < self._pending.size < SHARED_SIZE:
            return False
        if self._waiting or self._waiting_early or self._later or self._replies or late.late or late.early:
            return False
        return self._flush is None and now >= self._flushed_at + self._coalesce

    def _begin(self) -> Flush:
        blob, messages = self._pending.take()
        late = self._late
        oldest = self.stream.oldest if late.late else None
        self.stream.append(blob, messages)
        if self._later:
            self._release_later()
        if late.late and self.stream.oldest != oldest:
            for connection in late.slow_consumers():
                self._keeper.lost(connection, None)
        if late.early:
            late.resume_early()
        for connection, place in list(self._waiting_early.items()):
            if place.number <= self.stream.messages:
                del self._waiting_early[connection]
                self.wait(connection, place)
        if self._waiting:
            self._begin_before_forgotten()
        if self._lists is None:
            self._lists = list(self._live), list(self._live.values())
        self._flush = Flush(blob, messages, *self._lists)
        if late.again:
            late.begin_retries()
        return self._flush

    def _release_later(self) -> None:
        """Let those be sent something after this blob that waited for a message in it."""
        sent = self.stream.messages
        due = [each for each, number in self._later.items() if number <= sent]
        self._replies += due
        for connection in due:
            del self._later[connection]

    def _begin_before_forgotten(self) -> None:
        """Send those that wait what would soon be forgotten: nothing may be lost."""
        middle = self.stream.end - self.stream.limit // 2
        for connection in list(takewhile(lambda each: each.cursor < middle, self._waiting)):
            self.begin(connection)

    def _send_slice(self, flush: Flush, now: float) -> None:
        sent = flush.send(SLICE)
        whole = sent.count(flush.size)
        self._counters.delivered += whole * flush.messages
        self._counters.bytes_out += whole * flush.size
        if whole != len(sent):
            self._sort_out(flush, sent, now)
        if len(sent) < SLICE and (not self._late.trying or self._try_again(SLICE - len(sent))):
            self._flush = None
            # From the flush's last slice, not its first: a worker that is busy sending gathers meanwhile.
            self._flushed_at = now
            if self._replies:
                self._send_replies()

    def _sort_out(self, flush: Flush, sent: list[int], now: float) -> None:
        """Let clients be late that could not take all of a blob; give up those that sending failed for."""
        begin = self.stream.end - flush.size
        for connection, taken in flush.taken_in_part(sent):
            self._counters.bytes_out += taken
            self._fall_behind(connection, begin + taken, self.stream.messages - flush.messages, now)
        failed, flush.failed = flush.failed, []
        for connection, error in failed:
            self._fail(connection, error)

    def _fall_behind(self, connection: Connection, cursor: int, messages: int, now: float) -> None:
        if self._live.pop(connection, None) is not None:
            self._lists = None
            self._late.fall_behind(connection, cursor, messages, now)

    def _try_again(self, most: int) -> bool:
        """Send late clients what they are owed by now; returns False if there are more than ``most``."""
        for connection in self._late.next_retries(most):
            if connection in self._late.late and not self._has_moved_on(connection):
                connection.also(self._reactor, WRITE)
        return not self._late.trying

    def _has_moved_on(self, connection: Connection) -> bool:
        """Try a late client; returns False for one that is to wait until its socket is writable."""
        if connection.outbox:  # its worker wants to see it leave: until then it is not read from
            return False
        before = connection.cursor
        self.on_writable(connection)
        if connection not in self._late.late:
            return True
        if connection.cursor == before:
            return False
        self._late.again[connection] = None
        return True

    def on_writable(self, connection: Connection) -> None:
        """Go on with a late client; with all that it is owed sent, it is live."""
        try:
            if not self._late.send_more(connection, hold=connection in self._later):
                return
        except OSError as error:
            self._fail(connection, error)
            return
        self._counters.delivered += self.stream.messages - connection.late_messages
        self._late.forget(connection)
        self.join(connection)
        connection.no_longer(self._reactor, WRITE)
        if not connection.outbox:
            self._keeper.drained(connection)

    def _fail(self, connection: Connection, error: OSError) -> None:
        if not connection.closed:
            self._keeper.lost(connection, error)

    def _send_replies(self) -> None:
        replies, self._replies = self._replies, []
        for connection in replies:
            owed = connection.outbox and connection not in self._later
            if owed and connection.cursor == LIVE and not connection.closed:
                self._send_outbox(connection)

    def _send_outbox(self, connection: Connection) -> None:
        """Send a caught-up client its outbox; makes it late, with nothing missed, when that does not go."""
        try:
            sent = connection.sock.send(connection.outbox)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(connection, error)
            return
        connection.outbox_open = connection.outbox_open or sent > 0
        self._outboxes.sent(connection, sent)
        if connection.outbox:
            self._fall_behind(connection, self.stream.end, self.stream.messages, self._reactor.now)
        else:
            connection.outbox_open = False
            self._keeper.drained(connection)

    def struggling(self, now: float) -> int:
        """Return how many clients are far behind although they read fast; judged now and then."""
        return self._late.struggling(now)
