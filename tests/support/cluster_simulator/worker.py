"""A simulated worker: takes what the hub sends, in order, and gives each client what it hears.

It does what the real worker does with places in a room's stream, without sockets and without time.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from mpchat.hub.endpoint import Endpoint
from mpchat.ipc.channel import Item, Link
from mpchat.ipc.items import PLAIN, Down, Up
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import Request, pack_request
from support.crowd import payloads

# The room of a connection that reads no stream.
ASIDE = -1


class Hears(Protocol):
    """What a connection is connected to."""

    def hear(self, connection: "Connection", payload: bytes) -> None:
        """Take a payload that the server has sent."""

    def lose(self, connection: "Connection", reason: str) -> None:
        """Take note that the connection has ended."""


class Connection:
    """One client's connection, wherever it is served."""

    def __init__(self, identity: int, address: str, client: Hears) -> None:
        self.identity, self.address, self.client = identity, address, client
        # What the client has sent and no worker has read: texts and requests.
        self.unread: deque[str | Request] = deque()
        # Why the client is gone, once it is.
        self.gone = ""
        self.closed = False
        self.asking = self.asked = self.spoke = self.leaving = False
        # The room that it reads, and the next frame of that room's stream.
        self.room, self.place = PLAIN, 0
        # A part of the past has come, and more of it is to be asked for.
        self.wants_more = False

    @property
    def speaks(self) -> bool:
        return self.asked or self.spoke


class NoLink:
    """Stands for the channel: it has room."""

    backlog_size = 0


class SimulatedWorker(Endpoint):
    """One worker, and the hub's end of its channel."""

    def __init__(self, slot: int, label: str, fail: Callable[[str], None]) -> None:
        super().__init__(slot, cast(Link, NoLink()))
        self.label = label
        self._fail = fail
        self.dead = False
        self.serving = False
        self.down: deque[tuple[int, Any]] = deque()
        self.up: deque[Item] = deque()
        # Bytes that the hub has got and that it has acknowledged.
        self.sent = self.acknowledged = 0
        self.connections: dict[int, Connection] = {}
        # By room: how many frames of its stream have come, and the connections that read it.
        self.rooms: dict[int, tuple[int, dict[int, Connection]]] = {}
        self.plain: list[bytes] = []
        self.plain_begin = 0
        self.held: set[int] = set()
        self.leaving: list[Connection] = []
        # Called with the connections that leave: the connection, its room and its place there.
        self.on_export: Callable[[list[tuple[Connection, int, int]]], None] = lambda gone: None
        self._gone: list[Any] = []
        self.say(Up.STARTED)

    # The hub's end.

    def send(self, kind: int, payload: Any = None) -> None:
        if not self.dead:
            self.down.append((kind, payload))

    send_now = send

    def send_frames(self, kind: int, head: Any, frames: bytes, head_size: int = 0) -> None:
        self.send(kind, (head, frames))

    def take(self, cost: int) -> None:
        self.acknowledged += cost

    def holds_up(self, now: float, limit: int) -> bool:
        return False

    # What it says.

    def say(self, kind: int, payload: Any = None, cost: int = 100) -> None:
        self.sent += cost
        self.up.append(Item(int(kind), payload, cost))

    @property
    def idle(self) -> bool:
        return not self.down and not self.up

    @property
    def speakers(self) -> int:
        return sum(each.speaks for each in self.connections.values())

    # Its turn.

    def read(self, most: int) -> None:
        """Read up to ``most`` payloads of each client, and say all of that to the hub."""
        posts: list[tuple[int | str, int, bytes]] = []
        for connection in list(self.connections.values()):
            self._read_from(connection, most, posts)
        self._post(posts)
        if self._gone:
            self.say(Up.LEFT, self._gone)
            self._gone = []

    def _read_from(
        self, connection: Connection, most: int, posts: list[tuple[int | str, int, bytes]]
    ) -> None:
        while connection.unread and most and not connection.asking and not connection.leaving:
            if connection.room in self.held:
                return
            most -= 1
            said = connection.unread.popleft()
            if isinstance(said, str):
                sender = connection.identity if connection.asked else connection.address
                connection.spoke = True
                posts.append((sender, 1, message_frame(said)))
                continue
            self._post(posts)
            connection.asking = connection.asked = True
            packed = pack_request(said)
            self.say(Up.ASK, ((connection.identity, connection.address), packed), 100 + len(packed))
        if connection.wants_more and not connection.leaving:
            connection.wants_more = False
            self._post(posts)
            self.say(Up.MORE, connection.identity)
        if connection.gone and not connection.unread and not connection.leaving:
            self._post(posts)
            self.end(connection, connection.gone)

    def _post(self, posts: list[tuple[int | str, int, bytes]]) -> None:
        if posts:
            frames = b"".join(each for _, _, each in posts)
            runs = [(sender, count, len(each)) for sender, count, each in posts]
            posts.clear()
            self.say(Up.POSTS, (runs, frames), 100 + len(frames))

    def end(self, connection: Connection, reason: str) -> None:
        """End a connection, and tell the hub behind all that it has said."""
        if connection.closed:
            return
        connection.closed = True
        del self.connections[connection.identity]
        self._take_out(connection)
        if connection.asked:
            self._gone.append((connection.identity, connection.address, reason))
        elif connection.spoke:
            self._gone.append(connection.address)
        connection.client.lose(connection, reason)

    def kick(self, addresses: set[str]) -> None:
        """End the connections of these addresses."""
        for connection in list(self.connections.values()):
            if connection.address in addresses:
                self.end(connection, "kicked")

    # What comes down.

    def hear(self, most: int) -> None:
        """Take up to ``most`` items of the hub."""
        while self.down and most:
            most -= 1
            kind, payload = self.down.popleft()
            self._hear(kind, payload)

    def _hear(self, kind: int, payload: Any) -> None:  # noqa: C901 - one case for each kind
        match kind:
            case Down.BEGIN:
                self.plain, self.plain_begin = [], payload
            case Down.FILL | Down.BATCH:
                self.plain += payloads(payload[1])
                self._serve_plain()
            case Down.FILLED:
                self.serving = True
            case Down.ROOMS:
                self._publish(*payload)
            case Down.ENTER:
                self._enter(*payload)
            case Down.TELL:
                connection = self.connections.get(payload[0])
                if connection is not None:
                    self._give(connection, payload[1])
            case Down.END:
                connection = self.connections.get(payload[0])
                if connection is not None:
                    self.end(connection, payload[1])
            case Down.ANSWERED:
                connection = self.connections.get(payload)
                if connection is not None:
                    connection.asking = False
            case Down.HOLD:
                (self.held.add if payload[1] else self.held.discard)(payload[0])
            case Down.SYNCED:
                self._export()
            case _:
                self._fail(f"{self.label} does not know the item {kind}")

    def _give(self, connection: Connection, frames: bytes) -> None:
        for payload in payloads(frames):
            connection.client.hear(connection, payload)

    def _serve_plain(self) -> None:
        for connection in self.connections.values():
            if connection.room == PLAIN:
                for payload in self.plain[max(0, connection.place - self.plain_begin) :]:
                    connection.client.hear(connection, payload)
                # One that was moved here may have got further than this worker.
                connection.place = max(connection.place, self.plain_begin + len(self.plain))

    def _publish(self, head: list[tuple[int, int, int]], frames: bytes) -> None:
        position = 0
        for number, count, size in head:
            said = list(payloads(frames[position : position + size]))
            position += size
            if len(said) != count:
                self._fail(f"{self.label}: {count} frames of a room are {len(said)}")
            if number not in self.rooms:
                continue
            before, readers = self.rooms[number]
            self.rooms[number] = before + count, readers
            for connection in list(readers.values()):
                for payload in said[max(0, connection.place - before) :]:
                    connection.client.hear(connection, payload)
                connection.place = max(connection.place, before + count)

    def _enter(self, head: tuple[int, int, int, bool], frames: bytes) -> None:
        identity, room, number, live = head
        connection = self.connections.get(identity)
        if connection is None:
            return
        self._take_out(connection)
        connection.room, connection.place = ASIDE, 0
        self._give(connection, frames)
        connection.wants_more = not live
        if not live or connection.closed:
            return
        if room not in self.rooms:
            self.rooms[room] = number, {}
        if self.rooms[room][0] != number:
            self._fail(
                f"{self.label}: {connection.address} enters room {room} at {number}, "
                f"the worker has got to {self.rooms[room][0]}"
            )
        connection.room, connection.place = room, number
        self.rooms[room][1][identity] = connection

    def _take_out(self, connection: Connection) -> None:
        readers = self.rooms.get(connection.room)
        if readers is not None:
            readers[1].pop(connection.identity, None)
            if not readers[1]:
                del self.rooms[connection.room]

    # Moves.

    def begin_to_move(self, leaving: list[Connection]) -> None:
        """Read no more from these connections, and ask the hub to say when it has all that they said."""
        self.read(100)
        self.leaving = [each for each in leaving if not each.closed]
        for each in self.leaving:
            each.leaving = True
        places = [each.place for each in self.leaving if each.room == PLAIN]
        furthest = min(places, default=self.plain_begin + len(self.plain))
        self.say(Up.SYNC, (furthest, [each.identity for each in self.leaving if each.asked]))

    def _export(self) -> None:
        leaving, self.leaving = self.leaving, []
        gone = []
        for each in leaving:
            if each.closed:
                continue
            each.leaving = False
            room, place = each.room, each.place
            self._take_out(each)
            del self.connections[each.identity]
            each.wants_more = False
            gone.append((each, room, place))
        self.on_export(gone)

    def take_over(self, connection: Connection, room: int, place: int) -> None:
        """Serve a connection that was moved here; the hub knows already that it has arrived."""
        self.connections[connection.identity] = connection
        if room == PLAIN:
            connection.room, connection.place = PLAIN, place
            self._serve_plain()
        else:
            connection.room, connection.place = ASIDE, 0
        if connection.asked:
            self.say(Up.FOLLOW, (connection.identity, room, place))

    def accept(self, connection: Connection) -> None:
        """Serve a new connection."""
        connection.place = self.plain_begin + len(self.plain)
        self.connections[connection.identity] = connection
