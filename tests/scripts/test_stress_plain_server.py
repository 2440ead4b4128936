"""The stress test of plain clients against the real server: clean as it is, each fault at a move found."""

import os
import signal
import subprocess
import textwrap
import time
from contextlib import suppress

import psutil
import pytest
from support.stress import COMMAND, ROOT, broken, stress, temporary  # noqa: F401  (a fixture)

pytestmark = pytest.mark.timeout(320)  # more than the longest run and its end


@pytest.mark.usefixtures("temporary")
def test_the_real_server_keeps_its_promises_under_every_fault() -> None:
    code, verdict = stress(
        "plain",
        *("--seconds", "6", "--processes", "2", "--connections", "15", "--probes", "5", "--workers", "2"),
        *("--kill-workers", "--stall", "--stalled", "5", "--garbage", "--garbage-inputs", "200"),
        *("--disconnect-storm", "--storm-clients", "40", "--start-storm", "--starts", "4"),
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


MOVING_RUN = (
    *("--processes", "2", "--connections", "20", "--rate", "100", "--probes", "5", "--workers", "2"),
    *("--reload", "--reloads", "2"),
)
STALLED = ("--stall", "--stalled", "5")


@pytest.mark.usefixtures("temporary")
def test_connections_move_again_and_again_and_nothing_is_lost() -> None:
    flags = ("--scale", "--scalings", "2", "--scale-most", "4", "--garbage", "--garbage-inputs", "100")
    code, verdict = stress("plain", "--seconds", "6", *flags, *MOVING_RUN, *STALLED)
    assert verdict["reasons"] == [], verdict["examples"]
    assert code == 0
    changes = verdict["faults"]["changes"]
    assert (changes["reloads"], changes["scalings"], changes["missing"]) == (2, 2, 0)
    assert changes["moved"] >= 2 * 50
    assert verdict["faults"]["garbage"]["inputs"] == 100
    assert 0 < changes["pauses"]["p50"] <= changes["pauses"]["p99"] <= changes["pauses"]["max"]
    assert verdict["counts"]["halves"] > 50


# What happens once, to one connection that moves. A frame has as many bytes as the size says, and two
# more. A byte of a frame that has begun is found twice: the server takes offence at the frame, and its sender
# misses it.
AT_A_MOVE = """
    def install(worker, slot):
        from msgspec.structs import replace

        migration, export = part_of_worker("migration.Migration.export_state")

        def broken(self, connection):
            state = export(self, connection)
            number, parsed = state.place.number, state.dialect_state
            if {when} and once():
                {what}
            return state

        migration.export_state = broken

    def once():
        try:
            os.close(os.open(os.path.join(FOLDER, "done"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
"""
UNREAD = """
    def unread(sock):
        import array, fcntl, termios
        count = array.array("i", [0])
        fcntl.ioctl(sock, termios.TIOCOUTQ, count)
        return count[0]
"""
BREAKS = {
    "a message is lost": ("True", "state = replace(state, place=state.place._replace(number=number + 1))"),
    "a message is doubled": (
        "number > 100",
        "state = replace(state, place=state.place._replace(number=number - 1))",
    ),
    "a byte of half a frame is lost": (
        "len(parsed.partial) > 5",
        "state = replace(state, dialect_state=replace(parsed, partial=parsed.partial[:-1]))",
    ),
}


# Missing bytes never come here. The program waits for them half a minute, and a minute for the end.
IMPATIENT = """
when_imported("scripts.stress.plain.clients", lambda module: setattr(module, "ECHO_TIMEOUT", 5.0))
when_imported("scripts.stress.plain.scenario", lambda module: setattr(module, "READ_TIMEOUT", 5.0))
"""


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("fault", BREAKS)
def test_what_goes_wrong_at_a_move_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    when, what = BREAKS[fault]
    broken(tmp_path_factory, monkeypatch, textwrap.dedent(AT_A_MOVE.format(when=when, what=what)) + IMPATIENT)
    code, verdict = stress("plain", "--seconds", "3", *MOVING_RUN)
    assert code == 1
    assert verdict["faults"]["changes"]["wrong"] == []
    assert verdict["examples"], verdict["reasons"]


@pytest.mark.usefixtures("temporary")
def test_a_connection_that_does_not_arrive_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = AT_A_MOVE.format(when="parsed.partial", what="connection.sock.shutdown(2)")
    broken(tmp_path_factory, monkeypatch, fault)
    code, verdict = stress("plain", "--seconds", "3", *MOVING_RUN)
    assert code == 1
    assert len(verdict["connections"]["dropped"]) == 1
    assert "1 connections ended without cause" in verdict["reasons"]


@pytest.mark.usefixtures("temporary")
def test_a_client_that_does_not_read_and_does_not_arrive_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = AT_A_MOVE.format(when="unread(connection.sock) > 15_000", what="connection.sock.shutdown(2)")
    fault += UNREAD
    broken(tmp_path_factory, monkeypatch, fault)
    code, verdict = stress("plain", "--seconds", "8", *MOVING_RUN, *STALLED)
    assert code == 1
    assert verdict["reasons"] == ["1 stalled connections ended without cause"], verdict["examples"]


@pytest.mark.usefixtures("temporary")
def test_a_reload_that_fails_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = """
        def install(worker, slot):
            open(os.path.join(FOLDER, f"worker {os.getpid()}"), "w").close()
            if sum(each.startswith("worker") for each in os.listdir(FOLDER)) > 2:
                os._exit(3)
    """
    broken(tmp_path_factory, monkeypatch, fault)
    code, verdict = stress("plain", "--seconds", "2", *MOVING_RUN)
    assert code == 1
    assert any("ended before it could serve" in each for each in verdict["reasons"]), verdict["reasons"]
    assert verdict["examples"] == []


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(number: signal.Signals) -> None:
    flags = ["--seconds", "100", "--connections", "5", "--workers", "1"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [*COMMAND, "plain", *flags], cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True
    ) as script:
        try:
            deadline = time.monotonic() + 60
            while not has_client(script.pid):
                assert time.monotonic() < deadline, "waited 60 s for the first client process"
            os.killpg(script.pid, number)
            assert script.wait(60) == 1
        finally:
            script.kill()


def has_client(pid: int) -> bool:
    """Say whether the program ``pid`` has started a client process."""
    with suppress(psutil.Error):
        return any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process(pid).children())
    return False
