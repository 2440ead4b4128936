"""Admission: whether a client may connect: bans, the room that is left, the limits per address."""

import time

from mpchat.hub.hub import Hub
from mpchat.ipc.addresses import covers, owner_of
from mpchat.supervisor.change_runner import ChangeRunner
from mpchat.supervisor.connect_rates import ConnectRates, Rate
from mpchat.supervisor.live_settings import LiveSettings
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.refusals import BANNED, Refusal
from mpchat.supervisor.tls_pool import TlsPool

TOO_FAST = Refusal(
    "your address connects too fast; wait a few seconds, then connect again",
    "too_fast",
    "429 Too Many Requests",
)


class Admission:
    """Decides whether a client may come in, from the settings and from what is connected."""

    def __init__(
        self,
        settings: LiveSettings,
        hub: Hub,
        pool: WorkerPool,
        tls: TlsPool,
        placement: Placement,
        changes: ChangeRunner,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._pool = pool
        self._tls = tls
        self._placement = placement
        self._changes = changes
        self._rates = ConnectRates()

    @property
    def limit(self) -> int:
        """How many connections the server takes at a time.

        Workers that a change will remove do not count, nor do slots whose workers keep dying.
        """
        able = min(self._pool.able, self._changes.aim or self._pool.able)
        fits, most = self._placement.per_worker * able, self._settings.config.max_connections
        return min(fits, most) if most else fits

    @property
    def connections(self) -> int:
        """How many connections there are, those in transit included."""
        return self._pool.connections + len(self._placement) + self._tls.shaking

    def is_proxy(self, host: str) -> bool:
        """Tell whether connections from ``host`` are a proxy's, for clients of other addresses."""
        return any(covers(network, host) for network in self._settings.config.proxy_from)

    def check(self, host: str) -> Refusal | None:
        """Return why a client from ``host`` may not come in, or None if it may."""
        self._hub.moderator.watch_clock()
        if self.is_proxy(host):  # for whom it comes is not known yet
            return self.full if self.connections >= self.limit else None
        if self._hub.state.moderation.banned_host(host, self._hub.wall()):
            return BANNED
        if self.connections >= self.limit:
            return self.full
        most = self._settings.config.max_per_address
        if most and self._placement.from_host(host) >= most:
            return Refusal(f"{most} clients are connected from your address already")
        config = self._settings.config
        rate = Rate(config.connect_rate, config.connect_burst)
        return None if self._rates.admit(owner_of(host), rate, time.monotonic()) else TOO_FAST

    @property
    def full(self) -> Refusal:
        """What clients are told that do not fit."""
        if not self.limit:
            return Refusal("no worker can be kept alive at present; try again later")
        return Refusal(f"the server is full: {self.limit} clients; try again later")

    @property
    def surplus(self) -> int:
        """How many connections there are beyond the limit: workers kept dying after they had come in."""
        return max(0, self.connections - self.limit)
