"""Plain clients that send garbage and check how it is answered.

Each client sends batches of framed inputs: random, mutated, empty, oversized, cut into pieces at random
places. After a batch it sends a message of its own, the proof. When the proof comes back, all before it has
been answered, and the number of rejections must be right. The standard library's ``json`` decides what is
right, not the server's code. Beside them, wild connections send bytes without frames, or half a frame, and
leave.

The rule: garbage costs its sender an error reply and nothing else; the connection stays.
"""

import contextlib
import json
import random
import socket
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.common.frames import HEADER, framed
from scripts.stress.clients import reset_at_close
from scripts.stress.faults import Fault
from scripts.stress.fleet import ClientProcess
from scripts.stress.plain.clients import PlainConnection, PlainLoop, PlainPlan

# Inputs between two proofs: each proof goes to all clients.
BATCH = 10
# The part of the inputs that are the one before once more.
REPEATED = 0.3
# Every so many inputs are a wild connection of their own.
WILD_EVERY = 25
# The largest payload that the server accepts, in bytes; its default.
PAYLOAD_LIMIT = 60_000
# Part of the phase with faults in which the garbage is sent; the rest is for the answers.
SENDING_PART = 0.7
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
    """Return the least and the most rejections of ``payload``: (1, 1), (0, 0) or, undecided, (0, 1).

    Parsers of JSON may differ in repeated keys, values beside the message, and huge numbers.
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
        # A second key of the same name may have hidden a valid message.
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


def some_garbage(chooser: random.Random, count: int) -> list[bytes]:
    """Return so many payloads; some of them come again and again, because the server counts such errors."""
    payloads: list[bytes] = []
    while len(payloads) < count:
        again = payloads and chooser.random() < REPEATED
        payloads.append(payloads[-1] if again else garbage(chooser))
    return payloads


class _Batch:
    """The inputs that one connection has under way."""

    def __init__(self, inputs: list[bytes]) -> None:
        self.inputs = inputs
        self.pieces: list[bytes] = []  # still to be sent, one in each turn
        self.rejections = 0
        self.proof = -1  # number of the own message that ends the batch
        self.proved = False

    def verdict(self) -> str:
        """Return what is wrong with the answers, or nothing."""
        least = sum(expected(payload)[0] for payload in self.inputs)
        most = sum(expected(payload)[1] for payload in self.inputs)
        if least <= self.rejections <= most:
            return ""
        inputs = " ".join(payload[:80].hex() or "-" for payload in self.inputs)
        return f"{self.rejections} rejections, not {least} to {most}, for {inputs}"


class GarbageSenders(PlainLoop):
    """Sends its inputs over its connections until all are answered."""

    def __init__(self, plan: PlainPlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare; ``pipe`` leads to the parent."""
        super().__init__(plan, pipe)
        self._batches: dict[PlainConnection, _Batch] = {}
        self._begun = 0
        self._started = 0.0

    def act(self, now: float) -> None:
        """Begin batches as fast as planned, continue those under way, end those that are proved."""
        if not self.acting or self.complete():
            return
        self._started = self._started or now
        over = max(0.1, self.plan.seconds * SENDING_PART)
        due = self.plan.inputs * min(1.0, (now - self._started) / over)
        for connection in [c for c in self.connections if c.joined]:
            batch = self._batches.get(connection)
            if batch is not None:
                self._continue(connection, batch)
            elif self._begun < due:
                self._begin(connection)

    def _begin(self, connection: PlainConnection) -> None:
        count = min(BATCH, self.plan.inputs - self._begun)
        wild = self._begun // WILD_EVERY != (self._begun + count) // WILD_EVERY
        if wild:
            self._run_wild()
        self._begun += count
        self.counts["inputs"] += wild
        batch = self._batches[connection] = _Batch(some_garbage(self.random, count - wild))
        data = b"".join(map(framed, batch.inputs))
        cuts = sorted(self.random.randrange(len(data) + 1) for _ in range(3))
        batch.pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _continue(self, connection: PlainConnection, batch: _Batch) -> None:
        if connection.out:
            return
        if batch.pieces:
            self.write(connection, batch.pieces.pop(0))
        elif batch.proof < 0:
            batch.proof = connection.number
            self.send(connection)
        elif batch.proved:
            self._end(connection, batch)

    def _end(self, connection: PlainConnection, batch: _Batch) -> None:
        """Count a batch: its proof has come back on this connection, so the rejections have too."""
        del self._batches[connection]
        self.counts["inputs"] += len(batch.inputs)
        self.counts["rejections"] += batch.rejections
        wrong = batch.verdict()
        if wrong:
            self.findings.note("answers", wrong)

    def look(self, connection: PlainConnection, data: bytes) -> list[bytes]:
        """Notice the proof in what comes."""
        frames = super().look(connection, data)
        batch = self._batches.get(connection)
        for stamp in filter(None, map(self.tests.read, frames if batch else [])):
            if batch and stamp[:2] == (connection.sender, batch.proof):
                batch.proved = True
        return frames

    def complete(self) -> bool:
        """Say whether all inputs were answered."""
        return self.counts["inputs"] >= self.plan.inputs

    def rejected(self, connection: PlainConnection, frame: bytes) -> None:
        """Count a rejection for the batch under way."""
        batch = self._batches.get(connection)
        if batch is None:
            super().rejected(connection, frame)
        else:
            batch.rejections += json.loads(frame[HEADER:])["error"].get("times", 1)

    def forget(self, connection: PlainConnection) -> None:
        """Let another connection send as much as this one had under way."""
        batch = self._batches.pop(connection, None)
        if batch is not None:
            self._begun -= len(batch.inputs)
        super().forget(connection)

    def _run_wild(self) -> None:
        """Connect, send bytes that are no frames or half a frame, and leave, now and then with a reset."""
        self.counts["wild"] += 1
        data = self.random.choice(
            [self.random.randbytes(self.random.randrange(1, 4000)), b"\0", b"\0\x20" + VALID[:10]]
        )
        with contextlib.suppress(OSError), socket.create_connection(self.plan.address, WILD_TIMEOUT) as sock:
            if self.random.random() < 0.5:
                reset_at_close(sock)
            sock.sendall(data)


class Garbage(Fault):
    """The process of :class:`GarbageSenders`, which pace themselves."""

    def __init__(self, process: ClientProcess) -> None:
        """Wait for the inputs of ``process``."""
        self.processes = (process,)

    def done(self) -> bool:
        """Say whether all inputs were sent and answered."""
        return self.processes[0].tick.complete

    def facts(self) -> dict[str, Any]:
        """Return what was sent and how it was answered."""
        return {name: self.processes[0].count(name) for name in ("inputs", "rejections", "wild")}
