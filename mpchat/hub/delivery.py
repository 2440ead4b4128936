"""Delivery: carries effects out: which worker gets what for which of its members, and when.

The state decides who is sent what; here is how a member is reached: by which worker, live or with a part of
the past still to come, or in transit between two workers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from mpchat.hub.effects import (
    Effect,
    End,
    Enter,
    Forget,
    ForgetHistory,
    ForgetRoom,
    Hold,
    Kick,
    Leave,
    NoticeInRoom,
    Order,
    Presence,
    RoomNumbered,
    Say,
    SayInRoom,
    Tell,
)
from mpchat.hub.endpoint import HEAD_COST, Endpoint
from mpchat.hub.entries import Left, WorkerDied, ended_identities
from mpchat.hub.history import Run
from mpchat.hub.plain_stream import PlainStream
from mpchat.hub.replay import LastPart, OvertakenError, Replay
from mpchat.hub.rooms import Rooms
from mpchat.ipc.items import Down
from mpchat.ipc.reasons import REPLACED
from mpchat.ipc.shares import STREAM_MEMORY, Memory
from mpchat.ipc.stream_buffer import Outside, Place, StreamBuffer

# Bytes of a blob in the stream of a room, which the room keeps beside its share: short messages become
# seventeen times as long with the names of sender and room. A frame has at most 65 537.
BLOB_SIZE = 66 << 10
# Bytes of the past that a member is sent at a time.
REPLAY_SIZE = 32 << 10
# A base that fits no identity: among hosts, that of a host which does not take part.
NOBODY = -1 << 80

log = logging.getLogger("mpchat.hub")


class Recipient:
    """How a connection that has asked to join is reached."""

    __slots__ = (
        "came_from",
        "ending",
        "endpoint",
        "hears",
        "identity",
        "live",
        "reason",
        "replay",
        "stream",
        "waiting",
    )

    def __init__(self, identity: int, endpoint: Endpoint) -> None:
        self.identity = identity
        # The worker that serves it, or None while it is in transit; then, the worker that it comes from.
        self.endpoint: Endpoint | None = endpoint
        self.came_from: Endpoint | None = None
        self.stream: RoomStream | None = None
        # The past that it is still to get before it is live.
        self.replay: Replay | None = None
        self.live = False
        # The room's stream and the worker that gets it for this connection. Set when the connection becomes
        # live. Cleared when it is live no more. In transit: when it arrives or ends, or when the old worker
        # dies.
        self.hears: tuple[RoomStream, Endpoint] | None = None
        # Frames for it alone that came while it was in transit.
        self.waiting: bytearray | None = None
        # True when the server is closing the connection, and why.
        self.ending = False
        self.reason = REPLACED


class RoomStream:
    """What members of one room get, for as long as the room is there."""

    __slots__ = ("buffer", "count", "endpoints", "frames", "recipients", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self.buffer = StreamBuffer(0)
        # How many connections here are in the room, live or not.
        self.recipients = 0
        # For how many connections each worker hears the room; only those workers are told.
        self.endpoints: Counter[Endpoint] = Counter()
        # Frames since the last flush.
        self.count = 0
        self.frames: list[bytes] = []


class Delivery:
    """Reaches members, and plain clients through the plain stream."""

    def __init__(self, rooms: Rooms, plain: PlainStream, lag_limit: int, answers_memory: int) -> None:
        """Set how many bytes may wait for one connection in transit, and for all of them together.

        ``lag_limit`` is also how many bytes a stream keeps.
        """
        self.lag_limit = lag_limit
        self.answers_memory = answers_memory
        self.endpoints: list[Endpoint] = []
        # Gets every run of messages that is numbered.
        self.on_run: Callable[[Run], None] | None = None
        # The same for the webhook; and members that enter rooms and leave them.
        self.on_said: Callable[[Run], None] | None = None
        self.on_presence: Callable[[Presence], None] | None = None
        # Gets the name and the last number of every room whose history is to be removed.
        self.on_forget: Callable[[str, int], None] | None = None
        # Gets the name of every new room whose numbers do not begin with 1, its last number, and the time.
        self.on_numbered: Callable[[str, int, float], None] | None = None
        # Connections that were found to be too slow since the hub looked last.
        self.too_slow: list[int] = []
        # What operators have asked for since the hub looked last.
        self.orders: list[Order] = []
        # By how much identities in effects exceed those of connections here; see ``hosts.global_identity``.
        self.base = 0
        # Gets a room whose senders must wait, or need wait no more, for another host.
        self.on_hold: Callable[[Hold], None] | None = None
        # Gets a connection, the number of its room, and the range that the room has forgotten before it was
        # sent; returns what the connection is told of that. None: it is cut off then.
        self.on_overtaken: Callable[[int, int, tuple[int, int]], bytes] | None = None
        # Gets a name, an address or a network whose connections are to be closed.
        self.on_kick: Callable[[str], None] | None = None
        # Whether such a target is another host's: this one has closed its own connections already.
        self.kicks = False
        self._rooms = rooms
        self._plain = plain
        self._recipients: dict[int, Recipient] = {}
        self._last_part = LastPart()
        # Connections in transit that frames wait for, and the bytes of all those.
        self._awaited: dict[Recipient, None] = {}
        self._waiting = 0
        self._streams: dict[int, RoomStream] = {}
        # What all streams take together. A member that is further behind than what its room's stream keeps is
        # cut off when it is moved.
        self._memory = Memory(STREAM_MEMORY)
        # Streams with something to send.
        self._stirred: dict[RoomStream, None] = {}
        self._carriers: dict[type, Callable[[Any], None]] = {
            Say: self._plain.post,  # an effect is such a pair
            SayInRoom: self._say_in_room,
            NoticeInRoom: self._notice_in_room,
            Tell: self._tell,
            Enter: self._enter,
            Leave: self._leave,
            End: self._end,
            Order: self._order,
            Hold: self._hold,
            Kick: self._kick,
            Forget: self._forget,
            ForgetRoom: self._forget_room,
            ForgetHistory: self._forget_history,
            RoomNumbered: self._room_numbered,
            Presence: self._presence,
        }

    @property
    def recipients(self) -> int:
        """Connections that have asked to join."""
        return len(self._recipients)

    @property
    def kept_of_all(self) -> int:
        """Bytes that are kept of all streams."""
        return self._memory.used + self._plain.buffer.size

    def recipients_in(self, room: int) -> int:
        """Return how many of them are in a room."""
        stream = self._streams.get(room)
        return stream.recipients if stream is not None else 0

    def reached(self, recipient: Recipient) -> int | None:
        """Return the last message of its room that a connection has been sent; None: that is not known."""
        stream, replay = recipient.stream, recipient.replay
        if stream is None or recipient.endpoint is None or stream.room not in self._rooms.by_number:
            return None
        if recipient.live:
            return self._rooms.by_number[stream.room].seq
        return replay.reached if replay is not None else None

    def use_rooms(self, rooms: Rooms) -> None:
        """Go on with other rooms: the state was replaced."""
        self._rooms = rooms
        self._last_part = LastPart()

    def forget_ended(self, ended: Left | WorkerDied) -> None:
        """Forget connections that have ended, without a place in the order."""
        for identity in ended_identities(ended):
            self._forget(Forget(identity + self.base))

    def recipient(self, identity: int) -> Recipient | None:
        """Return how a connection is reached, if it has asked to join."""
        return self._recipients.get(identity)

    def in_transit(self, identity: int) -> bool:
        """Tell whether a connection that has asked to join is between two workers."""
        recipient = self._recipients.get(identity)
        return recipient is not None and recipient.endpoint is None

    def kept_bytes(self, room: int) -> int:
        """Return the bytes that are kept of a room's stream."""
        stream = self._streams.get(room)
        return stream.buffer.size if stream is not None else 0

    def meet(self, identity: int, endpoint: Endpoint) -> None:
        """Remember by which worker a connection asks, if it asks for the first time."""
        if identity not in self._recipients:
            self._recipients[identity] = Recipient(identity, endpoint)

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Send what the effects say. What many get together goes out with :meth:`flush`."""
        carriers = self._carriers
        for effect in effects:
            carriers[type(effect)](effect)

    @property
    def has_news(self) -> bool:
        """True when the next flush sends something."""
        return bool(self._stirred) or self._plain.has_posts

    def flush(self) -> None:
        """Send what was said since the last flush. O(rooms in which something was said)."""
        self._plain.flush(self.endpoints)
        if not self._stirred:
            return
        stirred, self._stirred = self._stirred, {}
        limit, grown = self.lag_limit, 0
        for stream in stirred:
            frames = stream.frames[0] if len(stream.frames) == 1 else b"".join(stream.frames)
            count, buffer = stream.count, stream.buffer
            stream.count = 0
            stream.frames.clear()
            buffer.limit = limit
            grown += buffer.append_in_pieces(frames, count, BLOB_SIZE)
            for endpoint in stream.endpoints:
                endpoint.gathered.append((stream.room, count, frames))
        self._memory.used += grown
        for endpoint in self.endpoints:
            if endpoint.gathered:
                endpoint.send_rooms()
        if self._memory.is_over:
            self._keep_to_memory()

    def _keep_to_memory(self) -> None:
        """Forget the oldest parts of the streams that hold most."""
        buffers = [stream.buffer for stream in self._streams.values()]
        share = self._memory.share(each.size for each in buffers)
        for each in buffers:
            each.trim(share)
        self._memory.used = sum(each.size for each in buffers)

    # Effects.

    def _say_in_room(self, effect: SayInRoom) -> None:
        run = effect.run
        if self.on_run is not None:
            self.on_run(run)
        if self.on_said is not None:
            self.on_said(run)
        stream = self._streams.get(effect.room)
        if stream is not None and stream.recipients:
            self._add(stream, run.count, self._rooms.by_number[effect.room].numbered(run))

    def _notice_in_room(self, effect: NoticeInRoom) -> None:
        stream = self._streams.get(effect.room)
        if stream is not None and stream.recipients:
            self._add(stream, effect.notices, effect.frames)

    def _add(self, stream: RoomStream, count: int, frames: bytes) -> None:
        stream.count += count
        stream.frames.append(frames)
        self._stirred[stream] = None

    def _tell(self, effect: Tell) -> None:
        recipient = self._recipients.get(effect.identity - self.base)
        if recipient is not None:
            self.flush()
            self._send(recipient, effect.frames)

    def _send(self, recipient: Recipient, frames: bytes) -> None:
        if recipient.endpoint is not None:
            recipient.endpoint.send_frames(Down.TELL, recipient.identity, frames)
            return
        if recipient.waiting is None:
            recipient.waiting = bytearray()
        recipient.waiting += frames
        self._awaited[recipient] = None
        self._waiting += len(frames)
        if len(recipient.waiting) > self.lag_limit:
            self._cut_off(recipient)
        elif self._waiting > self.answers_memory:  # few are in transit at a time: see ``supervisor.move_out``
            self._cut_off(max(self._awaited, key=lambda each: len(each.waiting or b"")))

    def _take_waiting(self, recipient: Recipient) -> bytes:
        """Return what waits for a connection in transit, and keep it no longer."""
        waiting, recipient.waiting = bytes(recipient.waiting or b""), None
        self._awaited.pop(recipient, None)
        self._waiting -= len(waiting)
        return waiting

    def _cut_off(self, recipient: Recipient) -> None:
        self._take_waiting(recipient)
        recipient.replay = None
        self.too_slow.append(recipient.identity)

    def _enter(self, effect: Enter) -> None:
        recipient = self._recipients.get(effect.identity - self.base)
        if recipient is None:  # it is with another host
            return
        self.flush()
        stream = self._streams.get(effect.room)
        if stream is None:
            stream = self._streams[effect.room] = RoomStream(effect.room)
        if recipient.stream is None:
            recipient.stream = stream
            stream.recipients += 1
        elif recipient.live:  # it has asked for the past of its own room
            self._not_live(recipient)
        room, buffer = self._rooms.by_number[effect.room], stream.buffer
        recipient.replay = Replay(room, buffer, effect.first, effect.last, buffer.end, self._last_part)
        self._replay(recipient, effect.frames)

    def _replay(self, recipient: Recipient, frames: bytes) -> None:
        """Send ``frames`` and the next part of the past; after the last part the member is live."""
        replay, stream = recipient.replay, recipient.stream
        assert replay is not None
        assert stream is not None
        if recipient.endpoint is None:  # it broke while it was to be moved, and has still asked for something
            self._send(recipient, frames)
            return
        if stream in self._stirred:
            self.flush()
        try:
            frames += self._next_part(recipient, replay)
        except OvertakenError:
            self._cut_off(recipient)
            return
        live = replay.done
        head = (recipient.identity, stream.room, stream.buffer.messages, live)
        if live:
            recipient.live, recipient.replay = True, None
            recipient.hears = stream, recipient.endpoint
            stream.endpoints[recipient.endpoint] += 1
        recipient.endpoint.send_frames(Down.ENTER, head, frames, HEAD_COST)

    def _next_part(self, recipient: Recipient, replay: Replay) -> bytes:
        try:
            return replay.chunk(REPLAY_SIZE)
        except OvertakenError:
            lost = replay.skip()
            if self.on_overtaken is None or lost is None or recipient.stream is None:
                raise
            told = self.on_overtaken(recipient.identity, recipient.stream.room, lost)
            if not told:
                raise
            return told + replay.chunk(REPLAY_SIZE)

    def _not_live(self, recipient: Recipient) -> None:
        recipient.live = False
        if recipient.endpoint is not None:
            self._hear_no_more(recipient)

    def _hear_no_more(self, recipient: Recipient) -> None:
        if recipient.hears is None:
            return
        (stream, endpoint), recipient.hears = recipient.hears, None
        stream.endpoints[endpoint] -= 1
        if not stream.endpoints[endpoint]:
            del stream.endpoints[endpoint]

    def _leave(self, effect: Leave) -> None:
        recipient = self._recipients.get(effect.identity - self.base)
        if recipient is not None:
            self._stop_hearing(recipient)

    def tell_all(self, frames: bytes) -> None:
        """Send frames to each connection that is in a room."""
        self.flush()
        for recipient in self._recipients.values():
            if recipient.stream is not None:
                self._send(recipient, frames)

    def leave_all(self) -> None:
        """Let no connection hear any room: what follows may be another history.

        Workers have the connections in their rooms still, so the streams of these keep their places.
        """
        self._streams = {number: each for number, each in self._streams.items() if each.recipients}
        for recipient in self._recipients.values():
            self._stop_hearing(recipient)

    def _stop_hearing(self, recipient: Recipient) -> None:
        if recipient.stream is None:
            return
        stream = recipient.stream
        if stream in self._stirred:  # what was said before is for it too
            self.flush()
        if recipient.live:
            self._not_live(recipient)
        recipient.replay = recipient.stream = None
        stream.recipients -= 1
        if not stream.recipients:  # no connection is owed anything of it
            self._stirred.pop(stream, None)
            stream.count, stream.frames = 0, []
            self._memory.used -= stream.buffer.size
            stream.buffer.forget()

    def _end(self, effect: End) -> None:
        recipient = self._recipients.get(effect.identity - self.base)
        if recipient is not None:
            self.flush()
            recipient.ending, recipient.reason = True, effect.reason
            if recipient.endpoint is not None:
                recipient.endpoint.send(Down.END, (recipient.identity, effect.reason))

    def _forget(self, effect: Forget) -> None:
        recipient = self._recipients.pop(effect.identity - self.base, None)
        if recipient is not None:
            self._take_waiting(recipient)
            self._hear_no_more(recipient)

    def _order(self, effect: Order) -> None:
        identity = effect.identity - self.base
        if identity in self._recipients:
            self.orders.append(effect._replace(identity=identity))

    def _hold(self, effect: Hold) -> None:
        if self.on_hold is not None:
            self.on_hold(effect)

    def _kick(self, effect: Kick) -> None:
        if self.on_kick is not None and (self.kicks or effect.lasts):
            self.on_kick(effect.target)

    def _forget_room(self, effect: ForgetRoom) -> None:
        self._streams.pop(effect.room, None)

    def _forget_history(self, effect: ForgetHistory) -> None:
        if self.on_forget is not None:
            self.on_forget(*effect)

    def _room_numbered(self, effect: RoomNumbered) -> None:
        if self.on_numbered is not None:
            self.on_numbered(*effect)

    def _presence(self, effect: Presence) -> None:
        if self.on_presence is not None:
            self.on_presence(effect)

    # What workers say about members.

    def replay_more(self, identity: int, endpoint: Endpoint) -> None:
        """Send a member the next part of the past: it has read the part before."""
        recipient = self._recipients.get(identity)
        if recipient is not None and recipient.replay is not None and recipient.endpoint is endpoint:
            self._replay(recipient, b"")

    def depart(self, identity: int) -> None:
        """A worker is about to let a connection go, and has all that was sent until now.

        The worker goes on hearing the room, even if the member leaves it meanwhile: until the connection has
        gone it holds the room's stream, which members that enter there continue with.
        """
        recipient = self._recipients.get(identity)
        if recipient is not None and recipient.endpoint is not None:
            recipient.came_from, recipient.endpoint = recipient.endpoint, None

    def arrive(self, identity: int, endpoint: Endpoint) -> None:
        """A connection is at a worker, the next one or the same."""
        recipient = self._recipients.get(identity)
        if recipient is None:
            return
        if recipient.ending:
            self._hear_no_more(recipient)
            recipient.endpoint = endpoint
        elif recipient.endpoint is None:
            recipient.live = False
            self._hear_no_more(recipient)
            recipient.endpoint, recipient.came_from = endpoint, None
            if waiting := self._take_waiting(recipient):
                self._send(recipient, waiting)

    def follow(self, endpoint: Endpoint, identity: int, room: int, number: int) -> None:
        """Continue with a connection that was moved, from message ``number`` of its room on."""
        self.flush()
        self.arrive(identity, endpoint)
        recipient = self._recipients.get(identity)
        if recipient is None:
            endpoint.send(Down.END, (identity, REPLACED))
            return
        if recipient.ending:
            if waiting := self._take_waiting(recipient):  # it is told why
                self._send(recipient, waiting)
            endpoint.send(Down.END, (identity, recipient.reason))
            return
        stream = recipient.stream
        if stream is None:
            return
        if stream.room == room:
            recipient.replay = self._rest_of_stream(stream, number)
        if recipient.replay is not None:
            self._replay(recipient, b"")

    def _rest_of_stream(self, stream: RoomStream, number: int) -> Replay:
        cursor = stream.buffer.cursor_of(Place(number))
        # A forgotten place counts as one before the start: the replay finds that it was overtaken.
        begin = -1 if isinstance(cursor, Outside) else cursor
        return Replay(self._rooms.by_number[stream.room], stream.buffer, 1, 0, begin, self._last_part)

    def worker_died(self, endpoint: Endpoint, in_transit: set[int]) -> list[int]:
        """Forget a worker; return the connections that have ended with it, not those ``in_transit``."""
        lost = []
        for recipient in self._recipients.values():
            if endpoint not in (recipient.endpoint, recipient.came_from):
                continue
            recipient.live = False
            self._hear_no_more(recipient)
            if recipient.identity not in in_transit:
                lost.append(recipient.identity)
            elif recipient.endpoint is endpoint:  # it had said that the connection follows, and not acked it
                recipient.endpoint, recipient.came_from = None, endpoint
        return lost
