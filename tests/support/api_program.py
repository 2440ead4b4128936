"""A program that uses the HTTP API over one connection."""

import json
from http.client import HTTPConnection
from typing import Any

from support.harness import Server
from support.waiting import PATIENCE


class Program:
    """A program that uses the API over one connection."""

    def __init__(self, server: Server, token: str) -> None:
        self._http = HTTPConnection(*server.address, timeout=PATIENCE)
        self._token = token
        self.headers: dict[str, str] = {}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return the status and the JSON of the answer."""
        sent = {"Authorization": f"Bearer {self._token}", **headers} if self._token else headers
        if isinstance(body, dict):
            sent, body = {"Content-Type": "application/json", **sent}, json.dumps(body).encode()
        self._http.request(method, path, body, sent)
        answer = self._http.getresponse()
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(answer.read())

    def say(self, text: str, room: str) -> int:
        """Say something in a room; return its number."""
        status, said = self.ask("POST", "/api/say", {"message": text, "room": room})
        assert status == 200, said
        return int(said["seq"])

    def close(self) -> None:
        self._http.close()
