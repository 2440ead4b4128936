"""A certificate for servers on loopback, and its key."""

from pathlib import Path

import trustme


def certificate(folder: Path) -> tuple[str, str]:
    """Write a certificate for loopback and its key (P-256); return their paths."""
    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    chain, key = folder / "cert.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.touch(0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return str(chain), str(key)
