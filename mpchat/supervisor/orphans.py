"""Orphans: ends of processes that are not the server's own, where no init process takes note of them.

In a container the server may be process 1. The kernel gives it each process whose parent has ended, and such
a process stays in the table of processes until process 1 has waited for it. The rule: the ends of the
server's own processes are left to the modules that started them.

Linux only: elsewhere nobody gets the children of others but the system's own process 1.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from multiprocessing import active_children, resource_tracker
from pathlib import Path

import psutil

# prctl(2), linux/prctl.h.
_PR_GET_CHILD_SUBREAPER = 37
# The ends of a process that never runs before the server has its handlers: process 1 has no default ones.
_ENDING = (signal.SIGTERM, signal.SIGINT)
_CHILDREN = Path("/proc/thread-self/children")


def gets_orphans() -> bool:
    """Tell whether the kernel makes this process the parent of orphans."""
    return os.getpid() == 1 or _is_subreaper()


def _is_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    answer = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return answer.value != 0


def end_on_signals() -> None:
    """Let SIGTERM and SIGINT end this process until the server has its handlers.

    The kernel drops signals to process 1 that have no handler.
    """
    if os.getpid() == 1:
        for number in _ENDING:
            signal.signal(number, lambda number, frame: os._exit(128 + number))


def reap() -> int:
    """Take note of the ends of orphans; return how many have ended. Never waits.

    Call it in the thread that starts processes, so that none is just between its start and its list.
    """
    ours = _own_children()
    return sum(_has_ended(pid) for pid in _children() if pid not in ours)


def _own_children() -> Collection[int | None]:
    """Return the processes that multiprocessing waits for.

    It takes note of those of them that have ended, and keeps their exit codes.
    """
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)
    return {tracker, *(each.pid for each in active_children())}


def _children() -> list[int]:
    try:
        return list(map(int, _CHILDREN.read_text().split()))
    except OSError:  # a kernel without this list
        return [each.pid for each in psutil.Process().children()]


def _has_ended(pid: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False
