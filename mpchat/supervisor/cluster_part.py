"""Cluster part: what the rest of the supervisor needs of a server's part in a cluster.

:mod:`mpchat.supervisor.cluster` is that part. It is imported where the setting ``cluster`` is used.
"""

from typing import Protocol

from mpchat.control.answers import Cluster


class ClusterPart(Protocol):
    """A server as one of several hosts."""

    @property
    def serves(self) -> bool:
        """True once this host has caught up with the others."""

    @property
    def away(self) -> str:
        """Why the log of all hosts cannot be reached now; empty: it can."""

    def receive(self, now: float) -> None:
        """Take what the log has; call before the hub's turn."""

    def turn(self, now: float) -> None:
        """Send what is to be put in order; call after the hub's turn."""

    def leave(self) -> None:
        """Take part no longer: what the log has from here on is not for clients of this host."""

    def status(self) -> Cluster | None:
        """Return the cluster as this host sees it; None while it knows nothing."""
