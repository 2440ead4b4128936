"""Address: the setting ``cluster`` as a value. Pure.

===================================  ==========================================================
``redis://host[:port][/db]``         one Redis or Valkey; the port is 6379 unless given
``rediss://host[:port][/db]``        the same over TLS
``redis+sentinel://a,b/name[/db]``   the master ``name`` that the Sentinels a and b know; port 26379
===================================  ==========================================================

``user:password@``, ``:password@`` or ``user@`` may stand before the hosts, percent-encoded where needed. An
IPv6 address stands in brackets. The error for a wrong URL never shows a password.
"""

from dataclasses import dataclass, field
from ipaddress import IPv6Address
from urllib.parse import quote, unquote

REDIS_PORT = 6379
SENTINEL_PORT = 26379

_PLAIN, _TLS, _SENTINEL = "redis", "rediss", "redis+sentinel"


@dataclass(frozen=True)
class Address:
    """Where Redis is, and what it must be told first. Its ``str`` is the URL without the password."""

    # Host and port of Redis, or of each Sentinel.
    hosts: tuple[tuple[str, int], ...]
    # The name that the Sentinels have for the master; "" without Sentinel.
    service: str = ""
    db: int = 0
    # "": Redis's default user.
    user: str = ""
    # "": none is needed.
    password: str = field(default="", repr=False)
    tls: bool = False

    def __str__(self) -> str:
        scheme = _SENTINEL if self.service else _TLS if self.tls else _PLAIN
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        hosts = ",".join(shown_host(host, port) for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        return f"{scheme}://{user}{hosts}{service}{f'/{self.db}' if self.db else ''}"


def shown_host(host: str, port: int) -> str:
    """Return host and port in the way of URLs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(url: str, password: str = "") -> Address:
    """Return what a URL says. ``password`` is one that was kept apart from it; "": none.

    Raises ValueError, whose text continues a sentence about the setting.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in (_PLAIN, _TLS, _SENTINEL):
        raise ValueError("must begin with redis://, rediss:// or redis+sentinel://")
    user_info, _, location = rest.rpartition("@")
    if "?" in location or "#" in location:
        raise ValueError("must end with the host, the service or the database: nothing after ? or #")
    hosts, *path = location.split("/")
    user, _, own_password = (unquote(each) for each in user_info.partition(":"))
    if own_password and password:
        raise ValueError("must have no password in it when cluster_password is set")
    service = ""
    if scheme == _SENTINEL:
        service = unquote(path.pop(0)) if path else ""
        if not service:
            raise ValueError("must name the master after the Sentinels: redis+sentinel://a,b,c/service")
    elif "," in hosts:
        raise ValueError("must have one host: several are Sentinels, as in redis+sentinel://a,b,c/service")
    port = SENTINEL_PORT if scheme == _SENTINEL else REDIS_PORT
    return Address(
        hosts=tuple(_host(each, port) for each in hosts.split(",")),
        service=service,
        db=_database(path),
        user=user,
        password=own_password or password,
        tls=scheme == _TLS,
    )


def _host(text: str, port: int) -> tuple[str, int]:
    """Return host and port, with ``port`` where the text has none."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"must have an IPv6 address as [::1] or [::1]:{port}")
        try:
            IPv6Address(host)
        except ValueError:
            raise ValueError(f"must have an IPv6 address in brackets, not {host!r}") from None
        number = rest[1:] if rest else str(port)
    else:
        host, colon, number = text.partition(":")
        if ":" in number:
            raise ValueError("must have an IPv6 address in brackets, as in [::1]")
        _check_name(host)
        number = number if colon else str(port)
    if not _is_number(number) or not 1 <= int(number) <= 65535:
        raise ValueError(f"must have a port from 1 to 65535 after {host!r}")
    return host, int(number)


def _check_name(host: str) -> None:
    """Raise ValueError for what is no host's name; else looking it up would raise other errors later."""
    try:
        plain = host.encode("idna").decode()
    except UnicodeError:
        plain = ""
    if not plain.replace("-", "").replace(".", "").replace("_", "").isalnum():
        raise ValueError(f"must have a host's name or address, not {host!r}")


def _database(path: list[str]) -> int:
    """Return the database's number from what is left of the path."""
    if path in ([], [""]):
        return 0
    if len(path) > 1 or not _is_number(path[0]):
        raise ValueError("must end with the number of a database, as in /0, or without one")
    return int(path[0])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
