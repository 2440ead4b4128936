"""The command ``mpchat``: reads settings, talks to servers through their control socket, shows what they say.

Every error ends as one line on standard error and one of the fixed exit codes (:class:`mpchat.errors.Exit`).
Nothing here touches a lock.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil

from mpchat import __version__
from mpchat.cli import launch
from mpchat.config import BY_NAME, SETTINGS, Config, default_workers, parse_duration, resolve
from mpchat.control import requests
from mpchat.control.client import ReceivedAnswer, ask
from mpchat.control.requests import Request
from mpchat.errors import (
    AlreadyRunningError,
    ConfigError,
    Exit,
    MpchatError,
    NotRunningError,
    StartError,
    TimedOutError,
)
from mpchat.instance.paths import Paths, option_text
from mpchat.instance.paths import paths as instance_paths
from mpchat.instance.record import Identity, Record, is_server, read_record
from mpchat.settings import FILE_NAME, Sources, absolute, current_folder, read_file
from mpchat.supervisor.startup import LOOPBACK, start_text

# Seconds that a server gets to answer a command that it answers from memory.
ANSWER_TIMEOUT = 5.0
# Seconds that a server may be silent while it changes its workers: a new one gets 30 to be ready.
CHANGE_SILENCE = 40.0
# Seconds beyond the server's own deadline that ``stop`` waits before it says that it took too long.
STOP_MARGIN = 5.0
# Seconds that killed processes get to be gone.
KILL_TIMEOUT = 5.0
# Seconds between two looks at whether a server's processes have ended.
END_POLL = 0.02
# Seconds between two pictures of ``status --watch``.
WATCH_EVERY = 1.0
# What a server's refusal is raised as here.
_BY_EXIT = {
    each.exit_code: each
    for each in (ConfigError, NotRunningError, AlreadyRunningError, StartError, TimedOutError)
}

Command = Callable[..., Any]
OnProgress = Callable[[dict[str, Any]], None]


class _Commands(click.Group):
    """Turns this package's errors into a line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _open_standard_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # what the terminal cannot show is escaped, not an error
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except MpchatError as error:
            click.echo(f"mpchat: {error}", err=True)
            context.exit(error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has seen enough; click ends quietly
                raise
            click.echo(f"mpchat: {_os_error_text(error)}", err=True)
            _drop_output()
            context.exit(Exit.FAILED)


def _open_standard_streams() -> None:
    """Give a descriptor to each closed standard stream: the next pipe would take its number, and a server
    that is started would then lose it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _os_error_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror or error}"


def _drop_output() -> None:
    """What cannot be written (a full disk) would be tried again, and told again, at the end."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)


def _setting_option(name: str) -> Callable[[Command], Command]:
    setting = BY_NAME[name]
    default = _shown(setting.default)
    text = f"{setting.help} [{setting.allowed}" + (f"; default {default}]" if default else "]")
    return click.option(setting.flag, name, metavar="VALUE", help=text)


def _options(*names: str) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = _setting_option(name)(command)
        return click.option(
            "--config", "config_file", metavar="FILE", help=f"Settings; else {FILE_NAME} here or of the user."
        )(command)

    return decorate


_addressed = _options("name", "runtime_dir")


def _settings(config_file: str | None, flags: dict[str, Any]) -> tuple[Config, dict[str, str]]:
    return Sources.of_command(config_file, flags).read(os.environ)


def _server(config_file: str | None, flags: dict[str, Any]) -> Config:
    """Return where a running server is found: a mistake in its settings must not keep it from being asked."""
    return Sources.of_command(config_file, flags).read_address(os.environ)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpchat")
def main() -> None:
    """A multi-process TCP chat server: one instance, every core, one order.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 not running, 4 already running, 5 did not start or reload, 6 timed
    out.
    """


@main.command()
@_options(*BY_NAME)
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to standard error.")
def start(config_file: str | None, foreground: bool, **flags: Any) -> None:
    """Start a server; return when every worker can serve."""
    sources = Sources.of_command(config_file, flags, foreground=foreground)
    config = sources.ready_to_run(sources.read(os.environ)[0])
    if foreground:
        launch.in_foreground(config, sources)
    click.echo(start_text(config, launch.in_background(config, sources)))


@main.command()
@_addressed
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.0),
    metavar="S",
    help=f"Seconds to wait for the end; else stop_timeout and {STOP_MARGIN:g}.",
)
@click.option("--kill", is_flag=True, help="End what is still there after the timeout.")
def stop(config_file: str | None, timeout: float | None, kill: bool, **flags: Any) -> None:
    """Stop a server; return when its processes are gone and its port is free."""
    config = _server(config_file, flags)
    timeout = config.stop_timeout + STOP_MARGIN if timeout is None else timeout
    deadline = time.monotonic() + timeout
    processes = _begin_stop(config, timeout)
    if not _wait_for_end(processes, deadline):
        if not kill:
            pids = ", ".join(str(each.pid) for each in processes if each.process())
            raise TimedOutError(
                f'"{config.name}" has not ended within {timeout:g} s (pid {pids}); it goes on stopping; '
                f"end it at once with: mpchat stop --kill --timeout 0{_addressing(config)}"
            )
        for identity in processes:
            if (process := identity.process()) is not None:
                process.kill()
        if not _wait_for_end(processes, time.monotonic() + KILL_TIMEOUT):
            raise TimedOutError(f'"{config.name}" has not ended {KILL_TIMEOUT:g} s after it was killed')
    click.echo(f'mpchat "{config.name}" has stopped (pid {processes[0].pid})')


def _addressing(config: Config) -> str:
    return option_text(config.name, config.runtime_dir)


def _not_running(config: Config) -> NotRunningError:
    return NotRunningError(
        f'mpchat "{config.name}" is not running; start it with: mpchat start{_addressing(config)}'
    )


def _begin_stop(config: Config, timeout: float) -> list[Identity]:
    """Ask the server to stop, by signal if it cannot be asked; returns its processes, supervisor first."""
    try:
        answer = _ask(config, requests.Stop(), min(ANSWER_TIMEOUT, max(timeout, 0.1)))
        return [Identity(*each) for each in answer.result["processes"]]
    except TimedOutError:
        record = _living_record(config)
        if record is None:
            raise
    with suppress(psutil.NoSuchProcess):
        psutil.Process(record.supervisor.pid).terminate()
    return [record.supervisor, *record.workers]


def _living_record(config: Config) -> Record | None:
    """Return the record if the server that wrote it lives: not a reused number, not another program."""
    record = read_record(_paths(config).record)
    return record if record is not None and is_server(record.supervisor) else None


def _wait_for_end(processes: list[Identity], deadline: float) -> bool:
    """Wait until the processes have ended. A zombie has: whoever adopted it may collect it late or never."""
    while any(each.process() for each in processes):
        if time.monotonic() >= deadline:
            return False
        time.sleep(END_POLL)
    return True


def _paths(config: Config) -> Paths:
    return instance_paths(config.name, absolute(config.runtime_dir, current_folder()))


def _ask(config: Config, request: Request, timeout: float = ANSWER_TIMEOUT) -> ReceivedAnswer:
    """Ask the server; its refusal becomes an error with its exit code."""
    answer = _answer(config, request, timeout)
    if answer.exit:
        raise _refusal(answer)
    return answer


def _refusal(answer: ReceivedAnswer) -> MpchatError:
    return _BY_EXIT.get(Exit(answer.exit), MpchatError)(answer.text)


def _answer(
    config: Config, request: Request, timeout: float, on_progress: OnProgress | None = None
) -> ReceivedAnswer:
    """Ask the server and return what it says, be it a refusal."""
    try:
        return ask(_paths(config).control, request, timeout, on_progress)
    except NotRunningError:
        if (record := _living_record(config)) is None:
            raise _not_running(config) from None
        raise TimedOutError(
            f'mpchat "{config.name}" (pid {record.supervisor.pid}) does not answer: it is starting or '
            "ending, or its control socket was removed and is back in a moment; try again"
        ) from None
    except TimedOutError as error:
        record = _living_record(config)
        pid = f" (pid {record.supervisor.pid})" if record else ""
        raise TimedOutError(
            f'mpchat "{config.name}"{pid} hangs: {error}; '
            f"end it with: mpchat stop --kill{_addressing(config)}"
        ) from None


_as_json = click.option(
    "--json", "as_json", is_flag=True, help="For programs: times in seconds, sizes in bytes."
)


@main.command()
@_addressed
@_as_json
def reload(config_file: str | None, as_json: bool, **flags: Any) -> None:
    """Read the settings again and replace every worker; clients stay connected.

    Wrong settings change nothing. FILE only tells which server: it reads what it was started with.
    """
    from mpchat.cli.display import reload_text

    # The server says what is wrong with its settings.
    config = _server(config_file, flags)
    answer = _change(config, requests.Reload())
    text = reload_text(config.name, answer.result, done=not answer.exit)
    # One that nothing came of is one line: why.
    came_of_it = not answer.exit or any(answer.result.get(each) for each in ("renewed", "moved", "lost"))
    _print_change(answer, as_json, text if came_of_it else "")


@main.command()
@click.argument("number", metavar="N", type=click.IntRange(1, 256))
@_addressed
@_as_json
def scale(number: int, config_file: str | None, as_json: bool, **flags: Any) -> None:
    """Change the number of workers to N, 1 to 256; clients stay connected."""
    from mpchat.cli.display import scale_text

    config = _server(config_file, flags)
    answer = _change(config, requests.Scale(number))
    _print_change(answer, as_json, scale_text(config.name, answer.result))


def _change(config: Config, request: Request) -> ReceivedAnswer:
    """Ask for something that takes long, and show people how far it is."""
    try:
        return _watch_change(config, request)
    except KeyboardInterrupt:
        raise MpchatError(
            f"no longer waited for: the server goes on with it; see: mpchat status{_addressing(config)}"
        ) from None


def _watch_change(config: Config, request: Request) -> ReceivedAnswer:
    if sys.stderr is None or not sys.stderr.isatty():
        return _answer(config, request, CHANGE_SILENCE)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from mpchat.cli.display import progress_text

    description = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True)
    with Progress(BarColumn(), MofNCompleteColumn(), description, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(facts: dict[str, Any]) -> None:
            text = progress_text(facts)
            bar.update(task, description=text, completed=facts.get("done", 0), total=facts.get("workers"))

        return _answer(config, request, CHANGE_SILENCE, show)


def _print_change(answer: ReceivedAnswer, as_json: bool, text: str) -> None:
    """Say what was done, also when that is not all; then the refusal."""
    if answer.result and (as_json or text):
        click.echo(msgspec.json.encode(answer.result).decode() if as_json else text)
    if answer.exit:
        raise _refusal(answer)


@main.command()
@_addressed
@_as_json
@click.option("--watch", is_flag=True, help="Go on, a new picture every second, until Ctrl-C.")
def status(config_file: str | None, as_json: bool, watch: bool, **flags: Any) -> None:
    """Show a running server and its workers."""
    config = _server(config_file, flags)
    if not watch:
        _print_status(config, as_json=as_json)
        return
    with suppress(KeyboardInterrupt):
        if not as_json:
            _watch(config)
        while True:
            _print_status(config, as_json=True)
            time.sleep(WATCH_EVERY)


def _print_status(config: Config, *, as_json: bool) -> None:
    facts = _ask(config, requests.Status()).result
    if as_json:
        click.echo(msgspec.json.encode(facts).decode())
        return
    from rich.console import Console

    from mpchat.cli.display import status_picture

    console = Console(highlight=False)
    console.print(status_picture(facts, console.width))


def _watch(config: Config) -> None:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from mpchat.cli.display import status_picture

    console = Console(highlight=False)

    def picture() -> RenderableType:
        return status_picture(_ask(config, requests.Status()).result, console.width)

    first = picture()
    with Live(first, console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            if live is None:  # a file or a pipe: one picture after the other
                console.print(first)
            time.sleep(WATCH_EVERY)
            first = picture()
            if live is not None:
                live.update(first, refresh=True)


_PORT = click.IntRange(1, 65_535)


def _where(host: str, port: int | None) -> tuple[str, int]:
    """Return the address that ``HOST``, ``HOST:PORT`` or ``[HOST]:PORT`` is, as the commands write it, and a
    port in a word of its own. An IPv6 address without brackets has no port."""
    before, colon, after = host.rpartition(":")
    if colon and (":" not in before or (before.startswith("[") and before.endswith("]"))):
        if port is not None:
            raise click.UsageError(f"{host} has a port already; {port} is one more")
        host, port = before, int(_PORT(after))
    host = host.removeprefix("[").removesuffix("]")
    return host or "127.0.0.1", port or BY_NAME["port"].default


def _own_server() -> tuple[str, int]:
    """Return where the server listens that ``mpchat start`` starts from here, or has started."""
    config = _server(None, {})
    record = read_record(instance_paths(config.name, config.runtime_dir).record)
    if record is not None and is_server(record.supervisor):
        host, port = _where(record.addresses[0], None)
    else:
        host, port = config.host[0], config.port or BY_NAME["port"].default
    return LOOPBACK.get(host, host), port


@main.command()
@click.argument("host", required=False)
@click.argument("port", required=False, type=_PORT)
@click.option("--name", metavar="NAME", help="Who you are; else you have no name, and see none.")
@click.option("--room", metavar="ROOM", help="The room to begin in, with --name; else lobby.")
@click.option("--plain", is_flag=True, help="Lines from standard input, messages to standard output.")
def chat(host: str | None, port: int | None, name: str | None, room: str | None, plain: bool) -> None:
    """Chat with the server at HOST PORT, or HOST:PORT; else the one started from here."""
    from mpchat.client.conversation import DEFAULT_ROOM
    from mpchat.client.terminal import run_chat

    if room is not None and name is None:
        raise click.UsageError("--room needs --name: who has no name is in no room of that kind")
    address = _own_server() if host is None else _where(host, port)
    sys.exit(run_chat(*address, plain=plain, name=name, room=room or DEFAULT_ROOM))


@main.command()
@click.argument("text")
@_addressed
def say(text: str, config_file: str | None, **flags: Any) -> None:
    """Announce TEXT to everybody."""
    config = _server(config_file, flags)
    answer = _ask(config, requests.Say(text))
    count = answer.result["connections"]
    click.echo(f"said to {count} client{'s' if count != 1 else ''}")


@main.command()
@click.argument("target", metavar="NAME-or-ADDRESS")
@_addressed
def kick(target: str, config_file: str | None, **flags: Any) -> None:
    """End the connection of a person, of host:port, or all of a host.

    Who was kicked may come back, and mpchat's own client does so by itself; see ban.
    """
    config = _server(config_file, flags)
    ended = _ended(_ask(config, requests.Kick(target)).result)
    if not ended:
        raise MpchatError(
            f"nobody is called {target} or connected from there; allowed: a name, host:port or host"
        )
    click.echo(f"{_connections(ended)} ended")


def _ended(result: dict[str, Any]) -> int:
    """How many connections were ended; a worker that has not said is an error."""
    if result["silent"]:
        slots = ", ".join(map(str, result["silent"]))
        raise TimedOutError(f"{_connections(result['ended'])} ended; no answer from worker {slots}")
    return int(result["ended"])


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count != 1 else ''}"


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(str(value))
        except ValueError:
            self.fail(f"{value!r} is no duration; allowed: 1s to ten years, with ms, s, m or h", param, ctx)


_for = click.option("--for", "seconds", type=_Duration(), help="For how long, like 90s or 1h; else for good.")


@main.command()
@click.argument("target", metavar="NAME-or-ADDRESS")
@_addressed
@_for
def ban(target: str, config_file: str | None, seconds: float | None, **flags: Any) -> None:
    """Let a name or an address in no more, and end its connections.

    Of an address host:port all of the host is banned.
    """
    config = _server(config_file, flags)
    result = _ask(config, requests.Ban(target, seconds)).result
    how_long = f"for {_shown(seconds)} s" if seconds is not None else "for good"
    # Of host:port all of the host is banned, and that is what it should say.
    click.echo(f"{result.get('target', target)} is banned {how_long}; {_connections(_ended(result))} ended")


@main.command()
@click.argument("target", metavar="NAME")
@_addressed
@_for
def mute(target: str, config_file: str | None, seconds: float | None, **flags: Any) -> None:
    """Let nobody get what a person says."""
    config = _server(config_file, flags)
    result = _ask(config, requests.Mute(target, seconds)).result
    how_long = f"for {_shown(seconds)} s" if seconds is not None else "for good"
    here = "" if result["here"] else ", and not here now"
    click.echo(f"{result['name']} is muted {how_long}{here}")


@main.command()
@click.argument("target", metavar="NAME-or-ADDRESS")
@_addressed
def unban(target: str, config_file: str | None, **flags: Any) -> None:
    """End a ban."""
    config = _server(config_file, flags)
    _ask(config, requests.Lift("bans", target))
    click.echo(f"{target} is banned no more")


@main.command()
@click.argument("target", metavar="NAME")
@_addressed
def unmute(target: str, config_file: str | None, **flags: Any) -> None:
    """Let everybody hear a person again."""
    config = _server(config_file, flags)
    _ask(config, requests.Lift("mutes", target))
    click.echo(f"{target} is muted no more")


@main.command()
@_addressed
@_as_json
def bans(config_file: str | None, as_json: bool, **flags: Any) -> None:
    """Show who is banned or muted, and until when."""
    config = _server(config_file, flags)
    found = _ask(config, requests.Bans()).result
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    from mpchat.cli.display import bans_text

    click.echo(bans_text(found))


@main.command("config")
@_options(*BY_NAME)
@click.option("--check", metavar="FILE", help="Only tell whether FILE is right.")
def show_config(config_file: str | None, check: str | None, **flags: Any) -> None:
    """Show the settings in force and where each came from."""
    if check:
        resolve([read_file(check, str(Path(check)))])
        click.echo(f"{check} is right")
        return
    config, places = _settings(config_file, flags)
    from rich.console import Console

    from mpchat.cli.display import config_picture

    rows = [(each.name, _shown(getattr(config, each.name)), places[each.name]) for each in SETTINGS]
    cores = os.cpu_count() or 1
    Console(highlight=False).print(config_picture(rows))
    if not config.workers:
        click.echo(f"workers = 0 means {default_workers(cores)} here, with {cores} cores")


if __name__ == "__main__":
    sys.exit(Exit.OK if main() is None else Exit.FAILED)
