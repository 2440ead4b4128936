"""Supervisor: one running server. It holds the instance's lock and the port, and one loop drives its parts.

What it acquires it acquires in order (lock, log, record, signals, listeners, control socket, workers) and
releases in reverse. Each part is a module of its own: here are the life of the whole and the main loop.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from mpchat.config import Config
from mpchat.control.server import Server
from mpchat.errors import StartError
from mpchat.hook.target import target_of
from mpchat.hub.archive import Archive
from mpchat.hub.hub import Hub
from mpchat.hub.moderation_file import trusted
from mpchat.hub.moderation_keeper import ModerationKeeper
from mpchat.hub.past import Past
from mpchat.instance.installation import installation_id
from mpchat.instance.lock import Guard
from mpchat.instance.record import Identity
from mpchat.instance.trusted_file import check_own_file
from mpchat.ipc import logs, os_process
from mpchat.ipc.durations import Durations
from mpchat.memory import bounds
from mpchat.memory_limit import memory_limit, shortage
from mpchat.protocol.http import API, METRICS
from mpchat.reactor import Reactor
from mpchat.supervisor import orphans, signals
from mpchat.supervisor.acceptor import Acceptor
from mpchat.supervisor.admission import Admission
from mpchat.supervisor.ask_workers import WorkerQuestions
from mpchat.supervisor.audited import AuditedCommands
from mpchat.supervisor.capacity import connections_per_worker
from mpchat.supervisor.change_runner import ChangeRunner
from mpchat.supervisor.client_commands import ClientCommands
from mpchat.supervisor.cluster_part import ClusterPart
from mpchat.supervisor.commands import Commands
from mpchat.supervisor.controlling_terminal import ControllingTerminal
from mpchat.supervisor.gate import Gate, make_verifiers
from mpchat.supervisor.hook_part import HookPart
from mpchat.supervisor.http_desk import HttpDesk, Page
from mpchat.supervisor.job_thread import JobThread
from mpchat.supervisor.lifecycle import Lifecycle, State
from mpchat.supervisor.listeners import AddressTakenError, addresses_of, look_up, open_listeners, taken_by
from mpchat.supervisor.live_settings import GIVEN, Followers, LiveSettings, limits_of
from mpchat.supervisor.metrics.page import MetricsPage
from mpchat.supervisor.metrics.refused import RefusedScrapes
from mpchat.supervisor.orders import Orders
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import Phase, PoolObserver, WorkerPool
from mpchat.supervisor.record_keeper import RecordKeeper
from mpchat.supervisor.service_manager import ServiceManager
from mpchat.supervisor.shutdown import Shutdown
from mpchat.supervisor.slow_call import SlowCall
from mpchat.supervisor.startup import Order, StartFacts
from mpchat.supervisor.status import StatusReport
from mpchat.supervisor.tls_pool import Pools, TlsPool
from mpchat.supervisor.upkeep import OwnFiles, Upkeep
from mpchat.supervisor.worker_watch import NoHub, WorkerWatch
from mpchat.tls.certificate import read_certificate

# Seconds that a history file gets at the end to take what waits: a slow disk, not a disk that hangs.
HISTORY_PATIENCE = 5.0
# Seconds that bans and the record get at the end, for the same reason.
DISK_PATIENCE = 2.0
# Seconds that the log gets at the end, likewise.
LOG_PATIENCE = 2.0
# Seconds between two looks whether a slow call of the start is done.
LOOK_AGAIN = 0.02

# Two requests to stop that are one within so many seconds: ``mpchat stop`` sends a signal when the
# control socket does not answer, and a server that was stalled finds both.
BY_COMMAND = frozenset(("mpchat stop", "signal SIGTERM"))
ONE_REQUEST = 1.0

log = logging.getLogger("mpchat.supervisor")


class Supervisor:
    """One running server. :meth:`run` returns when it has stopped; errors of the start are raised."""

    def __init__(
        self,
        order: Order,
        on_ready: Callable[[StartFacts], None],
        manager: ServiceManager | None = None,
    ) -> None:
        """``on_ready(facts)`` is called once, when every worker can serve."""
        self._order = order
        self._on_ready = on_ready
        self._manager = manager or ServiceManager()
        # Whether the service manager has opened the listeners: clients wait there for the next server.
        self._sockets_stay = False
        self.lifecycle = Lifecycle()
        self.reactor = Reactor()
        # Turns of its loop.
        self.turns = Durations()
        # Whether all parts are there: before that a signal can only end the start.
        self._built = False
        # This server as one of several hosts; None: it is alone.
        self.cluster: ClusterPart | None = None
        # Why it stops, and since when (seconds, monotonic).
        self._stopped_by, self._stopped_at = "", 0.0

    def run(self) -> None:
        """Serve until stopped.

        Raise :class:`AlreadyRunningError` or :class:`StartError` when it could not start, with nothing left
        behind, and :class:`MpchatError` when no worker could be kept alive.
        """
        with ExitStack() as stack:
            stack.callback(self.reactor.close)
            guard = Guard(self._order.config)
            guard.acquire()
            stack.callback(guard.release)
            # The last line, while the lock still keeps the next server from writing its first.
            stack.callback(self._log_stopped)
            record = self._open(guard, stack)
            shared = self._open_shared_log(guard) if record is not None else None
            if record is not None and not self.lifecycle.stopping:
                self._build(guard, record, shared, stack)
                self._built = True
                self._serve()
        if self.lifecycle.failure is not None:
            raise self.lifecycle.failure

    def _serve(self) -> None:
        for pool in (self.pool, self.tls):
            for slot in pool.add(pool.wanted(self._order.config)):
                pool.start(slot)
        while not self.lifecycle.stopping or any(self.pools.handles):
            self._turn()

    def _turn(self) -> None:
        """Handle what is ready, then let every part go on."""
        self.reactor.turn(self._timeout())
        now = self.reactor.now
        if self.cluster is not None:
            self.cluster.receive(now)
        self.hub.turn(now)
        if self.cluster is not None:
            self.cluster.turn(now)
        self._place_connections(now)
        if self.lifecycle.running:
            self.changes.step()
        elif self.lifecycle.stopping:
            self.shutdown.proceed(now)
        self.turns.add(time.monotonic() - now)

    def _timeout(self) -> float | None:
        """How long the loop may wait (seconds); None: until something is ready."""
        now = time.monotonic()
        moments = [each for each in (self.hub.notice_due(), self.shutdown.due(now)) if each is not None]
        return max(0.0, min(moments) - now) if moments else None

    def stop(self, why: str) -> None:
        """Begin an orderly stop; asked for again, be quick."""
        if self.lifecycle.stopping:
            soon = time.monotonic() < self._stopped_at + ONE_REQUEST
            if soon and {why, self._stopped_by} == BY_COMMAND:
                return
            log.info("asked again, quick now: %s", why)
            if self._built:
                self.shutdown.hurry(time.monotonic())
            return
        log.info("stopping: %s", why)
        self._stopped_by, self._stopped_at = why, time.monotonic()
        self.lifecycle.state = State.STOPPING
        self._manager.stopping(why)
        if not self._built:
            return
        self.acceptor.close()
        self.changes.cancel("the server was told to stop")
        self.shutdown.begin(time.monotonic())

    # What it is built from, in order.

    def _open(self, guard: Guard, stack: ExitStack) -> RecordKeeper | None:
        """Open the log, the record, the signals and the listeners; ``stack`` closes them.

        Return None if the server was told to stop meanwhile.
        """
        config = self._order.config
        _open_log(config.log_file)
        if guard.alone:
            log.warning("guarded by the lock file alone, another user or container has the kernel's name")
        self._disk = JobThread(self.reactor, "disk")
        stack.callback(self._disk.close, DISK_PATIENCE)
        me = Identity.of(os.getpid())
        record = RecordKeeper(guard.paths.record, me, self.lifecycle.started, self._disk.do)
        record.write()
        stack.callback(record.remove)
        self._terminal = ControllingTerminal()
        signals.watch_signals(self.reactor, stack, config.log_file, self._on_signal)
        listeners = self._take_listeners() or self._listen(config)
        if listeners is None:
            return None
        self.acceptor = Acceptor(self.reactor, listeners, self._on_client)
        self.acceptor.refusals.follow(self._order.config)
        stack.callback(self.acceptor.close)
        record.set_addresses(self.acceptor.addresses)
        return record

    def _take_listeners(self) -> list[socket.socket]:
        """Return the listeners that the service manager has opened, if there are any."""
        listeners = self._manager.take_listeners()
        if listeners:
            self._sockets_stay = True
            log.info("the service manager has opened the sockets: %s", ", ".join(addresses_of(listeners)))
        return listeners

    def _listen(self, config: Config) -> list[socket.socket] | None:
        """Open the listeners. Return None if the server was told to stop meanwhile."""
        lookup = look_up(config.host, config.port)
        if not self._wait(lookup):  # a name server may take minutes
            return None
        try:
            return open_listeners(lookup.result())
        except AddressTakenError as error:
            taken, holder = error, SlowCall(partial(taken_by, error.where))
        if not self._wait(holder):
            return None
        raise holder.result() from taken

    def _wait(self, call: SlowCall[Any]) -> bool:
        """Handle signals until a slow call is done; return False if one told the server to stop."""
        while not call.done and not self.lifecycle.stopping:
            self.reactor.turn(LOOK_AGAIN)
            self._manager.beat(self.reactor.now)
        return not self.lifecycle.stopping

    def _open_shared_log(self, guard: Guard) -> Any:
        """Open the log that several hosts share; None without the setting, or if the server is to stop."""
        config = self._order.config
        if not config.cluster:
            return None
        # Here, because it loads redis-py.
        from mpchat.supervisor.cluster import OpenLog

        opening = SlowCall(partial(OpenLog, config, installation_id(guard.paths.folder)))
        return opening.result() if self._wait(opening) else None

    def _build(self, guard: Guard, record: RecordKeeper, shared: Any, stack: ExitStack) -> None:
        """Make the parts that serve clients and commands; ``stack`` ends them."""
        config = self._order.config
        descriptors = os_process.raise_descriptor_limit()
        certificate = read_certificate(config.tls_cert, config.tls_key) if config.tls_on else None
        target = target_of(config)
        archive, past = _open_history(config, stack)
        if shared is None:
            bans = Path(config.bans or guard.paths.bans)
            self.hub = _make_hub(config, bans, archive, past, self._count_connections)
        else:
            self.hub = shared.hub(config, self._count_connections)
        gate = Gate(self.reactor, config, make_verifiers(config))
        stack.callback(gate.close)
        gate.on_checked, self.hub.proofs.gate = self.hub.proved, gate
        per_worker = connections_per_worker(descriptors, config.multiplexer)
        self.placement = Placement(self.reactor, self.acceptor, self.hub, per_worker)
        questions = WorkerQuestions(self.reactor)
        watch = WorkerWatch(self.reactor, self.hub, self.placement, questions)
        desk = HttpDesk(self._disk.do)
        watch.on_question = desk.take
        observer = PoolObserver(
            self._on_worker_ready, lambda _: record.set_workers(self.pools.identities), self._on_hopeless
        )
        self.pool = WorkerPool(config, self.reactor, self.placement, watch, guard.paths.workers, observer)
        tls_watch = WorkerWatch(self.reactor, NoHub(), self.placement, questions)
        self.tls = TlsPool(config, self.reactor, self.placement, tls_watch, guard.paths.workers, observer)
        self.tls.certificate = certificate
        self.pools = Pools(self.pool, self.tls)
        follow = partial(_follow, self.acceptor, record, archive)
        hook = HookPart(self.hub, config.name)
        followers = Followers(self.acceptor, self.hub, self.placement, self.tls, gate, hook)
        settings = LiveSettings(self._order, descriptors, followers, follow)
        if self._sockets_stay:
            settings.also_fixed = GIVEN
        hook.follow(target)
        stack.callback(lambda: hook.close(settings.config.stop_timeout))
        self.changes = ChangeRunner(self.pool, self.placement, self.reactor, settings)
        self.changes.on_reload_began = self._manager.reloading
        self.changes.on_reload_ended = self._manager.reloaded
        self.admission = Admission(settings, self.hub, self.pool, self.tls, self.placement, self.changes)
        self.placement.admit = self.admission.check
        self.shutdown = Shutdown(settings, self.hub, self.pool, self.tls, self.placement)
        self.shutdown.refuses_nobody = self._sockets_stay
        self.report = StatusReport(
            settings,
            self.lifecycle,
            self.acceptor,
            self.admission,
            self.hub,
            archive,
            self.pool,
            self.tls,
            self.placement,
            self.changes,
            guard.paths.folder,
        )
        self.report.hook = hook
        metrics = MetricsPage(self.reactor, lambda: self.report.figures(self.turns), self.report)
        stack.callback(metrics.close)
        desk.pages[METRICS] = metrics
        self._manager.describe = self.report.line
        refused = RefusedScrapes(self.reactor, metrics, self.admission.is_proxy)
        stack.callback(refused.close)
        self.acceptor.refusals.spare = refused.take
        clients = ClientCommands(self.reactor, self.hub, self.pool, self.placement, questions, self._disk)
        clients.listing.shaking = lambda: self.tls.shaking
        self.hub.on_order = Orders(self.hub, clients).obey
        desk.pages[API] = desk.later(partial(self._make_api, clients, gate))
        if shared is not None:
            self._join_hosts(shared, clients, stack)
        commands = Commands(self.lifecycle, self.stop, record, self.report, self.changes, clients)
        control = _open_control(self.reactor, guard.paths.control, commands)
        stack.callback(control.close)
        stack.callback(self.pools.kill)
        files = OwnFiles(self._disk, guard, record, control, self.pools, clients.follow_moderation_file)
        upkeep = Upkeep(self.reactor, self.lifecycle, self.pools, self.changes, self.hub, files.look)
        upkeep.manager = self._manager
        upkeep.begin()

    def _make_api(self, clients: ClientCommands, gate: Gate) -> Page:
        """Return the HTTP API; in a thread, when it is first asked for."""
        from mpchat.supervisor.api.actions import Actions
        from mpchat.supervisor.api.page import Api

        def config() -> Config:
            return self.report.settings.config

        def is_banned(name: str) -> bool:
            return self.hub.state.moderation.banned_name(name, self.hub.wall())

        return Api(
            Actions(self.reactor, self.hub, clients, self.report.status, config), gate, config, is_banned
        )

    def _join_hosts(self, shared: Any, clients: ClientCommands, stack: ExitStack) -> None:
        """Take part in the chat of several hosts."""
        from mpchat.supervisor.cluster import Cluster

        cluster = Cluster(self.reactor, shared, self._order.config)
        stack.callback(cluster.close)
        cluster.membership.count = lambda: (self.pool.connections, self._plain_speakers)
        cluster.on_serving, cluster.on_hopeless = self._on_worker_ready, self._on_hopeless
        self.hub.delivery.on_kick = clients.follow_kick
        self.changes.hindrance = lambda: cluster.away
        self.cluster = self.report.cluster = clients.cluster = self.shutdown.cluster = cluster
        cluster.begin()

    @property
    def _plain_speakers(self) -> int:
        """Plain clients that have said something: their leaving is told."""
        speakers = sum(each.connections.speakers for each in self.pool.handles)
        return max(0, speakers - self.hub.delivery.recipients)

    def _count_connections(self) -> int:
        return self.pool.connections

    def _log_stopped(self) -> None:
        if self.lifecycle.stopping:
            log.info("stopped after %.1f s: %s", self.lifecycle.uptime, self._order.config.name)
            logs.drain(LOG_PATIENCE)

    # What the parts report.

    def _on_client(self, sock: socket.socket, host: str, port: int) -> None:
        refusal = self.admission.check(host)
        if refusal is not None:
            self.acceptor.refuse(sock, refusal)
        else:
            self.placement.enter(sock, host, port, proxied=self.admission.is_proxy(host))

    def _place_connections(self, now: float) -> None:
        """Send connections to workers; accept further clients when none waits for a worker."""
        if self.placement:
            self.placement.place_for_tls(self.tls.serving, now, self.tls.patience)
            self.placement.place(self.pool.serving, now, self.pool.leaving)
            if surplus := self.admission.surplus:
                self.placement.refuse(self.admission.full, surplus)
        if self.lifecycle.running and not self.placement.holds_up:
            self.acceptor.open()

    def _on_worker_ready(self) -> None:
        serving = all(len(pool.serving) == len(pool) for pool in (self.pool, self.tls))
        if self.cluster is not None and not self.cluster.serves:
            return
        if self.lifecycle.state is State.STARTING and serving:
            self.lifecycle.state = State.RUNNING
            self.pool.phase = self.tls.phase = Phase.SERVING
            workers = f"{len(self.pool)} worker{'s' if len(self.pool) != 1 else ''}"
            log.info("ready: %s at %s", workers, ", ".join(self.acceptor.addresses))
            self.acceptor.open()
            self._manager.ready()
            facts = self.report.start_facts()
            _warn_of_memory(self.report.settings.config, facts)
            self._on_ready(facts)

    def _on_hopeless(self, why: str) -> None:
        """Stop: the server cannot start."""
        log_file = self.report.settings.config.log_file
        self.lifecycle.fail(f"{why}; see {log_file}" if log_file else why)
        self.stop(why)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signals.CHILD:
            orphans.reap()
        elif number in signals.STOP:
            self.stop(f"signal {number.name}")
        elif number == signals.HANGUP:
            self._on_hangup()
        elif not self._built:
            log.info("ignored, the server is just starting: signal %s", number.name)
        elif number in (signals.MORE, signals.FEWER):
            self.changes.scale_by(1 if number == signals.MORE else -1)
        elif number in signals.PASSED_ON:
            self.pools.pass_on(number)

    def _on_hangup(self) -> None:
        """Reload, unless the signal says that the terminal was closed."""
        if not self._terminal.closed_now():
            if self._built:
                self.changes.reload_later()
        elif self._terminal.decides:
            self.stop("its terminal was closed")
        else:
            log.info("its terminal was closed, serving on: SIGHUP was ignored at the start")


def _open_log(path: str) -> None:
    """Write to the log from now on; not before the lock is held, or a second start would write to it."""
    if path:
        try:
            logs.point_at(path)
        except OSError as error:
            raise StartError(f"cannot write the log {path}: {error.strerror}; see --log-file") from None


def _open_history(config: Config, stack: ExitStack) -> tuple[Archive | None, Past | None]:
    """Open the history file, if one is set, and return its keeper and what it holds; ``stack`` closes it."""
    if not config.history:
        return None, None
    kept = limits_of(config).kept
    archive = Archive(config.history, messages=kept.messages, age=kept.age)
    past = archive.open()
    stack.callback(archive.close, HISTORY_PATIENCE)
    return archive, past


def _warn_of_memory(config: Config, facts: StartFacts) -> None:
    """Say in the log where a control group allows less memory than the settings: the kernel kills then."""
    limit = memory_limit()
    short = shortage(bounds(config, facts.workers, facts.fits), limit) if limit.is_groups else None
    if short is not None:
        log.warning("memory: %s", short)


def _follow(acceptor: Acceptor, record: RecordKeeper, archive: Archive | None, config: Config) -> None:
    """Let the record and the history file follow the settings that hold now."""
    record.set_addresses(acceptor.addresses)
    if archive is not None:
        kept = limits_of(config).kept
        archive.change_limits(messages=kept.messages, age=kept.age)


def _make_hub(
    config: Config, bans: Path, archive: Archive | None, past: Past | None, connections: Callable[[], int]
) -> Hub:
    """Return a hub that goes on from the history and from the bans kept in a file."""
    # In the instance's own folder no other user writes.
    check = partial(check_own_file, bans, public=True) if config.bans else trusted
    moderation = ModerationKeeper(bans, check)
    hub = Hub(
        limits_of(config),
        notices=config.notices,
        past=past,
        moderation=moderation,
        on_run=archive.save if archive else None,
        connections=connections,
    )
    hub.delivery.on_forget = archive.forget if archive else None
    hub.delivery.on_numbered = archive.number if archive else None
    return hub


def _open_control(reactor: Reactor, path: Path, commands: Commands) -> Server:
    try:
        return Server(reactor, path, AuditedCommands(os.geteuid(), commands.handle).handle)
    except OSError as error:
        raise StartError(f"cannot listen at {path}: {error.strerror}") from None
