"""Startup: what a server is started with, and what it reports to the command that started it."""

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from mpchat.config import Config
from mpchat.errors import MpchatError
from mpchat.instance.paths import option_text
from mpchat.settings import Sources

# Where to connect to a server that listens on every interface.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Order(msgspec.Struct, frozen=True):
    """What a server is started with: its settings, and where they came from, to be read again later."""

    config: Config
    sources: Sources


class Outcome(msgspec.Struct):
    """What a server in the background tells its starter: ``facts`` when it serves, else why it does not."""

    facts: dict[str, Any] = {}
    exit: int = 0
    text: str = ""


def take_order(descriptor: int) -> Order:
    """Return what the starter put into the pipe."""
    with open(descriptor, "rb") as stream:
        return msgspec.convert(json.loads(stream.read()), type=Order)


def take_interrupts() -> None:
    """Let Ctrl-C through again, in the new program: until the server has its handlers it ends at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def start_text(config: Config, facts: Mapping[str, Any]) -> str:
    """Return what a person should know of a server that has just started."""
    options = option_text(config.name, config.runtime_dir)
    # Without an address it is the server that this folder and environment mean, which may be another one.
    where = _where_to_chat(str(facts["addresses"][0]), by_default=not options)
    lines = [
        f'mpchat "{facts["name"]}" serves at {", ".join(facts["addresses"])}',
        f"pid {facts['pid']}, workers: {facts['workers']}, connections that fit: {facts['fits']}",
        f"  chat:  mpchat chat{where}",
        f"  watch: mpchat status --watch{options}",
        f"  stop:  mpchat stop{options}",
    ]
    if facts["log"]:
        lines.insert(2, f"log: {facts['log']}")
    return "\n".join(lines)


def _where_to_chat(address: str, *, by_default: bool) -> str:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    host = LOOPBACK.get(host, host)
    return "" if by_default and (host, port) == ("127.0.0.1", "4000") else f" {host} {port}"


def report(descriptor: int, outcome: Outcome) -> None:
    """Tell the starter; it may have gone."""
    with suppress(OSError):
        os.write(descriptor, msgspec.json.encode(outcome))
    os.close(descriptor)


def failed(error: MpchatError) -> Outcome:
    return Outcome(exit=error.exit_code, text=str(error))
