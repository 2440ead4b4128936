"""The proof of identity that a client shows in a join: a password, a JSON web token or a class secret.

Its text goes into the frame of a join and nowhere else: no ``repr``, error or event has it.
"""

from collections.abc import Callable
from typing import TypedDict

from mpchat.errors import ConfigError

# A token, or a function that returns the newest one.
Jwt = str | Callable[[], str]


class Shown(TypedDict, total=False):
    """The options of ``connect`` that are proofs; a client shows at most one of them."""

    password: str | None
    jwt: Jwt | None
    secret: str | None


class NoTokenError(ConfigError):
    """A function that returns tokens has none now; the text, which users see, has nothing of a token."""


class Proof:
    """One proof; ``kind`` is its key in a join."""

    __slots__ = ("_text", "kind")

    def __init__(self, kind: str, text: Jwt) -> None:
        """Keep a text, or a function that returns it."""
        self.kind = kind
        self._text = text

    def __repr__(self) -> str:
        """Return the kind alone."""
        return f"Proof({self.kind!r})"

    @property
    def renewable(self) -> bool:
        """True when each join asks a function for the text."""
        return callable(self._text)

    def show(self) -> tuple[str, str]:
        """Return kind and text for a join. Raises what the function raises, ``TypeError`` for no ``str``."""
        text = self._text() if callable(self._text) else self._text
        if not isinstance(text, str):
            raise TypeError(f"the {self.kind} is of the type {type(text).__name__}, and not str")
        return self.kind, text


def kept(before: Proof | None, shown: Proof | None) -> Proof | None:
    """Return the proof of later connections after a join with ``shown`` was granted.

    A function that returns tokens outlives a single token.
    """
    if shown is None or (before is not None and before.renewable and not shown.renewable):
        return before
    return shown


def proof_of(
    name: str | None, password: str | None = None, jwt: Jwt | None = None, secret: str | None = None
) -> Proof | None:
    """Return the proof that is given; None without one.

    Raises ``ValueError`` for more than one, and for a password or a secret without a ``name``.
    """
    given = {
        kind: text
        for kind, text in (("password", password), ("jwt", jwt), ("secret", secret))
        if text is not None
    }
    if len(given) > 1:
        raise ValueError(f"a join takes one proof, and not {' and '.join(given)}")
    for kind, text in given.items():
        if name is None and kind != "jwt":
            raise ValueError(f"a {kind} needs a name")
        return Proof(kind, text)
    return None
