"""Budget: what a client may say and cost before it is not read from for a while.

Messages are charged to an allowance (``flood_burst``, ``flood_rate``), all other work to a budget. A client
that has overdrawn one of them pauses until it is made up for.
"""

from mpchat.config import Config
from mpchat.protocol.requests import is_for_history
from mpchat.worker.connection import Connection

# For work that is no plain message, in units of about a microsecond. Charged is about ten times the work, so
# that a hundred clients that do nothing else leave most of a core to the others: a client gets 200 errors or
# 50 short answers a second, and may save up two seconds' worth.
BUDGET = 200_000
BUDGET_RATE = 100_000
# Charged for a byte of an error, sent or only counted, and for a byte of what was wrong: 60 KB of nonsense
# take a millisecond, and have a short error.
ERROR_COST = 8
WRONG_COST = 1 / 16
# Charged for a proof that is checked: 5 at once, later 5 in two seconds. Checks take from the hub's CPU time.
PROOF_COST = 40_000
# Charged for a request; for one for history beside that, because to find a message among thousands that were
# said together takes the hub half a millisecond; for a way into a room, and each part of its past; and for a
# byte of an answer.
REQUEST_COST = 1000
HISTORY_COST = 8000
ENTER_COST = 4000
ANSWER_COST = 1 / 4


def refill(connection: Connection, config: Config, now: float) -> None:
    """Note that a client has sent something, and give it what it has saved up since it did so last."""
    silence = now - connection.heard
    connection.heard = now
    allowance = connection.allowance + silence * config.flood_rate
    connection.allowance = allowance if allowance < config.flood_burst else config.flood_burst
    budget = connection.budget + silence * BUDGET_RATE
    connection.budget = budget if budget < BUDGET else BUDGET


def request_cost(packed: bytes) -> int:
    """Return what a request is charged for, before its answer is."""
    return REQUEST_COST + (HISTORY_COST if is_for_history(packed) else 0)


def charge_answer(connection: Connection, size: int, more: int = 0) -> None:
    """Charge a client for ``size`` bytes of the answer to its request, and for ``more`` than that.

    A long past does not keep it silent for longer than the budget takes to come back.
    """
    connection.budget = max(connection.budget - size * ANSWER_COST - more, -BUDGET)


def pause(connection: Connection, config: Config) -> float:
    """Return for how many seconds a client must be silent that has overdrawn its allowance or its budget."""
    seconds = max(0.0, -connection.budget / BUDGET_RATE)
    if config.flood_rate:
        seconds = max(seconds, -connection.allowance / config.flood_rate)
    return seconds
