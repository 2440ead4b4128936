"""The simulation: one seed decides what happens to the hosts, the log and the clients, and in which order.

It has two parts. In the first one everything goes wrong that the seed has chosen. In the second one nothing
goes wrong any more: all must come to rest, and then what the clients have heard, and the states of the hosts,
must be right.
"""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random

from mpchat.cluster.store import RewoundError, TrimmedError
from mpchat.errors import MpchatError
from mpchat.hub import membership
from mpchat.hub.digest import Reading
from mpchat.hub.log import Applied
from mpchat.ipc.items import PLAIN, Up
from mpchat.protocol.names import name_key
from support.cluster_simulator.client import Client, Numbered, Truth
from support.cluster_simulator.clock import BEGIN, Clock, simulated
from support.cluster_simulator.host import Host, Running, parts_of
from support.cluster_simulator.plain import PlainClient
from support.cluster_simulator.worker import Connection
from support.model_store import ModelLog, ModelStore

ROOMS = ("lobby", "정원", "x")
NAMES = ("가람", "나래", "다온", "라온", "마루", "바다", "사라")
# Steps with faults, and those in which all must come to rest; the seconds that one takes.
STEPS = 120
REST = 400
LONGEST_STEP = 0.12
# Batches that the log keeps, and after which it gets a snapshot.
KEPT_BATCHES = 120
SNAPSHOT_BATCHES = 40
# The last steps that a failure shows.
SHOWN = 60

# What can go wrong. A seed chooses some of it.
FAULTS = ("cuts", "moves", "operators", "delays", "replies", "failures", "stops", "deaths", "workers", "away")
LOSSES = ("lose_last", "become_empty")


class Failure(AssertionError):
    """Something that must never be so."""


class Simulation:
    """One run of one seed."""

    def __init__(
        self, seed: int, *, show: Callable[[str], None] | None = None, may_differ: bool = False
    ) -> None:
        """``show`` gets each step as it is made. ``may_differ``: states must be equal only at the end."""
        self.seed = seed
        self.random = Random(f"cluster {seed}")
        self.clock = Clock()
        self.log = ModelLog(BEGIN, kept_batches=KEPT_BATCHES)
        self.truth = Truth()
        self.trace: deque[str] = deque(maxlen=SHOWN)
        self._show = show
        self._may_differ = may_differ
        chance = self.random
        self.faults = {each for each in FAULTS if chance.random() < 0.5}
        if chance.random() < 0.3:
            self.faults.add(chance.choice(LOSSES))
        many = chance.choice((2, 2, 3, 4))
        self.hosts = [Host(each, self.log, self.clock, chance, self.fail) for each in range(many)]
        self.clients = [
            Client(name, self.truth, self.fail) for name in NAMES[: chance.randint(3, len(NAMES))]
        ]
        self.plain = [PlainClient(f"plain{each}", self.truth, self.fail) for each in range(2)]
        self._ports = count(1)
        self._away_until = 0.0
        # What the state was at each place, by the place's chain: a log may be rolled back.
        self.readings: dict[bytes, tuple[Reading, str]] = {}
        # And the last number of each room.
        self.numbers: dict[bytes, dict[str, int]] = {}
        # Processes that had read what the store has lost then, and the chat's epochs of that moment.
        self.ahead: list[tuple[Running, set[str]]] = []
        # For each loss of the store that others may not notice, because they had not read what it has lost:
        # the processes that had, and what was seen of that.
        self.losses: list[tuple[list[Running], set[tuple[Numbered, str]]]] = []
        self.quiet = False
        for host in self.hosts:
            host.on_applied = self._on_applied
        if show is not None:
            for client in self.clients:
                client.trace = self.note

    # What is told.

    def note(self, step: str) -> None:
        """Keep a step for the one that reads of a failure."""
        if step:
            line = f"{self.clock.now:8.3f}  {step}"
            self.trace.append(line)
            if self._show is not None:
                self._show(line)

    def fail(self, why: str) -> None:
        """End the run."""
        self.note(f"FAILED: {why}")
        steps = "\n".join(self.trace)
        raise Failure(f"seed {self.seed} ({', '.join(sorted(self.faults))}): {why}\n{steps}")

    # The run.

    def run(self) -> None:
        """Raise :class:`Failure` for whatever is wrong."""
        with simulated(self.clock, self.random), _watched(self), _small_snapshots():
            try:
                self._run()
            except Failure:
                raise
            except Exception as error:  # noqa: BLE001 - of the code under test
                self.fail(f"{error!r} {traceback.format_exc()}")

    def _run(self) -> None:
        for _ in range(STEPS):
            self._step(self.random.random() * LONGEST_STEP)
        self._heal()
        self._rest()
        self._check()

    def _step(self, seconds: float) -> None:
        self.clock.now += seconds
        self.log.advance(seconds)
        chance = self.random
        if not self.quiet:
            self._go_wrong()
        for client in self.clients:
            if chance.random() < 0.5 or self.quiet:
                self._let_act(client)
        for plain in self.plain:
            self._let_act_plain(plain)
        for host in chance.sample(self.hosts, len(self.hosts)):
            if host.running is None:
                if self.quiet or chance.random() < 0.1:
                    self.note(f"{host.name} {host.start()}")
            elif host.alive:
                self._let_turn(host)

    def _let_turn(self, host: Host) -> None:
        chance = self.random
        slow = "delays" in self.faults and not self.quiet
        if not (slow and chance.random() < 0.4):
            host.work(3 if slow else 1000)
        if not (slow and chance.random() < 0.3):
            self._write(host, slow)
        if not (slow and chance.random() < 0.4):
            read = host.process.link.read()
            self.note(_said(host, read) if "away" not in read else "")
        if not (slow and chance.random() < 0.3):
            host.turn(4 if slow else 1000)
        host.work(2 if slow else 1000)
        if chance.random() < 0.5 or self.quiet:
            self.note(host.land())

    def _write(self, host: Host, slow: bool) -> None:
        chance, link, store = self.random, host.process.link, host.process.stores[0]
        for _ in range(1 if slow else 20):
            if not link.next_verb:
                return
            if not self.quiet and "replies" in self.faults and chance.random() < 0.2:
                store.lose_replies()
            if not self.quiet and "failures" in self.faults and chance.random() < 0.2:
                store.away = True
            done = link.write()
            store.away = False
            store.lose_replies(0)
            if done not in ("append: done", "append: Redis is away"):
                self.note(_said(host, done))
            if done.endswith("again"):
                return

    # What clients do.

    def _serving(self) -> list[Host]:
        return [each for each in self.hosts if each.serves]

    def _let_act(self, client: Client) -> None:
        chance = self.random
        if client.connection is None:
            hosts = self._serving()
            if hosts and (self.quiet or chance.random() < 0.3):
                host = chance.choice(hosts)
                connection = self._connect(host, client)
                client.connect(connection)
                client.join(client.room or chance.choice(ROOMS))
                self.note(f"{client.name} comes to {host.name} as {connection.address}")
            return
        if not client.is_in:
            if client.joining is None and (self.quiet or chance.random() < 0.3):
                client.join(client.room or chance.choice(ROOMS))
            return
        if not self.quiet:
            self._let_speak(client, client.connection)

    def _let_speak(self, client: Client, connection: Connection) -> None:
        chance = self.random
        choice = chance.random()
        if choice < 0.6:
            client.say()
        elif choice < 0.68:
            client.ask(chance.randrange(3))
        elif choice < 0.72:
            client.tell(chance.choice(self.clients).name)
        elif choice < 0.76 and client.joining is None:
            client.join(chance.choice([each for each in ROOMS if each != client.room]))
        elif choice < 0.78:
            self.note(f"{client.name} leaves")
            client.go("closed")
        elif choice < 0.82 and "cuts" in self.faults:
            self.note(f"{client.name} is cut off")
            if chance.random() < 0.5:
                connection.unread.clear()
            client.go("lost")

    def _let_act_plain(self, plain: PlainClient) -> None:
        hosts = self._serving()
        if plain.connection is None:
            if hosts and not self.quiet:
                plain.connection = self._connect(self.random.choice(hosts), plain)
        elif not self.quiet and self.random.random() < 0.3:
            plain.say()

    def _connect(self, host: Host, client: Client | PlainClient) -> Connection:
        address = f"192.0.2.{host.number + 1}:{next(self._ports)}"
        connection = Connection(next(host.process.identities), address, client)
        host.accept(connection)
        return connection

    # What goes wrong.

    def _go_wrong(self) -> None:
        chance = self.random
        for fault in sorted(self.faults):
            happens = getattr(self, f"_{fault}", None)
            if happens is not None and chance.random() < 0.06:
                happens()
        if self.log.away and self.clock.now >= self._away_until:
            self.log.away = False
            self.note("the store is back")

    def _running(self) -> list[Host]:
        return [each for each in self.hosts if each.alive]

    def _some_host(self) -> Host | None:
        running = self._running()
        return self.random.choice(running) if running else None

    def _moves(self) -> None:
        host = self._some_host()
        if host is not None:
            self.note(host.move())

    def _workers(self) -> None:
        host = self._some_host()
        if host is not None:
            worker = self.random.choice(host.process.workers)
            written = self.random.randint(0, len(worker.up))
            self.note(f"{worker.label} dies with {[each.address for each in worker.connections.values()]}")
            host.kill_worker(worker, written)

    def _deaths(self) -> None:
        host = self._some_host()
        if host is not None and self.random.random() < 0.4:
            self.note(f"{host.name} dies")
            host.die()

    def _stops(self) -> None:
        host = self._some_host()
        if host is not None and self.random.random() < 0.5:
            host.stopped_until = self.clock.now + self.random.random() * 6.0
            self.note(f"{host.name} is stopped until {host.stopped_until:.3f}")

    def _away(self) -> None:
        if not self.log.away and self.random.random() < 0.4:
            self.log.away = True
            self._away_until = self.clock.now + self.random.random() * 5.0
            self.note(f"the store is away until {self._away_until:.3f}")

    def _lose_last(self) -> None:
        if self.log.state is not None and self.random.random() < 0.3:
            entries = self.random.choice((1, 2, 5, 30))
            self.log.lose_last(entries)
            self._note_loss()
            self.note(f"the store loses its last {entries} entries")

    def _become_empty(self) -> None:
        if self.random.random() < 0.2:
            self.log.become_empty()
            self._note_loss()
            self.note("the store becomes empty")

    def _note_loss(self) -> None:
        """Note which hosts are to notice that the store has lost something."""
        self.truth.store_lost = True
        running = [each.process for each in self.hosts if each.running is not None]
        said = {each.epoch for each in self.truth.said}
        self.truth.forked |= {each.hub.state.members.past.epoch for each in running} | said
        # A host that is about to found has another epoch already, which nobody knows.
        following = [each for each in running if each.membership.part is not membership.Part.RECOVERING]
        epochs = {each.hub.state.members.past.epoch for each in following} | said
        state = self.log.state
        ahead: list[Running] = []
        behind = False
        for each in following:
            if state is not None and state.generation != each.membership.place.generation:
                continue  # it is behind, in a log that was replaced
            away, self.log.away = self.log.away, False
            try:
                ModelStore(self.log).check(each.membership.place)
            except RewoundError:
                ahead.append(each)
            except TrimmedError:
                behind = True
            else:
                behind = True
            finally:
                self.log.away = away
        self.ahead += [(each, epochs) for each in ahead]
        left = self.numbers.get(state.chain, {}) if state is not None else {}
        lost = {(key, text) for key, text in self.truth.seen.items() if key.number > left.get(key.room, 0)}
        if behind:
            self.losses.append((ahead, lost))

    def _close(self, host: Host, room: str, now: float) -> None:
        try:
            host.hub.close_room(room, now)
        except MpchatError as error:  # while members are moved
            self.note(f"{host.name} does not close {room}: {error}")
        else:
            self.note(f"{host.name} closes {room}")
            self.truth.closed.add(name_key(room))

    def _operators(self) -> None:
        host = self._some_host()
        if host is None or not host.serves:
            return
        now, chance = host.enter(), self.random
        name, room = chance.choice(self.clients).name, chance.choice(ROOMS)
        choice = chance.randrange(5)
        if choice == 0:
            self.note(f"{host.name} bans {name}")
            host.hub.moderator.ban(name, host.hub.wall() + 2.0, now)
            host.kick(name)
        elif choice == 1:
            self.note(f"{host.name} mutes {name}")
            host.hub.moderator.mute(name, host.hub.wall() + 1.0, now)
        elif choice == 2 and host.hub.can_close(room):
            self._close(host, room, now)
        elif choice == 3:
            self._announced = getattr(self, "_announced", 0) + 1
            if self._announced % 2:
                host.hub.announce(f"operator-{self._announced}", now)
            else:  # what programs say over HTTP
                host.hub.say_as("program", None, f"program at {host.name}-{self._announced}", now)
                host.hub.tell_as("program", name, f"program at {host.name}", now)
        elif choice == 4:
            worker = chance.choice(host.process.workers)
            number = chance.choice((PLAIN, *host.hub.state.rooms.by_number))
            worker.say(Up.STRAINED, (number, chance.random() < 0.5, 0))

    # Rest.

    def _heal(self) -> None:
        self.note("from here on nothing goes wrong")
        self.quiet = True
        self.log.away = False
        for host in self.hosts:
            host.stopped_until = min(host.stopped_until, self.clock.now)

    def _rest(self) -> None:
        for _ in range(REST):
            self._step(LONGEST_STEP)
            if self._is_at_rest():
                break
        else:
            self.fail(f"no rest: {self._unrest()}")
        for client in self.clients:
            client.say()
        for plain in self.plain:
            if plain.connection is not None:
                plain.say()
        for _ in range(20):
            self._step(LONGEST_STEP)
        for _ in range(100):
            for host in self.hosts:
                self._let_turn(host)
            if not self._unrest() and self._places() == 1:
                return
        self.fail(f"no rest after the last words: {self._unrest()}, {self._places()} places")

    def _is_at_rest(self) -> bool:
        return not self._unrest() and self._places() == 1

    def _places(self) -> int:
        return len({each.membership.place for each in self.hosts})

    def _unrest(self) -> list[str]:
        """Return who is not at rest."""
        found = [f"{each.name} waits for a log" for each in self.hosts if each.running is None]
        running = [each for each in self.hosts if each.running is not None]
        found += [f"{each.name}: {each.membership.part.value}" for each in running if not each.serves]
        found += [each.name for each in self.hosts if each.serves and not each.idle]
        everybody: list[Client | PlainClient] = [*self.clients, *self.plain]
        for client in everybody:
            connection = client.connection
            if connection is None and isinstance(client, PlainClient):
                continue
            if connection is None or connection.asking or connection.unread or connection.wants_more:
                found.append(f"{client.name} waits")
            elif isinstance(client, Client) and not client.is_in:
                found.append(f"{client.name} is out: {client.errors[-3:]}")
        return found

    # What must be so.

    def _on_applied(self, host: Host, applied: Applied) -> None:
        place = applied.place
        reading = host.hub.state.read_digest()
        self.numbers[place.chain] = {key: room.seq for key, room in host.hub.state.rooms.by_key.items()}
        other, by = self.readings.setdefault(place.chain, (reading, host.name))
        if other != reading and not self._may_differ:
            self.fail(f"{host.name} differs at {place.position} from {by}: {reading}, {other}")

    def _check(self) -> None:
        states = {host.name: b"".join(parts_of(host.hub.state)) for host in self.hosts}
        if len(set(states.values())) != 1:
            self.fail("the states differ")
        for host in self.hosts:
            self._check_members(host)
        self._check_epoch()
        self._check_costs()
        self._check_clients()
        self._check_acknowledged()

    def _check_costs(self) -> None:
        for host in self.hosts:
            for worker in host.process.workers:
                if worker.sent != worker.acknowledged:
                    self.fail(f"{worker.label}: {worker.acknowledged} of {worker.sent} bytes acknowledged")

    def _check_clients(self) -> None:
        for client in self.clients:
            if client.pending:
                self.fail(f"{client.name} has not heard its own {client.pending}")
        for room in ROOMS:
            inside = [each for each in self.clients if name_key(each.room) == name_key(room)]
            if len({(each.epoch, each.last) for each in inside}) > 1:
                self.fail(f"not equally far in {room}: {[(each.name, each.last) for each in inside]}")

    def _check_epoch(self) -> None:
        """A new epoch was begun, if a host had read what the store has lost."""
        epoch = self.hosts[0].hub.state.members.past.epoch
        for process, epochs in self.ahead:
            if epoch in epochs and any(each.process is process for each in self.hosts):
                self.fail(f"the store has lost what a host had read, and the epoch is still {epoch}")

    def _check_members(self, host: Host) -> None:
        found = {
            (member.name, member.room.name, member.address)
            for member in host.hub.state.members.by_identity.values()
            if member.room is not None
        }
        there = {(each.name, each.room, each.connection.address) for each in self.clients if each.connection}
        if found != there:
            self.fail(
                f"members at {host.name}: {sorted(found - there)} are ghosts, {sorted(there - found)} lack"
            )
        extra = len(host.hub.state.members.by_identity) - len(found)
        if extra or host.hub.state.members.ending:
            self.fail(f"{host.name} has {extra} nameless, ending {host.hub.state.members.ending}")

    def _check_acknowledged(self) -> None:
        """A message that its sender has seen is in the history of its room, unless the store has lost it.

        A loss begins another epoch, but for one that only hosts could have noticed that have died since,
        while others live on that had not read what was lost.
        """
        rooms = self.hosts[0].hub.state.rooms
        epoch = self.hosts[0].hub.state.members.past.epoch
        living = {each.process for each in self.hosts}
        unnoticed = set().union(*(lost for ahead, lost in self.losses if living.isdisjoint(ahead)))
        for key, text in self.truth.seen.items():
            if (key, text) in unnoticed:
                continue
            room = rooms.by_key.get(key.room)
            if key.epoch != epoch or room is None or (room.history.first or 0) > key.number:
                continue
            if key.room in self.truth.closed:
                continue
            run = next(room.history.since(key.number), None)
            if run is None or text.encode() not in run.frames:
                self.fail(f"{key} was seen by its sender as {text}, the history has {run}")


def _said(host: Host, text: str) -> str:
    return f"{host.name}: {text}" if text else ""


class _Watch(logging.Handler):
    """Notes what the hub logs, and fails for an exception: a hub takes each entry or refuses it."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self._simulation = simulation

    def emit(self, record: logging.LogRecord) -> None:
        simulation = self._simulation
        host = simulation.hosts[simulation.clock.host].name
        if "Redis is" in record.msg:  # as the step before says
            return
        simulation.note(f"{host} logs: {record.getMessage()}")
        if "whether the log has lost its end" in record.msg:
            simulation.truth.doubted = True
        if record.exc_info:
            simulation.fail(f"{host}: {record.exc_info[1]!r}: {logging.Formatter().format(record)}")


@contextmanager
def _watched(simulation: Simulation) -> Iterator[None]:
    logger, watch = logging.getLogger("mpchat.hub"), _Watch(simulation)
    before = logger.level, logger.propagate
    logger.addHandler(watch)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(watch)
        logger.level, logger.propagate = before


@contextmanager
def _small_snapshots() -> Iterator[None]:
    before = membership.SNAPSHOT_BATCHES
    membership.SNAPSHOT_BATCHES = SNAPSHOT_BATCHES
    try:
        yield
    finally:
        membership.SNAPSHOT_BATCHES = before
