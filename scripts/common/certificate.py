"""A certificate for servers on loopback, and its key."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


def certificate(folder: Path, authority: trustme.CA | None = None, days: int = 365) -> tuple[str, str]:
    """Write a certificate for loopback and its key (P-256); return their paths.

    ``authority`` signs it, for so many days; without one a new authority does. Existing files are written
    over.
    """
    ends = datetime.now(UTC) + timedelta(days=days)
    issued = (authority or trustme.CA()).issue_cert("localhost", "127.0.0.1", not_after=ends)
    chain, key = folder / "cert.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.touch(0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return str(chain), str(key)
