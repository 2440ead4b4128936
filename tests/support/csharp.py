"""Programs in C# with the client of the package: compiled by mono's ``mcs``, run by ``mono``."""

import base64
import subprocess
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from mpchat.cli.client import source
from support.programs import require
from support.waiting import PATIENCE, eventually

DRIVER = Path(__file__).parent / "Driver.cs"
# The newest version that mcs knows; what it compiles is C# 7.3 too.
LANGUAGE = "7.2"
# Seconds to compile a file, and to load one: mono is slow on a machine that is busy.
SLOW = 60.0

# Commands of the driver that print no answer of their own.
UNANSWERED = {"hold", "poll", "state", "dispose"}

Event = dict[str, str]


def compiled(folder: Path, program: Path | str) -> list[str]:
    """Compile a program and the client into one file, warnings as errors; return the command to run it."""
    require("mcs", "mono")
    client = folder / "Mpchat.cs"
    client.write_bytes(source("csharp"))
    if isinstance(program, str):
        text, program = program, folder / "Program.cs"
        program.write_text(text, encoding="utf-8")
    made = folder / "program.exe"
    options = [f"-langversion:{LANGUAGE}", "-warn:4", "-warnaserror", f"-out:{made}"]
    done = subprocess.run(
        ["mcs", *options, str(client), str(program)],
        capture_output=True,
        text=True,
        timeout=SLOW,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return ["mono", str(made)]


class Sharp:
    """A chat in C#, driven line by line. ``events`` is all that it has printed."""

    def __init__(self, command: Sequence[str], address: tuple[str, int], *seat: str) -> None:
        """Begin a chat; ``seat`` is a name, a room, a token, a drawn number and proofs, as far as given.

        The drawn number, in [0, 1), takes the place of each random number in the client's back-off. A larger
        one makes each wait longer by as much. A proof is written as in ``password=비밀번호``.
        """
        host, port = address
        self.process = subprocess.Popen(
            [*command, host, str(port), *seat],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        self.events: list[tuple[str, Event]] = []
        # Commands sent so far that are answered, each once and in order.
        self._asked = 0
        # How far ``until`` has looked.
        self._seen = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def do(self, command: str, *texts: str) -> None:
        """Send a command with its texts."""
        assert self.process.stdin is not None
        words = [command, *(base64.b64encode(each.encode()).decode() for each in texts)]
        self.process.stdin.write(" ".join(words) + "\n")
        self._asked += command not in UNANSWERED

    def until(self, word: str, **facts: str) -> Event:
        """Wait for the next event of this word and with these facts; pass over all before it."""
        return eventually(lambda: self._find(word, facts), f"{word} {facts}", SLOW)

    def ask(self, command: str, *texts: str) -> Event:
        """Send a command that is answered with ``taken`` or ``thrown``; return the answer."""
        self.do(command, *texts)
        # Earlier commands may be without their answers yet.
        eventually(lambda: len(self._answers()) >= self._asked, f"the answer to {command}", SLOW)
        return self._answers()[self._asked - 1]

    def of(self, *wanted: str) -> list[Event]:
        """Return all events of these words."""
        return [event for word, event in list(self.events) if word in wanted]

    def end(self) -> None:
        """Dispose the chat by the end of its input, and wait for the program's end."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            assert self.process.wait(PATIENCE) == 0
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        assert not [event for _, event in self.events if "astray" in event], "raised on another thread"

    def _answers(self) -> list[Event]:
        return self.of("taken", "thrown", "filled")

    def _find(self, word: str, facts: Event) -> Event | None:
        while self._seen < len(self.events):
            came, event = self.events[self._seen]
            self._seen += 1
            if came == word and facts.items() <= event.items():
                return event
        assert self.process.poll() is None, f"the program has ended; waited for {word} {facts}"
        return None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, *pairs = line.split()
            self.events.append((word, dict(map(_decoded, pairs))))


def _decoded(pair: str) -> tuple[str, str]:
    key, value = pair.split("=", 1)
    return key, base64.b64decode(value).decode()


def texts(events: Iterable[Event]) -> list[str]:
    """Return the texts of messages."""
    return [each["text"] for each in events]
