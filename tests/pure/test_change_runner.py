"""Change runner: what signals and commands ask for while something else is under way."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mpchat.supervisor import change_runner
from mpchat.supervisor.change import REBALANCE, Change
from mpchat.supervisor.change_runner import ChangeRunner
from mpchat.supervisor.move_out import Steps


class Pool:
    """As many workers as the last change has led to."""

    def __init__(self) -> None:
        self.workers = 2
        self.generation = self.lost = 0
        self.handles: list[Any] = []

    def __len__(self) -> int:
        return self.workers


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool in which each change takes a few steps; a reload leads to five workers."""
    made = Pool()

    def to(workers: int) -> Steps:
        yield
        yield
        made.workers = workers

    monkeypatch.setattr(change_runner, "check_room", lambda *_: None)
    monkeypatch.setattr(change_runner, "scale", lambda change, workers: to(workers))
    monkeypatch.setattr(change_runner, "reload", lambda change, settings: to(5))
    return made


@pytest.fixture
def runner(pool: Pool) -> ChangeRunner:
    placement: Any = SimpleNamespace(transit=SimpleNamespace(moves=0, take_pauses=list[float]))
    parts: list[Any] = [pool, placement, None, None]
    return ChangeRunner(*parts)


def settle(runner: ChangeRunner) -> None:
    for _ in range(20):
        runner.step()
    assert runner.under_way is None


def begin_rebalance(runner: ChangeRunner) -> None:
    def without_end(change: Change) -> Steps:
        while True:
            yield

    runner._begin(REBALANCE, without_end, None)


@pytest.mark.parametrize(
    ("asked", "workers"),
    [
        ([1], 3),
        ([1, 1, -1], 3),
        ([1, -1], 2),
    ],
)
def test_signals_count_from_the_workers_that_there_are(
    runner: ChangeRunner, pool: Pool, asked: list[int], workers: int
) -> None:
    for each in asked:
        runner.scale_by(each)
    settle(runner)
    assert pool.workers == workers


def test_one_worker_more_is_one_more_than_a_reload_has_led_to(runner: ChangeRunner, pool: Pool) -> None:
    runner.reload_later()
    runner.scale_by(1)
    settle(runner)
    assert pool.workers == 6


@pytest.mark.parametrize("begin", [begin_rebalance, lambda runner: None], ids=["evening out", "nothing"])
def test_a_number_that_comes_later_is_the_number(
    runner: ChangeRunner, pool: Pool, begin: Callable[[ChangeRunner], None]
) -> None:
    begin(runner)
    runner.scale_by(1)
    runner.scale(6, None)
    settle(runner)
    assert pool.workers == 6


def test_one_worker_more_while_a_number_is_being_reached_is_one_more_than_that(
    runner: ChangeRunner, pool: Pool
) -> None:
    runner.scale(6, None)
    runner.step()
    runner.scale_by(1)
    settle(runner)
    assert pool.workers == 7
