"""Keys: the secrets that settings name by their place, and which algorithm a token key is for.

A key decides its algorithm, never a token. A public key is public: everything that looks like some key but is
none of those allowed is refused, because as a shared secret (HS256) anyone could sign with it.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
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
_UNUSABLE = "there is no key in it that can be used"
# What keys of ssh have in them, also behind options and in their base64.
_SSH = re.compile(rb"ssh-(rsa|dss|ed)|ecdsa-sha2-|-----BEGIN OPENSSH|---- BEGIN SSH2")
# The rest of a PEM file without its first line or its dashes.
_PEM_REST = re.compile(rb"(PUBLIC|PRIVATE) KEY|-----(BEGIN|END) ")
# Text that may be bytes in base64 or hex: shorter than every key, longer than most words.
_RUN = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
# What may stand between two lines of such a text, or between two bytes.
_BETWEEN = re.compile(rb"\\[rn]|[\s:\"'\0]")
# How often bytes may be written as text of text.
_MOST_WRITINGS = 3


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
    in a file that other users may read, unless that is a public key, or write. The path is not shown when
    nothing is there: it may be the secret itself, by mistake.
    """
    if where.startswith(FROM_ENVIRONMENT):
        name = where.removeprefix(FROM_ENVIRONMENT)
        data = os.fsencode(os.environ.get(name, ""))
        if not data:
            raise StartError(f"{setting}: the environment has no {name}")
        return data
    with suppress(PermissionError):
        try:
            os.stat(where)
        except (OSError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise
            missing = "the file that this setting names is not there"
            raise StartError(f"{setting}: {missing}; allowed: the path of a file, or env:NAME") from None

    def is_private(data: bytes) -> bool:
        if setting == "jwt_key" and not _is_public(data):
            _check_kind(data, setting)  # first: a certificate of mode 644 needs no other mode
        return not _is_public(data)

    data = read_trusted(setting, where, "a key or a secret", is_private)
    if not data.strip():
        raise StartError(f"{setting}: {where} is empty")
    return data


def without_newline(data: bytes) -> bytes:
    """Return a secret without the newline with which an editor ends a file."""
    return data.removesuffix(b"\n").removesuffix(b"\r")


def load_key(data: bytes, setting: str = "jwt_key") -> Key:
    """Return the key of tokens. Raise :class:`StartError`, which names the setting, for any other key."""
    _check_kind(data, setting)
    if b"-----BEGIN " in data:
        key = _pem_key(data, setting)
    else:
        secret = without_newline(data)
        if len(secret) < SHORTEST_SECRET:
            raise StartError(f"{setting}: a secret of {len(secret)} bytes is too short; {ALLOWED}")
        key = Key(HS256, secret, secret)
    _try(key, setting)
    return key


def _check_kind(data: bytes, setting: str) -> None:
    """Raise :class:`StartError` for a key of a kind that is not taken."""
    if reason := _why_not(data):
        raise StartError(f"{setting}: {reason}; {ALLOWED}")
    if b"-----BEGIN " in data and _PRIVATE not in data:
        _pem_key(data, setting)


def _try(key: Key, setting: str) -> None:
    """Use a key once: the library that checks tokens refuses some. Raise :class:`StartError`."""
    import jwt

    signer = jwt.PyJWS()
    try:
        if key.signing is not None:
            signer.decode(
                signer.encode(b"", key.signing, algorithm=key.algorithm),
                key.verifying,
                algorithms=[key.algorithm],
            )
        else:
            signer.get_algorithm_by_name(key.algorithm).prepare_key(key.verifying)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise StartError(f"{setting}: {_UNUSABLE}; {ALLOWED}") from None


def _is_public(data: bytes) -> bool:
    return data.lstrip().startswith(_PUBLIC) and _PRIVATE not in data


def _why_not(data: bytes) -> str:
    """Return why these bytes are a key of a kind that is not taken; else ""."""
    if _SSH.search(data):
        return "it is a key of ssh"
    if b"PuTTY-User-Key" in data:
        return "it is a key of PuTTY"
    if b"-----BEGIN CERTIFICATE" in data:
        return "it is a certificate; take the public key out of it"
    if b"ENCRYPTED" in data and b"-----BEGIN " in data:
        return "the key is encrypted"
    if b"\0" in data[:4] and b"-\0-\0" in data:
        return "it is in UTF-16"
    if _is_json_key(data):
        return "it is a JSON web key"
    if _is_der(data):
        return "it is a key in DER, not in PEM"
    return "it is a key, but not in PEM" if b"-----BEGIN " not in data and _is_key(data) else ""


def _is_key(data: bytes, writings: int = 0) -> bool:
    """Tell whether bytes look like a key that has a format, or write such bytes in base64 or hex."""
    if _is_der(data) or _PEM_REST.search(data) or _SSH.search(data):
        return True
    return writings < _MOST_WRITINGS and any(_is_key(each, writings + 1) for each in _written(data))


def _written(data: bytes) -> Iterator[bytes]:
    """Return the bytes that runs of letters and digits in a text stand for, alone and joined."""
    runs = _RUN.findall(data.replace(b"\\n", b"\n")) + _RUN.findall(_BETWEEN.sub(b"", data))
    for run in dict.fromkeys(runs):
        text = run.translate(bytes.maketrans(b"-_", b"+/"))
        with suppress(binascii.Error):
            yield base64.b64decode(text[: len(text) // 4 * 4])
        with suppress(ValueError):
            yield bytes.fromhex(run.decode().removeprefix("0x"))


def _is_json_key(data: bytes) -> bool:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and not found.keys().isdisjoint({"kty", "keys"})


def _is_der(data: bytes) -> bool:
    """Tell whether bytes begin as keys and certificates in DER do; of random ones one in millions does.

    That is a sequence, which begins with another one (of an algorithm's name, or of a certificate's version
    or number), or with a number: that of the format, or a long one, of RSA.
    """
    inside = _inside(data)
    if inside[:1] == b"\x30":
        return _inside(inside)[:1] in (b"\x06", b"\xa0", b"\x02", b"\x30")
    return inside[:2] == b"\x02\x01" or inside[:2] in (b"\x02\x81", b"\x02\x82")


def _inside(data: bytes) -> bytes:
    """Return what follows the head of an ASN.1 sequence, also behind its end; nothing for other bytes."""
    if len(data) < 4 or data[0] != 0x30 or data[1] == 0x80 or data[1] > 0x83:
        return b""
    return data[2 + (data[1] & 0x7F if data[1] > 0x80 else 0) :]


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
        raise StartError(f"{setting}: {_UNUSABLE}; {ALLOWED}") from None
    if isinstance(public, ed25519.Ed25519PublicKey):
        return Key(EDDSA, public, found)
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return Key(ES256, public, found)
    kind = type(public).__name__.removeprefix("_").removesuffix("PublicKey")
    if isinstance(public, ec.EllipticCurvePublicKey):
        kind = f"an EC key on {public.curve.name}"
    raise StartError(f"{setting}: {kind} cannot be used; {ALLOWED}")
