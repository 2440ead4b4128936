"""``python -m scripts.bench moves``: every connection is moved and counted, and faults and goals are told."""

import json
import subprocess
import sys
from typing import Any

from scripts.bench.moves import compared, faults, missed

RELOADED = {
    "seconds": 1.0,
    "lost": 0,
    "exit": 0,
    "text": "",
    "pauses": {"p50": 0.01, "p99": 0.02, "max": 0.03},
}


def test_a_hundred_connections_of_each_kind_are_moved_and_hear_one_message() -> None:
    command = [sys.executable, "-m", "scripts.bench", "moves", "--websockets", "--json"]
    sizes = ["--connections", "100", "--probes", "10", "--workers", "1", "--rounds", "1", "--quiet", "0.2"]

    done = subprocess.run([*command, *sizes], capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["faults"] == []
    assert (facts["plain"]["server"], facts["server"]) == ("mpchat", "mpchat-ws")
    assert facts["times_plain"] > 0
    for each in (facts, facts["plain"]):
        assert_all_were_moved(each)


def assert_all_were_moved(facts: dict[str, Any]) -> None:
    """Check the facts of 110 connections, 10 of them probes."""
    assert facts["connections"] == facts["received"] == 110
    # A connection may move twice: to a worker that is itself about to be replaced.
    assert all(each["moved"] >= 110 and not each["lost"] for each in facts["reloads"])
    assert facts["trips"]["quiet"]["count"] > 20
    assert facts["trips"]["reload"]["count"] > 10
    assert facts["trips"]["reload"]["max"] >= facts["longest"]["reload"]["p50"] > 0


def test_faults_and_missed_goals_are_told_apart() -> None:
    assert faults([RELOADED]) == missed([RELOADED]) == []
    lossy = {**RELOADED, "lost": 2, "seconds": 6.0}
    assert faults([lossy]) == ["2 connections were lost"]
    assert missed([RELOADED, lossy]) == ["reload 2: seconds is 6.000 s, the goal 5 s"]
    assert faults([RELOADED, {"exit": 5, "text": "why"}]) == ["a reload failed: why"]


def test_reloads_of_websockets_are_compared_with_those_of_plain_connections() -> None:
    plain: dict[str, Any] = {
        "reloads": [RELOADED, {**RELOADED, "seconds": 3.0}],
        "faults": ["a"],
        "missed": [],
    }
    slow, quick, failed = (
        {"reloads": reloads, "faults": ["b"], "missed": ["c"]}
        for reloads in (
            [{**RELOADED, "seconds": 2.5}],
            [{**RELOADED, "seconds": 2.4}],
            [{"exit": 5, "text": ""}],
        )
    )

    assert compared(slow, plain)["times_plain"] == 1.25
    assert compared(slow, plain)["missed"] == [
        "c",
        "reloads took 1.25 times as long as with plain connections, the goal 1.2",
    ]
    assert compared(quick, plain)["missed"] == ["c"]
    assert compared(quick, plain)["faults"] == ["a", "b"]
    assert compared(failed, plain)["times_plain"] is None
