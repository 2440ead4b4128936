"""The lecture's other half, across processes: a counter that should come out as zero, and a deadlock.

``python -m scripts.lecture sync`` lets one process add 1 and another subtract 1, the same number of times,
to one number in shared memory: first unguarded, then with each kind of guard, with the cost of each.
Then two processes take two locks in opposite orders, and a watchdog finds out.

It is no part of the server, and no benchmark of locks: it shows why mpchat's processes share nothing and why
its instance lock is a file. The rule it keeps: each way is one short function that can be read aloud. The
command is in another module: each of the processes imports this one, and needs neither click nor rich.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray, RawValue
from multiprocessing.synchronize import Barrier, Lock
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.common.spawning import SPAWN

# Seconds until a process that does not end is killed.
DEADLINE_S = 60.0
# Seconds between two looks of the watchdog.
LOOK_S = 0.05


@dataclass(frozen=True)
class Shared:
    """The memory and the locks that the two processes share."""

    counter: ctypes.c_longlong
    lock: Lock
    begin: Barrier
    took_s: "ctypes.Array[ctypes.c_double]"
    folder: str


# ---- the ways: add `change` to the counter `steps` times


def nothing(shared: Shared, change: int, steps: int) -> None:
    """``+=`` reads, adds and writes; a write of the other process in between is lost."""
    for _ in range(steps):
        shared.counter.value += change


def thread_lock(shared: Shared, change: int, steps: int) -> None:
    """A lock for threads guards nothing here: each process has its own."""
    lock = threading.Lock()
    for _ in range(steps):
        with lock:
            shared.counter.value += change


def lock_inside(shared: Shared, change: int, steps: int) -> None:
    """A multiprocessing lock in each step: right; the price is that the two take turns."""
    for _ in range(steps):
        with shared.lock:
            shared.counter.value += change


def lock_outside(shared: Shared, change: int, steps: int) -> None:
    """The same lock around the loop: right and fast, but the second process waits for the first."""
    with shared.lock:
        for _ in range(steps):
            shared.counter.value += change


def spin_lock(shared: Shared, change: int, steps: int) -> None:
    """Asks again and again instead of sleeping: a core is busy for as long as the other process works."""
    for _ in range(steps):
        while not shared.lock.acquire(block=False):
            pass
        shared.counter.value += change
        shared.lock.release()


def file_lock(shared: Shared, change: int, steps: int) -> None:
    """``flock``, the kernel's mutex with a name: two system calls a step; it ends with its process."""
    with open(Path(shared.folder, "mutex"), "w") as file:
        for _ in range(steps):
            fcntl.flock(file, fcntl.LOCK_EX)
            shared.counter.value += change
            fcntl.flock(file, fcntl.LOCK_UN)


def one_call(shared: Shared, change: int, steps: int) -> None:
    """Python has no atomic add; an append to a file is one system call, and comes nearest."""
    mark = b"+" if change > 0 else b"-"
    journal = os.open(Path(shared.folder, "journal"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for _ in range(steps):
        os.write(journal, mark)
    os.close(journal)
    with shared.lock:  # once, at the end: the journal says how often
        shared.counter.value += Path(shared.folder, "journal").read_bytes().count(mark) * change


def own_cells(shared: Shared, change: int, steps: int) -> None:
    """Share nothing: each process counts alone, adds once. Right and fastest: so mpchat's workers count."""
    mine = 0
    for _ in range(steps):
        mine += change
    with shared.lock:
        shared.counter.value += mine


Way = Callable[[Shared, int, int], None]
UNGUARDED: list[Way] = [nothing, thread_lock]
GUARDED: list[Way] = [lock_inside, lock_outside, spin_lock, file_lock, one_call, own_cells]


def measure(way: Way, steps: int) -> tuple[int, float]:
    """Let one process count ``steps`` up and another ``steps`` down in this way.

    Return the value of the counter at the end, and the seconds that the slower process took.
    """
    with TemporaryDirectory(prefix="sync-lab-") as folder:
        counter = RawValue(ctypes.c_longlong, 0)
        shared = Shared(counter, SPAWN.Lock(), SPAWN.Barrier(2), RawArray(ctypes.c_double, 2), folder)
        with running(count, (way, shared, 0, 1, steps), (way, shared, 1, -1, steps)) as processes:
            for process in processes:
                process.join(DEADLINE_S)
                if process.exitcode != 0:
                    raise RuntimeError(f"{way.__name__}: process {process.pid} ended with {process.exitcode}")
        return counter.value, max(shared.took_s)


def count(way: Way, shared: Shared, index: int, change: int, steps: int) -> None:
    """Run one of the two processes."""
    shared.begin.wait(DEADLINE_S)
    began = time.perf_counter()
    way(shared, change, steps)
    shared.took_s[index] = time.perf_counter() - began


@contextlib.contextmanager
def running(target: Callable[..., None], *arguments: tuple[object, ...]) -> Iterator[list[BaseProcess]]:
    """Run ``target`` once for each of ``arguments``; none of the processes outlives the block."""
    processes: list[BaseProcess] = [
        SPAWN.Process(target=target, args=each, daemon=True) for each in arguments
    ]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


# ---- the deadlock

# No lock, on the board: shared memory where each philosopher notes which lock it holds and which it wants.
NONE = -1


def philosopher(index: int, folder: Path, board: "ctypes.Array[ctypes.c_int]", begin: Barrier) -> None:
    """Take lock ``index``, wait until the other process has its own, then ask for that."""
    holds, wants = board_places(index)
    mine, other = folder / f"{index}", folder / f"{1 - index}"
    with open(folder / f"stack-{index}", "w") as stack, open(mine, "a") as first, open(other, "a") as second:
        faulthandler.register(signal.SIGUSR1, stack)
        fcntl.flock(first, fcntl.LOCK_EX)
        board[holds] = index
        begin.wait(DEADLINE_S)
        board[wants] = 1 - index
        fcntl.flock(second, fcntl.LOCK_EX)
        board[wants] = NONE


def board_places(index: int) -> tuple[int, int]:
    """Return where process ``index`` notes the lock that it holds and the lock that it waits for."""
    return 2 * index, 2 * index + 1


def in_a_circle(board: list[int]) -> bool:
    """Say whether each process waits for the lock that the other holds."""
    (holds_0, wants_0), (holds_1, wants_1) = board[:2], board[2:]
    return NONE not in board and wants_0 == holds_1 and wants_1 == holds_0


@dataclass(frozen=True)
class Deadlock:
    """What the watchdog saw: the locks held and wanted, the victim's stack, the survivor's exit code."""

    board: list[int]
    stack: str
    survivor_exit: int | None


def deadlock() -> Deadlock:
    """Make a deadlock, find it, end one process; the kernel frees its lock, and the other goes on."""
    with TemporaryDirectory(prefix="sync-lab-") as name:
        folder, board, begin = Path(name), RawArray(ctypes.c_int, [NONE] * 4), SPAWN.Barrier(2)
        both = [(index, folder, board, begin) for index in (0, 1)]
        with running(philosopher, *both) as (victim, survivor):
            wait_for("deadlock", lambda: in_a_circle(list(board)))
            seen = list(board)
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGUSR1)
            stack = folder / "stack-0"
            wait_for("stack", lambda: stack.read_text().endswith("in <module>\n"))
            victim.kill()
            survivor.join(DEADLINE_S)
            return Deadlock(seen, stack.read_text(), survivor.exitcode)


def wait_for(what: str, look: Callable[[], bool]) -> None:
    """Look until ``look`` finds it."""
    deadline = time.monotonic() + DEADLINE_S
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {what} within {DEADLINE_S:.0f} s")
        time.sleep(LOOK_S)
