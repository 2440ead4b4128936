"""Ask workers: one question to many workers, whose answers are added up: numbers, or lists.

The result comes once: when all have answered or died, or when time is up.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

from mpchat.reactor import Reactor

# Seconds that workers have for their answers.
PATIENCE = 3.0
# The number of a question whose answer nobody waits for.
NO_QUESTION = 0

# Gets the sum of the answers, and the workers (process ids) that have not answered.
OnResult = Callable[[Any, set[int]], None]


class _Question:
    def __init__(self, workers: set[int], on_result: OnResult, nothing: Any) -> None:
        self.silent = workers
        self.total = nothing
        self.on_result = on_result


class WorkerQuestions:
    """The questions under way."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._numbers = count(1)
        self._open: dict[int, _Question] = {}

    def begin(self, workers: set[int], on_result: OnResult, nothing: Any = 0) -> int:
        """Return the number that the answers of ``workers`` (process ids) must name.

        ``on_result`` is called once, later. Answers are added to ``nothing``.
        """
        number = next(self._numbers)
        self._open[number] = _Question(workers, on_result, nothing)
        self._reactor.call_later(PATIENCE if workers else 0.0, lambda: self._finish(number))
        return number

    def answer(self, number: int, worker: int, value: Any) -> None:
        """Add a worker's answer; an answer that comes too late is ignored."""
        if (question := self._open.get(number)) is not None:
            question.total = question.total + value
            self._has_answered(number, worker)

    def _has_answered(self, number: int, worker: int) -> None:
        silent = self._open[number].silent
        silent.discard(worker)
        if not silent:
            self._finish(number)

    def on_death(self, worker: int) -> None:
        """Stop waiting for a dead worker."""
        for number in list(self._open):
            if number in self._open:
                self._has_answered(number, worker)

    def _finish(self, number: int) -> None:
        if (question := self._open.pop(number, None)) is not None:
            question.on_result(question.total, question.silent)
