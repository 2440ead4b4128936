"""Slot: a place for a worker. Processes come and go in it; its number and its count of deaths stay."""

import signal
import time
from enum import Enum
from random import Random
from typing import Any

from .handle import Handle
from .policy import Deaths
from .wire import Beat


class SlotState(Enum):
    """What a slot's worker is doing."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    # A stop: it posts what it has read, and reads no more.
    DRAINING = "DRAINING"
    # A stop: it has posted everything, and gives its clients what they are owed.
    STOPPING = "STOPPING"
    # Dead; the next process is started after a pause.
    BACKOFF = "BACKOFF"
    # Dead too often in a row; given up.
    FATAL = "FATAL"


class Slot:
    """One of the places that the setting ``workers`` makes."""

    def __init__(self, number: int, random: Random) -> None:
        self.number = number
        self.state = SlotState.BACKOFF
        self.handle: Handle | None = None
        self.deaths = Deaths(random)
        self.restarts = 0

    @property
    def ready(self) -> Handle | None:
        """The handle of a worker that has said that it is ready, in whatever state it is now."""
        return self.handle if self.handle is not None and self.handle.ready_at is not None else None

    def status(self) -> dict[str, Any]:
        """Return this slot's row of ``mpchat status --json``."""
        handle = self.handle
        beat, before = (handle.beat, handle.beat_before) if handle else (Beat(), Beat())
        span = max(handle.beat_at - handle.beat_before_at, 0.001) if handle else 1.0
        return {
            "slot": self.number,
            "pid": handle.pid if handle else None,
            "state": self.state.value,
            "connections": handle.load if handle else 0,
            "messages_in": beat.messages_in,
            "messages_out": beat.messages_out,
            "in_per_second": (beat.messages_in - before.messages_in) / span,
            "out_per_second": (beat.messages_out - before.messages_out) / span,
            "lag_ms": round(beat.lag * 1000, 3),
            "late": beat.late,
            "silent": time.monotonic() - handle.last_beat if handle else 0.0,
            "ended": dict(beat.ended),
            "rss": handle.memory() if handle else 0,
            "cpu": (beat.cpu - before.cpu) / span,
            "restarts": self.restarts,
        }


def how_it_ended(code: int | None) -> str:
    """Return what an exit code of ``multiprocessing`` says, for people."""
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
