"""The webhook of a real server: what the receiver is told, and that it cannot harm the chat."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.changing import change, configured, reload, write_settings
from support.harness import Client, Server, free_port
from support.hook_receiver import HookReceiver, hang, hook_receiver
from support.members import Member, members
from support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.one_python

SECRET = "열려라 참깨"
# Seconds that a stop takes at most whose receiver hangs: those that the webhook gets, and a noisy machine's.
STOPPED = 12.0


@pytest.fixture
def receiver() -> Iterator[HookReceiver]:
    with hook_receiver() as found:
        yield found


def settings(receiver: HookReceiver, folder: Path, **more: Any) -> dict[str, Any]:
    secret = folder / "secret.txt"
    secret.touch(0o600)
    secret.write_text(f"{SECRET}\n")
    return {"port": 0, "workers": 1, "hook": receiver.url, "hook_secret": str(secret), **more}


def brief(events: list[dict[str, Any]], room: str) -> list[tuple[Any, ...]]:
    """What happened in a room, in order, in short."""
    return [
        (each["event"], each.get("name", each.get("from")), each.get("message", each.get("reason", "")))
        for each in events
        if each.get("room") == room
    ]


def test_the_receiver_is_told_what_happens_in_order_and_nothing_private(
    folder: Path, receiver: HookReceiver
) -> None:
    with configured(folder, **settings(receiver, folder)) as server:
        with Client(server.address) as plain:
            plain.say("hello")
            plain.hear()
            with members(server.address, "alice", "밥", room="게임") as (alice, bob):
                alice.ask(message="안녕")
                alice.ask(message="for you alone", to="밥")
                bob.hear_from_room("for you alone")
                bob.ask(message="응")
                numbered = alice.hear_from_room("응")
                receiver.wait_for_event(message="응")
                bob.join(room="lobby")
                receiver.wait_for_event(event="joined", name="밥", room="lobby")
            receiver.wait_for_event(event="left", name="alice", room="게임")
            assert server.command("say", "공지").returncode == 0
            address = plain.address
        assert brief(receiver.events, "게임") == [
            ("joined", "alice", ""),
            ("joined", "밥", ""),
            ("said", "alice", "안녕"),
            ("said", "밥", "응"),
            ("left", "밥", "moved"),
            ("left", "alice", "closed"),
        ]
        assert brief(receiver.events, "lobby")[:2] == [("said", address, "hello"), ("joined", "밥", "")]
        event = receiver.wait_for_event(message="응")
        on_the_wire = {key: value for key, value in event.items() if key not in ("event", "number")}
        assert on_the_wire == numbered
        assert [each["number"] for each in receiver.events] == list(range(1, len(receiver.events) + 1))
        assert not any("for you alone" in each.body.decode() for each in receiver.requests)
        eventually(lambda: server.status()["hook"]["waiting"] == 0, "all to be sent")
        status = server.status()["hook"]
        assert (status["url"], status["state"], status["dropped"]) == (receiver.url, "ok", 0)
        assert status["sent"] == len(receiver.events)
        assert f"hook ok: {status['sent']} events sent to {receiver.url}" in " ".join(
            server.command("status").stdout.split()
        )
        assert server.stop().returncode == 0
    assert "not delivered" not in server.log


def test_a_reload_changes_receiver_rooms_and_secret_and_switches_it_off_and_on(
    folder: Path, receiver: HookReceiver
) -> None:
    plain: dict[str, Any] = {"port": 0, "workers": 1}
    with configured(folder, **plain) as server, Member(server.address) as alice:
        assert server.status()["hook"] is None
        assert "hook" not in server.command("status").stdout
        alice.join("alice", room="게임")
        write_settings(server, **settings(receiver, folder))
        assert reload(server)["changed"] == ["hook", "hook_secret"]
        alice.ask(message="first")
        first = receiver.wait_for_event(message="first")
        assert first["number"] == 1
        with hook_receiver() as other:
            write_settings(server, **settings(other, folder, hook_rooms=["방*"]))
            reload(server)
            alice.ask(message="not heard")
            alice.join(room="방-1")
            other.wait_for_event(event="joined", name="alice", room="방-1")
            assert [each["number"] for each in other.events] == [2]
            wrong = settings(other, folder, hook_secret=str(folder / "missing"))
            write_settings(server, **wrong)
            answer = change(server, "reload")
            assert answer.exit == 5
            assert "hook_secret" in str(answer)
            alice.ask(message="still heard")
            other.wait_for_event(message="still heard")
            write_settings(server, **plain)
            reload(server)
            assert server.status()["hook"] is None
            alice.ask(message="off")
            alice.hear_from_room("off")
            before = len(other.requests)
            write_settings(server, **settings(other, folder))
            reload(server)
            alice.ask(message="on")
            assert other.wait_for_event(message="on")["number"] == 1, "a new series"
            assert len(other.requests) == before + 1


@contextmanager
def receiver_process(port: int, path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A receiver that can be killed."""
    command = [sys.executable, "-m", "support.hook_receiver", str(port), str(path)]
    tests = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def accepted(path: Path) -> list[dict[str, Any]]:
    """The batches that a receiver has written down, repeats left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    batches = {(each["instance"], each["first"]): each for each in map(json.loads, lines)}
    return list(batches.values())


def said_in(batches: list[dict[str, Any]]) -> list[str]:
    return [each["message"] for batch in batches for each in batch["events"] if each["event"] == "said"]


def test_a_receiver_that_is_killed_and_comes_back_misses_nothing(folder: Path) -> None:
    port, path = free_port(), folder / "got.jsonl"
    target = {"hook": f"http://127.0.0.1:{port}/"}
    with configured(folder, workers=1, **target) as server, Member(server.address) as alice:
        alice.join("alice")
        texts = [f"{number} 안녕" for number in range(3000)]
        with receiver_process(port, path) as process:
            for text in texts[:2000]:
                alice.ask(message=text)
            eventually(lambda: said_in(accepted(path)), "the first batch")
            process.kill()
            process.wait()
        for text in texts[2000:]:
            alice.ask(message=text)
        alice.hear_from_room(texts[-1])
        eventually(lambda: server.status()["hook"]["state"] != "ok", "the hook to fail")
        shown = " ".join(server.command("status").stdout.split())
        assert "hook failing: " in shown
        assert "waiting" in shown
        with receiver_process(port, path):
            eventually(lambda: said_in(accepted(path))[-1:] == texts[-1:], "all of it", pause=0.1)
            eventually(lambda: server.status()["hook"]["state"] == "ok", "the hook to work")
            status = server.status()["hook"]
        batches = accepted(path)
        assert said_in(batches) == texts
        assert (status["waiting"], status["dropped"]) == (0, 0)
        ends = [(each["first"], each["last"]) for each in batches]
        assert all(first == last + 1 for (_, last), (first, _) in pairwise(ends))


def test_a_receiver_that_hangs_delays_no_chat_and_no_stop_and_what_is_dropped_is_told(
    folder: Path, receiver: HookReceiver
) -> None:
    receiver.answers.extend([hang] * 1000)
    limits = settings(receiver, folder, hook_queue="64k", farewell="")
    with configured(folder, **limits) as server:
        with members(server.address, "alice", "밥") as (alice, bob):
            receiver.wait_for(1)
            for number in range(3000):
                alice.ask(message=f"{number}")
            bob.hear_from_room("2999")
            assert len(receiver.requests) == 1, "all have heard this while the receiver hung"
            assert server.status()["hook"]["dropped"] > 1000
            with hook_receiver() as other:
                write_settings(server, **{**limits, "hook": other.url})
                reload(server)
                receiver.close()
                other.wait_for_event(message="2999")
                numbers: list[int] = []
                for each in other.events:
                    numbers += range(each["number"], each.get("last", each["number"]) + 1)
                dropped = [each for each in other.events if each["event"] == "dropped"]
                assert numbers == list(range(1, numbers[-1] + 1))
                assert sum(each["count"] for each in dropped) == server.status()["hook"]["dropped"]
                other.answers.extend([hang] * 1000)
                alice.ask(message="the end")
                eventually(lambda: len(other.answers) < 1000, "the receiver to hang")
                begun = time.monotonic()
                assert server.stop().returncode == 0
                assert time.monotonic() - begun < STOPPED
        assert "not delivered, " in server.log
        assert "dropped, " in server.log


def test_a_webhook_that_cannot_be_is_one_line_and_nothing_is_started(folder: Path) -> None:
    server = Server(folder)
    for flags, exit_code, said in (
        (("--hook", "ftp://me:비밀@a/"), 2, "hook is a value that is not shown"),
        (("--hook", "http://a/", "--cluster", "redis://a"), 2, "leave hook out"),
        (("--hook", "http://a/", "--hook-secret", "env:NOT_THERE"), 5, "hook_secret: "),
    ):
        done = server.command("start", "--port", "0", *flags)
        assert (done.returncode, done.stderr.count("\n")) == (exit_code, 1), done.stderr
        assert said in done.stderr
        assert "비밀" not in done.stderr


def test_the_example_of_the_manual_checks_the_signature(folder: Path) -> None:
    from support.manual import blocks, page

    source = blocks(page("hook"), "python")[0]
    port = free_port()
    (folder / "receiver.py").write_text(source)
    command = [sys.executable, "-u", "-W", "error", str(folder / "receiver.py"), str(port)]
    environment = {"HOOK_SECRET": SECRET, "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            with hook_receiver() as other:
                target = settings(other, folder, hook=f"http://127.0.0.1:{port}/")
                with configured(folder, **target) as server, Member(server.address) as alice:
                    alice.join("alice", room="게임")
                    alice.ask(message="안녕")
                    eventually(lambda: server.status()["hook"]["sent"] == 2, "both to be accepted", PATIENCE)
                    (folder / "secret.txt").write_text("another")
                    reload(server)
                    alice.ask(message="forged")
                    eventually(lambda: server.status()["hook"]["dropped"] == 1, "it to be refused", PATIENCE)
                    assert "401" in server.status()["hook"]["state"]
        finally:
            process.kill()
        assert process.stdout is not None
        printed = process.stdout.read()
    assert "joined" in printed
    assert "안녕" in printed
    assert "forged" not in printed
