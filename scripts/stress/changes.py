"""Reloads and scalings under load: a fault that must harm no client, as connections move with their state.

Each change is a real ``mpchat reload`` or ``mpchat scale``, one after the other: the server rejects a second
change while one is under way. At the end there are as many workers as at the start, so that the server's
memory and descriptors can be compared.
"""

import json
import random
import statistics
import subprocess
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scripts.common.server import OK, HarnessError, Server
from scripts.stress.faults import Fault

RELOAD, SCALE = "reload", "scale"
# Seconds for one change; on few cores and under load a worker takes a second or two to start.
CHANGE_TIMEOUT = 120.0
# Seconds until there are as many workers as at the start, deaths of workers in between included.
RESTORE_TIMEOUT = 60.0
# Failures that are reported in words; all are counted.
MAX_WRONG = 10


@dataclass
class Changes(Fault):
    """Reloads and scalings, mixed at random."""

    server: Server
    chooser: random.Random
    wanted: dict[str, int]  # by command, how many; 0: as many as the time allows
    most: int  # workers
    asked: Counter[str] = field(default_factory=Counter)
    did: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    _workers: int = 0  # asked for by the last scaling
    _verb: str = ""
    _change: "Future[subprocess.CompletedProcess[str]] | None" = None  # the command under way
    _pool: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1))

    def step(self, now: float) -> None:
        """Start the next change once the last one is done."""
        if self._change is None:
            self._begin()
        elif self._change.done():
            self._take_answer(self._change)

    def _begin(self) -> None:
        left = {
            verb: wanted - self.asked[verb] if wanted else 1
            for verb, wanted in self.wanted.items()
            if not wanted or self.asked[verb] < wanted
        }
        if not left:
            return
        self._verb = self.chooser.choices(list(left), list(left.values()))[0]
        self.asked[self._verb] += 1
        flags = ["--json"]
        if self._verb == SCALE:
            before = self._workers or self.server.workers
            self._workers = self.chooser.choice([n for n in range(1, self.most + 1) if n != before] or [1])
            flags.append(str(self._workers))
        self._change = self._pool.submit(self.server.command, self._verb, *flags, timeout=CHANGE_TIMEOUT)

    def _take_answer(self, change: "Future[subprocess.CompletedProcess[str]]") -> None:
        self._change = None
        try:
            done = change.result()
        except HarnessError as error:
            self.wrong.append(str(error))
            return
        if done.stdout:
            self.answers.append(json.loads(done.stdout))
        if done.returncode == OK:
            self.did[self._verb] += 1
        else:
            self.wrong.append(f"{self._verb}: exit {done.returncode}: {done.stderr.strip()}")
        self.server.remember()

    def end(self) -> None:
        """Wait for the change under way, and scale back to as many workers as at the start."""
        deadline = time.monotonic() + RESTORE_TIMEOUT
        if self._change is not None:
            self._take_answer(self._change)
        while (done := self.server.command(SCALE, str(self.server.workers))).returncode != OK:
            if time.monotonic() > deadline:
                raise HarnessError(f"scaling back: exit {done.returncode}: {done.stderr.strip()}")
        self.server.remember()

    def done(self) -> bool:
        """Say whether all wanted changes were started, at least one of each kind, and the last has ended."""
        enough = all(self.asked[verb] >= max(1, wanted) for verb, wanted in self.wanted.items())
        return enough and (self._change is None or not all(self.wanted.values()))

    def facts(self) -> dict[str, Any]:
        """Return what was done and what it did to connections.

        ``pauses``: seconds in which no worker served a connection that moved. ``p50``: the median of all
        changes' medians; ``p99``: that of the worst change; ``max``: the longest of all.
        """
        pauses = [each["pauses"] for each in self.answers if each["moved"]]
        return {
            "reloads": self.did[RELOAD],
            "scalings": self.did[SCALE],
            "missing": sum(max(1, wanted) - self.did[verb] for verb, wanted in self._short().items()),
            "moved": sum(each["moved"] for each in self.answers),
            "failed": sum(each["failed"] for each in self.answers),
            "lost": sum(each["lost"] for each in self.answers),
            "pauses": {
                "p50": round(statistics.median([each["p50"] for each in pauses] or [0.0]), 6),
                "p99": round(max([each["p99"] for each in pauses], default=0.0), 6),
                "max": round(max([each["max"] for each in pauses], default=0.0), 6),
            },
            "seconds": {
                "p50": round(statistics.median([each["seconds"] for each in self.answers] or [0.0]), 3),
                "max": round(max([each["seconds"] for each in self.answers], default=0.0), 3),
            },
            "unsuccessful": len(self.wrong),
            "wrong": self.wrong[:MAX_WRONG],
        }

    def reasons(self, killing: bool) -> list[str]:
        """Return what speaks against a clean verdict."""
        return reasons_against(self.facts(), killing)

    def _short(self) -> dict[str, int]:
        return {verb: wanted for verb, wanted in self.wanted.items() if self.did[verb] < max(1, wanted)}


def reasons_against(facts: dict[str, Any], killing: bool) -> list[str]:
    """Return what speaks against a clean verdict; a killed worker (``killing``) may fail a change."""
    found: list[str] = []
    if facts["missing"]:
        found.append(f"{facts['missing']} of the wanted reloads and scalings were not done")
    if killing:
        return found
    for name in ("failed", "lost"):
        if facts[name]:
            found.append(f"{facts[name]} connections {name} at reloads and scalings")
    return found + list(facts["wrong"])
