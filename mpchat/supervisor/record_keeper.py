"""Record keeper: keeps the record on disk up to date with the server's addresses and processes.

The record is only information (see :mod:`mpchat.instance.record`): if it cannot be written, the server
goes on.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mpchat import __version__
from mpchat.instance.record import Identity, Record, write_record

log = logging.getLogger("mpchat.supervisor")


def _now(job: Callable[[], None]) -> None:
    job()


class RecordKeeper:
    """Writes the record of this process at every change, and removes it at the end."""

    def __init__(
        self,
        path: Path,
        supervisor: Identity,
        started: float,
        do: Callable[[Callable[[], None]], None] = _now,
    ) -> None:
        """``started`` is in seconds since 1970. Nothing is written yet; ``do`` is how changes get written."""
        self._path = path
        self._supervisor = supervisor
        self._started = started
        self._addresses: list[str] = []
        self._workers: list[Identity] = []
        self._do = do
        # Whether a write is to come that will write what is so by then.
        self._due = False

    @property
    def processes(self) -> list[Identity]:
        """The server's processes, the supervisor first."""
        return [self._supervisor, *self._workers]

    def set_addresses(self, addresses: list[str]) -> None:
        """Record where the server listens."""
        self._addresses = addresses
        self._write_soon()

    def set_workers(self, workers: list[Identity]) -> None:
        """Record the worker processes."""
        self._workers = workers
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._due:
            self._due = True
            self._do(self.write)

    def write(self) -> None:
        """Write the record; an error is logged."""
        self._due = False
        try:  # a new record says which boot it is of, and that may have to be read from a file
            record = Record(self._supervisor, self._started, self._addresses, __version__, self._workers)
            write_record(self._path, record)
        except OSError as error:
            log.warning("record not written: %s: %s", error.strerror, self._path)

    @property
    def in_place(self) -> bool:
        """Tell whether the file is there. Raise ``OSError`` if its folder cannot be read."""
        return self._path.exists()

    def heal(self) -> None:
        """Write the record again if its file is gone. Raise ``OSError`` if its folder cannot be read."""
        if not self.in_place:
            self._write_soon()

    def remove(self) -> None:
        """Remove the record: the server has ended."""
        self._do(self._unlink)

    def _unlink(self) -> None:
        with suppress(OSError):
            self._path.unlink()
