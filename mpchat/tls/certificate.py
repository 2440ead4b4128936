"""Certificate: the chain and the key that a server shows, read and checked before anything depends on them.

They are read once, at the start and at a reload, and go on as bytes: a TLS process that is started later
shows what was checked, whatever lies at the paths by then.
"""

import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mpchat.errors import StartError
from mpchat.instance.trusted_file import read_trusted

# Days before its end from which a certificate is warned of.
WARN_DAYS = 14
_DAY = 86_400.0
# Browsers ask for it; there is no HTTP/2 here.
_ALPN = ["http/1.1"]


class Certificate(NamedTuple):
    """A chain and its key in PEM; the names that it is for, and when it ends (seconds since 1970)."""

    chain: bytes
    key: bytes
    names: tuple[str, ...]
    expires: float

    def days_left(self, now: float) -> float:
        """Return how many days it holds from ``now`` on (seconds since 1970)."""
        return (self.expires - now) / _DAY

    def warning(self, now: float) -> str | None:
        """Return what is to be said of its end, from 14 days before on."""
        days = self.days_left(now)
        if days >= WARN_DAYS:
            return None
        if days < 0:
            return "the TLS certificate has expired; renew it, then mpchat reload"
        left = "less than a day" if days < 1 else "1 day" if days < 1.5 else f"{days:.0f} days"
        return f"the TLS certificate expires in {left}; renew it, then mpchat reload"


def read_certificate(chain_path: str, key_path: str) -> Certificate:
    """Read a chain and its key; an empty ``key_path`` means that the key is in the chain's file.

    Raise :class:`StartError` for a file that cannot be read or that others may read or write, for a key that
    does not fit, and for a certificate that does not hold now.
    """
    chain = _read("tls_cert", chain_path, secret=not key_path)
    key = _read("tls_key", key_path, secret=True) if key_path else chain
    found = _leaf(chain, chain_path)
    try:
        make_context(chain, key)
    except (ssl.SSLError, ValueError) as error:
        what = f"tls_key: {key_path or chain_path} cannot be used with {chain_path}"
        raise StartError(f"{what}: {_why_unusable(key, error)}") from None
    certificate = Certificate(chain, key, *found[1:])
    begins, now = found[0], time.time()
    if certificate.expires <= now:
        raise StartError(f"tls_cert: {chain_path} expired on {_day(certificate.expires)}")
    if begins > now:
        raise StartError(f"tls_cert: {chain_path} holds from {_day(begins)} on only")
    return certificate


def _why_unusable(key: bytes, error: Exception) -> str:
    # Of a key that it cannot read OpenSSL says "PEM lib", or something that depends on its version.
    if b"PRIVATE KEY-----" not in key:
        return "there is no private key in it"
    if b"ENCRYPTED" in key:
        return "it is encrypted; mpchat takes a key without a password"
    reason = getattr(error, "reason", None) or str(error)
    return "it is the key of another certificate" if reason == "KEY_VALUES_MISMATCH" else reason


def _read(setting: str, path: str, *, secret: bool) -> bytes:
    return read_trusted(setting, path, "a certificate or a key", lambda data: secret)


def _leaf(chain: bytes, path: str) -> tuple[float, tuple[str, ...], float]:
    """Return from when on the first certificate of a chain holds, its names, and until when."""
    from cryptography import x509  # a server without TLS has no use for it

    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        begins, ends = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    except ValueError:
        raise StartError(f"tls_cert: {path} holds no certificate in PEM") from None
    names: list[str] = []
    with suppress(x509.ExtensionNotFound, ValueError):
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += found.get_values_for_type(x509.DNSName)
        names += map(str, found.get_values_for_type(x509.IPAddress))
    return begins, tuple(names), ends


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))


def make_context(chain: bytes, key: bytes) -> ssl.SSLContext:
    """Return what new connections of a server begin with. Raise ``ssl.SSLError`` if the two do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Many clients end their streams without a word. Frames show whether something is missing.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols(_ALPN)
    with _as_file(chain) as chain_path, _as_file(key) as key_path:
        context.load_cert_chain(chain_path, key_path, password=lambda: b"")
    return context


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Give bytes a path for a moment: OpenSSL, as Python has it, reads keys from paths alone."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile(prefix="mpchat-") as file:  # for its user alone
        file.write(data)
        file.flush()
        yield file.name
