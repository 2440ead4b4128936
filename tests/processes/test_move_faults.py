"""Either side of a move dies or stops at each step: its own connections are lost, and nobody else's."""

import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.changing import (
    NOT_STARTED,
    OK,
    InBackground,
    change,
    configured,
    generations,
    reload,
    scale,
    under_way,
    until_reloads_end,
    worker_count,
    workers_of,
    write_settings,
)
from support.crowd import (
    Listener,
    all_speak,
    assert_same_stream,
    descriptors,
    everybody_heard_of_leaving,
    everybody_hears,
    facts,
    last_for,
    leavers_heard,
    listeners,
    wait_until_running,
    worker_pids,
)
from support.harness import Server, kill, running, stopped
from support.injected import HELD, held, inject
from support.members import members
from support.waiting import eventually

from mpchat.control.client import ReceivedAnswer
from mpchat.hub.sequencer import NOTICE_GATHER

pytestmark = pytest.mark.one_python

BEGIN, END = "= begin =", "= end ="
COUNT = 24
# How many of them say something before a fault: half of each worker's.
SPEAKERS = COUNT // 2

# Steps of a move, in groups that share a server: the method of a part of the worker in which a step happens,
# whether the fault stands before or after it, at which call, and what else must be true.
_DRAIN, _CLOSE, _SYNCED = (f"arguments[0] == Down.{kind}" for kind in ("DRAIN", "CLOSE", "SYNCED"))
_BEGIN, _FILL, _FILLED = (f"arguments[0] == Down.{kind}" for kind in ("BEGIN", "FILL", "FILLED"))
_RECEIPT = "handoff_channel.HandoffChannel.send_receipt"
STEPS = {
    "the old one gives": {
        "asked": ("migration.Migration.prepare", "before", 1, ""),
        "has stopped reading and said SYNC": ("migration.Migration.prepare", "after", 1, ""),
        "is told SYNCED": ("downlink.Downlink.take", "before", 1, _SYNCED),
        "before it sends the handoff": ("migration.Migration.send", "before", 1, ""),
        "has taken some of them out": ("migration.Migration.export_state", "after", 3, ""),
    },
    "the old one has given": {
        "has sent the handoff": ("migration.Migration.send", "after", 1, ""),
        "before it lets go": ("migration.Migration.take_receipt", "before", 1, ""),
        "has let go": ("migration.Migration.take_receipt", "after", 1, ""),
        "told to drain": ("downlink.Downlink.take", "before", 1, _DRAIN),
        "told to close": ("downlink.Downlink.take", "before", 1, _CLOSE),
    },
    "the new one begins": {
        "begins": ("worker.Worker.run", "before", 1, ""),
        "told where the stream begins": ("downlink.Downlink.take", "before", 1, _BEGIN),
        "being filled": ("downlink.Downlink.take", "after", 1, _FILL),
        "filled, before it says READY": ("downlink.Downlink.take", "before", 1, _FILLED),
        "has said READY": ("downlink.Downlink.take", "after", 1, _FILLED),
    },
    "the new one takes": {
        "handed over": ("migration.Migration.take_handoff", "before", 1, ""),
        "takes the fourth": ("migration.Migration.import_state", "before", 4, ""),
        "has taken them, before the acks": (_RECEIPT, "before", 1, "self.receipt.acks"),
        "has sent the acks": (_RECEIPT, "after", 1, "self.receipt.acks"),
    },
}

# The first process that gets to the step that the flag names takes the flag away and has the fault.
_FAULT = """
    import os, signal

    FLAG = os.path.join(FOLDER, "fault")

    def install(worker, slot):
        for steps in {steps!r}.values():
            for step, how in steps.items():
                put(step, *how)

    def put(step, name, when, nth, condition):
        from mpchat.ipc.items import Down

        (part, method), calls = part_of_worker(name), [0]

        def strike():
            try:
                with open(FLAG) as flag:
                    what, _, wanted = flag.read().partition(" ")
            except FileNotFoundError:
                return
            calls[0] += wanted == step
            if calls[0] == nth:
                os.unlink(FLAG)
                os.kill(os.getpid(), signal.Signals[what])

        def with_fault(self, *arguments):
            counts = not condition or eval(condition, dict(self=self, arguments=arguments, Down=Down))
            if counts and when == "before":
                strike()
            result = method(self, *arguments)
            if counts and when == "after":
                strike()
            return result

        setattr(part, name.rpartition(".")[2], with_fault)
"""


@contextmanager
def faulty(folder: Path, *flags: str) -> Iterator[Server]:
    """A server whose workers look for the flag at every step of a move."""
    server = Server(folder)
    inject(server, _FAULT.format(steps=STEPS))
    try:
        yield server.start(*flags)
    finally:
        server.end()


def flag(server: Server, fault: signal.Signals, step: str) -> Path:
    path = server.folder / "site" / "fault"
    (path.parent / "new").write_text(f"{fault.name} {step}")
    return (path.parent / "new").rename(path)


def everything_is_well(
    server: Server, crowd: Sequence[Listener], speakers: Sequence[Listener], lost: int, fds: Sequence[int]
) -> None:
    """Whatever happened: who is alive gets the same and one message more, nobody is counted twice, notices
    count no client that is not among the ``speakers``, every slot serves, and nothing is left over."""
    until_reloads_end(server, lambda found: True)
    wait_until_running(server)
    alive = [each for each in crowd if each.ended is None]
    eventually(lambda: [each.ended for each in crowd].count(None) == COUNT - lost, "the lost ones' end", 5.0)
    alive = [each for each in crowd if each.ended is None]
    eventually(lambda: facts(server)["connections"] == len(alive), "the count of those who are there", 5.0)
    if alive:
        lost_speakers = sum(each.ended is not None for each in speakers)
        everybody_heard_of_leaving(alive, lost_speakers)
        alive[0].say(END)
        everybody_hears(alive, END)
        assert {leavers_heard(each) for each in alive} == {lost_speakers}
        texts = assert_same_stream(alive, BEGIN, END)
        said = [text for text in texts if text.startswith("during ")]
        assert len(said) == len(set(said)), "doubled"
    eventually(lambda: len(workers_of(server)) == 2, "two workers and no process more", 10.0)
    eventually(
        lambda: sum(descriptors(server)) == sum(fds) + len(alive), "descriptors to be given back", 10.0
    )
    assert "Traceback" not in server.log.replace("most recent call first", ""), server.log


def until_nobody_is_there(server: Server) -> None:
    """Wait until all have left, and no notice about them is still to come."""
    eventually(lambda: facts(server)["connections"] == 0, "all to be gone")
    last_for(3 * NOTICE_GATHER)


@pytest.mark.parametrize(
    "groups",
    [["the old one gives"], ["the old one has given"], ["the new one begins", "the new one takes"]],
    ids=["the old one gives", "the old one has given", "the new one"],
)
def test_killed_at_each_step_of_a_reload(folder: Path, groups: list[str]) -> None:
    with faulty(folder) as server:
        fds = descriptors(server)
        for group, step in [(each, step) for each in groups for step in STEPS[each]]:
            with listeners(server, COUNT) as crowd:
                all_speak(crowd[:SPEAKERS])
                crowd[0].say(BEGIN)
                everybody_hears(crowd, BEGIN)
                left = flag(server, signal.SIGKILL, step)
                answer = change(server, "reload")
                assert not left.exists(), f"nobody got to: {step}"
                check_answer(group, step, answer)
                everything_is_well(server, crowd, crowd[:SPEAKERS], answer.result["lost"], fds)
            until_nobody_is_there(server)
        assert reload(server)["renewed"] == [1, 2]


def test_members_that_a_killed_worker_had_let_go_are_members_still(folder: Path) -> None:
    with faulty(folder) as server, members(server.address, "alice", "bob", room="r") as (alice, bob):
        for step in ("has sent the handoff", "before it lets go"):
            left = flag(server, signal.SIGKILL, step)
            answer = change(server, "reload")
            assert not left.exists(), f"nobody got to: {step}"
            assert (answer.exit, answer.result["lost"]) == (OK, 0)
            for speaker, listener in ((alice, bob), (bob, alice)):
                text = f"{speaker.welcome['name']} after {step}"
                speaker.ask(message=text)
                assert listener.hear_from_room(text)["from"] == speaker.welcome["name"]
            bob.ask(who={})
            assert bob.until("who")["names"] == ["alice", "bob"]
            assert not [each for each in alice.got + bob.got if "left" in each]


def check_answer(group: str, step: str, answer: ReceivedAnswer) -> None:
    lost = answer.result["lost"]
    assert lost <= COUNT // 2
    if group.startswith("the old one"):
        assert answer.exit == OK, answer
    elif step != "has sent the acks":
        assert answer.exit == NOT_STARTED, answer
    if group == "the old one has given":
        assert lost == 0, "the supervisor has them already"
    elif group != "the old one gives" and step != "has sent the acks":
        assert lost == 0, "others have them still"
    if group == "the new one begins" and step != "has said READY":
        assert (answer.result["moved"], answer.result["renewed"], answer.exit) == (0, [], NOT_STARTED)


@pytest.mark.parametrize(
    "steps",
    [
        ["asked", "is told SYNCED", "has sent the handoff"],
        ["has said READY", "handed over", "has sent the acks"],
    ],
    ids=["the old one", "the new one"],
)
def test_stopped_at_a_step_of_a_reload(folder: Path, steps: list[str]) -> None:
    """It is found to hang and killed; then it is as if it had died there."""
    with faulty(folder, "--hang-timeout", "1s") as server:
        fds = descriptors(server)
        for step in steps:
            killed = server.log.count(", killed: worker")
            with listeners(server, COUNT) as crowd:
                all_speak(crowd[:SPEAKERS])
                crowd[0].say(BEGIN)
                everybody_hears(crowd, BEGIN)
                left = flag(server, signal.SIGSTOP, step)
                answer = change(server, "reload")
                assert not left.exists(), f"nobody got to: {step}"
                assert answer.result["seconds"] < 8.0
                eventually(partial(more_killed, server, killed), "the stopped one to be killed")
                last_for(0.1)
                ended = [each.ended is None for each in crowd].count(False)
                everything_is_well(server, crowd, crowd[:SPEAKERS], ended, fds)
            until_nobody_is_there(server)


def more_killed(server: Server, before: int) -> bool:
    return server.log.count(", killed: worker") > before


def test_a_new_worker_that_dies_while_the_old_one_retires_is_replaced(folder: Path) -> None:
    with running(folder, workers=1) as server:
        (old,) = workers_of(server)
        with ExitStack() as retiring:
            retiring.enter_context(stopped(old))
            with under_way(server, "reload") as background:
                eventually(lambda: facts(server)["workers"][0]["generation"] == 2, "the new one to serve")
                (new,) = worker_pids(server)
                kill(new)
                eventually(lambda: worker_pids(server) not in ([new], [old], []), "another one")
                wait_until_running(server)
                with listeners(server, 1) as crowd:
                    crowd[0].say(END)
                    everybody_hears(crowd, END)
                retiring.close()
                answer = background.answer()
        assert (answer.exit, answer.result["renewed"]) == (NOT_STARTED, [])
        assert "died while it took over, killed by SIGKILL; the next one is being started" in answer.text
        assert reload(server)["renewed"] == [1]
        assert workers_of(server) == worker_pids(server)


def test_who_is_replaced_during_a_reload_that_fails_has_the_settings_that_hold(folder: Path) -> None:
    with configured(folder, fault=HELD) as server, held(server, 1):
        write_settings(server, port=0, workers=2, payload_limit=100)
        with under_way(server, "reload") as background:
            first, second = worker_pids(server)
            kill(second)
            eventually(lambda: worker_pids(server)[1:] not in ([second], []), "another one")
            wait_until_running(server)
            (new,) = set(workers_of(server)) - set(worker_pids(server))
            kill(new)
            answer = background.answer()
        assert (answer.exit, answer.result["renewed"], answer.result["failed"]) == (NOT_STARTED, [], 0)
        assert worker_pids(server)[0] == first
        assert (facts(server)["generation"], generations(server)) == (1, [1, 1])
        with listeners(server, 4) as crowd:
            for each in crowd:
                each.say("x" * 200 + each.address)
                everybody_hears(crowd, "x" * 200 + each.address)


def test_fewer_workers_after_a_reload_are_the_renewed_ones_also_if_one_has_just_died(folder: Path) -> None:
    with configured(folder, fault=HELD, workers=3) as server, ExitStack() as fault:
        second_held = fault.enter_context(ExitStack())
        second_held.enter_context(held(server, 2))
        write_settings(server, port=0, workers=2)
        with under_way(server, "reload") as background:
            eventually(lambda: facts(server)["generation"] == 2, "the first to be renewed")
            eventually(lambda: len(workers_of(server)) == 4, "the second one's next to begin")
            fault.enter_context(held(server, 1))
            kill(worker_pids(server)[0])
            eventually(lambda: "died: worker 1" in server.log, "its death to be known")
            second_held.close()
            assert background.answer().exit == OK
        assert [each["slot"] for each in facts(server)["workers"]] == [1, 2]
        fault.close()
        wait_until_running(server)
        assert generations(server) == [2, 2]


def test_the_number_of_workers_that_a_failed_reload_did_not_get_to_is_what_the_next_one_leads_to(
    folder: Path,
) -> None:
    with configured(folder, fault=HELD) as server:
        write_settings(server, port=0, workers=3)
        with held(server, 2), under_way(server, "reload") as background:
            eventually(lambda: facts(server)["generation"] == 2, "the first to be renewed")
            eventually(lambda: len(workers_of(server)) == 3, "the second one's next to begin")
            kill(workers_of(server)[-1])
            answer = background.answer()
        assert (answer.exit, answer.result["renewed"], worker_count(server)) == (NOT_STARTED, [1], 2)
        assert reload(server)["workers"] == 3
        assert scale(server, 2)["workers"] == 2
        assert reload(server)["workers"] == 2, "what the scaling made of it"


def test_an_old_worker_that_does_not_end_holds_nobody_up(folder: Path) -> None:
    """It has no clients any more; what it does not take is nothing to wait for."""
    with running(folder, "--lag-limit", "256K", workers=1) as server, ExitStack() as retiring:
        (old,) = workers_of(server)
        retiring.enter_context(stopped(old))
        with under_way(server, "reload") as background:
            eventually(lambda: facts(server)["workers"][0]["generation"] == 2, "the new one to serve")
            with listeners(server, 2) as crowd:
                for number in range(50):
                    crowd[0].say(f"{number} " + "x" * 20_000)
                    everybody_hears(crowd, f"{number} " + "x" * 20_000)
            assert psutil.Process(old).status() == psutil.STATUS_STOPPED, "waited for until it was killed"
            retiring.close()
            assert background.answer().exit == OK


def test_a_moved_connection_that_cannot_be_watched_is_ended_and_the_others_go_on(folder: Path) -> None:
    """As with a fresh one, for which that may happen too: it costs the worker nothing more."""
    fault = """
        def install(worker, slot):
            connection, listen = part_of_worker("connection.Connection.listen")
            def fail(self, reactor, interest):
                if flagged("faulty") and interest & worker.READ:
                    os.unlink(os.path.join(FOLDER, "faulty"))
                    raise OSError(28, "injected")
                listen(self, reactor, interest)
            connection.listen = fail
    """
    with configured(folder, fault=fault, workers=1) as server, listeners(server, COUNT) as crowd:
        all_speak(crowd)
        (folder / "site" / "faulty").touch()
        answer = change(server, "reload")
        assert (answer.exit, answer.result["lost"]) == (OK, 0)
        eventually(lambda: [each.ended is None for each in crowd].count(False) == 1, "one to be ended")
        alive = [each for each in crowd if each.ended is None]
        everybody_heard_of_leaving(alive, 1)
        alive[0].say(END)
        everybody_hears(alive, END)
        assert facts(server)["connections"] == COUNT - 1


def test_killed_from_outside_at_random_moments_of_many_reloads(server: Server) -> None:
    chance = random.Random(1)
    fds = descriptors(server)
    with ExitStack() as everybody:
        crowd = everybody.enter_context(listeners(server, COUNT))
        all_speak(crowd)
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        spoken = 0
        for _ in range(4):
            before = [each for each in crowd if each.ended is None]
            with under_way(server, "reload") as background:
                speak(before, spoken)
                spoken += 1
                last_for(chance.uniform(0.0, 0.35))
                kill_one(chance.choice([0, -1, -1]), server)
                answer = background.answer()
            assert answer.exit in (OK, NOT_STARTED), answer
            until_reloads_end(server, lambda found: True)
            wait_until_running(server)
            if len([each for each in crowd if each.ended is None]) < 4:
                break
        eventually(
            lambda: [each.ended for each in crowd].count(None) == facts(server)["connections"],
            "clients to see the ends that the server has seen",
        )
        lost = [each.ended is None for each in crowd].count(False)
        everything_is_well(server, crowd, crowd, lost, fds)


def speak(crowd: Sequence[Listener], number: int) -> None:
    for place, each in enumerate(crowd):
        with suppress(OSError):
            each.say(f"during {number} {place}")


def kill_one(place: int, server: Server) -> None:
    """The oldest worker process, or the youngest: one that comes, most likely."""
    with suppress(IndexError, psutil.NoSuchProcess):
        kill(workers_of(server)[place])


def test_a_new_version_that_cannot_start_changes_nothing(folder: Path) -> None:
    server = Server(folder)
    inject(server, 'def install(worker, slot):\n    if flagged("broken"):\n        raise ImportError("oh")\n')
    server.start()
    try:
        with listeners(server, 6) as crowd:
            before, fds = workers_of(server), descriptors(server)
            (folder / "site" / "broken").touch()
            command = server.command("reload")
            assert (command.returncode, command.stdout) == (NOT_STARTED, "")
            assert "the new worker 1 ended before it could serve, exit code 1" in command.stderr
            assert workers_of(server) == before
            assert (facts(server)["generation"], facts(server)["moves"]) == (1, 0)
            eventually(lambda: descriptors(server) == fds, "descriptors to be given back")
            crowd[0].say(END)
            everybody_hears(crowd, END)
            assert change(server, "scale", workers=4).exit == NOT_STARTED
            assert workers_of(server) == before
            (folder / "site" / "broken").unlink()
            assert reload(server)["moved"] == 6
    finally:
        server.end()


def test_a_worker_of_another_slot_dies_during_a_reload(folder: Path) -> None:
    """What has nothing to do with the change is dealt with as ever."""
    with running(folder, workers=3) as server, listeners(server, COUNT) as crowd:
        all_speak(crowd)
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        background = InBackground(server, "reload")
        eventually(lambda: facts(server)["change"] == "reload" or not background.going, "the reload")
        with suppress(psutil.NoSuchProcess):
            kill(facts(server)["workers"][2]["pid"])
        answer = background.answer()
        assert answer.exit == OK
        wait_until_running(server)
        alive = [each for each in crowd if each.ended is None]
        assert answer.result["lost"] == COUNT - len(alive)
        said = f" moved, {COUNT - len(alive)} lost: reload"
        eventually(lambda: said in server.log, "the log to tell of it")
        everybody_heard_of_leaving(alive, COUNT - len(alive))
        alive[0].say(END)
        everybody_hears(alive, END)
