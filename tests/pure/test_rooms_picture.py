"""What ``mpchat rooms`` shows: names of clients are made safe, and nothing is cut off."""

from io import StringIO

import pytest
from rich.console import Console

from mpchat.cli.display import rooms_picture
from mpchat.control.answers import RoomFacts

LOBBY = RoomFacts(room="lobby", members=0, messages=0, bytes=0, made=None, active=None)


def shown(*rooms: RoomFacts, width: int = 80) -> list[str]:
    """Return the lines that a terminal of this width is given."""
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(rooms_picture(rooms, now=10_000.0))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_a_room_is_shown_with_its_figures() -> None:
    room = RoomFacts(room="게임-7", members=2, messages=1000, bytes=415_000, made=1000.0, active=9_970.0)
    head, lobby, game = shown(LOBBY, room)
    assert head.split() == ["room", "members", "messages", "memory", "age", "last", "active"]
    assert lobby.split() == ["lobby", "0", "0", "0", "B", "-", "-"]
    assert game.split() == ["게임-7", "2", "1000", "405", "KiB", "2", "h", "30", "min", "30", "s"]


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eevil", "[bold]x"])
def test_a_hostile_name_reaches_the_terminal_as_text_alone(name: str) -> None:
    room = RoomFacts(room=name, members=2, messages=0, bytes=0, made=20_000.0, active=None)
    _, row = shown(room)
    assert row.isprintable()
    assert name.isprintable() is (name in row)


def test_a_narrow_terminal_breaks_a_name_and_loses_nothing_of_it() -> None:
    room = RoomFacts(room="x" * 32, members=2, messages=0, bytes=0, made=0.0, active=0.0)
    lines = shown(room, width=60)
    assert max(map(len, lines)) <= 60
    assert "".join(lines).count("x") == 32
