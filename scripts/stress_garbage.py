"""Clients that send garbage and watch what comes of it.

Each sends batches of framed inputs: random, mutated, empty, oversized, cut into pieces at random places.
After each batch it sends a message of its own; when that comes back, all before it has been dealt with,
and the number of refusals must be right. What is right is decided here with the standard library's ``json``,
not with the server's code. Beside them, wild connections send bytes without frames, or half a frame, and go.

The rule: garbage costs its sender an error reply and nothing else; the connection lives on.
"""

import contextlib
import json
import random
import socket
import struct
from typing import Any

from stress_clients import Connection, Crowd, Plan
from stress_frames import HEADER, split_frames

# Inputs between two messages that prove that the connection is alive: each proof goes to everybody.
BATCH = 10
# Every so many inputs are a wild connection of their own.
WILD_EVERY = 25
# The largest payload that the server takes, in bytes; its default.
PAYLOAD_LIMIT = 60_000
# Batches that are kept when the answers to them were wrong.
MAX_WRONG = 5
# Seconds for a wild connection to be accepted.
WILD_TIMEOUT = 5.0

VALID = b'{"message":"garbage, but valid: \\u00e9 \xea\xb0\x80"}'
TEMPLATES = (
    VALID,
    b'{"message": "spaces" , "other": [1, 2, {"a": null}]}',
    b'{"message":7}',
    b'{"message":null}',
    b'["message"]',
    b'"message"',
    b"{}",
    b"",
    b"{",
    b"null",
    b'{"message":"\xff\xfe"}',
    b'{"message":"\\ud800"}',
    b'{"message":"\x00"}',
    b'{"Message":"case"}',
    b'{"message":"a"}{"message":"b"}',
    b'{"message":"no end',
    b"\xef\xbb\xbf" + VALID,
    b"[" * 5000,
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
)


def expected(payload: bytes) -> tuple[int, int]:
    """Return the least and the most refusals of ``payload``: (1, 1), (0, 0) or, undecided, (0, 1).

    Undecided is what parsers of JSON may differ in: keys twice, what stands beside the message, huge numbers.
    """
    if len(payload) > PAYLOAD_LIMIT:
        return 1, 1
    try:
        value = json.loads(payload.decode(), parse_constant=_refuse)
    except RecursionError:
        return 0, 1
    except ValueError:
        return 1, 1
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        # A second key of the same name may have hidden a message that was one.
        return (0, 1) if payload.count(b'"message"') > 1 else (1, 1)
    if len(value) > 1 or payload.count(b"message") > 1:
        return 0, 1
    try:
        value["message"].encode()
    except UnicodeEncodeError:
        return 1, 1
    return 0, 0


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def garbage(chooser: random.Random) -> bytes:
    """Return one payload that a server should not trust."""
    kind = chooser.random()
    if kind < 0.25:
        return chooser.randbytes(chooser.randrange(200))
    if kind < 0.28:
        return b"x" * chooser.randrange(PAYLOAD_LIMIT + 1, 0x10000)
    payload = bytearray(chooser.choice(TEMPLATES))
    for _ in range(chooser.randrange(4)):
        place = chooser.randrange(len(payload) + 1)
        change = chooser.randrange(3)
        if change == 0:
            payload[place:place] = chooser.randbytes(chooser.randrange(1, 4))
        elif change == 1:
            del payload[place : place + chooser.randrange(1, 9)]
        elif place < len(payload):
            payload[place] ^= 1 << chooser.randrange(8)
    return bytes(payload)


class _Batch:
    """What one connection has under way."""

    def __init__(self) -> None:
        self.inputs: list[bytes] = []
        self.pieces: list[bytes] = []  # still to be sent, one in each sweep
        self.refused = 0
        self.proof = -1  # number of the own message that ends the batch
        self.proved = False

    def verdict(self) -> str:
        """Return what is wrong with the answers, or nothing."""
        least = sum(expected(payload)[0] for payload in self.inputs)
        most = sum(expected(payload)[1] for payload in self.inputs)
        if least <= self.refused <= most:
            return ""
        inputs = " ".join(payload[:80].hex() or "-" for payload in self.inputs)
        return f"{self.refused} refusals, not {least} to {most}, for {inputs}"


class Garbage(Crowd):
    """Sends its inputs over its connections until all are answered."""

    by_frame = True

    def __init__(self, plan: Plan, pipe: Any) -> None:
        super().__init__(plan, pipe)
        self._batches: dict[Connection, _Batch] = {}
        self._begun = 0
        self._answered = 0
        self._refused = 0
        self._wild = 0
        self._wrong: list[str] = []
        self._wrong_count = 0
        self._started = 0.0

    def tick(self, now: float) -> None:
        """Begin batches as fast as planned, go on with those under way, end those that are proved."""
        if not self.sending:
            return
        self._started = self._started or now
        due = self.plan.inputs * min(1.0, (now - self._started) / self.plan.over)
        for connection in [c for c in self.connections if c.joined]:
            batch = self._batches.get(connection)
            if batch is not None:
                self._go_on(connection, batch)
            elif self._begun < due:
                self._begin(connection)
        self.sending = self._answered < self.plan.inputs

    def _begin(self, connection: Connection) -> None:
        batch = self._batches[connection] = _Batch()
        count = min(BATCH, self.plan.inputs - self._begun)
        if self._begun // WILD_EVERY != (self._begun + count) // WILD_EVERY:
            self._run_wild()
            count -= 1
            self._begun += 1
            self._answered += 1
        batch.inputs = [garbage(self.random) for _ in range(count)]
        self._begun += count
        data = b"".join(len(payload).to_bytes(HEADER, "big") + payload for payload in batch.inputs)
        cuts = sorted(self.random.randrange(len(data) + 1) for _ in range(3))
        batch.pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _go_on(self, connection: Connection, batch: _Batch) -> None:
        if connection.out:
            return
        if batch.pieces:
            self.write(connection, batch.pieces.pop(0))
        elif batch.proof < 0:
            batch.proof = connection.number
            self.send(connection)
        elif batch.proved:
            self._end(connection, batch)

    def _end(self, connection: Connection, batch: _Batch) -> None:
        """The proof has come back on this connection, so the refusals have too."""
        del self._batches[connection]
        self._answered += len(batch.inputs)
        self._refused += batch.refused
        wrong = batch.verdict()
        if wrong:
            self._wrong_count += 1
            self._wrong = [*self._wrong, wrong][:MAX_WRONG]

    def look(self, connection: Connection, data: bytes) -> bytes:
        """Notice the proof in what comes."""
        data = super().look(connection, data)
        batch = self._batches.get(connection)
        for test in filter(None, map(self.talk.read, split_frames(data)[0] if batch else [])):
            if batch and (test.sender, test.number) == (connection.sender, batch.proof):
                batch.proved = True
        return data

    def complete(self) -> bool:
        """Say whether all inputs were answered."""
        return self._answered >= self.plan.inputs

    def refused(self, connection: Connection, frame: bytes) -> None:
        """Count a refusal for the batch under way."""
        batch = self._batches.get(connection)
        if batch is None:
            super().refused(connection, frame)
        else:
            batch.refused += 1

    def leave(self, connection: Connection, reset: bool = False) -> None:
        """Take back what a connection had under way when it died, so that another one sends as much."""
        batch = self._batches.pop(connection, None)
        if batch is not None:
            self._begun -= len(batch.inputs)
        super().leave(connection, reset)

    def _run_wild(self) -> None:
        """Connect, send bytes that are no frames or half of one, and go, now and then with a reset."""
        self._wild += 1
        data = self.random.choice(
            [self.random.randbytes(self.random.randrange(1, 4000)), b"\0", b"\0\x20" + VALID[:10]]
        )
        with contextlib.suppress(OSError), socket.create_connection(self.plan.address, WILD_TIMEOUT) as sock:
            if self.random.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(data)

    def extra(self) -> dict[str, Any]:
        """Return what was sent and how it was answered."""
        return {
            "inputs": self._answered,
            "refused": self._refused,
            "wild": self._wild,
            "wrong": self._wrong_count,
            "wrong_examples": self._wrong,
        }
