"""Worker watch: hears what workers say of their processes, and notices their deaths.

News of a process (ready, beat, kicked, drained) goes to the worker's handle or answers a question; all other
items go to the hub. What a death means for the slot is :mod:`mpchat.supervisor.pool`'s decision.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from mpchat.hub.endpoint import Endpoint
from mpchat.hub.hub import Hub
from mpchat.ipc.channel import Item
from mpchat.ipc.durations import Durations
from mpchat.ipc.items import Up, decode_beat
from mpchat.ipc.link_watch import LinkWatch
from mpchat.ipc.listing import decode_page
from mpchat.reactor import READ, Reactor
from mpchat.supervisor.ask_workers import WorkerQuestions
from mpchat.supervisor.metrics.totals import Totals
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.slot import how_it_ended
from mpchat.supervisor.worker_handle import WorkerHandle
from mpchat.supervisor.worker_process import missing_part


class WorkerEvents(NamedTuple):
    """What to call for one worker: it can serve; it has posted everything; it has died."""

    on_ready: Callable[[WorkerHandle], None]
    on_drained: Callable[[WorkerHandle], None]
    on_death: Callable[[WorkerHandle], None]


class NoHub:
    """Stands where a hub takes what workers say: TLS processes have nothing to say to it."""

    def attach(self, endpoint: Endpoint) -> None:
        """Take no note of a process."""

    def take(self, endpoint: Endpoint, item: Item, now: float) -> None:
        """Take an item that nobody knows."""
        endpoint.take(item.cost)

    def detach(self, endpoint: Endpoint, now: float) -> None:
        """Take no note of a death."""

    def worker_died(self, endpoint: Endpoint, speakers: int, in_transit: set[int], now: float) -> None:
        """Take no note of a death."""


class WorkerWatch:
    """Watches the channels, the hand-off sockets and the sentinels of all workers."""

    def __init__(
        self, reactor: Reactor, hub: Hub | NoHub, placement: Placement, questions: WorkerQuestions
    ) -> None:
        self._reactor = reactor
        self._hub = hub
        self._placement = placement
        self._questions = questions
        # Takes an HTTP request of a worker's client.
        self.on_question: Callable[[Endpoint, tuple[int, bytes]], None] = _no_desk
        self.totals = Totals()
        # Trips of items to a worker and back.
        self.trips = Durations()
        # By process id, until no more will come.
        self._links: dict[int, LinkWatch] = {}
        # What a worker says of its process; everything else is for the hub.
        self._on_news: dict[int, Callable[[WorkerHandle, WorkerEvents, Any], None]] = {
            Up.BEAT: self._on_beat,
            Up.READY: self._on_ready,
            Up.KICKED: self._on_kicked,
            Up.DRAINED: self._on_drained,
            Up.SPEAKERS: self._on_speakers,
            Up.HTTP: self._on_http,
            Up.TRIP: self._on_trip,
            Up.LISTED: self._on_listed,
        }

    def begin(self, handle: WorkerHandle, events: WorkerEvents) -> None:
        """Watch a worker that was just started, up to its death.

        Raise ``OSError`` when the system allows no more watches; then nothing of the worker is watched.
        """
        with ExitStack() as undo:
            sentinel = handle.process.sentinel
            self._reactor.watch(sentinel, READ, lambda mask: self._on_death(handle, events))
            undo.callback(self._reactor.forget, sentinel)
            link = LinkWatch(self._reactor, handle.endpoint.link, lambda mask: self._on_link(handle, events))
            undo.callback(link.close)
            self._placement.watch(handle)
            undo.pop_all()
        self._links[handle.pid] = link
        self.totals.begin(handle.pid, handle.title, handle.heartbeat)
        self._hub.attach(handle.endpoint)

    def _on_link(self, handle: WorkerHandle, events: WorkerEvents) -> None:
        if handle.closed:  # its death was handled earlier in this turn
            return
        self._receive(handle, events)
        if handle.endpoint.ended:  # its death comes through the sentinel; the pipe's end would come for ever
            self._links.pop(handle.pid).close()

    def _receive(self, handle: WorkerHandle, events: WorkerEvents) -> None:
        """Read what a worker has written: news of the process, and items for the hub."""
        now = self._reactor.now
        for item in handle.endpoint.receive(now):
            on_news = self._on_news.get(item.kind)
            if on_news is not None:
                handle.endpoint.take(item.cost)
                on_news(handle, events, item.payload)
            else:
                self._hub.take(handle.endpoint, item, now)

    def _on_beat(self, handle: WorkerHandle, events: WorkerEvents, payload: Any) -> None:
        handle.heartbeat.on_beat(decode_beat(payload), self._reactor.now)

    def _on_ready(self, handle: WorkerHandle, events: WorkerEvents, payload: Any) -> None:
        handle.heartbeat.on_ready(self._reactor.now)
        events.on_ready(handle)

    def _on_kicked(self, handle: WorkerHandle, events: WorkerEvents, payload: Any) -> None:
        number, ended = payload
        self._questions.answer(number, handle.pid, ended)

    def _on_listed(self, handle: WorkerHandle, events: WorkerEvents, payload: Any) -> None:
        number, page = payload
        self._questions.answer(number, handle.pid, decode_page(page))

    def _on_speakers(self, handle: WorkerHandle, events: WorkerEvents, payload: Any) -> None:
        handle.connections.speakers += payload

    def _on_http(self, handle: WorkerHandle, events: WorkerEvents, payload: Any) -> None:
        self.on_question(handle.endpoint, payload)

    def _on_trip(self, handle: WorkerHandle, events: WorkerEvents, payload: Any) -> None:
        self.trips.add(time.monotonic() - payload)

    def _on_drained(self, handle: WorkerHandle, events: WorkerEvents, payload: Any) -> None:
        handle.drained = True
        events.on_drained(handle)

    def _on_death(self, handle: WorkerHandle, events: WorkerEvents) -> None:
        """Read a dead worker's last items, and give connections that it has not acked to other workers."""
        now = self._reactor.now
        self._reactor.forget(handle.process.sentinel)
        code = handle.process.wait()  # from here on its ends are closed, and reading them comes to an end
        if (link := self._links.pop(handle.pid, None)) is not None:
            link.close()
        while not handle.endpoint.ended:
            self._receive(handle, events)
        self.totals.end(handle.pid)
        self._hub.detach(handle.endpoint, now)
        self._questions.on_death(handle.pid)
        handle.how = how_it_ended(code, missing_part() if code and not handle.ready else None)
        self._placement.unwatch(handle)
        # Below zero when a speaker's end was told, and the ack before it could not be sent.
        speakers, in_transit = max(0, handle.connections.speakers), self._placement.transit.identities
        self._hub.worker_died(handle.endpoint, speakers, in_transit, now)
        events.on_death(handle)


def _no_desk(endpoint: Endpoint, question: tuple[int, bytes]) -> None:
    raise AssertionError("a process asks that has no HTTP clients")
