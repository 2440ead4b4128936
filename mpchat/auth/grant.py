"""Grant: what a client shows as its proof, and what a proof that was checked allows. Pure.

Not here: the check itself (:mod:`mpchat.auth.verifier`), which reads files and takes time.
"""

from functools import lru_cache
from typing import Any

import msgspec

from mpchat.protocol.names import name_key

MEMBER, OPERATOR = "member", "operator"
ROLES = (MEMBER, OPERATOR)
# The role of a program that uses the HTTP API. Tokens have it, accounts do not, and no client joins with it.
SERVICE = "service"
TOKEN_ROLES = (*ROLES, SERVICE)
_ANY = "*"


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """What a proof allows.

    ``name`` is as the account or the token spells it; "" for the secret, which proves no name. ``rooms`` are
    the rooms that a token names, in which ``*`` stands for any characters; None: all rooms. ``expires`` is
    when a token ends, in seconds since 1970; None: never.
    """

    name: str
    role: str = MEMBER
    rooms: tuple[str, ...] | None = None
    expires: float | None = None

    def allows(self, room: str) -> bool:
        """Tell whether a client with this grant may be in ``room``; spellings of one room are equal."""
        return self.rooms is None or self.allows_key(name_key(room))

    def allows_key(self, key: str) -> bool:
        """Tell the same of a room's key: a look into a set, and 0.3 µs for each pattern with a star."""
        if self.rooms is None:
            return True
        exact, starred = _compiled(self.rooms)
        return key in exact or any(_matches(parts, key) for parts in starred)


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """The result of a check.

    ``name`` is the name that the join is to have, as :func:`~mpchat.protocol.names.checked_name` returns it.
    ``grant`` is None when no proof was shown and none was needed. ``looks`` are the name's looks, to be
    compared with those of the names that are present; empty: it need not be compared.
    """

    name: str
    grant: Grant | None
    looks: tuple[str, ...] = ()

    @property
    def proves_name(self) -> bool:
        """True when the proof shows that the name is its owner's; a secret for all does not."""
        return self.grant is not None and bool(self.grant.name)


class Proof(msgspec.Struct, frozen=True):
    """What a join shows: the wanted name and at most one of the others.

    ``service``: the token came with a request to the HTTP API, which takes those of the role service alone.
    """

    name: str | None = None
    password: str | None = None
    jwt: str | None = None
    secret: str | None = None
    service: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of proof that are shown, out of password, jwt and secret."""
        kinds = {"password": self.password, "jwt": self.jwt, "secret": self.secret}
        return tuple(kind for kind, shown in kinds.items() if shown is not None)

    def __repr__(self) -> str:
        """Name the kinds of proof only: what is shown here may reach a log."""
        return f"Proof(name={self.name!r}, kinds={self.kinds!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name), ("kinds", self.kinds)]


def matches(pattern: str, room: str) -> bool:
    """Tell whether ``room`` is one of those that ``pattern`` stands for; ``*`` is any characters, or none."""
    return Grant("", rooms=(pattern,)).allows(room)


# As many as there are tokens in use that name rooms, as a rule one for each kind.
@lru_cache(maxsize=1024)
def _compiled(rooms: tuple[str, ...]) -> tuple[frozenset[str], tuple[tuple[str, ...], ...]]:
    """Return the keys of the rooms that patterns name, and the parts between the stars of the others."""
    # Split before the keys are made: the key of a full-width star is a star.
    split = [tuple(name_key(part) for part in pattern.split(_ANY)) for pattern in rooms]
    exact = frozenset(parts[0] for parts in split if len(parts) == 1)
    return exact, tuple(parts for parts in split if len(parts) > 1)


def _matches(parts: tuple[str, ...], key: str) -> bool:
    """Tell whether a key begins, goes on and ends with the parts between the stars of a pattern.

    Takes time in proportion to the lengths: each part is looked for once, as early as it can be.
    """
    first, *between, last = parts
    if len(key) < len(first) + len(last) or not (key.startswith(first) and key.endswith(last)):
        return False
    at, end = len(first), len(key) - len(last)
    for part in between:
        found = key.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
