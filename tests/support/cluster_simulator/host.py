"""A simulated host: a real hub and its membership, with a simulated link and simulated workers."""

from collections.abc import Callable
from itertools import count
from random import Random

from mpchat.cluster.store import Place, Snapshot, UnavailableError
from mpchat.hub import snapshot
from mpchat.hub.hosts import HostInfo
from mpchat.hub.limits import Kept, Limits
from mpchat.hub.log import Applied
from mpchat.hub.membership import Membership, Registration
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.shared_hub import SharedHub, SharedPast
from mpchat.hub.shared_log import VERSION
from mpchat.hub.state import HubState
from mpchat.ipc.items import PLAIN
from support.cluster_simulator.clock import Clock
from support.cluster_simulator.link import SimulatedLink
from support.cluster_simulator.worker import Connection, SimulatedWorker
from support.model_store import ModelLog, ModelStore

LEASE = 3.0
SWEEP_EVERY = 1.0
LIMITS = Limits(
    rooms=100,
    rooms_per_address=0,
    members=0,
    name_hold=4.0,
    kept=Kept(messages=100_000, size=64 << 20, age=0.0),
    lag=1 << 20,
    answers=1 << 20,
)


def parts_of(state: HubState) -> list[bytes]:
    """Return a snapshot of a state."""
    return list(snapshot.parts(snapshot.take(state)))


def restored(found: Snapshot) -> SharedPast:
    return SharedPast(snapshot.restore(found.parts), found.place)


class Running:
    """A host's process: from its start to its death."""

    def __init__(self, host: "Host", past: SharedPast, now: float) -> None:
        self.hub = SharedHub(LIMITS, past)
        self.stores = ModelStore(host.log), ModelStore(host.log)

        def register(store: ModelStore, generation: str, info: bytes) -> Registration:
            return Registration(
                *store.register(generation, host.name, f"instance of {host.name}", VERSION, info, LEASE)
            )

        self.link = SimulatedLink(self.stores, register, restored, LEASE, host.name)
        info = HostInfo(name=host.name, version=VERSION, knows=past.begun)
        self.membership = Membership(self.hub, self.link, info, LEASE)
        self.identities = count(1)
        self.workers: list[SimulatedWorker] = []
        # Connections between two workers: room and place, by identity.
        self.transit: dict[int, tuple[Connection, int, int]] = {}
        self.next_beat = self.next_sweep = now


class Host:
    """A host that may be running, stopped or dead."""

    def __init__(
        self, number: int, log: ModelLog, clock: Clock, random: Random, fail: Callable[[str], None]
    ) -> None:
        self.number, self.name = number, f"host-{number}"
        self.log, self.clock, self.random, self.fail = log, clock, random, fail
        self.running: Running | None = None
        # Until when it is stopped, with all its processes.
        self.stopped_until = 0.0
        self.on_applied: Callable[[Host, Applied], None] = lambda host, applied: None
        self._slots = count(1)

    @property
    def alive(self) -> bool:
        """True while its processes run."""
        return self.running is not None and self.stopped_until <= self.clock.now

    @property
    def process(self) -> Running:
        assert self.running is not None
        return self.running

    @property
    def hub(self) -> SharedHub:
        return self.process.hub

    @property
    def membership(self) -> Membership:
        return self.process.membership

    @property
    def serves(self) -> bool:
        return self.running is not None and self.membership.serves

    def enter(self) -> float:
        """Let this host's code run from here on; return its monotonic time."""
        self.clock.host = self.number
        return self.clock.monotonic()

    # Its process.

    def start(self) -> str:
        """Open the log, or begin one; return what has come of it."""
        now = self.enter()
        try:
            past = self._past()
        except UnavailableError:
            return "cannot reach the log"
        if past is None:
            return "was overtaken"
        self.stopped_until = 0.0
        self.running = Running(self, past, now)
        for _ in range(2):
            self.add_worker()
        note = self.hub.on_applied

        def on_applied(applied: Applied, at: float) -> None:
            self.on_applied(self, applied)
            note(applied, at)

        self.hub.on_applied = on_applied
        self.hub.delivery.on_kick = self.kick
        self.membership.count = self._count
        self.membership.begin()
        return f"begins at {past.place.position}"

    def _past(self) -> SharedPast | None:
        store = ModelStore(self.log)
        found = store.open()
        if found is None:
            begun = self._begun()
            if store.found(None, Snapshot(begun.place, 1, parts_of(begun.state))):
                return begun._replace(begun=True)
            found = store.load()
        return restored(found) if found is not None else None

    def _begun(self) -> SharedPast:
        generation, epoch = (f"{self.random.getrandbits(64):x}" for _ in range(2))
        state = HubState(LIMITS, Past(epoch), Moderation({}, {}))
        return SharedPast(state, Place(f"1-{generation}", 0, b"0" * 40, 0, 0.0, self.clock.time()))

    def _count(self) -> tuple[int, int]:
        workers = self.process.workers
        clients = sum(len(each.connections) for each in workers)
        speakers = sum(c.spoke and not c.asked for each in workers for c in each.connections.values())
        return clients, speakers

    def add_worker(self) -> None:
        slot = next(self._slots)
        worker = SimulatedWorker(slot, f"worker {slot} of {self.name}", self.fail)
        worker.on_export = lambda gone: self._on_export(worker, gone)
        self.process.workers.append(worker)
        self.hub.attach(worker)

    def die(self) -> None:
        """End the process with all workers at once; all its clients lose their connections."""
        for worker in self.process.workers:
            worker.dead = True
            for connection in list(worker.connections.values()):
                connection.closed = True
                connection.client.lose(connection, "died")
        for connection, _, _ in self.process.transit.values():
            connection.closed = True
            connection.client.lose(connection, "died")
        self.running = None
        self.stopped_until = 0.0

    def kill_worker(self, worker: SimulatedWorker, written: int) -> None:
        """End a worker, which had written so many of the items that the hub has not read."""
        now = self.enter()
        worker.dead = worker.ended = True
        while worker.up and written:
            written -= 1
            self.hub.take(worker, worker.up.popleft(), now)
        self.process.workers.remove(worker)
        self.hub.detach(worker, now)
        self.hub.worker_died(worker, worker.speakers, set(self.process.transit), now)
        for connection in list(worker.connections.values()):
            connection.closed = True
            connection.client.lose(connection, "worker died")
        self.add_worker()

    # Its connections.

    def accept(self, connection: Connection) -> None:
        ready = [each for each in self.process.workers if each.serving]
        self.random.choice(ready or self.process.workers).accept(connection)

    def kick(self, target: str) -> None:
        """Close the connections of a name or an address on all workers here."""
        address = self.hub.address_of(target) or target
        for worker in self.process.workers:
            worker.kick({address})

    def move(self) -> str:
        """Let a worker begin to move some of its connections."""
        movable = [each for each in self.process.workers if each.connections and not each.leaving]
        if not movable:
            return ""
        worker = self.random.choice(movable)
        all_of_it = list(worker.connections.values())
        leaving = self.random.sample(all_of_it, self.random.randint(1, len(all_of_it)))
        worker.begin_to_move(leaving)
        return f"{worker.label} is to let {[each.address for each in leaving]} go"

    def _on_export(self, worker: SimulatedWorker, gone: list[tuple[Connection, int, int]]) -> None:
        self.enter()
        for each in gone:
            self.process.transit[each[0].identity] = each
        self.hub.transit_began(worker, [each.identity for each, _, _ in gone])

    def land(self) -> str:
        """Let the first connection in transit arrive."""
        if not self.process.transit:
            return ""
        self.enter()
        identity = next(iter(self.process.transit))
        ready = [each for each in self.process.workers if each.serving]
        if not ready:
            return ""
        connection, room, place = self.process.transit.pop(identity)
        worker = self.random.choice(ready)
        self.hub.transit_ended(identity, worker)
        worker.take_over(connection, room, place if room != PLAIN else connection.place)
        return f"{connection.address} arrives at {worker.label}"

    # Its loop.

    def turn(self, most: int = 1000) -> None:
        """Let the supervisor's loop turn once."""
        now = self.enter()
        process = self.process
        for worker in process.workers:
            taken = most
            while worker.up and taken:
                taken -= 1
                self.hub.take(worker, worker.up.popleft(), now)
        process.membership.receive(now)
        self.hub.turn(now)
        process.membership.send(now)
        if now >= process.next_beat:
            process.next_beat = now + process.membership.beat_every
            process.membership.beat(now)
        if now >= process.next_sweep:
            process.next_sweep = now + SWEEP_EVERY
            self.hub.sweep(now)
        if process.membership.stopped:
            self.fail(f"{self.name} cannot go on: {process.membership.stopped}")

    def work(self, most: int = 1000) -> None:
        """Let its workers' loops turn once."""
        for worker in list(self.process.workers):
            worker.hear(most)
            worker.read(most)

    @property
    def idle(self) -> bool:
        """True when nothing is under way here."""
        process = self.process
        quiet = not process.transit and all(each.idle and not each.leaving for each in process.workers)
        return quiet and process.link.idle and self.hub.empty and not process.membership._returning
