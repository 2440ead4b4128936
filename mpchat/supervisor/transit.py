"""Transit: which connections are in transit between two workers, and how many were, for how long."""

from collections.abc import Iterable, Sequence

from mpchat.hub.endpoint import Endpoint
from mpchat.hub.hub import Hub


class Transit:
    """Connections in transit between two workers; the hub is told, since it keeps their places."""

    def __init__(self, hub: Hub) -> None:
        # The identities of the connections in transit.
        self.identities: set[int] = set()
        # Connections moved since the start.
        self.moves = 0
        self._hub = hub
        self._pauses: list[float] = []

    def __len__(self) -> int:
        return len(self.identities)

    def began(self, endpoint: Endpoint, identities: Iterable[int]) -> None:
        """Take note that a worker has moved connections out.

        A connection that another worker has refused is in transit already.
        """
        begun = [each for each in identities if each not in self.identities]
        self.identities.update(begun)
        self._hub.transit_began(endpoint, begun)

    def ended(self, endpoint: Endpoint, identities: Iterable[int], pauses: Sequence[float]) -> None:
        """Take note that a worker has acked connections, fresh ones and moved ones.

        ``pauses`` are how long the moved ones had no worker (seconds).
        """
        for each in identities:
            self.identities.discard(each)
            self._hub.transit_ended(each, endpoint)
        self.moves += len(pauses)
        self._pauses += pauses

    def take_pauses(self) -> list[float]:
        """Return how long each connection moved since the last call had no worker (seconds)."""
        pauses, self._pauses = self._pauses, []
        return pauses
