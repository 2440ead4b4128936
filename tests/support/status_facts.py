"""A server's status as tests need it, and what a terminal shows of a picture."""

from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

from mpchat.control.answers import Limits, ServerStatus, WorkerStatus

# When the server of these tests was started (seconds since 1970).
STARTED = 1_700_000_000.0


def worker_facts(slot: int = 1, **more: Any) -> WorkerStatus:
    """Return a worker in which nothing is wrong."""
    facts = {
        "slot": slot,
        "pid": 4000 + slot,
        "state": "RUNNING",
        "generation": 1,
        "connections": 3,
        "messages_in": 10,
        "messages_out": 20,
        "in_per_second": 1.0,
        "out_per_second": 2.0,
        "lag_ms": 1.5,
        "late": 0,
        "silent": 0.2,
        "ended": {},
        "rss": 20 << 20,
        "cpu": 0.1,
        "restarts": 0,
    }
    return WorkerStatus(**{**facts, **more})


def server_facts(**more: Any) -> ServerStatus:
    """Return a server in which nothing is wrong."""
    limits = Limits(connections=100, per_address=0, payload=60_000, lag=1 << 20, descriptors=1024)
    facts = {
        "name": "default",
        "pid": 4000,
        "version": "1.0",
        "state": "RUNNING",
        "started": STARTED,
        "uptime": 90.0,
        "addresses": ["127.0.0.1:4000"],
        "limits": limits,
        "connections": 6,
        "messages": 20,
        "refused": 0,
        "log": "",
        "runtime_dir": "/run",
        "generation": 1,
        "workers": [worker_facts(1), worker_facts(2)],
    }
    return ServerStatus(**{**facts, **more})


def drawn(picture: RenderableType, width: int, **more: Any) -> str:
    """Return what a terminal of this width is sent."""
    console = Console(file=StringIO(), width=width, highlight=False, **{"color_system": None, **more})
    console.print(picture)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()
