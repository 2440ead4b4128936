"""Keys: the secrets that settings name by their place, and which algorithm a token key is for.

A key decides its algorithm, never a token. A public key is public: everything that looks like some key but is
none of those allowed is refused, because as a shared secret (HS256) anyone could sign with it.
"""

import json
import os
from typing import Any

from mpchat.errors import StartError
from mpchat.instance.trusted_file import read_trusted
from mpchat.setting_values import FROM_ENVIRONMENT

ES256, EDDSA, HS256 = "ES256", "EdDSA", "HS256"
# Bytes of a shared secret: as many as its hash has.
SHORTEST_SECRET = 32
ALLOWED = (
    "allowed: a PEM file with an EC P-256 or Ed25519 key, private or public, without a password; "
    f"or a random text of at least {SHORTEST_SECRET} bytes"
)
_PUBLIC = b"-----BEGIN PUBLIC KEY-----"
_PRIVATE = b"PRIVATE KEY-----"
# How keys begin that ssh has.
_SSH = (b"ssh-", b"ecdsa-sha2-", b"sk-ssh-", b"sk-ecdsa-", b"-----BEGIN OPENSSH", b"---- BEGIN SSH2")


class Key:
    """What tokens are checked with; ``signing`` is None for a public key, which only checks."""

    def __init__(self, algorithm: str, verifying: Any, signing: Any) -> None:
        self.algorithm = algorithm
        self.verifying = verifying
        self.signing = signing

    def __repr__(self) -> str:
        return f"Key({self.algorithm}, {'private' if self.signing is not None else 'public'})"


def read_secret(setting: str, where: str) -> bytes:
    """Return what is at the place that a setting names: a path, or ``env:NAME``.

    Raise :class:`StartError`, which names the setting and never shows a secret, if it is missing, empty, or
    in a file that other users may read, unless that is a public key, or write.
    """
    if where.startswith(FROM_ENVIRONMENT):
        name = where.removeprefix(FROM_ENVIRONMENT)
        data = os.fsencode(os.environ.get(name, ""))
        if not data:
            raise StartError(f"{setting}: the environment has no {name}")
        return data
    data = read_trusted(setting, where, "a key or a secret", lambda data: not _is_public(data))
    if not data.strip():
        raise StartError(f"{setting}: {where} is empty")
    return data


def without_newline(data: bytes) -> bytes:
    """Return a secret without the newline with which an editor ends a file."""
    return data.removesuffix(b"\n").removesuffix(b"\r")


def load_key(data: bytes, setting: str = "jwt_key") -> Key:
    """Return the key of tokens. Raise :class:`StartError`, which names the setting, for any other key."""
    if reason := _why_not(data):
        raise StartError(f"{setting}: {reason}; {ALLOWED}")
    if b"-----BEGIN " in data:
        return _pem_key(data, setting)
    secret = without_newline(data)
    if len(secret) < SHORTEST_SECRET:
        raise StartError(f"{setting}: a secret of {len(secret)} bytes is too short; {ALLOWED}")
    return Key(HS256, secret, secret)


def _is_public(data: bytes) -> bool:
    return data.lstrip().startswith(_PUBLIC) and _PRIVATE not in data


def _why_not(data: bytes) -> str:
    """Return why these bytes are a key of a kind that is not taken; else ""."""
    if data.lstrip().startswith(_SSH):
        return "it is a key of ssh"
    if b"-----BEGIN CERTIFICATE" in data:
        return "it is a certificate; take the public key out of it"
    if b"ENCRYPTED" in data and b"-----BEGIN " in data:
        return "the key is encrypted"
    if b"\0" in data[:4] and b"-\0-\0" in data:
        return "it is in UTF-16"
    if _is_json_key(data):
        return "it is a JSON web key"
    return "it is a key in DER, not in PEM" if _is_der(data) else ""


def _is_json_key(data: bytes) -> bool:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and not found.keys().isdisjoint({"kty", "keys"})


def _is_der(data: bytes) -> bool:
    """Tell whether these bytes are an ASN.1 sequence of their own length, as each key in DER is."""
    if len(data) < 4 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return len(data) == 2 + data[1]
    count = data[1] & 0x7F
    return len(data) == 2 + count + int.from_bytes(data[2 : 2 + count], "big")


def _pem_key(data: bytes, setting: str) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    found: Any
    try:
        if _PRIVATE in data:
            found = serialization.load_pem_private_key(data, None)
            public: Any = found.public_key()
        else:
            found, public = None, serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StartError(f"{setting}: there is no key in it that can be used; {ALLOWED}") from None
    if isinstance(public, ed25519.Ed25519PublicKey):
        return Key(EDDSA, public, found)
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return Key(ES256, public, found)
    kind = type(public).__name__.removeprefix("_").removesuffix("PublicKey")
    if isinstance(public, ec.EllipticCurvePublicKey):
        kind = f"an EC key on {public.curve.name}"
    raise StartError(f"{setting}: {kind} cannot be used; {ALLOWED}")
