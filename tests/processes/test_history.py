"""History in a file: what somebody missed is there after a restart, and what is not is said."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.changing import configured, reload, write_settings
from support.harness import Server, running
from support.injected import steppable_clock
from support.members import Member, members
from support.waiting import eventually

pytestmark = pytest.mark.one_python

ALL_SAVED = "everything to be in the file"


def test_a_restart_goes_on_with_numbers_epoch_and_messages(folder: Path) -> None:
    history = str(folder / "대화.db")
    with running(folder, "--history", history, workers=1) as server:
        with members(server.address, "alice", "밥") as (alice, bob), Member(server.address) as third:
            third.join("carol", room="게임")
            for number in range(10):
                alice.ask(message=f"{number} 안녕")
                third.ask(message=f"game {number}")
            bob.hear_from_room("9 안녕")
            third.hear_from_room("game 9")
            epoch = bob.welcome["epoch"]
        assert server.status()["history"]["state"] == "ok"
    with running(folder, "--history", history, workers=1) as server, Member(server.address) as back:
        welcome = back.join("밥", after=4, epoch=epoch)
        assert (welcome["epoch"], welcome["recovered"], welcome["lost"]) == (epoch, True, None)
        back.sync()
        # The last one may be the farewell of the server before, which is from nobody.
        heard = [(each["seq"], each["message"], each.get("from")) for each in back.numbered]
        assert heard[:6] == [(seq, f"{seq - 1} 안녕", "alice") for seq in range(5, 11)]
        assert [seq for seq, _, _ in heard] == list(range(5, welcome["seq"] + 1))
        back.join(room="게임", after=0, epoch=epoch)
        back.sync()
        assert [each["message"] for each in back.numbered if each["room"] == "게임"][:10] == [
            f"game {number}" for number in range(10)
        ]
        back.ask(message="and on")
        assert back.hear_from_room("and on")["seq"] > 10


def test_how_much_is_kept_follows_a_reload_also_in_the_file(folder: Path) -> None:
    settings: dict[str, Any] = {"port": 0, "workers": 1, "history": str(folder / "대화.db")}
    with configured(folder, **settings, history_messages=10) as server:
        with members(server.address, "alice", "밥") as (alice, bob):
            write_settings(server, **settings, history_messages=100)
            assert reload(server)["changed"] == ["history_messages"]
            for number in range(50):
                alice.ask(message=f"{number} 안녕")
            bob.hear_from_room("49 안녕")
            epoch = bob.welcome["epoch"]
        assert server.stop().returncode == 0
        server.start_as_configured()
        with Member(server.address) as back:
            # Without the epoch it would get no more than the last 50, and the farewell may be one of these.
            back.join("밥", after=0, epoch=epoch)
            back.sync()
            texts = [each["message"] for each in back.numbered]
            assert texts[:50] == [f"{number} 안녕" for number in range(50)]


def test_after_a_crash_of_everything_numbers_are_not_given_twice(folder: Path) -> None:
    history = str(folder / "history.db")
    server = Server(folder)
    server.start("--history", history, workers=1)
    try:
        with members(server.address, "alice") as (alice,):
            for number in range(20):
                alice.ask(message=f"{number}")
            alice.hear_from_room("19")
            epoch = alice.welcome["epoch"]
            eventually(lambda: server.status()["history"]["saved"] == 20, ALL_SAVED)
        processes = server.processes()
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(processes, timeout=10)
        server.start("--history", history, workers=1)
        with Member(server.address) as back:
            welcome = back.join("alice", after=15, epoch=epoch)
            assert welcome["epoch"] != epoch
            assert (welcome["recovered"], welcome["lost"]) == (True, None)
            back.ask(message="next")
            assert back.hear_from_room("next")["seq"] == 21
            assert [each["seq"] for each in back.numbered] == list(range(16, 22))
            # Somebody who has seen what did not get into the file is told so.
            welcome = back.join(room="lobby", after=25, epoch=epoch)
            assert (welcome["recovered"], welcome["lost"]) == (False, [21, None])
    finally:
        server.end()


def test_two_servers_do_not_share_a_file(folder: Path) -> None:
    history = str(folder / "history.db")
    with running(folder, "--history", history, workers=1) as server:
        other = Server(folder, "other")
        done = other.command("start", "--port", "0", "--history", history)
        assert done.returncode == 5
        assert f"pid {server.pid}" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_broken_file_is_left_alone_and_the_server_serves(folder: Path) -> None:
    history = folder / "history.db"
    history.write_bytes(b"this is no database " * 1000)
    with (
        running(folder, "--history", str(history), workers=1) as server,
        members(server.address, "a", "b") as (a, b),
    ):
        a.ask(message="still here")
        assert b.hear_from_room("still here")["seq"] == 1
        assert server.status()["history"]["state"].startswith("failing: ")
        assert "history not written" in server.log
        assert "failing" in server.command("status").stdout
    assert history.read_bytes() == b"this is no database " * 1000


@pytest.mark.parametrize("step", [86_400, -86_400])
def test_a_step_of_the_clock_takes_no_history_and_ends_no_ban(folder: Path, step: int) -> None:
    server = Server(folder)
    ahead = steppable_clock(server)
    history = str(folder / "대화.db")
    try:
        server.start("--history", history, "--history-age", "1h", workers=1)
        with members(server.address, "alice", "밥") as (alice, bob):
            alice.ask(message="먼저")
            bob.hear_from_room("먼저")
            assert server.command("ban", "철수", "--for", "1h").returncode == 0
            eventually(lambda: server.status()["history"]["saved"] >= 1, ALL_SAVED)
            ahead.write_text(str(step))
            eventually(lambda: "the clock was stepped by" in server.log, "the step to be noticed", 10.0)
            alice.ask(message="나중")
            bob.hear_from_room("나중")
            with Member(server.address) as late, Member(server.address) as banned:
                late.join("영희", after=0)
                late.sync()
                assert [each["message"] for each in late.numbered] == ["먼저", "나중"]
                assert banned.refused(join={"name": "철수"}) == "banned"
            assert 0 <= server.status()["uptime"] < 60
    finally:
        server.end()
    with closing(sqlite3.connect(history)) as db:
        assert db.execute("SELECT min(seq) FROM runs").fetchone() == (1,)
