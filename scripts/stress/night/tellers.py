"""What the operator has: metrics, log and status, read before and after each event of the night."""

import urllib.request
from collections import Counter
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from scripts.common.address import Address
from scripts.stress.night.manager import Manager

# Seconds for an answer.
PATIENCE = 10.0


class Moment(NamedTuple):
    """All that the three said at one moment."""

    metrics: dict[str, float]
    # How many lines the log has had.
    lines: int
    status: dict[str, Any]

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels; 0 if there is none."""
        return sum(value for key, value in self.metrics.items() if key.partition("{")[0] == name)


def look(manager: Manager) -> Moment:
    """Ask all three."""
    return Moment(_scrape(manager.address), len(manager.journal.lines), manager.status())


def _scrape(address: Address) -> dict[str, float]:
    host, port = address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    samples = (each for family in text_string_to_metric_families(text) for each in family.samples)
    return {_key(each.name, each.labels): each.value for each in samples}


def _key(name: str, labels: dict[str, str]) -> str:
    inside = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def events(manager: Manager, since: Moment, until: Moment) -> Counter[str]:
    """Count the log's lines between two moments by their events, without those for debugging."""
    lines = manager.journal.lines[since.lines : until.lines]
    return Counter(str(each.get("event")) for each in lines if each.get("level") != "debug")
