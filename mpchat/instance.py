"""Instance: what makes a server the only one of its name on this machine.

The lock is the truth: a ``flock`` on a file that is never removed, held by the supervisor as long as it
lives, released by the kernel however it dies. The record beside it is only information, for messages. On
Linux a name in the kernel's own table (an abstract socket) stands behind the lock, for the case that
somebody deletes or renames the file. Only ``start`` ever tries the lock: a probe from another command would
make a concurrent start lose.

The lock being free does not mean that nobody serves: workers can outlive a killed supervisor for a moment.
Each holds a shared lock on a second file, and a new supervisor waits for it.
"""

import fcntl
import hashlib
import os
import shlex
import socket
import stat
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import platformdirs
import psutil
from filelock import Timeout, UnixFileLock

from .config import Config
from .errors import AlreadyRunningError, StartError

# Seconds that a start waits for a lock whose holder is not known to live: it may be on its way out.
LOCK_PATIENCE = 0.5
# The same when the holder looks alive: a process that was just killed does too, for some milliseconds.
LIVING_PATIENCE = 0.15
# Seconds that a start gives the workers of a killed supervisor to end by themselves, then after SIGKILL.
SURVIVORS_PATIENCE = 2.0
SURVIVORS_KILLED = 2.0
# Two readings of the same process's start may differ by the system's rounding of its boot time, in seconds.
_START_TOLERANCE = 1.5
# Seconds between two tries for the second lock.
_POLL = 0.02


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """One process, and not another one that got its number later.

    ``born`` is the start in seconds since the machine's boot: a stepped clock does not change it.
    """

    pid: int
    born: float

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """Raises ``psutil.NoSuchProcess`` when there is none."""
        return cls(pid, round(psutil.Process(pid).create_time() - psutil.boot_time(), 2))

    def process(self) -> psutil.Process | None:
        """Return the process if it still is this one and alive."""
        try:
            process = psutil.Process(self.pid)
            born = process.create_time() - psutil.boot_time()
            alive = abs(born - self.born) < _START_TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, ValueError, OverflowError):
            return None
        return process if alive else None


def _boot() -> str:
    """Name this run of the machine: numbers and starts of processes may come again after the next boot."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{psutil.boot_time():.0f}"


class Record(msgspec.Struct, frozen=True):
    """What the running server says of itself, for messages and for cleaning up after its sudden death."""

    supervisor: Identity
    started: float
    addresses: list[str]
    version: str
    workers: list[Identity] = []
    boot: str = msgspec.field(default_factory=_boot)


class Paths(NamedTuple):
    """Where an instance keeps its files, all in one folder of mode 0700."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def workers(self) -> Path:
        return self.folder / "workers.lock"

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    @property
    def control(self) -> Path:
        return self.folder / "control.sock"

    @property
    def bans(self) -> Path:
        return self.folder / "bans.json"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"


def paths(name: str, runtime_dir: str) -> Paths:
    """Return an instance's paths; touches nothing."""
    base = Path(runtime_dir).absolute() if runtime_dir else _user_runtime_folder()
    return Paths(base / name)


def _user_runtime_folder() -> Path:
    with warnings.catch_warnings():  # that XDG_RUNTIME_DIR is not set is no news to anybody
        warnings.simplefilter("ignore")
        try:
            return platformdirs.user_runtime_path("mpchat")
        except OSError:
            return Path(tempfile.gettempdir()) / f"mpchat-{os.getuid()}"


def option_text(name: str, runtime_dir: str) -> str:
    """Return the options that address this instance as they go behind a command; none for the default."""
    options = "" if name == "default" else f" --name {name}"
    return options + (f" --runtime-dir {shlex.quote(runtime_dir)}" if runtime_dir else "")


def prepare_folder(folder: Path) -> None:
    """Create the instance's folder, or check that it is ours alone. Raises :class:`StartError`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status, parent = folder.lstat(), folder.parent.stat()
    except OSError as error:
        raise StartError(
            f"cannot make the folder {folder}: {error.strerror}; choose another with --runtime-dir"
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise StartError(f"{folder} is not a folder; remove it, or choose another with --runtime-dir")
    if status.st_uid != os.geteuid():
        raise StartError(f"{folder} belongs to another user; choose another with --runtime-dir")
    if status.st_mode & 0o077:
        raise StartError(f"others may enter {folder}; close it with: chmod 700 {folder}")
    if parent.st_uid not in (os.geteuid(), 0) or (
        parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX
    ):
        raise StartError(f"others may replace what is in {folder.parent}; choose another with --runtime-dir")


def read_record(path: Path) -> Record | None:
    """Return the record, or None if there is none that makes sense: it is only information."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if record.boot == _boot() else None


def is_server(identity: Identity) -> bool:
    """Tell whether a recorded supervisor lives and is one: before it gets a signal, not only by number."""
    process = identity.process()
    try:
        return process is not None and "mpchat.server" in process.cmdline()
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def write_record(path: Path, record: Record) -> None:
    """Replace the record in one step. Raises ``OSError``."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(record))
    temporary.replace(path)


def already_running(config: Config, record: Record | None) -> AlreadyRunningError:
    """Return the error for a second start: name, pid, since when, where, and how to stop it."""
    options = option_text(config.name, config.runtime_dir)
    if record is None:
        return AlreadyRunningError(
            f'mpchat "{config.name}" is just being started by somebody else; see: mpchat status{options}'
        )
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
    where = ", ".join(record.addresses) or "no address yet"
    return AlreadyRunningError(
        f'mpchat "{config.name}" is already running: pid {record.supervisor.pid}, since {since}, '
        f"at {where}; stop it with: mpchat stop{options}"
    )


class Guard:
    """Holds the instance's name from :meth:`acquire` to the end of the process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.paths = paths(config.name, config.runtime_dir)
        self._lock = self._new_lock()
        self._kernel_name: socket.socket | None = None
        self._workers_lock: int | None = None

    def _new_lock(self) -> UnixFileLock:
        return UnixFileLock(
            self.paths.lock,
            mode=0o600,
            fallback_to_soft=False,
            preserve_lock_file=True,
            thread_local=False,
        )

    def acquire(self) -> None:
        """Become the only one, or raise :class:`AlreadyRunningError` or :class:`StartError`."""
        prepare_folder(self.paths.folder)
        self._acquire_lock()
        self._acquire_kernel_name()
        self._wait_for_survivors()

    def _acquire_lock(self) -> None:
        try:
            if self._try_lock(0) or self._try_lock(self._patience()):
                return
        except OSError as error:
            raise StartError(
                f"cannot lock {self.paths.lock}: {error.strerror or error}; it must be a plain file that you "
                "may write: remove it if nobody uses it, or choose another place with --runtime-dir"
            ) from None
        raise already_running(self.config, self._living_record())

    def _living_record(self) -> Record | None:
        record = read_record(self.paths.record)
        return record if record is not None and is_server(record.supervisor) else None

    def _patience(self) -> float:
        return LIVING_PATIENCE if self._living_record() else LOCK_PATIENCE

    def _try_lock(self, timeout: float) -> bool:
        try:
            self._lock.acquire(timeout=timeout)
        except Timeout:
            return False
        return True

    def _acquire_kernel_name(self) -> None:
        """Take the name in the kernel's table too. It goes with the process, and nobody can delete it."""
        if sys.platform != "linux":
            return
        place = f"{os.getuid()}:{self.paths.folder.resolve()}"
        name = "\0mpchat-" + hashlib.sha256(place.encode()).hexdigest()[:32]
        self._kernel_name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        deadline = time.monotonic() + self._patience()
        while True:
            try:
                self._kernel_name.bind(name)
                return
            except OSError:
                if time.monotonic() > deadline:
                    self.release()
                    raise already_running(self.config, self._living_record()) from None
                time.sleep(_POLL)

    def _wait_for_survivors(self) -> None:
        """Wait for workers of a supervisor that was killed; end by identity those that do not go."""
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

    def heal(self) -> bool:
        """Take the lock again if somebody deleted or replaced its file; returns True if that was done."""
        held = os.fstat(self._lock_descriptor)
        with suppress(OSError):
            status = self.paths.lock.lstat()
            if (status.st_dev, status.st_ino) == (held.st_dev, held.st_ino):
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
        """Give the name free, last of all."""
        self._lock.release()
        if self._kernel_name is not None:
            self._kernel_name.close()
        if self._workers_lock is not None:
            os.close(self._workers_lock)


def _holds(process: psutil.Process, path: Path) -> bool:
    """Tell whether a process has a file open: only then a record's word for what it is counts."""
    try:
        return any(each.path == str(path.resolve()) for each in process.open_files())
    except psutil.Error:
        return False


def hold_as_worker(path: str) -> int:
    """Take a worker's share of the second lock, for as long as the process lives. Returns the descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor
