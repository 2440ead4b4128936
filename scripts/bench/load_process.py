"""The bench's end of the load: starts the load processes, gives them orders, shares the clients out."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from scripts.bench.load.plan import Board, Plan
from scripts.bench.load.work import carry_out
from scripts.bench.peers import Peer, Server
from scripts.bench.row import BenchError, Options, Row
from scripts.bench.wire import WIRES
from scripts.common.spawning import end, spawn

# Processes of clients, at least; one more is the senders'.
LEAST_PROCESSES = 2
# Connections of one load process, at most: below the 20 000 descriptors that a process may have here.
CLIENTS_PER_PROCESS = 15_000
# Connections begun and not yet served, all processes together: below the smallest accept queue, which is
# Mosquitto's with 100.
IN_FLIGHT = 80
# Messages a second that one process parses in full, about; decides how many connections are witnesses.
PARSED_PER_S = 10_000
# Messages of each room that may be in flight where there are many rooms; they talk at a steady rate.
ROOM_WINDOW = 4
# Seconds until a load process must have ended after its orders did.
LEAVE_S = 10.0


class LoadProcess:
    """A load process that runs until :meth:`close`."""

    def __init__(self, board: Board, slot: int) -> None:
        """Start the process, which tells its count in ``slot`` of ``board``."""
        self._process, self._pipe = spawn(carry_out, board, slot)

    def tell(self, **order: Any) -> None:
        """Send an order."""
        with suppress(OSError):  # it ended: hear() says so
            self._pipe.send(order)

    def hear(self, what: str, patience_s: float) -> dict[str, Any]:
        """Wait for the answer ``what``. Raise :class:`BenchError` when it does not come."""
        if not self._pipe.poll(patience_s):
            raise BenchError(f"the load did not say {what!r} within {patience_s:.0f} s")
        try:
            said, answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise BenchError("the load ended") from None
        if said != what:
            raise BenchError(str(answer.get("text", answer)))
        return dict(answer)

    def close(self) -> None:
        """End the process by the end of its orders; kill it when that takes too long."""
        self._pipe.close()
        end(self._process, LEAVE_S)


def client_processes(peer: Peer, row: Row) -> int:
    """Return how many load processes hold clients that only receive."""
    receivers = row.clients - _sending_clients(peer, row)
    return min(max(LEAST_PROCESSES, -(-receivers // CLIENTS_PER_PROCESS)), receivers)


def plans(peer: Peer, row: Row, options: Options, server: Server) -> Iterator[Plan]:
    """Share the clients out among the load processes; the last plan is the senders'."""
    processes = client_processes(peer, row)
    first = sending = _sending_clients(peer, row)
    ports = server.ports[:1] if row.apart else server.ports
    # Where nothing says how many messages a second there will be, one witness of each host must do.
    some = max(2, int(PARSED_PER_S / row.rate * max(1, row.rooms))) if row.rate else 1
    witnesses = max(some, len(ports))
    for index in range(processes + 1):
        senders = index == processes
        share, more = divmod(row.clients - sending, max(1, processes))
        connections = _senders(row) if senders else share + (index < more)
        yield Plan(
            role="senders" if senders else "clients",
            wire=(senders and peer.senders) or peer.wire_for(row.rooms),
            host=server.host,
            ports=ports,
            source=f"127.0.0.{1 + index}",
            connections=connections,
            # The senders are witnesses only where there are no other clients.
            witnesses=0 if senders and processes else witnesses,
            in_flight=max(1, IN_FLIGHT // (processes + 1)),
            row=row,
            options=options,
            window=_window(row),
            first=0 if senders else first,
            tls=peer.tls,
        )
        first += connections


def _window(row: Row) -> int:
    """Return how many messages may be in flight; in each room where there are many."""
    return ROOM_WINDOW if row.rooms > 1 and row.rate else max(row.senders, row.window // row.size)


def _senders(row: Row) -> int:
    """Return how many connections send: one member of each room, where there are many."""
    return row.senders if row.rooms < 2 else row.rooms


def _sending_clients(peer: Peer, row: Row) -> int:
    """Return how many clients send. On some wires a sender is a client like all others, on others none is."""
    return _senders(row) if WIRES[peer.wire_for(row.rooms)].sender_receives else 0
