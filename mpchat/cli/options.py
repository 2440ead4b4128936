"""Options that several commands share: settings as flags, durations, ``--json``.

Every setting's flag comes from the table in :mod:`mpchat.config`; nothing is declared twice.
"""

from collections.abc import Callable
from typing import Any

import click

from mpchat import hook_url
from mpchat.cli.candidates import files, of_setting
from mpchat.cluster_url import without_password
from mpchat.config import BY_NAME, Config
from mpchat.setting_values import parse_duration
from mpchat.settings import FILE_NAME

Command = Callable[..., Any]


def shown(value: Any) -> str:
    """Return a setting's value as a user writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown_setting(config: Config, name: str) -> str:
    """Return a setting's value as a user writes it, with ``***`` for a password."""
    value = getattr(config, name)
    if name == "hook":
        return hook_url.without_secrets(value)
    return without_password(value) if name == "cluster" else shown(value)


def _setting_option(name: str) -> Callable[[Command], Command]:
    setting = BY_NAME[name]
    default = shown(setting.default)
    text = f"{setting.help} [{setting.allowed}" + (f"; default {default}]" if default else "]")
    offered = of_setting(setting)
    return click.option(setting.flag, name, metavar="VALUE", help=text, shell_complete=offered)


def settings_options(*names: str) -> Callable[[Command], Command]:
    """Give a command a flag for each of these settings, and ``--config``."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = _setting_option(name)(command)
        return click.option(
            "--config",
            "config_file",
            metavar="FILE",
            shell_complete=files,
            help=f"The settings file; without it {FILE_NAME} in this folder, or else the user's.",
        )(command)

    return decorate


# For a command to a running server: its name and folder are all that is needed to find it.
addressed = settings_options("name", "runtime_dir")
# For ``start`` and ``config``: every setting.
all_settings = settings_options(*BY_NAME)

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for programs: times in seconds, sizes in bytes."
)


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """A time such as ``90s`` or ``1h``, as seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or end the command with a usage error."""
        try:
            return parse_duration(str(value))
        except ValueError:
            self.fail(
                f"{value!r} is not a duration; allowed: 1s to ten years, with ms, s, m or h", param, ctx
            )
