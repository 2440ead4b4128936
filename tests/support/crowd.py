"""Many clients at full speed: each with a thread that reads, so that whole streams can be compared."""

import json
import re
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import psutil

from support.harness import Client, Server, frame, serves, settle
from support.waiting import eventually

# Bytes taken from a socket at a time.
READ_SIZE = 256 << 10


class Listener(Client):
    """A client that reads all the time; ``data`` is everything that it was ever sent."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self.data = bytearray()
        # How the stream ended: None while it goes on, "" in order, else what went wrong.
        self.ended: str | None = None
        # Up to where texts that have not come yet were looked for.
        self._searched: dict[bytes, int] = {}
        self._thread = threading.Thread(target=self._listen)

    def listen(self) -> None:
        """Begin to read; from now on nobody else may."""
        self.sock.settimeout(None)
        self._thread.start()

    def _listen(self) -> None:
        try:
            while data := self.sock.recv(READ_SIZE):
                self.data += data
        except OSError as error:
            self.ended = str(error)
        else:
            self.ended = ""

    def heard(self, text: str) -> bool:
        """Say whether a message has come. What was looked at before is not looked at again: while this
        searches megabytes, no thread of the crowd can read."""
        encoded = _encoded(text)
        begin = self._searched.get(encoded, 0)
        end = len(self.data)
        if self.data.find(encoded, begin, end) >= 0:
            return True
        self._searched[encoded] = max(begin, end - len(encoded))
        return False

    @property
    def texts(self) -> list[str]:
        """Every message's text; anything else in the stream fails."""
        return [json.loads(payload)["message"] for payload in payloads(bytes(self.data))]

    def between(self, begin: str, end: str) -> bytes:
        """Return the frames from one message up to, and not including, another."""
        start = self.data.index(_encoded(begin)) - 2
        return bytes(self.data[start : self.data.index(_encoded(end), start) - 2])

    def close(self) -> None:
        """Leave in order, and wait for the thread."""
        with suppress(OSError):
            self.sock.shutdown(2)
        if self._thread.ident is not None:
            self._thread.join()
        self.sock.close()


def _encoded(text: str) -> bytes:
    return json.dumps({"message": text}, ensure_ascii=False, separators=(",", ":")).encode()


def payloads(data: bytes) -> Iterator[bytes]:
    """Cut a stream of whole frames."""
    position = 0
    while position < len(data):
        end = position + 2 + int(struct.unpack_from(">H", data, position)[0])
        assert end <= len(data), "the stream ends inside a frame"
        yield data[position + 2 : end]
        position = end


@contextmanager
def listeners(server: Server, count: int) -> Iterator[list[Listener]]:
    """So many clients in the room, all of them reading."""
    address = server.address
    joined = [Listener(address) for _ in range(count)]
    try:
        settle(joined)
        for each in joined:
            each.listen()
        yield joined
    finally:
        for each in joined:
            each.close()


class Window:
    """Lets senders go on while everybody is at most ``size`` bytes behind what was sent.

    All clients of a test share one process, and a machine with other work to do lets any of its threads
    wait: with a window far below the lag limit a client that is cut off as slow is the server's fault.
    """

    def __init__(self, crowd: Sequence[Listener], size: int) -> None:
        self.size = size
        self._crowd = crowd
        self._begun = [len(each.data) for each in crowd]
        self._sent = 0
        self._lock = threading.Lock()

    def wait(self, sender: "Sender", size: int) -> None:
        """Wait until ``size`` further bytes may be sent, and count them as sent."""
        while not sender.stop.is_set():
            with self._lock:
                if self._sent + size - self._heard() <= self.size:
                    self._sent += size
                    return
            time.sleep(0.001)

    def _heard(self) -> int:
        """How many bytes even the last one has got; those who are gone hold nobody up."""
        return min(
            (
                len(each.data) - begun
                for each, begun in zip(self._crowd, self._begun, strict=True)
                if each.ended is None
            ),
            default=self._sent,
        )


class Sender:
    """Sends ``NAME NUMBER …`` from a thread, as fast as it goes or as its window lets it."""

    def __init__(
        self,
        client: Client,
        name: str,
        texts: Sequence[str],
        chunk: int = 50,
        window: Window | None = None,
    ) -> None:
        self.client, self.name, self.texts, self.chunk = client, name, texts, chunk
        self.window = window
        # Messages that were given to the socket.
        self.sent = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        with suppress(OSError):
            for start in range(0, len(self.texts), self.chunk):
                if self.stop.is_set():
                    return
                part = self.texts[start : start + self.chunk]
                data = b"".join(map(frame, part))
                if self.window is not None:
                    self.window.wait(self, len(data))
                self.client.sock.sendall(data)
                self.sent = start + len(part)


def numbered(name: str, count: int, padding: int = 0) -> list[str]:
    """The texts of one sender; every tenth is ``padding`` characters longer."""
    return [f"{name} {number}" + " " * (padding if number % 10 == 0 else 0) for number in range(count)]


@contextmanager
def sending(
    clients: Sequence[Client], texts: Sequence[Sequence[str]], window: Window | None = None
) -> Iterator[list[Sender]]:
    """Everybody sends at the same time during the block; at its end what is left is not sent any more."""
    senders = [
        Sender(client, str(number), each, window=window)
        for number, (client, each) in enumerate(zip(clients, texts, strict=True))
    ]
    for sender in senders:
        sender.thread.start()
    try:
        yield senders
    finally:
        for sender in senders:
            sender.stop.set()
        for sender in senders:
            sender.thread.join()


def everybody_hears(crowd: Sequence[Listener], text: str, timeout: float = 60.0) -> None:
    def waits(listener: Listener) -> bool:
        return listener.ended is None and not listener.heard(text)

    try:
        eventually(lambda: not any(map(waits, crowd)), f"everybody to hear {text[:40]!r}", timeout)
    except AssertionError as error:
        error.add_note(f"not heard by {[each.address for each in crowd if waits(each)]}")
        raise
    lost = [(number, each.ended) for number, each in enumerate(crowd) if not each.heard(text)]
    assert not lost, f"connections ended before {text[:40]!r}: {lost}"


def by_sender(texts: Sequence[str]) -> dict[str, list[int]]:
    """The numbers that each sender's messages had, in the order of the stream; notices do not count."""
    found: dict[str, list[int]] = {}
    for text in texts:
        name, _, number = text.strip().partition(" ")
        if number.isdigit():
            found.setdefault(name, []).append(int(number))
    return found


def assert_same_stream(crowd: Sequence[Listener], begin: str, end: str) -> list[str]:
    """Every stream is the same from ``begin`` to ``end``; returns the texts."""
    streams = [each.between(begin, end) for each in crowd]
    differing = [number for number, each in enumerate(streams) if each != streams[0]]
    assert not differing, f"streams that differ from the first: {differing}"
    return [json.loads(each)["message"] for each in payloads(crowd[0].between(begin, end))]


def assert_one_order(crowd: Sequence[Listener], counts: dict[str, int], begin: str, end: str) -> None:
    """Every stream is the same from ``begin`` to ``end``, and holds each sender's messages once, in order."""
    found = by_sender(assert_same_stream(crowd, begin, end))
    wrong = {
        name: _first_fault(found.get(name, []), count)
        for name, count in counts.items()
        if found.get(name, []) != list(range(count))
    }
    assert not wrong, f"lost, doubled or reordered: {wrong}"


def _first_fault(numbers: list[int], count: int) -> str:
    for place, number in enumerate(numbers):
        if number != place:
            return f"{number} in place {place}"
    return f"{len(numbers)} of {count}"


def facts(server: Server) -> dict[str, Any]:
    """The server's status."""
    return server.status()


def worker_pids(server: Server) -> list[int]:
    return [each["pid"] for each in facts(server)["workers"] if each["pid"]]


def connections(server: Server) -> list[int]:
    """How many connections each slot's worker has."""
    return [each["connections"] for each in facts(server)["workers"]]


def wait_until_running(server: Server, timeout: float = 30.0) -> dict[str, Any]:
    """Wait until every slot's worker serves."""

    def running() -> dict[str, Any] | None:
        found = facts(server)
        return found if all(map(serves, found["workers"])) else None

    return eventually(running, "every worker to run", timeout)


def all_speak(crowd: Sequence[Listener]) -> None:
    """Have every client say something: only then is its leaving told."""
    for each in crowd:
        each.say(f"{each.address}입니다")
        everybody_hears([each], f"{each.address}입니다")


def leavers_heard(client: Listener) -> int:
    """How many leavers the notices that a client got account for."""
    total = 0
    for notice in re.findall(rb'"message":" Disconnect : ([^"]*)"', client.data):
        counted = re.search(rb"\b(\d+) client", notice)
        total += int(counted[1]) if counted else 1
    return total


def everybody_heard_of_leaving(crowd: Sequence[Listener], count: int) -> None:
    """Wait until the notices account for ``count`` leavers, and no more than that."""
    for each in crowd:
        eventually(partial(_heard_enough, each, count), f"notices about {count} leavers")
        assert leavers_heard(each) == count, re.findall(rb' Disconnect : [^"]*', each.data)


def _heard_enough(client: Listener, count: int) -> bool:
    return leavers_heard(client) >= count


def last_for(seconds: float) -> None:
    """Let a fault last so long: the time itself is the fault."""
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > seconds, "time to pass", seconds + 1)


@contextmanager
def descriptors_given_back(server: Server) -> Iterator[None]:
    """After the block the supervisor and each slot's worker have as many descriptors as before."""
    before = eventually(lambda: steady_descriptors(server), "descriptors that stay as many")
    yield
    eventually(
        lambda: descriptors(server) == before, f"the numbers of descriptors to be {before} again", 10.0
    )


def steady_descriptors(server: Server) -> list[int] | None:
    """Return the numbers of descriptors if none is opened or closed just now: the record may be written."""
    found = descriptors(server)
    last_for(0.05)
    return found if found == descriptors(server) else None


def descriptors(server: Server) -> list[int]:
    found = facts(server)
    pids = [found["pid"], *(each["pid"] for each in found["workers"])]
    return [psutil.Process(pid).num_fds() if pid else 0 for pid in pids]


@contextmanager
def connected(address: tuple[str, int], count: int) -> Iterator[list[Client]]:
    """So many clients that are connected; whether anybody serves them is another question."""
    with ExitStack() as stack:
        yield [stack.enter_context(Client(address)) for _ in range(count)]
