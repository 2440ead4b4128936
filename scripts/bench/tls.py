"""The bench's TLS: a certificate for the servers, and clients that look at none.

What a handshake and a delivery cost the server does not depend on whom the client trusts.
"""

import socket
import ssl
from pathlib import Path

import trustme

# When a client begins to shake hands: at once, or after the server has said a line.
AT_ONCE, AFTER_A_LINE = "at once", "after a line"
# Bytes of a server's first line, at most.
_LINE = 4096


def certificate(folder: Path) -> tuple[str, str]:
    """Write a certificate for loopback and its key (P-256); return their paths."""
    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    chain, key = folder / "cert.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.touch(0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return str(chain), str(key)


def client_context() -> ssl.SSLContext:
    """Return how clients encrypt."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def secured(sock: socket.socket, begin: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Shake hands on a connected socket; return the one to go on with. Raise ``OSError``."""
    if begin == AFTER_A_LINE:
        while (end := sock.recv(_LINE, socket.MSG_PEEK).find(b"\n")) < 0:
            pass
        sock.recv(end + 1)
    return context.wrap_socket(sock)
