"""The test messages of a stress run, and frames as the checker sees them. Pure.

Written apart from ``mpchat.protocol`` on purpose: a checker that shares the server's decoder would share its
mistakes. Every test message is ``{"message":"RUN:SENDER:NUMBER:SENT:PAD"}``, compact, so that a server that
decodes and encodes again gives the same bytes back. SENT is the monotonic clock in nanoseconds, which all
processes of one machine share; it always has as many digits, so that a frame can be begun before its time.
"""

import time
from typing import NamedTuple

# Bytes of a frame's length field.
HEADER = 2
# Sender of the marks that the parent puts between the phases of a run.
HERALD = 0
_END = b'"}'
# What every reply to one client alone begins with, after the length.
ERROR_PREFIX = b'{"error"'


class Test(NamedTuple):
    """What a test message says of itself."""

    sender: int
    number: int
    sent: int  # ns, monotonic


class Talk:
    """Writes and recognises the test messages of one run."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._prefix = f'{{"message":"{run}:'.encode()

    def frame(self, sender: int, number: int, size: int = 0, sent: int | None = None) -> bytes:
        """Return a test message of now, padded to ``size`` bytes of payload."""
        sent = time.monotonic_ns() if sent is None else sent
        payload = b"%b%d:%d:%019d:" % (self._prefix, sender, number, sent)
        payload += b"x" * (size - len(payload) - len(_END)) + _END
        return len(payload).to_bytes(HEADER, "big") + payload

    def head(self, sender: int, number: int, size: int = 0) -> bytes:
        """Return the bytes of a test message's frame up to SENT: they are known before it is sent."""
        names = f"{sender}:{number}:"
        return self.frame(sender, number, size, sent=0)[: HEADER + len(self._prefix) + len(names)]

    def read(self, frame: bytes) -> Test | None:
        """Return what ``frame`` says, or None when it is no test message of this run."""
        if not frame.startswith(self._prefix, HEADER):
            return None
        fields = frame[HEADER + len(self._prefix) :].split(b":", 3)
        try:
            return Test(int(fields[0]), int(fields[1]), int(fields[2]))
        except (ValueError, IndexError):
            return None


def split_frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Cut ``data``, which begins with a frame, into whole frames and what is left of the last."""
    frames = []
    at = 0
    size = len(data)
    while size - at >= HEADER:
        end = at + HEADER + (data[at] << 8 | data[at + 1])
        if end > size:
            break
        frames.append(data[at:end])
        at = end
    return frames, data[at:]


def is_error(frame: bytes) -> bool:
    """Say whether ``frame`` is a reply to one client, which no other client gets."""
    return frame.startswith(ERROR_PREFIX, HEADER)


def shown(frame: bytes, talk: Talk) -> str:
    """Name a frame in a finding: ``sender:number``, or the beginning of what it says."""
    test = talk.read(frame)
    return f"{test.sender}:{test.number}" if test else repr(frame[HEADER : HEADER + 60])
