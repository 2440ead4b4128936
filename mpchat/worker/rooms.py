"""Rooms: the streams that clients here read: that of plain clients, and those of members' rooms.

A stream belongs to a room and a framing. The hub decides what is in it and when a client goes from one to
another; this only keeps the fan-outs and lets them work.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mpchat.config import Config
from mpchat.ipc.items import PLAIN
from mpchat.ipc.shares import FREED, STREAM_MEMORY, Memory
from mpchat.ipc.stream_buffer import Outside, Place, StreamBuffer
from mpchat.protocol.framing import PLAIN_FRAMING, Framing
from mpchat.reactor import Reactor
from mpchat.worker.connection import Connection
from mpchat.worker.counters import Counters
from mpchat.worker.fanout import Fanout, Keeper
from mpchat.worker.post_timing import gather_time

# Bytes that may be pending in one room, what was on its way when its senders were told to wait, and in all
# together. With more the hub must wait, and everybody with it.
SWAMPED = 1 << 20
SWAMPED_TOGETHER = 4 << 20
# First offset of a plain stream in another framing: leaves room for older frames in front.
FAR = 1 << 40
# Instead of a room's number: none.
ASIDE = -1


class Strain(NamedTuple):
    """How far a room is too fast."""

    # For this worker.
    behind: bool
    # For clients here: how many are far behind although they read fast.
    struggling: int


EASY = Strain(behind=False, struggling=0)


class Rooms:
    """The fan-outs of a worker."""

    def __init__(self, config: Config, reactor: Reactor, counters: Counters, keeper: Keeper) -> None:
        """Begin with the stream of plain clients; ``keeper`` is told of clients that cannot be sent to."""
        self._lag_limit = config.lag_limit
        self._coalesce = config.coalesce - gather_time(config.coalesce)
        self._reactor = reactor
        self._counters = counters
        self._outboxes = keeper.outboxes
        self._keeper = keeper
        self.plain = self._make_fanout(PLAIN, PLAIN_FRAMING, counters)
        # The same stream in other framings; only those that a client here reads.
        self._plain_too: dict[Framing, Fanout] = {}
        # Where members are that are not live in a room: nothing is ever said here, so nobody is late.
        self.aside = self._make_fanout(ASIDE, PLAIN_FRAMING, Counters())
        # In a closed chat a client that comes hears nothing.
        self._closed = config.auth == "closed"
        # The rooms that members here are live in: for each a fan-out by framing.
        self.by_number: dict[int, dict[Framing, Fanout]] = {}
        # What the streams of these take together, and what each of them takes that takes something.
        self._memory = Memory(STREAM_MEMORY)
        self._kept: dict[Fanout, int] = {}
        # How much each may keep of its stream: less than the lag limit while memory is short. And with how
        # much memory in use they are cut down next.
        self._share = self._lag_limit
        self._cut_at = self._memory.limit
        # Fan-outs but the plain one that have something to send.
        self.busy: dict[Fanout, None] = {}

    def _make_fanout(self, number: int, framing: Framing, counters: Counters) -> Fanout:
        return Fanout(
            self._reactor,
            StreamBuffer(self._lag_limit, framing),
            coalesce=self._coalesce,
            keeper=self._keeper,
            counters=counters,
            number=number,
        )

    def _all(self) -> Iterator[Fanout]:
        yield self.plain
        yield from self._plain_too.values()
        yield self.aside
        for room in self.by_number.values():
            yield from room.values()

    def fanout_of(self, connection: Connection) -> Fanout:
        """Return the fan-out that a connection is served by."""
        assert isinstance(connection.fanout, Fanout)
        return connection.fanout

    @property
    def all_sent(self) -> bool:
        """True when every client has been sent everything."""
        return all(each.idle and not each.late for each in self._all())

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept of all streams here."""
        return self._memory.used + self.plain.stream.size

    # The loop's part.

    def work(self, now: float) -> None:
        """Send what is due."""
        self.plain.work(now)
        if self.busy:
            self._work_in_rooms(now)

    def _work_in_rooms(self, now: float) -> None:
        share = self._share
        for room in list(self.busy):
            if room.send_all(now):
                self.busy.pop(room, None)
                if room in self._kept:
                    self._note_kept(room)
                continue
            room.stream.limit = share
            room.work(now)
            self._forget_needless(room)
            if room.at_rest:
                self.busy.pop(room, None)
        if self._memory.used > self._cut_at:
            self._keep_to_memory()

    def _forget_needless(self, room: Fanout) -> None:
        """Forget what no client of a room needs: only those that are late need anything.

        Of the plain stream, clients to come need something too; they get it from the plain frames.
        """
        if room.needs_nothing_past:
            room.stream.forget()
            if room not in self._kept:
                return
        self._note_kept(room)

    def _note_kept(self, room: Fanout) -> None:
        # A room that its last member has just left is forgotten as soon as that member has ended.
        size = room.stream.size if len(room) else 0
        self._memory.used += size - self._kept.pop(room, 0)
        if size:
            self._kept[room] = size

    def _keep_to_memory(self) -> None:
        """Cut down the streams that take most. Those that are being sent are cut down another time."""
        share = self._share = self._memory.share(self._kept.values())
        for room in [each for each, size in self._kept.items() if size > share and each.between_flushes]:
            room.trim(share)
            if room in self._kept:
                self._note_kept(room)
        self._cut_at = max(self._memory.limit, self._memory.used + self._memory.limit // FREED)

    def widen_share(self) -> None:
        """Let each room keep as much as the lag limit again, if memory is not short any more."""
        if self._memory.used <= self._memory.limit // 2:
            self._share, self._cut_at = self._lag_limit, self._memory.limit

    def due(self) -> float | None:
        """Return when :meth:`work` wants a call (seconds, monotonic): 0 for now, None for not at all."""
        due = self.plain.due()
        if self.busy:
            dues = [each for room in self.busy if (each := room.due()) is not None]
            return min(dues if due is None else [*dues, due], default=due)
        return due

    def strains(self, now: float) -> dict[int, Strain]:
        """Return the rooms that are too fast for this worker or for clients here."""
        strains: dict[int, Strain] = {}
        for fanout in (self.plain, *self.busy):
            if fanout.at_ease:
                continue
            behind, far = fanout.judge_behind(), fanout.struggling(now)
            if behind or far:
                before = strains.get(fanout.number, EASY)
                strains[fanout.number] = Strain(before.behind or behind, before.struggling + far)
        return strains

    @property
    def swamped(self) -> bool:
        """True when the hub is to be kept waiting: to let the senders of rooms wait was not enough.

        Only for the worker's own sake. Clients that cannot keep up make the senders of their own room wait,
        and nobody else.
        """
        pending = [each.pending for each in (self.plain, *self.busy)]
        return max(pending) > SWAMPED or sum(pending) > SWAMPED_TOGETHER

    # What the hub says.

    def publish_plain(self, count: int, frames: bytes) -> None:
        """Take what plain clients get."""
        self.plain.publish(count, frames)
        for fanout in self._plain_too.values():
            fanout.publish(count, frames)
            self.busy[fanout] = None

    def publish(self, head: list[tuple[int, int, int]], frames: bytes) -> None:
        """Take what members' rooms say: for each its number, how many frames, and how many bytes."""
        position = 0
        for number, count, size in head:
            room = self.by_number.get(number)
            if room is not None:  # else the last of its members here has just gone
                for fanout in room.values():
                    fanout.publish(count, frames[position : position + size])
                    self.busy[fanout] = None
            position += size

    def enter(self, connection: Connection, frames: bytes, room_number: int, place: Place | None) -> None:
        """Let a client read another stream, after what it is owed of the one before and ``frames``.

        ``place`` is where in the room's stream it goes on; without one the client waits aside.
        """
        before = self.fanout_of(connection)
        before.complete(self._reactor.now, pending=True)
        if connection.closed or connection not in before:
            return
        box, most = connection.outbox, min(self._lag_limit, self._outboxes.limit)
        if before.owed_size(connection) + len(box) > most:  # it has asked for the past again and again
            self._keeper.lost(connection, None)
            return
        owed = before.owed(connection)
        got = before.take_out(connection)
        self.forget_if_empty(before)
        if owed:
            self._counters.delivered += before.stream.messages - got.number
            self._outboxes.set(connection, box + owed if connection.outbox_open else owed + box)
        framing = connection.dialect.framing
        self._outboxes.put(connection, framing.encode(frames))
        if place is None:
            self.put_aside(connection)
            return
        room = self.by_number.setdefault(room_number, {})
        fanout = room.get(framing)
        if fanout is None:
            fanout = room[framing] = self._make_fanout(room_number, framing, self._counters)
            fanout.stream.begin(place.number)
        self._go_to(connection, fanout, place)

    def reply(self, connection: Connection, frames: bytes) -> None:
        """Send plain ``frames`` to one client alone, in its dialect."""
        self.send(connection, connection.dialect.framing.encode(frames))

    def send(self, connection: Connection, data: bytes, *, in_order: bool = False) -> None:
        """Send bytes of its dialect to one client alone; ``in_order``: after what was said before."""
        fanout = self.fanout_of(connection)
        fanout.reply(connection, data, in_order=in_order)
        if fanout is not self.plain:
            self.busy[fanout] = None

    # Clients that come and go.

    def join_plain(self, connection: Connection) -> None:
        """Let a fresh connection take part in the stream of plain clients."""
        fanout = self.aside if self._closed else self._plain_in(connection.dialect.framing)
        connection.fanout = fanout
        fanout.join(connection)

    def wait_plain(self, connection: Connection, place: Place | None = None) -> None:
        """Keep a connection's place in the stream of plain clients, and send it nothing yet."""
        connection.fanout = fanout = self.aside if self._closed else self.plain
        fanout.wait(connection, None if self._closed else place)

    def begin_plain(self, connection: Connection) -> None:
        """Send a connection that waits what there is from its place on."""
        self.fanout_of(connection).begin(connection)

    def was_sent_nothing(self, connection: Connection) -> bool:
        """True for a connection that has been sent nothing since it came."""
        return self.fanout_of(connection).has_sent_nothing(connection)

    def resume_plain(self, connection: Connection, place: Place) -> None:
        """Let a moved connection go on in the stream of plain clients.

        If the chat is closed by now, it gets the rest of the frame that it is in, and no more.
        """
        if self._closed and not place.byte:
            self.put_aside(connection)
            return
        connection.fanout = fanout = self._plain_in(connection.dialect.framing)
        if fanout is not self.plain and fanout.stream.cursor_of(place) is Outside.FORGOTTEN:
            self._complete_plain()
            fanout.stream.put_before(self.plain.stream, place.number)
        fanout.resume(connection, place)
        if fanout is not self.plain:
            self._note_kept(fanout)
        if self._closed and not connection.closed:
            self.set_apart(connection)

    def _plain_in(self, framing: Framing) -> Fanout:
        """Return the plain stream's fan-out in a framing; a new one has none of the past."""
        if framing is PLAIN_FRAMING:
            return self.plain
        fanout = self._plain_too.get(framing)
        if fanout is None:
            self._complete_plain()
            fanout = self._plain_too[framing] = self._make_fanout(PLAIN, framing, self._counters)
            fanout.stream.begin(self.plain.stream.messages, FAR)
        return fanout

    def _complete_plain(self) -> None:
        self.plain.complete(self._reactor.now, pending=True)

    def upgrade_plain(self, connection: Connection, answer: bytes) -> None:
        """Let a client go on in the stream of plain clients in another framing, after ``answer``."""
        self._outboxes.put(connection, answer)
        if self._closed:
            self.put_aside(connection)
        else:
            self.enter_plain(connection)

    def enter_plain(self, connection: Connection) -> None:
        """Let a client that reads no stream go on with that of plain clients, from its end on."""
        fanout = self._plain_in(connection.dialect.framing)
        self._go_to(connection, fanout, Place(fanout.stream.messages))

    def put_aside(self, connection: Connection) -> None:
        """Let a client get what is in its outbox, and nothing else until the hub says what."""
        self._go_to(connection, self.aside, Place(0))

    def set_apart(self, connection: Connection) -> None:
        """Let a client get the rest of the frame that it is being sent and what is in its outbox; no more.

        A client that came here with a part of a frame whose rest has not come yet is forgotten instead:
        nothing else may be sent to it.
        """
        fanout = self.fanout_of(connection)
        if fanout is self.aside:
            return
        fanout.complete_for(connection, self._reactor.now)
        if connection in fanout:
            self._finish_frame_first(connection, fanout)
            place = fanout.take_out(connection)
            self.forget_if_empty(fanout)
            if not place.byte:
                self.put_aside(connection)

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
        if fanout.number != PLAIN:
            self._finish_frame_first(connection, fanout)
        place = fanout.take_out(connection)
        self.forget_if_empty(fanout)
        return fanout.number, place

    def _finish_frame_first(self, connection: Connection, room: Fanout) -> None:
        """Put the rest of a frame that a member has been sent a part of in front of its outbox.

        The next worker hears of the room later than it is asked to send the member something for it alone,
        and that must not get into the middle of a frame. No frame of a stream is begun while a part of the
        outbox has gone.
        """
        if rest := room.rest_of_frame(connection):
            connection.cursor += len(rest)
            self._outboxes.set(connection, rest + connection.outbox)
            connection.outbox_open = True

    def leave(self, connection: Connection) -> None:
        """Forget a client that has ended, or that nothing can be sent to any more."""
        fanout = self.fanout_of(connection)
        fanout.leave(connection)
        self.forget_if_empty(fanout)

    def forget_if_empty(self, room: Fanout) -> None:
        """Forget a room that no client here reads."""
        # A client that cannot be sent anything any more may be read from longer than its room is here.
        framing = room.stream.framing
        fanouts = self._plain_too if room.number == PLAIN else self.by_number.get(room.number, {})
        if fanouts.get(framing) is not room or len(room):
            return
        del fanouts[framing]
        self.busy.pop(room, None)
        self._memory.used -= self._kept.pop(room, 0)
        if not fanouts:
            self.by_number.pop(room.number, None)

    def furthest_behind(self, connections: Iterable[Connection]) -> int:
        """Return how many frames of the plain stream all plain clients among these have got."""
        chosen = list(connections)
        return min(
            fanout.furthest_behind(each for each in chosen if each.fanout is fanout)
            for fanout in (self.plain, *self._plain_too.values())
        )

    def rest_of_frame(self, connection: Connection) -> int:
        """Return how many bytes a member takes along of a frame that it has been sent a part of."""
        fanout = self.fanout_of(connection)
        return len(fanout.rest_of_frame(connection)) if fanout.number != PLAIN else 0
