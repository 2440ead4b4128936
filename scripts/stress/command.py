"""The command line: one command for each scenario, its progress bar, its exit codes.

Exit code 0: the verdict is clean. 1: it is not, or the run could not go on. 2: wrong usage.
"""

import json
import random
import signal
import sys
from dataclasses import Field, fields
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from scripts.stress.engine import Scenario, run
from scripts.stress.hostile.scenario import HostileScenario
from scripts.stress.members.scenario import MembersScenario
from scripts.stress.plain.scenario import PlainScenario

# A new scenario is its module and its entry here.
SCENARIOS: dict[str, type[Scenario]] = {
    "plain": PlainScenario,
    "members": MembersScenario,
    "hostile": HostileScenario,
}
SETTINGS = {"show_default": True, "help_option_names": ["-h", "--help"]}


class Bar:
    """A bar for the phase that runs, when standard error is a terminal."""

    def __init__(self) -> None:
        """Prepare; use :attr:`progress` as a context manager."""
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:12}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task: Any = None
        self._name = ""

    def __call__(self, name: str, part: float) -> None:
        """Show that ``part`` (0 to 1) of the phase ``name`` is done."""
        if name != self._name:
            self._name = name
            if self._task is not None:
                self.progress.remove_task(self._task)
            self._task = self.progress.add_task(name, total=1.0)
        self.progress.update(self._task, completed=part)


@click.group(context_settings=SETTINGS)
def main() -> None:
    """Stress an mpchat server with many clients and, on request, faults; say whether it kept its promises.

    A run starts a server of its own in a folder of its own. Client processes chat over it while things break.
    All that every client receives is checked. A scenario is what the clients do and what is checked; faults
    and options mean the same in every scenario. This is no benchmark: the load is paced so that the clients
    keep up.

    Exit code 0: clean; 1: not clean, or the run could not go on; 2: wrong usage. Whatever happens, the
    server, the client processes and the folder are gone at the end.

    Example: python -m scripts.stress plain --seconds 60 --kill-workers --stall --garbage --disconnect-storm
    """


def _option(field: "Field[Any]") -> click.Option:
    kind = field.metadata["type"]
    return click.Option(
        [f"--{field.name.replace('_', '-')}"],
        type=kind,
        is_flag=field.default is False,
        default=field.default,
        show_default=field.default not in ("", None, False),
        help=field.metadata["help"],
    )


def _command(name: str, scenario: type[Scenario]) -> click.Command:
    def go(as_json: bool, seed: int | None, **flags: Any) -> None:
        seed = random.randrange(2**32) if seed is None else seed
        options = scenario.options_type(seed=seed, **flags)
        options.check()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: cleanly
        bar = Bar()
        with bar.progress:
            verdict = run(name, scenario, options, bar)
        if as_json:
            print(json.dumps(verdict.as_dict(), indent=2))
        else:
            verdict.show(Console())
        sys.exit(1 if verdict.reasons else 0)

    options: list[click.Parameter] = [_option(field) for field in fields(scenario.options_type)]
    options.append(click.Option(["--json", "as_json"], is_flag=True, help="Print the verdict as JSON."))
    return click.Command(name, context_settings=SETTINGS, params=options, callback=go, help=scenario.__doc__)


for _name, _scenario in SCENARIOS.items():
    main.add_command(_command(_name, _scenario))
