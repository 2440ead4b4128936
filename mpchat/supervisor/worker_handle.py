"""Worker handle: what the supervisor knows of one worker or TLS process, and the ways to reach it.

The parts have modules of their own: the process, the connections, the heartbeat, and the hub's end of the
channel.
"""

import signal
import socket
import time
from pathlib import Path

from mpchat.config import Config
from mpchat.hub.endpoint import Endpoint
from mpchat.instance.record import Identity
from mpchat.ipc.channel import Link, make_queue
from mpchat.ipc.items import Down
from mpchat.supervisor.capacity import SELECT_LIMIT, connections_per_worker
from mpchat.supervisor.heartbeat import Heartbeat
from mpchat.supervisor.placement_policy import Candidate
from mpchat.supervisor.worker_connections import HeldConnection, WorkerConnections
from mpchat.supervisor.worker_process import TLS, WORKER, ProcessKind, WorkerEnds, WorkerProcess


class WorkerHandle:
    """One worker, from the start of its process to its end."""

    def __init__(
        self,
        config: Config,
        slot: int,
        generation: int,
        workers_lock: Path,
        kind: ProcessKind = WORKER,
    ) -> None:
        """Start the process. Raise ``OSError`` if the system has no room for it."""
        self.slot = slot
        self.kind = kind
        # One more than there had been reloads when it was started.
        self.generation = generation
        # A worker beats, and has room, as its own settings say.
        self.heartbeat = Heartbeat(config.hang_timeout, time.monotonic())
        self.select = config.multiplexer == "select"
        # Its end was noticed; how it ended.
        self.closed = False
        self.how = ""
        # It was told to end, since it has no connections; it has posted everything.
        self.retiring = False
        self.drained = False
        up, up_window = make_queue()
        down, down_window = make_queue()
        window = min(up_window, down_window)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connections = WorkerConnections(near, encrypts=kind is TLS)
        self.endpoint = Endpoint(slot, Link(up, down, window))
        with far:
            ends = WorkerEnds((down, up, window), far)
            self.process = WorkerProcess(config, slot, ends, workers_lock, kind)
        self.endpoint.link.close_far_ends()

    @property
    def title(self) -> str:
        """The process as the log names it."""
        return f"{self.kind.title} {self.slot}"

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def identity(self) -> Identity:
        """The process, told from a later one of the same number."""
        return self.process.identity

    @property
    def ready(self) -> bool:
        """True when it has been able to serve, whatever it is doing now."""
        return self.heartbeat.ready_at is not None

    @property
    def load(self) -> int:
        """Connections that it has or is about to have."""
        return self.connections.load

    def candidate(self, limit: int, now: float) -> Candidate:
        """Describe this worker to placement; ``limit`` is how many connections fit a worker."""
        connections = self.connections
        if now < connections.full_until:
            limit = connections.load
        elif self.select:
            limit = min(limit, connections_per_worker(SELECT_LIMIT, "select"))
        if self.kind is TLS:  # a socket of its own, and the end of a pair
            limit //= 2
        unacked, oldest = len(connections.unacked), connections.oldest_unacked(now)
        return Candidate(self.slot, connections.count, unacked, oldest, limit)

    def move_out(self, count: int) -> None:
        """Ask the worker to move up to ``count`` connections out; its answer is a handoff."""
        self.connections.asked = True
        self.endpoint.send_now(Down.MOVE, count)

    def dump(self, now: float) -> None:
        """Have the process write its stacks to the log."""
        self.heartbeat.on_dump(now)
        self.process.signal(signal.SIGUSR2)

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()

    def close(self) -> list[HeldConnection]:
        """Release everything of an ended process; return the connections in transit to it."""
        self.closed = True
        self.process.close()
        self.endpoint.link.close()
        return self.connections.close()
