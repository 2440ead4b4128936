"""A program of its own that registers names, for tests that run several of them or kill them.

``accounts_writer.py add FILE PREFIX COUNT``: register so many names, and print each when it is registered.

``accounts_writer.py half FILE``: change many accounts in one transaction, print a line in the middle of it,
and wait.
"""

import sys
from pathlib import Path

from mpchat.auth.accounts import Accounts
from mpchat.auth.passwords import Cost, Stored, hash_password

# Enough rows that SQLite writes pages before the transaction ends.
ROWS = 2000


def stored() -> Stored:
    """Return what is kept of the password that all these accounts have."""
    return hash_password("비밀번호 여덟자", Cost(16, 1, 1))


def add(path: Path, prefix: str, count: int) -> None:
    accounts = Accounts(path, create=True)
    kept = stored()
    for number in range(count):
        name = f"{prefix}-{number}"
        accounts.add(name, kept)
        print(name, flush=True)


def half(path: Path) -> None:
    accounts = Accounts(path)
    with accounts._change() as db:
        db.execute("PRAGMA cache_size = 1")
        row = ("앨리스", stored().encode(), "member", 1.0, 1.0)
        for number in range(ROWS):
            db.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?)", (f"half-{number}", *row))
        print("half", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "add":
        add(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        half(Path(sys.argv[2]))
