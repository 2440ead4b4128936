"""Several hosts as the state of each of them has them: they come and go, and their members return."""

from typing import Any

import pytest
from msgspec.structs import replace
from support.desk import LIMITS, Desk, code, objects, proven

from mpchat.hub import hosts as hosts_module
from mpchat.hub import snapshot
from mpchat.hub.effects import Effect, End, Enter, Forget, Hold, Kick, Leave, Say, SayInRoom, Tell
from mpchat.hub.entries import (
    Arrived,
    Gone,
    HostBeat,
    Kicked,
    Moderated,
    NoticesDue,
    Returned,
    RoomClosed,
    RoomHeld,
)
from mpchat.hub.hosts import MOST_EARLIER, HostInfo, Hosts, encode_info, global_identity, host_of
from mpchat.ipc.reasons import REPLACED
from mpchat.protocol.requests import Request, Who

SEOUL, BUSAN, JEJU = 1, 2, 3


def arrived(epoch: int, version: int = 1, *, knows: bool = False, former: int = 0) -> Arrived:
    info = HostInfo(name=f"서버-{epoch}", version=version, release="0.2.0", knows=knows, former=former)
    return Arrived(5.0, 1.7e9, epoch, encode_info(info))


def beat(now: float = 1.0, **fields: Any) -> HostBeat:
    return replace(HostBeat(now, now, 0, b"", 0, 0), **fields)


# What is known of hosts.


def test_connections_of_several_hosts_are_told_apart() -> None:
    identities = [global_identity(epoch, each) for epoch in (0, 1, 2, 10**5) for each in (1, 2, 1 << 40)]
    assert len(set(identities)) == len(identities)
    assert [host_of(each) for each in identities] == [0] * 3 + [1] * 3 + [2] * 3 + [10**5] * 3
    assert max(identities) < 1 << 63


def test_the_oldest_host_leads_and_the_lowest_version_is_written() -> None:
    hosts = Hosts()
    assert (hosts.leader, hosts.version) == (0, None)
    for epoch, version in ((5, 3), (4, 2), (9, 4)):
        hosts.arrive(arrived(epoch, version))
    assert (hosts.leader, hosts.version) == (4, 2)
    forgotten = hosts.forget(4)
    assert forgotten is not None
    assert (forgotten.name, forgotten.release, forgotten.since, forgotten.heard) == (
        "서버-4",
        "0.2.0",
        1.7e9,
        5.0,
    )
    assert hosts.forget(4) is None
    assert (hosts.leader, hosts.version) == (5, 3)


def test_a_host_is_known_by_what_it_said_last() -> None:
    hosts = Hosts()
    hosts.arrive(arrived(SEOUL))
    hosts.beat(SEOUL, beat(position=7, digest=b"d", clients=4, speakers=3))
    hosts.count(SEOUL, 12, 900, 8.0)
    host = hosts.by_epoch[SEOUL]
    assert (host.position, host.digest, host.clients, host.speakers) == (7, b"d", 4, 3)
    assert (host.total, host.heard) == (900, 8.0)
    hosts.beat(BUSAN, beat(position=7))
    hosts.count(BUSAN, 1, 900, 9.0)
    assert list(hosts.by_epoch) == [SEOUL]


def test_the_last_batches_of_hosts_are_remembered_beyond_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "MOST_NUMBERS", 3)
    hosts = Hosts()
    hosts.arrive(arrived(1))
    for epoch in range(1, 7):
        hosts.count(epoch, 10 * epoch, 0, 0.0)
    assert [hosts.number("g", epoch, "g") for epoch in range(1, 7)] == [10, 0, 0, 0, 50, 60]


def test_the_last_batches_of_a_lost_log_are_those_of_its_generation() -> None:
    hosts = Hosts()
    for number in range(MOST_EARLIER + 1):
        hosts.count(1, 100 + number, 0, 0.0)
        hosts.arrive(arrived(1))
        hosts.hold(1, 1, held=True)
        hosts.begin_anew(f"g{number}")
        assert (hosts.by_epoch, hosts.held, hosts.numbers) == ({}, {}, {})
    hosts.count(1, 7, 0, 0.0)
    assert hosts.number("now", 1, "now") == 7
    found = [hosts.number(f"g{number}", 1, "now") for number in range(1, MOST_EARLIER + 1)]
    assert found == [101, 102, 103, 104]
    assert len(hosts.earlier) == MOST_EARLIER
    assert hosts.number("g4", 2, "now") == 0
    # An empty chat that another host has begun is no successor: its epochs are those of others.
    assert hosts.number("남", 1, "now") == 0


def test_states_agree_by_the_chain_of_the_last_place_that_both_remember(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts_module, "MOST_CHAINS", 3)
    one, two, three = Hosts(), Hosts(), Hosts()
    for position in range(1, 6):
        one.note(position, b"%d" % position)
        two.note(position + 1, b"%d" % (position + 1))
        three.note(position, b"other" if position == 5 else b"%d" % position)
    assert list(one.chains) == [3, 4, 5]
    assert one.agrees(two)
    assert not one.agrees(three)
    assert not two.agrees(three)
    two.note(7, b"7")
    two.note(8, b"8")
    assert not one.agrees(two)  # neither remembers a place of the other


def test_a_chat_that_no_host_was_in_has_another_epoch() -> None:
    hall = Return()
    before = hall.state.members.past.epoch
    hall.state.hosts.count(BUSAN, 1, 0, 1.0)
    hall.lose(JEJU)
    hall.state.apply(arrived(4))
    assert hall.state.members.past.epoch == before
    for epoch in (4, BUSAN):
        hall.lose(epoch)
    hall.state.apply(arrived(5))
    hall.at(5)
    epoch = hall.join(1, "앨리스", room="방", token=hall.token, after=5, epoch=before)["welcome"]["epoch"]
    assert epoch.startswith(f"{before}.5.")
    assert hall.state.members.past.agreed(before, "방") == 5


@pytest.mark.parametrize("known", ["by a batch", "by a return", "not"])
def test_hosts_that_outlive_all_that_were_there_when_they_came_begin_another_epoch(known: str) -> None:
    """The log may have lost its end in the meantime, and the hosts that had read it are dead."""
    hall = Hall()
    hall.join(1, "앨리스", room="방")
    hall.post(1, "1", "2", "3")
    hall.state.apply(arrived(JEJU))
    epoch = hall.at(JEJU).join(1, "밥", room="방", after=3, epoch=hall.state.members.past.epoch)["welcome"][
        "epoch"
    ]
    hall.join(2, "캐럴", room="방")
    hall.post(1, "4", "5")
    hall.join(3, "데이브", room="방", after=4, epoch=epoch)
    hall.lose(SEOUL)
    returns = known == "by a return"
    hall.state.apply(arrived(4, knows=returns, former=SEOUL * returns))
    hall.state.hosts.count(BUSAN if known == "by a batch" else JEJU, 1, 0, 1.0)
    hall.state = snapshot.restore(snapshot.parts(snapshot.take(hall.state)))
    hall.sent.clear()
    hall.lose(BUSAN)
    told = {identity: each["welcome"] for identity, each in hall.sent if "welcome" in each}
    if known != "not":
        assert (told, hall.state.members.past.epoch) == ({}, epoch)
        return
    assert [identity - global_identity(JEJU, 0) for identity in told] == [1, 2, 3]
    new = hall.state.members.past.epoch
    assert {(each["again"], each["epoch"]) for each in told.values()} == {(True, new)} != {(True, epoch)}
    # Only the last one may have had others.
    lost = [(each["recovered"], each["lost"]) for each in told.values()]
    assert lost == [(True, None), (True, None), (False, [4, None])]
    again = hall.join(5, "이브", room="방", after=5, epoch=epoch)["welcome"]
    assert (again["recovered"], again["lost"]) == (False, [4, None])
    assert hall.join(6, "프랭크", room="방", after=3, epoch=epoch)["welcome"]["recovered"]


def test_the_chain_tells_whether_another_host_has_read_the_same() -> None:
    hosts = Hosts()
    hosts.note(5, b"5")
    assert [hosts.has_read(*place) for place in ((5, b"5"), (5, b"other"), (4, b"4"))] == [True, False, True]


def test_a_number_of_an_epoch_in_which_hosts_have_read_different_batches_says_nothing() -> None:
    hall = Return()
    before = hall.state.members.past.epoch
    hall.state.begin_anew("새 시대", "g1", 2.0, is_known=False)
    assert hall.state.members.past.agreed(before, "방") is None
    _, welcome = hall.welcome(number=0, after=3, epoch=before)
    assert (welcome["recovered"], welcome["lost"]) == (False, [4, None])


# Hosts in the state.


class Hall(Desk):
    """A desk with the hosts SEOUL and BUSAN; SEOUL's clients ask."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(LIMITS._replace(**limits))
        for epoch in (SEOUL, BUSAN):
            self.state.apply(arrived(epoch, knows=epoch == SEOUL))
        self.state.hosts.count(SEOUL, 1, 0, 1.0)
        self.host = SEOUL

    def at(self, epoch: int) -> "Hall":
        """Let that host's clients ask from now on."""
        self.host = epoch
        return self

    def lose(self, epoch: int, now: float = 1.0) -> list[Effect]:
        effects = self.state.apply(Gone(now, now, epoch))
        self._note(effects)
        return effects

    def names(self, room: str = "방") -> list[str]:
        found = self.state.rooms.get(room)
        return list(found.names) if found is not None else []


def test_members_with_one_identity_on_two_hosts_are_two() -> None:
    hall = Hall()
    hall.join(1, "앨리스", room="방")
    assert hall.at(BUSAN).join(1, "밥", room="방")["welcome"]["members"] == 2
    (effect,) = [each for each in hall.post(1, "안녕") if isinstance(each, SayInRoom)]
    assert effect.run.sender == "밥"
    hall.at(SEOUL).leave(1)
    assert hall.names() == ["밥"]
    assert hall.at(BUSAN).ask(1, Request(who=Who()))["who"]["names"] == ["밥"]
    hall.at(SEOUL).kill_worker(1)
    assert hall.names() == ["밥"]


def test_a_name_belongs_to_one_member_of_all_hosts() -> None:
    hall = Hall()
    token = hall.join(5, "앨리스", room="방")["welcome"]["token"]
    hall.at(BUSAN)
    assert code(hall.join(1, "앨리스")) == "name_taken"
    assert "welcome" in hall.join(1, "앨리스", token=token)  # though its identity is the lower one there
    assert hall.ended == [global_identity(SEOUL, 5)]


def test_the_end_of_a_host_frees_the_places_of_its_members_at_once_and_holds_their_names() -> None:
    hall = Hall()
    hall.join(1, "앨리스", room="방")
    token = hall.join(2, "철수", room="방")["welcome"]["token"]
    hall.at(BUSAN).join(1, "밥", room="방")
    hall.join(9, "영희", room="방")
    effects = hall.lose(SEOUL)
    assert hall.names() == ["밥", "영희"]
    gone = [global_identity(SEOUL, each) for each in (1, 2)]
    assert [each.identity for each in effects if isinstance(each, Forget)] == gone
    assert list(hall.state.hosts.by_epoch) == [BUSAN]
    assert code(hall.join(3, "앨리스")) == "name_taken"
    assert "welcome" in hall.join(3, "철수", token=token, room="방")
    assert hall.lose(SEOUL) == []


def test_the_end_of_a_host_forgets_what_it_was_still_ending() -> None:
    hall = Hall()
    token = hall.join(1, "앨리스")["welcome"]["token"]
    hall.at(BUSAN).join(1, "앨리스", token=token)
    assert hall.state.members.ending
    hall.lose(SEOUL)
    assert not hall.state.members.ending
    assert hall.state.members.named("앨리스") is not None


def test_plain_clients_hear_how_many_a_lost_host_had() -> None:
    hall = Hall()
    hall.apply(beat(clients=9, speakers=3))
    hall.lose(SEOUL)
    said = [each for each in hall.apply(NoticesDue(60.0)) if isinstance(each, Say)]
    assert "3" in objects(said[0].frames)[0]["message"]


def test_a_beat_ends_the_proofs_of_its_own_host_only() -> None:
    hall = Hall()
    for host, name in ((SEOUL, "앨리스"), (BUSAN, "밥")):
        hall.at(host).join(1, name, room="방", identified=proven(name, expires=10.0))
    hall.at(BUSAN).apply(beat(10.0, renewing=(1,)))
    assert hall.names() == ["밥", "앨리스"]
    hall.at(SEOUL).apply(beat(10.0))
    assert hall.names() == ["밥"]
    assert hall.ended == [global_identity(SEOUL, 1)]
    hall.at(BUSAN).apply(beat(10.0))
    assert hall.names() == []


def test_senders_of_a_room_wait_while_a_host_cannot_keep_up() -> None:
    hall = Hall()
    found = []
    for host, held in ((SEOUL, True), (SEOUL, True), (BUSAN, True), (SEOUL, False), (SEOUL, False)):
        found.append(hall.at(host).apply(RoomHeld(1, held)))
    assert found == [[Hold(1, held=True)], [], [], [], []]
    assert hall.at(BUSAN).apply(RoomHeld(1, held=False)) == [Hold(1, held=False)]
    assert hall.state.hosts.held == {}


def test_senders_do_not_wait_for_a_host_that_is_gone() -> None:
    hall = Hall()
    for room, host in ((1, SEOUL), (2, SEOUL), (2, BUSAN), (3, BUSAN)):
        hall.at(host).apply(RoomHeld(room, held=True))
    assert hall.lose(SEOUL) == [Hold(1, held=False)]
    assert hall.state.hosts.held == {2: [BUSAN], 3: [BUSAN]}


def test_a_kick_and_a_ban_reach_each_host() -> None:
    hall = Hall()
    assert hall.apply(Kicked("밥")) == [Kick("밥")]
    assert hall.apply(Moderated("bans", "밥", "밥", None)) == [Kick("밥", lasts=True)]
    assert hall.apply(Moderated("mutes", "밥", "밥", None)) == []


# Members return.


class Return(Hall):
    """앨리스 was a member of the room 방 at SEOUL, and SEOUL was lost. It is JEJU now."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(**limits)
        self.token = self.join(1, "앨리스", room="방")["welcome"]["token"]
        self.at(BUSAN).join(1, "밥", room="방")
        for number in range(1, 6):
            self.post(1, f"{number}")
        room = self.state.rooms.get("방")
        assert room is not None
        self.room = room
        claim = self.state.members.claims.get("앨리스")
        assert claim is not None
        self.since = claim.since
        self.lose(SEOUL)
        self.sent.clear()
        self.state.apply(arrived(JEJU))

    def come_back(self, **fields: Any) -> list[Effect]:
        """Let 앨리스 return, who hears the room and has its message 5, unless ``fields`` say otherwise."""
        returned = Returned(
            2.0,
            2.0,
            1,
            "192.0.2.1:1",
            "앨리스",
            self.token,
            "새 열쇠",
            "방",
            self.room.number,
            5,
            self.state.members.past.epoch,
            since=self.since,
        )
        return self.at(JEJU).apply(replace(returned, **fields))

    def welcome(self, **fields: Any) -> tuple[Enter, dict[str, Any]]:
        """Let 앨리스 return; return how it is welcomed, behind an end of what it heard."""
        effects = self.come_back(**fields)
        leave, enter = [each for each in effects if isinstance(each, Leave | Enter | Tell | End)]
        assert leave == Leave(ME)
        assert isinstance(enter, Enter)
        (welcome,) = objects(enter.frames)
        return enter, welcome["welcome"]


ME = global_identity(JEJU, 1)


def test_a_member_that_has_missed_nothing_returns_silently() -> None:
    hall = Return()
    assert hall.come_back() == []
    assert hall.names() == ["밥", "앨리스"]
    claim = hall.state.members.claims.get("앨리스")
    assert claim is not None
    assert (claim.identity, claim.token) == (ME, hall.token)
    (effect,) = hall.post(1, "나야")
    assert isinstance(effect, SayInRoom)
    assert effect.run.sender == "앨리스"


def test_a_member_keeps_what_its_proof_allows_until_that_ends() -> None:
    hall = Return()
    hall.come_back(identified=proven("앨리스", role="operator", expires=30.0))
    grant = hall.state.members.by_identity[ME].grant
    assert grant is not None
    assert grant.role == "operator"
    hall.apply(beat(31.0))
    assert hall.ended == [ME]


def test_a_member_whose_room_has_another_number_is_welcomed_and_gets_the_rest() -> None:
    hall = Return()
    enter, welcome = hall.welcome(number=0, after=3)
    assert (enter.identity, enter.room, enter.first, enter.last) == (ME, hall.room.number, 4, 5)
    assert (welcome["recovered"], welcome.get("lost"), welcome["seq"]) == (True, None, 5)
    assert welcome["token"] == hall.token
    assert hall.names() == ["밥", "앨리스"]


def test_a_member_is_told_what_is_not_kept_any_more() -> None:
    hall = Return(kept=LIMITS.kept._replace(messages=2))
    enter, welcome = hall.welcome(number=0, after=1)
    assert (enter.first, enter.last) == (4, 5)
    assert (welcome["recovered"], welcome["lost"]) == (False, [2, 3])


@pytest.mark.parametrize(
    ("after", "first", "lost"), [(3, 4, None), (5, 6, None), (6, 6, [6, None]), (8, 6, [6, None])]
)
def test_a_member_that_has_got_more_than_there_is_is_told_so(
    after: int, first: int, lost: list[int | None] | None
) -> None:
    """The log was lost, and a host went on that had not got so far."""
    hall = Return()
    before = hall.state.members.past.epoch
    hall.state.begin_anew("새 시대", "g1", 2.0)
    enter, welcome = hall.welcome(number=0, after=after, epoch=before)
    assert (enter.first, enter.last, enter.room) == (first, 5, hall.room.number)
    assert welcome.get("lost") == lost
    assert welcome["recovered"] is (lost is None)
    assert welcome["epoch"] == "새 시대"


def test_all_that_a_member_of_an_unknown_epoch_has_is_uncertain() -> None:
    hall = Return()
    enter, welcome = hall.welcome(number=0, after=3, epoch="옛날")
    assert (enter.first, enter.last) == (1, 5)
    assert welcome["lost"] == [4, None]


def test_a_member_whose_room_is_gone_makes_it_again() -> None:
    hall = Return()
    number = hall.room.number
    hall.apply(RoomClosed(1.5, 1.5, number))
    assert hall.state.rooms.get("방") is None
    enter, welcome = hall.welcome(number=number)
    assert enter.room != number
    assert welcome["members"] == 1
    assert hall.names() == ["앨리스"]


def test_a_member_whose_name_was_forgotten_gets_it_with_another_token() -> None:
    hall = Return(name_hold=0.0)
    (effect,) = hall.come_back()
    assert isinstance(effect, Tell)  # what it still gets of the past goes on
    (welcome,) = objects(effect.frames)
    assert welcome["welcome"]["token"] == "새 열쇠"
    assert (welcome["welcome"]["recovered"], welcome["welcome"]["lost"]) == (True, None)


def test_a_member_that_has_heard_another_epoch_begin_is_told_its_name() -> None:
    hall = Return()
    before = hall.state.members.past.epoch
    for host in (BUSAN, JEJU):
        hall.lose(host)
    hall.state.hosts.numbers[BUSAN] = 1
    hall.state.apply(arrived(JEJU))
    epoch = hall.state.members.past.epoch
    (effect,) = hall.come_back(epoch=before)
    assert isinstance(effect, Tell)
    (welcome,) = objects(effect.frames)
    assert welcome["welcome"]["epoch"] == epoch != before
    assert (welcome["welcome"]["recovered"], welcome["welcome"]["again"]) == (True, True)


@pytest.mark.parametrize("name_hold", [60.0, 0.0])
def test_a_member_whose_name_was_taken_meanwhile_is_refused(name_hold: float) -> None:
    """By the same client at another host, or by another client when the name was not held any more."""
    hall = Return(name_hold=name_hold)
    shown = hall.token if name_hold else None
    welcome = hall.at(BUSAN).join(7, "앨리스", 1.5, room="방", token=shown)["welcome"]
    effects = hall.come_back()
    assert effects[0] == Leave(ME)
    assert isinstance(effects[1], Tell)
    assert code(objects(effects[1].frames)[0]) == "taken_over"
    assert effects[2:] == [End(ME, REPLACED)]
    assert hall.names() == ["밥", "앨리스"]
    claim = hall.state.members.claims.get("앨리스")
    assert claim is not None
    assert (claim.identity, claim.token) == (global_identity(BUSAN, 7), welcome["token"])
    assert ME not in hall.state.members.by_identity
    assert hall.post(1, "나야") == []


@pytest.mark.parametrize("leaving", ["lost", "left", "forgotten"])
def test_a_member_that_was_elsewhere_meanwhile_does_not_return_by_its_older_connection(leaving: str) -> None:
    hall = Return()
    hall.at(BUSAN).join(7, "앨리스", room="방", token=hall.token, now=1.5)
    (said,) = hall.post(7, "부산에서")
    assert isinstance(said, SayInRoom)
    if leaving == "left":
        hall.leave(7)
    else:
        hall.lose(BUSAN)
    claims = hall.state.members.claims
    claim = claims.get("앨리스")
    if leaving == "forgotten":
        assert claim is not None
        hall.at(JEJU).join(9, "밥", room="방", now=claim.until + 1.0)
        hall.leave(9, "lost", claim.until + 2.0)
    if leaving == "lost":
        assert claim is not None
        assert (claim.identity, claim.token) == (None, hall.token)
    else:
        assert claims.get("앨리스") is None
        hall.state = snapshot.restore(snapshot.parts(snapshot.take(hall.state)))  # it is not forgotten there
    told, end = [each for each in hall.come_back() if isinstance(each, Tell | End)]
    assert end == End(ME, REPLACED)
    assert isinstance(told, Tell)
    assert code(objects(told.frames)[0]) == "taken_over"
    # What it still had to say is older than what it has said there.
    assert hall.post(1, "서울에서") == []
    assert hall.state.members.named("앨리스") is None


@pytest.mark.parametrize(
    ("reason", "limits"),
    [("banned", {}), ("room_full", {"members": 1}), ("auth_required", {"auth": "closed"})],
)
def test_a_member_that_may_not_return_is_told_why(reason: str, limits: dict[str, Any]) -> None:
    hall = Return()
    hall.configure(LIMITS._replace(**limits))
    if reason == "banned":
        hall.apply(Moderated("bans", "앨리스", "앨리스", None))
    leave, told, end = hall.come_back()
    assert (leave, end) == (Leave(ME), End(ME, REPLACED))
    assert isinstance(told, Tell)
    assert code(objects(told.frames)[0]) == reason
    assert ME not in hall.state.members.by_identity
