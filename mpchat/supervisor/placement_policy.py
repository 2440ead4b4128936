"""Which worker the next connection goes to: a pure decision.

:class:`~mpchat.supervisor.placement.Placement` asks, and sends the connection there.
"""

from collections.abc import Sequence
from typing import NamedTuple

# Connections in transit to one worker that it has not acked. The kernel queues about 278 one-descriptor
# messages silently towards a process that does not read, and each costs the supervisor a descriptor.
MAX_UNACKED = 253
# A worker that has owed an ack for longer than this (seconds) gets no connection while another can take it.
SLUGGISH = 0.5


class Candidate(NamedTuple):
    """A worker as placement sees it."""

    slot: int
    # Connections that it has, and those in transit to it.
    connections: int
    unacked: int
    # How long the oldest of those has been in transit (seconds); 0.0 if there is none.
    oldest_unacked: float
    # How many connections fit.
    limit: int

    @property
    def load(self) -> int:
        """Connections that it has or is about to have."""
        return self.connections + self.unacked

    @property
    def free(self) -> int:
        """How many more connections fit."""
        return max(0, self.limit - self.load)

    def with_one_more(self) -> "Candidate":
        """Return it with one more connection in transit to it."""
        return self._replace(unacked=self.unacked + 1)


def choose_worker(candidates: Sequence[Candidate], turn: int) -> Candidate | None:
    """Choose the worker for the next connection: the fewest connections, ties in turn.

    None: all are full or owe too many acks. A sluggish worker is chosen only if no other can take it.
    """
    able = [each for each in candidates if each.free and each.unacked < MAX_UNACKED]
    if not able:
        return None
    prompt = [each for each in able if each.oldest_unacked < SLUGGISH] or able
    fewest = min(each.load for each in prompt)
    ties = [each for each in prompt if each.load == fewest]
    return ties[turn % len(ties)]
