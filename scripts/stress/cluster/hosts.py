"""The hosts of a run, their Redis, and which of them a fault holds; what they say of themselves, compared.

Faults work in threads of their own, one host at a time; :meth:`Hosts.take` and :meth:`Hosts.release` belong
to the thread of the run. The rule: a host starts only while Redis is there, since a start without Redis fails
rightly.
"""

import json
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from scripts.common.address import Address
from scripts.common.server import OK, HarnessError, Server
from scripts.stress.cluster.redis_server import RedisServer

# Seconds for a host to take part again once it can.
BACK_TIMEOUT = 30.0
# Seconds for all hosts to agree once the clients are quiet.
AGREE_TIMEOUT = 10.0
# Seconds between two looks at hosts.
LOOK_EVERY = 0.1
# Seconds after a fault in which clients may still learn that their connection has ended.
GRACE = 2.0
# What the status calls a host that takes part.
MEMBER = "member"
# A part of what a start says whose link to Redis is cut.
NO_REDIS = "cannot be reached"
# Events that are reported in words; a run of minutes has some hundred.
MAX_EVENTS = 200


class Ended(NamedTuple):
    """From a client process: a connection that its host or the network has ended."""

    host: int
    at: float  # seconds, monotonic: all processes of a machine share that clock
    text: str


@dataclass(eq=False)
class Host:
    """One host: its server, and the times in which it may end connections."""

    number: int
    server: Server
    living: bool = False  # it accepts clients, or will when it is continued
    fault: str = ""  # that holds it
    # Until when it may lack its lease because its link is silent (seconds, monotonic).
    silent_until: float = 0.0
    # From when until when a fault made it end connections (seconds, monotonic).
    windows: list[tuple[float, float]] = field(default_factory=list)
    suspended: list[psutil.Process] = field(default_factory=list)

    def is_well(self, now: float) -> bool:
        """Say whether no fault holds it, and none has taken its lease."""
        return not self.fault and now >= self.silent_until

    def resume(self) -> None:
        """Continue the processes that were stopped."""
        stopped, self.suspended = self.suspended, []
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    @contextmanager
    def may_end_connections(self, settle: float = 0.0) -> Iterator[None]:
        """Excuse ended connections from now until ``settle`` seconds after the block."""
        begin = time.monotonic()
        self.windows.append((begin, float("inf")))
        try:
            yield
        finally:
            self.windows[self.windows.index((begin, float("inf")))] = (
                begin,
                time.monotonic() + settle + GRACE,
            )

    def excuses(self, at: float) -> bool:
        """Say whether a connection that ended at ``at`` was ended by a fault."""
        return any(begin <= at <= end for begin, end in self.windows)


class Hosts:
    """All hosts of a run."""

    def __init__(self, servers: list[Server], redis: RedisServer | None, lease: float) -> None:
        """Take the hosts' servers, not started yet; without ``redis`` there is one."""
        self.all = [Host(number, server) for number, server in enumerate(servers)]
        self.redis = redis
        self.lease = lease
        self.redis_there = threading.Lock()  # held by a start of a host, or by a fault of Redis
        self.closing = threading.Event()
        self.news: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()  # commands for the clients
        self.events: list[str] = []
        self._begin = time.monotonic()

    # Starting and ending.

    def start(self) -> None:
        """Start the hosts one by one; Redis is there."""
        for host in self.all:
            self.start_host(host)
        for host in self.all:
            self.wait_for_member(host)
        while not self.news.empty():
            self.news.get()  # clients that start now know all hosts

    def start_host(self, host: Host) -> None:
        """Start one host while Redis is there; when its link is cut meanwhile, start it again."""
        with self.redis_there:
            deadline = time.monotonic() + BACK_TIMEOUT
            while not self.closing.is_set():
                try:
                    host.server.start()
                except HarnessError as error:
                    if NO_REDIS not in str(error) or time.monotonic() > deadline:
                        raise
                    self.note(f"{host.server.name} did not reach Redis at its start")
                    continue
                host.living = True
                self.tell_clients()
                return

    def stop(self) -> list[str]:
        """Stop the hosts in order; return what is left of them, in words."""
        left = []
        for host in self.all:
            if host.living and host.server.pid:
                left += [f"{host.server.name}: {text}" for text in host.server.stop()]
        return left

    def close(self) -> None:
        """Kill all that is left."""
        self.closing.set()
        for host in self.all:
            host.resume()
            host.server.end()  # also one whose start has failed in the middle

    # Which are there.

    def addresses(self) -> tuple[Address | None, ...]:
        """Return where each host listens; None: it does not."""
        return tuple(host.server.address if host.living else None for host in self.all)

    def tell_clients(self) -> None:
        """Let the client processes know which hosts are there."""
        self.news.put(("hosts", self.addresses()))

    def take(self, chooser: random.Random, fault: str, *, spare: bool) -> Host | None:
        """Hold a random host for a fault; with ``spare`` another one must be left that is well."""
        now = time.monotonic()
        free = [host for host in self.all if not host.fault]
        if spare and len(self.all) > 1:
            free = [host for host in free if any(each.is_well(now) for each in self.all if each is not host)]
        if not free:
            return None
        host = chooser.choice(free)
        host.fault = fault
        return host

    @staticmethod
    def release(host: Host) -> None:
        """Give a host back."""
        host.fault = ""

    def note(self, text: str) -> None:
        """Note what happened, with the time since the beginning."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(f"{time.monotonic() - self._begin:.1f} s: {text}")

    # What they say.

    def epoch(self, host: Host) -> int | None:
        """Return the number of a host's registration; None: it has none."""
        cluster = host.server.look().get("cluster") or {}
        epoch: int | None = cluster.get("epoch")
        return epoch

    def is_member(self, host: Host) -> bool:
        """Say whether a host takes part; one that is alone always does."""
        try:
            status = host.server.look()
        except HarnessError:
            return False
        return self.redis is None or (status.get("cluster") or {}).get("state") == MEMBER

    def wait_for_member(self, host: Host, seconds: float = BACK_TIMEOUT) -> None:
        """Wait until a host takes part; time in which Redis is away does not count. Raise HarnessError."""
        spent = 0.0
        while spent < seconds and not self.closing.is_set():
            with self.redis_there:
                begin = time.monotonic()
                if self.is_member(host):
                    return
                spent += time.monotonic() - begin
            self.closing.wait(LOOK_EVERY)
            spent += LOOK_EVERY
        if not self.closing.is_set():
            raise HarnessError(f"{host.server.name} did not take part again within {seconds:.0f} s")

    def wait_for_members(self, seconds: float = BACK_TIMEOUT) -> float:
        """Wait until all hosts that no fault holds take part and agree; return how many seconds it took."""
        begin = time.monotonic()
        wrong: list[str] = []
        while time.monotonic() - begin < seconds and not self.closing.is_set():
            wrong = self.disagreements(host for host in self.all if not host.fault)
            if not wrong:
                return time.monotonic() - begin
            self.closing.wait(LOOK_EVERY)
        if not self.closing.is_set():
            raise HarnessError(f"hosts were not equal after {seconds:.0f} s: {wrong[0]}")
        return 0.0

    def disagreements(self, hosts: Iterable[Host], *, still: bool = False) -> list[str]:
        """Say in words where the statuses of hosts differ; ``still``: no messages are under way."""
        statuses = {}
        for host in hosts:
            try:
                statuses[host.server.name] = host.server.look()
            except HarnessError as error:
                return [f"{host.server.name}: {error}"]
        return differences(statuses, still=still) if self.redis is not None else []

    def wait_for_agreement(self) -> list[str]:
        """Wait until all hosts agree; return where they still do not when patience ends, in words."""
        deadline = time.monotonic() + AGREE_TIMEOUT
        while (wrong := self.disagreements(self.all, still=True)) and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY)
        return wrong

    def reports(self) -> dict[str, dict[str, Any]]:
        """Return what each host says of itself, by name."""
        found: dict[str, dict[str, Any]] = {}
        for host in self.all:
            status = host.server.look()
            cluster = status.get("cluster") or {}
            shown = {name: cluster[name] for name in ("state", "epoch", "position", "lag") if name in cluster}
            found[host.server.name] = shown | {name: status[name] for name in ("people", "messages")}
        return found

    def listed(self) -> list[str]:
        """Compare what ``mpchat hosts --json`` prints on each host; return differences in words."""
        answers = {}
        for host in self.all:
            done = host.server.command("hosts", "--json")
            if done.returncode != OK:
                return [f"mpchat hosts: exit {done.returncode}: {done.stderr.strip()}"]
            answers[host.server.name] = json.loads(done.stdout)["hosts"]
        return list_differences(answers)


def differences(statuses: dict[str, dict[str, Any]], *, still: bool) -> list[str]:
    """Say in words where statuses, by host, describe no common chat; ``still``: no messages are under way."""
    wrong = []
    for name, status in statuses.items():
        state = (status.get("cluster") or {}).get("state")
        if state != MEMBER:
            wrong.append(f"{name} is {state}")
    for key in ("people", "rooms", "messages") if still else ():
        values = {name: status[key] for name, status in statuses.items()}
        if len(set(values.values())) > 1:
            wrong.append(f"{key} differ: {values}")
    if not wrong:
        wrong = list_differences({name: status["cluster"]["hosts"] for name, status in statuses.items()})
    return wrong


def list_differences(lists: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Say in words where lists of hosts, by the host that gave them, do not name the same hosts."""
    wrong = []
    living = {name: sorted((each["name"], each["epoch"]) for each in hosts) for name, hosts in lists.items()}
    if any(each != next(iter(living.values())) for each in living.values()):
        wrong.append(f"hosts differ: {living}")
    for name, hosts in living.items():
        names = [each for each, _ in hosts]
        if missing := set(lists) - set(names):
            wrong.append(f"{name} does not list {sorted(missing)}")
        if len(names) != len(set(names)):
            wrong.append(f"{name} lists a host twice: {names}")
    return wrong


def folder_of(folder: Path, number: int) -> Path:
    """Return the runtime folder of a host, made."""
    made = folder / f"host{number}"
    made.mkdir(mode=0o700, exist_ok=True)
    return made
