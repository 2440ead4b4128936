"""Supervisor: holds the name, the port and the workers; hands out connections; runs the hub. One loop.

What it acquires it acquires in order (lock, limits, listener, control socket, workers, record, ready) and
gives back in reverse. Signal handlers only wake the loop. Processes are with the pool, clients on
their way to a worker with the placement, one order with the hub, reloads and scalings with the changes; here
is the life of the whole, and what people and signals ask of it.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec

from mpchat import __version__
from mpchat.config import FIXED, MOST_WORKERS, Config, differing
from mpchat.control import requests
from mpchat.control.answers import Banned, Kicked, Lifted, Muted, Said, Stopping
from mpchat.control.messages import Answer, Reply
from mpchat.control.requests import Request
from mpchat.control.server import Server
from mpchat.errors import ConfigError, MpchatError, StartError
from mpchat.hub.archive import Archive
from mpchat.hub.hub import Hub
from mpchat.hub.limits import Kept, Limits
from mpchat.hub.moderation_file import read_moderation
from mpchat.hub.past import Past
from mpchat.instance.lock import Guard
from mpchat.instance.record import Identity, Record, write_record
from mpchat.ipc import logs
from mpchat.ipc import os_process as process
from mpchat.ipc.beat import beat_every
from mpchat.ipc.items import Down
from mpchat.reactor import READ, Reactor
from mpchat.settings import Sources
from mpchat.supervisor import policy
from mpchat.supervisor.acceptor import Acceptor, Addresses, open_listeners
from mpchat.supervisor.ask_workers import PATIENCE, WorkerQuestions
from mpchat.supervisor.changes import Changes, Steps
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import Watcher, WorkerPool

# Seconds that a second signal leaves of a stop's deadline.
QUICK = 0.5
# Seconds that a history file gets at the end to take what waits: a slow disk, not one that hangs.
HISTORY_PATIENCE = 5.0
# Seconds that workers get beyond the deadline that they were told, before they are killed.
STOP_GRACE = 1.5
# Seconds that a reload waits for what a name server has to say about a new host.
LOOKUP_TIMEOUT = 5.0
# What a client is told whose address is banned.
BANNED = "your address is banned here"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# HUP reloads, TTIN and TTOU make it one worker more or fewer.
CHANGE_SIGNALS = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)

log = logging.getLogger("mpchat.supervisor")


class State(Enum):
    """The server's own life."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"


class Supervisor:
    """One running server. :meth:`run` returns when it has stopped; errors of the start are raised."""

    def __init__(self, config: Config, on_ready: Callable[[dict[str, Any]], None], sources: Sources) -> None:
        """``on_ready(facts)`` is called once, when every worker can serve. ``sources`` is where ``config``
        came from, to be read again at a reload."""
        self.config = config
        self.sources = sources
        self.state = State.STARTING
        self.started = time.time()
        self.identity = Identity.of(os.getpid())
        self.reactor = Reactor()
        self.guard = Guard(config)
        self.archive: Archive | None = None
        self.deadline: float | None = None
        self.questions = WorkerQuestions(self.reactor)
        self._on_ready = on_ready
        self._last_tick = time.monotonic()
        self._failure: MpchatError | None = None
        # How far a stop has got: workers were told to read nothing more, and to close.
        self._draining = self._closing = False

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
            stack.callback(self._log_stopped)
            self._open_log()
            self._write_record([], [])
            stack.callback(self._remove_record)
            self._watch_signals(stack)
            self.descriptors = process.raise_descriptor_limit()
            listeners = open_listeners(self.config.host, self.config.port)
            self.acceptor = Acceptor(self.reactor, listeners, self._on_client)
            stack.callback(self.acceptor.close)
            per_worker = policy.connections_per_worker(self.descriptors, self.config.multiplexer)
            self.hub = self._make_hub(stack)
            self.placement = Placement(self.reactor, self.acceptor, self.hub, per_worker)
            self.pool = self._make_pool()
            self.changes = Changes(self.pool, self.placement, self.reactor, self)
            self.control = self._open_control()
            stack.callback(self.control.close)
            stack.callback(self.pool.kill)
            for slot in self.pool.add(self.pool.wanted(self.config)):
                self.pool.start(slot)
            self._tick()
            while self.state is not State.STOPPING or any(self.pool.handles):
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

    def _log_stopped(self) -> None:
        """The last line, while the lock still keeps the next server from writing its first."""
        if self.state is State.STOPPING:
            log.info("stopped after %.1f s: %s", time.time() - self.started, self.config.name)

    def _step(self) -> None:
        self.reactor.turn(self._timeout())
        now = self.reactor.now
        self.hub.turn(now)
        self._place_clients(now)
        if self.state is State.RUNNING:
            self.changes.step()
        elif self.state is State.STOPPING:
            self._go_on_stopping(now)

    def _timeout(self) -> float | None:
        moments = [each for each in (self.hub.notice_due(), self.deadline) if each is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _open_control(self) -> Server:
        try:
            return Server(self.reactor, self.guard.paths.control, self._on_request)
        except OSError as error:
            raise StartError(f"cannot listen at {self.guard.paths.control}: {error.strerror}") from None

    def _make_hub(self, stack: ExitStack) -> Hub:
        bans = Path(self.config.bans or self.guard.paths.bans)
        moderation, past = read_moderation(bans), self._open_history(stack)
        return Hub(
            limits_of(self.config),
            notices=self.config.notices,
            past=past,
            moderation=moderation,
            moderation_path=bans,
            on_run=self.archive.save if self.archive else None,
        )

    def _open_history(self, stack: ExitStack) -> Past | None:
        if not self.config.history:
            return None
        kept = limits_of(self.config).kept
        self.archive = Archive(self.config.history, messages=kept.messages, age=kept.age)
        past = self.archive.open()
        stack.callback(self.archive.close, HISTORY_PATIENCE)
        return past

    def _make_pool(self) -> WorkerPool:
        lock = self.guard.paths.workers
        watcher = Watcher(self._on_worker_ready, self._on_roster, self._fail)
        return WorkerPool(self.config, self.reactor, self.hub, self.placement, self.questions, lock, watcher)

    @property
    def fits(self) -> int:
        """How many connections this server takes at a time."""
        able = min(self.pool.able, self.changes.aim or self.pool.able)
        fits = self.placement.per_worker * able
        return min(fits, self.config.max_connections) if self.config.max_connections else fits

    @property
    def connections(self) -> int:
        return self.pool.connections + len(self.placement)

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
        for number in (*STOP_SIGNALS, *CHANGE_SIGNALS, signal.SIGUSR2):
            signal.signal(number, _wake)
        logs.reopen_on_signal(self.config.log_file)
        logs.dump_on_signal(chain=True)
        self.reactor.watch(near, READ, lambda mask: self._on_signals(near.recv(64)))

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in STOP_SIGNALS:
                self.stop(f"signal {signal.Signals(number).name}")
            elif number == signal.SIGHUP:
                self.changes.reload_later()
            elif number in (signal.SIGTTIN, signal.SIGTTOU):
                self.changes.scale_by(1 if number == signal.SIGTTIN else -1)
            elif number in (signal.SIGUSR1, signal.SIGUSR2):
                self.pool.pass_on(number)

    # Workers.

    def _on_worker_ready(self) -> None:
        if self.state is State.STARTING and len(self.pool.serving) == len(self.pool):
            self.state = State.RUNNING
            self.pool.starting = False
            workers = f"{len(self.pool)} worker{'s' if len(self.pool) != 1 else ''}"
            log.info("ready: %s at %s", workers, ", ".join(self.acceptor.addresses))
            self.acceptor.open()
            self._on_ready(self._facts())

    def _on_roster(self) -> None:
        self._write_record(self.acceptor.addresses, self.pool.identities)

    def _fail(self, why: str) -> None:
        text = f"{why}; see {self.config.log_file}" if self.config.log_file else why
        self._failure = StartError(text) if self.state is State.STARTING else MpchatError(text)
        self.stop(why)

    def _tick(self) -> None:
        """Look whether workers beat, and whether lock, record and socket are where they belong."""
        every = beat_every(self.config.hang_timeout)
        self.reactor.call_later(every, self._tick)
        now = time.monotonic()
        # A look that comes late means that this process was asleep: no worker is to blame for that time.
        asleep = max(0.0, now - self._last_tick - every)
        self._last_tick = now
        self.pool.check_beats(now, asleep)
        if self.state is State.RUNNING:
            self.changes.watch_balance(now)
        self.hub.sweep(now)
        with suppress(OSError):
            if self.guard.heal():
                log.warning("lock file was gone or replaced, taken again: %s", self.guard.paths.lock)
            if not self.guard.paths.record.exists():
                self._on_roster()
            self.control.heal()

    # Clients.

    def _on_client(self, sock: socket.socket, host: str, port: int) -> None:
        if self.hub.state.moderation.banned_host(host, time.time()):
            self.acceptor.refuse(sock, BANNED, code="banned")
        elif self.connections >= self.fits:
            self.acceptor.refuse(sock, self._full())
        elif (most := self.config.max_per_address) and self.placement.from_host(host) >= most:
            self.acceptor.refuse(sock, f"{most} clients are connected from your address already")
        else:
            self.placement.enter(sock, host, port)

    def _full(self) -> str:
        return f"the server is full: {self.fits} clients; try again later"

    def _place_clients(self, now: float) -> None:
        if self.placement:
            self.placement.place(self.pool.serving, now, self.pool.leaving)
            if (surplus := self.connections - self.fits) > 0:  # a worker was given up after they had come in
                self.placement.refuse(self._full(), surplus)
        elif self.state is State.RUNNING:
            self.acceptor.open()

    # Settings, read again at a reload.

    def check(self, pause: Callable[[], Steps]) -> Generator[None, None, tuple[Config, "_Prepared"]]:
        """Read the settings again; see :class:`~mpchat.supervisor.changes.Settings`."""
        wanted = self.sources.read_again(os.environ, self.config)
        kept = {name: FIXED[name] for name in differing(self.config, wanted) if name in FIXED}
        config = msgspec.structs.replace(wanted, **{name: getattr(self.config, name) for name in kept})
        if config.log_file and config.log_file != self.config.log_file:
            self._can_write(config.log_file)
        addresses = Addresses([], [])
        if (config.host, config.port) != (self.config.host, self.config.port):
            lookup = self.acceptor.look_up(config.host, config.port)
            deadline = time.monotonic() + LOOKUP_TIMEOUT
            while not lookup.done:
                if time.monotonic() > deadline:
                    hosts, within = ", ".join(config.host), f"within {LOOKUP_TIMEOUT:g} s"
                    raise StartError(f"no answer {within} about an address of {hosts}; nothing has changed")
                yield from pause()
            addresses = self.acceptor.prepare(lookup)
        prepared = _Prepared(addresses, kept, self.placement.per_worker)
        self.placement.per_worker = policy.connections_per_worker(self.descriptors, config.multiplexer)
        return config, prepared

    def give_up(self, prepared: "_Prepared") -> None:
        """Let everything be as it was."""
        prepared.addresses.give_up()
        self.placement.per_worker = prepared.per_worker_before

    def adopt(self, config: Config, prepared: "_Prepared") -> dict[str, str]:
        """Let new settings hold; workers get theirs when they are replaced."""
        before, self.config = self.config, config
        self.acceptor.change(prepared.addresses)
        self.hub.change_limits(limits_of(config), notices=config.notices, now=self.reactor.now)
        logging.getLogger("mpchat").setLevel(config.log_level.upper())
        if config.log_file != before.log_file:
            with suppress(OSError):  # it could be written a moment ago; what is open stays open
                logs.point_at(config.log_file)
            logs.reopen_on_signal(config.log_file)
        self._on_roster()
        return prepared.kept

    @staticmethod
    def _can_write(path: str) -> None:
        try:
            logs.check(path)
        except OSError as error:
            raise StartError(f"cannot write the log {path}: {error.strerror}; nothing has changed") from None

    # Commands.

    def _on_request(self, request: Request, reply: Reply) -> None:
        match request:
            case requests.Status():
                reply(Answer(self.status()))
            case requests.Stop():
                reply(Answer(Stopping([self.identity, *self.pool.identities])))
                self.stop("mpchat stop")
            case requests.Reload():
                self._must_be_running()
                self.changes.reload(reply)
            case requests.Scale(workers):
                self._must_be_running()
                if not 1 <= workers <= MOST_WORKERS:
                    raise ConfigError(f"workers is {workers!r}, allowed: 1 to {MOST_WORKERS}")
                self.changes.scale(workers, reply)
            case requests.Say(text):
                self.hub.announce(text, self.reactor.now)
                reply(Answer(Said(self.connections)))
            case requests.Kick(address):
                self._kick_whom(address, reply)
            case requests.Ban(target, seconds):
                self._ban(target, seconds, reply)
            case requests.Mute(target, seconds):
                name = self.hub.mute(target, _until(seconds), self.reactor.now)
                log.info("muted: %s", name)
                reply(Answer(Muted(name, self.hub.address_of(name) is not None)))
            case requests.Lift(what, target):
                self.hub.lift(what, target, self.reactor.now)
                log.info("lifted from %s: %s", what, target)
                reply(Answer(Lifted()))
            case requests.Bans():
                reply(Answer(self.hub.state.moderation.listing(time.time())))

    def _kick_whom(self, target: str, reply: Reply) -> None:
        """End the connection of somebody with this name, or those of this address."""
        self._kick_named(target, lambda kicked: reply(Answer(kicked)))

    def _ban(self, target: str, seconds: float | None, reply: Reply) -> None:
        target = self.hub.ban(target, _until(seconds), self.reactor.now)
        log.info("banned: %s", target)
        self.placement.refuse(BANNED, host=target, code="banned")
        self._kick_named(target, lambda kicked: reply(Answer(Banned(target, kicked.ended, kicked.silent))))

    def _kick_named(self, target: str, on_kicked: Callable[[Kicked], None]) -> None:
        self._kick(self.hub.address_of(target) or target, 0, time.monotonic() + PATIENCE, on_kicked)

    def _kick(self, address: str, ended: int, deadline: float, on_kicked: Callable[[Kicked], None]) -> None:
        """Ask every worker; again if connections were between two workers and may have been missed."""
        asked = {handle.pid: handle for handle in self.pool.ready}
        moves = self.placement.moves

        def on_result(found: int, silent: set[int]) -> None:
            total = ended + found
            moved = self._moving or self.placement.moves != moves
            if moved and not silent and time.monotonic() < deadline:
                self._kick(address, total, deadline, on_kicked)
            else:
                on_kicked(Kicked(total, sorted({asked[each].slot for each in silent})))

        number = self.questions.begin(set(asked), on_result)
        for handle in asked.values():
            handle.endpoint.send(Down.KICK, (number, address))

    def _must_be_running(self) -> None:
        if self.state is not State.RUNNING:
            raise StartError(f"the server is {self.state.value.lower()}; nothing has changed")

    # What it says of itself.

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "pid": os.getpid(),
            "addresses": self.acceptor.addresses,
            "workers": len(self.pool),
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
            "addresses": self.acceptor.addresses,
            "limits": {
                "connections": self.fits,
                "per_address": self.config.max_per_address,
                "payload": self.config.payload_limit,
                "lag": self.config.lag_limit,
                "descriptors": self.descriptors,
            },
            "connections": self.connections,
            "messages": self.hub.messages,
            "people": self.hub.members,
            "rooms": self.hub.rooms,
            "history": self.archive.status()._asdict() if self.archive else None,
            "refused": self.acceptor.refused,
            "log": self.config.log_file,
            "runtime_dir": str(self.guard.paths.folder),
            "generation": self.pool.generation,
            "moves": self.placement.moves,
            "change": self.changes.under_way,
            "last_reload": self.changes.last_reload,
            "workers": self.pool.status(),
        }

    def _write_record(self, addresses: list[str], workers: list[Identity]) -> None:
        try:
            record = Record(self.identity, self.started, addresses, __version__, workers)
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
        self.acceptor.close()
        self.changes.cancel("the server was told to stop")
        self.pool.ending = True
        self.placement.refuse("the server is stopping")

    def _go_on_stopping(self, now: float) -> None:
        self.placement.refuse("the server is stopping")
        if self.deadline is None:
            return
        late = now >= self.deadline
        if not self._draining and (late or not self._moving):
            self._draining = True
            self.pool.drain()
        elif not self._closing and ((self.pool.drained and self.hub.empty) or late):
            self._close_workers(now)
        elif late:
            left = sorted({handle.slot for handle in self.pool.handles})
            log.warning("not ended in time, killed: workers %s", left)
            self.deadline = None
            self.pool.kill()

    @property
    def _moving(self) -> bool:
        """True while a connection is between two workers, or is about to be."""
        return bool(self.placement.moving) or any(handle.asked for handle in self.pool.handles)

    def _close_workers(self, now: float) -> None:
        """Say the last words, tell the workers to give clients what they are owed and to end; a little later
        they are killed."""
        assert self.deadline is not None
        if self._closing:
            return
        self._closing = True
        self.hub.turn(now)
        if self.config.farewell:
            self.hub.announce(self.config.farewell, now)
            self.hub.turn(now)
        # Nothing comes after the last words: that the others have gone is no news now.
        self.hub.silence_notices(now)
        self.pool.close(max(0.0, self.deadline - now))
        self.deadline = max(self.deadline, now) + STOP_GRACE


def _until(seconds: float | None) -> float | None:
    """Return when what is asked for ends (seconds since 1970); None: never."""
    return None if seconds is None else time.time() + seconds


def limits_of(config: Config) -> Limits:
    """Return what the hub is to keep to."""
    kept = Kept(config.history_messages, config.lag_limit, config.history_age)
    return Limits(config.max_rooms, config.max_members, config.name_hold, kept, config.lag_limit)


class _Prepared(NamedTuple):
    """What a reload has made ready: listening sockets, and which settings stay as they are, and why."""

    addresses: Addresses
    kept: dict[str, str]
    per_worker_before: int


def _wake(number: int, frame: FrameType | None) -> None:
    """Do nothing: that the signal has a handler makes Python write its number to the wake-up descriptor."""
