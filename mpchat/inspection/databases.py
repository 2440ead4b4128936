"""Databases: a look into an SQLite file of the server's that changes nothing and leaves no file beside it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

# Bytes of a file that is read to its end; that takes some seconds.
READ_WHOLE = 1 << 30
# Seconds to wait for a program that writes.
_PATIENCE = 2.0


class Kind(NamedTuple):
    """The fields of a header of the server's own files."""

    application_id: int
    format: int


def fault_of(path: Path, kind: Kind) -> str:
    """Return why the file at ``path`` cannot be used; empty: it can, or it has no content yet."""
    try:
        with closing(_opened(path)) as db:
            return _fault(db, kind, os.stat(path).st_size)
    except sqlite3.Error as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _opened(path: Path) -> sqlite3.Connection:
    """Open a file for reading. Without a program that has it open nothing beside it counts, nor is made."""
    alone = not os.path.exists(f"{path}-shm")
    options = "mode=ro&immutable=1" if alone else "mode=ro"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=_PATIENCE)


def _fault(db: sqlite3.Connection, kind: Kind, size: int) -> str:
    mine, version, tables = (
        int(db.execute(query).fetchone()[0])
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    if not (mine or version or tables):
        return ""
    if mine != kind.application_id:
        return "it is another program's database"
    if version != kind.format:
        return f"its format is {version} and this mpchat uses {kind.format}"
    if size > READ_WHOLE:
        return ""
    said = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if said == "ok" else f"it is damaged: {' '.join(said.split())}"
