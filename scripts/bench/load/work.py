"""What a load process does, from its plan to its report. Orders and answers go through a pipe."""

import os
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.bench.load.crowd import Crowd
from scripts.bench.load.plan import WAIT_S, Board, LoadError, Plan
from scripts.bench.load.publisher import Publisher

# Seconds between two turns of a counting process in rows as fast as possible: naps make large reads, and the
# load must cost less than the server. Where latency is measured there are none.
NAP_S = 0.001


def carry_out(pipe: "Pipe[Any, Any]", board: Board, slot: int) -> None:
    """Carry out the plan, which is the first order; say why when that fails."""
    try:
        plan: Plan = pipe.recv()["plan"]
        try:
            work(plan, pipe, board, slot)
        except LoadError as error:
            pipe.send(("failed", {"text": str(error)}))
            pipe.recv()
    except EOFError:
        # Nothing to clean up: the kernel closes the sockets, and faster than a loop here would.
        os._exit(0)


def work(plan: Plan, pipe: "Pipe[Any, Any]", board: Board, slot: int) -> None:
    """Connect, wait for the go, send or count, and report."""
    crowd = Crowd(plan, board, slot, pipe.fileno())
    began_ns = time.monotonic_ns()
    crowd.connect()
    pipe.send(("connected", {"began_ns": began_ns, "ended_ns": time.monotonic_ns()}))
    publisher = Publisher(plan, crowd, board) if plan.role == "senders" else None
    if publisher:
        while "ask" in (order := pipe.recv()):
            trips_ns = crowd.ask(order["ask"], order["pause_s"])
            pipe.recv()  # to stop asking
            pipe.send(("asked", {"trips_ns": trips_ns}))
        publisher.go()
    crowd.await_go()
    pipe.send(("ready", {}))
    began_s = time.process_time()
    if publisher:
        pipe.recv()
        publisher.run()
        pipe.send(("sent", {"messages": publisher.sent, "first_ns": publisher.first_ns}))
    else:
        while not crowd.turn(WAIT_S):
            if not plan.row.rate:
                time.sleep(NAP_S)
    sent = int(pipe.recv()["messages"])
    crowd.count(sent)
    pipe.send(("counted", {}))
    crowd.await_surplus()
    pipe.send(("report", {"cpu_s": time.process_time() - began_s, **crowd.report(sent)}))
    # Keep the connections: the last messages may still be in flight, and leaving is news to other members.
    pipe.recv()
