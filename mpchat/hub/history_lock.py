"""History lock: keeps two servers from writing one history file.

The lock is on a file of its own: SQLite's own lock does not say which process holds it, and on some systems a
second kind of lock on the same file would be in its way.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from mpchat.errors import StartError

# Seconds between two tries.
_POLL = 0.02
# Bytes of the lock's file: a process number, and spaces.
_PID_SIZE = 20


def lock_history(path: Path, patience: float) -> int:
    """Lock the history file at ``path``; return the descriptor that holds the lock.

    Waits up to ``patience`` seconds for a server that is just ending. Raises :class:`StartError` when another
    server holds the lock, and ``OSError``.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(f"{path}-lock", flags, 0o600)
    try:
        if not _lock(descriptor, patience):
            holder = os.pread(descriptor, _PID_SIZE, 0).decode(errors="replace").strip()
            raise StartError(
                f"the history file {path} is used by another server, pid {holder or 'unknown'}; "
                "stop that one, or choose another file"
            )
    except BaseException:
        os.close(descriptor)
        raise
    with suppress(OSError):  # a full disk
        os.pwrite(descriptor, f"{os.getpid()}".ljust(_PID_SIZE).encode(), 0)
    return descriptor


def _lock(descriptor: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        else:
            return True
