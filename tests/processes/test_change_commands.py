"""``mpchat reload``, ``mpchat scale`` and what ``status`` says of them, with answers as a server gives."""

import json
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from support.harness import MPCHAT, Server
from support.screens import Screen
from support.stubs import LoopThread, serving
from support.waiting import PATIENCE, eventually

from mpchat.cli.display import pause, reload_text, scale_text, status_picture
from mpchat.control.answers import ReloadResult, ScaleResult, ServerStatus
from mpchat.control.messages import Answer, Reply, refusal
from mpchat.control.requests import Request, Scale

pytestmark = pytest.mark.one_python

OK, FAILED, USAGE, NOT_RUNNING, ALREADY, NOT_STARTED, TIMED_OUT = range(7)

RELOADED: dict[str, Any] = {
    "generation": 3,
    "renewed": [1, 2, 3, 4],
    "moved": 2000,
    "failed": 0,
    "lost": 0,
    "pauses": {"p50": 0.003, "p99": 0.0123, "max": 0.0404},
    "seconds": 2.312,
    "changed": ["payload_limit", "notices"],
    "kept": {"runtime_dir": "its lock and sockets lie there; stop and start"},
}
SCALED: dict[str, Any] = {
    "workers": 6,
    "moved": 1,
    "failed": 0,
    "lost": 0,
    "pauses": {"p50": 0.0004, "p99": 0.0004, "max": 1.5},
    "seconds": 1.2,
}
NOTHING_MOVED: dict[str, Any] = {
    "moved": 0,
    "failed": 0,
    "lost": 0,
    "pauses": {"p50": 0.0, "p99": 0.0, "max": 0.0},
}
STEP = {"phase": "move", "worker": 2, "done": 1, "workers": 4, "moved": 700, "connections": 2000}

Handle = Callable[[Request, Reply], None]


@contextmanager
def stub_loop(folder: Path, handle: Handle, name: str = "default") -> Iterator[tuple[Server, LoopThread]]:
    """An instance at whose control socket ``handle`` answers, and the loop that it answers in."""
    server = Server(folder, name)
    server.instance_folder.mkdir(parents=True, mode=0o700)
    with serving(server.instance_folder / "control.sock", handle) as loop:
        yield server, loop


@contextmanager
def stub(folder: Path, answer: Handle | Answer[object], name: str = "default") -> Iterator[Server]:
    """The same for one answer, or for replies that come at once."""
    handle = answer if not isinstance(answer, Answer) else lambda request, reply: reply(answer)
    with stub_loop(folder, handle, name) as (server, _):
        yield server


def done(command: "subprocess.CompletedProcess[str]", code: int) -> tuple[str, str]:
    assert command.returncode == code, (command.returncode, command.stdout, command.stderr)
    assert "Traceback" not in command.stderr
    return command.stdout, command.stderr


# What they say.


def test_reload_says_in_three_lines_what_was_done(folder: Path) -> None:
    with stub(folder, Answer(RELOADED)) as server:
        out, err = done(server.command("reload"), OK)
    assert err == ""
    assert out.splitlines() == [
        'mpchat "default" reloaded: generation 3, 4 workers renewed in 2.31 s',
        "2000 connections moved, pauses: half under 3 ms, 99 % under 12 ms, longest 40 ms",
        "changed: payload_limit, notices; not changed while it runs: "
        "runtime_dir (its lock and sockets lie there; stop and start)",
    ]


def test_scale_says_how_many_there_are_and_asks_for_as_many(folder: Path) -> None:
    asked: list[Request] = []

    def handle(request: Request, reply: Reply) -> None:
        asked.append(request)
        reply(Answer(SCALED))

    with stub(folder, handle, "lobby") as server:
        out, err = done(server.command("scale", "6"), OK)
    assert asked == [Scale(6)]
    assert err == ""
    assert out.splitlines() == [
        'mpchat "lobby" has 6 workers, after 1.20 s',
        "1 connection moved, pauses: half under 0.4 ms, 99 % under 0.4 ms, longest 1.50 s",
    ]


@pytest.mark.parametrize(("words", "result"), [(["reload"], RELOADED), (["scale", "6"], SCALED)])
def test_json_is_the_result_on_one_line(folder: Path, words: list[str], result: dict[str, Any]) -> None:
    with stub(folder, Answer(result)) as server:
        out, _ = done(server.command(*words, "--json"), OK)
    assert out.count("\n") == 1
    assert json.loads(out) == result


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        (NOTHING_MOVED, ["no connections moved", "changed: no setting"]),
        ({"failed": 1}, ["1 move failed", "changed: no setting"]),
        ({"failed": 2, "lost": 1}, ["2 moves failed, 1 connection lost", "changed: no setting"]),
        ({"changed": ["port"]}, ["changed: port"]),
    ],
)
def test_lines_for_what_is_not_always_there(more: dict[str, Any], lines: list[str]) -> None:
    result = msgspec.convert({**RELOADED, "changed": [], "kept": {}, **more}, ReloadResult)
    said = reload_text("a", result, done=True).splitlines()
    assert said[-len(lines) :] == lines
    assert len(said) < 5


def test_a_reload_that_did_not_get_to_its_end_says_how_far_it_came_and_then_why(folder: Path) -> None:
    part = {**RELOADED, "renewed": [1], "changed": [], "kept": {}, "lost": 3}
    with stub(folder, Answer(part, exit=NOT_STARTED, text="worker 2 died")) as server:
        out, err = done(server.command("reload"), NOT_STARTED)
        assert err == "mpchat: worker 2 died\n"
        assert out.startswith('mpchat "default" reloaded in part: generation 3, 1 worker renewed in 2.31 s\n')
        assert "3 connections lost" in out
        out, err = done(server.command("reload", "--json"), NOT_STARTED)
        assert (json.loads(out), err) == (part, "mpchat: worker 2 died\n")


def test_a_refused_reload_is_one_line(folder: Path) -> None:
    why = "/etc/mpchat.toml, line 3: workers is 'many', allowed: 0 to 256"
    with stub(folder, refusal(NOT_STARTED, why)) as server:
        for words in (["reload"], ["reload", "--json"], ["scale", "2"]):
            assert done(server.command(*words), NOT_STARTED) == ("", f"mpchat: {why}\n")


def test_a_result_of_which_little_is_there_can_be_shown() -> None:
    assert reload_text("a", ReloadResult(), done=False).startswith('mpchat "a" not reloaded: ')
    assert scale_text("a", ScaleResult()).startswith('mpchat "a" has an unknown number of workers')


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.00004, "0.04 ms"),
        (0.0031, "3.1 ms"),
        (0.0123, "12 ms"),
        (0.9, "900 ms"),
        (2, "2.00 s"),
    ],
)
def test_a_pause_is_told_in_a_unit_that_fits(seconds: float, text: str) -> None:
    assert pause(seconds) == text


# How far it is.


def test_progress_is_shown_in_a_terminal_and_gone_when_it_is_done(folder: Path) -> None:
    replies: list[Reply] = []

    def handle(request: Request, reply: Reply) -> None:
        replies.append(reply)
        reply(Answer(STEP, final=False))

    with stub_loop(folder, handle) as (server, loop):
        runtime = f"MPCHAT_RUNTIME_DIR={server.folder / 'run'}"
        with Screen(["env", "-C", str(folder), runtime, *MPCHAT, "reload"], columns=100) as screen:
            screen.shows("moving connections of worker 2, 700 of 2000")
            assert "1/4" in screen.text
            odd = Answer({**STEP, "phase": "[bold]?\x1b[2J", "worker": 3}, final=False)
            loop.call(lambda: replies[0](odd))
            screen.shows("[bold]?\\x1b[2J 3, 700 of 2000")
            loop.call(lambda: replies[0](Answer(RELOADED)))
            assert screen.exit_code() == OK
            assert screen.lines[0].startswith('mpchat "default" reloaded: generation 3')
            assert "1/4" not in screen.text


def test_progress_is_not_shown_elsewhere(folder: Path) -> None:
    def handle(request: Request, reply: Reply) -> None:
        for each in ("start", "move", "retire"):
            reply(Answer({**STEP, "phase": each}, final=False))
        reply(Answer({}, final=False))
        reply(Answer(RELOADED))

    with stub(folder, handle) as server:
        out, err = done(server.command("reload", env={**server.environment, "FORCE_COLOR": "1"}), OK)
        assert (out.count("\n"), err) == (3, "")
        closed = f"exec {shlex.join(MPCHAT)} reload 2>&-"
        done(
            subprocess.run(
                ["sh", "-c", closed], env=server.environment, cwd=folder, capture_output=True, text=True
            ),
            OK,
        )


def test_ctrl_c_ends_the_command_and_says_that_the_server_goes_on(folder: Path) -> None:
    asked: list[Request] = []
    with stub(folder, lambda request, reply: asked.append(request)) as server:
        waiting = subprocess.Popen(
            [*MPCHAT, "reload"],
            env=server.environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        eventually(lambda: asked, "the request")
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, out, err.count("\n")) == (FAILED, "", 1)
    assert "the server goes on with it; see: mpchat status" in err


# Answers that no server of this release would send.

# Sets the title of a terminal; click removes other sequences itself where the output is no terminal.
SEQUENCE = "\x1b]0;title\x07"
ESCAPED = "\\x1b]0;title\\x07"


@pytest.mark.parametrize("code", [FAILED, 99, -1])
def test_an_answer_with_any_exit_code_is_an_error_whose_text_is_safe_to_show(folder: Path, code: int) -> None:
    with stub(folder, refusal(code, f"one {SEQUENCE}\n  two \u202e")) as server:
        for words in (["status"], ["say", "hello"], ["reload"]):
            said = done(server.command(*words), FAILED)
            assert said == ("", f"mpchat: one {ESCAPED}\n  two \\u202e\n")


@pytest.mark.parametrize(
    ("words", "result", "shown"),
    [
        (["ban", "a"], {"ended": 0, "silent": [], "target": SEQUENCE}, f"{ESCAPED} is banned for good"),
        (["mute", "a"], {"name": SEQUENCE, "here": True}, f"{ESCAPED} is muted for good"),
        (["reload"], {**RELOADED, "changed": [SEQUENCE]}, f"changed: {ESCAPED}"),
        (["reload"], {**RELOADED, "kept": {"port": SEQUENCE}}, f"port ({ESCAPED})"),
    ],
    ids=["ban", "mute", "changed", "kept"],
)
def test_texts_in_the_result_of_an_answer_are_safe_to_show(
    folder: Path, words: list[str], result: dict[str, Any], shown: str
) -> None:
    with stub(folder, Answer(result)) as server:
        out, err = done(server.command(*words), 0)
    assert (shown in out, err) == (True, "")


@pytest.mark.parametrize(
    "result", [{}, {"processes": []}, {"processes": "all"}, {"processes": [["me", 1.0]]}], ids=json.dumps
)
def test_a_stop_whose_answer_names_no_processes_is_one_line(folder: Path, result: dict[str, Any]) -> None:
    with stub(folder, Answer(result)) as server:
        out, err = done(server.command("stop", "--kill", "--timeout", "0"), FAILED)
    assert (out, err.count("\n")) == ("", 1)
    assert "the server is another version of mpchat" in err


# Which server it is.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("port = ", "default"),
        ("workers = 'many'", "default"),
        ("colour = 1", "default"),
        ("name = 'lobby'\nworkers = 'many'", "lobby"),
    ],
)
def test_a_reload_reaches_the_server_although_the_settings_are_wrong(
    folder: Path, text: str, name: str
) -> None:
    (folder / "mpchat.toml").write_text(text)
    with stub(folder, refusal(NOT_STARTED, "what the server says"), name) as server:
        assert done(server.run("reload"), NOT_STARTED) == ("", "mpchat: what the server says\n")
        assert done(server.command("reload"), NOT_STARTED) == ("", "mpchat: what the server says\n")


@pytest.mark.parametrize(
    "words",
    [["status"], ["stop"], ["scale", "2"], ["say", "hi"], ["kick", "a"], ["ban", "a"], ["bans"], ["reload"]],
    ids=lambda words: words[0],
)
def test_a_wrong_file_keeps_nobody_from_a_server_that_it_says_nothing_of(
    folder: Path, words: list[str]
) -> None:
    (folder / "mpchat.toml").write_text("this is no [toml\n")
    with stub(folder, refusal(FAILED, "what the server says")) as server:
        assert done(server.run(*words), FAILED) == ("", "mpchat: what the server says\n")
    assert "is not running" in done(Server(folder).run(*words), NOT_RUNNING)[1]


def test_where_a_wrong_file_may_name_another_server_no_server_is_asked(folder: Path) -> None:
    (folder / "mpchat.toml").write_text("name = lobby\n")
    with stub(folder, refusal(FAILED, "what nobody should hear")) as server:
        for words in (["stop"], ["reload"], ["scale", "2"]):
            out, err = done(server.run(*words), USAGE)
            assert (out, err.count("\n")) == ("", 1)
            assert err.startswith(f"mpchat: {folder / 'mpchat.toml'}: not TOML")
            assert err.endswith("; or say which server is meant with --name and --runtime-dir\n")


@pytest.mark.parametrize(
    "words",
    [
        ["scale"],
        ["scale", "0"],
        ["scale", "257"],
        ["scale", "-1"],
        ["scale", "two"],
        ["scale", "1", "2"],
        ["scale", "1", "--name", "a/b"],
        ["reload", "now"],
        ["reload", "--runtime-dir", "~no-such-user/x"],
        ["reload", "--port", "5"],
    ],
)
def test_wrong_words_are_refused(folder: Path, words: list[str]) -> None:
    out, err = done(Server(folder).command(*words), USAGE)
    assert out == ""
    assert err
    assert not (folder / "run").exists()


# What status says of it.

WORKER: dict[str, Any] = {
    "slot": 1,
    "pid": 4_194_303,
    "state": "DRAINING",
    "connections": 20_000,
    "messages_in": 0,
    "messages_out": 0,
    "in_per_second": 1234.0,
    "out_per_second": 123_456.0,
    "lag_ms": 12.3,
    "late": 0,
    "silent": 0.0,
    "ended": {},
    "rss": 900 << 20,
    "cpu": 0.99,
    "restarts": 0,
}
FACTS: dict[str, Any] = {
    "name": "default",
    "pid": 4711,
    "version": "0.1.0",
    "state": "RUNNING",
    "started": 0.0,
    "uptime": 5.0,
    "addresses": ["127.0.0.1:4000"],
    "limits": {"connections": 40_000, "per_address": 0, "payload": 1, "lag": 1, "descriptors": 1},
    "connections": 20_000,
    "messages": 0,
    "refused": 0,
    "log": "",
    "runtime_dir": "/run/mpchat",
    "workers": [WORKER],
}
LAST: dict[str, Any] = {
    "at": 0.0,
    "exit": 0,
    "text": "",
    **{k: RELOADED[k] for k in NOTHING_MOVED},
    "seconds": 2.31,
    "renewed": [1, 2, 3, 4],
    "changed": [],
    "kept": {},
}


def picture(width: int, worker: dict[str, Any] | None = None, **more: Any) -> str:
    facts = {**FACTS, **more, "workers": [{**WORKER, **(worker or {})}]}
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(status_picture(msgspec.convert(facts, ServerStatus), width))
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    return shown


@pytest.mark.parametrize("width", [40, 78, 80, 200])
def test_status_shows_generations_and_the_last_reload_at_any_width(width: int) -> None:
    shown = picture(
        width, {"generation": 12}, generation=12, moves=2001, change="reload", last_reload={**LAST, "lost": 1}
    )
    words = " ".join(shown.split())
    assert "generation 12, 2001 connections moved; reload under way" in words
    assert ": 2000 connections moved in 2.31 s, longest pause 40 ms, 1 connection lost" in words
    row = next(line for line in shown.splitlines() if "DRAINING" in line)
    if width < 78:
        assert "generation 12" in words.partition("worker 1")[2]
    else:
        assert row.split()[:5] == ["1", "4194303", "DRAINING", "12", "20000"]
        assert row.rstrip().endswith("MiB        0")


def test_status_shows_a_reload_that_failed_without_what_could_repaint_a_terminal() -> None:
    shown = picture(80, generation=1, last_reload={**LAST, "exit": 5, "text": "\x1b[2Jfile, line 3: wrong"})
    assert "failed: \\x1b[2Jfile, line 3: wrong" in " ".join(shown.split())


def test_status_shows_no_sequence_that_a_server_may_send() -> None:
    shown = picture(
        200,
        {"state": "\x1b[2J"},
        name="\x1b[3J",
        state="\x1b[4J",
        addresses=["\x1b[5J"],
        version="\x1b[6J",
        generation=1,
        change="\x1b[7J",
    )
    assert "\x1b" not in shown
    assert all(f"\\x1b[{each}J" in shown for each in range(2, 8))


def test_status_of_a_server_that_has_not_reloaded_or_knows_nothing_of_it() -> None:
    shown = picture(80, {"generation": 1}, generation=1, moves=0, change=None, last_reload=None)
    assert "generation 1, 0 connections moved\n" in shown
    assert "last reload" not in shown
    shown = picture(80)
    assert "gen" not in shown
    assert "moved" not in shown
