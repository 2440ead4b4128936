"""mpchat.js in Node with a real server: the manual's example, workers that die, a server that is away.

A chat has either Node's own WebSocket, or that of the package ``ws``, which the manual names for older ones.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.harness import Server, kill, running
from support.javascript import node_packages, node_version
from support.manual import blocks, page
from support.members import members
from support.node_chat import command, driver_with, program
from support.programs import absent

from mpchat import connect_blocking

pytestmark = pytest.mark.one_python

# The oldest Node that the client is made for.
OLDEST = 20


@pytest.fixture(scope="module", autouse=True)
def _packages_of_this_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have npm install in a folder of this file's, and not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.bench.node.CACHE", tmp_path_factory.mktemp("npm"))
        yield


@pytest.fixture(params=["of_node", "of_ws"])
def driver(request: pytest.FixtureRequest, folder: Path) -> list[str]:
    """The command of the driver, with either class as its WebSocket, and no other class within its reach."""
    if request.param == "of_node":
        return command(folder, driver_with("const OPTIONS = {};"))
    (folder / "node_modules").symlink_to(node_packages())
    lines = "import { WebSocket } from 'ws'; const OPTIONS = { WebSocket }; delete globalThis.WebSocket;"
    return command(folder, driver_with(lines), flags=[])


def test_the_node_of_these_tests_is_one_that_the_client_is_made_for() -> None:
    major, minor = node_version()
    if major < OLDEST:
        absent(f"needs Node {OLDEST} or newer: what Node {major}.{minor} does shows nothing about it")


def test_it_is_a_member_with_all_that_members_have_and_comes_back(server: Server, driver: list[str]) -> None:
    host, port = server.address
    with (
        program(driver, server) as node,
        connect_blocking(host, port, name="bob", room="node") as bob,
    ):
        node.until(type="joined")
        assert node.call("say", "안녕")["seq"] == 1
        bob.send("hi")
        assert node.until(type="message", seq=2)["from"] == "bob"
        assert node.call("who")["names"] == ["bob", "node"]
        assert {"room": "node", "members": 2} in node.call("rooms")["rooms"]
        assert node.call("history", 2)["messages"] == ["안녕"]
        assert node.call("tell", "nobody", "x")["code"] == "no_such_name"
        assert node.call("enter", "-")["code"] == "bad_room"
        for worker in server.wait_until_running()["workers"]:
            kill(worker["pid"])
        # A connection of now: what is written to one whose worker has just died is gone.
        with connect_blocking(host, port, name="carol", room="node") as carol:
            carol.send("missed")
            carol.send("missed too, or not")
            node.until(type="message", seq=4)
        assert node.call("say", "back")["seq"] == 5
        node.call("close")
        node.finish()
        numbers = [each["seq"] for each in node.got if each["type"] == "message" and "seq" in each]
        assert numbers == [1, 2, 3, 4, 5]
        assert not any(each["type"] == "lost" for each in node.got)


def test_a_server_that_is_away_ends_no_program(folder: Path, driver: list[str]) -> None:
    history = ["--history", str(folder / "history.db")]
    with running(folder, *history, workers=1) as server:
        port = server.address[1]
        with program(driver, server) as node:
            assert node.call("say", "before")["seq"] == 1
            server.stop()
            # Attempts that no server answers: each of them is an error of the socket.
            for _ in range(3):
                node.until(type="waiting")
            assert node.call("say", "meanwhile")["code"] == "offline"
            server.start(*history, workers=1, port=port)
            assert node.until(type="welcome")["again"]
            seq = node.call("say", "after")["seq"]
            node.call("close")
            node.finish()
        messages = [each for each in node.got if each["type"] == "message"]
        assert [each["seq"] for each in messages] == list(range(1, seq + 1))
        assert [each["text"] for each in messages if each.get("mine")] == ["before", "after"]


def test_a_kick_ends_the_chat(server: Server, driver: list[str]) -> None:
    with program(driver, server) as node:
        assert server.command("kick", "node").returncode == 0
        assert not node.until(type="disconnected")["retrying"]
        # The program ends with its loop over the events.
        node.finish()
    told = [(each["type"], each["retrying"]) for each in node.got if "retrying" in each]
    assert told == [("rejected", False), ("disconnected", False)]


def test_the_example_of_the_manual(server: Server, folder: Path) -> None:
    host, port = server.address
    example = command(folder, blocks(page("clients"), "javascript")[1])
    with (
        members(server.address, "bob") as [bob],
        subprocess.Popen(
            [*example, host, str(port), "node"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process,
    ):
        assert bob.hear_from_room("hello")["from"] == "node"
        bob.ask(message="bye")
        assert bob.until("left")["names"] == ["node"]
        assert process.stdout is not None
        assert process.stdout.read() == "node: hello\nbob: bye\n"
        assert process.wait(timeout=20) == 0
