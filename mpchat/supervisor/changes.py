"""Changes: replace all workers, have more or fewer of them, spread connections evenly. One at a time.

A change is a generator. It does what can be done now, yields, and is resumed at every turn of the
supervisor's loop, so it reads from top to bottom although nothing in it ever waits. Whatever happens on the
way, every connection is at any moment with exactly one worker or on its way to one.
"""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol

from mpchat.config import Config, differing
from mpchat.control.messages import Answer, Reply
from mpchat.errors import ConfigError, Exit, MpchatError, StartError
from mpchat.reactor import Reactor
from mpchat.supervisor import policy
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.slot import Slot, SlotState
from mpchat.supervisor.worker_handle import WorkerHandle

# Connections that leave a worker together: their state and descriptors fit one message, and what they wait
# for is the others of their batch.
BATCH = 128
# When nobody asked for it, connections move in small batches with a pause (seconds) in between.
GENTLE_BATCH = 32
GENTLE_PAUSE = 0.05
# Seconds until a worker that had nothing to give away, or could not, is asked again.
ASK_AGAIN = 0.02
# How often a single connection is asked for in vain, for want of descriptors, before a change is given up.
TRIES = 100
# Workers that are started at a time: all at once would share the cores until none is ready in its time.
TOGETHER = 8
# Rounds of evening out; clients that come and go meanwhile may make another one necessary.
ROUNDS = 8
# Seconds that a worker without connections has to post its last words and end.
RETIRE_TIMEOUT = 5.0
# What evening out unasked is called.
REBALANCE = "rebalance"
# Seconds between two progress lines.
TELL_EVERY = 0.1

log = logging.getLogger("mpchat.supervisor")

Steps = Generator[None, None, None]


class Settings(Protocol):
    """What a reload needs to know of settings outside the workers."""

    def check(self, pause: Callable[[], Steps]) -> Generator[None, None, tuple[Config, Any]]:
        """Read the settings again; returns them, and what :meth:`adopt` needs. Goes through ``pause`` while
        it has to wait. Raises :class:`ConfigError` or :class:`StartError`, nothing changed."""

    def adopt(self, config: Config, prepared: Any) -> dict[str, str]:
        """Let them hold from now on; returns those that can't change while the server runs, and why."""

    def give_up(self, prepared: Any) -> None:
        """They will not hold after all."""


class _Change(NamedTuple):
    name: str
    steps: Steps
    # What the answer will say; the steps fill it in.
    result: dict[str, Any]
    reply: Reply | None
    # When it began (seconds, monotonic), and what had been lost and moved by then.
    began: float
    lost_before: int
    moves_before: int


class Changes:
    """The change that is under way, what is wanted after it, and what came of the last reload."""

    def __init__(self, pool: WorkerPool, placement: Placement, reactor: Reactor, settings: Settings) -> None:
        self.last_reload: dict[str, Any] | None = None
        self._pool = pool
        self._placement = placement
        self._reactor = reactor
        self._settings = settings
        self._change: _Change | None = None
        # The setting ``workers`` as it was last carried out, or gone over by a scaling.
        self._workers_set = pool.config.workers
        # What signals have asked for.
        self._reload_wanted = False
        self._workers_wanted: int | None = None
        # How many workers the change under way leads to, as far as that is known.
        self.aim: int | None = None
        # How many connections are moved together: fewer while descriptors are short. Whether that was told in
        # this change, and how often in a row not even one could be moved.
        self._batch = BATCH
        self._told_short = False
        self._in_vain = 0
        self._uneven_since: float | None = None
        self._told_at = 0.0

    @property
    def under_way(self) -> str | None:
        """The name of the change that is under way."""
        return self._change.name if self._change else None

    # What can be asked for.

    def reload(self, reply: Reply | None) -> None:
        """Replace every worker. Raises :class:`StartError` while another change is under way."""
        result: dict[str, Any] = {"renewed": [], "changed": [], "kept": {}}
        self._begin("reload", self._reload(result), result, reply)

    def reload_later(self) -> None:
        """Replace every worker as soon as nothing else is under way; any number of times is once."""
        self._reload_wanted = True

    def scale(self, workers: int, reply: Reply) -> None:
        """Have ``workers`` workers. Raises :class:`StartError` when that cannot be."""
        self._check_room(workers)
        result: dict[str, Any] = {}
        self._begin("scale", self._scale(workers), result, reply)
        self.aim = workers

    def scale_by(self, difference: int) -> None:
        """Have one worker more or fewer, when it is its turn."""
        wanted = self._workers_wanted or self.aim or len(self._pool)
        self._workers_wanted = policy.workers_after(wanted, difference)

    def _begin(self, name: str, steps: Steps, result: dict[str, Any], reply: Reply | None) -> None:
        if self._change is not None and self._change.name == REBALANCE:  # it can go on later
            self._change.steps.close()
            self._finish(Exit.OK, "")
        if self._change is not None:
            steps.close()
            since = time.monotonic() - self._change.began
            raise StartError(f"a {self._change.name} is under way, for {since:.1f} s now; try again after it")
        self._placement.take_pauses()
        self._batch, self._told_short, self._in_vain = BATCH, False, 0
        began, lost, moves = time.monotonic(), self._pool.lost, self._placement.moves
        self._change = _Change(name, steps, result, reply, began, lost, moves)
        log.info("began: %s", name)

    # Going on.

    def step(self) -> None:
        """Go on with what is under way, or with what waits for its turn."""
        if self._change is None:
            self._begin_what_waits()
        if self._change is None:
            return
        try:
            next(self._change.steps)
        except StopIteration:
            self._finish(Exit.OK, "")
        except MpchatError as error:
            self._finish(StartError.exit_code, str(error))
        except Exception:
            log.exception("failed: %s", self._change.name)
            self._finish(Exit.FAILED, f"the server failed at {self._change.name}, see its log")

    def _begin_what_waits(self) -> None:
        if self._reload_wanted:
            self._reload_wanted = False
            self.reload(None)
        elif self._workers_wanted is not None:
            workers, self._workers_wanted = self._workers_wanted, None
            if workers != len(self._pool):
                try:
                    self._check_room(workers)
                except StartError as error:
                    log.warning("not scaled: %s", error)
                else:
                    self._begin("scale", self._scale(workers), {}, None)
                    self.aim = workers

    def _finish(self, code: int, text: str) -> None:
        change, self._change, self.aim = self._change, None, None
        assert change is not None
        pauses = sorted(self._placement.take_pauses())
        result = {
            "generation": self._pool.generation,
            "workers": len(self._pool),
            **change.result,
            "moved": len(pauses),
            "failed": self._left_behind() if code else 0,
            "lost": self._pool.lost - change.lost_before,
            "pauses": {"p50": _share(pauses, 0.5), "p99": _share(pauses, 0.99), "max": _share(pauses, 1.0)},
            "seconds": time.monotonic() - change.began,
        }
        counts = (result["seconds"], len(pauses), result["lost"])
        if code:
            log.error("failed after %.2f s, %d moved, %d lost: %s: %s", *counts, change.name, text)
        else:
            level = logging.WARNING if result["lost"] else logging.INFO
            log.log(level, "done in %.2f s, %d moved, %d lost: %s", *counts, change.name)
        if change.name == "reload":
            shown = ("seconds", "moved", "failed", "lost", "pauses", "renewed", "changed", "kept")
            self.last_reload = {
                "at": time.time(),
                "exit": code,
                "text": text,
                **{key: result[key] for key in shown},
            }
        if change.reply is not None:
            change.reply(Answer(result, code, text))

    def _left_behind(self) -> int:
        """How many connections are with workers older than the settings that should hold."""
        behind = (each for each in self._pool.handles if each.generation < self._pool.generation)
        return sum(each.load for each in behind)

    def cancel(self, why: str) -> None:
        """Begin nothing more. What is on its way between two workers still arrives."""
        self._reload_wanted = False
        self._workers_wanted = None
        if self._change is not None:
            self._change.steps.close()
            self._finish(StartError.exit_code, why)

    def _tell(self, phase: str, worker: int, done: int, of: int, connections: int) -> None:
        """Send a progress line to whoever asked."""
        now = time.monotonic()
        if self._change is None or self._change.reply is None or now - self._told_at < TELL_EVERY:
            return
        self._told_at = now
        progress = {"phase": phase, "worker": worker, "done": done, "workers": of}
        moved = self._placement.moves - self._change.moves_before
        counts = {"moved": moved, "connections": connections}
        self._change.reply(Answer({**progress, **counts}, final=False))

    # Reload.

    def _reload(self, result: dict[str, Any]) -> Steps:
        pool = self._pool
        try:
            config, prepared = yield from self._settings.check(lambda: self._nap(ASK_AGAIN))
        except ConfigError as error:
            raise StartError(f"nothing has changed: {error}") from None
        before, generation = pool.config, pool.generation + 1
        # A number of workers that is not changed in the settings leaves what a scaling made of it.
        workers = pool.wanted(config) if config.workers != self._workers_set else len(pool)
        self.aim = workers
        todo = sorted(pool.slots)[:workers]
        adopted = False
        try:
            self._check_room(workers)
            for done, number in enumerate(todo):
                yield from self._renew(pool.slots[number], config, generation, done, len(todo))
                if not adopted:  # not before a worker has taken over with them; until then who dies elsewhere
                    adopted = True  # is replaced by one with those that hold
                    pool.config, pool.generation = config, generation
                    result["kept"] = self._settings.adopt(config, prepared)
                    result["changed"] = [
                        each for each in differing(before, config) if each not in result["kept"]
                    ]
                result["renewed"].append(number)
            yield from self._resize(workers, todo)
            self._workers_set = config.workers
        finally:
            if not adopted:
                self._settings.give_up(prepared)

    def _renew(self, slot: Slot, config: Config, generation: int, done: int, of: int) -> Steps:
        """Replace one slot's worker: start, ready, move all connections, retire the old one."""
        pool = self._pool
        self._tell("start", slot.number, done, of, 0)
        new = self._start_next(slot, config, generation)
        yield from self._until_ready(new)
        old = pool.promote(slot)
        if old is None:
            return
        try:
            while old.load and not old.closed and not new.closed:
                self._tell("move", slot.number, done, of, old.load)
                yield from self._take_from(old, old.load, lambda: new.closed)
        except StartError:
            if not new.closed:
                yield from self._give_back(slot, new)
            raise
        yield from self._all_arrived()
        if not new.closed:
            self._tell("retire", slot.number, done, of, 0)
            yield from self._retire(old)
        if new.closed:
            raise StartError(
                f"the new worker {slot.number} died while it took over, {new.how}; "
                f"{'the next one is being started' if old.closed else 'the one before it serves on'}"
            )

    def _give_back(self, slot: Slot, new: WorkerHandle) -> Steps:
        """Let the worker before serve again, and the new one end when others have what it has."""
        self._pool.recall(slot)
        while new.load and not new.closed:
            self._in_vain = 0  # as long as it takes: both serve who they have
            yield from self._take_from(new, new.load, lambda: False)
        yield from self._all_arrived()
        yield from self._retire(new)

    def _start_next(self, slot: Slot, config: Config, generation: int) -> WorkerHandle:
        try:
            return self._pool.start_next(slot, config, generation)
        except OSError as error:
            if not slot.handles:
                self._pool.start(slot)
            raise StartError(f"worker {slot.number} could not be started: {error.strerror}") from None

    def _until_ready(self, new: WorkerHandle) -> Steps:
        while new.ready_at is None or new.closed:
            if new.closed:  # also one that was ready and died before its turn came
                slot = self._pool.slots.get(new.slot)
                if slot is not None and not slot.handles:
                    self._pool.start_later(slot, policy.BACKOFF_FIRST)
                raise StartError(
                    f"the new worker {new.slot} ended before it could serve, {new.how}; whoever served "
                    "before serves on; the log says why"
                )
            yield

    # Scale.

    def _check_room(self, workers: int) -> None:
        connections = self._pool.connections + len(self._placement)
        fit = workers * self._placement.per_worker
        if connections > fit:
            raise StartError(
                f"{workers} workers have room for {fit} connections, there are {connections}; "
                "nothing has changed"
            )

    @property
    def _lacks_room(self) -> bool:
        """True when the workers that are to stay cannot take all that there are."""
        connections = self._pool.connections + len(self._placement)
        return connections > self._pool.able * self._placement.per_worker

    def _scale(self, workers: int) -> Steps:
        yield from self._resize(workers)
        self._workers_set = self._pool.config.workers
        yield from self._even_out(BATCH, 0.0)

    def _resize(self, workers: int, renewed: Sequence[int] = ()) -> Steps:
        pool = self._pool
        if workers > len(pool):
            yield from self._grow(workers - len(pool))
        # Those that were not renewed go first, then those that do not serve, then the highest numbers.
        staying = sorted(
            pool.slots.values(),
            key=lambda slot: (
                slot.number not in renewed,
                slot.state is not SlotState.RUNNING,
                slot.number,
            ),
        )
        for slot in staying[:workers]:
            if slot.state is SlotState.FATAL:  # whoever asks for so many workers wants this one again
                yield from self._revive(slot)
        going = [slot.number for slot in staying[workers:]]
        olds = [pool.dismiss(pool.slots[number]) for number in going]
        for done, (number, old) in enumerate(zip(going, olds, strict=True)):
            try:
                if old is not None:
                    yield from self._empty(old, done, len(going))
            except StartError:
                for each in going[done:]:
                    pool.recall(pool.slots[each])
                raise
            pool.remove(pool.slots[number])

    def _revive(self, slot: Slot) -> Steps:
        """Start a worker in a slot that was given up."""
        pool = self._pool
        yield from self._until_ready(self._start_next(slot, pool.config, pool.generation))
        pool.promote(slot)

    def _grow(self, count: int) -> Steps:
        """Start more workers; if anything goes wrong, only those that have begun to serve stay."""
        pool = self._pool
        added = pool.add(count)
        try:
            for first in range(0, count, TOGETHER):
                group = added[first : first + TOGETHER]
                started = [self._start_next(slot, pool.config, pool.generation) for slot in group]
                for done, (slot, new) in enumerate(zip(group, started, strict=True), first):
                    self._tell("start", slot.number, done, count, 0)
                    yield from self._until_ready(new)
                    pool.promote(slot)
        except Exception:
            yield from self._drop([slot for slot in added if slot.state is not SlotState.RUNNING])
            raise

    def _drop(self, slots: list[Slot]) -> Steps:
        """Take slots away whose workers do not serve; none of them starts another one meanwhile."""
        while any(slot.handles for slot in slots):
            for slot in slots:
                slot.cancel_restart()
                for handle in slot.handles:
                    handle.kill()
            yield
        for slot in slots:
            self._pool.remove(slot)

    def _empty(self, old: WorkerHandle, done: int, of: int) -> Steps:
        """Move all of a worker's connections to others, and let it end."""
        while old.load and not old.closed and not self._lacks_room:
            self._tell("move", old.slot, done, of, old.load)
            yield from self._take_from(old, old.load, lambda: self._lacks_room)
        while self._placement.moving and not self._lacks_room:
            yield
        if self._lacks_room:
            raise StartError("a worker was given up meanwhile: those that would be left have no room for all")
        yield from self._retire(old)

    def _retire(self, old: WorkerHandle) -> Steps:
        if old.closed:
            return
        self._pool.retire(old)
        deadline = time.monotonic() + RETIRE_TIMEOUT
        self._reactor.call_later(RETIRE_TIMEOUT, _wake)
        while not old.closed:
            if time.monotonic() >= deadline:
                log.warning("has not ended in time after it was replaced, killed: worker %d", old.slot)
                old.kill()
                deadline += RETIRE_TIMEOUT
            yield

    # Rebalance.

    def watch_balance(self, now: float) -> None:
        """Even workers out, slowly, when they have been uneven for a while; call it now and then."""
        serving = self._pool.serving
        uneven = len(serving) == len(self._pool) and policy.uneven([each.load for each in serving])
        if not uneven or self._change is not None:
            self._uneven_since = None
        elif self._uneven_since is None:
            self._uneven_since = now
        elif now - self._uneven_since >= policy.UNEVEN_FOR:
            self._begin(REBALANCE, self._even_out(GENTLE_BATCH, GENTLE_PAUSE), {}, None)

    def _even_out(self, batch: int, pause: float) -> Steps:
        """Move connections until the fullest and the emptiest worker have about as many."""
        for _ in range(ROUNDS):
            serving = self._pool.serving
            surpluses = policy.surpluses([each.load for each in serving])
            if not any(surpluses):
                return
            for handle, surplus in zip(serving, surpluses, strict=True):
                while surplus > 0 and not handle.closed:
                    self._tell("move", handle.slot, 0, len(serving), surplus)
                    before = handle.given
                    yield from self._take_from(handle, min(surplus, batch), lambda: False)
                    surplus -= handle.given - before
                    if handle.given == before:
                        break
                    if pause:
                        yield from self._nap(pause)
            yield from self._all_arrived()

    # What all of them do.

    def _take_from(self, handle: WorkerHandle, count: int, given_up: Callable[[], bool]) -> Steps:
        """Have a worker give away a batch of connections; they go wherever there is most room.

        Two batches are on their way at most: one arrives while the next one is got ready. Raises
        :class:`StartError` when for want of descriptors not even one could be taken for a while.
        """
        while handle.asked or self._placement.moving > self._batch or not self._pool.serving:
            if handle.closed or given_up():
                return
            yield
        before, refused = handle.given, handle.refused
        handle.ask_for(min(count, self._batch))
        while handle.asked and not handle.closed:
            yield
        if handle.refused > refused and not handle.closed:
            self._take_fewer()
        elif handle.given > before:
            self._batch, self._in_vain = min(BATCH, 2 * self._batch), 0
        if handle.given == before and not handle.closed:  # they are just arriving there, or just ending
            yield from self._nap(ASK_AGAIN)

    def _take_fewer(self) -> None:
        """A batch had more connections than there are descriptors free in this process."""
        if not self._told_short:
            self._told_short = True
            log.warning("short of descriptors: connections are moved in smaller batches")
        if self._batch == 1:
            self._in_vain += 1
        if self._in_vain >= TRIES:
            raise StartError("no descriptor is free to move a connection with; see ulimit -n")
        self._batch = max(1, self._batch // 2)

    def _all_arrived(self) -> Steps:
        while self._placement.moving:
            yield

    def _nap(self, seconds: float) -> Steps:
        until = time.monotonic() + seconds
        self._reactor.call_later(seconds, _wake)
        while time.monotonic() < until:
            yield


def _share(values: list[float], share: float) -> float:
    """Return the value (of sorted ``values``) that ``share`` of them do not exceed; 0.0 of nothing."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _wake() -> None:
    """Do nothing: that the time has come makes the loop turn."""
