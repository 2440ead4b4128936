"""``mpchat completion``: print the script that lets a shell complete this command's words."""

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
# The variable with which such a script asks the command; click derives it from the command's name.
VARIABLE = "_MPCHAT_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script for a shell, as in: eval "$(mpchat completion bash)".

    Put that line into ~/.bashrc, or into ~/.zshrc after compinit. fish reads the script from the file
    ~/.config/fish/completions/mpchat.fish.
    """
    command = context.find_root().command
    script = SHELLS[shell](command, {}, "mpchat", VARIABLE)
    # Not BashComplete's own way: it starts a bash to look at its version.
    click.echo(ShellComplete.source(script))
