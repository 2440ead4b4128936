"""A worker that dies again and again: tried less and less often, given up, told; the others serve."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.changing import scale
from support.crowd import connected, everybody_hears, facts, listeners
from support.harness import Server, assert_nothing_left, in_foreground, leftovers
from support.injected import inject
from support.waiting import eventually

pytestmark = pytest.mark.one_python

END = "= end ="
# What a worker of slot 2 does once the flag is there, by name.
FAULTS = {
    "at import": """
        def install(worker, slot):
            if slot == 2 and flagged("faulty"):
                raise ImportError("injected")
    """,
    "before it is ready": """
        def install(worker, slot):
            if slot == 2 and flagged("faulty"):
                worker.main = lambda *arguments: os._exit(7)
    """,
    "by a signal before it is ready": """
        def install(worker, slot):
            if slot == 2 and flagged("faulty"):
                worker.main = lambda *arguments: os.kill(os.getpid(), 11)
    """,
    "a moment after it was ready": """
        def install(worker, slot):
            ready = time.monotonic()
            def act(turns):
                if flagged("faulty") and slot == 2 and time.monotonic() - ready > 0.3:
                    raise RuntimeError("injected")
            before_each_turn(worker, act)
    """,
}


@contextmanager
def faulty(folder: Path, fault: str, *flags: str, workers: int = 2) -> Iterator[Server]:
    """A server whose second worker will die, again and again, as soon as the flag ``faulty`` stands."""
    server = Server(folder)
    inject(server, fault)
    try:
        yield server.start(*flags, workers=workers)
    finally:
        server.end()


def raise_flag(server: Server) -> None:
    (server.folder / "site" / "faulty").touch()


def slot(server: Server, number: int) -> dict[str, Any]:
    found: dict[str, Any] = facts(server)["workers"][number - 1]
    return found


def end_the_healthy_one(server: Server) -> None:
    """The faulty ones are those that are started after the flag; end the one before, if it still is there."""
    pid = slot(server, 2)["pid"]
    if pid:
        psutil.Process(pid).kill()


@pytest.mark.parametrize("when", FAULTS)
def test_a_worker_that_dies_is_given_up_and_the_others_serve(folder: Path, when: str) -> None:
    with faulty(folder, FAULTS[when]) as server:
        raise_flag(server)
        end_the_healthy_one(server)
        eventually(lambda: slot(server, 2)["state"] == "FATAL", "the slot to be given up", 60.0)
        assert slot(server, 1)["state"] == "RUNNING"
        assert slot(server, 2)["pid"] is None
        assert "given up: worker 2, dead 6 times in a row" in server.log
        assert "FATAL" in server.command("status").stdout
        with listeners(server, 3) as crowd:
            crowd[0].say(END)
            everybody_hears(crowd, END)
        pauses = [float(each) for each in re.findall(r"the next starts in ([\d.]+) s", server.log)]
        assert len(pauses) == 5
        assert pauses == sorted(pauses), "each pause is longer than the one before"
        assert pauses[-1] >= 4 * pauses[0]


def test_the_others_chat_while_a_worker_dies_in_a_loop(folder: Path) -> None:
    with faulty(folder, FAULTS["before it is ready"]) as server:
        raise_flag(server)
        with listeners(server, 4) as crowd:
            end_the_healthy_one(server)
            rounds = 0
            while slot(server, 2)["state"] != "FATAL":
                alive = [each for each in crowd if each.ended is None]
                rounds += 1
                alive[0].say(f"round {rounds}")
                everybody_hears([alive[0]], f"round {rounds}")
            assert rounds > 3
            assert len([each for each in crowd if each.ended is None]) == 2


def test_nobody_waits_for_a_worker_that_was_given_up_and_scaling_brings_it_back(folder: Path) -> None:
    server = Server(folder)
    flag = inject(server, FAULTS["before it is ready"]) / "faulty"
    try:
        started = server.command("start", "--port", "0", "--workers", "2", preexec_fn=_few_descriptors)
        assert started.returncode == 0, started.stderr
        raise_flag(server)
        fits = facts(server)["limits"]["connections"]
        end_the_healthy_one(server)
        with connected(server.address, fits) as crowd:  # half of them wait for the worker's return
            eventually(lambda: slot(server, 2)["state"] == "FATAL", "the slot to be given up", 60.0)
            assert facts(server)["limits"]["connections"] == fits // 2
            eventually(lambda: facts(server)["refused"] == fits // 2, "the others to be sent away")
            assert server.command("say", END).stdout == f"said to {fits // 2} clients\n"
            said = [each.receive() for each in crowd]
            assert said.count({"message": END}) == fits // 2
            assert [each["error"]["code"] for each in said if each and "error" in each] == ["full"] * (
                fits // 2
            )
        flag.unlink()
        assert scale(server, 2)["workers"] == 2
        assert [each["state"] for each in facts(server)["workers"]] == ["RUNNING", "RUNNING"]
        assert facts(server)["limits"]["connections"] == fits
    finally:
        server.end()


def _few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))


def test_when_every_worker_dies_in_a_loop_the_server_ends_and_says_so(folder: Path) -> None:
    server = Server(folder)
    inject(server, FAULTS["before it is ready"].replace("slot == 2 and ", ""))
    with in_foreground(server) as process:
        raise_flag(server)
        for each in facts(server)["workers"]:
            psutil.Process(each["pid"]).kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "mpchat: no worker is left" in errors
    assert_nothing_left(folder)


@pytest.mark.parametrize("when", ["at import", "before it is ready", "by a signal before it is ready"])
def test_a_worker_that_dies_at_start_is_exit_5_and_nothing_is_left(folder: Path, when: str) -> None:
    server = Server(folder)
    inject(server, FAULTS[when])
    raise_flag(server)
    done = server.command("start", "--port", "0", "--workers", "2")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1, done.stderr
    assert "worker 2 died 3 times before it could serve" in done.stderr
    assert server.command("status").returncode == 3
    eventually(lambda: not leftovers(folder), "nothing to be left", 2.0)
    left = {each.name for each in server.instance_folder.iterdir()}
    assert left == {"lock", "workers.lock", "server.log"}
