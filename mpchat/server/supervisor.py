"""Supervisor: holds the name, the port and the workers; hands out connections; runs the hub. One loop.

What it acquires it acquires in order (lock, limits, listener, control socket, workers, record, ready) and
gives back in reverse. Signal handlers only wake the loop. Clients on their way to a worker are with the
reception, questions to all workers with the surveys, one order with the hub.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from enum import Enum
from functools import partial
from random import Random
from types import FrameType
from typing import Any

from .. import __version__
from ..config import Config, default_workers
from ..control import Answer, Reply, Request, Server
from ..errors import MpchatError, StartError
from ..instance import Guard, Identity, Record, write_record
from ..settings import Sources
from . import logs, policy, process
from .door import Door, open_listeners
from .handle import Handle
from .hub import Hub, Port
from .reactor import READ, Reactor
from .reception import Reception
from .room import Room
from .slot import Slot, SlotState, how_it_ended
from .survey import Surveys
from .wire import Beat, Down, Up

# Seconds from a hung worker's stack dump to its end.
DUMP_GRACE = 1.0
# Seconds from one try to start a worker to the next when the system has no room for it.
START_AGAIN = 1.0
# Seconds that a new worker has to become ready.
READY_TIMEOUT = 30.0
# Seconds between workers when a signal is passed on to all; a stack dump takes a few milliseconds.
SIGNALS_APART = 0.05
# Seconds that a second signal leaves of a stop's deadline.
QUICK = 0.5
# Seconds that workers get beyond the deadline that they were told, before they are killed.
STOP_GRACE = 1.5
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Kept for reload (HUP) and scaling (TTIN, TTOU).
KEPT_SIGNALS = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)

log = logging.getLogger("mpchat.supervisor")


class State(Enum):
    """The server's own life."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"


class Supervisor:
    """One running server. :meth:`run` returns when it has stopped; errors of the start are raised."""

    def __init__(self, config: Config, on_ready: Callable[[dict[str, Any]], None], sources: Sources) -> None:
        """``on_ready(facts)`` is called once, when every worker can serve."""
        self.config = config
        self.sources = sources
        self.state = State.STARTING
        self.started = time.time()
        self.identity = Identity.of(os.getpid())
        self.reactor = Reactor()
        self.guard = Guard(config)
        self.hub = Hub(Room(notices=config.notices), config.lag_limit, self._on_news)
        self.slots: list[Slot] = []
        self.addresses: list[str] = []
        self.deadline: float | None = None
        self.surveys = Surveys(self.reactor)
        self._on_ready = on_ready
        self._last_tick = time.monotonic()
        self._failure: MpchatError | None = None
        self._closing = False

    # The life of the server.

    def run(self) -> None:
        """Serve until stopped.

        Raises :class:`AlreadyRunningError` or :class:`StartError` when it could not start, with nothing left
        behind, and :class:`MpchatError` when no worker could be kept alive.
        """
        with ExitStack() as stack:
            stack.callback(self.reactor.close)
            self.guard.acquire()
            stack.callback(self.guard.release)
            self._open_log()
            self._write_record()
            stack.callback(self._remove_record)
            self._watch_signals(stack)
            self.descriptors = process.raise_descriptor_limit()
            listeners = open_listeners(self.config.host, self.config.port)
            self.door = Door(self.reactor, listeners, self._on_client)
            stack.callback(self.door.close)
            per_worker = policy.connections_per_worker(self.descriptors, self.config.multiplexer)
            self.reception = Reception(self.reactor, self.door, per_worker)
            self.addresses = self.door.addresses
            self.control = self._open_control()
            stack.callback(self.control.close)
            stack.callback(self._kill_all)
            self._start_workers()
            self._tick()
            while self.state is not State.STOPPING or self._alive():
                self._step()
        if self._failure is not None:
            raise self._failure

    def _open_log(self) -> None:
        """Only now: a second start must not touch the first one's log."""
        if self.config.log_file:
            try:
                logs.point_at(self.config.log_file)
            except OSError as error:
                raise StartError(
                    f"cannot write the log {self.config.log_file}: {error.strerror}; see --log-file"
                ) from None

    def _step(self) -> None:
        self.reactor.turn(self._timeout())
        now = self.reactor.now
        self.hub.turn(now)
        self._place_clients(now)
        if self.state is State.STOPPING:
            self._go_on_stopping(now)

    def _timeout(self) -> float | None:
        moments = [each for each in (self.hub.room.notice_due(), self.deadline) if each is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _open_control(self) -> Server:
        try:
            return Server(self.reactor, self.guard.paths.control, self._on_request)
        except OSError as error:
            raise StartError(f"cannot listen at {self.guard.paths.control}: {error.strerror}") from None

    @property
    def workers(self) -> int:
        return self.config.workers or default_workers(os.cpu_count() or 1)

    @property
    def fits(self) -> int:
        """How many connections this server takes at a time."""
        fits = self.reception.per_worker * self.workers
        return min(fits, self.config.max_connections) if self.config.max_connections else fits

    @property
    def connections(self) -> int:
        return sum(slot.handle.load for slot in self.slots if slot.handle) + len(self.reception)

    def _alive(self) -> bool:
        return any(slot.handle is not None for slot in self.slots)

    # Signals: the wake-up descriptor carries their numbers, so handlers have nothing to do.

    def _watch_signals(self, stack: ExitStack) -> None:
        near, far = socket.socketpair()
        stack.callback(near.close)
        stack.callback(far.close)
        near.setblocking(False)
        far.setblocking(False)
        # First of all: a signal that finds its handler but not this would be lost.
        signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, -1)
        for number in (*STOP_SIGNALS, *KEPT_SIGNALS, signal.SIGUSR2):
            signal.signal(number, _wake)
        logs.reopen_on_signal(self.config.log_file)
        logs.dump_on_signal(chain=True)
        self.reactor.watch(near, READ, lambda mask: self._on_signals(near.recv(64)))

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in STOP_SIGNALS:
                self.stop(f"signal {signal.Signals(number).name}")
            elif number in KEPT_SIGNALS:
                log.info("ignored, kept for later: signal %s", signal.Signals(number).name)
            elif number in (signal.SIGUSR1, signal.SIGUSR2):
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        """Signal the workers too, one after the other: stacks written at once would run into each other."""
        log.info("passed on to the workers: signal %s", signal.Signals(number).name)
        for turn, slot in enumerate(self.slots, 1):
            self.reactor.call_later(turn * SIGNALS_APART, partial(self._signal, slot, number))

    @staticmethod
    def _signal(slot: Slot, number: int) -> None:
        if slot.ready is not None:
            os.kill(slot.ready.pid, number)

    # Workers: start, death, silence.

    def _start_workers(self) -> None:
        random = Random()
        self.slots = [Slot(number, random) for number in range(1, self.workers + 1)]
        for slot in self.slots:
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        if self.state is State.STOPPING:
            return
        try:
            handle = slot.handle = Handle(self.config, slot.number, self.guard.paths.workers)
        except OSError as error:
            self._cannot_start(slot, error)
            return
        slot.state = SlotState.STARTING
        self.hub.attach(handle.port)
        self.reactor.watch(handle.port.link, READ, lambda mask: self._on_link(handle))
        self.reception.watch(handle)
        self.reactor.watch(handle.process.sentinel, READ, lambda mask: self._on_death(slot, handle))
        self._write_record()

    def _cannot_start(self, slot: Slot, error: OSError) -> None:
        """Out of processes, descriptors or memory: that is no worker's fault, and it passes."""
        if self.state is State.STARTING:
            self._decide_restart(slot, 0.0, f"it could not be started: {error.strerror}")
            return
        log.warning("not started, %s, next try in %g s: worker %d", error.strerror, START_AGAIN, slot.number)
        self.reactor.call_later(START_AGAIN, partial(self._start, slot))

    def _on_link(self, handle: Handle) -> None:
        if handle.closed:  # its death was dealt with earlier in this turn
            return
        self.hub.receive(handle.port, self.reactor.now)
        if handle.port.ended:  # its death comes through the sentinel; the pipe's end would come for ever
            self.reactor.forget(handle.port.link)

    def _on_news(self, port: Port, kind: int, payload: Any) -> None:
        slot = self.slots[port.slot - 1]
        handle = slot.handle
        if handle is None or handle.port is not port:
            return
        if kind == Up.BEAT:
            handle.on_beat(Beat(*payload), self.reactor.now)
        elif kind == Up.READY:
            self._on_worker_ready(slot, handle)
        elif kind == Up.KICKED:
            number, ended = payload
            self.surveys.answer(number, slot.number, ended)
        elif kind == Up.DRAINED and slot.state is SlotState.DRAINING:
            slot.state = SlotState.STOPPING

    def _on_worker_ready(self, slot: Slot, handle: Handle) -> None:
        handle.ready_at = handle.last_beat = self.reactor.now
        handle.port.ready = True
        if slot.state is SlotState.STARTING:
            slot.state = SlotState.RUNNING
        if self.state is State.STARTING and all(each.state is SlotState.RUNNING for each in self.slots):
            self.state = State.RUNNING
            log.info("ready: %d workers at %s", len(self.slots), ", ".join(self.addresses))
            self.door.open()
            self._on_ready(self._facts())

    def _on_death(self, slot: Slot, handle: Handle) -> None:
        """Take a dead worker's last words, give its unclaimed connections to others, decide what follows."""
        self.reactor.forget(handle.process.sentinel)
        handle.process.join()  # from here on its ends are closed, and reading them comes to an end
        if not handle.port.ended:
            self.reactor.forget(handle.port.link)
        self.hub.detach(handle.port)
        how = how_it_ended(handle.process.exitcode)
        lived = self.reactor.now - handle.ready_at if handle.ready_at is not None else 0.0
        self.reception.unwatch(handle)
        if handle.connections:
            self.hub.room.leave([], handle.connections)
        slot.handle = None
        self.surveys.on_death(slot.number)
        if self.state is State.STOPPING:
            log.info("ended: worker %d, %s", slot.number, how)
            return
        self._decide_restart(slot, lived, how)

    def _decide_restart(self, slot: Slot, lived: float, how: str) -> None:
        starting = self.state is State.STARTING
        most = policy.DEATHS_AT_START if starting else policy.DEATHS_TO_FATAL
        pause = slot.deaths.after(lived, most)
        self._write_record()
        if pause is not None:
            slot.state = SlotState.BACKOFF
            slot.restarts += 1
            log.warning("died: worker %d, %s; the next starts in %.2f s", slot.number, how, pause)
            self.reactor.call_later(pause, partial(self._start, slot))
            return
        slot.state = SlotState.FATAL
        deaths = slot.deaths.in_a_row
        log.error("given up: worker %d, dead %d times in a row, %s", slot.number, deaths, how)
        if starting:
            self._fail(f"worker {slot.number} died {deaths} times before it could serve, {how}")
        elif all(each.state is SlotState.FATAL for each in self.slots):
            self._fail(f"no worker is left: each died {deaths} times in a row, the last {how}")

    def _fail(self, why: str) -> None:
        text = f"{why}; see {self.config.log_file}" if self.config.log_file else why
        self._failure = StartError(text) if self.state is State.STARTING else MpchatError(text)
        self.stop(why)

    def _tick(self) -> None:
        """Look whether workers beat, and whether lock, record and socket are where they belong."""
        every = policy.beat_every(self.config.hang_timeout)
        self.reactor.call_later(every, self._tick)
        now = time.monotonic()
        # A look that comes late means that this process was asleep: no worker is to blame for that time.
        asleep = max(0.0, now - self._last_tick - every)
        self._last_tick = now
        for slot in self.slots:
            if slot.handle is not None:
                slot.handle.forgive(asleep, now)
                self._check_beat(slot, slot.handle, now)
        with suppress(OSError):
            if self.guard.heal():
                log.warning("lock file was gone or replaced, taken again: %s", self.guard.paths.lock)
            if not self.guard.paths.record.exists():
                self._write_record()
            self.control.heal()

    def _check_beat(self, slot: Slot, handle: Handle, now: float) -> None:
        silence = now - handle.last_beat
        if handle.ready_at is None:
            if silence > READY_TIMEOUT:
                log.error("not ready within %g s, killed: worker %d", READY_TIMEOUT, slot.number)
                handle.kill()
        elif handle.dumped_at is not None:
            if now - handle.dumped_at >= DUMP_GRACE:
                log.error("hung for %.1f s, killed: worker %d", silence, slot.number)
                handle.kill()
        elif silence > self.config.hang_timeout:
            log.error("hung for %.1f s, its stacks follow: worker %d", silence, slot.number)
            handle.dump(now)

    # Clients.

    def _on_client(self, sock: socket.socket, host: str, port: int) -> None:
        if self.connections >= self.fits:
            self.door.refuse(sock, f"the server is full: {self.fits} clients; try again later")
        elif (most := self.config.max_per_address) and self.reception.from_host(host) >= most:
            self.door.refuse(sock, f"{most} clients are connected from your address already")
        else:
            self.reception.enter(sock, host, port)

    def _place_clients(self, now: float) -> None:
        if self.reception:
            running = [slot for slot in self.slots if slot.state is SlotState.RUNNING]
            self.reception.place([slot.handle for slot in running if slot.handle], now)
        elif self.state is State.RUNNING:
            self.door.open()

    # Commands.

    def _on_request(self, request: Request, reply: Reply) -> None:
        commands: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            "status": self._command_status,
            "stop": self._command_stop,
            "say": self._command_say,
            "kick": self._command_kick,
        }
        command = commands.get(request.command)
        if command is None:
            raise MpchatError(f"this server knows no {request.command!r}; it knows {', '.join(commands)}")
        command(request.arguments, reply)

    def _command_status(self, arguments: dict[str, Any], reply: Reply) -> None:
        reply(Answer(self.status()))

    def _command_stop(self, arguments: dict[str, Any], reply: Reply) -> None:
        processes = [self.identity, *self._worker_identities()]
        reply(Answer({"processes": [[each.pid, each.born] for each in processes]}))
        self.stop("mpchat stop")

    def _command_say(self, arguments: dict[str, Any], reply: Reply) -> None:
        self.hub.room.say(str(arguments["text"]))
        reply(Answer({"connections": self.connections}))

    def _command_kick(self, arguments: dict[str, Any], reply: Reply) -> None:
        address = str(arguments["address"])
        asked = {slot.number: slot.ready for slot in self.slots if slot.ready is not None}

        def on_result(ended: int, silent: list[int]) -> None:
            reply(Answer({"ended": ended, "silent": silent}))

        number = self.surveys.begin(set(asked), on_result)
        for handle in asked.values():
            handle.port.send(Down.KICK, (number, address))

    # What it says of itself.

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "pid": os.getpid(),
            "addresses": self.addresses,
            "workers": len(self.slots),
            "fits": self.fits,
            "log": self.config.log_file,
        }

    def status(self) -> dict[str, Any]:
        """Return what ``mpchat status --json`` prints: times in seconds, sizes in bytes."""
        return {
            "name": self.config.name,
            "pid": os.getpid(),
            "version": __version__,
            "state": self.state.value,
            "started": self.started,
            "uptime": time.time() - self.started,
            "addresses": self.addresses,
            "limits": {
                "connections": self.fits,
                "per_address": self.config.max_per_address,
                "payload": self.config.payload_limit,
                "lag": self.config.lag_limit,
                "descriptors": self.descriptors,
            },
            "connections": self.connections,
            "messages": self.hub.room.sequence,
            "refused": self.door.refused,
            "log": self.config.log_file,
            "runtime_dir": str(self.guard.paths.folder),
            "workers": [slot.status() for slot in self.slots],
        }

    def _worker_identities(self) -> list[Identity]:
        return [slot.handle.identity for slot in self.slots if slot.handle is not None]

    def _write_record(self) -> None:
        workers = self._worker_identities()
        try:
            record = Record(self.identity, self.started, self.addresses, __version__, workers)
            write_record(self.guard.paths.record, record)
        except OSError as error:
            log.warning("record not written: %s: %s", error.strerror, self.guard.paths.record)

    def _remove_record(self) -> None:
        with suppress(OSError):
            self.guard.paths.record.unlink()

    # The end.

    def stop(self, why: str) -> None:
        """Begin to stop: nobody new, then what is in the hub, then an orderly end. Twice: be quick."""
        now = time.monotonic()
        if self.state is State.STOPPING:
            log.info("asked again, quick now: %s", why)
            self.deadline = min(self.deadline or now, now + QUICK)
            self._close_workers(now)
            return
        log.info("stopping: %s", why)
        self.state = State.STOPPING
        self.deadline = now + self.config.stop_timeout
        self.door.close()
        self.reception.refuse("the server is stopping")
        for slot in self.slots:
            if slot.handle is None:
                continue
            if slot.handle.ready_at is None:
                slot.handle.kill()
            else:
                slot.state = SlotState.DRAINING
                slot.handle.port.send(Down.DRAIN)

    def _go_on_stopping(self, now: float) -> None:
        self.reception.refuse("the server is stopping")
        if self.deadline is None:
            return
        drained = all(slot.state is SlotState.STOPPING for slot in self.slots if slot.handle)
        if not self._closing and ((drained and self.hub.empty) or now >= self.deadline):
            self._close_workers(now)
        elif now >= self.deadline:
            log.warning(
                "not ended in time, killed: workers %s", [each.number for each in self.slots if each.handle]
            )
            self.deadline = None
            self._kill_all()

    def _close_workers(self, now: float) -> None:
        """Tell the workers to give clients what they are owed and to end; a little later they are killed."""
        assert self.deadline is not None
        if self._closing:
            return
        self._closing = True
        for slot in self.slots:
            if slot.handle is not None:
                slot.handle.port.send(Down.CLOSE, max(0.0, self.deadline - now))
        self.deadline = max(self.deadline, now) + STOP_GRACE

    def _kill_all(self) -> None:
        """Leave no worker behind, whatever happened."""
        for slot in self.slots:
            if slot.handle is not None:
                slot.handle.kill()
                slot.handle.process.join()


def _wake(number: int, frame: FrameType | None) -> None:
    """Do nothing: that the signal has a handler makes Python write its number to the wake-up descriptor."""
