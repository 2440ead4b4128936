"""Many starts of one instance name at once: exactly one may serve."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scripts.common.server import ALREADY_RUNNING, NOT_RUNNING, OK, START_TIMEOUT, HarnessError, Server


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
            server = Server(self.folder, f"storm{number}", 1, self.folder / f"storm{number}.log")
            try:
                wrong = self._round(server)
            except HarnessError as error:
                wrong = [str(error)]
            finally:
                server.end()
            self.wrong += [f"round {number + 1}: {text}" for text in wrong]
            self.done += 1
            progress(self.done / self.rounds)

    def facts(self) -> dict[str, object]:
        """Return what was done and what went wrong."""
        return {"rounds": self.done, "starts": self.starts, "wrong": self.wrong}

    def _round(self, server: Server) -> list[str]:
        start = partial(server.command, "start", *server.start_options(), timeout=START_TIMEOUT)
        with ThreadPoolExecutor(self.starts) as pool:
            starts = [pool.submit(start) for _ in range(self.starts)]
        codes = Counter(each.result().returncode for each in starts)
        server.look()
        wrong = server.stop()
        if codes != Counter({OK: 1, ALREADY_RUNNING: self.starts - 1}):
            wrong.append(f"exit codes {dict(codes)}, not one 0 and {self.starts - 1} times 4")
        if (after := server.command("status").returncode) != NOT_RUNNING:
            wrong.append(f"status after the stop: exit {after}")
        return wrong
