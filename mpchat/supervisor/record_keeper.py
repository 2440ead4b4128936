"""Record keeper: keeps the record on disk up to date with the server's addresses and processes.

The record is only information (see :mod:`mpchat.instance.record`): if it cannot be written, the server
goes on.
"""

import logging
from contextlib import suppress
from pathlib import Path

from mpchat import __version__
from mpchat.instance.record import Identity, Record, write_record

log = logging.getLogger("mpchat.supervisor")


class RecordKeeper:
    """Writes the record of this process at every change, and removes it at the end."""

    def __init__(self, path: Path, supervisor: Identity, started: float) -> None:
        """``started`` is in seconds since 1970. Nothing is written yet."""
        self._path = path
        self._supervisor = supervisor
        self._started = started
        self._addresses: list[str] = []
        self._workers: list[Identity] = []

    @property
    def processes(self) -> list[Identity]:
        """The server's processes, the supervisor first."""
        return [self._supervisor, *self._workers]

    def set_addresses(self, addresses: list[str]) -> None:
        """Record where the server listens."""
        self._addresses = addresses
        self.write()

    def set_workers(self, workers: list[Identity]) -> None:
        """Record the worker processes."""
        self._workers = workers
        self.write()

    def write(self) -> None:
        """Write the record; an error is logged."""
        try:  # a new record says which boot it is of, and that may have to be read from a file
            record = Record(self._supervisor, self._started, self._addresses, __version__, self._workers)
            write_record(self._path, record)
        except OSError as error:
            log.warning("record not written: %s: %s", error.strerror, self._path)

    def heal(self) -> None:
        """Write the record again if its file is gone. Raise ``OSError`` if its folder cannot be read."""
        if not self._path.exists():
            self.write()

    def remove(self) -> None:
        """Remove the record: the server has ended."""
        with suppress(OSError):
            self._path.unlink()
