"""The hub's state without processes: asked by a test, and what clients are sent for it."""

import json
from collections.abc import Iterable
from typing import Any

from mpchat.auth.grant import Grant, Identity
from mpchat.auth.lookalikes import looks
from mpchat.hub.effects import Effect, End, Enter, Tell
from mpchat.hub.entries import Asked, Configured, Denied, Entry, Left, Posted, Swept, WorkerDied
from mpchat.hub.history import Run
from mpchat.hub.hosts import global_identity
from mpchat.hub.limits import Kept, Limits
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.state import HubState
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import CloseRoom, Join, Request, Sanction, Target
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
        # The epoch of the host whose clients ask, with a log that several hosts share.
        self.host = 0
        self._tokens = 0

    def address(self, identity: int) -> str:
        """Return the address of a client."""
        return f"{self.hosts.get(identity, '192.0.2.1')}:{identity}"

    def apply(self, entry: Entry) -> list[Effect]:
        """Apply an entry; return its effects."""
        effects = self.state.apply(entry, self.host)
        self._note(effects)
        return effects

    def _note(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, Tell | Enter):
                self.sent += [(effect.identity, each) for each in objects(effect.frames)]
            elif isinstance(effect, End):
                self.ended.append(effect.identity)

    def ask(
        self,
        identity: int,
        request: Request,
        now: float = 1.0,
        *,
        identified: Identity | None = None,
        denied: Denied | None = None,
    ) -> Object:
        """Ask; return the last object that this connection was sent for it, {} when it was sent none.

        ``identified`` and ``denied`` are what has come of the proof that a join shows.
        """
        before = len(self.sent)
        self._tokens += 1
        token = f"token {self._tokens}"
        address = self.address(identity)
        self.apply(Asked(now, now, identity, address, request, token, identified, denied))
        asker = global_identity(self.host, identity)
        return next((each for who, each in reversed(self.sent[before:]) if who == asker), {})

    def join(
        self,
        identity: int,
        name: str | None = None,
        now: float = 1.0,
        *,
        identified: Identity | None = None,
        denied: Denied | None = None,
        **join: Any,
    ) -> Object:
        """Ask to join."""
        request = Request(join=Join(name=name, **join))
        return self.ask(identity, request, now, identified=identified, denied=denied)

    def configure(self, limits: Limits, now: float = 1.0) -> None:
        """Let other limits hold."""
        self.apply(Configured(limits, notices=True, now=now))

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


def proven(name: str, **grant: Any) -> Identity:
    """Return what comes of a password or a token for a name; ``grant`` is what it allows."""
    return Identity(name, Grant(name, **grant), looks(name))


def by_secret(name: str) -> Identity:
    """Return what comes of the secret for all, with a free name."""
    return Identity(name, Grant(""), looks(name))


def unproven(name: str) -> Identity:
    """Return what comes of a join without a proof where registered names alone need one."""
    return Identity(name, None, looks(name))


def order(action: str, target: str, seconds: float = 60.0) -> Request:
    """Return an operator's request; a ban and a mute are for so many seconds."""
    wanted: dict[str, Any]
    if action == "close":
        wanted = {action: CloseRoom(target)}
    elif action in ("ban", "mute"):
        wanted = {action: Sanction(target, seconds)}
    else:
        wanted = {action: Target(target)}
    return Request(**wanted)
