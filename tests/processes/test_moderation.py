"""Kick, ban, mute: by name and by address, told to whom it concerns, and kept over restarts."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from support.harness import MPCHAT, Client, Server, clients, frame, kill, running, stopped
from support.members import Member, members
from support.waiting import PATIENCE, eventually
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from mpchat.control.client import ask
from mpchat.control.requests import Ban

pytestmark = pytest.mark.one_python


def ok(server: Server, *words: str) -> str:
    done = server.command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(client: Client) -> bool:
    """Read to the end of the stream."""
    while client.receive() is not None:
        pass
    return True


def test_a_person_is_kicked_by_name_and_comes_back(shared: Server) -> None:
    with members(shared.address, "앨리스", "bob") as (alice, bob):
        assert ok(shared, "kick", "앨리스") == "1 connection ended\n"
        assert ended(alice)
        assert bob.until("left")["reason"] == "kicked"
        with Member(shared.address) as back:
            assert back.join("앨리스", token=alice.welcome["token"])["name"] == "앨리스"
        done = shared.command("kick", "nobody")
        assert done.returncode == 1
        assert "no member is called nobody and no client is connected from there" in done.stderr


def test_a_kicked_member_in_a_terminal_is_told_and_the_program_ends(shared: Server) -> None:
    host, port = shared.address
    command = [*MPCHAT, "chat", "--plain", "--name", "carol", host, str(port)]
    with (
        members(shared.address, "bob") as (bob,),
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, encoding="utf-8") as chat,
    ):
        try:
            assert bob.until("joined")["names"] == ["carol"]
            assert ok(shared, "kick", "carol") == "1 connection ended\n"
            # Its input goes on: the kick alone ends the program.
            assert chat.wait(PATIENCE) == 1
            assert chat.stderr is not None
            lines = chat.stderr.read().splitlines()
        finally:
            chat.kill()
    assert "mpchat: the operator has ended your connection (kicked)" in lines
    assert f"mpchat: connection to {host}:{port} lost" in lines


def test_a_banned_name_is_ended_and_let_in_no_more_also_after_a_restart(folder: Path) -> None:
    with running(folder, workers=1) as server:
        with members(server.address, "Troll", "bob") as (troll, _):
            assert ok(server, "ban", "TROLL") == "TROLL is banned for good; 1 connection ended\n"
            assert ended(troll)
        with Member(server.address) as again:
            assert again.refused(join={"name": "troll", "token": troll.welcome["token"]}) == "banned"
        assert "banned, for good" in ok(server, "bans")
    with running(folder, workers=1) as server, Member(server.address) as again:
        assert again.refused(join={"name": "troll"}) == "banned"
        ok(server, "unban", "troll")
        assert again.join("troll")["name"] == "troll"
        assert ok(server, "bans") == "nobody is banned or muted\n"
        done = server.command("unban", "troll")
        assert (done.returncode, done.stderr) == (1, "mpchat: troll is not banned\n")


def test_a_banned_address_gets_nowhere_and_others_do(shared: Server) -> None:
    with clients(shared, 1) as (plain,), Client(shared.address, source="127.0.0.9") as other:
        other.say("here")
        plain.hear_until("here")
        assert ok(shared, "ban", "127.0.0.9:1", "--for", "1h").startswith("127.0.0.9 is banned for 3600 s; ")
        assert ended(other)
        with Client(shared.address, source="127.0.0.9") as again:
            answer = again.receive()
            assert answer is not None
            assert answer["error"]["code"] == "banned"
            assert ended(again)
        plain.say("still here")
        plain.hear_until("still here")
    ok(shared, "unban", "127.0.0.9")


def from_banned_address(server: Server) -> ClientConnection:
    host, port = server.address
    return connect(
        f"ws://{host}:{port}/ws",
        source_address=("127.0.0.9", 0),
        compression=None,
        proxy=None,
        open_timeout=20,
    )


def closing(web: ClientConnection) -> tuple[int, str]:
    """Return the code and the reason of the close frame, which is the next that comes."""
    with pytest.raises(ConnectionClosed) as closed:
        web.recv(20)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_a_banned_address_ends_its_websockets_with_a_code_that_says_not_to_come_again(shared: Server) -> None:
    with from_banned_address(shared) as web:
        web.send('{"message":"here"}')
        assert web.recv(20) == '{"message":"here"}'
        assert ok(shared, "ban", "127.0.0.9") == "127.0.0.9 is banned for good; 1 connection ended\n"
        assert closing(web) == (1008, "kicked")
    with from_banned_address(shared) as again:
        assert json.loads(again.recv(20))["error"]["code"] == "banned"
        assert closing(again)[0] == 1008
    ok(shared, "unban", "127.0.0.9")
    with from_banned_address(shared) as back:
        back.send('{"message":"back"}')
        assert back.recv(20) == '{"message":"back"}'


def test_a_banned_network_gets_nowhere_with_any_of_its_addresses(shared: Server) -> None:
    with (
        clients(shared, 1) as (plain,),
        Client(shared.address, source="127.0.0.9") as one,
        Client(shared.address, source="127.0.0.14") as two,
    ):
        shared.wait_for_connections(3)
        assert ok(shared, "ban", "127.0.0.8/29") == "127.0.0.8/29 is banned for good; 2 connections ended\n"
        assert ended(one)
        assert ended(two)
        with Client(shared.address, source="127.0.0.10") as other:
            assert (other.receive() or {})["error"]["code"] == "banned"
        assert ok(shared, "unban", "127.0.0.8/29")
        with Client(shared.address, source="127.0.0.10") as other:
            other.say("in again")
            plain.hear_until("in again")


def test_a_ban_that_cannot_be_written_closes_the_connections_all_the_same(folder: Path) -> None:
    with running(folder, workers=1) as server, Client(server.address, source="127.0.0.9") as bad:
        server.wait_for_connections(1)
        (server.instance_folder / "bans.json.new").mkdir()  # no file can be written there
        done = server.command("ban", "127.0.0.9")
        assert (done.returncode, done.stdout) == (1, "")
        assert "it holds until the server stops, but could not be written" in done.stderr
        assert ended(bad)


def test_nobody_is_called_what_a_banned_address_is(shared: Server) -> None:
    """Else the ban would end the connection of who has that name, and leave those of the address."""
    with Client(shared.address, source="127.0.0.9") as bad, Member(shared.address) as decoy:
        for name in ("127.0.0.9", "１２７.0.0.9"):
            assert decoy.refused(join={"name": name}) == "bad_name"
        assert ok(shared, "ban", "127.0.0.9").endswith("1 connection ended\n")
        assert ended(bad)
    ok(shared, "unban", "127.0.0.9")


@pytest.mark.parametrize("answered", [False, True], ids=["read at once", "read after the answer"])
def test_a_ban_ends_who_is_on_the_way_to_a_worker(folder: Path, *, answered: bool) -> None:
    """A worker that reads the hub's channel first is asked before it has the connection."""
    with running(folder, workers=1) as server, Client(server.address) as other:
        server.wait_for_connections(1)
        with stopped(*server.worker_pids):
            ok(server, "say", "what is read first")
            with Client(server.address, source="127.0.0.9") as bad:
                eventually(lambda: server.status()["connections"] == 2, "the client on its way")
                told: list[str] = []
                banning = threading.Thread(
                    target=lambda: told.append(server.command("ban", "127.0.0.9").stdout)
                )
                banning.start()
                eventually(lambda: "banned: 127.0.0.9" in server.log, "the ban")
                if answered:  # without this worker: it is silent
                    banning.join()
                os.kill(server.worker_pids[0], signal.SIGCONT)
                assert ended(bad)
                banning.join()
                assert answered or told[0].endswith("1 connection ended\n")
        other.hear_until("what is read first")


def test_who_waits_for_a_worker_is_banned_too(folder: Path) -> None:
    with running(folder, workers=1) as server:
        address, worker = server.address, server.worker_pids[0]
        kill(worker)
        eventually(lambda: worker not in server.worker_pids, "its death to be known")
        with Client(address, source="127.0.0.9") as bad:
            eventually(lambda: server.status()["connections"], "the client to come in")
            ask(server.instance_folder / "control.sock", Ban("127.0.0.9"), timeout=30.0)
            server.wait_until_running()
            bad.say("let in after all?")
            assert (bad.receive() or {})["error"]["code"] == "banned"


def test_who_was_sent_to_a_worker_that_dies_is_banned_too(folder: Path) -> None:
    with running(folder, workers=1) as server:
        address, worker = server.address, server.worker_pids[0]
        with stopped(worker), Client(address, source="127.0.0.9") as bad:
            eventually(lambda: server.status()["connections"], "the client to be sent to the worker")
            arguments = (server.instance_folder / "control.sock", Ban("127.0.0.9"), 30.0)
            ban = threading.Thread(target=ask, args=arguments)
            ban.start()
            eventually(lambda: "banned: 127.0.0.9" in server.log, "the ban to hold")
            kill(worker)
            ban.join()
            server.wait_until_running()
            bad.say("let in after all?")
            assert (bad.receive() or {})["error"]["code"] == "banned"


def test_a_ban_ends_by_itself(shared: Server) -> None:
    ok(shared, "ban", "alice", "--for", "1s")
    with Member(shared.address) as alice:

        def let_in() -> bool:
            alice.ask(join={"name": "alice"})
            while not {"error", "welcome"} & set(received := alice.take()):
                pass
            return "welcome" in received

        eventually(let_in, "the ban to end", 10.0)
    assert ok(shared, "bans") == "nobody is banned or muted\n"


def test_nobody_hears_a_muted_person_who_is_told(shared: Server) -> None:
    with clients(shared, 1) as (plain,), members(shared.address, "mary", "bud") as (mary, bud):
        mary.ask(message="before")
        first = bud.hear_from_room("before")["seq"]
        assert ok(shared, "mute", "Mary") == "Mary is muted for good\n"
        assert mary.refused(message="in the room") == "muted"
        assert mary.refused(message="alone", to="bud") == "muted"
        assert ok(shared, "unmute", "mary") == "mary is not muted any more\n"
        mary.ask(message="after")
        assert bud.hear_from_room("after")["seq"] == first + 1
        assert not [each for each in bud.got if each.get("message") in ("in the room", "alone")]
        assert plain.hear_until("mary: after") == ["mary: before", "mary: after"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("ban", "a b"), 1, "neither an address nor a name"),
        (("mute", "x" * 21), 1, "is no name: "),
        (("mute", "127.0.0.1"), 1, "is no name: a name cannot be an IP address"),
        (("ban", "a", "--for", "soon"), 2, "not a duration"),
        (("unmute", "a"), 1, "a is not muted"),
    ],
)
def test_what_is_wrong_is_said(shared: Server, words: tuple[str, ...], code: int, says: str) -> None:
    done = shared.command(*words)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_a_broken_file_of_bans_stops_the_start(folder: Path) -> None:
    (folder / "bans.json").write_text("{")
    server = Server(folder)
    done = server.command("start", "--port", "0", "--bans", "bans.json")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "cannot read the bans" in done.stderr


def test_a_client_that_floods_is_read_more_slowly_and_loses_nothing(folder: Path) -> None:
    flags = ("--flood-burst", "50", "--flood-rate", "100")
    with (
        running(folder, *flags, workers=1) as server,
        members(server.address, "loud", "calm") as (loud, calm),
    ):
        begun = time.monotonic()
        for number in range(250):
            loud.ask(message=f"{number}")
        # However many of them a read has taken: what comes after the last is read when they are paid for.
        calm.hear_from_room("249")
        loud.ask(message="the end")
        calm.hear_from_room("the end")
        assert time.monotonic() - begun >= (250 - 50) / 100
        said = [each["message"] for each in calm.numbered if each["from"] == "loud"]
        assert said == [*(f"{number}" for number in range(250)), "the end"]


def test_others_are_read_while_one_that_floods_is_not(folder: Path) -> None:
    flags = ("--flood-burst", "1", "--flood-rate", "1")
    with running(folder, *flags, workers=1) as server, Member(server.address) as loud:
        loud.join("loud")
        loud.send_raw(
            b"".join(frame(f"{number}") for number in range(600))
        )  # ten minutes' worth, in one read
        loud.hear_from_room("0")
        with Member(server.address) as calm:
            calm.join("calm")
            calm.sync()
            calm.ask(message="in between")
            calm.hear_from_room("in between")
            assert "599" not in [each.get("message") for each in calm.got]


def test_a_file_of_bans_that_others_may_write_stops_the_start_and_is_not_followed(folder: Path) -> None:
    bans = folder / "금지.json"
    bans.write_text('{"bans": {}, "mutes": {}}')
    bans.chmod(0o666)
    server = Server(folder)
    done = server.command("start", "--port", "0", "--bans", str(bans))
    server.end()
    assert done.returncode == 5
    assert done.stderr == f"mpchat: bans: others may write {bans}; close it with: chmod go-w {bans}\n"
    bans.chmod(0o644)
    with running(folder, "--bans", str(bans), workers=1) as server:
        ok(server, "ban", "철수")
        folder.chmod(0o777)
        bans.write_text('{"bans": {}, "mutes": {}}')
        why = f"others may write the folder {folder}; close it with: chmod go-w {folder}"
        eventually(lambda: why in server.log, "the log to say why", 10.0)
        assert "철수" in ok(server, "bans")
        folder.chmod(0o700)
        eventually(lambda: "철수" not in ok(server, "bans"), "the file to be followed again", 10.0)


def test_two_servers_share_a_file_of_bans_and_it_comes_back_when_it_is_removed(folder: Path) -> None:
    bans = str(folder / "금지.json")
    with (
        running(folder, "--bans", bans, workers=1) as one,
        running(folder, "--bans", bans, workers=1, name="second") as two,
        Client(two.address, source="127.0.0.9") as bad,
    ):
        two.wait_for_connections(1)
        assert one.command("ban", "127.0.0.9").returncode == 0
        assert ended(bad), "the other server closes the connections too"
        assert two.command("ban", "철수").returncode == 0
        eventually(lambda: "철수" in one.command("bans").stdout, "the ban to be known to both", 10.0)
        Path(bans).unlink()
        eventually(lambda: Path(bans).exists(), "the file to be written again", 10.0)
        assert sorted(json.loads(Path(bans).read_bytes())["bans"]) == ["127.0.0.9", "철수"]
        assert two.command("unban", "127.0.0.9").returncode == 0
        assert one.command("unban", "철수").returncode == 0
        assert one.command("bans").stdout == "nobody is banned or muted\n"
