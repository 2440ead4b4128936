"""``mpchat status --watch`` in a real terminal: keys, stops, sizes, and a server that comes and goes."""

import os
import shlex
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.harness import MPCHAT, Server, assert_nothing_left, kill, running
from support.screens import Screen
from support.terminals import Terminal, session_command
from support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.one_python


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("watched")
    with running(folder) as started:
        yield started
    assert_nothing_left(folder)


def watching(server: Server) -> list[str]:
    folder = server.environment["MPCHAT_RUNTIME_DIR"]
    return [*MPCHAT, "status", "--watch", "--runtime-dir", folder]


def lines_are_edited(terminal: Terminal) -> bool:
    """Say whether a terminal takes whole lines, as a shell's user expects, and not single keys."""
    descriptor = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
    try:
        return bool(termios.tcgetattr(descriptor)[3] & termios.ICANON)
    finally:
        os.close(descriptor)


def test_it_tells_of_a_death_of_a_stop_and_of_a_new_start_and_q_ends_it(tmp_path: Path) -> None:
    with running(tmp_path) as server, Screen(watching(server)) as screen:
        screen.shows("nothing is wrong")
        kill(server.worker_pids[0])
        screen.shows(" ! worker 1 died: killed by SIGKILL")
        server.stop()
        screen.shows("NO ANSWER since")
        screen.shows("!! mpchat")
        server.start()
        screen.shows(" ! the server was started anew")
        screen.shows("default RUNNING")
        assert "NO ANSWER" not in screen.text
        screen.press("q")
        assert screen.exit_code() == 0
        assert "default RUNNING" in screen.text, "the last picture stays"


def test_a_stopped_job_leaves_the_terminal_to_the_shell_and_goes_on(server: Server) -> None:
    with Screen(["bash", "--norc", "--noprofile", "-i"], columns=100) as screen:
        screen.say(shlex.join(watching(server)))
        screen.shows("q quits")
        screen.press("C-z")
        screen.shows("Stopped")
        assert "q quits" not in screen.text
        screen.say("fg")
        screen.shows("q quits")
        screen.press("C-c")
        eventually(lambda: "q quits" not in screen.text, "the end")
        screen.say("echo code $?")
        screen.shows("code 0")


def test_another_size_is_drawn_at_once(server: Server) -> None:
    with Screen(watching(server)) as screen:
        screen.shows("restarts")
        screen._tmux("resize-window", "-x", "40", "-y", "20")
        screen.shows("worker clients in/s")
        assert max(map(len, screen.lines)) <= 40


def test_it_ends_with_its_terminal(server: Server) -> None:
    terminal = Terminal()
    process = subprocess.Popen(
        session_command(terminal, "leader", *watching(server)),
        env=server.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: "q quits" in terminal.text, "the picture")
    finally:
        terminal.close()
    assert process.wait(PATIENCE) == -signal.SIGHUP


def test_sigterm_gives_the_terminal_back(server: Server) -> None:
    terminal = Terminal()
    process = subprocess.Popen(session_command(terminal, "leader", *watching(server)), env=server.environment)
    try:
        eventually(lambda: "q quits" in terminal.text, "the picture")
        assert not lines_are_edited(terminal)
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM
        assert terminal.text.rstrip().endswith("\x1b[?1049l"), "the normal screen is back"
        assert lines_are_edited(terminal)
    finally:
        terminal.close()


def test_without_a_terminal_it_says_once_that_there_is_no_answer_and_goes_on(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        process = subprocess.Popen(
            watching(server),
            env=server.environment,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            for wanted in (" RUNNING at ", "no answer", " RUNNING at "):
                if wanted == "no answer":
                    server.stop()
                while wanted not in (line := process.stdout.readline()):
                    assert line, f"the end, {wanted!r} was expected"
                if wanted == "no answer":
                    server.start()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.communicate()
