"""Metric table: every metric with its name, kind, labels and meaning, and how it follows from the figures.

The manual's page is made of this table, and :mod:`mpchat.supervisor.metrics.collector` gives it to
``prometheus-client``. Names are Prometheus's: base units, and ``_total`` behind those of counters.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from mpchat import __version__
from mpchat.ipc.items import Beat
from mpchat.ipc.reasons import SLOW, UNREAD
from mpchat.supervisor.metrics.figures import Counts, Figures, Held, PoolFigures
from mpchat.supervisor.metrics.totals import Counted, total

# Why connections end that were with a process which died.
DIED = "process died"
# Counted as none before the first one, so that an alert sees the first one come.
ENDS_AT_START = {SLOW: 0, UNREAD: 0, DIED: 0}
REFUSED_AT_START = {"full": 0}
CLUSTER_STATES = ("joining", "member", "away", "returning", "recovering", "left")
# As the label ``process`` has it.
SUPERVISOR = "supervisor"


class Snapshot(NamedTuple):
    """The figures of one scrape."""

    figures: Figures
    # By the titles of processes.
    held: Mapping[str, Held]
    # What all workers, and all TLS processes, have counted.
    workers: Counted
    tls: Counted

    @classmethod
    def of(cls, figures: Figures, held: Mapping[str, Held]) -> "Snapshot":
        """Add up what processes have counted."""
        sums = [total(each.counted.values()) for each in (figures.workers, figures.tls)]
        return cls(figures, held, *sums)


class Kind(Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Value = int | float | Counts
# The values of the labels, and the value.
Sample = tuple[tuple[str, ...], Value]


class Metric(NamedTuple):
    """One metric."""

    # Without ``_total``.
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Snapshot], Iterable[Sample]]

    @property
    def full_name(self) -> str:
        """The name as programs ask for it."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


# How values are found.


def _one(find: Callable[[Snapshot], Value | None]) -> Callable[[Snapshot], Iterable[Sample]]:
    """Return what gives one sample without labels; none while the value is None."""

    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        value = find(snapshot)
        if value is not None:
            yield (), value

    return samples


def _each(find: Callable[[Snapshot], Mapping[str, Value]]) -> Callable[[Snapshot], Iterable[Sample]]:
    """Return what gives a sample for each value of one label."""
    return lambda snapshot: (((name,), value) for name, value in find(snapshot).items())


def _now(pool: PoolFigures, field: str) -> int:
    """Return the sum of what the processes that run have said in their last beats."""
    return sum(getattr(beat, field) for _, _, beat in pool.running)


def _protocols(snapshot: Snapshot) -> dict[str, Value]:
    beats = [beat for _, _, beat in snapshot.figures.workers.running]
    others: dict[str, Value] = {
        "websocket": sum(each.websockets for each in beats),
        "http": sum(each.browsers for each in beats),
        "undecided": sum(each.undecided for each in beats),
    }
    return {"plain": sum(map(_plain, beats)), **others}


def _plain(beat: Beat) -> int:
    return max(0, beat.connections - beat.websockets - beat.browsers - beat.undecided)


def _states(snapshot: Snapshot) -> dict[str, Value]:
    figures = snapshot.figures
    barred, shaking = _now(figures.workers, "barred"), _now(figures.tls, "shaking")
    browsing = _now(figures.workers, "browsers")
    others = figures.hub.members + barred + browsing + shaking + figures.waiting
    return {
        "plain": max(0, figures.connections - others),
        "member": figures.hub.members,
        "barred": barred,
        "http": browsing,
        "handshake": shaking,
        "waiting": figures.waiting,
    }


def _messages(snapshot: Snapshot) -> dict[str, Value]:
    counted, hub = snapshot.workers, snapshot.figures.hub
    return {
        "plain": counted.messages_in - counted.from_members,
        "room": counted.from_members,
        "private": hub.private,
        "announcement": hub.announced,
    }


def _ends(snapshot: Snapshot) -> dict[str, Value]:
    return {**ENDS_AT_START, DIED: snapshot.figures.workers.lost, **snapshot.workers.ended}


def _tls_ends(snapshot: Snapshot) -> dict[str, Value]:
    lost = snapshot.figures.tls.lost
    return {**({DIED: lost} if lost else {}), **snapshot.tls.ended}


def _pools(snapshot: Snapshot) -> Iterator[tuple[str, PoolFigures]]:
    yield "worker", snapshot.figures.workers
    if snapshot.figures.tls.states or snapshot.figures.tls.counted:
        yield "tls", snapshot.figures.tls


def _slots(snapshot: Snapshot) -> Iterator[Sample]:
    for kind, pool in _pools(snapshot):
        for state, count in pool.states.items():
            yield (kind, state.lower()), count


def _restarts(snapshot: Snapshot) -> Iterator[Sample]:
    for kind, pool in _pools(snapshot):
        yield (kind,), pool.restarts


def _deaths(snapshot: Snapshot) -> Iterator[Sample]:
    for kind, pool in _pools(snapshot):
        for cause, count in pool.deaths.items():
            yield (kind, cause), count


def _changes(snapshot: Snapshot) -> Iterator[Sample]:
    for (name, done), count in snapshot.figures.changes.items():
        yield (name, "done" if done else "failed"), count


def _by_process(
    find: Callable[[Counted], Value], own: Callable[[Figures], Value]
) -> Callable[..., Iterator[Sample]]:
    """Return what gives a sample for each slot's processes, and the supervisor's ``own``."""

    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        yield (SUPERVISOR,), own(snapshot.figures)
        for _, pool in _pools(snapshot):
            for title, counted in pool.counted.items():
                yield (title,), find(counted)

    return samples


def _build(_: Snapshot) -> Iterator[Sample]:
    yield (__version__, platform.python_version()), 1


def _history_failing(snapshot: Snapshot) -> int | None:
    history = snapshot.figures.history
    return None if history is None else int(history.state != "ok")


def _history(field: str) -> Callable[[Snapshot], Value | None]:
    return lambda snapshot: getattr(snapshot.figures.history, field, None)


def _hook_failing(snapshot: Snapshot) -> int | None:
    hook = snapshot.figures.hook
    return None if hook is None else int(hook.state != "ok")


def _hook(field: str) -> Callable[[Snapshot], Value | None]:
    return lambda snapshot: getattr(snapshot.figures.hook, field, None)


def _cluster(field: str) -> Callable[[Snapshot], Value | None]:
    return lambda snapshot: getattr(snapshot.figures.cluster, field, None)


def _cluster_state(snapshot: Snapshot) -> Iterator[Sample]:
    cluster = snapshot.figures.cluster
    if cluster is not None:
        for state in CLUSTER_STATES:
            yield (state,), int(state == cluster.state)


def _cluster_hosts(snapshot: Snapshot) -> int | None:
    cluster = snapshot.figures.cluster
    return None if cluster is None else len(cluster.hosts)


def _cluster_lease(snapshot: Snapshot) -> float | None:
    cluster = snapshot.figures.cluster
    own = [each for each in cluster.hosts if each.state == "here"] if cluster is not None else []
    return own[0].lease if own else None


def _tls_clients(snapshot: Snapshot) -> dict[str, Value]:
    tls = snapshot.figures.tls
    if not tls.states:
        return {}
    shaking = _now(tls, "shaking")
    return {"open": max(0, _now(tls, "connections") - shaking), "handshake": shaking}


def _if_tls(snapshot: Snapshot) -> int | None:
    return snapshot.tls.handshakes if snapshot.figures.tls.states or snapshot.tls.handshakes else None


COUNTER, GAUGE, HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS = (
    # The server.
    Metric(
        "mpchat_build_info",
        GAUGE,
        "Always 1; the labels name the release of mpchat and of Python.",
        ("version", "python"),
        _build,
    ),
    Metric(
        "mpchat_start_time_seconds",
        GAUGE,
        "When the server was started, in Unix time.",
        (),
        _one(lambda each: each.figures.started),
    ),
    Metric(
        "mpchat_running",
        GAUGE,
        "1 while the server serves, 0 while it starts or stops.",
        (),
        _one(lambda each: int(each.figures.running)),
    ),
    # Connections.
    Metric(
        "mpchat_connections",
        GAUGE,
        "Connections that workers have, by what the client speaks. plain: frames over TCP, members too. "
        "undecided: the client has not said enough.",
        ("protocol",),
        _each(_protocols),
    ),
    Metric(
        "mpchat_clients",
        GAUGE,
        "Connections by their state. plain: without a name. member: it has asked for a name. barred: it has "
        "not shown the proof that it needs. http: it speaks HTTP. handshake: TLS is being negotiated. "
        "waiting: no worker has it.",
        ("state",),
        _each(_states),
    ),
    Metric(
        "mpchat_connections_limit",
        GAUGE,
        "Connections that the server takes at a time.",
        (),
        _one(lambda each: each.figures.fits),
    ),
    Metric(
        "mpchat_connections_in_transit",
        GAUGE,
        "Connections between two workers.",
        (),
        _one(lambda each: each.figures.in_transit),
    ),
    Metric(
        "mpchat_clients_late",
        GAUGE,
        "Clients that have not been sent all that was said.",
        (),
        _one(lambda each: _now(each.figures.workers, "late")),
    ),
    Metric(
        "mpchat_clients_half_closed",
        GAUGE,
        "Clients that have ended their stream, and are still sent something.",
        (),
        _one(lambda each: _now(each.figures.workers, "half_closed")),
    ),
    Metric(
        "mpchat_accepts",
        COUNTER,
        "Connections accepted, those that were refused then included.",
        (),
        _one(lambda each: each.figures.accepted),
    ),
    Metric(
        "mpchat_refusals",
        COUNTER,
        "Connections refused, by the code of the error.",
        ("code",),
        _each(lambda each: {**REFUSED_AT_START, **each.figures.refused}),
    ),
    Metric(
        "mpchat_connection_ends",
        COUNTER,
        f"Connections that have ended, by reason. {SLOW} and {UNREAD}: the client was cut off.",
        ("reason",),
        _each(_ends),
    ),
    # Messages.
    Metric(
        "mpchat_messages",
        COUNTER,
        "Messages that clients of this server have sent, and announcements. plain: by clients without a "
        "name. room: by members. private: to one member.",
        ("kind",),
        _each(_messages),
    ),
    Metric(
        "mpchat_deliveries",
        COUNTER,
        "Messages given to clients, each counted once for each client.",
        (),
        _one(lambda each: each.workers.messages_out),
    ),
    Metric(
        "mpchat_received_bytes",
        COUNTER,
        "Bytes read from clients.",
        (),
        _one(lambda each: each.workers.bytes_in),
    ),
    Metric(
        "mpchat_sent_bytes",
        COUNTER,
        "Bytes that clients' sockets took.",
        (),
        _one(lambda each: each.workers.bytes_out),
    ),
    Metric(
        "mpchat_errors",
        COUNTER,
        "Errors that clients were sent, by code. Repeated errors that are told as one count once.",
        ("code",),
        _each(lambda each: dict(each.workers.errors)),
    ),
    Metric(
        "mpchat_budget_waits",
        COUNTER,
        "How often a client was not read from for a while, because it had said or cost too much.",
        (),
        _one(lambda each: each.workers.waits),
    ),
    Metric(
        "mpchat_outbox_bytes",
        GAUGE,
        "Memory taken by what waits for single clients, such as answers.",
        (),
        _one(lambda each: _now(each.figures.workers, "outboxes")),
    ),
    Metric(
        "mpchat_stream_bytes",
        GAUGE,
        "Bytes that are kept of the streams of rooms: by the hub, and by all workers.",
        ("place",),
        _each(
            lambda each: {"hub": each.figures.hub.streams, "workers": _now(each.figures.workers, "streams")}
        ),
    ),
    # Rooms and names.
    Metric(
        "mpchat_rooms", GAUGE, "Rooms, the lobby included.", (), _one(lambda each: each.figures.hub.rooms)
    ),
    Metric(
        "mpchat_held_names",
        GAUGE,
        "Names that are held for members that may come back.",
        (),
        _one(lambda each: each.figures.hub.held_names),
    ),
    # History.
    Metric(
        "mpchat_history_failing",
        GAUGE,
        "1 while the history file cannot be written; absent without one.",
        (),
        _one(_history_failing),
    ),
    Metric(
        "mpchat_history_waiting_bytes",
        GAUGE,
        "Memory taken by messages that wait to be written to the history file.",
        (),
        _one(_history("waiting")),
    ),
    Metric(
        "mpchat_history_saved_messages",
        COUNTER,
        "Messages written to the history file.",
        (),
        _one(_history("saved")),
    ),
    Metric(
        "mpchat_history_dropped_messages",
        COUNTER,
        "Messages that are missing in the history file.",
        (),
        _one(_history("dropped")),
    ),
    # The webhook.
    Metric(
        "mpchat_hook_failing",
        GAUGE,
        "1 while the webhook's receiver accepts no events; absent without a webhook.",
        (),
        _one(_hook_failing),
    ),
    Metric(
        "mpchat_hook_waiting_events",
        GAUGE,
        "Events that wait for the webhook's receiver.",
        (),
        _one(_hook("waiting")),
    ),
    Metric(
        "mpchat_hook_sent_events",
        COUNTER,
        "Events that the webhook's receiver has accepted.",
        (),
        _one(_hook("sent")),
    ),
    Metric(
        "mpchat_hook_dropped_events",
        COUNTER,
        "Events that the webhook's receiver never gets: too many waited, or it refused them.",
        (),
        _one(_hook("dropped")),
    ),
    # Processes.
    Metric(
        "mpchat_slots",
        GAUGE,
        "Places for workers and TLS processes, by kind and state. running: its process serves. backoff: its "
        "process died, and the next one starts soon.",
        ("kind", "state"),
        _slots,
    ),
    Metric(
        "mpchat_moves",
        COUNTER,
        "Connections moved to another worker.",
        (),
        _one(lambda each: each.figures.moves),
    ),
    Metric(
        "mpchat_changes",
        COUNTER,
        "Changes that have ended: reload, scale and rebalance, by outcome (done, failed).",
        ("change", "outcome"),
        _changes,
    ),
    Metric(
        "mpchat_restarts",
        COUNTER,
        "Processes started in the place of one that died, by kind (worker, tls).",
        ("kind",),
        _restarts,
    ),
    Metric(
        "mpchat_deaths",
        COUNTER,
        "Processes that died although nobody had told them to end, by kind and cause.",
        ("kind", "cause"),
        _deaths,
    ),
    Metric(
        "mpchat_loop_turn_seconds",
        HISTOGRAM,
        "Turns of a process's loop: for how long nothing else was looked at.",
        ("process",),
        _by_process(lambda each: Counts(each.turns, each.turn_time), lambda figures: figures.loop),
    ),
    Metric(
        "mpchat_hub_trip_seconds",
        HISTOGRAM,
        "Trips of an item from the hub to a worker and back, behind all that waits; one a second and worker "
        "while metrics are asked for.",
        (),
        _one(lambda each: each.figures.hub.trips),
    ),
    Metric(
        "mpchat_process_cpu_seconds",
        COUNTER,
        "CPU time of a process, in seconds.",
        ("process",),
        _by_process(lambda each: each.cpu, lambda figures: figures.cpu),
    ),
    Metric(
        "mpchat_process_resident_memory_bytes",
        GAUGE,
        "Resident memory of a process.",
        ("process",),
        _each(lambda each: {title: held.memory for title, held in each.held.items()}),
    ),
    Metric(
        "mpchat_process_open_descriptors",
        GAUGE,
        "Descriptors that a process has open.",
        ("process",),
        _each(lambda each: {title: held.descriptors for title, held in each.held.items()}),
    ),
    Metric(
        "mpchat_process_descriptors_limit",
        GAUGE,
        "Descriptors that each process may have open.",
        (),
        _one(lambda each: each.figures.descriptors),
    ),
    Metric(
        "mpchat_log_dropped_lines",
        COUNTER,
        "Lines of a process's log that were dropped: the disk was full, or nobody read them.",
        ("process",),
        _by_process(lambda each: each.log_dropped, lambda figures: figures.log_dropped),
    ),
    # TLS.
    Metric(
        "mpchat_tls_connections",
        GAUGE,
        "Clients that TLS processes have, by state (open, handshake); absent without TLS.",
        ("state",),
        _each(_tls_clients),
    ),
    Metric("mpchat_tls_handshakes", COUNTER, "TLS handshakes that were completed.", (), _one(_if_tls)),
    Metric(
        "mpchat_tls_ends",
        COUNTER,
        "Clients that TLS processes have lost or refused, by reason.",
        ("reason",),
        _each(_tls_ends),
    ),
    Metric(
        "mpchat_tls_expiry_timestamp_seconds",
        GAUGE,
        "When the certificate ends, in Unix time; absent without TLS.",
        (),
        _one(lambda each: each.figures.certificate_ends),
    ),
    # The cluster.
    Metric(
        "mpchat_cluster_state",
        GAUGE,
        f"1 for the state of this host in its cluster, 0 for the others: {', '.join(CLUSTER_STATES)}. "
        "Absent for a server that is alone.",
        ("state",),
        _cluster_state,
    ),
    Metric(
        "mpchat_cluster_hosts", GAUGE, "Hosts of the cluster, this one included.", (), _one(_cluster_hosts)
    ),
    Metric(
        "mpchat_cluster_position",
        GAUGE,
        "The batch of the shared log up to which this host has come.",
        (),
        _one(_cluster("position")),
    ),
    Metric(
        "mpchat_cluster_lag_batches",
        GAUGE,
        "Batches between this host and the end of the shared log.",
        (),
        _one(_cluster("lag")),
    ),
    Metric(
        "mpchat_cluster_lag_seconds",
        GAUGE,
        "How far this host is behind the end of the shared log.",
        (),
        _one(_cluster("behind")),
    ),
    Metric(
        "mpchat_cluster_lease_seconds",
        GAUGE,
        "Seconds until this host's lease ends unless it is renewed.",
        (),
        _one(_cluster_lease),
    ),
)
