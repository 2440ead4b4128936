"""The log as a starting host opens it."""

import time

import pytest
from support.model_store import ModelLog, ModelStore

from mpchat.cluster.store import FOUND, Snapshot
from mpchat.config import parse_environment, resolve
from mpchat.errors import StartError
from mpchat.hub import snapshot
from mpchat.supervisor import cluster

pytestmark = pytest.mark.one_python

CONFIG, _ = resolve([parse_environment({"MPCHAT_CLUSTER": "redis://127.0.0.1:1"})])


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> ModelLog:
    """A log in memory, instead of one in Redis."""
    log = ModelLog()
    monkeypatch.setattr(cluster.OpenLog, "_store", lambda *args: ModelStore(log))
    return log


def test_a_host_begins_a_log_where_there_is_none(log: ModelLog) -> None:
    begun = cluster.OpenLog(CONFIG, "i").past
    again = cluster.OpenLog(CONFIG, "j").past
    assert begun.place == again.place
    assert begun.state.members.past.epoch == again.state.members.past.epoch


def test_a_host_waits_for_the_log_that_others_are_about_to_begin_anew(
    log: ModelLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = cluster._begin(CONFIG)
    place = lost.place._replace(generation="2-새", position=9)
    other = ModelStore(log)
    other.stand("1-옛", place, "부산")

    def sleep(seconds: float) -> None:
        log.advance(seconds)
        if other.stand("1-옛", place, "부산").answer == FOUND:
            assert other.found("1-옛", Snapshot(place, 1, list(snapshot.parts(snapshot.take(lost.state)))))

    monkeypatch.setattr(time, "sleep", sleep)
    opened = cluster.OpenLog(CONFIG, "i").past
    assert opened.place == place
    assert opened.state.members.past.epoch == lost.state.members.past.epoch


def test_a_host_does_not_wait_for_ever(log: ModelLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "STAND_PATIENCE", 0.0)
    ModelStore(log).stand("1-옛", cluster._begin(CONFIG).place, "부산")
    with pytest.raises(StartError, match="no host has begun it anew"):
        cluster.OpenLog(CONFIG, "i")
