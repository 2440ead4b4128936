"""Heartbeat: when a silent worker counts as hung, and what time in which no beat could be heard changes."""

import pytest

from mpchat.ipc.items import Beat
from mpchat.supervisor.heartbeat import DUMP_GRACE, READY_TIMEOUT, Health, Heartbeat

START, TIMEOUT = 1000.0, 10.0


def ready(at: float = START) -> Heartbeat:
    """Return the heartbeat of a worker that is ready at this time."""
    heartbeat = Heartbeat(TIMEOUT, START)
    heartbeat.on_ready(at)
    return heartbeat


def test_a_worker_that_is_not_ready_in_time_is_told_from_one_that_hangs() -> None:
    heartbeat = Heartbeat(TIMEOUT, START)
    assert heartbeat.health(START + READY_TIMEOUT) is Health.WELL
    assert heartbeat.health(START + READY_TIMEOUT + 0.1) is Health.NOT_READY
    heartbeat.on_beat(Beat(), START + READY_TIMEOUT)  # a beat does not make it ready
    assert heartbeat.health(START + READY_TIMEOUT + 0.1) is Health.NOT_READY
    heartbeat.on_ready(START + READY_TIMEOUT)
    assert heartbeat.ready_at == START + READY_TIMEOUT
    assert heartbeat.health(START + READY_TIMEOUT + 0.1) is Health.WELL


def test_a_worker_hangs_when_it_was_silent_for_longer_than_it_may() -> None:
    heartbeat = ready(START + 5)
    assert heartbeat.health(START + 5 + TIMEOUT) is Health.WELL
    assert heartbeat.health(START + 5 + TIMEOUT + 0.1) is Health.HUNG
    heartbeat.on_beat(Beat(), START + 12)
    assert heartbeat.silence(START + 20) == 8
    assert heartbeat.health(START + 12 + TIMEOUT) is Health.WELL
    assert heartbeat.health(START + 12 + TIMEOUT + 0.1) is Health.HUNG


def test_a_hung_worker_is_given_up_a_moment_after_its_stacks_were_asked_for() -> None:
    heartbeat = ready()
    asked = START + TIMEOUT + 1
    heartbeat.on_dump(asked)
    assert heartbeat.health(asked + DUMP_GRACE - 0.1) is Health.WELL
    assert heartbeat.health(asked + DUMP_GRACE) is Health.HUNG_AFTER_DUMP


def test_a_beat_after_the_stacks_were_asked_for_saves_the_worker() -> None:
    heartbeat = ready()
    heartbeat.on_dump(START + TIMEOUT + 1)
    heartbeat.on_beat(Beat(), START + TIMEOUT + 1.5)
    assert heartbeat.health(START + TIMEOUT + 1.5 + TIMEOUT) is Health.WELL
    assert heartbeat.health(START + TIMEOUT + 1.5 + TIMEOUT + 0.1) is Health.HUNG


def test_time_in_which_no_beat_could_be_heard_does_not_count() -> None:
    heartbeat = ready()
    heartbeat.forgive(100.0, START + 105)
    assert heartbeat.silence(START + 105) == 5
    heartbeat.on_dump(START + 105)
    heartbeat.forgive(50.0, START + 155)
    assert heartbeat.health(START + 155 + DUMP_GRACE - 0.1) is Health.WELL
    assert heartbeat.health(START + 155 + DUMP_GRACE) is Health.HUNG_AFTER_DUMP


def test_time_in_which_nothing_could_be_heard_does_not_count_for_a_new_worker_either() -> None:
    heartbeat = Heartbeat(TIMEOUT, START)
    heartbeat.forgive(100.0, START + 105)
    assert heartbeat.health(START + 100 + READY_TIMEOUT) is Health.WELL
    assert heartbeat.health(START + 100 + READY_TIMEOUT + 0.1) is Health.NOT_READY


def test_no_more_is_forgiven_than_has_passed() -> None:
    heartbeat = ready()
    heartbeat.forgive(100.0, START + 5)
    assert heartbeat.silence(START + 5) == 0
    assert heartbeat.health(START + 5 + TIMEOUT) is Health.WELL
    assert heartbeat.health(START + 5 + TIMEOUT + 0.1) is Health.HUNG
    new = Heartbeat(TIMEOUT, START)
    new.forgive(100.0, START + 5)
    assert new.health(START + 5 + READY_TIMEOUT + 0.1) is Health.NOT_READY


def test_rates_are_those_between_the_last_two_beats() -> None:
    heartbeat = ready()
    assert heartbeat.rates() == (0, 0, 0)
    heartbeat.on_beat(Beat(messages_in=100, messages_out=1000, cpu=1.0), START + 2)
    assert heartbeat.rates() == (50, 500, 0.5)
    heartbeat.on_beat(Beat(messages_in=104, messages_out=1040, cpu=1.5), START + 6)
    assert heartbeat.rates() == pytest.approx((1, 10, 0.125))
    assert heartbeat.beat.messages_in == 104


def test_two_beats_at_the_same_moment_have_rates() -> None:
    heartbeat = ready()
    heartbeat.on_beat(Beat(), START + 2)
    heartbeat.on_beat(Beat(messages_in=1), START + 2)
    assert heartbeat.rates().messages_in == pytest.approx(1000)
