"""The steps of an orderly stop, with a clock as an argument and parts that only say what is so."""

from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from msgspec.structs import replace

from mpchat.cli import life_cycle
from mpchat.config import resolve
from mpchat.errors import TimedOutError
from mpchat.supervisor import supervisor
from mpchat.supervisor.pool import Phase
from mpchat.supervisor.shutdown import FIRST_BYTES, HANDSHAKES, QUICK, STOP_GRACE, Shutdown
from mpchat.supervisor.supervisor import ONE_REQUEST, Supervisor

STOP_TIMEOUT = 10.0
# The user whose instance is stopped.
OWNER = 54321


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
        # Workers that take connections, and whether one waits for them; None: that is not what is tested.
        self.serving: list[Any] = []
        self.holds_up: bool | None = None
        # Clients that wait for a worker or a TLS process.
        self.waiting = 0
        self.tls = SimpleNamespace(
            shaking=0, phase=self.phase, handles=[], close=self.close_tls, kill=self.kill_tls
        )

    def __len__(self) -> int:
        return self.waiting

    def turn(self, now: float) -> None:
        self.done.append("turn")

    def say_farewell(self, text: str, now: float) -> None:
        self.done.append(text)

    def silence_notices(self, now: float) -> None:
        self.done.append("silence")

    def refuse(self, refusal: object) -> None:
        if self.holds_up is not None:
            self.done.append("refuse")

    def drain(self) -> None:
        self.done.append("drain")

    def close(self, seconds: float) -> None:
        self.done.append(f"close {seconds:g}")

    def kill(self) -> None:
        self.done.append("kill")

    def close_tls(self, seconds: float) -> None:
        self.done.append(f"close TLS {seconds:g}")

    def kill_tls(self) -> None:
        self.done.append("kill TLS")

    def leave(self) -> None:
        self.done.append("leave")

    def take(self) -> list[str]:
        done, self.done = self.done, []
        return done


def begun(**more: Any) -> tuple[Shutdown, Parts]:
    """A shutdown that began at 100 s."""
    parts = Parts(**more)
    shutdown = Shutdown(*cast(Any, (parts, parts, parts, parts.tls, parts)))
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


def test_clients_that_were_accepted_get_a_worker_if_the_next_server_has_the_same_sockets() -> None:
    parts = Parts()
    shutdown = Shutdown(*cast(Any, (parts, parts, parts, parts.tls, parts)))
    shutdown.refuses_nobody = True
    connections = SimpleNamespace(unacked={1: "a client"})
    parts.handles = parts.serving = [SimpleNamespace(connections=connections)]
    parts.holds_up = True
    shutdown.begin(100.0)
    shutdown.proceed(101.0)
    parts.holds_up = False
    # On its way to a worker, which would send it back once it drains.
    shutdown.proceed(102.0)
    assert parts.take() == []
    connections.unacked.clear()
    shutdown.proceed(103.0)
    assert parts.take() == ["drain"]
    shutdown.proceed(104.0)
    assert parts.take() == ["refuse"]


@pytest.mark.parametrize("end", ["the deadline", "hurry", "no worker"])
def test_clients_that_wait_for_a_worker_do_not_keep_the_server_for_ever(end: str) -> None:
    parts = Parts()
    shutdown = Shutdown(*cast(Any, (parts, parts, parts, parts.tls, parts)))
    shutdown.refuses_nobody = parts.holds_up = True
    parts.serving = [SimpleNamespace(connections=SimpleNamespace(unacked={}))]
    shutdown.begin(100.0)
    shutdown.proceed(101.0)
    assert parts.take() == []
    if end == "hurry":
        shutdown.hurry(101.0)
    elif end == "no worker":
        parts.serving = []
    shutdown.proceed(110.0 if end == "the deadline" else 102.0)
    assert "drain" in parts.take()
    shutdown.proceed(110.0)
    assert "refuse" in parts.take()


def test_clients_that_shake_hands_get_a_worker_too_but_a_silent_one_keeps_nobody() -> None:
    parts = Parts()
    shutdown = Shutdown(*cast(Any, (parts, parts, parts, parts.tls, parts)))
    shutdown.refuses_nobody = True
    parts.tls.handles = parts.serving = [SimpleNamespace(connections=SimpleNamespace(unacked={}))]
    shutdown.begin(100.0)
    # The first bytes of a client that was just accepted may still come.
    assert shutdown.due(100.0) == 100.0 + FIRST_BYTES
    shutdown.proceed(100.0)
    parts.tls.shaking = 1
    shutdown.proceed(100.0 + FIRST_BYTES)
    parts.tls.shaking, parts.waiting = 0, 1
    shutdown.proceed(100.1 + FIRST_BYTES)
    assert shutdown.due(100.1 + FIRST_BYTES) == 100.0 + HANDSHAKES
    assert parts.take() == []
    shutdown.proceed(100.0 + HANDSHAKES)
    assert parts.take() == ["drain"]
    assert shutdown.due(101.5) == shutdown.deadline == 110.0


def test_without_a_farewell_nothing_is_announced() -> None:
    shutdown, parts = begun(farewell="")
    parts.drained = parts.empty = True
    shutdown.proceed(100.0)
    shutdown.proceed(100.0)
    assert parts.take() == ["drain", "turn", "silence", "close 10"]


def test_a_host_of_several_leaves_when_its_clients_have_the_farewell() -> None:
    shutdown, parts = begun()
    shutdown.cluster = cast(Any, parts)
    parts.drained = parts.empty = True
    for now in (100.0, 101.0):
        shutdown.proceed(now)
    assert parts.take() == ["drain", "turn", "bye", "turn", "silence", "leave", "close 9"]
    shutdown.hurry(102.0)
    shutdown.proceed(110.0 + STOP_GRACE)
    assert parts.take() == ["kill"]


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


def test_tls_processes_end_after_the_workers_with_what_is_left_of_the_time() -> None:
    shutdown, parts = begun()
    parts.handles = parts.tls.handles = [object()]
    parts.drained = parts.empty = True
    for now in (100.0, 101.0):
        shutdown.proceed(now)
    assert parts.take()[-1] == "close 9"
    shutdown.proceed(102.0)
    assert parts.take() == []
    parts.handles = []
    shutdown.proceed(103.0)
    assert parts.take() == [f"close TLS {7 + STOP_GRACE:g}"]
    shutdown.proceed(110.0)
    assert parts.take() == []
    shutdown.proceed(110.0 + 2 * STOP_GRACE)
    assert parts.take() == ["kill TLS"]


def test_tls_processes_end_after_workers_that_had_to_be_killed() -> None:
    shutdown, parts = begun()
    parts.handles = parts.tls.handles = [SimpleNamespace(slot=1)]
    for _ in range(2):
        shutdown.proceed(110.0)
    shutdown.proceed(110.0 + STOP_GRACE)
    assert parts.take()[-1] == "kill"
    parts.handles = []
    shutdown.proceed(112.0)
    assert parts.take() == [f"close TLS {QUICK:g}"]


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
        assert life_cycle._begin_stop(config, 5.0, OWNER)[1] == seconds


class FakeProcess:
    """A process that records signals, or that ends just before the first one reaches it."""

    def __init__(self, signals: list[str], *, ends_before: bool = False) -> None:
        self.pid = 1
        self._signals, self._ends_before = signals, ends_before
        self._alive = True

    def process(self) -> "FakeProcess | None":
        """Pass the check of its identity as long as it lives."""
        return self if self._alive else None

    def uids(self) -> SimpleNamespace:
        return SimpleNamespace(real=OWNER)

    def _end(self, signal: str) -> None:
        self._alive = False
        if self._ends_before:
            raise psutil.NoSuchProcess(self.pid)
        self._signals.append(signal)

    def kill(self) -> None:
        self._end("kill")

    def terminate(self) -> None:
        self._end("terminate")


def test_a_process_that_ends_just_before_its_kill_does_not_save_the_others() -> None:
    signals: list[str] = []
    processes = [FakeProcess(signals, ends_before=True), FakeProcess(signals)]
    life_cycle._kill(resolve([])[0], cast(Any, processes), OWNER)
    assert signals == ["kill"]


@pytest.mark.parametrize("ends_before", [False, True])
def test_a_supervisor_without_an_answer_is_signalled_only_as_the_process_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, *, ends_before: bool
) -> None:
    def no_answer(*_: object) -> None:
        raise TimedOutError("no answer")

    signals: list[str] = []
    supervisor = FakeProcess(signals, ends_before=ends_before)
    record = SimpleNamespace(supervisor=supervisor, workers=[])
    monkeypatch.setattr(life_cycle, "ask", no_answer)
    monkeypatch.setattr(life_cycle, "living_record", lambda config: record)
    # A number alone may be another process by now.
    monkeypatch.setattr(psutil, "Process", lambda pid: FakeProcess(signals))
    life_cycle._begin_stop(resolve([])[0], 5.0, OWNER)
    life_cycle._begin_stop(resolve([])[0], 5.0, OWNER)
    assert signals == ([] if ends_before else ["terminate"])


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
