"""What a process of the server asks of the operating system: limits, and to end with its parent.

Linux first; where a system lacks something, the portable half of the same promise is all there is, and the
docstring says which.
"""

import ctypes
import os
import resource
import signal
import sys
import threading
from typing import NoReturn

from mpchat.config import Config
from mpchat.ipc import logs
from mpchat.ipc.worker_lock import hold_as_worker

# prctl(2), linux/prctl.h.
_PR_SET_PDEATHSIG = 1
# What macOS allows although it says "unlimited".
_OPEN_MAX = 10_240


def raise_descriptor_limit() -> int:
    """Raise the soft limit for open descriptors to the hard one; returns what then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_MAX if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
    return wanted


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; exit if that has happened.

    Linux only. Elsewhere the worker's loop, which watches the parent's sentinel, does it alone, so a blocked
    loop outlives its supervisor until the next start ends it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def begin(config: Config, who: str, supervisor: int, workers_lock: str) -> None:
    """Do what each process of the server does first; ``who`` is its name in the log.

    ``supervisor`` is its parent's process id.
    """
    end_with_parent(supervisor)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    hold_as_worker(workers_lock)
    raise_descriptor_limit()
    logs.set_up(config.log_level, who, log_format=config.log_format)
    if config.log_file:
        logs.point_later_at(config.log_file)
    logs.reopen_on_signal(config.log_file)
    logs.dump_on_signal()


def own_thread_starts_children() -> bool:
    """The death signal follows the thread that started the child, so only the main thread may."""
    return threading.current_thread() is threading.main_thread()


def end(code: int) -> NoReturn:
    """End this process with an exit code, once its log is written; the kernel takes back what it holds.

    Python would take all modules apart first, which costs a process of the server 40 to 80 ms of CPU.
    Functions registered with ``atexit`` do not run, and no thread is waited for.
    """
    logs.drain(logs.DRAIN)
    os._exit(code)
