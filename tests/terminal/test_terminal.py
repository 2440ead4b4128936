"""The chat that people use: in a real terminal, and as plain lines in a pipe."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from support.harness import Server, running
from support.peers import Relay
from support.plain_chat import chatted
from support.screens import Screen
from support.waiting import PATIENCE, eventually

from mpchat.cli.commands import main
from mpchat.client import plain
from mpchat.client.conversation import STEADY
from mpchat.client.core import Connected, Disconnected, Message
from mpchat.client.plain import RETURN_TIMEOUT, Patience, _Echoes
from mpchat.client.terminal import run_chat
from mpchat.config import Origin, resolve
from mpchat.instance.record import Identity, Record
from mpchat.protocol.messages import error_frame
from mpchat.supervisor.startup import StartFacts, start_text

# The worst locale: Python's own repairs of it switched off.
POSIX = {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
# Seconds for thousands of pasted lines: without marks each of them has a prompt of its own.
LONG_PASTE = 6 * PATIENCE


def _chat(port: int, *, plain: bool = False, before: str = "") -> list[str]:
    program = f"""
import sys
from mpchat.client import plain
from mpchat.client.terminal import run_chat
{before}
sys.exit(run_chat("127.0.0.1", {port}, plain={plain}))
"""
    return [sys.executable, "-c", program]


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@contextmanager
def _screen(port: int, columns: int = 80) -> Iterator[Screen]:
    with Screen(_chat(port), columns=columns) as screen:
        screen.shows(f"connected to 127.0.0.1:{port}")
        screen.shows(">")
        yield screen


@pytest.fixture(scope="module")
def lasting() -> Iterator[tuple[Relay, Screen]]:
    """A chat in a terminal for all tests that leave it as it was: to begin one takes 0.6 s of CPU."""
    with Relay() as relay, _screen(relay.port) as screen:
        yield relay, screen


@pytest.fixture
def shared(lasting: tuple[Relay, Screen]) -> tuple[Relay, Screen]:
    """The file's chat, with an empty prompt; its relay has received nothing."""
    relay, screen = lasting
    screen.ends_with(">")
    relay.received.clear()
    return relay, screen


def _connected(relay: Relay) -> str:
    return f"* connected to 127.0.0.1:{relay.port} (/help)"


def _said(relay: Relay) -> list[str]:
    return [json.loads(each)["message"] for each in relay.received]


# In a terminal


def test_two_chats_and_wide_characters(relay: Relay) -> None:
    with _screen(relay.port) as one, _screen(relay.port) as other:
        one.say("안녕하세요, 여러분")
        # What one has said stands there once: as it came back, and not as it was typed.
        one.ends_with(_connected(relay), "안녕하세요, 여러분", ">")
        other.ends_with(_connected(relay), "안녕하세요, 여러분", ">")
        other.say("e\u0301 👍 日本語")
        one.ends_with("안녕하세요, 여러분", "e\u0301 👍 日本語", ">")


def test_what_others_say_appears_above_what_one_types(shared: tuple[Relay, Screen]) -> None:
    relay, screen = shared
    screen.type_in("반쯤 쓴")
    screen.ends_with("> 반쯤 쓴")
    relay.say("meanwhile")
    screen.ends_with("meanwhile", "> 반쯤 쓴")
    screen.press("BSpace")
    screen.say("문장")
    screen.ends_with("meanwhile", "반쯤 문장", ">")


# Text takes a while on its way to the terminal.
SLOW_TERMINAL = """
import time
from prompt_toolkit.output.vt100 import Vt100_Output
flush = Vt100_Output.flush
Vt100_Output.flush = lambda self: (time.sleep(0.1), flush(self))[1]
"""


def test_what_one_types_while_a_message_is_printed_is_not_echoed_beside_it(relay: Relay) -> None:
    with Screen(_chat(relay.port, before=SLOW_TERMINAL)) as screen:
        screen.ends_with(_connected(relay), ">")
        messages = [f"메시지 {number}" for number in range(8)]
        for each in messages:
            relay.say(each)
            for _ in range(4):
                screen.type_in("글")
                time.sleep(0.05)
        screen.ends_with(_connected(relay), *messages, f"> {'글' * 32}")


def test_an_escape_sequence_of_somebody_else_does_nothing(shared: tuple[Relay, Screen]) -> None:
    relay, screen = shared
    relay.say("before")
    relay.say("\x1b[2J\x1b]0;title\x07\r\x9b31m\u202eafter\nforged")
    screen.ends_with("before", r"\x1b[2J\x1b]0;title\x07\x0d\x9b31m\u202eafter\nforged", ">")


def test_the_server_goes_away_and_comes_back(relay: Relay) -> None:
    with _screen(relay.port) as screen:
        screen.type_in("not yet")
        screen.ends_with("> not yet")
        relay.stop()
        lost = f"* connection to 127.0.0.1:{relay.port} lost, trying again"
        screen.ends_with(lost, "> not yet")
        with Relay(relay.port) as second:
            screen.ends_with(lost, "* connected again", "> not yet")
            screen.press("Enter")
            screen.ends_with("not yet", ">")
            assert second.received == [b'{"message":"not yet"}']


def test_forty_columns(relay: Relay) -> None:
    with _screen(relay.port, columns=40) as screen:
        screen.say("/help")
        screen.ends_with("* a line and Enter: say it; /quit or", "  Ctrl-D: leave; //text: say /text", ">")
        screen.say("스무 글자가 넘는 아주 긴 문장을 하나 써 보려고 합니다")
        screen.ends_with("스무 글자가 넘는 아주 긴 문장을 하나 써", "보려고 합니다", ">")
        relay.say("x" * 50)
        screen.ends_with("보려고 합니다", "x" * 40, "x" * 10, ">")


def test_slash_commands_and_blank_lines_are_not_sent(shared: tuple[Relay, Screen]) -> None:
    relay, screen = shared
    for line in ("/nick me", "", "   ", "//me waves"):
        screen.say(line)
    screen.ends_with("* there is no /nick; try /help, or //text to say /text", "/me waves", ">")
    assert relay.received == [b'{"message":"/me waves"}']


@pytest.mark.parametrize("how", ["C-c", "C-d", "/quit"])
def test_leaving(relay: Relay, how: str) -> None:
    with _screen(relay.port) as screen:
        screen.say("last words")
        screen.press(*([how, "Enter"] if how.startswith("/") else [how]))
        assert screen.exit_code() == 0
        assert "Traceback" not in screen.text
        eventually(lambda: relay.received == [b'{"message":"last words"}'], "the last words")


@pytest.mark.parametrize("bracketed", [True, False])
def test_a_pasted_tab_is_said(relay: Relay, bracketed: bool) -> None:
    with _screen(relay.port) as screen:
        screen.paste("\t앞\t뒤\t", bracketed=bracketed)
        screen.shows("뒤")
        screen.press("Enter")
        eventually(lambda: relay.received, "the line")
        assert _said(relay) == ["\t앞\t뒤\t"]


@pytest.mark.parametrize("bracketed", [True, False])
def test_of_a_long_paste_no_line_is_lost(shared: tuple[Relay, Screen], bracketed: bool) -> None:
    relay, screen = shared
    lines = [f"{bracketed} 줄 {number}\t안녕하세요" for number in range(3000)]
    screen.paste("".join(f"{line}\n" for line in lines), bracketed=bracketed)
    screen.press("Enter")
    eventually(lambda: len(relay.received) >= len(lines), "all lines", LONG_PASTE)
    assert _said(relay) == lines
    screen.ends_with(rf"{bracketed} 줄 2999\t안녕하세요", ">")


@contextmanager
def _screen_with(send: str, port: int) -> Iterator[Screen]:
    """Chat with another ``Chat.send``, of which ``send`` is the body; the real one is ``really``."""
    body = "\n".join(f"    {line}" for line in send.splitlines())
    before = f"""
import asyncio
from mpchat.client.aio import Chat
from mpchat.errors import TimedOutError
really, calls = Chat.send, []
async def send(self, text):
    calls.append(text)
{body}
Chat.send = send
"""
    with Screen(_chat(port, before=before)) as screen:
        screen.shows(f"connected to 127.0.0.1:{port}")
        screen.shows(">")
        yield screen


def test_who_leaves_after_a_long_paste_waits_as_long_as_lines_are_taken(relay: Relay) -> None:
    lines = [f"줄 {number}" for number in range(100)]  # five seconds, longer than a leaving waits for one
    with _screen_with("await asyncio.sleep(0.05)\nawait really(self, text)", relay.port) as screen:
        screen.paste("\n".join([*lines, "/quit"]), bracketed=True)
        screen.press("Enter")
        screen.shows("; Ctrl-C leaves without them")
        assert screen.exit_code() == 0
        assert "still to be sent: 0;" not in screen.text
        assert "left before everything was sent" not in screen.text
        eventually(lambda: len(relay.received) >= len(lines), "all lines")
        assert _said(relay) == lines


def test_ctrl_c_ends_the_wait_for_lines_that_are_still_to_be_sent(relay: Relay) -> None:
    with _screen_with("await asyncio.sleep(0.2)\nawait really(self, text)", relay.port) as screen:
        screen.paste("\n".join(["줄"] * 100 + ["/quit"]), bracketed=True)
        screen.press("Enter")
        screen.shows("; Ctrl-C leaves without them")
        screen.press("C-c")
        assert screen.exit_code() == 0
        assert "* left before everything was sent; lines that were not sent: " in screen.text
        assert 0 < len(relay.received) < 100


def test_who_leaves_a_server_that_takes_nothing_is_told_what_was_not_sent(relay: Relay) -> None:
    with _screen_with("await asyncio.sleep(3600)", relay.port) as screen:
        screen.paste("하나\n둘\n/quit", bracketed=True)
        screen.press("Enter")
        assert screen.exit_code() == 0
        assert "* left before everything was sent; lines that were not sent: 2" in screen.text


def test_a_line_that_the_server_does_not_take_is_tried_again_and_the_next_ones_wait(relay: Relay) -> None:
    send = "if len(calls) < 4: raise TimedOutError('it does not read')\nawait really(self, text)"
    with _screen_with(send, relay.port) as screen:
        screen.paste("하나\n둘", bracketed=True)
        screen.press("Enter")
        screen.ends_with("* it does not read; trying again, lines that wait: 2", "하나", "둘", ">")
        assert _said(relay) == ["하나", "둘"]


def test_an_error_of_the_server_is_one_line() -> None:
    with Relay(greeting=error_frame("slow_down", "too\nfast\x1b[1m")) as relay:
        with _screen(relay.port) as screen:
            screen.shows(r"* the server refused: too\nfast\x1b[1m (slow_down)")


def test_a_terminal_without_a_server() -> None:
    with Relay() as gone:
        pass
    with Screen(_chat(gone.port)) as screen:
        assert screen.exit_code() == 1
        told = f"mpchat: no server answers at 127.0.0.1:{gone.port}; "
        told += f"start one with: mpchat start --port {gone.port}"
        assert "".join(screen.lines[:-1]) == told


# In a pipe


def _plain(port: int, said: bytes, *, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        _chat(port, plain=True),
        input=said,
        capture_output=True,
        timeout=PATIENCE,
        env=os.environ | (environment or {}),
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def _plain_here(port: int, said: bytes) -> tuple[int, str, str]:
    """Do the same in the test's process, where no process is what is tested."""
    return chatted(said, lambda: run_chat("127.0.0.1", port, plain=True))


@contextmanager
def _plain_process(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A plain chat whose stdin stays open; killed at the end if it still runs."""
    pipe = subprocess.PIPE
    with subprocess.Popen(_chat(port, plain=True), stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("environment", [{}, {"LANG": "C"}, POSIX])
def test_one_line_through_a_pipe_comes_back(relay: Relay, environment: dict[str, str]) -> None:
    assert _plain(relay.port, "안녕 👋\n".encode(), environment=environment) == (0, "안녕 👋\n", "")


def test_many_lines_keep_their_order(relay: Relay) -> None:
    # More than the five seconds of the last wait would be a bug: it begins when everything is said.
    said = "".join(f"line {number}\n" for number in range(3000))
    assert _plain(relay.port, said.encode()) == (0, said, "")


def test_line_ends_blank_lines_and_a_last_line_without_end(relay: Relay) -> None:
    assert _plain_here(relay.port, b"\r\none\r\n\n  \ntwo") == (0, "one\ntwo\n", "")


def test_nothing_to_say(relay: Relay) -> None:
    assert _plain_here(relay.port, b"") == (0, "", "")


def test_a_line_that_is_not_utf8_is_not_sent(relay: Relay) -> None:
    code, out, err = _plain_here(relay.port, b"one\ntw\xff\xfeo\nthree\n")
    assert (code, out) == (1, "one\nthree\n")
    assert err == "mpchat: a line is not UTF-8 at its byte 2, it is not sent\n"


@pytest.mark.parametrize("size", [65_530, 1_000_000])
def test_a_line_too_long_for_a_message_is_not_sent(relay: Relay, size: int) -> None:
    code, out, err = _plain_here(relay.port, b"x" * size + b"\nfine\n")
    assert (code, out) == (1, "fine\n")
    assert err.startswith("mpchat: a line is ")
    assert err.count("\n") == 1


def test_commands_in_a_pipe(relay: Relay) -> None:
    code, out, err = _plain_here(relay.port, b"//one\n/two\n/quit\nthree\n")
    assert (code, out) == (1, "/one\n")
    assert err == "mpchat: there is no /two; try /help, or //text to say /text\n"


def test_what_others_say_is_harmless_in_a_pipe_too(relay: Relay) -> None:
    with _plain_process(relay.port) as process:
        assert process.stdout is not None
        eventually(lambda: relay.clients, "the connection")
        relay.say("a\x1b[2Jb\nc")
        # Without the end of stdin: each line is flushed at once.
        assert process.stdout.readline() == b"a\\x1b[2Jb\\nc\n"


def test_a_reader_that_goes_away(relay: Relay) -> None:
    with _plain_process(relay.port) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        eventually(lambda: relay.clients, "the connection")
        relay.say("one")
        assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        relay.say("two")
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("redirect", "code", "err"),
    [
        (">&-", 1, "mpchat: stdout is closed, there is nowhere to write messages to\n"),
        (">/dev/full", 1, "mpchat: cannot write to stdout: No space left on device\n"),
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_streams_that_are_none(relay: Relay, redirect: str, code: int, err: str) -> None:
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", *_chat(relay.port, plain=True)]
    done = subprocess.run(command, input=b"hi\n", capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr.decode()) == (code, err)


def test_ctrl_c_in_plain_mode(relay: Relay) -> None:
    with _plain_process(relay.port) as process:
        assert process.stderr is not None
        eventually(lambda: relay.clients, "the connection")
        relay.say("one")
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""


def test_a_pipe_without_a_server() -> None:
    with Relay() as gone:
        pass
    expected = f"mpchat: no server answers at 127.0.0.1:{gone.port}; start one with: mpchat start"
    expected += f" --port {gone.port}\n"
    assert _plain_here(gone.port, b"hi\n") == (1, "", expected)


@pytest.mark.parametrize(
    ("words", "address"),
    [
        ([], ("127.0.0.1", 4000)),
        (["there"], ("there", 4000)),
        (["there", "5"], ("there", 5)),
        (["there:5"], ("there", 5)),
        ([":5"], ("127.0.0.1", 5)),
        (["::1"], ("::1", 4000)),
        (["::1", "5"], ("::1", 5)),
        (["[::1]"], ("::1", 4000)),
        (["[::1]:5"], ("::1", 5)),
        (["[::1]", "5"], ("::1", 5)),
    ],
)
def test_an_address_may_be_one_word(
    words: list[str], address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MPCHAT_RUNTIME_DIR", str(tmp_path))  # where no server is
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr("mpchat.client.terminal.run_chat", lambda *where, **more: asked.append(where))
    assert CliRunner().invoke(main, ["chat", *words]).exit_code == 0
    assert asked == [address]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_without_an_address_it_is_the_server_that_was_started_from_here(folder: Path, host: str) -> None:
    server = Server(folder).start("--host", host, workers=1)
    server.environment["MPCHAT_NAME"] = server.name
    done = server.run("chat", "--plain", input="안녕\n", stdin=None)
    assert (done.returncode, done.stdout) == (0, "안녕\n")
    server.stop()
    server.environment["MPCHAT_PORT"] = "1"
    done = server.run("chat", "--plain")
    assert (done.returncode, done.stderr.count("127.0.0.1:1;")) == (1, 1)


@pytest.mark.parametrize(
    ("addresses", "where"),
    [(["[::]:5", "0.0.0.0:5"], ("::1", 5)), ([], ("127.0.0.1", 4000))],
    ids=["on every interface: by the loopback of its kind", "while it starts: where it will be"],
)
def test_the_own_server_is_reached(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], where: tuple[str, int]
) -> None:
    monkeypatch.delenv("MPCHAT_PORT", raising=False)
    record = Record(Identity.of(os.getpid()), 0.0, addresses, "1")
    monkeypatch.setattr("mpchat.cli.running.read_record", lambda path: record)
    monkeypatch.setattr("mpchat.cli.running.is_server", lambda identity: True)
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr("mpchat.client.terminal.run_chat", lambda *where, **more: asked.append(where))
    assert CliRunner().invoke(main, ["chat"]).exit_code == 0
    assert asked == [where]


@pytest.mark.parametrize("code", ["full", "banned"])
def test_a_server_that_lets_nobody_in_in_plain_mode(code: str) -> None:
    with Relay(greeting=error_frame(code, "not you"), closes=True) as relay:
        result, out, err = _plain_here(relay.port, b"hi\n")
        assert (result, out) == (1, "")
        assert f"mpchat: the server refused: not you ({code})\n" in err


def test_a_pipe_outlives_a_restart_of_the_server(relay: Relay) -> None:
    with _plain_process(relay.port) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        eventually(lambda: relay.clients, "the connection")
        relay.stop()
        lost = f"mpchat: connection to 127.0.0.1:{relay.port} lost, trying again\n"
        assert process.stderr.readline().decode() == lost
        with Relay(relay.port):
            assert process.stderr.readline() == b"mpchat: connected again\n"
            out, err = process.communicate(b"still here\n", PATIENCE)
            assert (process.returncode, out, err) == (0, b"still here\n", b"")


def test_a_pipe_gives_up_on_a_server_that_stays_away(relay: Relay) -> None:
    # Open for ever: it is the lost server that ends the chat, not the end of stdin.
    read, write = os.pipe()
    command = _chat(relay.port, plain=True, before="plain.RETURN_TIMEOUT = 0.3")
    with subprocess.Popen(command, stdin=read, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.close(read)
        eventually(lambda: relay.clients, "the connection")
        relay.stop()
        out, err = process.communicate(timeout=PATIENCE)
        os.close(write)
    assert (process.returncode, out) == (1, b"")
    assert err.endswith(b"mpchat: no server for 0.3 s, giving up\n")


def test_a_server_that_does_not_answer_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "ECHO_TIMEOUT", 0.3)
    with Relay(reads=False) as relay:
        code, out, err = _plain_here(relay.port, b"hi\n")
    assert (code, out) == (6, "")
    assert err == "mpchat: what was sent last did not come back within 0.3 s\n"


def test_lines_that_the_server_rejects_all_count(folder: Path) -> None:
    with running(folder, "--payload-limit", "100", workers=1) as server:
        _, port = server.address
        said = b"".join(b"x" * 200 + b"\n" for _ in range(300))
        result, out, err = _plain_here(port, said + "안녕\n".encode())
    assert (result, out) == (1, "안녕\n")
    told = re.findall(r"mpchat: the server refused: .* \(too_long(?:, (\d+) times)?\)", err)
    assert sum(int(times or 1) for times in told) == 300


def test_one_error_can_be_about_many_lines() -> None:
    echoes = _Echoes()
    for text in ("a", "b", "a", "c"):
        echoes.expect(text)
    assert echoes.settle_oldest(2)
    assert not echoes.wait(0)
    assert echoes.settle_oldest(2**63 - 1)
    assert echoes.wait(0)
    assert not echoes.settle_oldest(1)


def test_patience_is_not_renewed_by_a_server_that_only_accepts() -> None:
    patience = Patience()
    assert patience.left(0) is None
    for now in range(5):
        patience.note(Connected("h:1", again=now > 0), now)
        assert patience.left(now) is None
        patience.note(Disconnected("h:1", "closed", retrying=True), now)
        assert patience.left(now) == RETURN_TIMEOUT - now
    patience.note(Connected("h:1", again=True), 10)
    patience.note(Message("hello"), 10 + STEADY)
    patience.note(Disconnected("h:1", "closed", retrying=True), 10 + STEADY)
    assert patience.left(10 + STEADY) == RETURN_TIMEOUT


@pytest.mark.parametrize(
    ("name", "shown"), [("default", "mpchat chat"), ("other", "mpchat chat 127.0.0.1 4000")]
)
def test_a_start_says_how_to_chat_with_this_server_and_no_other(name: str, shown: str) -> None:
    config, _ = resolve([{"name": Origin(name, "--name")}])
    facts = StartFacts(name=name, addresses=["127.0.0.1:4000"], pid=1, workers=1, fits=1, log="")
    assert f"  chat:  {shown}\n" in start_text(config, facts)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, ""),
        ({"secret": "/f"}, ""),
        ({"auth": "names", "jwt_key": "/f"}, ""),
        ({"auth": "closed"}, " --name NAME --password"),
        ({"auth": "closed", "jwt_key": "/f"}, " --token FILE"),
        ({"auth": "closed", "jwt_key": "/f", "secret": "/f"}, " --name NAME --secret"),
    ],
)
def test_a_start_of_a_closed_chat_says_how_to_sign_in(settings: dict[str, str], options: str) -> None:
    config, _ = resolve([{key: Origin(value, f"--{key}") for key, value in settings.items()}])
    facts = StartFacts(name="default", addresses=["127.0.0.1:4000"], pid=1, workers=1, fits=1, log="")
    assert f"  chat:  mpchat chat{options}\n" in start_text(config, facts)


@pytest.mark.parametrize(
    ("address", "page"),
    [
        ("127.0.0.1:4000", "http://127.0.0.1:4000/"),
        ("[::1]:5", "http://[::1]:5/"),
        ("0.0.0.0:80", "http://192.168.7.7:80/"),
        ("[::]:80", "http://192.168.7.7:80/"),
    ],
)
def test_a_start_names_the_page_at_an_address_that_other_machines_can_open(
    monkeypatch: pytest.MonkeyPatch, address: str, page: str
) -> None:
    monkeypatch.setattr("mpchat.supervisor.startup._own_address", lambda: "192.168.7.7")
    config, _ = resolve([])
    facts = StartFacts(name="default", addresses=[address], pid=1, workers=1, fits=1, log="")
    assert f"\n  page:  {page}\n" in start_text(config, facts)
    assert "page" not in start_text(msgspec.structs.replace(config, web=False), facts)


def test_without_a_network_the_page_is_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpchat.supervisor.startup.ELSEWHERE", ("255.255.255.255", 9))
    facts = StartFacts(name="default", addresses=["0.0.0.0:80"], pid=1, workers=1, fits=1, log="")
    assert "\n  page:  http://127.0.0.1:80/\n" in start_text(resolve([])[0], facts)
