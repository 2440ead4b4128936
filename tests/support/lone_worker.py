"""A worker process whose supervisor and hub are the test: items and connections in and out, nothing else."""

import multiprocessing
import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from mpchat.config import resolve
from mpchat.ipc.channel import Link, make_queue
from mpchat.ipc.handoff import (
    ConnectionInTransit,
    Handoff,
    HandoffSocket,
    Message,
    Receipt,
    read_message,
)
from mpchat.ipc.items import Beat, Down, Up, decode_beat
from mpchat.worker import worker
from support.harness import Client
from support.waiting import eventually


class LoneWorker:
    """One worker process, ready to serve; the ends of its channel and of its hand-off socket are here."""

    def __init__(self, folder: Path, settings: dict[str, Any], stack: ExitStack) -> None:
        self._stack = stack
        up, window = make_queue()
        down, _ = make_queue()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.link = Link(up, down, window)
        self.handoff = HandoffSocket(near)
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        # What the worker has said to the hub, beats apart, in order; and to the supervisor.
        self.said: list[tuple[int, Any]] = []
        self._beat = Beat()
        self._messages: list[tuple[Message, list[int]]] = []
        with far:
            self._start(folder, settings, (down, up, window), far)
        self.link.close_far_ends()
        self.until(Up.STARTED)
        self.tell(Down.BEGIN, 0)
        self.tell(Down.FILLED)
        self.until(Up.READY)

    def _start(self, folder: Path, settings: dict[str, Any], queues: Any, far: socket.socket) -> None:
        config = msgspec.structs.replace(resolve([])[0], **settings)
        arguments = (config, 1, os.getpid(), queues, far, str(folder / "workers.lock"))
        process = multiprocessing.get_context("spawn").Process(target=worker.main, args=arguments)
        process.start()
        self._stack.callback(process.close)
        self._stack.callback(process.join)
        self._stack.callback(process.kill)
        self._stack.callback(self.handoff.close)
        self._stack.callback(self.link.close)

    # The hub's side.

    def tell(self, kind: Down, payload: Any = None) -> None:
        """Send one small item."""
        self.link.send(kind, payload)

    def tell_frames(self, kind: Down, head: Any, frames: bytes) -> None:
        """Send frames, however long."""
        self.link.send_frames(kind, head, frames)

    def publish(self, room: int, frames: bytes, count: int = 1) -> None:
        """Let a room say ``count`` frames."""
        self.tell_frames(Down.ROOMS, [(room, count, len(frames))], frames)

    def until(self, kind: Up) -> Any:
        """Return the payload of the first item of this kind that no call has returned; waits for it.

        A request counts as served then, as at the hub.
        """

        eventually(
            lambda: self._look() and any(each == kind for each, _ in self.said),
            f"the worker to say {kind.name}",
        )
        place = next(place for place, (each, _) in enumerate(self.said) if each == kind)
        payload = self.said.pop(place)[1]
        if kind == Up.ASK:
            (identity, _), _ = payload
            self.tell(Down.ANSWERED, identity)
        return payload

    def beat(self) -> Beat:
        """Return the last beat that has come."""
        self._look()
        return self._beat

    @property
    def speakers(self) -> int:
        """Return how many more connections have become speakers here than have ended as such."""
        return sum(payload for kind, payload in self.said if kind == Up.SPEAKERS)

    def has_done_all(self) -> None:
        """Wait until the worker has dealt with every item that it was sent."""
        eventually(lambda: self._look() and not self.link.congested, "the worker to take what it was sent")
        self.tell(Down.KICK, (0, "nobody"))
        self.until(Up.KICKED)

    # The supervisor's side.

    def connect(self, identity: int, client: type[Client] = Client) -> Client:
        """Return a client that this worker serves."""
        connected = self._stack.enter_context(client(self._listener.getsockname()))
        sock, (host, port) = self._listener.accept()
        with sock:
            self.hand_over(ConnectionInTransit(identity, host, port), sock.fileno())
        return connected

    def hand_over(self, connection: ConnectionInTransit, descriptor: int) -> None:
        """Hand a connection to the worker, and wait until it has taken it."""
        self.send(Handoff([connection]), [descriptor])
        message, _ = self.message()
        assert isinstance(message, Receipt)
        assert message.acks == [connection.identity]

    def ask_to_move(self) -> tuple[ConnectionInTransit, int]:
        """Let the worker's only connection move; returns it and its descriptor."""
        self.tell(Down.MOVE, 1)
        self.until(Up.SYNC)
        self.tell(Down.SYNCED)
        message, descriptors = self.message()
        assert isinstance(message, Handoff)
        (connection,), (descriptor,) = message.connections, descriptors
        self._stack.callback(_close, descriptor)
        return connection, descriptor

    def send(self, message: Message, descriptors: list[int] | None = None) -> None:
        """Send a message of the supervisor."""
        self.handoff.send(msgspec.msgpack.encode(message), descriptors or [])

    def message(self) -> tuple[Message, list[int]]:
        """Return the next message to the supervisor, and its descriptors."""
        eventually(lambda: self._look() and self._messages, "the worker to say something of connections")
        return self._messages.pop(0)

    def _look(self) -> bool:
        """Take what has come, if anything; returns True."""
        ready, _, _ = select.select([self.link.fileno(), self.handoff.fileno()], [], [], 0.01)
        if self.link.fileno() in ready:
            for item in self.link.receive():
                self.link.take(item.cost)
                if item.kind == Up.BEAT:
                    self._beat = decode_beat(item.payload)
                else:
                    self.said.append((item.kind, item.payload))
        if self.handoff.fileno() in ready:
            for each in self.handoff.receive():
                self._messages.append((read_message(each.message), each.descriptors or []))
        return True


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)


@contextmanager
def lone_worker(folder: Path, **settings: Any) -> Iterator[LoneWorker]:
    """A worker process for the length of a block, with other settings than the defaults where told so."""
    with ExitStack() as stack:
        yield LoneWorker(folder, settings, stack)
