"""What ``mpchat status --watch`` draws: what is wrong stands out, and it fits terminals of any size."""

from typing import Any

import pytest
from rich.cells import cell_len
from support.status_facts import drawn, server_facts, worker_facts

from mpchat.cli.sparkline import sparkline
from mpchat.cli.trend import Trend
from mpchat.cli.troubles import NEWS, Trouble, troubles
from mpchat.cli.watch_picture import Canvas, watch_picture
from mpchat.control.answers import (
    Cluster,
    CutOff,
    History,
    LastReload,
    Limits,
    Pauses,
    ServerStatus,
    Tls,
    TlsProcess,
)

NOW = 1_700_000_100.0
LOST = 'mpchat "default" is not running; start it with: mpchat start'


def one_worker(**more: Any) -> ServerStatus:
    return server_facts(workers=[worker_facts(1, **more), worker_facts(2)])


def history(state: str) -> ServerStatus:
    return server_facts(history=History(path="/h", state=state, waiting=0, saved=1, dropped=7))


def cluster(state: str, **more: Any) -> ServerStatus:
    return server_facts(
        cluster=Cluster(name="class", host="a", state=state, since=NOW, redis="redis://r", **more)
    )


def tls(expires: float, warning: str, **process: Any) -> ServerStatus:
    facts = {
        "slot": 1,
        "pid": 7,
        "state": "RUNNING",
        "connections": 0,
        "shaking": 0,
        "handshakes": 0,
        "ended": {},
        "lag_ms": 0.0,
        "silent": 0.0,
        "rss": 0,
        "cpu": 0.0,
        "restarts": 0,
        "restart_in": None,
        "deaths": 0,
        "died": "",
    }
    processes = [TlsProcess(**{**facts, **process})]
    return server_facts(
        tls=Tls(mode="optional", names=["a"], expires=expires, warning=warning, processes=processes)
    )


def reloaded(code: int) -> ServerStatus:
    last = LastReload(
        at=NOW, exit=code, text="port is taken", seconds=1.0, moved=0, failed=0, lost=0, pauses=Pauses(),
        renewed=[], changed=[], kept={},
    )  # fmt: skip
    return server_facts(last_reload=last)


def cut_off(seconds_ago: float, reason: str = "slow consumer") -> ServerStatus:
    return server_facts(cut_off=[CutOff(address="127.0.0.1:5", reason=reason, at=NOW - seconds_ago)])


@pytest.mark.parametrize(
    ("status", "severe", "text"),
    [
        (server_facts(state="STOPPING"), False, "the server is STOPPING"),
        (server_facts(change="reload"), False, "reload under way"),
        (server_facts(connections=90), False, "90 of 100 connections that fit"),
        (server_facts(connections=100), True, "100 of 100 connections that fit"),
        (history("failing: disk full"), True, "history failing: disk full, 7 messages dropped"),
        (reloaded(5), True, "the last reload failed: port is taken"),
        (one_worker(late=5), False, "5 of 6 clients are behind"),
        (cut_off(10.0), False, "cut off in the last minute: 1 slow consumer; the last: 127.0.0.1:5"),
        (one_worker(state="DRAINING"), False, "worker 1 is DRAINING"),
        (one_worker(silent=4.0), True, "worker 1 is silent for 4 s"),
        (one_worker(lag_ms=300.0), False, "worker 1 is slow: a turn of its loop takes 300 ms"),
        (one_worker(lag_ms=1000.0), True, "worker 1 is slow: a turn of its loop takes 1000 ms"),
        (one_worker(cpu=0.97), False, "worker 1 uses a whole core"),
        (
            one_worker(state="BACKOFF", restart_in=2.0, deaths=2, died="killed by SIGKILL"),
            True,
            "worker 1 waits: the next one starts in 2 s; 2 deaths in a row, the last: killed by SIGKILL",
        ),
        (tls(NOW + 86_400, "the certificate ends tomorrow"), False, "the certificate ends tomorrow"),
        (tls(NOW - 1, "the certificate has ended"), True, "the certificate has ended"),
        (
            tls(NOW * 2, "", restart_in=1.0, state="BACKOFF"),
            True,
            "TLS process 1 waits: the next one starts in 1 s",
        ),
        (tls(NOW * 2, "", silent=9.0), True, "TLS process 1 is silent for 9 s"),
        (
            cluster("away", reason="timeout"),
            True,
            "cluster class: Redis cannot be reached, senders wait (timeout)",
        ),
        (cluster("returning"), False, "cluster class: returning"),
        (cluster("member", behind=2.5), False, "this host is 2.5 s behind the log of the cluster"),
    ],
)
def test_each_trouble_is_named(status: ServerStatus, severe: bool, text: str) -> None:
    assert troubles(status, NOW) == [Trouble(text, severe)]


@pytest.mark.parametrize(
    "status",
    [
        server_facts(),
        history("ok"),
        reloaded(0),
        cluster("member"),
        tls(NOW * 2, ""),
        one_worker(late=1),
        cut_off(NEWS + 1),
        cut_off(1.0, "kicked"),
        server_facts(
            connections=0,
            limits=Limits(connections=0, per_address=0, payload=1, lag=1, descriptors=1),
        ),
    ],
)
def test_what_is_usual_is_no_trouble(status: ServerStatus) -> None:
    assert troubles(status, NOW) == []


def test_a_worker_in_a_change_is_no_trouble_of_its_own_and_severe_ones_come_first() -> None:
    changing = server_facts(change="reload", workers=[worker_facts(1, state="DRAINING")])
    assert [each.text for each in troubles(changing, NOW)] == ["reload under way"]
    both = server_facts(change="reload", connections=100)
    assert [each.severe for each in troubles(both, NOW)] == [True, False]


def seen(*statuses: ServerStatus) -> Trend:
    """Return what was seen in as many seconds, the last one now."""
    trend = Trend()
    for number, status in enumerate(statuses, 1):
        trend.take(status, NOW - len(statuses) + number)
    return trend


def test_a_death_is_news_for_a_minute_and_an_event_for_longer() -> None:
    trend = seen(server_facts(), one_worker(restarts=1, died="killed by SIGKILL"))
    text = "worker 1 died: killed by SIGKILL"
    assert trend.news(NOW) == [Trouble(text)]
    assert trend.news(NOW + NEWS) == []
    assert [each.text for each in trend.events] == [text]


def test_what_is_refused_while_it_is_watched_is_news() -> None:
    trend = seen(
        server_facts(refused_by_code={"full": 5}),
        server_facts(refused_by_code={"full": 5}),
        server_facts(refused_by_code={"full": 6, "too_fast": 3}),
    )
    assert trend.news(NOW) == [Trouble("refused in the last minute: 3 too_fast, 1 full")]
    assert seen(server_facts(refused_by_code={"full": 5})).news(NOW) == []


def test_a_server_that_goes_and_comes_back_is_told_of_once_each() -> None:
    trend = seen(server_facts())
    trend.lose(LOST, NOW)
    trend.lose(LOST, NOW + 1)
    assert "NO ANSWER" in picture(trend)
    assert LOST in picture(trend)
    trend.take(server_facts(pid=5000, refused_by_code={"full": 1}), NOW + 2)
    texts = [each.text for each in trend.events]
    assert texts == ["the server did not answer", "the server was started anew, pid 5000"]
    assert "NO ANSWER" not in picture(trend)


def test_a_reload_and_a_change_of_workers_are_events_and_no_news() -> None:
    trend = seen(server_facts(), server_facts(generation=2, workers=[worker_facts()]))
    texts = [each.text for each in trend.events]
    assert texts == ["the workers were replaced, generation 2", "1 workers, 2 before"]
    assert trend.news(NOW) == []


# The picture.


def picture(trend: Trend, width: int = 80, height: int = 24, *, bars: bool = True, **more: Any) -> str:
    return drawn(watch_picture(trend, NOW, Canvas(width, height, bars), "q quits"), width, **more)


def in_trouble(workers: int = 2) -> Trend:
    bad = worker_facts(1, state="BACKOFF", restart_in=3.0, deaths=3, died="killed by SIGKILL " * 5)
    clients = [
        CutOff(address="[2001:db8::1]:50000", name="앨리스" * 8, reason="slow consumer", at=NOW - each)
        for each in range(20)
    ]
    rest = [worker_facts(each, lag_ms=400.0, late=900) for each in range(2, workers + 1)]
    return seen(
        server_facts(),
        server_facts(change="reload", connections=123_456, cut_off=clients, workers=[bad, *rest]),
    )


def test_without_trouble_it_says_so_and_shows_the_figures() -> None:
    text = picture(seen(server_facts(), server_facts()))
    head, place, _, wrong, _, connections, *_ = text.splitlines()
    assert head.startswith(" default RUNNING  up 1 min 30 s")
    assert "127.0.0.1:4000, pid 4000" in place
    assert wrong == " nothing is wrong"
    assert connections.split() == ["connections", "6", "██", "peak", "6"]
    assert text.splitlines()[-1].strip() == "q quits"
    assert "recently" not in text


@pytest.mark.parametrize("width", [40, 60, 77, 78, 80, 132, 300])
@pytest.mark.parametrize("height", [18, 24, 60])
@pytest.mark.parametrize("workers", [1, 2, 64])
def test_it_fits_the_terminal_and_trouble_comes_first(width: int, height: int, workers: int) -> None:
    lines = picture(in_trouble(workers), width, height).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= max(height, 22)
    assert lines[3].startswith("!! ")
    assert any(line.strip().startswith("1 ") for line in lines), "the worker in trouble has its row"
    assert ("more workers" in lines[-1]) is (workers > height)


@pytest.mark.parametrize("width", [40, 46, 80])
@pytest.mark.parametrize("name", ["default", "이름" * 20])
def test_what_it_says_of_a_server_that_is_gone_fits_too(width: int, name: str) -> None:
    trend = seen(server_facts(name=name))
    trend.lose(f"{LOST} --runtime-dir /{'폴더' * 30}", NOW)
    lines = picture(trend, width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert sum(line.count("폴더") for line in lines) >= 24
    assert name != "default" or "NO ANSWER since" in lines[0]


def test_what_has_happened_is_told_the_latest_first() -> None:
    lines = picture(in_trouble(), height=40).splitlines()
    _, *events = lines[lines.index(" recently") :]
    assert "worker 1 died" in events[0] or "worker 1 died" in events[1]
    assert sum("slow consumer: 앨리스" in each for each in events) == 5
    assert [each[1:9] for each in events[:6]] == sorted((each[1:9] for each in events[:6]), reverse=True)


def test_nothing_is_said_by_colour_alone_and_no_color_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    plain = picture(in_trouble(), color_system="standard", force_terminal=True, no_color=None)
    assert "[3" not in plain
    assert "[4" not in plain
    assert "!!" in plain
    monkeypatch.delenv("NO_COLOR")
    assert "41m" in picture(in_trouble(), color_system="standard", force_terminal=True)
    assert "42m" in picture(seen(server_facts()), color_system="standard", force_terminal=True)


def test_a_hostile_name_is_escaped() -> None:
    bad = server_facts(
        name="\x1b[31mred", cut_off=[CutOff(address="a", name="\x1b]0;x\x07", reason="\u202e", at=NOW)]
    )
    text = picture(seen(bad))
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(
    ("figures", "text"),
    [([], ""), ([0, 0], "▁▁"), ([1000, 1, 0, 500], "█▂▁▅"), (list(range(100)), "███")],
)
def test_a_sparkline_goes_from_nothing_to_the_largest(figures: list[float], text: str) -> None:
    assert sparkline(figures, 3 if len(figures) > 4 else 10) == text
    assert sparkline(figures, 10, bars=False).isascii()


def test_a_sparkline_without_room_is_empty() -> None:
    assert sparkline([1.0, 2.0], 0) == sparkline([1.0], -5) == ""
