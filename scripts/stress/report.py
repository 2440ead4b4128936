"""The verdict of a run: the reasons why it is not clean, a dict for programs and a table for readers.

``--json`` prints the dict:

``scenario``     its name
``clean``        bool: there is no reason against it
``reasons``      list of sentences, one for each thing that is wrong; empty when clean
``run``          the options, seed included
``findings``     the count of each kind of finding that the scenario's checker can report
``examples``     the first findings in words
``counts``       what clients did and checked, by name: ``sent``, ``deliveries`` and the scenario's own
``connections``  ``planned``; ``died`` with a killed worker; ``dropped`` without one (list of str);
                 ``refused``: those that the server did not accept
``latency``      for each phase (``calm``, ``faults``, ``after``) ``count``, and ``p50``, ``p99``, ``max`` in
                 seconds; and ``ratio``: p99 with faults to p99 without
``server``       snapshots ``before`` (idle), ``calm``, ``after_faults``, ``last`` (clients still there) and
                 ``end`` (idle again), each ``processes``, ``rss`` in bytes, ``descriptors`` by process,
                 ``connections``; and ``left``: what the stop left behind
``faults``       what each fault did, by name
``hosts``        of a scenario with several hosts: what each says of itself at the end, by name
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.common.latency import Latency
from scripts.common.server import Snapshot
from scripts.stress.findings import Findings

# Growth of memory after the faults have stopped that is no leak: a part, and bytes.
MEMORY_SLACK = 0.10
MEMORY_SLACK_BYTES = 16 * 1024 * 1024
# Connections that ended without cause and are written out; all are counted.
MAX_DROPPED = 10


@dataclass
class Verdict:
    """Everything that a run found out."""

    scenario: str
    kinds: tuple[str, ...]  # of findings, as the table shows them
    options: dict[str, Any]
    findings: Findings = field(default_factory=Findings)
    reasons: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    planned: int = 0
    died: int = 0
    dropped: list[str] = field(default_factory=list)
    latency: dict[str, Latency] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_latency(self, measured: dict[str, Latency]) -> None:
        """Add the latencies that a process measured, by phase."""
        for phase, latency in measured.items():
            self.latency.setdefault(phase, Latency()).add(latency)

    def conclude(self) -> None:
        """Collect the reasons against a clean verdict."""
        counts = self.findings.counts
        self.reasons += [f"{counts[kind]} {kind}" for kind in self.kinds if counts[kind]]
        if self.planned and not self.counts["deliveries"]:
            self.reasons.append("nothing was delivered, so nothing was shown")
        if self.dropped:
            self.reasons.append(f"{len(self.dropped)} connections ended without cause")
        if self.refused:
            self.reasons.append(f"{self.refused} connections were refused")
        self.reasons += self.left + self._growth()

    def _growth(self) -> list[str]:
        before, end = self.snapshots.get("before"), self.snapshots.get("end")
        found = end.growth(before) if before and end else []
        first, last = self.snapshots.get("after_faults"), self.snapshots.get("last")
        if first and last:
            growth = last.rss - first.rss
            if growth > max(MEMORY_SLACK_BYTES, first.rss * MEMORY_SLACK):
                found.append(f"memory grew by {growth / 1e6:.0f} MB after the faults had stopped")
        return found

    @property
    def refused(self) -> int:
        """Connections that the server did not accept: clients cannot tell that from another end."""
        return max((snapshot.refused for snapshot in self.snapshots.values()), default=0)

    def ratio(self) -> float:
        """Return p99 with faults divided by p99 without; 0 when one of them is missing."""
        p99 = [self.latency.get(phase, Latency()).percentile(0.99) for phase in ("calm", "faults")]
        return p99[1] / p99[0] if all(p99) else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the documented dict."""
        latency: dict[str, Any] = {phase: each.summary() for phase, each in self.latency.items()}
        server: dict[str, Any] = {name: each._asdict() for name, each in self.snapshots.items()}
        return {
            "scenario": self.scenario,
            "clean": not self.reasons,
            "reasons": self.reasons,
            "run": self.options,
            "findings": {kind: self.findings.counts[kind] for kind in self.kinds},
            "examples": self.findings.examples + self.dropped[:MAX_DROPPED],
            "counts": dict(sorted(self.counts.items())),
            "connections": {
                "planned": self.planned,
                "died": self.died,
                "dropped": self.dropped,
                "refused": self.refused,
            },
            "latency": {**latency, "ratio": round(self.ratio(), 3)},
            "server": {**server, "left": self.left},
            "faults": self.faults,
            "hosts": self.hosts,
        }

    def show(self, console: Console) -> None:
        """Print the table, examples and reasons; times are in seconds, memory is in bytes."""
        table = Table(title=f"stress, {self.scenario}: the verdict", show_header=False, title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        facts = self.as_dict()
        table.add_row("seed", str(self.options["seed"]))
        for kind, count in facts["findings"].items():
            table.add_row(kind, f"[{'red' if count else 'green'}]{count}")
        table.add_section()
        for part in ("counts", "connections"):
            table.add_row(part, _text(facts[part]))
        for part in ("latency", "server", "faults", "hosts"):
            for name, each in facts[part].items():
                table.add_row(f"{part}, {name}", _text(each))
        console.print(table)
        for example in facts["examples"]:
            console.print(f"  {example}", markup=False, highlight=False)
        for reason in self.reasons:
            console.print(f"[red]not clean:[/] {reason}", highlight=False)
        if not self.reasons:
            console.print("[green]clean[/]")


def _text(fact: object) -> str:
    """Return a fact in one line; what stands in brackets is a fact with several values inside of another."""
    if isinstance(fact, dict):
        parts = {name: _text(each) for name, each in fact.items()}
        return ", ".join(
            f"{name} ({each})" if "," in each else f"{name} {each}" for name, each in parts.items()
        )
    return ", ".join(map(str, fact)) or "none" if isinstance(fact, list) else str(fact)
