"""HTTP desk: answers the HTTP requests that workers pass on.

A page answers what is asked for at its path and below. ``desk.pages["/metrics"] = page`` registers one: it is
called in the loop, and answers then or later. ``desk.pages["/api"] = desk.later(make)`` registers one that is
made when it is first asked for: ``make()`` may import what it needs, in a thread, and returns the page.

A worker forgets a request whose client has gone, or that was not answered in time. So nothing is kept here.
"""

import logging
from collections.abc import Callable

from mpchat.hub.endpoint import Endpoint
from mpchat.ipc.http_questions import Answer, Question, decode_question, encode_answer, error_answer
from mpchat.ipc.items import Down
from mpchat.supervisor.job_thread import Job, OnDone

# Takes an answer; call it once.
Reply = Callable[[Answer], None]
# Answers a request, now or later. An error that it raises is logged, and answered with 500.
Page = Callable[[Question, Reply], None]

# Requests that wait for a page that is being made; further ones are refused.
MOST_WAITING = 100

FAILED = error_answer(500, "internal_error", "the server cannot answer; its log says why")

log = logging.getLogger("mpchat.supervisor")


class HttpDesk:
    """The pages, by their paths."""

    def __init__(self, in_thread: Callable[[Job, OnDone], None]) -> None:
        """``in_thread(job, on_done)`` does a job in a thread; see :meth:`JobThread.do`."""
        # A page is for its path and all paths below it; the longest one counts.
        self.pages: dict[str, Page] = {}
        self._in_thread = in_thread

    def later(self, make: Callable[[], Page]) -> Page:
        """Return a page that is made by ``make``, in a thread, when it is first asked for."""
        return _LatePage(make, self._in_thread)

    def take(self, endpoint: Endpoint, asked: tuple[int, bytes]) -> None:
        """Answer a request of a worker's client."""
        number, packed = asked

        def reply(answer: Answer) -> None:
            endpoint.send_frames(Down.HTTP, number, encode_answer(answer))

        question = decode_question(packed)
        answer_safely(self.page_for(question.path), question, reply)

    def page_for(self, path: str) -> Page:
        """Return the page that answers at a path."""
        while path:
            if (page := self.pages.get(path)) is not None:
                return page
            path = path.rpartition("/")[0]
        return _nothing


class _LatePage:
    """A page that is not there before it is asked for."""

    def __init__(self, make: Callable[[], Page], in_thread: Callable[[Job, OnDone], None]) -> None:
        self._make = make
        self._in_thread = in_thread
        self._made: list[Page] = []
        # Requests that wait for it; None: it is not being made.
        self._waiting: list[tuple[Question, Reply]] | None = None

    def __call__(self, question: Question, reply: Reply) -> None:
        """Answer a request, if need be when the page is made."""
        if self._made:
            self._made[0](question, reply)
        elif self._waiting is None:
            self._waiting = [(question, reply)]
            self._in_thread(lambda: self._made.append(self._make()), self._on_made)
        elif len(self._waiting) < MOST_WAITING:
            self._waiting.append((question, reply))
        else:
            reply(error_answer(503, "try_later", "the server is just getting ready for this; try again"))

    def _on_made(self, error: Exception | None) -> None:
        waiting, self._waiting = self._waiting or [], None
        if error is not None:
            log.error("a page of HTTP could not be made", exc_info=error)
        for question, reply in waiting:
            if error is None:
                answer_safely(self._made[0], question, reply)
            else:
                reply(FAILED)


def answer_safely(page: Page, question: Question, reply: Reply) -> None:
    """Let a page answer. A failure with one request must not end the server of all."""
    try:
        page(question, reply)
    except Exception:
        log.exception("failed: %r", question)
        reply(FAILED)


def _nothing(question: Question, reply: Reply) -> None:
    reply(error_answer(404, "not_found", "there is nothing here"))
