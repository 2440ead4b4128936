"""The command line: one command for each scenario, its progress bar, its exit codes.

Exit code 0: the verdict is clean. 1: it is not, or the run could not go on. 2: wrong usage.
"""

import json
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from typing import Any

import click
import rich.progress
from rich.console import Console

from scripts.stress.cluster.scenario import HostsScenario
from scripts.stress.engine import Progress, Scenario, run
from scripts.stress.hostile.scenario import HostileScenario
from scripts.stress.members.scenario import MembersScenario
from scripts.stress.night.command import night
from scripts.stress.plain.scenario import PlainScenario

# A new scenario is its module and its entry here.
SCENARIOS: dict[str, type[Scenario]] = {
    "plain": PlainScenario,
    "members": MembersScenario,
    "hostile": HostileScenario,
    "cluster": HostsScenario,
}
SETTINGS = {"show_default": True, "help_option_names": ["-h", "--help"]}


@contextmanager
def bar() -> Iterator[Progress]:
    """Yield a function that shows how far a phase is, in a bar when standard error is a terminal."""
    console = Console(stderr=True)
    with rich.progress.Progress(console=console, disable=not console.is_terminal, transient=True) as shown:
        task = shown.add_task("", total=1.0)
        yield lambda name, part: shown.update(task, description=name, completed=part)


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
        with bar() as progress:
            verdict = run(name, scenario, options, progress)
        if as_json:
            print(json.dumps(verdict.as_dict(), indent=2))
        else:
            verdict.show(Console())
        sys.exit(1 if verdict.reasons else 0)

    used = (each for each in fields(scenario.options_type) if each.name not in scenario.unused)
    options: list[click.Parameter] = [_option(field) for field in used]
    options.append(click.Option(["--json", "as_json"], is_flag=True, help="Print the verdict as JSON."))
    return click.Command(name, context_settings=SETTINGS, params=options, callback=go, help=scenario.__doc__)


for _name, _scenario in SCENARIOS.items():
    main.add_command(_command(_name, _scenario))
# It is no scenario with phases and faults: its server is started by a service manager, and ends once.
main.add_command(night)
