"""A ring of io_uring beside a loop of ``send``: one submission for all sockets of a fan-out.

``python -m scripts.bench ring`` needs the package ``liburing`` and a kernel that allows rings. Both ways send
the same bytes on the same sockets in turn; the figure is CPU per send, as a ratio. Results are read one by
one: the package's index into the completions runs past the end of the ring.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import repeat
from statistics import median
from typing import Any

import click

from scripts.common.console import figures_table, make_console

# The names of the ways: a loop; a ring whose results are not looked at, which no server can do; and a ring.
LOOP, BLIND, RING = "send", "ring, results not read", "ring"
# CPU of the ring as a share of the loop's, at most, to be worth a module.
WORTH = 0.88
# Bytes of a message of 100 bytes to a plain client, and to a member.
SIZES = (116, 181)
_READ = 64 << 10

Way = Callable[[bytes], Sequence[int]]


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connect so many clients on loopback; yield the server's and the client's end of each."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=count))
        ends = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            server = stack.enter_context(listener.accept()[0])
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for end in (server, client):
                end.setblocking(False)
            ends.append((server, client))
        yield ends


def ways(socks: Sequence[socket.socket]) -> dict[str, Way]:
    """Return the ways to send bytes on all of ``socks``; each returns how much went on each socket."""
    try:
        import liburing
    except ImportError:
        raise click.ClickException("the package liburing is absent: pip install liburing") from None
    uring: Any = liburing
    ring, completion = uring.Ring(), uring.Cqe()
    uring.io_uring_queue_init(len(socks), ring)
    descriptors = [sock.fileno() for sock in socks]

    def submit(data: bytes) -> None:
        for descriptor in descriptors:
            uring.io_uring_prep_send(
                uring.io_uring_get_sqe(ring), descriptor, data, len(data), socket.MSG_DONTWAIT
            )
        uring.io_uring_submit_and_wait(ring, len(descriptors))

    def by_loop(data: bytes) -> Sequence[int]:
        return list(map(socket.socket.send, socks, repeat(data)))

    def blind(data: bytes) -> Sequence[int]:
        submit(data)
        uring.io_uring_cq_advance(ring, uring.io_uring_cq_ready(ring))
        return ()

    def by_ring(data: bytes) -> Sequence[int]:
        submit(data)
        results, completions = [], uring.io_uring_cqe_iter_init(ring)
        while uring.io_uring_cqe_iter_next(completions, completion):
            results.append(completion[0].res)
        uring.io_uring_cq_advance(ring, len(results))
        return results

    return {LOOP: by_loop, BLIND: blind, RING: by_ring}


def measure(sockets: int, rounds: int, size: int) -> dict[str, float]:
    """Return the median CPU of a send by each way, in microseconds, for messages of ``size`` bytes."""
    found: dict[str, list[float]] = {LOOP: [], BLIND: [], RING: []}
    data = bytes(size)
    with pairs(sockets) as ends:
        each = list(ways([server for server, _ in ends]).items())
        for number in range(rounds):
            turn = number % len(each)
            for name, way in each[turn:] + each[:turn]:
                began = time.process_time_ns()
                sent = way(data)
                found[name].append((time.process_time_ns() - began) / sockets / 1e3)
                if sent and [*sent] != [size] * sockets:
                    raise click.ClickException(f"{name} did not send all: {set(sent)}")
                for _, client in ends:
                    client.recv(_READ)
    return {name: median(times) for name, times in found.items()}


@click.command()
@click.option("--sockets", type=click.IntRange(2, 4000), default=500, help="Receivers of each message.")
@click.option("--rounds", type=click.IntRange(3), default=300, help="Messages of each size by each way.")
def main(sockets: int, rounds: int) -> None:
    """Measure what io_uring would save when one message goes to many sockets."""
    table = figures_table(f"CPU of a send to each of {sockets} sockets", "bytes", LOOP, BLIND, RING)
    for size in SIZES:
        found = measure(sockets, rounds, size)
        ratios = (f"{found[name] / found[LOOP]:.2f}" for name in (BLIND, RING))
        table.add_row(str(size), f"{found[LOOP]:.2f} µs", *ratios)
    make_console().print(table, f"The ring would have to be at most {WORTH:g}.")
