"""History file: one SQLite database with the rooms' history, and all of mpchat's SQL.

Not here: when to write, and what to do when that fails (:mod:`mpchat.hub.archive`). Everything here blocks,
and raises ``sqlite3.Error``, ``OSError`` or :class:`UnusableFile`. A file of another program or format, or a
broken one, is left as it is: never changed, never removed.

It uses a write-ahead log that is synced at every commit (``synchronous=FULL``): a commit that returned
survives a crash of the process and of the machine. With ``NORMAL`` a crash of the machine would lose pages
written since the last checkpoint, up to a thousand, and not only the last batch.
"""

import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from mpchat.hub.history import RUN_OVERHEAD, Run
from mpchat.ipc.shares import highest_share
from mpchat.protocol.names import name_key

# The application in SQLite's header: "mpch".
APPLICATION_ID = 0x6D706368
# Raised when the tables change.
FORMAT = 1
# Seconds to wait for another program's lock on the database: a backup, or a user's sqlite3.
BUSY_PATIENCE = 1.0
# Bytes that the write-ahead log may keep on disk after a checkpoint.
LOG_KEPT = 4 << 20
# Epochs before a crash that are remembered (see Numbering.earlier).
EARLIER_KEPT = 8

MOVE_AWAY = "move it away and a new one is begun"

_TABLES = f"""
CREATE TABLE numbering (
    owner TEXT NOT NULL, clean INTEGER NOT NULL, epoch TEXT NOT NULL, floor INTEGER NOT NULL
);
CREATE TABLE earlier (id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, last BLOB NOT NULL);
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last INTEGER NOT NULL, at REAL NOT NULL
);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, room INTEGER NOT NULL, seq INTEGER NOT NULL, count INTEGER NOT NULL,
    at REAL NOT NULL, sender TEXT NOT NULL, sum INTEGER NOT NULL, frames BLOB NOT NULL, UNIQUE (room, seq)
);
CREATE INDEX runs_by_time ON runs (at);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""


class UnusableFile(Exception):
    """The file cannot be used and is left alone; ``str()`` names the cause and the next step."""


class Numbering(NamedTuple):
    """Which numbers have been given to messages, and what they mean."""

    # The run of a server that wrote the file last, as random text.
    owner: str
    # Within an epoch a number of a room is given to one message only.
    epoch: str
    # Whether `last` has every number that was given: the file was closed in order.
    clean: bool = False
    # The number of the last message, by room.
    last: Mapping[str, int] = {}
    # No room that is missing in `last` has ever had a number above this one.
    floor: int = 0
    # For epochs before a crash, by room: up to which number they agree with this epoch.
    earlier: Mapping[str, Mapping[str, int]] = {}


def token() -> str:
    """Return 72 random bits that fit a URL."""
    return secrets.token_urlsafe(9)


def _checksum(run: Run) -> int:
    """Return a checksum: SQLite does not notice changed content while the page is well-formed."""
    return zlib.crc32(
        run.frames, zlib.crc32(repr((run.room, run.seq, run.count, run.at, run.sender)).encode())
    )


class HistoryFile:
    """One open database. Used by one thread at a time."""

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """Open the file, or create it for its user only.

        ``alone``: use no shared memory beside it, so that it can be read on a full disk; then no other
        process may have it open.
        """
        self.path = path
        # Created here and not by SQLite, for the mode. Not while a connection is open: closing any descriptor
        # of the file would release SQLite's locks on it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, timeout=BUSY_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            # Broken text fails its checksum, and not the reading of the whole file.
            self._db.text_factory = lambda raw: raw.decode(errors="replace")
            if alone:
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            # New: the file has no tables yet.
            self.new = self._is_new()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(f"PRAGMA journal_size_limit = {LOG_KEPT}")
            self._identity = self._files()
        except BaseException:
            self._db.close()
            raise

    def _is_new(self) -> bool:
        """Tell whether the file is empty. Raises :class:`UnusableFile` for a file of another kind."""
        mine, version, tables = (
            self._value(f"SELECT {what}")
            for what in (
                "application_id FROM pragma_application_id",
                "user_version FROM pragma_user_version",
                "count(*) FROM sqlite_schema",
            )
        )
        if not (mine or version or tables):
            return True
        if mine != APPLICATION_ID:
            raise UnusableFile("it is another program's database; choose another file")
        if version != FORMAT:
            raise UnusableFile(
                f"its format is {version} and this mpchat writes {FORMAT}; choose another file"
            )
        return False

    def _value(self, query: str, *values: int) -> int:
        return int(self._db.execute(query, values).fetchone()[0])

    def _files(self) -> list[tuple[int, int] | None]:
        """Identify the files at the paths of the database and its log."""
        found: list[tuple[int, int] | None] = []
        for path in (self.path, f"{self.path}-wal"):
            try:
                status = os.stat(path)
            except FileNotFoundError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino))
        return found

    @property
    def in_place(self) -> bool:
        """False when the files were removed or replaced: SQLite would write to files without a path."""
        return self._files() == self._identity

    def numbering(self) -> Numbering:
        """Return the numbering of a file that is not new. Raises :class:`UnusableFile`."""
        ((owner, epoch, clean, floor),) = self._db.execute("SELECT owner, epoch, clean, floor FROM numbering")
        last = dict(self._db.execute("SELECT name, last FROM rooms"))
        earlier = self._db.execute("SELECT epoch, last FROM earlier ORDER BY id").fetchall()
        try:
            decoded = {each: msgspec.json.decode(rooms) for each, rooms in earlier}
            return msgspec.convert((owner, epoch, clean == 1, last, floor, decoded), Numbering)
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
            raise UnusableFile(f"its numbers are damaged; {MOVE_AWAY}") from None

    def runs(
        self, last: Mapping[str, int], messages: int, age: float, most: int, times: tuple[float, float]
    ) -> tuple[list[Run], int]:
        """Return the kept runs, oldest first, and how many damaged runs were left out.

        Of each room the last ``messages`` numbers are kept, no older than ``age`` seconds (0: of any age). Of
        the largest rooms fewer are kept, to fit ``most`` bytes of memory; the file has room for more.
        ``times`` are the steady clock and the wall clock. A message from the future counts as of now.
        """
        kept, damaged = [], 0
        now, wall = times
        sizes = self._db.execute("SELECT sum(length(frames) + ?) FROM runs GROUP BY room", (RUN_OVERHEAD,))
        share = highest_share((size for (size,) in sizes), most)
        seen: dict[str, int] = {}
        for checksum, *columns in self._db.execute(
            "SELECT runs.sum, rooms.name, seq, count, runs.at, sender, frames FROM runs"
            " LEFT JOIN rooms ON rooms.id = runs.room"
            " WHERE runs.id IN (SELECT id FROM (SELECT id,"
            " sum(length(frames) + ?) OVER (PARTITION BY room ORDER BY id DESC) AS size FROM runs)"
            " WHERE size <= ?) ORDER BY runs.id",
            (RUN_OVERHEAD, share),
        ):
            run = Run(*columns)
            if not isinstance(run.frames, bytes) or _checksum(run) != checksum:
                damaged += 1
                continue
            first = max(run.seq, last[run.room] - messages + 1, seen.get(run.room, 0) + 1)
            aged = max(0.0, wall - run.at)
            if run.last >= first and (not age or aged <= age):
                kept.append(msgspec.structs.replace(run.since(first), taken=now - aged))
                seen[run.room] = run.last
        return kept, damaged

    def claim(self, numbering: Numbering) -> None:
        """Take possession of the file: from now on it counts as not closed in order."""
        with _Transaction(self._db):
            if self.new:
                for statement in _TABLES.strip().split(";\n"):
                    self._db.execute(statement)
            self._db.execute("DELETE FROM numbering")
            self._db.execute(
                "INSERT INTO numbering (owner, clean, epoch, floor) VALUES (?, 0, ?, ?)",
                (numbering.owner, numbering.epoch, numbering.floor),
            )
            self._db.execute("DELETE FROM earlier")
            self._db.executemany(
                "INSERT INTO earlier (epoch, last) VALUES (?, ?)",
                [(each, msgspec.json.encode(last)) for each, last in numbering.earlier.items()],
            )
        self.new = False
        self._identity = self._files()

    def write(self, runs: Iterable[Run], marks: Mapping[str, tuple[int, float]], messages: int) -> None:
        """Append runs in one transaction, and forget all but the last ``messages`` numbers of their rooms.

        ``marks`` holds the last number of each run's room and when it was given, and of rooms whose runs are
        missing. A run that is there already is not written twice: a commit that seemed to fail may have
        succeeded.
        """
        with _Transaction(self._db):
            self._db.executemany(
                "INSERT INTO rooms (name, last, at) VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET last = max(last, excluded.last), at = excluded.at",
                [(room, last, at) for room, (last, at) in marks.items()],
            )
            rooms: dict[str, int] = {}
            for room in marks:
                ((rooms[room],),) = self._db.execute("SELECT id FROM rooms WHERE name = ?", (room,))
            self._db.executemany(
                "INSERT OR IGNORE INTO runs (room, seq, count, at, sender, sum, frames)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (rooms[run.room], run.seq, run.count, run.at, run.sender, _checksum(run), run.frames)
                    for run in runs
                ),
            )
            self._forget_before((rooms[room], last - messages + 1) for room, (last, _) in marks.items())

    def _forget_before(self, firsts: Iterable[tuple[int, int]]) -> None:
        """Forget the runs before the first kept number of each room (an id); its own run stays whole."""
        self._db.executemany(  # by the index alone
            "DELETE FROM runs WHERE room = ?1"
            " AND seq < (SELECT max(seq) FROM runs WHERE room = ?1 AND seq <= ?2)",
            firsts,
        )

    def keep_last(self, messages: int) -> None:
        """Forget all but the last ``messages`` numbers of every room: fewer are kept than before."""
        with _Transaction(self._db):
            rooms = self._db.execute("SELECT id, last FROM rooms").fetchall()
            self._forget_before((room, last - messages + 1) for room, last in rooms)

    def expire(self, oldest: float, newest: float, rooms: int) -> None:
        """Forget messages from before ``oldest`` or after ``newest``, and rooms that were not used lately.

        Both are in seconds since 1970. ``rooms`` rooms are remembered; the floor rises to the numbers of the
        forgotten ones.
        """
        with _Transaction(self._db):
            self._db.execute("DELETE FROM runs WHERE at < ? OR at > ?", (oldest, newest))
            forgotten = self._db.execute(
                "SELECT id, last FROM rooms ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?", (rooms,)
            ).fetchall()
            if forgotten:
                floor = max(last for _, last in forgotten)
                self._db.execute("UPDATE numbering SET floor = max(floor, ?)", (floor,))
                self._db.executemany("DELETE FROM runs WHERE room = ?", [(room,) for room, _ in forgotten])
                self._db.executemany("DELETE FROM rooms WHERE id = ?", [(room,) for room, _ in forgotten])

    def forget(self, rooms: Mapping[str, int]) -> None:
        """Remove the messages of rooms up to a number each, however the rooms were spelled."""
        by_key: dict[str, int] = {}
        for name, last in rooms.items():
            key = name_key(name)
            by_key[key] = max(last, by_key.get(key, 0))
        with _Transaction(self._db):
            known = self._db.execute("SELECT id, name FROM rooms").fetchall()
            self._db.executemany(
                "DELETE FROM runs WHERE room = ? AND seq <= ?",
                [(room, by_key[key]) for room, name in known if (key := name_key(name)) in by_key],
            )

    def finish(self) -> None:
        """Mark the file as closed in order: all numbers that were given are in it."""
        self._db.execute("UPDATE numbering SET clean = 1")

    def close(self) -> None:
        """Close the file in any state: committed transactions are in it or in its log beside it."""
        self._db.close()


class _Transaction:
    """One transaction. It waits for a lock before it begins, not in the middle."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        else:
            with suppress(sqlite3.Error):  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
