"""What ``mpchat hosts`` and ``status`` show of a cluster: nothing is cut off, and trouble stands out."""

import time
from dataclasses import fields
from io import StringIO
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from mpchat.cli.display import hosts_picture, status_picture
from mpchat.config import Origin, resolve
from mpchat.control.answers import Cluster, Host, Hosts, Limits, ServerStatus, WorkerStatus
from mpchat.errors import MpchatError
from mpchat.supervisor.startup import StartFacts, start_text
from mpchat.supervisor.status import StatusReport

SEOUL = Host(
    name="서울-채팅서버-1",
    state="here",
    epoch=12,
    lease=9.06,
    position=1_234_567_890,
    clients=40_000,
    version="0.2.0",
    log_version=1,
)
BUSAN = Host(name="부산", state="living", epoch=13, lease=0.44, position=7, lag=1, behind=0.25, clients=1)
# Another one, of which the host that answers knows the name alone.
JEJU = Host(name="제주", state="living", epoch=2)
WORKER: dict[str, Any] = {
    **dict.fromkeys((each.name for each in msgspec.structs.fields(WorkerStatus)), 0),
    "slot": 1,
    "state": "RUNNING",
    "ended": {},
    "generation": None,
    "restart_in": None,
    "died": "",
}
# 12:03:41 of today, as this machine's clock shows it.
SINCE = time.mktime((*time.localtime()[:3], 12, 3, 41, 0, 0, -1))
CLUSTER = Cluster(
    name="우리반",
    host="서울-채팅서버-1",
    epoch=12,
    state="member",
    since=SINCE,
    position=1_234_567_890,
    redis="redis://:***@127.0.0.1",
    hosts=[SEOUL, BUSAN, JEJU],
)


def drawn(picture: RenderableType, width: int, colors: Any = None) -> str:
    console = Console(file=StringIO(), width=width, color_system=colors, force_terminal=bool(colors))
    console.print(picture)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [78, 80, 200])
def test_the_hosts_are_a_table(width: int) -> None:
    lines = drawn(hosts_picture([SEOUL, BUSAN, JEJU], width), width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert [" ".join(each.split()) for each in lines] == [
        "host state epoch lease position lag clients version",
        "서울-채팅서버-1 here 12 9.1 s 1234567890 0 40000 0.2.0",
        "부산 living 13 0.4 s 7 1, 0.2 s 1 -",
        "제주 living 2 - 0 0 0 -",
    ]


def test_in_a_narrow_terminal_they_are_sentences() -> None:
    lines = drawn(hosts_picture([SEOUL, BUSAN], 40), 40).splitlines()
    assert max(map(cell_len, lines)) <= 40
    assert " ".join(" ".join(lines).split()) == (
        "서울-채팅서버-1 here, epoch 12: lease 9.1 s, position 1234567890, 0 batches behind, 40000 clients, "
        "version 0.2.0 부산 living, epoch 13: lease 0.4 s, position 7, 1 batch, 0.2 s behind, 1 client, "
        "version -"
    )


@pytest.mark.parametrize("width", range(30, 60))
def test_no_line_ends_between_a_number_and_its_unit(width: int) -> None:
    lines = drawn(hosts_picture([SEOUL, BUSAN], width), width).splitlines()
    of_status = drawn(status_picture(working(1), width), width).splitlines()
    lines += of_status[next(n for n, each in enumerate(of_status) if each.startswith("worker 1")) :]
    assert max(map(cell_len, lines)) <= width
    for line, following in pairwise(each.strip() for each in lines):
        assert not (line[-1].isdigit() and following[0].islower()), (line, following)


def test_one_client_is_not_clients() -> None:
    said = " ".join(drawn(status_picture(working(1), 40), 40).split())
    assert "1 client, 0 in/s" in said
    assert "1 restart" in said
    assert "1 restarts" not in said
    assert "2 clients, 0 in/s" in " ".join(drawn(status_picture(working(2), 40), 40).split())


def test_a_lease_of_fewer_digits_moves_no_column() -> None:
    def places(lease: float) -> list[int]:
        head = drawn(hosts_picture([msgspec.structs.replace(BUSAN, lease=lease)], 80), 80).splitlines()[0]
        return [head.index(name) for name in ("position", "lag", "clients", "version")]

    assert places(9.3) == places(10.0)


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eevil", "[bold]x"])
def test_a_hostile_host_reaches_the_terminal_as_text_alone(name: str, width: int) -> None:
    host = Host(name=name, state=name, epoch=1, version=name)
    shown = drawn(hosts_picture([host], width), width)
    assert shown.replace("\n", "").isprintable()
    assert shown.count(name) == (3 if name.isprintable() else 0)


def status(**cluster: Any) -> ServerStatus:
    return ServerStatus(
        name="default",
        pid=1,
        version="0.2.0",
        state="RUNNING",
        started=0.0,
        uptime=5.0,
        addresses=["127.0.0.1:4000"],
        limits=Limits(connections=5, per_address=0, payload=1, lag=1, descriptors=1),
        connections=0,
        messages=0,
        refused=0,
        log="",
        runtime_dir="",
        workers=[],
        cluster=msgspec.structs.replace(CLUSTER, **cluster),
    )


def working(count: int) -> ServerStatus:
    """Return the status of a server with a worker that has ``count`` of each."""
    worker = WorkerStatus(**{**WORKER, "connections": count, "restarts": count})
    return msgspec.structs.replace(status(), workers=[worker])


def line(width: int = 200, colors: Any = None, **cluster: Any) -> str:
    """Return the lines about the cluster as one."""
    shown = drawn(status_picture(status(**cluster), width), width, colors)
    rows = [each.rstrip() for each in shown.splitlines()]
    assert width == 200 or max(map(cell_len, rows)) <= width
    first = next(number for number, each in enumerate(rows) if each.startswith("cluster "))
    rest = next((n for n, each in enumerate(rows) if "slot" in each), len(rows))
    return " ".join(rows[first:rest])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_status_says_in_a_line_that_all_is_well(width: int) -> None:
    said = "cluster 우리반 as 서울-채팅서버-1: 3 hosts, position 1234567890, "
    assert line(width) == f"{said}0 batches behind"
    assert line(width, lag=3, behind=0.21) == f"{said}3 batches, 0.2 s behind"


STATES = {
    "joining": "is joining since 12:03:41",
    "away": "Redis has not been reachable since 12:03:41: senders wait",
    "returning": "lost its lease at 12:03:41: it is coming back",
    "recovering": "Redis lost a part of the log, noticed at 12:03:41: the hosts begin it anew",
    "left": "left at 12:03:41",
    "of a {later} release": "of a {later} release since 12:03:41",
}


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(("state", "said"), STATES.items())
def test_status_says_what_is_the_matter_since_when_and_why(state: str, said: str, width: int) -> None:
    whole = f"cluster 우리반 as 서울-채팅서버-1: {said}"
    assert line(width, state=state) == whole
    assert line(width, state=state, reason="연결 거부") == f"{whole} (연결 거부)"


@pytest.mark.parametrize(("state", "stands_out"), [("away", True), ("recovering", True), ("joining", False)])
def test_the_line_stands_out_while_senders_wait(state: str, stands_out: bool) -> None:
    assert ("\x1b[1;31m" in line(colors="standard", state=state)) is stands_out
    assert "\x1b[1;31m" not in line(colors="standard")


def test_a_state_of_another_day_has_its_date() -> None:
    assert "since 1970-01-0" in line(state="away", since=90_000.0)


class Part:
    """The cluster's part of a server, as far as the report needs it."""

    def __init__(self, cluster: Cluster | None) -> None:
        self.cluster = cluster

    def status(self) -> Cluster | None:
        return self.cluster


def report(part: Part | None) -> StatusReport:
    parts: dict[str, Any] = dict.fromkeys(each.name for each in fields(StatusReport))
    return StatusReport(**{**parts, "cluster": part})


def test_the_hosts_come_from_the_cluster_s_part_of_the_server() -> None:
    assert report(Part(CLUSTER)).hosts() == Hosts([SEOUL, BUSAN, JEJU])


@pytest.mark.parametrize("part", [None, Part(None)])
def test_a_server_that_is_alone_has_no_hosts(part: Part | None) -> None:
    with pytest.raises(MpchatError) as caught:
        report(part).hosts()
    assert str(caught.value) == "this server is alone: the setting cluster is empty"


@pytest.mark.parametrize(("hosts", "said"), [(1, "1 host"), (3, "3 hosts")])
def test_a_start_names_the_cluster_and_how_many_hosts_it_has(hosts: int, said: str) -> None:
    given = {"cluster": "redis://:비밀@a", "cluster_name": "우리반", "host_name": "서울"}
    config, _ = resolve([{name: Origin(value, name) for name, value in given.items()}])
    facts = StartFacts(
        name="a", addresses=["127.0.0.1:4000"], pid=1, workers=1, fits=1, log="/l", hosts=hosts
    )
    text = start_text(config, facts)
    assert f"\nlog: /l\ncluster: 우리반 as 서울, {said}\n" in text
    assert "비밀" not in text
    assert "cluster" not in start_text(config, msgspec.structs.replace(facts, hosts=None))
