"""Chatting with a name: what lines mean and look like, then in a real terminal, then as lines in a pipe."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth
from support.named_peer import BEGINNING, Hall, NamedServer
from support.plain_chat import chatted
from support.screens import Screen
from support.waiting import PATIENCE, eventually

from mpchat.cli.commands import main
from mpchat.client import plain
from mpchat.client.board import COMMANDS, MOST, Board
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
    RoomSize,
    Welcome,
    Who,
)
from mpchat.client.lines import Command, Enter, Incomplete, Say, Tell, Unknown, parse, said, shown
from mpchat.client.screen import COLOURS, clipped, colour, coloured, wrapped
from mpchat.errors import Exit

pytestmark = pytest.mark.one_python

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
EVIL = "\x1b[2J\u202e\n\x9b"


# Lines


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("안녕", Say("안녕")),
        ("//join x", Say("/join x")),
        ("/join 게임방 ", Enter("게임방")),
        ("/join", Incomplete("/join")),
        ("/msg 밥 지금 어디 ", Tell("밥", "지금 어디")),
        ("/msg 밥", Incomplete("/msg")),
        ("/msg 밥  ", Incomplete("/msg")),
        ("/me  손을 흔든다", Say("/me 손을 흔든다")),
        ("/me", Incomplete("/me")),
        ("/who", Command.WHO),
        ("/rooms", Command.ROOMS),
        ("/help", Command.HELP),
        ("/quit", Command.QUIT),
        ("/nick x", Unknown("/nick")),
        ("  ", None),
    ],
)
def test_what_a_line_of_somebody_with_a_name_asks_for(line: str, meaning: object) -> None:
    assert parse(line, named=True) == meaning


@pytest.mark.parametrize("line", ["/join x", "/msg x y", "/me x", "/who", "/rooms"])
def test_without_a_name_there_is_none_of_that(line: str) -> None:
    word = line.split()[0]
    assert parse(line) == Unknown(word)
    assert str(Unknown(word)).startswith(f"{word} needs a name: mpchat chat --name NAME")


def test_a_wrong_line_is_answered_with_what_would_be_right() -> None:
    assert str(Unknown("/nick")) == "there is no /nick; try /help, or //text to say /text"
    assert str(Incomplete("/msg")) == "write it as: /msg NAME TEXT"
    assert str(Incomplete("/join")) == "write it as: /join ROOM"
    assert str(Incomplete("/me")) == "write it as: /me TEXT"


def test_the_three_parts_of_a_line_have_the_sender_in_the_middle() -> None:
    assert said(Message("hi")) == ("", "", "hi")
    assert said(Message("hi", None, "lobby", 1, 2.0)) == ("*** ", "", "hi")
    assert said(Message("hi", "bob", "lobby", 1, 2.0)) == ("", "bob", ": hi")
    assert said(Message("/me waves", "bob", "lobby", 1, 2.0)) == ("* ", "bob", " waves")
    assert said(Message("hi", "bob", at=2.0, to="carol")) == ("", "bob", " -> carol: hi")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Message("안녕", "앨리스", "lobby", 1, 2.0), "앨리스: 안녕"),
        (Message("/me 손을 흔든다", "앨리스", "lobby", 1, 2.0), "* 앨리스 손을 흔든다"),
        (Message("/me", "앨리스", "lobby", 1, 2.0), "앨리스: /me"),
        (Message("psst", "앨리스", at=2.0, to="밥"), "앨리스 -> 밥: psst"),
        (Message("hi", "127.0.0.1:5", "lobby", 1, 2.0), "127.0.0.1:5: hi"),
        (Message("restart", None, "lobby", 1, 2.0), "*** restart"),
        (Message("The server is stopping."), "The server is stopping."),
        (Joined("lobby", ("밥",), 1, 2), "밥 joined"),
        (Joined("lobby", ("a", "b"), 7, 9), "a, b and 5 more joined"),
        (Left("lobby", ("밥",), 1, 1, "slow consumer"), "밥 left (slow consumer)"),
        (Who("lobby", ("밥", "앨리스"), 200, "앨리스"), "lobby, 200 people: 밥, 앨리스, …"),
        (Rooms((RoomSize("lobby", 2), RoomSize("방", 1)), 2), "lobby (2), 방 (1)"),
        (History("방", (Message("전에"),), 5), "earlier messages of 방: 1"),
        (Lost("lobby", 4, 6), "lost: messages 4 to 6"),
        (Lost("lobby", 4, None), "the server has begun anew: what was said after message 3 may be lost"),
        (
            Rejected("앨리스", "lobby", "name_taken", "it is taken", retrying=True),
            "not let in as 앨리스: it is taken (name_taken); if you had this very name: it is free a minute "
            "after that connection was lost; trying again",
        ),
        (
            Rejected("앨리스", "lobby", "bad_name", "no", retrying=False),
            "not let in as 앨리스: no (bad_name)",
        ),
        (
            Rejected("앨리스", "lobby", "kicked", "the operator has ended it", retrying=False),
            "the operator has ended it (kicked)",
        ),
        (Disconnected("h:1", "gone", retrying=False), "connection to h:1 lost"),
        (Disconnected("h:1", "gone", retrying=True), "connection to h:1 lost, trying again"),
        (Connected("h:1", again=False), "connected to h:1 (/help)"),
        (Connected("h:1", again=True), "connected again"),
        (Welcome("앨리스", "lobby", 1, "e", 1, "t"), "you are 앨리스 in lobby, 1 person here"),
        (Welcome("앨리스", "lobby", 1, "e", 2, "t"), "you are 앨리스 in lobby, 2 people here"),
        (Joined("lobby", ("a", "b"), 3, 9), "a, b and 1 more joined"),
        (Left("lobby", ("a", "b"), 2, 9), "a, b left"),
        (Who("lobby", ("밥",), 1), "lobby, 1 person: 밥"),
        (Rooms((RoomSize("lobby", 2),), 7, "lobby"), "lobby (2), …"),
        (Refused("muted", "you are muted"), "the server refused: you are muted (muted)"),
        (Refused("muted", "you are muted", 12), "the server refused: you are muted (muted, 12 times)"),
        (Garbled("not_a_message", "not an mpchat server"), "not an mpchat server"),
        (Pong(1), "pong"),
    ],
)
def test_what_an_event_looks_like(event: Event, line: str) -> None:
    assert shown(event) == line


@pytest.mark.parametrize(
    "event",
    [
        Message(EVIL, EVIL, EVIL, 1, 2.0),
        Message(f"/me {EVIL}", EVIL, EVIL, 1, 2.0),
        Message(EVIL, EVIL, at=2.0, to=EVIL),
        Message(EVIL, None, EVIL, 1, 2.0),
        Joined(EVIL, (EVIL,), 3, 9),
        Left(EVIL, (EVIL,), 3, 9, EVIL),
        Welcome(EVIL, EVIL, 1, EVIL, 1, EVIL),
        Who(EVIL, (EVIL,), 1, EVIL),
        Rooms((RoomSize(EVIL, 1),), 1, EVIL),
        Rejected(EVIL, EVIL, EVIL, EVIL, retrying=True),
    ],
)
def test_nothing_of_anybody_reaches_the_terminal_raw(event: Event) -> None:
    assert shown(event).isprintable()
    if isinstance(event, Message):
        raw = coloured(event)
        assert raw.count("\x1b") in (2, 4)
        assert "\x9b" not in raw
    board = Board()
    board.note(Welcome(EVIL, EVIL, 1, EVIL, 1, EVIL))
    board.note(event)
    assert board.status().isprintable()


@given(TEXTS, st.sampled_from(["앨리스", "bob", "*"]))
def test_nobody_with_a_name_speaks_as_the_operator(text: str, sender: str) -> None:
    line = "".join(said(Message(text, sender, "lobby", 1, 2.0)))
    assert not line.startswith("***")


def test_a_name_has_one_colour() -> None:
    assert colour("앨리스") == colour("앨리스")
    assert colour("Bob") == colour("bob")
    assert {colour(f"name{number}") for number in range(1000)} == set(COLOURS)


def test_a_message_has_its_time_and_its_name_a_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    when = time.strftime("%H:%M", time.localtime(BEGINNING))
    hello = Message("안녕", "앨리스", "lobby", 1, BEGINNING)
    number = colour("앨리스")
    assert coloured(hello) == f"\x1b[2m{when}\x1b[0m \x1b[38;5;{number}m앨리스\x1b[39m: 안녕"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured(hello).endswith(" 앨리스: 안녕")
    assert "--:--" in coloured(Message("x", "y", "lobby", 1, 1e300))


@given(
    st.lists(st.sampled_from(["안녕하세요", "여러분", "hello", "a", "👋", "긴" * 20])), st.integers(20, 80)
)
def test_lines_are_broken_by_columns_and_nothing_gets_lost(words: list[str], columns: int) -> None:
    text = " ".join(["*", *words])
    lines = wrapped(text, columns)
    assert " ".join(line.strip() for line in lines) == text
    for line in lines:
        assert get_cwidth(line) <= columns or " " not in line.strip()


@given(TEXTS, st.integers(2, 40))
def test_a_status_line_never_takes_two(text: str, columns: int) -> None:
    line = clipped(text, columns)
    assert get_cwidth(line) <= columns
    assert line == text or line.endswith("…")


# The board


def _board() -> Board:
    board = Board()
    board.note(Connected("h:1", again=False))
    board.note(Welcome("앨리스", "lobby", 1, "e", 3, "t"))
    board.note(Who("lobby", ("밥", "밥돌이", "Bob", "앨리스"), 4))
    board.note(Rooms((RoomSize("lobby", 4), RoomSize("게임방", 1)), 2))
    return board


def test_the_status_line_follows_what_happens() -> None:
    board = Board()
    assert board.status() == "connecting"
    board = _board()
    assert board.status() == "connected · lobby · 4 here · 앨리스"
    board.note(Joined("lobby", ("carol",), 1, 5))
    board.note(Left("elsewhere", ("x",), 1, 77))
    assert board.status() == "connected · lobby · 5 here · 앨리스"
    board.note(Disconnected("h:1", "gone", retrying=True))
    assert board.status() == "trying again · lobby · 5 here · 앨리스"
    board.note(Connected("h:1", again=True))
    assert board.status().startswith("joining")
    board.note(Rejected("앨리스", "lobby", "name_taken", "no", retrying=True))
    assert board.status().startswith("not let in (name_taken)")
    board.note(Welcome("앨리스", "게임방", 1, "e", 1, "t"))
    assert board.status() == "connected · 게임방 · 1 here · 앨리스"
    assert not board.names


@pytest.mark.parametrize(
    ("before", "word", "completions"),
    [
        ("", "", []),
        ("/", "/", COMMANDS),
        ("/j", "/j", ["/join "]),
        ("/w", "/w", ["/who"]),
        ("/join ", "", ["lobby", "게임방"]),
        ("/join  ", "", ["lobby", "게임방"]),
        ("/join 게", "게", ["게임방"]),
        ("/msg 밥", "밥", ["밥 ", "밥돌이 "]),
        ("/msg b", "b", ["Bob "]),
        ("/msg ", "", ["Bob ", "밥 ", "밥돌이 "]),
        ("밥돌", "밥돌", ["밥돌이: "]),
        ("안녕 밥돌", "밥돌", ["밥돌이 "]),
        ("안녕 ", "", []),
        ("앨", "앨", []),
        ("/msg 밥 b", "b", ["Bob "]),
    ],
)
def test_what_tab_completes(before: str, word: str, completions: list[str]) -> None:
    assert _board().completions(before) == (word, completions)


def test_who_speaks_comes_or_goes_is_known() -> None:
    board = _board()
    board.note(Message("hi", "dave", "lobby", 2, 1.0))
    board.note(Message("hi", "127.0.0.1:5", "lobby", 3, 1.0))
    board.note(Left("lobby", ("Bob",), 1, 3))
    assert list(board.names) == ["밥", "밥돌이", "앨리스", "dave"]
    board.note(Message("psst", "앨리스", to="erin", at=1.0))
    assert board.completions("/msg e") == ("e", ["erin "])
    for number in range(2 * MOST):
        board.note(Message("hi", f"n{number}", "lobby", 4, 1.0))
    assert len(board.names) == MOST


def test_the_status_line_says_when_the_chat_is_over_and_when_it_begins() -> None:
    board = Board()
    board.note(Connected("h:1", again=False))
    assert board.status() == "joining"
    board = _board()
    board.note(Disconnected("h:1", "gone", retrying=False))
    assert board.status() == "disconnected · lobby · 4 here · 앨리스"
    board.note(Who("elsewhere", ("x",), 77))
    assert board.members == 4


def test_a_room_that_was_entered_is_known_and_its_names_outlive_a_lost_connection() -> None:
    board = _board()
    board.note(Welcome("앨리스", "lobby", 9, "e", 4, "t"))
    assert list(board.names) == ["밥", "밥돌이", "Bob", "앨리스"]
    board.note(Welcome("앨리스", "새방", 1, "e", 1, "t"))
    assert board.completions("/join ") == ("", ["lobby", "게임방", "새방"])
    assert not board.names


def test_of_too_many_names_those_that_were_seen_last_are_known() -> None:
    board = _board()
    for number in range(MOST - 4):
        board.note(Message("hi", f"n{number}", "lobby", 4, 1.0))
    board.note(Message("hi", "밥", "lobby", 5, 1.0))
    board.note(Message("hi", "one more", "lobby", 6, 1.0))
    assert len(board.names) == MOST
    assert "밥" in board.names
    assert "밥돌이" not in board.names


# In a terminal


def _command(server: NamedServer, *options: str, name: str = "앨리스") -> list[str]:
    return [sys.executable, "-m", "mpchat", "chat", "127.0.0.1", f"{server.port}", "--name", name, *options]


@pytest.fixture
def server() -> Iterator[NamedServer]:
    with NamedServer() as server:
        yield server


@contextmanager
def _screen(server: NamedServer, name: str = "앨리스", columns: int = 80) -> Iterator[Screen]:
    with Screen(_command(server, name=name), columns=columns) as screen:
        screen.shows(f"* you are {name} in lobby")
        # What Tab knows has been asked for, and answered.
        eventually(lambda: {"rooms": {}} in server.received, "the question for rooms")
        screen.shows(f"connected · lobby · {len(server.members())} here · {name}")
        yield screen


def _time(seq: int) -> str:
    return time.strftime("%H:%M", time.localtime(BEGINNING + seq))


def test_two_people_in_a_room(server: NamedServer) -> None:
    server.say("전에 한 말")
    with _screen(server) as one, _screen(server, "밥") as other:
        one.shows("밥 joined")
        one.shows("connected · lobby · 2 here · 앨리스")
        one.say("안녕하세요, 여러분")
        other.ends_with(
            f"{_time(1)} bob: 전에 한 말",
            f"{_time(2)} 앨리스: 안녕하세요, 여러분",
            ">",
            " connected · lobby · 2 here · 밥",
        )
        other.say("/me 손을 흔든다")
        one.ends_with(f"{_time(3)} * 밥 손을 흔든다", ">", " connected · lobby · 2 here · 앨리스")
        other.say("/msg 앨리스 귓속말")
        one.shows("밥 -> 앨리스: 귓속말")
        other.shows("밥 -> 앨리스: 귓속말")
        other.say("/quit")
        assert other.exit_code() == 0
        one.shows("* 밥 left (closed)")
        one.shows("connected · lobby · 1 here · 앨리스")


def test_rooms_and_questions(server: NamedServer) -> None:
    with _screen(server) as screen:
        screen.say("/join 게임방")
        screen.shows("* you are 앨리스 in 게임방, 1 person here")
        screen.ends_with(">", " connected · 게임방 · 1 here · 앨리스")
        screen.say("/rooms")
        screen.shows("* 게임방 (1)")
        screen.say("/who")
        screen.shows("* 게임방, 1 person: 앨리스")
        screen.say("/msg 없는사람 hi")
        screen.shows("* the server refused: there is no 없는사람 (no_such_name)")
        server.refuse = "room_full"
        screen.say("/join lobby")
        screen.shows("* no room_full today (room_full)")
        screen.say("/join")
        screen.shows("* write it as: /join ROOM")
        screen.ends_with(">", " connected · 게임방 · 1 here · 앨리스")


def test_what_is_pasted_after_a_room_that_is_refused_is_not_said_in_the_old_one(server: NamedServer) -> None:
    server.refuse_rooms |= {"방2": "room_full", "방4": "too_many_rooms"}
    with _screen(server) as screen:
        screen.paste("/join 방2\n비밀\n/join 방3\n여기\n", bracketed=False)
        screen.shows("* no room_full today (room_full)")
        screen.shows("* not sent, its room was not entered: 비밀")
        screen.shows("앨리스: 여기")
        screen.say("/join 방4")
        screen.shows("* no too_many_rooms today (too_many_rooms)")
        screen.say("아직 여기")
        screen.shows("앨리스: 아직 여기")
    assert [each["message"] for each in server.received if "message" in each] == ["여기", "아직 여기"]


def test_a_line_for_the_second_of_two_rooms_is_not_said_in_the_old_one_when_both_are_lost(
    server: NamedServer,
) -> None:
    server.refuse_rooms["방2"] = "room_full"
    server.ignore = lambda request: request.get("join", {}).get("room") == "방4"
    with _screen(server) as screen:
        screen.paste("/join 방2\n/join 방4\n", bracketed=False)
        screen.shows("* no room_full today (room_full)")
        screen.say("비밀")
        screen.say("/who")
        server.drop()
        screen.shows("* not sent, its room was not entered: 비밀")
        screen.shows("* lobby, 1 person: 앨리스")
    assert not [each for each in server.received if "message" in each]


def test_typing_faster_than_the_prompt_comes_back(server: NamedServer) -> None:
    with _screen(server) as screen:
        lines = [f"줄 {number}" for number in range(20)]
        for line in lines:
            screen.say(line)
        said = [f"{_time(number + 1)} 앨리스: {line}" for number, line in enumerate(lines)]
        screen.ends_with(*said, ">", " connected · lobby · 1 here · 앨리스")


@pytest.mark.parametrize("bracketed", [True, False])
def test_a_tab_in_pasted_text_completes_nothing(server: NamedServer, bracketed: bool) -> None:
    with _screen(server, "밥돌이"), _screen(server) as screen:
        screen.paste("밥\t뒤\n밥\t\n\t밥\n", bracketed=bracketed)
        if bracketed:
            screen.press("Enter")
        for line in (r"밥\t뒤", r"밥\t", r"\t밥"):
            screen.shows(f"앨리스: {line}")


def test_tab_completes_commands_names_and_rooms(server: NamedServer) -> None:
    with _screen(server, "밥돌이"), _screen(server) as screen:
        screen.type_in("/m")
        screen.press("Tab")
        screen.shows("/msg")
        screen.press("C-u")
        screen.type_in("/msg 밥")
        screen.press("Tab")
        screen.shows("> /msg 밥돌이")
        screen.type_in("hi")
        screen.shows("> /msg 밥돌이 hi")
        screen.press("Enter")
        screen.shows("앨리스 -> 밥돌이: hi")
        screen.type_in("밥")
        screen.press("Tab")
        screen.shows("> 밥돌이:")
        screen.press("C-u")
        screen.type_in("/j")
        screen.press("Tab")
        screen.shows("> /join")
        screen.type_in("lo")
        screen.press("Tab")
        screen.shows("> /join lobby")


def test_an_escape_sequence_in_a_name_or_a_text_does_nothing(server: NamedServer) -> None:
    with _screen(server) as screen:
        server.say("\x1b[2Jevil\n", "b\x1b[31mad")
        screen.ends_with(
            rf"{_time(1)} b\x1b[31mad: \x1b[2Jevil\n", ">", " connected · lobby · 1 here · 앨리스"
        )


def test_forty_columns_and_wide_characters(server: NamedServer) -> None:
    with _screen(server, columns=40) as screen:
        screen.say("스무 글자가 넘는 아주 긴 문장을 하나 써 보려고 합니다")
        first = f"{_time(1)} 앨리스: 스무 글자가 넘는 아주 "
        screen.shows(first.strip())
        screen.shows("합니다")
        assert all(get_cwidth(line) <= 40 for line in screen.lines)
        screen.say("/join " + "아주긴방이름" * 5)
        screen.shows("connected · 아주긴방이름아주긴방이름아…")
        screen.say("/help")
        screen.shows("* a line and Enter: say it; /me TEXT:\n  say what you do;")


def test_the_server_restarts_and_nothing_is_lost() -> None:
    hall = Hall()
    with NamedServer(hall) as first:
        with _screen(first) as screen:
            first.say("before")
            screen.shows("bob: before")
            first.stop()
            screen.ends_with(">", " trying again · lobby · 1 here · 앨리스")
            hall.add("lobby", "meanwhile", "bob")
            with NamedServer(hall, first.port):
                screen.ends_with(
                    "* connected again",
                    "* you are 앨리스 in lobby, 1 person here",
                    f"{_time(2)} bob: meanwhile",
                    ">",
                    " connected · lobby · 1 here · 앨리스",
                )


def test_what_is_lost_is_said(server: NamedServer) -> None:
    with _screen(server) as screen:
        server.skip = {1, 2}
        for text in "abc":
            server.say(text)
        screen.shows("* lost: messages 1 to 2")


def test_a_name_that_is_no_longer_allowed_ends_the_chat(server: NamedServer) -> None:
    with _screen(server) as screen:
        server.refuse = "bad_name"
        server.drop()
        screen.shows("* not let in as 앨리스: no bad_name today (bad_name)")
        assert screen.exit_code() == 1
        assert "Traceback" not in screen.text


# In a pipe


def _plain(server: NamedServer, said: str, *options: str) -> tuple[int, str, str]:
    command = _command(server, "--plain", *options)
    done = subprocess.run(
        command, input=said.encode(), capture_output=True, timeout=PATIENCE, env=os.environ, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def _plain_here(server: NamedServer, said: str, *options: str) -> tuple[int, str, str]:
    """Do the same in the test's process: that it has a process of its own, the first test shows."""
    words = ["chat", "127.0.0.1", f"{server.port}", "--name", "앨리스", "--plain", *options]
    return chatted(said.encode(), lambda: main(words))


def test_lines_with_names_in_a_pipe(server: NamedServer) -> None:
    server.say("전에 한 말")
    code, out, err = _plain(server, "안녕\n/me 손을 흔든다\n/msg 앨리스 혼잣말\n")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == ["bob: 전에 한 말", "앨리스: 안녕", "* 앨리스 손을 흔든다"]
    assert set(out.splitlines()[3:]) == {"앨리스 -> 앨리스: 혼잣말"}


def test_what_one_said_in_an_earlier_life_is_no_echo(server: NamedServer) -> None:
    server.say("안녕", "앨리스")
    assert _plain_here(server, "안녕\n") == (0, "앨리스: 안녕\n앨리스: 안녕\n", "")


def test_what_does_not_come_back_is_told_although_one_said_it_before(
    server: NamedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.say("안녕", "앨리스")
    server.ignore = lambda request: "message" in request
    monkeypatch.setattr(plain, "ECHO_TIMEOUT", 0.5)
    code, out, _ = _plain_here(server, "안녕\n")
    assert (code, out) == (6, "앨리스: 안녕\n")


def test_a_line_that_is_refused_is_a_failure_and_the_others_are_said(server: NamedServer) -> None:
    refused = "mpchat: the server refused: there is no 없는사람 (no_such_name)\n"
    assert _plain_here(server, "/msg 없는사람 누구?\n안녕\n") == (1, "앨리스: 안녕\n", refused)


def test_a_line_for_a_room_that_is_refused_is_not_said_in_the_old_one(server: NamedServer) -> None:
    server.refuse_rooms["방2"] = "room_full"
    code, out, err = _plain_here(server, "/join 방2\n비밀\n/join 방3\n안녕\n")
    assert (code, out) == (1, "앨리스: 안녕\n")
    assert [each["message"] for each in server.received] == ["안녕"]
    assert "a line is not sent: its room was not entered" in err


def test_rooms_in_a_pipe(server: NamedServer) -> None:
    code, out, err = _plain_here(server, "/join 방2\nhi\n/who\n/rooms\n/nick\n/join\n", "--room", "방1")
    assert (code, out) == (1, "앨리스: hi\n")
    assert [join["room"] for join in server.joins] == ["방1", "방2"]
    assert err.splitlines() == [
        "mpchat: 방2, 1 person: 앨리스",
        "mpchat: 방2 (1)",
        "mpchat: there is no /nick; try /help, or //text to say /text",
        "mpchat: write it as: /join ROOM",
    ]


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("name_taken", "; if you had this very name: it is free a minute after that connection was lost"),
        ("not_a_message", "; this server knows no names, try without --name"),
        ("bad_name", ""),
        ("\x1b[2J", ""),
    ],
)
def test_a_refused_name_in_a_pipe(server: NamedServer, code: str, hint: str) -> None:
    server.refuse = code
    shown_code = code.replace("\x1b", r"\x1b")
    assert _plain_here(server, "hi\n") == (1, "", f"mpchat: no {shown_code} today ({shown_code}){hint}\n")


def test_a_room_needs_a_name() -> None:
    done = CliRunner().invoke(main, ["chat", "--room", "lobby"])
    assert done.exit_code == Exit.USAGE
    assert "--room needs --name" in done.output
