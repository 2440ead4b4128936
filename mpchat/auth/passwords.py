"""Passwords: what is kept of one, and whether a text is the one that was kept.

The hash is scrypt, whose memory makes guessing dear. It takes about 0.2 s of CPU: callers run it in a thread.
A name that is not registered must cost the same, or a client could find out which names are: see
:data:`DUMMY`.
"""

import base64
import hashlib
import hmac
import secrets
import unicodedata

import msgspec

from mpchat.errors import MpchatError
from mpchat.protocol.requests import LONGEST_PASSWORD

# Characters of a new password, in NFC.
SHORTEST, LONGEST = 8, 256
_SALT_BYTES = 16
_HASH_BYTES = 32
# Bytes that a kept hash may ask for.
_MOST_MEMORY = 64 << 20
_KIND = "scrypt"
# Hashed in place of a text that is too long.
_TOO_LONG = "too long"


class Cost(msgspec.Struct, frozen=True):
    """The parameters of scrypt: blocks (a power of two), block size and rounds; 128 * n * r bytes."""

    n: int
    r: int
    p: int

    @property
    def memory(self) -> int:
        """The bytes that OpenSSL takes."""
        return 128 * self.r * (self.n + self.p + 2)


# For new passwords. The same work as OWASP's 2**17, 8, 1 in an eighth of its memory, 16 MiB.
COST = Cost(2**14, 8, 5)


class Stored(msgspec.Struct, frozen=True):
    """The kept form of a password: its hash, and the parameters of that."""

    cost: Cost
    salt: bytes
    hash: bytes

    def encode(self) -> str:
        """Return it as one line of text, for a file."""
        cost = self.cost
        parts = (base64.b64encode(part).decode() for part in (self.salt, self.hash))
        return f"{_KIND}:{cost.n}:{cost.r}:{cost.p}:{':'.join(parts)}"

    @classmethod
    def decode(cls, text: str) -> "Stored":
        """Return what :meth:`encode` has written. Raise ``ValueError`` for any other text."""
        kind, n, r, p, salt, kept = text.split(":")
        stored = cls(
            Cost(int(n), int(r), int(p)),
            base64.b64decode(salt, validate=True),
            base64.b64decode(kept, validate=True),
        )
        cost = stored.cost
        fits = cost.n > 1 and not cost.n & (cost.n - 1) and cost.r > 0 and 0 < cost.p <= 64
        if kind != _KIND or not fits or cost.memory > _MOST_MEMORY or len(stored.hash) != _HASH_BYTES:
            raise ValueError("not the hash of a password")
        return stored

    def __repr__(self) -> str:
        """Show nothing of it: a hash can be guessed at."""
        return "Stored(…)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []


def check_length(text: str) -> None:
    """Raise :class:`MpchatError` for a new password with fewer than 8 or more than 256 characters."""
    length = len(unicodedata.normalize("NFC", text[: 4 * LONGEST + 1]))
    if not SHORTEST <= length <= LONGEST:
        found = "many more" if len(text) > 4 * LONGEST else length
        raise MpchatError(f"a password has {SHORTEST} to {LONGEST} characters, this one {found}")


def hash_password(text: str, cost: Cost = COST) -> Stored:
    """Return what to keep of a new password. Blocks for about 0.2 s of CPU.

    Raise :class:`MpchatError` for one that has fewer than 8 or more than 256 characters.
    """
    check_length(text)
    salt = secrets.token_bytes(_SALT_BYTES)
    return Stored(cost, salt, _scrypt(text, salt, cost))


def verify(stored: Stored, text: str) -> bool:
    """Tell whether ``text`` is the password. Costs the same whatever the text."""
    too_long = len(text) > LONGEST_PASSWORD
    made = _scrypt(_TOO_LONG if too_long else text, stored.salt, stored.cost)
    return hmac.compare_digest(made, stored.hash) and not too_long


def as_bytes(text: str) -> bytes:
    """Return a password as bytes: a Mac sends Korean letters decomposed, and means the same password.

    A text of more than 1024 characters is cut there: to compose 30 000 hostile marks takes two seconds.
    """
    return unicodedata.normalize("NFC", text[: LONGEST_PASSWORD + 1]).encode(errors="surrogatepass")


def _scrypt(text: str, salt: bytes, cost: Cost) -> bytes:
    return hashlib.scrypt(
        as_bytes(text),
        salt=salt,
        n=cost.n,
        r=cost.r,
        p=cost.p,
        maxmem=cost.memory + (1 << 20),
        dklen=_HASH_BYTES,
    )


# For names that are not registered: no text is its password, and to try one costs the same.
DUMMY = Stored(COST, secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES))
