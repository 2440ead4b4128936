"""A store in memory, with the semantics of the real one and a clock that the test moves.

One :class:`ModelLog` is shared by the :class:`ModelStore` of each host. There is no thread, no waiting and
no chance: the caller decides when time passes and what goes wrong. ``read`` returns at once.
"""

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field, replace

from mpchat.cluster.redis_store import KEPT, KEPT_BATCHES, STANDS
from mpchat.cluster.store import (
    AGAIN,
    ARRIVED,
    BATCH,
    FOUND,
    GONE,
    STAND_TIME,
    WAIT,
    Batch,
    FencedError,
    Place,
    RefusedError,
    Registered,
    RewoundError,
    Snapshot,
    Standing,
    TrimmedError,
    UnavailableError,
    chained,
)

# Milliseconds: as in scripts/common.lua.
LONGEST_STEP = 2000
LEASES_IN_A_STEP = 0.5
# Changes that can be taken back.
REMEMBERED = 10_000


@dataclass(frozen=True)
class _Host:
    name: str
    instance: str
    version: int
    lease: int  # milliseconds of the log's clock
    position: int
    owner: object
    number: int = 0


@dataclass(frozen=True)
class _State:
    """All that Redis keeps of one log; times are in milliseconds."""

    generation: str
    position: int
    chain: bytes
    total: int
    time: int
    seen: int
    snapshot: Snapshot
    # The batch at the snapshot's position, as far as the log begins behind it.
    trimmed: int
    trimmed_chain: bytes
    trimmed_total: int
    epoch: int = 0
    hosts: dict[int, _Host] = field(default_factory=dict)
    # All since the generation's begin, those that were trimmed too, and the position before the first. The
    # list is shared by the states of a generation: it may be longer than this state knows.
    batches: list[Batch] = field(default_factory=list)
    base: int = 0

    def at(self, position: int) -> Batch:
        return self.batches[position - self.base - 1]


class ModelLog:
    """What Redis keeps, and its clock."""

    def __init__(
        self, now: float = 1_800_000_000.0, *, kept: int = KEPT, kept_batches: int = KEPT_BATCHES
    ) -> None:
        """``now``: Redis's wall clock in seconds; it moves by :meth:`advance` alone."""
        self.now = round(now * 1000)
        self.kept, self.kept_batches = kept, kept_batches
        # While this is true, every call fails.
        self.away = False
        self.state: _State | None = None
        # The oldest first; the newest is ``state``.
        self._past: deque[_State | None] = deque([None], REMEMBERED)
        # By name: position, chain, and when they were stated. And when the first of them were.
        self.stands: dict[str, tuple[int, bytes, int]] = {}
        self.since = 0

    @property
    def standing(self) -> bool:
        """True while hosts state where they are in a log that was lost."""
        return any(self.now - seen <= STANDS for _, _, seen in self.stands.values())

    def advance(self, seconds: float) -> None:
        """Let time pass; less than 0: Redis's clock is set back."""
        self.now += round(seconds * 1000)

    def lose_last(self, entries: int) -> None:
        """Roll the log back to a moment at which it had at least so many batches less than now."""
        assert self.state is not None
        position = self.state.position - entries
        while (state := self._past[-1]) is not None and state.position > position:
            self._past.pop()
            assert self._past, "no moment that long ago is remembered"
        self.state = state
        if state is not None:
            # The others keep their list: a new one, because this one goes on differently.
            self.state = replace(state, batches=state.batches[: state.position - state.base])
            self._past.append(self.state)
        self.stands.clear()

    def become_empty(self) -> None:
        """Lose all."""
        self.change(None)
        self.stands.clear()

    def change(self, state: _State | None) -> None:
        """Keep what one call has made of the log, wholly."""
        self.state = state
        self._past.append(state)


class _Writing:
    """The end of the log while one call writes, like ``log`` in the scripts."""

    def __init__(self, log: ModelLog, state: _State, lease: float) -> None:
        self.state, self.now = state, log.now
        longest = min(LONGEST_STEP, math.floor(_milliseconds(lease) * LEASES_IN_A_STEP))
        self.time = state.time + max(0, min(longest, log.now - state.seen))
        self.position, self.chain, self.total = state.position, state.chain, state.total
        self.hosts = dict(state.hosts)
        self.batches = state.batches

    def add(self, kind: str, epoch: int, number: int, version: int, payload: bytes) -> int:
        self.position += 1
        self.total += len(payload)
        self.chain = chained(self.chain, epoch, number, self.time, kind)
        self.batches.append(
            Batch(
                self.position, kind, epoch, number, self.time / 1000, self.now / 1000, self.total, version,
                payload, self.chain,
            )
        )  # fmt: skip
        return self.position

    def expired(self) -> list[int]:
        over = [
            (host.lease, str(epoch), epoch) for epoch, host in self.hosts.items() if host.lease <= self.time
        ]
        return [epoch for _, _, epoch in sorted(over)]

    def bury(self, epochs: list[int]) -> None:
        for epoch in epochs:
            self.add(GONE, epoch, 0, 0, b"")
            del self.hosts[epoch]

    def done(self, epoch: int | None = None) -> _State:
        return replace(
            self.state, position=self.position, chain=self.chain, total=self.total, time=self.time,
            seen=self.now, hosts=self.hosts, batches=self.batches,
            epoch=self.state.epoch if epoch is None else epoch,
        )  # fmt: skip


class ModelStore:
    """One host's store. ``away`` and :meth:`lose_replies` are faults of this host's connection alone."""

    def __init__(self, log: ModelLog) -> None:
        self.log = log
        self.away = False
        self._lost_replies = 0

    def lose_replies(self, count: int = 1) -> None:
        """Let the next calls do their work and fail nevertheless."""
        self._lost_replies = count

    def open(self) -> Snapshot | None:
        return self.load()

    def register(
        self, place_generation: str, name: str, instance: str, version: int, info: bytes, lease: float
    ) -> Registered:
        writing = self._writing(place_generation, lease)
        leaving = writing.expired()
        refusal = ""
        for epoch, host in writing.hosts.items():
            if epoch in leaving:
                continue
            if host.name == name and host.instance == instance:
                leaving.append(epoch)
            elif host.name == name:
                refusal = f"another host is named {name!r}: its lease ends in {host.lease - writing.time} ms"
            elif abs(host.version - version) > 1:
                refusal = refusal or f"versions {version} and {host.version} do not work together"
        if refusal:
            self.log.change(writing.done())
            self._reply()
            raise RefusedError(refusal)
        writing.bury(leaving)
        epoch = writing.state.epoch + 1
        position = writing.add(ARRIVED, epoch, 0, version, info)
        writing.hosts[epoch] = _Host(
            name, instance, version, writing.time + _milliseconds(lease), position, self
        )
        self.log.change(writing.done(epoch=epoch))
        self._reply()
        return Registered(epoch, position)

    def append(
        self, generation: str, epoch: int, position: int, lease: float, batches: list[tuple[int, int, bytes]]
    ) -> list[int]:
        writing = self._writing(generation, lease)
        if writing.position < position:
            raise RewoundError(f"the log ends at {writing.position}, and this host has read further")
        host = writing.hosts.get(epoch)
        over = writing.expired()
        if host is not None and host.owner is not self:
            raise RewoundError("another host has got this host's epoch")
        if epoch > writing.state.epoch:
            raise RewoundError("the log has lost this host's registration")
        if host is None or epoch in over:
            if over:
                writing.bury(over)
                self.log.change(writing.done())
            self._reply()
            raise FencedError("this host's lease is over")
        _check_numbers(host.number, [number for number, _, _ in batches])
        writing.bury(over)
        last, positions = host.number, []
        for number, version, payload in batches:
            positions.append(writing.add(BATCH, epoch, number, version, payload) if number > last else 0)
            last = max(last, number)
        writing.hosts[epoch] = replace(
            host, number=last, lease=writing.time + _milliseconds(lease), position=position
        )
        self.log.change(writing.done())
        self._reply()
        return positions

    def leave(self, generation: str, epoch: int) -> None:
        writing = self._writing(generation, 0.0)
        if epoch in writing.hosts and writing.hosts[epoch].owner is self:
            writing.bury([epoch])
            self.log.change(writing.done())
        self._reply()

    def read(self, place: Place, wait: float, most: int) -> list[Batch]:
        self.check(place)
        state = self._state(place.generation)
        batches: list[Batch] = []
        size = 0
        for position in range(place.position + 1, state.position + 1):
            batch = state.at(position)
            size += len(batch.payload)
            if batches and size > most:
                break
            batches.append(batch)
        return batches

    def check(self, place: Place) -> None:
        self._reach()
        state = self._state(place.generation)
        if state.position < place.position:
            raise RewoundError(f"the log ends at {state.position}, and this host has read {place.position}")
        if place.position < state.trimmed:
            raise TrimmedError(f"the log begins behind {state.trimmed}")
        trimmed = place.position == state.trimmed
        if (state.trimmed_chain if trimmed else state.at(place.position).chain) != place.chain:
            raise RewoundError(f"another batch is at {place.position} than the one that this host has read")
        self._reply()

    def save(self, snapshot: Snapshot) -> None:
        self._reach()
        state, place = self.log.state, snapshot.place
        if (
            state is not None
            and state.generation == place.generation
            and state.snapshot.place.position < place.position <= state.position
        ):
            before = state.snapshot.place.position
            self.log.change(self._trimmed(replace(state, snapshot=_copy(snapshot)), before))
        self._reply()

    def load(self) -> Snapshot | None:
        self._reach()
        self._reply()
        return _copy(self.log.state.snapshot) if self.log.state else None

    def stand(self, generation: str, place: Place, name: str) -> Standing:
        self._reach()
        log, now = self.log, self.log.now
        if log.state is not None and log.state.generation != generation:
            self._reply()
            return Standing(AGAIN)
        if all(now - seen > STANDS for _, _, seen in log.stands.values()):
            log.stands.clear()
            log.since = now
        log.since = min(log.since, now)
        others = {
            other: (position, chain)
            for other, (position, chain, seen) in log.stands.items()
            if other != name and now - seen <= STANDS
        }
        first = not any(
            position > place.position or (position == place.position and other.encode() < name.encode())
            for other, (position, _) in others.items()
        )
        log.stands[name] = (place.position, place.chain, now)
        self._reply()
        if first and now - log.since >= _milliseconds(STAND_TIME):
            return Standing(FOUND, tuple(others.values()))
        return Standing(WAIT)

    def found(self, old: str | None, snapshot: Snapshot) -> bool:
        self._reach()
        state, place = self.log.state, snapshot.place
        if state is not None and state.generation != (old or ""):
            self._reply()
            return state.generation == place.generation
        if state is None and not old and self.log.standing:
            self._reply()
            return False
        self.log.stands.clear()
        self.log.change(
            _State(
                generation=place.generation,
                position=place.position,
                chain=place.chain,
                total=place.total,
                time=max(_milliseconds(place.time), state.time if state else 0),
                seen=self.log.now,
                snapshot=_copy(snapshot),
                trimmed=place.position,
                trimmed_chain=place.chain,
                trimmed_total=place.total,
                epoch=state.epoch if state else 0,
                base=place.position,
            )
        )
        self._reply()
        return True

    def close(self) -> None:
        pass

    def _reach(self) -> None:
        if self.away or self.log.away:
            raise UnavailableError("Redis is away")

    def _reply(self) -> None:
        if self._lost_replies:
            self._lost_replies -= 1
            raise UnavailableError("the reply was lost")

    def _state(self, generation: str) -> _State:
        state = self.log.state
        if state is None:
            raise RewoundError("the log is empty")
        if state.generation != generation:
            raise RewoundError("another log has been begun")
        return state

    def _writing(self, generation: str, lease: float) -> _Writing:
        self._reach()
        writing = _Writing(self.log, self._state(generation), lease)
        if self.log.standing:
            raise RewoundError("other hosts say that the log was lost")
        return writing

    def _trimmed(self, state: _State, before: int) -> _State:
        """Return what remains after a snapshot: as save.lua does it."""
        first = max(state.trimmed, state.position - self.log.kept_batches)
        positions = range(first, state.position)
        limit = state.total - self.log.kept
        bound = first + bisect_left(
            positions,
            limit,
            key=lambda at: state.trimmed_total if at == state.trimmed else state.at(at).total,
        )
        slowest = min((host.position for host in state.hosts.values()), default=state.snapshot.place.position)
        target = min(state.snapshot.place.position, max(bound, min(slowest, before)))
        if target <= state.trimmed:
            return state
        last = state.at(target)
        return replace(state, trimmed=target, trimmed_chain=last.chain, trimmed_total=last.total)


def _check_numbers(last: int, numbers: list[int]) -> None:
    following = last + 1
    for number in numbers:
        if number > following:
            raise RewoundError(f"the log lacks this host's batches from {following} up to {number}")
        following = max(following, number + 1)


def _copy(snapshot: Snapshot) -> Snapshot:
    """Nobody changes a list that the log has."""
    return snapshot._replace(parts=list(snapshot.parts))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
