"""``mpchat log``: the log of the running server, or of the last one, from its file.

The file is read from its end, so that a long log costs no more than what is shown.
"""

import json
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import IO, Any

import click
import msgspec

from mpchat.cli.options import settings_options
from mpchat.cli.running import ask, server_config
from mpchat.config import LOG_LEVELS, Config
from mpchat.control import requests
from mpchat.control.answers import ServerStatus
from mpchat.control.client import result_as
from mpchat.errors import MpchatError, NotRunningError, TimedOutError
from mpchat.instance.paths import paths as instance_paths
from mpchat.log_line import LogLine, as_object, as_text, read
from mpchat.settings import Sources, absolute, current_folder

# Lines that are shown without -n.
LINES = 20
# Seconds between two looks for further lines.
LOOK_EVERY = 0.2
# Bytes that are read at a time, from the end on.
_BLOCK = 64 << 10
# Looks at a log that was moved away after the next one is there: processes open it one after the other.
_LOOKS_AT_OLD = 5
# Bytes of a line without an end, after which it is taken for one: a file that is no log at all.
_LONGEST = 1 << 20


class Wanted(msgspec.Struct, frozen=True):
    """Which lines are shown, and how."""

    level: str = "debug"
    audit: bool = False
    as_json: bool = False

    def has(self, line: LogLine) -> bool:
        """Tell whether a line that begins an entry is shown."""
        return line.is_at_least(self.level) and (line.is_audit or not self.audit)

    def shown(self, raw: str) -> str:
        """Return a line as it is shown."""
        return json.dumps(as_object(raw)) if self.as_json else as_text(raw)


@click.command()
@settings_options("name", "runtime_dir", "log_file")
@click.option(
    "-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C, over log rotation too."
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=0),
    metavar="N",
    default=LINES,
    help=f"Show the last N lines; without it {LINES}.",
)
@click.option(
    "--level",
    type=click.Choice(LOG_LEVELS),
    metavar="LEVEL",
    default="debug",
    help=f"Show lines of this level or a worse one: {', '.join(LOG_LEVELS)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each line.")
@click.option("--audit", is_flag=True, help="Show the audit trail alone: what operators did.")
def log(config_file: str | None, follow: bool, count: int, **flags: Any) -> None:
    """Show the log of the running server, or of the last one.

    The lines are text also where the log is JSON. A stack counts as part of its line.
    """
    wanted = Wanted(flags.pop("level"), flags.pop("audit"), flags.pop("as_json"))
    path = _log_path(config_file, **flags)
    with closing(Tail(path, file := _opened(path))) as tail, suppress(KeyboardInterrupt):
        for raw in last_entries(file, count, wanted):
            click.echo(wanted.shown(raw))
        if follow:
            _follow(tail, wanted)


def _log_path(config_file: str | None, log_file: str | None, **flags: str | None) -> str:
    """Return the log's path: the running server knows it; that of the last one follows from the settings."""
    if log_file:
        return absolute(log_file, current_folder())
    config = server_config(config_file, flags)
    try:
        path = result_as(ask(config, requests.Status()), ServerStatus).log
    except (NotRunningError, TimedOutError):
        return _path_by_settings(config_file, flags, config)
    if not path:
        raise MpchatError(
            f'the log of mpchat "{config.name}" is its standard error, which is read where that leads, '
            "such as with journalctl; to have a file, start it with --log-file FILE"
        )
    return path


def _path_by_settings(config_file: str | None, flags: dict[str, str | None], config: Config) -> str:
    path = Sources.of_command(config_file, flags).read(os.environ)[0].log_file
    folder = current_folder()
    return absolute(path, folder) or str(
        instance_paths(config.name, absolute(config.runtime_dir, folder)).log
    )


def _opened(path: str) -> IO[bytes]:
    """Open the log. Raise :class:`MpchatError` if it is no file, or none that this user may read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise MpchatError(f"the log {path} is not a plain file; read it where it leads")
        return open(path, "rb")
    except FileNotFoundError:
        raise MpchatError(f"no log at {path}: no server has written it; see --name and --config") from None
    except OSError as error:
        raise MpchatError(f"cannot read the log {path}: {error.strerror}") from None


def last_entries(file: IO[bytes], count: int, wanted: Wanted) -> list[str]:
    """Return the last lines that are wanted, each with those that belong to it.

    Leave the file at the end of its last whole line.
    """
    end = _end_of_lines(file)
    found: deque[str] = deque()
    belonging: deque[str] = deque()
    entries = 0
    for raw in _lines_backwards(file, end):
        if entries == count:
            break
        line = read(raw)
        belonging.appendleft(raw)
        if line.begins:
            if wanted.has(line):
                found.extendleft(reversed(belonging))
                entries += 1
            belonging.clear()
    file.seek(end)
    return list(found)


def _end_of_lines(file: IO[bytes]) -> int:
    """Return the place after the last line end; 0 if there is none."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _lines_backwards(file: IO[bytes], end: int) -> Iterator[str]:
    """Yield the lines that end before ``end``, from the last to the first."""
    rest = b""
    end -= 1  # the last line end
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        rest, *lines = (file.read(end - begin) + rest).split(b"\n")
        yield from map(_decoded, reversed(lines))
        end = begin
    if rest:
        yield _decoded(rest)


class Tail:
    """Follows a log: its further lines, also when another file takes its place."""

    def __init__(self, path: str, file: IO[bytes]) -> None:
        """Go on where ``file``, which is the log at ``path`` now, was read to; this object closes it."""
        self._path = path
        self._file = file
        self._rest = b""
        # Looks in a row that found another file at the path, and nothing more in this one.
        self._done = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def look(self) -> list[str]:
        """Return the lines that have come since the last look, as far as a block goes."""
        data = self._file.read(_BLOCK)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            lines, self._rest = [*lines, self._rest], b""
        if not data:
            with suppress(FileNotFoundError):  # it was moved away, and the next one is not there yet
                self._follow_path()
        return [_decoded(each) for each in lines]

    def _follow_path(self) -> None:
        now, here = os.stat(self._path), os.fstat(self._file.fileno())
        if os.path.samestat(now, here):
            self._done = 0
            if here.st_size < self._file.tell():  # it was cut off, and begins anew
                self._file.seek(0)
            return
        self._done += 1
        if self._done == _LOOKS_AT_OLD:
            self._file.close()
            self._file, self._rest, self._done = _opened(self._path), b"", 0


def _follow(tail: Tail, wanted: Wanted) -> None:
    shows = False
    while True:
        lines = tail.look()
        for raw in lines:
            line = read(raw)
            shows = wanted.has(line) if line.begins else shows
            if shows:
                click.echo(wanted.shown(raw))
        if not lines:
            time.sleep(LOOK_EVERY)


def _decoded(line: bytes) -> str:
    return line.decode(errors="backslashreplace")
