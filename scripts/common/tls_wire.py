"""A client's TLS as a checker writes it: bytes in and out, by the standard module. Pure.

What it is given to send while hands are being shaken waits for that.
"""

import ssl

# Bytes that are decrypted at a time: what a TLS record holds.
_RECORD = 16 << 10


def trusting_all() -> ssl.SSLContext:
    """Return how clients encrypt that check bytes, and not whom they talk to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsWire:
    """One connection's two directions."""

    def __init__(self, context: ssl.SSLContext) -> None:
        """Begin to shake hands: ``replies`` are the first bytes to send."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._open = False
        self._waiting = b""
        # What the server is to get beside what is said.
        self.replies = b""
        # The server has ended its stream, in order.
        self.ended = False
        self._shake()

    def encode(self, data: bytes) -> bytes:
        """Return what is sent for the next bytes."""
        if not self._open:
            self._waiting += data
            return b""
        if data:
            self._tls.write(data)
        return self._outgoing.read()

    def decode(self, data: bytes) -> bytes:
        """Return what comes with the next bytes. Raise ``ssl.SSLError``."""
        self._incoming.write(data)
        if not self._open and not self._shake():
            return b""
        parts = []
        try:
            while part := self._tls.read(_RECORD):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        self.replies += self._outgoing.read()
        return b"".join(parts)

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
            self._open = True
            if self._waiting:
                self._tls.write(self._waiting)
        except ssl.SSLWantReadError:
            pass
        self.replies += self._outgoing.read()
        return self._open
