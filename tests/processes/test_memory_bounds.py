"""A thousand hostile clients, which read nothing or hold back what they have begun, and the server's memory.

Each kind fills other bounds, on one server, one after the other. The memory of all its processes stays below
what ``mpchat config`` says for its settings, and an honest client is served afterwards.

The settings are small, so that a thousand clients can fill what follows from them. Three things show that a
bound was reached: figures of the status and of ``mpchat rooms``; the bytes that the server has read, which
the kernel knows; and the clients that the server has cut off, which it does at a bound and nowhere before.
``OUT_OF_REACH`` says which bounds no client can fill, and why.
"""

import fcntl
import json
import resource
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import pytest
from support.harness import Client, Server, frame, raw_frame, running, stopped
from support.waiting import eventually

from mpchat.config import resolve
from mpchat.control.client import ask
from mpchat.control.requests import Rooms
from mpchat.ipc.reasons import SLOW, UNREAD
from mpchat.memory import READ_SIZE, bounds, total

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc how much the server has read"),
]

HOSTILE = 1000
WORKERS = 2
MIB = 1 << 20
SETTINGS = {
    "max_connections": HOSTILE + 20,
    "answers_memory": 2 * MIB,
    "lag_limit": MIB,
    "payload_limit": 26_000,
    "max_rooms": 12,
    "name_hold": 0.0,
    # A client that says more at once waits a second for each message beyond.
    "flood_burst": 10,
    "flood_rate": 1,
}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", f"{value}")]
ROWS = bounds(msgspec.structs.replace(resolve([])[0], **SETTINGS), WORKERS, HOSTILE + 20)
# Bytes that the system keeps of what a client does not read: small, so that the server keeps the rest.
LITTLE = 4 << 10
# Seconds for which a crowd sends, at most, and without having sent anything more; and for which the server's
# memory is looked at until a bound is reached.
PATIENCE, QUIET = 3.0, 0.5
REACHED_WITHIN = 10.0
# The part of a bound that must be filled.
FILLED = 0.6


def request(**what: object) -> bytes:
    return raw_frame(json.dumps(what, ensure_ascii=False).encode())


class Crowd:
    """Clients that read nothing. One thread and one poll object send for all of them."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self.socks = [self._connect(address) for _ in range(count)]
        self.sent = 0

    @staticmethod
    def _connect(address: tuple[str, int]) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        sock.connect(address)
        sock.setblocking(False)
        return sock

    def send(self, data: Callable[[int], bytes], look: Callable[[], None]) -> None:
        """Let each send its data as far as the server takes it; ``look`` is called again and again."""
        unsent = {sock.fileno(): memoryview(data(number)) for number, sock in enumerate(self.socks)}
        by_number = {sock.fileno(): sock for sock in self.socks}
        poll = select.poll()
        for number in unsent:
            poll.register(number, select.POLLOUT)
        moved = begun = time.monotonic()
        while unsent and time.monotonic() - begun < PATIENCE and time.monotonic() - moved < QUIET:
            for number, _ in poll.poll(100):
                sent = self._send(by_number[number], unsent[number])
                unsent[number] = unsent[number][sent:] if sent >= 0 else memoryview(b"")
                if sent > 0:
                    self.sent += sent
                    moved = time.monotonic()
                if not unsent[number]:
                    del unsent[number]
                    poll.unregister(number)
            look()

    @staticmethod
    def _send(sock: socket.socket, data: memoryview) -> int:
        try:
            return sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # it was cut off
            return -1

    def close(self) -> None:
        """End all with a reset: what the server has not read yet is not to be read any more."""
        for sock in self.socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


class Memory:
    """The memory of all processes of a server, looked at now and then."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._processes = server.processes()
        self._ended_before: dict[tuple[int, str], int] = {}
        self._ended_before = {
            (slot, reason): n for reason in (SLOW, UNREAD) for slot, n in self.cut_off(reason)
        }
        self._looked_at = 0.0
        self.before = self.now()
        self.most = self.before

    def now(self) -> int:
        return sum(each.memory_info().rss for each in self._processes)

    def cut_off(self, reason: str) -> list[tuple[int, int]]:
        """Return how many clients each worker has cut off for a reason since the beginning."""
        return [
            (each["slot"], each["ended"].get(reason, 0) - self._ended_before.get((each["slot"], reason), 0))
            for each in self._server.status()["workers"]
        ]

    def all_cut_off(self, reason: str) -> bool:
        """Tell whether each worker has cut off clients for this reason."""
        return all(count for _, count in self.cut_off(reason))

    def look(self) -> None:
        if time.monotonic() - self._looked_at > 0.05:
            self._looked_at = time.monotonic()
            self.most = max(self.most, self.now())

    def until(self, reached: Callable[[], bool]) -> None:
        """Look until something is so, or for as long as one kind may take."""
        until = time.monotonic() + REACHED_WITHIN
        while time.monotonic() < until and not reached():
            self.watch(0.1)

    def watch(self, seconds: float) -> None:
        """Look for so long: what clients have sent has its effects a moment later."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            select.select([], [], [], 0.05)


@contextmanager
def hostile(server: Server, count: int = HOSTILE) -> Iterator[Crowd]:
    crowd = Crowd(server.address, count)
    try:
        server.wait_for_connections(count)
        yield crowd
    finally:
        # The server does not look at clients that it is not to read from yet: it would see their ends late.
        server.command("kick", "127.0.0.1")
        crowd.close()
        server.wait_for_connections(0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * HOSTILE:
        pytest.skip(f"needs {2 * HOSTILE} descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HOSTILE), hard))
    try:
        with running(tmp_path_factory.mktemp("memory"), *FLAGS, workers=WORKERS) as started:
            fill(started, "past", 40)
            yield started
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def bound_of(*what: str, holes: bool = True) -> int:
    """Return the sum of the rows that begin so, and of the ``holes`` that they may leave."""
    found = [row for row in ROWS if row.what.startswith(what)]
    assert len(found) == len(what)
    return total(found) * 9 // 8 if holes else total(found)


def join(number: int, room: str = "big", **more: object) -> bytes:
    return request(join={"name": f"h{number}", "room": room, **more})


def say_and_hear(client: Client, text: str) -> None:
    client.say(text)
    while (client.receive() or {}).get("message") != text:
        pass


def fill(server: Server, room: str, count: int) -> None:
    """Let members say ``count`` long messages in a room, each as many as it may at once, and go."""
    for begin in range(0, count, 10):
        with Client(server.address) as speaker:
            speaker.send_raw(join(-begin, room))
            for number in range(begin, begin + 9):
                speaker.say(f"{number}" + "x" * 25_000)
            say_and_hear(speaker, "x" * 25_000)


Attack = Callable[[Server, Crowd, Memory], None]


def zeros(server: Server, crowd: Crowd, memory: Memory) -> None:
    """Each frame has an error for an answer: one that is not that of the frame before."""
    crowd.send(lambda number: b"\0\0\0\2{}" * 20_000, memory.look)


def half_frames(server: Server, crowd: Crowd, memory: Memory) -> None:
    crowd.send(lambda number: b"\x65\x90" + b"x" * 25_900, memory.look)


# Long messages, more than the system keeps for a client that reads nothing, and less than it may be behind.
LONG = 14
# What a client sends that fills what a worker may hold of it: more messages than it may say at once, and then
# other frames, each with an error that is not that of the frame before.
SAID = 30
SHORTEST = raw_frame(b'{"message":""}')
POSTS = (SAID * SHORTEST + b"\0\0\0\2{}" * READ_SIZE)[:READ_SIZE]
# Seconds between two looks at what they have come to: there are many of them.
SOON = 0.001


def held_posts(server: Server, crowd: Crowd, memory: Memory) -> None:
    """Each has said more than it may, and the rest of what was read with that waits.

    The system is to have no room for what all get: then the workers have nothing to do but to read.
    """
    workers, before = server.worker_pids, server.status()["messages"]
    crowd.send(lambda number: frame("y" * 25_000) * (number < LONG), memory.look)
    eventually(partial(has_said, server, before + LONG), "the long messages to be said")
    crowd.sent, before = 0, before + LONG
    # One after the other: a worker reads less from a client while others wait for their turns.
    for number, sock in enumerate(crowd.socks, 1):
        with ExitStack() as stack:
            for pid in workers:
                stack.enter_context(stopped(pid))
            crowd.sent += sock.send(POSTS)
            eventually(partial(all_sent, sock), "the posts to be at the server", pause=SOON)
        eventually(partial(has_said, server, before + SAID * number), "the posts to be read", pause=SOON)
        memory.look()


def all_sent(sock: socket.socket) -> bool:
    """Tell whether the other end's system has taken all that this one has sent."""
    return fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)) == bytes(4)


def has_said(server: Server, messages: int) -> bool:
    return int(server.status()["messages"]) >= messages


def unread(server: Server) -> int:
    """Return how many bytes are at the server that it has not read."""
    port = f":{server.address[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(port) and row[3] != LISTENS
    )


# The state of a listening socket in /proc/net/tcp, where the number is that of the connections that wait.
LISTENS = "0A"


def full_rooms(server: Server, crowd: Crowd, memory: Memory) -> None:
    """In as many rooms as there may be all speak, and none reads."""
    crowd.send(lambda number: join(number, f"r{number % 12}"), memory.look)
    memory.until(lambda: server.status()["people"] == HOSTILE)
    crowd.send(lambda number: frame("y" * 25_000), memory.look)
    memory.until(lambda: sum(count for _, count in memory.cut_off(SLOW)) >= FILLED * HOSTILE)


def long_messages(server: Server, crowd: Crowd, memory: Memory) -> None:
    """A quarter speaks, and nobody reads."""
    crowd.send(lambda number: frame("y" * 25_000) * (0 if number % 4 else 4), memory.look)
    memory.until(lambda: memory.all_cut_off(SLOW))


def private_messages(server: Server, crowd: Crowd, memory: Memory) -> None:
    """Fifteen are deaf, and the others speak to these."""

    def said(number: int) -> bytes:
        return request(message="z" * 20_000, to=f"h{number % 15}") if number >= 15 else b""

    crowd.send(join, memory.look)
    memory.until(lambda: server.status()["people"] == HOSTILE)
    crowd.send(said, memory.look)
    memory.until(lambda: memory.all_cut_off(UNREAD))


def rejoins(server: Server, crowd: Crowd, memory: Memory) -> None:
    """A room's whole past, again and again. A third of them: first the system takes 300 KB for each."""
    crowd.send(lambda number: join(number, "past", after=0) * (0 if number % 3 else 9), memory.look)
    memory.until(lambda: memory.all_cut_off(UNREAD))


def taking_along(server: Server, crowd: Crowd, memory: Memory) -> None:
    """All are behind in a room, and go to another one: what they are owed goes with each of them."""
    crowd.send(join, memory.look)
    memory.until(lambda: server.status()["people"] == HOSTILE)
    fill(server, "big", 40)
    crowd.send(lambda number: join(number, f"r{number % 8}"), memory.look)
    memory.until(lambda: memory.all_cut_off(UNREAD))


class Seen(NamedTuple):
    """The figures that tell how far a bound was filled."""

    server: Server
    crowd: Crowd
    memory: Memory
    # Of the room of plain clients, when the clients had not said anything yet.
    messages: int


# Returns the part of a bound that was filled.
Reached = Callable[[Seen], float]


def answers_filled(seen: Seen) -> float:
    """Each worker cuts off the clients that hold most at the bound, and only there."""
    return float(seen.memory.all_cut_off(UNREAD))


def stream_filled(seen: Seen) -> float:
    """A client is cut off when the stream holds a lag limit that it has not been sent."""
    return float(seen.memory.all_cut_off(SLOW))


def rooms_streams_filled(seen: Seen) -> float:
    """The members are spread evenly over the rooms: so many rooms had full streams."""
    return float(sum(count for _, count in seen.memory.cut_off(SLOW)) / HOSTILE)


def connections_filled(seen: Seen) -> float:
    status = seen.server.status()
    return float(status["connections"] / status["limits"]["connections"])


def rooms_filled(seen: Seen) -> float:
    return float(seen.server.status()["rooms"]) / SETTINGS["max_rooms"]


def history_filled(seen: Seen) -> float:
    page = ask(seen.server.instance_folder / "control.sock", Rooms(), timeout=30.0).result
    return float(sum(each["bytes"] for each in page["rooms"]) / bound_of("history of rooms", holes=False))


def posts_filled(seen: Seen) -> float:
    """The server holds what it has read, but for the messages in the order and the frames with an error."""
    numbered = (seen.server.status()["messages"] - seen.messages - LONG) * len(SHORTEST)
    held = seen.crowd.sent - unread(seen.server) - numbered - HOSTILE * (1 << 10)
    return float(held / bound_of("frames that are not whole", holes=False))


class Kind(NamedTuple):
    """What the clients of one kind do, which bounds hold for that, and which of these they fill."""

    attack: Attack
    rows: tuple[str, ...]
    fills: Mapping[str, Reached] = MappingProxyType({})


INPUT = ("connections", "frames", "on the way")
MEMBERS = ("connections", "on the way", "answers", "streams", "history of rooms")
KINDS = [
    Kind(zeros, (*INPUT, "answers")),
    Kind(half_frames, INPUT),
    Kind(long_messages, (*INPUT, "the stream", "history of rooms"), {"the stream": stream_filled}),
    Kind(private_messages, (*MEMBERS, "frames"), {"answers": answers_filled}),
    Kind(rejoins, MEMBERS, {"answers": answers_filled}),
    Kind(taking_along, MEMBERS, {"answers": answers_filled}),
    Kind(
        full_rooms,
        (*MEMBERS, "frames", "rooms themselves"),
        {
            "streams of rooms": rooms_streams_filled,
            "history of rooms": history_filled,
            "rooms themselves": rooms_filled,
        },
    ),
    Kind(
        held_posts,
        (*INPUT, "answers", "the stream", "history of rooms"),
        {"frames": posts_filled, "connections": connections_filled},
    ),
]
# Rows that clients cannot fill, or not all of.
OUT_OF_REACH = {
    "programs": "is there without a client",
    "members in transit": "a reload, a scale or a rebalance moves members, and each move takes milliseconds; "
    "tests/pure/test_delivery.py fills what waits for them",
    "names": "the bound is 100 000 names, no setting: a thousand clients would have to come a hundred times; "
    "tests/pure/test_memory.py fills a smaller one",
    "addresses": "the bound is 100 000 addresses, no setting; tests/pure/test_memory.py fills a smaller one",
    "on the way": "is handed on within a turn, unless a process is stopped or the machine stalls",
    "the history file": "waits only while a disk fails; tests/sockets/test_archive.py fills a small one",
    "events that wait": "there is no hook here; tests/pure/test_hook.py fills a small queue",
    "encryption": "is off here; tests/sockets/test_tls.py fills what is kept for one connection",
    "holes": "are what the C library leaves of all that was freed",
}


def test_each_bound_is_filled_by_a_kind_or_out_of_reach_of_clients() -> None:
    known = [*OUT_OF_REACH, *(what for kind in KINDS for what in kind.fills)]
    assert [row.what for row in ROWS if not row.what.startswith(tuple(known))] == []
    assert all(any(row.what.startswith(each) for row in ROWS) for each in known)
    assert not set(OUT_OF_REACH) & {what for kind in KINDS for what in kind.fills}


@pytest.mark.parametrize("kind", KINDS, ids=[kind.attack.__name__ for kind in KINDS])
def test_a_thousand_hostile_clients_stay_below_what_the_settings_allow(server: Server, kind: Kind) -> None:
    """The memory grows by less than the bounds of what the clients fill, and these are reached.

    Of the streams, the bytes are filled. That each of the shortest frames takes a blob of its own needs tens
    of thousands of turns of every process, one after the other: tests/pure/test_memory.py fills that. Each
    bound that counts workers has room for one more than there are, for a reload.
    """
    memory = Memory(server)
    messages = server.status()["messages"]
    with hostile(server) as crowd:
        kind.attack(server, crowd, memory)
        memory.watch(0.3)
        seen = Seen(server, crowd, memory, messages)
        reached = {what: look(seen) for what, look in kind.fills.items()}
    grown, allowed = memory.most - memory.before, bound_of(*kind.rows)
    report = (
        f"sent {crowd.sent / 1e6:.1f} MB, {memory.before / 1e6:.0f} to {memory.most / 1e6:.0f} MB of "
        f"{total(ROWS) / 1e6:.0f}, grown by {grown / 1e6:.0f} of {allowed / 1e6:.0f}, filled: {reached}"
    )
    print(f"\n{kind.attack.__name__}: {report}")
    assert memory.most <= total(ROWS), report
    assert grown <= allowed, report
    assert all(part >= FILLED for part in reached.values()), report
    with Client(server.address) as honest:
        say_and_hear(honest, "안녕하세요")
    assert all(each["restarts"] == 0 for each in server.status()["workers"])
