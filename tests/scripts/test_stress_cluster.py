"""The stress test of several hosts must be able to fail: each of its checks against what it is there for.

The checker is tested with histories of the tests' own making, the faults against a real Redis and one real
host, and the whole program against a host that is alone.
"""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
from support.stress import only, stress, temporary  # noqa: F401  (a fixture)

from scripts.common.server import Server
from scripts.stress.cluster import stays
from scripts.stress.cluster.clients import Epochs, HostsReport
from scripts.stress.cluster.conversation import Edges, HostConversation
from scripts.stress.cluster.host_faults import KillHosts, RandomFault, RestartHosts
from scripts.stress.cluster.hosts import Ended, Hosts, differences
from scripts.stress.cluster.plain import PlainHostsReport
from scripts.stress.cluster.redis_faults import EmptyRedis, KillRedis, Relays, StopRedis
from scripts.stress.cluster.redis_server import RedisServer
from scripts.stress.cluster.relay import CUTS, IN_APPEND, IN_READ, NO_ANSWER, SILENCE, Relay, kind_of
from scripts.stress.cluster.scenario import HostsOptions, HostsScenario
from scripts.stress.cluster.stays import Place, Stay
from scripts.stress.engine import Run
from scripts.stress.findings import Findings
from scripts.stress.fleet import ClientProcess
from scripts.stress.members.census import Present, compare
from scripts.stress.members.conversation import Ask, Asked
from scripts.stress.members.ledger import Heard, Ledger, Said
from scripts.stress.members.mailbox import Mailbox
from scripts.stress.members.texts import Sent, write
from scripts.stress.report import Verdict

pytestmark = pytest.mark.timeout(320)  # more than the longest run and its end

RUN = "run"
ROOM = "방"
KEPT = 5
Object = dict[str, Any]


class Played:
    """A member's connection to a host, and what the host sends."""

    def __init__(self, *, may_rewind: bool = False) -> None:
        self.findings = Findings()
        self.ledger = Ledger(RUN, self.findings)
        self.edges: Edges = {}
        self.talk = HostConversation(
            *("누리/1@1", RUN, self.ledger, Mailbox(self.findings), self.findings),
            kept=KEPT,
            may_rewind=may_rewind,
            edges=self.edges,
        )

    def take(self, **got: Any) -> None:
        self.talk.take(got, 1000.0)

    def join(self, seq: int, after: int | None = None, **welcome: Any) -> None:
        """Ask for the room with a number of the epoch ``e``, and be let in."""
        self.talk.asks(Asked(Ask.JOIN, ROOM, after, "e"))
        self.welcome(seq, **({"recovered": after is not None} | welcome))

    def welcome(self, seq: int, **welcome: Any) -> None:
        whole = {"name": "누리", "room": ROOM, "seq": seq, "epoch": "e", "members": 1, "token": "t"}
        self.take(welcome=whole | {"recovered": False, "lost": None} | welcome)

    def enter_again(self, seq: int, **welcome: Any) -> None:
        """Be welcomed without having asked for it."""
        self.welcome(seq, again=True, **welcome)

    def hear(self, *numbers: int) -> None:
        for seq in numbers:
            text = write(RUN, ROOM, "보람", seq)
            self.take(message=text, **{"from": "보람"}, room=ROOM, seq=seq, at=1.0)


# The conversation.


def test_a_member_that_its_host_enters_again_goes_on_without_a_gap() -> None:
    played = Played()
    played.join(3, after=2)
    played.hear(3, 4)
    played.talk.says(0)
    played.enter_again(6)
    played.hear(5, 6, 7)
    played.take(message=write(RUN, ROOM, "누리", 0), **{"from": "누리"}, room=ROOM, seq=8, at=1.0)
    only(played.findings)
    assert played.talk.quiet
    assert played.talk.entered_again == 1


@pytest.mark.parametrize("after", [None, 4, 2])
def test_a_second_welcome_is_told_from_the_answer_to_a_join(after: int | None) -> None:
    """The member has asked for its own room again when its host enters it again."""
    for ask_first in (True, False):
        played = Played()
        played.join(3, after=2)
        played.hear(3, 4)
        if ask_first:
            played.talk.asks(Asked(Ask.ROOMS))
        played.talk.asks(Asked(Ask.JOIN, ROOM, after, "e"))
        played.enter_again(4, recovered=True)
        played.hear(5)
        if ask_first:
            played.take(rooms={})
        played.welcome(5, recovered=after is not None)
        played.hear(*range(4 if after is None else after + 1, 7))
        assert played.talk.quiet
        only(played.findings)
        played.hear(8)
        only(played.findings, lost=1)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [((6,), {"lost": 1}), ((4, 5), {"doubled": 1}), ((6, 5), {"lost": 1, "doubled": 1})],
)
def test_a_gap_or_a_repeat_behind_a_second_welcome_is_found(
    numbers: tuple[int, ...], found: dict[str, int]
) -> None:
    played = Played()
    played.join(3, after=2)
    played.hear(3, 4)
    played.enter_again(6)
    played.hear(*numbers)
    only(played.findings, **found)


@pytest.mark.parametrize(
    "welcome",
    [{"name": "남"}, {"room": "다른"}, {"seq": 3}, {"lost": [6, 7]}, {"epoch": "f", "lost": [5, None]}],
)
def test_a_second_welcome_that_does_not_fit_is_found(welcome: Object) -> None:
    played = Played()
    played.join(3, after=2)
    played.hear(3, 4)
    played.enter_again(**({"seq": 9} | welcome))
    only(played.findings, strange=1)


def test_an_own_message_that_a_host_loses_on_the_way_to_its_new_epoch_is_found() -> None:
    played = Played()
    played.join(0)
    played.talk.says(0)
    played.talk.says(1)
    played.enter_again(0)
    played.take(message=write(RUN, ROOM, "누리", 1), **{"from": "누리"}, room=ROOM, seq=1, at=1.0)
    only(played.findings, lost=1)


@pytest.mark.parametrize("lost", [[5, None], [5, 8]])
def test_a_new_epoch_with_the_range_that_is_uncertain_is_no_fault_of_an_emptied_redis(lost: Object) -> None:
    played = Played(may_rewind=True)
    played.join(3, after=2)
    played.hear(3, 4)
    played.talk.says(0)
    played.talk.asks(Asked(Ask.WHO, ROOM))
    played.enter_again(8, epoch="f", lost=lost)
    played.hear(9)
    assert played.talk.quiet  # what was asked before may never be answered
    played.take(who={"room": ROOM, "names": ["누리"], "members": 1, "next": None})
    played.hear(10)
    only(played.findings)
    assert played.talk.uncertain == 1


def test_a_new_epoch_that_names_no_range_is_found() -> None:
    played = Played(may_rewind=True)
    played.join(3, after=2)
    played.hear(3, 4)
    played.enter_again(8, epoch="f")
    only(played.findings, strange=1)


def test_a_member_that_comes_back_into_a_new_epoch_has_all_or_is_told_what_is_lost() -> None:
    for welcome, heard, found in (
        ({"recovered": True}, (5, 6), {}),
        ({"recovered": True}, (6,), {"lost": 1}),
        ({"recovered": False, "lost": [5, None]}, (6,), {}),
        ({"recovered": False, "lost": [5, 5]}, (6,), {}),
        ({"recovered": False}, (), {"strange": 1}),
        ({"recovered": False, "lost": [4, None]}, (6,), {}),  # the hosts agree on less than it has
        ({"recovered": False, "lost": [6, None]}, (), {"strange": 1}),
    ):
        played = Played(may_rewind=True)
        played.join(4)
        played.join(6, after=4, epoch="f", **welcome)
        played.hear(*heard)
        only(played.findings, **found)


def test_a_range_is_lost_only_where_the_room_keeps_no_more_and_is_the_same_on_all_hosts() -> None:
    played = Played()
    played.join(20, after=3, recovered=False, lost=[4, 15])
    only(played.findings)
    assert played.talk.told_lost == 12
    played.join(20, after=8, recovered=False, lost=[9, 14])
    only(played.findings, differing=1)
    played.join(21, after=8, recovered=False, lost=[9, 17])
    only(played.findings, differing=1, lost=1)
    played.join(22, after=8, recovered=False, lost=[9, None])  # there is no other epoch
    only(played.findings, differing=1, lost=1, strange=1)


# Plain clients.


def played_stay(*texts: str) -> tuple[Stay, Findings]:
    findings = Findings()
    stay = Stay("plain-1/1@1", RUN, findings)
    for text in texts:
        stay.take({"message": text})
    return stay, findings


def lobby(name: str, number: int) -> str:
    return write(RUN, stays.LOBBY, name, number)


def test_a_plain_client_sees_members_with_their_names_and_its_own_messages_in_order() -> None:
    stay, findings = played_stay(" Disconnect : 127.0.0.1:4 ", f"누리: {lobby('누리', 0)}")
    own = [Sent(stays.LOBBY, "127.0.0.1:5", number) for number in range(3)]
    for each in own:
        stay.says(each)
    stay.take({"message": lobby("127.0.0.1:5", 0)})
    only(findings)
    stay.take({"message": lobby("127.0.0.1:5", 2)})
    only(findings, lost=1)
    assert not stay.unseen


@pytest.mark.parametrize(
    "got",
    [
        {"message": f"보람: {write(RUN, stays.LOBBY, '누리', 0)}"},
        {"message": write(RUN, stays.LOBBY, "누리", 0)},
        {"message": f"누리: {write(RUN, ROOM, '누리', 0)}"},
        {"message": "안녕"},
        {"message": f"누리: {write(RUN, stays.LOBBY, '누리', 0)}", "seq": 1},
        {"error": {"code": "bad_request", "text": ""}},
    ],
)
def test_what_is_not_for_a_plain_client_is_found(got: Object) -> None:
    stay, findings = played_stay()
    stay.take(got)
    only(findings, strange=1)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ((1, 2, 3), {}),
        ((2, 3, 104, 5), {}),  # no member received the third: the number 4 is its own
        ((1, 3), {"lost": 1}),
        ((1, 104, 3, 5), {"lost": 1}),
        ((1, 2, 2, 3), {"doubled": 1}),
        ((2, 1), {"differing": 1}),
        ((1, 104, 2), {"differing": 1}),  # a message that only this host gave a place
    ],
)
def test_the_order_of_a_plain_client_is_that_of_the_members(
    numbers: tuple[int, ...], found: dict[str, int]
) -> None:
    stay, findings = played_stay(*(f"누리: {lobby('누리', each)}" for each in numbers))
    ledger = Ledger(RUN, findings)
    for seq in (1, 2, 3, 5):
        ledger.heard("x", Heard("e", stays.LOBBY, seq, Said("누리", lobby("누리", seq), 1.0)))
    known = stays.places(ledger)
    assert known[Sent(stays.LOBBY, "누리", 5)] == [Place("e", 5)]
    stays.judge(stay, known, findings)
    only(findings, **found)


def test_a_plain_client_may_step_into_another_epoch_and_is_compared_there_too() -> None:
    for numbers, found in (((1, 2, 4, 5), {}), ((1, 4, 6), {"lost": 1})):
        stay, findings = played_stay(*(f"누리: {lobby('누리', each)}" for each in numbers))
        ledger = Ledger(RUN, findings)
        for epoch, seqs in (("e", (1, 2, 3)), ("f", (1, 4, 5, 6))):
            for seq in seqs:
                ledger.heard("x", Heard(epoch, stays.LOBBY, seq, Said("누리", lobby("누리", seq), 1.0)))
        stays.judge(stay, stays.places(ledger), findings)
        only(findings, **found)


# What hosts say of themselves.


def status(people: int = 2, messages: int = 7, state: str = "member", **epochs: int) -> Object:
    listed = [{"name": name, "state": "living", "epoch": each} for name, each in epochs.items()]
    return {
        "people": people,
        "rooms": 1,
        "messages": messages,
        "cluster": {"state": state, "hosts": listed},
    }


@pytest.mark.parametrize(
    ("other", "still", "right"),
    [
        (status(a=1, b=2), True, True),
        (status(a=1, b=3), True, False),
        (status(a=1), True, False),
        (status(a=1, b=2, c=3), True, False),
        (status(state="away", a=1, b=2), True, False),
        (status(people=3, a=1, b=2), True, False),  # a ghost
        (status(messages=8, a=1, b=2), True, False),
        (status(messages=8, a=1, b=2), False, True),  # one is on its way
        ({"people": 2, "rooms": 1, "messages": 7, "cluster": None}, True, False),
    ],
)
def test_hosts_that_do_not_describe_one_chat_are_found(other: Object, still: bool, right: bool) -> None:
    assert bool(differences({"a": status(a=1, b=2), "b": other}, still=still)) is not right


def test_a_host_that_no_host_lists_is_found() -> None:
    assert differences({"a": status(a=1), "b": status(a=1)}, still=True) == [
        "a does not list ['b']",
        "b does not list ['b']",
    ]


# The checker as a whole: reports of processes whose clients were on different hosts.


class Judged:
    """A scenario that gets reports, without any server."""

    def __init__(self, folder: Path, **options: Any) -> None:
        given = HostsOptions(seed=1, **options)
        self.verdict = Verdict("cluster", HostsScenario.kinds, asdict(given))
        self.run = Run(HostsScenario, given, self.verdict, lambda name, part: None, folder)
        assert isinstance(self.run.scenario, HostsScenario)
        self.scenario = self.run.scenario
        self.scenario.hosts = Hosts([Server(folder, "host1", 1, folder / "log")], None, 2.0)
        self._processes = 0

    def hear(self, said: object) -> ClientProcess:
        self._processes += 1
        plan = self.run.plan(f"process{self._processes}", 1)
        process = cast(ClientProcess, type("Process", (), {"plan": type("Plan", (), plan)}))
        self.scenario.hear(process, said)
        return process

    def heard(self, *messages: Heard, edges: Edges | None = None) -> None:
        """Take the report of a process whose members received these messages."""
        ledger = Ledger(self.run.name, Findings())
        for each in messages:
            ledger.heard("x", each)
        report = HostsReport(
            findings=Findings(),
            counts=Counter(),
            latency={},
            ledger=ledger,
            mailbox=Mailbox(Findings()),
            edges=edges or {},
        )
        self.hear(report)

    def message(self, seq: int, number: int | None = None, epoch: str = "e", at: float = 1.0) -> Heard:
        text = write(self.run.name, "lobby", "누리", seq if number is None else number)
        return Heard(epoch, "lobby", seq, Said("누리", text, at))

    def judge(self) -> Findings:
        self.scenario.judge(whole=True)
        return self.verdict.findings


def test_equal_histories_on_all_hosts_are_clean(tmp_path: Path) -> None:
    judged = Judged(tmp_path)
    for _ in range(3):
        judged.heard(*(judged.message(seq) for seq in range(1, 9)), edges={("e", "lobby", 8): 3})
    only(judged.judge())
    assert not judged.verdict.dropped


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([(1, 1), (2, 9), (3, 3)], {"differing": 1}),  # another text under a number
        ([(1, 1), (2, 2), (3, 3), (4, 2)], {"doubled": 1}),
        ([(1, 1), (2, 2), (3, 3), (4, 6), (5, 5)], {"reordered": 1}),
    ],
)
def test_a_host_with_another_history_is_found(
    tmp_path: Path, messages: list[tuple[int, int]], found: dict[str, int]
) -> None:
    judged = Judged(tmp_path)
    judged.heard(*(judged.message(seq) for seq in (1, 2, 3)))
    judged.heard(*(judged.message(seq, number) for seq, number in messages))
    only(judged.judge(), **found)


def test_a_message_that_one_host_lacks_is_found_in_the_census(tmp_path: Path) -> None:
    findings = Findings()
    present = [Present("누리", ROOM, 9, 2), Present("보람", ROOM, 8, 2)]
    compare(present, {ROOM: {"누리", "보람"}}, {ROOM: 9}.__getitem__, findings)
    only(findings, lost=1)


def test_a_ghost_on_one_host_is_found_in_the_census() -> None:
    findings = Findings()
    present = [Present("누리", ROOM, 9, 2), Present("보람", ROOM, 9, 2)]
    compare(present, {ROOM: {"누리", "보람", "유령"}}, {ROOM: 9}.__getitem__, findings)
    only(findings, members=3)


def test_the_end_of_an_emptied_log_may_come_again_under_the_new_epoch(tmp_path: Path) -> None:
    judged = Judged(tmp_path, redis_empty=True)
    judged.heard(*(judged.message(seq) for seq in (1, 2, 3)))
    judged.heard(*(judged.message(seq, epoch="f") for seq in (2, 3)), judged.message(4, 9, epoch="f"))
    only(judged.judge())
    judged.heard(judged.message(5, 9, epoch="f"))
    only(judged.judge(), doubled=1)


def test_hosts_that_tell_members_different_ranges_are_found(tmp_path: Path) -> None:
    judged = Judged(tmp_path)
    for first in (3, 4):
        judged.heard(judged.message(1), edges={("e", "lobby", 8): first})
    only(judged.judge(), differing=1)


def test_a_plain_client_of_another_host_is_compared_with_the_members(tmp_path: Path) -> None:
    judged = Judged(tmp_path)
    judged.heard(*(judged.message(seq) for seq in (1, 2, 3)))
    stay = Stay("plain-1/1@2", judged.run.name, Findings())
    for seq in (1, 3):
        stay.take({"message": f"누리: {judged.message(seq).said.text}"})
    judged.hear(PlainHostsReport(findings=Findings(), counts=Counter(), latency={}, stays=[stay]))
    only(judged.judge(), lost=1)


def test_a_connection_may_end_with_its_host_and_at_no_other_time(tmp_path: Path) -> None:
    judged = Judged(tmp_path)
    now = time.monotonic()
    with judged.scenario.hosts.all[0].may_end_connections():
        pass
    judged.hear(Ended(0, now + 1.0, "with its host"))
    judged.hear(Ended(0, now - 1.0, "before"))
    judged.hear(Ended(0, now + 100.0, "long after"))
    judged.judge()
    assert judged.verdict.dropped == ["before", "long after"]
    assert judged.verdict.died == 1


def test_members_that_are_told_of_a_new_epoch_late_or_never_are_found(tmp_path: Path) -> None:
    for ago, told, reason in (
        (1.0, True, ""),
        (9.0, True, "members were told of the new epoch after 9.0 s"),
        (1.0, False, "members were not told that Redis came back empty"),
    ):
        judged = Judged(tmp_path, redis_empty=True)
        process = judged.hear(Epochs(Counter({"e": 2})))
        judged.scenario.hosts.news.put(("emptied",))
        judged.scenario.hosts.news.put(("founded", time.monotonic() - ago))
        judged.scenario.step(0.0)
        judged.scenario.hear(process, Epochs(Counter({"e": 1, "f": 1})))
        if told:
            judged.scenario.hear(process, Epochs(Counter({"f": 2})))
        judged.judge()
        assert judged.verdict.reasons == ([reason] if reason else [])


# Redis and the links to it.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("redis")


@pytest.fixture
def redis(data: Path) -> Iterator[RedisServer]:
    server = RedisServer(data / f"{time.monotonic_ns()}", "always")
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Asking:
    """A host's connection to Redis: one request, one answer."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)

    def ask(self, *words: str) -> bytes:
        """Return the beginning of the answer; empty: the connection has ended."""
        parts = (f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        self.sock.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
        return self.read()

    def read(self) -> bytes:
        try:
            return self.sock.recv(1 << 20)
        except ConnectionError:
            return b""

    def append(self, text: str) -> bytes:
        return self.ask("EVAL", "return redis.call('XADD', KEYS[1], '*', 'x', ARGV[1])", "1", "log", text)

    def length(self) -> int:
        return int(self.ask("XLEN", "log")[1:])


class Turning:
    """A relay that a thread of the test runs."""

    def __init__(self, redis: RedisServer) -> None:
        self.relay = Relay(redis.address)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.stopping.is_set():
            self.relay.turn()

    def close(self) -> None:
        self.stopping.set()
        self.thread.join()
        self.relay.close()


@pytest.fixture
def turning(redis: RedisServer) -> Iterator[Turning]:
    with closing(Turning(redis)) as turning:
        yield turning


@pytest.fixture
def open_to() -> Iterator[Callable[[int], Asking]]:
    """Connect to a port; the connections are closed at the end."""
    opened: list[Asking] = []

    def connect(port: int) -> Asking:
        opened.append(Asking(port))
        return opened[-1]

    yield connect
    for each in opened:
        each.sock.close()


Connect = Callable[[int], Asking]


def test_an_honest_relay_passes_everything(redis: RedisServer, turning: Turning, open_to: Connect) -> None:
    host = open_to(turning.relay.port)
    long = "가" * 1_000_000
    assert host.append(long).startswith(b"$")
    answer = host.ask("XRANGE", "log", "-", "+")
    while len(answer) < len(long.encode()):
        part = host.read()
        assert part
        answer += part
    assert long.encode() in answer


def test_an_append_that_is_cut_in_the_middle_is_not_done(
    redis: RedisServer, turning: Turning, open_to: Connect
) -> None:
    host, direct = open_to(turning.relay.port), open_to(redis.port)
    assert host.append("하나")
    turning.relay.arm(IN_APPEND)
    assert host.ask("PING") == b"+PONG\r\n"  # it waits for an append
    assert host.append("둘") == b""
    assert direct.length() == 1
    assert turning.relay.cuts == Counter({IN_APPEND: 1})
    assert open_to(turning.relay.port).append("셋")


def test_an_append_whose_answer_is_lost_is_done(
    redis: RedisServer, turning: Turning, open_to: Connect
) -> None:
    host, direct = open_to(turning.relay.port), open_to(redis.port)
    turning.relay.arm(NO_ANSWER)
    assert host.append("하나") == b""
    assert direct.length() == 1


def test_half_of_the_answer_to_a_read_comes_back(
    redis: RedisServer, turning: Turning, open_to: Connect
) -> None:
    host = open_to(turning.relay.port)
    assert host.append("하나")
    whole = host.ask("XRANGE", "log", "-", "+")
    turning.relay.arm(IN_READ)
    assert host.ask("XRANGE", "log", "-", "+") == whole[: len(whole) // 2]
    assert host.read() == b""


def test_a_silent_link_passes_nothing_and_then_ends(
    redis: RedisServer, turning: Turning, open_to: Connect
) -> None:
    host = open_to(turning.relay.port)
    assert host.ask("PING")
    turning.relay.arm(SILENCE, 0.5)
    begin = time.monotonic()
    assert host.ask("PING") == b""
    assert time.monotonic() - begin > 0.3


def test_requests_are_told_apart() -> None:
    assert kind_of(b"*4\r\n$7\r\nEVALSHA\r\n") == "append"
    assert kind_of(b"*4\r\n$5\r\nxread\r\n") == "read"
    assert kind_of(b"*1\r\n$4\r\nPING\r\n") == "other"


def stepped(fault: RandomFault) -> None:
    """Let a fault be done once; its choices aside, as a run does it."""
    deadline = time.monotonic() + 60
    while not fault.done():
        assert time.monotonic() < deadline, "the fault was not done within 60 s"
        fault.step(time.monotonic())
        time.sleep(0.01)
    fault.end()
    assert fault.wrong == []


def test_a_killed_redis_has_its_data_and_an_emptied_one_has_not(redis: RedisServer, open_to: Connect) -> None:
    hosts = Hosts([], redis, 1.0)
    assert open_to(redis.port).append("하나")
    stepped(KillRedis(hosts, redis, "redis-kill", 1, 0.1))
    assert open_to(redis.port).length() == 1
    stepped(StopRedis(hosts, redis, 1, 0.1, away=0.2))
    assert open_to(redis.port).length() == 1
    stepped(EmptyRedis(hosts, redis, "redis-empty", 1, 0.1))
    assert open_to(redis.port).length() == 0
    news = [hosts.news.get()[0] for _ in range(hosts.news.qsize())]
    assert news == ["emptied", "founded"] * (len(news) // 2)
    assert news


def test_a_stopped_redis_answers_once_it_is_continued(redis: RedisServer, open_to: Connect) -> None:
    host = open_to(redis.port)
    host.sock.settimeout(0.3)
    redis.suspend()
    with pytest.raises(TimeoutError):
        host.ask("PING")
    host.sock.settimeout(10)
    redis.resume()
    assert host.read() == b"+PONG\r\n"


def test_a_host_that_repeats_what_was_cut_has_each_of_its_batches_once(
    redis: RedisServer, open_to: Connect
) -> None:
    """A small host: it numbers its batches, and repeats one until the log has it."""
    once = (
        "if tonumber(ARGV[1]) <= tonumber(redis.call('GET', 'n') or '0') then return 0 end "
        "redis.call('SET', 'n', ARGV[1]) redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'x', 'x') return 1"
    )
    relays = Relays(redis, 1, 1, 0.1, 0.2)
    with closing(relays):
        host, number, repeated = open_to(relays.ports[0]), 1, 0
        deadline = time.monotonic() + 60
        while not relays.done():
            assert time.monotonic() < deadline, relays.facts()
            relays.step(time.monotonic())
            if host.ask("EVAL", once, "1", "log", str(number)) and host.ask("XRANGE", "log", "-", "+"):
                number += 1
            else:
                repeated += 1
                host = open_to(relays.ports[0])
        assert set(relays.facts()) == set(CUTS)
    assert repeated >= len(CUTS)
    assert open_to(redis.port).length() in (number - 1, number)


# Hosts.


def test_faults_leave_a_host_that_is_well(tmp_path: Path) -> None:
    hosts = Hosts([Server(tmp_path, f"host{each}", 1, tmp_path / "log") for each in (1, 2, 3)], None, 2.0)
    first, second, third = hosts.all
    chooser = random.Random(1)
    second.silent_until = third.silent_until = time.monotonic() + 60
    assert {hosts.take(random.Random(each), "kill", spare=True) for each in range(20)} <= {
        second,
        third,
        None,
    }
    for each in hosts.all:
        hosts.release(each)
    first.fault = "stop"
    assert hosts.take(chooser, "kill", spare=True) is None
    assert hosts.take(chooser, "reload", spare=False) in (second, third)


def test_a_host_that_was_killed_or_stopped_in_order_is_there_again(tmp_path: Path) -> None:
    server = Server(tmp_path, "host1", 1, tmp_path / "log")
    hosts = Hosts([server], None, 0.2)
    host = hosts.all[0]
    with closing(hosts):
        hosts.start()
        before = time.monotonic()
        for kind, name in ((KillHosts, "kill-hosts"), (RestartHosts, "restart")):
            pid = server.pid
            fault = kind(hosts, name, 1, 0.1)
            stepped(fault)
            assert server.pid != pid
            assert server.alive
            assert host.living
            assert not host.fault
        assert len(host.windows) >= 2
        assert not host.excuses(before)
        assert hosts.addresses() == (server.address,)
        assert hosts.stop() == []


@pytest.mark.usefixtures("temporary")
def test_a_host_that_is_alone_keeps_its_promises() -> None:
    faults = ("--stop-hosts", "--reload", "--scale", "--cuts", "30", "--fault-every", "1")
    size = ("--seconds", "4", "--members", "20", "--plain", "4", "--rate", "150", "--lease", "1")
    code, verdict = stress("cluster", "--alone", *faults, *size)
    assert verdict["reasons"] == [], (verdict["run"]["seed"], verdict["examples"], verdict["faults"])
    assert code == 0
    counts = verdict["counts"]
    assert counts["cuts"] >= 30
    assert counts["plain_compared"] > 20
    assert counts["recovered"] > 0
    for name in ("stop-hosts", "reload", "scale"):
        assert verdict["faults"][name]["did"] > 0
    assert verdict["hosts"]["host1"]["people"] == 20


@pytest.mark.usefixtures("temporary")
def test_a_run_whose_hosts_do_not_start_leaves_nothing_behind() -> None:
    code, verdict = stress("cluster", "--seconds", "1", "--workers", "100000")
    assert code == 1
    assert any("did not start" in each for each in verdict["reasons"]), verdict["reasons"]


@pytest.mark.one_python
@pytest.mark.usefixtures("temporary")
def test_three_hosts_keep_their_promises_while_hosts_and_links_fail() -> None:
    faults = ("--kill-hosts", "--stop-hosts", "--cut", "--roam", "--fault-every", "3")
    size = ("--seconds", "20", "--members", "30", "--rate", "80", "--workers", "1", "--patience", "20")
    code, verdict = stress("cluster", *faults, *size)
    assert verdict["reasons"] == [], (verdict["run"]["seed"], verdict["examples"], verdict["faults"])
    assert code == 0
    for name in ("kill-hosts", "stop-hosts"):
        assert verdict["faults"][name]["did"] > 0
    assert verdict["faults"]["stop-hosts"]["fenced"] > 0
    assert set(verdict["faults"]["cut"]) == set(CUTS)
    assert verdict["counts"]["recovered"] > 10
    assert verdict["counts"]["plain_compared"] > 20
