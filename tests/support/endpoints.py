"""An endpoint of the hub without a channel."""

from typing import Any, cast

from mpchat.hub.endpoint import Endpoint
from mpchat.ipc.channel import Link


class RecordingEndpoint(Endpoint):
    """An endpoint without a channel: it keeps what it is to send."""

    def __init__(self, slot: int) -> None:
        super().__init__(slot, cast(Link, None))
        self.ready = True
        self.sent: list[tuple[int, Any]] = []

    def send(self, kind: int, payload: Any = None) -> None:
        self.sent.append((kind, payload))

    def send_frames(self, kind: int, head: Any, frames: bytes, head_size: int = 0) -> None:
        self.sent.append((kind, (head, frames)))

    def take(self, cost: int) -> None:
        """Acknowledge nothing: there is no channel."""

    def holds_up(self, now: float, limit: int) -> bool:
        """Never make the hub wait."""
        return False

    def take_all(self, kind: int) -> list[Any]:
        """Return the payloads of this kind that came since the last call, and forget all others."""
        sent, self.sent = self.sent, []
        return [payload for each, payload in sent if each == kind]
