"""Verifier: checks what a join shows against the accounts, the token key and the secret.

It is prepared at the start and at each reload, in a thread, because it reads files. Checks run in one thread
of their own: a password takes about 0.2 s of CPU, on purpose.
"""

import hashlib
import hmac
import logging
import secrets
from pathlib import Path

from mpchat.auth.accounts import Account, Accounts, default_path, gone
from mpchat.auth.grant import SERVICE, Grant, Identity, Proof
from mpchat.auth.keys import Key, load_key, read_secret, without_newline
from mpchat.auth.lookalikes import looks, too_many_marks
from mpchat.auth.passwords import DUMMY, as_bytes, verify
from mpchat.auth.tokens import read_token
from mpchat.config import Config
from mpchat.errors import MpchatError, ProtocolError, StartError
from mpchat.protocol.names import checked_name, name_key
from mpchat.protocol.sign_in import (
    AUTH_REQUIRED,
    FOR_THE_API,
    OTHER_NAME,
    OTHER_ROLE,
    REGISTERED,
    SIMILAR,
    TWO_PROOFS,
    UNCHECKED,
    auth_required,
    bad_credentials,
)

# Names whose password is remembered as checked.
MOST_REMEMBERED = 10_000

log = logging.getLogger("mpchat.auth")


class Verifier:
    """Checks proofs by one reading of the settings. Used by one thread at a time."""

    def __init__(self, config: Config) -> None:
        """Read the token key and the secret, and open the accounts.

        Raise :class:`StartError`, whose text names the setting, for whatever cannot be used.
        """
        self.proofs = config.proofs
        self._audience = config.jwt_audience
        self._key: Key | None = load_key(read_secret("jwt_key", config.jwt_key)) if config.jwt_key else None
        self._secret = digest_of_secret(config.secret) if config.secret else None
        self._accounts = _open_accounts(config)
        self._remembered = _Remembered()
        if config.auth != "open":
            looks("")  # reads its table, which the first client would wait for

    def check(self, proof: Proof, mode: str, at: float) -> Identity:
        """Return the identity that ``proof`` gives in the ``mode`` open, names or closed.

        ``at`` is the time in seconds since 1970. Blocks for up to 0.2 s of CPU, and for the accounts' disk.

        Raise :class:`ProtocolError` with the code auth_required, bad_credentials, expired, not_allowed,
        name_taken, bad_name, bad_request or try_later.
        """
        if len(proof.kinds) > 1:
            raise ProtocolError("bad_request", TWO_PROOFS)
        try:
            return self._check(proof, mode, at)
        except MpchatError as error:
            if isinstance(error, ProtocolError):
                raise
            log.error("names cannot be checked: %s", error)
            raise ProtocolError("try_later", UNCHECKED) from None

    @property
    def had_accounts(self) -> bool:
        """True when the accounts' file has been there. Asks no disk; any thread may ask."""
        return self._accounts is not None and self._accounts.seen

    def require_accounts(self) -> None:
        """Raise :class:`StartError` if the accounts' file is missing."""
        if self._accounts is not None and not self._accounts.seen:
            raise StartError(f"accounts: {gone(self._accounts.path)}")

    @property
    def lets_nobody_in(self) -> bool:
        """True when there is no account, no key and no secret. Asks the disk. Raise :class:`StartError`."""
        if self._key or self._secret:
            return False
        try:
            return self._accounts is None or self._accounts.empty
        except MpchatError as error:
            raise StartError(f"accounts: {error}") from None

    def close(self) -> None:
        """Close the accounts; call in the thread that checks, when no check will follow."""
        if self._accounts is not None:
            self._accounts.close()

    def _check(self, proof: Proof, mode: str, at: float) -> Identity:
        grant = self._grant(proof, mode, at)
        if grant is not None and grant.role == SERVICE:
            return Identity(grant.name, grant)
        proved = grant.name if grant is not None else ""
        name = proved if proved and proof.name is None else _wanted(proof)
        if mode == "open":
            return Identity(name, grant)
        account = self._account(name)
        if account is not None and not proved:
            raise ProtocolError(AUTH_REQUIRED, REGISTERED, self.proofs)
        return Identity(name, grant, self._looks(name, account))

    def _grant(self, proof: Proof, mode: str, at: float) -> Grant | None:
        """Return what the proof allows; None for no proof where none is needed."""
        if proof.jwt is not None:
            return self._by_token(proof, proof.jwt, at)
        if proof.password is not None:
            return self._by_password(_wanted(proof), proof.password)
        if proof.secret is not None:
            return self._by_secret(proof.secret)
        if mode == "closed":
            raise auth_required(self.proofs)
        return None

    def _by_token(self, proof: Proof, text: str, at: float) -> Grant:
        if self._key is None:
            raise bad_credentials()
        grant = read_token(self._key, text, self._audience, at)
        if proof.service != (grant.role == SERVICE):
            raise ProtocolError("not_allowed", OTHER_ROLE if proof.service else FOR_THE_API)
        if proof.name is not None and name_key(_wanted(proof)) != name_key(grant.name):
            raise ProtocolError("not_allowed", OTHER_NAME)
        return grant

    def _by_password(self, name: str, password: str) -> Grant:
        account = self._account(name)
        if account is None:
            verify(DUMMY, password)
            raise bad_credentials()
        kept = account.stored.encode()
        if not self._remembered.has(name_key(name), kept, password):
            if not verify(account.stored, password):
                raise bad_credentials()
            self._remembered.add(name_key(name), kept, password)
        return Grant(account.name, account.role)

    def _by_secret(self, secret: str) -> Grant:
        if self._secret is None:
            raise bad_credentials()
        shown = hashlib.sha256(as_bytes(secret)).digest()
        if not hmac.compare_digest(shown, self._secret):
            raise bad_credentials()
        return Grant("")

    def _account(self, name: str) -> Account | None:
        return None if self._accounts is None else self._accounts.get(name)

    def _looks(self, name: str, account: Account | None) -> tuple[str, ...]:
        """Return the looks of a name. Raise for a new name that could be taken for a registered one."""
        found = looks(name)
        if account is None:
            if too_many_marks(name):
                raise ProtocolError("bad_name", "a name has at most 4 marks in a row on a letter")
            if self._accounts is not None and self._accounts.similar(found, name) is not None:
                raise ProtocolError("name_taken", SIMILAR)
        return found


class _Remembered:
    """Passwords that were right, so that clients that come back all at once do not wait for one another.

    In memory only, and not as they are: as digests with a key that no other process has.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        # By the name's key; the oldest first.
        self._digests: dict[str, bytes] = {}

    def has(self, key: str, kept: str, password: str) -> bool:
        """Tell whether this password was right for the hash ``kept`` when it was last checked."""
        digest = self._digests.get(key)
        return digest is not None and hmac.compare_digest(digest, self._digest(kept, password))

    def add(self, key: str, kept: str, password: str) -> None:
        """Remember a password that was right; forget the oldest one past 10 000."""
        self._digests.pop(key, None)
        self._digests[key] = self._digest(kept, password)
        if len(self._digests) > MOST_REMEMBERED:
            del self._digests[next(iter(self._digests))]

    def _digest(self, kept: str, password: str) -> bytes:
        return hmac.digest(self._key, kept.encode() + b"\0" + as_bytes(password), "sha256")


def _wanted(proof: Proof) -> str:
    """Return the name that a join asks for. Raise :class:`ProtocolError` without one."""
    if proof.name is None:
        raise ProtocolError("bad_request", "a join has a name, or a token that has one")
    return checked_name(proof.name)


def digest_of_secret(where: str) -> bytes:
    """Return the hash of the secret at the place of a setting. Raise :class:`StartError`."""
    try:
        text = without_newline(read_secret("secret", where)).decode()
    except UnicodeDecodeError:
        raise StartError("secret: it is not UTF-8, so no client can send it") from None
    return hashlib.sha256(as_bytes(text)).digest()


def _open_accounts(config: Config) -> Accounts | None:
    """Open the accounts; None without a place for any, in the mode open. The file may come later."""
    try:
        path = Path(config.accounts) if config.accounts else default_path()
    except MpchatError as error:
        if config.auth == "open":
            return None
        raise StartError(f"accounts: {error}") from None
    try:
        return Accounts(path)
    except MpchatError as error:
        raise StartError(f"accounts: {error}") from None
