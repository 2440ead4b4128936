"""Start and stop: ``mpchat start``, ``mpchat stop``."""

import os
import time
from contextlib import suppress
from typing import Any

import click
import psutil

from mpchat.cli import launch
from mpchat.cli.options import addressed, all_settings
from mpchat.cli.running import ANSWER_TIMEOUT, addressing, ask, folder_owner, living_record, server_config
from mpchat.config import Config
from mpchat.control import requests
from mpchat.control.answers import Stopping
from mpchat.control.client import result_as
from mpchat.errors import MpchatError, TimedOutError
from mpchat.instance.owners import user_name
from mpchat.instance.record import Identity
from mpchat.settings import Sources, check_installed
from mpchat.supervisor.startup import start_text

# Seconds beyond the server's own deadline that ``stop`` waits before it reports a timeout.
STOP_MARGIN = 5.0
# Seconds that killed processes get to end.
KILL_TIMEOUT = 5.0
# Seconds between two checks whether a server's processes have ended.
END_POLL = 0.02


@click.command()
@all_settings
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to standard error.")
def start(config_file: str | None, foreground: bool, **flags: Any) -> None:
    """Start a server; return when every worker can serve."""
    sources = Sources.of_command(config_file, flags, foreground=foreground)
    config = sources.ready_to_run(sources.read(os.environ)[0])
    check_installed(config)
    if foreground:
        launch.in_foreground(config, sources)
    facts = launch.in_background(config, sources)
    click.echo(start_text(config, facts, sources.file))


@click.command()
@addressed
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.0),
    metavar="S",
    help=f"Seconds to wait for the end; without it stop_timeout and {STOP_MARGIN:g} more.",
)
@click.option("--kill", is_flag=True, help="Kill the processes that are left after the timeout.")
def stop(config_file: str | None, timeout: float | None, kill: bool, **flags: Any) -> None:
    """Stop a server; return when its processes are gone and its port is free."""
    config, begun = server_config(config_file, flags), time.monotonic()
    # Taken before the answer: the process that answers could put another folder in this place.
    owner = folder_owner(config)
    processes, promised = _begin_stop(config, ANSWER_TIMEOUT if timeout is None else timeout, owner)
    timeout = promised + STOP_MARGIN if timeout is None else timeout
    deadline = begun + timeout
    if not _wait_for_end(processes, deadline):
        if not kill:
            raise _not_ended(config, processes, timeout)
        _kill(config, processes, owner)
    click.echo(f'mpchat "{config.name}" has stopped (pid {processes[0].pid})')


def _begin_stop(config: Config, timeout: float, owner: int | None) -> tuple[list[Identity], float]:
    """Ask the server to stop, by a signal if it does not answer.

    Return its processes, the supervisor first, and the seconds that it takes at most. ``owner`` is the user
    id of the owner of the instance's folder.
    """
    try:
        answer = ask(config, requests.Stop(), min(ANSWER_TIMEOUT, max(timeout, 0.1)))
        stopping = result_as(answer, Stopping)
        # The server's own setting, not that of this command; an older server does not send it.
        promised = config.stop_timeout if stopping.timeout is None else stopping.timeout
        return stopping.processes, promised
    except TimedOutError:
        record = living_record(config)
        if record is None:
            raise
    if (supervisor := _process_of(owner, record.supervisor)) is not None:
        with suppress(psutil.NoSuchProcess):
            supervisor.terminate()
    return [record.supervisor, *record.workers], config.stop_timeout


def _wait_for_end(processes: list[Identity], deadline: float) -> bool:
    """Wait until the processes have ended. A zombie has ended: its parent may collect it late or never."""
    while any(each.process() for each in processes):
        if time.monotonic() >= deadline:
            return False
        time.sleep(END_POLL)
    return True


def _not_ended(config: Config, processes: list[Identity], timeout: float) -> TimedOutError:
    pids = ", ".join(str(each.pid) for each in processes if each.process())
    return TimedOutError(
        f'"{config.name}" has not ended within {timeout:g} s (pid {pids}); it goes on stopping; '
        f"end it at once with: mpchat stop --kill --timeout 0{addressing(config)}"
    )


def _kill(config: Config, processes: list[Identity], owner: int | None) -> None:
    # All are checked first: a process of another user makes the whole list doubtful.
    for process in [_process_of(owner, each) for each in processes]:
        # A process may end between the check of its identity and the signal.
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    if not _wait_for_end(processes, time.monotonic() + KILL_TIMEOUT):
        raise TimedOutError(f'"{config.name}" has not ended {KILL_TIMEOUT:g} s after it was killed')


def _process_of(owner: int | None, identity: Identity) -> psutil.Process | None:
    """Return a process that may get a signal, or None if it has ended.

    Raise :class:`MpchatError` for a process of a user other than ``owner``. The owner of an instance's folder
    decides which processes its record and its answers name, and a signal of root reaches any process.
    """
    process = identity.process()
    if process is None:
        return None
    try:
        uid = process.uids().real
    except psutil.NoSuchProcess:
        return None
    if uid == owner:
        return process
    folder = "was missing" if owner is None else f"belongs to {user_name(owner)}"
    raise MpchatError(
        f"process {identity.pid} of {user_name(uid)} got no signal: the server's folder {folder}; "
        f"look at the process with: ps -fp {identity.pid}"
    )
