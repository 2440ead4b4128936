"""What a server checks proofs with (a registered name, a key of tokens, a secret), and right proofs.

Passwords are kept with the cost that they have in use: the time of a check is a part of what is measured.
"""

import secrets
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mpchat.auth.accounts import Accounts
from mpchat.auth.grant import Grant
from mpchat.auth.keys import load_key
from mpchat.auth.passwords import hash_password
from mpchat.auth.tokens import make_token

AUDIENCE = "mpchat"
# Seconds for which tokens hold: longer than any run.
HOLDS = 86_400.0
# Rooms in a long token; it then has about 4 KB.
ROOMS = tuple(f"{number:02} a room with a long name" for number in range(80))


class Proofs:
    """The files of a server that checks proofs, and proofs that are right. The folder is the user's own."""

    def __init__(self, folder: Path, name: str) -> None:
        """Register ``name``, and write a key of tokens (P-256: its check takes longest) and a secret."""
        self.password = secrets.token_urlsafe()
        accounts = Accounts(folder / "accounts.db", create=True)
        accounts.add(name, hash_password(self.password))
        accounts.close()
        self._key = _new_key()
        _write(folder / "jwt.pem", self._key)
        _write(folder / "secret", secrets.token_urlsafe().encode())
        # The settings that name the files.
        self.settings = {
            "accounts": f"{folder}/accounts.db",
            "jwt_key": f"{folder}/jwt.pem",
            "secret": f"{folder}/secret",
        }

    def tokens(self, names: Iterable[str]) -> dict[str, str]:
        """Return a token for each name."""
        return {name: _token(self._key, name) for name in names}


@cache
def forged_token() -> str:
    """Return a token of 4 KB that another key has signed."""
    return _token(_new_key(), "밥", ROOMS)


def _token(key: bytes, name: str, rooms: tuple[str, ...] | None = None) -> str:
    now = time.time()
    return make_token(load_key(key), Grant(name, rooms=rooms, expires=now + HOLDS), AUDIENCE, now)


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(data)
