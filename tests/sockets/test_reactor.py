"""The loop: what wakes it from a nap."""

import fcntl
import os
import resource
import time
from collections.abc import Iterator

import pytest

from mpchat.reactor import FD_SETSIZE, READ, Reactor

# Seconds that nothing here takes.
LONG = 20.0


class End:
    """One end of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


@pytest.fixture(params=[0, FD_SETSIZE], ids=["small number", "large number"])
def pipe(request: pytest.FixtureRequest) -> Iterator[tuple[End, End]]:
    """A pipe whose reading end has a number that select() takes, and one that it does not take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reader, writer = os.pipe()
    moved = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, request.param)
    try:
        yield End(moved), End(writer)
    finally:
        for descriptor in (reader, moved, writer):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_nap_ends_when_its_target_is_readable(pipe: tuple[End, End]) -> None:
    reader, writer = pipe
    reactor = Reactor()
    os.write(writer.fileno(), b"!")
    began = time.monotonic()
    reactor.nap(reader, LONG)
    assert time.monotonic() - began < LONG / 2
    reactor.close()


def test_a_nap_looks_at_nothing_else_and_lasts_as_long_as_said(pipe: tuple[End, End]) -> None:
    reader, _ = pipe
    other, far = os.pipe()
    seen: list[int] = []
    reactor = Reactor()
    reactor.watch(other, READ, seen.append)
    os.write(far, b"!")
    began = time.monotonic()
    reactor.nap(reader, 0.02)
    assert 0.019 < time.monotonic() - began < LONG / 2
    assert not seen
    reactor.turn(0.0)
    assert seen == [READ]
    reactor.close()
    os.close(other)
    os.close(far)
