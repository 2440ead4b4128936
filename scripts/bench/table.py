"""The table of the figures in Markdown: ``python -m scripts.bench.table FILE``.

FILE is what ``python -m scripts.bench --json FILE`` wrote.

Prints Markdown: CPU per delivery as ratios to Redis's in the same run, medians of the rounds, with Redis's
own figure and the goal beside them; named members as ratios to plain clients; and a line with the machine and
the versions. Measures nothing.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

REFERENCE = "redis"


def table(results: dict[str, Any]) -> str:
    """Return the table of all rows that measure CPU per delivery against Redis."""
    servers = [name for name in results["versions"] if name != REFERENCE]
    costs = {(each["row"], each["server"]): each["cpu_us_per_delivery"] for each in results["medians"]}
    lines = [
        f"| work | Redis, µs | {' | '.join(servers)} | goal |",
        "|---|---|" + "---|" * (len(servers) + 1),
    ]
    for row in results["rows"]:
        redis = costs.get((row["name"], REFERENCE))
        if redis and row["target"]:
            ratios = " | ".join(_ratio(costs.get((row["name"], name)), redis) for name in servers)
            lines.append(f"| {row['title']} | {redis:.2f} | {ratios} | {row['target']:.2f} |")
    return "\n".join(lines)


def named_table(results: dict[str, Any]) -> str:
    """Return the table of the rows with named members: ratios to plain clients of the same server."""
    costs = {(each["row"], each["server"]): each["cpu_us_per_delivery"] for each in results["medians"]}
    rows = [row for row in results["rows"] if row["plain"]]
    servers = [name for name in results["versions"] if any((row["name"], name) in costs for row in rows)]
    if not servers:
        return ""
    lines = [f"| work, to plain clients | {' | '.join(servers)} |", "|---|" + "---|" * len(servers)]
    for row in rows:
        pairs = [(costs.get((row["name"], name)), costs.get((row["plain"], name))) for name in servers]
        ratios = " | ".join(_ratio(named, plain) if plain else "–" for named, plain in pairs)
        lines.append(f"| {row['title']} | {ratios} |")
    return "\n".join(lines)


def _ratio(cost: float | None, redis: float) -> str:
    return f"{cost / redis:.2f}" if cost else "–"


def versions(results: dict[str, Any]) -> str:
    """Return the line that says on what the figures were measured."""
    runs = Counter((each["row"], each["server"]) for each in results["runs"]).values()
    rounds = " to ".join(str(each) for each in sorted({min(runs), max(runs)}))
    machine = "{cores} cores, {processor}, {kernel}, Python {python}".format(**results["machine"])
    names = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"{machine}; {names}; {rounds} rounds of {results['options']['seconds']:g} s"


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    tables = [each for each in (table(results), named_table(results)) if each]
    print(*tables, versions(results), sep="\n\n")


if __name__ == "__main__":
    main()
