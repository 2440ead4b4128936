"""Commands work without a server, a home, a folder, a terminal or a language, and say so in one line."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.harness import MPCHAT, Server, clients
from support.said import FAILED, NOT_RUNNING, OK, USAGE, one_line, said

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
