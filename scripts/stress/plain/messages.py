"""The test messages of plain clients. Pure.

A test message is ``{"message":"RUN:SENDER:NUMBER:SENT:PAD"}``, compact: a server that decodes and encodes it
again returns the same bytes. SENT is the monotonic clock in nanoseconds, which all processes of a machine
share. SENT always has the same number of digits, so a client can begin a frame before its time is known.
"""

import time
from typing import NamedTuple

from scripts.common.frames import HEADER, framed

# Sender of the marks that the parent process sends between two phases of a run.
MARK_SENDER = 0
_END = b'"}'


class Stamp(NamedTuple):
    """The fields of a test message."""

    sender: int
    number: int
    sent: int  # ns, monotonic


class TestMessages:
    """Writes and recognises the test messages of one run."""

    __test__ = False  # for pytest: this is no test case

    def __init__(self, run: str) -> None:
        """Prepare for the run named ``run``: other runs' messages are not recognised."""
        self.run = run
        self._prefix = f'{{"message":"{run}:'.encode()

    def frame(self, sender: int, number: int, size: int = 0, sent: int | None = None) -> bytes:
        """Return a test message's frame, padded to ``size`` bytes of payload; ``sent``: now by default."""
        sent = time.monotonic_ns() if sent is None else sent
        payload = b"%b%d:%d:%019d:" % (self._prefix, sender, number, sent)
        return framed(payload + b"x" * (size - len(payload) - len(_END)) + _END)

    def head(self, sender: int, number: int, size: int = 0) -> bytes:
        """Return the bytes of a test message's frame up to SENT: they are known before it is sent."""
        names = f"{sender}:{number}:"
        return self.frame(sender, number, size, sent=0)[: HEADER + len(self._prefix) + len(names)]

    def read(self, frame: bytes) -> Stamp | None:
        """Return the fields of ``frame``, or None when it is no test message of this run."""
        if not frame.startswith(self._prefix, HEADER):
            return None
        fields = frame[HEADER + len(self._prefix) :].split(b":", 3)
        try:
            return Stamp(int(fields[0]), int(fields[1]), int(fields[2]))
        except (ValueError, IndexError):
            return None

    def shown(self, frame: bytes) -> str:
        """Name a frame in a finding: ``sender:number``, or the beginning of its payload."""
        stamp = self.read(frame)
        return f"{stamp.sender}:{stamp.number}" if stamp else repr(frame[HEADER : HEADER + 60])
