"""Proofs of identity and operators' requests in the terminal: what lines mean, then terminals and pipes."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.named_peer import NamedServer
from support.plain_chat import chatted
from support.screens import Screen
from support.waiting import PATIENCE, eventually

from mpchat.cli.commands import main
from mpchat.client.board import Board
from mpchat.client.core import Event, Message, Moderated, Refused, Rejected, Rooms, RoomSize
from mpchat.client.lines import Incomplete, Moderate, Unknown, help_for, parse, shown
from mpchat.client.token_file import TokenFile
from mpchat.errors import ConfigError, Exit

pytestmark = pytest.mark.one_python

EVIL = "\x1b[2J\u202e\n\x9b"
OTHERS_MAY_READ = 0o640


# Lines


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("/kick 밥", Moderate("kick", "밥")),
        ("/kick 192.0.2.0/24 ", Moderate("kick", "192.0.2.0/24")),
        ("/ban 밥", Moderate("ban", "밥")),
        ("/ban 밥 for 10m", Moderate("ban", "밥", 600.0)),
        ("/ban  밥  for  1.5 h", Moderate("ban", "밥", 5400.0)),
        ("/unban 밥", Moderate("unban", "밥")),
        ("/mute 밥 for 90s", Moderate("mute", "밥", 90.0)),
        ("/unmute 밥", Moderate("unmute", "밥")),
        ("/close 게임방", Moderate("close", "게임방")),
        ("/kick", Incomplete("/kick")),
        ("/kick 밥 앨리스", Incomplete("/kick")),
        ("/ban", Incomplete("/ban")),
        ("/ban 밥 10m", Incomplete("/ban")),
        ("/ban 밥 for", Incomplete("/ban")),
        ("/mute 밥 for 0.1s", Incomplete("/mute")),
        ("/mute 밥 for ever", Incomplete("/mute")),
        ("/mute 밥 for nan", Incomplete("/mute")),
        ("/unban 밥 for 10m", Incomplete("/unban")),
        ("/close", Incomplete("/close")),
        ("/kicks 밥", Unknown("/kicks")),
    ],
)
def test_what_an_operators_line_asks_for(line: str, meaning: object) -> None:
    assert parse(line, named=True) == meaning


def test_an_operators_line_that_is_wrong_or_has_no_name_is_answered() -> None:
    assert str(Incomplete("/ban")) == "write it as: /ban NAME [for 10m]"
    assert parse("/kick 밥") == Unknown("/kick")
    assert str(Unknown("/kick")).startswith("/kick needs a name")


def test_help_lists_an_operators_commands_to_operators() -> None:
    for word in ("/kick NAME", "/ban NAME [for 10m]", "/unban", "/mute NAME [for", "/unmute", "/close ROOM"):
        assert word in help_for("앨리스", "operator")
    assert "/kick" not in help_for("앨리스", "member") + help_for(None, None)
    assert "/who" in help_for("앨리스", "operator")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Moderated("kick", "밥", 1), "밥: 1 connection ended"),
        (Moderated("kick", "192.0.2.0/24", 3), "192.0.2.0/24: 3 connections ended"),
        (Moderated("ban", "밥", 0), "밥 is banned; 0 connections ended"),
        (Moderated("unban", "밥", 0), "밥 is not banned any more"),
        (Moderated("mute", "밥", 0), "밥 is muted"),
        (Moderated("unmute", "밥", 0), "밥 is not muted any more"),
        (Moderated("close", "게임방", 2), "게임방 is closed; 2 people put into the lobby"),
        (Moderated("later", "밥", 2), "later: 밥"),
        (
            Refused("auth_required", "증명", proofs=("password", "jwt", "secret", "later")),
            "the server refused: 증명 (auth_required); "
            "try mpchat chat --name NAME --password, or --token FILE, or --name NAME --secret",
        ),
        (
            Refused("auth_required", '닫힌 방: send {"join": {"jwt": "…"}}', 2, ("jwt",)),
            "the server refused: 닫힌 방 (auth_required, 2 times); try mpchat chat --token FILE",
        ),
        (
            Refused("auth_required", '닫힌 방: send {"join": {"key": "…"}}', proofs=("key",)),
            'the server refused: 닫힌 방: send {"join": {"key": "…"}} (auth_required)',
        ),
        (
            Rejected("단", "lobby", "not_allowed", "다른 방", False),
            "not let in as 단: 다른 방 (not_allowed); check --name and --room",
        ),
        (Refused("auth_required", "증명"), "the server refused: 증명 (auth_required)"),
        (
            Rejected("앨리스", "lobby", "auth_required", "증명", False, ("jwt",)),
            "not let in as 앨리스: 증명 (auth_required); try mpchat chat --token FILE",
        ),
        (
            Rejected("앨리스", "lobby", "expired", "끝났다", True),
            "not let in as 앨리스: 끝났다 (expired); trying again",
        ),
    ],
)
def test_what_an_event_looks_like(event: Event, line: str) -> None:
    assert shown(event) == line


@pytest.mark.parametrize(
    "event",
    [
        *(Moderated(action, EVIL, 1) for action in ("kick", "ban", "unban", "mute", "unmute", "close", EVIL)),
        Refused("auth_required", "x", proofs=(EVIL,)),
        Rejected("a", "b", "auth_required", "x", False, (EVIL,)),
    ],
)
def test_nothing_of_a_server_reaches_the_terminal_raw(event: Event) -> None:
    assert shown(event).isprintable()


def test_tab_completes_an_operators_names_and_rooms() -> None:
    board = Board()
    board.note(Message("hi", "밥돌이", "lobby", 1, 1.0))
    board.note(Rooms((RoomSize("게임방", 2),), 1))
    assert board.completions("/ki") == ("/ki", ["/kick "])
    assert board.completions("/kick ") == ("", ["밥돌이 "])
    assert board.completions("/kick 밥") == ("밥", ["밥돌이 "])
    assert board.completions("/close 게") == ("게", ["게임방"])


# The token's file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file that only this user may read, in a folder with a Korean name."""
    path = tmp_path / "열쇠 상자" / "token"
    path.parent.mkdir()
    path.write_text("header.claims.signature\nnot this line\n")
    path.chmod(0o600)
    return path


def test_the_first_line_is_read_again_each_time(file: Path) -> None:
    token = TokenFile(str(file))
    assert token() == "header.claims.signature"
    file.write_text("fresh.claims.signature")
    assert token() == "fresh.claims.signature"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(
        ConfigError, match="others may read or change it; close it with: chmod 600 '"
    ) as error:
        TokenFile(str(file))()
    assert "header" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\nheader.claims.signature\n",
        "토.큰.큰\n",
        "a.\x1bb.c\n",
        f"a.b.{'x' * 20_000}",
        "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n",
        "a-shared-key-of-at-least-32-bytes-of-random-text",
    ],
)
def test_a_line_that_is_no_token_is_refused_and_not_shown(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        TokenFile(str(file))()
    assert str(error.value) == f"--token: cannot use {file}: its first line is no token"


def test_what_is_no_file_is_refused_without_waiting(file: Path) -> None:
    pipe = file.parent / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ConfigError, match="no regular file"):
        TokenFile(str(pipe))()
    with pytest.raises(ConfigError, match="No such file"):
        TokenFile(str(file.parent / "none"))()


# The command


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["--name", "앨리스", "--password", "--token", "f"],
            "--password and --token: a server takes one proof",
        ),
        (["--name", "앨리스", "--password", "--secret"], "--password and --secret: a server takes one proof"),
        (["--password"], "--password needs --name"),
        (["--secret"], "--secret needs --name"),
        (["--token", "-"], "--token takes a file"),
    ],
)
def test_options_that_do_not_fit(words: list[str], why: str) -> None:
    done = CliRunner().invoke(main, ["chat", *words])
    assert done.exit_code == Exit.USAGE
    assert why in done.output


@pytest.mark.parametrize(
    "words",
    [
        ["--name", "앨리스", "--password", "비밀번호1234"],
        ["127.0.0.1", "--name", "앨리스", "--password", "비밀번호1234", "--plain"],
        ["--password", "비밀번호1234", "4000", "--name", "앨리스"],
        ["--name", "앨리스", "--secret", "비밀번호1234"],
    ],
)
def test_a_password_on_the_command_line_is_no_host_and_is_not_shown(words: list[str]) -> None:
    done = CliRunner().invoke(main, ["chat", *words])
    option = "--secret" if "--secret" in words else "--password"
    assert done.exit_code == Exit.USAGE
    assert f"{option} takes no value" in done.output
    assert "1234" not in done.output


@pytest.fixture
def server() -> Iterator[NamedServer]:
    with NamedServer() as server:
        server.subject = "앨리스"
        yield server


def _command(server: NamedServer, *options: str) -> list[str]:
    return [sys.executable, "-m", "mpchat", "chat", "127.0.0.1", f"{server.port}", *options]


def _plain_here(server: NamedServer, said: str, *options: str) -> tuple[int, str, str]:
    words = ["chat", "127.0.0.1", f"{server.port}", "--plain", *options]
    return chatted(said.encode(), lambda: main(words))


@pytest.mark.parametrize("kind", ["password", "secret"])
def test_a_secret_is_asked_for_without_echo(server: NamedServer, kind: str) -> None:
    with Screen(_command(server, "--name", "앨리스", f"--{kind}")) as screen:
        screen.shows(f"{kind}:")
        screen.say("비밀번호 1234")
        screen.shows("* you are 앨리스 in lobby")
        assert server.joins == [{"name": "앨리스", "room": "lobby", kind: "비밀번호 1234"}]
        assert "1234" not in screen.text
        screen.say("안녕")
        screen.shows("앨리스: 안녕")


def test_a_password_is_asked_for_at_the_terminal_while_the_input_is_a_pipe(server: NamedServer) -> None:
    chat = " ".join(_command(server, "--name", "앨리스", "--password", "--plain"))
    with Screen(["sh", "-c", f"echo 안녕 | {chat}"]) as screen:
        screen.shows("password:")
        screen.say("비밀번호 1234")
        assert screen.exit_code() == 0
        assert screen.lines[-2:] == ["앨리스: 안녕", "[exit 0]"]
        assert server.joins[0]["password"] == "비밀번호 1234"
        assert "1234" not in screen.text


def test_without_a_terminal_there_is_an_error_and_the_input_is_not_taken_for_a_password(
    server: NamedServer,
) -> None:
    done = subprocess.run(
        _command(server, "--name", "앨리스", "--password", "--plain"),
        input="비밀번호 1234\n".encode(),
        capture_output=True,
        start_new_session=True,
        timeout=PATIENCE,
        check=False,
    )
    why = "there is no terminal to ask for the password; a program shows a token: --token FILE"
    assert (done.returncode, done.stdout) == (1, b"")
    assert why in done.stderr.decode()
    assert "1234" not in done.stderr.decode()
    assert server.joins == []


@pytest.mark.parametrize(
    ("environment", "encoding"),
    [
        ({"LC_ALL": "C.UTF-8"}, "utf-8"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
    ],
)
def test_a_password_that_is_no_text_is_told_from_none(
    server: NamedServer, environment: dict[str, str], encoding: str
) -> None:
    words = _command(server, "--name", "alice", "--password")
    child, terminal = pty.fork()
    if child == 0:
        os.execve(words[0], words, {**os.environ, **environment})
    seen = b""
    try:
        while b"password: " not in seen:
            seen += os.read(terminal, 1000)
        os.write(terminal, b"\xff\xfe1234\n")
        with suppress(OSError):  # the terminal's other side has gone
            while data := os.read(terminal, 1000):
                seen += data
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    told = seen.decode().lower()
    assert os.waitstatus_to_exitcode(status) == Exit.FAILED
    assert "the password that was typed is not" in told
    assert encoding in told or "ansi_x3.4" in told
    assert "1234" not in told
    assert server.joins == []


def test_an_empty_password_is_not_shown_to_the_server(server: NamedServer) -> None:
    with Screen(_command(server, "--name", "앨리스", "--password")) as screen:
        screen.shows("password:")
        screen.press("Enter")
        screen.shows("no password was given")
        assert screen.exit_code() == 1
    assert server.joins == []


def test_a_token_has_the_name_and_is_read_again_when_it_ends(server: NamedServer, file: Path) -> None:
    with Screen(_command(server, "--token", str(file), "--room", "게임방")) as screen:
        screen.shows("* you are 앨리스 in 게임방")
        screen.shows("connected · 게임방 · 1 here · 앨리스")
        assert server.joins == [{"room": "게임방", "jwt": "header.claims.signature"}]
        file.unlink()
        server.send({"error": {"code": "expired", "text": "the token has ended"}})
        screen.shows("No such file or directory (no_token); trying again")
        file.write_text("fresh.claims.signature\n")
        file.chmod(0o600)
        screen.shows("* connected again")
        assert server.joins[1]["jwt"] == "fresh.claims.signature"
        screen.say("다시")
        screen.shows("앨리스: 다시")


def test_a_token_in_a_file_that_others_may_read_is_not_shown(server: NamedServer, file: Path) -> None:
    file.chmod(OTHERS_MAY_READ)
    code, out, err = _plain_here(server, "안녕\n", "--token", str(file))
    assert (code, out) == (Exit.USAGE, "")
    assert "others may read or change it" in err
    assert "header" not in err
    assert server.joins == []


def test_a_token_in_a_pipe(server: NamedServer, file: Path) -> None:
    assert _plain_here(server, "안녕\n", "--token", str(file)) == (0, "앨리스: 안녕\n", "")
    assert server.joins == [{"room": "lobby", "jwt": "header.claims.signature"}]


def test_a_server_that_wants_a_proof_says_which_option_shows_it(server: NamedServer) -> None:
    server.refuse = "auth_required"
    hint = "; try mpchat chat --name NAME --password, or --token FILE"
    refused = f"mpchat: no auth_required today (auth_required){hint}\n"
    assert _plain_here(server, "안녕\n", "--name", "앨리스") == (1, "", refused)


def test_a_script_without_a_name_fails_at_a_server_that_wants_a_proof(server: NamedServer) -> None:
    def closed(request: dict[str, object]) -> bool:
        for guest in server._guests:
            server._refuse(guest, "auth_required", "증명이 필요합니다")
        return True

    server.ignore = closed
    # Its input does not end: a log that is followed, for example.
    with subprocess.Popen(
        _command(server, "--plain"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as chat:
        assert chat.stdin is not None
        assert chat.stderr is not None
        chat.stdin.write("안녕\n".encode())
        chat.stdin.flush()
        try:
            assert chat.wait(PATIENCE) == 1
        finally:
            chat.kill()
        err = chat.stderr.read().decode()
    assert "증명이 필요합니다 (auth_required); try mpchat chat --name NAME --password" in err


@pytest.mark.parametrize("why", ["try_later", "no_token", "away"])
def test_a_pipe_that_gives_up_says_why(server: NamedServer, file: Path, why: str) -> None:
    """The server is there, but lets the client in no more; or there is none."""
    code = (
        "from mpchat.client import plain; plain.RETURN_TIMEOUT = 3.0; "
        f"import sys; from mpchat.cli.commands import main; sys.argv[1:] = {_command(server)[3:]!r}; "
        f"sys.argv += ['--token', {str(file)!r}, '--plain']; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as chat:
        assert chat.stderr is not None
        eventually(lambda: server.members() == ["앨리스"], "the member")
        if why == "try_later":
            server.refuse = why
            server.drop()
        elif why == "no_token":
            file.unlink()
            server.drop()
        else:
            server.stop()
        try:
            assert chat.wait(PATIENCE) == 1
        finally:
            chat.kill()
        last = chat.stderr.read().decode().splitlines()[-1]
    reasons = {
        "try_later": "not let in for 3 s, giving up: no try_later today (try_later)",
        "no_token": f"not let in for 3 s, giving up: --token: cannot use {file}: "
        "No such file or directory (no_token)",
        "away": "no server for 3 s, giving up",
    }
    assert last == f"mpchat: {reasons[why]}"


def test_an_operators_requests_in_a_pipe(server: NamedServer, file: Path) -> None:
    server.facts = {"role": "operator"}
    said = "/help\n/kick 밥\n/ban 밥 for 10m\n/unban 밥\n/mute 밥\n/unmute 밥\n/close 게임방\n/ban\n"
    code, out, err = _plain_here(server, said, "--token", str(file))
    assert (code, out) == (1, "")
    assert "/close ROOM" in err.splitlines()[0]
    assert err.splitlines()[1:] == [
        "mpchat: 밥: 1 connection ended",
        "mpchat: 밥 is banned; 1 connection ended",
        "mpchat: 밥 is not banned any more",
        "mpchat: 밥 is muted",
        "mpchat: 밥 is not muted any more",
        "mpchat: 게임방 is closed; 3 people put into the lobby",
        "mpchat: write it as: /ban NAME [for 10m]",
    ]
    assert server.received[1] == {"ban": {"name": "밥", "for": 600}}


def test_in_a_pipe_a_private_message_to_nobody_is_no_answer_to_a_mute(server: NamedServer) -> None:
    server.facts = {"role": "operator"}
    code, out, err = _plain_here(server, "/msg 없다 안녕\n/mute 민 for 10m\n", "--name", "앨리스")
    assert (code, out) == (1, "")
    assert sorted(err.splitlines()) == [
        "mpchat: the server refused: there is no 없다 (no_such_name)",
        "mpchat: 민 is muted",
    ]


def test_an_operators_requests_on_a_screen(server: NamedServer) -> None:
    server.facts = {"role": "operator"}
    with Screen(_command(server, "--name", "앨리스"), columns=120) as screen:
        screen.shows("* you are 앨리스 in lobby")
        screen.say("/help")
        screen.shows("/close ROOM")
        screen.say("/mute 밥 for 10m")
        screen.shows("* 밥 is muted")
        assert {"mute": {"name": "밥", "for": 600}} in server.received
        server.facts = {}
        screen.say("/kick 밥")
        screen.shows("* only an operator may do that (not_allowed)")
        screen.say("안녕")
        screen.shows("앨리스: 안녕")
        eventually(lambda: {"message": "안녕"} in server.received, "the message after the refusal")
