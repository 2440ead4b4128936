"""Generate the manual's pages that follow from the code's tables: ``python -m scripts.manual``.

Writes the pages on settings, commands, logs and metrics into ``mpchat/manual``. A test compares them with
what this generates, so a new setting, option or metric cannot be forgotten.
"""

from pathlib import Path

import click

from mpchat.cli.commands import main as mpchat_command
from mpchat.cli.options import shown
from mpchat.config import BY_NAME, FIXED, FIXED_IN_CLUSTER, SETTINGS, Setting
from mpchat.errors import EXIT_MEANINGS
from scripts.log_page import logs_page
from scripts.metrics_page import metrics_page

MANUAL = Path(__file__).resolve().parents[1] / "mpchat" / "manual"
# Units of a default's size and duration, largest first.
SIZES = ((1 << 20, "MiB"), (1 << 10, "KiB"))
DURATIONS = ((3600.0, "h"), (1.0, "s"), (0.001, "ms"))

SETTINGS_TEXT = """\
# Settings

Every setting, where settings are read from, and which place decides.

A setting can stand in three places. The first place that has it decides:

1. a flag of the command, such as `--max-per-address 100`;
2. the settings file: `--config FILE`, or else `mpchat.toml` in the current folder, or else `mpchat.toml` in
   the user's configuration folder;
3. the environment: `MPCHAT_` and the name in capitals, such as `MPCHAT_MAX_PER_ADDRESS=100`.

`mpchat config` shows all settings in force, where each came from, and which settings file was read.
`mpchat start` names the file too. `mpchat config --check FILE` checks a file.

A settings file is TOML in UTF-8. In a path, `~` stands for the home directory. A path that is not UTF-8 is
rejected. A `mpchat.toml` in the current folder is rejected when another user owns it or may write it: see
[security](security.md).

Sizes take `k`, `M` and `G`. Durations take `ms`, `s`, `m` and `h`, and are seconds without a unit.

```toml
# mpchat.toml
host = ["127.0.0.1", "::1"]
workers = 4
max_per_address = 100
idle_timeout = "1h"
notices = "off"
```

A running server follows a changed setting after `mpchat reload`, except {fixed}.
A host of a cluster does not follow a changed {fixed_in_cluster} either: see [hosts](hosts.md).
Commands to a running server need only its name and folder: a mistake elsewhere in the file does not keep
them from the server.

| setting | default | what it does, and what is allowed |
|---|---|---|
{rows}
"""

COMMANDS_TEXT = """\
# Commands

Every command with its options, and the exit codes.

`mpchat COMMAND --help` shows the same texts. An error is one line on standard error.

{commands}

## Options that find a server

All commands to a running server take these. The defaults find the server that `mpchat start` starts from the
same folder. A server that was started with these options is found with the same ones.

{addressing}

## Exit codes

| exit code | meaning |
|---|---|
{exits}
"""
# Options that are described once, for all commands that have them.
ADDRESSING = ("config_file", "name", "runtime_dir")


def settings_page() -> str:
    """Return the page on settings."""
    fixed = [f"`{name}`" for name in FIXED]
    return SETTINGS_TEXT.format(
        fixed=f"{', '.join(fixed[:-1])} and {fixed[-1]}",
        fixed_in_cluster=" or ".join(f"`{name}`" for name in FIXED_IN_CLUSTER),
        rows="\n".join(map(_setting_row, SETTINGS)),
    )


def _setting_row(setting: Setting) -> str:
    default = f"`{readable_default(setting)}`" if setting.default != "" else ""
    return f"| `{setting.name}` | {default} | {setting.help} Allowed: {setting.allowed}. |"


def readable_default(setting: Setting) -> str:
    """Return the default as people write it: with a unit where it is a size or a duration."""
    default = setting.default
    if isinstance(default, float):
        return with_unit(default, DURATIONS)
    return (
        with_unit(default, SIZES) if isinstance(default, int) and "iB" in setting.allowed else shown(default)
    )


def with_unit(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """Return ``value`` in the largest of ``units`` that it is a whole number of."""
    for size, unit in units:
        count = value / size
        if value and abs(count - round(count)) < 1e-9:
            return f"{round(count)} {unit}"
    return f"{value:g}"


def commands_page() -> str:
    """Return the page on commands."""
    commands = mpchat_command.commands.values()
    exits = [f"| {int(code)} | {meaning} |" for code, meaning in EXIT_MEANINGS.items()]
    find = {each.name: each for each in mpchat_command.commands["stop"].params}
    return COMMANDS_TEXT.format(
        commands="\n\n".join(map(_command_text, commands)),
        addressing=_options_table([find[name] for name in ADDRESSING]),
        exits="\n".join(exits),
    )


def _command_text(command: click.Command, parent: str = "mpchat", level: str = "##") -> str:
    names = {each.name for each in command.params}
    every_setting = set(BY_NAME) <= names
    once = set(ADDRESSING) if "config_file" in names else set()
    if every_setting:
        once = {*BY_NAME, "config_file"}
    own = [each for each in command.params if isinstance(each, click.Option) and each.name not in once]
    title = f"{parent} {command.name}"
    parts = [f"{level} {title}", f"`{_usage(command, title)}`", _paragraphs(command.help or "")]
    if every_setting:
        parts.append("Every setting is an option too, such as `--port 5000`: see [settings](settings.md).")
    if own:
        parts.append(_options_table(own))
    if isinstance(command, click.Group):
        parts += [_command_text(each, title, level + "#") for each in command.commands.values()]
    return "\n\n".join(parts)


def _usage(command: click.Command, title: str) -> str:
    with click.Context(command, info_name=title) as context:
        return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(each.split()) for each in text.split("\n\n"))


def _options_table(options: list[click.Parameter] | list[click.Option]) -> str:
    rows = ["| option | what it does |", "|---|---|"]
    for option in options:
        assert isinstance(option, click.Option)
        value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
        rows.append(f"| `{option.opts[0]}{value}` | {option.help} |")
    return "\n".join(rows)


PAGES = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "logs.md": logs_page,
    "metrics.md": metrics_page,
}


def main() -> None:
    """Write these pages."""
    for name, generate in PAGES.items():
        (MANUAL / name).write_text(generate(), encoding="utf-8")
        print(f"wrote {MANUAL / name}")


if __name__ == "__main__":
    main()
