"""Hang watch: ends workers whose loop does not turn. Their stacks go to the log first."""

import logging
from collections.abc import Iterable

from mpchat.supervisor.heartbeat import READY_TIMEOUT, Health
from mpchat.supervisor.worker_handle import WorkerHandle

log = logging.getLogger("mpchat.supervisor")


def end_hung_workers(handles: Iterable[WorkerHandle], now: float, asleep: float) -> None:
    """Write the stacks of workers that have been silent for too long, then kill them.

    ``asleep`` is for how many of the last seconds this process could not have heard a beat.
    """
    for handle in list(handles):
        handle.heartbeat.forgive(asleep, now)
        health, silence = handle.heartbeat.health(now), handle.heartbeat.silence(now)
        if health is Health.NOT_READY:
            log.error("not ready within %g s, killed: %s", READY_TIMEOUT, handle.title)
            handle.kill()
        elif health is Health.HUNG:
            log.error("hung for %.1f s, its stacks follow: %s", silence, handle.title)
            handle.dump(now)
        elif health is Health.HUNG_AFTER_DUMP:
            log.error("hung for %.1f s, killed: %s", silence, handle.title)
            handle.kill()
