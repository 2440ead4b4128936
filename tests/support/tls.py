"""Certificates for tests: an authority, and a context that trusts it."""

import ssl
from pathlib import Path
from typing import Any

import trustme


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, stem: str = "server", **more: Any) -> tuple[Path, Path]:
        """Write a certificate for ``names`` with its chain, and its key; return their paths."""
        issued = self._ca.issue_cert(*names, **more)
        chain, key = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        chain.chmod(0o644)
        key.touch(0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        return chain, key

    def context(self) -> ssl.SSLContext:
        """Return how a client encrypts that trusts this authority, and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context
