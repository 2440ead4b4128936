"""The bench's server on the package ``websockets``: each message goes to all clients, the sender included.

Its argument is the port of loopback. No pings and no compression, as the other servers.
"""

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

clients: set[ServerConnection] = set()


async def relay(connection: ServerConnection) -> None:
    """Serve one client."""
    clients.add(connection)
    try:
        async for message in connection:
            broadcast(clients, message)
    except ConnectionClosed:
        pass  # a client that goes away ends alone
    finally:
        clients.discard(connection)


async def main() -> None:
    """Serve until the process is ended."""
    async with serve(relay, "127.0.0.1", int(sys.argv[1]), compression=None, ping_interval=None) as server:
        await server.serve_forever()


asyncio.run(main())
