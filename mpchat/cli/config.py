"""``mpchat config``: the settings in force, or a check of one file."""

import os
from pathlib import Path
from typing import Any

import click

from mpchat.cli.options import all_settings, shown
from mpchat.config import SETTINGS, default_workers, resolve
from mpchat.cores import usable_cores
from mpchat.settings import Sources, read_file
from mpchat.text import visible


@click.command("config")
@all_settings
@click.option("--check", metavar="FILE", help="Only check FILE.")
def show_config(config_file: str | None, check: str | None, **flags: Any) -> None:
    """Show the settings in force and where each came from."""
    if check:
        resolve([read_file(check, str(Path(check)))])
        click.echo(f"{check} is right")
        return
    sources = Sources.of_command(config_file, flags)
    config, places = sources.read(os.environ)
    from rich.console import Console

    from mpchat.cli.display import config_picture

    rows = [(each.name, shown(getattr(config, each.name)), places[each.name]) for each in SETTINGS]
    cores = usable_cores()
    Console(highlight=False).print(config_picture(rows))
    click.echo(f"settings file: {visible(sources.file) or 'none'}")
    if not config.workers:
        click.echo(f"workers = 0 means {default_workers(cores)} here, with {cores} cores")
