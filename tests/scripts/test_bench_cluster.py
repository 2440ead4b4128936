"""``python -m scripts.bench cluster``: two hosts are really one, a host that hears nothing is found.

Small runs of real processes, and the arithmetic of goals and of the computed table. What the figures of runs
come to is not looked at: the machine is shared.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from support.programs import absent

from scripts.bench import cluster, cluster_peers
from scripts.bench.__main__ import main
from scripts.bench.cell import run_cell
from scripts.bench.cluster_peers import (
    APPENDS,
    HOST_US,
    LOG_US,
    READS,
    ClusterPeer,
    ClusterServer,
    log_counters,
)
from scripts.bench.load.plan import Plan
from scripts.bench.load_process import plans
from scripts.bench.peers import Peer, Server, lecture_peer
from scripts.bench.row import BenchError, Figures, Options, Results, Row
from scripts.bench.sizing import Costs, Line, load

OPTIONS = Options(seconds=0.2, stall_s=2.0, rest_s=0.1)
PEERS = {peer.name: peer for peer in cluster_peers.cluster_peers(workers=1)}
JOINED = [name for name, peer in PEERS.items() if peer.hosts > 1]
FLOOD = Row("flood", "a few members", clients=8, senders=2, rooms=1, window=20_000)
STEADY = replace(FLOOD, name="steady", rate=50)
APART = replace(FLOOD, name="apart", apart=True)

# What Redis says, as far as it is read; times as it rounds them.
INFO = """# Commandstats\r
cmdstat_evalsha:calls=40,usec=1200,usec_per_call=30.00,rejected_calls=0,failed_calls=0\r
cmdstat_xadd:calls=41,usec=200,usec_per_call=5.00,rejected_calls=0,failed_calls=0\r
cmdstat_xread:calls=70,usec=700,usec_per_call=10.00,rejected_calls=0,failed_calls=0\r
cmdstat_xrange:calls=5,usec=60,usec_per_call=12.00,rejected_calls=0,failed_calls=0\r
# Stats\r
total_net_input_bytes:9000\r
total_net_output_bytes:12000\r
"""


@pytest.fixture(scope="module", autouse=True)
def _npm_installs_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have npm install for the tests of this file, in a folder of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.bench.node.CACHE", tmp_path_factory.mktemp("npm"))
        yield


def installed(name: str) -> Peer:
    """Return the peer; where it is absent the test does not run."""
    try:
        PEERS[name].version()
    except BenchError as error:
        absent(f"{name} is absent: {error}")
    return PEERS[name]


def strangers(*, waits: bool) -> ClusterPeer:
    """Return two hosts that are not one: a client hears only those of its own host."""
    like = lecture_peer("select")
    return ClusterPeer(
        "strangers",
        like.wire,
        like.command,
        like.version,
        named=like.wire,
        ready=None if waits else lambda _folder: True,
        member=lambda _index, _port: like,
        redis=None,
        append_command="",
    )


# ---- runs


@pytest.mark.parametrize("row", [FLOOD, STEADY], ids=lambda row: row.name)
@pytest.mark.parametrize("name", JOINED)
def test_members_of_both_hosts_get_every_message(name: str, row: Row) -> None:
    figures = run_cell(installed(name), row, OPTIONS)

    assert figures.faults == []
    assert figures.deliveries == figures.messages * row.clients > 0
    assert all(figures.counted[HOST_US % host] > 0 for host in cluster_peers.HOSTS)
    if name != "nats-cluster":
        assert figures.counted[APPENDS] > 0
        assert figures.counted[READS] > 0
        assert figures.counted[LOG_US] > 0


@pytest.mark.parametrize("name", JOINED)
def test_a_host_without_members_is_looked_at(name: str) -> None:
    figures = run_cell(installed(name), APART, OPTIONS)

    assert figures.faults == []
    apart_us = cluster.apart_us(figures)
    assert apart_us is not None
    assert 0 <= apart_us < figures.cpu_us_per_delivery * APART.clients


@pytest.mark.parametrize("row", [FLOOD, STEADY], ids=lambda row: row.name)
def test_a_host_that_does_not_hear_the_other_is_a_fault(row: Row) -> None:
    figures = run_cell(strangers(waits=False), row, OPTIONS)

    assert any("got" in fault or "received" in fault for fault in figures.faults)
    assert figures.cpu_us_per_delivery == 0


def test_no_run_begins_before_the_hosts_hear_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_peers, "START_S", 0.5)

    figures = run_cell(strangers(waits=True), FLOOD, OPTIONS)

    assert figures.faults == [
        "strangers: the hosts do not hear each other: a message did not come within 0.5 s"
    ]


def test_the_command_runs_a_room_apart_on_hosts_alone_and_says_when_no_table_can_be_made(
    tmp_path: Path,
) -> None:
    installed("nats-cluster")
    size = ["--rounds", "1", "--seconds", "0.2", "--members", "4", "--json", str(tmp_path / "figures.json")]
    chosen = ["--rows", "steady,apart-64k", "--servers", "nats-cluster,nats", "--table"]

    answer = CliRunner().invoke(main, ["cluster", *size, *chosen])

    assert answer.exit_code == 0, answer.output
    assert "steady: 8 members of a room, 100 B, 100 messages a second" in answer.output
    assert "no table: that takes runs" in answer.output
    runs = json.loads((tmp_path / "figures.json").read_text())["runs"]
    assert sorted((run["row"], run["server"]) for run in runs) == [
        ("apart-64k", "nats-cluster"),
        ("steady", "nats"),
        ("steady", "nats-cluster"),
    ]


def test_the_command_names_what_it_does_not_know() -> None:
    answer = CliRunner().invoke(main, ["cluster", "--servers", "rabbit"])

    assert answer.exit_code == 2
    assert "rabbit" in answer.output
    assert "nats-cluster" in answer.output


# ---- who connects where


def cluster_server() -> ClusterServer:
    """Return a server with hosts at the ports 1 and 2, of which nothing runs."""
    hosts = [Server("127.0.0.1", port, psutil.Process()) for port in (1, 2)]
    return ClusterServer("127.0.0.1", 1, psutil.Process(), hosts, None, "")


def used(plan: Plan) -> list[int]:
    """Return the port of each connection."""
    return [plan.port_of(number) for number in range(plan.connections)]


@pytest.mark.parametrize("rate", [0, 100])
@pytest.mark.parametrize("name", ["nats-cluster", "socket.io-cluster"])
def test_clients_senders_and_witnesses_are_at_both_hosts(name: str, rate: int) -> None:
    row = Row("row", "", clients=402, senders=4, rooms=1, rate=rate)

    *clients, senders = plans(PEERS[name], row, OPTIONS, cluster_server())

    ports = [port for plan in clients for port in used(plan)]
    assert abs(ports.count(1) - ports.count(2)) <= len(clients)
    assert used(senders) == [1, 1, 2, 2]
    for plan in clients:
        at, count = used(plan), min(plan.witnesses, plan.connections)
        assert {at[index * len(at) // count] for index in range(count)} == {1, 2}


def test_a_single_server_has_one_port() -> None:
    row = Row("row", "", clients=5, senders=1)

    for plan in plans(PEERS["nats"], row, OPTIONS, Server("127.0.0.1", 7, psutil.Process())):
        assert set(used(plan)) == {7}


def test_no_client_is_at_the_second_host_where_members_are_apart() -> None:
    for plan in plans(PEERS["nats-cluster"], APART, OPTIONS, cluster_server()):
        assert set(used(plan)) == {1}


# ---- goals


def results(row: str, **costs: float) -> Results:
    """Return a run of each server with such CPU per delivery."""
    runs = Results()
    for name, cost in costs.items():
        server = name.replace("_", "-").replace("socketio", "socket.io")
        runs[row, server] = [Figures(row, server, cpu_us_per_delivery=cost)]
    return runs


ROWS = {row.name: row for row in cluster.all_rows(200, [64 * 1024, 1024 * 1024])}


def test_the_rows_have_both_windows_and_the_room_apart_one() -> None:
    assert list(ROWS) == ["max-64k", "max", "steady", "apart-64k"]
    assert {ROWS[name].clients for name in ("max", "max-64k", "steady")} == {400}
    assert [row.name for row in ROWS.values() if row.apart] == ["apart-64k"]


@pytest.mark.parametrize(("cost", "holds"), [(0.3, [True, True, True]), (0.31, [False, True, False])])
def test_cpu_is_judged_beside_other_hosts_and_a_single_one(cost: float, holds: list[bool]) -> None:
    runs = results("max", mpchat_cluster=cost, socketio_cluster=1.5, nats_cluster=0.5, mpchat=0.2)

    assert [each.holds for each in cluster.judge(ROWS["max"], runs)] == holds


def test_a_goal_without_its_figures_is_open_and_without_our_hosts_there_is_none() -> None:
    assert [each.holds for each in cluster.judge(ROWS["max"], results("max", mpchat_cluster=1))] == [None] * 3
    assert cluster.judge(ROWS["max"], results("max", nats_cluster=1)) == []


@pytest.mark.parametrize(("p50_ms", "p99_ms", "holds"), [(5, 17, [True, True]), (5.1, 17.1, [False, False])])
def test_latency_is_judged_by_what_a_single_host_has(p50_ms: float, p99_ms: float, holds: list[bool]) -> None:
    runs = Results()
    runs["steady", "mpchat"] = [Figures("steady", "mpchat", p50_ms=1, p99_ms=2)]
    runs["steady", "mpchat-cluster"] = [Figures("steady", "mpchat-cluster", p50_ms=p50_ms, p99_ms=p99_ms)]

    assert [each.holds for each in cluster.judge(ROWS["steady"], runs)] == holds


@pytest.mark.parametrize(("cpu_us", "holds"), [(2000, True), (2001, False)])
def test_a_host_without_members_is_judged_by_its_cpu_for_a_message(cpu_us: float, holds: bool) -> None:
    row = ROWS["apart-64k"]
    counted = {HOST_US % "a": 9e9, HOST_US % "b": cpu_us}
    runs = Results()
    runs[row.name, "mpchat-cluster"] = [Figures(row.name, "mpchat-cluster", messages=1000, counted=counted)]

    (verdict,) = cluster.judge(row, runs)

    assert verdict.holds is holds


# ---- the computed table


def test_the_log_is_read_off_redis_and_commands_that_were_not_called_count_nothing() -> None:
    found = log_counters(INFO, "evalsha")

    assert found == {
        "appends": 40,
        "append µs": 1200,
        "reads": 75,
        "read µs": 760,
        "bytes in": 9000,
        "bytes out": 12000,
    }
    assert log_counters(INFO, "fcall")["appends"] == 0


@pytest.mark.parametrize(
    ("points", "line"),
    [
        ([(1, 5), (3, 9)], Line(3, 2)),
        ([(1, 5), (2, 8), (3, 9)], Line(10 / 3, 2)),
        ([(2, 5), (2, 7)], Line(6, 0)),
        ([(1, 5), (3, 1)], Line(3, 0)),
        ([(2, 1), (4, 5)], Line(0, 1.1)),
    ],
    ids=["exact", "least squares", "one size", "falls", "below zero"],
)
def test_a_line_has_no_negative_part(points: list[tuple[float, float]], line: Line) -> None:
    found = Line.through(points)

    assert [found.fixed, found.each] == pytest.approx([line.fixed, line.each])


def measured(row: str, messages: int, appends: int, seconds: float) -> Figures:
    """Return a run on two hosts in which a read brought one batch, with the costs of the test below."""
    bytes_in, bytes_out, reads = (
        100 * messages + 50 * appends,
        2 * (120 * messages + 60 * appends),
        2 * appends,
    )
    commands = appends + reads
    counted = {
        "appends": appends,
        "append µs": 30 * appends + 0.01 * bytes_in,
        "reads": reads,
        "read µs": 10 * reads + 0.005 * bytes_out,
        "bytes in": bytes_in,
        "bytes out": bytes_out,
    }
    beyond_us = 5 * commands + 0.001 * (bytes_in + bytes_out)
    counted["log µs"] = counted["append µs"] + counted["read µs"] + beyond_us
    return Figures(row, "mpchat-cluster", messages=messages, wall_s=seconds, counted=counted)


RUNS = [measured("steady", 300, 300, 3.0), measured("max", 200_000, 1000, 2.0)]


def test_the_costs_of_redis_come_out_as_they_went_in() -> None:
    costs = Costs.of(RUNS, hosts=2)

    for found, known in (
        (costs.append, (30, 0.01)),
        (costs.read, (10, 0.005)),
        (costs.beyond, (5, 0.001)),
        (costs.bytes_in, (50, 100)),
        (costs.bytes_out, (60, 120)),
    ):
        assert (found.fixed, found.each) == pytest.approx(known)
    # 1000 appends and 2000 reads of two hosts in two seconds.
    assert (costs.most_appends, costs.most_reads, costs.reads) == (250, 500, 1)


def test_more_messages_than_appends_make_batches() -> None:
    costs = Costs.of(RUNS, hosts=2)

    few, many = load(costs, 10, 6000, 1), load(costs, 10, 1_000_000, 10)

    assert (few.appends, few.batch, few.reads) == (100, 1, 1000)
    assert few.bytes_in == pytest.approx(100 * 150)
    assert few.bytes_out == pytest.approx(100 * 10 * 180)
    in_us, out_us = 30 + 0.01 * 150, 10 + 0.005 * 180
    beyond_us = 1100 * 5 + 0.001 * (few.bytes_in + few.bytes_out)
    assert few.core == pytest.approx((100 * in_us + 1000 * out_us + beyond_us) / 1e6)
    assert [many.appends, many.batch, many.reads] == pytest.approx([2500, 1e7 / 60 / 2500, 5000])
    assert many.bytes_in == pytest.approx(1e7 / 60 * 100 + 2500 * 50)


def test_a_silent_host_appends_its_beat() -> None:
    assert load(Costs.of(RUNS, hosts=2), 100, 60, 1).appends == 100


@pytest.mark.parametrize(
    "runs",
    [[], RUNS[:1], [RUNS[0], replace(RUNS[1], faults=["lost"])], [RUNS[0], replace(RUNS[0], row="max")]],
    ids=["none", "one row", "a fault", "batches of one size"],
)
def test_without_small_and_large_batches_nothing_is_computed(runs: list[Figures]) -> None:
    with pytest.raises(BenchError, match="small batches and with large ones"):
        Costs.of(runs, hosts=2)


def test_the_computed_table_says_that_it_is_computed() -> None:
    costs = Costs.of(RUNS, hosts=2)

    table = cluster.load_table(costs)

    assert "COMPUTED, not measured" in str(table.title)
    # 10, 30 and 100 hosts, 10 k, 100 k and 1 M members, one and ten messages a minute.
    assert table.row_count == 18
    assert next(iter(table.columns[0].cells)) == "10"


def test_runs_keep_their_counters_and_medians_have_theirs() -> None:
    runs = Results()
    runs["max", "x"] = [Figures("max", "x", counted={"appends": count}) for count in (1.0, 5.0, 3.0)]

    summary = runs.median("max", "x")

    assert summary is not None
    assert summary.counted == {"appends": 3.0}
