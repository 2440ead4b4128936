"""Signing in to a server that checks proofs: one join and its answer, by a client of its own."""

import json
from typing import Any

from support.harness import Client, Server, raw_frame


def join(client: Client, **what: Any) -> dict[str, Any]:
    """Send a join and return its answer: a welcome or an error. In a closed chat nothing else comes first."""
    client.send_raw(raw_frame(json.dumps({"join": what}, ensure_ascii=False).encode()))
    answer = client.receive()
    while answer is not None and not answer.keys() & {"welcome", "error"}:
        answer = client.receive()
    assert answer is not None, "the connection ended, an answer to a join was expected"
    return answer


def sign_in(server: Server, source: str = "127.0.0.1", **what: Any) -> str:
    """Join on a new connection from an address; return the code of the error, "" for a welcome."""
    with Client(server.address, source=source) as client:
        answer = join(client, **what)
    return str(answer["error"]["code"]) if "error" in answer else ""
