"""The page of metrics: who gets it, how requests share it, what a failure does. Loop and thread are real."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.figures import figures
from support.waiting import PATIENCE

from mpchat.ipc.http_questions import Answer, Question
from mpchat.ipc.items import Down
from mpchat.reactor import Reactor
from mpchat.supervisor.metrics import page
from mpchat.supervisor.metrics.page import PAUSE, MetricsPage


class Desk:
    """A page, its loop, and the answers that it has given."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.networks: tuple[str, ...] = ("127.0.0.0/8", "2001:db8::/32")
        self.copied = 0
        self.items: list[tuple[int, float]] = []
        endpoint = SimpleNamespace(send=lambda kind, payload: self.items.append((kind, payload)))
        report = SimpleNamespace(
            settings=SimpleNamespace(config=SimpleNamespace(metrics_from=self.networks)),
            pool=SimpleNamespace(ready=[SimpleNamespace(endpoint=endpoint)] * 2),
        )
        self.config = report.settings.config
        self.page = MetricsPage(self.reactor, self._copy, cast(Any, report))
        self.answers: list[Answer] = []

    def _copy(self) -> Any:
        self.copied += 1
        return figures()

    def ask(
        self, host: str = "127.0.0.1", method: str = "GET", path: str = "/metrics", accept: str = ""
    ) -> None:
        self.page(Question(host, method, path, headers={"accept": accept}), self.answers.append)

    def turn_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "waited for the page"
            self.reactor.turn(0.01)

    def until(self, count: int) -> list[Answer]:
        self.turn_until(lambda: len(self.answers) >= count)
        return self.answers


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    try:
        yield desk
    finally:
        desk.page.close()
        desk.reactor.close()


def test_those_in_the_networks_get_the_page_and_others_find_nothing(desk: Desk) -> None:
    desk.ask("127.0.0.5")
    desk.ask("2001:db8::7")
    found = desk.until(2)
    assert {each.status for each in found} == {200}
    assert b"mpchat_accepts_total 50.0" in found[0].body
    for host in ("192.0.2.1", "::1", "", "localhost", "2001:db9::7"):
        desk.ask(host)
        desk.ask(host, "POST")
    assert {each.status for each in found[2:]} == {404}
    assert not any(b"mpchat" in each.body for each in found[2:])
    desk.config.metrics_from = ()  # a reload
    desk.ask()
    assert found[-1].status == 404


def test_other_methods_and_paths_get_an_answer_at_once(desk: Desk) -> None:
    desk.ask(method="POST")
    desk.ask(path="/metrics/more")
    assert [each.status for each in desk.answers] == [405, 404]
    assert desk.copied == 0


def test_requests_that_come_together_share_a_page_and_the_next_one_waits(desk: Desk) -> None:
    desk.ask()
    desk.until(1)
    began = time.monotonic()
    for _ in range(50):
        desk.ask()
    desk.until(51)
    assert desk.copied <= 3
    assert time.monotonic() - began > PAUSE / 2
    assert {each.status for each in desk.answers} == {200}


def test_formats_are_not_mixed_up(desk: Desk) -> None:
    accepts = ("", "application/openmetrics-text; version=1.0.0", "text/html", "\udcff", "")
    for accept in accepts:
        desk.ask(accept=accept)
    found = desk.until(5)
    assert ["openmetrics" in dict(each.headers)["Content-Type"] for each in found] == [
        "openmetrics" in each for each in accepts
    ]


def test_a_failure_is_told_and_the_next_request_is_served(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = page.write

    def fail(figures: Any, accepts: Iterable[str]) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(page, "write", fail)
    desk.ask()
    with caplog.at_level(logging.ERROR):
        assert desk.until(1)[0].status == 500
    assert "the metrics could not be written" in caplog.text
    monkeypatch.setattr(page, "write", write)
    desk.ask()
    assert desk.until(2)[1].status == 200


def test_workers_are_sent_trips_while_metrics_are_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "TRIP_EVERY", 0.01)
    monkeypatch.setattr(page, "TRIPS_FOR", 0.1)
    assert desk.items == []
    desk.ask()
    desk.turn_until(lambda: len(desk.items) >= 4)
    assert {kind for kind, _ in desk.items} == {Down.TRIP}
    quiet = time.monotonic() + 0.2
    desk.turn_until(lambda: time.monotonic() > quiet)
    count = len(desk.items)
    desk.reactor.turn(0.05)
    assert len(desk.items) == count
    desk.ask()
    assert len(desk.items) == count + 2


def test_a_page_nobody_has_asked_for_has_no_thread(desk: Desk) -> None:
    desk.ask("192.0.2.1")
    desk.page.close()
    assert desk.page._thread is None
