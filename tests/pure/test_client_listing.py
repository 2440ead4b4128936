"""A page of connections: bounded, in order, and complete however connections move while it is gathered."""

import random
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.hub_limits import limits

from mpchat.control.answers import ClientsPage
from mpchat.control.messages import Answer
from mpchat.errors import MpchatError
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.state import HubState
from mpchat.ipc.connection_state import FRESH, ConnectionState, encode_state
from mpchat.ipc.items import Down
from mpchat.ipc.listing import LAST, MOVING, PAGE, WAITING, ListedClient, decode_page
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.session import DialectState
from mpchat.reactor import Reactor
from mpchat.supervisor import ask_workers, client_listing
from mpchat.supervisor.ask_workers import WorkerQuestions
from mpchat.supervisor.client_listing import ClientListing, Page
from mpchat.supervisor.worker_connections import HeldConnection
from mpchat.worker import listing as worker_listing
from mpchat.worker.listing import page_of

SMALL = 4
MOVED = encode_state(
    ConnectionState("plain", DialectState(b""), 0, Place(0), b"unread", False, 5.0, None, 6.0, 1.0, since=2.0)
)


def listed(identity: int, **more: Any) -> ListedClient:
    return ListedClient(identity, "127.0.0.1", identity, "plain", **more)


def connection(identity: int) -> Any:
    dialect = SimpleNamespace(name="plain")
    fanout = SimpleNamespace(owed_size=lambda _: 7)
    return SimpleNamespace(
        identity=identity, host="127.0.0.1", port=identity, dialect=dialect, fanout=fanout, undecided=False,
        secure=False, since=1.0, heard=2.0, outbox=b"abc", barred=False,
    )  # fmt: skip


def test_a_worker_lists_the_first_behind_the_cursor_and_no_more_than_a_page() -> None:
    here = {each: connection(each) for each in random.sample(range(1, 2000), 1000)}
    in_order = sorted(here)
    rows = decode_page(page_of(here, {}, 0, LAST))
    assert [each.identity for each in rows] == in_order[:PAGE]
    after, last = in_order[300], in_order[310]
    rows = decode_page(page_of(here, {}, after, last))
    assert [each.identity for each in rows] == in_order[301:311]
    assert (rows[0].behind, rows[0].since, rows[0].heard) == (10, 1.0, 2.0)


def test_a_worker_lists_what_has_left_it_until_another_process_holds_it() -> None:
    gone = cast(Any, {5: (connection(5), None)})
    rows = decode_page(page_of({7: connection(7)}, gone, 0, LAST))
    assert [(each.identity, each.state) for each in rows] == [(5, MOVING), (7, "served")]


def test_what_a_worker_says_holds_and_not_what_was_known_on_the_way() -> None:
    page = Page(0)
    page.add([listed(1, state=MOVING)])
    page.add([listed(1)], 2)
    page.add([listed(1, state=MOVING)])
    assert page.rows == {1: (listed(1), 2)}
    assert not page.full


class Workers:
    """Stands for the pool, the placement and the hub; connections are where the test puts them."""

    def __init__(self, count: int) -> None:
        self.at: list[set[int]] = [set() for _ in range(count)]
        # Connections that this process holds.
        self.here: dict[int, HeldConnection] = {}
        self.questions = WorkerQuestions(Reactor())
        self.witnesses: list[Any] = []
        self.asked: list[tuple[int, tuple[int, int, int]]] = []
        self.most_rows = 0
        self.handles = [self._handle(slot) for slot in range(1, count + 1)]
        self.ready = self.handles
        state = HubState(limits(1 << 20), Past("epoch"), Moderation())
        hub = SimpleNamespace(state=state)
        parts = cast(Any, (Reactor(), hub, self, self, self.questions))
        self.listing = ClientListing(*parts)
        self.answers: list[Answer[object]] = []

    def _handle(self, slot: int) -> Any:
        def send_now(kind: Down, payload: tuple[int, int, int]) -> None:
            assert kind == Down.LIST
            self.asked.append((slot, payload))

        return SimpleNamespace(
            slot=slot, pid=100 + slot, closed=False, endpoint=SimpleNamespace(send_now=send_now)
        )

    def held(self, handles: object) -> Iterator[HeldConnection]:
        return iter(self.here.values())

    def take(self, identity: int, state: Any = MOVED) -> None:
        """Let a connection leave its worker for this process."""
        for each in self.at:
            each.discard(identity)
        self.here[identity] = HeldConnection(identity, cast(socket.socket, None), "::1", identity, 1.0, state)
        for witness in self.witnesses:
            witness(self.here[identity])

    def give(self, identity: int, worker: int) -> None:
        """Let a worker have a connection that this process holds."""
        self.here.pop(identity, None)
        self.at[worker].add(identity)

    def answer_next(self) -> None:
        slot, (number, after, last) = self.asked.pop(0)
        rows = decode_page(page_of({each: connection(each) for each in self.at[slot - 1]}, {}, after, last))
        self.most_rows = max(self.most_rows, len(rows))
        self.questions.answer(number, 100 + slot, rows)

    def page(self, after: int = 0, room: str | None = None, *, without: tuple[int, ...] = ()) -> ClientsPage:
        """Return a page; :meth:`meanwhile` happens before each answer."""
        self.listing.page(after, room, list(without), self.answers.append)
        while self.asked:
            self.meanwhile()
            self.answer_next()
        result = self.answers.pop().result
        assert isinstance(result, ClientsPage)
        assert not self.witnesses, "a page that is done is told of no connection"
        return result

    def meanwhile(self) -> None:
        """Do nothing, unless a test has something to happen."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (worker_listing, client_listing):
        monkeypatch.setattr(module, "PAGE", SMALL)


def all_pages(workers: Workers) -> list[ClientsPage]:
    pages = [workers.page()]
    while (after := pages[-1].next) is not None:
        pages.append(workers.page(after))
    return pages


def ports(pages: list[ClientsPage]) -> list[int]:
    return [int(each.address.rpartition(":")[2]) for page in pages for each in page.clients]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(30))
def test_a_client_that_stays_is_listed_once_however_it_moves(seed: int) -> None:
    chance = random.Random(seed)
    workers = Workers(chance.randint(1, 4))
    identities = chance.sample(range(1, 500), chance.randint(0, 60))
    for each in identities:
        workers.give(each, chance.randrange(len(workers.at)))

    def meanwhile() -> None:
        for each in chance.sample(identities, min(len(identities), 5)):
            if each in workers.here:
                workers.give(each, chance.randrange(len(workers.at)))
            else:
                workers.take(each)
                if chance.random() < 0.5:  # at once
                    workers.give(each, chance.randrange(len(workers.at)))

    workers.meanwhile = meanwhile  # type: ignore[method-assign]
    pages = all_pages(workers)
    assert ports(pages) == sorted(identities)
    assert max(len(page.clients) for page in pages) <= SMALL
    assert workers.most_rows <= SMALL


@pytest.mark.usefixtures("small")
def test_connections_that_no_worker_has_are_shown_and_clients_at_tls_processes_counted() -> None:
    workers = Workers(1)
    workers.listing.shaking = lambda: 3
    workers.take(1)
    workers.take(2, FRESH)
    page = workers.page()
    moving, waiting = page.clients
    assert (moving.state, moving.behind, moving.worker, moving.protocol) == (MOVING, 6, None, "plain")
    assert (waiting.state, waiting.since, waiting.protocol, waiting.room) == (WAITING, None, None, None)
    assert page.shaking == 3


@pytest.mark.usefixtures("small")
def test_a_worker_that_dies_while_it_is_asked_is_passed_over() -> None:
    workers = Workers(2)
    workers.give(9, 1)
    workers.listing.page(0, None, [], workers.answers.append)
    workers.asked.clear()
    workers.questions.on_death(101)
    workers.answer_next()
    result = workers.answers.pop().result
    assert isinstance(result, ClientsPage)
    assert ports([result]) == [9]


@pytest.mark.usefixtures("small")
def test_a_worker_that_does_not_answer_is_named_and_the_page_comes_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ask_workers, "PATIENCE", 0.0)
    workers = Workers(2)
    workers.give(9, 1)
    reactor = workers.questions._reactor
    workers.listing.page(0, None, [], workers.answers.append)
    while not workers.answers:
        reactor.turn(0.1)
    assert workers.answers.pop().result == ClientsPage([], 0, [1])
    workers.asked.clear()
    assert ports([workers.page(without=(1,))]) == [9]


def test_a_room_that_is_not_there_is_an_error() -> None:
    with pytest.raises(MpchatError, match="no room nowhere"):
        Workers(1).page(room="nowhere")


def test_plain_clients_are_in_the_lobby() -> None:
    workers = Workers(1)
    workers.give(3, 0)
    (client,) = workers.page(room="Lobby").clients
    assert (client.room, client.name, client.worker) == ("lobby", "", 1)
