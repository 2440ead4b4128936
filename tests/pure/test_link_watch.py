"""When the pipe of a link is watched for room, and when no longer."""

import errno
from collections.abc import Callable
from typing import Any

import pytest

from mpchat.ipc.link_watch import LinkWatch
from mpchat.reactor import READ, WRITE, Timer

END = "the writing end"


class Loop:
    """Knows what is watched."""

    def __init__(self) -> None:
        self.watched: dict[Any, tuple[int, Callable[[int], None]]] = {}
        self.refusals = 0
        self.timers: list[Timer] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(call))
        return self.timers[-1]

    def watch(self, target: Any, events: int, on_event: Callable[[int], None]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        assert target not in self.watched
        self.watched[target] = events, on_event

    def forget(self, target: Any) -> None:
        del self.watched[target]


class PipeLink:
    """A link whose pipe takes so many more writes until there is room for everything."""

    def __init__(self) -> None:
        self.writing_end = END
        self.writes = 0
        self.gone = False

    def fill(self, writes: int) -> None:
        self.writes = writes
        self.on_full()

    def on_full(self) -> None:
        raise AssertionError("nothing watches")

    @property
    def full(self) -> bool:
        return self.writes > 0

    def write_on(self) -> None:
        if self.gone:
            raise BrokenPipeError
        self.writes -= 1


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def link() -> PipeLink:
    return PipeLink()


@pytest.fixture
def watch(loop: Loop, link: PipeLink) -> LinkWatch:
    return LinkWatch(loop, link, print)  # type: ignore[arg-type]


def room(loop: Loop) -> None:
    loop.watched[END][1](WRITE)


def test_the_pipe_is_watched_only_while_it_is_full(loop: Loop, link: PipeLink, watch: LinkWatch) -> None:
    assert loop.watched == {link: (READ, print)}
    for _ in range(2):
        link.fill(2)
        link.fill(2)  # what comes behind does not fit either
        assert loop.watched[END][0] == WRITE
        room(loop)
        assert link.writes == 1
        assert END in loop.watched
        room(loop)
        assert loop.watched == {link: (READ, print)}


def test_a_process_that_has_gone_is_only_read_from(loop: Loop, link: PipeLink, watch: LinkWatch) -> None:
    link.fill(2)
    link.gone = True
    room(loop)
    assert loop.watched == {link: (READ, print)}


def test_after_the_close_nothing_is_watched_and_nothing_written(
    loop: Loop, link: PipeLink, watch: LinkWatch
) -> None:
    link.fill(2)
    _, on_room = loop.watched[END]
    watch.close()
    on_room(WRITE)  # the loop had found it ready in the same turn
    assert link.writes == 2
    link.fill(2)
    assert loop.watched == {}


def test_where_the_system_has_no_watch_left_the_pipe_is_looked_at_again_and_again(
    loop: Loop, link: PipeLink, watch: LinkWatch
) -> None:
    loop.refusals = 2
    link.fill(3)
    for writes in (2, 1):
        timer = loop.timers.pop()
        assert timer.call is not None
        timer.call()
        assert link.writes == writes
    assert END in loop.watched, "there is a watch again"
    room(loop)
    assert loop.watched == {link: (READ, print)}
    loop.refusals = 1
    link.fill(2)
    watch.close()
    assert loop.timers.pop().call is None
