"""What a person's line means, and what an event looks like as a line. Pure; both terminal modes use it.

Whatever comes from the server leaves here only through ``visible``.
"""

from dataclasses import dataclass
from enum import Enum

from ..text import visible
from .core import Connected, Disconnected, Event, Garbled, Message, Refused

HELP = "a line and Enter: say it; /quit or Ctrl-D: leave; //text: say /text"


class Command(Enum):
    """What a line beginning with a slash can ask for."""

    QUIT = "/quit"
    HELP = "/help"


@dataclass(frozen=True, slots=True)
class Say:
    """A text to send."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that there is none of."""

    word: str

    def __str__(self) -> str:
        return f"there is no {visible(self.word)}; try /help, or //text to say /text"


def parse(line: str) -> Say | Command | Unknown | None:
    """Return what ``line``, without its end, asks for; None for a blank one."""
    if not line.strip():
        return None
    if line.startswith("//"):
        return Say(line[1:])
    if not line.startswith("/"):
        return Say(line)
    word = line.split()[0]
    try:
        return Command(word)
    except ValueError:
        return Unknown(word)


def shown(event: Event) -> str:
    """Return the one line that says ``event``, safe for a terminal."""
    match event:
        case Message():
            return visible(event.text)
        case Refused():
            return f"the server refused: {visible(event.text)} ({visible(event.code)})"
        case Garbled():
            return visible(event.text)
        case Connected():
            return "connected again" if event.again else f"connected to {event.address} (/help)"
        case Disconnected():
            return f"connection to {event.address} lost, trying again"
