"""Slot: a place for a worker. Processes come and go in it; its number and its back-off stay.

While its worker is being replaced a slot has two: first the worker that serves and the next one, which
becomes ready; then the new worker, which serves, and the old one, whose connections are moved to others.
"""

from enum import Enum
from random import Random

from mpchat.reactor import Timer
from mpchat.supervisor.restart_policy import BackOff
from mpchat.supervisor.startup import signal_name
from mpchat.supervisor.worker_handle import WorkerHandle


class SlotState(Enum):
    """What a slot's worker is doing."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    # Its connections are moved to other workers; or, at a stop, it posts what it has read and reads no more.
    DRAINING = "DRAINING"
    # It has posted everything, and sends its clients what they are owed.
    STOPPING = "STOPPING"
    # Dead; the next process is started after a pause.
    BACKOFF = "BACKOFF"
    # Dead too often while the server started, which has failed.
    FATAL = "FATAL"


class Slot:
    """One of the places that the setting ``workers`` or a scaling makes."""

    def __init__(self, number: int, random: Random, kind: str = "worker") -> None:
        self.number = number
        # As the log names it.
        self.title = f"{kind} {number}"
        self.state = SlotState.BACKOFF
        # The worker that serves, the worker that will take its place, and the worker that it has replaced.
        self.handle: WorkerHandle | None = None
        self.next: WorkerHandle | None = None
        self.old: WorkerHandle | None = None
        # Its room counts for clients: a worker has served here, and the slot will not be removed.
        self.able = False
        self.back_off = BackOff(random)
        self.restarts = 0
        # The timer of the next start while the slot has no worker, and when it is due (seconds, monotonic).
        self.restart: Timer | None = None
        self.restart_at: float | None = None
        # How the last worker died.
        self.died = ""

    def cancel_restart(self) -> None:
        """Keep the next worker from being started, if that is planned."""
        if self.restart is not None:
            self.restart.cancel()
            self.restart = self.restart_at = None

    @property
    def failing(self) -> bool:
        """True while the slot has no worker that serves, after many that died."""
        return self.back_off.failing and self.state in (SlotState.BACKOFF, SlotState.STARTING)

    @property
    def handles(self) -> list[WorkerHandle]:
        """All its processes."""
        return [each for each in (self.handle, self.next, self.old) if each is not None]


def how_it_ended(code: int | None, missing: str | None = None) -> str:
    """Return in words what an exit code of ``multiprocessing`` says.

    ``missing`` is the path of a part of the program that is gone.
    """
    if code is not None and code < 0:
        return f"killed by {signal_name(-code)}"
    if missing is not None:
        return f"exit code {code}: {missing} is missing; restore it, or stop the server and start it anew"
    return f"exit code {code}"
