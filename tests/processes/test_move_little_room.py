"""Moves where there is little room: nobody takes the places of those who are moved, nobody waits in vain."""

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from support.changing import (
    NOT_STARTED,
    OK,
    configured,
    done,
    generations,
    reload,
    scale,
    served_by,
    server_address,
    under_way,
    workers_of,
    write_settings,
)
from support.crowd import connected, connections, facts, last_for, worker_pids
from support.harness import Client, Server, assert_nothing_left, commands_served, kill, settle, stopped
from support.injected import HELD, held, inject
from support.waiting import eventually

from mpchat.supervisor.restart_policy import DEATHS_TO_FAILING

pytestmark = pytest.mark.one_python

END = "= end ="
# What each worker has room for, beside the descriptors that it needs itself.
ROOM = 40
RESERVED = 64


LittleRoom = Callable[[int], Server]

# Workers of a slot that are started while it is held wait for the end of that; the first slot's end at once
# while there is the flag.
_FAULT = """
    def install(worker, slot):
        while flagged(f"held {slot}"):
            time.sleep(0.01)
        if slot == 1 and flagged("faulty"):
            os._exit(7)
"""


@pytest.fixture(scope="module")
def lasting_little_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for ``ROOM`` clients with each worker."""
    folder = tmp_path_factory.mktemp("little")
    server = Server(folder)
    inject(server, _FAULT)
    write_settings(server, port=0, workers=2)
    try:
        started = server.command("start", preexec_fn=_few_descriptors)
        assert started.returncode == 0, started.stderr
        yield server
    finally:
        server.end()
    assert_nothing_left(folder)


@pytest.fixture
def little_room(lasting_little_room: Server) -> LittleRoom:
    """Return the file's server with little room once it has so many workers that serve, and no client."""

    def with_workers(count: int) -> Server:
        server = lasting_little_room
        server.wait_until_running()
        server.wait_for_connections(0)
        scale(server, count)
        assert facts(server)["limits"]["connections"] == count * ROOM
        return server

    return with_workers


def _few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (RESERVED + ROOM, RESERVED + ROOM))


def _room(server: Server) -> int:
    room: int = facts(server)["limits"]["connections"]
    return room


def answers(crowd: Sequence[Client]) -> list[str]:
    """What each is told about a frame that is no message: that it is none, or that the server is full."""
    for each in crowd:
        each.send_raw(b"\0\0")
    return sorted(map(_answer, crowd))


def _answer(client: Client) -> str:
    while (said := client.receive()) is not None:
        if "error" in said:
            return str(said["error"]["code"])
    return "the end"


def all_hear(crowd: Sequence[Client], text: str) -> None:
    crowd[0].say(text)
    for each in crowd:
        assert each.hear_until(text)


# Else they took the places of those who are to be moved, and the room waited for these for ever.


def test_who_comes_during_a_scaling_to_fewer_workers_is_told_full_beyond_their_room(
    little_room: LittleRoom,
) -> None:
    server = little_room(2)
    with connected(server_address(server), ROOM - 4) as crowd:
        settle(crowd)
        with ExitStack() as fault:
            fault.enter_context(stopped(worker_pids(server)[-1]))
            with under_way(server, "scale", workers=1) as background:
                with connected(server_address(server), 12) as more:
                    assert answers(more) == ["full"] * 8 + ["not_json"] * 4
                    fault.close()
                    assert done(background.answer())["workers"] == 1
                    assert connections(server) == [ROOM]
                    all_hear(crowd, END)


def test_who_comes_during_a_growth_is_told_full_beyond_the_room_of_those_who_serve(
    little_room: LittleRoom,
) -> None:
    """The new one may never serve anybody."""
    server = little_room(1)
    with connected(server_address(server), ROOM - 4) as crowd:
        settle(crowd)
        with held(server, 2), under_way(server, "scale", workers=2) as background:
            assert facts(server)["limits"]["connections"] == ROOM
            with connected(server_address(server), 12) as more:
                assert answers(more) == ["full"] * 8 + ["not_json"] * 4
            kill(workers_of(server)[-1])
            assert background.answer().exit == NOT_STARTED
        assert scale(server, 2)["workers"] == 2
        assert facts(server)["limits"]["connections"] == 2 * ROOM
        all_hear(crowd, END)


def test_who_comes_during_a_reload_with_fewer_workers_is_told_full_beyond_their_room(
    little_room: LittleRoom,
) -> None:
    server = little_room(2)
    with connected(server_address(server), ROOM - 4) as crowd:
        settle(crowd)
        write_settings(server, port=0, workers=1)
        with ExitStack() as fault:
            fault.enter_context(held(server, 1))
            with under_way(server, "reload") as background:
                eventually(lambda: _room(server) == ROOM, "the settings to be read")
                with connected(server_address(server), 12) as more:
                    assert answers(more) == ["full"] * 8 + ["not_json"] * 4
                    fault.close()
                    assert done(background.answer())["workers"] == 1
                    assert connections(server) == [ROOM]
                    all_hear(crowd, END)


def test_who_comes_leaves_the_places_of_those_who_are_to_be_moved(
    little_room: LittleRoom,
) -> None:
    """One of the workers that stay is away for a while, so that the other has to take all who are moved."""
    server = little_room(3)
    with connected(server_address(server), 60) as crowd:
        settle(crowd)
        first, _, third = worker_pids(server)
        lost = served_by(first, crowd)
        with ExitStack() as stuck, ExitStack() as away:
            stuck.enter_context(stopped(third))
            away.enter_context(held(server, 1))
            with under_way(server, "scale", workers=2) as background:
                kill(first)
                # Until the server knows, those who come are given its place too.
                eventually(lambda: facts(server)["workers"][0]["state"] != "RUNNING", "its death to be known")
                left = [each for each, gone in zip(crowd, lost, strict=True) if not gone]
                with connected(server_address(server), 20) as more:
                    eventually(lambda: facts(server)["connections"] == 60, "all to have come in")
                    stuck.close()
                    answer = background.answer()
                    assert (answer.exit, answer.result["workers"], answer.result["lost"]) == (OK, 2, 20)
                    all_hear(left, END)
                    away.close()
                    assert answers(more) == ["not_json"] * 20


def test_those_who_find_no_room_when_a_worker_keeps_dying_stay_where_they_were(
    little_room: LittleRoom,
) -> None:
    """A scaling under way counted on that worker."""
    server = little_room(3)
    with connected(server_address(server), 70) as crowd:
        settle(crowd)
        first, _, third = worker_pids(server)
        left = [each for each, gone in zip(crowd, served_by(first, crowd), strict=True) if not gone]
        faulty = server.folder / "site" / "faulty"
        faulty.touch()
        with ExitStack() as stuck:
            stuck.enter_context(stopped(third))
            with under_way(server, "scale", workers=2) as background:
                kill(first)
                eventually(
                    lambda: facts(server)["workers"][0]["deaths"] >= DEATHS_TO_FAILING,
                    "it to die often",
                    60.0,
                )
                stuck.close()
                answer = background.answer()
        assert (answer.exit, answer.result["workers"]) == (NOT_STARTED, 3)
        assert "the workers that would be left have no room" in answer.text
        assert [each["state"] for each in facts(server)["workers"]][1:] == ["RUNNING", "RUNNING"]
        assert sum(connections(server)) == len(left)
        all_hear(left, END)
        faulty.unlink()


def test_a_worker_with_select_gets_no_more_than_it_takes_while_a_reload_changes_that(folder: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(configured(folder, fault=HELD, workers=1, multiplexer="select"))
        crowd = stack.enter_context(connected(server_address(server), 955))
        settle(crowd)
        write_settings(server, port=0, workers=1, multiplexer="poll")
        new_held = stack.enter_context(ExitStack())
        new_held.enter_context(held(server, 1))
        with under_way(server, "reload") as background:
            eventually(lambda: _room(server) > 960, "the settings to be read")
            with connected(server_address(server), 80) as more:
                eventually(lambda: facts(server)["connections"] == 955 + 80, "all to have come in")
                assert connections(server) == [960]
                new_held.close()
                assert done(background.answer())["moved"] == 960
                assert answers(more) == ["not_json"] * 80
        all_hear(crowd, END)


# When the supervisor has hardly a descriptor free, through which connections have to go.


@contextmanager
def short_of_descriptors(server: Server, free: int) -> Iterator[None]:
    """The supervisor may open so many descriptors more, and no others, for the length of the block."""
    supervisor = psutil.Process(facts(server)["pid"])
    # The change's own connection stays; that of the look at its status is just being closed.
    eventually(lambda: commands_served(supervisor) <= 1, "the last command's connection to be closed")
    before = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    used = {int(each) for each in os.listdir(f"/proc/{supervisor.pid}/fd")}
    unused = [number for number in range(max(used) + free + 2) if number not in used]
    supervisor.rlimit(psutil.RLIMIT_NOFILE, (unused[free], before[1]))
    try:
        yield
    finally:
        supervisor.rlimit(psutil.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose workers can be held up at their start."""
    folder = tmp_path_factory.mktemp("holding")
    with configured(folder, fault=HELD) as started:
        yield started
    assert_nothing_left(folder)


def test_connections_move_in_smaller_batches_when_they_do_not_fit(holding: Server) -> None:
    logged = len(holding.log)
    with connected(server_address(holding), 160) as crowd:
        settle(crowd)
        with short_of_descriptors(holding, 50):
            assert reload(holding)["moved"] == 160
        assert holding.log[logged:].count("short of descriptors") == 1
        all_hear(crowd, END)


def test_when_not_even_one_can_be_moved_the_change_is_given_up_and_nothing_has_changed(
    holding: Server,
) -> None:
    server = holding
    server.wait_for_connections(0)
    with connected(server_address(server), 20) as crowd:
        settle(crowd)
        before = generations(server), worker_pids(server)
        for command in ("reload", "scale"):
            logged = len(server.log)
            with ExitStack() as fault:
                fault.enter_context(held(server, 1) if command == "reload" else stopped(before[1][1]))
                arguments = {"workers": 1} if command == "scale" else {}
                with under_way(server, command, **arguments) as background:
                    if command == "reload":
                        eventually(lambda: len(workers_of(server)) == 3, "the new worker to begin")
                    with short_of_descriptors(server, 0):
                        fault.close()
                        answer = background.answer()
            assert (answer.exit, answer.result["moved"], answer.result["lost"]) == (NOT_STARTED, 0, 0)
            assert "no descriptor is free" in answer.text
            assert server.log[logged:].count("short of descriptors") == 1
            assert sorted(workers_of(server)) == sorted(worker_pids(server))
            assert (generations(server), worker_pids(server)) == before
            all_hear(crowd, f"after the {command}")
        assert reload(server)["moved"] == 20
        assert scale(server, 1)["moved"] == 10
        all_hear(crowd, END)
    scale(server, 2)


# What the kernel says when processes of this user have too many descriptors in flight, in every process.
_SCARCE = """
    import errno, socket

    sendmsg = socket.socket.sendmsg

    def refuse(self, data, rights=(), *more):
        if rights and flagged("scarce"):
            raise OSError(errno.ETOOMANYREFS, "injected")
        return sendmsg(self, data, rights, *more)

    socket.socket.sendmsg = refuse

    def install(worker, slot):
        pass
"""


def test_while_no_descriptor_can_be_sent_nobody_ends_and_nobody_is_busy_with_trying(folder: Path) -> None:
    with configured(folder, fault=_SCARCE) as server, connected(server_address(server), 20) as crowd:
        settle(crowd)
        scarce = folder / "site" / "scarce"
        scarce.touch()
        with under_way(server, "reload") as background:
            eventually(lambda: "connections wait, injected" in server.log, "the old worker to offer")
            with connected(server_address(server), 4) as more:
                eventually(lambda: "clients wait, injected" in server.log, "the others to be offered")
                before = [sum(psutil.Process(each).cpu_times()[:2]) for each in busy(server)]
                last_for(1.0)
                after = [sum(psutil.Process(each).cpu_times()[:2]) for each in busy(server)]
                assert sum(after) - sum(before) < 0.4
                scarce.unlink()
                assert answers(more) == ["not_json"] * 4
                assert done(background.answer())["renewed"] == [1, 2]
        assert server.log.count("injected") < 10
        all_hear(crowd, END)


def busy(server: Server) -> list[int]:
    return [facts(server)["pid"], *workers_of(server)]
