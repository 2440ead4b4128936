"""``mpchat completion`` in the real shells: a press of Tab completes what was typed."""

import os
import sys
from pathlib import Path

import pytest
from support.programs import require
from support.screens import Screen

# How each shell is started without the user's own files, and what makes it read the script.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile"], 'eval "$(mpchat completion bash)"'),
    "zsh": (["zsh", "-f"], 'autoload -Uz compinit && compinit -D && eval "$(mpchat completion zsh)"'),
    "fish": (["fish", "--no-config"], "mpchat completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_commands_options_values_and_files(shell: str, tmp_path: Path) -> None:
    require(shell)
    command, load = SHELLS[shell]
    (tmp_path / "settings-of-mine.toml").touch()
    found = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # A shell draws its line anew at each key where the terminal can do much.
    surroundings = ["env", "-C", str(tmp_path), f"PATH={found}", f"HOME={tmp_path}", "TERM=screen"]
    with Screen([*surroundings, *command], columns=120) as screen:
        screen.say(f"{load}; echo loa''ded")
        screen.shows("loaded")
        for typed, completed in (
            ("mpchat rel", "mpchat reload"),
            ("--conf", "mpchat reload --config"),
            ("settings-of", "mpchat reload --config settings-of-mine.toml"),
        ):
            screen.type_in(typed)
            screen.press("Tab")
            screen.shows(completed)
        screen.press("C-c")
        screen.type_in("mpchat start --auth clo")
        screen.press("Tab")
        screen.shows("mpchat start --auth closed")
        screen.press("C-c")
        screen.type_in("mpchat sta")
        screen.press("Tab", "Tab")
        screen.shows("status")
