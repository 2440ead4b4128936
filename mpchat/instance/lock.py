"""Lock: what makes a server the only one of its name on this machine.

The lock is the truth: a ``flock`` on a file that is never removed. The supervisor holds it as long as it
lives, and the kernel releases it however the supervisor dies. The record beside it is only information, for
messages. Only a server that starts ever tries the lock: a probe would make a concurrent start fail. The
command ``start`` looks first whether the lock is held, without a try (:mod:`mpchat.instance.second_start`).

On Linux a name in the kernel's own table (an abstract socket) stands behind the lock, in case the file is
deleted or renamed. Any user can take such a name, and containers that share a network share the table. So a
name that another user or another container has does not count.

A free lock does not mean that no process serves: workers can outlive a killed supervisor for a moment. Each
worker holds a shared lock on a second file, and a new supervisor waits for that one too.
"""

import fcntl
import hashlib
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import Timeout, UnixFileLock

from mpchat.config import Config
from mpchat.errors import StartError
from mpchat.instance.paths import paths, prepare_folder
from mpchat.instance.record import read_record
from mpchat.instance.second_start import already_running, living_record, patience

# Seconds that the workers of a killed supervisor get to end by themselves, and to be gone after SIGKILL.
SURVIVORS_PATIENCE = 2.0
SURVIVORS_KILLED = 2.0
# Seconds between two tries for the kernel's name or for the second lock.
_POLL = 0.02


class Guard:
    """Holds the instance's name from :meth:`acquire` to the end of the process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.paths = paths(config.name, config.runtime_dir)
        self._lock = self._new_lock()
        self._kernel_name: socket.socket | None = None
        self._workers_lock: int | None = None
        # Whether a process that is no server of this folder has the kernel's name: the lock stands alone.
        self.alone = False

    def _new_lock(self) -> UnixFileLock:
        return UnixFileLock(
            self.paths.lock,
            mode=0o600,
            fallback_to_soft=False,
            preserve_lock_file=True,
            thread_local=False,
        )

    def acquire(self) -> None:
        """Take the name. Raise :class:`AlreadyRunningError` or :class:`StartError` if that is impossible.

        Blocks, for some seconds at most; see the constants.
        """
        prepare_folder(self.paths.folder)
        self._acquire_lock()
        self._acquire_kernel_name()
        self._wait_for_survivors()

    def _acquire_lock(self) -> None:
        try:
            if self._try_lock(0) or self._try_lock(patience(self.paths)):
                return
        except OSError as error:
            raise StartError(
                f"cannot lock {self.paths.lock}: {error.strerror or error}; it must be a plain file that you "
                "may write: remove it if no server uses it, or choose another place with --runtime-dir"
            ) from None
        raise already_running(self.config, living_record(self.paths))

    def _try_lock(self, timeout: float) -> bool:
        try:
            self._lock.acquire(timeout=timeout)
        except Timeout:
            return False
        return True

    def _acquire_kernel_name(self) -> None:
        """Take the name in the kernel's table too: it ends with the process, and cannot be deleted before."""
        if sys.platform != "linux":
            return
        place = f"{os.getuid()}:{self.paths.folder.resolve()}"
        name = "\0mpchat-" + hashlib.sha256(place.encode()).hexdigest()[:32]
        self._kernel_name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        deadline = time.monotonic() + patience(self.paths)
        while True:
            try:
                self._kernel_name.bind(name)
                return
            except OSError:
                if time.monotonic() <= deadline:
                    time.sleep(_POLL)
                elif self._is_ours(name):
                    self.release()
                    raise already_running(self.config, living_record(self.paths)) from None
                else:
                    self.alone = True
                    return

    def _is_ours(self, name: str) -> bool:
        """Tell whether a server of this user and this folder has the kernel's name, or whether it may be one.

        A process that cannot be looked at belongs to another user, or to a container.
        """
        if living_record(self.paths) is not None:
            return True
        try:
            found = psutil.net_connections("unix")
        except psutil.Error:
            return True
        shown = name.replace("\0", "@")
        holders = [each.pid for each in found if str(each.laddr) == shown and each.pid]
        return any(_uses(each, self.paths.folder) for each in holders)

    def _wait_for_survivors(self) -> None:
        """Wait for the workers of a killed supervisor; kill, by identity, those that do not end."""
        try:
            self._workers_lock = os.open(self.paths.workers, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StartError(f"cannot open {self.paths.workers}: {error.strerror}; remove it") from None
        if self._workers_gone(SURVIVORS_PATIENCE):
            return
        record = read_record(self.paths.record)
        processes = [process for each in (record.workers if record else []) if (process := each.process())]
        survivors = [each for each in processes if _holds(each, self.paths.workers)]
        for process in survivors:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if not self._workers_gone(SURVIVORS_KILLED):
            pids = ", ".join(str(each.pid) for each in survivors) or "unknown"
            raise StartError(
                f"workers of the server before this one still run (pid {pids}) and hold {self.paths.workers}"
            )

    def _workers_gone(self, patience: float) -> bool:
        assert self._workers_lock is not None
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self._workers_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(_POLL)
            else:
                fcntl.flock(self._workers_lock, fcntl.LOCK_UN)
                return True

    @property
    def in_place(self) -> bool:
        """Tell whether the lock's file is still there, and the same."""
        with suppress(OSError):
            return os.path.samestat(self.paths.lock.lstat(), os.fstat(self._lock_descriptor))
        return False

    def heal(self) -> bool:
        """Take the lock again if its file was deleted or replaced; return True if that was done."""
        if self.in_place:
            return False
        fresh = self._new_lock()
        with suppress(OSError, StartError, Timeout):
            prepare_folder(self.paths.folder)
            fresh.acquire(timeout=0)
            self._lock.release()
            self._lock = fresh
            return True
        return False

    @property
    def _lock_descriptor(self) -> int:
        descriptor = self._lock._context.lock_file_fd
        assert descriptor is not None
        return descriptor

    def release(self) -> None:
        """Release the locks; call last."""
        self._lock.release()
        if self._kernel_name is not None:
            self._kernel_name.close()
        if self._workers_lock is not None:
            os.close(self._workers_lock)


def _uses(pid: int, folder: Path) -> bool:
    """Tell whether a process is this user's, and finds this same folder at its path: no other container."""
    try:
        if psutil.Process(pid).uids().effective != os.geteuid():
            return False
        return os.path.samestat(os.stat(f"/proc/{pid}/root{folder.resolve()}"), folder.stat())
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except (psutil.Error, OSError):
        return True


def _holds(process: psutil.Process, path: Path) -> bool:
    """Tell whether a process has a file open: without that, the record alone does not prove what it is."""
    try:
        return any(each.path == str(path.resolve()) for each in process.open_files())
    except psutil.Error:
        return False
