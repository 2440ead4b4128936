"""How many connections fit a worker: a pure function of the descriptor limit."""

# Descriptors that a process needs beside its clients: standard streams, log, lock, queues, selector, control
# connections, and a margin for what libraries open for a moment.
RESERVED_DESCRIPTORS = 64
# select() takes no descriptor number of 1024 and above (FD_SETSIZE).
SELECT_LIMIT = 1024


def connections_per_worker(descriptor_limit: int, multiplexer: str) -> int:
    """Return how many clients one worker can hold under ``descriptor_limit`` (RLIMIT_NOFILE)."""
    if multiplexer == "select":
        descriptor_limit = min(descriptor_limit, SELECT_LIMIT)
    return max(1, descriptor_limit - RESERVED_DESCRIPTORS)
