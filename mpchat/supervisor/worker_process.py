"""Worker process: starts a worker or a TLS process, and what the supervisor can ask the system about it.

What runs in the process is in :mod:`mpchat.worker.worker` and :mod:`mpchat.tls.terminator`.
"""

import multiprocessing
import os
import pickle
import signal
import socket
from collections.abc import Callable
from multiprocessing import resource_tracker, spawn
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

import psutil

from mpchat.config import Config
from mpchat.instance.record import Identity
from mpchat.ipc import os_process
from mpchat.tls import boot as tls_boot
from mpchat.worker import boot as worker_boot

# The folder of the package that workers import.
_PACKAGE = str(Path(__file__).parents[1])


class ProcessKind(NamedTuple):
    """What a process is called, and where it begins."""

    title: str
    main: Callable[..., None]


WORKER = ProcessKind("worker", worker_boot.main)
TLS = ProcessKind("TLS process", tls_boot.main)


class WorkerEnds(NamedTuple):
    """The worker's ends of its queues, with their window in bytes, and of its hand-off socket."""

    queues: tuple[object, object, int]
    handoff: socket.socket


class WorkerProcess:
    """One process, from its start until it has ended and was waited for."""

    def __init__(
        self, config: Config, slot: int, ends: WorkerEnds, workers_lock: Path, kind: ProcessKind = WORKER
    ) -> None:
        """Start the process. Raise ``OSError`` if the system has no room for it.

        Only from the main thread: the kernel's death signal follows the thread.
        """
        assert os_process.own_thread_starts_children()
        self._process = _spawn(config, slot, ends, workers_lock, kind)
        assert self._process.pid is not None
        self.identity = Identity.of(self._process.pid)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.identity.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process has ended."""
        return self._process.sentinel

    def memory(self) -> int:
        """Return resident memory in bytes; 0 if the process has ended or no descriptor is free to look."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except (psutil.Error, OSError):
            return 0

    def signal(self, number: int) -> None:
        """Send a signal, if the process has not ended. The pid is its own until it is waited for.

        Every start of another process waits for those that have ended.
        """
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def wait(self) -> int | None:
        """Wait for the end; return the exit code, negative for a signal."""
        self._process.join()
        return self._process.exitcode

    def close(self) -> None:
        """Wait for the end and release what the process has left here."""
        self._process.join()
        self._process.close()


def missing_part() -> str | None:
    """Return the path of the interpreter or of this package if a new worker would not find it any more.

    Both go when a virtual environment is removed or built anew at another place while the server runs.
    """
    paths = (os.fsdecode(spawn.get_executable()), _PACKAGE)
    return next((each for each in paths if not os.path.exists(each)), None)


def _spawn(
    config: Config, slot: int, ends: WorkerEnds, workers_lock: Path, kind: ProcessKind
) -> SpawnProcess:
    # Ctrl-C reaches the whole process group. It is blocked around the start, so it is blocked in the child
    # from its birth, and not lost here. The resource tracker unblocks it when it starts: so it starts first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        child = multiprocessing.get_context("spawn").Process(
            target=kind.main,
            args=(pickle.dumps(config), slot, os.getpid(), ends.queues, ends.handoff, str(workers_lock)),
            name=f"mpchat-{kind.title}-{slot}",
        )
        child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child
