"""The manual's page on metrics: its text, and tables made of the table of metrics and the file of alerts."""

from pathlib import Path

from mpchat.supervisor.metrics.table import METRICS, Metric

ALERTS = Path(__file__).resolve().parents[1] / "mpchat" / "manual" / "alerts.yml"

TEXT = """\
# Metrics

Figures for Prometheus, a dashboard for Grafana, and ten alerts.

`/metrics` on the server's port shows figures of the server and all its processes. The format is that of
Prometheus or, if the request's `Accept` header wants it, OpenMetrics.

```sh
curl http://127.0.0.1:4000/metrics
```

```yaml
# prometheus.yml
rule_files: [alerts.yml]
scrape_configs:
  - job_name: mpchat
    static_configs:
      - targets: ["127.0.0.1:4000"]
```

With TLS, add `scheme: https`. The setting `metrics_from` names the addresses that may read the figures. The
default is this machine. For all others there is nothing: they get 404. Behind a proxy the client's own
address counts. `web = off` turns metrics off too. See [settings](settings.md).

## Dashboard and alerts

Two files lie beside this page in the package. This command prints their folder:

```sh
python -c "import mpchat, pathlib; print(pathlib.Path(mpchat.__file__).parent / 'manual')"
```

- `grafana.json` is a dashboard. In Grafana, import it and choose the data source.
- `alerts.yml` has ten alerting rules for Prometheus. Change the limits in it that do not fit.

| alert | severity | what to do |
|---|---|---|
{alerts}

## What to know

- Counters begin with the server. They never go back when a worker is replaced or dies. What a worker
  counted in its last second is lost when it is killed.
- Workers report once a second, so figures are up to a second old.
- A page is written outside the server's loop. Requests that come together share one page.
- A full server can be scraped too, but not with TLS.
- Metrics that nobody asks for cost nothing but the counting. In a clone, `python -m scripts.bench scraped`
  compares a server that is scraped with one that is not.
- In a cluster, scrape every host. Connections, messages and deliveries are those of the host. Rooms and
  held names are those of the whole chat.

## All metrics

Sizes are bytes and times are seconds. `process` is `supervisor`, or `worker` or `TLS process` with the number
of its slot.

| metric | kind, labels and meaning |
|---|---|
{rows}
"""


def metrics_page() -> str:
    """Return the page on metrics."""
    rules = ALERTS.read_text(encoding="utf-8")
    return TEXT.format(
        alerts="\n".join(map(_alert_row, rules.split("- alert: ")[1:])),
        rows="\n".join(map(_metric_row, METRICS)),
    )


def _alert_row(rule: str) -> str:
    name, _, rest = rule.partition("\n")
    keys = dict(line.strip().split(": ", 1) for line in rest.splitlines() if ": " in line)
    remedy = keys["remedy"].strip('"')
    return f"| `{name}` | {keys['severity']} | {remedy} |"


def _metric_row(metric: Metric) -> str:
    labels = " and ".join(f"`{each}`" for each in metric.labels)
    kind = f"{metric.kind.value.capitalize()}{' by ' if labels else ''}{labels}"
    return f"| `{metric.full_name}` | {kind}. {metric.help} |"
