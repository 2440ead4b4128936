"""``mpchat service``: print the unit files with which systemd runs a server with the present settings.

No secret is printed: a unit names the file that a secret is in, or a file for a secret variable.
"""

import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

import click

import mpchat
from mpchat import cluster_url
from mpchat.cli.options import all_settings
from mpchat.cli.units import Service, escaped, service_unit, socket_unit
from mpchat.config import BY_NAME, Config, format_address
from mpchat.errors import ConfigError
from mpchat.setting_values import FROM_ENVIRONMENT
from mpchat.settings import Sources

# The version of systemd that knows Type=notify-reload.
NOTIFY_RELOAD = 253
# Seconds that systemctl may take to tell its version.
VERSION_TIMEOUT = 5.0
# Settings that are paths: of files that are secret, or belong to one that is, and of what the server writes.
SECRET_FILES = ("jwt_key", "secret", "cluster_password", "tls_cert", "tls_key")
WRITTEN = ("runtime_dir", "log_file", "bans", "history", "accounts")
# Folders that a unit of the system does not see: ProtectHome= and PrivateTmp=.
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")
# The lowest port that every user may listen at.
FIRST_FREE_PORT = 1024


@click.command("service")
@all_settings
@click.option(
    "--user", is_flag=True, help="For the service manager of this user, not for that of the system."
)
@click.option("--socket", "sockets", is_flag=True, help="Print the socket unit instead of the service unit.")
def service(config_file: str | None, user: bool, sockets: bool, **flags: Any) -> None:
    """Print a unit file of systemd that runs a server with the settings in force here."""
    sources = Sources.of_command(config_file, flags, foreground=True)
    config, places = sources.read(os.environ)
    config = sources.ready_to_run(config)
    stem = "mpchat" if config.name == BY_NAME["name"].default else f"mpchat-{config.name}"
    if sockets:
        click.echo(_socket_unit(config, stem, user=user), nl=False)
        return
    made = _Unit(sources, config, places, stem, user=user).made()
    click.echo(service_unit(made, notify_reload=_systemd_version() >= NOTIFY_RELOAD), nl=False)


def _socket_unit(config: Config, stem: str, *, user: bool) -> str:
    """Return the socket unit. Raise :class:`ConfigError` or :class:`StartError` for what it cannot say."""
    if not config.port:
        raise ConfigError("port is 0: a socket unit needs a number; choose one with --port")
    # Here, because no other command needs it.
    from mpchat.supervisor.listeners import BACKLOG, look_up

    lookup = look_up(config.host, config.port)
    lookup.wait()
    found = lookup.result()
    addresses = [format_address(*each.address) for each in found]
    return socket_unit(stem, addresses, BACKLOG, both=any(each.dual for each in found), user=user)


def _systemd_version() -> int:
    """Return the version of this machine's systemd; that of the newest type of unit if there is none."""
    with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        told = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT, check=True
        )
        return int(told.stdout.split()[1].partition(".")[0])
    return NOTIFY_RELOAD


class _Unit:
    """A service unit in the making."""

    def __init__(
        self, sources: Sources, config: Config, places: dict[str, str], stem: str, *, user: bool
    ) -> None:
        self._sources = sources
        self._config = config
        self._places = places
        self._stem = stem
        self._user = user
        # Words of ``mpchat start``, and variables, both escaped; paths of secret files by their settings.
        self._options: list[str] = []
        self._variables: list[str] = []
        self._credentials: dict[str, str] = {}
        self._environment_file = ""
        self._notes: list[str] = []

    def made(self) -> Service:
        """Return what the settings make of the unit."""
        config = self._config
        if self._sources.file:
            self._options.append(escaped(f"--config={self._sources.file}"))
        for name in BY_NAME:
            self._say(name)
        self._set_defaults()
        self._look_at_paths()
        command = [sys.executable, "-P", "-m", "mpchat"]
        return Service(
            stem=self._stem,
            command=command,
            options=self._options,
            reload=[*command, "reload", f"--name={config.name}", *self._where()],
            variables=self._variables,
            credentials=self._credentials,
            writable=self._writable(),
            environment_file=self._environment_file,
            notes=self._notes,
            stop_timeout=config.stop_timeout,
            max_connections=config.max_connections,
            low_port=0 < config.port < FIRST_FREE_PORT,
            user=self._user,
        )

    def _where(self) -> list[str]:
        """Return the option with which a command finds the server; its variables are set for it too."""
        return [f"--runtime-dir={self._config.runtime_dir}"] if self._config.runtime_dir else []

    # Each setting, as it was given.

    def _say(self, name: str) -> None:
        """Let the unit say a setting that is not in the settings file, or not as a service needs it."""
        setting, place = BY_NAME[name], self._places[name]
        path = str(getattr(self._config, name)) if name in (*SECRET_FILES, *WRITTEN) else ""
        if name in SECRET_FILES and path.startswith(FROM_ENVIRONMENT):
            self._keep_out(name, path.removeprefix(FROM_ENVIRONMENT))
        elif name in SECRET_FILES and path and not self._user:
            self._credentials[name] = path
            self._options.append(f"{setting.flag}=%d/{name}")
            return
        if name in self._sources.flags:
            text = path or self._without_password(name, self._sources.flags[name])
            self._options.append(escaped(f"{setting.flag}={text}"))
        elif place.startswith("variable "):
            text = path or self._without_password(name, os.environ[setting.variable])
            self._variables.append(escaped(f"{setting.variable}={text}"))
        elif path and place != "default":
            # Relative paths of the settings file begin in the folder of this command.
            self._options.append(escaped(f"{setting.flag}={path}"))

    def _keep_out(self, name: str, variable: str) -> None:
        """Have a secret variable come from a file."""
        self._environment_file = f"{'%h/.config' if self._user else '/etc'}/{self._stem}.env"
        self._notes.append(
            f"{name} is in the variable {variable}, which is not printed: write {variable}=… into the file "
            "of EnvironmentFile=, which nobody else may read"
        )

    def _without_password(self, name: str, text: str) -> str:
        """Return a setting's text; of the cluster's URL all but the password."""
        if name != "cluster" or not (url := cluster_url.parse(text)).password:
            return text
        self._notes.append(
            "the password in the URL of the cluster is not printed: write it into a file, and name that with "
            "--cluster-password"
        )
        return str(url._replace(password=""))

    # What a service needs besides.

    def _set_defaults(self) -> None:
        """Keep files where they outlive the server, and where its user may write."""
        config, state = self._config, f"%S/{self._stem}"
        if not (config.runtime_dir or self._user):
            self._variables.append(f"MPCHAT_RUNTIME_DIR=%t/{self._stem}")
        if not (config.bans or config.cluster):
            self._variables.append(f"MPCHAT_BANS={state}/bans.json")
        if config.auth_on and not (config.accounts or self._user):
            # Here, because it loads SQLite.
            from mpchat.auth.accounts import FILE_NAME

            self._variables.append(f"MPCHAT_ACCOUNTS={state}/{FILE_NAME}")
        if self._credentials:
            self._notes.append("systemd reads the files of LoadCredential= at a start, and not at a reload")

    def _writable(self) -> list[str]:
        """Return the folders of files that the server writes elsewhere than in its own."""
        own = (f"/run/{self._stem}/", f"/var/lib/{self._stem}/")
        paths = [str(getattr(self._config, name)) for name in WRITTEN if getattr(self._config, name)]
        folders = [each if each == self._config.runtime_dir else os.path.dirname(each) for each in paths]
        return [each for each in dict.fromkeys(folders) if not f"{each}/".startswith(own)]

    def _look_at_paths(self) -> None:
        """Say which paths a unit of the system does not see."""
        if self._user:
            return
        paths = [sys.executable, os.path.realpath(sys.executable), os.path.dirname(mpchat.__file__)]
        paths += [self._sources.file, *(str(getattr(self._config, name)) for name in WRITTEN)]
        if unseen := [each for each in dict.fromkeys(paths) if each.startswith(HIDDEN)]:
            self._notes.append(
                f"the service does not see {', '.join(unseen)}: put it elsewhere, such as /opt, /etc or "
                f"/var/lib/{self._stem}, or use --user"
            )
