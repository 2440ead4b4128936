"""Accounts, a token key and a secret for tests, and clients that show them."""

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpchat.auth.accounts import Accounts
from mpchat.auth.grant import MEMBER, OPERATOR, Grant
from mpchat.auth.keys import load_key
from mpchat.auth.passwords import Cost, hash_password
from mpchat.auth.tokens import make_token

# Of scrypt: a check takes no time. And one that takes about a second.
CHEAP, DEAR = Cost(2, 1, 1), Cost(2**14, 8, 20)
ALICE, ALICES = "앨리스", "앨리스의 비밀번호"
BOB, BOBS = "bob", "correct horse battery"
SLOW, SLOWS = "느림보", "아주 느린 비밀번호"
SECRET = "우리 반 비밀"


class Registry:
    """The files of one server: accounts with an operator and a member, a token key, a secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.accounts = folder / "accounts.db"
        self.key, self.secret = folder / "token.key", folder / "secret"
        self._key_bytes = secrets.token_hex(32).encode()
        for path, data in ((self.key, self._key_bytes), (self.secret, f"{SECRET}\n".encode())):
            path.touch(0o600)
            path.write_bytes(data)
        Accounts(self.accounts, create=True).close()
        self.add(ALICE, ALICES, OPERATOR)
        self.add(BOB, BOBS)
        self.add(SLOW, SLOWS, cost=DEAR)

    def add(self, name: str, password: str, role: str = MEMBER, cost: Cost = CHEAP) -> None:
        accounts = self.open()
        accounts.add(name, hash_password(password, cost), role)
        accounts.close()

    def open(self) -> Accounts:
        return Accounts(self.accounts)

    def token(
        self, name: str, seconds: float = 600.0, role: str = MEMBER, rooms: Sequence[str] | None = None
    ) -> str:
        """Return a token that ends ``seconds`` from now; its end is a whole second, rounded up."""
        grant = Grant(name, role, None if rooms is None else tuple(rooms), time.time() + seconds)
        return make_token(load_key(self._key_bytes), grant, "mpchat", time.time())

    @property
    def flags(self) -> list[str]:
        """The settings of a server that takes all three kinds of proof."""
        return [
            "--accounts",
            str(self.accounts),
            "--jwt-key",
            str(self.key),
            "--secret",
            str(self.secret),
        ]

    @property
    def hidden(self) -> list[str]:
        """What no log, status, process list or history may show."""
        return [ALICES, BOBS, SLOWS, SECRET, self._key_bytes.decode()]


def write_settings(folder: Path, **settings: Any) -> None:
    """Write the settings file of a server's folder; a setting of None is left out."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items() if value is not None]
    (folder / "mpchat.toml").write_text("\n".join(lines) + "\n")
