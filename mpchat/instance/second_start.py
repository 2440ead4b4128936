"""Second start: whether a server or a start holds an instance's lock already, and what the second is told.

The lock itself is :mod:`mpchat.instance.lock`. A command looks here before it starts a server's process, so
that a refused start costs no process. The look decides nothing when the lock is free: the server's own try
does. It imports little, for the same reason.
"""

import os
import time
from pathlib import Path

from mpchat.config import Config
from mpchat.errors import AlreadyRunningError
from mpchat.instance.paths import Paths, option_text, paths, prepare_folder
from mpchat.instance.record import Record, is_server, read_record

# Seconds that a start waits for a lock whose holder is not known to live: the holder may be just ending.
LOCK_PATIENCE = 0.5
# The same when the holder looks alive: a process that was just killed looks alive for some milliseconds.
LIVING_PATIENCE = 0.15
# Seconds between two looks at a lock that is held.
_POLL = 0.05
_LOCKS = Path("/proc/locks")


def refuse_second_start(config: Config) -> None:
    """Raise :class:`AlreadyRunningError` if the lock is held, and stays so for as long as a start waits.

    Raise :class:`StartError` if the instance's folder cannot be used. Return if the lock is free, or if it is
    not known who holds it.
    """
    places = paths(config.name, config.runtime_dir)
    prepare_folder(places.folder)
    deadline = None
    while is_locked(places.lock):
        if deadline is None:
            deadline = time.monotonic() + patience(places)
        if time.monotonic() >= deadline:
            raise already_running(config, living_record(places))
        time.sleep(_POLL)


def is_locked(path: Path) -> bool:
    """Tell whether a process of this container holds a lock on a file, by the kernel's list of locks.

    To try the lock instead would make a server's own try in the same moment fail. Linux only; elsewhere, and
    where the list names files otherwise (btrfs), the lock counts as free.
    """
    try:
        lock = os.stat(path)
        held = _LOCKS.read_text()
    except OSError:
        return False
    # "1: FLOCK  ADVISORY  WRITE 4711 fe:00:2392539 0 EOF", proc_locks(5).
    file = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    return any(words[1:2] == ["FLOCK"] and file in words for words in map(str.split, held.splitlines()))


def living_record(places: Paths) -> Record | None:
    """Return the record if the server that wrote it lives."""
    record = read_record(places.record)
    return record if record is not None and is_server(record.supervisor) else None


def patience(places: Paths) -> float:
    """Return the seconds that a start waits for a holder to go."""
    return LIVING_PATIENCE if living_record(places) else LOCK_PATIENCE


def already_running(config: Config, record: Record | None) -> AlreadyRunningError:
    """Return the error for a second start; it says which server runs, where, and how to stop it."""
    options = option_text(config.name, config.runtime_dir)
    if record is None:
        return AlreadyRunningError(
            f'mpchat "{config.name}" is just being started by another command; see: mpchat status{options}'
        )
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
    where = ", ".join(record.addresses) or "no address yet"
    return AlreadyRunningError(
        f'mpchat "{config.name}" is already running: pid {record.supervisor.pid}, since {since}, '
        f"at {where}; stop it with: mpchat stop{options}"
    )
