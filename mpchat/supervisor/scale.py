"""Scale: have more workers, or fewer. A worker that goes moves all its connections out first."""

from collections.abc import Sequence

from mpchat.config import MOST_WORKERS
from mpchat.errors import StartError
from mpchat.supervisor.change import Change
from mpchat.supervisor.move_out import BATCH, Steps
from mpchat.supervisor.rebalance import even_out
from mpchat.supervisor.slot import Slot, SlotState
from mpchat.supervisor.worker_handle import WorkerHandle

# Workers that are started at a time: all at once would share the cores until none is ready in time.
TOGETHER = 8


def workers_after(workers: int, difference: int) -> int:
    """Return how many workers there should be when so many more, or fewer, are asked for."""
    return min(max(1, workers + difference), MOST_WORKERS)


def scale(change: Change, workers: int) -> Steps:
    """Have ``workers`` workers, and spread connections evenly over them."""
    yield from resize(change, workers)
    change.pool.workers_setting = change.pool.config.workers
    yield from even_out(change, BATCH, 0.0)


def resize(change: Change, workers: int, renewed: Sequence[int] = ()) -> Steps:
    """Have ``workers`` workers; slots that a reload has ``renewed`` stay rather than others."""
    pool = change.pool
    if workers > len(pool):
        yield from _grow(change, workers - len(pool))
    # Slots that were not renewed go first, then those that do not serve, then the highest numbers.
    slots = sorted(
        pool.slots.values(),
        key=lambda slot: (slot.number not in renewed, slot.state is not SlotState.RUNNING, slot.number),
    )
    for slot in slots[:workers]:
        if slot.failing and slot.handle is None:  # a request for so many workers includes this one
            yield from _revive(change, slot)
    yield from _shrink(change, [slot.number for slot in slots[workers:]])


def _grow(change: Change, count: int) -> Steps:
    """Start more workers; if anything goes wrong, only those that have begun to serve stay."""
    pool = change.pool
    added = pool.add(count)
    try:
        for first in range(0, count, TOGETHER):
            group = added[first : first + TOGETHER]
            started = [change.start_next(slot, pool.config, pool.generation) for slot in group]
            for done, (slot, new) in enumerate(zip(group, started, strict=True), first):
                change.report("start", slot.number, done, count)
                yield from change.until_ready(new)
                pool.promote(slot)
    except Exception:
        yield from _drop(change, [slot for slot in added if slot.state is not SlotState.RUNNING])
        raise


def _drop(change: Change, slots: list[Slot]) -> Steps:
    """Remove slots whose workers do not serve; none of them starts another worker meanwhile."""
    while any(slot.handles for slot in slots):
        for slot in slots:
            slot.cancel_restart()
            for handle in slot.handles:
                handle.kill()
        yield
    for slot in slots:
        change.pool.remove(slot)


def _revive(change: Change, slot: Slot) -> Steps:
    """Start a worker at once in a slot whose workers keep dying."""
    pool = change.pool
    yield from change.until_ready(change.start_next(slot, pool.config, pool.generation))
    pool.promote(slot)


def _shrink(change: Change, going: list[int]) -> Steps:
    """Empty and remove slots; if one cannot be emptied, it and those after it serve on."""
    pool = change.pool
    olds = [pool.dismiss(pool.slots[number]) for number in going]
    for done, (number, old) in enumerate(zip(going, olds, strict=True)):
        try:
            if old is not None:
                yield from _empty(change, old, done, len(going))
        except StartError:
            for each in going[done:]:
                pool.recall(pool.slots[each])
            raise
        pool.remove(pool.slots[number])


def _empty(change: Change, old: WorkerHandle, done: int, of: int) -> Steps:
    """Move all of a worker's connections to others, and let it end."""
    while old.load and not old.closed and not change.lacks_room:
        change.report("move", old.slot, done, of, old.load)
        yield from change.mover.move_from(old, old.load, lambda: change.lacks_room)
    while change.placement.transit and not change.lacks_room:
        yield
    if change.lacks_room:
        raise StartError(
            "workers kept dying meanwhile: the workers that would be left have no room for all connections"
        )
    yield from change.retire(old)
