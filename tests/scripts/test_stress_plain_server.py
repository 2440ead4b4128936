"""The stress test of plain clients against the real server: clean as it is, each fault at a move found."""

import os
import re
import signal
import subprocess
import textwrap
import time
from contextlib import suppress

import psutil
import pytest
from support.stress import COMMAND, ROOT, broken, stress, temporary  # noqa: F401  (a fixture)

from scripts.common.processes import LOOK_S

pytestmark = pytest.mark.timeout(320)  # more than the longest run and its end

SMALL = ("--processes", "1", "--connections", "5", "--probes", "1", "--workers", "1")


@pytest.mark.usefixtures("temporary")
def test_the_real_server_keeps_its_promises_under_every_fault() -> None:
    code, verdict = stress(
        "plain",
        *("--seconds", "3", "--processes", "1", "--connections", "30", "--probes", "3", "--workers", "2"),
        *("--kill-workers", "--stall", "--stalled", "5", "--garbage", "--garbage-inputs", "200"),
        *("--disconnect-storm", "--storm-clients", "40", "--start-storm", "--starts", "2"),
    )
    assert verdict["reasons"] == [], verdict["examples"]
    assert code == 0
    assert verdict["clean"]
    faults = verdict["faults"]
    assert faults["kill_workers"]["kills"] >= 1
    assert faults["garbage"]["inputs"] == 200
    assert faults["disconnect_storm"]["left"] >= 40
    assert faults["start_storm"]["rounds"] == 1
    assert verdict["connections"]["died"] > 0
    assert verdict["counts"]["deliveries"] > 35 * 40
    assert verdict["counts"]["websockets"] > 0


STALLED = ("--stall", "--stalled", "5")


@pytest.mark.usefixtures("temporary")
def test_connections_move_again_and_again_and_nothing_is_lost() -> None:
    code, verdict = stress(
        "plain",
        *("--seconds", "3", "--processes", "1", "--connections", "30", "--rate", "100", "--probes", "3"),
        *("--workers", "2", "--reload", "--reloads", "1", "--scale", "--scalings", "1", "--scale-most", "3"),
        *("--garbage", "--garbage-inputs", "100", *STALLED),
    )
    assert verdict["reasons"] == [], verdict["examples"]
    assert code == 0
    changes = verdict["faults"]["changes"]
    assert (changes["reloads"], changes["scalings"], changes["missing"]) == (1, 1, 0)
    assert changes["moved"] >= 50
    assert verdict["faults"]["garbage"]["inputs"] == 100
    assert 0 < changes["pauses"]["p50"] <= changes["pauses"]["p99"] <= changes["pauses"]["max"]
    assert verdict["counts"]["halves"] > 50
    assert verdict["counts"]["websockets"] > 0


@pytest.mark.usefixtures("temporary")
def test_clients_over_tls_move_too_and_nothing_is_lost() -> None:
    code, verdict = stress(
        "plain",
        *("--seconds", "3", "--processes", "1", "--connections", "30", "--rate", "100", "--probes", "3"),
        *("--tls", "0.5", "--websockets", "0.5", "--workers", "2", "--disconnect-storm"),
        *("--storm-clients", "40", "--reload", "--reloads", "1", "--scale", "--scalings", "1", *STALLED),
    )
    assert verdict["reasons"] == [], verdict["examples"]
    assert code == 0
    changes = verdict["faults"]["changes"]
    assert (changes["reloads"], changes["scalings"], changes["missing"]) == (1, 1, 0)
    assert verdict["counts"]["tls"] > 5
    assert verdict["counts"]["websockets"] > 5


# One run has every fault that a move may have, each at a connection of its own. Each happens once, to a
# client that has sent half a frame; only that of clients that do not read happens to all of them. A frame has
# as many bytes as the size says, and two more. A byte of a frame that has begun is found twice: the server
# takes offence at the frame, and its sender misses it. A WebSocket would be closed for it.
AT_A_MOVE = """
    def install(worker, slot):
        from msgspec.structs import replace

        migration, export = part_of_worker("migration.Migration.export_state")

        def broken(self, connection):
            state = export(self, connection)
            parsed, number = state.dialect_state, state.place.number
            if not connection.spoke and unread(connection.sock) > 15_000:
                connection.sock.shutdown(2)
            elif len(parsed.partial) > 5 and number > 100:
                if once("a connection does not arrive"):
                    connection.sock.shutdown(2)
                elif state.dialect == "plain" and once("a byte of half a frame is lost"):
                    state = replace(state, dialect_state=replace(parsed, partial=parsed.partial[:-1]))
                elif once("a message is lost"):
                    state = replace(state, place=state.place._replace(number=number + 1))
                elif once("a message is doubled"):
                    state = replace(state, place=state.place._replace(number=number - 1))
            return state

        migration.export_state = broken

    def once(name):
        try:
            os.close(os.open(os.path.join(FOLDER, name), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def unread(sock):
        import array, fcntl, termios
        count = array.array("i", [0])
        fcntl.ioctl(sock, termios.TIOCOUTQ, count)
        return count[0]
"""
# Missing bytes never come here. The program waits for them half a minute, and a minute for the end.
IMPATIENT = """
when_imported("scripts.stress.plain.clients", lambda module: setattr(module, "ECHO_TIMEOUT", 5.0))
when_imported("scripts.stress.plain.scenario", lambda module: setattr(module, "READ_TIMEOUT", 20.0))
"""
# What the verdict must say of each fault, in a line of its own.
SAID = {
    # It may be any message: of a sender, or of a probe, which is told in other words.
    "a message is lost": r"lost: \S+ did not get (\d+:\d+|b['\"].+)$",
    "a message is doubled": r"doubled: \S+ got (\d+:\d+|b['\"].+) twice",
    "a byte of half a frame is lost": r"strange: \S+ was rejected",
    "a connection does not arrive": r"\d+ connections ended without cause",
    "a client that does not read does not arrive": r"\d+ stalled connections ended without cause",
}


@pytest.mark.usefixtures("temporary")
def test_what_goes_wrong_at_a_move_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(tmp_path_factory, monkeypatch, textwrap.dedent(AT_A_MOVE) + IMPATIENT)
    code, verdict = stress(
        "plain",
        *("--seconds", "3", "--processes", "2", "--connections", "20", "--rate", "100", "--size", "600"),
        *("--probes", "3", "--workers", "1", "--reload", "--reloads", "2", *STALLED),
    )
    assert code == 1
    assert verdict["faults"]["changes"]["wrong"] == []
    lines = [*verdict["reasons"], *verdict["examples"]]
    missed = [fault for fault, said in SAID.items() if not any(re.match(said, line) for line in lines)]
    assert not missed, lines


@pytest.mark.usefixtures("temporary")
def test_a_reload_that_fails_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = """
        def install(worker, slot):
            if not once():
                os._exit(3)

        def once():
            try:
                os.close(os.open(os.path.join(FOLDER, "a worker"), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
            return True
    """
    broken(tmp_path_factory, monkeypatch, fault)
    code, verdict = stress("plain", *SMALL, "--seconds", "1", "--reload", "--reloads", "1")
    assert code == 1
    assert any("ended before it could serve" in each for each in verdict["reasons"]), verdict["reasons"]
    assert verdict["examples"] == []


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(number: signal.Signals) -> None:
    flags = [*SMALL, "--seconds", "100"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [*COMMAND, "plain", *flags], cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True
    ) as script:
        try:
            deadline = time.monotonic() + 60
            while not has_client(script.pid):
                assert time.monotonic() < deadline, "waited 60 s for the first client process"
                time.sleep(LOOK_S)
            os.killpg(script.pid, number)
            assert script.wait(60) == 1
        finally:
            script.kill()


def has_client(pid: int) -> bool:
    """Say whether the program ``pid`` has started a client process."""
    with suppress(psutil.Error):
        return any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process(pid).children())
    return False
