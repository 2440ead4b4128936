"""WebSockets: clients that came through a handshake; what the server itself says to them in control frames.

All else is as for plain clients: the dialect and its framing know how their bytes look.
"""

from collections.abc import Mapping
from contextlib import suppress

from mpchat.config import Config
from mpchat.ipc.reasons import CLOSED, INTERNAL_ERROR
from mpchat.protocol.websocket_decoder import (
    GOING_AWAY,
    NORMAL,
    POLICY,
    SERVER_ERROR,
    close_frame,
    ping_frame,
)
from mpchat.protocol.websocket_dialect import WebSocketDialect
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING
from mpchat.worker.connection import LIVE, Connection
from mpchat.worker.rooms import Rooms

# Close codes by the reason of an end; else the client has broken a rule, or the operator has ended it. A slow
# client gets no close frame: what it has not read is in the way.
_CODES: Mapping[str, int] = {CLOSED: NORMAL, INTERNAL_ERROR: SERVER_ERROR}


class WebSockets:
    """The WebSocket clients of a worker."""

    def __init__(self, config: Config, rooms: Rooms) -> None:
        """Begin with none."""
        self._config = config
        self._rooms = rooms
        # All of them, and when each was sent a ping that it has not answered (seconds, monotonic; 0: none).
        self._pinged: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._pinged)

    def begin(self, connection: Connection, answer: bytes) -> None:
        """Let a client go on as a WebSocket, after the server's half of the handshake."""
        connection.dialect = WebSocketDialect(self._config.payload_limit)
        self._rooms.leave(connection)
        self._rooms.upgrade_plain(connection, answer)
        self.resume(connection)

    def resume(self, connection: Connection) -> None:
        """Take note of a client, if it is one of these, that has come from another worker."""
        if connection.dialect.framing is WEBSOCKET_FRAMING:
            self._pinged[connection] = 0.0

    def forget(self, connection: Connection) -> None:
        """Forget a client that has ended or leaves."""
        self._pinged.pop(connection, None)

    def say_end(self, connection: Connection, reason: str) -> None:
        """Tell a client with a close frame that the server ends its connection, and why, if that can go."""
        if connection in self._pinged and connection.dialect.closing is None:
            self._send_now(connection, close_frame(_CODES.get(reason, POLICY), reason))

    def say_goodbye(self) -> None:
        """Tell all of them that the server stops."""
        for connection in self._pinged:
            self._send_now(connection, close_frame(GOING_AWAY, "the server is stopping"))

    def _send_now(self, connection: Connection, frame: bytes) -> bool:
        """Send a control frame to a client that has been sent whole frames only, and has all of them.

        Returns True if it has gone.
        """
        if connection.cursor == LIVE and not connection.outbox and connection in connection.fanout:
            with suppress(OSError):  # it is full or gone: the end comes without a word
                return connection.sock.send(frame) == len(frame)
        return False

    def ping_silent(self, now: float) -> list[Connection]:
        """Send those a ping that have been silent; return those that have not answered one in time.

        A client that is not read from cannot answer. A client that is late has something to read already, and
        is cut off when it does not.
        """
        dead: list[Connection] = []
        limit = self._config.keepalive
        if not limit:
            return dead
        for connection, pinged in self._pinged.items():
            silent_since = max(connection.heard, connection.quiet_until)
            if not connection.reading:
                self._pinged[connection] = 0.0
            elif now - silent_since <= limit:
                continue
            elif pinged <= silent_since:
                if self._send_now(connection, ping_frame()):
                    self._pinged[connection] = now
            elif now - pinged > limit:
                dead.append(connection)
        return dead
