"""Memory: how much a server takes at most, as the sum of the bounds of all that it keeps. Pure.

Whatever clients do, each row holds: everything that they can make a process keep has a bound that follows
from settings. Sizes that are no settings stand here a second time, because a command must not load the
server's modules. A test compares each with the module that it belongs to.

Not counted is the kernel's memory: what sockets hold, and pipes.
"""

from typing import NamedTuple

from mpchat.config import Config

# Bytes. Each is explained in the module that is named.
READ_SIZE = 120 << 10  # worker.reading
UNDER_WAY = 192 << 10  # worker.reading
UNDER_WAY_OF_LIGHT = 96 << 10  # worker.reading
ENOUGH = 130_000  # worker.fanout
SWAMPED_TOGETHER = 4 << 20  # worker.rooms
STATE_LIMIT = 256 << 10  # worker.migration
MUCH = 1 << 20  # worker.downlink
LONGEST_RUN = 65_537  # the longest frame; many of them have protocol.session.RUN_SIZE
RUN_OVERHEAD = 300  # hub.history
HISTORY_MEMORY = 128 << 20  # ipc.shares
STREAM_MEMORY = 128 << 20  # ipc.shares
BLOB_SIZE = 66 << 10  # hub.delivery
MOST_HELD = 100_000  # hub.claims; names
MOST_CONNECTING = 100_000  # supervisor.connect_rates.MOST; addresses
QUEUE_LIMIT = 32 << 20  # hub.archive
REMEMBERED_ROOMS = 10_000  # hub.archive.ROOMS
EARLIER_KEPT = 8  # hub.history_file
MOST_BYTES = 256 << 10  # hook.backlog

# Measured, rounded up (bytes). A process with no client: 31 MB the supervisor, 22 MB a worker.
PROCESS_COST = 40 << 20
# A member's connection, in its worker (2 KiB) and in the hub (4 KiB).
CONNECTION_COST = 8 << 10
# A TLS connection, in its process: OpenSSL's state, and two buffers of 32 KiB that a busy one fills.
TLS_COST = 128 << 10
# A room in the hub, and its fan-out in a worker, both empty.
ROOM_COST = 8 << 10
FANOUT_COST = 4 << 10
# A held name: in the worst script its key takes eighteen times as many characters.
NAME_COST = 3 << 10
# An address and when it may connect again.
ADDRESS_COST = 400
# A number with the name of its room, in what a history file says of rooms.
NUMBER_COST = 400
# What a blob of a stream takes beside its bytes, and the shortest frames of plain clients and of members.
BLOB_COST = 160
SHORTEST_PLAIN, SHORTEST_NUMBERED = 16, 64
# Posts of a few bytes take so many times their size as objects of Python; what comes down, so many.
UP_OBJECTS, DOWN_OBJECTS = 4, 2
# What a batch takes that is being sent: its events, their JSON, and copies of that.
HOOK_SENDING = 8 * MOST_BYTES
# Copies of what a connection takes along while it is handed from process to process.
COPIES_IN_TRANSIT = 6
# A buffer that grows in place has an eighth to spare. And the C library's memory has holes of that size.
SPARE = 8


class Bound(NamedTuple):
    """A kind of content, how many bytes it takes at most, and the settings that decide that."""

    what: str
    size: int
    settings: tuple[str, ...]


def bounds(config: Config, workers: int, connections: int) -> list[Bound]:
    """Return all bounds for so many workers, and so many connections at a time.

    During a reload there is one more worker.
    """
    encrypting = config.tls_processes if config.tls_on else 0
    there, lag, answers = workers + 1, config.lag_limit, config.answers_memory
    together = min(config.max_rooms, connections)
    one = min(lag, answers)
    carried = STATE_LIMIT + one + READ_SIZE + config.payload_limit
    kept = [
        Bound("connections and members", connections * CONNECTION_COST, ("max_connections",)),
        Bound(
            "frames that are not whole, posts that wait for their turn",
            connections * _with_spare(READ_SIZE + config.payload_limit),
            ("max_connections", "payload_limit"),
        ),
        Bound(
            "answers and private messages that are not sent yet",
            there * (answers + 3 * one),
            ("answers_memory", "lag_limit", "workers"),
        ),
        Bound(
            "members in transit between two workers",
            _with_spare(answers) + 2 * COPIES_IN_TRANSIT * carried,
            ("answers_memory", "lag_limit"),
        ),
        Bound(
            "the stream of plain clients",
            (there + 1) * _stream(lag + ENOUGH, SHORTEST_PLAIN),
            ("lag_limit", "workers"),
        ),
        Bound(
            "streams of rooms",
            there * _rooms_streams(lag, together) + _hub_streams(lag, together),
            ("max_rooms", "max_connections", "lag_limit", "workers"),
        ),
        Bound("history of rooms", _history(config), ("max_rooms", "lag_limit")),
        Bound(
            "rooms themselves",
            config.max_rooms * ROOM_COST + there * together * FANOUT_COST,
            ("max_rooms", "max_connections", "workers"),
        ),
        Bound("names that are held", MOST_HELD * NAME_COST if config.name_hold else 0, ("name_hold",)),
        Bound(
            "addresses that connected a moment ago",
            MOST_CONNECTING * ADDRESS_COST if config.connect_rate else 0,
            ("connect_rate",),
        ),
        Bound("on the way between processes", there * _under_way(lag), ("lag_limit", "workers")),
        Bound(
            "encryption of connections",
            connections * TLS_COST if config.tls_on else 0,
            ("tls", "max_connections"),
        ),
        Bound(
            "events that wait for the webhook's receiver",
            config.hook_queue + HOOK_SENDING if config.hook else 0,
            ("hook_queue",),
        ),
        Bound("the history file", _history_file() if config.history else 0, ("history",)),
    ]
    holes = sum(each.size for each in kept) // SPARE
    return [
        Bound("programs", (there + 1 + encrypting) * PROCESS_COST, ("workers", "tls_processes")),
        *kept,
        Bound("holes that freed memory leaves", holes, ()),
    ]


def total(rows: list[Bound]) -> int:
    """Return the sum in bytes."""
    return sum(each.size for each in rows)


def _with_spare(size: int) -> int:
    return size + size // SPARE


def _stream(size: int, shortest: int) -> int:
    """Return what a stream takes: at worst each frame was said alone, and is a blob."""
    return size + size // shortest * BLOB_COST


def _rooms_streams(lag: int, rooms: int) -> int:
    """A worker cuts streams down between two flushes: what is being sent in each room comes on top."""
    return _stream(min(STREAM_MEMORY, rooms * lag), SHORTEST_NUMBERED) + rooms * ENOUGH


def _hub_streams(lag: int, rooms: int) -> int:
    """The hub cuts streams down after it has added what came in one turn: a blob to each room at most."""
    return _stream(min(STREAM_MEMORY, rooms * lag), SHORTEST_NUMBERED) + rooms * BLOB_SIZE


def _history(config: Config) -> int:
    """A room keeps its last run, however long it is; all rooms together are cut down after each run."""
    longest = LONGEST_RUN + RUN_OVERHEAD
    return min(HISTORY_MEMORY, config.max_rooms * (config.lag_limit + longest)) + longest


def _under_way(lag: int) -> int:
    up = UNDER_WAY + UNDER_WAY_OF_LIGHT + 2 * READ_SIZE
    down = lag + SWAMPED_TOGETHER + 2 * MUCH
    return up * UP_OBJECTS + down * DOWN_OBJECTS


def _history_file() -> int:
    return 2 * QUEUE_LIMIT + REMEMBERED_ROOMS * (EARLIER_KEPT + 2) * NUMBER_COST
