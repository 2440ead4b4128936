"""``mpchat check``: say what will go wrong before it does."""

import os
from typing import Any

import click
import msgspec

from mpchat.cli.options import all_settings, as_json
from mpchat.errors import Exit
from mpchat.settings import Sources


@click.command()
@all_settings
@as_json
@click.pass_context
def check(context: click.Context, /, config_file: str | None, as_json: bool, **flags: Any) -> None:
    """Examine machine, settings, files, certificate and ports; say what will fail, and the remedy.

    Changes nothing, and works beside a running server. Takes the options of start. The exit code is 1 when
    something will fail, and 0 when there are warnings alone.
    """
    # Here, because it loads parts of the server, as no other command does.
    from mpchat.inspection.findings import Level
    from mpchat.inspection.inspect import inspect

    found = inspect(Sources.of_command(config_file, flags), os.environ)
    fails = any(each.level is Level.FAILURE for each in found)
    if as_json:
        click.echo(msgspec.json.encode({"ok": not fails, "findings": found}).decode())
    else:
        from rich.console import Console

        from mpchat.cli.findings_picture import findings_picture

        console = Console(highlight=False)
        console.print(
            findings_picture([(each.subject, each.level, each.text, each.remedy) for each in found])
        )
    context.exit(Exit.FAILED if fails else Exit.OK)
