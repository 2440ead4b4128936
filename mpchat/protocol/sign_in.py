"""Sign-in: the errors about proofs, as all parts of a server say them. Pure.

Which of them a client gets is decided elsewhere (:mod:`mpchat.auth.verifier`); the texts stand here once, so
that a client cannot tell from the words which part of its proof was wrong.
"""

from mpchat.errors import ProtocolError
from mpchat.protocol.messages import error_frame

# The codes.
AUTH_REQUIRED = "auth_required"
BAD_CREDENTIALS = "bad_credentials"
EXPIRED = "expired"
NOT_ALLOWED = "not_allowed"
TRY_LATER = "try_later"

# What a join has in it, by the kind of proof.
_JOINS = {
    "password": '{"name": "…", "password": "…"}',
    "jwt": '{"jwt": "…"}',
    "secret": '{"name": "…", "secret": "…"}',
}
# The same whatever was wrong: a name that is not registered, a password, a token, the secret.
BAD = "the proof is wrong: check the name and the password, the token or the secret"
REGISTERED = "this name is registered: join with its password or a token, or choose another name"
OVER = "the token is over; join with a fresh one"
OTHER_NAME = "the token is for another name"
OTHER_ROOM = "the token is not for this room"
FOR_THE_API = "this token is for the HTTP API, not for a join"
OTHER_ROLE = "the HTTP API takes tokens of the role service: mpchat token NAME --role service"
OPERATORS_ONLY = "only operators may do this"
TWO_PROOFS = "a join has at most one proof: a password, a token or the secret"
UNCHECKED = "the server cannot check names just now; try again later"
SIMILAR = "this name looks like another one; choose another name"


def bad_credentials() -> ProtocolError:
    """Return the error for a wrong proof, the same whatever was wrong."""
    return ProtocolError("bad_credentials", BAD)


def auth_required(proofs: tuple[str, ...]) -> ProtocolError:
    """Return the error for a client that has shown no proof: it says what to send.

    ``proofs`` are the kinds that the server takes, out of password, jwt and secret.
    """
    joins = " or ".join(f'{{"join": {_JOINS[kind]}}}' for kind in proofs)
    return ProtocolError(AUTH_REQUIRED, f"this chat is closed: send {joins}", proofs)


def auth_required_frame(proofs: tuple[str, ...]) -> bytes:
    """Return the frame of :func:`auth_required`."""
    error = auth_required(proofs)
    return error_frame(error.code, error.text, error.proofs)
