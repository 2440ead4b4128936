"""Units: the text of systemd's unit files for a server. Facts come in, text comes out.

Every word that comes from a setting or a path is escaped: ``%`` begins a specifier in a unit, and spaces,
quotes and backslashes part or join words. ``$`` needs nothing: with ``:`` in front, ``ExecStart=`` replaces
no variables.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mpchat.errors import Exit
from mpchat.text import visible

# Seconds that a server may take to end beyond stop_timeout: it kills late processes, and gives the log, the
# history and the record a few seconds each.
STOP_MARGIN = 15
# Seconds within which the loop must turn. Its own work takes milliseconds; a stalled machine takes seconds.
WATCHDOG = 30
# Descriptors, and those that a server needs besides its clients' when more clients are allowed.
DESCRIPTORS = 65_536
SPARE_DESCRIPTORS = 1024
# Exit codes that a further start would not change.
FINAL = (Exit.USAGE, Exit.ALREADY_RUNNING)

_PLAIN = re.compile(r"[\w@%+=:,./\[\]-]+", re.ASCII)
# What a server does not need; these take no rights to set.
_FOR_ALL = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""
# The same for a unit of the system.
_FOR_SYSTEM = """\
DynamicUser=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
"""


class Service(NamedTuple):
    """What a service unit is made of."""

    # The unit's name without its ending; its folders have the same.
    stem: str
    # The words of a command, not escaped, and the options of ``mpchat start``, each a word that is escaped.
    command: Sequence[str]
    options: Sequence[str]
    # The command that reloads this server, for a systemd before 253, which sends no signal; not escaped.
    reload: Sequence[str]
    # Variables, each an escaped word; paths of files that only root reads, by an id; folders that it writes.
    variables: Sequence[str]
    credentials: Mapping[str, str]
    writable: Sequence[str]
    # A file with variables that are secret; empty: none.
    environment_file: str
    # What the operator has to see to.
    notes: Sequence[str]
    # Seconds.
    stop_timeout: float
    max_connections: int
    # Whether it listens at a port below 1024.
    low_port: bool
    # For the user's own service manager, not the system's.
    user: bool


def escaped(text: str) -> str:
    """Return a text as one word of a unit, with nothing in it that systemd would replace."""
    text = text.replace("%", "%%")
    if _PLAIN.fullmatch(text):
        return text
    inside = re.sub(r'([\\"])', r"\\\1", text)
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", inside) + '"'


def service_unit(service: Service, *, notify_reload: bool) -> str:
    """Return the text of ``STEM.service``; ``notify_reload``: systemd is of version 253 or later."""
    network = [] if service.user else ["Wants=network-online.target", "After=network-online.target"]
    lines = [
        *_head(f"{service.stem}.service", user=service.user),
        *(f"# Note: {visible(each)}" for each in service.notes),
        *("", "[Unit]", f"Description=Chat server {service.stem}", *network),
        *("", "[Service]", *_life(service, notify_reload=notify_reload)),
        *_surroundings(service),
        *_rights(service),
        *("", "[Install]", f"WantedBy={'default' if service.user else 'multi-user'}.target"),
    ]
    return "\n".join(lines) + "\n"


def socket_unit(stem: str, addresses: Sequence[str], backlog: int, *, both: bool, user: bool) -> str:
    """Return the text of ``STEM.socket``; ``both``: ``[::]`` takes the connections by IPv4 too."""
    lines = [
        *_head(f"{stem}.socket", user=user),
        *("", "[Unit]", f"Description=Sockets of the chat server {stem}"),
        *("", "[Socket]", *(f"ListenStream={each}" for each in addresses)),
        *(f"BindIPv6Only={'both' if both else 'ipv6-only'}", f"Backlog={backlog}"),
        *("", "[Install]", "WantedBy=sockets.target"),
    ]
    return "\n".join(lines) + "\n"


def _head(name: str, *, user: bool) -> list[str]:
    folder = "~/.config/systemd/user" if user else "/etc/systemd/system"
    reload = f"systemctl{' --user' if user else ''} daemon-reload"
    return [f"# {folder}/{name}", f"# After a change: {reload}"]


def _life(service: Service, *, notify_reload: bool) -> list[str]:
    """Return how it starts, reloads and ends."""
    command = " ".join(map(escaped, service.command))
    how = ["Type=notify-reload"]
    if not notify_reload:
        how = ["Type=notify", f"ExecReload=:{' '.join(map(escaped, service.reload))}"]
    return [
        f"ExecStart=:{' '.join((command, 'start --foreground', *service.options))}",
        *how,
        "NotifyAccess=main",
        f"WatchdogSec={WATCHDOG}",
        "Restart=on-failure",
        "RestartSec=1",
        f"RestartPreventExitStatus={' '.join(str(int(code)) for code in FINAL)}",
        "KillMode=mixed",
        f"TimeoutStopSec={int(service.stop_timeout) + 1 + STOP_MARGIN}",
        f"LimitNOFILE={max(DESCRIPTORS, service.max_connections + SPARE_DESCRIPTORS)}",
    ]


def _surroundings(service: Service) -> list[str]:
    """Return its folders, its variables and its secrets."""
    folders = [f"StateDirectory={service.stem}", "StateDirectoryMode=0700"]
    if not service.user:
        folders += [f"RuntimeDirectory={service.stem}", "RuntimeDirectoryMode=0700"]
    return [
        *folders,
        *(f"Environment={each}" for each in service.variables),
        *([f"EnvironmentFile=-{service.environment_file}"] if service.environment_file else []),
        *(f"LoadCredential={name}:{path.replace('%', '%%')}" for name, path in service.credentials.items()),
    ]


def _rights(service: Service) -> list[str]:
    """Return what it may do, and all that it may not."""
    if service.user:
        return _FOR_ALL.splitlines()
    capability = "CAP_NET_BIND_SERVICE" if service.low_port else ""
    return [
        *(_FOR_SYSTEM + _FOR_ALL).splitlines(),
        f"CapabilityBoundingSet={capability}",
        *([f"AmbientCapabilities={capability}"] if capability else []),
        *(f"ReadWritePaths={escaped(each)}" for each in service.writable),
    ]
