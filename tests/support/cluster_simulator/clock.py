"""Clocks of the simulated hosts, and their randomness: both come from the seed alone."""

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from types import ModuleType
from typing import Any
from unittest.mock import patch

from mpchat.hub import claims, hub, membership, moderator, shared_hub

HOUR = 3600.0
# When the simulation begins, in seconds since 1970.
BEGIN = 1_800_000_000.0


class Clock:
    """The true time, which nobody knows, and what each host takes for it."""

    def __init__(self) -> None:
        self.now = 0.0
        # The host whose code runs.
        self.host = 0

    def monotonic(self) -> float:
        """Return the seconds since that host was switched on."""
        return self.now + 1000.0 * (self.host + 1)

    def time(self) -> float:
        """Return what that host's wall clock shows: the clocks are an hour apart."""
        return BEGIN + self.now + HOUR * self.host


class _Stand:
    """Stands for a module whose functions were replaced in part."""

    def __init__(self, real: ModuleType, **replaced: Any) -> None:
        self.__dict__.update(vars(real))
        self.__dict__.update(replaced)


@contextmanager
def simulated(clock: Clock, random: Random) -> Iterator[None]:
    """Let the hub's modules take their time from the clock, and random texts from the seed."""

    def token(size: int = 9) -> str:
        return f"{random.getrandbits(8 * size):0{2 * size}x}"

    times = _Stand(time, monotonic=clock.monotonic, time=clock.time)
    texts = _Stand(secrets, token_urlsafe=token, token_hex=token)
    with ExitStack() as stack:
        for module in (hub, moderator, shared_hub):
            stack.enter_context(patch.object(module, "time", times))
        for module in (hub, membership, claims):
            stack.enter_context(patch.object(module, "secrets", texts))
        yield
