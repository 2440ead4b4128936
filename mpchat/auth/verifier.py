"""Verifier: checks what a join shows against the accounts, the token key and the secret.

It is prepared at the start and at each reload, in a thread, because it reads files. Checks run in one thread
of their own: a password takes about 0.2 s of CPU, on purpose.
"""

from mpchat.auth.grant import Identity, Proof
from mpchat.config import Config


class Verifier:
    """What one reading of the settings checks proofs with. Used by one thread at a time."""

    def __init__(self, config: Config) -> None:
        """Read the token key and the secret, and open the accounts.

        Raise :class:`StartError`, whose text names the setting, for whatever cannot be used.
        """
        self.proofs = config.proofs

    def check(self, proof: Proof, mode: str, at: float) -> Identity:
        """Return the identity that ``proof`` gives in the ``mode`` open, names or closed.

        ``at`` is the time in seconds since 1970. Blocks for up to 0.2 s of CPU, and for the accounts' disk.

        Raise :class:`ProtocolError` with the code auth_required, bad_credentials, expired, not_allowed,
        name_taken, bad_name or try_later.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the accounts; call in the thread that checks, when no check will follow."""
