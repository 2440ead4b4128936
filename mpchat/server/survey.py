"""Survey: something asked of every worker, answered once: when all have answered, or died, or time is up."""

from collections.abc import Callable
from itertools import count

from .reactor import Reactor

# Seconds that the workers have.
PATIENCE = 3.0

# Gets the sum of the answers and the slots that have not given theirs.
OnResult = Callable[[int, list[int]], None]


class _Survey:
    def __init__(self, slots: set[int], on_result: OnResult) -> None:
        self.silent = slots
        self.total = 0
        self.on_result = on_result


class Surveys:
    """All that is being asked. Answers are numbers, and are added up."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._numbers = count(1)
        self._open: dict[int, _Survey] = {}

    def begin(self, slots: set[int], on_result: OnResult) -> int:
        """Return the number under which ``slots`` are to answer; ``on_result`` is called once, later."""
        number = next(self._numbers)
        self._open[number] = _Survey(slots, on_result)
        self._reactor.call_later(PATIENCE if slots else 0.0, lambda: self._finish(number))
        return number

    def answer(self, number: int, slot: int, value: int) -> None:
        """Take a slot's answer; one that comes too late is of no use."""
        if (survey := self._open.get(number)) is not None:
            survey.total += value
            survey.silent.discard(slot)
            if not survey.silent:
                self._finish(number)

    def on_death(self, slot: int) -> None:
        """A dead worker has nothing to add."""
        for number in list(self._open):
            self.answer(number, slot, 0)

    def _finish(self, number: int) -> None:
        if (survey := self._open.pop(number, None)) is not None:
            survey.on_result(survey.total, sorted(survey.silent))
