"""Metrics: the collector over made-up figures. Its pages are read with prometheus-client's own parsers."""

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from support.figures import TURNS, figures, snapshot

from mpchat.ipc.durations import BOUNDS
from mpchat.supervisor.metrics.collector import render
from mpchat.supervisor.metrics.figures import NO_PROCESSES
from mpchat.supervisor.metrics.table import CLUSTER_STATES, METRICS, Kind, Snapshot

OPEN = "application/openmetrics-text; version=1.0.0"
# Names end with the unit, except where a count has none.
UNITS = ("_bytes", "_seconds", "_messages", "_batches", "_info")
TEXT = {"prometheus": "", "openmetrics": OPEN}


def families(of: Snapshot, accept: str = "") -> dict[str, Any]:
    body = render(of, accept).body.decode()
    parse = openmetrics_parser.text_string_to_metric_families if accept else text_string_to_metric_families
    return {each.name: each for each in parse(body)}


def samples(of: Snapshot, accept: str = "") -> Iterator[Sample]:
    for family in families(of, accept).values():
        yield from family.samples


def value(of: Snapshot, name: str, **labels: str) -> float:
    (found,) = (each.value for each in samples(of) if (each.name, each.labels) == (name, labels))
    return found


@pytest.mark.parametrize("accept", TEXT.values(), ids=TEXT)
def test_every_metric_is_written_with_its_kind_and_help(accept: str) -> None:
    found = families(snapshot(), accept)
    assert set(found) == {each.name for each in METRICS}
    for metric in METRICS:
        assert found[metric.name].type == metric.kind.value
        assert found[metric.name].documentation == metric.help
        for sample in found[metric.name].samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample


def test_the_formats_say_what_they_are() -> None:
    assert render(snapshot(), "").content_type.startswith("text/plain; version=")
    assert render(snapshot(), OPEN).content_type.startswith("application/openmetrics-text")
    assert render(snapshot(), OPEN).body.endswith(b"# EOF\n")
    assert render(snapshot(), "text/html, */*;q=\0\xff,,;").body == render(snapshot(), "").body


def test_names_are_as_prometheus_wants_them() -> None:
    names = [each.name for each in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"mpchat_[a-z_]+", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_created", "_ms", "_kb"))
        assert metric.help.endswith(".")
        if metric.kind is Kind.HISTOGRAM or "time" in metric.name or "memory" in metric.name:
            assert metric.name.endswith(UNITS), metric.name


def test_a_server_that_has_just_begun_has_its_counters_at_none() -> None:
    fresh = snapshot(
        workers=0,
        connections=0,
        refused={},
        changes={},
        tls=NO_PROCESSES,
        certificate_ends=None,
        history=None,
        hook=None,
        cluster=None,
    )
    found = families(fresh)
    assert not [name for name in found if re.search("tls|cluster|history|hook", name)]
    # So that an alert sees the first one.
    assert value(fresh, "mpchat_connection_ends_total", reason="slow consumer") == 0
    assert value(fresh, "mpchat_refusals_total", code="full") == 0
    assert value(fresh, "mpchat_restarts_total", kind="worker") == 3
    assert value(fresh, "mpchat_clients", state="plain") == 0


def test_sums_are_right() -> None:
    of = snapshot(workers=3)
    assert value(of, "mpchat_messages_total", kind="plain") == 150
    assert value(of, "mpchat_messages_total", kind="room") == 60
    assert value(of, "mpchat_messages_total", kind="private") == 5
    assert value(of, "mpchat_messages_total", kind="announcement") == 1
    assert value(of, "mpchat_deliveries_total") == 2100
    assert value(of, "mpchat_received_bytes_total") == 3000
    assert value(of, "mpchat_connections", protocol="plain") == 18
    assert value(of, "mpchat_connections", protocol="websocket") == 6
    assert sum(each.value for each in samples(of) if each.name == "mpchat_connections") == 30
    assert value(of, "mpchat_connection_ends_total", reason="closed") == 15
    assert value(of, "mpchat_connection_ends_total", reason="process died") == 4
    assert value(of, "mpchat_errors_total", code='odd "code"\n') == 3
    assert value(of, "mpchat_history_failing") == 1
    assert value(of, "mpchat_hook_failing") == 0
    assert value(of, "mpchat_hook_waiting_events") == 4
    assert value(of, "mpchat_hook_sent_events_total") == 70
    assert value(of, "mpchat_hook_dropped_events_total") == 3
    assert value(of, "mpchat_cluster_lease_seconds") == 4.5
    assert value(of, "mpchat_tls_handshakes_total") == 12
    assert value(of, "mpchat_tls_connections", state="open") == 8
    states = {state: value(of, "mpchat_cluster_state", state=state) for state in CLUSTER_STATES}
    assert states == {state: float(state == "member") for state in CLUSTER_STATES}


def test_states_add_up_to_all_connections() -> None:
    of = snapshot(connections=25)
    assert sum(each.value for each in samples(of) if each.name == "mpchat_clients") == 25


def test_a_histogram_adds_up() -> None:
    of = snapshot()
    found = {
        each.labels["le"]: each.value for each in samples(of) if each.name == "mpchat_hub_trip_seconds_bucket"
    }
    assert [float(bound) for bound in found] == [*BOUNDS, math.inf]
    assert list(found.values()) == [sum(TURNS[: index + 1]) for index in range(len(TURNS))]
    assert value(of, "mpchat_hub_trip_seconds_count") == sum(TURNS)
    assert value(of, "mpchat_hub_trip_seconds_sum") == 0.25


def test_what_the_system_does_not_tell_is_left_out() -> None:
    """A process that has just ended, or a system without /proc."""
    assert "mpchat_process_resident_memory_bytes" not in families(Snapshot.of(figures(), {}))


def test_nothing_of_prometheus_client_is_loaded_before_metrics_are_asked_for() -> None:
    code = "import sys, mpchat.supervisor.supervisor; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
