"""Child processes of a script: start them, read their CPU time and memory, end them.

The rule it keeps: what a script starts, it ends, by its own process id, whatever happens in between.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import psutil

# Where ``-m mpchat`` and ``-m scripts.NAME`` find this checkout, installed or not.
CHECKOUT = Path(__file__).resolve().parents[2]
# Seconds until a process must have ended after SIGTERM; then it is killed.
STOP_S = 10.0
# Seconds between two looks at a condition that is waited for.
LOOK_S = 0.02


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` from the checkout until the end of the block; write its output to ``log``."""
    before = psutil.Process().children()
    process: subprocess.Popen[bytes] | None = None
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
                # Ctrl-C in the terminal reaches the script alone, which then stops its children in order.
                start_new_session=True,
            )
            yield process
        finally:
            # A signal may have come before the line above knew the process: the system knows it.
            _stop([each for each in psutil.Process().children() if each not in before])
            if process is not None:
                process.wait()


def _stop(processes: Sequence[psutil.Process]) -> None:
    """End ``processes`` and all below them, by force where that takes too long."""
    family = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
            process.terminate()
    wait_until_gone(family, STOP_S)
    kill(family)


def wait_until_gone(processes: Iterable[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Wait until ``processes`` have ended, at most for ``patience_s``; return those that still run."""
    deadline = time.monotonic() + patience_s
    while (left := [each for each in processes if _lives(each)]) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return left


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill those of ``processes`` that run; psutil knows a reused process id from the old one."""
    for process in filter(_lives, processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _lives(process: psutil.Process) -> bool:
    """Say whether a process runs. A zombie does not, and its new parent may collect it late or never."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def last_line(log: Path) -> str:
    """Return the last line that a program wrote to ``log``."""
    return log.read_text(errors="replace").strip().rpartition("\n")[2] or "it said nothing"


def cpu_ns(process: psutil.Process) -> int:
    """Return the CPU time of all threads, ended threads included, exact to the nanosecond on Linux.

    ``/proc/PID/stat`` counts in ticks of 10 ms, ``/proc/PID/task/*/schedstat`` forgets ended threads; the
    clock of ``clock_getcpuclockid(3)`` does neither. Python has no such call, but the clock's number is
    documented: the complement of the process id, shifted left by three bits, and 2 for the scheduler's clock.
    """
    if sys.platform == "linux":
        try:
            return time.clock_gettime_ns((~process.pid << 3) | 2)
        except OSError:
            return 0  # it ended just now
    times = process.cpu_times()
    return int((times.user + times.system) * 1e9)


def resident_bytes(process: psutil.Process) -> int:
    """Return the memory of a process; shared pages are divided among their users where Linux tells how."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
