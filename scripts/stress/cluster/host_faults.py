"""Faults of hosts: killed, stopped past their lease, stopped in order and started, reloaded, scaled.

Each fault takes one host at a time, at random moments, and works on it in a thread of its own, since a start
takes seconds. A fault of hosts holds back from a host that another one holds.
"""

import json
import random
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from scripts.common.server import OK, HarnessError
from scripts.stress.changes import CHANGE_TIMEOUT, RESTORE_TIMEOUT
from scripts.stress.cluster.hosts import LOOK_EVERY, Host, Hosts
from scripts.stress.faults import Fault

# Seconds that a host is stopped, in leases: past its end, in any case.
STOPPED_LEASES = (1.5, 3.0)
# Seconds that a killed host stays away, in leases: sometimes it is back before its lease has ended.
KILLED_LEASES = (0.0, 2.0)
# Workers of a host after a scaling, at most.
MOST_WORKERS = 4
# A part of the answer of a host that cannot reach Redis now. And seconds until it is asked again.
REFUSED = "clients cannot be moved now"
ASK_AGAIN = 0.2
# Failures that are reported in words; all are counted.
MAX_WRONG = 10


class RandomFault(Fault):
    """A fault that does something again and again, at random moments, in a thread of its own."""

    def __init__(self, hosts: Hosts, name: str, seed: int | None, every: float) -> None:
        """Do it about each ``every`` seconds."""
        self.hosts = hosts
        self.name = name
        self.chooser = random.Random(f"{seed}:{name}")
        self.every = every
        self.did = 0
        self.times: list[float] = []  # seconds until all was well again, after each
        self.wrong: list[str] = []
        self._next = time.monotonic() + self.chooser.uniform(0, every / 2)
        self._doing: Future[float] | None = None
        self._pool = ThreadPoolExecutor(1, self.name)

    def begin(self) -> "Callable[[], float] | None":
        """Return what is to be done in the thread, with all choices made; None: not possible now."""
        raise NotImplementedError

    def finished(self) -> None:
        """Give back what :meth:`begin` took."""

    def step(self, now: float) -> None:
        """Begin when it is time; take note of what has ended."""
        if self._doing is not None:
            if self._doing.done():
                self._take_result(self._doing)
        elif now >= self._next and (work := self.begin()) is not None:
            self._doing = self._pool.submit(work)

    def end(self) -> None:
        """Wait for what is under way."""
        if self._doing is not None:
            self._take_result(self._doing)
        self._pool.shutdown()

    def abandon(self) -> None:
        """Wait for what is under way and forget it; the hosts are being closed."""
        self._pool.shutdown(cancel_futures=True)

    def done(self) -> bool:
        """Say whether it was done at least once."""
        return self.did > 0 or bool(self.wrong)

    def facts(self) -> dict[str, Any]:
        """Return how often it was done, and the longest time until all was well again, in seconds."""
        longest = max(self.times, default=0.0)
        return {"did": self.did, "longest": round(longest, 2), "wrong": self.wrong[:MAX_WRONG]}

    def reasons(self, killing: bool) -> list[str]:
        """Return what went wrong."""
        missing = [] if self.done() else [f"{self.name}: never done"]
        return [f"{self.name}: {text}" for text in self.wrong] + missing

    def _take_result(self, doing: "Future[float]") -> None:
        self._doing = None
        try:
            self.times.append(doing.result())
            self.did += 1
        except HarnessError as error:
            self.wrong.append(str(error))
        self.finished()
        self._next = time.monotonic() + self.chooser.uniform(0.5, 1.5) * self.every


class HostFault(RandomFault):
    """A fault of one host at a time."""

    spare = True  # another host must be left that is well

    def __init__(self, hosts: Hosts, name: str, seed: int | None, every: float) -> None:
        """Do it about each ``every`` seconds."""
        super().__init__(hosts, name, seed, every)
        self._host: Host | None = None

    def begin(self) -> "Callable[[], float] | None":
        """Hold a host."""
        host = self._host = self.hosts.take(self.chooser, self.name, spare=self.spare)
        return None if host is None else self.work_on(host)

    def finished(self) -> None:
        """Release the host."""
        if self._host is not None:
            self.hosts.release(self._host)

    def work_on(self, host: Host) -> "Callable[[], float]":
        """Return what is to be done with ``host`` in the thread; it returns seconds."""
        raise NotImplementedError

    def note(self, host: Host, text: str) -> None:
        """Note what happens to a host."""
        self.hosts.note(f"{host.server.name} {text}")


class KillHosts(HostFault):
    """Kills all processes of a host, and starts it again."""

    def work_on(self, host: Host) -> "Callable[[], float]":
        """Choose how long it stays away."""
        away = self.chooser.uniform(*KILLED_LEASES) * self.hosts.lease

        def work() -> float:
            with host.may_end_connections():
                self.note(host, f"killed for {away:.1f} s")
                host.living = False
                host.server.kill()
                self.hosts.tell_clients()
                self.hosts.closing.wait(away)
                begin = time.monotonic()
                self.hosts.start_host(host)
            self.hosts.wait_for_member(host)
            self.note(host, "started again")
            return time.monotonic() - begin

        return work


class RestartHosts(HostFault):
    """Stops a host in order, and starts it again."""

    def work_on(self, host: Host) -> "Callable[[], float]":
        """Stop with Redis there: a host without Redis cannot hand over."""

        def work() -> float:
            begin = time.monotonic()
            with host.may_end_connections():
                self.note(host, "stopped in order")
                host.living = False
                self.hosts.tell_clients()
                with self.hosts.redis_there:
                    left = host.server.stop()
                self.hosts.start_host(host)
            self.hosts.wait_for_member(host)
            self.note(host, "started again")
            if left:
                raise HarnessError(f"{host.server.name}: {left[0]}")
            return time.monotonic() - begin

        return work


class StopHosts(HostFault):
    """Stops (SIGSTOP) all processes of a host for longer than its lease, and continues them."""

    def __init__(self, hosts: Hosts, name: str, seed: int | None, every: float) -> None:
        """Do it about each ``every`` seconds."""
        super().__init__(hosts, name, seed, every)
        self.fenced = 0

    def work_on(self, host: Host) -> "Callable[[], float]":
        """Choose how long it is stopped."""
        length = self.chooser.uniform(*STOPPED_LEASES) * self.hosts.lease

        def work() -> float:
            before = self.hosts.epoch(host)
            # Afterwards it finds that its members have come elsewhere, and ends their connections.
            with host.may_end_connections(settle=self.hosts.lease):
                self.note(host, f"suspended for {length:.1f} s")
                host.suspended = host.server.suspend()
                try:
                    self.hosts.closing.wait(length)
                finally:
                    host.resume()
                begin = time.monotonic()
                # At first it does not know that its lease is over.
                while time.monotonic() - begin < self.hosts.lease and self.hosts.epoch(host) == before:
                    self.hosts.closing.wait(LOOK_EVERY)
                self.hosts.wait_for_member(host)
            after = self.hosts.epoch(host)
            self.note(host, f"is back, epoch {after}, {before} before")
            self.fenced += after != before
            return time.monotonic() - begin

        return work

    def facts(self) -> dict[str, Any]:
        """Return also how often the host came back under a new epoch."""
        return super().facts() | {"fenced": self.fenced}

    def reasons(self, killing: bool) -> list[str]:
        """Report when no host was fenced: then nothing was shown."""
        idle = [f"{self.name}: no host lost its lease"] if self.did and not self.fenced else []
        return super().reasons(killing) + (idle if self.hosts.redis is not None else [])


class ChangeHosts(HostFault):
    """Reloads a host, or changes the number of its workers: no client may notice."""

    spare = False

    def __init__(self, hosts: Hosts, name: str, seed: int | None, every: float) -> None:
        """Do it about each ``every`` seconds; ``name`` is the command, ``reload`` or ``scale``."""
        super().__init__(hosts, name, seed, every)
        self.moved = self.refused = 0

    def work_on(self, host: Host) -> "Callable[[], float]":
        """Let the command do it."""

        def work() -> float:
            begin = time.monotonic()
            flags = ["--json"]
            if self.name == "scale":
                now = len(host.server.look()["workers"])
                flags.append(str(self.chooser.choice([n for n in range(1, MOST_WORKERS + 1) if n != now])))
            self.note(host, " ".join((self.name, *flags[1:])))
            done = self._command(host, *flags)
            host.server.remember()
            if done.returncode != OK:
                raise HarnessError(f"{host.server.name}: exit {done.returncode}: {done.stderr.strip()}")
            answer = json.loads(done.stdout)
            self.moved += answer["moved"]
            if answer["failed"] or answer["lost"]:
                text = f"{answer['failed']} connections failed to move, {answer['lost']} were lost"
                raise HarnessError(f"{host.server.name}: {text}")
            return time.monotonic() - begin

        return work

    def _command(self, host: Host, *flags: str) -> "subprocess.CompletedProcess[str]":
        """Run the command; a host refuses it while it cannot reach Redis, and is asked again then."""
        deadline = time.monotonic() + RESTORE_TIMEOUT
        while True:
            done = host.server.command(self.name, *flags, timeout=CHANGE_TIMEOUT)
            if REFUSED not in done.stderr or time.monotonic() > deadline:
                return done
            self.refused += 1
            time.sleep(ASK_AGAIN)

    def end(self) -> None:
        """Wait for the change under way, and restore the number of workers."""
        super().end()
        for host in self.hosts.all if self.name == "scale" else ():
            self._restore(host)

    def _restore(self, host: Host) -> None:
        deadline = time.monotonic() + RESTORE_TIMEOUT
        while (done := host.server.command("scale", str(host.server.workers))).returncode != OK:
            if time.monotonic() > deadline:
                raise HarnessError(f"scaling back: exit {done.returncode}: {done.stderr.strip()}")
        host.server.remember()

    def facts(self) -> dict[str, Any]:
        """Return also how many connections moved, and how often the command was refused for want of Redis."""
        return super().facts() | {"moved": self.moved, "refused": self.refused}
