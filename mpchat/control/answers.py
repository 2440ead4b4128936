"""Answers: what the server replies to each request, one struct per answer. Times are seconds, sizes bytes.

``mpchat status --json`` prints :class:`ServerStatus` as the server sends it, so its names, types and order
are a contract with programs; the README describes it. A field that an earlier server did not send has a
default.
"""

from typing import Annotated

import msgspec

from mpchat.instance.record import Identity

# Several hosts.


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host of the cluster, as the host that answers knows it."""

    name: str
    # here: the host that answers. living: another one.
    state: str
    # The number of the host's registration.
    epoch: int
    # Seconds until the lease ends unless it is renewed; None: it has none, or it is not known.
    lease: float | None = None
    # How far the host has applied the log (the number of a batch), and how many batches and seconds that is
    # behind the end of the log.
    position: int = 0
    lag: int = 0
    behind: float = 0.0
    # Connections that have asked for a name.
    clients: int = 0
    # The release of mpchat, and the version of the log's batches that it writes; empty and 0: not known.
    version: str = ""
    log_version: int = 0


class Hosts(msgspec.Struct, frozen=True):
    """The hosts of the cluster, the answering one included, by their names."""

    hosts: list[Host]


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster that the server belongs to, and its own part in it."""

    # The names of the cluster and of this host.
    name: str
    host: str
    # The number of this host's registration; None: it has none now.
    epoch: int | None = None
    # joining: not registered yet. member: all is well. away: Redis cannot be reached, senders wait.
    # returning: the lease was lost, the host registers again. recovering: Redis came back empty or rolled
    # back, the log is founded anew. left: the server stops.
    state: str
    # When that state began (seconds since 1970), and why, for people.
    since: float
    reason: str = ""
    # See Host.
    position: int = 0
    lag: int = 0
    behind: float = 0.0
    # The address, without its password.
    redis: str
    hosts: list[Host] = []


# Status.


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server allows."""

    # Connections at a time, and from one address (0: no limit).
    connections: int
    per_address: int
    # Bytes of a payload, and bytes that a client may be behind.
    payload: int
    lag: int
    # Descriptors of one process.
    descriptors: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The history file."""

    path: str
    # "ok", or "failing: " and the reason.
    state: str
    # Bytes that wait to be written.
    waiting: int
    # Messages.
    saved: int
    dropped: int


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """The deliveries to the receiver of the webhook."""

    # Without passwords.
    url: str
    # "ok", or "failing: " and the reason; and when that began (seconds since 1970).
    state: str
    since: float
    # Events that wait, that the receiver has accepted, and that it never gets.
    waiting: int
    sent: int
    dropped: int


class Pauses(msgspec.Struct, frozen=True, kw_only=True):
    """How long moved connections were without a worker."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class LastReload(msgspec.Struct, frozen=True, kw_only=True):
    """The last reload: when it ended (seconds since 1970), how, and what it did."""

    at: float
    # The exit code of ``mpchat reload``, and the reason when it is not 0.
    exit: int
    text: str
    seconds: float
    # Connections.
    moved: int
    failed: int
    lost: int
    pauses: Pauses
    # Slots.
    renewed: list[int]
    # Settings that have changed; settings that need a restart, each with the reason.
    changed: list[str]
    kept: dict[str, str]


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One slot and the worker in it. Counters begin with the worker's process."""

    slot: int
    pid: int | None
    state: str
    # The generation in which the worker was started; None without a worker.
    generation: int | None = None
    connections: int
    messages_in: int
    messages_out: int
    in_per_second: float
    out_per_second: float
    # The longest turn of the worker's loop in the last second, in milliseconds.
    lag_ms: float
    # Clients that are behind the stream now.
    late: int
    # Seconds since the last beat.
    silent: float
    # Connections that the worker has ended, by reason.
    ended: dict[str, int]
    # Resident memory.
    rss: int
    # CPU seconds per second.
    cpu: float
    restarts: int
    # Seconds until the next worker starts; None: the slot does not wait for that.
    restart_in: float | None = None
    # Deaths in a row, each after a short service, and how the last worker died.
    deaths: int = 0
    died: str = ""


class TlsProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One slot and the TLS process in it. Counters begin with the process."""

    slot: int
    pid: int | None
    state: str
    # Clients that it encrypts for, and those that have not shaken hands yet.
    connections: int
    shaking: int
    handshakes: int
    # Clients that it has lost or refused, by reason.
    ended: dict[str, int]
    # The longest turn of its loop in the last second, in milliseconds.
    lag_ms: float
    silent: float
    # Resident memory, and CPU seconds per second.
    rss: int
    cpu: float
    restarts: int
    restart_in: float | None
    deaths: int
    died: str


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """TLS, while it is on or clients that speak it are left."""

    # "optional" or "required"; "off" when only clients from before are left.
    mode: str
    # What the certificate is for, when it ends (seconds since 1970), and a warning from 14 days before on.
    names: list[str]
    expires: float | None
    warning: str
    processes: list[TlsProcess]


class CutOff(msgspec.Struct, frozen=True, kw_only=True):
    """A client that the server has cut off, or that an operator has kicked."""

    # host:port or [host]:port, and the name; empty for a client without one.
    address: str
    name: str = ""
    # For people, as in a worker's ``ended``.
    reason: str
    # Seconds since 1970.
    at: float


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``mpchat status --json`` prints."""

    name: str
    pid: int
    version: str
    state: str
    # Seconds since 1970.
    started: float
    uptime: float
    # HOST:PORT or [HOST]:PORT.
    addresses: list[str]
    limits: Limits
    connections: int
    # Messages of the room of plain clients.
    messages: int
    # Connections that have asked for a name, and rooms.
    people: int = 0
    rooms: int = 0
    history: History | None = None
    # Connections that were refused since the start: all, and by the code of the error.
    refused: int
    refused_by_code: dict[str, int] = {}
    log: str
    runtime_dir: str
    # One more than there were reloads.
    generation: int | None = None
    # Connections moved from worker to worker since the start.
    moves: int = 0
    # The change under way: reload, scale or rebalance.
    change: str | None = None
    last_reload: LastReload | None = None
    workers: list[WorkerStatus]
    # Whether clients must prove who they are: open, names or closed.
    auth: str = "open"
    tls: Tls | None = None
    # None: the server is alone.
    cluster: Cluster | None = None
    # The last clients that were cut off, the oldest first. A few are kept: ``ended`` counts all of them.
    cut_off: list[CutOff] = []
    hook: Webhook | None = None


# Changes.


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a change is: what it does to which worker."""

    # start, move or retire.
    phase: str = ""
    worker: int | None = None
    # Workers that are done, of how many.
    done: int = 0
    workers: int | None = None
    # Connections moved so far, and those that the worker still has.
    moved: int = 0
    connections: int = 0


class ScaleResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a change of the number of workers did."""

    generation: int | None = None
    workers: int | None = None
    # Connections moved, left with workers that should have been replaced, and ended by a worker's death.
    moved: int = 0
    failed: int = 0
    lost: int = 0
    pauses: Pauses = Pauses()
    seconds: float = 0.0


class ReloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload did; see :class:`ScaleResult` and :class:`LastReload`."""

    generation: int | None = None
    workers: int | None = None
    renewed: list[int] = []
    changed: list[str] = []
    kept: dict[str, str] = {}
    moved: int = 0
    failed: int = 0
    lost: int = 0
    pauses: Pauses = Pauses()
    seconds: float = 0.0


# Everything else.


class Stopping(msgspec.Struct, frozen=True):
    """The processes that will end, the supervisor first, and in how many seconds at most."""

    processes: Annotated[list[Identity], msgspec.Meta(min_length=1)]
    # None: the server is older than this field.
    timeout: float | None = None


class Said(msgspec.Struct, frozen=True):
    """How many clients an announcement went to here, and on how many other hosts it is said too."""

    connections: int
    hosts: int = 0


class Kicked(msgspec.Struct, frozen=True):
    """How many connections were ended, and the slots of workers that did not answer in time.

    ``hosts`` is how many other hosts end connections from there too, which are not counted.
    """

    ended: int
    silent: list[int]
    hosts: int = 0


class Banned(msgspec.Struct, frozen=True, kw_only=True):
    """The name or host that is banned; see :class:`Kicked`."""

    target: str = ""
    ended: int
    silent: list[int]
    hosts: int = 0


class Muted(msgspec.Struct, frozen=True):
    """The name that is muted, and whether a member has it now."""

    name: str
    here: bool


class Lifted(msgspec.Struct, frozen=True):
    """The ban or mute has ended."""


class Sanction(msgspec.Struct, frozen=True):
    """A ban or a mute, and its end (seconds since 1970; None: for good)."""

    target: str
    until: float | None


class Sanctions(msgspec.Struct, frozen=True):
    """The bans and mutes in force."""

    bans: list[Sanction]
    mutes: list[Sanction]


# Rooms.


class RoomFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A room. Moments are seconds since 1970, None when they are not known."""

    room: str
    members: int
    # Messages that are kept, and the bytes of memory that they take.
    messages: int
    bytes: int
    # When it was made, and when a message or a member last came in.
    made: float | None
    active: float | None
    # The address of the client that made it, for IPv6 its network; empty when it is not known.
    made_by: str = ""


class RoomsPage(msgspec.Struct, frozen=True):
    """A page of rooms; ``next`` asks for the next page, None: the last."""

    rooms: list[RoomFacts]
    next: str | None = None


class Closed(msgspec.Struct, frozen=True):
    """The room that has ended, and how many members it had."""

    room: str
    members: int


# Clients.


class ClientFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A connection."""

    # host:port or [host]:port.
    address: str
    # Empty for a client without one.
    name: str = ""
    # None: it hears no room.
    room: str | None = None
    # plain, websocket or http; None: not known yet.
    protocol: str | None = None
    # Whether it is encrypted here.
    tls: bool = False
    # served, moving (between two workers) or waiting (for its first worker).
    state: str = "served"
    # When its first worker took it (seconds since 1970), and how long ago it was last heard (seconds). None:
    # not known.
    since: float | None = None
    silent: float | None = None
    # Bytes that it has not been sent yet; what its socket holds is not among them.
    behind: int = 0
    # The worker's slot.
    worker: int | None = None


class ClientsPage(msgspec.Struct, frozen=True):
    """A page of connections, the oldest first; ``next`` asks for the next page, None: this is the last one.

    ``silent`` are the slots of workers that did not answer in time: the page is to be asked for without them.
    ``shaking`` is how many clients are with TLS processes alone, on no page.
    """

    clients: list[ClientFacts]
    next: int | None = None
    silent: list[int] = []
    shaking: int = 0
