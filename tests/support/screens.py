"""A program in a real terminal, for tests: tmux runs it, types into it and says what is on the screen."""

import itertools
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from support.programs import require
from support.waiting import PATIENCE, eventually

_numbers = itertools.count()
# Seconds between two looks at a screen: each is a process of tmux.
LOOK = 0.1


class Screen:
    """Runs ``command`` in a tmux server of its own, which ends with the block."""

    def __init__(self, command: list[str], *, columns: int = 80, rows: int = 24) -> None:
        require("tmux")
        self._socket = f"mpchat-test-{os.getpid()}-{next(_numbers)}"
        self._directory = tempfile.TemporaryDirectory(prefix="mpchat-tmux-")
        # The shell stays when the program has ended, and says how; tmux's own way (remain-on-exit) loses the
        # last output and the code of a program that ends at once. The trap: Ctrl-C is for the program alone.
        script = f"trap : INT; {shlex.join(command)}; echo [exit $?]; exec cat"
        self._tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), script)

    def type_in(self, text: str) -> None:
        """Type ``text`` as it is."""
        self._tmux("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names, as ``Enter`` or ``C-c``."""
        self._tmux("send-keys", *keys)

    def paste(self, text: str, *, bracketed: bool) -> None:
        """Paste ``text``; ``bracketed`` marks it for the program as pasted, as most terminals do."""
        file = Path(self._directory.name) / "pasted"
        file.write_text(text, encoding="utf-8")
        self._tmux("load-buffer", str(file))
        self._tmux("paste-buffer", *(["-p"] if bracketed else []))

    def say(self, text: str) -> None:
        """Type a line and press Enter."""
        self.type_in(text)
        self.press("Enter")

    @property
    def text(self) -> str:
        """What is on the screen."""
        return self._tmux("capture-pane", "-p").rstrip("\n")

    @property
    def lines(self) -> list[str]:
        """What is on the screen, line by line, without what is only blank."""
        return [line.rstrip() for line in self.text.split("\n") if line.strip()]

    def shows(self, text: str) -> None:
        """Wait until ``text`` is on the screen, be it in the prompt."""
        self._until(lambda: text in self.text, f"{text!r} on the screen")

    def ends_with(self, *lines: str) -> None:
        """Wait until the last lines on the screen are these."""
        self._until(lambda: self.lines[-len(lines) :] == list(lines), f"the screen to end with {lines}")

    def exit_code(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        ended = re.compile(r"^\[exit (\d+)\]", re.MULTILINE)
        self._until(lambda: ended.search(self.text), "the program to end")
        return int(ended.findall(self.text)[-1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tmux("kill-server")
        self._directory.cleanup()

    def _until(self, predicate: Callable[[], object], what: str) -> None:
        try:
            eventually(predicate, what, pause=LOOK)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen is\n{self.text}") from None

    def _tmux(self, *arguments: str) -> str:
        environment = os.environ | {"LC_ALL": "C.UTF-8", "TMUX_TMPDIR": self._directory.name}
        # Some of them say how large another terminal is: pytest-xdist's processes have them.
        for variable in ("TMUX", "COLUMNS", "LINES"):
            environment.pop(variable, None)
        command = ["tmux", "-u", "-L", self._socket, "-f", "/dev/null", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr.decode()}"
        return done.stdout.decode()
