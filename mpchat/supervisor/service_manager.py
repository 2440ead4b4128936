"""Service manager: the program that has started the server, such as systemd: what it is told, what it gives.

A server in the background, or in a terminal, has none: :class:`ServiceManager` is that case, and does
nothing. :mod:`mpchat.supervisor.starter` finds one that listens, :mod:`mpchat.supervisor.systemd`.
"""

import math
import socket
from collections.abc import Callable
from typing import NamedTuple

from mpchat.errors import MpchatError


class GivenSockets(NamedTuple):
    """The variables ``LISTEN_FDS`` and ``LISTEN_FDNAMES``: how many sockets there are, and their names."""

    fds: str
    names: str


class ServiceManager:
    """A service manager that listens to nothing; ``given`` says which sockets it has opened."""

    # Seconds between two beats that it wants, at most.
    beat_every = math.inf

    def __init__(self, given: GivenSockets | None = None) -> None:
        self._given = given
        # Returns how the server is, as one line.
        self.describe: Callable[[], str] = str

    def take_listeners(self) -> list[socket.socket]:
        """Return the listening sockets that it has opened, most often none; call once.

        They stay open with it when this process ends. Raise :class:`StartError` for a descriptor by which no
        client can come in.
        """
        if self._given is None:
            return []
        from mpchat.supervisor.given_listeners import take_listeners

        return take_listeners(*self._given)

    def ready(self) -> None:
        """Say that every worker can serve."""

    def reloading(self) -> None:
        """Say that a reload begins."""

    def reloaded(self) -> None:
        """Say that a reload has ended; the description tells of one that has failed."""

    def stopping(self, why: str) -> None:
        """Say that the server is about to end."""

    def failed(self, error: MpchatError) -> None:
        """Say why the server ends with an exit code other than 0."""

    def beat(self, now: float) -> None:
        """Say that the loop turns, when that is due; ``now`` is monotonic (seconds)."""

    def close(self) -> None:
        """Close what it needs; call last."""
