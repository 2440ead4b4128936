"""Accounts: the SQLite file with registered names, the hashes of their passwords, and their roles.

Servers and commands use one file at the same time, so each look sees the newest commit. It is kept with a
rollback journal: the names are few and rarely change, and no other file stays beside it. Everything here
blocks, and raises :class:`MpchatError` whose text names the file. A file of another program or of a newer
version, or a damaged one, is left as it is.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import msgspec

from mpchat.auth.grant import MEMBER
from mpchat.auth.lookalikes import data_version, looks
from mpchat.auth.passwords import Stored
from mpchat.errors import MpchatError
from mpchat.instance.trusted_file import check_own_file
from mpchat.protocol.names import name_key

# The application in SQLite's header: "mpac".
APPLICATION_ID = 0x6D706163
# Raised when the tables change, or name_key, or how looks are made of their data.
FORMAT = 1
# Seconds to wait for another process that writes: a write takes milliseconds. So short that a reload, which
# opens the file twice, can say within its own patience that the file is locked.
BUSY_PATIENCE = 2.0
FILE_NAME = "accounts.db"

_TABLES = f"""
CREATE TABLE accounts (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, password TEXT NOT NULL, role TEXT NOT NULL,
    made REAL NOT NULL, changed REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE looks (look TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (look, key)) WITHOUT ROWID;
CREATE INDEX looks_by_key ON looks (key);
CREATE TABLE looks_data (version TEXT NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""
# Of the data that the looks in the file were made with.
_VERSION = "SELECT version FROM looks_data"
_COLUMNS = "name, password, role, made, changed"

log = logging.getLogger("mpchat.auth")


class Account(msgspec.Struct, frozen=True):
    """A registered name as it is spelled, and what belongs to it; times in seconds since 1970."""

    name: str
    stored: Stored
    role: str
    made: float
    changed: float


def default_path() -> Path:
    """Return the file's place in the user's data folder. Raise :class:`MpchatError` without such a folder."""
    import platformdirs

    with suppress(OSError, RuntimeError):
        folder = platformdirs.user_data_path("mpchat")
        if folder.is_absolute():
            return folder / FILE_NAME
    raise MpchatError("there is no home directory for the accounts; set accounts to a file's path")


class Accounts:
    """The file at a path, which may come later. Used by one thread at a time."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the file if it is there; with ``create`` make it, for its user only, and its folder."""
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        with self._told():
            if create:
                self._create()
            self._ready()

    @property
    def seen(self) -> bool:
        """True when the file has been there, by now or before."""
        return self._identity is not None

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def get(self, name: str) -> Account | None:
        """Return the account of a name in any of its spellings."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM accounts WHERE key = ?", (name_key(name),))
        return self._account(rows[0]) if rows else None

    def similar(self, found: Sequence[str], name: str = "") -> str | None:
        """Return another account's name that has one of these looks; ``name`` is the one that they are of."""
        marks = ",".join("?" * len(found))
        rows = self._rows(
            f"SELECT name FROM accounts JOIN looks USING (key) WHERE look IN ({marks}) AND key != ?"
            " ORDER BY key LIMIT 1",
            (*found, name_key(name)),
        )
        return str(rows[0][0]) if rows else None

    def all(self) -> list[Account]:
        """Return all accounts, sorted by name."""
        return [self._account(row) for row in self._rows(f"SELECT {_COLUMNS} FROM accounts ORDER BY key", ())]

    @property
    def empty(self) -> bool:
        """True when no name is registered. Looks at no account, so that a damaged one is no error."""
        return not self._rows("SELECT 1 FROM accounts LIMIT 1", ())

    def add(self, name: str, stored: Stored, role: str = MEMBER) -> None:
        """Register a name. Raise :class:`MpchatError` if it is registered or looks like another account."""
        key, found, now = name_key(name), looks(name), time.time()
        with self._change() as db:
            self.check_free(name, found)
            db.execute(
                f"INSERT INTO accounts (key, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                (key, name, stored.encode(), role, now, now),
            )
            db.executemany("INSERT INTO looks (look, key) VALUES (?, ?)", [(look, key) for look in found])

    def check_free(self, name: str, found: Sequence[str]) -> None:
        """Raise :class:`MpchatError` if a name with these looks cannot be registered."""
        if (other := self.get(name)) is not None:
            raise MpchatError(f"{other.name} is registered already")
        if (similar := self.similar(found, name)) is not None:
            raise MpchatError(f"{name} looks like {similar}, which is registered; choose another name")

    def known(self, name: str) -> Account:
        """Return the account of a name. Raise :class:`MpchatError` for a name that is not registered."""
        if (account := self.get(name)) is None:
            raise _unknown(name)
        return account

    def set_password(self, name: str, stored: Stored) -> None:
        """Give an account another password. Raise :class:`MpchatError` for a name that is not registered."""
        self._set(name, "password", stored.encode())

    def set_role(self, name: str, role: str) -> None:
        """Give an account another role. Raise :class:`MpchatError` for a name that is not registered."""
        self._set(name, "role", role)

    def remove(self, name: str) -> None:
        """Remove an account. Raise :class:`MpchatError` for a name that is not registered."""
        with self._change() as db:
            key = name_key(name)
            if not db.execute("DELETE FROM accounts WHERE key = ?", (key,)).rowcount:
                raise _unknown(name)
            db.execute("DELETE FROM looks WHERE key = ?", (key,))

    def _set(self, name: str, column: str, value: str) -> None:
        with self._change() as db:
            done = db.execute(
                f"UPDATE accounts SET {column} = ?, changed = ? WHERE key = ?",
                (value, time.time(), name_key(name)),
            )
            if not done.rowcount:
                raise _unknown(name)

    def _rows(self, query: str, values: Sequence[str]) -> list[tuple[object, ...]]:
        with self._told():
            db = self._ready()
            return [] if db is None else db.execute(query, values).fetchall()

    def _account(self, row: Sequence[object]) -> Account:
        match row:
            case [str(name), str(password), str(role), float(made), float(changed)]:
                with suppress(ValueError):
                    return Account(name, Stored.decode(password), role, made, changed)
        raise MpchatError(f"the accounts in {self.path} are damaged, at {row[0]!r}")

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Change the file in one transaction, which waits for others that write before it begins."""
        with self._told():
            db = self._ready()
            if db is None:
                raise MpchatError(f"there are no accounts yet: {self.path} does not exist")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the errors of SQLite and of the system into one line that names the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise MpchatError(f"cannot use the accounts in {self.path}: {error}") from None
        except OSError as error:
            raise MpchatError(f"cannot use the accounts in {self.path}: {error.strerror}") from None

    def _create(self) -> None:
        """Make the file and its folder if they are missing, for this user only."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own_file(self.path)
        # Here and not by SQLite, for the mode. SQLite gives its journal the mode of the file.
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def _ready(self) -> sqlite3.Connection | None:
        """Return the open file, which is opened again when another one is at its path; None: there is none.

        Only looks at the path: a descriptor of the file that is closed would release SQLite's locks on it.
        """
        about = check_own_file(self.path)
        identity = about and (about.st_dev, about.st_ino)
        if self._db is not None and identity == self._identity:
            return self._db
        if identity is None:
            if self._identity is not None:  # with its names free, all could be taken
                raise gone(self.path)
            return None
        self.close()
        self._db, self._identity = self._open(), identity
        return self._db

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            timeout=BUSY_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        try:
            if self._is_new(db):
                self._make_tables(db)
            elif (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise MpchatError(f"the accounts in {self.path} are damaged: {' '.join(found.split())}")
            self._renew_looks(db)
        except BaseException:
            db.close()
            raise
        return db

    def _is_new(self, db: sqlite3.Connection) -> bool:
        """Tell whether the file is empty. Raise :class:`MpchatError` for a file of another kind."""
        mine, version, tables = (
            int(db.execute(f"SELECT {what}").fetchone()[0])
            for what in (
                "application_id FROM pragma_application_id",
                "user_version FROM pragma_user_version",
                "count(*) FROM sqlite_schema",
            )
        )
        if not (mine or version or tables):
            return True
        if mine != APPLICATION_ID:
            raise MpchatError(f"{self.path} is another program's database; choose another file")
        if version != FORMAT:
            raise MpchatError(
                f"the format of {self.path} is {version} and this mpchat uses {FORMAT}; choose another file"
            )
        return False

    def _make_tables(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        if self._is_new(db):  # another process may have been faster
            for statement in _TABLES.strip().split(";\n"):
                db.execute(statement)
            db.execute("INSERT INTO looks_data (version) VALUES (?)", (data_version(),))
        db.execute("COMMIT")

    def _renew_looks(self, db: sqlite3.Connection) -> None:
        """Make the looks anew if other data was used: Python or the library may be newer than the file."""
        version = data_version()
        if db.execute(_VERSION).fetchall() == [(version,)]:
            return
        try:
            db.execute("BEGIN IMMEDIATE")
            if db.execute(_VERSION).fetchall() != [(version,)]:  # another process may have been faster
                names = db.execute("SELECT key, name FROM accounts").fetchall()
                db.execute("DELETE FROM looks")
                rows = ((look, key) for key, name in names for look in looks(str(name)))
                db.executemany("INSERT INTO looks (look, key) VALUES (?, ?)", rows)
                db.execute("DELETE FROM looks_data")
                db.execute("INSERT INTO looks_data (version) VALUES (?)", (version,))
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:  # read-only, locked, or the disk is full
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            log.warning("look-alikes of the data of another version are found, %s: %s", error, self.path)


def gone(path: Path) -> MpchatError:
    """Return the error for a file that was there before: without it every name would be free."""
    return MpchatError(f"the accounts are gone: {path}")


def _unknown(name: str) -> MpchatError:
    return MpchatError(f"{name} is not registered")
