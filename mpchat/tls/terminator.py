"""Terminator: what runs in a TLS process. It shakes hands with clients, and encrypts from there to workers.

A connection comes with its first bytes, which a worker has read. When hands are shaken, a socket pair is
made: one end stays here, the other one goes through the supervisor to a worker, as a client that has just
come. So reloads, scalings and crashes of workers treat it like any other, and the state of TLS stays here.
"""

import gc
import logging
import socket
import ssl
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing import parent_process
from typing import Any

import msgspec

from mpchat.config import Config
from mpchat.ipc import logs
from mpchat.ipc.beat import beat_every
from mpchat.ipc.channel import Link, Queue
from mpchat.ipc.client_socket import own, tune
from mpchat.ipc.connection_state import decode_state
from mpchat.ipc.durations import Durations
from mpchat.ipc.goodbye import say_goodbye
from mpchat.ipc.handoff import (
    MAX_DESCRIPTORS,
    ConnectionInTransit,
    Handoff,
    HandoffSocket,
    Passed,
    Receipt,
    close_all,
)
from mpchat.ipc.handoff_channel import HandoffChannel
from mpchat.ipc.items import Beat, Down, Up, encode_beat
from mpchat.ipc.lifetime import Lifetime
from mpchat.ipc.lingering import Lingering
from mpchat.ipc.link_watch import LinkWatch
from mpchat.ipc.os_process import begin, end
from mpchat.reactor import READ, Reactor
from mpchat.tls.certificate import make_context
from mpchat.tls.client import Client
from mpchat.tls.turns import Turns

# What the log and the status call such a process.
KIND = "TLS process"
# Seconds that a client has to shake hands, and how many may be at it at a time.
HANDSHAKE_TIMEOUT = 10.0
HANDSHAKES = 1000
# Seconds that a client has to take the rest when its worker has closed: it counts nowhere then.
LAST_WORDS = 30.0
# Seconds of a round of the loop for what clients send; what workers send comes in between.
ROUND_TIME = 0.003
# Seconds between two looks whether the end has come.
CLOSE_EVERY = 0.01
# Why handshakes came to nothing, as the status counts them.
SLOW_HANDSHAKE, TOO_MANY, NO_HANDSHAKE = "slow handshake", "too many handshakes", "no handshake"
# And why a client was ended that had shaken hands: it did not take the rest.
NOT_TAKEN = "last words not taken"

log = logging.getLogger("mpchat.tls")


class Terminator:
    """One TLS process's loop."""

    def __init__(self, config: Config, link: Link, handoff: HandoffSocket) -> None:
        """Make the parts; nothing is listened to before :meth:`run`."""
        self.reactor = Reactor(config.multiplexer)
        self.lifetime = Lifetime(KIND)
        self.handoff = HandoffChannel(self.reactor, handoff, self.lifetime)
        self.clients: dict[int, Client] = {}
        self.turns = Turns()
        self._config = config
        self._link = link
        self._context: ssl.SSLContext | None = None
        # Those that have not shaken hands, the oldest first.
        self._shaking: dict[Client, None] = {}
        # Workers' ends that are to go to the supervisor, and those that it has not taken yet, by identity.
        self._secured: list[tuple[Client, socket.socket]] = []
        self._passed: dict[int, socket.socket] = {}
        # Those that have not taken the rest after their workers closed, and since when (seconds, monotonic).
        self._deserted: dict[Client, float] = {}
        self._lingering = Lingering(self.reactor)
        # Sockets of clients that have ended since the process was told to end.
        self._last: list[socket.socket] = []
        self._handshakes = 0
        self._ended: Counter[str] = Counter()
        self._longest_turn = 0.0
        self._turns = Durations()

    # The loop.

    def run(self) -> None:
        """Serve until told to close, or until the supervisor is gone."""
        parent = parent_process()
        assert parent is not None
        self.reactor.watch(parent.sentinel, READ, lambda mask: self.lifetime.lose_supervisor())
        self.serve()
        self._beat()
        while not self.lifetime.finished:
            self.turn()

    def serve(self) -> None:
        """Listen to the supervisor."""
        LinkWatch(self.reactor, self._link, self._on_items)
        self.handoff.serve(self)

    def turn(self) -> None:
        """Go once round the loop: what is ready, then the turns of those that wait."""
        timeout = CLOSE_EVERY if self.lifetime.closing_until is not None else None
        self.reactor.turn(0.0 if self.turns else timeout)
        now = self.reactor.now
        # Before a byte is sent to them: should the process die, nobody else begins with them anew.
        self.handoff.send_receipt()
        while self.turns:
            self._decrypt(self.turns.next())
            if self._round_is_over:
                break
        self.handoff.send_receipt()
        if self._secured:
            self._pass_on()
        until = self.lifetime.closing_until
        if until is not None and (now >= until or not (self.clients or len(self._lingering))):
            say_goodbye(self._last)
            self.lifetime.finished = True
        length = time.monotonic() - now
        self._turns.add(length)
        self._longest_turn = max(self._longest_turn, length)

    @property
    def _round_is_over(self) -> bool:
        return time.monotonic() > self.reactor.now + ROUND_TIME

    def _on_items(self, mask: int) -> None:
        try:
            for item in self._link.receive():
                self._link.take(item.cost)
                self.take(item.kind, item.payload)
        except (EOFError, OSError):
            self.lifetime.lose_supervisor()

    def take(self, kind: int, payload: Any) -> None:
        """Do what the supervisor says."""
        if kind == Down.CERTIFICATE:
            self._take_certificate(*payload)
        elif kind == Down.SETTINGS:
            self._take_settings(msgspec.msgpack.decode(payload, type=Config))
        elif kind == Down.DRAIN:
            self.lifetime.draining = True
            self._say(Up.DRAINED)
        elif kind == Down.CLOSE:
            self.lifetime.closing_until = time.monotonic() + payload
            for client in list(self._shaking):
                self._end(client, NO_HANDSHAKE)

    def _take_certificate(self, chain: bytes, key: bytes) -> None:
        """Show another certificate to those that come from now on."""
        first = self._context is None
        try:
            self._context = make_context(chain, key)
        except (OSError, ValueError) as error:
            log.error("certificate not taken, the one before is shown: %s: %s", self.lifetime.title, error)
            return
        if first:
            self._say(Up.READY)
            log.info("ready: %s", self.lifetime.title)

    def _take_settings(self, config: Config) -> None:
        """Let settings hold, for those that are here too. It beats as before: so it is watched."""
        before = self._config
        self._config = msgspec.structs.replace(config, hang_timeout=before.hang_timeout)
        logs.follow(before, config)
        if config.keepalive != before.keepalive:
            for client in self.clients.values():
                with suppress(OSError):  # its end comes by its own event
                    tune(client.sock, config.keepalive)

    def _say(self, kind: Up, payload: Any = None) -> None:
        try:
            self._link.send(kind, payload)
        except OSError:
            self.lifetime.finished = True

    def _beat(self) -> None:
        self.reactor.call_later(beat_every(self._config.hang_timeout), self._beat)
        beat = Beat(
            connections=len(self.clients),
            lag=self._longest_turn,
            ended=dict(self._ended),
            cpu=time.process_time(),
            handshakes=self._handshakes,
            shaking=len(self._shaking),
            turns=self._turns.counts,
            turn_time=self._turns.total,
            log_dropped=logs.dropped(),
        )
        self._longest_turn = 0.0
        if not self._link.full:
            try:
                self._link.send_now(Up.BEAT, encode_beat(beat))
            except OSError:
                self.lifetime.finished = True
        self._end_slow(self.reactor.now)
        self._end_deserted(self.reactor.now)

    # Connections that come.

    def take_handoff(self, handoff: Handoff, descriptors: list[int] | None) -> None:
        """Take connections over, or none of them."""
        if descriptors is None or self.lifetime.draining or self._context is None:
            close_all(descriptors or [])
            self.handoff.receipt.nacks.extend(each.identity for each in handoff.connections)
            return
        for arrived, descriptor in zip(handoff.connections, descriptors, strict=True):
            self._take(arrived, own(descriptor, arrived.host), self._context)

    def _take(self, arrived: ConnectionInTransit, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.handoff.receipt.acks.append(arrived.identity)
        address = arrived.host, arrived.port
        client = Client(arrived.identity, sock, address, context, self.reactor.now)
        client.on_network = partial(self._on_client, client)
        client.on_near = partial(self._on_worker, client)
        self.clients[arrived.identity] = client
        self._shaking[client] = None
        try:
            tune(sock, self._config.keepalive)
        except OSError as error:  # reset while it was on its way
            self._end(client, error.strerror or NO_HANDSHAKE)
            return
        state = decode_state(arrived.state)
        if state is not None:
            client.take(state.dialect_state.partial)
        if len(self._shaking) > HANDSHAKES:
            self._end(self._most_shaking(), TOO_MANY)
        self.turns.add(client)

    def _most_shaking(self) -> Client:
        """Return the oldest of those that shake hands from the address that has most of them."""
        counts = Counter(each.owner for each in self._shaking)
        owner = max(counts, key=counts.__getitem__)
        return next(each for each in self._shaking if each.owner == owner)

    def _end_slow(self, now: float) -> None:
        slow = [each for each in self._shaking if now - each.began > HANDSHAKE_TIMEOUT]
        for client in slow:
            self._end(client, SLOW_HANDSHAKE)

    def _end_deserted(self, now: float) -> None:
        deserted = [each for each in self.clients.values() if each.deserted]
        self._deserted = {each: self._deserted.get(each, now) for each in deserted}
        for client in deserted:
            if now - self._deserted[client] > LAST_WORDS:
                self._end(client, NOT_TAKEN)

    # What they send, and what workers send them.

    def _on_client(self, client: Client, mask: int) -> None:
        if client.ended:
            return
        try:
            if mask & READ:
                client.receive()
            if mask & ~READ:
                client.flush()
        except OSError as error:
            self._end(client, error.strerror or "lost")
            return
        if self.turns or self._round_is_over:
            self._go_on(client)
        else:
            self._decrypt(client)

    def _decrypt(self, client: Client) -> None:
        """Give a client its turn."""
        if client.ended:
            return
        if not client.can_decrypt:
            self._go_on(client)
            return
        try:
            if client.near is not None:
                client.decrypt()
            elif client.shake():
                self._secure(client)
        except OSError as error:
            self._end(client, NO_HANDSHAKE if client.near is None else error.strerror or "lost")
            return
        self._go_on(client)

    def _secure(self, client: Client) -> None:
        """Give a client that has shaken hands a way to a worker."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self._handshakes += 1
        self._shaking.pop(client)
        client.open(near)
        self._secured.append((client, far))

    def _on_worker(self, client: Client, mask: int) -> None:
        if client.ended:
            return
        try:
            if mask & READ:
                client.encrypt()
            if mask & ~READ:
                client.pass_on()
        except OSError as error:
            self._end(client, error.strerror or "lost")
            return
        self._go_on(client)

    def _go_on(self, client: Client) -> None:
        """Wait for what can happen to a client next."""
        if client.done:
            self._end(client, "")
            return
        if client.can_decrypt:
            self.turns.add(client)
        try:
            client.listen(self.reactor)
        except (OSError, ValueError) as error:  # the system's limit of watches
            self._end(client, str(error))

    def _end(self, client: Client, why: str) -> None:
        """End a client, once. The worker sees the end of the stream, and the client what it was sent."""
        if client.ended:
            return
        client.ended = True
        client.stop_listening(self.reactor)
        del self.clients[client.identity]
        if why:
            self._ended[why] += 1
            log.debug("ended, %s: %s:%d", why, client.host, client.port)
        if client.near is None:
            self._shaking.pop(client, None)
            self.handoff.receipt.closed.append(client.host)
        else:
            client.near.close()
            self.handoff.receipt.tunnels.append(client.identity)
        if self.lifetime.closing_until is None:
            self._lingering.take(client.sock)
        else:  # all of them end at once, and more than can linger
            with suppress(OSError):
                client.sock.shutdown(socket.SHUT_WR)
            self._last.append(client.sock)

    # Connections that go on to workers.

    def _pass_on(self) -> None:
        secured, self._secured = iter(self._secured), []
        while batch := list(islice(secured, MAX_DESCRIPTORS)):
            connections = []
            for client, far in batch:
                self._passed[client.identity] = far
                connections.append(
                    ConnectionInTransit(client.identity, client.host, client.port, secure=True)
                )
            self.handoff.send(Passed(connections), [far.fileno() for _, far in batch])

    def take_receipt(self, receipt: Receipt) -> None:
        """Let go of ends that were taken; end the clients whose ends were not."""
        for identity in receipt.acks:
            self._passed.pop(identity).close()
        for identity in receipt.nacks:
            self._passed.pop(identity).close()
            if identity in self.clients:
                self._end(self.clients[identity], "no descriptor left")


def main(
    config: Config,
    slot: int,
    supervisor: int,
    queues: tuple[Queue, Queue, int],
    sock: socket.socket,
    workers_lock: str,
) -> None:
    """Run a TLS process, which begins in :mod:`mpchat.tls.boot`; see ``worker.worker.main``."""
    begin(config, f"tls {slot}", supervisor, workers_lock)
    down, up, window = queues
    link = Link(down, up, window)
    link.close_far_ends()
    terminator = Terminator(config, link, HandoffSocket(sock))
    gc.collect()
    gc.freeze()
    gc.enable()
    terminator.run()
    end(0)
