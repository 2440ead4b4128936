"""Cluster: a server that is one of several hosts of a chat. It opens the log, drives this host's part, and
says how that is.

Importing it imports redis-py: it is for servers with the setting ``cluster`` alone.
"""

import logging
import secrets
import time
import unicodedata
from collections.abc import Callable

from mpchat import __version__, cluster_url
from mpchat.auth.keys import read_secret
from mpchat.cluster.redis_store import RedisStore
from mpchat.cluster.store import (
    STAND_TIME,
    Place,
    RefusedError,
    Snapshot,
    StoreError,
    UnavailableError,
    UnreachableError,
)
from mpchat.config import Config
from mpchat.control import answers
from mpchat.errors import StartError
from mpchat.hub import snapshot
from mpchat.hub.hosts import Host, HostInfo
from mpchat.hub.membership import Membership, Part, new_generation
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.shared_hub import SharedHub, SharedPast, differ
from mpchat.hub.shared_log import VERSION
from mpchat.hub.state import HubState
from mpchat.reactor import Reactor
from mpchat.supervisor.live_settings import limits_of
from mpchat.supervisor.log_link import LogLink, Me

# The version of the tables by which names are compared.
UNICODE = unicodedata.unidata_version
# Seconds that the log gets at the end to take this host's leave.
LEAVE_PATIENCE = 2.0
# Seconds in which a start tries again to reach Redis, at least once, and between two attempts.
OPEN_PATIENCE = 1.0
OPEN_AGAIN = 0.25
# Seconds that a start waits for hosts that have lost the log and are about to begin it anew.
STAND_PATIENCE = 10.0

log = logging.getLogger("mpchat.supervisor")


class OpenLog:
    """A log that can be used, and what it has made of the state so far."""

    def __init__(self, config: Config, instance: str) -> None:
        """Reach Redis and load the newest snapshot, or begin a new log. May wait.

        ``instance`` tells installations apart that are named the same. Raises :class:`StartError`, one line.
        """
        self.instance = instance
        self.url = cluster_url.parse(config.cluster)
        self._password = ""
        if config.cluster_password:
            self._password = _password(config.cluster_password)
        self.stores = self._store(config), self._store(config), self._store(config)
        try:
            self.past = self._past(config)
        except UnreachableError as error:
            raise StartError(f"cluster: {error}: start it, or correct the setting cluster") from None
        except (StoreError, snapshot.SnapshotError) as error:
            raise StartError(f"cluster: {error}") from None

    def hub(self, config: Config, connections: Callable[[], int]) -> SharedHub:
        """Return the hub that goes on from there. ``connections`` returns how many there are."""
        self.shared_hub = SharedHub(
            limits_of(config), self.past, notices=config.notices, connections=connections
        )
        return self.shared_hub

    def _store(self, config: Config) -> RedisStore:
        return RedisStore(self.url, config.cluster_name, self._password)

    def _past(self, config: Config) -> SharedPast:
        store = self.stores[0]
        found = _opened(store)
        until = time.monotonic() + STAND_PATIENCE
        while found is None:
            begun = _begin(config)
            first = Snapshot(begun.place, snapshot.FORMAT, list(snapshot.parts(snapshot.take(begun.state))))
            if store.found(None, first):
                return begun._replace(begun=True)
            found = store.load()
            if found is None:
                if time.monotonic() > until:
                    raise RefusedError("the log was lost, and no host has begun it anew: start again")
                time.sleep(STAND_TIME / 4)
        return restored(found)


def _opened(store: RedisStore) -> Snapshot | None:
    """Open a store; a Redis that is just starting, or a link that was just cut, gets a second try."""
    until = time.monotonic() + OPEN_PATIENCE
    tried = 0
    while True:
        try:
            return store.open()
        except UnavailableError:
            tried += 1
            if tried > 1 and time.monotonic() > until:
                raise
            time.sleep(OPEN_AGAIN)


def _password(place: str) -> str:
    try:
        return read_secret("cluster_password", place).decode()
    except UnicodeDecodeError:  # which would show it
        raise StartError("cluster_password: what is there is no text in UTF-8") from None


def _begin(config: Config) -> SharedPast:
    """Return the state of a chat that nobody has said anything in."""
    past, moderation = Past(secrets.token_urlsafe(9)), Moderation({}, {})
    state = HubState(limits_of(config), past, moderation, notices=config.notices)
    place = Place(new_generation(), 0, secrets.token_hex(20).encode(), 0, 0.0, time.time())
    return SharedPast(state, place)


def restored(found: Snapshot) -> SharedPast:
    """Return the state of a snapshot. Raises :class:`~mpchat.hub.snapshot.SnapshotError`."""
    return SharedPast(snapshot.restore(found.parts), found.place)


class Cluster:
    """This server as a host of the cluster."""

    def __init__(self, reactor: Reactor, opened: OpenLog, config: Config) -> None:
        """Take part with the hub that ``opened`` has made."""
        self._reactor = reactor
        self._config = config
        self._hub = hub = opened.shared_hub
        self._url = opened.url
        info = HostInfo(
            name=config.host_name,
            version=VERSION,
            release=__version__,
            unicode=UNICODE,
            lease=config.cluster_lease,
            knows=opened.past.begun,
        )
        me = Me(config.host_name, opened.instance, VERSION, config.cluster_lease)
        self._link = LogLink(reactor, opened.stores, me, restored)
        self.membership = Membership(hub, self._link, info, config.cluster_lease)
        # Called when this host begins to serve, and when it cannot go on, with the reason.
        self.on_serving: Callable[[], None] = lambda: None
        self.on_hopeless: Callable[[str], None] = lambda why: None
        self._serving = self._differed = self._hopeless = False

    @property
    def serves(self) -> bool:
        """True once this host has caught up with the others."""
        return self._serving

    @property
    def away(self) -> str:
        """Why the log cannot be reached now; empty: it can."""
        return self.membership.away

    def begin(self) -> None:
        """Follow the log and register."""
        self.membership.begin()
        self._beat()

    def _beat(self) -> None:
        self._reactor.call_later(self.membership.beat_every, self._beat)
        self.membership.beat(self._reactor.now)
        # Two hosts that began at the same moment with different settings, each alone as far as it knew.
        if self._serving and len(self._hub.state.hosts.by_epoch) > 1:
            differs = self._hub.state.limits.auth != self._config.auth
            if differs and self._differed:
                self._end_for_auth()
            self._differed = differs

    def receive(self, now: float) -> None:
        """Take what the log has; call before the hub's turn."""
        self.membership.receive(now)
        if self.membership.stopped:
            self._give_up(self.membership.stopped)

    def turn(self, now: float) -> None:
        """Send what is to be put in order; call after the hub's turn."""
        self.membership.send(now)
        if not self._serving and self.membership.serves:
            self._serving = True
            self._agree(now)
            self.on_serving()

    def _agree(self, now: float) -> None:
        """Keep to the limits of the other hosts; a host that is alone sets its own."""
        config, state = self._config, self._hub.state
        if len(state.hosts.by_epoch) == 1:
            self._hub.change_limits(limits_of(config), notices=config.notices, now=now)
        elif state.limits.auth != config.auth:
            self._end_for_auth()
        elif other := next((each for each in state.hosts.by_epoch.values() if each.unicode != UNICODE), None):
            self._give_up(
                f"this Python has Unicode {UNICODE}, and that of host {other.name} has {other.unicode}: "
                "names would differ; run all hosts with one version of Python"
            )
        elif differ(limits_of(config), config.notices, state):
            log.warning("limits are those of the cluster %s, a reload sets others", config.cluster_name)

    def _give_up(self, why: str) -> None:
        """End this server, once: asked again, it would hurry, and forget that it did not start."""
        if not self._hopeless:
            self._hopeless = True
            self.on_hopeless(why)

    def _end_for_auth(self) -> None:
        """End this server: whoever it let in, the others would not."""
        others = ", ".join(each.name for each in self.hosts if each.state != "here")
        self._give_up(
            f"auth is {self._config.auth} here and {self._hub.state.limits.auth} in the cluster "
            f"{self._config.cluster_name} ({others}): set the same on all hosts"
        )

    def leave(self) -> None:
        """Take part no longer: what the log has from here on is not for clients of this host."""
        self.membership.leave()

    def close(self) -> None:
        """Wait until the log knows that this host has left."""
        self._link.close(LEAVE_PATIENCE)

    # For operators.

    @property
    def hosts(self) -> list[answers.Host]:
        """All hosts, by their names."""
        known = self._hub.state.hosts.by_epoch.values()
        return [self._host(each) for each in sorted(known, key=lambda each: each.name)]

    def _host(self, host: Host) -> answers.Host:
        here = host.epoch == self._hub.state.here
        place = self.membership.place
        silent = max(0.0, self._hub.log_time(time.monotonic()) - host.heard)
        position = place.position if here else host.position
        return answers.Host(
            name=host.name,
            state="here" if here else "living",
            epoch=host.epoch,
            lease=None if self.membership.away else max(0.0, host.lease - silent),
            position=position,
            lag=place.position - position,
            behind=0.0 if here else silent,
            clients=host.clients,
            version=host.release,
            log_version=host.version,
        )

    def status(self) -> answers.Cluster | None:
        """Return what ``mpchat status`` says of the cluster."""
        membership = self.membership
        away = bool(membership.away) and membership.part is Part.MEMBER
        return answers.Cluster(
            name=self._config.cluster_name,
            host=self._config.host_name,
            epoch=self._hub.state.here or None,
            state="away" if away else membership.part.value,
            since=membership.away_since if away else membership.since,
            reason=membership.away if away else membership.why,
            position=membership.place.position,
            redis=str(self._url),
            hosts=self.hosts,
        )
