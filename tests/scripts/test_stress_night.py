"""The night must be able to fail: its ledger against each fault, the whole of it against the real server."""

import json
import subprocess
import sys

import pytest
from support.stress import temporary  # noqa: F401  (a fixture)

from mpchat.supervisor.metrics.table import METRICS
from scripts.common.processes import CHECKOUT
from scripts.stress.night.events import EVENTS
from scripts.stress.night.ledger import Ledger

pytestmark = pytest.mark.timeout(200)

ROOM = "방"


def heard(ledger: Ledger, who: str, *texts: str, first: int = 1) -> None:
    last = None
    for seq, text in enumerate(texts, first):
        last = ledger.hear(who, ROOM, last, seq, text)


def test_a_good_night_leaves_nothing_to_say() -> None:
    ledger = Ledger()
    ledger.say("가", "가 1")
    ledger.say("나", "나 2")
    for who in ("가", "나"):
        heard(ledger, who, "가 1", "나 2")
    ledger.finish()
    assert ledger.wrong == []
    assert dict(ledger.counts) == {"said": 2, "deliveries": 4, "unsure": 0}


def test_each_fault_is_found() -> None:
    missing, doubled, differing, twice, lost = (Ledger() for _ in range(5))
    missing.hear("가", ROOM, 1, 3, "나 2")
    doubled.hear("가", ROOM, 2, 2, "나 2")
    heard(differing, "가", "나 1")
    heard(differing, "나", "나 2")
    heard(twice, "가", "나 1", "나 1")
    lost.say("나", "나 1")
    heard(lost, "가", "가 1")
    for ledger, why in (
        (missing, "가 was told 3 after 1 in 방"),
        (doubled, "가 was told 2 after 2 in 방"),
        (differing, "나 was told '나 2' as 1 of 방, another member '나 1'"),
        (twice, "a message has two numbers in 방"),
        (lost, "나's message was lost: '나 1'"),
    ):
        ledger.finish()
        assert ledger.wrong == [why]


def test_what_was_under_way_when_a_connection_ended_is_unsure_unless_it_is_told() -> None:
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.say("가", f"가 {number}")
    heard(ledger, "가", "가 1")
    ledger.lose_connection("가")
    heard(ledger, "나", "가 1", "가 2")
    ledger.finish()
    assert ledger.wrong == []
    assert ledger.counts["unsure"] == 1


def test_the_metrics_that_it_looks_at_are_there() -> None:
    known = {each.full_name for each in METRICS}
    assert {name for event in EVENTS for name in event.metrics} <= known


def test_a_short_night_with_the_real_server(temporary: None) -> None:  # noqa: F811
    options = ("--seconds", "8", "--members", "6", "--rate", "30", "--seed", "1", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.stress", "night", *options],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    verdict = json.loads(done.stdout)
    assert verdict["reasons"] == [], done.stderr
    assert done.returncode == 0
    assert [each["event"] for each in verdict["night"]] == [each.name for each in EVENTS] + [
        "the crowd leaves"
    ]
    ended = {each["event"] for each in verdict["night"] if each["counts"].get("ended")}
    assert ended == {each.name for each in EVENTS if each.ends}
    assert {"READY", "RELOADING", "STOPPING", "STATUS", "WATCHDOG"} <= set(verdict["notified"])
