"""Throttle: how often a proof may be wrong before the next one is looked at. Pure.

The rule: after five failures for a name, or from an address, the next try has to wait, each time twice as
long. A name that an address has proven is not held up by what others try: only failures for that name from
that address hold it up. So no stranger can lock a member out where the member signs in as usual. But they
count for the address too: else a stranger could learn which names were proven there.
"""

from collections import OrderedDict
from typing import NamedTuple

# Failures that cost nothing: a person mistypes.
FREE = 5
# Seconds of the first wait, and of the longest. With it a guesser has 1440 tries a day.
FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
# Of an address: there may be a class room behind it, in which one pupil guesses and all others wait.
LONGEST_WAIT_OF_ADDRESS = 10.0
# Seconds after the last failure in which all of them are forgotten.
FORGET_AFTER = 900.0
# Names and addresses whose failures are remembered, and proven names with their addresses.
MOST = 100_000

# What failures are counted for: a name, an address, or a name that the address has proven.
Key = tuple[str, ...]


class _Failures(NamedTuple):
    times: int
    # When the last one was (seconds, monotonic).
    last: float


class Throttle:
    """The failures of late."""

    def __init__(self) -> None:
        """Begin with none."""
        # Those that failed last at the end.
        self._failures = OrderedDict[Key, _Failures]()
        self._proven = OrderedDict[tuple[str, str], None]()

    def keys(self, name: str, address: str) -> tuple[list[Key], list[Key]]:
        """Return what a try waits for, and what its failure counts for.

        ``name`` is the key of a name; "" for a proof without a name.
        """
        by_address: Key = ("address", address)
        if not name:
            return [by_address], [by_address]
        if self.is_proven(name, address):
            by_both: Key = ("proven", name, address)
            return [by_both], [by_both, by_address]
        both: list[Key] = [("name", name), by_address]
        return both, both

    def is_proven(self, name: str, address: str) -> bool:
        """Tell whether an address has proven a name. ``name`` is the key of a name."""
        return (name, address) in self._proven

    def wait(self, keys: list[Key], now: float) -> float:
        """Return for how many seconds a try must wait; 0: it may be looked at."""
        return max((self._wait(key, now) for key in keys), default=0.0)

    def _wait(self, key: Key, now: float) -> float:
        failures = self._failures.get(key)
        if failures is None or failures.times < FREE or now - failures.last > FORGET_AFTER:
            return 0.0
        doublings = min(failures.times - FREE, 16)
        longest = LONGEST_WAIT_OF_ADDRESS if key[0] == "address" else LONGEST_WAIT
        return max(0.0, failures.last + min(longest, FIRST_WAIT * 2.0**doublings) - now)

    def fail(self, keys: list[Key], now: float) -> None:
        """Take note that a proof was wrong."""
        for key in keys:
            before = self._failures.pop(key, None)
            goes_on = before is not None and now - before.last <= FORGET_AFTER
            self._failures[key] = _Failures(before.times + 1 if before and goes_on else 1, now)
        while self._failures:
            key, oldest = next(iter(self._failures.items()))
            if now - oldest.last <= FORGET_AFTER and len(self._failures) <= MOST:
                return
            del self._failures[key]

    def prove(self, name: str, address: str) -> None:
        """Take note that an address has proven a name: the failures there are forgiven."""
        self._proven[name, address] = None
        self._proven.move_to_end((name, address))
        self._failures.pop(("proven", name, address), None)
        if len(self._proven) > MOST:
            self._proven.popitem(last=False)
