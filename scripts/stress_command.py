"""The command line of the stress test: its flags, its progress bar, its exit codes."""

import json
import random
import signal
import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from stress_run import Options, run

# Seconds between kills: a slot of four is then killed every 40 s, and the server counts a worker that lived
# for 30 s as one that was all right. Faster, and the server is right to give the slot up.
KILL_EVERY = 10.0


class Bar:
    """A bar for the phase that runs, only where somebody looks: standard error on a terminal."""

    def __init__(self) -> None:
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
        if name != self._name:
            self._name = name
            if self._task is not None:
                self.progress.remove_task(self._task)
            self._task = self.progress.add_task(name, total=1.0)
        self.progress.update(self._task, completed=part)


def _address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    host, _, port = value.rpartition(":")
    if value and not (host and port.isdecimal() and 0 < int(port) < 0x10000):
        raise click.BadParameter("expected HOST:PORT, as in 127.0.0.1:4000")
    return value


def _check(options: Options) -> None:
    own = options.kill_workers or options.start_storm or options.any_change
    if options.address and own:
        raise click.UsageError(
            "--kill-workers, --reload, --scale and --start-storm need a server of their own, not --address"
        )
    if not options.seconds and not options.start_storm:
        raise click.UsageError("--seconds 0 leaves nothing to do without --start-storm")


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option(
    "--address", default="", callback=_address, help="A running server, HOST:PORT; none is started."
)
@click.option("--seconds", type=click.FloatRange(0), default=30.0, help="Length; 0: only --start-storm.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, help="Client processes.")
@click.option("--connections", type=click.IntRange(1, 5000), default=50, help="Connections of each.")
@click.option("--messages", type=click.IntRange(0), default=0, help="Of each connection; 0: no limit.")
@click.option("--rate", type=click.FloatRange(0.1), default=40.0, help="Messages a second, of all together.")
@click.option("--size", type=click.IntRange(0, 50000), default=120, help="Bytes of a message's payload.")
@click.option("--probes", type=click.IntRange(1, 1000), default=20, help="Connections that measure latency.")
@click.option("--workers", type=click.IntRange(1), default=2, help="Workers of the server that is started.")
@click.option("--kill-workers", is_flag=True, help="kill -9 of a random worker now and then.")
@click.option("--kill-every", type=click.FloatRange(0.5), default=KILL_EVERY, help="Seconds between kills.")
@click.option("--reload", is_flag=True, help="Replace all workers again and again; clients stay.")
@click.option("--reloads", type=click.IntRange(0), default=0, help="How many; 0: as the time allows.")
@click.option("--scale", is_flag=True, help="Change the number of workers again and again; clients stay.")
@click.option("--scalings", type=click.IntRange(0), default=0, help="How many; 0: as the time allows.")
@click.option("--scale-most", type=click.IntRange(2, 256), default=8, help="Workers, at most.")
@click.option("--stall", is_flag=True, help="Clients that never read, read a byte a second, are stopped.")
@click.option("--stalled", type=click.IntRange(1), default=50, help="How many never read or hardly.")
@click.option("--garbage", is_flag=True, help="Clients that send random and mutated input.")
@click.option("--garbage-inputs", type=click.IntRange(1), default=1000, help="How many inputs.")
@click.option("--disconnect-storm", is_flag=True, help="Many clients leave in one moment, again and again.")
@click.option("--storm-clients", type=click.IntRange(1), default=500, help="How many.")
@click.option("--start-storm", is_flag=True, help="Many starts of one name at once; before all else.")
@click.option("--starts", type=click.IntRange(2), default=50, help="How many at once.")
@click.option("--rounds", type=click.IntRange(1), default=1, help="How many times.")
@click.option("--max-p99-ratio", type=float, default=None, help="Not clean when faults make p99 longer.")
@click.option("--server-log", default="", help="Where the started server logs; default: not kept.")
@click.option("--seed", type=int, default=None, help="Repeats the choices of an earlier run.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def main(as_json: bool, seed: int | None, **flags: Any) -> None:
    """Stress an mpchat server, and check every client's whole stream against one order."""
    options = Options(seed=random.randrange(2**32) if seed is None else seed, **flags)
    _check(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: cleanly
    bar = Bar()
    with bar.progress:
        verdict = run(options, bar)
    if as_json:
        print(json.dumps(verdict.as_dict(), indent=2))
    else:
        verdict.show(Console())
    sys.exit(1 if verdict.reasons else 0)
