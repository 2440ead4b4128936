"""The pool of workers: slots, planned starts, and starts that fail. No process, and a clock of the test."""

import errno
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpchat.config import Config, resolve
from mpchat.supervisor import pool, worker_watch
from mpchat.supervisor.move_out import Steps
from mpchat.supervisor.pool import Phase, PoolObserver, WorkerPool
from mpchat.supervisor.reload import _Reload
from mpchat.supervisor.slot import Slot, SlotState


class Clock:
    """A reactor of which the test moves the time. Of its watches the one of number ``fails_at`` fails."""

    def __init__(self, fails_at: int = 0) -> None:
        self.now = 0.0
        self.watched: list[object] = []
        self._timers: list[Any] = []
        self._fails_at = fails_at

    def call_later(self, delay: float, call: Callable[[], None]) -> Any:
        timer = SimpleNamespace(at=self.now + delay, call=call)
        timer.cancel = lambda: setattr(timer, "call", None)
        self._timers.append(timer)
        return timer

    def advance(self, to: float) -> None:
        for timer in sorted(self._timers, key=lambda each: each.at):
            if timer.at <= to and timer.call:
                self.now = timer.at
                call, timer.call = timer.call, None
                call()
        self.now = to

    def watch(self, target: object, events: int, on_event: object) -> None:
        self._fails_at -= 1
        if not self._fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.watched.append(target)

    def forget(self, target: object) -> None:
        self.watched.remove(target)


class Worker:
    """A handle without a process."""

    made: list["Worker"]

    def __init__(self, config: Config, slot: int, generation: int, lock: Path, kind: object) -> None:
        self.slot, self.generation, self.pid, self.load = slot, generation, id(self), 0
        self.drained = False
        self.how, self.retiring, self.identity = "killed by SIGKILL", False, None
        self.heartbeat = SimpleNamespace(ready_at=None)
        self.connections = SimpleNamespace(count=0, asked=False, handoff="handoff")
        self.process = SimpleNamespace(sentinel="sentinel")
        self.endpoint = SimpleNamespace(link=SimpleNamespace())
        self.done: list[str] = []
        Worker.made.append(self)

    def kill(self) -> None:
        self.done.append("kill")

    def close(self) -> None:
        self.done.append("close")

    @property
    def ready(self) -> bool:
        return self.heartbeat.ready_at is not None


class Desk:
    """A pool that serves, with slots of which each has a worker."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Any, Any], None] | None = None
    ) -> None:
        Worker.made = []
        monkeypatch.setattr(pool, "WorkerHandle", Worker)
        self.clock = Clock()
        self._events: dict[int, Any] = {}
        watch = SimpleNamespace(
            begin=begin or (lambda handle, events: self._events.update({id(handle): events}))
        )
        observer = PoolObserver(lambda: None, lambda identities: None, lambda why: None)
        parts: list[Any] = [resolve([])[0], self.clock, None, watch, Path("lock"), observer]
        self.pool = WorkerPool(*parts)
        self.pool.phase = Phase.SERVING

    def _begin(self, handle: Any, events: Any) -> None:
        self._events[id(handle)] = events

    def ready(self, handle: Any) -> None:
        handle.heartbeat.ready_at = self.clock.now
        self._events[id(handle)].on_ready(handle)

    def die(self, handle: Any) -> None:
        self._events[id(handle)].on_death(handle)

    def serving(self) -> Slot:
        (slot,) = self.pool.add(1)
        self.pool.start(slot)
        self.ready(slot.handle)
        return slot


def test_a_start_that_was_planned_for_the_worker_before_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(monkeypatch)
    slot = desk.serving()
    slot.back_off.deaths = 8  # it waits for long
    following = desk.pool.start_next(slot, desk.pool.config, 2)
    desk.die(slot.handle)
    due = slot.restart_at
    assert due is not None
    desk.ready(following)
    desk.pool.promote(slot)
    assert slot.restart_at is None
    desk.pool.dismiss(slot)
    desk.clock.advance(due + 1)
    assert slot.handle is None
    desk.die(following)
    desk.pool.remove(slot)


def test_of_two_planned_starts_the_later_one_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch)
    (slot,) = desk.pool.add(1)
    desk.pool.start_later(slot, 5.0)
    desk.pool.start_later(slot, 20.0)
    desk.clock.advance(10.0)
    assert slot.handle is None
    desk.clock.advance(20.0)
    assert slot.handle is not None


def test_a_slot_that_was_removed_and_made_anew_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch)
    (slot,) = desk.pool.add(1)
    desk.pool.remove(slot)
    desk.pool.add(1)
    desk.pool.start(slot)
    assert slot.handle is None


def test_a_worker_that_cannot_be_watched_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(handle: Any, events: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    desk = Desk(monkeypatch, begin)
    (slot,) = desk.pool.add(1)
    desk.pool.start(slot)
    assert [each.done for each in Worker.made] == [["kill", "close"]]
    assert slot.handle is None
    assert slot.restart_at is not None


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_of_a_worker_that_cannot_be_watched_nothing_is_watched(fails_at: int) -> None:
    Worker.made = []
    clock, attached = Clock(fails_at), list[object]()
    placement = SimpleNamespace(watch=lambda handle: clock.watch(handle.connections.handoff, 0, None))
    hub = SimpleNamespace(attach=attached.append)
    watch = worker_watch.WorkerWatch(*cast(Any, (clock, hub, placement, None)))
    with pytest.raises(OSError, match="No space"):
        watch.begin(cast(Any, Worker(resolve([])[0], 1, 1, Path("lock"), None)), cast(Any, None))
    assert (clock.watched, attached) == ([], [])


def test_a_worker_that_is_called_back_before_it_is_ready_gets_no_client_until_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(monkeypatch)
    (slot,) = desk.pool.add(1)
    desk.pool.start(slot)
    worker = slot.handle
    desk.pool.dismiss(slot)
    desk.pool.recall(slot)
    assert (slot.state, desk.pool.serving) == (SlotState.STARTING, [])
    desk.ready(worker)
    assert (slot.state, desk.pool.serving) == (SlotState.RUNNING, [worker])


def test_a_new_worker_serves_on_when_the_one_before_dies_while_it_takes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(monkeypatch)
    slot = desk.serving()
    old: Any = slot.handle
    new: Any = desk.pool.start_next(slot, desk.pool.config, 1)
    desk.ready(new)
    desk.pool.promote(slot)
    old.load, new.load, old.closed, new.closed = 1, 2, False, False

    def move_from(handle: Worker, count: int, stop: Callable[[], bool]) -> Steps:
        if slot.handle is old:
            desk.die(old)
        yield

    mover = SimpleNamespace(move_from=move_from, never_give_up=lambda: None, all_arrived=lambda: iter(()))
    retired: list[Worker] = []

    def retire(handle: Worker) -> Steps:
        retired.append(handle)
        yield

    change: Any = SimpleNamespace(pool=desk.pool, mover=mover, retire=retire)
    unused: Any = None
    steps = _Reload(change, unused, unused, unused)._take_back(slot, new)
    assert len(list(islice(steps, 10))) < 10, "it ends"
    assert (slot.handle, desk.pool.serving, retired) == (new, [new], [])
