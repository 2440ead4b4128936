"""Changes of a running server: ``mpchat reload``, ``mpchat scale``."""

import sys
from typing import Any

import click
import msgspec

from mpchat.cli.options import addressed, as_json
from mpchat.cli.running import addressing, answer_to, refusal, server_config
from mpchat.config import Config
from mpchat.control import requests
from mpchat.control.answers import Progress, ReloadResult, ScaleResult
from mpchat.control.client import ReceivedAnswer, convert_result, result_as
from mpchat.control.requests import Request
from mpchat.errors import MpchatError

# Seconds that a server may be silent while it changes its workers: a new worker gets 30 to be ready.
CHANGE_SILENCE = 40.0


@click.command()
@addressed
@as_json
def reload(config_file: str | None, as_json: bool, **flags: Any) -> None:
    """Read the settings again and replace every worker; clients stay connected.

    Wrong settings change nothing. --config only says which server is meant: the server reads the file that it
    was started with.
    """
    from mpchat.cli.display import reload_text

    config = server_config(config_file, flags)
    answer = _change(config, requests.Reload())
    result = result_as(answer, ReloadResult)
    text = reload_text(config.name, result, done=not answer.exit)
    # A reload that changed nothing is one line: the reason.
    changed = not answer.exit or result.renewed or result.moved or result.lost
    _print_change(answer, as_json, text if changed else "")


@click.command()
@click.argument("number", metavar="N", type=click.IntRange(1, 256))
@addressed
@as_json
def scale(number: int, config_file: str | None, as_json: bool, **flags: Any) -> None:
    """Change the number of workers to N, 1 to 256; clients stay connected."""
    from mpchat.cli.display import scale_text

    config = server_config(config_file, flags)
    answer = _change(config, requests.Scale(number))
    _print_change(answer, as_json, scale_text(config.name, result_as(answer, ScaleResult)))


def _change(config: Config, request: Request) -> ReceivedAnswer:
    """Ask for a change that takes long, and show its progress on a terminal."""
    try:
        return _watch_change(config, request)
    except KeyboardInterrupt:
        raise MpchatError(
            f"stopped waiting; the server goes on with it; see: mpchat status{addressing(config)}"
        ) from None


def _watch_change(config: Config, request: Request) -> ReceivedAnswer:
    if sys.stderr is None or not sys.stderr.isatty():
        return answer_to(config, request, CHANGE_SILENCE)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as ProgressBar

    from mpchat.cli.display import progress_text

    description = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True)
    with ProgressBar(BarColumn(), MofNCompleteColumn(), description, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(facts: dict[str, Any]) -> None:
            progress = convert_result(facts, Progress)
            text = progress_text(progress)
            bar.update(task, description=text, completed=progress.done, total=progress.workers)

        return answer_to(config, request, CHANGE_SILENCE, show)


def _print_change(answer: ReceivedAnswer, as_json: bool, text: str) -> None:
    """Print what was done, also when that is not all; then raise the refusal."""
    if answer.result and (as_json or text):
        click.echo(msgspec.json.encode(answer.result).decode() if as_json else text)
    if answer.exit:
        raise refusal(answer)
