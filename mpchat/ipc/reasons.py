"""Reasons: how a connection ends, in words that workers and hub share."""

# How a connection ends whose client has left in order: its name is free at once.
CLOSED = "closed"


# How one ends over which the server itself has stumbled; the log has the rest.
INTERNAL_ERROR = "internal error"


# How one ends that has fallen too far behind.
SLOW = "slow consumer"
