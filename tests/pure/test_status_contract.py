"""The contract of ``mpchat status --json``: names, types and order, as the README describes them."""

import msgspec
import pytest

from mpchat.control.answers import History, LastReload, Limits, Pauses, ServerStatus, WorkerStatus

CONTRACT: dict[type[msgspec.Struct], dict[str, object]] = {
    ServerStatus: {
        "name": str,
        "pid": int,
        "version": str,
        "state": str,
        "started": float,
        "uptime": float,
        "addresses": list[str],
        "limits": Limits,
        "connections": int,
        "messages": int,
        "people": int,
        "rooms": int,
        "history": History | None,
        "refused": int,
        "refused_by_code": dict[str, int],
        "log": str,
        "runtime_dir": str,
        "generation": int | None,
        "moves": int,
        "change": str | None,
        "last_reload": LastReload | None,
        "workers": list[WorkerStatus],
    },
    Limits: {"connections": int, "per_address": int, "payload": int, "lag": int, "descriptors": int},
    History: {"path": str, "state": str, "waiting": int, "saved": int, "dropped": int},
    LastReload: {
        "at": float,
        "exit": int,
        "text": str,
        "seconds": float,
        "moved": int,
        "failed": int,
        "lost": int,
        "pauses": Pauses,
        "renewed": list[int],
        "changed": list[str],
        "kept": dict[str, str],
    },
    Pauses: {"p50": float, "p99": float, "max": float},
    WorkerStatus: {
        "slot": int,
        "pid": int | None,
        "state": str,
        "generation": int | None,
        "connections": int,
        "messages_in": int,
        "messages_out": int,
        "in_per_second": float,
        "out_per_second": float,
        "lag_ms": float,
        "late": int,
        "silent": float,
        "ended": dict[str, int],
        "rss": int,
        "cpu": float,
        "restarts": int,
        "restart_in": float | None,
        "deaths": int,
        "died": str,
    },
}


@pytest.mark.parametrize("kind", CONTRACT, ids=lambda kind: kind.__name__)
def test_names_types_and_order_are_those_of_the_contract(kind: type[msgspec.Struct]) -> None:
    found = {each.encode_name: each.type for each in msgspec.structs.fields(kind)}
    assert list(found.items()) == list(CONTRACT[kind].items())
