"""What a plain client notices of the other protocols on its port: the time from connect to first echo.

``python -m scripts.bench first-echo`` starts mpchat twice, with ``web`` on and off. In turn it connects to
each, sends one message at once, waits until that comes back, and closes. The goal is a ratio of medians.
"""

import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
from rich.console import Console

from scripts.bench.peers import Server, mpchat_peer
from scripts.common.console import FAILED, figures_table, make_console
from scripts.common.latency import Latency

# The median with ``web`` on, as a multiple of that with it off, at most.
MOST_OF_WEB_OFF = 1.05
# Seconds that an echo may take.
PATIENCE_S = 10.0
NAMES = ("on", "off")
_FRAME = b'{"message":"an echo to be"}'
_MESSAGE = struct.pack(">H", len(_FRAME)) + _FRAME


@contextmanager
def serving() -> Iterator[dict[str, Server]]:
    """Run a server of each kind, which says nothing of who comes and goes."""
    with ExitStack() as stack:
        servers = {}
        for name in NAMES:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
            peer = mpchat_peer(f"web {name}", "--web", name, "--notices", "off")
            servers[name] = stack.enter_context(peer.serving(folder, 1))
        yield servers


def first_echo_ns(server: Server) -> int:
    """Connect, send a message and wait for it; return how long that took, in nanoseconds."""
    began = time.perf_counter_ns()
    with socket.create_connection((server.host, server.port), PATIENCE_S) as sock:
        sock.sendall(_MESSAGE)
        heard = b""
        while len(heard) < len(_MESSAGE):
            data = sock.recv(4096)
            if not data:
                raise ConnectionResetError("the server closed the connection before the echo")
            heard += data
        return time.perf_counter_ns() - began


def measure(connections: int, rounds: int, progress: Callable[[str], None]) -> dict[str, list[Latency]]:
    """Return for each server the times of each round."""
    found: dict[str, list[Latency]] = {name: [] for name in NAMES}
    with serving() as servers:
        for number in range(1, rounds + 1):
            progress(f"round {number} of {rounds}")
            for times in found.values():
                times.append(Latency())
            for turn in range(connections * len(NAMES)):
                # Each is first in half of the pairs.
                name = NAMES[(turn + turn // len(NAMES)) % len(NAMES)]
                found[name][-1].record(first_echo_ns(servers[name]))
    return found


@click.command(context_settings={"show_default": True})
@click.option("--connections", type=click.IntRange(1), default=1000, help="To each server in a round.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="The ratio is that of the medians.")
@click.option("--check", is_flag=True, help="Exit with 1 when the goal is missed.")
def main(connections: int, rounds: int, check: bool) -> None:
    """Compare the time from a plain client's connect to its first echo with ``web`` on and off."""
    errors = Console(stderr=True, highlight=False)
    with errors.status("starting") as status:
        found = measure(connections, rounds, status.update)
    table = figures_table("From connect to first echo", "web", "p50 ms", "p99", "max")
    for name, times in found.items():
        for number, each in enumerate(times, 1):
            figures = each.percentile(0.5), each.percentile(0.99), each.percentile(1)
            table.add_row(f"{name}, round {number}", *(f"{figure * 1e3:.3f}" for figure in figures))
    on, off = (median(each.percentile(0.5) for each in found[name]) for name in NAMES)
    make_console().print(table, f"p50, on / off: {on / off:.3f} (goal: at most {MOST_OF_WEB_OFF})")
    sys.exit(FAILED if check and on / off > MOST_OF_WEB_OFF else 0)
