"""What a shell is offered for the word at the cursor, asked of the command itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from mpchat.cli.commands import main
from mpchat.cli.completion import SHELLS, VARIABLE
from mpchat.cli.manual import SUBJECTS


def offered(*words: str, begun: str = "") -> list[str]:
    """Return the words that are offered after ``mpchat WORDS``; ``<file>`` for files of the shell's own."""
    found = ShellComplete(main, {}, "mpchat", VARIABLE).get_completions(list(words), begun)
    return [each.value if each.type == "plain" else f"<{each.type}>" for each in found]


def test_every_command_is_offered() -> None:
    assert set(offered()) == set(main.commands)
    assert offered(begun="sta") == ["start", "status"]


def test_options_are_offered() -> None:
    assert offered("status", begun="--j") == ["--json"]
    assert offered("start", begun="--tls-p") == ["--tls-processes"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("start", "--multiplexer"), ["auto", "epoll", "kqueue", "poll", "select"]),
        (("start", "--notices"), ["on", "off"]),
        (("start", "--auth"), ["open", "names", "closed"]),
        (("start", "--tls-cert"), ["<file>"]),
        (("start", "--jwt-key"), ["<file>"]),
        (("start", "--runtime-dir"), ["<dir>"]),
        (("stop", "--config"), ["<file>"]),
        (("config", "--check"), ["<file>"]),
        (("chat", "--token"), ["<file>"]),
        (("chat", "--ca"), ["<file>"]),
        (("start", "--farewell"), []),
        (("start", "--workers"), []),
        (("manual",), list(SUBJECTS)),
        (("client",), ["csharp", "javascript"]),
        (("completion",), ["bash", "zsh", "fish"]),
    ],
)
def test_values_are_offered_where_they_can_be_listed(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


def test_instances_are_offered_and_nothing_else_that_lies_there(tmp_path: Path) -> None:
    for name in ("games", "default", "no server\x1b[2J", "unused"):
        (tmp_path / name).mkdir()
        if name != "unused":
            (tmp_path / name / "lock").touch()
    assert offered("stop", "--runtime-dir", str(tmp_path), "--name") == ["default", "games"]
    assert offered("stop", "--runtime-dir", str(tmp_path), "--name", begun="g") == ["games"]
    assert offered("stop", "--runtime-dir", str(tmp_path / "nowhere"), "--name") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_without_a_start_of_that_shell(
    shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    done = CliRunner().invoke(main, ["completion", shell])
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{VARIABLE}={shell}_complete" in done.stdout


def test_another_shell_is_wrong_usage() -> None:
    done = CliRunner().invoke(main, ["completion", "csh"])
    assert done.exit_code == 2
    assert all(shell in done.stderr for shell in SHELLS)


def test_a_press_of_tab_loads_no_more_than_the_commands_themselves() -> None:
    code = (
        "import sys, mpchat.cli.commands as commands\n"
        "try: commands.main(prog_name='mpchat')\n"
        "except SystemExit: pass\n"
        "print(*sorted(each.split('.')[0] for each in sys.modules))"
    )
    asked = {VARIABLE: "bash_complete", "COMP_WORDS": "mpchat start --name ", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    heavy = {
        "rich",
        "prompt_toolkit",
        "cryptography",
        "jwt",
        "asyncio",
        "websockets",
        "sqlite3",
        "ssl",
        "redis",
    }
    assert loaded.isdisjoint(heavy), loaded & heavy
