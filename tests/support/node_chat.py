"""Chats in Node with mpchat.js, driven line by line."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpchat.cli.client import source
from support.harness import Server
from support.javascript import node_version, websocket_flags
from support.programs import absent

# Prints each event; what standard input says is called on the chat, and its result is printed.
DRIVER = """
import { createInterface } from 'node:readline';
import { connect } from './mpchat.mjs';
IMPORT
const print = (object) => console.log(JSON.stringify(object));
const chat = await connect(process.argv[2], { name: 'node', room: 'node', ...OPTIONS }).catch((error) => {
  print({ type: 'not let in', code: error.code, text: error.text, proofs: error.proofs });
  process.exit(1);
});
createInterface({ input: process.stdin }).on('line', async (line) => {
  const [method, ...values] = JSON.parse(line);
  try {
    const { seq, room, names, rooms, messages, next } = (await chat[method](...values)) ?? {};
    const texts = messages?.map((each) => each.text);
    print({ type: 'result', method, seq, room, names, rooms, messages: texts, next });
  } catch (error) {
    print({ type: 'result', method, code: error.code });
  }
});
for await (const event of chat.events()) print(event);
process.exit(0);
"""


class Program:
    """A program in Node that prints JSON."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.got: list[dict[str, Any]] = []

    def until(self, **wanted: object) -> dict[str, Any]:
        """Return the next object that has all of these."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.got.append(json.loads(line))
            if wanted.items() <= self.got[-1].items():
                return self.got[-1]
        raise AssertionError(f"the program has ended without {wanted}; it printed {self.got[-5:]}")

    def finish(self) -> None:
        """Read all that is left, and see the program end by itself."""
        assert self.process.stdout is not None
        self.got += map(json.loads, self.process.stdout)
        assert self.process.wait(timeout=20) == 0

    def call(self, method: str, *values: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, *values]) + "\n")
        self.process.stdin.flush()
        return self.until(type="result", method=method)


def driver_with(lines: str) -> str:
    """Return the program with lines of its own: they define ``OPTIONS`` of its chat."""
    return DRIVER.replace("IMPORT", lines)


def command(folder: Path, program: str, flags: list[str] | None = None) -> list[str]:
    """Write a program and the client into a folder; return the command to run it."""
    if flags is None:
        flags = websocket_flags()
    if flags is None:
        absent(f"needs a Node with a WebSocket: 20.10 or newer, and not {node_version()}")
    (folder / "mpchat.mjs").write_bytes(source("javascript"))
    (folder / "program.mjs").write_text(program, encoding="utf-8")
    return ["node", *flags, str(folder / "program.mjs")]


@contextmanager
def program(driver: list[str], server: Server, first: str = "welcome") -> Iterator[Program]:
    """Run a program until it has printed the ``first`` object of this type."""
    host, port = server.address
    with subprocess.Popen(
        [*driver, f"ws://{host}:{port}/ws"],
        env={**os.environ, "NODE_NO_WARNINGS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            made = Program(process)
            made.until(type=first)
            yield made
        finally:
            process.kill()
