"""Lifetime: whether a process below the supervisor goes on, drains, closes or has to end.

One object that all parts of the process share. A part reports here what ends it; the loop looks.
"""

import logging
import os


class Lifetime:
    """How far the life of a worker, or of a TLS process, has got. Nothing here is taken back."""

    def __init__(self, kind: str = "worker") -> None:
        """``kind`` is what the log calls the process."""
        self.title = f"{kind} {os.getpid()}"
        self.log = logging.getLogger(f"mpchat.{kind.partition(' ')[0].lower()}")
        # True from when no client is read from any more.
        self.draining = False
        # Until when clients are given what they are owed (seconds, monotonic); None while it serves.
        self.closing_until: float | None = None
        # True when the loop is to end.
        self.finished = False

    def lose_supervisor(self) -> None:
        """End, because the supervisor has ended."""
        self.log.warning("the supervisor is gone: %s ends", self.title)
        self.finished = True

    def lose_handoff(self, error: OSError) -> None:
        """End, because connections cannot be handed over any more."""
        self.log.warning("no way to the supervisor, %s: %s ends", error.strerror, self.title)
        self.finished = True
