"""Status: puts together what the server says of itself; ``mpchat status`` shows it.

The figures come from the parts that count them. The shapes stand in :mod:`mpchat.control.answers`.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mpchat import __version__
from mpchat.control.answers import (
    Cluster,
    CutOff,
    History,
    Hosts,
    Limits,
    ServerStatus,
    Tls,
    TlsProcess,
    Webhook,
    WorkerStatus,
)
from mpchat.errors import MpchatError
from mpchat.hub.archive import Archive
from mpchat.hub.hub import Hub
from mpchat.ipc import logs
from mpchat.ipc.durations import Durations
from mpchat.ipc.items import Beat
from mpchat.supervisor.acceptor import Acceptor
from mpchat.supervisor.admission import Admission
from mpchat.supervisor.change_runner import ChangeRunner
from mpchat.supervisor.cluster_part import ClusterPart
from mpchat.supervisor.heartbeat import Rates
from mpchat.supervisor.hook_part import HookPart
from mpchat.supervisor.lifecycle import Lifecycle
from mpchat.supervisor.live_settings import LiveSettings
from mpchat.supervisor.metrics.figures import Counts, Figures, HubFigures, PoolFigures
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.slot import Slot
from mpchat.supervisor.startup import StartFacts
from mpchat.supervisor.tls_pool import TlsPool


@dataclass(eq=False)
class StatusReport:
    """The parts that have something to say."""

    settings: LiveSettings
    lifecycle: Lifecycle
    acceptor: Acceptor
    admission: Admission
    hub: Hub
    archive: Archive | None
    pool: WorkerPool
    tls: TlsPool
    placement: Placement
    changes: ChangeRunner
    # The folder of the instance's files.
    folder: Path
    # None: the server is alone.
    cluster: ClusterPart | None = None
    # None: it is not made yet.
    hook: HookPart | None = None

    def figures(self, turns: Durations) -> Figures:
        """Return what the metrics are made of; ``turns`` are those of this process's loop. Takes no time."""
        hub, pool, tls, placement = self.hub, self.pool, self.tls, self.placement
        certificate = self.tls.certificate
        return Figures(
            started=self.lifecycle.started,
            running=self.lifecycle.running,
            connections=self.admission.connections,
            fits=self.admission.limit,
            descriptors=self.settings.descriptors,
            accepted=self.acceptor.accepted,
            refused=dict(self.acceptor.refusals.counts),
            waiting=len(placement),
            in_transit=len(placement.transit),
            moves=placement.transit.moves,
            changes=dict(self.changes.ended),
            hub=HubFigures(
                members=hub.delivery.recipients,
                held_names=hub.state.members.claims.held,
                rooms=hub.rooms,
                streams=hub.delivery.kept_of_all,
                private=hub.private,
                announced=hub.announced,
                trips=Counts.of(pool.trips),
            ),
            workers=_pool_figures(pool),
            tls=_pool_figures(tls),
            loop=Counts.of(turns),
            cpu=time.process_time(),
            log_dropped=logs.dropped(),
            certificate_ends=certificate.expires if certificate else None,
            history=_history(self.archive) if self.archive else None,
            hook=self._webhook,
            cluster=self._cluster,
        )

    def start_facts(self) -> StartFacts:
        """Return what the command that started the server shows."""
        cluster = self._cluster
        return StartFacts(
            name=self.settings.config.name,
            pid=os.getpid(),
            addresses=self.acceptor.addresses,
            workers=len(self.pool),
            fits=self.admission.limit,
            log=self.settings.config.log_file,
            secure_name=next((each for each in self._secure_names if "*" not in each), ""),
            hosts=len(cluster.hosts) if cluster else None,
        )

    @property
    def _webhook(self) -> Webhook | None:
        return self.hook.status() if self.hook else None

    @property
    def _cluster(self) -> Cluster | None:
        return self.cluster.status() if self.cluster else None

    @property
    def _secure_names(self) -> list[str]:
        """What the certificate is for; nothing while TLS is off."""
        return list(self.tls.certificate.names) if self.tls.certificate else []

    def status(self) -> ServerStatus:
        """Return what ``mpchat status --json`` prints."""
        config = self.settings.config
        return ServerStatus(
            name=config.name,
            pid=os.getpid(),
            version=__version__,
            state=self.lifecycle.state.value,
            started=self.lifecycle.started,
            uptime=self.lifecycle.uptime,
            addresses=self.acceptor.addresses,
            limits=self._limits(),
            connections=self.admission.connections,
            messages=self.hub.messages,
            people=self.hub.members,
            rooms=self.hub.rooms,
            history=_history(self.archive) if self.archive else None,
            refused=self.acceptor.refusals.count,
            refused_by_code=dict(self.acceptor.refusals.counts),
            log=config.log_file,
            runtime_dir=str(self.folder),
            generation=self.pool.generation,
            moves=self.placement.transit.moves,
            change=self.changes.under_way,
            last_reload=self.changes.last_reload,
            workers=[worker_status(slot) for _, slot in sorted(self.pool.slots.items())],
            auth=config.auth,
            tls=self._tls() if self.tls.slots or config.tls_on else None,
            cluster=self._cluster,
            cut_off=[CutOff(**each._asdict()) for each in self.hub.cut_offs.last],
            hook=self._webhook,
        )

    def line(self) -> str:
        """Return how the server is, as one line for a service manager."""
        serving, workers = len(self.pool.serving), len(self.pool)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.lifecycle.started))
        parts = [
            f"connections: {self.admission.connections}",
            f"workers: {serving} of {workers}",
            f"at {', '.join(self.acceptor.addresses)}",
            f"since {since}",
        ]
        reload = self.changes.last_reload
        if reload is not None and reload.exit:
            parts.append(f"the last reload failed: {reload.text}")
        return "; ".join(parts)

    def hosts(self) -> Hosts:
        """Return what ``mpchat hosts --json`` prints. Raise :class:`MpchatError` if the server is alone."""
        if (cluster := self._cluster) is None:
            raise MpchatError("this server is alone: the setting cluster is empty")
        return Hosts(cluster.hosts)

    def _tls(self) -> Tls:
        config, certificate = self.settings.config, self.tls.certificate
        return Tls(
            mode=config.tls if config.tls_on else "off",
            names=self._secure_names,
            expires=certificate.expires if certificate else None,
            warning=(certificate.warning(time.time()) if certificate else None) or "",
            processes=[_tls_process(slot) for _, slot in sorted(self.tls.slots.items())],
        )

    def _limits(self) -> Limits:
        config = self.settings.config
        return Limits(
            connections=self.admission.limit,
            per_address=config.max_per_address,
            payload=config.payload_limit,
            lag=config.lag_limit,
            descriptors=self.settings.descriptors,
        )


def _pool_figures(pool: WorkerPool) -> PoolFigures:
    return PoolFigures(
        states=Counter(slot.state.value for slot in pool.slots.values()),
        counted=pool.totals.by_title(),
        running=pool.totals.running(),
        lost=pool.lost,
        restarts=pool.restarts,
        deaths=dict(pool.deaths),
    )


def _tls_process(slot: Slot) -> TlsProcess:
    """Return a slot's row; its last clients may be with a process that gets no further ones."""
    handle = slot.handle or slot.old
    beat, rates = (handle.heartbeat.beat, handle.heartbeat.rates()) if handle else (Beat(), Rates())
    return TlsProcess(
        slot=slot.number,
        pid=handle.pid if handle else None,
        state=slot.state.value,
        connections=sum(each.load for each in slot.handles),
        shaking=beat.shaking,
        handshakes=beat.handshakes,
        ended=dict(beat.ended),
        lag_ms=round(beat.lag * 1000, 3),
        silent=handle.heartbeat.silence(time.monotonic()) if handle else 0.0,
        rss=handle.process.memory() if handle else 0,
        cpu=rates.cpu,
        restarts=slot.restarts,
        restart_in=max(0.0, slot.restart_at - time.monotonic()) if slot.restart_at is not None else None,
        deaths=slot.back_off.deaths,
        died=slot.died,
    )


def _history(archive: Archive) -> History:
    return History(**archive.status()._asdict())


def worker_status(slot: Slot) -> WorkerStatus:
    """Return a slot's row: that of the worker that serves, else of the one that will or did."""
    handle = slot.handle or slot.next or slot.old
    beat, rates = (handle.heartbeat.beat, handle.heartbeat.rates()) if handle else (Beat(), Rates())
    return WorkerStatus(
        slot=slot.number,
        pid=handle.pid if handle else None,
        state=slot.state.value,
        generation=handle.generation if handle else None,
        connections=sum(each.load for each in slot.handles),
        messages_in=beat.messages_in,
        messages_out=beat.messages_out,
        in_per_second=rates.messages_in,
        out_per_second=rates.messages_out,
        lag_ms=round(beat.lag * 1000, 3),
        late=beat.late,
        silent=handle.heartbeat.silence(time.monotonic()) if handle else 0.0,
        ended=dict(beat.ended),
        rss=handle.process.memory() if handle else 0,
        cpu=rates.cpu,
        restarts=slot.restarts,
        restart_in=max(0.0, slot.restart_at - time.monotonic()) if slot.restart_at is not None else None,
        deaths=slot.back_off.deaths,
        died=slot.died,
    )
