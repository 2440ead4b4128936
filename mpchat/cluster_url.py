"""Cluster URLs: where the Redis is that several hosts share. Pure: text in, its parts out.

::

    redis://[user[:password]@]host[:port][/database]       one server
    rediss://[user[:password]@]host[:port][/database]      the same, encrypted (TLS)
    redis+sentinel://a[:port],b,c/service[/database]       the server that these sentinels name

Not here: connections. A password may stand in a URL, and no text that this module makes shows it.
"""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

REDIS, REDIS_TLS, SENTINEL = "redis", "rediss", "redis+sentinel"
REDIS_PORT, SENTINEL_PORT = 6379, 26_379
# What stands for a password wherever a URL is shown.
HIDDEN = "***"

_SCHEME = re.compile(r"(rediss?|redis\+sentinel)://", re.IGNORECASE | re.ASCII)
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_SERVER = re.compile(
    r"(\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[^\[\]:]+))(:(?P<port>[0-9]{1,5}))?", re.ASCII
)
_DATABASE = re.compile(r"[0-9]{1,4}", re.ASCII)
# The name that sentinels know a group of servers by; Redis allows these characters.
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Server(NamedTuple):
    """A Redis server or a sentinel."""

    host: str
    port: int


class ClusterUrl(NamedTuple):
    """The parts of a URL; ``str()`` of it shows no password."""

    # redis, rediss or redis+sentinel.
    scheme: str
    servers: tuple[Server, ...]
    # Empty: not given. With sentinels they are for the Redis server, too.
    user: str = ""
    password: str = ""
    # With sentinels only.
    service: str = ""
    database: int = 0

    def __str__(self) -> str:
        who = quote(self.user, safe="") + (f":{HIDDEN}" if self.password else "")
        port = SENTINEL_PORT if self.scheme == SENTINEL else REDIS_PORT
        servers = ",".join(_shown(each, port) for each in self.servers)
        path = [each for each in (self.service, str(self.database) if self.database else "") if each]
        return f"{self.scheme}://{who}{'@' if who else ''}{'/'.join([servers, *path])}"

    def __repr__(self) -> str:
        return f"ClusterUrl({str(self)!r})"


def _shown(server: Server, usual: int) -> str:
    host = f"[{server.host}]" if ":" in server.host else server.host
    return host if server.port == usual else f"{host}:{server.port}"


def parse(text: str) -> ClusterUrl:
    """Return the parts of a URL. Raise ``ValueError`` for any other text; its message shows no part of it."""
    scheme = _SCHEME.match(text)
    if scheme is None or not text.isprintable():
        raise ValueError("not a URL of Redis")
    kind = scheme[1].lower()
    who, at, where = text[scheme.end() :].rpartition("@")
    user, colon, password = who.partition(":")
    if (at and not who) or (colon and not password):
        raise ValueError("no user or no password before the @")
    servers, *path = where.split("/")
    service = ""
    if kind == SENTINEL:
        if not path or not _SERVICE.fullmatch(path[0]):
            raise ValueError("no service")
        service = path.pop(0)
    if path and path[-1] == "":  # a slash at the end
        path.pop()
    if len(path) > 1 or (path and not _DATABASE.fullmatch(path[0])):
        raise ValueError("not a database's number")
    usual = SENTINEL_PORT if kind == SENTINEL else REDIS_PORT
    found = tuple(_server(each, usual) for each in servers.split(","))
    if kind != SENTINEL and len(found) > 1:
        raise ValueError("several servers")
    database = int(path[0]) if path else 0
    return ClusterUrl(
        kind, found, unquote(user, errors="strict"), unquote(password, errors="strict"), service, database
    )


def _server(text: str, usual: int) -> Server:
    match = _SERVER.fullmatch(text)
    if match is None:
        raise ValueError("not a host")
    port = int(match["port"]) if match["port"] else usual
    if not 1 <= port <= 65_535:
        raise ValueError("not a port")
    if match["six"]:
        return Server(str(ipaddress.IPv6Address(match["six"])), port)
    if not _HOST.fullmatch(match["host"]):
        raise ValueError("not a host name")
    return Server(match["host"], port)


def without_password(text: str) -> str:
    """Return a URL with ``***`` for its password; ``***`` alone for another text, which may hold one."""
    if not text:
        return ""
    try:
        return str(parse(text))
    except ValueError:
        return HIDDEN
