"""Settings: where they are read from, at the start and again at a reload.

What settings mean is decided in :mod:`mpchat.config`; this module reads files and resolves relative paths. A
running server has another current folder than the command that started it, and must never wait for a file.
So :class:`Sources` holds absolute paths, and :meth:`Sources.read_again` reads plain files only.
"""

import codecs
import os
import socket
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import msgspec

from mpchat.config import (
    BY_NAME,
    Config,
    Origin,
    check_together,
    parse_environment,
    parse_file,
    resolve,
)
from mpchat.errors import ConfigError, StartError
from mpchat.instance.owners import check_trusted
from mpchat.instance.paths import paths as instance_paths
from mpchat.instance.paths import utf8_path
from mpchat.multiplexer import make_multiplexer
from mpchat.setting_values import FROM_ENVIRONMENT, host_name

FILE_NAME = "mpchat.toml"
# Bytes of a settings file; all settings at their longest take a fraction of that.
FILE_LIMIT = 64 << 10
# The settings that tell one instance from another.
_ADDRESS = ("name", "runtime_dir")


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server's settings come from: all that a later reading needs besides the environment."""

    # The flags that were given, by the setting's name, as they were typed.
    flags: dict[str, str] = {}
    # Absolute paths of the settings file: the named file, or the default places, of which the first that
    # exists counts. A file that did not exist at the start may exist at a reload.
    files: tuple[str, ...] = ()
    # The value of --config, as it was typed; empty: not given. A named file must exist.
    named: str = ""
    # The current folder of the command, which relative paths start from; empty: it was removed.
    folder: str = ""
    # A server in the foreground logs to standard error unless log_file is set.
    foreground: bool = False

    @classmethod
    def of_command(
        cls, config_file: str | None, flags: Mapping[str, str | None], *, foreground: bool = False
    ) -> "Sources":
        """Return the sources of a command; a flag that is None was not given."""
        folder = current_folder()
        return cls(
            flags={name: value for name, value in flags.items() if value is not None},
            files=(str(folder / Path(config_file)),) if config_file else _default_files(folder),
            named=config_file or "",
            folder=folder,
            foreground=foreground,
        )

    @property
    def file(self) -> str:
        """The path of the settings file that counts now; empty: there is none."""
        if self.named:
            return self.files[0]
        # A folder that this user may not search has none.
        return next((path for path in self.files if os.path.isfile(path)), "")

    def read(self, environment: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
        """Return the settings as they are written, and the source of each.

        Flags take precedence over the file, the file over the environment. Raise :class:`ConfigError`.
        """
        return resolve(self._all(self._read_file(), environment))

    def read_again(self, environment: Mapping[str, str], running: Config | None = None) -> Config:
        """Return the settings as they are now, ready to run, for a server that already serves.

        ``running`` are its settings so far: a default log stays with its other files, also when the settings
        name another folder by now. Never waits, whatever is at the file's path.

        Raise :class:`ConfigError`, whose text names the file by its absolute path.
        """
        sources = self._all(self._read_file(again=True), environment)
        return self.ready_to_run(resolve(sources)[0], running)

    def read_address(self, environment: Mapping[str, str]) -> Config:
        """Return a Config of which only ``name`` and ``runtime_dir`` count: they say where a server is found.

        Commands use it to reach a server although its other settings are wrong by now. Raise
        :class:`ConfigError` if the mistake may concern these two: ``stop`` must not end another server.
        """
        with suppress(ConfigError):
            return self.read(environment)[0]
        given = self._given()
        resolve([given])
        unsaid = [name for name in _ADDRESS if name not in given]
        try:
            # ``again``: a pipe has been read to its end, and its settings are lost.
            file = self._read_file(again=True, only=unsaid) if unsaid else {}
            variables = {
                name: each for name, each in parse_environment(environment).items() if name in unsaid
            }
            return resolve([given, file, variables])[0]
        except ConfigError as error:
            flags = " and ".join(BY_NAME[name].flag for name in unsaid)
            raise ConfigError(f"{error}; or say which server is meant with {flags}") from None

    def ready_to_run(self, config: Config, running: Config | None = None) -> Config:
        """Return the settings with absolute paths and, for a server in the background, with a log.

        The default log is in the instance's folder, or in that of the server that is ``running``.

        Raise :class:`ConfigError` for a path that leads nowhere, a multiplexer that this system lacks, and
        settings that do not go together.
        """
        make_multiplexer(config.multiplexer).close()
        check_together(config)
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
            tls_cert=absolute(config.tls_cert, self.folder),
            tls_key=absolute(config.tls_key, self.folder),
            accounts=absolute(config.accounts, self.folder),
            jwt_key=absolute_place(config.jwt_key, self.folder),
            secret=absolute_place(config.secret, self.folder),
            hook_secret=absolute_place(config.hook_secret, self.folder),
            cluster_password=absolute_place(config.cluster_password, self.folder),
            host_name=config.host_name or default_host_name(config.name),
        )

    def _all(self, file: dict[str, Origin], environment: Mapping[str, str]) -> list[dict[str, Origin]]:
        """Return all sources. A variable counts only where nothing else does: it may not be meant for mpchat.

        Kubernetes sets MPCHAT_PORT to the address of a service called "mpchat".
        """
        given = self._given()
        variables = parse_environment(environment)
        return [
            given,
            file,
            {name: variables[name] for name in variables.keys() - given.keys() - file.keys()},
        ]

    def _given(self) -> dict[str, Origin]:
        return {name: Origin(value, f"flag {BY_NAME[name].flag}") for name, value in self.flags.items()}

    def _read_file(self, *, again: bool = False, only: Collection[str] | None = None) -> dict[str, Origin]:
        path = self.file
        if not path:
            return {}
        if self.named:
            return read_file(path, path if again else str(Path(self.named)), again=again, only=only)
        found = os.path.dirname(path) == self.folder
        return read_file(path, path, again=again, only=only, found=found)


def read_file(
    path: str,
    called: str,
    *,
    again: bool = False,
    only: Collection[str] | None = None,
    found: bool = False,
) -> dict[str, Origin]:
    """Return what a settings file sets, or only the settings ``only``; errors name the file ``called``.

    ``found``: the file lies in the current folder and no user has named it, so another user may have put it
    there.

    ``again``: plain files only, and without waiting. A pipe that a shell made for the start is gone, and its
    number in /dev/fd is another descriptor by now. Raise :class:`ConfigError`.
    """
    try:
        with open(path, "rb", opener=_open_at_once if again else None) as stream:
            if again and not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ConfigError(f"{called}: not a plain file, so it cannot be read again")
            if found:
                check_trusted(Path(path), os.fstat(stream.fileno()))
            data = stream.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {called}: {error.strerror}") from None
    if len(data) > FILE_LIMIT:
        raise ConfigError(f"{called}: longer than {FILE_LIMIT} bytes, so it holds more than settings")
    if fault := _not_plain_text(data):
        raise ConfigError(f"{called}: {fault}; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig", errors="strict" if only is None else "replace")
        return parse_file(text, called, only)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{called}: not UTF-8 at byte {error.start}") from None


def _not_plain_text(data: bytes) -> str:
    """Return what tells that a file is in UTF-16, as Windows may write it, or no text at all; else ""."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:2]:
        return "in UTF-16"
    return f"a NUL character at byte {data.index(0)}" if 0 in data else ""


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def current_folder() -> str:
    """Return the current folder; empty if it was removed."""
    with suppress(OSError):
        return os.getcwd()
    return ""


def _default_files(folder: str) -> tuple[str, ...]:
    import platformdirs

    found = [os.path.join(folder, FILE_NAME)] if folder else []
    with suppress(OSError, RuntimeError):  # no home directory
        users = platformdirs.user_config_path("mpchat")
        if users.is_absolute():  # without a home it may begin with "~", which would be a folder's name here
            found.append(str(users / FILE_NAME))
    return tuple(found)


def absolute(path: str, folder: str) -> str:
    """Return ``path`` made absolute from ``folder``, "" for "". Raise :class:`ConfigError` if that fails.

    ``~`` stands for a home directory. The result is UTF-8.
    """
    if not path:
        return ""
    try:
        whole = Path(path).expanduser()
    except RuntimeError as error:  # ~nobody
        raise _leads_nowhere(path, str(error).rstrip(".")) from None
    if not (folder or whole.is_absolute()):
        raise _leads_nowhere(path, "the current folder was removed")
    return utf8_path(str(folder / whole))


def absolute_place(place: str, folder: str) -> str:
    """Return the place of a secret made absolute as :func:`absolute` does; ``env:NAME`` stays."""
    return place if place.startswith(FROM_ENVIRONMENT) else absolute(place, folder)


def default_host_name(instance: str) -> str:
    """Return the name that this machine's instance has in a cluster unless a setting names it."""
    machine = "".join(each if each.isalnum() or each in "._-" else "-" for each in socket.gethostname())
    return host_name(f"{machine or 'host'}-{instance}")


def check_installed(config: Config) -> None:
    """Raise :class:`StartError` if the settings need an extra of mpchat that is not installed."""
    if not config.cluster:
        return
    found = find_spec("redis")
    if found is None or found.origin is None:  # a folder of that name is no library
        raise StartError("cluster is set, and redis-py is not installed: pip install 'redis>=6.0'")


def _leads_nowhere(path: str, why: str) -> ConfigError:
    return ConfigError(f"{path!r} leads nowhere: {why}; allowed: a path that starts with /")
