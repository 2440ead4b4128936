"""Setting values: what the value of a setting may be, wherever it is written. Pure.

A parser takes text, or what TOML makes of it, and returns the value, or raises ``ValueError``.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mpchat import cluster_url, hook_url

# An instance name becomes a folder's name and a line in error messages.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
# Labels of 1 to 63 characters: the resolver's own encoding takes no others.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
# An IPv6 address may name an interface: fe80::1%eth0.
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]+(%[A-Za-z0-9_.-]{1,15})?")
# What a browser sends as Origin.
_ORIGIN = re.compile(
    rf"https?://({_LABEL}(\.{_LABEL})*|\[[0-9a-f:.]{{2,39}}\])(:\d{{1,5}})?", re.IGNORECASE | re.ASCII
)
# A variable of the environment that holds a secret.
_VARIABLE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,20}", re.ASCII)
_SIZE = re.compile(r"(\d{1,20})\s*(|k|kb|kib|m|mb|mib|g|gb|gib)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*(|ms|s|m|h)", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_DURATION_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0}
# Characters of the farewell. Each takes at most 6 bytes, escaped: that fits a frame ten times over.
FAREWELL_LENGTH = 1000
# Characters of an audience: a word or an address of the web.
AUDIENCE_LENGTH = 200
# Characters of a pattern of rooms, more than any spelling of a room's name has.
PATTERN_LENGTH = 200
# Characters of the name of a cluster or of a host: a machine's name, a dash and an instance's.
CLUSTER_NAME_LENGTH = 100
# How a setting that names the place of a secret begins when the place is a variable of the environment.
FROM_ENVIRONMENT = "env:"


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Return the parser of a whole number from ``low`` to ``high``."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
            raise ValueError
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def size(low: int, high: int) -> Callable[[Any], int]:
    """Return the parser of a size in bytes, as a number or with a unit: ``64 KiB``."""
    bounded = whole(low, high)

    def parse(value: Any) -> int:
        if not isinstance(value, str):
            return bounded(value)
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError
        return bounded(int(match[1]) * _SIZE_UNITS[match[2][:1].lower()])

    return parse


def duration(low: float, high: float, *, zero: bool = False) -> Callable[[Any], float]:
    """Return the parser of a duration in seconds, as a number or with a unit: ``1.5 h``.

    With ``zero``, 0 is allowed too.
    """

    def parse(value: Any) -> float:
        if isinstance(value, str):
            match = _DURATION.fullmatch(value.strip())
            if match is None:
                raise ValueError
            value = float(match[1]) * _DURATION_UNITS[match[2].lower()]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if not (low <= value <= high or (zero and value == 0)):  # never true of a NaN
            raise ValueError
        return float(value)

    return parse


def choice(*allowed: str) -> Callable[[Any], str]:
    """Return the parser of one of these words."""

    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return str(value)

    return parse


def switch(value: Any) -> bool:
    """Return whether something is on: ``on`` or ``off``."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError
    return {"on": True, "off": False}[value.lower()]


def instance_name(value: Any) -> str:
    """Return the name of an instance."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError
    return value


def path(value: Any) -> str:
    """Return a path, which may be relative."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def secret_place(value: Any) -> str:
    """Return where a secret is: a path, which may be relative, or ``env:NAME``. Never the secret itself."""
    place = path(value)
    if place.startswith(FROM_ENVIRONMENT) and not _VARIABLE.fullmatch(place):
        raise ValueError
    if "\n" in place or "\r" in place or place.startswith("-----BEGIN"):  # a key, and no place of one
        raise ValueError
    return place


def audience(value: Any) -> str:
    """Return the audience of tokens."""
    if not isinstance(value, str) or not 1 <= len(value) <= AUDIENCE_LENGTH:
        raise ValueError
    if not value.isprintable() or value != value.strip():
        raise ValueError
    return value


def cluster(value: Any) -> str:
    """Return the URL of the Redis of a cluster, as it was written; empty: none."""
    if not isinstance(value, str):
        raise ValueError
    if value:
        cluster_url.parse(value)
    return value


def hook(value: Any) -> str:
    """Return the URL of a webhook, as it was written; empty: none."""
    if not isinstance(value, str):
        raise ValueError
    if value:
        hook_url.parse(value)
    return value


def room_patterns(value: Any) -> tuple[str, ...]:
    """Return the patterns of a list, or of a text with commas; at least one."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts:
        raise ValueError
    return tuple(_one_pattern(part) for part in parts)


def cluster_name(value: Any) -> str:
    """Return the name of a cluster, in Unicode's composed form: one name, from whatever system it comes.

    Braces have a meaning in keys of Redis.
    """
    if not isinstance(value, str) or not value or len(value) > CLUSTER_NAME_LENGTH:
        raise ValueError
    if not value.isprintable() or any(each.isspace() or each in "{}" for each in value):
        raise ValueError
    return unicodedata.normalize("NFC", value)


def host_name(value: Any) -> str:
    """Return the name of a host of a cluster; empty: it follows from the machine's name."""
    return cluster_name(value) if value != "" else ""


def parse_duration(text: str) -> float:
    """Return the seconds of a duration written like a setting: 1 s to ten years. Raises ``ValueError``."""
    seconds: float = duration(1.0, 10 * 365 * 86_400.0)(text)
    return seconds


def farewell(value: Any) -> str:
    """Return the text that clients are sent at a stop."""
    if not isinstance(value, str) or len(value) > FAREWELL_LENGTH:
        raise ValueError
    value.encode()  # raises for half of a surrogate pair, which cannot be sent
    return value


def hosts(value: Any) -> tuple[str, ...]:
    """Return the host names and addresses of a list, or of a text with commas; at least one."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts:
        raise ValueError
    return tuple(_one_host(part) for part in parts)


def origins(value: Any) -> tuple[str, ...]:
    """Return the origins of a list, or of a text with commas; ``*`` stands for all."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError
    return tuple(_one_origin(part) for part in parts if part != "")


def networks(value: Any) -> tuple[str, ...]:
    """Return the networks of a list, or of a text with commas; an address stands for itself alone."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError
    return tuple(_one_network(part) for part in parts if part != "")


def _one_pattern(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= PATTERN_LENGTH or not value.isprintable():
        raise ValueError
    return value.strip()


def _one_network(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return str(ipaddress.ip_network(value.strip()))  # raises for bits behind the network's


def _one_origin(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    origin = value.strip().lower().rstrip("/")
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise ValueError
    # As browsers write it: without the port that its scheme has anyway.
    return origin.removesuffix(":443" if origin.startswith("https:") else ":80")


def _one_host(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    host = value.strip().removeprefix("[").removesuffix("]")
    if _ADDRESS.fullmatch(host):
        with suppress(ValueError):
            return str(ipaddress.ip_address(host))
    if not _HOST.fullmatch(host):
        raise ValueError
    return host
