"""Several hosts as one chat: real instances over a real Redis, and each promise with its fault."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from support.api_program import Program
from support.harness import (
    Client,
    Server,
    assert_nothing_left,
    free_port,
    running,
    settle,
    stopped,
)
from support.injected import inject_into_supervisor, steppable_clock
from support.members import Member, members
from support.redis_server import RedisServer, running_redis
from support.sign_in import ALICE, ALICES, BOB, BOBS, SECRET, Registry, write_settings
from support.waiting import eventually

from mpchat import connect_blocking
from mpchat.errors import Exit, NotRunningError
from mpchat.hub.shared_log import VERSION

pytestmark = pytest.mark.one_python

# Seconds of a lease, of a name that is held, and of a mute that the test's member must meet.
LEASE = HOLD = 1.0
MUTE = 3.0
# Seconds, for a busy machine: a clock that is an hour ahead would be off by far more.
WIDELY = 15.0
SEOUL, BUSAN, JEJU = "서울", "부산", "제주"
# An address of loopback for clients that are to be told from the test's others.
ELSEWHERE = "127.0.0.9"


def flags(redis: RedisServer, name: str, cluster: str, lease: float = LEASE) -> list[str]:
    return [
        *("--cluster", redis.url, "--cluster-name", cluster, "--cluster-lease", f"{lease:g}s"),
        *("--host-name", name),
    ]


@contextmanager
def hosts(
    folder: Path, redis: RedisServer, *names: str, more: Sequence[str] = (), lease: float = LEASE
) -> Iterator[list[Server]]:
    """Hosts of a cluster that is called as the folder is, each in a folder of its own."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                running(made(folder / name), *flags(redis, name, folder.name, lease), *more, workers=1)
            )
            for name in names
        ]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """A process of a host that outlives the test fails it."""
    yield
    for each in tmp_path.rglob("run"):
        assert_nothing_left(each.parent)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def lasting_pair(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[list[Server]]:
    folder = tmp_path_factory.mktemp("둘")
    accounts = ["--auth", "names", *Registry(folder).flags]
    with hosts(folder, redis, SEOUL, BUSAN, more=accounts) as servers:
        yield servers
    for each in servers:
        assert_nothing_left(each.folder)


@pytest.fixture
def pair(lasting_pair: list[Server]) -> Iterator[list[Server]]:
    """Two hosts without clients that all tests share; they stay as they are."""
    for each in lasting_pair:
        each.wait_for_connections(0)
    yield lasting_pair
    for each in lasting_pair:
        assert ok(each, "bans") == "nobody is banned or muted\n"


def ok(server: Server, *words: str) -> str:
    done = server.command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cluster(server: Server) -> dict[str, Any]:
    facts: dict[str, Any] = server.status()["cluster"]
    return facts


def is_member(server: Server, after: int = 0) -> bool:
    """Tell whether a host takes part, under a later epoch than ``after``."""
    facts = cluster(server)
    return bool(facts["state"] == "member" and facts["epoch"] > after)


def is_away(server: Server) -> bool:
    return bool(cluster(server)["state"] == "away")


def ended(client: Client) -> bool:
    """Read to the end of the stream."""
    while client.receive() is not None:
        pass
    return True


def end_host(server: Server) -> None:
    """``kill -9`` of every process of a host."""
    processes = server.processes()
    for each in processes:
        each.kill()
    eventually(lambda: not any(map(lives, processes)), "all processes of the host to be gone")


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def whole_host_stopped(server: Server) -> Iterator[None]:
    with ExitStack() as stack:
        for each in server.processes():
            stack.enter_context(stopped(each.pid))
        yield


def texts(member: Member) -> list[str]:
    return [each["message"] for each in member.numbered]


def in_sync(*everyone: Member) -> None:
    """Let each have what all have said by now: hosts may be apart by a moment."""
    for mark, each in enumerate(everyone):
        each.ask(message=f"= {mark} =")
    for each in everyone:
        for mark in range(len(everyone)):
            if f"= {mark} =" not in texts(each):
                each.hear_from_room(f"= {mark} =")


# One chat.


def test_members_of_both_hosts_get_the_same_messages_in_one_order(pair: list[Server]) -> None:
    room = "한방"
    with ExitStack() as stack:
        everyone = []
        for number in range(6):
            everyone.append(stack.enter_context(Member(pair[number % 2].address)))
            everyone[-1].join(f"회원{number}", room=room)
        for number in range(30):
            for each in everyone:
                each.ask(message=f"{each.welcome['name']}: 안녕 {number}")
        for each in everyone:
            while len(each.numbered) < 180:
                each.take()
        first = everyone[0].numbered
        assert [each["seq"] for each in first] == list(range(1, 181))
        for each in everyone:
            assert each.numbered == first
            own = [said for said in texts(each) if said.startswith(each.welcome["name"])]
            assert own == [f"{each.welcome['name']}: 안녕 {number}" for number in range(30)]
        assert len({each.welcome["epoch"] for each in everyone}) == 1


def test_a_private_message_finds_a_name_on_another_host_and_nobody_else(pair: list[Server]) -> None:
    seoul, busan = pair
    with (
        members(seoul.address, "철수", room="귓속말") as (chulsoo,),
        Member(busan.address) as younghee,
        Member(busan.address) as other,
    ):
        younghee.join("영희", room="다른방")
        other.join("민수", room="귓속말")
        chulsoo.ask(message="둘만 알자", to="영희")
        heard = younghee.hear_from_room("둘만 알자")
        assert (heard["from"], heard["to"], "seq" in heard) == ("철수", "영희", False)
        assert chulsoo.hear_from_room("둘만 알자") == heard
        assert chulsoo.refused(message="여보세요", to="없는 사람") == "no_such_name"
        other.sync()
        assert "둘만 알자" not in [each.get("message") for each in other.got]


def test_a_name_belongs_to_one_member_on_all_hosts(pair: list[Server]) -> None:
    seoul, busan = pair
    with members(seoul.address, "앨리", room="이름") as (alice,), Member(busan.address) as other:
        assert other.refused(join={"name": "앨리", "room": "이름"}) == "name_taken"
        assert other.refused(join={"name": "앨리", "room": "이름", "token": "틀림"}) == "name_taken"
        assert other.join("앨리", room="이름", token=alice.welcome["token"])["name"] == "앨리"
        while (received := alice.receive()) is not None:
            alice.got.append(received)
        assert alice.got[-1]["error"]["code"] == "taken_over"


def test_who_rooms_and_history_are_the_same_from_both(pair: list[Server]) -> None:
    seoul, busan = pair
    with (
        members(seoul.address, "가", "나", room="같은방") as (first, _),
        members(busan.address, "다", room="같은방") as (second,),
        members(busan.address, "라", room="또다른방"),
    ):
        first.ask(message="하나")
        first.hear_from_room("하나")
        second.ask(message="둘")
        second.hear_from_room("둘")
        in_sync(first, second)
        answers = []
        for each in (first, second):
            each.ask(who={})
            each.ask(rooms={})
            each.ask(history={"limit": 10})
            answers.append((each.until("who"), each.until("rooms"), each.until("history")))
        assert answers[0] == answers[1]
        who, rooms, history = answers[0]
        assert who["names"] == ["가", "나", "다"]
        assert {"room": "같은방", "members": 3} in rooms["rooms"]
        assert {"room": "또다른방", "members": 1} in rooms["rooms"]
        assert [each["message"] for each in history["messages"]][:2] == ["하나", "둘"]


@pytest.mark.parametrize("reset", [False, True], ids=["connection kept", "connection lost"])
def test_a_member_resumes_on_the_other_host(pair: list[Server], *, reset: bool) -> None:
    """What was said meanwhile comes once: the old connection is dead, or just not known to be."""
    seoul, busan = pair
    room = f"다시{reset}"
    with members(busan.address, "말", room=room) as (speaker,), ExitStack() as stack:
        before = stack.enter_context(Member(seoul.address))
        before.join("옮김", room=room)
        for number in range(5):
            speaker.ask(message=f"전 {number}")
        last = before.hear_from_room("전 2")["seq"]  # of what comes after, nothing is read
        if reset:
            before.reset()
            seoul.wait_for_connections(0)
        for number in range(5):
            speaker.ask(message=f"후 {number}")
        speaker.hear_from_room("후 4")
        with Member(busan.address) as after:
            welcome = after.join(
                "옮김",
                room=room,
                token=before.welcome["token"],
                epoch=before.welcome["epoch"],
                after=last,
            )
            assert (welcome["recovered"], welcome["lost"]) == (True, None)
            after.ask(message="왔다")
            after.hear_from_room("왔다")
            expected = [*(f"전 {n}" for n in (3, 4)), *(f"후 {n}" for n in range(5)), "왔다"]
            assert texts(after) == expected
            assert [each["seq"] for each in after.numbered] == list(range(last + 1, last + 9))


def test_programs_with_the_library_talk_over_hosts(pair: list[Server]) -> None:
    with (
        connect_blocking(*pair[0].address, name="도서관", room="책") as first,
        connect_blocking(*pair[1].address, name="사서", room="책") as second,
    ):
        second.send("조용히")
        assert first.recv(20.0).text == "조용히"
        first.tell("사서", "네")
        assert [second.recv(20.0).text for _ in range(2)] == ["조용히", "네"]
        assert sorted(first.who().names) == ["도서관", "사서"]


def test_plain_clients_of_both_hosts_hear_each_other_and_who_leaves(pair: list[Server]) -> None:
    seoul, busan = pair
    with Client(seoul.address) as first, Client(busan.address, source=ELSEWHERE) as second:
        settle([first, second])
        first.say("서울에서")
        second.hear_until("서울에서")
        second.say("부산에서")
        assert first.hear_until("부산에서") == ["서울에서", "부산에서"]
        gone = second.address
        second.close()
        assert first.hear() == f" Disconnect : {gone} "


# Operators.


def lists(server: Server, target: str, *, listed: bool = True) -> bool:
    """Tell whether ``mpchat bans`` shows a target, or shows it not."""
    return (target in ok(server, "bans")) is listed


def is_room(server: Server, name: str) -> bool:
    return name in ok(server, "rooms")


def is_turned_away(server: Server) -> bool:
    """Connect from elsewhere and wait for the end of the connection."""
    got: list[dict[str, Any]] = []
    with Client(server.address, source=ELSEWHERE) as client:
        while (received := client.receive()) is not None:
            got.append(received)
    return [each["error"]["code"] for each in got if "error" in each] == ["banned"]


def test_an_announcement_reaches_the_clients_of_all_hosts(pair: list[Server]) -> None:
    seoul, busan = pair
    with Client(busan.address) as plain, members(busan.address, "들음", room="공지방") as (member,):
        settle([plain])
        assert ok(seoul, "say", "점검합니다") == "said to 0 clients here, and to those of 1 other host\n"
        plain.hear_until("점검합니다")
        assert "from" not in member.hear_from_room("점검합니다")


def test_a_kick_by_name_address_and_network_ends_connections_on_another_host(pair: list[Server]) -> None:
    seoul, busan = pair
    with members(busan.address, "나감", "남음", room="차기") as (leaver, witness):
        assert ok(seoul, "kick", "나감") == "1 connection ended\n"
        assert ended(leaver)
        assert witness.until("left")["reason"] == "kicked"
        for target in (ELSEWHERE, "127.0.0.8/29"):
            with Client(busan.address, source=ELSEWHERE) as plain:
                settle([plain])
                assert ok(seoul, "kick", target) == "0 connections ended here, and those on 1 other host\n"
                assert ended(plain)
        witness.sync()
        done = seoul.command("kick", "없는이름")
        assert (done.returncode, done.stdout) == (Exit.FAILED, "")
        assert "no member is called 없는이름" in done.stderr


def test_a_banned_name_is_banned_on_all_hosts(pair: list[Server]) -> None:
    seoul, busan = pair
    with members(busan.address, "훼방꾼", room="금지") as (bad,), Member(busan.address) as again:
        done = ok(seoul, "ban", "훼방꾼", "--for", "1h")
        assert done == "훼방꾼 is banned for 3600 s; 1 connection ended\n"
        assert ended(bad)
        assert "훼방꾼" in ok(busan, "bans")
        assert again.refused(join={"name": "훼방꾼", "token": bad.welcome["token"]}) == "banned"
        ok(busan, "unban", "훼방꾼")
        with Member(seoul.address) as back:
            eventually(lambda: "훼방꾼" not in ok(seoul, "bans"), "the ban to be lifted")
            assert back.join("훼방꾼", room="금지", token=bad.welcome["token"])["name"] == "훼방꾼"


@pytest.mark.parametrize("target", [ELSEWHERE, "127.0.0.8/29"])
def test_a_banned_address_gets_nowhere_on_any_host(pair: list[Server], target: str) -> None:
    seoul, busan = pair
    with Client(busan.address) as other, Client(busan.address, source=ELSEWHERE) as bad:
        settle([other, bad])
        ok(seoul, "ban", target)
        assert ended(bad)
        for server in pair:
            eventually(partial(is_turned_away, server), "the ban to hold on each host")
        other.say("난 여기")
        other.hear_until("난 여기")
        ok(seoul, "unban", target)
        eventually(lambda: target not in ok(busan, "bans"), "the ban to be lifted")
        with Client(busan.address, source=ELSEWHERE) as back:
            settle([back])


def test_a_client_that_comes_while_a_ban_is_on_its_way_to_the_log_is_ended(
    pair: list[Server], redis: RedisServer
) -> None:
    seoul, busan = pair
    done: list[str] = []
    ban = Thread(target=lambda: done.append(ok(seoul, "ban", ELSEWHERE)))
    bans = seoul.log.count(f"banned: {ELSEWHERE}")
    with ExitStack() as stack:
        with redis.frozen():
            ban.start()
            stack.callback(ban.join)
            eventually(lambda: seoul.log.count(f"banned: {ELSEWHERE}") > bans, "the ban to be on its way")
            early = stack.enter_context(Client(seoul.address, source=ELSEWHERE))
            settle([early])
            assert ELSEWHERE not in ok(seoul, "bans")
            assert not done
        assert ended(early)
    assert done == [f"{ELSEWHERE} is banned for good; 0 connections ended here, and those on 1 other host\n"]
    for each in pair:
        eventually(partial(lists, each, ELSEWHERE), "the ban to hold on both hosts")
    ok(busan, "unban", ELSEWHERE)
    assert lists(busan, ELSEWHERE, listed=False)
    for each in pair:
        eventually(partial(is_member, each), "both to go on")


@pytest.mark.parametrize(("order", "lift"), [("ban", "unban"), ("mute", "unmute")])
def test_what_was_ordered_is_listed_right_after_the_answer(pair: list[Server], order: str, lift: str) -> None:
    """Here at once, and on the other host when that has read it: a moment later."""
    for number in range(3):
        name = f"훼방꾼{number}"
        for here, there in (pair, pair[::-1]):
            ok(here, order, name)
            assert lists(here, name)
            eventually(partial(lists, there, name), "the other host to list it")
            ok(here, lift, name)
            assert lists(here, name, listed=False)
            eventually(partial(lists, there, name, listed=False), "the other host to list it no longer")


def test_a_room_that_was_closed_is_not_listed_right_after_the_answer(pair: list[Server]) -> None:
    for here, there in (pair, pair[::-1]):
        with members(there.address, here.folder.name, room="닫힐방"):
            eventually(partial(is_room, here, "닫힐방"), "the room to be known")
            ok(here, "close", "닫힐방")
            assert not is_room(here, "닫힐방")


def test_a_mute_holds_on_all_hosts_also_for_a_new_connection(pair: list[Server]) -> None:
    seoul, busan = pair
    with (
        members(busan.address, "수다", room="조용") as (loud,),
        members(seoul.address, "귀", room="조용") as (ear,),
    ):
        ok(seoul, "mute", "수다")
        eventually(lambda: "수다" in ok(busan, "bans"), "the mute to be known")
        assert loud.refused(message="들려?") == "muted"
        with Member(seoul.address) as again:
            again.join("수다", room="조용", token=loud.welcome["token"])
            assert again.refused(message="이제는?") == "muted"
            ok(busan, "unmute", "수다")
            eventually(lambda: "수다" not in ok(seoul, "bans"), "the mute to be lifted")
            again.ask(message="드디어")
            ear.hear_from_room("드디어")
        assert texts(ear) == ["드디어"]


def test_a_closed_room_ends_for_members_of_both_hosts(pair: list[Server]) -> None:
    seoul, busan = pair
    with (
        members(seoul.address, "하나", room="닫힐방") as (first,),
        members(busan.address, "둘", room="닫힐방") as (second,),
    ):
        assert "닫힐방" in ok(busan, "rooms")
        ok(seoul, "close", "닫힐방")
        for each in (first, second):
            assert each.until("error")["code"] == "room_closed"
        assert "닫힐방" not in ok(seoul, "rooms")


def test_an_operator_s_requests_act_on_another_host(pair: list[Server]) -> None:
    seoul, busan = pair
    with (
        Member(seoul.address) as operator,
        Member(busan.address) as bob,
        members(busan.address, "손님", "구경", room="운영") as (guest, witness),
    ):
        assert operator.join(ALICE, password=ALICES, room="운영")["role"] == "operator"
        assert bob.refused(join={"name": BOB}) == "auth_required"
        bob.join(BOB, password=BOBS, room="운영")
        assert bob.refused(kick={"name": "손님"}) == "not_allowed"
        operator.ask(mute={"name": "손님"})
        assert operator.until("moderated")["action"] == "mute"
        witness.sync()
        assert guest.refused(message="말하고 싶다") == "muted"
        operator.ask(unmute={"name": "손님"})
        operator.ask(kick={"name": "손님"})
        assert operator.until("moderated")["action"] == "unmute"
        assert operator.until("moderated")["action"] == "kick"
        assert ended(guest)
        operator.ask(ban={"name": "구경"})
        assert operator.until("moderated")["target"] == "구경"
        assert ended(witness)
        with Member(busan.address) as again:
            assert again.refused(join={"name": "구경", "token": witness.welcome["token"]}) == "banned"
        operator.ask(unban={"name": "구경"})
        assert operator.until("moderated")["action"] == "unban"
        with Client(busan.address, source=ELSEWHERE) as plain:
            settle([plain])
            operator.ask(kick={"name": ELSEWHERE})
            assert operator.until("moderated") == {"action": "kick", "target": ELSEWHERE, "count": 0}
            assert ended(plain)
        operator.ask(close={"room": "운영"})
        assert bob.until("error")["code"] == "room_closed"


def test_what_a_program_asks_of_one_host_holds_on_all(pair: list[Server]) -> None:
    key = str(pair[0].folder.parent / "token.key")
    done = pair[0].run("token", "알림", "--role", "service", "--jwt-key", key)
    program = Program(pair[0], done.stdout.strip())
    with members(pair[0].address, "가까이") as (near,), Member(pair[1].address) as far:
        far.join("멀리")
        numbers = []
        for each in range(3):
            far.ask(message=f"사람 {each}")
            numbers.append(program.say(f"프로그램 {each}", "lobby"))
        for member in (near, far):
            while not {"사람 2", "프로그램 2"} <= {each["message"] for each in member.numbered}:
                member.take()
        found = [
            [(each["seq"], each["from"], each["message"]) for each in one.numbered[-6:]]
            for one in (near, far)
        ]
        assert found[0] == found[1]
        assert [number for number, sender, _ in found[0] if sender == "알림"] == numbers
        assert program.ask("POST", "/api/tell", {"message": "쉿", "to": "멀리"}) == (200, {"to": "멀리"})
        assert far.hear_from_room("쉿")["from"] == "알림"
        status, answer = program.ask("POST", "/api/kick", {"name": "멀리"})
        assert (status, answer["ended"]) == (200, 1)
        assert ended(far)
        status, answer = program.ask("POST", "/api/tell", {"message": "쉿", "to": "멀리"})
        assert (status, answer["error"]["code"]) == (404, "no_such_name")
    program.close()


def test_a_reload_of_one_host_sets_the_limits_of_all(pair: list[Server]) -> None:
    seoul, busan = pair
    write_settings(seoul.folder, max_members=1)
    try:
        assert "max_members" in ok(seoul, "reload")
        with members(busan.address, "첫째", room="좁은방"), Member(busan.address) as second:
            assert second.refused(join={"name": "둘째", "room": "좁은방"}) == "room_full"
    finally:
        (seoul.folder / "mpchat.toml").unlink()
        ok(seoul, "reload")
    with members(busan.address, "첫째", "둘째", room="좁은방"):
        pass


# Hosts that come and go.


def rejoin(member: Member, after: int, **more: Any) -> dict[str, Any]:
    """Return what a member shows of its last connection when it comes again."""
    welcome = member.welcome
    shown = {"name": welcome["name"], "room": welcome["room"], "token": welcome["token"]}
    return {**shown, "epoch": welcome["epoch"], "after": after, **more}


def test_hosts_and_status_show_all_hosts_which_leave_die_and_return(
    tmp_path: Path, redis: RedisServer
) -> None:
    with hosts(tmp_path, redis, SEOUL, BUSAN, JEJU) as (seoul, busan, jeju), ExitStack() as stack:
        enter = stack.enter_context
        stays, leaves, dies = (enter(Member(each.address)) for each in (seoul, busan, jeju))
        for member, name in ((stays, "남는이"), (leaves, "떠난이"), (dies, "죽은이")):
            member.join(name)
        stays.ask(message="셋이다")
        seen = stays.hear_from_room("셋이다")["seq"]
        for each in (leaves, dies):
            each.hear_from_room("셋이다")

        # Three hosts.
        eventually(lambda: clients_by_host(seoul) == {SEOUL: 1, BUSAN: 1, JEJU: 1}, "beats with the clients")
        table = [line.split()[:3] for line in ok(busan, "hosts").splitlines()]
        assert table == [
            ["host", "state", "epoch"],
            [BUSAN, "here", "2"],
            [SEOUL, "living", "1"],
            [JEJU, "living", "3"],
        ]
        listed = json.loads(ok(jeju, "hosts", "--json"))["hosts"]
        assert [(each["name"], each["state"], each["epoch"]) for each in listed] == [
            (BUSAN, "living", 2),
            (SEOUL, "living", 1),
            (JEJU, "here", 3),
        ]
        assert all(0 < each["lease"] <= LEASE and each["log_version"] == VERSION for each in listed)
        assert re.search(f"cluster {tmp_path.name} as {JEJU}: 3 hosts, position [0-9]+, ", ok(jeju, "status"))
        facts = json.loads(ok(jeju, "status", "--json"))["cluster"]
        assert (facts["name"], facts["host"], facts["epoch"]) == (tmp_path.name, JEJU, 3)
        assert (facts["state"], facts["redis"]) == ("member", redis.url)

        # One leaves in order: at once, and its members' names are held.
        assert busan.stop().returncode == 0
        assert ended(leaves)
        gone = stays.until("left")
        assert (gone["names"], gone["members"]) == (["떠난이"], 2)
        assert [each["name"] for each in cluster(seoul)["hosts"]] == [SEOUL, JEJU]
        with Member(jeju.address) as other:
            assert other.refused(join={"name": "떠난이"}) == "name_taken"
        stays.ask(message="갔네")
        moved = enter(Member(jeju.address))
        assert moved.join(**rejoin(leaves, seen))["recovered"]
        moved.hear_from_room("갔네")
        assert texts(moved) == ["갔네"]
        stays.until("joined")

        # One is killed: after its lease.
        killed_at = time.monotonic()
        end_host(jeju)
        assert sorted(stays.until("left")["names"]) == sorted(["떠난이", "죽은이"])
        assert LEASE / 2 < time.monotonic() - killed_at < LEASE + 2.0
        assert [each["name"] for each in cluster(seoul)["hosts"]] == [SEOUL]
        with Member(seoul.address) as other:
            assert other.refused(join={"name": "죽은이"}) == "name_taken"
        stays.ask(message="혼자다")
        back = enter(Member(seoul.address))
        assert back.join(**rejoin(dies, seen))["recovered"]
        back.hear_from_room("혼자다")
        assert texts(back) == ["갔네", "혼자다"]


def clients_by_host(server: Server) -> dict[str, int]:
    return {each["name"]: each["clients"] for each in cluster(server)["hosts"]}


def test_a_host_that_was_killed_starts_again_at_once(tmp_path: Path, redis: RedisServer) -> None:
    with hosts(tmp_path, redis, SEOUL, BUSAN, lease=60.0) as (seoul, busan):
        with members(seoul.address, "봄") as (watcher,), Member(busan.address) as member:
            member.join("가을")
            watcher.until("joined")
            end_host(busan)
            busan.start(*flags(redis, BUSAN, tmp_path.name, 60.0), workers=1)
            assert watcher.until("left")["names"] == ["가을"]
            assert [each["epoch"] for each in cluster(seoul)["hosts"]] == [3, 1]
            with Member(busan.address) as back:
                back.join(**rejoin(member, 0))
                watcher.ask(message="또 왔네")
                back.hear_from_room("또 왔네")


def test_a_host_that_stood_still_past_its_lease_keeps_its_clients(tmp_path: Path, redis: RedisServer) -> None:
    with (
        hosts(tmp_path, redis, SEOUL, BUSAN) as (seoul, busan),
        members(busan.address, "깨어남") as (awake,),
        Member(seoul.address) as sleeper,
        Client(seoul.address) as plain,
    ):
        settle([plain])
        sleeper.join("잠꾸러기")
        awake.until("joined")
        epoch = cluster(seoul)["epoch"]
        with whole_host_stopped(seoul):
            sleeper.ask(message="쿨쿨")
            assert awake.until("left")["names"] == ["잠꾸러기"]
            for number in range(5):
                awake.ask(message=f"자나 {number}")
            awake.hear_from_room("자나 4")
        eventually(lambda: is_member(seoul, epoch), "another epoch")
        assert awake.until("joined")["names"] == ["잠꾸러기"]
        awake.ask(message="일어났네")
        for each in (awake, sleeper):
            each.hear_from_room("일어났네")
        expected = [*(f"자나 {number}" for number in range(5)), "쿨쿨", "일어났네"]
        assert texts(sleeper) == expected
        assert texts(awake) == expected
        assert plain.hear_until("깨어남: 일어났네") == [
            *(f"깨어남: {text}" for text in expected[:5]),
            "잠꾸러기: 쿨쿨",
            "깨어남: 일어났네",
        ]


# Starts that fail.


def refused_start(server: Server, *words: str, code: Exit = Exit.NOT_STARTED) -> str:
    """Return the one line that a start ends with; nothing of it may be left."""
    done = server.command("start", "--port", "0", "--workers", "1", *words)
    if not done.returncode:
        server.end()
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("mpchat: ")
    assert_nothing_left(server.folder)
    return done.stderr


def test_a_start_with_a_redis_that_is_not_there_says_so(tmp_path: Path) -> None:
    port = free_port()
    line = refused_start(Server(tmp_path), "--cluster", f"redis://127.0.0.1:{port}")
    assert line == (
        f"mpchat: cluster: Redis at 127.0.0.1:{port} cannot be reached: Connection refused: "
        "start it, or correct the setting cluster\n"
    )


def test_a_start_with_a_url_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    line = refused_start(Server(tmp_path), "--cluster", "http://127.0.0.1", code=Exit.USAGE)
    assert "redis://" in line


def test_a_start_with_a_wrong_password_names_the_settings(tmp_path: Path, redis: RedisServer) -> None:
    redis.ask("CONFIG", "SET", "requirepass", "열려라")
    redis.password = "열려라"
    try:
        server = Server(tmp_path)
        server.environment["REDIS_PASSWORD"] = "참깨"
        for words in ((), ("--cluster-password", "env:REDIS_PASSWORD")):
            line = refused_start(server, "--cluster", redis.url, *words)
            assert "cluster_password" in line
            assert "참깨" not in line
        server.environment["REDIS_PASSWORD"] = "열려라"
        server.start("--cluster", redis.url, *words, workers=1)
        server.end()
    finally:
        redis.ask("CONFIG", "SET", "requirepass", "")
        redis.password = ""


def test_a_start_with_a_redis_that_evicts_says_what_to_set(tmp_path: Path, redis: RedisServer) -> None:
    redis.ask("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    try:
        line = refused_start(Server(tmp_path), *flags(redis, SEOUL, "evicts"))
    finally:
        redis.ask("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")
    assert "set its maxmemory-policy to noeviction" in line


def test_a_start_with_the_key_of_another_program_leaves_it_alone(tmp_path: Path, redis: RedisServer) -> None:
    key = "{mpchat:남의것}:log"
    redis.ask("SET", key, "소중한 것")
    line = refused_start(Server(tmp_path), *flags(redis, SEOUL, "남의것"))
    assert key in line
    assert "choose another cluster_name" in line
    assert redis.ask("GET", key).decode() == "소중한 것"


@pytest.mark.parametrize("setting", ["history", "bans"])
def test_a_start_with_a_file_that_the_log_replaces_is_wrong_usage(
    tmp_path: Path, redis: RedisServer, setting: str
) -> None:
    words = (*flags(redis, SEOUL, "파일"), f"--{setting}", str(tmp_path / "파일"))
    line = refused_start(Server(tmp_path), *words, code=Exit.USAGE)
    assert setting in line
    assert "cluster" in line


@pytest.fixture(scope="module")
def lasting_one(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("하나")
    with hosts(folder, redis, SEOUL) as (server,):
        yield server
    assert_nothing_left(server.folder)


def test_two_hosts_of_one_name_are_refused_and_the_first_goes_on(
    tmp_path: Path, redis: RedisServer, lasting_one: Server
) -> None:
    name = cluster(lasting_one)["name"]
    epoch = cluster(lasting_one)["epoch"]
    line = refused_start(Server(tmp_path), *flags(redis, SEOUL, name))
    assert f"host_name '{SEOUL}' is taken by another living host" in line
    assert "choose another host_name" in line
    assert (cluster(lasting_one)["epoch"], is_member(lasting_one)) == (epoch, True)


def test_a_host_that_is_refused_ends_in_the_foreground_as_a_start_that_failed(
    tmp_path: Path, redis: RedisServer, lasting_one: Server
) -> None:
    name = cluster(lasting_one)["name"]
    words = ("--foreground", "--port", "0", "--workers", "4", *flags(redis, SEOUL, name))
    done = Server(tmp_path).command("start", *words)
    assert (done.returncode, done.stdout) == (Exit.NOT_STARTED, ""), done.stderr
    assert done.stderr.count("mpchat: host_name") == 1
    assert "asked again" not in done.stderr  # one refusal, one orderly end


def test_a_host_with_another_auth_is_refused(tmp_path: Path, redis: RedisServer, lasting_one: Server) -> None:
    facts = cluster(lasting_one)
    name = facts["name"]
    line = refused_start(Server(tmp_path), *flags(redis, BUSAN, name), *closed(tmp_path))
    assert f"auth is closed here and open in the cluster {name} ({SEOUL}): set the same on all hosts" in line
    assert is_member(lasting_one)
    assert cluster(lasting_one)["epoch"] == facts["epoch"]
    eventually(
        lambda: [each["name"] for each in cluster(lasting_one)["hosts"]] == [SEOUL],
        "the refused one to be known as gone",
    )
    with members(lasting_one.address, "손님"):  # it needs no sign-in still
        pass


def closed(folder: Path) -> list[str]:
    """The flags of a host that lets in only clients with a proof."""
    return ["--auth", "closed", "--secret", str(Registry(folder).secret)]


def test_the_first_host_that_starts_sets_auth_and_limits_for_all(tmp_path: Path, redis: RedisServer) -> None:
    with hosts(tmp_path, redis, SEOUL, BUSAN) as before, members(before[0].address, "손님"):
        for each in before:
            assert each.stop().returncode == 0
    seoul, busan, jeju = (Server(tmp_path / name) for name in (SEOUL, BUSAN, JEJU))
    made(jeju.folder)
    other = [*closed(tmp_path), "--max-members", "1"]
    with ExitStack() as stack:
        for each in (seoul, busan, jeju):
            stack.callback(each.end)
        busan.start(*flags(redis, BUSAN, tmp_path.name), *other, workers=1)
        line = refused_start(seoul, *flags(redis, SEOUL, tmp_path.name))
        assert f"auth is open here and closed in the cluster {tmp_path.name} ({BUSAN})" in line
        # A host with the same auth keeps to the limits that are there.
        jeju.start(*flags(redis, JEJU, tmp_path.name), *other[:-1], "5", workers=1)
        assert "limits are those of the cluster" in jeju.log
        for server in (busan, jeju):
            with Member(server.address) as stranger, Member(server.address) as first:
                assert stranger.refused(join={"name": "손님"}) == "auth_required"
                room = f"{server.folder.name}방"
                first.join("하나", room=room, secret=SECRET)
                with Member(server.address) as second:
                    refused = second.refused(join={"name": "둘", "room": room, "secret": SECRET})
                    assert refused == "room_full"
                first.sync()


LATE = """
    def install():
        from mpchat.supervisor import cluster
        agree = cluster.Cluster._agree
        def agree_and_wait(self, now):
            agree(self, now)
            hold("agreed")
        cluster.Cluster._agree = agree_and_wait
"""


def test_a_host_that_came_before_another_one_had_set_auth_ends(tmp_path: Path, redis: RedisServer) -> None:
    """Each was alone, as far as it knew: the one ends whose auth has not come last."""
    with hosts(tmp_path, redis, SEOUL) as (first,):
        assert first.stop().returncode == 0
    busan, jeju = (Server(made(tmp_path / name)) for name in (BUSAN, JEJU))
    site = inject_into_supervisor(busan, LATE)
    (site / "agreed").touch()
    words = (*flags(redis, BUSAN, tmp_path.name, 60.0), *closed(tmp_path))
    starting = Thread(target=lambda: busan.command("start", "--port", "0", "--workers", "1", *words))
    with ExitStack() as stack:
        for each in (busan, jeju):
            stack.callback(each.end)
        starting.start()
        stack.callback(starting.join)
        stack.callback((site / "agreed").unlink, missing_ok=True)
        eventually((site / "agreed waits").exists, "the first host to be about to set auth")
        jeju.start(*flags(redis, JEJU, tmp_path.name, 60.0), workers=1)
        processes = jeju.processes()
        with Member(jeju.address) as member:
            member.join("손님")
            (site / "agreed").unlink()
            assert ended(member)
        eventually(lambda: not any(map(lives, processes)), "the other host to end")
        starting.join()
        assert "auth is open here and closed in the cluster" in jeju.log
        assert [each["name"] for each in cluster(busan)["hosts"]] == [BUSAN]


def test_of_two_hosts_with_different_auth_that_begin_an_empty_log_one_goes_on_at_most(
    tmp_path: Path, redis: RedisServer
) -> None:
    for number in range(3):
        folder = made(tmp_path / f"{number}")
        servers = [Server(made(folder / name)) for name in (SEOUL, BUSAN)]
        done: list[Any] = []

        def start(server: Server, *words: str, done: list[Any] = done) -> None:
            done.append(server.command("start", "--port", "0", "--workers", "1", *words))

        name = f"{tmp_path.name}{number}"
        with ExitStack() as stack:
            threads = [
                Thread(target=start, args=(servers[0], *flags(redis, SEOUL, name))),
                Thread(target=start, args=(servers[1], *flags(redis, BUSAN, name), *closed(folder))),
            ]
            for each in servers:
                stack.callback(each.end)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(each.returncode for each in done)[0] == 0, done
            for each in done:
                if each.returncode:
                    assert (each.returncode, each.stdout) == (Exit.NOT_STARTED, ""), each
                    assert each.stderr.count("\n") == 1, each.stderr
                    assert "set the same on all hosts" in each.stderr
            eventually(partial(one_of_them_runs, servers), "one to go on alone")


def one_of_them_runs(servers: list[Server]) -> bool:
    return sum(map(runs, servers)) == 1


def runs(server: Server) -> bool:
    try:
        return is_member(server)
    except NotRunningError:
        return False


# Versions, in a process whose modules say another one.

OTHER_VERSION = """
    def install():
        from mpchat.hub import shared_log
        shared_log.VERSION += {more}
"""


def test_a_host_of_the_next_version_takes_part(
    tmp_path: Path, redis: RedisServer, lasting_one: Server
) -> None:
    name = cluster(lasting_one)["name"]
    server = Server(tmp_path)
    inject_into_supervisor(server, OTHER_VERSION.format(more=1))
    try:
        server.start(*flags(redis, BUSAN, name), workers=1)
        versions = [(each["name"], each["log_version"]) for each in cluster(lasting_one)["hosts"]]
        assert versions == [(BUSAN, VERSION + 1), (SEOUL, VERSION)]
        with members(lasting_one.address, "옛날") as (old,), members(server.address, "요즘") as (new,):
            new.ask(message="새 판")
            assert old.hear_from_room("새 판") == new.hear_from_room("새 판")
            old.ask(message="옛 판")
            assert old.hear_from_room("옛 판") == new.hear_from_room("옛 판")
    finally:
        server.end()
    assert is_member(lasting_one)


def test_a_host_two_versions_on_is_refused_with_both_numbers(
    tmp_path: Path, redis: RedisServer, lasting_one: Server
) -> None:
    name = cluster(lasting_one)["name"]
    server = Server(tmp_path)
    inject_into_supervisor(server, OTHER_VERSION.format(more=2))
    line = refused_start(server, *flags(redis, BUSAN, name))
    assert f"version {VERSION + 2}" in line
    assert f"version {VERSION}:" in line
    assert SEOUL in line
    assert "update mpchat" in line


# Redis goes.


def test_while_redis_is_away_clients_stay_and_what_they_say_comes_afterwards_once(
    tmp_path: Path, redis: RedisServer
) -> None:
    with (
        hosts(tmp_path, redis, SEOUL, BUSAN) as (seoul, busan),
        members(seoul.address, "이쪽") as (here,),
        Member(busan.address) as there,
        members(busan.address, "딴사람", room="딴방"),
        Client(busan.address) as plain,
    ):
        settle([plain])
        there.join("저쪽")
        here.until("joined")
        here.ask(message="들려요?")
        for each in (here, there):
            each.hear_from_room("들려요?")
        begun = time.time()
        with redis.frozen():
            for number in range(20):
                here.ask(message=f"이쪽 {number}")
                there.ask(message=f"저쪽 {number}")
            for host in (seoul, busan):
                eventually(partial(is_away, host), "the loss to be noticed", 6.0)
            facts = cluster(seoul)
            assert begun <= facts["since"] <= time.time()
            assert str(redis.port) in facts["reason"]
            since = time.strftime("%H:%M:%S", time.localtime(facts["since"]))
            shown = " ".join(ok(seoul, "status").split())
            assert f"Redis has not been reachable since {since}: senders wait" in shown
            for words in (
                ("say", "안 들림"),
                ("ban", "저쪽"),
                ("kick", "저쪽"),
                ("mute", "저쪽"),
                ("close", "딴방"),
            ):
                done = seoul.command(*words)
                assert (done.returncode, done.stdout) == (Exit.FAILED, ""), words
                assert done.stderr.count("\n") == 1
                assert f"the other hosts cannot be told: Redis at 127.0.0.1:{redis.port}" in done.stderr
                assert done.stderr.endswith("; try again\n"), done.stderr
            time.sleep(max(0.0, 4.0 - (time.time() - begun)))
        for host in (seoul, busan):
            eventually(partial(is_member, host), "Redis to be back")
        in_sync(here, there)
        assert here.numbered == there.numbered[-len(here.numbered) :]
        said = [text for text in texts(here) if text.startswith(("이쪽", "저쪽"))]
        for side in ("이쪽", "저쪽"):
            assert [text for text in said if text.startswith(side)] == [f"{side} {n}" for n in range(20)]
        assert "안 들림" not in texts(here)
        heard = plain.hear_until("저쪽: = 1 =")
        assert sum(text.endswith("이쪽 19") for text in heard) == 1
        assert ok(seoul, "bans") == "nobody is banned or muted\n"


def test_a_redis_that_comes_back_empty_gives_a_new_epoch_and_all_go_on(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path / "redis") as own,
        hosts(made(tmp_path / "빈"), own, SEOUL, BUSAN) as pair,
        ExitStack() as stack,
    ):
        everyone = []
        for number in range(4):
            everyone.append(stack.enter_context(Member(pair[number % 2].address)))
            everyone[-1].join(f"회원{number}")
        everyone[0].ask(message="처음")
        for each in everyone:
            each.hear_from_room("처음")
        epoch = everyone[0].welcome["epoch"]
        own.restart()
        begun = time.monotonic()
        again = [each.until("welcome") for each in everyone]
        assert time.monotonic() - begun < 5.0
        assert [each["name"] for each in again] == [f"회원{number}" for number in range(4)]
        assert {each.get("again") for each in again} == {True}
        assert len({each["epoch"] for each in again}) == 1
        assert again[0]["epoch"] != epoch
        for each in everyone:
            each.ask(message=f"{each.welcome['name']} 아직 있다")
        in_sync(*everyone)
        tail = everyone[0].numbered[-8:]
        assert sorted(each["message"] for each in tail if "아직" in each["message"]) == [
            f"회원{number} 아직 있다" for number in range(4)
        ]
        for each in everyone:
            assert each.numbered[-8:] == tail
            each.ask(who={})
        assert [each.until("who")["names"] for each in everyone] == [[f"회원{n}" for n in range(4)]] * 4
        for server in pair:
            with Member(server.address) as other:
                assert other.refused(join={"name": "회원0"}) == "name_taken"
            assert {each["name"] for each in cluster(server)["hosts"]} == {SEOUL, BUSAN}


# Memory, and clocks.

SMALL = """
    def install():
        from mpchat.cluster import redis_store
        from mpchat.hub import membership
        membership.SNAPSHOT_BATCHES = 30
        redis_store.KEPT_BATCHES = 100
"""


def test_redis_keeps_a_bounded_log_and_a_host_that_was_away_for_long_takes_the_snapshot(
    tmp_path: Path, redis: RedisServer
) -> None:
    with ExitStack() as stack:
        servers = []
        for name in (SEOUL, BUSAN):
            server = Server(made(tmp_path / name))
            inject_into_supervisor(server, SMALL)
            stack.callback(server.end)
            servers.append(server.start(*flags(redis, name, tmp_path.name), workers=1))
        seoul, busan = servers
        key = f"{{mpchat:{tmp_path.name}}}:log"
        (speaker,) = stack.enter_context(members(seoul.address, "말많음"))
        sleeper = stack.enter_context(Member(busan.address))
        sleeper.join("잠")
        longest = 0

        def say(first: int, last: int) -> None:
            nonlocal longest
            for number in range(first, last):
                speaker.ask(message=f"{number}")  # each is a batch of its own
                speaker.hear_from_room(f"{number}")
                if number % 20 == 0:
                    longest = max(longest, redis.ask("XLEN", key))

        say(0, 100)
        with whole_host_stopped(busan):
            assert speaker.until("left")["names"] == ["잠"]
            say(100, 700)
            eventually(lambda: redis.ask("XLEN", key) <= 200, "the log to be trimmed")
        # A snapshot comes with a beat: until then some more batches are there.
        assert 50 < longest < 450
        sleeper.hear_from_room("99")
        eventually(lambda: is_member(busan) and len(cluster(seoul)["hosts"]) == 2, "the host to return")
        assert "away for longer than the log is kept" in busan.log
        speaker.ask(message="끝")
        sleeper.hear_from_room("끝")
        assert [each["seq"] for each in sleeper.numbered] == sorted(
            {each["seq"] for each in sleeper.numbered}
        )


def test_a_host_whose_clock_is_an_hour_ahead_ends_mutes_and_holds_at_the_right_moment(
    tmp_path: Path, redis: RedisServer
) -> None:
    more = ("--name-hold", f"{HOLD:g}s")
    with hosts(tmp_path, redis, SEOUL, more=more) as (seoul,), ExitStack() as stack:
        busan = Server(made(tmp_path / BUSAN))
        steppable_clock(busan).write_text("3600")
        stack.callback(busan.end)
        busan.start(*flags(redis, BUSAN, tmp_path.name), *more, workers=1)
        (ahead,) = stack.enter_context(members(busan.address, "미래"))
        (now,) = stack.enter_context(members(seoul.address, "현재"))
        ahead.ask(message="몇 시?")
        heard = now.hear_from_room("몇 시?")
        assert ahead.hear_from_room("몇 시?") == heard
        assert abs(heard["at"] - time.time()) < 5.0
        for operator, target, name in ((busan, now, "현재"), (seoul, ahead, "미래")):
            begun = time.monotonic()
            ok(operator, "mute", name, "--for", f"{MUTE:g}s")
            target.ask(message="음소거")
            assert target.until("error")["code"] == "muted"

            def speaks(target: Member = target) -> bool:
                target.ask(message="풀림")
                while "error" not in (received := target.take()) and received.get("message") != "풀림":
                    pass
                return "error" not in received

            eventually(speaks, "the mute to end", pause=0.05)
            assert MUTE - 0.1 < time.monotonic() - begun < WIDELY
        for server, other, name in ((busan, seoul, "미래"), (seoul, busan, "현재")):
            member = ahead if server is busan else now
            begun = time.monotonic()
            member.reset()
            server.wait_for_connections(0)
            with Member(other.address) as heir:
                assert heir.refused(join={"name": name}) == "name_taken"

                def takes(heir: Member = heir, name: str = name) -> bool:
                    heir.ask(join={"name": name})
                    while not {"error", "welcome"} & set(received := heir.take()):
                        pass
                    return "welcome" in received

                eventually(takes, "the name to be free", pause=0.05)
                assert HOLD - 0.1 < time.monotonic() - begun < WIDELY
