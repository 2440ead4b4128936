"""What the command lines of the scripts have in common: a default command, names and sizes by commas."""

from collections.abc import Mapping
from typing import TypeVar

import click

Item = TypeVar("Item")


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


def split_names(text: str, known: Mapping[str, Item], option: str) -> list[Item]:
    """Return what the names in ``text`` (separated by commas) mean; everything known when it is empty."""
    names = [name.strip() for name in text.split(",") if name.strip()] or list(known)
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"no {unknown[0]!r}; there are {', '.join(known)}", param_hint=option)
    return [known[name] for name in names]


def split_numbers(text: str, least: int, most: int, option: str) -> list[int]:
    """Return the numbers in ``text`` (separated by commas) in rising order; each is ``least`` to ``most``."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise click.BadParameter(f"{text!r}: numbers separated by commas", param_hint=option) from None
    if found[0] < least or found[-1] > most:
        raise click.BadParameter(f"{text}: {least} to {most:,}", param_hint=option)
    return found
