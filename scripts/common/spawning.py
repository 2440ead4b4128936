"""Child processes that run a function of a script: start them, end them.

Each of them imports this module, so it imports little: psutil, which only the parent needs, stays outside.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

from scripts.common.descriptors import raise_descriptor_limit

SPAWN = multiprocessing.get_context("spawn")
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def spawn(work: Callable[..., None], *arguments: Any) -> "tuple[BaseProcess, Pipe[Any, Any]]":
    """Run ``work(pipe, *arguments)`` in a new process, and return the process and the other end of the pipe.

    The new process ends when ``work`` returns or finds the other end closed, and at the latest with this one.
    """
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_child, args=(work, theirs, *arguments), daemon=True)
    # Ctrl-C reaches the whole group, and this process decides; the child has the mask from its first moment.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        theirs.close()
    return process, ours


def _child(work: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    raise_descriptor_limit()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the other end is closed
        work(*arguments)


def end(process: BaseProcess, patience_s: float) -> None:
    """Wait until a spawned process has ended; kill it when that takes longer than ``patience_s``."""
    process.join(patience_s)
    if process.exitcode is None:
        process.kill()
        process.join()
    process.close()
