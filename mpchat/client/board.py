"""What the status line says and what Tab completes, from the events of a chat with a name. Pure.

It knows what it was told: of a large room the first page of names, those who have spoken and those who came.
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
from mpchat.client.lines import USAGES, Command
from mpchat.text import visible

# Names and rooms that are remembered, the last seen of each; more than anybody completes by hand.
MOST = 1000

COMMANDS = sorted([*(f"{word} " for word in USAGES), *(command.value for command in Command)])


class Board:
    """Where one is, with whom, and whether there is a connection."""

    def __init__(self) -> None:
        """Begin not knowing anything."""
        self.connection = "connecting"
        self.name = ""
        self.room = ""
        self.members = 0
        # Dictionaries as ordered sets, oldest first.
        self.names: dict[str, None] = {}
        self.rooms: dict[str, None] = {}

    def note(self, event: Event) -> None:
        """Take notice of ``event``."""
        match event:
            case Connected():
                self.connection = "joining"
            case Disconnected():
                self.connection = "trying again" if event.retrying else "disconnected"
            case Rejected():
                self.connection = f"not let in ({event.code})"
            case Welcome():
                self._welcome(event)
            case Joined() if event.room == self.room:
                self.members = event.members
                self._remember(self.names, *event.names)
            case Left() if event.room == self.room:
                self.members = event.members
                for name in event.names:
                    self.names.pop(name, None)
            case Message(sender=str(sender), to=to) if ":" not in sender:  # an address is nobody to write to
                # Whom one has told something too: he may be in another room.
                self._remember(self.names, *(each for each in (sender, to) if each is not None))
            case Who() if event.room == self.room:
                self.members = event.members
                self._remember(self.names, *event.names)
            case Rooms():
                self._remember(self.rooms, *(each.room for each in event.rooms))

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
        """Return the status line, what matters most first: a narrow window shows its beginning."""
        if not self.room:
            return visible(self.connection)
        return visible(f"{self.connection} · {self.room} · {self.members} here · {self.name}")

    def completions(self, before: str) -> tuple[str, list[str]]:
        """Return the last word of ``before``, what stands left of the cursor, and what it can become."""
        if before.startswith("/") and " " not in before:
            return before, [each for each in COMMANDS if each.startswith(before)]
        start, _, word = before.rpartition(" ")
        start = start.rstrip()  # Tab has put a space behind a command, and one types another
        if start == "/join":
            return word, _beginning_with(word, self.rooms, "")
        if start == "/msg":
            return word, _beginning_with(word, self._others(), " ")
        if not word:
            return word, []
        return word, _beginning_with(word, self._others(), " " if start else ": ")

    def _others(self) -> list[str]:
        return [name for name in self.names if name != self.name]


def _beginning_with(word: str, known: "dict[str, None] | list[str]", end: str) -> list[str]:
    """Return those of ``known`` that begin with ``word``, in any case, sorted, with ``end`` behind each."""
    folded = word.casefold()
    return sorted(f"{each}{end}" for each in known if each.casefold().startswith(folded))
