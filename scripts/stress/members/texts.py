"""The texts of members' test messages. Pure.

``RUN|ROOM|NAME|NUMBER|PAD`` in a room, ``RUN|>TO|NAME|NUMBER|PAD`` in private; NUMBER is counted by the
sender.
"""

from typing import NamedTuple

# The number in messages that are never sent whole.
NEVER = -1


class Sent(NamedTuple):
    """The fields of a test message; ``number`` may be :data:`NEVER`."""

    room: str
    name: str
    number: int


def write(run: str, room: str, name: str, number: int, pad: int = 0) -> str:
    """Return the text of a test message, with ``pad`` bytes more."""
    return f"{run}|{room}|{name}|{number}|{'x' * pad}"


def read(run: str, text: object) -> Sent | None:
    """Return the fields of a text, or None when it is no test message of this run."""
    fields = text.split("|", 4) if isinstance(text, str) else []
    if len(fields) != 5 or fields[0] != run:
        return None
    try:
        return Sent(fields[1], fields[2], int(fields[3]))
    except ValueError:
        return None
