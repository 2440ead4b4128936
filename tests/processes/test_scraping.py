"""Metrics of a real server: scraped while clients talk, a worker is killed, and all are replaced."""

import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from support.harness import Client, Server, clients, introduce, kill, raw_frame, running
from support.members import Member
from support.waiting import eventually

ALLOWED, PROXY, STRANGER = "127.0.0.1", "127.0.0.9", "127.0.0.2"
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


# By how much each of these grows in the first test: a name, a label, its value.
GROWTH = {
    ("mpchat_messages_total", "kind", "plain"): 3,
    ("mpchat_messages_total", "kind", "room"): 1,
    ("mpchat_messages_total", "kind", "private"): 1,
    ("mpchat_errors_total", "code", "not_a_message"): 1,
    ("mpchat_clients", "state", "member"): 1,
    ("mpchat_connections", "protocol", "plain"): 4,
}


class Answer(NamedTuple):
    """What the server has answered."""

    status: int
    headers: http.client.HTTPMessage
    body: str


def ask(
    server: Server, path: str = "/metrics", method: str = "GET", source: str = ALLOWED, **headers: str
) -> Answer:
    connection = http.client.HTTPConnection(*server.address, timeout=20, source_address=(source, 0))
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode())
    finally:
        connection.close()


def ask_through_a_proxy(server: Server, client: str) -> int:
    """Ask with a PROXY header that names a client; return the status."""
    with socket.create_connection(server.address, 20, source_address=(PROXY, 0)) as sock:
        sock.sendall(f"PROXY TCP4 {client} 192.0.2.99 1234 4000\r\n".encode() + REQUEST)
        return int(sock.recv(1 << 16).split(b" ")[1])


class Scrape:
    """What one scrape has said."""

    def __init__(self, server: Server) -> None:
        answer = ask(server)
        assert answer.status == 200
        self._families = list(text_string_to_metric_families(answer.body))

    @property
    def samples(self) -> Iterator[Sample]:
        for family in self._families:
            yield from family.samples

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels, and perhaps further ones."""
        return sum(
            each.value for each in self.samples if each.name == name and labels.items() <= each.labels.items()
        )

    @property
    def counters(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Everything that may only grow."""
        return {
            (each.name, tuple(sorted(each.labels.items()))): each.value
            for family in self._families
            if family.type in ("counter", "histogram")
            for each in family.samples
        }


def growth(before: Scrape, now: Scrape) -> dict[tuple[str, str, str], float]:
    """By how much the metrics of GROWTH have grown."""
    return {
        (name, label, value): now.value(name, **{label: value}) - before.value(name, **{label: value})
        for name, label, value in GROWTH
    }


def gone_back(before: Scrape, after: Scrape) -> list[object]:
    """The counters that have gone back, or that are missing."""
    return [
        (key, was, after.counters.get(key))
        for key, was in before.counters.items()
        if after.counters.get(key, -1.0) < was
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--metrics-from", f"{ALLOWED}, 127.0.0.3", "--proxy-from", PROXY, "--listen-grace", "0")
    with running(tmp_path_factory.mktemp("metrics"), *flags) as server:
        yield server


def test_what_clients_do_is_counted(server: Server) -> None:
    before = Scrape(server)
    with clients(server, 3) as joined, Member(server.address) as alice:
        alice.join("alice")
        introduce(joined)
        alice.ask(message="to myself", to="alice")
        alice.say("in the lobby")
        alice.hear_from_room("in the lobby")
        joined[0].send_raw(raw_frame(b"[]"))
        assert joined[0].receive() is not None

        eventually(lambda: growth(before, Scrape(server)) == GROWTH, "the metrics to tell what clients did")
        eventually(lambda: Scrape(server).value("mpchat_hub_trip_seconds_count") > 0, "an item's trip")
        now = Scrape(server)
        assert now.value("mpchat_accepts_total") >= before.value("mpchat_accepts_total") + 4
        assert now.value("mpchat_deliveries_total") > before.value("mpchat_deliveries_total")
        assert now.value("mpchat_received_bytes_total") > before.value("mpchat_received_bytes_total")
        assert now.value("mpchat_sent_bytes_total") > before.value("mpchat_sent_bytes_total")
    for process in ("supervisor", "worker 1", "worker 2"):
        assert now.value("mpchat_process_resident_memory_bytes", process=process) > 1 << 20
        assert now.value("mpchat_process_open_descriptors", process=process) > 5
        assert now.value("mpchat_process_cpu_seconds_total", process=process) > 0
        assert now.value("mpchat_loop_turn_seconds_count", process=process) > 0
    assert now.value("mpchat_build_info") == 1
    assert now.value("mpchat_slots", state="running") == 2
    assert abs(now.value("mpchat_start_time_seconds") - time.time()) < 600


def test_nothing_goes_back_when_workers_die_and_are_replaced(server: Server) -> None:
    with clients(server, 6) as joined:
        introduce(joined)
        before = Scrape(server)
        kill(server.worker_pids[0])

        def restarted() -> bool:
            now = Scrape(server)
            assert gone_back(before, now) == []
            return (
                now.value("mpchat_deaths_total", cause="killed by SIGKILL") == 1
                and now.value("mpchat_slots", state="running") == 2
            )

        eventually(restarted, "the metrics to tell of the death")
        now = Scrape(server)
        assert now.value("mpchat_restarts_total", kind="worker") == 1
        assert now.value("mpchat_connection_ends_total", reason="process died") >= 1
        server.run("reload")
        after = Scrape(server)
        assert gone_back(now, after) == []
        assert after.value("mpchat_changes_total", change="reload", outcome="done") == 1
        assert after.value("mpchat_moves_total") >= 1
        assert after.value("mpchat_deaths_total") == 1  # a worker that is replaced is not dead


def test_others_find_nothing(server: Server) -> None:
    refused = ask(server, source=STRANGER)
    assert refused.status == 404
    assert "mpchat_" not in refused.body
    assert ask(server, source=STRANGER, method="POST").status == 404
    assert ask(server, source=STRANGER, **{"X-Forwarded-For": ALLOWED}).status == 404
    assert ask(server, source="127.0.0.3").status == 200


def test_behind_a_proxy_the_address_of_the_client_counts(server: Server) -> None:
    assert ask_through_a_proxy(server, ALLOWED) == 200
    assert ask_through_a_proxy(server, "192.0.2.7") == 404
    assert ask(server, source=PROXY, **{"X-Forwarded-For": "192.0.2.7"}).status == 404
    assert ask(server, source=PROXY, **{"X-Forwarded-For": ALLOWED}).status == 200


def test_head_and_other_methods_and_formats(server: Server) -> None:
    page = ask(server)
    head = ask(server, method="HEAD")
    assert (head.status, head.body) == (200, "")
    assert abs(int(head.headers["Content-Length"]) - len(page.body)) < 500
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    other = ask(server, Accept="application/openmetrics-text; version=1.0.0")
    assert other.headers["Content-Type"].startswith("application/openmetrics-text")
    assert other.body.endswith("# EOF\n")
    wrong = ask(server, method="POST")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD")
    assert ask(server, "/metrics?name[]=mpchat_rooms").status == 200


def test_many_scrapers_at_once_and_those_that_never_read(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            lazy = stack.enter_context(socket.create_connection(server.address, 20))
            lazy.sendall(REQUEST * 20)
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: ask(server), range(30)))
        assert {each.status for each in answers} == {200}
        with Client(server.address) as one, Client(server.address) as other:
            introduce([one, other])
    assert ask(server).status == 200


def test_a_full_server_is_scraped_too(tmp_path: Path) -> None:
    with running(tmp_path, "--max-connections", "1", "--metrics-from", ALLOWED, workers=1) as full:
        with clients(full, 1):
            assert ask(full, "/", source=STRANGER).status == 503
            scrape = Scrape(full)
            assert scrape.value("mpchat_connections", protocol="plain") <= 1
            assert scrape.value("mpchat_refusals_total", code="full") >= 1
            assert ask(full, method="HEAD").status == 200
            assert ask(full, source=STRANGER).status == 503
            assert ask(full, "/metrics/more").status == 503


def test_a_connection_is_kept_between_scrapes(server: Server) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    for _ in range(3):
        connection.request("GET", "/metrics")
        assert connection.getresponse().read().startswith(b"# HELP")
    connection.close()
