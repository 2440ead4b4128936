"""Systemd: tells a service manager how the server is, by the protocol of sd_notify(3).

Nothing here waits. What the service manager must hear (ready, reloading, stopping) is kept while its socket
is full, and sent with the next beat. What it may miss (beats, the status line) is not kept.
"""

import logging
import math
import os
import socket
import time
from collections import deque
from enum import Enum

from mpchat.errors import MpchatError
from mpchat.supervisor.service_manager import GivenSockets, ServiceManager
from mpchat.text import visible

# Seconds between two status lines, at least, and characters of one.
STATUS_EVERY = 10.0
STATUS_LENGTH = 500
# While the server starts, reloads or stops it asks this often for so much time (both in seconds): each of its
# steps has a deadline of its own, and a service manager's limit may be shorter than all of them together.
EXTEND_EVERY = 10.0
EXTEND_BY = 30
# Seconds between two beats at least, whatever WATCHDOG_USEC says; and how much earlier than due one may come,
# because the round that sends it comes each second at most.
BEAT_LEAST = 0.05
BEAT_EARLY = 1.0
# Messages that are kept while none can be sent: each change of state is one.
KEPT = 8

log = logging.getLogger("mpchat.supervisor")


class Phase(Enum):
    """What the service manager was told last."""

    STARTING = "starting"
    SERVING = "serving"
    RELOADING = "reloading"
    STOPPING = "stopping"


def watchdog_seconds(period: str, pid: str) -> float | None:
    """Return within how many seconds a beat is wanted; None: no beat is wanted of this process.

    ``period`` is in microseconds; an empty ``pid`` means any process.
    """
    if pid not in ("", str(os.getpid())) or not (period.isascii() and period.isdigit()) or len(period) > 18:
        return None
    return int(period) / 1e6 or None


class Systemd(ServiceManager):
    """A service manager that listens at a datagram socket."""

    def __init__(
        self, address: str, watchdog: float | None = None, given: GivenSockets | None = None
    ) -> None:
        """``address`` is a path, or begins with ``@``: an abstract socket. ``watchdog`` is in seconds."""
        super().__init__(given)
        self.beat_every = max(BEAT_LEAST, watchdog / 2) if watchdog else math.inf
        # Messages that could not be sent since the last one that was.
        self.failures = 0
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._phase = Phase.STARTING
        self._unsent: deque[str] = deque(maxlen=KEPT)
        self._status = ""
        # When each was sent last (seconds, monotonic).
        self._beaten_at = self._status_at = self._extended_at = -math.inf

    def ready(self) -> None:
        """Say that every worker can serve."""
        self._phase = Phase.SERVING
        self._must_tell("READY=1", f"MAINPID={os.getpid()}", self._status_line(self.describe()))

    def reloading(self) -> None:
        """Say that a reload begins, and when, so that it is known for which request it is."""
        if self._phase is not Phase.STOPPING:
            self._phase = Phase.RELOADING
            now = f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
            self._must_tell("RELOADING=1", now, self._status_line("reloading"))

    def reloaded(self) -> None:
        """Say that a reload has ended: also when it failed, the server serves."""
        if self._phase is not Phase.STOPPING:
            self._phase = Phase.SERVING
            self._must_tell("READY=1", self._status_line(self.describe()))

    def stopping(self, why: str) -> None:
        """Say that the server is about to end."""
        self._phase = Phase.STOPPING
        self._must_tell("STOPPING=1", self._status_line(f"stopping: {why}"))

    def failed(self, error: MpchatError) -> None:
        """Say why the server ends; the number of the system's error is there if one was the cause."""
        number = _errno_of(error)
        numbers = [f"ERRNO={number}"] if number else []
        self._must_tell(self._status_line(str(error)), *numbers, f"EXIT_STATUS={int(error.exit_code)}")

    def beat(self, now: float) -> None:
        """Send what is due."""
        self._send_kept()
        early = min(BEAT_EARLY, self.beat_every / 2)
        if self.beat_every < math.inf and now - self._beaten_at >= self.beat_every - early:
            self._beaten_at = now
            self._send("WATCHDOG=1")
        if self._phase is not Phase.SERVING and now - self._extended_at >= EXTEND_EVERY:
            self._extended_at = now
            self._send(f"EXTEND_TIMEOUT_USEC={EXTEND_BY * 1_000_000}")
        if self._phase is Phase.SERVING and now - self._status_at >= STATUS_EVERY:
            self._tell_status(now)

    def _tell_status(self, now: float) -> None:
        """Say how the server is, if that has changed."""
        self._status_at = now
        before = self._status
        if (line := self._status_line(self.describe())) != before:
            self._send(line)

    def _status_line(self, text: str) -> str:
        self._status = f"STATUS={visible(text)[:STATUS_LENGTH]}"
        return self._status

    def _must_tell(self, *lines: str) -> None:
        self._unsent.append("\n".join(lines))
        self._send_kept()

    def _send_kept(self) -> None:
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()

    def _send(self, message: str) -> bool:
        try:
            self._socket.sendto(message.encode(errors="backslashreplace"), self._address)
        except (OSError, ValueError) as error:  # full, gone, or no path
            self.failures += 1
            if self.failures == 1:
                log.warning("service manager not told: %s: %s", error, self._address.replace("\0", "@", 1))
            return False
        if self.failures:
            log.info("service manager told again, after %d messages that it did not get", self.failures)
            self.failures = 0
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _errno_of(error: BaseException | None) -> int | None:
    """Return the number of the system's error that has led to this one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
