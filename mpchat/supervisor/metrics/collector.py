"""Collector: gives the metrics to ``prometheus-client``, which writes them. Loaded when they are asked for.

There is nothing of that package in what is counted: it only sees the figures of one moment.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from mpchat.ipc.durations import BOUNDS
from mpchat.supervisor.metrics import table
from mpchat.supervisor.metrics.figures import Counts
from mpchat.supervisor.metrics.table import METRICS, Kind, Snapshot

# The bounds of a histogram as labels have them.
_BOUNDS = (*(f"{each:.6f}".rstrip("0") for each in BOUNDS), "+Inf")


class Page(NamedTuple):
    """The metrics as they are sent."""

    body: bytes
    content_type: str


class SnapshotCollector(Collector):
    """The metrics of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield each metric that has a value."""
        for metric in METRICS:
            family = _family(metric, self._snapshot)
            if family.samples:
                yield family


def _family(metric: table.Metric, snapshot: Snapshot) -> Metric:
    samples = metric.samples(snapshot)
    if metric.kind is Kind.HISTOGRAM:
        return _histogram(metric, snapshot)
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        assert isinstance(value, int | float)
        family.add_metric(labels, value)
    return family


def _histogram(metric: table.Metric, snapshot: Snapshot) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.samples(snapshot):
        assert isinstance(value, Counts)
        buckets = list(zip(_BOUNDS, accumulate(value.counts), strict=True))
        family.add_metric(labels, buckets, sum_value=value.total)
    return family


def render(snapshot: Snapshot, accept: str) -> Page:
    """Return the metrics as an ``Accept`` header wants them: in Prometheus's format, or as OpenMetrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))
    encode, content_type = choose_encoder(accept)
    return Page(encode(registry), content_type)
