"""An mpchat server under test, seen from outside: its commands, its processes and what they use.

Commands go through ``python -m mpchat``, the rest through psutil and the control socket: a run asks for the
status so often that an interpreter for each would take more CPU than the server does. The rule: only
processes of the server that was started here are touched, each by its identity (pid and time of creation).
"""

import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mpchat.control.client import ask
from mpchat.control.requests import Status
from mpchat.errors import MpchatError
from scripts.common.address import Address
from scripts.common.processes import kill, wait_until_gone

# Seconds for one command; starts of many at once on few cores take longest.
COMMAND_TIMEOUT = 60.0
START_TIMEOUT = 180.0
# Seconds for the answer to a status: as long as ``mpchat status`` waits.
STATUS_TIMEOUT = 5.0
# Seconds for processes to be gone after a stop that said it was done.
GONE_TIMEOUT = 10.0
# Exit codes of mpchat that matter here.
OK, NOT_RUNNING, ALREADY_RUNNING = 0, 3, 4


class HarnessError(Exception):
    """A run cannot go on; the text says why. Whatever was found until then still counts."""


class Snapshot(NamedTuple):
    """What the server uses at one moment."""

    processes: int
    rss: int  # bytes, all processes
    descriptors: dict[str, int]  # by process: the supervisor, and each worker's slot; -1: not running
    connections: int = 0  # that the workers report
    refused: int = 0  # connections that were not accepted, since the start

    def growth(self, before: "Snapshot") -> list[str]:
        """Say in words where the server uses more than ``before``: processes, descriptors, connections."""
        found = []
        if self.processes > before.processes:
            found.append(f"{self.processes} processes, {before.processes} before")
        for name, count in self.descriptors.items():
            if count > before.descriptors.get(name, 0):
                found.append(f"{name} has {count} descriptors, {before.descriptors.get(name, 0)} before")
        if self.connections:
            found.append(f"{self.connections} connections are left after all clients have left")
        return found


@dataclass
class Server:
    """One instance, started here, in a folder of its own."""

    folder: Path
    name: str
    workers: int
    log: Path
    options: tuple[str, ...] = ()  # more flags of ``mpchat start``
    port: int = 0  # 0: any that is free
    pid: int = 0
    address: Address = ("", 0)
    stopped: bool = False  # in order, with nothing left
    seen: set[psutil.Process] = field(default_factory=set)  # all processes that it was seen to have

    @property
    def alive(self) -> bool:
        """Say whether the supervisor runs."""
        return psutil.pid_exists(self.pid)

    def start(self) -> None:
        """Start it and find out where it listens."""
        self.stopped = False
        done = self.command("start", *self.start_options(), timeout=START_TIMEOUT)
        if done.returncode != OK:
            raise HarnessError(f"the server did not start (exit {done.returncode}): {done.stderr.strip()}")
        self.look()

    def start_options(self) -> tuple[str, ...]:
        """Return the flags of its ``mpchat start``."""
        return (
            "--port",
            str(self.port),
            "--workers",
            str(self.workers),
            "--log-file",
            str(self.log),
            *self.options,
        )

    def look(self) -> dict[str, Any]:
        """Return the status, and note pid, address and processes."""
        try:
            answer = ask(self.folder / self.name / "control.sock", Status(), STATUS_TIMEOUT)
        except MpchatError as error:
            raise HarnessError(f"no status: {error}") from None
        if answer.exit != OK:
            raise HarnessError(f"no status: {answer.text}")
        status = answer.result
        self.pid = status["pid"]
        host, _, port = status["addresses"][0].rpartition(":")
        self.address = (host.strip("[]"), int(port))
        self.remember()
        return status

    def remember(self) -> None:
        """Note the processes that it has now: none of them may be left at the end."""
        self.seen.update(self._processes())

    def command(
        self, verb: str, *options: str, timeout: float = COMMAND_TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Run ``mpchat verb`` for this instance to its end, without mpchat's settings in the environment."""
        where = ("--name", self.name, "--runtime-dir", str(self.folder))
        command = [sys.executable, "-m", "mpchat", verb, *where, *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MPCHAT_")}
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
        except subprocess.TimeoutExpired:
            raise HarnessError(f"mpchat {verb} took more than {timeout:.0f} s") from None

    def snapshot(self) -> Snapshot:
        """Measure processes, memory and descriptors now."""
        status = self.look()
        named = {"supervisor": self.pid} | {f"worker {w['slot']}": w["pid"] for w in status["workers"]}
        descriptors = {}
        for name, pid in named.items():
            try:
                descriptors[name] = psutil.Process(pid).num_fds()
            except (psutil.Error, ValueError, TypeError):
                descriptors[name] = -1  # a new worker is on its way
        processes = self._processes()
        connections = sum(worker["connections"] for worker in status["workers"])
        return Snapshot(
            len(processes), sum(map(_rss, processes)), descriptors, connections, status["refused"]
        )

    def all_running(self) -> bool:
        """Say whether all workers serve."""
        workers = self.look()["workers"]
        return len(workers) == self.workers and all(worker["state"] == "RUNNING" for worker in workers)

    def kill_worker(self, chooser: random.Random, spared: set[int]) -> tuple[int, set[Address]] | None:
        """Kill one worker whose slot is not ``spared``; return its slot and the peers that it served.

        The worker is stopped first, so that the list of its peers is exact: every other client that loses
        its connection was harmed. Return None when the kill would leave no worker that serves.
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

    def suspend(self) -> list[psutil.Process]:
        """Stop (SIGSTOP) all its processes, the supervisor first, so that it starts no more; return them."""
        stopped: list[psutil.Process] = []
        while more := [process for process in self._processes() if process not in stopped]:
            for process in more:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            stopped += more
        self.seen.update(stopped)
        return stopped

    def kill(self) -> None:
        """Kill all its processes, as a power failure would."""
        kill(self.suspend())
        self.stopped = False

    def stop(self) -> list[str]:
        """Stop the server; return what is left of it, in words."""
        done = self.command("stop", "--timeout", "30")
        left = [] if done.returncode == OK else [f"stop: exit {done.returncode}: {done.stderr.strip()}"]
        left += [f"process {process.pid} is left" for process in wait_until_gone(self.seen, GONE_TIMEOUT)]
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(self.address) == 0:
                left.append(f"port {self.address[1]} still answers")
        self.stopped = not left
        return left

    def end(self) -> None:
        """Kill all that is left; call last, whatever happened."""
        if self.stopped:
            return
        try:
            self.command("stop", "--kill", "--timeout", "5")
        except HarnessError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
        finally:  # a second Ctrl-C may come before the stop has ended
            kill(self.seen)

    def _processes(self) -> list[psutil.Process]:
        try:
            supervisor = psutil.Process(self.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
