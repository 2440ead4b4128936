"""The server under test, seen from outside: its commands, its processes, what it uses, and how to hurt it.

Everything goes through ``python -m mpchat`` and psutil; nothing of mpchat is imported. The rule: only
processes of the server that was started here are touched, each by its identity (pid and time of creation).
"""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from stress_clients import Address
from stress_crew import StressError

# Seconds for one command; starts of many at once on few cores take longest.
COMMAND_TIMEOUT = 60.0
START_TIMEOUT = 180.0
# Seconds for processes to be gone after a stop that said it was done.
GONE_TIMEOUT = 10.0
# Exit codes of mpchat that matter here.
OK, NOT_RUNNING, ALREADY_RUNNING = 0, 3, 4


class Snapshot(NamedTuple):
    """What the server uses at one moment."""

    processes: int
    rss: int  # bytes, all processes
    descriptors: dict[str, int]  # of the supervisor, and of each worker's slot


@dataclass
class Server:
    """One instance, started here, in a folder of its own."""

    folder: Path
    name: str
    workers: int
    log: Path
    pid: int = 0
    address: Address = ("", 0)
    seen: set[psutil.Process] = field(default_factory=set)  # every process it ever had, as far as looked

    def start(self) -> None:
        """Start it and find out where it listens."""
        done = self.command("start", *self.start_options(), timeout=START_TIMEOUT)
        if done.returncode != OK:
            raise StressError(f"the server did not start (exit {done.returncode}): {done.stderr.strip()}")
        self.look()

    def start_options(self) -> tuple[str, ...]:
        """Return the flags that this instance is started with."""
        return ("--port", "0", "--workers", str(self.workers), "--log-file", str(self.log))

    def look(self) -> dict[str, Any]:
        """Ask for the status, and remember the processes that it has now."""
        status = self.status()
        self.pid = status["pid"]
        host, _, port = status["addresses"][0].rpartition(":")
        self.address = (host.strip("[]"), int(port))
        self.remember()
        return status

    def remember(self) -> None:
        """Remember the processes that it has now: at the end none of them may be left."""
        self.seen.update(self._processes())

    def argv(self, verb: str, *options: str) -> list[str]:
        """Return the command line of one of its commands."""
        where = ("--name", self.name, "--runtime-dir", str(self.folder))
        return [sys.executable, "-m", "mpchat", verb, *where, *options]

    def command(
        self, verb: str, *options: str, timeout: float = COMMAND_TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        try:
            return subprocess.run(
                self.argv(verb, *options),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env=clean_environment(),
            )
        except subprocess.TimeoutExpired:
            raise StressError(f"mpchat {verb} took more than {timeout:.0f} s") from None

    def begin(self, verb: str, *options: str) -> "subprocess.Popen[str]":
        """Begin a command; whoever asked for it waits for its end."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.argv(verb, *options), stdout=pipe, stderr=pipe, text=True, env=clean_environment()
        )

    def status(self) -> dict[str, Any]:
        """Return what ``mpchat status --json`` says."""
        done = self.command("status", "--json")
        if done.returncode != OK:
            raise StressError(f"mpchat status: exit {done.returncode}: {done.stderr.strip()}")
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def snapshot(self) -> Snapshot:
        """Measure what it uses now."""
        status = self.look()
        named = {"supervisor": self.pid} | {f"worker {w['slot']}": w["pid"] for w in status["workers"]}
        descriptors = {}
        for name, pid in named.items():
            try:
                descriptors[name] = psutil.Process(pid).num_fds()
            except (psutil.Error, ValueError, TypeError):
                descriptors[name] = -1  # between two workers
        processes = self._processes()
        return Snapshot(len(processes), sum(map(_rss, processes)), descriptors)

    def all_running(self) -> bool:
        """Say whether every worker serves."""
        workers = self.look()["workers"]
        return len(workers) == self.workers and all(worker["state"] == "RUNNING" for worker in workers)

    def connections(self) -> int:
        """Return how many connections its workers say they have."""
        return sum(worker["connections"] for worker in self.look()["workers"])

    def kill_worker(self, chooser: random.Random, spared: set[int]) -> tuple[int, set[Address]] | None:
        """Kill one worker whose slot is not ``spared``; return its slot and the peers that it served.

        It is stopped first, so that the list of its peers is exact: whoever else loses a connection was
        harmed. None when no worker can be killed without leaving nobody.
        """
        running = [worker for worker in self.look()["workers"] if worker["state"] == "RUNNING"]
        able = [worker for worker in running if worker["slot"] not in spared]
        if not able or (len(running) < 2 and self.workers > 1):
            return None
        worker = chooser.choice(able)
        try:
            process = psutil.Process(worker["pid"])
            process.suspend()
            connections = process.net_connections(kind="tcp")
            peers = {(str(each.raddr[0]), int(each.raddr[1])) for each in connections if each.raddr}
            process.kill()
        except psutil.NoSuchProcess:
            return None
        return worker["slot"], peers

    def stop(self) -> list[str]:
        """Stop it; return what is left of it, in words."""
        done = self.command("stop", "--timeout", "30")
        left = [] if done.returncode == OK else [f"stop: exit {done.returncode}: {done.stderr.strip()}"]
        alive = psutil.wait_procs(self.seen, timeout=GONE_TIMEOUT)[1]
        left += [f"process {process.pid} is left" for process in alive if not _is_zombie(process)]
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(self.address) == 0:
                left.append(f"port {self.address[1]} still answers")
        return left

    def end(self) -> None:
        """Make sure that nothing is left, whatever happened."""
        try:
            self.command("stop", "--kill", "--timeout", "5")
        except StressError as error:
            print(f"stress: {error}", file=sys.stderr)
        for process in self.seen:
            if process.is_running() and not _is_zombie(process):
                process.kill()  # psutil looks at the time of creation first

    def _processes(self) -> list[psutil.Process]:
        try:
            supervisor = psutil.Process(self.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def clean_environment() -> dict[str, str]:
    """Return the environment without settings that would reach the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MPCHAT_")}


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@dataclass
class StartStorm:
    """Many starts of one name at once: exactly one may serve."""

    folder: Path
    starts: int
    rounds: int
    done: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, progress: Callable[[], None]) -> None:
        """Run all rounds."""
        for number in range(self.rounds):
            self.wrong += [f"round {number + 1}: {text}" for text in self._round(number)]
            self.done += 1
            progress()

    def _round(self, number: int) -> list[str]:
        server = Server(self.folder, f"storm{number}", 1, self.folder / f"storm{number}.log")
        argv = server.argv("start", *server.start_options())
        quiet = subprocess.DEVNULL
        starts = []
        try:
            for _ in range(self.starts):
                starts.append(
                    subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, env=clean_environment())
                )
            deadline = time.monotonic() + START_TIMEOUT
            codes = Counter(start.wait(max(0.1, deadline - time.monotonic())) for start in starts)
        except subprocess.TimeoutExpired:
            return [f"not all starts ended within {START_TIMEOUT:.0f} s"]
        finally:
            for start in starts:
                if start.poll() is None:
                    start.kill()
                    start.wait()
            wrong = self._end_round(server)
        if codes != Counter({OK: 1, ALREADY_RUNNING: self.starts - 1}):
            wrong.append(f"exit codes {dict(codes)}, not one 0 and {self.starts - 1} times 4")
        return wrong

    def _end_round(self, server: Server) -> list[str]:
        try:
            server.look()
            wrong = server.stop()
            after = server.command("status").returncode
            return wrong if after == NOT_RUNNING else [*wrong, f"status after the stop: exit {after}"]
        except StressError as error:
            return [str(error)]
        finally:
            server.end()
