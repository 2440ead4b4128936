"""The meaning of a typed line, and each event as a line. Pure; both terminal modes use it.

Text from the server leaves this module only through ``visible``.
"""

from dataclasses import dataclass
from enum import Enum

from mpchat.client.core import (
    Connected,
    Disconnected,
    Event,
    Garbled,
    History,
    Joined,
    Left,
    Lost,
    Message,
    Pong,
    Refused,
    Rejected,
    Rooms,
    Welcome,
    Who,
)
from mpchat.text import visible

HELP = "a line and Enter: say it; /quit or Ctrl-D: leave; //text: say /text"
NAMED_HELP = (
    "a line and Enter: say it; /me TEXT: say what you do; /msg NAME TEXT: to NAME alone; "
    "/join ROOM: go there; /who: the names in this room; /rooms: the rooms; Tab: complete; "
    "/quit or Ctrl-D: leave; //text: say /text"
)
# The beginning of a text that says what its sender does; it travels like any other text.
ACTION = "/me "
# Advice about a rejected name, beside the server's text, by error code.
HINTS = {
    "name_taken": "if it was you: it is free a minute after that connection was lost",
    "not_a_message": "this server knows no names, try without --name",
}


class Command(Enum):
    """A command without an argument."""

    QUIT = "/quit"
    HELP = "/help"
    # Only for members.
    WHO = "/who"
    ROOMS = "/rooms"


# Commands with arguments, and how they are written; only for members.
USAGES = {"/join": "/join ROOM", "/msg": "/msg NAME TEXT", "/me": "/me TEXT"}

NAMED_ONLY = frozenset({*USAGES, Command.WHO.value, Command.ROOMS.value})


@dataclass(frozen=True, slots=True)
class Say:
    """A text to send."""

    text: str


@dataclass(frozen=True, slots=True)
class Tell:
    """A text for one member alone."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Enter:
    """A room to enter."""

    room: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that does not exist, or that needs a name."""

    word: str

    def __str__(self) -> str:
        """Return the line that tells the user."""
        if self.word in NAMED_ONLY:
            return f"{self.word} needs a name: mpchat chat --name NAME; or //text to say /text"
        return f"there is no {visible(self.word)}; try /help, or //text to say /text"


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A command without its arguments."""

    word: str

    def __str__(self) -> str:
        """Return the line that tells the user."""
        return f"it is: {USAGES[self.word]}"


Action = Say | Tell | Enter | Command


def parse(line: str, *, named: bool = False) -> Action | Unknown | Incomplete | None:
    """Return the action of ``line``, given without its end; None for a blank line.

    A ``named`` user, a member, has more commands.
    """
    if not line.strip():
        return None
    if line.startswith("//"):
        return Say(line[1:])
    if not line.startswith("/"):
        return Say(line)
    word = line.split()[0]
    if named and word in USAGES:
        return _with_argument(word, line[len(word) :].strip())
    try:
        command = Command(word)
    except ValueError:
        return Unknown(word)
    return command if named or command in (Command.QUIT, Command.HELP) else Unknown(word)


def _with_argument(word: str, argument: str) -> Action | Incomplete:
    name, _, text = argument.partition(" ")
    match word:
        case "/join" if argument:
            return Enter(argument)
        case "/me" if argument:
            return Say(ACTION + argument)
        case "/msg" if text.strip():
            return Tell(name, text.strip())
        case _:
            return Incomplete(word)


def said(message: Message) -> tuple[str, str, str]:
    """Return ``message`` as a line in three parts, safe for a terminal: the middle one is the sender's name.

    A member's message cannot look like an announcement of the operator: an announcement begins with ``***``,
    and a member's message with a name.
    """
    text = visible(message.text)
    if message.sender is None:
        return ("" if message.room is None else "*** "), "", text
    sender = visible(message.sender)
    if message.to is not None:
        return "", sender, f" -> {visible(message.to)}: {text}"
    if message.text.startswith(ACTION):
        return "* ", sender, f" {visible(message.text.removeprefix(ACTION))}"
    return "", sender, f": {text}"


def shown(event: Event) -> str:
    """Return ``event`` as one line, safe for a terminal."""
    match event:
        case Message():
            return "".join(said(event))
        case Refused():
            times = f", {event.times} times" if event.times > 1 else ""
            return f"the server refused: {visible(event.text)} ({visible(event.code)}{times})"
        case Garbled():
            return visible(event.text)
        case Pong():
            return "pong"
        case History():
            return f"earlier messages of {visible(event.room)}: {len(event.messages)}"
        case Connected() | Disconnected() | Lost() | Rejected():
            return _connection_line(event)
        case _:
            return _room_line(event)


def _connection_line(event: Connected | Disconnected | Lost | Rejected) -> str:
    match event:
        case Connected():
            return "connected again" if event.again else f"connected to {event.address} (/help)"
        case Disconnected():
            return f"connection to {event.address} lost" + (", trying again" if event.retrying else "")
        case Lost(first=first, last=None):
            return f"the server has begun anew: what was said after message {first - 1} may be lost"
        case Lost():
            return f"lost: messages {event.first} to {event.last}"
        case Rejected(code="kicked" | "taken_over"):
            return refusal(event.code, event.text)
        case Rejected():
            text = f"not let in as {visible(event.name)}: {refusal(event.code, event.text)}"
            return text + ("; trying again" if event.retrying else "")


def _room_line(event: Welcome | Joined | Left | Who | Rooms) -> str:
    match event:
        case Welcome():
            return f"you are {visible(event.name)} in {visible(event.room)}, {_people(event.members)} here"
        case Joined():
            return f"{_names(event)} joined"
        case Left():
            return f"{_names(event)} left" + (f" ({visible(event.reason)})" if event.reason else "")
        case Who():
            more = ", …" if event.next is not None else ""
            names = ", ".join(map(visible, event.names))
            return f"{visible(event.room)}, {_people(event.members)}: {names}{more}"
        case Rooms():
            more = ", …" if event.next is not None else ""
            return ", ".join(f"{visible(each.room)} ({each.members})" for each in event.rooms) + more


def refusal(code: str, text: str) -> str:
    """Return the line that says why a name was rejected, with advice."""
    hint = HINTS.get(code)
    return f"{visible(text)} ({visible(code)})" + (f"; {hint}" if hint else "")


def _people(count: int) -> str:
    return f"{count} {'person' if count == 1 else 'people'}"


def _names(event: Joined | Left) -> str:
    names = ", ".join(map(visible, event.names))
    more = event.count - len(event.names)
    return f"{names} and {more} more" if more > 0 else names
