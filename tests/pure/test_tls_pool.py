"""The pool of TLS processes: what a reload starts, keeps, calls back and ends. No process is there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mpchat.config import Config, resolve
from mpchat.ipc.items import Down
from mpchat.supervisor import pool
from mpchat.supervisor.pool import Phase, PoolObserver
from mpchat.supervisor.slot import Slot, SlotState
from mpchat.supervisor.tls_pool import TlsPool
from mpchat.tls.certificate import Certificate

FIRST, SECOND = (Certificate(name, name + b" key", (), 0.0) for name in (b"first", b"second"))


class Process:
    """A handle without a process; it keeps what it was told."""

    def __init__(self, config: Config, slot: int, generation: int, lock: Path, kind: object) -> None:
        self.slot, self.generation, self.identity = slot, generation, None
        self.load = 0
        self.how, self.retiring, self.drained = "killed by SIGKILL", False, False
        self.heartbeat = SimpleNamespace(ready_at=None)
        self.connections = SimpleNamespace(count=0, asked=False)
        self.shown: list[bytes] = []
        self.endpoint = SimpleNamespace(send_now=self._told, send=lambda kind: None, retire=lambda: None)

    def _told(self, kind: Down, payload: tuple[bytes, bytes]) -> None:
        if kind is Down.SETTINGS:
            return
        assert kind is Down.CERTIFICATE
        assert payload[1] == payload[0] + b" key"
        self.shown.append(payload[0])

    @property
    def ready(self) -> bool:
        return self.heartbeat.ready_at is not None


def with_tls(processes: int) -> Config:
    """Return settings with so many TLS processes; 0: TLS is off."""
    return msgspec.structs.replace(
        resolve([])[0], tls_cert="there" if processes else "", tls_processes=processes or 1
    )


class Desk:
    """A pool that serves with TLS off, and what a reload does with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool, "WorkerHandle", Process)
        self._events: dict[int, Any] = {}
        timer = SimpleNamespace(cancel=lambda: None)
        clock = SimpleNamespace(now=0.0, call_later=lambda delay, call: timer)
        watch = SimpleNamespace(begin=lambda handle, events: self._events.update({id(handle): events}))
        observer = PoolObserver(lambda: None, lambda identities: None, lambda why: None)
        parts: list[Any] = [with_tls(0), clock, None, watch, Path("lock"), observer]
        self.pool = TlsPool(*parts)
        self.pool.phase = Phase.SERVING

    def prepare(self, processes: int, certificate: Certificate | None = FIRST) -> list[Slot]:
        """Prepare for so many processes; those that are new become ready."""
        added = self.pool.prepare(with_tls(processes), certificate if processes else None)
        for slot in added:
            self._ready(slot.handle)
        return added

    def reload(self, processes: int, certificate: Certificate | None = FIRST) -> None:
        self.prepare(processes, certificate)
        self.pool.follow(with_tls(processes), certificate if processes else None)

    def _ready(self, handle: Any) -> None:
        handle.heartbeat.ready_at = 0.0
        self._events[id(handle)].on_ready(handle)

    def die(self, handle: Any) -> None:
        self._events[id(handle)].on_death(handle)

    @property
    def serving(self) -> list[Any]:
        """The processes that get new clients."""
        return list(self.pool.serving)

    @property
    def numbers(self) -> list[int]:
        return sorted(each.slot for each in self.serving)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def test_processes_are_started_before_the_settings_hold_and_are_told_the_certificate(desk: Desk) -> None:
    added = desk.prepare(2)
    assert ([each.number for each in added], desk.numbers) == ([1, 2], [1, 2])
    assert [each.shown for each in desk.serving] == [[b"first"], [b"first"]]
    desk.pool.follow(with_tls(2), FIRST)
    assert desk.numbers == [1, 2]


def test_a_new_certificate_is_shown_when_the_settings_hold_and_not_before(desk: Desk) -> None:
    desk.reload(1)
    (process,) = desk.serving
    assert desk.prepare(1, SECOND) == []
    assert set(process.shown) == {b"first"}
    desk.pool.follow(with_tls(1), SECOND)
    assert process.shown[-1] == b"second"
    assert desk.serving == [process], "it goes on"


def test_a_process_that_was_restarted_is_told_the_certificate(desk: Desk) -> None:
    desk.reload(1, SECOND)
    (slot,) = desk.pool.slots.values()
    desk.die(slot.handle)
    assert slot.state is SlotState.BACKOFF
    desk.pool.start(slot)
    handle: Any = slot.handle
    assert handle.shown == [b"second"]


def test_what_is_given_up_leaves_nothing(desk: Desk) -> None:
    desk.prepare(2)
    first, second = desk.serving
    desk.pool.give_up()
    assert (desk.serving, desk.pool.certificate) == ([], None)
    assert first.retiring
    assert second.retiring
    for each in (first, second):
        desk.die(each)
    desk.pool.tidy()
    assert not desk.pool.slots


def test_a_certificate_of_a_reload_that_failed_is_not_shown_by_a_later_one(desk: Desk) -> None:
    desk.prepare(1)
    desk.pool.give_up()
    desk.prepare(1, SECOND)
    assert [each.shown for each in desk.serving] == [[b"second"]]


def test_what_is_given_up_leaves_what_served_before(desk: Desk) -> None:
    desk.reload(1)
    (process,) = desk.serving
    desk.prepare(3, SECOND)
    desk.pool.give_up()
    assert (desk.serving, desk.pool.certificate) == ([process], FIRST)
    assert not process.retiring


def test_a_process_that_is_no_longer_wanted_gets_nobody_and_ends_with_its_last_client(desk: Desk) -> None:
    desk.reload(2)
    _, second = desk.serving
    second.load = 1
    desk.reload(1)
    assert desk.numbers == [1]
    desk.pool.tidy()
    assert not second.retiring
    second.load = 0
    desk.pool.tidy()
    assert second.retiring
    desk.die(second)
    desk.pool.tidy()
    assert list(desk.pool.slots) == [1]


def test_a_process_that_still_has_clients_is_called_back(desk: Desk) -> None:
    desk.reload(2)
    both = desk.serving
    both[1].load = 1
    desk.reload(1)
    assert desk.prepare(2) == []
    assert desk.serving == both
    desk.pool.follow(with_tls(2), SECOND)
    assert both[1].shown[-1] == b"second"
    assert desk.serving == both


def test_a_process_that_was_called_back_for_nothing_gets_nobody(desk: Desk) -> None:
    desk.reload(2)
    first, second = desk.serving
    second.load = 1
    desk.reload(1)
    desk.prepare(2)
    desk.pool.give_up()
    assert desk.serving == [first]
    assert not second.retiring
    assert list(desk.pool.slots[2].handles) == [second]


def test_a_process_that_is_ending_is_replaced(desk: Desk) -> None:
    desk.reload(1)
    (ending,) = desk.serving
    desk.reload(0)
    assert ending.retiring
    desk.reload(1)
    (process,) = desk.serving
    assert process is not ending
    desk.die(ending)
    desk.pool.tidy()
    assert desk.serving == [process]


def test_a_process_that_has_just_ended_is_replaced(desk: Desk) -> None:
    desk.reload(1)
    (ending,) = desk.serving
    desk.reload(0)
    desk.die(ending)
    desk.reload(1)
    assert desk.numbers == [1]


def test_a_process_that_has_died_is_started_when_that_is_planned(desk: Desk) -> None:
    desk.reload(1)
    desk.die(desk.serving[0])
    assert desk.prepare(1) == []
    assert desk.pool.slots[1].restart is not None


def test_processes_are_started_beside_one_of_a_higher_number_that_still_has_clients(desk: Desk) -> None:
    desk.reload(2)
    first, second = desk.serving
    second.load = 1
    desk.reload(0)
    desk.die(first)
    desk.pool.tidy()
    assert list(desk.pool.slots) == [2]
    desk.reload(1)
    assert desk.numbers == [1]
    assert not second.retiring


def test_a_process_that_died_after_it_was_no_longer_wanted_is_not_started_again(desk: Desk) -> None:
    desk.reload(2)
    second = desk.serving[1]
    second.load = 1
    desk.reload(1)
    desk.die(second)
    desk.pool.tidy()
    assert list(desk.pool.slots) == [1]
