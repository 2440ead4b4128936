"""Survey: something asked of every worker, answered once: when all have answered, or died, or time is up."""

from collections.abc import Callable
from itertools import count

from mpchat.reactor import Reactor

# Seconds that the workers have.
PATIENCE = 3.0

# Gets the sum of the answers and the workers (process ids) that have not given theirs.
OnResult = Callable[[int, set[int]], None]


class _Question:
    def __init__(self, workers: set[int], on_result: OnResult) -> None:
        self.silent = workers
        self.total = 0
        self.on_result = on_result


class WorkerQuestions:
    """All that is being asked. Answers are numbers, and are added up."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._numbers = count(1)
        self._open: dict[int, _Question] = {}

    def begin(self, workers: set[int], on_result: OnResult) -> int:
        """Return the number under which ``workers`` are to answer; ``on_result`` is called once, later."""
        number = next(self._numbers)
        self._open[number] = _Question(workers, on_result)
        self._reactor.call_later(PATIENCE if workers else 0.0, lambda: self._finish(number))
        return number

    def answer(self, number: int, worker: int, value: int) -> None:
        """Take a worker's answer; one that comes too late is of no use."""
        if (question := self._open.get(number)) is not None:
            question.total += value
            question.silent.discard(worker)
            if not question.silent:
                self._finish(number)

    def on_death(self, worker: int) -> None:
        """A dead worker has nothing to add."""
        for number in list(self._open):
            self.answer(number, worker, 0)

    def _finish(self, number: int) -> None:
        if (question := self._open.pop(number, None)) is not None:
            question.on_result(question.total, question.silent)
