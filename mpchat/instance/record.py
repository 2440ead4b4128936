"""Record: what a running server says of itself in a file, and processes identified by more than a pid."""

import os
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

# A word in the command line of every server, by which its process is known.
SERVER = "mpchat.supervisor"
# Two readings of the same process's start may differ by the system's rounding of its boot time, in seconds.
_START_TOLERANCE = 1.5


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """One process, and not another process that got its pid later.

    ``born`` is the start in seconds since the machine's boot: a stepped clock does not change it.
    """

    pid: int
    born: float

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """Return the identity of a running process. Raise ``psutil.NoSuchProcess`` if there is none."""
        return cls(pid, round(psutil.Process(pid).create_time() - psutil.boot_time(), 2))

    def process(self) -> psutil.Process | None:
        """Return the process if it still lives; None if it has ended or its pid is another process's."""
        try:
            process = psutil.Process(self.pid)
            born = process.create_time() - psutil.boot_time()
            alive = abs(born - self.born) < _START_TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, ValueError, OverflowError):
            return None
        return process if alive else None


def _boot() -> str:
    """Identify this boot of the machine: after the next one the same pids and starts may come again."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{psutil.boot_time():.0f}"


class Record(msgspec.Struct, frozen=True):
    """What the running server says of itself: for messages, and to clean up after its sudden death."""

    supervisor: Identity
    started: float
    addresses: list[str]
    version: str
    workers: list[Identity] = []
    boot: str = msgspec.field(default_factory=_boot)


def read_record(path: Path) -> Record | None:
    """Return the record, or None if there is none of this boot, or none that can be read."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if record.boot == _boot() else None


def server_folder(process: psutil.Process) -> str | None:
    """Return the runtime folder of a server's process, which its command line names; None: another program.

    Any program can call itself so: for messages only.
    """
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    # SERVER, the instance's name, its folder: see :mod:`mpchat.cli.launch`.
    after = words[words.index(SERVER) + 1 :] if SERVER in words else []
    return os.path.dirname(after[1]) if len(after) > 1 and os.path.isabs(after[1]) else None


def is_server(identity: Identity) -> bool:
    """Tell whether a recorded supervisor lives and is one; a signal must not reach another program."""
    process = identity.process()
    try:
        return process is not None and SERVER in process.cmdline()
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def write_record(path: Path, record: Record) -> None:
    """Replace the record in one step. Raise ``OSError``."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(record))
    temporary.replace(path)
