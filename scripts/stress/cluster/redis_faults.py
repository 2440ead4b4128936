"""Faults of Redis and of the links to it: stopped, killed, come back empty, cut."""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

from scripts.common.server import HarnessError
from scripts.common.spawning import end, spawn
from scripts.stress.cluster.host_faults import RandomFault
from scripts.stress.cluster.hosts import Host, Hosts
from scripts.stress.cluster.redis_server import RedisServer
from scripts.stress.cluster.relay import CUTS, SILENCE, serve_relay
from scripts.stress.faults import Fault

# Seconds within which all hosts must be equal once Redis is back empty.
EQUAL_WITHIN = 5.0
# Seconds that a killed Redis stays away.
KILLED_FOR = (0.1, 3.0)
# Seconds of a silent link, in leases: some outlast a lease, while another host is well. When all hosts have
# lost their leases, none is left that knows the log's end, and a new epoch is right: manual, page hosts.
SILENT_LEASES = (0.2, 1.5)
SHORT_LEASES = (0.2, 0.5)
# Seconds for a relay to report its port, and to end.
RELAY_TIMEOUT = 10.0


class RedisFault(RandomFault):
    """A fault of Redis; while it lasts, no host starts and no other fault touches Redis."""

    def __init__(self, hosts: Hosts, redis: RedisServer, name: str, seed: int | None, every: float) -> None:
        """Do it about each ``every`` seconds."""
        super().__init__(hosts, name, seed, every)
        self.redis = redis

    def begin(self) -> "Callable[[], float] | None":
        """Wait for its turn in the thread."""
        away = self.length()

        def work() -> float:
            with self.hosts.redis_there:
                if self.hosts.closing.is_set():
                    return 0.0
                self.hosts.note(f"redis: {self.name}, away for {away:.1f} s")
                self.harm(away)
                begin = time.monotonic()
                took = self.hosts.wait_for_members()
                self.hosts.note(f"redis: hosts are equal {took:.2f} s after it was back")
                self.after(begin)
            return took

        return work

    def length(self) -> float:
        """Choose how many seconds Redis is away."""
        return self.chooser.uniform(*KILLED_FOR)

    def harm(self, away: float) -> None:
        """Take Redis away and bring it back."""
        raise NotImplementedError

    def after(self, back: float) -> None:
        """Check what must be true once hosts are equal; Redis was back at ``back`` (monotonic)."""


class StopRedis(RedisFault):
    """Stops Redis (SIGSTOP) and continues it."""

    def __init__(self, hosts: Hosts, redis: RedisServer, seed: int | None, every: float, away: float) -> None:
        """Let it be away for ``away`` seconds each time, and be there at least as long in between."""
        super().__init__(hosts, redis, "redis-stop", seed, max(every, 2 * away))
        self._away = away
        self._next = time.monotonic() + self.chooser.uniform(0, every / 2)

    def length(self) -> float:
        """Return the given length."""
        return self._away

    def harm(self, away: float) -> None:
        """Stop and continue."""
        self.redis.suspend()
        try:
            self.hosts.closing.wait(away)
        finally:
            self.redis.resume()


class KillRedis(RedisFault):
    """Kills Redis and starts it again with its append-only file."""

    def harm(self, away: float) -> None:
        """Kill and start."""
        self.redis.kill()
        self.hosts.closing.wait(away)
        self.redis.start()


class EmptyRedis(RedisFault):
    """Kills Redis, removes its data, and starts it again."""

    def harm(self, away: float) -> None:
        """Kill, remove and start; the clients know that numbers may become uncertain."""
        self.hosts.news.put(("emptied",))
        self.redis.kill()
        self.hosts.closing.wait(away)
        self.redis.forget()
        self.redis.start()

    def after(self, back: float) -> None:
        """Check that the hosts were equal in time."""
        took = time.monotonic() - back
        self.hosts.news.put(("founded", back))
        if took > EQUAL_WITHIN:
            self.wrong.append(f"hosts were equal after {took:.1f} s, not {EQUAL_WITHIN:.0f} s")


class Relays(Fault):
    """A relay for each host, in a process of its own, and the cuts of them."""

    def __init__(self, redis: RedisServer, count: int, seed: int | None, every: float, lease: float) -> None:
        """Start ``count`` relays; each cuts about each ``every`` seconds, once steps are taken."""
        self.chooser = random.Random(f"{seed}:cut")
        self.every = every
        self.lease = lease
        self.ports: list[int] = []
        # Those that the relays belong to, in their order.
        self.hosts: list[Host] = []
        self._relays: list[tuple[BaseProcess, Pipe[Any, Any]]] = []
        self._counts: list[Counter[str]] = [Counter() for _ in range(count)]
        self._next = [0.0] * count
        for _ in range(count):
            process, pipe = spawn(serve_relay, redis.address)
            self._relays.append((process, pipe))
            if not pipe.poll(RELAY_TIMEOUT):
                raise HarnessError("a relay did not start")
            self.ports.append(pipe.recv())

    def step(self, now: float) -> None:
        """Cut when it is time."""
        self._take_counts()
        for number, (_, pipe) in enumerate(self._relays):
            if now >= self._next[number]:
                begun, self._next[number] = self._next[number] > 0, now + self._pause()
                if begun:
                    cut = self.chooser.choice(CUTS)
                    seconds = self._silence(number, now) if cut == SILENCE else 0.0
                    with suppress(OSError):
                        pipe.send((cut, seconds))

    def _silence(self, number: int, now: float) -> float:
        """Choose for how long a link is silent (seconds); the last host that is well keeps its lease."""
        others = [each for place, each in enumerate(self.hosts) if place != number]
        spare = not others or any(each.is_well(now) for each in others)
        seconds = self.chooser.uniform(*(SILENT_LEASES if spare else SHORT_LEASES)) * self.lease
        if others and spare:
            self.hosts[number].silent_until = now + seconds + self.lease  # until it is there again
        return seconds

    def _pause(self) -> float:
        return self.chooser.uniform(0.5, 1.5) * self.every

    def done(self) -> bool:
        """Say whether each kind of cut was made."""
        return set(CUTS) <= set(self._total())

    def facts(self) -> dict[str, Any]:
        """Return the number of cuts of each kind."""
        return dict(sorted(self._total().items()))

    def reasons(self, killing: bool) -> list[str]:
        """Report kinds of cuts that were never made."""
        missing = sorted(set(CUTS) - set(self._total()))
        return [f"cut: never {', '.join(missing)}"] if missing else []

    def close(self) -> None:
        """End the relays; call last."""
        for process, pipe in self._relays:
            pipe.close()
            end(process, RELAY_TIMEOUT)

    def _take_counts(self) -> None:
        for number, (_, pipe) in enumerate(self._relays):
            with suppress(EOFError, OSError):
                while pipe.poll():
                    self._counts[number] = pipe.recv()

    def _total(self) -> Counter[str]:
        self._take_counts()
        return sum(self._counts, Counter())
