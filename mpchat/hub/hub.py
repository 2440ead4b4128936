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

from mpchat.errors import ProtocolError
from mpchat.hub.members import MUTED, Limits, Member, Members
from mpchat.hub.rooms import OvertakenError, Replay, Room
from mpchat.hub.sequencer import Sequencer
from mpchat.ipc.channel import ITEM_SIZE, Item, Link
from mpchat.ipc.items import Down, Up
from mpchat.ipc.reasons import INTERNAL_ERROR, SLOW
from mpchat.ipc.stream_buffer import Outside, Place, StreamBuffer
from mpchat.protocol.messages import error_frame, message_frame
from mpchat.protocol.requests import as_said_by, decode_request

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


class Endpoint:
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
    """One order for everything. ``on_news(endpoint, kind, payload)`` gets what is not about messages."""

    def __init__(
        self, room: Sequencer, limits: Limits, on_news: Callable[[Endpoint, int, Any], None]
    ) -> None:
        """Begin with no worker. ``limits.lag`` is how many bytes of the stream are kept, and how many a stuck
        worker may be behind before everybody has to wait for it."""
        self.room = room
        self.members = Members(limits, self)
        self.stream = StreamBuffer(limits.lag)
        self.endpoints: list[Endpoint] = []
        # From where on the room may go on by that part, though connections are on their way: by the endpoint
        # of the worker that gives them away until they have come, then by each connection's identity until
        # another worker has it.
        self.anchors: dict[Endpoint | int, int] = {}
        # Rooms whose notices wait, by when they are due; and the same rooms, for each waits here once.
        self._later: list[tuple[float, int, Room]] = []
        self._waiting: set[Room] = set()
        self._inbox: deque[tuple[Endpoint, Item]] = deque()
        self._on_news = on_news

    def change_limits(self, limits: Limits) -> None:
        """Keep to other limits from now on."""
        self.members.change_limits(limits)
        self.stream.limit = limits.lag

    def attach(self, endpoint: Endpoint) -> None:
        """Let a worker take part: heard at once, and hearing from the next message on once it is ready."""
        self.endpoints.append(endpoint)

    def detach(self, endpoint: Endpoint) -> None:
        """Forget a dead worker, after everything that it had written was received and is in the order."""
        while not endpoint.ended:
            self.receive(endpoint, 0.0)
        # What still waits is put into the order first: what comes from nobody's worker would be nobody's.
        waiting, self._inbox = self._inbox, deque()
        now = time.monotonic()
        for each, item in waiting:
            if each is endpoint:
                self._take(endpoint, item, now)
            else:
                self._inbox.append((each, item))
        self.endpoints.remove(endpoint)

    def receive(self, endpoint: Endpoint, now: float) -> None:
        """Read what a worker has written; call it when the endpoint's link is readable."""
        for item in endpoint.receive(now):
            if item.kind in NEWS:
                self._on_news(endpoint, item.kind, item.payload)
            elif item.kind == Up.STARTED:
                self._fill_from_the_start(endpoint)
            else:
                self._inbox.append((endpoint, item))

    def waits(self, now: float) -> bool:
        """Tell whether a worker, or a connection between two, is so far behind that nothing may be taken from
        anybody."""
        if self.anchors and self._has_left_behind(min(self.anchors.values())):
            return True
        return any(self._holds_up(endpoint, now) for endpoint in self.endpoints)

    def _has_left_behind(self, anchor: int) -> bool:
        return self.stream.end - anchor > self.stream.limit // GOES_ON

    def _holds_up(self, endpoint: Endpoint, now: float) -> bool:
        size = endpoint.link.backlog_size
        if size <= PROMPT_BACKLOG or endpoint.ended or not endpoint.ready:
            return False
        return size > self.stream.limit or now - endpoint.progress_at < STUCK_AFTER

    def turn(self, now: float) -> None:
        """Put what has come in into the order and send it to everybody."""
        while self._inbox and not self.waits(now):
            self._take(*self._inbox.popleft(), now)
        self._give_out(now)
        for endpoint in self.endpoints:
            if endpoint.filled is not None:
                self._fill(endpoint)

    def _give_out(self, now: float) -> None:
        """Send everything that is in the order by now."""
        for count, frames in self.room.batch(now):
            self.stream.append(frames, count)
            for endpoint in self.endpoints:
                if endpoint.ready:
                    endpoint.send_frames(Down.BATCH, count, frames)
        while self._later and self._later[0][0] <= now:
            room = heappop(self._later)[2]
            self._waiting.remove(room)
            self.members.stirred[room] = None
        if self.members.stirred:
            self._give_out_rooms(now)

    def _give_out_rooms(self, now: float) -> None:
        """Send what stirred rooms say. O(those): not all whose notices wait, while thousands are entered."""
        stirred, self.members.stirred = self.members.stirred, {}
        told: dict[Endpoint, None] = {}
        share, waiting = self.members.share, self._waiting
        for room in stirred:
            count, frames = room.flush(now, share)
            if room not in waiting and (due := room.notice_due()) is not None:
                waiting.add(room)
                heappush(self._later, (due, room.number, room))
            if frames:
                for endpoint in room.endpoints:
                    assert isinstance(endpoint, Endpoint)
                    endpoint.rooms.append((room.number, count, frames))
                    told[endpoint] = None
        for endpoint in told:
            self._send_rooms(endpoint)

    @staticmethod
    def _send_rooms(endpoint: Endpoint) -> None:
        """Send a worker what its members get, as much as fits into each item."""
        rooms, endpoint.rooms = endpoint.rooms, []
        head: list[tuple[int, int, int]] = []
        parts: list[bytes] = []
        size = 0
        for number, count, frames in rooms:
            if head and size + len(frames) > ITEM_SIZE:
                endpoint.send_frames(Down.ROOMS, head, b"".join(parts), len(head) * HEAD_COST)
                head, parts, size = [], [], 0
            head.append((number, count, len(frames)))
            parts.append(frames)
            size += len(frames) + HEAD_COST
        endpoint.send_frames(Down.ROOMS, head, b"".join(parts), len(head) * HEAD_COST)

    def notice_due(self) -> float | None:
        """Return when somebody is to be told who has come and gone (seconds, monotonic), or None."""
        if self.members.stirred:  # since the last turn
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
        for room in self.members.rooms.values():
            if room.members:
                self.members.say(room, "", 1, frames, time.time())

    # What members are sent: see members.Post.

    def tell(self, member: Member, frames: bytes) -> None:
        if member.endpoint is not None:
            member.endpoint.send_frames(Down.TELL, member.identity, frames)
            return
        member.waiting += frames
        if len(member.waiting) > self.members.limits.lag:
            self._cut_off(member)

    def begin(self, member: Member, frames: bytes) -> None:
        """Send ``frames`` and the next part of what a member is still to get; see members.Post."""
        assert member.replay is not None
        if member.endpoint is None:  # broken while it was to be moved, it has still asked for something
            self.tell(member, frames)
            return
        room = member.replay.room
        if room in self.members.stirred:
            self._give_out_rooms(time.monotonic())
        try:
            frames += member.replay.chunk(REPLAY_SIZE)
        except OvertakenError:
            self._cut_off(member)
            return
        live = member.replay.done
        head = (member.identity, room.number, room.stream.messages, live)
        if live:
            self.members.live(member)
        member.endpoint.send_frames(Down.ENTER, head, frames, HEAD_COST)

    def _cut_off(self, member: Member) -> None:
        member.waiting.clear()
        self._gone(member.identity, member.address, SLOW, time.monotonic())
        self.members.end(member, SLOW)

    def end(self, member: Member, reason: str) -> None:
        if member.endpoint is not None:
            member.endpoint.send(Down.END, (member.identity, reason))

    def _fill_from_the_start(self, endpoint: Endpoint) -> None:
        endpoint.filled = self.stream.start
        endpoint.send(Down.BEGIN, self.stream.messages_before)

    def _fill(self, endpoint: Endpoint) -> None:
        """Send a new worker more of the stream, as it takes it; when it has all, it hears what is new."""
        assert endpoint.filled is not None
        if endpoint.filled < self.stream.start:  # it was overtaken
            self._fill_from_the_start(endpoint)
        while not endpoint.link.backlog_size:
            count, frames = self.stream.copy(endpoint.filled, FILL_SIZE)
            if not count:
                endpoint.filled = None
                endpoint.ready = True
                endpoint.send(Down.FILLED)
                return
            endpoint.send_frames(Down.FILL, count, frames)
            endpoint.filled += len(frames)

    def _take(self, endpoint: Endpoint, item: Item, now: float) -> None:
        if item.kind == Up.POSTS:
            self._post(*item.payload)
        elif item.kind == Up.LEFT:
            for each in item.payload:
                self._left(each, now)
        elif item.kind == Up.SYNC:
            if not endpoint.ended:
                self._sync(endpoint, *item.payload)
        elif item.kind == Up.ASK:
            who, payload = item.payload
            self._ask(endpoint, who, payload, now)
        elif item.kind == Up.MORE:
            member = self.members.by_identity.get(item.payload)
            if member is not None and member.replay is not None and member.endpoint is endpoint:
                self.begin(member, b"")
        elif item.kind == Up.FOLLOW:
            self._follow(endpoint, *item.payload)
        else:
            self._on_news(endpoint, item.kind, item.payload)
        endpoint.take(item.cost)

    def _post(self, runs: list[tuple[int | str, int, int]], frames: bytes) -> None:
        at = time.time()
        members = self.members
        one_piece = not members.by_identity and all(isinstance(who, str) for who, _, _ in runs)
        if one_piece:  # everybody is plain
            self.room.post(sum(count for _, count, _ in runs), frames)
        lobby, by_identity = members.lobby, members.by_identity
        position = 0
        for who, count, size in runs:
            said = frames[position : position + size]
            position += size
            member = by_identity.get(who) if isinstance(who, int) else None
            if member is not None and member.room is not None:
                if members.is_muted(member, at):
                    self.tell(member, error_frame("muted", MUTED))
                    continue
                members.say(member.room, member.name, count, said, at)
                if member.room is lobby:
                    self.room.post(count, as_said_by(member.name, said))
                continue
            if isinstance(who, str):
                address = who
            elif member is not None:
                address = member.address
            else:
                continue  # somebody was replaced, and his connection is about to be ended
            if not one_piece:
                self.room.post(count, said)
            members.say(lobby, address, count, said, at)

    def _left(self, who: str | tuple[int, str, str], now: float) -> None:
        if isinstance(who, str):
            self.room.leave([who])
            return
        self._gone(*who, now)

    def _gone(self, identity: int, address: str, reason: str, now: float) -> Member | None:
        """Forget a connection that asked to be somebody, and let plain clients know if they could hear it."""
        member = self.members.by_identity.get(identity)
        if member is not None and (member.room is None or member.room is self.members.lobby):
            self.room.leave([member.name or address])
        return self.members.gone(identity, reason, now)

    def _ask(self, endpoint: Endpoint, who: tuple[int, str], payload: bytes, now: float) -> None:
        # What was said before comes first, to everybody: who enters is sent the rest alone.
        self._give_out(now)
        identity, address = who
        try:
            self.members.ask(identity, address, endpoint, decode_request(payload), now, time.time())
        except Exception:  # what one client asks for must not end everybody's server
            log.exception("failed, its connection is ended: %s", address)
            member = self._gone(identity, address, INTERNAL_ERROR, now)
            if member is not None:
                self.members.end(member, INTERNAL_ERROR)

    def _sync(self, endpoint: Endpoint, number: int, members: list[int]) -> None:
        """A worker is about to give connections away: they get nothing from here until they have come."""
        furthest = self.stream.cursor_of(Place(number))
        if isinstance(furthest, Outside):
            furthest = self.stream.start
        self.anchors[endpoint] = min(self.stream.end, furthest + self.stream.limit // 2)
        self._give_out(time.monotonic())
        for identity in members:
            self.members.departs(identity)
        if members:  # after all that they were sent; else past it, for nobody waits for that
            endpoint.send(Down.SYNCED)
        else:
            endpoint.send_now(Down.SYNCED)

    def _follow(self, endpoint: Endpoint, identity: int, room: int, number: int) -> None:
        """Somebody was moved: go on from where it was."""
        self._give_out(time.monotonic())
        member = self.members.arrives(identity, endpoint)
        if member is None:
            endpoint.send(Down.END, (identity, "replaced"))
        elif member.room is not None:
            if member.room.number == room:
                member.replay = Replay(member.room, 1, 0, number)
            if member.replay is not None:
                self.begin(member, b"")

    @property
    def empty(self) -> bool:
        """True when nothing that was received waits for its place in the order."""
        return not self._inbox
