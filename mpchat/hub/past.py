"""Past: what is known of the time before the server's start. Pure."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from mpchat.hub.history import Run
from mpchat.protocol.names import name_key

# Epochs that are remembered at most: each has a number for every room.
MOST_EARLIER = 8
_NOTHING: Mapping[str, int] = MappingProxyType({})
_NO_EPOCHS: Mapping[str, Mapping[str, int]] = MappingProxyType({})


def by_key(last: Mapping[str, int]) -> dict[str, int]:
    """Return last numbers by the keys of their rooms' names: a room may have been spelled in several ways."""
    found: dict[str, int] = {}
    for name, number in last.items():
        key = name_key(name)
        found[key] = max(number, found.get(key, 0))
    return found


class Past(NamedTuple):
    """What a history file had when it was opened; only an epoch when there is none or it was not readable."""

    # The epoch from now on.
    epoch: str
    # The number of the last message by room, of rooms too whose messages are long gone.
    last: Mapping[str, int] = _NOTHING
    # The messages of rooms that are not in `last` begin after this number: nearly always 0.
    floor: int = 0
    # Messages that are kept, oldest first. In a room numbers rise; numbers that are missing were lost.
    runs: Sequence[Run] = ()
    # For epochs before a crash, by the key of a room's name: up to which number they agree with this epoch.
    earlier: Mapping[str, Mapping[str, int]] = _NO_EPOCHS

    def agreed(self, epoch: str, room: str) -> int | None:
        """Return up to which number an earlier epoch agrees with this one in a room; None: it is unknown."""
        if epoch not in self.earlier:
            return None
        return self.earlier[epoch].get(name_key(room), 0)

    def followed_by(self, epoch: str, last: Mapping[str, int]) -> "Past":
        """Return the past of a new ``epoch`` that goes on from the numbers ``last``, by the keys of rooms."""
        earlier = {
            before: {key: min(number, last.get(key, number)) for key, number in numbers.items()}
            for before, numbers in list(self.earlier.items())[1 - MOST_EARLIER :]
        }
        return self._replace(epoch=epoch, earlier={**earlier, self.epoch: dict(last)})

    def without(self, epoch: str) -> "Past":
        """Return the past to which an earlier epoch is unknown."""
        return self._replace(earlier={each: last for each, last in self.earlier.items() if each != epoch})

    def knows(self, epoch: str, room: str, number: int) -> bool:
        """Tell whether the messages up to ``number`` that a client saw in ``epoch`` are those of this server.

        Then the client needs only the messages after it.
        """
        if epoch == self.epoch:
            return True
        return epoch in self.earlier and number <= self.earlier[epoch].get(name_key(room), 0)
