"""A click group that runs one of its commands when the command line names none."""

import click


class DefaultGroup(click.Group):
    """A group of commands whose first one is the default: ``prog --option`` means ``prog FIRST --option``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the first command's name in front of ``args`` that name none and ask for no help."""
        names = self.list_commands(ctx)
        if not args or (args[0] not in names and args[0] not in ctx.help_option_names):
            args = [names[0], *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which the commands were added, the default first."""
        return list(self.commands)
