"""Proofs: the certificate that the server shows, what it checks clients by, and what it signs events with."""

import time
from collections.abc import Callable, Iterable
from itertools import pairwise

from mpchat.auth.keys import load_key, read_secret
from mpchat.auth.verifier import digest_of_secret
from mpchat.config import Config
from mpchat.errors import MpchatError
from mpchat.hook.target import target_of
from mpchat.inspection.findings import Finding, ok, refused, warning
from mpchat.inspection.scope import Scope
from mpchat.tls.certificate import Certificate, read_certificate


def proofs(scope: Scope) -> list[Finding]:
    """Look at the certificate, the token key and the secrets."""
    config = scope.config
    found = list(_certificate(config))
    if config.jwt_key:
        found.append(_read("jwt_key", lambda: _algorithm(config.jwt_key)))
    if config.secret:
        found.append(_read("secret", lambda: _usable(digest_of_secret(config.secret))))
    if config.hook:
        found.append(_read("hook", lambda: _receiver(config), "hook"))
    return found


def _read(setting: str, read: Callable[[], str], page: str = "sign-in") -> Finding:
    try:
        return ok(setting, read())
    except MpchatError as error:
        return refused(setting, error, page)


def _usable(digest: bytes) -> str:
    return f"can be used; its hash of {len(digest)} bytes is kept"


def _receiver(config: Config) -> str:
    """Return where events go. Nothing is sent: the receiver would take it for an event."""
    target = target_of(config)
    assert target is not None, "the setting is not empty"
    return f"events go to {target.shown}, {'signed' if target.secret else 'and are not signed'}"


def _algorithm(place: str) -> str:
    key = load_key(read_secret("jwt_key", place))
    return f"tokens are checked by {key.algorithm}" + ("" if key.signing else ", and made elsewhere")


def _certificate(config: Config) -> Iterable[Finding]:
    if not config.tls_on:
        return [ok("certificate", "TLS is off")]
    try:
        found = read_certificate(config.tls_cert, config.tls_key)
    except MpchatError as error:
        return [refused("certificate", error, "encryption")]
    return list(_faults(found)) or [_right(found)]


def _right(found: Certificate) -> Finding:
    days = found.days_left(time.time())
    return ok("certificate", f"for {', '.join(found.names)}; fits its key, and holds for {days:.0f} days")


def _faults(found: Certificate) -> Iterable[Finding]:
    if said := found.warning(time.time()):
        text, _, remedy = said.partition("; ")
        yield warning("certificate", text, remedy)
    if not found.names:
        text = "it is for no name (no subject alternative name), so clients refuse it"
        yield warning("certificate", text, "have it issued for the names by which clients connect")
    if fault := _fault_of_chain(found.chain):
        remedy = "put the server's certificate first, and behind each one that of its issuer"
        yield warning("certificate", fault, remedy)


def _fault_of_chain(chain: bytes) -> str:
    """Return what is wrong with the order of a chain; empty: each is followed by its issuer."""
    from cryptography import x509

    found = x509.load_pem_x509_certificates(chain)
    for number, (lower, upper) in enumerate(pairwise(found), 2):
        if lower.issuer != upper.subject:
            return f"certificate {number} of the chain is not the issuer of certificate {number - 1}"
    return ""
