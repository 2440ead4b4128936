"""Slow call: makes a call that may wait, in a thread, for a loop that must not."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SlowCall(Generic[T]):
    """One call. It starts no process and ends with its result, also if that is not needed any more."""

    def __init__(self, call: Callable[[], T], *, at_once: bool = False) -> None:
        """Begin the call; ``at_once``: it does not wait, and is made here and now."""
        self._call = call
        self._result: list[T] = []
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._end: Callable[[T], object] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        if at_once:
            self._run()
        else:
            self._thread.start()

    def _run(self) -> None:
        try:
            result = self._call()
            with self._lock:
                self._result.append(result)
                end = self._end
            if end is not None:
                end(result)
        except Exception as error:  # noqa: BLE001 (result() raises it, in the loop's thread)
            self._error = error

    @property
    def done(self) -> bool:
        """True when :meth:`result` need not wait."""
        return not self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the call is done, at most ``timeout`` seconds; return whether it is. Not for a loop."""
        if not self.done:
            self._thread.join(timeout)
        return self.done

    def give_up(self, end: Callable[[T], object]) -> None:
        """Have ``end`` called with the result, whenever that comes: nobody takes it any more."""
        with self._lock:
            self._end = end
            late = not self._result
        if not late:
            end(self._result[0])

    def result(self) -> T:
        """Return what the call has returned, or raise what it has raised; call when done."""
        if self._error is not None:
            raise self._error
        return self._result[0]
