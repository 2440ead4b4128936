"""Moderation: which names and addresses are banned, and which names are muted. Pure.

The table is kept over restarts; see :mod:`mpchat.hub.moderation_file`.
"""

import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from typing import Any

import msgspec

from mpchat.config import format_address
from mpchat.errors import MpchatError, ProtocolError
from mpchat.ipc.addresses import covers
from mpchat.protocol.names import checked_name, name_key

BANS, MUTES = "bans", "mutes"
# Bits in front of an IPv4 address in the notation of IPv6.
_MAPPED_BITS = 96
# Digits of the highest port, 65535.
_PORT_DIGITS = 5

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One ban or mute. ``until`` is in seconds since 1970; None: for good."""

    target: str
    until: float | None = None

    def holds(self, at: float) -> bool:
        """Tell whether it still holds at ``at``."""
        return self.until is None or at < self.until


class Moderation(msgspec.Struct):
    """Bans of names and addresses, mutes of names, by the text that they are compared by."""

    bans: dict[str, Rule] = {}
    mutes: dict[str, Rule] = {}

    def banned_name(self, name: str, at: float) -> bool:
        """Tell whether a member may not have this name."""
        return bool(self.bans) and self._holds(self.bans, name_key(name), at)

    def banned_host(self, host: str, at: float) -> bool:
        """Tell whether clients of this address may not connect."""
        if not self.bans:
            return False
        # Networks among them are few: an operator types each.
        networks = (key for key in self.bans if "/" in key and covers(key, host))
        return any(self._holds(self.bans, key, at) for key in (host, *networks))

    def muted(self, name: str, at: float) -> bool:
        """Tell whether the others get nothing of what the member of this name says."""
        return bool(self.mutes) and self._holds(self.mutes, name_key(name), at)

    @staticmethod
    def _holds(rules: dict[str, Rule], key: str, at: float) -> bool:
        return key in rules and rules[key].holds(at)

    def table(self, name: str) -> dict[str, Rule]:
        """Return the table called ``bans`` or ``mutes``."""
        return self.bans if name == BANS else self.mutes

    def put(self, table: str, key: str, rule: Rule | None) -> None:
        """Set the rule for ``key``; None removes it."""
        if rule is None:
            self.table(table).pop(key, None)
        else:
            self.table(table)[key] = rule

    def copy(self) -> "Moderation":
        """Return the rules of now, for another thread."""
        return Moderation(dict(self.bans), dict(self.mutes))

    def shift(self, by: float) -> None:
        """Let rules that end do so ``by`` seconds later: the wall clock was stepped."""
        for table in (self.bans, self.mutes):
            for key, rule in table.items():
                if rule.until is not None:
                    table[key] = msgspec.structs.replace(rule, until=rule.until + by)

    def normal(self) -> "Moderation":
        """Return the same rules under the keys that are looked up: older versions wrote others."""
        found = Moderation({}, {})
        for table in (BANS, MUTES):
            for key, rule in self.table(table).items():
                host = as_host(key) if table == BANS else None
                if host is not None and host != key:
                    key, rule = host, msgspec.structs.replace(rule, target=host)
                other = found.table(table).get(key)
                if other is None or _ends(other) < _ends(rule):
                    found.put(table, key, rule)
        return found

    def missing_in(self, other: "Moderation", at: float) -> Iterator[tuple[str, str, Rule]]:
        """Yield table, key and rule of those that hold at ``at`` and are not the same in ``other``."""
        for name in (BANS, MUTES):
            theirs = other.table(name)
            for key, rule in self.table(name).items():
                if rule.holds(at) and theirs.get(key) != rule:
                    yield name, key, rule

    def forget_ended(self, at: float, kept: "Moderation") -> None:
        """Drop the rules that hold no longer at ``at``, but not those of ``kept``."""
        for name in (BANS, MUTES):
            table, theirs = self.table(name), kept.table(name)
            for key in [key for key, rule in table.items() if not rule.holds(at) and key not in theirs]:
                del table[key]

    def forget_expired(self, at: float) -> None:
        """Drop the rules that hold no longer at ``at``."""
        for table in (self.bans, self.mutes):
            for key in [key for key, rule in table.items() if not rule.holds(at)]:
                del table[key]

    def listing(self, at: float) -> dict[str, list[dict[str, Any]]]:
        """Return the rules that hold at ``at``."""
        return {
            name: [
                {"target": each.target, "until": each.until}
                for each in self.table(name).values()
                if each.holds(at)
            ]
            for name in (BANS, MUTES)
        }


def _ends(rule: Rule) -> float:
    return inf if rule.until is None else rule.until


def ban_target(target: str) -> tuple[str, str]:
    """Return key and spelling of what a ban is for, a name or an address. Raises :class:`MpchatError`."""
    host = as_host(target)
    if host is not None:
        return host, host
    return name_key(target), _name(target, "neither an address nor a name")


def mute_target(name: str) -> tuple[str, str]:
    """Return key and spelling of the name that a mute is for. Raises :class:`MpchatError`."""
    return name_key(name), _name(name, "no name")


def lifted_key(target: str) -> str:
    """Return the key of a ban or mute that is to end."""
    return as_host(target) or name_key(target)


def as_host(target: str) -> str | None:
    """Return the host of an address, ``host`` or ``host:port``, or a network; None for a name.

    An IPv4 address in the notation of IPv6 is that IPv4 address: so clients have it that connect from there.
    """
    if "/" in target:
        with suppress(ValueError):
            return str(_unmapped(ipaddress.ip_network(target, strict=False)))
        return None
    return _address(target) or _address(target.rpartition(":")[0])


def kick_target(target: str) -> str:
    """Return an address, a network or ``host:port`` as connections are compared with; else ``target``.

    So a kick finds a host in every notation in which it can be banned. A name is returned as it is.
    """
    host = as_host(target)
    if host is None:
        return target
    if "/" in target or _address(target) is not None:
        return host
    port = target.rpartition(":")[2]
    # The length comes first: Python refuses to read a number of thousands of digits.
    if len(port) > _PORT_DIGITS or not port.isdecimal():
        return target
    return format_address(host, int(port))


def _address(text: str) -> str | None:
    """Return the usual notation of an address, which may stand in brackets; None for any other text."""
    with suppress(ValueError):
        address = ipaddress.ip_address(text.strip("[]"))
        return str(getattr(address, "ipv4_mapped", None) or address)
    return None


def _unmapped(network: Network) -> Network:
    """Return the IPv4 network of one in the notation of IPv6 (``::ffff:192.0.2.0/120``), else the same."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_BITS))


def _name(target: str, otherwise: str) -> str:
    try:
        return checked_name(target)
    except ProtocolError as error:
        raise MpchatError(f"{target!r} is {otherwise}: {error.text}") from None
