"""mpchat: a multi-process TCP chat server, and its client library.

``from mpchat import connect`` is the asyncio client, ``from mpchat import connect_blocking`` its twin
without an event loop. They load on first use, so a server process never loads asyncio.
"""

from typing import TYPE_CHECKING, Any

from mpchat.errors import (
    AlreadyRunningError,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    MpchatError,
    NotRunningError,
    ProtocolError,
    RefusedError,
    StartError,
    TimedOutError,
)

if TYPE_CHECKING:
    from mpchat.client.aio import connect
    from mpchat.client.blocking import connect_blocking

__version__ = "0.1.0"

__all__ = [
    "AlreadyRunningError",
    "ConfigError",
    "ConnectError",
    "ConnectionLostError",
    "MpchatError",
    "NotRunningError",
    "ProtocolError",
    "RefusedError",
    "StartError",
    "TimedOutError",
    "__version__",
    "connect",
    "connect_blocking",
]


def __getattr__(name: str) -> Any:
    if name == "connect":
        from mpchat.client.aio import connect

        return connect
    if name == "connect_blocking":
        from mpchat.client.blocking import connect_blocking

        return connect_blocking
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
