"""Lifecycle: where the server is between its start and its end, and why it failed."""

import time
from enum import Enum

from mpchat.errors import MpchatError, StartError


class State(Enum):
    """STARTING → RUNNING → STOPPING; a start that fails goes to STOPPING at once."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"


class Lifecycle:
    """The server's state; its owner changes it."""

    def __init__(self) -> None:
        self.state = State.STARTING
        # Seconds since 1970.
        self.started = time.time()
        self._started = time.monotonic()
        # What the end is to be reported as; None: as asked for.
        self.failure: MpchatError | None = None

    @property
    def uptime(self) -> float:
        """Seconds since the start, whatever the wall clock did meanwhile."""
        return time.monotonic() - self._started

    @property
    def running(self) -> bool:
        """True while the server serves, and is not about to end."""
        return self.state is State.RUNNING

    @property
    def stopping(self) -> bool:
        """True from the first request to stop on."""
        return self.state is State.STOPPING

    def must_be_running(self) -> None:
        """Raise :class:`StartError` unless the server runs: then nothing about it can be changed."""
        if not self.running:
            raise StartError(f"the server is {self.state.value.lower()}; nothing has changed")

    def fail(self, text: str) -> None:
        """Take note of why the server ends: it could not start, or no worker can be kept alive."""
        self.failure = StartError(text) if self.state is State.STARTING else MpchatError(text)
