"""Request line: what the hub is asked for, a few requests at a time, each when an earlier one was answered.

To serve a request costs the hub what a hundred messages cost it, and the answer takes the way down that
everybody's messages take. What a hundred clients ask for at the same moment would delay everybody.
"""

from collections.abc import Callable

# Requests, and parts of a room's past, that a worker asks for at a time. Their answers together take about as
# many bytes as may be on their way down (see ``delivery.REPLAY_SIZE`` and ``channel.PIPE_SIZE``).
AT_A_TIME = 8
# The size in bytes of what asks for the next part of the past: no request is so short.
MORE_SIZE = 0


class RequestLine:
    """The clients of one worker that the hub is to answer, and those that wait until it has answered them."""

    def __init__(self) -> None:
        """Begin with none."""
        # Bytes of what waits.
        self.size = 0
        self._asked: set[int] = set()
        # By the client's identity: the bytes of its request, and how to send it. A client has one at a time.
        self._waiting: dict[int, tuple[int, Callable[[], None]]] = {}

    def add(self, identity: int, size: int, send: Callable[[], None]) -> None:
        """Call ``send`` when it is a client's turn: now, or later. It sends a request of ``size`` bytes."""
        self.send(identity)
        self._waiting[identity] = size, send
        self.size += size
        if len(self._asked) < AT_A_TIME:
            self.send(identity)

    def answered(self, identity: int) -> None:
        """Take note that the hub has answered a client: the next one has its turn."""
        self._asked.discard(identity)
        while self._waiting and len(self._asked) < AT_A_TIME:
            self.send(next(iter(self._waiting)))

    def entered(self, identity: int) -> None:
        """Take note that the hub has let a client into a room, which answers what it was asked for.

        If more of the past of the room before waits to be asked for, the hub has none of it any more, and it
        would not answer.
        """
        if self._waiting.get(identity, (1,))[0] == MORE_SIZE:
            del self._waiting[identity]
        self.answered(identity)

    def send(self, identity: int) -> None:
        """Send what waits of a client, if anything does, before its turn."""
        if identity in self._waiting:
            size, send = self._waiting.pop(identity)
            self.size -= size
            self._asked.add(identity)
            send()

    def send_all(self) -> None:
        """Send what waits of all clients, before their turns."""
        for identity in list(self._waiting):
            self.send(identity)

    def forget(self, identity: int) -> None:
        """Forget a client that has ended or left, and what waits of it."""
        if identity in self._waiting:
            self.size -= self._waiting.pop(identity)[0]
        if identity in self._asked:
            self.answered(identity)
