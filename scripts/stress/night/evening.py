"""One night from the first start to the last stop: the crowd, the events, and the table of what was told."""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from scripts.common.certificate import certificate
from scripts.common.server import HarnessError
from scripts.common.spawning import end, spawn
from scripts.stress.night import crowd
from scripts.stress.night.events import DAYS_LEFT, EVENTS, Event, Night, Told
from scripts.stress.night.manager import Manager
from scripts.stress.night.tellers import look

# Seconds for all members to join, and for the crowd to answer.
JOIN_PATIENCE = 120.0
ANSWER_PATIENCE = 60.0
END_TIMEOUT = 5.0
WORKERS = 2


class Row(NamedTuple):
    """One event of the night."""

    event: str
    seconds: float
    # What the crowd counted meanwhile.
    counts: dict[str, int]
    told: Told


@dataclass
class Verdict:
    """All that was found out."""

    rows: list[Row] = field(default_factory=list)
    # Why the night was not a good one, in words; empty when it was.
    reasons: list[str] = field(default_factory=list)
    # What the server told its manager, by field.
    notified: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for programs."""
        rows = [row._asdict() | {"told": row.told._asdict()} for row in self.rows]
        return {"clean": not self.reasons, "reasons": self.reasons, "night": rows, "notified": self.notified}


@dataclass(frozen=True)
class Plan:
    """What a night was asked for."""

    seconds: float
    members: int
    rate: float
    seed: int


class Evening:
    """The night under way."""

    def __init__(self, plan: Plan, folder: Path, stack: ExitStack) -> None:
        """``folder`` is for all files; ``stack`` ends what is started."""
        self.verdict = Verdict()
        authority = trustme.CA()
        chain, key = certificate(folder, authority, DAYS_LEFT)
        flags = (
            *("--workers", str(WORKERS), "--history", str(folder / "history.db")),
            *("--tls-cert", chain, "--tls-key", key, "--name-hold", "600"),
            *("--log-format", "json", "--log-level", "debug"),
        )
        self._manager = Manager(folder, flags)
        stack.callback(self._manager.kill)
        chooser = random.Random(plan.seed)
        self._night = Night(self._manager, folder, authority, chooser, plan.seconds / len(EVENTS))
        self._plan = plan
        self._stack = stack
        self._authority = authority.cert_pem.bytes().decode()

    def pass_by(self) -> Iterator[str]:
        """Let the night pass; yield the name of each event before it happens."""
        yield "start"
        self._manager.start()
        self._gather()
        for number, kind in enumerate(EVENTS, 1):
            yield f"{number}/{len(EVENTS)} {kind.name}"
            self._let_happen(kind(self._night))
        yield "stop"
        self._take_leave()

    def _gather(self) -> None:
        """Let the crowd come, and wait for it."""
        plan = self._plan
        orders = crowd.Orders(self._manager.address, self._authority, plan.members, plan.rate, plan.seed)
        self._process, self._pipe = spawn(crowd.serve, orders)
        self._stack.callback(end, self._process, END_TIMEOUT)
        deadline = time.monotonic() + JOIN_PATIENCE
        while self._ask("look")[1] < plan.members:
            if time.monotonic() > deadline:
                raise HarnessError(f"waited {JOIN_PATIENCE:g} s for the members to join")
            time.sleep(0.1)

    def _ask(self, what: str) -> tuple[dict[str, int], int]:
        """Ask the crowd; return its counts since the last time, and how many members can speak."""
        self._pipe.send(what)
        if not self._pipe.poll(ANSWER_PATIENCE):
            raise HarnessError(f"the crowd did not answer within {ANSWER_PATIENCE:g} s")
        counts, wrong, speakers = self._pipe.recv()
        self.verdict.reasons += wrong
        return counts, speakers

    def _let_happen(self, event: Event) -> None:
        before, began = look(self._manager), time.monotonic()
        event.happen()
        after = look(self._manager)
        counts, _ = self._ask("look")
        seconds = time.monotonic() - began
        self.verdict.rows.append(Row(event.name, seconds, counts, event.told(before, after)))
        self.verdict.reasons += [f"{event.name}: {each}" for each in event.missing(before, after)]
        if counts.get("ended") and not event.ends:
            self.verdict.reasons.append(f"{event.name}: {counts['ended']} connections ended")
        if not counts.get("deliveries"):
            self.verdict.reasons.append(f"{event.name}: nothing was delivered, so nothing was shown")

    def _take_leave(self) -> None:
        counts, _ = self._ask("finish")
        if counts.get("ended"):
            self.verdict.reasons.append(f"at the end {counts['ended']} connections ended")
        self.verdict.rows.append(Row("the crowd leaves", 0.0, counts, Told("", "", "")))
        self._manager.stop()
        self.verdict.reasons += self._manager.late + self._manager.silences()
        strange = self._manager.journal.strange
        self.verdict.reasons += [f"a line of the log is no JSON: {each!r}" for each in strange[:5]]
        for told in self._manager.told:
            for name in told.fields:
                self.verdict.notified[name] = self.verdict.notified.get(name, 0) + 1


def pass_a_night(plan: Plan) -> Iterator[str | Verdict]:
    """Let a night pass; yield the names of its events, and at last the verdict."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpchat-night-")))
        evening = Evening(plan, folder, stack)
        try:
            yield from evening.pass_by()
        except HarnessError as error:
            evening.verdict.reasons.append(str(error))
        yield evening.verdict
