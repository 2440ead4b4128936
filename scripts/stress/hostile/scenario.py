"""The scenario of hostile clients: each kind in turn, and what an innocent client beside them feels."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil

from scripts.common.certificate import certificate
from scripts.common.latency import Latency
from scripts.common.server import HarnessError
from scripts.common.sign_in import Proofs
from scripts.stress.engine import JOIN_TIMEOUT, Run, Scenario
from scripts.stress.fleet import ClientProcess
from scripts.stress.hostile.clients import Hostile, HostilePlan
from scripts.stress.hostile.innocents import Innocents, InnocentsPlan, names
from scripts.stress.hostile.kinds import KINDS, REGISTERED
from scripts.stress.options import Options, option

# Seconds between two measurements of memory, and between two of how long the status takes.
MEMORY_EVERY = 0.2
STATUS_EVERY = 1.0
# Seconds that ``mpchat status`` may take.
STATUS_LIMIT = 1.0
# Seconds that an innocent client may take to sign in meanwhile, by the kind of its proof. Its password has
# been right before, from the same address.
SIGN_IN_LIMITS = {"password": 3.0, "jwt": 1.0}
INNOCENTS = 4
# They, the two that make a long past, and the two that sign in.
FRIENDS = INNOCENTS + 4


@dataclass(frozen=True, kw_only=True)
class HostileOptions(Options):
    """The options of hostile clients."""

    seconds: float = option(4.0, "Length of each attack.", click.FloatRange(0.1))
    connections: int = option(100, "Hostile clients, all of one kind at a time.", click.IntRange(1, 5000))
    kinds: str = option("", "Kinds by commas; default: all.")
    slack: float = option(1.0, "Times may be so many times as long as promised.", click.FloatRange(0.1))
    reading: str = option("both", "Whether they read what they get.", click.Choice(["yes", "no", "both"]))

    def chosen(self) -> list[str]:
        """Return the kinds that are wanted."""
        return [each.strip() for each in self.kinds.split(",") if each.strip()] or list(KINDS)

    def check(self) -> None:
        """Raise click.UsageError for a kind that is not there."""
        super().check()
        if wrong := [each for each in self.chosen() if each not in KINDS]:
            raise click.UsageError(f"{wrong[0]} is no kind: {', '.join(KINDS)}")


@dataclass
class Attack:
    """The harm of one kind of hostile clients: to the server and to the innocent clients."""

    name: str
    limit: float
    auth: str = "open"
    calm: Latency = field(default_factory=Latency)
    hurt: Latency = field(default_factory=Latency)
    memory: int = 0  # bytes, the most that all processes of the server took together
    memory_before: int = 0
    status: float = 0.0  # seconds, the longest
    restarted: int = 0
    cut_off: int = 0
    errors: float = 0.0  # a second, which hostile clients got
    checked: float = 0.0  # of them: proofs that were looked at and wrong
    let_in: int = 0  # hostile clients that got a name for a proof that is wrong
    # How long it took to sign in, by the kind of proof; empty where the server asks for none.
    sign_ins: dict[str, Latency] = field(default_factory=dict)

    def reasons(self, slack: float) -> list[str]:
        """Say in words what breaks a promise; times may be ``slack`` times as long."""
        found = []
        p99, limit = self.hurt.percentile(0.99), self.limit * slack
        if not self.hurt.count:
            found.append(f"{self.name}: no innocent client was served")
        elif p99 > limit:
            found.append(
                f"{self.name}: p99 of the innocent is {p99 * 1000:.0f} ms, {self.limit * 1000:.0f} allowed"
            )
        if self.restarted:
            found.append(f"{self.name}: {self.restarted} workers were restarted")
        if self.status > STATUS_LIMIT * slack:
            found.append(f"{self.name}: the status took {self.status:.1f} s")
        if self.let_in:
            found.append(f"{self.name}: {self.let_in} hostile clients were let in")
        for kind, took in self.sign_ins.items():
            if not took.count:
                found.append(f"{self.name}: no innocent client signed in by {kind}")
            elif (seconds := took.percentile(1.0)) > SIGN_IN_LIMITS[kind] * slack:
                found.append(f"{self.name}: to sign in by {kind} took {seconds:.1f} s")
        return found

    def facts(self) -> dict[str, str]:
        """Return what the verdict shows of it."""
        calm, hurt = self.calm.summary(), self.hurt.summary()
        signing = {}
        if self.sign_ins:
            signing = {"errors": f"{self.errors:.0f} a second", "checked": f"{self.checked:.0f} a second"}
        for kind, took in self.sign_ins.items():
            signing[f"sign-in by {kind}"] = (
                f"{took.percentile(0.5) * 1000:.0f} ms, at most {took.percentile(1.0) * 1000:.0f} ms"
            )
        return {
            "calm p99": f"{calm['p99'] * 1000:.1f} ms",
            "p50": f"{hurt['p50'] * 1000:.1f} ms",
            "p99": f"{hurt['p99'] * 1000:.1f} ms",
            "max": f"{hurt['max'] * 1000:.0f} ms",
            "memory": f"{self.memory_before / 1e6:.0f} to {self.memory / 1e6:.0f} MB",
            "cut off": str(self.cut_off),
            "restarted": str(self.restarted),
            "status": f"{self.status:.2f} s",
            **signing,
        }


class HostileScenario(Scenario):
    """Hostile clients of every kind, as fast as they can, beside innocent ones.

    Kinds come one after the other, each once reading its answers and once not. The innocent clients measure
    the round trips of their messages in a room of their own. Where the server asks for proofs, two more sign
    in meanwhile, again and again, by a password and by a token.
    """

    options_type = HostileOptions
    # Its clients are its only fault, and it looks into a server of its own.
    unused = (
        *("address", "processes", "rate", "websockets", "kill_workers", "kill_every", "reload", "reloads"),
        *("scale", "scalings", "scale_most", "disconnect_storm", "storm_clients"),
    )
    kinds = ()

    def __init__(self, run: Run) -> None:
        """Prepare for ``run``."""
        super().__init__(run)
        assert isinstance(run.options, HostileOptions)
        self.options = run.options
        self._attacks: list[Attack] = []
        self._innocents: ClientProcess | None = None
        self._next_memory = self._next_status = 0.0
        self._proofs: Proofs | None = None
        self._auth = "open"

    @staticmethod
    def server_options(options: Any, folder: Path) -> tuple[str, ...]:
        """Give the server a certificate where a kind wants one: others do without the processes for it.

        And a settings file, where a kind wants another ``auth``.
        """
        flags: tuple[str, ...] = ()
        if any(KINDS[each].tls for each in options.chosen()):
            chain, key = certificate(folder)
            flags += "--tls-cert", chain, "--tls-key", key
        if any(KINDS[each].auth != "open" for each in options.chosen()):
            _settings(folder).touch()
            flags += "--config", str(_settings(folder))
        return flags

    def play(self) -> None:
        """Let the kinds attack, one after the other."""
        run = self.run
        plan = run.plan("innocents", INNOCENTS)
        assert run.server is not None
        if _settings(run.server.folder).exists():
            self._proofs = Proofs(run.server.folder, REGISTERED)
            self._ask_for_proofs(self._auth)
            plan |= {"tokens": self._proofs.tokens(names(INNOCENTS)), "password": self._proofs.password}
        self._innocents = run.start(Innocents, InnocentsPlan(**plan))
        run.verdict.planned = INNOCENTS
        run.join([self._innocents])
        if self._proofs is not None:  # the server has its files open from now on
            before = run.verdict.snapshots["before"]
            supervisor = {"supervisor": run.server.snapshot().descriptors["supervisor"]}
            run.verdict.snapshots["before"] = before._replace(descriptors=before.descriptors | supervisor)
        run.fleet.tell([self._innocents], "go")
        wanted = {"yes": [True], "no": [False], "both": [True, False]}[self.options.reading]
        for kind in self.options.chosen():
            if KINDS[kind].auth != self._auth:
                self._ask_for_proofs(KINDS[kind].auth)
            for reads in wanted:
                self._attack(kind, reads)
        run.leave([self._innocents])

    def _ask_for_proofs(self, auth: str) -> None:
        """Let the server have another ``auth``; the clients stay."""
        server, self._auth = self.run.server, auth
        assert server is not None
        assert self._proofs is not None
        settings = {"auth": auth, **self._proofs.settings}
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        _settings(server.folder).write_text(text)
        done = server.command("reload")
        if done.returncode:
            raise HarnessError(f"the server did not reload: {done.stderr.strip()}")
        self.run.wait_for_workers()

    def _attack(self, kind: str, reads: bool) -> None:
        run = self.run
        name = f"{kind}, {'reading' if reads else 'not reading'}"
        attack = Attack(name, KINDS[kind].limit, auth=KINDS[kind].auth)
        run.phase(f"calm: {name}", self.options.seconds / 4)
        pids = self._worker_pids()
        attack.memory_before = attack.memory = self._memory()
        self._attacks.append(attack)
        plan = HostilePlan(**run.plan("hostile", self.options.connections), kind=kind, reads=reads)
        process = run.start(Hostile, plan)
        run.join([process])
        run.fleet.tell([process], "go")
        run.phase(name, self.options.seconds)
        run.leave([process])
        # A client that has left stays until its proof was checked: it may have closed its own side alone.
        run.wait("the hostile clients to be gone", lambda: self._connections() <= FRIENDS, JOIN_TIMEOUT)
        attack.cut_off = process.count("cut off")
        attack.errors = process.count("errors") / self.options.seconds
        attack.let_in = process.count("let in")
        attack.checked = process.count("checked") / self.options.seconds
        run.wait_for_workers()
        attack.restarted = len(pids - self._worker_pids())

    def _worker_pids(self) -> set[int]:
        assert self.run.server is not None
        return {each["pid"] for each in self.run.server.look()["workers"]}

    def _connections(self) -> int:
        assert self.run.server is not None
        return sum(each["connections"] for each in self.run.server.look()["workers"])

    def _memory(self) -> int:
        assert self.run.server is not None
        total = 0
        for process in list(self.run.server.seen):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        return total

    def step(self, now: float) -> None:
        """Measure memory and the time of a status while the clients attack."""
        if not self._attacks or self.run.server is None:
            return
        attack = self._attacks[-1]
        if now >= self._next_memory:
            self._next_memory = now + MEMORY_EVERY
            attack.memory = max(attack.memory, self._memory())
        if now >= self._next_status:
            began = time.monotonic()
            self.run.server.command("status")
            attack.status = max(attack.status, time.monotonic() - began)
            self._next_status = time.monotonic() + STATUS_EVERY

    def judge(self, whole: bool) -> None:
        """Compare what the innocent clients felt with what is promised."""
        report = self._innocents.report if self._innocents else None
        latency = report.latency if report else {}
        for attack in self._attacks:
            attack.calm = latency.get(f"calm: {attack.name}", Latency())
            attack.hurt = latency.get(attack.name, Latency())
            if attack.auth != "open":
                attack.sign_ins = {
                    kind: latency.get(f"{attack.name}: {kind}", Latency()) for kind in SIGN_IN_LIMITS
                }
            self.run.verdict.reasons += attack.reasons(self.options.slack)
            self.run.verdict.faults[attack.name] = attack.facts()
        self.run.verdict.latency.clear()


def _settings(folder: Path) -> Path:
    return folder / "mpchat.toml"
