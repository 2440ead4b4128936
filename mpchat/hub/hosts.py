"""Hosts: those that share one log, as the log itself says. Pure.

Every host that follows the log knows the same of all of them. A host is known by its epoch, the number that
its registration got. A host that registers again after its lease was over gets another epoch.
"""

from collections.abc import Callable

import msgspec

from mpchat.hub.entries import Arrived, HostBeat
from mpchat.protocol.names import name_key
from mpchat.protocol.requests import LOBBY, Join

# Bits of a connection's identity within its host. A host counts its connections from 1 on: at a million a
# second these are enough for a year.
HOST_BITS = 45


# Hosts whose last batch is remembered, those that take part aside. A host that returns after so many others
# have begun may say twice what it had just said when it was lost.
MOST_NUMBERS = 1000

# Positions whose chain is remembered: as many as may come within seconds, in which a loss is noticed.
MOST_CHAINS = 2000
# Logs that were lost whose hosts are remembered.
MOST_EARLIER = 4


def host_of(identity: int) -> int:
    """Return the epoch of the host that serves a connection, of its identity among all hosts."""
    return identity >> HOST_BITS


def global_identity(epoch: int, identity: int) -> int:
    """Return the identity among all hosts of a host's connection."""
    return (epoch << HOST_BITS) + identity


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The description that a host registers with."""

    name: str
    # The version of log entries that it writes, and mpchat's own.
    version: int
    release: str = ""
    # The version of Unicode's tables, by which names and rooms are compared.
    unicode: str = ""
    # Seconds.
    lease: float = 0.0
    # Whether this process has begun the log, or has followed it and had an epoch. Which one, in this log; 0:
    # none.
    knows: bool = False
    former: int = 0


encode_info = msgspec.msgpack.Encoder().encode
decode_info = msgspec.msgpack.Decoder(HostInfo).decode


class Host(msgspec.Struct, kw_only=True):
    """A host that takes part. Moments are on the log's clock, in seconds."""

    epoch: int
    name: str
    version: int
    release: str
    lease: float = 0.0
    unicode: str = ""
    # When it was registered (seconds since 1970).
    since: float
    # When it was last heard of.
    heard: float
    # How far it has applied the log, in bytes of all batches.
    total: int = 0
    # The digest of its state behind the batch at a position, the last that it has told.
    position: int = 0
    digest: bytes = b""
    clients: int = 0
    speakers: int = 0


class SavedHosts(msgspec.Struct, frozen=True):
    """All hosts as plain values, as a snapshot keeps them; see :class:`Hosts`."""

    hosts: list[Host] = []
    held: dict[int, list[int]] = {}
    numbers: dict[int, int] = {}
    earlier: dict[str, dict[int, int]] = {}
    chains: dict[int, bytes] = {}
    unproven: list[int] = []
    doubted: dict[str, int] = {}
    suspects: list[int] = []


class Hosts:
    """All hosts that take part, by their epochs."""

    def __init__(self) -> None:
        """Begin with none."""
        self.by_epoch: dict[int, Host] = {}
        # Rooms whose senders wait, by number, and the epochs of the hosts for which they do.
        self.held: dict[int, list[int]] = {}
        # The last batch of each host that was applied, also of those that are gone.
        self.numbers: dict[int, int] = {}
        # The same of logs that were lost, by their generations: epochs begin anew with each log.
        self.earlier: dict[str, dict[int, int]] = {}
        # The chain of the log at its last positions: it tells whether two hosts have read the same.
        self.chains: dict[int, bytes] = {}
        # Hosts that have arrived since a host from before was heard of: should all of those be dead, nobody
        # knows whether the log has lost its end. The last numbers of rooms when the first of them came. And
        # the connections that have more than these, in their order.
        self.unproven: list[int] = []
        self.doubted: dict[str, int] = {}
        self.suspects: dict[int, None] = {}

    @property
    def is_doubtful(self) -> bool:
        """True when only hosts are there that cannot know what the log has had before them."""
        return bool(self.unproven) and self.by_epoch.keys() <= set(self.unproven)

    @property
    def leader(self) -> int:
        """The epoch of the host that looks after what one host is to do for all; 0: there is none."""
        return min(self.by_epoch, default=0)

    @property
    def version(self) -> int | None:
        """The highest version of log entries that all hosts can read; None: there is no host."""
        return min((each.version for each in self.by_epoch.values()), default=None)

    def note(self, position: int, chain: bytes) -> None:
        """Take note of a place that was applied."""
        self.chains[position] = chain
        if len(self.chains) > MOST_CHAINS:
            del self.chains[next(iter(self.chains))]

    def has_read(self, position: int, chain: bytes) -> bool:
        """Tell whether the log had this chain at a position, as far as this state remembers it."""
        return self.chains.get(position, chain) == chain

    def agrees(self, other: "Hosts") -> bool:
        """Tell whether the other state comes from the same log as this one, as far as both remember it."""
        common = max(self.chains.keys() & other.chains.keys(), default=None)
        return common is not None and self.chains[common] == other.chains[common]

    def count(self, epoch: int, number: int, total: int, now: float) -> None:
        """Take note of a batch of a host, which had applied ``total`` bytes when it sent it."""
        self.numbers[epoch] = number
        host = self.by_epoch.get(epoch)
        if host is not None:
            host.total, host.heard = total, now
            if self.unproven and epoch not in self.unproven:
                self.believe()
        if len(self.numbers) > MOST_NUMBERS:
            gone = min(self.numbers.keys() - self.by_epoch.keys(), default=epoch)
            if gone != epoch:
                del self.numbers[gone]

    def number(self, generation: str, epoch: int, current: str) -> int:
        """Return the last batch of a host in one generation of the log that was applied; 0: none.

        ``current`` is the generation of this state. It may know nothing of the other one.
        """
        numbers = self.numbers if generation == current else self.earlier.get(generation, {})
        return numbers.get(epoch, 0)

    def begin_anew(self, generation: str) -> None:
        """Begin with no host and another log; ``generation`` is that of the lost one."""
        self.by_epoch, self.held = {}, {}
        self.earlier = {**dict(list(self.earlier.items())[1 - MOST_EARLIER :]), generation: self.numbers}
        self.numbers = {}

    def believe(self) -> None:
        """Take it that the log has all that it had."""
        self.unproven, self.doubted, self.suspects = [], {}, {}

    def doubt(self, identity: int, join: Join) -> None:
        """Take note of a connection that resumes, while the log may have lost its end."""
        if join.after is not None and join.after > self.doubted.get(name_key(join.room or LOBBY), 0):
            self.suspects[identity] = None

    def arrive(self, entry: Arrived, last: Callable[[], dict[str, int]] = dict) -> bool:
        """Take note of a host that takes part from now on; ``last`` returns the last numbers of rooms.

        Return False if nobody knows whether the log has lost its end.
        """
        info = decode_info(entry.info)
        is_alone = not self.by_epoch
        if is_alone or (info.knows and info.former not in self.unproven):
            self.believe()
        else:
            if not self.unproven:
                self.doubted = last()
            self.unproven.append(entry.epoch)
        self.by_epoch[entry.epoch] = Host(
            epoch=entry.epoch,
            name=info.name,
            version=info.version,
            release=info.release,
            lease=info.lease,
            unicode=info.unicode,
            since=entry.at,
            heard=entry.now,
        )
        return info.knows or not is_alone

    def beat(self, epoch: int, entry: HostBeat) -> None:
        """Take note of what a host says of itself."""
        host = self.by_epoch.get(epoch)
        if host is not None:
            host.position, host.digest = entry.position, entry.digest
            host.clients, host.speakers = entry.clients, entry.speakers

    def forget(self, epoch: int) -> Host | None:
        """Forget a host, and return what was known of it."""
        return self.by_epoch.pop(epoch, None)

    def hold(self, epoch: int, room: int, *, held: bool) -> bool:
        """Let a room's senders wait for a host, or no more; return whether that changes anything for them."""
        holders = self.held.setdefault(room, [])
        before = bool(holders)
        if held and epoch not in holders:
            holders.append(epoch)
        elif not held and epoch in holders:
            holders.remove(epoch)
        if not holders:
            del self.held[room]
        return before is not bool(holders)

    def let_go(self, epoch: int) -> list[int]:
        """Let no senders wait for a host any more; return the rooms whose senders may speak again."""
        rooms = [room for room, holders in self.held.items() if epoch in holders]
        return [room for room in rooms if self.hold(epoch, room, held=False)]

    def saved(self) -> SavedHosts:
        """Return all of it as values that nothing changes any more."""
        hosts = [msgspec.structs.replace(each) for each in self.by_epoch.values()]
        held = {room: holders.copy() for room, holders in self.held.items()}
        return SavedHosts(
            hosts,
            held,
            self.numbers.copy(),
            self.earlier.copy(),
            self.chains.copy(),
            self.unproven.copy(),
            self.doubted,
            list(self.suspects),
        )

    def put_back(self, saved: SavedHosts) -> None:
        """Go on from what was saved."""
        self.by_epoch = {each.epoch: each for each in saved.hosts}
        self.held, self.numbers = saved.held, saved.numbers
        self.earlier, self.chains = saved.earlier, saved.chains
        self.unproven, self.doubted = saved.unproven, saved.doubted
        self.suspects = dict.fromkeys(saved.suspects)
