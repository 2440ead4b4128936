"""Decisions of the server, as pure functions of what is known: who gets a connection, when to give up.

Nothing here waits, reads a clock or touches a process. The supervisor and the workers ask, and act.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from mpchat.config import MOST_WORKERS

# Descriptors that a process needs beside its clients: standard streams, log, lock, queues, selector, control
# connections, and a margin for what libraries open for a moment.
RESERVED_DESCRIPTORS = 64
# select() takes no descriptor number of 1024 and above (FD_SETSIZE).
SELECT_LIMIT = 1024
# Un-acked connections on their way to one worker. The kernel queues about 278 one-descriptor messages
# silently towards a process that does not read, and each costs the supervisor a descriptor.
MAX_UNACKED = 253
# A worker that has owed an ack for longer than this (seconds) gets nothing new while others do better.
SLUGGISH = 0.5

# The fullest and the emptiest worker may differ by so many connections or by this share of the fullest's.
SPREAD_LEAST = 2
SPREAD_SHARE = 0.05
# From what difference on connections are moved unasked, and for how long (seconds) it must have lasted.
UNEVEN_LEAST = 8
UNEVEN_SHARE = 0.2
UNEVEN_FOR = 3.0

# First pause before a dead worker is replaced, its growth, and its ceiling, in seconds. The first is short:
# a worker killed by hand should be back before anybody looks.
BACKOFF_FIRST = 0.1
BACKOFF_FACTOR = 2.0
BACKOFF_MOST = 30.0
# A worker that served for this long (seconds) was all right: its next death starts the count anew.
PROVEN = 10.0
# Deaths in a row, none of them proven, after which a slot is given up.
DEATHS_TO_FATAL = 6
# The same while the server starts: a mistake that kills every worker should be told at once.
DEATHS_AT_START = 3


class Candidate(NamedTuple):
    """A worker as placement sees it: open connections and those on their way, and for how long (seconds)."""

    slot: int
    connections: int
    unacked: int
    oldest_unacked: float
    limit: int

    def with_one_more(self) -> "Candidate":
        """Return it with one more connection on its way."""
        return Candidate(self.slot, self.connections, self.unacked + 1, self.oldest_unacked, self.limit)


def place(candidates: Sequence[Candidate], turn: int) -> Candidate | None:
    """Choose the worker for the next connection: the fewest connections, ties in turn.

    None: all are full or owe too many acks. A sluggish worker is chosen only if no other can take it.
    """
    able = [
        each
        for each in candidates
        if each.connections + each.unacked < each.limit and each.unacked < MAX_UNACKED
    ]
    if not able:
        return None
    prompt = [each for each in able if each.oldest_unacked < SLUGGISH] or able
    fewest = min(each.connections + each.unacked for each in prompt)
    ties = [each for each in prompt if each.connections + each.unacked == fewest]
    return ties[turn % len(ties)]


def spread_allowed(most: int) -> int:
    """Return by how much the fullest worker, with ``most`` connections, may exceed the emptiest."""
    return max(SPREAD_LEAST, int(most * SPREAD_SHARE))


def surpluses(loads: Sequence[int]) -> list[int]:
    """Return how many connections each worker should give away so that all have about the same.

    Nothing at all while the fullest and the emptiest differ by no more than :func:`spread_allowed`.
    """
    if not loads or max(loads) - min(loads) <= spread_allowed(max(loads)):
        return [0] * len(loads)
    fair = -(-sum(loads) // len(loads))
    return [max(0, load - fair) for load in loads]


def uneven(loads: Sequence[int]) -> bool:
    """Tell whether workers' loads differ so much that connections should be moved without anybody asking.

    Far more than :func:`spread_allowed`, so that what comes and goes does not move anybody.
    """
    return bool(loads) and max(loads) - min(loads) > max(UNEVEN_LEAST, max(loads) * UNEVEN_SHARE)


def workers_after(workers: int, difference: int) -> int:
    """Return how many workers there should be when so many more, or fewer, are asked for."""
    return min(max(1, workers + difference), MOST_WORKERS)


def connections_per_worker(descriptor_limit: int, multiplexer: str) -> int:
    """Return how many clients one worker can hold under ``descriptor_limit`` (RLIMIT_NOFILE)."""
    if multiplexer == "select":
        descriptor_limit = min(descriptor_limit, SELECT_LIMIT)
    return max(1, descriptor_limit - RESERVED_DESCRIPTORS)


class Deaths:
    """Counts one slot's deaths in a row and decides what follows each."""

    def __init__(self, random: Random) -> None:
        self.in_a_row = 0
        self._random = random

    def after(self, lived: float, most: int = DEATHS_TO_FATAL) -> float | None:
        """Take note of a death after ``lived`` seconds of service (0: it was never ready).

        Returns the pause in seconds before the next try, or None when the slot should be given up. The pause
        doubles with each death and is drawn from its upper half, so that slots do not come back in step.
        """
        self.in_a_row = 1 if lived >= PROVEN else self.in_a_row + 1
        if self.in_a_row >= most:
            return None
        pause = min(BACKOFF_MOST, BACKOFF_FIRST * BACKOFF_FACTOR ** (self.in_a_row - 1))
        return pause * self._random.uniform(0.5, 1.0)
