"""Several rows on several servers, in rounds: what bench and lecture compare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from scripts.bench.cell import run_cell
from scripts.bench.peers import Peer
from scripts.bench.report import fault_lines, row_table
from scripts.bench.row import Options, Results, Row


@dataclass
class Rounds:
    """Rows on peers, in rounds that take turns, and the results so far."""

    rows: Sequence[Row]
    peers: Sequence[Peer]
    rounds: int
    options: Options
    results: Results = field(default_factory=Results)

    @property
    def total(self) -> int:
        """How many steps there are."""
        return self.rounds * len(self.rows) * len(self.peers)

    def steps(self, console: Console) -> Iterator[str]:
        """Run everything; yield the name of each run before it."""
        for number in range(self.rounds):
            for row in self.rows:
                for peer in turned(self.peers, number):
                    yield f"round {number + 1}/{self.rounds} · {row.name} · {peer.name}"
                    if not peer.wire_for(row.rooms) or (row.apart and peer.hosts == 1):
                        continue  # the table has a dash
                    if peer.most_clients is None or row.clients <= peer.most_clients:
                        self._run_one(console, row, peer)
                    elif not number:
                        limit = f"{peer.name} takes at most {peer.most_clients:,} clients in its processes"
                        console.print(f"{row.name}: {limit}, left out", style="yellow")

    def _run_one(self, console: Console, row: Row, peer: Peer) -> None:
        figures = run_cell(peer, row, self.options)
        self.results.setdefault((row.name, peer.name), []).append(figures)
        for fault in figures.faults[:1]:
            console.print(f"{row.name}, {peer.name}: {fault}", style="red")

    @property
    def servers(self) -> list[str]:
        """The names of the servers."""
        return [peer.name for peer in self.peers]

    @property
    def begun(self) -> list[Row]:
        """The rows that have runs."""
        return [row for row in self.rows if any(name == row.name for name, _ in self.results)]

    def show(self, console: Console) -> None:
        """Print the table of each row, and the faults."""
        for row in self.begun:
            console.print(row_table(row, self.servers, self.results), "")
        for line in fault_lines(self.results):
            console.print(line, style="red")


def turned(peers: Sequence[Peer], number: int) -> list[Peer]:
    """Return ``peers``, beginning with another peer each round, so that none always follows the same."""
    shift = number % len(peers) if peers else 0
    return [*peers[shift:], *peers[:shift]]
