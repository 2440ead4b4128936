"""Metrics page: ``/metrics``, for the addresses that the setting ``metrics_from`` names. For all others there
is nothing.

The figures of one moment are copied in the loop. What the page is written with is loaded in a thread, and the
page is written there. Requests that come together share one page, so many of them cost no more than a few.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from mpchat.ipc.addresses import covers
from mpchat.ipc.http_questions import Answer, Question, error_answer
from mpchat.ipc.items import Down
from mpchat.protocol.http import METRICS
from mpchat.reactor import Reactor
from mpchat.supervisor.http_desk import FAILED, Reply
from mpchat.supervisor.job_thread import JobThread
from mpchat.supervisor.status import StatusReport

if TYPE_CHECKING:
    from mpchat.supervisor.metrics.collector import Page
    from mpchat.supervisor.metrics.figures import Figures

# Seconds from the end of one page to the begin of the next: a page takes 10 ms of CPU with 64 workers.
PAUSE = 0.1
# Charged for a page beside its bytes; see ``worker.budget.BUDGET``.
COST = 20_000
# Seconds between two trips of an item to each worker, and for how long they go on after the last request.
TRIP_EVERY = 1.0
TRIPS_FOR = 300.0
# Seconds that the thread gets at the end.
PATIENCE = 1.0

NOT_FOUND = error_answer(404, "not_found", "there is nothing here")
WRONG_METHOD = error_answer(405, "bad_request", "only GET and HEAD are known here", ("Allow", "GET, HEAD"))

log = logging.getLogger("mpchat.supervisor")

Write = Callable[["Figures", Iterable[str]], dict[str, "Page"]]


def write(figures: "Figures", accepts: Iterable[str]) -> dict[str, "Page"]:
    """Return the page for each ``Accept`` header. It takes milliseconds, and the first time longer."""
    from mpchat.supervisor.metrics.collector import render
    from mpchat.supervisor.metrics.processes import look_at
    from mpchat.supervisor.metrics.table import SUPERVISOR, Snapshot

    running = [(pid, title) for pid, title, _ in (*figures.workers.running, *figures.tls.running)]
    snapshot = Snapshot.of(figures, look_at([(os.getpid(), SUPERVISOR), *running]))
    return {accept: render(snapshot, accept) for accept in accepts}


class MetricsPage:
    """Answers those who ask for metrics."""

    def __init__(self, reactor: Reactor, figures: Callable[[], "Figures"], report: StatusReport) -> None:
        """``figures`` copies those of this moment."""
        self._reactor = reactor
        self._figures = figures
        self._report = report
        # From when metrics are first asked for.
        self._thread: JobThread | None = None
        # Requests that wait for the next page, and what each of them accepts.
        self._waiting: list[tuple[str, Reply]] = []
        # True from when a page is planned until it is written.
        self._busy = False
        # When the last page was written, and when one was asked for last (seconds, monotonic).
        self._written_at = self._asked_at = 0.0
        self._makes_trips = False

    def is_for(self, host: str) -> bool:
        """Tell whether a client may read the metrics."""
        return any(covers(each, host) for each in self._report.settings.config.metrics_from)

    def __call__(self, question: Question, reply: Reply) -> None:
        """Answer a request, as soon as the page is written."""
        if question.path != METRICS or not self.is_for(question.host):
            reply(NOT_FOUND)
        elif question.method not in ("GET", "HEAD"):
            reply(WRONG_METHOD)
        else:
            self._waiting.append((question.headers.get("accept", ""), reply))
            self._asked_at = self._reactor.now
            self._begin_trips()
            self._plan()

    def _plan(self) -> None:
        if self._busy or not self._waiting:
            return
        self._busy = True
        pause = self._written_at + PAUSE - time.monotonic()
        if pause > 0:
            self._reactor.call_later(pause, self._write)
        else:
            self._write()

    def _write(self) -> None:
        """Write a page for all that wait."""
        if self._thread is None:
            self._thread = JobThread(self._reactor, "metrics")
        waiting, self._waiting = self._waiting, []
        pages: dict[str, Page] = {}
        figures, accepts = self._figures(), {accept for accept, _ in waiting}
        self._thread.do(
            lambda: pages.update(write(figures, accepts)), partial(self._on_written, waiting, pages)
        )

    def _on_written(
        self, waiting: list[tuple[str, Reply]], pages: dict[str, "Page"], error: Exception | None
    ) -> None:
        self._busy, self._written_at = False, time.monotonic()
        if error is not None:
            log.error("the metrics could not be written", exc_info=error)
        for accept, reply in waiting:
            reply(_answer(pages[accept]) if accept in pages else FAILED)
        self._plan()

    def close(self) -> None:
        """End the thread; the loop does not turn any more."""
        if self._thread is not None:
            self._thread.close(PATIENCE)

    # Trips to workers and back.

    def _begin_trips(self) -> None:
        if not self._makes_trips:
            self._makes_trips = True
            self._make_trips()

    def _make_trips(self) -> None:
        """Send each worker an item that it sends back; again and again while metrics are asked for."""
        if time.monotonic() - self._asked_at > TRIPS_FOR:
            self._makes_trips = False
            return
        self._reactor.call_later(TRIP_EVERY, self._make_trips)
        for handle in self._report.pool.ready:
            handle.endpoint.send(Down.TRIP, time.monotonic())


def _answer(page: "Page") -> Answer:
    return Answer(200, [("Content-Type", page.content_type)], page.body, COST)
