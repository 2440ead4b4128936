"""What ``mpchat clients`` shows: it fits the terminal, and nothing of a client reaches it raw or is lost."""

import pytest
from rich.cells import cell_len

from mpchat.cli.client_table import client_lines, short
from mpchat.control.answers import ClientFacts

NOW = 100_000.0
BOB = ClientFacts(
    address="127.0.0.1:5000", name="bob", room="lobby", protocol="plain", since=NOW - 7300, silent=3.2,
    worker=2,
)  # fmt: skip
ALICE = ClientFacts(
    address="[2001:db8:1111:2222:3333:4444:5555:6666]:50000", name="앨리스" * 8, room="게임" * 10,
    protocol="websocket", tls=True, state="moving", since=NOW - 90, silent=90.0, behind=1_048_000,
)  # fmt: skip


def shown(*clients: ClientFacts, width: int = 80) -> list[str]:
    lines = client_lines(clients, NOW, width)
    assert max(map(cell_len, lines)) <= width
    return lines


def test_a_client_is_a_row() -> None:
    head, row = shown(BOB)
    assert head.split() == ["address", "name", "room", "protocol", "age", "silent", "behind", "worker"]
    assert row.split() == ["127.0.0.1:5000", "bob", "lobby", "plain", "2", "h", "3", "s", "-", "2"]


def test_columns_stand_below_each_other_with_korean_names() -> None:
    korean = ClientFacts(address="127.0.0.1:5001", name="앨리스", room="게임-7", protocol="http", worker=1)
    lines = shown(BOB, korean)
    assert len({cell_len(line) for line in lines}) == 1
    assert len({cell_len(line[: line.index(word)]) for line, word in zip(
        lines, ("protocol", "plain", "http"), strict=True
    )}) == 1  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 78, 80, 120, 200])
def test_what_does_not_fit_goes_on_in_the_next_line_and_is_not_cut_off(width: int) -> None:
    text = "".join(shown(BOB, ALICE, width=width))
    assert (text.count("앨"), text.count("게")) == (8, 10)
    for digit in "12346":
        assert text.count(digit) >= ALICE.address.count(digit)
    assert "moving" in text


def test_a_narrow_terminal_gets_each_client_as_a_few_lines() -> None:
    _, first, *rest = shown(BOB, width=40)
    assert first == "127.0.0.1:5000, bob, lobby"
    assert rest == ["  plain, age 2 h, silent 3 s, behind -,", "  worker 2"]


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eevil", "[bold]x"])
@pytest.mark.parametrize("width", [40, 80])
def test_a_hostile_name_is_escaped(name: str, width: int) -> None:
    lines = shown(ClientFacts(address="127.0.0.1:1", name=name, room=name), width=width)
    assert all(line.isprintable() for line in lines)
    assert not any("\x1b" in line for line in lines)
    assert len(lines) == (2 if width == 80 else 3)


def test_ten_thousand_rows_are_lines_without_delay() -> None:
    assert len(shown(*[BOB, ALICE] * 5000)) > 10_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (86_400, "1 d")]
)
def test_a_time_is_short(seconds: float, text: str) -> None:
    assert short(seconds) == text
