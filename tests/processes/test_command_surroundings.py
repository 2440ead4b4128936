"""Commands work without a server, a home, a folder, a terminal or a language, and say so in one line."""

import errno
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
from support.harness import MPCHAT, Server, assert_nothing_left, clients
from support.said import FAILED, NOT_RUNNING, NOT_STARTED, OK, USAGE, one_line, said

from mpchat.cli.launch import in_foreground
from mpchat.errors import StartError
from mpchat.settings import Sources

pytestmark = pytest.mark.usefixtures("commands_apart")


@pytest.fixture
def instance(folder: Path) -> Iterator[Server]:
    """An instance that is not started yet; ended when the test is over."""
    server = Server(folder)
    yield server
    server.end()


@pytest.fixture
def commands_here(commands_apart: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands in the test's process: what is around them is a variable or a folder."""
    monkeypatch.setattr(Server, "apart", False)


def with_variable(server: Server, **variables: str) -> Server:
    """Return the same server, whose commands have more in their environment."""
    other = Server(server.folder, server.name)
    other.environment |= variables
    return other


# No server.


@pytest.mark.parametrize(
    "words",
    [["status"], ["status", "--json"], ["status", "--watch"], ["stop"], ["say", "hello"], ["kick", "::1"]],
)
@pytest.mark.usefixtures("commands_here")
def test_with_no_server_a_command_says_so_and_what_starts_one(folder: Path, words: list[str]) -> None:
    server = Server(folder, "lobby")
    line = one_line(server.command(*words), NOT_RUNNING)
    assert '"lobby" is not running; start it with: mpchat start --name lobby --runtime-dir' in line
    assert not (folder / "run").exists()


def test_the_command_that_a_line_tells_works_as_it_stands(instance: Server) -> None:
    line = one_line(instance.command("status"), NOT_RUNNING)
    words = shlex.split(line.partition("mpchat start")[2])
    assert instance.command("start", *words, "--port", "0", "--workers", "1").returncode == OK


@pytest.mark.usefixtures("commands_here")
def test_with_no_home_directory_and_no_runtime_folder_commands_work(folder: Path) -> None:
    server = Server(folder, f"homeless-{os.getpid()}")
    kept = {"PATH", "LANG"}
    server.environment = {name: value for name, value in server.environment.items() if name in kept}
    assert "not running" in one_line(server.command("status"), NOT_RUNNING)
    assert "port" in said(server.command("config"))
    started = server.command("start", "--port", "0", "--workers", "1", env=server.environment)
    try:
        assert "serves at" in said(started)
    finally:
        assert server.command("stop").returncode == OK


def test_with_the_current_folder_removed_commands_work(shared: Server, tmp_path: Path) -> None:
    gone = shlex.quote(str(tmp_path / "gone"))
    script = f"mkdir {gone} && cd {gone} && rmdir ../gone && exec {shlex.join(MPCHAT)} "
    for words, code in (("status", OK), ("config", OK), ("status --runtime-dir here", USAGE)):
        done = subprocess.run(
            ["sh", "-c", script + words], env=shared.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    assert "'here' leads nowhere" in done.stderr


@pytest.mark.usefixtures("commands_here")
def test_a_home_that_does_not_exist_is_a_wrong_setting(folder: Path) -> None:
    line = one_line(Server(folder).command("start", "--log-file", "~no-such-user/log"), USAGE)
    assert "'~no-such-user/log' leads nowhere" in line


@pytest.mark.usefixtures("commands_here")
def test_every_command_finds_a_server_whose_folder_is_written_with_a_tilde(
    shared: Server, tmp_path: Path
) -> None:
    elsewhere = Server(tmp_path)
    elsewhere.environment |= {"HOME": str(shared.folder), "MPCHAT_RUNTIME_DIR": "~/run"}
    for words in (["status"], ["say", "hello"], ["chat", "--plain"]):
        said(elsewhere.run(*words))
    del elsewhere.environment["MPCHAT_RUNTIME_DIR"]
    said(elsewhere.run("status", "--runtime-dir", "~/run"))
    (tmp_path / "mpchat.toml").write_text("runtime_dir = '~/run'\n")
    for words in (["status"], ["chat", "--plain"]):
        said(elsewhere.run(*words))


# A system that has no process, thread or descriptor left.


def refuse_process(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def refuse_thread(*_: Any) -> NoReturn:
    raise RuntimeError("can't start new thread")


def refuse_pipe() -> NoReturn:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    ("part", "refuse", "reason"),
    [
        ("subprocess.Popen", refuse_process, "Resource temporarily unavailable"),
        ("_LastLines", refuse_thread, "can't start new thread"),
        ("os.pipe", refuse_pipe, "Too many open files"),
        ("socket.socketpair", refuse_pipe, "Too many open files"),
    ],
    ids=["process", "thread", "pipe", "socket"],
)
@pytest.mark.usefixtures("commands_here")
def test_a_start_that_the_system_refuses_is_one_line_and_leaves_nothing(
    folder: Path, part: str, refuse: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, before = Server(folder), psutil.Process().num_fds()
    with monkeypatch.context() as patch:
        patch.setattr(f"mpchat.cli.launch.{part}", refuse)
        line = one_line(server.command("start", "--port", "0"), NOT_STARTED)
    assert f"the server's process could not be started: {reason}; end other processes" in line
    assert_nothing_left(folder)
    assert psutil.Process().num_fds() == before


def test_a_start_in_the_foreground_that_the_system_refuses_is_an_error_of_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = Sources.of_command(None, {"runtime_dir": str(folder / "run")})
    config = sources.read({})[0]
    monkeypatch.chdir(folder)  # and back at the end of the test
    monkeypatch.setattr("mpchat.cli.launch.os.execv", refuse_process)
    before = psutil.Process().num_fds()
    with pytest.raises(StartError, match="could not be started: Resource temporarily unavailable; "):
        in_foreground(config, sources)
    assert psutil.Process().num_fds() == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


# A terminal that is no terminal.


@pytest.mark.parametrize("closing", [">&-", "<&- >&- 2>&-", "2>&-"])
def test_with_standard_streams_closed_start_status_and_stop_work(instance: Server, closing: str) -> None:
    for words in ("start --port 0 --workers 1", "status", "config", "stop"):
        done = subprocess.run(
            ["sh", "-c", f"exec {shlex.join(MPCHAT)} {words} {closing}"],
            env=instance.environment,
            cwd=instance.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (OK, ""), words


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["config"], ["say", "hello"]])
def test_output_that_cannot_be_written_is_one_line(shared: Server, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = shared.command(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (FAILED, "mpchat: No space left on device\n")


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["config"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(shared: Server, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = shared.command(*words, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (FAILED, "")


@pytest.mark.usefixtures("commands_here")
def test_a_terminal_of_40_columns_shows_every_figure(shared: Server) -> None:
    facts = shared.status()
    narrow = with_variable(shared, COLUMNS="40")
    shown = said(narrow.command("status"))
    assert max(map(len, shown.splitlines())) <= 40
    for worker in facts["workers"]:
        assert re.search(rf"worker {worker['slot']} RUNNING,\s+pid\s+{worker['pid']}:", shown)
    config = said(narrow.command("config"))
    assert max(map(len, config.splitlines()[:-2])) <= 40  # two lines of text follow the table


@pytest.mark.usefixtures("commands_here")
def test_a_terminal_of_80_columns_shows_a_row_per_worker(shared: Server) -> None:
    shown = said(with_variable(shared, COLUMNS="80").command("status"))
    for worker in shared.status()["workers"]:
        assert re.search(rf"^ +{worker['slot']} +{worker['pid']} RUNNING .*MiB +\d+ *$", shown, re.MULTILINE)


ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("language", [{"LANG": "C"}, ASCII], ids=["LANG=C", "strictly_ascii"])
def test_without_a_language_commands_work_and_what_cannot_be_shown_is_escaped(
    shared: Server, language: dict[str, str]
) -> None:
    environment = {**shared.environment, **language}
    assert "RUNNING" in said(shared.command("status", env=environment))
    done = shared.command("config", "--port", "한글", env=environment, encoding="utf-8")
    assert "flag --port: port is" in one_line(done, USAGE)


def test_korean_is_announced_as_it_is_without_a_language(shared: Server) -> None:
    with clients(shared, 1) as (alice,):
        said(shared.command("say", "안녕하세요 👋", env={**shared.environment, "LANG": "C", "LC_ALL": "C"}))
        assert alice.hear() == "안녕하세요 👋"
