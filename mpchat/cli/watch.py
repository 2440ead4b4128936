"""``mpchat status --watch``: asks each second and draws, on a terminal or line by line.

On a terminal it has the whole screen while it runs, and keys: q ends it. A resize draws at once; a stop
(Ctrl-Z) and each kind of end leave the terminal as it was. A server that does not answer is waited for.
"""

import time
from contextlib import suppress

from rich.console import Console, RenderableType

from mpchat.cli.display import status_picture
from mpchat.cli.running import ask
from mpchat.cli.terminal_screen import TerminalScreen
from mpchat.cli.trend import Trend
from mpchat.cli.watch_picture import Canvas, watch_picture
from mpchat.config import Config
from mpchat.control import requests
from mpchat.control.answers import ServerStatus
from mpchat.control.client import result_as
from mpchat.errors import MpchatError

# Seconds between two questions, and for an answer.
EVERY = 1.0
TIMEOUT = 2.0
# Lines of a terminal that are left free below the last picture.
PROMPT = 3


def watch(config: Config) -> None:
    """Show a server until the user ends it. Raise :class:`MpchatError` if it does not answer at first."""
    console = Console(highlight=False)
    trend = Trend()
    trend.take(_ask(config), time.time())
    if console.is_terminal and not console.is_dumb_terminal:
        with suppress(KeyboardInterrupt):
            _draw_until_ended(config, console, trend)
        # What stays on the terminal, with room for the shell's next lines.
        console.print(_picture(trend, console, console.height - PROMPT))
    else:
        _print_for_ever(config, console, trend)


def _ask(config: Config) -> ServerStatus:
    return result_as(ask(config, requests.Status(), TIMEOUT), ServerStatus)


def _look(config: Config, trend: Trend) -> None:
    try:
        trend.take(_ask(config), time.time())
    except MpchatError as error:
        trend.lose(str(error), time.time())


def _picture(trend: Trend, console: Console, height: int, hint: str = "") -> RenderableType:
    canvas = Canvas(console.width, height, console.encoding.startswith("utf"))
    return watch_picture(trend, time.time(), canvas, hint)


def _draw_until_ended(config: Config, console: Console, trend: Trend) -> None:
    with TerminalScreen(console) as screen:
        hint = "q quits" if screen.has_keys else "Ctrl-C quits"
        due = time.monotonic() + EVERY
        while True:
            screen.draw(_picture(trend, console, console.height, hint))
            if screen.wait(due - time.monotonic()) == "q":
                break
            if time.monotonic() >= due:
                _look(config, trend)
                due = time.monotonic() + EVERY


def _print_for_ever(config: Config, console: Console, trend: Trend) -> None:
    """Print one plain status after the other; once, that there is no answer."""
    silent = False
    while True:
        if trend.status is not None and trend.lost_at is None:
            console.print(status_picture(trend.status, console.width))
            silent = False
        elif not silent:
            clock = time.strftime("%H:%M:%S")
            console.print(f"{clock} no answer, asked again each second: {trend.why}", markup=False)
            silent = True
        time.sleep(EVERY)
        _look(config, trend)
