"""Tokens: signed JSON (JWT) that says which name its owner has, which rooms and which role, and until when.

The key that the operator has set decides the algorithm. A token's header names no key and no algorithm that
would count: ``alg`` must be the key's own, ``kid``, ``jku`` and the like are not looked at.
"""

import base64
import json
import math
from typing import Any

from mpchat.auth.grant import MEMBER, TOKEN_ROLES, Grant
from mpchat.auth.keys import Key
from mpchat.auth.lookalikes import MOST_MARKS, too_many_marks
from mpchat.errors import MpchatError, ProtocolError
from mpchat.protocol.names import checked_name
from mpchat.protocol.requests import LONGEST_JWT
from mpchat.protocol.sign_in import OVER, bad_credentials

MOST_ROOMS = 100
LONGEST_PATTERN = 64
# Of these rooms, those with stars, and stars in one: each is compared with each room of a list.
MOST_PATTERNS = 16
MOST_STARS = 4
# Seconds that another machine's clock may be ahead when it says from when on a token holds.
LEEWAY = 5.0


def make_token(key: Key, grant: Grant, audience: str, now: float) -> str:
    """Return a token that says what ``grant`` does, made at the time ``now`` (seconds since 1970).

    Raise :class:`ProtocolError` for a name that is not allowed, and :class:`MpchatError` for a public key,
    more than 100 rooms, a room of more than 64 characters, a name with more than four marks in a row, a grant
    without an end, and a key that signs nothing.
    """
    if key.signing is None:
        raise MpchatError("jwt_key is a public key, which only checks tokens; to sign takes the private key")
    if grant.rooms is not None and not _are_rooms(list(grant.rooms)):
        raise MpchatError(
            f"a token has at most {MOST_ROOMS} rooms of 1 to {LONGEST_PATTERN} characters, "
            f"{MOST_PATTERNS} of them with up to {MOST_STARS} stars"
        )
    if grant.expires is None:
        raise MpchatError("a token has an end")
    name = checked_name(grant.name)
    if too_many_marks(name):
        raise MpchatError(f"a name with a token has at most {MOST_MARKS} marks in a row on a letter")
    import jwt

    claims: dict[str, Any] = {"sub": name, "aud": audience, "iat": int(now)}
    claims["exp"] = math.ceil(grant.expires)
    if grant.rooms is not None:
        claims["rooms"] = list(grant.rooms)
    if grant.role != MEMBER:
        claims["role"] = grant.role
    try:
        text = jwt.encode(claims, key.signing, algorithm=key.algorithm)
    except jwt.PyJWTError as error:
        raise MpchatError(f"the token cannot be signed: {type(error).__name__}") from None
    if len(text) > LONGEST_JWT:
        raise MpchatError(f"the token would have {len(text)} characters, {LONGEST_JWT} are read")
    return text


def read_token(key: Key, text: str, audience: str, now: float) -> Grant:
    """Return what a token allows at the time ``now`` (seconds since 1970).

    Raise :class:`ProtocolError`: ``expired`` for a token that is right in all but its end, and
    ``bad_credentials`` for all others. The name is as :func:`~mpchat.protocol.names.checked_name` returns it.
    """
    claims = _claims(key, text)
    try:
        grant = _grant(claims, audience, now)
    except (ProtocolError, TypeError, ValueError, KeyError):
        raise bad_credentials() from None
    if grant.expires is not None and grant.expires <= now:
        raise ProtocolError("expired", OVER)
    return grant


def claimed_name(text: str) -> str:
    """Return the name that a token says it is for, whoever has signed it; "" if it says none."""
    try:
        payload = text.split(".", 2)[1] if len(text) <= LONGEST_JWT else ""
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        name = claims["sub"]
        return checked_name(name) if isinstance(name, str) else ""
    except (ProtocolError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        return ""


def _claims(key: Key, text: str) -> dict[str, Any]:
    """Return what is signed with the key. Raise ``bad_credentials``."""
    if len(text) > LONGEST_JWT or not text.isascii():
        raise bad_credentials()
    import jwt

    try:
        payload = jwt.PyJWS().decode(text, key.verifying, algorithms=[key.algorithm])
        claims = json.loads(payload, object_pairs_hook=_once, parse_constant=_no_number)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise bad_credentials() from None
    if not isinstance(claims, dict):
        raise bad_credentials()
    return claims


def _grant(claims: dict[str, Any], audience: str, now: float) -> Grant:
    """Return what claims allow. Raise ``ValueError``, ``KeyError`` and the like for those that do not do."""
    name, rooms, role = claims["sub"], claims.get("rooms"), claims.get("role", MEMBER)
    expires = _time(claims["exp"])
    since = max(_time(claims.get("iat", 0)), _time(claims.get("nbf", 0)))
    right = isinstance(name, str) and claims["aud"] == audience and role in TOKEN_ROLES
    right = right and since <= now + LEEWAY
    if not right or ("rooms" in claims and not _are_rooms(rooms)):
        raise ValueError
    return Grant(checked_name(name), role, None if rooms is None else tuple(rooms), expires)


def _are_rooms(rooms: Any) -> bool:
    return (
        isinstance(rooms, list)
        and len(rooms) <= MOST_ROOMS
        and all(isinstance(room, str) and 1 <= len(room) <= LONGEST_PATTERN for room in rooms)
        and sum("*" in room for room in rooms) <= MOST_PATTERNS
        and all(room.count("*") <= MOST_STARS for room in rooms)
    )


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(seconds):
        raise ValueError
    return seconds


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members. Another program may have read the other one of two with one name."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
