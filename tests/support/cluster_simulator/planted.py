"""Bugs that are planted, each of a kind that the simulation must find."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mpchat.cluster.store import Batch, Place, TrimmedError
from mpchat.hub import hub, membership, shared_log
from mpchat.hub.state import HubState
from support.cluster_simulator.simulation import Simulation
from support.model_store import ModelStore

FOR_EVER = 1 << 60
# Which of the entries that a newest host applies is applied in another way.
ODD_ENTRY = 40


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """Let the store take appends of a host whose lease is over."""
    known: dict[tuple[int, str, int], Any] = {}
    append = ModelStore.append

    def unfenced(self: ModelStore, generation: str, epoch: int, *more: Any) -> list[int]:
        state = self.log.state
        if state is not None and state.generation == generation:
            key = id(self.log), generation, epoch
            host = state.hosts.get(epoch) or known.get(key)
            if host is not None:
                hosts = {**state.hosts, epoch: replace(host, lease=FOR_EVER)}
                self.log.state = replace(state, hosts=hosts)
            done = append(self, generation, epoch, *more)
            assert self.log.state is not None
            after = self.log.state.hosts[epoch]
            known[key] = after
            return done
        return append(self, generation, epoch, *more)

    patch.setattr(ModelStore, "append", unfenced)


def repeats(patch: pytest.MonkeyPatch) -> None:
    """Let the store append a batch again that it has already."""
    append = ModelStore.append

    def forgetful(
        self: ModelStore, generation: str, epoch: int, position: int, lease: float, batches: list[Any]
    ) -> list[int]:
        state = self.log.state
        host = state.hosts.get(epoch) if state is not None else None
        if state is not None and host is not None and batches and batches[0][0] <= host.number:
            hosts = {**state.hosts, epoch: replace(host, number=batches[0][0] - 1)}
            self.log.state = replace(state, hosts=hosts)
        return append(self, generation, epoch, position, lease, batches)

    patch.setattr(ModelStore, "append", forgetful)


def trims_early(patch: pytest.MonkeyPatch) -> None:
    """Let the store trim what a host has still to read, and not say so."""
    check, read = ModelStore.check, ModelStore.read

    def silent(self: ModelStore, place: Place) -> None:
        try:
            check(self, place)
        except TrimmedError:
            return

    def shortened(self: ModelStore, place: Place, wait: float, most: int) -> list[Batch]:
        state = self.log.state
        if state is not None and state.generation == place.generation and place.position < state.trimmed:
            place = place._replace(position=state.trimmed)
            batches = [state.at(each) for each in range(place.position + 1, state.position + 1)]
            self._reach()
            return batches[:10]
        return read(self, place, wait, most)

    patch.setattr(ModelStore, "check", silent)
    patch.setattr(ModelStore, "read", shortened)

    def eager(self: ModelStore, state: Any, before: int) -> Any:
        return replace(trimmed(self, replace(state, hosts={}), FOR_EVER), hosts=state.hosts)

    trimmed = ModelStore._trimmed
    patch.setattr(ModelStore, "_trimmed", eager)


def local_time(patch: pytest.MonkeyPatch) -> None:
    """Let each host stamp what it reads with its own clocks."""

    def stamp(entry: Any, batch: Batch) -> None:
        clock: Any = vars(hub)["time"]
        real(entry, batch._replace(time=clock.monotonic(), at=clock.time()))

    real = shared_log._stamp
    patch.setattr(shared_log, "_stamp", stamp)


def diverges(patch: pytest.MonkeyPatch) -> None:
    """Let one host, the newest, apply one entry in another way than the others; once in each run."""
    apply: Callable[..., Any] = HubState.apply
    run = Simulation.run
    left = 0

    def begin(self: Simulation) -> None:
        nonlocal left
        left = ODD_ENTRY
        run(self)

    def odd(self: HubState, entry: Any, host: int = 0) -> Any:
        nonlocal left
        if len(self.hosts.by_epoch) > 1 and self.here == max(self.hosts.by_epoch):
            left -= 1
            if not left:
                self.messages += 1
        return apply(self, entry, host)

    patch.setattr(Simulation, "run", begin)
    patch.setattr(HubState, "apply", odd)


def ignores_digests(patch: pytest.MonkeyPatch) -> None:
    """Let no host compare its state with the leader's, while one of them differs."""
    diverges(patch)
    patch.setattr(membership.Membership, "_compare", lambda self, leader, now: None)
