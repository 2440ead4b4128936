"""Snapshots: a state that is made of one does for all entries what the one that was taken does."""

import os
import random
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice
from struct import Struct
from typing import Any, get_args
from zlib import crc32

import msgspec
import pytest
from support.any_entries import AnyEntries, Placed, limits, put
from support.desk import LIMITS, Desk, proven

from mpchat.errors import MpchatError
from mpchat.hub import claims as claims_module
from mpchat.hub import hosts as hosts_module
from mpchat.hub import rooms as rooms_module
from mpchat.hub import snapshot
from mpchat.hub.claims import Claim, Claims
from mpchat.hub.digest import Digest
from mpchat.hub.effects import (
    Effect,
    End,
    Enter,
    Forget,
    ForgetHistory,
    ForgetRoom,
    Hold,
    Kick,
    Leave,
    NoticeInRoom,
    Order,
    Presence,
    RoomNumbered,
    Say,
    SayInRoom,
    Tell,
)
from mpchat.hub.entries import Left
from mpchat.hub.held_names import HeldNames
from mpchat.hub.history import History, Run
from mpchat.hub.hosts import Host, Hosts
from mpchat.hub.members import Member, Members
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.rooms import Room, Rooms
from mpchat.hub.sequencer import Sequencer
from mpchat.hub.snapshot import SnapshotError, parts, restore, take
from mpchat.hub.state import HubState
from mpchat.ipc.shares import Memory
from mpchat.protocol.requests import ListRooms, Request

SEEDS = int(os.environ.get("MPCHAT_FUZZ", "300"))
# Every so many seeds there is a sequence of several hosts too.
SHARED_EVERY = 3
# Copies of a sequence, and entries at most before a copy and with it.
COPIES = 5
STEPS = 100
WRITTEN = "what is written"
PREFIX = Struct(">HI")

# All attributes of the state's classes. A new one is to be in the snapshot (`hub/saved.py`), or to follow
# from what is in it, and only then in this list. Two are not the state's: `here` is this process's own, and
# `base` is set anew by each `apply`.
ATTRIBUTES: dict[type, str] = {
    HubState: "_appliers _archived _effects _notices _waiting "
    "digest here hosts members messages moderation rooms sequencer",
    Digest: "numbers texts",
    Moderation: "bans mutes",
    Sequencer: "_left _left_unnamed _next_notice notices sequence",
    Rooms: "_floor _last _numbers _unswept by_key by_number kept lobby made_by memory names",
    Room: "_field _joined _left _next_notice "
    "active_at awaited history made_at members name names number owner seq",
    Memory: "limit used",
    History: "_memory _next _runs count size",
    Run: "at count frames room sender seq taken",
    # Nothing watches the state of a host that shares its log.
    Members: "_emit _moderation _rooms "
    "base by_identity claims emptied ending expiring limits past stirred watched",
    Member: "address claim grant identity listed room",
    Claims: "_by_key _by_look _freed _held",
    Claim: "before identity looks name proven since token until",
    HeldNames: "_by_count _by_owner _most _owners",
    Hosts: "by_epoch chains doubted earlier held numbers suspects unproven",
    Host: "clients digest epoch heard lease name position release since speakers total unicode version",
    Past: "earlier epoch floor last runs",
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few names be held and a few hosts be remembered at most, and let a sweep look at two rooms."""
    monkeypatch.setattr(claims_module, "MOST_HELD", 5)
    monkeypatch.setattr(hosts_module, "MOST_NUMBERS", 4)
    monkeypatch.setattr(rooms_module, "SWEPT", 2)


def fresh(seed: int) -> HubState:
    """Return a state at its beginning, with little memory for histories."""
    rng = random.Random(seed)
    past = Past("시대", {"방": 7}, 3, (), {"earlier": {"방": 5}, "empty": {}})
    state = HubState(
        limits(rng), past, Moderation({}, {}), notices=rng.random() < 0.8, archived=rng.random() < 0.5
    )
    state.rooms.memory.limit = rng.choice([6000, 1 << 20])
    return state


def copied(state: HubState, now: float = -1.0) -> HubState:
    return restore(list(parts(take(state, now))))


def written(state: HubState, now: float) -> bytes:
    return b"".join(parts(take(state, now)))


def all_differences(
    seeds: range, copy: Callable[[HubState, float], HubState] = copied
) -> Iterator[tuple[int, str]]:
    """Yield how states and their copies differ, and the seed for which they do."""
    for seed in seeds:
        for shared in (False, True) if seed % SHARED_EVERY == 0 else (False,):
            yield from ((seed, each) for each in differences(seed, copy, shared=shared))


def differences(seed: int, copy: Callable[[HubState, float], HubState], *, shared: bool) -> Iterator[str]:
    """Run a sequence on a state, and each part of it on a copy; yield how the two differ.

    With ``shared`` it is one of several hosts. Now and then they lose the log, and begin anew from a copy.
    """
    one = fresh(seed)
    entries = AnyEntries(seed, one, shared=shared)
    for number in range(COPIES):
        for entry in islice(entries, entries.rng.randint(0, STEPS)):
            one.digest.add(put(one, entry))
        if shared and entries.rng.random() < 0.2:
            one.begin_anew(f"시대-{number}", f"g{number}", entries.now)
        other = copy(one, entries.now)
        for entry in islice(entries, entries.rng.randint(0, STEPS)):
            found = difference(one, other, entry)
            if found:
                yield f"{found}, after {entry}"
                return
        if written(one, entries.now) != written(other, entries.now):
            yield WRITTEN


def difference(one: HubState, other: HubState, entry: Placed) -> str:
    """Apply an entry to both; return how they differ; "": they do not."""
    effects = put(one, entry)
    try:
        others = put(other, entry)
    except LookupError as error:
        return f"{error!r}"
    if effects != others:
        return f"the effects {effects} and {others}"
    one.digest.add(effects)
    other.digest.add(others)
    if one.read_digest() != other.read_digest():
        return f"{one.read_digest()} and {other.read_digest()}"
    return "" if one.notice_due() == other.notice_due() else "when notices are due"


@pytest.mark.parametrize("tens", range(SEEDS // 10))
def test_a_restored_state_does_for_all_entries_what_the_one_that_was_taken_does(tens: int) -> None:
    for seed, found in all_differences(range(10 * tens, 10 * tens + 10)):
        pytest.fail(f"seed {seed}: {found}")


# Planted faults: what a restore might forget, as a change of the restored state.


def _claims(state: HubState) -> Iterator[Claim]:
    yield from state.members.claims._by_key.values()


def no_awaited(state: HubState) -> None:
    for room in state.rooms:
        room.awaited = 0.0


def no_unswept(state: HubState) -> None:
    state.rooms._unswept = []


def no_forgotten_rooms_among_the_unswept(state: HubState) -> None:
    rooms = state.rooms
    rooms._unswept = [room for room in rooms._unswept if room.number in rooms.by_number]


def held_names_in_another_order(state: HubState) -> None:
    held = state.members.claims._held
    held._owners = OrderedDict(reversed(held._owners.items()))
    held._by_owner = {owner: OrderedDict(reversed(names.items())) for owner, names in held._by_owner.items()}


def no_token_before(state: HubState) -> None:
    for claim in _claims(state):
        claim.before = ""


def no_time_of_claims(state: HubState) -> None:
    for claim in _claims(state):
        claim.since = 0.0


def nothing_proven(state: HubState) -> None:
    for claim in _claims(state):
        claim.proven = False


def no_looks(state: HubState) -> None:
    state.members.claims._by_look.clear()
    for claim in _claims(state):
        claim.looks = ()


def no_end_of_proofs(state: HubState) -> None:
    state.members.expiring.clear()


def none_ending(state: HubState) -> None:
    state.members.ending.clear()


def no_lists_of_rooms(state: HubState) -> None:
    for member in state.members.by_identity.values():
        member.listed = None


def members_in_the_order_of_their_names(state: HubState) -> None:
    members = state.members
    members.by_identity = dict(sorted(members.by_identity.items(), key=lambda item: (item[1].name, item[0])))


def no_rooms_with_waiting_notices(state: HubState) -> None:
    state._waiting.clear()


def no_gathering_of_notices(state: HubState) -> None:
    for room in state.rooms:
        room._next_notice = 0.0


def no_comers(state: HubState) -> None:
    for room in state.rooms:
        room._joined.clear()


def another_count_of_rooms(state: HubState) -> None:
    state.rooms._numbers = max(state.rooms.by_number)


def no_floor(state: HubState) -> None:
    state.rooms._floor = 0


def no_last_numbers(state: HubState) -> None:
    state.rooms._last.clear()


def no_owners_of_rooms(state: HubState) -> None:
    state.rooms.made_by.clear()


def rooms_in_the_order_of_their_names(state: HubState) -> None:
    state.rooms.by_key = dict(sorted(state.rooms.by_key.items()))


def no_memory_used(state: HubState) -> None:
    state.rooms.memory.used = 0


def another_time_of_messages(state: HubState) -> None:
    for room in state.rooms:
        room.history._runs = deque(msgspec.structs.replace(run, taken=0.0) for run in room.history._runs)


def no_leavers(state: HubState) -> None:
    state.sequencer._left.clear()


def no_earlier_epochs(state: HubState) -> None:
    state.members.past = state.members.past._replace(earlier={})


def no_mutes(state: HubState) -> None:
    state.moderation.mutes.clear()


def no_hosts(state: HubState) -> None:
    state.hosts.by_epoch.clear()


def no_holds(state: HubState) -> None:
    state.hosts.held.clear()


FAULTS = [
    no_awaited,
    no_unswept,
    no_forgotten_rooms_among_the_unswept,
    held_names_in_another_order,
    no_token_before,
    no_time_of_claims,
    nothing_proven,
    no_looks,
    no_end_of_proofs,
    none_ending,
    no_lists_of_rooms,
    members_in_the_order_of_their_names,
    no_rooms_with_waiting_notices,
    no_gathering_of_notices,
    no_comers,
    another_count_of_rooms,
    no_floor,
    no_last_numbers,
    no_owners_of_rooms,
    rooms_in_the_order_of_their_names,
    no_memory_used,
    another_time_of_messages,
    no_leavers,
    no_earlier_epochs,
    no_mutes,
    no_hosts,
    no_holds,
]


@pytest.mark.one_python
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_sequences_find_what_a_restore_forgets(fault: Callable[[HubState], None]) -> None:
    """By effects and digests alone: what is written in the end would differ as well."""

    def forgetful(state: HubState, now: float) -> HubState:
        other = copied(state, now)
        fault(other)
        return other

    assert any(found != WRITTEN for _, found in all_differences(range(SEEDS), forgetful))


# The other promises.


def busy(seed: int = 7, steps: int = 400) -> tuple[HubState, float]:
    """Return a state in which everything has happened, and the time."""
    state = fresh(seed)
    entries = AnyEntries(seed, state)
    for entry in islice(entries, steps):
        state.digest.add(put(state, entry))
    return state, entries.now


def test_every_attribute_of_the_state_is_in_the_snapshot_or_follows_from_it() -> None:
    for kind, names in ATTRIBUTES.items():
        found = sorted(attributes(kind))
        assert " ".join(found) == names, f"put what is new in {kind.__name__} into the snapshot"


def attributes(kind: type) -> set[str]:
    """Return the names of what instances of a class keep."""
    if issubclass(kind, tuple | msgspec.Struct):
        return set(getattr(kind, "_fields", ()) or getattr(kind, "__struct_fields__", ()))
    slots = set(getattr(kind, "__slots__", ()))
    return slots or set(vars(next(each for each in instances() if type(each) is kind)))


def instances() -> list[Any]:
    state = fresh(1)
    lobby, claims = state.rooms.lobby, state.members.claims
    return [
        state,
        state.hosts,
        state.sequencer,
        state.rooms,
        lobby,
        lobby.history,
        state.members,
        claims,
        claims._held,
    ]


def test_a_snapshot_shows_the_moment_at_which_it_was_taken() -> None:
    """What is taken is a copy: the state goes on while parts are made of it in another thread."""
    state, now = busy()
    before, taken = written(state, now), take(state, now)
    entries = AnyEntries(8, state)
    entries.now = now
    for entry in islice(entries, 300):
        put(state, entry)
    assert written(state, now) != before
    assert b"".join(parts(taken)) == before


def test_parts_are_small_and_a_state_of_many_parts_is_whole() -> None:
    desk = Desk(LIMITS._replace(kept=LIMITS.kept._replace(size=1 << 30, messages=10_000)))
    for identity in range(1, 3000):
        desk.join(identity, f"이름-{identity}", room=f"방-{identity % 50}")
    for identity in range(1, 3000):
        desk.post(identity, "가" * 200)
    found = list(parts(take(desk.state)))
    assert len(found) > 10
    assert max(map(len, found)) <= 256 << 10
    other = restore(found)
    assert list(parts(take(other))) == found
    assert [each.history.last for each in other.rooms] == [each.history.last for each in desk.state.rooms]


def test_senders_of_a_history_are_one_text_each_as_they_were() -> None:
    desk = Desk()
    desk.join(1, "앨리스")
    for _ in range(3):
        desk.post(1, "안녕")
    runs = copied(desk.state).rooms.lobby.history.runs()
    assert len({id(run.sender) for run in runs}) == 1
    assert len({id(run.room) for run in runs}) == 1


def test_lists_of_rooms_that_are_not_used_again_are_left_out() -> None:
    desk = Desk()
    desk.join(1, "앨리스", room="방", identified=proven("앨리스", rooms=("방*",)))
    desk.ask(1, Request(rooms=ListRooms()), 10.0)
    for now, kept in ((14.9, True), (15.0, False)):
        (member,) = copied(desk.state, now).members.by_identity.values()
        assert (member.listed is not None) == kept


@pytest.fixture(scope="module")
def whole() -> list[bytes]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(snapshot, "PART", 500)
        state, now = busy()
        return list(parts(take(state, now)))


def test_damaged_cut_and_mixed_parts_are_an_error_and_no_state(whole: list[bytes]) -> None:
    assert len(whole) > 10
    for place in range(len(whole)):
        before, part, after = whole[:place], whole[place], whole[place + 1 :]
        for wrong in (
            [*before, *after],
            [*before, part[:-1], *after],
            [*before, part[:5], *after],
            [*before, part + b"\0", *after],
            [*before, part[:-1] + bytes([part[-1] ^ 1]), *after],
            [*before, part, part, *after],
            before,
            [*after, part],
        ):
            if wrong != whole:
                with pytest.raises(SnapshotError):
                    restore(wrong)


def test_a_snapshot_of_another_format_is_an_error_with_both_numbers(whole: list[bytes]) -> None:
    other = [b"\0\2" + part[2:] for part in whole]
    with pytest.raises(SnapshotError, match=r"^the snapshot has format 2; this version of mpchat reads 1$"):
        restore(other)
    assert issubclass(SnapshotError, MpchatError)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("runs", [[99, 1, 1, 0.0, "열쇠", b"", 0.0]]),
        ("members", [[99, "192.0.2.1:1", "", 99, None, None]]),
        ("claims", [["앨리스", "열쇠"]]),
        ("rooms", []),
        ("holders", ["열쇠"]),
        ("strange", ["열쇠"]),
        ("left", [b"\xff"]),
        ("members", "열쇠"),
    ],
)
def test_parts_that_do_not_fit_together_are_an_error_without_a_secret(name: str, values: Any) -> None:
    """Where the checksums are right: of a version that has forgotten to raise the format."""
    state, now = busy()
    bodies = [part[PREFIX.size :] for part in parts(take(state, now))]
    kept = [body for body in bodies if msgspec.msgpack.decode(body)[0] != name]
    wrong = [*kept[:-1], msgspec.msgpack.encode((name, values)), kept[-1]]
    with pytest.raises(SnapshotError) as error:
        restore(sealed(wrong))
    assert "열쇠" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def sealed(bodies: list[bytes]) -> Iterator[bytes]:
    """Put a right beginning before each part."""
    checksum = 0
    for body in bodies:
        checksum = crc32(body, checksum)
        yield PREFIX.pack(snapshot.FORMAT, checksum) + body


def test_a_state_with_other_totals_is_an_error() -> None:
    state, now = busy()
    taken = take(state, now)
    taken.lists["runs"] = []
    with pytest.raises(SnapshotError, match="does not give the state"):
        restore(parts(taken))


def test_tokens_are_shown_nowhere() -> None:
    desk = Desk()
    token = desk.join(1, "앨리스")["welcome"]["token"]
    (claim,) = desk.state.members.claims.saved().claims
    taken = take(desk.state)
    for shown in (repr(claim), repr(taken), repr(taken.lists), repr(desk.state.members.claims.saved())):
        assert token not in shown
    assert token.encode() in b"".join(parts(taken))


def test_the_address_that_reached_its_number_of_held_names_first_loses_one_first() -> None:
    """Which address that was does not follow from the order of the names: too rare for the sequences."""
    desk = Desk()
    hosts = ["192.0.2.1"] * 3 + ["192.0.2.2"] * 2 + ["198.51.100.6", "198.51.100.7"]
    desk.hosts = dict(enumerate(hosts, 1))
    tokens = [desk.join(each, f"이름-{each}")["welcome"]["token"] for each in range(1, 7)]
    for each in range(1, 6):
        desk.leave(each, "lost")
    desk.join(7, "이름-1", token=tokens[0])  # now the first address has two held names as well, since last
    for state in (copied(desk.state), desk.state):
        for each in (6, 7):
            state.apply(Left(1.0, [(each, desk.address(each), "lost")]))
        names = [each.name for each in state.members.claims.saved().claims]
        assert names == ["이름-1", "이름-2", "이름-3", "이름-5", "이름-6"]


# Digests.


def test_a_digest_is_the_same_in_each_process() -> None:
    code = "from test_hub_snapshot import busy; print(busy()[0].read_digest())"
    found = []
    for seed in ("0", "1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        arguments = [sys.executable, "-c", code]
        done = subprocess.run(arguments, env=environ, capture_output=True, text=True, check=True)
        found.append(done.stdout)
    assert "Reading(value=" in found[0]
    assert found == found[:1] * 3


RUN = Run("방", 3, 2, 1.7e9, "앨리스", b"frames", 1.0)
EFFECTS: list[Effect] = [
    SayInRoom(1, RUN),
    SayInRoom(2, RUN),
    *(
        SayInRoom(1, msgspec.structs.replace(RUN, **each))
        for each in ({"seq": 4}, {"count": 1}, {"sender": "밥"}, {"at": 1.8e9}, {"frames": b"longer frames"})
    ),
    Say(1, b"a"),
    Say(2, b"a"),
    Say(1, b"aa"),
    NoticeInRoom(1, 1, b"a"),
    NoticeInRoom(1, 1, b"b"),
    Tell(1, b"a"),
    Tell(2, b"a"),
    Tell(1, b"b"),
    Enter(1, 1, 1, 3, b"a"),
    Enter(1, 1, 2, 3, b"a"),
    Enter(1, 1, 1, 3, b"b"),
    Leave(1),
    Forget(1),
    ForgetRoom(1),
    End(1, "lost"),
    End(1, "kicked"),
    Order(1, "앨리스", "kick", "밥", None),
    Order(1, "앨리스", "ban", "밥", 1.0),
    ForgetHistory("방", 1),
    RoomNumbered("방", 1, 1.0),
    Hold(1, held=True),
    Hold(1, held=False),
    Kick("밥"),
    Kick("앨리스"),
    Presence("방", "밥", 2),
    Presence("방", "밥", 2, "lost"),
]


def test_a_digest_tells_all_effects_and_their_order_apart() -> None:
    assert {type(each) for each in EFFECTS} == set(get_args(Effect))
    # But for the words of answers, which may differ from release to release.
    told = {(type(each), each[:-1] if isinstance(each, Tell | Enter) else each): each for each in EFFECTS}
    assert len(told) < len(EFFECTS)
    pairs = [[one, other] for one in told.values() for other in told.values()]
    values = set()
    for effects in [*pairs, *([each] for each in told.values()), []]:
        digest = Digest()
        digest.add(effects)
        values.add(digest.value)
    assert len(values) == len(pairs) + len(told) + 1


def test_a_reading_shows_a_state_that_differs_although_its_effects_do_not() -> None:
    desk = Desk()
    desk.join(1, "앨리스")
    desk.post(1, "안녕")
    before = desk.state.read_digest()
    assert (before.members, before.rooms, before.names, before.messages, before.sequence) == (1, 1, 0, 1, 1)
    assert before.memory == desk.state.rooms.memory.used > 0
    desk.state.rooms.lobby.history.clear()
    assert desk.state.read_digest() != before
