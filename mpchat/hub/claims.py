"""Claims: which member has which name, and which names are held for members that may come back. Pure."""

import secrets

from mpchat.auth.grant import Identity
from mpchat.errors import ProtocolError
from mpchat.hub.held_names import HeldNames
from mpchat.hub.hosts import host_of
from mpchat.hub.saved import SavedClaim, SavedClaims
from mpchat.protocol.names import name_key

# Seconds that a join may be on its way longer than that of a newer connection of the same client.
ON_ITS_WAY = 10.0
# Names that are held at most; see held_names for which is free past it.
MOST_HELD = 100_000
# Seconds that a name which is free again is remembered where several hosts share the claims: a host that was
# taken for gone may come back with an older connection of its owner. And names that are remembered at most.
REMEMBERED = 3600.0
MOST_REMEMBERED = 100_000


class Claim:
    """A name, the connection that has it, and until when it is held while no connection has it."""

    __slots__ = ("before", "identity", "looks", "name", "proven", "since", "token", "until")

    def __init__(self, name: str, token: str) -> None:
        self.name = name
        self.identity: int | None = None
        self.token = token
        # The token before a takeover. It is good while no connection has the name: a client that was cut off
        # before it got the new token comes back with the old one.
        self.before = ""
        self.until = 0.0
        # Whether it was proven to be its owner's, and when it was asked for (seconds, monotonic).
        self.proven = False
        self.since = 0.0
        # How the name looks; see ``auth.lookalikes``. Empty where that is not asked for.
        self.looks: tuple[str, ...] = ()

    def saved(self) -> SavedClaim:
        """Return the claim as values."""
        return SavedClaim(
            self.name,
            self.identity,
            self.token,
            self.before,
            self.until,
            self.proven,
            self.since,
            self.looks,
        )

    @classmethod
    def from_saved(cls, saved: SavedClaim) -> "Claim":
        """Return the claim that was saved."""
        claim = cls(saved.name, saved.token)
        claim.identity, claim.before, claim.until = saved.identity, saved.before, saved.until
        claim.proven, claim.since, claim.looks = saved.proven, saved.since, saved.looks
        return claim

    def is_shown(self, token: str | None) -> bool:
        """Tell whether ``token`` proves that its sender owns the name."""
        good = [self.token] if self.identity is not None else [self.token, self.before]
        return bool(token) and any(
            secrets.compare_digest(str(token).encode(), each.encode()) for each in good
        )


class Claims:
    """All names in use, and all that are held."""

    def __init__(self) -> None:
        self._by_key: dict[str, Claim] = {}
        self._held = HeldNames()
        # The keys of the names that have a look.
        self._by_look: dict[str, set[str]] = {}
        # Names that are free again, the longest first: when each was last taken, and when it became free.
        self._freed: dict[str, tuple[float, float]] = {}

    def get(self, name: str) -> Claim | None:
        """Return the claim on a name, however it is spelled."""
        return self._by_key.get(name_key(name))

    def taken_since(self, name: str, since: float) -> bool:
        """Tell whether a connection has, or has lost, the name that took it later than at ``since``."""
        claim = self.get(name)
        taken = claim.since if claim is not None else self._freed.get(name_key(name), (since, 0.0))[0]
        return taken > since

    def similar(self, name: str, identified: Identity, now: float) -> str | None:
        """Return another name, in use or held, that looks like this one; None: there is none.

        A name that is not proven does not stand in the way of one that is.
        """
        key, proven = name_key(name), identified.proves_name
        # Sorted: a set of texts has another order in each process, and the client is told the name.
        alike = (other for look in identified.looks for other in sorted(self._by_look.get(look, ())))
        keys = (other for other in alike if other != key)
        for other in map(self._by_key.__getitem__, keys):
            if (other.identity is not None or other.until > now) and (other.proven or not proven):
                return other.name
        return None

    def take(
        self,
        name: str,
        identity: int,
        shown: str | None,
        fresh: str,
        now: float,
        identified: Identity | None = None,
    ) -> tuple[Claim, int | None]:
        """Give a name to a connection; return the claim, and the connection that had it before.

        ``shown`` is the token that the client sent. ``fresh`` becomes the name's token, if the name is new or
        taken over. ``now`` is when it was asked for. ``identified`` says whether the client has proven that
        the name is its own. Raises :class:`ProtocolError` ``name_taken``.
        """
        key = name_key(name)
        proven = identified is not None and identified.proves_name
        claim, replaced = self._by_key.get(key), None
        if claim is None or (claim.identity is None and claim.until <= now):
            if claim is not None:
                self._look(key, claim, ())
            claim = self._by_key[key] = Claim(name, fresh)
        elif not (proven or claim.is_shown(shown)):
            left = f"held for {claim.until - now:.0f} s more" if claim.identity is None else "in use"
            raise ProtocolError("name_taken", f"{claim.name} is {left}; its owner comes back with the token")
        elif claim.identity is not None:  # the client came back before the server knew that it had gone
            replaced = claim.identity
            # An older connection: this join was longer on its way, and the client is gone. But a proof may
            # also be shown late.
            # Of connections of different hosts the later one in the order is the newer one.
            older = replaced > identity and host_of(replaced) == host_of(identity)
            if older and not (proven and now > claim.since + ON_ITS_WAY):
                raise ProtocolError("name_taken", f"{claim.name} has come back by a later connection")
            claim.before, claim.token = claim.token, fresh  # else the replaced one would take it back
        if proven and not claim.is_shown(shown):  # the connection before may not have been the owner's
            claim.before, claim.token = "", fresh
        self._held.remove(key)
        claim.name, claim.identity = name, identity
        claim.proven, claim.since = proven, now
        self._look(key, claim, identified.looks if identified is not None else ())
        return claim, replaced

    def _look(self, key: str, claim: Claim, looks: tuple[str, ...]) -> None:
        """Note how a name looks from now on."""
        for look in claim.looks:
            self._by_look[look].discard(key)
            if not self._by_look[look]:
                del self._by_look[look]
        claim.looks = looks
        for look in looks:
            self._by_look.setdefault(look, set()).add(key)

    @property
    def held(self) -> int:
        """How many names are held for members that may come back."""
        return len(self._held)

    def saved(self) -> SavedClaims:
        """Return all claims as values."""
        held, holders = self._held.saved()
        freed = [(key, *times) for key, times in self._freed.items()]
        return SavedClaims([claim.saved() for claim in self._by_key.values()], held, holders, freed)

    def put_back(self, saved: SavedClaims) -> None:
        """Have, as the first, the claims that were saved."""
        for each in saved.claims:
            claim, key = Claim.from_saved(each), name_key(each.name)
            self._by_key[key] = claim
            for look in claim.looks:
                self._by_look.setdefault(look, set()).add(key)
        self._held.put_back(saved.held, saved.holders)
        self._freed = {key: (since, at) for key, since, at in saved.freed}

    def free(self, claim: Claim, now: float, *, remember: bool = False) -> None:
        """Let any client have the name from now on; ``remember``: see :meth:`taken_since`."""
        self._forget(name_key(claim.name), now, remember=remember)

    def hold(self, claim: Claim, now: float, seconds: float, address: str, *, remember: bool = False) -> None:
        """Keep the name for its owner for ``seconds``; forget names that were held long enough.

        ``address`` is what counts as one address, of the client that was lost. ``remember``: see
        :meth:`taken_since`.
        """
        claim.identity = None
        claim.until = now + seconds
        self._held.add(name_key(claim.name), address)
        while self._held and self._by_key[self._held.oldest].until <= now:
            self._forget_held(self._held.oldest, now, remember=remember)
        while len(self._held) > MOST_HELD:
            self._forget_held(self._held.first_to_go, now, remember=remember)

    def _forget_held(self, key: str, now: float, *, remember: bool) -> None:
        self._held.remove(key)
        self._forget(key, now, remember=remember)

    def _forget(self, key: str, now: float, *, remember: bool) -> None:
        claim = self._by_key.pop(key)
        self._look(key, claim, ())
        if not remember:
            return
        freed = self._freed
        freed.pop(key, None)
        freed[key] = (claim.since, now)
        while len(freed) > MOST_REMEMBERED or next(iter(freed.values()))[1] + REMEMBERED <= now:
            del freed[next(iter(freed))]
