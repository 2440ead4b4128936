"""Client listing: gathers a page of all connections for the operator, one worker after the other.

A page goes by identities: the PAGE lowest ones behind a cursor, over all workers. Each worker is asked only
for what can still be on the page, and what is gathered is cut to a page at once: memory is bounded by two
pages, and no two workers are busy with one listing at a time.

A connection may move while a page is gathered, from a worker that is asked later to one that was asked
before. Every move leads through this process, so what comes here meanwhile is put on the page too.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from heapq import nsmallest

from mpchat.config import format_address
from mpchat.control.answers import ClientFacts, ClientsPage
from mpchat.control.messages import Answer, Reply
from mpchat.errors import MpchatError
from mpchat.hub.hub import Hub
from mpchat.ipc.connection_state import decode_state
from mpchat.ipc.items import Down
from mpchat.ipc.listing import LAST, MOVING, PAGE, SERVED, UNKNOWN, WAITING, ListedClient
from mpchat.protocol.http import HttpDialect
from mpchat.reactor import Reactor
from mpchat.supervisor.ask_workers import WorkerQuestions
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.worker_connections import HeldConnection
from mpchat.supervisor.worker_handle import WorkerHandle
from mpchat.text import visible


class Page:
    """A page that is being gathered: rows by identity, and where it ends. Pure."""

    def __init__(self, after: int) -> None:
        """Begin behind ``after``."""
        self.after = after
        # The last identity that can be on the page.
        self.last = LAST
        # Each with the slot of its worker.
        self.rows: dict[int, tuple[ListedClient, int | None]] = {}

    @property
    def full(self) -> bool:
        """Whether more may follow behind ``last``."""
        return self.last != LAST

    def add(self, clients: Iterable[ListedClient], worker: int | None = None) -> None:
        """Add connections; what a worker says holds, not what was known of a connection on its way."""
        for each in clients:
            known = self.rows.get(each.identity)
            if self.after < each.identity <= self.last and (known is None or known[0].state != SERVED):
                self.rows[each.identity] = each, worker
        if len(self.rows) >= PAGE:
            self._cut()

    def _cut(self) -> None:
        kept = nsmallest(PAGE, self.rows)
        self.rows = {each: self.rows[each] for each in kept}
        self.last = kept[-1]


class ClientListing:
    """Answers requests for pages."""

    def __init__(
        self, reactor: Reactor, hub: Hub, pool: WorkerPool, placement: Placement, questions: WorkerQuestions
    ) -> None:
        self._reactor = reactor
        self._hub = hub
        self._pool = pool
        self._placement = placement
        self._questions = questions
        # How many clients are with TLS processes alone.
        self.shaking: Callable[[], int] = int

    def page(self, after: int, room: str | None, without: list[int], reply: Reply) -> None:
        """Gather a page and answer with it. Raise :class:`MpchatError` if there is no such room."""
        wanted = self._spelled(room) if room is not None else None
        page = Page(after)
        handles = [each for each in self._pool.ready if each.slot not in without]
        witness = partial(_witness, page)
        page.add(nsmallest(PAGE, self._held(page), key=lambda each: each.identity))
        self._placement.witnesses.append(witness)

        def answer(silent: list[int]) -> None:
            self._placement.witnesses.remove(witness)
            if silent:  # it is asked for again, without them
                reply(Answer(ClientsPage([], after, silent)))
            else:
                reply(Answer(self._page(page, wanted)))

        self._ask(page, handles, answer)

    def _spelled(self, name: str) -> str:
        room = self._hub.state.rooms.get(name)
        if room is None:
            raise MpchatError(f"there is no room {visible(name)}; mpchat rooms lists them")
        return room.name

    def _held(self, page: Page) -> Iterable[ListedClient]:
        for each in self._placement.held(self._pool.handles):
            if each.identity > page.after:
                yield _listed(each)

    def _ask(self, page: Page, handles: list[WorkerHandle], answer: Callable[[list[int]], None]) -> None:
        """Ask the first of these workers, and then the others; a worker that has died has no connections."""
        if not handles:
            answer([])
            return
        asked, *later = handles

        def on_result(rows: list[ListedClient], silent: set[int]) -> None:
            if silent:
                answer([asked.slot])
                return
            page.add(rows, asked.slot)
            self._ask(page, later, answer)

        if asked.closed:
            self._ask(page, later, answer)
            return
        number = self._questions.begin({asked.pid}, on_result, [])
        asked.endpoint.send_now(Down.LIST, (number, page.after, page.last))

    def _page(self, page: Page, room: str | None) -> ClientsPage:
        facts = (self._facts(*page.rows[each]) for each in sorted(page.rows))
        found = [each for each in facts if room in (None, each.room)]
        return ClientsPage(found, page.last if page.full else None, shaking=self.shaking())

    def _facts(self, client: ListedClient, worker: int | None) -> ClientFacts:
        member = self._hub.state.member_here(client.identity)
        room = self._hub.state.rooms.lobby.name
        if member is not None and member.room is not None:
            room = member.room.name
        now = self._reactor.now
        hears_nothing = client.barred or client.state == WAITING or client.dialect == HttpDialect.name
        return ClientFacts(
            address=format_address(client.host, client.port),
            name=member.name if member is not None else "",
            room=None if hears_nothing else room,
            protocol=client.dialect if client.dialect != UNKNOWN else None,
            tls=client.secure,
            state=client.state,
            since=time.time() - max(0.0, now - client.since) if client.since else None,
            silent=max(0.0, now - client.heard) if client.heard else None,
            behind=client.behind,
            worker=worker,
        )


def _witness(page: Page, connection: HeldConnection) -> None:
    page.add([_listed(connection)])


def _listed(connection: HeldConnection) -> ListedClient:
    """Describe a connection that no process has."""
    state = decode_state(connection.state)
    where = (connection.identity, connection.host, connection.port)
    if state is None:
        return ListedClient(*where, secure=connection.secure, state=WAITING)
    return ListedClient(
        *where,
        UNKNOWN if state.undecided else state.dialect,
        connection.secure,
        MOVING if connection.moved else WAITING,
        state.since,
        state.heard,
        len(state.outbox),
        state.barred,
    )
