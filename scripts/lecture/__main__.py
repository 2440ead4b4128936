"""``python -m scripts.lecture``: the ways to serve many clients, and to share a number between processes."""

import click

from scripts.common.command import DefaultGroup
from scripts.lecture import models, sync


@click.group(cls=DefaultGroup)
def main() -> None:
    """Measure what the lecture teaches. Without a command: models."""


main.add_command(models.main, "models")
main.add_command(sync.main, "sync")

if __name__ == "__main__":
    main(prog_name="python -m scripts.lecture")
