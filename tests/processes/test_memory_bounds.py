"""A thousand hostile clients, which read nothing or hold back what they have begun, and the server's memory.

Each kind fills another bound, on one server, one after the other. The memory of all its processes stays below
what ``mpchat config`` says for its settings, and an honest client is served afterwards.
"""

import json
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import pytest
from support.harness import Client, Server, frame, raw_frame, running

from mpchat.config import resolve
from mpchat.ipc.reasons import UNREAD
from mpchat.memory import bounds, total

pytestmark = pytest.mark.one_python

HOSTILE = 1000
WORKERS = 2
MIB = 1 << 20
SETTINGS = {
    "max_connections": HOSTILE + 100,
    "answers_memory": 4 * MIB,
    "lag_limit": MIB,
    "max_rooms": 12,
    "name_hold": 0.0,
}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", f"{value}")]
ROWS = bounds(msgspec.structs.replace(resolve([])[0], **SETTINGS), WORKERS, HOSTILE + 100)
# Bytes that the system keeps of what a client does not read: small, so that the server keeps the rest.
LITTLE = 4 << 10
# Seconds for which a crowd sends, at most, and without having sent anything more; and for which the server's
# memory is looked at until a bound is reached.
PATIENCE, QUIET = 3.0, 0.5
REACHED_WITHIN = 10.0


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
        self._cut_before = 0
        self._cut_before = self.cut_off()
        self._looked_at = 0.0
        self.before = self.now()
        self.most = self.before

    def now(self) -> int:
        return sum(each.memory_info().rss for each in self._processes)

    def cut_off(self) -> int:
        """Return how many clients were cut off for their answers since the beginning."""
        workers = self._server.status()["workers"]
        cut: int = sum(each["ended"].get(UNREAD, 0) for each in workers)
        return cut - self._cut_before

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
            fill_past(started, "past")
            yield started
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def bound_of(*what: str) -> int:
    """Return the sum of the rows that begin so, and of the holes that they may leave."""
    found = [row for row in ROWS if row.what.startswith(what)]
    assert len(found) == len(what)
    return total(found) * 9 // 8


def join(number: int, room: str = "big", **more: object) -> bytes:
    return request(join={"name": f"h{number}", "room": room, **more})


def say_and_hear(client: Client, text: str) -> None:
    client.say(text)
    while (client.receive() or {}).get("message") != text:
        pass


def fill_past(server: Server, room: str) -> None:
    """Let a member fill a room's history, and go."""
    with Client(server.address) as client:
        client.send_raw(join(0, room))
        for number in range(40):
            say_and_hear(client, f"{number}" + "x" * 25_000)


Attack = Callable[[Server, Crowd, Memory], None]


def zeros(server: Server, crowd: Crowd, memory: Memory) -> None:
    """Each frame has an error for an answer: one that is not that of the frame before."""
    crowd.send(lambda number: b"\0\0\0\2{}" * 20_000, memory.look)


def half_frames(server: Server, crowd: Crowd, memory: Memory) -> None:
    crowd.send(lambda number: b"\xe6\x78" + b"x" * 58_000, memory.look)


def long_messages(server: Server, crowd: Crowd, memory: Memory) -> None:
    """A quarter speaks, and nobody reads."""
    crowd.send(lambda number: frame("y" * 59_000) * (0 if number % 4 else 2), memory.look)


def private_messages(server: Server, crowd: Crowd, memory: Memory) -> None:
    """Thirty are deaf, and the others speak to these."""

    def said(number: int) -> bytes:
        return b"".join(request(message="z" * 20_000, to=f"h{(number + turn) % 30}") for turn in range(2))

    crowd.send(join, memory.look)
    memory.until(lambda: server.status()["people"] == HOSTILE)
    crowd.send(lambda number: said(number) if number >= 30 else b"", memory.look)
    memory.until(lambda: memory.cut_off() > 0)


def rejoins(server: Server, crowd: Crowd, memory: Memory) -> None:
    """A room's whole past, again and again. A third of them: first the system takes 300 KB for each."""
    crowd.send(lambda number: join(number, "past", after=0) * (0 if number % 3 else 30), memory.look)
    memory.until(lambda: memory.cut_off() > 0)


def taking_along(server: Server, crowd: Crowd, memory: Memory) -> None:
    """All are behind in a room, and go to another one: what they are owed goes with each of them."""
    crowd.send(join, memory.look)
    memory.until(lambda: server.status()["people"] == HOSTILE)
    with Client(server.address) as speaker:
        speaker.send_raw(join(-1))
        for number in range(38):
            say_and_hear(speaker, f"{number}" + "x" * 25_000)
    crowd.send(lambda number: join(number, f"r{number % 8}"), memory.look)
    memory.until(lambda: memory.cut_off() > 0)


class Kind(NamedTuple):
    """What the clients of one kind do, and which bounds hold for that."""

    attack: Attack
    rows: tuple[str, ...]
    # True for a kind that must have come to the bound of answers.
    to_the_bound: bool = False


INPUT = ("connections", "frames", "on the way")
MEMBERS = ("connections", "on the way", "answers", "streams", "history of rooms")
KINDS = [
    Kind(zeros, (*INPUT, "answers")),
    Kind(half_frames, INPUT),
    Kind(long_messages, (*INPUT, "the stream", "history of rooms")),
    Kind(private_messages, (*MEMBERS, "frames"), to_the_bound=True),
    Kind(rejoins, MEMBERS, to_the_bound=True),
    Kind(taking_along, MEMBERS, to_the_bound=True),
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.attack.__name__ for kind in KINDS])
def test_a_thousand_hostile_clients_stay_below_what_the_settings_allow(server: Server, kind: Kind) -> None:
    memory = Memory(server)
    with hostile(server) as crowd:
        kind.attack(server, crowd, memory)
        memory.watch(0.3)
        cut = memory.cut_off()
    grown, allowed = memory.most - memory.before, bound_of(*kind.rows)
    report = (
        f"sent {crowd.sent / 1e6:.1f} MB, {memory.before / 1e6:.0f} to {memory.most / 1e6:.0f} MB of "
        f"{total(ROWS) / 1e6:.0f}, grown by {grown / 1e6:.0f} of {allowed / 1e6:.0f}, {cut} cut off"
    )
    print(f"\n{kind.attack.__name__}: {report}")
    assert memory.most <= total(ROWS), report
    assert grown <= allowed, report
    assert cut or not kind.to_the_bound, f"the bound was not reached: {report}"
    with Client(server.address) as honest:
        say_and_hear(honest, "안녕하세요")
    assert all(each["restarts"] == 0 for each in server.status()["workers"])
