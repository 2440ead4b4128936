"""Moderation file: keeps bans and mutes over restarts, and shares them between servers that name one file.

Each change writes the whole file anew beside its place and puts it there in one step: a crash leaves the old
or the new file. It is small, because an operator types every rule. Before a change the file is locked and
read again, so that no server undoes what another one has written.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from mpchat.errors import MpchatError, StartError
from mpchat.hub.moderation import Moderation, Rule

# Seconds that a change waits for another server that is writing the file: a write takes milliseconds. Past
# that the change is written with a later look.
LOCK_PATIENCE = 0.2
# Seconds between two tries.
_POLL = 0.01

log = logging.getLogger("mpchat.hub")

# Raises :class:`MpchatError` for a file that others may write, and ``OSError``.
Check = Callable[[], object]


def trusted() -> None:
    """Check nothing: no other user may write into the instance's folder."""


def read_moderation(path: Path, check: Check = trusted) -> Moderation:
    """Return what is kept; nothing when there is no file.

    Raises :class:`StartError` for a file that cannot be read, or that ``check`` refuses: a server without its
    bans would let banned clients in again.
    """
    try:
        check()
        return _read(path) or Moderation()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(
            f"cannot read the bans in {path}: {error}; mend the file, or move it away to begin without"
        ) from None
    except MpchatError as error:
        raise StartError(f"bans: {error}") from None


class ModerationFile:
    """The file of a running server, and the rules that this server could not write yet."""

    def __init__(self, path: Path, check: Check = trusted) -> None:
        """Begin; ``check`` is asked before each reading and writing."""
        self.path = path
        self._check = check
        # The file as it was last read: its identity, size and time of change. None: there was none.
        self._seen = self._stamp()
        # Rules that the file lacks, by table and key; None stands for a rule to be removed.
        self._unwritten: dict[tuple[str, str], Rule | None] = {}
        # Why the file could not be read or written; each reason is logged once.
        self._fault = ""
        # That reason was the check's: it ends without a change of the file.
        self._refused = False

    def change(self, rules: Mapping[tuple[str, str], Rule | None], mine: Moderation) -> None:
        """Write rules by table and key, or remove them (None). ``mine`` are the rules that hold here by now.

        Raises :class:`MpchatError` when that fails; a later look tries again.
        """
        self._unwritten.update(rules)
        try:
            self._check()
            self._write(mine, LOCK_PATIENCE)
        except (OSError, MpchatError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MpchatError(
                f"it holds until the server stops, but could not be written to {self.path}: {_reason(error)}"
            ) from None

    def look(self, rules: Mapping[tuple[str, str], Rule | None], mine: Moderation) -> Moderation | None:
        """Return the rules that should hold if the file has changed since it was last read, else None.

        Write ``rules`` and what waits to be written, and a file that is gone. ``mine`` are the rules that
        hold here.
        """
        self._unwritten.update(rules)
        try:
            self._check()
            found = self._stamp()
            gone = found is None and (mine.bans or mine.mutes)
            if gone or self._unwritten:
                self._write(mine, 0.0)
                log.warning("written again, with all bans and mutes: %s", self.path)
                found = self._stamp()
            if found == self._seen:
                if self._refused:
                    self._fault, self._refused = "", False
                return None
            self._seen = found
            kept = _read(self.path)
            self._fault = ""
        except (OSError, MpchatError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._refused = isinstance(error, MpchatError)
            self._complain(_reason(error))
            return None
        return kept

    def _complain(self, fault: str) -> None:
        if fault != self._fault:
            log.error("bans neither read nor written, those of before hold, %s: %s", fault, self.path)
            self._fault = fault

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _write(self, mine: Moderation, patience: float) -> None:
        """Put what waits into the file as it is now; without a file, write all of ``mine``."""
        with _locked(self.path.parent, patience):
            rules = _read(self.path)
            if rules is None:
                rules = mine
            else:
                rules.forget_ended(time.time(), kept=mine)
                for (table, key), rule in self._unwritten.items():
                    rules.put(table, key, rule)
            _replace(self.path, rules)
        self._unwritten.clear()
        self._fault = ""


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _read(path: Path) -> Moderation | None:
    """Return the rules in the file, None when there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Moderation).normal()
    except FileNotFoundError:
        return None


@contextmanager
def _locked(folder: Path, patience: float) -> Iterator[None]:
    """Hold the lock of a folder: the file itself is replaced, and a file for the lock would stay behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, moderation: Moderation) -> None:
    """Replace the file in one step, readable for its owner only."""
    fresh = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(moderation)))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, path)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise
