"""An authority of the tests' own, which issues certificates for their servers."""

import ssl
from pathlib import Path
from typing import Any

import trustme


class Authority:
    """A certificate authority that nobody else trusts; its certificates lie in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = trustme.CA()

    def issue(self, *names: str, stem: str = "server", **more: Any) -> tuple[Path, Path]:
        """Issue a certificate for host names and addresses; return the paths of its chain and of its key."""
        issued = self._authority.issue_cert(*names, **more)
        chain, key = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        key.touch(0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        return chain, key

    def context(self) -> ssl.SSLContext:
        """Return what a client verifies servers with: it trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context
