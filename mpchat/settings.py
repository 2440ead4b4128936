"""Sources: where a server's settings come from, remembered from its start so that they can be read again.

What the settings mean is :mod:`mpchat.config`'s. This reads: the file, and the place that paths lead from.
A running server stands in another folder than whoever started it, and must never wait for a file; so
:class:`Sources` holds absolute places, and :meth:`Sources.read_again` takes plain files only.
"""

import os
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import platformdirs

from mpchat.config import BY_NAME, Config, Origin, parse_environment, parse_file, resolve
from mpchat.errors import ConfigError
from mpchat.instance.paths import paths as instance_paths
from mpchat.multiplexer import make_selector

FILE_NAME = "mpchat.toml"
# Bytes of a settings file; all settings at their longest take a fraction of it.
FILE_LIMIT = 64 << 10
# What tells one instance from another.
_ADDRESS = ("name", "runtime_dir")


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """What a start was told about its settings: all that a later reading needs besides the environment."""

    # The flags that were given, by the setting's name, as they were typed.
    flags: dict[str, str] = {}
    # Absolute paths of the settings file: the named one, else the default places, the first that is there
    # counts. None may have been there at the start, and one at a reload.
    files: tuple[str, ...] = ()
    # What --config said, as it was typed; empty: nothing. A named file must be there.
    named: str = ""
    # The folder of whoever started it, where relative paths lead from; empty: it was removed.
    folder: str = ""
    # A server in the foreground logs to standard error unless told otherwise.
    foreground: bool = False

    @classmethod
    def of_command(
        cls, config_file: str | None, flags: Mapping[str, str | None], *, foreground: bool = False
    ) -> "Sources":
        """Remember what a command was given; a flag that is None was not."""
        folder = current_folder()
        return cls(
            flags={name: value for name, value in flags.items() if value is not None},
            files=(str(folder / Path(config_file)),) if config_file else _default_files(folder),
            named=config_file or "",
            folder=folder,
            foreground=foreground,
        )

    def read(self, environment: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
        """Return the settings as they are written, and where each came from.

        Flags go before the file, the file before the environment. Raises :class:`ConfigError`.
        """
        return resolve([self._given(), self._read_file(), parse_environment(environment)])

    def read_again(self, environment: Mapping[str, str], running: Config | None = None) -> Config:
        """Return the settings as they are now, ready to run, for a server that already serves.

        With ``running``, its settings so far, a log that nobody names lies where its other files are, also
        when the settings name another place by now. Does not wait, whatever lies at the file's path.

        Raises :class:`ConfigError`, whose text names the file by its absolute path.
        """
        sources = [self._given(), self._read_file(again=True), parse_environment(environment)]
        return self.ready_to_run(resolve(sources)[0], running)

    def read_address(self, environment: Mapping[str, str]) -> Config:
        """Return a Config of which only ``name`` and ``runtime_dir`` count: where a running server is found.

        For commands that must reach the server although its settings are wrong by now. Raises
        :class:`ConfigError` where what is wrong may be just these two: a command that ends something must not
        take another server for the one that is meant.
        """
        with suppress(ConfigError):
            return self.read(environment)[0]
        given = self._given()
        resolve([given])
        unsaid = [name for name in _ADDRESS if name not in given]
        try:
            # Again: from a pipe all has been read, and what it said of these is gone.
            file = self._read_file(again=True, only=unsaid) if unsaid else {}
            variables = {
                name: each for name, each in parse_environment(environment).items() if name in unsaid
            }
            return resolve([given, file, variables])[0]
        except ConfigError as error:
            flags = " and ".join(BY_NAME[name].flag for name in unsaid)
            raise ConfigError(f"{error}; or say which server is meant with {flags}") from None

    def ready_to_run(self, config: Config, running: Config | None = None) -> Config:
        """Fill in what depends on the place: absolute paths, and the log of a server in the background,
        which lies in its folder, or in that of the one that is ``running``.

        Raises :class:`ConfigError` for a path that leads nowhere and a multiplexer that this system lacks.
        """
        make_selector(config.multiplexer).close()
        runtime_dir = absolute(config.runtime_dir, self.folder)
        log_file = absolute(config.log_file, self.folder)
        if not log_file and not self.foreground:
            name, folder = (running.name, running.runtime_dir) if running else (config.name, runtime_dir)
            log_file = str(instance_paths(name, folder).log)
        return msgspec.structs.replace(
            config,
            runtime_dir=runtime_dir,
            log_file=log_file,
            bans=absolute(config.bans, self.folder),
            history=absolute(config.history, self.folder),
        )

    def _given(self) -> dict[str, Origin]:
        return {name: Origin(value, f"flag {BY_NAME[name].flag}") for name, value in self.flags.items()}

    def _read_file(self, *, again: bool = False, only: Collection[str] | None = None) -> dict[str, Origin]:
        for path in self.files:
            if self.named:
                return read_file(path, path if again else str(Path(self.named)), again=again, only=only)
            with suppress(OSError):  # a folder that may not be looked into
                if stat.S_ISREG(os.stat(path).st_mode):
                    return read_file(path, path, again=again, only=only)
        return {}


def read_file(
    path: str, called: str, *, again: bool = False, only: Collection[str] | None = None
) -> dict[str, Origin]:
    """Return what a settings file sets, or what it says of the settings ``only``; errors name it ``called``.

    ``again``: plain files only, and without waiting. A pipe that a shell made for the start is gone, and its
    number in /dev/fd is another descriptor by now. Raises :class:`ConfigError`.
    """
    try:
        with open(path, "rb", opener=_open_at_once if again else None) as stream:
            if again and not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ConfigError(f"{called}: not a plain file, so it cannot be read again")
            data = stream.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {called}: {error.strerror}") from None
    if len(data) > FILE_LIMIT:
        raise ConfigError(f"{called}: longer than {FILE_LIMIT} bytes, so it holds more than settings")
    try:
        return parse_file(data.decode(errors="strict" if only is None else "replace"), called, only)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{called}: not UTF-8 at byte {error.start}") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def current_folder() -> str:
    """Return the current folder; empty when it was removed."""
    with suppress(OSError):
        return os.getcwd()
    return ""


def _default_files(folder: str) -> tuple[str, ...]:
    found = [os.path.join(folder, FILE_NAME)] if folder else []
    with suppress(OSError, RuntimeError):  # no home directory
        found.append(os.path.join(folder, platformdirs.user_config_path("mpchat"), FILE_NAME))
    return tuple(found)


def absolute(path: str, folder: str) -> str:
    """Return where ``path`` leads from ``folder``, "" for "". Raises :class:`ConfigError` for nowhere."""
    if not path:
        return ""
    try:
        whole = Path(path).expanduser()
    except RuntimeError as error:  # ~nobody
        raise _leads_nowhere(path, str(error).rstrip(".")) from None
    if not (folder or whole.is_absolute()):
        raise _leads_nowhere(path, "the current folder was removed")
    return str(folder / whole)


def _leads_nowhere(path: str, why: str) -> ConfigError:
    return ConfigError(f"{path!r} leads nowhere: {why}; allowed: a path that starts with /")
