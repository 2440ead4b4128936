"""The client processes of a run, seen from the parent process.

Starts them, tells them what to do, receives what they report, and ends them. A thread empties each pipe into
a queue, so that no client process ever waits for the parent. The rule: every process that was started here
is gone when the fleet closes.
"""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

from scripts.common.address import Address
from scripts.common.server import HarnessError
from scripts.common.spawning import end, spawn
from scripts.stress.clients import ClientLoop, Plan, Report, Tick, serve

# Seconds that a client process has to end by itself once it has reported.
END_TIMEOUT = 5.0
# Seconds between two looks at the queue, and between two at a server that comes to rest.
LOOK_EVERY = 0.1


@dataclass(eq=False)
class ClientProcess:
    """One client process."""

    plan: Plan
    process: BaseProcess
    pipe: "Pipe[Any, Any]"
    tick: Tick = Tick()  # noqa: RUF009  (immutable)
    report: Report | None = None

    def tell(self, *command: Any) -> None:
        """Send a command, unless the process has reported."""
        if self.report is None:
            with contextlib.suppress(OSError):
                self.pipe.send(command)

    def stop(self) -> None:
        """Stop the process (SIGSTOP): none of its connections reads."""
        if self.report is None and self.process.pid:
            os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process."""
        if self.process.exitcode is None and self.process.pid:
            os.kill(self.process.pid, signal.SIGCONT)

    def count(self, name: str) -> int:
        """Return one of the process's counts, the last one known."""
        return (self.report or self.tick).counts[name]


class Fleet:
    """All client processes of a run."""

    def __init__(self, hear: Callable[[ClientProcess, object], None]) -> None:
        """Call ``hear`` with all that a process reports, from :meth:`look`."""
        self.processes: list[ClientProcess] = []
        self.died: list[tuple[Address, str]] = []  # connections that ended: own address, and why
        self._hear = hear
        self._said: queue.SimpleQueue[tuple[ClientProcess, object]] = queue.SimpleQueue()

    def start(self, loop: type[ClientLoop[Any]], plan: Plan) -> ClientProcess:
        """Start one client process that runs ``loop``."""
        started = ClientProcess(plan, *spawn(serve, loop, plan))
        self.processes.append(started)
        threading.Thread(target=self._listen, args=(started,), daemon=True).start()
        return started

    def tell(self, processes: Iterable[ClientProcess], *command: Any) -> None:
        """Send a command to those of ``processes`` that have not reported yet."""
        for process in processes:
            process.tell(*command)

    def look(self) -> None:
        """Wait a moment, then handle all that the processes have reported."""
        threading.Event().wait(LOOK_EVERY)
        with contextlib.suppress(queue.Empty):
            while True:
                self._handle(*self._said.get_nowait())

    def close(self) -> None:
        """End every client process that has not ended by itself."""
        for each in self.processes:
            if each.report is None:
                each.process.kill()
            end(each.process, END_TIMEOUT)

    def _listen(self, process: ClientProcess) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._said.put((process, process.pipe.recv()))
        self._said.put((process, None))

    def _handle(self, process: ClientProcess, said: object) -> None:
        if isinstance(said, Tick):
            process.tick = said
            self.died += said.died
        elif isinstance(said, Report):
            process.report = said
        elif said is None:
            if process.report is None:
                raise HarnessError(f"the client process {process.plan.name} ended without a report")
            return
        self._hear(process, said)
