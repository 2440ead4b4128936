"""Reload: read the settings again and replace every worker, one slot after the other.

The new worker starts, becomes ready, gets all connections of the old one, and the old one ends. New settings
hold from the moment at which the first new worker has taken over; until then a worker that dies elsewhere is
replaced by one with the settings before.
"""

from mpchat.config import Config, differing
from mpchat.errors import ConfigError, StartError
from mpchat.supervisor.change import Change, Renewal
from mpchat.supervisor.live_settings import LiveSettings, Prepared
from mpchat.supervisor.move_out import ASK_AGAIN, Steps
from mpchat.supervisor.scale import resize
from mpchat.supervisor.slot import Slot
from mpchat.supervisor.worker_handle import WorkerHandle


def reload(change: Change, settings: LiveSettings) -> Steps:
    """Replace all workers. Raise :class:`StartError` where it could not go on; what is done stays done."""
    assert change.renewal is not None
    try:
        prepared = yield from settings.check(lambda: change.nap(ASK_AGAIN))
    except ConfigError as error:
        raise StartError(f"nothing has changed: {error}") from None
    workers = _workers_after(change, prepared.config)
    change.aim = workers
    yield from _Reload(change, change.renewal, settings, prepared).steps(workers)
    change.pool.workers_setting = prepared.config.workers


def _workers_after(change: Change, config: Config) -> int:
    """How many workers there will be: a ``workers`` setting that has not changed leaves what scaling made."""
    pool = change.pool
    return pool.wanted(config) if config.workers != pool.workers_setting else len(pool)


class _Reload:
    """The part of a reload that comes after its settings have been checked."""

    def __init__(self, change: Change, renewal: Renewal, settings: LiveSettings, prepared: Prepared) -> None:
        self._change = change
        self._renewal = renewal
        self._settings = settings
        self._prepared = prepared
        self._generation = change.pool.generation + 1
        self._adopted = False

    def steps(self, workers: int) -> Steps:
        change = self._change
        todo = sorted(change.pool.slots)[:workers]
        try:
            change.check_room(workers)
            for done, number in enumerate(todo):
                yield from self._renew(change.pool.slots[number], done, len(todo))
                self._adopt()
                self._renewal.renewed.append(number)
            yield from resize(change, workers, todo)
        finally:
            if not self._adopted:
                self._settings.give_up(self._prepared)

    def _adopt(self) -> None:
        """Let the new settings hold, once."""
        if self._adopted:
            return
        self._adopted = True
        pool, config = self._change.pool, self._prepared.config
        before, pool.config, pool.generation = pool.config, config, self._generation
        self._settings.adopt(self._prepared)
        kept = self._renewal.kept = self._prepared.kept
        self._renewal.changed = [name for name in differing(before, config) if name not in kept]

    def _renew(self, slot: Slot, done: int, of: int) -> Steps:
        """Replace one slot's worker."""
        change = self._change
        change.report("start", slot.number, done, of)
        new = change.start_next(slot, self._prepared.config, self._generation)
        yield from change.until_ready(new)
        old = change.pool.promote(slot)
        if old is None:
            return
        try:
            while old.load and not old.closed and not new.closed:
                change.report("move", slot.number, done, of, old.load)
                yield from change.mover.move_from(old, old.load, lambda: new.closed)
        except StartError:
            if not new.closed:
                yield from self._take_back(slot, new)
            raise
        yield from change.mover.all_arrived()
        if not new.closed:
            change.report("retire", slot.number, done, of)
            yield from change.retire(old)
        if new.closed:
            raise StartError(
                f"the new worker {slot.number} died while it took over, {new.how}; "
                f"{'the next one is being started' if old.closed else 'the one before it serves on'}"
            )

    def _take_back(self, slot: Slot, new: WorkerHandle) -> Steps:
        """Let the worker before serve again; the new one moves its connections out and ends.

        If the old worker dies meanwhile, the new worker goes on serving.
        """
        change = self._change
        change.pool.recall(slot)
        while new.load and not new.closed and slot.handle is not new:
            change.mover.never_give_up()  # meanwhile both workers serve their connections
            yield from change.mover.move_from(new, new.load, lambda: False)
        yield from change.mover.all_arrived()
        if slot.handle is not new:
            yield from change.retire(new)
