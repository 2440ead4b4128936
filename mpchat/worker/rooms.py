"""Rooms: the streams that clients here read: that of plain clients, and those of members' rooms.

A stream belongs to a room and a framing. The hub decides what is in it and when a client goes from one to
another; this only keeps the fan-outs and lets them work.
"""

from collections.abc import Iterable

from mpchat.config import Config
from mpchat.ipc.stream_buffer import Place
from mpchat.reactor import Reactor
from mpchat.worker.connection import Connection
from mpchat.worker.counters import Counters
from mpchat.worker.fanout import Fanout, Keeper
from mpchat.worker.pacing import gather_time, must_hold

# Instead of a room's number: the stream of plain clients, and none.
PLAIN, ASIDE = 0, -1


class Rooms:
    """The fan-outs of a worker."""

    def __init__(self, config: Config, reactor: Reactor, counters: Counters, keeper: Keeper) -> None:
        """Begin with the stream of plain clients; ``keeper`` is told of clients that cannot be sent to."""
        self._lag_limit = config.lag_limit
        self._coalesce = config.coalesce - gather_time(config.coalesce)
        self._reactor = reactor
        self._counters = counters
        self._keeper = keeper
        self.plain = self._make_fanout(PLAIN)
        # Where members are that are not live in a room: nothing is ever said here.
        self.aside = self._make_fanout(ASIDE)
        # The rooms that members here are live in, and those of them that have something to send.
        self.by_number: dict[int, Fanout] = {}
        self.busy: dict[Fanout, None] = {}

    def _make_fanout(self, number: int) -> Fanout:
        return Fanout(
            self._reactor,
            lag_limit=self._lag_limit,
            coalesce=self._coalesce,
            keeper=self._keeper,
            counters=self._counters,
            number=number,
        )

    def fanout_of(self, connection: Connection) -> Fanout:
        """Return the fan-out that a connection is served by."""
        assert isinstance(connection.fanout, Fanout)
        return connection.fanout

    @property
    def late(self) -> int:
        """How many clients are not where their stream is."""
        return sum(each.late for each in (self.plain, *self.by_number.values()))

    @property
    def all_sent(self) -> bool:
        """True when every client has been sent everything."""
        fanouts = (self.plain, self.aside, *self.by_number.values())
        return all(each.idle and not each.late for each in fanouts)

    # The loop's part.

    def work(self, now: float) -> None:
        """Send what is due."""
        self.plain.work(now)
        if self.busy:
            self._work_in_rooms(now)

    def _work_in_rooms(self, now: float) -> None:
        for room in list(self.busy):
            room.work(now)
            if not room.late and room.between_flushes:  # else a client still has to be sent of it
                room.stream.forget()
            if room.due() is None:
                self.busy.pop(room, None)

    def due(self) -> float | None:
        """Return when :meth:`work` wants a call (seconds, monotonic): 0 for now, None for not at all."""
        due = self.plain.due()
        if self.busy:
            dues = [each for room in self.busy if (each := room.due()) is not None]
            return min(dues if due is None else [*dues, due], default=due)
        return due

    def must_hold(self, now: float, connections: int) -> bool:
        """Tell whether the hub is to be kept waiting because most of all clients are not able to keep up.

        Most of all ``connections``, not of a room's: a room of two must not hold everybody up.
        """
        struggling = self.plain.struggling(now)
        if self.plain.behind:
            return True
        for room in self.busy:
            struggling += room.struggling(now)
            if room.behind:
                return True
        return struggling > 0 and must_hold(struggling, connections)

    # What the hub says.

    def publish(self, head: list[tuple[int, int, int]], frames: bytes) -> None:
        """Take what members' rooms say: for each its number, how many frames, and how many bytes."""
        position = 0
        for number, count, size in head:
            room = self.by_number.get(number)
            if room is not None:  # else the last of its members here has just gone
                room.publish(count, frames[position : position + size])
                self.busy[room] = None
            position += size

    def enter(self, connection: Connection, frames: bytes, room_number: int, place: Place | None) -> None:
        """Let a client read another stream, after what it is owed of the one before and ``frames``.

        ``place`` is where in the room's stream it goes on; without one the client waits aside.
        """
        before = self.fanout_of(connection)
        before.complete(self._reactor.now, pending=True)
        if connection.closed or connection not in before:
            return
        owed, box = before.owed(connection), connection.outbox
        if len(owed) + len(box) > self._lag_limit:  # it has asked for the past again and again
            self._keeper.lost(connection, None)
            return
        got = before.take_out(connection)
        self.forget_if_empty(before)
        if owed:
            self._counters.delivered += before.stream.messages - got.number
            connection.outbox = box + owed if connection.outbox_open else owed + box
        connection.put(frames)
        if place is None:
            self.put_aside(connection)
            return
        room = self.by_number.get(room_number)
        if room is None:
            room = self.by_number[room_number] = self._make_fanout(room_number)
            room.stream.begin(place.number)
        self._go_to(connection, room, place)

    def reply(self, connection: Connection, frames: bytes) -> None:
        """Send something to one client alone."""
        fanout = self.fanout_of(connection)
        fanout.reply(connection, frames)
        if fanout is not self.plain:
            self.busy[fanout] = None

    # Clients that come and go.

    def join_plain(self, connection: Connection) -> None:
        """Let a fresh connection take part in the stream of plain clients."""
        connection.fanout = self.plain
        self.plain.join(connection)

    def resume_plain(self, connection: Connection, place: Place) -> None:
        """Let a moved connection go on in the stream of plain clients."""
        connection.fanout = self.plain
        self.plain.resume(connection, place)

    def put_aside(self, connection: Connection) -> None:
        """Let a client get what is in its outbox, and nothing else until the hub says what."""
        self._go_to(connection, self.aside, Place(0))

    @staticmethod
    def _go_to(connection: Connection, room: Fanout, place: Place) -> None:
        """Let a client get what is in its outbox, and go on in ``room`` from ``place``."""
        connection.fanout = room
        connection.outbox_open = bool(connection.outbox)
        room.resume(connection, place)

    def take_out(self, connection: Connection) -> tuple[int, Place]:
        """Take a client out of its stream; returns the room's number and the client's place in the stream."""
        fanout = self.fanout_of(connection)
        fanout.complete(self._reactor.now)
        if fanout is not self.plain:
            _finish_frame_first(connection, fanout)
        place = fanout.take_out(connection)
        self.forget_if_empty(fanout)
        return fanout.number, place

    def leave(self, connection: Connection) -> None:
        """Forget a client that has ended."""
        fanout = self.fanout_of(connection)
        fanout.leave(connection)
        self.forget_if_empty(fanout)

    def forget_if_empty(self, room: Fanout) -> None:
        """Forget a room that no client here reads."""
        # A client that cannot be sent anything any more may be read from longer than its room is here.
        if self.by_number.get(room.number) is room and not len(room):
            del self.by_number[room.number]
            self.busy.pop(room, None)

    def furthest_behind(self, connections: Iterable[Connection]) -> int:
        """Return how many frames of the plain stream all plain clients among these have got."""
        return self.plain.furthest_behind(each for each in connections if each.fanout is self.plain)

    def rest_of_frame(self, connection: Connection) -> int:
        """Return how many bytes a member takes along of a frame that it has been sent a part of."""
        fanout = self.fanout_of(connection)
        return len(fanout.rest_of_frame(connection)) if fanout is not self.plain else 0


def _finish_frame_first(connection: Connection, room: Fanout) -> None:
    """Put the rest of a frame that a member has been sent a part of in front of its outbox.

    The next worker hears of the room later than it is asked to send the member something for it alone, and
    that must not get into the middle of a frame. No frame of a stream is begun while a part of the outbox has
    gone.
    """
    if rest := room.rest_of_frame(connection):
        connection.cursor += len(rest)
        connection.outbox = rest + connection.outbox
        connection.outbox_open = True
