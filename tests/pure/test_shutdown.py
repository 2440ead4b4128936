"""The steps of an orderly stop, with a clock as an argument and parts that only say what is so."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from mpchat.cli import life_cycle
from mpchat.config import resolve
from mpchat.supervisor import supervisor
from mpchat.supervisor.pool import Phase
from mpchat.supervisor.shutdown import QUICK, STOP_GRACE, Shutdown
from mpchat.supervisor.supervisor import ONE_REQUEST, Supervisor

STOP_TIMEOUT = 10.0


class Parts:
    """Settings, hub, pool and placement in one; ``done`` is what the shutdown has had them do."""

    def __init__(self, farewell: str = "bye") -> None:
        self.done: list[str] = []
        self.config = self
        self.stop_timeout, self.farewell = STOP_TIMEOUT, farewell
        self.phase = Phase.SERVING
        self.handles: list[Any] = []
        # A connection is in transit; the workers have posted everything; the hub has put it in order.
        self.moving = False
        self.drained = self.empty = False

    def turn(self, now: float) -> None:
        self.done.append("turn")

    def announce(self, text: str, now: float) -> None:
        self.done.append(text)

    def silence_notices(self, now: float) -> None:
        self.done.append("silence")

    def refuse(self, refusal: object) -> None:
        pass

    def drain(self) -> None:
        self.done.append("drain")

    def close(self, seconds: float) -> None:
        self.done.append(f"close {seconds:g}")

    def kill(self) -> None:
        self.done.append("kill")

    def take(self) -> list[str]:
        done, self.done = self.done, []
        return done


def begun(**more: Any) -> tuple[Shutdown, Parts]:
    """A shutdown that began at 100 s."""
    parts = Parts(**more)
    shutdown = Shutdown(*cast(Any, (parts, parts, parts, parts)))
    shutdown.begin(100.0)
    assert parts.phase is Phase.ENDING
    return shutdown, parts


def test_each_step_waits_for_the_one_before() -> None:
    shutdown, parts = begun()
    parts.moving = True
    shutdown.proceed(101.0)
    assert parts.take() == []
    parts.moving = False
    shutdown.proceed(102.0)
    assert parts.take() == ["drain"]
    parts.drained = True
    shutdown.proceed(103.0)
    assert parts.take() == []
    parts.empty = True
    shutdown.proceed(104.0)
    assert parts.take() == ["turn", "bye", "turn", "silence", "close 6"]
    assert shutdown.deadline == 110.0 + STOP_GRACE
    shutdown.proceed(110.0 + STOP_GRACE - 0.01)
    assert parts.take() == []


def test_the_deadline_cuts_every_step_short_and_in_the_end_workers_are_killed_once() -> None:
    shutdown, parts = begun()
    parts.moving = True
    shutdown.proceed(110.0)
    assert parts.take() == ["drain"]
    shutdown.proceed(110.0)
    assert parts.take()[-1] == "close 0"
    shutdown.proceed(110.0 + STOP_GRACE)
    assert parts.take() == ["kill"]
    assert shutdown.deadline is None
    shutdown.proceed(1000.0)
    assert parts.take() == []


def test_without_a_farewell_nothing_is_announced() -> None:
    shutdown, parts = begun(farewell="")
    parts.drained = parts.empty = True
    shutdown.proceed(100.0)
    shutdown.proceed(100.0)
    assert parts.take() == ["drain", "turn", "silence", "close 10"]


def test_hurry_skips_to_the_farewell_and_leaves_little_time() -> None:
    shutdown, parts = begun()
    shutdown.hurry(101.0)
    assert parts.take() == ["drain", "turn", "bye", "turn", "silence", f"close {QUICK:g}"]
    shutdown.hurry(101.1)
    assert parts.take() == []
    shutdown.proceed(101.0 + QUICK + STOP_GRACE)
    assert parts.take() == ["kill"]


def test_hurry_near_the_deadline_gives_no_more_time_than_there_was() -> None:
    shutdown, parts = begun()
    shutdown.proceed(109.8)
    assert parts.take() == ["drain"]
    shutdown.hurry(109.875)
    assert parts.take()[-1] == "close 0.125"


@pytest.mark.parametrize("arrived", [True, False])
def test_hurry_lets_those_arrive_that_are_in_transit(*, arrived: bool) -> None:
    shutdown, parts = begun()
    parts.moving = True
    shutdown.hurry(101.0)
    shutdown.proceed(101.1)
    assert parts.take() == []
    parts.moving = not arrived
    shutdown.proceed(101.1 if arrived else 101.0 + QUICK)
    assert parts.take() == ["drain", "turn", "bye", "turn", "silence", f"close {QUICK:g}"]
    shutdown.hurry(102.0)
    assert parts.take() == []


# Requests to stop.


def test_a_stop_waits_for_as_long_as_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(resolve([])[0], stop_timeout=7.0)
    for result, seconds in (
        ({"processes": [[1, 2.0]], "timeout": 60.0}, 60.0),
        ({"processes": [[1, 2.0]]}, 7.0),
    ):
        answer = SimpleNamespace(result=result)
        monkeypatch.setattr(life_cycle, "ask", lambda *_, answer=answer: answer)
        assert life_cycle._begin_stop(config, 5.0)[1] == seconds


def test_a_stop_that_comes_by_two_ways_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [100.0], list[str]()
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    server = Supervisor(cast(Any, None), lambda facts: None)
    parts: dict[str, Any] = {
        "_built": True,
        "acceptor": SimpleNamespace(close=lambda: None),
        "changes": SimpleNamespace(cancel=lambda why: None),
        "shutdown": SimpleNamespace(
            begin=lambda now: done.append("begin"), hurry=lambda now: done.append("hurry")
        ),
    }
    for name, part in parts.items():
        monkeypatch.setattr(server, name, part, raising=False)
    server.stop("mpchat stop")
    server.stop("signal SIGTERM")
    assert done == ["begin"]
    server.stop("mpchat stop")
    now[0] += ONE_REQUEST
    server.stop("signal SIGTERM")
    assert done == ["begin", "hurry", "hurry"]
    server.reactor.close()
