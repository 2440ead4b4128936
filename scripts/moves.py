"""What moving live connections costs: reloads of a server with many idle clients, and what clients notice.

``python -m scripts.moves`` starts a server of its own, opens 20 000 connections that say nothing and some
hundred probes, reloads it a few times, and prints how long each reload took, how long the server says that
connections were served by nobody, and what the probes saw. At the end one message is said to all, and whoever
did not get exactly that one is counted. Exit code 1: a reload failed, a connection was lost, a message too;
with ``--check`` also when a goal was missed.

A probe sends an empty frame, which is refused, so that the answer goes to it alone; then the next one 20 ms
after the one before, once that is answered. So its round trips say how long *it* had to wait. Times are in
seconds, of one machine that clients and server share.
"""

import heapq
import json
import resource
import selectors
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mpchat.control.client import ReceivedAnswer, ask
from mpchat.control.requests import BY_COMMAND
from scripts.common.frames import is_error, split_frames
from scripts.common.latency import Latency
from scripts.common.server import Server

Address = tuple[str, int]
CONTEXT = get_context("spawn")
# Connections of one client process, from one address: a process may have 20 000 descriptors, an address has
# 28 000 ports.
PER_PROCESS = 9_000
# Connections of one process on their way in at a time.
IN_FLIGHT = 64
# An empty frame, and seconds between two of a probe.
EMPTY = b"\0\0"
PROBE_EVERY = 0.02
# Seconds of quiet before each reload.
QUIET_FOR = 2.0
# Longest waits, in seconds: for a client process to do what it was asked, for a word of a reload.
PATIENCE = 120.0
SILENCE = 30.0
GOALS = {"seconds": 5.0, "p99": 0.1, "max": 0.5}
QUIET, RELOAD = "quiet", "reload"
SAID = "everybody hears this, once"


# ---- the client processes


@dataclass(eq=False)
class Client:
    """One connection. ``seen`` is what it got after its first answer: the frames of messages."""

    sock: socket.socket
    rest: bytes = b""
    joined: bool = False
    seen: list[bytes] = field(default_factory=list)
    sent: float = 0.0
    phase: str = ""  # in which it sent
    longest: float = 0.0  # of this phase's round trips


class Holder:
    """Connections that say nothing, from one source address."""

    def __init__(self, address: Address, source: str, count: int, pipe: "Pipe[Any, Any]") -> None:
        self.address, self.source, self.count, self.pipe = address, source, count, pipe
        self.selector = selectors.DefaultSelector()
        self.clients: list[Client] = []
        self.ended = 0
        self.going = True

    def run(self) -> None:
        """Open all connections, then do what the parent asks, until it is gone."""
        self._open()
        self.pipe.send("open")
        self.selector.register(self.pipe, selectors.EVENT_READ)
        while self.going:
            self.sweep(self.timeout())

    def sweep(self, timeout: float | None) -> None:
        """Look once at whatever is ready."""
        for key, _ in self.selector.select(timeout):
            if key.fileobj is not self.pipe:
                self._read(key.data)
                continue
            try:
                self.asked(*self.pipe.recv())
            except EOFError:
                self.going = False

    def timeout(self) -> float | None:
        """Return how long to wait for something to happen; None: as long as it takes."""
        return None

    def asked(self, verb: str, *args: Any) -> None:
        """Say who is there, and who has got just the one message."""
        (expected,) = args
        got = sum(each.seen == [expected] for each in self.clients)
        self.pipe.send((len(self.clients) - self.ended, got))

    def _open(self) -> None:
        opening: list[Client] = []
        while len(self.clients) < self.count or opening:
            while len(self.clients) < self.count and len(opening) < IN_FLIGHT:
                sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                sock.bind((self.source, 0))
                sock.connect(self.address)
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.send(EMPTY)
                client = Client(sock)
                self.selector.register(sock, selectors.EVENT_READ, client)
                self.clients.append(client)
                opening.append(client)
            self.sweep(None)
            opening = [each for each in opening if not each.joined]

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(client.sock)
            self.ended += 1
            client.joined = True  # one that is sent away at the door is not waited for
            return
        frames, client.rest = split_frames(client.rest + data)
        for frame in frames:
            if not is_error(frame):
                client.seen.append(frame)
            elif client.joined:
                self.answered(client)
            client.joined = True

    def answered(self, client: Client) -> None:
        """Take an answer that nobody asked for: it counts as a message too many."""
        client.seen.append(b"")


class Prober(Holder):
    """Connections that measure round trips all the time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.phase = QUIET
        self.trips: dict[str, Latency] = {QUIET: Latency(), RELOAD: Latency()}
        self.longest: dict[str, list[float]] = {QUIET: [], RELOAD: []}
        self.due: list[tuple[float, int, Client]] = []

    def timeout(self) -> float | None:
        """Send what is due; return how long nothing will be."""
        now = time.monotonic()
        while self.due and self.due[0][0] <= now:
            client = heapq.heappop(self.due)[2]
            client.sent, client.phase = time.monotonic(), self.phase
            client.sock.send(EMPTY)
        return max(0.0, self.due[0][0] - time.monotonic()) if self.due else None

    def answered(self, client: Client) -> None:
        """Take a round trip. One that began in a reload or ended in it is the reload's."""
        now = time.monotonic()
        trip = now - client.sent
        self.trips[RELOAD if RELOAD in (client.phase, self.phase) else QUIET].record(int(trip * 1e9))
        client.longest = max(client.longest, trip)
        if self.going:
            heapq.heappush(self.due, (max(now, client.sent + PROBE_EVERY), id(client), client))

    def asked(self, verb: str, *args: Any) -> None:
        """Change the phase; or stop probing; or tell what was measured, and what a holder tells."""
        if verb == "probe":
            now = time.monotonic()
            step = PROBE_EVERY / len(self.clients)
            self.due = [(now + number * step, id(each), each) for number, each in enumerate(self.clients)]
        elif verb == "phase":
            self.longest[self.phase] += [each.longest for each in self.clients]
            self.phase = args[0]
            for client in self.clients:
                client.longest = 0.0
        elif verb == "rest":
            self.due.clear()
            self.pipe.send((self.trips, self.longest))
        else:
            super().asked(verb, *args)


def serve(kind: type[Holder], *args: Any) -> None:
    """Run one client process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kind(*args).run()


# ---- the parent


class MovesError(Exception):
    """The run cannot go on; says why."""


def hear(pipe: "Pipe[Any, Any]", what: str) -> Any:
    """Return a client process's next word."""
    try:
        if pipe.poll(PATIENCE):
            return pipe.recv()
    except (EOFError, OSError):
        raise MovesError(f"a client process ended, {what} was expected") from None
    raise MovesError(f"waited {PATIENCE:.0f} s for {what}")


@contextmanager
def clients(address: Address, connections: int, probes: int) -> Iterator[list["Pipe[Any, Any]"]]:
    """Start the client processes and yield the pipes to them, the prober's first; at the end none is left."""
    crowds: list[tuple[type[Holder], int]] = [(Prober, probes)]
    crowds += [(Holder, min(PER_PROCESS, connections - at)) for at in range(0, connections, PER_PROCESS)]
    pipes, started = [], []
    try:
        for number, (kind, count) in enumerate(crowds, 1):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(
                target=serve, args=(kind, address, f"127.0.0.{number}", count, theirs), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            started.append(process)
        for pipe in pipes:
            hear(pipe, "all connections to be open")
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join(5.0)
            process.kill()
            process.join()


def pause_of(trips: Sequence[float]) -> dict[str, float]:
    """Return the three figures of a list of times."""
    cuts = statistics.quantiles(trips, n=100, method="inclusive") if len(trips) > 1 else [0.0] * 99
    return {"p50": cuts[49], "p99": cuts[98], "max": max(trips, default=0.0)}


def measure(
    workers: int, connections: int, probes: int, rounds: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Do the whole run; returns what ``--json`` prints. Nothing that was started is left."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mpmoves-")))
        server = Server(folder, "moves", workers, folder / "server.log")
        stack.callback(server.end)
        server.start()

        def command(name: str, **arguments: Any) -> ReceivedAnswer:
            return ask(folder / "moves" / "control.sock", BY_COMMAND[name](**arguments), SILENCE)

        progress(f"opening {connections} connections")
        pipes = stack.enter_context(clients(server.address, connections, probes))
        prober = pipes[0]
        prober.send(("probe",))
        reloads = []
        for number in range(1, rounds + 1):
            progress(f"reload {number} of {rounds}")
            time.sleep(QUIET_FOR)
            prober.send(("phase", RELOAD))
            answer = command("reload")
            prober.send(("phase", QUIET))
            server.remember()
            reloads.append({**answer.result, "exit": answer.exit, "text": answer.text})
        time.sleep(QUIET_FOR)
        prober.send(("rest",))
        trips, longest = hear(prober, "what the probes saw")
        progress("one message to all")
        command("say", text=SAID)
        alive, got = count(pipes, connections + probes)
        left = server.stop()
    shown = ("seconds", "moved", "failed", "lost", "pauses", "exit", "text")
    return {
        "workers": workers,
        "connections": connections + probes,
        "reloads": [{key: each[key] for key in shown if key in each} for each in reloads],
        "alive": alive,
        "heard": got,
        "probes": {
            "count": probes,
            "quiet": trips[QUIET].summary(),
            "reload": trips[RELOAD].summary(),
            "longest": {phase: pause_of(each) for phase, each in longest.items()},
        },
        "left": left,
    }


def count(pipes: "list[Pipe[Any, Any]]", expected: int) -> tuple[int, int]:
    """Return how many connections are alive, and how many got the one message, once that does not change."""
    payload = json.dumps({"message": SAID}, separators=(",", ":")).encode()
    deadline = time.monotonic() + SILENCE
    while True:
        for pipe in pipes:
            pipe.send(("count", len(payload).to_bytes(2, "big") + payload))
        answers = [hear(pipe, "a count") for pipe in pipes]
        alive, got = (sum(each) for each in zip(*answers, strict=True))
        if got == expected or time.monotonic() > deadline:
            return alive, got
        time.sleep(0.1)


def faults(facts: dict[str, Any]) -> list[str]:
    """Say what is wrong: whatever was promised and not kept."""
    found = [f"a reload failed: {each['text']}" for each in facts["reloads"] if each["exit"]]
    found += [f"{each['lost']} connections were lost" for each in facts["reloads"] if each.get("lost")]
    for name, what in (("alive", "are alive"), ("heard", "got just the one message")):
        if facts[name] != facts["connections"]:
            found.append(f"of {facts['connections']} connections {facts[name]} {what}")
    return found + list(facts["left"])


def missed(facts: dict[str, Any]) -> list[str]:
    """Say which goals were missed, and in which reload."""
    found = []
    for number, each in enumerate(facts["reloads"], 1):
        figures = {"seconds": each["seconds"], **each["pauses"]}
        found += [
            f"reload {number}: {name} is {figures[name]:.3f} s, the goal {goal:g} s"
            for name, goal in GOALS.items()
            if figures[name] >= goal
        ]
    return found


def show(facts: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    title = f"{facts['connections']} connections on {facts['workers']} workers, moved by mpchat reload"
    table = Table("", "seconds", "moved", "lost", "p50", "p99", "max, ms", box=SIMPLE, title=title)
    for number, each in enumerate(facts["reloads"], 1):
        row = (f"{each['seconds']:.2f}", f"{each['moved']}", f"{each['lost']}")
        table.add_row(f"reload {number}", *row, *in_ms(each["pauses"]))
    table.add_row("goal, below", f"{GOALS['seconds']:g}", "", "", "", *in_ms(GOALS))
    table.add_section()
    probes = facts["probes"]
    rows = {
        f"{probes['count']} probes, quiet": probes["quiet"],
        "during reloads": probes["reload"],
        "each one's longest, quiet": probes["longest"][QUIET],
        "each one's longest, reload": probes["longest"][RELOAD],
    }
    for name, figures in rows.items():
        table.add_row(name, "", "", "", *in_ms(figures))
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    console.print(
        f"alive at the end: {facts['alive']} of {facts['connections']}; got one message said to all: "
        f"{facts['heard']}",
        highlight=False,
    )


def in_ms(figures: dict[str, float]) -> list[str]:
    """Return p50, p99 and max as the table shows them, as far as they are there."""
    return [f"{figures[name] * 1000:.1f}" for name in ("p50", "p99", "max") if name in figures]


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--workers", type=click.IntRange(1), default=4, help="Workers of the server.")
@click.option("--connections", type=click.IntRange(1), default=20_000, help="Idle connections.")
@click.option("--probes", type=click.IntRange(1, PER_PROCESS), default=200, help="That measure.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Reloads.")
@click.option("--check", is_flag=True, help="Exit with 1 when a goal is missed, too.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def main(workers: int, connections: int, probes: int, rounds: int, check: bool, as_json: bool) -> None:
    """Reload a server with many idle connections; show what that takes, and what clients notice."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing is left
    console = Console(stderr=True)
    with console.status("starting") as status:
        try:
            facts = measure(workers, connections, probes, rounds, status.update)
        except MovesError as error:
            raise click.ClickException(str(error)) from None
    wrong = faults(facts)
    late = missed(facts)
    if as_json:
        click.echo(json.dumps({**facts, "faults": wrong, "missed": late}, indent=2))
    else:
        show(facts, Console())
    for each in [*wrong, *late]:
        console.print(each, highlight=False, markup=False)
    sys.exit(1 if wrong or (check and late) else 0)


if __name__ == "__main__":
    main()
