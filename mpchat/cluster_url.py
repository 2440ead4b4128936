"""Cluster URLs: where the Redis is that several hosts share. Pure: text in, its parts out.

::

    redis://[user[:password]@]host[:port][/database]       one server
    rediss://[user[:password]@]host[:port][/database]      the same, encrypted (TLS)
    redis+sentinel://a[:port],b,c/service[/database]       the server that these sentinels name
    rediss+sentinel://a[:port],b,c/service[/database]      the same, all of them over TLS

Not here: connections. A password may stand in a URL, and no text that this module makes shows it.
"""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

REDIS, REDIS_TLS = "redis", "rediss"
SENTINEL, SENTINEL_TLS = "redis+sentinel", "rediss+sentinel"
REDIS_PORT, SENTINEL_PORT = 6379, 26_379
# Stands for a password wherever a URL is shown.
HIDDEN = "***"

_SCHEME = re.compile(r"(rediss?(\+sentinel)?)://", re.IGNORECASE | re.ASCII)
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_SERVER = re.compile(
    r"(\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[^\[\]:]+))(:(?P<port>[0-9]{1,5}))?", re.ASCII
)
_DATABASE = re.compile(r"[0-9]{1,4}", re.ASCII)
# The name that sentinels know a group of servers by. Letters of all scripts are among them.
_SERVICE = re.compile(r"[\w.-]{1,64}")


class WrongUrlError(ValueError):
    """A text is no URL of a cluster. The error says why, and shows no part of the text."""


class Server(NamedTuple):
    """A Redis server or a sentinel."""

    host: str
    port: int


class ClusterUrl(NamedTuple):
    """The parts of a URL; ``str()`` of it shows no password."""

    # redis or rediss, or one of them with +sentinel.
    scheme: str
    servers: tuple[Server, ...]
    # Empty: not given. They are for the Redis server, and for sentinels that ask for them.
    user: str = ""
    password: str = ""
    # With sentinels only.
    service: str = ""
    database: int = 0

    @property
    def is_tls(self) -> bool:
        """True when all connections are encrypted."""
        return self.scheme in (REDIS_TLS, SENTINEL_TLS)

    def __str__(self) -> str:
        who = quote(self.user, safe="") + (f":{HIDDEN}" if self.password else "")
        port = SENTINEL_PORT if self.service else REDIS_PORT
        servers = ",".join(shown(each, port) for each in self.servers)
        path = [each for each in (self.service, str(self.database) if self.database else "") if each]
        return f"{self.scheme}://{who}{'@' if who else ''}{'/'.join([servers, *path])}"

    def __repr__(self) -> str:
        return f"ClusterUrl({str(self)!r})"


def shown(server: Server, usual: int = 0) -> str:
    """Return a server in the way of URLs, without the ``usual`` port; 0: always with its port."""
    host = f"[{server.host}]" if ":" in server.host else server.host
    return host if server.port == usual else f"{host}:{server.port}"


def parse(text: str) -> ClusterUrl:
    """Return the parts of a URL. Raise :class:`WrongUrlError` for any other text."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise WrongUrlError("it does not begin with redis:// or the like")
    if not text.isprintable():
        raise WrongUrlError("a character of it does not print")
    kind = scheme[1].lower()
    who, at, where = text[scheme.end() :].rpartition("@")
    user, colon, password = who.partition(":")
    if (at and not who) or (colon and not password):
        raise WrongUrlError("no user or password before the @")
    servers, *path = where.split("/")
    service = ""
    sentinels = kind in (SENTINEL, SENTINEL_TLS)
    if sentinels:
        service = _unquoted(path.pop(0)) if path else ""
        if not _SERVICE.fullmatch(service):
            raise WrongUrlError("no service behind the last /")
    if path and path[-1] == "":  # a slash at the end
        path.pop()
    if len(path) > 1 or (path and not _DATABASE.fullmatch(path[0])):
        raise WrongUrlError("no number of a database behind the /")
    usual = SENTINEL_PORT if sentinels else REDIS_PORT
    found = tuple(_server(each, usual) for each in servers.split(","))
    if not sentinels and len(found) > 1:
        raise WrongUrlError("several servers, and no +sentinel")
    database = int(path[0]) if path else 0
    return ClusterUrl(kind, found, _unquoted(user), _unquoted(password), service, database)


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeError:  # its own text would show the bytes
        raise WrongUrlError("what is written with % is not UTF-8") from None


def _server(text: str, usual: int) -> Server:
    match = _SERVER.fullmatch(text)
    if match is None:
        raise WrongUrlError("a server is not HOST or HOST:PORT")
    port = int(match["port"]) if match["port"] else usual
    if not 1 <= port <= 65_535:
        raise WrongUrlError("a port is not 1 to 65535")
    if match["six"]:
        try:
            return Server(str(ipaddress.IPv6Address(match["six"])), port)
        except ValueError:  # its own text would show the address
            raise WrongUrlError("what is in brackets is not an IPv6 address") from None
    if not name_looked_up(match["host"]):
        raise WrongUrlError("a server has no right host name")
    return Server(match["host"], port)


def name_looked_up(host: str) -> str:
    """Return a host's name as it is looked up, those of other scripts too; empty if it is no right name."""
    try:
        looked_up = host.encode("idna").decode()
    except UnicodeError:  # its own text would show the name
        return ""
    return looked_up if _HOST.fullmatch(looked_up) else ""


def without_password(text: str) -> str:
    """Return a URL with ``***`` for its password; ``***`` alone for another text, which may hold one."""
    if not text:
        return ""
    try:
        return str(parse(text))
    except ValueError:
        return HIDDEN
