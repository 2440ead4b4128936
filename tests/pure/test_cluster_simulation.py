"""Several hosts of one chat, simulated: whatever goes wrong, in the order that a seed gives.

``MPCHAT_SEEDS=10000 pytest tests/pure/test_cluster_simulation.py`` runs more seeds, those from 3000 on with
``MPCHAT_FIRST_SEED=3000``. ``MPCHAT_SEED=17`` runs only that one and, with ``-s``, prints all that happens.
"""

import os
from collections.abc import Callable

import pytest
from support.cluster_simulator import planted
from support.cluster_simulator.simulation import Failure, Simulation

# The simulation is the same on each Python.
pytestmark = pytest.mark.one_python

FIRST = int(os.environ.get("MPCHAT_FIRST_SEED", "0"))
SEEDS = int(os.environ.get("MPCHAT_SEEDS", "300"))
ONLY = os.environ.get("MPCHAT_SEED")
GROUP = 25


@pytest.mark.skipif(ONLY is not None, reason="one seed is replayed")
@pytest.mark.parametrize("first", range(FIRST, SEEDS, GROUP))
def test_all_hosts_agree_and_no_client_misses_anything(first: int) -> None:
    for seed in range(first, min(SEEDS, first + GROUP)):
        Simulation(seed).run()


@pytest.mark.skipif(ONLY is None, reason="MPCHAT_SEED names no seed")
def test_one_seed_is_replayed() -> None:
    Simulation(int(ONLY or 0), show=print).run()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_does_the_same_again(seed: int) -> None:
    runs: list[list[str]] = [[], []]
    for steps in runs:
        Simulation(seed, show=steps.append).run()
    assert runs[0] == runs[1]
    assert len(runs[0]) > 100


def first_found(*, may_differ: bool = False) -> str:
    """Return why the first seed fails that does."""
    for seed in range(SEEDS):
        try:
            Simulation(seed, may_differ=may_differ).run()
        except Failure as failure:
            return str(failure)
    pytest.fail("no seed has found it")


@pytest.mark.parametrize(
    "plant",
    [planted.no_fence, planted.repeats, planted.trims_early, planted.local_time],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_is_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    assert "seed" in first_found()


def test_a_host_that_differs_stays_so_without_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.ignores_digests(monkeypatch)
    assert "the states differ" in first_found(may_differ=True)


def test_a_host_that_differs_is_mended_with_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.diverges(monkeypatch)
    for seed in range(GROUP):
        Simulation(seed, may_differ=True).run()
