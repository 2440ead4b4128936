"""Hook URLs: where a server sends what happens in its rooms. Pure: text in, its parts out.

::

    http[s]://[user:password@]host[:port][/path][?query]

Not here: connections. A password or a query may be a secret, and no text that this module makes shows one.
"""

import ipaddress
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from mpchat.cluster_url import HIDDEN, name_looked_up

PORTS = {"http": 80, "https": 443}
# Characters of a URL: some proxies take no more in a request's first line.
LONGEST = 2000

# What may stand in a path or a query as it is; all other characters are written with %.
_SAFE = "/%:@!$&'()*+,;=~-._?"


class WrongHookError(ValueError):
    """A text is no URL of a webhook. The error says why, and shows no part of the text."""


class HookUrl(NamedTuple):
    """The parts of a URL; ``str()`` of it shows neither password nor query."""

    # http or https.
    scheme: str
    # As it is looked up: a name in ASCII, or an address without brackets.
    host: str
    port: int
    path: str = "/"
    query: str = ""
    # Empty: not given.
    user: str = ""
    password: str = ""

    @property
    def authority(self) -> str:
        """The host as a request names it, with the port unless that is the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """What the first line of a request asks for."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def __str__(self) -> str:
        who = f"{HIDDEN}@" if self.user or self.password else ""
        return f"{self.scheme}://{who}{self.authority}{self.path}{f'?{HIDDEN}' if self.query else ''}"

    def __repr__(self) -> str:
        return f"HookUrl({str(self)!r})"


def parse(text: str) -> HookUrl:
    """Return the parts of a URL. Raise :class:`WrongHookError` for any other text."""
    if len(text) > LONGEST:
        raise WrongHookError(f"it is longer than {LONGEST} characters")
    if not text.isprintable() or " " in text:
        raise WrongHookError("a character of it does not print")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its own text may show the URL
        raise WrongHookError("its host or its port is wrong") from None
    if parts.scheme not in PORTS or not parts.netloc:
        raise WrongHookError("it does not begin with http:// or https://")
    if parts.fragment:
        raise WrongHookError("what follows a # is not sent")
    if port == 0:
        raise WrongHookError("its host or its port is wrong")
    return HookUrl(
        parts.scheme,
        _host(parts.hostname or ""),
        port or PORTS[parts.scheme],
        quote(parts.path, safe=_SAFE) or "/",
        quote(parts.query, safe=_SAFE),
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not (name := name_looked_up(text)):
        raise WrongHookError("its host or its port is wrong")
    return name


def without_secrets(text: str) -> str:
    """Return a URL with ``***`` for what may be secret; ``***`` alone for any other text."""
    if not text:
        return ""
    try:
        return str(parse(text))
    except ValueError:
        return HIDDEN
