"""``python -m scripts.bench``: mpchat beside other servers, and what reloads, protocols and hosts cost."""

import click

from scripts.bench import cluster, compare, first_echo, moves, ring, scraped, table
from scripts.common.command import DefaultGroup


@click.group(cls=DefaultGroup)
def main() -> None:
    """Measure mpchat on this machine. Without a command: compare.

    Every server is started here, on loopback, in a folder of its own, and stopped at the end.

    Example: python -m scripts.bench --rounds 1 --seconds 0.5 --rows max-100 --servers mpchat,redis
    """


main.add_command(compare.main, "compare")
main.add_command(first_echo.main, "first-echo")
main.add_command(moves.main, "moves")
main.add_command(cluster.main, "cluster")
main.add_command(ring.main, "ring")
main.add_command(scraped.main, "scraped")
main.add_command(table.main, "table")

if __name__ == "__main__":
    main(prog_name="python -m scripts.bench")
