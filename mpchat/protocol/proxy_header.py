"""PROXY headers, version 1 and 2 (haproxy's proxy-protocol.txt), and what HTTP proxies say. Pure.

A proxy connects in the client's place and says first whose connection it is. Its networks are trusted: the
setting ``proxy_from`` names them.
"""

import ipaddress
from collections.abc import Collection
from typing import NamedTuple

# How version 2 begins, and the longest line of version 1 (bytes).
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LINE = b"PROXY "
_LONGEST_LINE = 107
# Bytes of version 2 before its addresses, and of those and all that may follow them at most.
_FIXED = 16
_LONGEST = 4096
_LOCAL, _PROXY = 0x20, 0x21
# How addresses are given: the family and TCP; the bytes of an address.
_FAMILIES = {0x11: 4, 0x21: 16}
_FORWARDED = b"x-forwarded-for"


class ProxyHeader(NamedTuple):
    """Whose connection it is, an empty host where the header does not say, and how many bytes say it."""

    host: str
    port: int
    size: int


def read_header(data: bytes) -> ProxyHeader | None:
    """Return the header that ``data`` begins with; None when it is not whole. Raises ``ValueError``."""
    if data.startswith(_SIGNATURE):
        return _read_second(data)
    if data.startswith(_LINE):
        return _read_first(data)
    if _SIGNATURE.startswith(data) or _LINE.startswith(data):
        return None
    raise ValueError("no PROXY header")


def _read_first(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _LONGEST_LINE)
    if end < 0:
        if len(data) >= _LONGEST_LINE:
            raise ValueError("a PROXY line of more than 107 bytes")
        return None
    parts = data[:end].decode("ascii", "replace").split(" ")
    if parts[1:2] == ["UNKNOWN"]:
        return ProxyHeader("", 0, end + 2)
    if len(parts) != 6 or parts[1] not in ("TCP4", "TCP6"):
        raise ValueError("a PROXY line that says neither TCP4, TCP6 nor UNKNOWN")
    host = ipaddress.ip_address(parts[2])
    if host.version != int(parts[1][-1]):
        raise ValueError(f"a PROXY line with an address that is none of {parts[1]}")
    return ProxyHeader(_plain(host), _port(parts[4]), end + 2)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError("a PROXY line with a wrong port")
    return int(text)


def _read_second(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    length = int.from_bytes(data[14:_FIXED])
    if command not in (_LOCAL, _PROXY):
        raise ValueError("a PROXY header of another version than 1 and 2")
    if length > _LONGEST:
        raise ValueError("a PROXY header of more than 4 KiB")
    size = _FIXED + length
    if len(data) < size:
        return None
    width = _FAMILIES.get(family)
    if command == _LOCAL or width is None:  # a health check of the proxy; a client of another kind
        return ProxyHeader("", 0, size)
    if length < 2 * width + 4:
        raise ValueError("a PROXY header that is too short for its addresses")
    host = ipaddress.ip_address(data[_FIXED : _FIXED + width])
    ports = _FIXED + 2 * width
    return ProxyHeader(_plain(host), int.from_bytes(data[ports : ports + 2]), size)


def _plain(host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(mapped or host)


def forwarded_for(head: bytes, proxies: Collection[str]) -> str:
    """Return the client that a request was forwarded for, by its head; empty where that does not say.

    It is the last address of ``X-Forwarded-For`` that is none of ``proxies`` (networks): what stands before
    it may be the client's own invention.
    """
    networks = [ipaddress.ip_network(each) for each in proxies]
    named = [
        value
        for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        if (found := line.partition(b":"))[0].strip().lower() == _FORWARDED
        for value in found[2].split(b",")
    ]
    for value in reversed(named):
        try:
            host = ipaddress.ip_address(value.strip().strip(b"[]").decode("ascii"))
        except ValueError:
            return ""
        plain = ipaddress.ip_address(_plain(host))
        if not any(plain in network for network in networks):
            return str(plain)
    return ""
