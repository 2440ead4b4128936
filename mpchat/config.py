"""Settings: one table that flags, ``mpchat.toml`` and ``MPCHAT_…`` variables all come from.

Pure: text comes in, a frozen :class:`Config` comes out, or a :class:`ConfigError` that names the place of
the wrong setting and what is allowed. The caller reads files and the environment.

A setting is declared once, in :data:`SETTINGS`. Its flag, its key in the file, its variable, its check, its
line in ``mpchat config`` and its row in the manual follow from that.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from mpchat import cluster_url, hook_url
from mpchat.errors import ConfigError
from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT
from mpchat.setting_values import (
    AUDIENCE_LENGTH,
    CLUSTER_NAME_LENGTH,
    FAREWELL_LENGTH,
    audience,
    choice,
    cluster,
    cluster_name,
    duration,
    farewell,
    hook,
    host_name,
    hosts,
    instance_name,
    networks,
    origins,
    path,
    room_patterns,
    secret_place,
    size,
    switch,
    whole,
)

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
MULTIPLEXERS = ("auto", "epoll", "kqueue", "poll", "select")
TLS_MODES = ("off", "optional", "required")
AUTH_MODES = ("open", "names", "closed")
MOST_TLS_PROCESSES = 64
# Worker processes. Each costs the supervisor a few descriptors, and each message one more copy.
MOST_WORKERS = 256


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that one server runs with. Times are seconds, sizes are bytes; the table explains each."""

    name: str
    runtime_dir: str
    host: tuple[str, ...]
    port: int
    workers: int
    multiplexer: str
    log_level: str
    log_format: str
    log_file: str
    web: bool
    listen_grace: float
    origins: tuple[str, ...]
    tls: str
    tls_cert: str
    tls_key: str
    tls_processes: int
    proxy_from: tuple[str, ...]
    metrics_from: tuple[str, ...]
    auth: str
    auth_timeout: float
    accounts: str
    jwt_key: str
    jwt_audience: str
    secret: str
    notices: bool
    max_connections: int
    max_per_address: int
    connect_rate: int
    connect_burst: int
    payload_limit: int
    lag_limit: int
    answers_memory: int
    coalesce: float
    idle_timeout: float
    frame_timeout: float
    keepalive: float
    hang_timeout: float
    stop_timeout: float
    farewell: str
    bans: str
    flood_burst: int
    flood_rate: int
    history: str
    history_messages: int
    history_age: float
    name_hold: float
    max_rooms: int
    max_rooms_per_address: int
    max_members: int
    hook: str
    hook_rooms: tuple[str, ...]
    hook_secret: str
    hook_queue: int
    cluster: str
    cluster_password: str
    cluster_name: str
    host_name: str
    cluster_lease: float

    @property
    def tls_on(self) -> bool:
        """True when clients may speak TLS."""
        return bool(self.tls_cert) and self.tls != "off"

    @property
    def tells_protocols_apart(self) -> bool:
        """True when a client's first bytes decide what it speaks."""
        return self.web or self.tls_on

    @property
    def auth_on(self) -> bool:
        """True when a setting says what clients prove themselves with, or that they must."""
        return self.auth != "open" or bool(self.accounts or self.jwt_key or self.secret)

    @property
    def proofs(self) -> tuple[str, ...]:
        """The kinds of proof that the server takes, out of password, jwt and secret."""
        settings = {"password": True, "jwt": bool(self.jwt_key), "secret": bool(self.secret)}
        return tuple(kind for kind, taken in settings.items() if taken)


class Setting(NamedTuple):
    """One row of the table. ``parse`` raises ``ValueError`` for a value that is not allowed."""

    name: str
    default: Any
    parse: Callable[[Any], Any]
    allowed: str
    help: str

    @property
    def flag(self) -> str:
        """The setting as a flag of a command."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The setting as an environment variable."""
        return "MPCHAT_" + self.name.upper()


class Origin(NamedTuple):
    """A value and its place, as an error message or ``mpchat config`` names it."""

    value: Any
    place: str


# The longest duration of a setting, in seconds: a longer one is a mistake.
_WEEK = 7 * 86_400.0

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "name",
        "default",
        instance_name,
        "1 to 32 letters, digits, dots, dashes or underscores, the first a letter or digit",
        "The instance: servers of different names run side by side.",
    ),
    Setting(
        "runtime_dir",
        "",
        path,
        "a folder's path; empty: the user's runtime folder",
        "The folder of lock, record, control socket and, unless set otherwise, the log.",
    ),
    Setting(
        "host",
        ("127.0.0.1",),
        hosts,
        "IP addresses or host names, separated by commas",
        "Addresses to listen on. 0.0.0.0 means every interface by IPv4. :: means every interface by IPv6, "
        "and by IPv4 too unless an IPv4 address is listed. The default is this machine only.",
    ),
    Setting(
        "port",
        4000,
        whole(0, 65_535),
        "0 to 65535; 0 lets the system choose",
        "The TCP port. The lecture's clients use 4000.",
    ),
    Setting(
        "workers",
        0,
        whole(0, MOST_WORKERS),
        f"0 to {MOST_WORKERS}; 0 means one less than there are cores, at least 1",
        "Worker processes. One core is left for the operating system and the supervisor.",
    ),
    Setting(
        "multiplexer",
        "auto",
        choice(*MULTIPLEXERS),
        ", ".join(MULTIPLEXERS),
        "How workers wait for their clients. select takes no more than 1024 descriptors.",
    ),
    Setting(
        "log_level", "info", choice(*LOG_LEVELS), ", ".join(LOG_LEVELS), "The lowest level that is logged."
    ),
    Setting(
        "log_format",
        "text",
        choice(*LOG_FORMATS),
        ", ".join(LOG_FORMATS),
        "What a log line is: text for people, or a JSON object for programs.",
    ),
    Setting(
        "log_file",
        "",
        path,
        "a file's path; empty: the instance's own folder, or standard error with --foreground",
        "Where the log goes. SIGUSR1 opens it anew after it was moved away.",
    ),
    Setting(
        "web",
        True,
        switch,
        "on or off",
        "Serve the chat's page and WebSocket clients too, on the same port.",
    ),
    Setting(
        "listen_grace",
        0.3,
        duration(0.0, 60.0),
        "0 to 60 s",
        "With web: a client that says nothing for this long is sent messages as a plain client.",
    ),
    Setting(
        "origins",
        (),
        origins,
        "origins such as https://chat.example.com, separated by commas; *: all; empty: the page's own",
        "With web: sites whose pages may connect too.",
    ),
    Setting(
        "tls",
        "optional",
        choice(*TLS_MODES),
        ", ".join(TLS_MODES),
        "With tls_cert: whether clients may speak TLS, on the same port. With required, those from other "
        "machines must.",
    ),
    Setting(
        "tls_cert",
        "",
        path,
        "a file's path; empty: no TLS",
        "The server's certificate and its chain, in PEM. A reload reads it again.",
    ),
    Setting(
        "tls_key",
        "",
        path,
        "a file's path; empty: the key is in the file of tls_cert",
        "The certificate's private key, in PEM, without a password, which no other user may read.",
    ),
    Setting(
        "tls_processes",
        1,
        whole(1, MOST_TLS_PROCESSES),
        f"1 to {MOST_TLS_PROCESSES}",
        "With TLS: processes that encrypt. Each takes half as many clients as it may have descriptors.",
    ),
    Setting(
        "proxy_from",
        (),
        networks,
        "IP addresses and networks such as 192.0.2.0/24, separated by commas; empty: none",
        "Where proxies connect from. Their connections must begin with a PROXY header, version 1 or 2, or be "
        "HTTP. The address in that header, or in X-Forwarded-For, is the client's.",
    ),
    Setting(
        "metrics_from",
        ("127.0.0.0/8", "::1/128"),
        networks,
        "IP addresses and networks such as 192.0.2.0/24, separated by commas; empty: nobody",
        "With web: who may read the metrics at /metrics. For all others there is nothing.",
    ),
    Setting(
        "auth",
        "open",
        choice(*AUTH_MODES),
        ", ".join(AUTH_MODES),
        "Whether clients must prove that a name is theirs. open: no. names: registered names only. closed: "
        "without a proof a client gets no messages and sends none.",
    ),
    Setting(
        "auth_timeout",
        60.0,
        duration(1.0, 3600.0),
        "1 s to 1 h",
        "With auth closed: end a connection that has shown no proof for this long.",
    ),
    Setting(
        "accounts",
        "",
        path,
        "a file's path; empty: in the user's data folder",
        "The SQLite file with registered names and their passwords, which no other user may read. Several "
        "servers may share it.",
    ),
    Setting(
        "jwt_key",
        "",
        secret_place,
        "a file's path or env:NAME, never the key itself; empty: no tokens",
        "The key that tokens (JWT) are checked with. A PEM file with an EC P-256 key means ES256, with an "
        "Ed25519 key EdDSA. Anything else means HS256 and has at least 32 bytes. A reload reads it again.",
    ),
    Setting(
        "jwt_audience",
        "mpchat",
        audience,
        f"up to {AUDIENCE_LENGTH} printable characters, at least one",
        "With jwt_key: what a token must have as its audience (aud).",
    ),
    Setting(
        "secret",
        "",
        secret_place,
        "a file's path or env:NAME, never the secret itself; empty: none",
        "One secret for all, as for a class room. It lets a client in and proves no name. A reload reads it "
        "again.",
    ),
    Setting("notices", True, switch, "on or off", "Tell a room when a client's connection ends."),
    Setting(
        "max_connections",
        0,
        whole(0, 10_000_000),
        "0 to 10000000; 0 means as many as the descriptor limits allow",
        "Clients at a time. One more is answered with the error full and closed.",
    ),
    Setting(
        "max_per_address",
        0,
        whole(0, 10_000_000),
        "0 to 10000000; 0 means no limit",
        "Clients at a time from one address. All addresses of an IPv6 network of 64 bits count as one.",
    ),
    # Off by default, like max_per_address: behind one address there may be a class room, a proxy with all
    # clients, or a load test, and after a restart all of them come back at once.
    Setting(
        "connect_rate",
        0,
        whole(0, 100_000),
        "0 to 100000; 0 means no limit",
        "New connections a second from one address. One more is answered with the error too_fast and closed. "
        "All addresses of an IPv6 network of 64 bits count as one.",
    ),
    Setting(
        "connect_burst",
        1000,
        whole(1, 1_000_000),
        "1 to 1000000",
        "Connections that one address may make at once before connect_rate counts.",
    ),
    Setting(
        "payload_limit",
        DEFAULT_PAYLOAD_LIMIT,
        size(64, DEFAULT_PAYLOAD_LIMIT),
        f"64 to {DEFAULT_PAYLOAD_LIMIT} bytes",
        "The longest payload a client may send. What the server adds must still fit a frame's 65535 bytes.",
    ),
    Setting(
        "lag_limit",
        8 << 20,
        size(256 << 10, 1 << 30),
        "256 KiB to 1 GiB",
        "How far a client may fall behind before it is cut off; each worker keeps that much of the stream.",
    ),
    Setting(
        "answers_memory",
        64 << 20,
        size(1 << 20, 64 << 30),
        "1 MiB to 64 GiB",
        "What each worker keeps at most for single clients: answers, private messages, parts of the past. "
        "Past it the clients that hold most are cut off.",
    ),
    Setting(
        "coalesce",
        0.005,
        duration(0.0, 1.0),
        "0 to 1 s",
        "A busy room gathers messages for this long at most, to share send calls. An idle room never waits.",
    ),
    Setting(
        "idle_timeout",
        0.0,
        duration(1.0, _WEEK, zero=True),
        "1 s to 7 days, or 0 for never",
        "End a connection whose client has sent nothing for this long.",
    ),
    Setting(
        "frame_timeout",
        30.0,
        duration(1.0, _WEEK, zero=True),
        "1 s to 7 days, or 0 for never",
        "End a connection whose client has left a frame unfinished for this long.",
    ),
    Setting(
        "keepalive",
        60.0,
        duration(1.0, 86_400.0, zero=True),
        "1 s to 24 h, or 0 for never",
        "After this much silence TCP checks whether the client's machine is still there.",
    ),
    Setting(
        "hang_timeout",
        10.0,
        duration(1.0, 3600.0),
        "1 s to 1 h",
        "A worker whose loop has not turned for this long is dumped to the log, killed and replaced.",
    ),
    Setting(
        "stop_timeout",
        10.0,
        duration(0.1, 3600.0),
        "0.1 s to 1 h",
        "How long a stop waits for clients to read what they are owed before it closes their connections.",
    ),
    Setting(
        "farewell",
        "The server is stopping.",
        farewell,
        f"up to {FAREWELL_LENGTH} characters; empty: none",
        "The last message that clients get when the server stops.",
    ),
    Setting(
        "bans",
        "",
        path,
        "a file's path; empty: in the instance's own folder",
        "Where bans and mutes are kept. The instance's folder may not outlive a restart of the machine.",
    ),
    Setting(
        "flood_burst",
        200_000,
        whole(1, 10_000_000),
        "1 to 10000000",
        "Messages that a client may send at once before flood_rate counts.",
    ),
    Setting(
        "flood_rate",
        200_000,
        whole(0, 10_000_000),
        "0 to 10000000; 0 means no limit",
        "Messages a second that a client may send. A client that sends more is read from more slowly.",
    ),
    Setting(
        "history",
        "",
        path,
        "a file's path; empty: in memory only",
        "Keep the rooms' messages in this SQLite file too, over restarts and crashes.",
    ),
    Setting(
        "history_messages",
        1000,
        whole(1, 1_000_000),
        "1 to 1000000",
        "Messages that each room keeps for clients that come back, within lag_limit bytes.",
    ),
    Setting(
        "history_age",
        86_400.0,
        duration(1.0, _WEEK, zero=True),
        "1 s to 7 days, or 0 for any age",
        "Messages older than this are forgotten. An empty room ends when its last message is forgotten.",
    ),
    Setting(
        "name_hold",
        60.0,
        duration(0.0, _WEEK),
        "0 to 7 days",
        "A name is held for its owner for this long after the connection was lost.",
    ),
    Setting(
        "max_rooms",
        10_000,
        whole(1, 1_000_000),
        "1 to 1000000",
        "Rooms at a time. A join that would make one more gets the error too_many_rooms.",
    ),
    # A hundred rooms that one address fills leave each room 1.3 MB of the histories' memory, and so the 1000
    # messages of an ordinary room whole.
    Setting(
        "max_rooms_per_address",
        100,
        whole(0, 1_000_000),
        "0 to 1000000; 0 means no limit",
        "Rooms at a time that clients of one address have made. A join that would make one more gets the "
        "error too_many_rooms_by_address. All addresses of an IPv6 network of 64 bits count as one.",
    ),
    Setting(
        "max_members",
        0,
        whole(0, 10_000_000),
        "0 to 10000000; 0 means no limit",
        "Members of one room at a time. A join of one more gets the error room_full.",
    ),
    Setting(
        "hook",
        "",
        hook,
        "https://host/path or http://host/path; a user:password@ may stand in front of the host; empty: none",
        "The webhook: where the server sends what is said in rooms, and which members enter and leave.",
    ),
    Setting(
        "hook_rooms",
        ("*",),
        room_patterns,
        "names of rooms, separated by commas, in which * stands for any characters",
        "With hook: the rooms whose events are sent.",
    ),
    Setting(
        "hook_secret",
        "",
        secret_place,
        "a file's path or env:NAME, never the secret itself; empty: none",
        "With hook: what requests are signed with. A reload reads it again.",
    ),
    Setting(
        "hook_queue",
        16 << 20,
        size(64 << 10, 1 << 30),
        "64 KiB to 1 GiB",
        "With hook: memory for events that wait for the receiver. Past it the oldest are dropped, and the "
        "receiver is told how many.",
    ),
    Setting(
        "cluster",
        "",
        cluster,
        "redis://host, rediss://host with TLS, redis+sentinel://a,b/service, or rediss+sentinel:// with TLS; "
        "a user:password@ may stand in front of the host and a /database at the end; empty: none",
        "The Redis (6.2 or later) that several hosts share: they are one chat then. Needs the extra "
        "mpchat[cluster].",
    ),
    Setting(
        "cluster_password",
        "",
        secret_place,
        "a file's path or env:NAME, never the password itself; empty: none, or that of the URL",
        "With cluster: the password of Redis, and of Sentinels that ask for one.",
    ),
    Setting(
        "cluster_name",
        "mpchat",
        cluster_name,
        f"up to {CLUSTER_NAME_LENGTH} printable characters without spaces and braces, at least one",
        "With cluster: hosts of the same name are one chat. One Redis may serve several.",
    ),
    Setting(
        "host_name",
        "",
        host_name,
        f"up to {CLUSTER_NAME_LENGTH} printable characters without spaces and braces; empty: the machine's "
        "name, a dash and the instance's",
        "With cluster: this host. No two hosts have the same name.",
    ),
    Setting(
        "cluster_lease",
        10.0,
        duration(1.0, 600.0),
        "1 to 600 s",
        "With cluster: the other hosts count this one as gone when it has not reached Redis for this long, "
        "while they could.",
    ),
)

BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}

# A wrong value of these is not shown: a user may have put the secret itself there.
_UNSHOWN = frozenset({"jwt_key", "secret", "hook", "hook_secret", "cluster", "cluster_password"})

# Settings that a running server cannot change, and why. A reload keeps them and says so.
FIXED: Mapping[str, str] = {
    "name": "the server's lock is on it; stop and start",
    "runtime_dir": "its lock and sockets lie there; stop and start",
    "bans": "it was read at the start; stop and start",
    "history": "earlier messages are in the other file; stop and start",
    "cluster": "clients would change to another chat; stop and start",
    "cluster_password": "it was read at the start; stop and start",
    "cluster_name": "clients would change to another chat; stop and start",
    "host_name": "the other hosts know it by the first name; stop and start",
    "cluster_lease": "the other hosts know the first one; stop and start",
}
# The same for a host of a cluster.
FIXED_IN_CLUSTER: Mapping[str, str] = {
    "auth": "all hosts of the cluster must have the same; stop all of them and start",
    "hook": "hosts of a cluster have no webhook; stop and start without cluster",
}


def fixed(running: Config) -> Mapping[str, str]:
    """Return the settings that a server cannot change while it runs with ``running``, and why."""
    return {**FIXED, **FIXED_IN_CLUSTER} if running.cluster else FIXED


def default_workers(cores: int) -> int:
    """Return the number of workers for ``cores`` cores: one core is left free, at least one worker."""
    return max(1, cores - 1)


def parse_file(text: str, path: str, only: Collection[str] | None = None) -> dict[str, Origin]:
    """Read the text of ``mpchat.toml``.

    With ``only``, read only these settings: all others may be wrong, and a text that mentions none of them
    may be anything. Raises :class:`ConfigError`, which names file and line, for a key that is not a setting.
    """
    if only is not None and not any(_mentions(text, name) for name in only):
        return {}
    import tomllib  # not at the top: a worker is given its settings

    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: not TOML: nested too deeply") from None
    except ValueError as error:  # tomllib's own error is one, and so is a number that is too long
        raise ConfigError(f"{path}: not TOML: {error}") from None
    found: dict[str, Origin] = {}
    for key, value in table.items():
        place = f"{path}, line {_line_of(key, text)}"
        name = key.replace("-", "_")
        if only is not None and name not in only:
            continue
        if name not in BY_NAME:
            raise ConfigError(f"{place}: unknown setting {key!r}; allowed are {', '.join(BY_NAME)}")
        if name in found:
            raise ConfigError(f"{place}: {name} is set twice, see {found[name].place}; allowed is once")
        found[name] = Origin(value, place)
    return found


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text.replace("-", "_")) is not None


def _line_of(key: str, text: str) -> int:
    """Return the line that sets ``key``; a line that only looks like it may stand inside a long string."""
    pattern = re.compile(rf"\s*(\[\s*){{0,2}}[\"']?{re.escape(key)}[\"']?\s*[.=\]]")
    lines = text.replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if pattern.match(line) and _is_toml("\n".join(lines[: number - 1])):
            return number
    return 1


def _is_toml(text: str) -> bool:
    import tomllib

    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def parse_environment(environment: Mapping[str, str]) -> dict[str, Origin]:
    """Pick the settings out of environment variables; an empty variable counts as not set."""
    return {
        setting.name: Origin(environment[setting.variable], f"variable {setting.variable}")
        for setting in SETTINGS
        if environment.get(setting.variable)
    }


def resolve(sources: Sequence[Mapping[str, Origin]]) -> tuple[Config, dict[str, str]]:
    """Build a Config from ``sources``; the first source that has a setting decides.

    Return it with the place that each setting came from. Every value is checked, also one that another source
    overrides: it might decide later. Raises :class:`ConfigError` for the first wrong value.
    """
    values: dict[str, Any] = {setting.name: setting.default for setting in SETTINGS}
    places = dict.fromkeys(values, "default")
    for source in reversed(sources):
        for name, origin in source.items():
            values[name] = _checked(BY_NAME[name], origin)
            places[name] = origin.place
    return Config(**values), places


def check_together(config: Config) -> None:
    """Raise :class:`ConfigError` for settings that are allowed, but not with each other."""
    if config.cluster:
        _check_cluster(config)
    if config.tls_cert:
        return
    if config.tls == "required":
        raise ConfigError("tls is 'required', and tls_cert is not set; set tls_cert, or leave tls out")
    if config.tls_key:
        raise ConfigError("tls_key is set, and tls_cert is not; set tls_cert, or leave tls_key out")


def _check_cluster(config: Config) -> None:
    for name, what in (("history", "messages"), ("bans", "bans and mutes")):
        if getattr(config, name):
            raise ConfigError(
                f"{name} is set, and cluster too: the cluster's log keeps the {what} of all hosts; "
                f"leave {name} out"
            )
    if config.hook:
        raise ConfigError(
            "hook is set, and cluster too: each host would send all events; leave hook out, and let a "
            "program that has joined the rooms do it"
        )
    if config.cluster_password and cluster_url.parse(config.cluster).password:
        raise ConfigError(
            "cluster_password is set, and cluster has a password too; leave the one in the URL out"
        )


def differing(old: Config, new: Config) -> tuple[str, ...]:
    """Return the names of the settings that differ, in the table's order."""
    return tuple(name for name in BY_NAME if getattr(old, name) != getattr(new, name))


def _checked(setting: Setting, origin: Origin) -> Any:
    try:
        return setting.parse(origin.value)
    except (ValueError, KeyError, TypeError) as error:
        shown = "a value that is not shown" if setting.name in _UNSHOWN else _excerpt(origin.value)
        if isinstance(error, cluster_url.WrongUrlError | hook_url.WrongHookError):
            shown += f" ({error})"
        raise ConfigError(f"{origin.place}: {setting.name} is {shown}, allowed: {setting.allowed}") from None


def _excerpt(value: Any) -> str:
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # a number or a nesting that Python will not write out
        return "too long to show"
    return shown if len(shown) <= 60 else shown[:57] + "…"


def format_address(host: str, port: int) -> str:
    """Return ``host:port`` as people write it, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
