"""The desk that answers HTTP requests: which page, errors, and pages that are made late."""

from typing import Any

import pytest

from mpchat.ipc.http_questions import Answer, Question, as_json, decode_answer, encode_question
from mpchat.ipc.items import Down
from mpchat.supervisor.http_desk import MOST_WAITING, HttpDesk, Page, Reply
from mpchat.supervisor.job_thread import Job, OnDone


class Worker:
    """Keeps what a worker was sent."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Answer]] = []

    def send_frames(self, kind: int, head: Any, frames: bytes, head_size: int = 0) -> None:
        assert kind == Down.HTTP
        self.answers.append((head, decode_answer(frames)))


class Thread:
    """Does jobs when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Job, OnDone]] = []

    def do(self, job: Job, on_done: OnDone) -> None:
        self.jobs.append((job, on_done))

    def work(self) -> None:
        for job, on_done in self.jobs:
            error = None
            try:
                job()
            except Exception as raised:  # noqa: BLE001
                error = raised
            on_done(error)
        self.jobs.clear()


class Counter:
    """Server for a test: a desk, its thread, and a worker."""

    def __init__(self) -> None:
        self.thread, self.worker = Thread(), Worker()
        self.desk = HttpDesk(self.thread.do)
        self._number = 0

    def ask(self, path: str) -> None:
        self._number += 1
        question = Question("192.0.2.1", "GET", path)
        self.desk.take(self.worker, (self._number, encode_question(question)))  # type: ignore[arg-type]

    def asked(self, path: str) -> Answer:
        self.ask(path)
        number, answer = self.worker.answers[-1]
        assert number == self._number
        return answer


def page(name: str) -> Page:
    return lambda question, reply: reply(as_json(200, [name, question.path]))


def test_the_longest_path_decides_which_page_answers() -> None:
    counter = Counter()
    counter.desk.pages |= {"/api": page("api"), "/api/rooms": page("rooms")}
    paths = {
        "/api": "api",
        "/api/": "api",
        "/api/room": "api",
        "/api/rooms": "rooms",
        "/api/rooms/a/b": "rooms",
    }
    for path, name in paths.items():
        assert counter.asked(path).body == as_json(200, [name, path]).body


@pytest.mark.parametrize("path", ["/", "/metrics", "/apis", "", "*", "metrics"])
def test_other_paths_are_nothing(path: str) -> None:
    counter = Counter()
    counter.desk.pages["/api"] = page("api")
    answer = counter.asked(path)
    assert answer.status == 404
    assert b'"code":"not_found"' in answer.body


def test_an_answer_may_come_later_and_goes_to_its_own_request() -> None:
    counter = Counter()
    replies: list[Reply] = []
    counter.desk.pages["/api"] = lambda question, reply: replies.append(reply)
    counter.ask("/api/a")
    counter.ask("/api/b")
    replies[1](as_json(200, "b"))
    replies[0](as_json(200, "a"))
    assert [(number, answer.body) for number, answer in counter.worker.answers] == [
        (2, b'"b"\n'),
        (1, b'"a"\n'),
    ]


def test_an_error_of_a_page_is_logged_with_its_stack_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter()

    def bad(question: Question, reply: Reply) -> None:
        raise KeyError("broken")

    counter.desk.pages["/api"] = bad
    answer = counter.asked("/api/x")
    assert answer.status == 500
    assert b"broken" not in answer.body
    assert "Traceback" in caplog.text
    assert "GET /api/x from 192.0.2.1" in caplog.text


def test_a_late_page_is_made_once_when_it_is_first_asked_for() -> None:
    counter = Counter()
    made: list[str] = []

    def make() -> Page:
        made.append("made")
        return page("late")

    counter.desk.pages["/api"] = counter.desk.later(make)
    assert not counter.thread.jobs
    counter.ask("/api/1")
    counter.ask("/api/2")
    assert (made, counter.worker.answers) == ([], [])
    counter.thread.work()
    assert [number for number, _ in counter.worker.answers] == [1, 2]
    assert counter.asked("/api/3").status == 200
    assert made == ["made"]


def test_a_late_page_that_cannot_be_made_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter()
    tries: list[int] = []

    def make() -> Page:
        tries.append(1)
        if len(tries) == 1:
            raise ImportError("no module")
        return page("late")

    counter.desk.pages["/api"] = counter.desk.later(make)
    counter.ask("/api")
    counter.thread.work()
    assert counter.worker.answers[-1][1].status == 500
    assert "no module" in caplog.text
    counter.ask("/api")
    counter.thread.work()
    assert counter.worker.answers[-1][1].status == 200


def test_what_waits_for_a_late_page_is_bounded() -> None:
    counter = Counter()
    counter.desk.pages["/api"] = counter.desk.later(lambda: page("late"))
    for _ in range(MOST_WAITING):
        counter.ask("/api")
    assert counter.asked("/api").status == 503
    counter.thread.work()
    assert len(counter.worker.answers) == MOST_WAITING + 1
