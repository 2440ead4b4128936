"""The verdict: one dict, the reasons why it is not clean, and a table that a person can read.

The dict is what ``--json`` prints:

``clean``        bool: no reason against it
``reasons``      list of sentences, one for each thing that is wrong; empty when clean
``run``          the options, seed included
``streams``      counts of ``lost``, ``doubled``, ``reordered``, ``differing``, ``strange``, ``unchecked``,
                 and ``examples``: the first findings in words
``messages``     ``sent`` by the clients, ``halves``: those of which a piece was sent before the rest,
                 ``in_order`` test messages in the one order, ``others`` (notices and the like),
                 ``deliveries``: frames checked over all connections
``connections``  ``planned``; ``died`` with a killed worker; ``dropped`` without one (list of str);
                 ``cut_off``: stalled ones that the server ended, ``unexplained``: of those, how many were
                 not far behind; ``refused``: sent away by the server at its door
``latency``      for each phase (``calm``, ``faults``, ``after``) ``count``, and ``p50``, ``p99``, ``max`` in
                 seconds; and ``ratio``: p99 with faults to p99 without
``server``       snapshots ``before`` (idle), ``calm``, ``after_faults``, ``last`` (clients still there) and
                 ``end`` (idle again), each ``processes``, ``rss`` in bytes, ``descriptors`` by process; and
                 ``left``: what the stop left behind
``faults``       what each fault did, by name
"""

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from stress_findings import COUNTS, Findings
from stress_latency import Latency
from stress_server import Snapshot

# Growth of memory after the faults have stopped that is no leak: part of it, and bytes.
MEMORY_SLACK = 0.10
MEMORY_SLACK_BYTES = 16 * 1024 * 1024
PHASES = ("calm", "faults", "after")


@dataclass
class Verdict:
    """Everything that a run found out."""

    options: dict[str, Any]
    findings: Findings = field(default_factory=Findings)
    reasons: list[str] = field(default_factory=list)
    sent: int = 0
    in_order: int = 0
    others: int = 0
    deliveries: int = 0
    halves: int = 0
    planned: int = 0
    died: int = 0
    dropped: list[str] = field(default_factory=list)
    refused: int = 0
    latency: dict[str, Latency] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)

    def conclude(self, max_ratio: float | None) -> None:
        """Collect the reasons against a clean verdict."""
        for name, count in self.findings.counts().items():
            if count:
                self.reasons.append(f"{count} {name}")
        if self.planned and not self.deliveries:
            self.reasons.append("nothing was delivered, so nothing was shown")
        if self.dropped:
            self.reasons.append(f"{len(self.dropped)} connections ended without cause")
        if self._unexplained():
            self.reasons.append(f"{self._unexplained()} stalled connections ended without cause")
        if self.refused:
            self.reasons.append(f"{self.refused} connections were refused")
        if max_ratio is not None and self.ratio() > max_ratio:
            self.reasons.append(f"p99 with faults is {self.ratio():.2f} times as long as without")
        self.reasons += self.left
        self.reasons += self._growth()
        wrong = self.faults.get("garbage", {}).get("wrong", 0)
        if wrong:
            self.reasons.append(f"{wrong} batches of garbage were not answered as they should")
        self.reasons += self.faults.get("start_storm", {}).get("wrong", [])
        self.reasons += self._changes()

    def _unexplained(self) -> int:
        """Return how many stalled clients were cut off too soon; with a killed worker some have to be."""
        if self.options["kill_workers"]:
            return 0
        return int(self.faults.get("stall", {}).get("unexplained", 0))

    def _changes(self) -> list[str]:
        facts = self.faults.get("changes", {})
        found: list[str] = []
        if facts.get("missing"):
            found.append(f"{facts['missing']} of the wanted reloads and scalings were not done")
        if self.options["kill_workers"]:  # then some may fail: their worker was killed
            return found
        for name in ("failed", "lost"):
            if facts.get(name):
                found.append(f"{facts[name]} connections {name} at reloads and scalings")
        return [*found, *facts.get("wrong", [])]

    def _growth(self) -> list[str]:
        found = []
        before, end = self.snapshots.get("before"), self.snapshots.get("end")
        if before and end:
            if end.processes > before.processes:
                found.append(f"{end.processes} processes, {before.processes} before")
            for name, count in end.descriptors.items():
                if count > before.descriptors.get(name, 0):
                    found.append(f"{name} has {count} descriptors, {before.descriptors.get(name, 0)} before")
        first, last = self.snapshots.get("after_faults"), self.snapshots.get("last")
        if first and last:
            growth = last.rss - first.rss
            if growth > max(MEMORY_SLACK_BYTES, first.rss * MEMORY_SLACK):
                found.append(f"memory grew by {growth / 1e6:.0f} MB after the faults had stopped")
        return found

    def ratio(self) -> float:
        """Return p99 with faults divided by p99 without; 0 when one of them is missing."""
        p99 = [self.latency.get(phase, Latency()).percentile(0.99) for phase in ("calm", "faults")]
        return p99[1] / p99[0] if all(p99) else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the documented dict."""
        latency: dict[str, Any] = {phase: each.summary() for phase, each in self.latency.items()}
        server: dict[str, Any] = {name: each._asdict() for name, each in self.snapshots.items()}
        return {
            "clean": not self.reasons,
            "reasons": self.reasons,
            "run": self.options,
            "streams": {**self.findings.counts(), "examples": self.findings.examples},
            "messages": {
                "sent": self.sent,
                "halves": self.halves,
                "in_order": self.in_order,
                "others": self.others,
                "deliveries": self.deliveries,
            },
            "connections": {
                "planned": self.planned,
                "died": self.died,
                "dropped": self.dropped,
                "cut_off": self.faults.get("stall", {}).get("cut_off", 0),
                "unexplained": self._unexplained(),
                "refused": self.refused,
            },
            "latency": {**latency, "ratio": round(self.ratio(), 3)},
            "server": {**server, "left": self.left},
            "faults": self.faults,
        }

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title="stress: the verdict", show_header=False, title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        counts = self.findings.counts()
        for name in COUNTS:
            table.add_row(name, f"[{'red' if counts[name] else 'green'}]{counts[name]}")
        table.add_section()
        table.add_row(
            "messages",
            f"{self.sent} sent, {self.halves} in two pieces; {self.in_order} in the one order, "
            f"{self.others} others",
        )
        table.add_row("deliveries", f"{self.deliveries} checked, {self.planned} connections planned")
        table.add_row(
            "reconnects",
            f"{self.died} died with a worker, {len(self.dropped)} without cause; {self.refused} refused",
        )
        for phase in PHASES:
            if phase in self.latency:
                table.add_row(f"latency, {phase}", _latency_text(self.latency[phase]))
        for name, snapshot in self.snapshots.items():
            table.add_row(f"server, {name}", _snapshot_text(snapshot))
        for name, facts in self.faults.items():
            table.add_row(name, ", ".join(f"{key} {value}" for key, value in facts.items()))
        console.print(table)
        for example in self.findings.examples + self.dropped[:10]:
            console.print(f"  {example}", markup=False, highlight=False)
        for reason in self.reasons:
            console.print(f"[red]not clean:[/] {reason}", highlight=False)
        if not self.reasons:
            console.print("[green]clean[/]")


def _latency_text(latency: Latency) -> str:
    each = latency.summary()
    return (
        f"p50 {each['p50'] * 1000:.1f} ms, p99 {each['p99'] * 1000:.1f} ms, max {each['max'] * 1000:.1f} ms"
    )


def _snapshot_text(snapshot: Snapshot) -> str:
    descriptors = ", ".join(f"{name} {count}" for name, count in snapshot.descriptors.items())
    return f"{snapshot.processes} processes, {snapshot.rss / 1e6:.1f} MB; descriptors: {descriptors}"
