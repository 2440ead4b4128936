"""Proofs: joins that wait until what they show was checked.

The check takes time and is made elsewhere (see :class:`Gate`). Its client is not read from meanwhile, and may
be moved to another worker.
"""

from typing import Protocol

import msgspec

from mpchat.auth.grant import Identity, Proof
from mpchat.errors import ProtocolError
from mpchat.hub.delivery import Delivery
from mpchat.hub.endpoint import Endpoint
from mpchat.hub.entries import Asked, Denied, Left, WorkerDied, ended_identities
from mpchat.hub.limits import Limits
from mpchat.hub.log import Prove, Proved
from mpchat.ipc.addresses import owner_of_client
from mpchat.ipc.items import Down
from mpchat.protocol.names import check_lengths
from mpchat.protocol.requests import Join


class Gate(Protocol):
    """What the hub needs of the part that checks proofs; see ``supervisor.gate``."""

    def ask(self, identity: int, address: str, proof: Proof) -> None:
        """Have a proof checked; ``Hub.proved`` gets the outcome."""

    def forget(self, identity: int) -> None:
        """Forget the proof of a connection that has ended."""


class Proofs:
    """The joins that wait."""

    def __init__(self, delivery: Delivery) -> None:
        """Begin with none. Without a gate no proof is taken."""
        self.gate: Gate | None = None
        self._delivery = delivery
        # By identity: the join, the worker that it came from, and the setting auth that it is checked by.
        self._waiting: dict[int, tuple[Prove, Endpoint, str]] = {}
        # Those of them that were checked while their connections were in transit: they wait for the arrival.
        self._held: dict[int, Proved] = {}
        # Connections that were in transit when an order of theirs was answered: no worker reads from them.
        self._unread: set[int] = set()

    def __bool__(self) -> bool:
        """True when a join or an answer waits; asked for each entry."""
        return bool(self._waiting or self._unread)

    @property
    def waiting(self) -> tuple[int, ...]:
        """The identities of connections whose joins wait."""
        return tuple(self._waiting)

    def to_prove(self, asked: Asked, limits: Limits, *, new: bool) -> Prove | Asked:
        """Return a join that is to be checked first: it shows a proof, or its name may need one.

        ``new``: its client has no name yet. Return any other request as it is. A join whose name or room is
        too long is denied: it is not kept for a check.
        """
        join = asked.request.join
        if join is None or self.gate is None:
            return asked
        proof = Proof(join.name, join.password, join.jwt, join.secret)
        if not proof.kinds and not (new and join.name is not None and limits.auth == "names"):
            return asked
        bare = msgspec.structs.replace(join, password=None, jwt=None, secret=None)
        request = msgspec.structs.replace(asked.request, join=bare)
        asked = msgspec.structs.replace(asked, request=request)
        try:
            check_lengths(name=join.name, room=join.room)
        except ProtocolError as error:
            short = msgspec.structs.replace(request, join=Join())
            return msgspec.structs.replace(asked, request=short, denied=Denied(error.code, error.text))
        return Prove(asked, proof)

    def begin(self, prove: Prove, endpoint: Endpoint, limits: Limits) -> None:
        """Have a join's proof checked; others may ask meanwhile."""
        identity = prove.asked.identity
        self._delivery.meet(identity, endpoint)
        endpoint.send(Down.CHECKING, (identity, True))
        self._check(prove, endpoint, limits)

    def _check(self, prove: Prove, endpoint: Endpoint, limits: Limits) -> None:
        assert self.gate is not None
        identity = prove.asked.identity
        self._waiting[identity] = prove, endpoint, limits.auth
        self.gate.ask(identity, owner_of_client(prove.asked.address), prove.proof)

    def outcome(self, identity: int, outcome: Identity | ProtocolError) -> tuple[Proved, Endpoint] | None:
        """Return what is to be put in order for what has come of a proof; None: the connection has ended."""
        if identity not in self._waiting:
            return None
        (asked, _), endpoint, _ = self._waiting[identity]
        if isinstance(outcome, ProtocolError):
            denied = Denied(outcome.code, outcome.text, outcome.proofs)
            return Proved(msgspec.structs.replace(asked, denied=denied)), endpoint
        return Proved(msgspec.structs.replace(asked, identified=outcome)), endpoint

    def take(self, identity: int, limits: Limits) -> bool:
        """Take a join out whose turn has come.

        Return False if its connection has ended, and if it is checked once more: by another setting auth than
        the one that holds now, the check may have asked for less.
        """
        waiting = self._waiting.pop(identity, None)
        if waiting is None:
            return False
        prove, endpoint, auth = waiting
        if auth == limits.auth:
            return True
        self._check(prove, endpoint, limits)
        return False

    def answered(self, identity: int) -> None:
        """Let the client be read from again, now or when it has arrived at its next worker."""
        recipient = self._delivery.recipient(identity)
        if recipient is None:
            return
        if recipient.endpoint is None:
            self._unread.add(identity)
        else:
            recipient.endpoint.send(Down.ANSWERED, identity)

    def hold(self, proved: Proved) -> None:
        """Keep a join that was checked while its connection was in transit."""
        self._held[proved.asked.identity] = proved

    def arrived(self, identity: int, endpoint: Endpoint) -> Proved | None:
        """Let a client be read from that was answered in transit. Return the join that was held for it."""
        if identity in self._unread:
            self._unread.remove(identity)
            endpoint.send(Down.ANSWERED, identity)
        return self._held.pop(identity, None) if self._held else None

    def forget(self, ended: Left | WorkerDied) -> None:
        """Forget the joins of connections that have ended."""
        for identity in ended_identities(ended):
            self._unread.discard(identity)
            self._held.pop(identity, None)
            if self._waiting.pop(identity, None) is not None and self.gate is not None:
                self.gate.forget(identity)
