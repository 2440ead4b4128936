"""The bench's TLS: clients that look at no certificate.

What a handshake and a delivery cost the server does not depend on whom the client trusts.
"""

import socket
import ssl

# When a client begins to shake hands: at once, or after the server has said a line.
AT_ONCE, AFTER_A_LINE = "at once", "after a line"
# Bytes of a server's first line, at most.
_LINE = 4096


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
