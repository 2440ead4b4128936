"""A server and the terminal or pipes that it was started in: they stall, fill up and are closed."""

import os
import re
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from support.harness import MPCHAT, Client, Server
from support.terminals import in_terminal
from support.waiting import eventually

pytestmark = pytest.mark.one_python

# Seconds that a stop may take on a busy machine: much less than the stop_timeout of these servers.
IN_TIME = 15.0
# Seconds that a start may take: it needs more than a second of a core, and other tests use the cores too.
START = 60.0


def serving(server: Server) -> None:
    """Wait until it serves, and have two clients chat on it."""
    eventually(lambda: (server.instance_folder / "control.sock").exists(), "the server to listen", START)
    server.wait_until_running()
    with Client(server.address) as one, Client(server.address) as two:
        two.say("둘")
        two.hear_until("둘")
        one.say("하나")
        two.hear_until("하나")


def fill(pipe: int) -> None:
    """Write to a pipe until it takes no more."""
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(pipe, True)


def test_pipes_that_nobody_reads_stop_neither_the_chat_nor_the_end(folder: Path) -> None:
    server = Server(folder)
    reader, writer = os.pipe()
    fill(writer)
    command = [*MPCHAT, "start", "--foreground", "--port", "0", "--workers", "1", "--log-level", "debug"]
    process = subprocess.Popen(command, env=server.environment, cwd=folder, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        serving(server)
        process.terminate()
        assert process.wait(IN_TIME) == 0
        with open(reader, "rb") as stream:
            assert not stream.read().strip(b"."), "it was full all the time"
    finally:
        process.kill()
        process.wait()
        server.end()


def stacks_of_all(text: str) -> bool:
    """Tell whether the stacks of a supervisor and of its worker are there."""
    stacks = (r'supervisor\.py", line \d+ in _turn', r'worker\.py", line \d+ in turn')
    return [len(re.findall(each, text)) for each in stacks] == [1, 1]


def test_stacks_for_a_pipe_that_nobody_reads_stop_nothing_and_come_when_it_is_read(folder: Path) -> None:
    server = Server(folder)
    reader, writer = os.pipe()
    fill(writer)
    command = [*MPCHAT, "start", "--foreground", "--port", "0", "--workers", "1"]
    process = subprocess.Popen(command, env=server.environment, cwd=folder, stderr=writer)
    try:
        serving(server)
        process.send_signal(signal.SIGUSR2)
        serving(server)
        os.set_blocking(reader, False)
        said = bytearray()

        def all_said() -> bool:
            with suppress(BlockingIOError):
                said.extend(os.read(reader, 1 << 20))
            return stacks_of_all(said.decode())

        eventually(all_said, "both processes' stacks")
        fill(writer)
        process.send_signal(signal.SIGUSR2)
        process.terminate()
        assert process.wait(IN_TIME) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)
        server.end()


def test_a_terminal_stopped_by_ctrl_s_stops_neither_the_chat_nor_the_end(folder: Path) -> None:
    server = Server(folder)
    with in_terminal(server, "leader", "--log-level", "debug") as (terminal, process):
        serving(server)
        eventually(lambda: "serves at" in terminal.text, "the start to be told")
        terminal.stop_output()
        process.send_signal(signal.SIGUSR2)
        process.send_signal(signal.SIGHUP)
        eventually(lambda: server.status()["generation"] == 2 and not server.status()["change"], "a reload")
        serving(server)
        assert "lost: reload" not in terminal.text, "the terminal was stopped all the time"
        process.terminate()
        assert process.wait(IN_TIME) == 0


def test_stacks_of_a_background_job_reach_a_terminal_that_stops_such_output(folder: Path) -> None:
    server = Server(folder)
    with in_terminal(server, "background") as (terminal, process):
        terminal.stop_background_output()
        serving(server)
        supervisor = server.processes()[0]
        supervisor.send_signal(signal.SIGUSR2)
        eventually(lambda: stacks_of_all(terminal.text), "both processes' stacks")
        supervisor.send_signal(signal.SIGTERM)
        assert process.wait(IN_TIME) == 0


def test_a_background_job_logs_to_a_terminal_that_stops_such_output(folder: Path) -> None:
    server = Server(folder)
    with in_terminal(server, "background") as (terminal, process):
        # From here on the kernel answers each write of the job with SIGTTOU.
        terminal.stop_background_output()
        serving(server)
        eventually(lambda: "serves at" in terminal.text, "the start to be told")
        supervisor = server.processes()[0]
        supervisor.send_signal(signal.SIGHUP)
        eventually(lambda: "lost: reload" in terminal.text, "the log in the terminal")
        supervisor.send_signal(signal.SIGTERM)
        assert process.wait(IN_TIME) == 0
        assert "scale" not in terminal.text, "SIGTTOU of the terminal is no request for fewer workers"


def test_a_reload_by_hup_goes_on_and_a_closed_terminal_ends_the_server(folder: Path) -> None:
    server = Server(folder)
    with in_terminal(server, "leader", "--log-file", "log") as (terminal, process):
        serving(server)
        process.send_signal(signal.SIGHUP)
        eventually(lambda: server.status()["generation"] == 2 and not server.status()["change"], "a reload")
        terminal.close()
        assert process.wait(IN_TIME) == 0
        log = (folder / "log").read_text()
        assert "stopping: its terminal was closed" in log
        assert "stopped after" in log


def test_with_nohup_a_server_outlives_its_terminal_and_still_reloads(folder: Path) -> None:
    server = Server(folder)
    with in_terminal(server, "nohup", "--log-file", "log") as (terminal, process):
        serving(server)
        terminal.close()
        eventually(lambda: "its terminal was closed, serving on" in (folder / "log").read_text(), "HUP")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: server.status()["generation"] == 2, "a reload")
        serving(server)


STREAMS = [">&-", "<&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"]


@pytest.mark.parametrize("streams", STREAMS)
def test_in_the_foreground_it_serves_whatever_became_of_its_standard_streams(
    folder: Path, streams: str
) -> None:
    server = Server(folder)
    command = shlex.join([*MPCHAT, "start", "--foreground", "--port", "0", "--workers", "1"])
    process = subprocess.Popen(["sh", "-c", f"exec {command} {streams}"], env=server.environment, cwd=folder)
    try:
        serving(server)
        for each in server.processes():
            # Nothing of the server's own has taken the place of a closed stream.
            standard = [os.readlink(f"/proc/{each.pid}/fd/{number}") for number in range(3)]
            assert not [name for name in standard if name.startswith(("socket:", "anon"))], standard
        process.terminate()
        assert process.wait(IN_TIME) == 0
    finally:
        server.end()
        process.kill()
        process.wait()
