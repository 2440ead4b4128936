"""Hub: takes posts from all workers, gives them one order, and sends every worker the same.

It runs in the supervisor's loop. Its counterpart in a worker is that worker's end of the :class:`Link`.
Nothing here grows: what a worker may have on its way up is bounded by its window, and while any worker's
backlog on the way down is full, nothing more is taken from anybody.

The hub keeps the stream too. A worker that comes later is filled with it before it serves anybody, so that
clients which are behind can be moved to it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from typing import Any

from ..errors import ProtocolError
from ..protocol.messages import error_frame, message_frame
from ..protocol.requests import as_said_by, decode_request
from .channel import ITEM_SIZE, Item, Link
from .people import INTERNAL_ERROR, MUTED, SLOW, Limits, People, Person
from .room import Room
from .rooms import NamedRoom, OvertakenError, Replay
from .stream import Stream
from .wire import Down, Up

# Bytes that may wait for a worker that is busy but moves: more would only be delay, for everybody.
PROMPT_BACKLOG = 128 << 10
# A worker that has acknowledged nothing for this long (seconds) is stuck, not busy: the others go on without
# it, as far as the backlog's limit allows, until it moves again or is found to hang.
STUCK_AFTER = 1.0
# The part of the stream's limit by which the room goes on while connections are between two workers: they get
# nothing meanwhile, and nobody may be taken for slow because of that. Somebody who was more than half a limit
# behind before gets less: he would fall out of the stream.
GOES_ON = 4
# Bytes of the stream that a new worker is sent at a time.
FILL_SIZE = 30 << 10
# Bytes of the past that somebody who enters a room is sent at a time.
REPLAY_SIZE = 32 << 10
# Bytes of an announcement: room, number and time must still fit into a member's frame.
ANNOUNCEMENT_LIMIT = 65_000
# What an entry of a head takes, in bytes: three numbers, or an address and two.
HEAD_COST = 40
# What a worker says that does not wait for its place behind posts.
NEWS = frozenset({Up.BEAT, Up.READY, Up.KICKED})

log = logging.getLogger("mpchat.hub")


class Port:
    """The hub's end of one worker's channel.

    A worker may die at any moment. Sending to a dead one does nothing: its death is dealt with where it is
    noticed, after all that it had written was read, up to ``ended``.
    """

    def __init__(self, slot: int, link: Link) -> None:
        self.slot = slot
        self.link = link
        # Before it is ready a worker has no clients, so it need not hear, and must not hold up, anything.
        self.ready = False
        # Up to where in the stream it was filled; None when it is not being filled.
        self.filled: int | None = None
        self.ended = False
        # What its members get at the end of this turn: room, count, frames.
        self.rooms: list[tuple[int, int, bytes]] = []
        # When it last acknowledged something (seconds, monotonic), and how much it had acknowledged then.
        self.progress_at = 0.0
        self._progress = 0

    def send(self, kind: int, payload: Any = None) -> None:
        with suppress(OSError):
            self.link.send(kind, payload)

    def send_now(self, kind: int, payload: Any = None) -> None:
        with suppress(OSError):
            self.link.send_now(kind, payload)

    # These two come with every batch: suppress() would be three further calls in a process just woken.

    def send_frames(self, kind: int, head: Any, frames: bytes, head_size: int = 0) -> None:
        try:  # noqa: SIM105
            self.link.send_frames(kind, head, frames, head_size)
        except OSError:
            pass

    def take(self, cost: int) -> None:
        try:  # noqa: SIM105
            self.link.take(cost)
        except OSError:
            pass

    def receive(self, now: float) -> list[Item]:
        try:
            items = self.link.receive()
        except (EOFError, OSError):
            self.ended = True
            return []
        if self.link.acknowledged != self._progress:
            self._progress = self.link.acknowledged
            self.progress_at = now
        return items


class Hub:
    """One order for everything. ``on_news(port, kind, payload)`` gets what is not about messages."""

    def __init__(self, room: Room, limits: Limits, on_news: Callable[[Port, int, Any], None]) -> None:
        """Begin with no worker. ``limits.lag`` is how many bytes of the stream are kept, and how many a stuck
        worker may be behind before everybody has to wait for it."""
        self.room = room
        self.people = People(limits, self)
        self.stream = Stream(limits.lag)
        self.ports: list[Port] = []
        # From where on the room may go on by that part, though connections are on their way: by the port of
        # the worker that gives them away until they have come, then by each connection's identity until
        # another worker has it.
        self.anchors: dict[Port | int, int] = {}
        # Rooms whose notices wait, by when they are due; and the same rooms, for each waits here once.
        self._later: list[tuple[float, int, NamedRoom]] = []
        self._waiting: set[NamedRoom] = set()
        self._inbox: deque[tuple[Port, Item]] = deque()
        self._on_news = on_news

    def change_limits(self, limits: Limits) -> None:
        """Keep to other limits from now on."""
        self.people.change_limits(limits)
        self.stream.limit = limits.lag

    def attach(self, port: Port) -> None:
        """Let a worker take part: heard at once, and hearing from the next message on once it is ready."""
        self.ports.append(port)

    def detach(self, port: Port) -> None:
        """Forget a dead worker, after everything that it had written was received and is in the order."""
        while not port.ended:
            self.receive(port, 0.0)
        # What still waits is put into the order first: what comes from nobody's worker would be nobody's.
        waiting, self._inbox = self._inbox, deque()
        now = time.monotonic()
        for each, item in waiting:
            if each is port:
                self._take(port, item, now)
            else:
                self._inbox.append((each, item))
        self.ports.remove(port)

    def receive(self, port: Port, now: float) -> None:
        """Read what a worker has written; call it when the port's link is readable."""
        for item in port.receive(now):
            if item.kind in NEWS:
                self._on_news(port, item.kind, item.payload)
            elif item.kind == Up.STARTED:
                self._fill_from_the_start(port)
            else:
                self._inbox.append((port, item))

    def waits(self, now: float) -> bool:
        """Tell whether a worker, or a connection between two, is so far behind that nothing may be taken from
        anybody."""
        if self.anchors and self._has_left_behind(min(self.anchors.values())):
            return True
        return any(self._holds_up(port, now) for port in self.ports)

    def _has_left_behind(self, anchor: int) -> bool:
        return self.stream.end - anchor > self.stream.limit // GOES_ON

    def _holds_up(self, port: Port, now: float) -> bool:
        size = port.link.backlog_size
        if size <= PROMPT_BACKLOG or port.ended or not port.ready:
            return False
        return size > self.stream.limit or now - port.progress_at < STUCK_AFTER

    def turn(self, now: float) -> None:
        """Put what has come in into the order and send it to everybody."""
        while self._inbox and not self.waits(now):
            self._take(*self._inbox.popleft(), now)
        self._give_out(now)
        for port in self.ports:
            if port.filled is not None:
                self._fill(port)

    def _give_out(self, now: float) -> None:
        """Send everything that is in the order by now."""
        for count, frames in self.room.batch(now):
            self.stream.append(frames, count)
            for port in self.ports:
                if port.ready:
                    port.send_frames(Down.BATCH, count, frames)
        while self._later and self._later[0][0] <= now:
            room = heappop(self._later)[2]
            self._waiting.remove(room)
            self.people.stirred[room] = None
        if self.people.stirred:
            self._give_out_rooms(now)

    def _give_out_rooms(self, now: float) -> None:
        """Send what stirred rooms say. O(those): not all whose notices wait, while thousands are entered."""
        stirred, self.people.stirred = self.people.stirred, {}
        told: dict[Port, None] = {}
        share, waiting = self.people.share, self._waiting
        for room in stirred:
            count, frames = room.flush(now, share)
            if room not in waiting and (due := room.notice_due()) is not None:
                waiting.add(room)
                heappush(self._later, (due, room.number, room))
            if frames:
                for port in room.ports:
                    assert isinstance(port, Port)
                    port.rooms.append((room.number, count, frames))
                    told[port] = None
        for port in told:
            self._send_rooms(port)

    @staticmethod
    def _send_rooms(port: Port) -> None:
        """Send a worker what its members get, as much as fits into each item."""
        rooms, port.rooms = port.rooms, []
        head: list[tuple[int, int, int]] = []
        parts: list[bytes] = []
        size = 0
        for number, count, frames in rooms:
            if head and size + len(frames) > ITEM_SIZE:
                port.send_frames(Down.ROOMS, head, b"".join(parts), len(head) * HEAD_COST)
                head, parts, size = [], [], 0
            head.append((number, count, len(frames)))
            parts.append(frames)
            size += len(frames) + HEAD_COST
        port.send_frames(Down.ROOMS, head, b"".join(parts), len(head) * HEAD_COST)

    def notice_due(self) -> float | None:
        """Return when somebody is to be told who has come and gone (seconds, monotonic), or None."""
        if self.people.stirred:  # since the last turn
            return 0.0
        due = self.room.notice_due()
        if self._later and (due is None or self._later[0][0] < due):
            return self._later[0][0]
        return due

    def say(self, text: str) -> None:
        """Say something to everybody, in every room. Raises :class:`ProtocolError` if it fits no frame."""
        frames = message_frame(text)
        if len(frames) > ANNOUNCEMENT_LIMIT:
            raise ProtocolError(
                "too_long", f"the message takes {len(frames)} bytes, {ANNOUNCEMENT_LIMIT} are allowed"
            )
        self.room.post(1, frames)
        for room in self.people.rooms.values():
            if room.members:
                self.people.say(room, "", 1, frames, time.time())

    # What people are sent: see people.Post.

    def tell(self, person: Person, frames: bytes) -> None:
        if person.port is not None:
            person.port.send_frames(Down.TELL, person.identity, frames)
            return
        person.waiting += frames
        if len(person.waiting) > self.people.limits.lag:
            self._cut_off(person)

    def begin(self, person: Person, frames: bytes) -> None:
        """Send ``frames`` and the next part of what a person is still to get; see people.Post."""
        assert person.replay is not None
        if person.port is None:  # broken while it was to be moved, it has still asked for something
            self.tell(person, frames)
            return
        room = person.replay.room
        if room in self.people.stirred:
            self._give_out_rooms(time.monotonic())
        try:
            frames += person.replay.chunk(REPLAY_SIZE)
        except OvertakenError:
            self._cut_off(person)
            return
        live = person.replay.done
        head = (person.identity, room.number, room.stream.end, room.stream.messages, live)
        if live:
            self.people.live(person)
        person.port.send_frames(Down.ENTER, head, frames, HEAD_COST)

    def _cut_off(self, person: Person) -> None:
        person.waiting.clear()
        self._gone(person.identity, person.address, SLOW, time.monotonic())
        self.people.end(person, SLOW)

    def end(self, person: Person, reason: str) -> None:
        if person.port is not None:
            person.port.send(Down.END, (person.identity, reason))

    def _fill_from_the_start(self, port: Port) -> None:
        port.filled = self.stream.start
        port.send(Down.BEGIN, (self.stream.start, self.stream.messages_before))

    def _fill(self, port: Port) -> None:
        """Send a new worker more of the stream, as it takes it; when it has all, it hears what is new."""
        assert port.filled is not None
        if port.filled < self.stream.start:  # it was overtaken
            self._fill_from_the_start(port)
        while not port.link.backlog_size:
            count, frames = self.stream.copy(port.filled, FILL_SIZE)
            if not count:
                port.filled = None
                port.ready = True
                port.send(Down.FILLED)
                return
            port.send_frames(Down.FILL, count, frames)
            port.filled += len(frames)

    def _take(self, port: Port, item: Item, now: float) -> None:
        if item.kind == Up.POSTS:
            self._post(*item.payload)
        elif item.kind == Up.LEFT:
            for each in item.payload:
                self._left(each, now)
        elif item.kind == Up.SYNC:
            if not port.ended:
                self._sync(port, *item.payload)
        elif item.kind == Up.ASK:
            who, payload = item.payload
            self._ask(port, who, payload, now)
        elif item.kind == Up.MORE:
            person = self.people.persons.get(item.payload)
            if person is not None and person.replay is not None and person.port is port:
                self.begin(person, b"")
        elif item.kind == Up.FOLLOW:
            self._follow(port, *item.payload)
        else:
            self._on_news(port, item.kind, item.payload)
        port.take(item.cost)

    def _post(self, runs: list[tuple[int | str, int, int]], frames: bytes) -> None:
        at = time.time()
        people = self.people
        one_piece = not people.persons and all(isinstance(who, str) for who, _, _ in runs)
        if one_piece:  # everybody is plain
            self.room.post(sum(count for _, count, _ in runs), frames)
        lobby, persons = people.lobby, people.persons
        position = 0
        for who, count, size in runs:
            said = frames[position : position + size]
            position += size
            person = persons.get(who) if isinstance(who, int) else None
            if person is not None and person.room is not None:
                if people.is_muted(person, at):
                    self.tell(person, error_frame("muted", MUTED))
                    continue
                people.say(person.room, person.name, count, said, at)
                if person.room is lobby:
                    self.room.post(count, as_said_by(person.name, said))
                continue
            if isinstance(who, str):
                address = who
            elif person is not None:
                address = person.address
            else:
                continue  # somebody was replaced, and his connection is about to be ended
            if not one_piece:
                self.room.post(count, said)
            people.say(lobby, address, count, said, at)

    def _left(self, who: str | tuple[int, str, str], now: float) -> None:
        if isinstance(who, str):
            self.room.leave([who])
            return
        self._gone(*who, now)

    def _gone(self, identity: int, address: str, reason: str, now: float) -> Person | None:
        """Forget a connection that asked to be somebody, and let plain clients know if they could hear it."""
        person = self.people.persons.get(identity)
        if person is not None and (person.room is None or person.room is self.people.lobby):
            self.room.leave([person.name or address])
        return self.people.gone(identity, reason, now)

    def _ask(self, port: Port, who: tuple[int, str], payload: bytes, now: float) -> None:
        # What was said before comes first, to everybody: who enters is sent the rest alone.
        self._give_out(now)
        identity, address = who
        try:
            self.people.ask(identity, address, port, decode_request(payload), now, time.time())
        except Exception:  # what one client asks for must not end everybody's server
            log.exception("failed, its connection is ended: %s", address)
            person = self._gone(identity, address, INTERNAL_ERROR, now)
            if person is not None:
                self.people.end(person, INTERNAL_ERROR)

    def _sync(self, port: Port, furthest: int, people: list[int]) -> None:
        """A worker is about to give connections away: they get nothing from here until they have come."""
        self.anchors[port] = min(self.stream.end, furthest + self.stream.limit // 2)
        self._give_out(time.monotonic())
        for identity in people:
            self.people.departs(identity)
        if people:  # after all that they were sent; else past it, for nobody waits for that
            port.send(Down.SYNCED)
        else:
            port.send_now(Down.SYNCED)

    def _follow(self, port: Port, identity: int, room: int, offset: int) -> None:
        """Somebody was moved: go on from where it was."""
        self._give_out(time.monotonic())
        person = self.people.arrives(identity, port)
        if person is None:
            port.send(Down.END, (identity, "replaced"))
        elif person.room is not None:
            if person.room.number == room:
                person.replay = Replay(person.room, 1, 0, offset)
            if person.replay is not None:
                self.begin(person, b"")

    @property
    def empty(self) -> bool:
        """True when nothing that was received waits for its place in the order."""
        return not self._inbox
