"""Record: what a running server says of itself in a file, and processes known by more than their number."""

from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

# Two readings of the same process's start may differ by the system's rounding of its boot time, in seconds.
_START_TOLERANCE = 1.5


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
        return process is not None and "mpchat.supervisor" in process.cmdline()
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def write_record(path: Path, record: Record) -> None:
    """Replace the record in one step. Raises ``OSError``."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(record))
    temporary.replace(path)
