"""The README's table, from what ``bench.py --json FILE`` wrote: ``python scripts/bench_table.py FILE``.

Prints Markdown: CPU per delivery as ratios to Redis's in the same run, medians of the rounds, with Redis's
own figure and the goal beside them, and a line with the machine and the versions. Measures nothing.
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
    print(table(results), versions(results), sep="\n\n")


if __name__ == "__main__":
    main()
