"""Status: puts together what the server says of itself; ``mpchat status`` shows it.

The figures come from the parts that count them. The shapes stand in :mod:`mpchat.control.answers`.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from mpchat import __version__
from mpchat.control.answers import History, Limits, ServerStatus, WorkerStatus
from mpchat.hub.archive import Archive
from mpchat.hub.hub import Hub
from mpchat.ipc.items import Beat
from mpchat.supervisor.acceptor import Acceptor
from mpchat.supervisor.admission import Admission
from mpchat.supervisor.change_runner import ChangeRunner
from mpchat.supervisor.heartbeat import Rates
from mpchat.supervisor.lifecycle import Lifecycle
from mpchat.supervisor.live_settings import LiveSettings
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.slot import Slot
from mpchat.supervisor.startup import StartFacts


@dataclass(frozen=True, eq=False)
class StatusReport:
    """The parts that have something to say."""

    settings: LiveSettings
    lifecycle: Lifecycle
    acceptor: Acceptor
    admission: Admission
    hub: Hub
    archive: Archive | None
    pool: WorkerPool
    placement: Placement
    changes: ChangeRunner
    # The folder of the instance's files.
    folder: Path

    def start_facts(self) -> StartFacts:
        """Return what the command that started the server shows."""
        return StartFacts(
            name=self.settings.config.name,
            pid=os.getpid(),
            addresses=self.acceptor.addresses,
            workers=len(self.pool),
            fits=self.admission.limit,
            log=self.settings.config.log_file,
        )

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
