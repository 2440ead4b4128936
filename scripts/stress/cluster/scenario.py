"""The scenario of several hosts: what is started, what is done to it, and what must be equal at the end."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import click

from scripts.common.server import Server
from scripts.stress.cluster import stays
from scripts.stress.cluster.clients import Epochs, HostsLoop, HostsPlan, HostsReport
from scripts.stress.cluster.conversation import Edges
from scripts.stress.cluster.host_faults import (
    ChangeHosts,
    HostFault,
    KillHosts,
    RandomFault,
    RestartHosts,
    StopHosts,
)
from scripts.stress.cluster.hosts import Ended, Hosts, folder_of
from scripts.stress.cluster.plain import PlainHostsLoop, PlainHostsPlan, PlainHostsReport
from scripts.stress.cluster.redis_faults import EQUAL_WITHIN, EmptyRedis, KillRedis, Relays, StopRedis
from scripts.stress.cluster.redis_server import RedisServer, free_port
from scripts.stress.engine import FAULTS_PART, LISTEN_GRACE, Run
from scripts.stress.faults import Fault
from scripts.stress.fleet import ClientProcess
from scripts.stress.members.clients import Census, MembersReport
from scripts.stress.members.scenario import HISTORY, Cuts, MembersOptions, MembersScenario
from scripts.stress.options import option

# Members change hosts on their own about once in so many seconds.
ROAM_EVERY = 10.0
# The part of all messages that plain clients send.
PLAIN_PART = 0.1
# Seconds around the return of an empty Redis in which private messages may have been lost with the old log.
UNCERTAIN = 10.0


@dataclass(frozen=True, kw_only=True)
class HostsOptions(MembersOptions):
    """The options of several hosts."""

    hosts: int = option(3, "Hosts.", click.IntRange(1, 16))
    members: int = option(60, "Members, over all hosts together.", click.IntRange(4, 5000))
    plain: int = option(6, "Plain clients, each of which stays with its host.", click.IntRange(0, 500))
    rate: float = option(100.0, "Actions a second, of all members together.", click.FloatRange(1))
    rooms: int = option(8, "Rooms.", click.IntRange(1, 1000))
    cuts: int = option(0, "As --roam, but so many changes of hosts.", click.IntRange(0))
    name_hold: float = option(30.0, "Seconds that the hosts hold names.", click.FloatRange(1))
    lease: float = option(2.0, "Seconds of a host's lease.", click.FloatRange(1, 600))
    appendfsync: str = option(
        "everysec", "When Redis syncs its file.", click.Choice(["everysec", "always", "no"])
    )
    alone: bool = option(False, "One host without Redis.")
    fault_every: float = option(5.0, "Seconds between two faults of one kind.", click.FloatRange(0.5))
    kill_hosts: bool = option(False, "kill -9 of all processes of a host; it starts again.")
    stop_hosts: bool = option(False, "SIGSTOP of all processes of a host for longer than its lease.")
    restart: bool = option(False, "Stop a host in order and start it again.")
    redis_stop: float = option(0.0, "SIGSTOP of Redis for so many seconds.", click.FloatRange(0))
    redis_kill: bool = option(False, "kill -9 of Redis; it starts again with its file.")
    redis_empty: bool = option(False, "kill -9 of Redis; it starts again without its file.")
    cut: bool = option(False, "Cut links to Redis in the middle of appends and reads; lose answers.")
    roam: bool = option(False, "Members change hosts at random.")

    @property
    def wanted_cuts(self) -> int:
        """How many times members change hosts on their own, in the phase with faults."""
        return self.cuts or (int(self.members * self.seconds * FAULTS_PART / ROAM_EVERY) if self.roam else 0)

    @property
    def may_rewind(self) -> bool:
        """Say whether Redis may lose what was shown."""
        return self.redis_empty or (self.redis_kill and self.appendfsync != "always")

    @property
    def any_fault(self) -> bool:
        """Say whether there is a phase with faults."""
        hosts = self.kill_hosts or self.stop_hosts or self.restart or self.reload or self.scale
        return hosts or self.any_redis_fault or self.wanted_cuts > 0

    @property
    def any_redis_fault(self) -> bool:
        """Say whether Redis or a link to it is harmed."""
        return bool(self.redis_stop) or self.redis_kill or self.redis_empty or self.cut

    def check(self) -> None:
        """Raise click.UsageError for options that do not go together."""
        super().check()
        if self.alone and (self.kill_hosts or self.restart or self.any_redis_fault):
            raise click.UsageError("--alone: no other host keeps the chat, and there is no Redis to harm")


class HostsScenario(MembersScenario):
    """Several hosts, one chat.

    A real redis-server and several mpchat instances that share it. Members are spread over all hosts; one
    that loses its connection comes again at a random living host, with name, token, epoch and number. Plain
    clients stay with their hosts. All that is received is compared over all hosts, and at the end what the
    hosts say of themselves.
    """

    options_type = HostsOptions
    own_servers = True
    unused = (
        *("address", "connections", "kill_workers", "kill_every", "reloads", "scalings", "scale_most"),
        *("disconnect_storm", "storm_clients", "start_storm", "starts", "rounds"),
    )

    def __init__(self, run: Run) -> None:
        """Prepare for ``run``."""
        super().__init__(run)
        assert isinstance(run.options, HostsOptions)
        self.hosts_options = options = run.options
        self.rounds = 1 if options.alone else options.hosts
        patience = options.patience + options.redis_stop
        self.quiet_timeout = 2 * patience
        self._patience = patience
        self._redis = None if options.alone else RedisServer(run.folder / "redis", options.appendfsync)
        self._relays: Relays | None = None
        self.hosts = Hosts([], self._redis, options.lease)
        self._ended: list[Ended] = []
        self._edges: Edges = {}
        self._stays: list[stays.Stay] = []
        self._epochs: dict[ClientProcess, Counter[str]] = {}
        self._emptied: list[float] = []  # seconds since 1970
        self._old: set[str] = set()  # epochs from before Redis came back empty, while members know them
        self._founded = 0.0  # when Redis was back (monotonic)
        self._told: list[float] = []  # seconds until all members knew the new epoch

    # Servers.

    def set_up(self) -> None:
        """Start Redis, relays and hosts."""
        options, redis = self.hosts_options, self._redis
        ports = []
        if redis is not None:
            redis.start()
            ports = [redis.port] * options.hosts
            if options.cut:
                self._relays = Relays(redis, options.hosts, options.seed, options.fault_every, options.lease)
                ports = self._relays.ports
        names = range(1 if options.alone else options.hosts)
        self.hosts = Hosts(
            [self._server(each, ports[each] if ports else 0) for each in names], redis, options.lease
        )
        if self._relays is not None:
            self._relays.hosts = self.hosts.all
        self.hosts.start()

    def _server(self, number: int, redis_port: int) -> Server:
        options, folder = self.hosts_options, self.run.folder
        name = f"host{number + 1}"
        flags = [*self.server_options(options, folder), "--listen-grace", f"{LISTEN_GRACE:g}s"]
        if redis_port:
            flags += ["--cluster", f"redis://127.0.0.1:{redis_port}", "--host-name", name]
            flags += ["--cluster-lease", f"{options.lease:g}s"]
        log = folder / f"{name}.log"
        if options.server_log:
            log = type(log)(f"{options.server_log}.{name}")
        own = folder_of(folder, number + 1)
        return Server(own, name, options.workers, log, tuple(flags), free_port())

    def take_down(self) -> list[str]:
        """Stop the hosts in order."""
        return self.hosts.stop()

    def close(self) -> None:
        """Kill what is left."""
        self.hosts.closing.set()
        for fault in self.run.faults.values():
            if isinstance(fault, RandomFault):
                fault.abandon()
        try:
            self.hosts.close()
        finally:
            if self._redis is not None:
                self._redis.kill()
            if self._relays is not None:
                self._relays.close()

    # Clients.

    def start(self) -> list[ClientProcess]:
        """Start the members and the plain clients."""
        options = self.hosts_options
        for number in range(options.processes):
            members = _share(options.members, options.processes, number)
            cuts = _share(options.wanted_cuts, options.processes, number)
            rate = options.rate / options.processes
            self.members.append(self.start_members("members", members, rate, cuts))
        if not options.plain:
            return self.members
        rate = options.rate * PLAIN_PART
        plan = PlainHostsPlan(
            **self.run.plan("plain", options.plain, rate),
            hosts=self.hosts.addresses(),
        )
        return [*self.members, self.run.start(PlainHostsLoop, plan)]

    def start_members(self, kind: str, connections: int, rate: float = 0.0, cuts: int = 0) -> ClientProcess:
        """Start a process of members."""
        options = self.hosts_options
        plan = HostsPlan(
            **self.run.plan(kind, connections, rate),
            rooms=options.rooms,
            cuts=cuts,
            hold=options.name_hold,
            patience=self._patience,
            websockets=options.websockets,
            hosts=self.hosts.addresses(),
            kept=HISTORY,
            may_rewind=options.may_rewind,
        )
        return self.run.start(HostsLoop, plan)

    # Faults.

    def faults(self) -> dict[str, Fault]:
        """Return the faults that were asked for."""
        options = self.hosts_options
        kinds: list[tuple[str, bool, type[HostFault]]] = [
            ("kill-hosts", options.kill_hosts, KillHosts),
            ("stop-hosts", options.stop_hosts, StopHosts),
            ("restart", options.restart, RestartHosts),
            ("reload", options.reload, ChangeHosts),
            ("scale", options.scale, ChangeHosts),
        ]
        faults: dict[str, Fault] = {
            name: kind(self.hosts, name, options.seed, options.fault_every)
            for name, wanted, kind in kinds
            if wanted
        }
        if self._redis is not None:
            faults |= self._redis_faults(self._redis)
        if options.wanted_cuts:
            faults["roam"] = Cuts(self.members, options.wanted_cuts)
        return faults

    def _redis_faults(self, redis: RedisServer) -> dict[str, Fault]:
        options, hosts = self.hosts_options, self.hosts
        seed, every = options.seed, options.fault_every
        faults: dict[str, Fault] = {}
        if options.redis_stop:
            faults["redis-stop"] = StopRedis(hosts, redis, seed, every, options.redis_stop)
        if options.redis_kill:
            faults["redis-kill"] = KillRedis(hosts, redis, "redis-kill", seed, every)
        if options.redis_empty:
            faults["redis-empty"] = EmptyRedis(hosts, redis, "redis-empty", seed, 2 * every)
        if self._relays is not None:
            faults["cut"] = self._relays
        return faults

    # What is reported.

    def hear(self, process: ClientProcess, said: object) -> None:
        """Take what a process heard."""
        if isinstance(said, Ended):
            self._ended.append(said)
        elif isinstance(said, Epochs):
            self._epochs[process] = said.known
            self._look_at_epochs()
        elif isinstance(said, PlainHostsReport):
            self._stays += said.stays
        elif isinstance(said, HostsReport):
            self._compare_edges(process.plan.name, said.edges)
        if isinstance(said, Census | MembersReport):
            super().hear(process, said)

    def step(self, now: float) -> None:
        """Tell the clients which hosts are there, and what happened to Redis."""
        while not self.hosts.news.empty():
            verb, *args = self.hosts.news.get()
            if verb == "emptied":
                self._emptied.append(time.time())
                self._old |= self._current()
            elif verb == "founded":
                self._founded = args[0]
                self._look_at_epochs()
                continue
            self.run.fleet.tell(self.run.fleet.processes, verb, *args)

    def _current(self) -> set[str]:
        return {epoch for known in self._epochs.values() for epoch in known if epoch}

    def _look_at_epochs(self) -> None:
        """Note when all members have learned of the new epoch."""
        if self._founded and self._old and not self._current() & self._old:
            self._told.append(time.monotonic() - self._founded)
            self._old, self._founded = set(), 0.0

    def _compare_edges(self, name: str, edges: Edges) -> None:
        for place, first in edges.items():
            known = self._edges.setdefault(place, first)
            if known != first:
                text = f"{name}: at {place[1:]} {first} was the first left; to others {known}"
                self.run.findings.note("differing", text)

    # The end.

    def is_current(self, epoch: str) -> bool:
        """Say whether members know an epoch at the end."""
        return epoch in self._current()

    def before_leaving(self, processes: list[ClientProcess]) -> tuple[Any, ...]:
        """Compare the members' accounts by each host's answers, then what the hosts say of themselves."""
        super().before_leaving(processes)
        verdict = self.run.verdict
        verdict.reasons += self.hosts.wait_for_agreement()
        verdict.hosts = self.hosts.reports()
        if len(current := self._current()) != 1:
            self.run.findings.note("differing", f"members know {len(current)} epochs: {sorted(current)}")
        if self._redis is not None:
            verdict.reasons += self.hosts.listed()
            verdict.hosts["redis"] = dict(self._redis.info())
        return ()

    def judge(self, whole: bool) -> None:
        """Compare rooms, private messages, plain clients, and ends of connections."""
        findings, verdict = self.run.findings, self.run.verdict
        self._excuse_private()
        super().judge(whole)
        known = stays.places(self.ledger)
        compared = sum(stays.judge(each, known, findings) for each in self._stays)
        verdict.counts.update(plain_compared=compared)
        excused = [each for each in self._ended if self._excuses(each)]
        verdict.died += len(excused)
        verdict.dropped += [each.text for each in self._ended if each not in excused]
        if self._old:
            verdict.reasons.append("members were not told that Redis came back empty")
        if self._told:
            verdict.faults["told of a new epoch"] = {"seconds": [round(each, 2) for each in self._told]}
        if late := [each for each in self._told if each > EQUAL_WITHIN]:
            verdict.reasons.append(f"members were told of the new epoch after {max(late):.1f} s")
        if self.hosts.events:
            verdict.faults["timeline"] = {"events": self.hosts.events}

    def _excuses(self, ended: Ended) -> bool:
        around = [at - time.time() + time.monotonic() for at in self._emptied]
        if any(at <= ended.at <= at + UNCERTAIN for at in around):
            return True
        return self.hosts.all[ended.host].excuses(ended.at)

    def _excuse_private(self) -> None:
        """Leave out private messages that were said when Redis came back empty: they may be lost with it."""
        self.mailbox.told = [
            told
            for told in self.mailbox.told
            if not any(at - UNCERTAIN < told.at < at + UNCERTAIN for at in self._emptied)
        ]


def _share(whole: int, parts: int, number: int) -> int:
    """Return part ``number`` of a whole that is divided as evenly as possible."""
    return whole // parts + (number < whole % parts)
