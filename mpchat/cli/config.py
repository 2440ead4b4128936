"""``mpchat config``: the settings in force, or a check of one file."""

import os
from pathlib import Path
from typing import Any

import click

from mpchat.cli.candidates import files
from mpchat.cli.options import all_settings, shown_setting
from mpchat.config import SETTINGS, default_workers, resolve
from mpchat.cores import usable_cores
from mpchat.memory import bounds
from mpchat.settings import Sources, read_file
from mpchat.supervisor.descriptors import most_connections
from mpchat.text import visible


@click.command("config")
@all_settings
@click.option("--check", metavar="FILE", shell_complete=files, help="Only check FILE.")
def show_config(config_file: str | None, check: str | None, **flags: Any) -> None:
    """Show the settings in force and where each came from, and how much memory the server takes at most."""
    if check:
        resolve([read_file(check, str(Path(check)))])
        click.echo(f"{check} is right")
        return
    sources = Sources.of_command(config_file, flags)
    config, places = sources.read(os.environ)
    from rich.console import Console

    from mpchat.cli.display import config_picture, memory_picture

    rows = [(each.name, shown_setting(config, each.name), places[each.name]) for each in SETTINGS]
    cores = usable_cores()
    workers = config.workers or default_workers(cores)
    connections = most_connections(config, workers)
    console = Console(highlight=False)
    console.print(config_picture(rows))
    click.echo(f"settings file: {visible(sources.file) or 'none'}")
    console.print(memory_picture(bounds(config, workers, connections), workers, connections))
    if not config.workers:
        click.echo(f"workers = 0 means {default_workers(cores)} here, with {cores} cores")
