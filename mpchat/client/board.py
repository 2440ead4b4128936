"""The status line, and the names and rooms that Tab completes, from the events of a member's chat. Pure.

A board knows only names from events: in a large room the first page of ``/who``, members that have spoken,
and members that have entered since.
"""

from mpchat.client.core import (
    Connected,
    Disconnected,
    Event,
    Joined,
    Left,
    Message,
    Rejected,
    Rooms,
    Welcome,
    Who,
)
from mpchat.client.lines import OPERATORS_USAGES, USAGES, Command
from mpchat.text import visible

# Names, and rooms, that are remembered: the last ones seen. A user completes far fewer by hand.
MOST = 1000

COMMANDS = sorted([*(f"{word} " for word in USAGES), *(command.value for command in Command)])


class Board:
    """The member's room and its other members, and the state of the connection."""

    def __init__(self) -> None:
        """Begin without a connection, a name and a room."""
        self.connection = "connecting"
        self.name = ""
        self.room = ""
        self.members = 0
        # Dictionaries as ordered sets, oldest first.
        self.names: dict[str, None] = {}
        self.rooms: dict[str, None] = {}

    def note(self, event: Event) -> None:
        """Learn from ``event``."""
        match event:
            case Connected():
                self.connection = "joining"
            case Disconnected():
                self.connection = "trying again" if event.retrying else "disconnected"
            case Rejected():
                self.connection = f"not let in ({event.code})"
            case Welcome():
                self._welcome(event)
            case Joined() | Left() | Who() if event.room == self.room:
                self._members_changed(event)
            case Message(sender=str(sender), to=to) if (
                ":" not in sender
            ):  # not an address: no name to complete
                # The receiver of a private message may be in another room.
                self._remember(self.names, *(each for each in (sender, to) if each is not None))
            case Rooms():
                self._remember(self.rooms, *(each.room for each in event.rooms))

    def _members_changed(self, event: Joined | Left | Who) -> None:
        self.members = event.members
        if isinstance(event, Left):
            for name in event.names:
                self.names.pop(name, None)
        else:
            self._remember(self.names, *event.names)

    def _welcome(self, welcome: Welcome) -> None:
        if welcome.room != self.room:
            self.names.clear()
        self.connection = "connected"
        self.name, self.room, self.members = welcome.name, welcome.room, welcome.members
        self._remember(self.rooms, welcome.room)

    @staticmethod
    def _remember(known: dict[str, None], *words: str) -> None:
        for word in words:
            known.pop(word, None)
            known[word] = None
        while len(known) > MOST:
            del known[next(iter(known))]

    def status(self) -> str:
        """Return the status line, the most important part first: a narrow window shows its beginning."""
        if not self.room:
            return visible(self.connection)
        return visible(f"{self.connection} · {self.room} · {self.members} here · {self.name}")

    def completions(self, before: str) -> tuple[str, list[str]]:
        """Return the last word of ``before``, the text left of the cursor, and what it can become."""
        if before.startswith("/") and " " not in before:
            return before, [each for each in COMMANDS if each.startswith(before)]
        start, _, word = before.rpartition(" ")
        start = start.rstrip()  # Tab has put a space behind a command, and users type another one
        if start == "/join":
            return word, _beginning_with(word, self.rooms, "")
        if start == "/close":
            return word, _beginning_with(word, self.rooms, "")
        if start == "/msg" or start in OPERATORS_USAGES:
            return word, _beginning_with(word, self._others(), " ")
        if not word:
            return word, []
        return word, _beginning_with(word, self._others(), " " if start else ": ")

    def _others(self) -> list[str]:
        return [name for name in self.names if name != self.name]


def _beginning_with(word: str, known: "dict[str, None] | list[str]", end: str) -> list[str]:
    """Return the words of ``known`` that begin with ``word``, in any case, sorted, ``end`` after each."""
    folded = word.casefold()
    return sorted(f"{each}{end}" for each in known if each.casefold().startswith(folded))
