"""Job thread: does what may take long. A disk can hang, a check costs CPU, and the loop must not wait.

Jobs are done one after the other, in the order in which they came. One such thread writes the supervisor's
files, others check proofs. History has a thread of its own: see :mod:`mpchat.hub.archive`.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from mpchat.reactor import READ, Reactor

# May take as long as it takes.
Job = Callable[[], None]
# Gets the error that a job has raised, or None.
OnDone = Callable[[Exception | None], None]


class JobThread:
    """One thread for all jobs; what follows from a job happens in the loop."""

    def __init__(self, reactor: Reactor, name: str) -> None:
        self._reactor = reactor
        self._jobs: SimpleQueue[tuple[Job, OnDone] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[OnDone, Exception | None]] = SimpleQueue()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        reactor.watch(self._near, READ, self._on_done)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, job: Job, on_done: OnDone = lambda error: None) -> None:
        """Have ``job`` done, and then ``on_done`` called in the loop."""
        self._jobs.put((job, on_done))

    def close(self, timeout: float) -> None:
        """Do all jobs that wait, for at most ``timeout`` seconds; the loop does not turn any more."""
        self._jobs.put(None)
        self._thread.join(timeout)
        self._reactor.forget(self._near)
        self._near.close()
        if not self._thread.is_alive():
            self._far.close()

    def _work(self) -> None:
        while (work := self._jobs.get()) is not None:
            job, on_done = work
            try:
                job()
            except Exception as error:  # noqa: BLE001 (its owner decides in the loop)
                self._done.put((on_done, error))
            else:
                self._done.put((on_done, None))
            with suppress(OSError):  # full: the loop will look anyway
                self._far.send(b"\0")
            del work, job, on_done  # what they hold may be a password, and the next job may come late

    def _on_done(self, mask: int) -> None:
        self._near.recv(4096)
        while not self._done.empty():
            on_done, error = self._done.get()
            on_done(error)
