"""Lifetime: whether a worker goes on, drains, closes or has to end.

One object that all parts of a worker share. A part reports here what ends the process; the loop looks.
"""

import logging
import os

log = logging.getLogger("mpchat.worker")


class Lifetime:
    """How far a worker's life has got. All of it is one-way: nothing here is taken back."""

    def __init__(self) -> None:
        # True from when no client is read from any more.
        self.draining = False
        # Until when clients are given what they are owed (seconds, monotonic); None while the worker serves.
        self.closing_until: float | None = None
        # True when the loop is to end.
        self.finished = False

    def lose_supervisor(self) -> None:
        """End, because the supervisor has ended."""
        log.warning("the supervisor is gone: worker %d ends", os.getpid())
        self.finished = True

    def lose_handoff(self, error: OSError) -> None:
        """End, because connections cannot be handed over any more."""
        log.warning("no way to the supervisor, %s: worker %d ends", error.strerror, os.getpid())
        self.finished = True
