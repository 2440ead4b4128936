"""The hub's state without processes: asked by a test, and what clients are sent for it."""

import json
from collections.abc import Iterable
from typing import Any

from mpchat.hub.effects import Effect, End, Enter, Tell
from mpchat.hub.entries import Asked, Entry, Left, Posted, Swept, WorkerDied
from mpchat.hub.history import Run
from mpchat.hub.limits import Kept, Limits
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.state import HubState
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import Join, Request
from support.crowd import payloads

KEPT = Kept(messages=100, size=1 << 20, age=0.0)
LIMITS = Limits(
    rooms=100, rooms_per_address=0, members=0, name_hold=60.0, kept=KEPT, lag=1 << 20, answers=1 << 30
)

Object = dict[str, Any]


def objects(frames: bytes) -> list[Object]:
    """Decode frames."""
    return [json.loads(each) for each in payloads(frames)]


def run(seq: int, count: int = 1, at: float = 0.0) -> Run:
    """Return a run of messages whose texts are their numbers."""
    frames = b"".join(message_frame(f"{number}") for number in range(seq, seq + count))
    return Run("r", seq, count, at, "alice", frames, at)


class Desk:
    """Applies entries, and keeps what each connection was sent alone."""

    def __init__(self, limits: Limits = LIMITS, past: Past | None = None) -> None:
        self.state = HubState(limits, past or Past("epoch"), Moderation())
        self.effects: list[Effect] = []
        self.sent: list[tuple[int, Object]] = []
        self.ended: list[int] = []
        # By identity: the host of a client, if it is not 192.0.2.1.
        self.hosts: dict[int, str] = {}
        self._tokens = 0

    def address(self, identity: int) -> str:
        """Return the address of a client."""
        return f"{self.hosts.get(identity, '192.0.2.1')}:{identity}"

    def apply(self, entry: Entry) -> list[Effect]:
        """Apply an entry; return its effects."""
        effects = self.state.apply(entry)
        self._note(effects)
        return effects

    def _note(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, Tell | Enter):
                self.sent += [(effect.identity, each) for each in objects(effect.frames)]
            elif isinstance(effect, End):
                self.ended.append(effect.identity)

    def ask(self, identity: int, request: Request, now: float = 1.0) -> Object:
        """Ask; return the last object that this connection was sent for it, {} when it was sent none."""
        before = len(self.sent)
        self._tokens += 1
        token = f"token {self._tokens}"
        self.apply(Asked(now, now, identity, self.address(identity), request, token))
        return next((each for who, each in reversed(self.sent[before:]) if who == identity), {})

    def join(self, identity: int, name: str | None = None, now: float = 1.0, **join: Any) -> Object:
        """Ask to join."""
        return self.ask(identity, Request(join=Join(name=name, **join)), now)

    def post(self, sender: int | str, *texts: str, at: float = 1.0, now: float | None = None) -> list[Effect]:
        """Say something at ``at``; the steady clock shows the same unless ``now`` says otherwise."""
        frames = b"".join(map(message_frame, texts))
        return self.apply(Posted(at if now is None else now, at, [(sender, len(texts), len(frames))], frames))

    def leave(self, identity: int, reason: str = "closed", now: float = 1.0) -> None:
        """End a connection that has asked to join."""
        self.apply(Left(now, [(identity, self.address(identity), reason)]))

    def kill_worker(self, *identities: int, now: float = 1.0) -> None:
        """End connections with their worker."""
        self.apply(WorkerDied(now, list(identities), len(identities)))

    def sweep(self, now: float = 1.0) -> None:
        """Let the state forget what it may forget."""
        self.apply(Swept(now, now))


def code(answer: Object) -> str:
    """Return an error's code."""
    return str(answer["error"]["code"])
