"""Rules: how a delivery is signed, what an answer means, and when to try again. Pure.

The signature is made as Stripe makes it: over the time and the body, so that an old delivery cannot be sent
again by somebody else.
"""

import hashlib
import hmac
from email.utils import parsedate_to_datetime
from enum import Enum

# Seconds until the first retry, doubled with each failure up to the last.
FIRST_RETRY = 0.5
LAST_RETRY = 30.0
# Seconds that a receiver may ask for with Retry-After.
LONGEST_RETRY_AFTER = 600.0

SIGNATURE, DELIVERY = "X-Mpchat-Signature", "X-Mpchat-Delivery"
# Answers of the kind 4xx that say "not now": the request took too long, or there are too many.
_NOT_NOW = frozenset((408, 429))


class Verdict(Enum):
    """What an answer means for a batch."""

    ACCEPTED = 1
    REFUSED = 2
    LATER = 3


def signature(secret: bytes, at: int, body: bytes) -> str:
    """Return the value of the header :data:`SIGNATURE`; ``at`` is in seconds since 1970."""
    digest = hmac.new(secret, b"%d.%b" % (at, body), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def verdict(status: int) -> Verdict:
    """Return what the status of an answer means. A redirect is not followed: the URL is to be corrected."""
    if 200 <= status < 300:
        return Verdict.ACCEPTED
    if 400 <= status < 500 and status not in _NOT_NOW:
        return Verdict.REFUSED
    return Verdict.LATER


def pause(failures: int, chance: float) -> float:
    """Return the seconds before the next try, after so many failures in a row, at least 1.

    ``chance`` is random, 0 to 1: several servers do not come back at the same moment.
    """
    longest = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(failures - 1, 10))
    return longest * (0.5 + chance / 2)


def retry_after(value: str, now: float) -> float:
    """Return the seconds that the header Retry-After asks for; 0 where it says nothing.

    ``value`` is a number of seconds or a date; ``now`` is in seconds since 1970.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(LONGEST_RETRY_AFTER, float(value[:9]))
    try:
        wanted = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError, TypeError):
        return 0.0
    return min(LONGEST_RETRY_AFTER, max(0.0, wanted))
