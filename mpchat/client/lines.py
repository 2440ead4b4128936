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
    Moderated,
    Pong,
    Refused,
    Rejected,
    Rooms,
    Welcome,
    Who,
)
from mpchat.protocol.messages import OPERATOR
from mpchat.setting_values import parse_duration
from mpchat.text import visible

HELP = "a line and Enter: say it; /quit or Ctrl-D: leave; //text: say /text"
NAMED_HELP = (
    "a line and Enter: say it; /me TEXT: say what you do; /msg NAME TEXT: to NAME alone; "
    "/join ROOM: go there; /who: the names in this room; /rooms: the rooms; Tab: complete; "
    "/quit or Ctrl-D: leave; //text: say /text"
)
OPERATORS_HELP = (
    "for operators: /kick NAME: end the connection; /ban NAME [for 10m] and /unban NAME: keep a name or an "
    "address out; /mute NAME [for 10m] and /unmute NAME: do not deliver what NAME says; /close ROOM: put its "
    "members into the lobby"
)
# The beginning of a text that says what its sender does; it travels like any other text.
ACTION = "/me "
# Advice about a rejected name, beside the server's text, by error code.
HINTS = {
    "name_taken": "if you had this very name: it is free a minute after that connection was lost",
    "not_a_message": "this server knows no names, try without --name",
    "not_allowed": "check --name and --room",
}
# The options that show each kind of proof.
OPTIONS = {
    "password": "--name NAME --password",
    "jwt": "--token FILE",
    "secret": "--name NAME --secret",
}


class Command(Enum):
    """A command without an argument."""

    QUIT = "/quit"
    HELP = "/help"
    # Only for members.
    WHO = "/who"
    ROOMS = "/rooms"


# Commands with arguments, and how they are written; only for members. And those only for operators, whose
# request has the same word.
OPERATORS_USAGES = {
    "/kick": "/kick NAME",
    "/ban": "/ban NAME [for 10m]",
    "/unban": "/unban NAME",
    "/mute": "/mute NAME [for 10m]",
    "/unmute": "/unmute NAME",
    "/close": "/close ROOM",
}
USAGES = {"/join": "/join ROOM", "/msg": "/msg NAME TEXT", "/me": "/me TEXT", **OPERATORS_USAGES}

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
class Moderate:
    """An operator's request; ``seconds`` is how long a ban or a mute lasts, None: for good."""

    action: str
    target: str
    seconds: float | None = None


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
        return f"write it as: {USAGES[self.word]}"


Action = Say | Tell | Enter | Moderate | Command


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
        case "/ban" | "/mute":
            return _for_a_while(word, argument.split())
        case _ if word in OPERATORS_USAGES and argument and not text:
            return Moderate(word[1:], argument)
        case _:
            return Incomplete(word)


def _for_a_while(word: str, words: list[str]) -> Moderate | Incomplete:
    match words:
        case [name]:
            return Moderate(word[1:], name)
        case [name, "for", *duration] if duration:
            try:
                return Moderate(word[1:], name, parse_duration(" ".join(duration)))
            except ValueError:
                return Incomplete(word)
        case _:
            return Incomplete(word)


def help_for(name: str | None, role: str | None) -> str:
    """Return the help for a plain client (``name`` is None), a member or an operator."""
    if name is None:
        return HELP
    return f"{NAMED_HELP}; {OPERATORS_HELP}" if role == OPERATOR else NAMED_HELP


def said(message: Message, *, named: bool = False) -> tuple[str, str, str]:
    """Return ``message`` as a line in three parts, safe for a terminal: the middle one is the sender's name.

    A member's message cannot look like an announcement of the operator: an announcement begins with ``***``,
    and a member's message with a name. On a member's connection (``named``) each message without a sender is
    the server's: the farewell of one of several hosts has no room either.
    """
    text = visible(message.text)
    if message.sender is None:
        return ("" if message.room is None and not named else "*** "), "", text
    sender = visible(message.sender)
    if message.to is not None:
        return "", sender, f" -> {visible(message.to)}: {text}"
    if message.text.startswith(ACTION):
        return "* ", sender, f" {visible(message.text.removeprefix(ACTION))}"
    return "", sender, f": {text}"


def shown(event: Event, *, named: bool = False) -> str:
    """Return ``event`` as one line, safe for a terminal; ``named`` as in :func:`said`."""
    match event:
        case Message():
            return "".join(said(event, named=named))
        case Refused():
            times = f", {event.times} times" if event.times > 1 else ""
            hint = _hint(event.code, event.proofs) if event.code not in HINTS else ""
            text = visible(_for_people(event.text, event.proofs))
            return f"the server refused: {text} ({visible(event.code)}{times}){hint}"
        case Garbled():
            return visible(event.text)
        case Pong():
            return "pong"
        case Moderated():
            return _moderated_line(event)
        case History():
            return f"earlier messages of {visible(event.room)}: {len(event.messages)}"
        case Connected() | Disconnected() | Lost() | Rejected():
            return _connection_line(event)
        case _:
            return _room_line(event)


def is_told(event: Event) -> bool:
    """Tell whether ``event`` gets a line: for an unasked welcome with a loss that of the loss is enough."""
    return not (isinstance(event, Welcome) and event.again and event.lost is not None)


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
            why = refusal(event.code, event.text, event.proofs)
            text = f"not let in as {visible(event.name)}: {why}"
            return text + ("; trying again" if event.retrying else "")


def _room_line(event: Welcome | Joined | Left | Who | Rooms) -> str:
    match event:
        case Welcome(again=True):
            where = f"{visible(event.name)} in {visible(event.room)}"
            return f"the chat was restored: you are still {where}, {_people(event.members)} here"
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


def _moderated_line(done: Moderated) -> str:
    target = visible(done.target)
    match done.action:
        case "kick" | "ban":
            ended = f"{done.count} connection{'' if done.count == 1 else 's'} ended"
            return f"{target} is banned; {ended}" if done.action == "ban" else f"{target}: {ended}"
        case "close":
            return f"{target} is closed; {_people(done.count)} put into the lobby"
        case "mute":
            return f"{target} is muted"
        case "unban" | "unmute":
            return f"{target} is not {'banned' if done.action == 'unban' else 'muted'} any more"
        case _:
            return f"{visible(done.action)}: {target}"


def refusal(code: str, text: str, proofs: tuple[str, ...] = ()) -> str:
    """Return the line that says why a name was rejected, with advice."""
    return f"{visible(_for_people(text, proofs))} ({visible(code)}){_hint(code, proofs)}"


def _for_people(text: str, proofs: tuple[str, ...]) -> str:
    """Return a server's text without the JSON that a program has to send: options show these ``proofs``."""
    return text.partition(': send {"join"')[0] if _options(proofs) else text


def _options(proofs: tuple[str, ...]) -> list[str]:
    return [OPTIONS[kind] for kind in proofs if kind in OPTIONS]


def _hint(code: str, proofs: tuple[str, ...]) -> str:
    options = _options(proofs)
    hint = f"try mpchat chat {', or '.join(options)}" if options else HINTS.get(code)
    return f"; {hint}" if hint else ""


def _people(count: int) -> str:
    return f"{count} {'person' if count == 1 else 'people'}"


def _names(event: Joined | Left) -> str:
    names = ", ".join(map(visible, event.names))
    more = event.count - len(event.names)
    return f"{names} and {more} more" if more > 0 else names
