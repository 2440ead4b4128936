"""Stress an mpchat server with named clients that talk, move and are cut; say whether it kept its promises.

``python scripts/stress_people.py --cuts 10000 --reload --scale`` starts a server of its own in a folder of
its own. Hundreds of clients say numbered messages in rooms and in private, change rooms, ask who is there,
are cut at any moment and come back with name, token and what they have seen; strangers try their names.
Everything that everybody gets is checked: see ``stress_people_check``. Exit code 0: clean; 1: not clean, or
it could not go on; 2: wrong usage. Whatever happens, the server, the client processes and the folder are gone
at the end.

A script beside ``stress.py``, for it shares the server's side with it and hardly a flag: those are about
bytes that everybody gets alike, this is about numbers, and about who gets what.

In reading order: ``stress_people_check`` (the books), ``stress_people_client`` (a client process),
``stress_people_run`` (the order of things, the verdict).
"""

import json
import random
import signal
import sys
from typing import Any


def main() -> None:
    import click
    from rich.console import Console
    from stress_command import KILL_EVERY, Bar
    from stress_people_run import Options, run

    @click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
    @click.option("--seconds", type=click.FloatRange(1), default=30.0, help="Length, at least.")
    @click.option("--processes", type=click.IntRange(1, 64), default=2, help="Client processes.")
    @click.option("--clients", type=click.IntRange(2, 5000), default=100, help="Clients of each.")
    @click.option("--rooms", type=click.IntRange(1, 1000), default=20, help="Rooms.")
    @click.option("--rate", type=click.FloatRange(1), default=200.0, help="Acts a second, of all together.")
    @click.option("--cuts", type=click.IntRange(0), default=1000, help="Connections to cut, of all together.")
    @click.option("--workers", type=click.IntRange(1), default=2, help="Workers of the server.")
    @click.option("--name-hold", type=click.FloatRange(1), default=10.0, help="Seconds that names are held.")
    @click.option("--patience", type=click.FloatRange(1), default=60.0, help="Seconds that answers may take.")
    @click.option("--reload", is_flag=True, help="Replace all workers again and again; clients stay.")
    @click.option("--reloads", type=click.IntRange(0), default=0, help="How many; 0: as the time allows.")
    @click.option("--scale", is_flag=True, help="Change the number of workers again and again; clients stay.")
    @click.option("--scalings", type=click.IntRange(0), default=0, help="How many; 0: as the time allows.")
    @click.option("--scale-most", type=click.IntRange(2, 256), default=4, help="Workers, at most.")
    @click.option("--kill", is_flag=True, help="kill -9 of a random worker now and then.")
    @click.option("--kill-every", type=click.FloatRange(0.5), default=KILL_EVERY, help="Seconds between.")
    @click.option("--server-log", default="", help="Where the server logs; default: not kept.")
    @click.option("--seed", type=int, default=None, help="Repeats the choices of an earlier run.")
    @click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
    def command(as_json: bool, seed: int | None, **flags: Any) -> None:
        """Stress an mpchat server with named clients, and check all that each of them gets."""
        options = Options(seed=random.randrange(2**32) if seed is None else seed, **flags)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: cleanly
        bar = Bar()
        with bar.progress:
            verdict = run(options, bar)
        if as_json:
            print(json.dumps(verdict.as_dict(), indent=2))
        else:
            verdict.show(Console())
        sys.exit(1 if verdict.reasons else 0)

    command()


if __name__ == "__main__":
    # Only here: every client process imports this file once more, and needs neither click nor rich.
    main()
