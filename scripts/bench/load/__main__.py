"""A load process: ``python -m scripts.bench.load``, started by the bench with orders on standard input.

Orders and answers are lines of JSON. The first order is the plan. The process ends when standard input does,
so it never outlives the bench.
"""

import contextlib
import json
import os
import sys
import time
from typing import Any

from scripts.bench.load.crowd import READ_SIZE, Crowd
from scripts.bench.load.plan import ORDERS_FD, WAIT_S, Board, LoadError, Plan
from scripts.bench.load.publisher import Publisher
from scripts.common.machine import raise_descriptor_limit


class Orders:
    """The orders of the bench."""

    def __init__(self) -> None:
        """Begin with no order read."""
        self._unread = b""

    def read(self) -> dict[str, Any]:
        """Wait for the next order and return it; end the process at the end of the orders."""
        while b"\n" not in self._unread:
            data = os.read(ORDERS_FD, READ_SIZE)
            if not data:
                # Nothing to clean up: the kernel closes the sockets, and faster than a loop here would.
                os._exit(0)
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order


def say(what: str, **values: Any) -> None:
    """Send an answer to the bench."""
    sys.stdout.write(json.dumps({"say": what, **values}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Carry out the plan; say why when that fails."""
    raise_descriptor_limit()
    orders = Orders()
    plan = Plan(**orders.read())
    try:
        work(plan, orders)
    except LoadError as error:
        say("failed", text=str(error))


def work(plan: Plan, orders: Orders) -> None:
    """Connect, wait for the go, send or count, and report."""
    board = Board(plan.board, plan.slots, plan.slot)
    crowd = Crowd(plan, board)
    began_ns = time.monotonic_ns()
    crowd.connect()
    say("connected", began_ns=began_ns, ended_ns=time.monotonic_ns())
    publisher = Publisher(plan, crowd, board) if plan.role == "senders" else None
    if publisher:
        while "ask" in (order := orders.read()):
            trips_ns = crowd.ask(order["ask"], order["pause_s"])
            orders.read()  # to stop asking
            say("asked", trips_ns=trips_ns)
        publisher.go()
    crowd.await_go()
    say("ready")
    began_s = time.process_time()
    if publisher:
        orders.read()
        publisher.run()
        say("sent", messages=publisher.sent, first_ns=publisher.first_ns)
    else:
        while not crowd.turn(WAIT_S):
            if plan.nap_s:
                # Naps make large reads: the load must cost less than the server.
                time.sleep(plan.nap_s)
    sent = int(orders.read()["messages"])
    crowd.count(sent)
    say("report", cpu_s=time.process_time() - began_s, **crowd.report(sent))
    # Keep the connections: the last messages may still be in flight, and leaving is news to other members.
    orders.read()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
