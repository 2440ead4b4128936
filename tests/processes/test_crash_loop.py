"""A worker that dies again and again: tried less and less often, told, never given up; the others serve."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.changing import scale
from support.crowd import connected, everybody_hears, facts, last_for, listeners
from support.harness import Client, Server, leftovers
from support.injected import inject
from support.waiting import eventually

from mpchat.supervisor.restart_policy import DEATHS_TO_FAILING

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


def failing(server: Server, number: int) -> bool:
    """Tell whether the slot waits for its next worker after many that died."""
    found = slot(server, number)
    return bool(found["deaths"] >= DEATHS_TO_FAILING and found["state"] == "BACKOFF")


# That the server notes how each of them died, the test of the start shows.
@pytest.mark.parametrize("when", ["by a signal before it is ready", "a moment after it was ready"])
def test_a_worker_that_dies_is_tried_again_for_ever_and_the_others_serve(folder: Path, when: str) -> None:
    with faulty(folder, FAULTS[when]) as server:
        raise_flag(server)
        end_the_healthy_one(server)
        eventually(lambda: failing(server, 2), "the slot to fail again and again", 60.0, pause=0.05)
        found = slot(server, 2)
        assert slot(server, 1)["state"] == "RUNNING"
        assert (found["pid"], found["restart_in"] > 0) == (None, True)
        said = "dead 6 times in a row, tried again for ever, at most 60 s apart: worker 2"
        eventually(lambda: said in server.log, "the log to tell of it")
        shown = " ".join(server.command("status").stdout.split())
        assert "worker 2 waits: the next one starts in" in shown
        assert found["died"] in shown
        with listeners(server, 3) as crowd:
            crowd[0].say(END)
            everybody_hears(crowd, END)
        pauses = [float(each) for each in re.findall(r"the next starts in ([\d.]+) s", server.log)]
        assert len(pauses) >= 5, "further ones within ten seconds are counted, not logged"
        assert pauses == sorted(pauses), "each pause is longer than the one before"
        assert pauses[-1] >= 4 * pauses[0]
        (server.folder / "site" / "faulty").unlink()
        eventually(lambda: slot(server, 2)["state"] == "RUNNING", "the slot to serve again", 20.0)
        assert slot(server, 2)["restart_in"] is None


def test_the_others_chat_while_a_worker_dies_in_a_loop(folder: Path) -> None:
    with faulty(folder, FAULTS["before it is ready"]) as server:
        raise_flag(server)
        with listeners(server, 4) as crowd:
            end_the_healthy_one(server)
            rounds = 0
            while not failing(server, 2):
                alive = [each for each in crowd if each.ended is None]
                rounds += 1
                alive[0].say(f"round {rounds}")
                everybody_hears([alive[0]], f"round {rounds}")
                last_for(0.05)
            assert rounds > 3
            assert len([each for each in crowd if each.ended is None]) == 2


def test_nobody_waits_for_a_worker_that_keeps_dying_and_scaling_tries_it_at_once(folder: Path) -> None:
    server = Server(folder)
    flag = inject(server, FAULTS["before it is ready"]) / "faulty"
    try:
        started = server.command("start", "--port", "0", "--workers", "2", preexec_fn=_few_descriptors)
        assert started.returncode == 0, started.stderr
        raise_flag(server)
        fits = facts(server)["limits"]["connections"]
        end_the_healthy_one(server)
        with connected(server.address, fits) as crowd:  # half of them wait for the worker's return
            eventually(lambda: failing(server, 2), "the slot to fail again and again", 60.0, pause=0.05)
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


def test_when_every_worker_dies_in_a_loop_the_server_waits_and_says_so_and_serves_again(folder: Path) -> None:
    with faulty(folder, FAULTS["before it is ready"].replace("slot == 2 and ", "")) as server:
        address = server.address
        raise_flag(server)
        for each in facts(server)["workers"]:
            psutil.Process(each["pid"]).kill()
        eventually(lambda: failing(server, 1) and failing(server, 2), "both slots to fail", 60.0, pause=0.05)
        with Client(address) as early:
            error = (early.receive() or {})["error"]
            assert (error["code"], "no worker can be kept alive" in error["text"]) == ("full", True)
        assert "Traceback" not in server.log
        (server.folder / "site" / "faulty").unlink()
        server.wait_until_running()
        with listeners(server, 3) as crowd:
            crowd[0].say(END)
            everybody_hears(crowd, END)


def test_a_worker_whose_interpreter_is_gone_is_told_with_its_path_and_comes_back_with_it(
    folder: Path,
) -> None:
    """The virtual environment was removed while the server runs, and is there again later."""
    server = Server(folder)
    python = folder / "환경" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    server.environment["PYTHONPATH"] = os.pathsep.join(each for each in sys.path if each)
    command = [str(python), "-m", "mpchat", "start", "--port", "0", "--workers", "1"]
    try:
        subprocess.run(command, env=server.environment, cwd=folder, check=True, timeout=60.0)
        python.unlink()
        missing = f"exit code 255: {python} is missing; restore it, or stop the server and start it anew"
        done = server.command("reload")
        assert (done.returncode, missing in done.stderr) == (5, True), done.stderr
        psutil.Process(server.worker_pids[0]).kill()
        eventually(lambda: facts(server)["workers"][0]["died"] == missing, "the path to be told")
        eventually(lambda: f"died: worker 1, {missing}" in server.log, "the log to tell of it")
        python.symlink_to(sys.executable)
        server.wait_until_running()
        assert server.command("reload").returncode == 0
    finally:
        server.end()


@pytest.mark.parametrize("when", ["at import", "by a signal before it is ready"])
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
