"""Worker lock: the share that each worker holds of its instance's second lock."""

import fcntl
import os


def hold_as_worker(path: str) -> int:
    """Take a worker's share of the second lock, for as long as the process lives. Returns the descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor
