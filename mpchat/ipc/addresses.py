"""Addresses: which hosts a target means, and which hosts count as one. Pure."""

import ipaddress

from mpchat.config import format_address

# Bits of an IPv6 address that name a network: who has one of its addresses commonly has all.
IPV6_NETWORK = 64


def without_mapping(host: str) -> str:
    """Return the IPv4 address of a client that a listener at ``::`` shows as ``::ffff:192.0.2.7``."""
    return host.removeprefix("::ffff:") if "." in host else host


def is_loopback(host: str) -> bool:
    """Tell whether a client is on this machine."""
    try:
        return ipaddress.ip_address(without_mapping(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def covers(target: str, host: str) -> bool:
    """Tell whether ``target``, an address or a network (``192.0.2.0/24``), means this host."""
    if "/" not in target:
        return target == host
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(target)
    except ValueError:
        return False


def means(target: str, host: str, port: int) -> bool:
    """Tell whether ``target``, an address, a network or ``host:port``, means the client at this port."""
    return covers(target, host) or target == format_address(host, port)


def owner_of_client(address: str) -> str:
    """Return what counts as one address, for a client's ``host:port`` or ``[host]:port``."""
    return owner_of(address.rpartition(":")[0].strip("[]"))


def owner_of(host: str) -> str:
    """Return what counts as one address: the host itself, for IPv6 its network of 64 bits."""
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network((host.partition("%")[0], IPV6_NETWORK), strict=False))
    except ValueError:
        return host
