"""WorkerQuestions: each process answers once, whatever slot it is in; a dead one has nothing to add."""

from functools import partial

import pytest
from support.waiting import eventually

from mpchat.reactor import Reactor
from mpchat.supervisor import ask_workers as module
from mpchat.supervisor.ask_workers import WorkerQuestions

Result = tuple[int, set[int]]


class Asked:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.questions = WorkerQuestions(self.reactor)
        self.results: list[Result] = []

    def begin(self, *workers: int) -> int:
        return self.questions.begin(set(workers), lambda total, silent: self.results.append((total, silent)))

    def turned(self) -> list[Result]:
        self.reactor.turn(0.01)
        return self.results


def test_the_sum_comes_when_the_last_has_answered_and_only_once() -> None:
    asked = Asked()
    number = asked.begin(101, 102, 103)
    asked.questions.answer(number, 102, 2)
    asked.questions.answer(number, 101, 0)
    assert not asked.results
    asked.questions.answer(number, 103, 5)
    asked.questions.answer(number, 103, 5)
    assert asked.results == [(7, set())]


def test_two_processes_of_one_slot_both_count_and_a_death_stands_for_an_answer() -> None:
    asked = Asked()
    first, second = asked.begin(101, 201), asked.begin(201)
    asked.questions.answer(first, 101, 1)
    asked.questions.on_death(201)
    assert asked.results == [(1, set()), (0, set())]
    asked.questions.on_death(101)
    asked.questions.answer(second, 201, 1)
    assert len(asked.results) == 2


def test_nobody_to_ask_is_answered_soon() -> None:
    asked = Asked()
    asked.begin()
    eventually(asked.turned, "the answer")
    assert asked.results == [(0, set())]


def test_who_is_silent_for_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    asked = Asked()
    number = asked.begin(101, 102)
    asked.questions.answer(number, 101, 3)
    eventually(partial(asked.turned), "the answer")
    assert asked.results == [(3, {102})]
