"""Fan-out: one message in, one ``send`` per client out. What a worker does most, and all it does slowly.

Clients that are caught up get each new blob with one ``send`` of the same bytes: no copy, no queue per
connection. A client that could not take all of it is late: it keeps a cursor into the stream, and is sent
slices until it has caught up: with the next flush if there is one in a moment, for a busy room fills sockets
and readers empty them all the time; else when its socket becomes writable. One that falls too far behind is
a slow consumer and is cut off. Nobody waits for anybody.

A client that comes from another worker goes on at its place. It may be ahead of this worker's stream: then
it is early, and is sent nothing until the stream has got there.

What is for one client alone goes out between two blobs, never inside a frame.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice, repeat

from mpchat.ipc.stream_buffer import Outside, Place, StreamBuffer
from mpchat.protocol.frames import leading_frames
from mpchat.reactor import WRITE, Reactor
from mpchat.worker.connection import EARLY, LIVE, Connection
from mpchat.worker.pacing import is_brisk

# Sends between two looks at the other descriptors: about a millisecond's worth.
SLICE = 512
# Bytes a late client is sent in one go, about what its socket's buffer takes.
CATCH_UP = 128 << 10
# Bytes past which gathering longer does not make a send cheaper; no blob has more. Two of the largest
# segments that TCP makes: 65 483 bytes on loopback, 65 160 where a packet has 1500. What goes beyond is a
# further segment for each client, however short; a third one is often kept back by pacing, with a timer.
ENOUGH = 130_000
# Seconds after a flush for which a client that could not take all of it waits for the next one: to ask for
# its socket to become writable, and not to ask any more, costs more than to try once again.
TRY_AGAIN = 0.002
# A blob of so many bytes and more, for so many clients and more, is put into pages that all their sockets
# share: a copy for each costs 0.23 ns a byte, to refer to pages half. Below that it saves nothing.
SHARED_SIZE = 32 << 10
SHARED_BY = 8
# Instead of how much of a blob a client took: none, and it is gone.
_FAILED = -1
# The one call of them all: not each socket's own, which would be one more object for each client.
_SEND, _FILENO = socket.socket.send, socket.socket.fileno
# Seconds between two judgements of whether the room is faster than its members.
JUDGE_EVERY = 0.01


class Pages:
    """A file in memory that holds a blob, closed with the last reference to it. Raises ``OSError`` where the
    system has no descriptor or no memory for it; ``AttributeError`` where it has no such files.

    What ``sendfile`` sends of it is not copied: sockets refer to its pages, which live until the last client
    has read them, also after the file was closed. So nothing is ever written to them again.
    """

    def __init__(self, blob: bytes) -> None:
        self.descriptor = os.memfd_create("blob", os.MFD_CLOEXEC)
        if os.pwrite(self.descriptor, blob, 0) != len(blob):
            raise OSError(errno.ENOMEM, "not all of it was written")

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class Fanout:
    """The clients of one room on this worker, and the stream that they read."""

    def __init__(
        self,
        reactor: Reactor,
        *,
        lag_limit: int,
        coalesce: float,
        on_gone: Callable[[Connection, OSError | None], None],
        number: int = 0,
    ) -> None:
        """Begin with nobody. ``lag_limit`` is in bytes, ``coalesce`` in seconds; ``number`` is the room's.

        ``on_gone(connection, error)`` is called when a send fails; with None for a slow consumer: a client
        that has fallen too far behind.
        """
        self.number = number
        self.stream = StreamBuffer(lag_limit)
        self.coalesce = coalesce
        # Messages given to clients, each counted once per client that took it.
        self.delivered = 0
        self._reactor = reactor
        self._on_gone = on_gone
        self._live: dict[Connection, socket.socket] = {}
        # The same in lists, made when they are needed next after somebody has come or gone.
        self._lists: tuple[list[Connection], list[socket.socket]] | None = None
        self._late: dict[Connection, None] = {}
        self._early: dict[Connection, Place] = {}
        # Late ones that are tried again with the next flush, and those of them whose turn it is in this one.
        self._again: dict[Connection, None] = {}
        self._trying: Iterator[Connection] = iter(())
        self._pending: list[bytes] = []
        self._pending_size = self._pending_messages = 0
        self._flushed_at = 0.0
        # The flush that is under way: each step is a send and what the system took of it; for whom they are,
        # and how many of those have been tried.
        self._todo: Iterator[int] | None = None
        self._receivers: list[Connection] = []
        self._tried = 0
        self._blob = b""
        self._blob_messages = 0
        self._pages: Pages | None = None
        self._replies: list[Connection] = []
        self._judged_at = 0.0
        self._struggling = 0

    def __len__(self) -> int:
        return len(self._live) + len(self._late) + len(self._early)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._live or connection in self._late or connection in self._early

    def is_live(self, connection: Connection) -> bool:
        """True for a client that has been sent everything."""
        return connection in self._live

    @property
    def idle(self) -> bool:
        """True when every client has been sent everything, except those that are late."""
        return self._todo is None and not self._pending

    @property
    def behind(self) -> bool:
        """True while more is pending than the next flush should have to carry: the hub can wait."""
        return self._pending_size > 2 * ENOUGH

    @property
    def between_flushes(self) -> bool:
        """True when no flush is under way: every client's place in the stream is known."""
        return self._todo is None

    @property
    def late(self) -> int:
        """How many clients are not where the stream is."""
        return len(self._late) + len(self._early)

    def join(self, connection: Connection) -> None:
        """Let a client take part from the stream's end on."""
        connection.cursor = LIVE
        self._live[connection] = connection.sock
        self._lists = None

    def resume(self, connection: Connection, place: Place) -> None:
        """Let a client go on from its place in the stream, the outbox that it brought first where it must."""
        cursor = self.stream.cursor_of(place)
        if cursor is Outside.AHEAD:
            connection.cursor = EARLY
            self._early[connection] = place
        elif cursor is Outside.FORGOTTEN or cursor < self.stream.oldest:
            self._on_gone(connection, None)
        elif cursor == self.stream.end and not connection.outbox:
            self.join(connection)
        else:
            self._go_on_late(connection, cursor, place.number)

    def _go_on_late(self, connection: Connection, cursor: int, messages: int) -> None:
        connection.cursor = connection.late_from = cursor
        connection.late_since = self._reactor.now
        connection.late_messages = messages
        self._late[connection] = None
        connection.also(self._reactor, WRITE)

    def complete(self, now: float, *, pending: bool = False) -> None:
        """Go on with the flush that is under way to its end, without a look at anything else; with
        ``pending``, send what waits for the next one too."""
        while self._todo is not None or (pending and self._pending):
            if self._todo is None:
                self._begin(now)
            self._send_slice(now)

    def owed(self, connection: Connection) -> bytes:
        """Return what a client is still to get of the stream, but for what is not in it yet."""
        if connection.cursor < 0:
            return b""
        return b"".join(self.stream.read_all(connection.cursor))

    def take_out(self, connection: Connection) -> Place:
        """Forget a client and return its place. Only between flushes."""
        assert self.between_flushes
        place = self._early.get(connection)
        if place is None:
            place = Place(self.stream.messages)
            if connection.cursor != LIVE:
                place = self.stream.place_of(connection.cursor)
                self.delivered += place.number - connection.late_messages
        self.leave(connection)
        return place

    def rest_of_frame(self, connection: Connection) -> bytes:
        """Return what is left of the frame that a client has been sent a part of, if it has."""
        return self.stream.rest_of_frame(connection.cursor) if connection.cursor >= 0 else b""

    def furthest_behind(self, connections: Iterable[Connection]) -> int:
        """Return how many frames of the stream all of these have got."""
        cursors = (each.cursor for each in connections if each.cursor >= 0)
        return self.stream.place_of(min(cursors, default=self.stream.end)).number

    def leave(self, connection: Connection) -> None:
        """Forget a client; what was under way to it is dropped."""
        if self._live.pop(connection, None) is not None:
            self._lists = None
        self._late.pop(connection, None)
        self._early.pop(connection, None)
        self._again.pop(connection, None)

    def publish(self, count: int, frames: bytes) -> None:
        """Take ``count`` messages for everybody; :meth:`work` sends them."""
        self._pending.append(frames)
        self._pending_size += len(frames)
        self._pending_messages += count

    def reply(self, connection: Connection, frames: bytes) -> None:
        """Send something to one client, after what it is being sent and before what it is not yet sent."""
        connection.put(frames)
        if connection.cursor != LIVE:
            return
        if self._todo is not None:
            self._replies.append(connection)
        else:
            self._send_outbox(connection)

    def due(self) -> float | None:
        """Return when :meth:`work` wants a call (seconds, monotonic): 0 for now, None for not at all."""
        if self._todo is not None or self._pending_size >= ENOUGH:
            return 0.0
        if self._pending:
            return self._flushed_at + self.coalesce
        return self._flushed_at + TRY_AGAIN if self._again else None

    def work(self, now: float) -> None:
        """Send a slice of what is pending: at once when the last flush is a while ago, else when due."""
        due = self.due()
        if due is None or due > now:
            return
        if self._todo is None:
            if not self._pending:
                self._wait_for_room()
                return
            self._begin(now)
        self._send_slice(now)

    def _begin(self, now: float) -> None:
        self._take_pending()
        oldest = self.stream.oldest if self._late else None
        self.stream.append(self._blob, self._blob_messages)
        if self._late and self.stream.oldest != oldest:
            self._cut_off_slow()
        if self._early:
            self._admit_early()
        if self._lists is None:
            self._lists = list(self._live), list(self._live.values())
        self._receivers, socks = self._lists
        self._tried = 0
        self._todo = self._sends(socks)
        if self._again:
            self._trying = iter(list(self._again))
            self._again.clear()

    def _take_pending(self) -> None:
        """Make a blob of what is pending: all of it, or as many whole frames as fit into :data:`ENOUGH`."""
        blob = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        count = self._pending_messages
        self._pending.clear()
        if len(blob) > ENOUGH:
            count, end = leading_frames(blob, ENOUGH)
            self._pending.append(blob[end:])
            blob = blob[:end]
        self._blob, self._blob_messages = blob, count
        self._pending_size -= len(blob)
        self._pending_messages -= count

    def _sends(self, socks: list[socket.socket]) -> Iterator[int]:
        """Return what sends the blob to the next client at each step."""
        size = len(self._blob)
        if size >= SHARED_SIZE and len(socks) >= SHARED_BY:
            with suppress(OSError, AttributeError):
                self._pages = Pages(self._blob)
                pages = repeat(self._pages.descriptor)
                return map(os.sendfile, map(_FILENO, socks), pages, repeat(0), repeat(size))
        return map(_SEND, socks, repeat(self._blob))

    def _send_slice(self, now: float) -> None:
        size = len(self._blob)
        first = self._tried
        sent = self._send_to_next(SLICE)
        whole = sent.count(size)
        self.delivered += whole * self._blob_messages
        if whole != len(sent):
            for connection, each in zip(islice(self._receivers, first, self._tried), sent, strict=True):
                if each not in (size, _FAILED):
                    self._fall_behind(connection, self.stream.end - size + each, now)
        if len(sent) < SLICE and self._try_again(SLICE - len(sent)):
            self._todo = None
            self._receivers = []
            self._blob = b""
            self._pages = None
            # From the flush's last slice, not its first: a worker that is busy sending gathers meanwhile.
            self._flushed_at = now
            if self._replies:
                self._send_replies()

    def _send_to_next(self, most: int) -> list[int]:
        """Send the blob to the next ``most`` receivers; returns how much of it the system took from each.

        One call for all that goes well: a loop here would touch three objects for each client, none of them
        in the processor's cache, and that costs more than what it does.
        """
        assert self._todo is not None
        sent: list[int] = []
        while True:
            try:
                sent.extend(islice(self._todo, most - len(sent)))
            except BlockingIOError:
                sent.append(0)
            except OSError as error:
                self._fail(self._receivers[self._tried + len(sent)], error)
                sent.append(_FAILED)
            else:
                self._tried += len(sent)
                return sent

    def _fall_behind(self, connection: Connection, cursor: int, now: float) -> None:
        if self._live.pop(connection, None) is None:
            return
        self._lists = None
        connection.cursor = connection.late_from = cursor
        connection.late_since = now
        connection.late_messages = self.stream.messages - self._blob_messages
        self._late[connection] = self._again[connection] = None

    def _try_again(self, most: int) -> bool:
        """Send late clients what they are owed by now; returns False if there are more than ``most``."""
        tried = 0
        for connection in islice(self._trying, most):
            tried += 1
            if connection not in self._late:
                continue
            if connection.outbox:  # its worker wants to see it leave: until then it is not read from
                connection.also(self._reactor, WRITE)
                continue
            before = connection.cursor
            self.on_writable(connection)
            if connection not in self._late:
                continue
            if connection.cursor != before:
                self._again[connection] = None
            else:
                connection.also(self._reactor, WRITE)
        return tried < most

    def _wait_for_room(self) -> None:
        """There is no next flush in a moment: let the system tell who can take more."""
        for connection in self._again:
            connection.also(self._reactor, WRITE)
        self._again.clear()

    def _fail(self, connection: Connection, error: OSError) -> None:
        if not connection.closed:
            self._on_gone(connection, error)

    def _cut_off_slow(self) -> None:
        oldest = self.stream.oldest
        for connection in [each for each in self._late if each.cursor < oldest]:
            self._on_gone(connection, None)

    def _admit_early(self) -> None:
        for connection, place in list(self._early.items()):
            cursor = self.stream.cursor_of(place)
            if not isinstance(cursor, Outside):
                del self._early[connection]
                self._go_on_late(connection, cursor, place.number)

    def _send_replies(self) -> None:
        replies, self._replies = self._replies, []
        for connection in replies:
            if connection.outbox and connection.cursor == LIVE and not connection.closed:
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
        connection.outbox = connection.outbox[sent:]
        if connection.outbox:
            self._fall_behind(connection, self.stream.end, self._reactor.now)
            connection.late_messages = self.stream.messages
        else:
            connection.outbox_open = False

    def on_writable(self, connection: Connection) -> None:
        """Go on with a late client: the begun reply, the stream, further replies, and then it is live."""
        try:
            if connection.outbox_open and not self._continue_outbox(connection):
                return
            if not self._catch_up(connection):
                return
            if connection.outbox and not self._continue_outbox(connection):
                return
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(connection, error)
            return
        self.delivered += self.stream.messages - connection.late_messages
        del self._late[connection]
        self._live[connection] = connection.sock
        self._lists = None
        connection.cursor = LIVE
        connection.no_longer(self._reactor, WRITE)

    @staticmethod
    def _continue_outbox(connection: Connection) -> bool:
        sent = connection.sock.send(connection.outbox)
        connection.outbox = connection.outbox[sent:]
        connection.outbox_open = bool(connection.outbox)
        return not connection.outbox

    def _catch_up(self, connection: Connection) -> bool:
        views = self.stream.read(connection.cursor, CATCH_UP)
        if views:
            connection.cursor += connection.sock.sendmsg(views)
        return connection.cursor == self.stream.end

    def struggling(self, now: float) -> int:
        """Return how many clients are far behind although they read fast; judged now and then."""
        if not self._late:
            return 0
        if now - self._judged_at >= JUDGE_EVERY:
            self._judged_at = now
            far = self.stream.end - self.stream.limit // 2
            self._struggling = sum(
                each.cursor < far and is_brisk(each.cursor - each.late_from, now - each.late_since)
                for each in self._late
            )
        return self._struggling
