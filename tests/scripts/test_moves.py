"""``scripts.moves``: every connection is moved and counted, and what goes wrong is told."""

import json
import subprocess
import sys
from pathlib import Path

from scripts import moves

ROOT = Path(__file__).resolve().parents[2]

RELOADED = {
    "seconds": 1.0,
    "lost": 0,
    "exit": 0,
    "text": "",
    "pauses": {"p50": 0.01, "p99": 0.02, "max": 0.03},
}


def test_two_hundred_connections_are_moved_and_hear_one_message() -> None:
    command = [sys.executable, "-m", "scripts.moves", "--json", "--connections", "200", "--probes", "20"]
    done = subprocess.run(
        [*command, "--workers", "2", "--rounds", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["faults"] == []
    assert facts["connections"] == facts["alive"] == facts["heard"] == 220
    # A connection may move twice: to a worker that is itself about to be replaced.
    assert all(each["moved"] >= 220 and not each["lost"] for each in facts["reloads"])
    probes = facts["probes"]
    assert probes["quiet"]["count"] > 1000
    assert probes["reload"]["count"] > 20
    assert probes["reload"]["max"] >= probes["longest"]["reload"]["p50"] > 0


def test_what_is_a_fault_and_what_is_a_goal_missed() -> None:
    clean = {"connections": 5, "alive": 5, "heard": 5, "left": [], "reloads": [RELOADED]}
    assert moves.faults(clean) == moves.missed(clean) == []
    assert moves.faults({**clean, "heard": 4}) == ["of 5 connections 4 got just the one message"]
    lossy = {**clean, "reloads": [{**RELOADED, "lost": 2, "seconds": 6.0}]}
    assert moves.faults(lossy) == ["2 connections were lost"]
    assert moves.missed(lossy) == ["reload 1: seconds is 6.000 s, the goal 5 s"]
    refused = {**clean, "reloads": [RELOADED, {**RELOADED, "exit": 5, "text": "why"}]}
    assert moves.faults(refused) == ["a reload failed: why"]
