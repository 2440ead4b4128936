"""Many starts of one instance name at once: exactly one may serve."""

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scripts.common.server import (
    ALREADY_RUNNING,
    NOT_RUNNING,
    OK,
    START_TIMEOUT,
    HarnessError,
    Server,
    clean_environment,
)


@dataclass
class StartStorm:
    """Rounds of simultaneous starts, each round with a name of its own."""

    folder: Path
    starts: int
    rounds: int
    done: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, progress: Callable[[float], None]) -> None:
        """Run all rounds; ``progress`` gets the part (0 to 1) that is done."""
        for number in range(self.rounds):
            self.wrong += [f"round {number + 1}: {text}" for text in self._round(number)]
            self.done += 1
            progress(self.done / self.rounds)

    def facts(self) -> dict[str, object]:
        """Return what was done and what went wrong."""
        return {"rounds": self.done, "starts": self.starts, "wrong": self.wrong}

    def _round(self, number: int) -> list[str]:
        server = Server(self.folder, f"storm{number}", 1, self.folder / f"storm{number}.log")
        starts: list[subprocess.Popen[bytes]] = []
        try:
            starts += [_start(server) for _ in range(self.starts)]
            deadline = time.monotonic() + START_TIMEOUT
            codes = Counter(start.wait(max(0.1, deadline - time.monotonic())) for start in starts)
        except subprocess.TimeoutExpired:
            return [f"not all starts ended within {START_TIMEOUT:.0f} s"]
        finally:
            for start in starts:
                if start.poll() is None:
                    start.kill()
                    start.wait()
            wrong = _end_round(server)
        if codes != Counter({OK: 1, ALREADY_RUNNING: self.starts - 1}):
            wrong.append(f"exit codes {dict(codes)}, not one 0 and {self.starts - 1} times 4")
        return wrong


def _start(server: Server) -> "subprocess.Popen[bytes]":
    argv = server.argv("start", *server.start_options())
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, env=clean_environment())


def _end_round(server: Server) -> list[str]:
    try:
        server.look()
        wrong = server.stop()
        after = server.command("status").returncode
        return wrong if after == NOT_RUNNING else [*wrong, f"status after the stop: exit {after}"]
    except HarnessError as error:
        return [str(error)]
    finally:
        server.end()
