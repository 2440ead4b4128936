"""A chat server of one asyncio process, as it would be written today, for the bench to compare with.

mpchat works otherwise. This uses one core and one write per client and message, and for a client that does
not read a buffer grows without end. The rule it keeps: protocols, not streams, because they cost least.

Run as ``python -m scripts.lecture.peer_asyncio PORT``; it serves on 127.0.0.1 until it is killed.
"""

import asyncio
import sys

from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

# Connections that may wait to be accepted: enough for all that the bench opens at once.
BACKLOG = 512


class Member(asyncio.Protocol):
    """One client; ``room`` holds the transports of all."""

    def __init__(self, room: set[asyncio.WriteTransport]) -> None:
        """Belong to ``room``, but join only when connected."""
        self._room = room
        self._decoder = FrameDecoder()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the room. (asyncio sets TCP_NODELAY itself.)"""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._room.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the room."""
        if self._transport is not None:
            self._room.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Relay every frame that ``data`` completes."""
        for payload in self._decoder.feed(data):
            if isinstance(payload, Oversized):
                continue
            frame = encode_frame(payload)
            if payload:
                for transport in self._room:
                    transport.write(frame)
            elif self._transport is not None:
                # An empty frame is a question, "am I served?", and goes back to the client that asked.
                self._transport.write(frame)


async def serve(port: int) -> None:
    """Serve until the process is killed."""
    room: set[asyncio.WriteTransport] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Member(room), "127.0.0.1", port, backlog=BACKLOG)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
