"""The dashboard and the alerts of the manual's folder: they ask for metrics and labels that there are."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from support.figures import snapshot
from support.manual import MANUAL

from mpchat.supervisor.metrics.table import METRICS, Kind, Metric

# The files are the same on each Python.
pytestmark = pytest.mark.one_python

ALERTS = (MANUAL / "alerts.yml").read_text(encoding="utf-8")
DASHBOARD = json.loads((MANUAL / "grafana.json").read_text(encoding="utf-8"))
# What Prometheus itself adds to each sample.
ADDED = {"instance", "job"}
PARTS = ("_bucket", "_sum", "_count")
BY_NAME = {each.full_name: each for each in METRICS}
SEVERITIES = {"warning", "critical"}
# What a name in an expression can be beside a metric.
WORDS = {
    *("by", "on", "group_left", "or", "and", "sum", "max", "min", "rate", "increase", "time"),
    *("histogram_quantile", "le", "label_values"),
}
KEYS = ["expr", "for", "labels", "severity", "annotations", "summary", "remedy"]


class Selector(NamedTuple):
    """A metric in an expression, and what its labels must be: a label, an operator, a value."""

    name: str
    matchers: list[tuple[str, str, str]]


def selectors(expression: str) -> Iterator[Selector]:
    for name, _, matchers in re.findall(r"\b(mpchat_\w+|up)\b(\{([^}]*)\})?", expression):
        yield Selector(name, re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', matchers))


def metric_of(name: str) -> Metric:
    """Return the metric that a name asks for; fails for a name that there is not."""
    base = next((name.removesuffix(each) for each in PARTS if name.endswith(each)), name)
    found = BY_NAME.get(name) or BY_NAME.get(base)
    assert found is not None, f"{name} is no metric"
    assert (found.full_name != name) == (found.kind is Kind.HISTOGRAM), f"{name} of {found.full_name}"
    return found


def values_of(metric: Metric, label: str) -> set[str]:
    place = metric.labels.index(label)
    return {labels[place] for labels, _ in metric.samples(snapshot())}


def check(expression: str) -> None:
    """Check the names, labels and values of an expression."""
    labels = set(ADDED)
    for name, matchers in selectors(expression):
        if name == "up":
            continue
        metric = metric_of(name)
        labels |= set(metric.labels) | ({"le"} if name.endswith("_bucket") else set())
        for label, operator, value in matchers:
            assert label in {*metric.labels, *ADDED}, f"{name} has no label {label}"
            if label in metric.labels and operator in ("=", "=~"):
                assert set(value.split("|")) <= values_of(metric, label), f"{name}: {label}={value}"
    for kept in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert set(kept.split(", ")) <= labels, f"by ({kept}) in {expression}"
    bare = re.sub(r'"[^"]*"|\[[^]]*\]|\{[^}]*\}|\b(?:by|on) \([^)]*\)', "", expression)
    names = set(re.findall(r"[a-z_]{2,}", bare)) - WORDS
    assert all(each == "up" or each in BY_NAME or metric_of(each) for each in names)


def rules() -> dict[str, dict[str, str]]:
    """Read the rules as YAML in the form that the file keeps to: a mapping of plain and quoted texts."""
    found: dict[str, dict[str, str]] = {}
    head, *texts = ALERTS.split("      - alert: ")
    assert re.sub(r"#.*\n", "", head) == "groups:\n  - name: mpchat\n    rules:\n"
    for text in texts:
        name, *lines = text.strip("\n").splitlines()
        keys = found[name] = {}
        for line in lines:
            match = re.fullmatch(r"(        |          )(\w+):(?: (.+))?", line)
            assert match, line
            indent, key, value = match.groups()
            assert key not in keys
            assert len(indent) == (10 if key in ("severity", "summary", "remedy") else 8)
            if value is not None and value.startswith('"'):
                assert re.fullmatch(r'"[^"\\]*"', value), line
            elif value is not None:  # a plain text: nothing in it means something to YAML
                assert value[0] not in "{[&*!|>%@`'"
                assert ": " not in value
                assert " #" not in value
            keys[key] = (value or "").strip('"')
    return found


RULES = rules()


def test_there_are_ten_alerts() -> None:
    assert len(RULES) == 10


@pytest.mark.parametrize("name", RULES)
def test_an_alert_is_whole_and_asks_for_what_there_is(name: str) -> None:
    rule = RULES[name]
    assert re.fullmatch(r"Mpchat[A-Z]\w+", name)
    assert [each for each in rule if each != "for"] == [each for each in KEYS if each != "for"]
    assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
    assert rule["severity"] in SEVERITIES
    check(rule["expr"])
    assert set(re.findall(r"\$labels\.(\w+)", rule["summary"])) <= {"instance", "process"}
    if "$labels.process" in rule["summary"]:
        assert "process" in rule["expr"]


def expressions() -> dict[str, dict[str, Any]]:
    return {
        f"{panel['title']} {target['refId']}": target
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }


@pytest.mark.parametrize("target", expressions().values(), ids=expressions())
def test_a_panel_asks_for_what_there_is(target: dict[str, Any]) -> None:
    check(target["expr"])
    names = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
    assert names <= {each for part in kept for each in part.split(", ")}
    assert all('instance=~"$instance"' in each for each in re.findall(r"mpchat_\w+(.*?\})", target["expr"]))


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert DASHBOARD["schemaVersion"] >= 30
    panels = DASHBOARD["panels"]
    assert [each["id"] for each in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} overlaps"
        assert place["x"] + place["w"] <= 24
        taken |= cells
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "instance"}
    check(variables["instance"]["definition"].split("(")[1].split(",")[0])


def test_most_metrics_are_on_the_dashboard() -> None:
    shown = {
        metric_of(each.name).name for target in expressions().values() for each in selectors(target["expr"])
    }
    assert {each.name for each in METRICS} - shown <= {
        "mpchat_build_info",
        "mpchat_start_time_seconds",
        "mpchat_running",
        "mpchat_clients_half_closed",
        "mpchat_slots",
        "mpchat_restarts",
        "mpchat_history_failing",
        "mpchat_hook_failing",
        "mpchat_log_dropped_lines",
        "mpchat_tls_connections",
        "mpchat_tls_expiry_timestamp_seconds",
        "mpchat_cluster_state",
        "mpchat_cluster_hosts",
        "mpchat_cluster_position",
        "mpchat_cluster_lag_batches",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        "mpchat_nothing_total > 0",
        "rate(mpchat_accepts[5m]) > 0",
        'mpchat_refusals_total{reason="full"} > 0',
        'mpchat_cluster_state{state="gone"} == 1',
        "sum by (room) (mpchat_rooms)",
        "mpchat_loop_turn_seconds > 1",
        "mpchat_rooms_bucket > 1",
        "sum by (le) (mpchat_rooms)",
    ],
)
def test_the_check_finds_what_is_wrong(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong)
