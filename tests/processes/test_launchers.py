"""Whatever has started the server, and whatever signal comes: deaths are seen, and a stop is heard."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from support.harness import MPCHAT, Server
from support.waiting import eventually

# A launcher that blocks every signal and ignores the ends of its children, and becomes what it is told.
LAUNCHER = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def replaced(server: Server, worker: int) -> None:
    """Wait until a dead worker's slot has another one."""
    eventually(lambda: worker not in server.worker_pids, f"worker {worker} to be gone")
    assert len(server.wait_until_running()["workers"]) == 2


def test_started_with_signals_blocked_it_sees_deaths_and_hears_a_stop(
    folder: Path,
) -> None:
    server = Server(folder)
    command = [sys.executable, "-c", LAUNCHER, *MPCHAT[1:], "start", "--port", "0", "--workers", "2"]
    try:
        started = subprocess.run(
            command, env=server.environment, cwd=folder, capture_output=True, text=True, check=False
        )
        assert (started.returncode, started.stderr) == (0, "")
        worker = server.worker_pids[0]
        os.kill(worker, signal.SIGKILL)
        replaced(server, worker)
        assert "killed by SIGKILL" in server.log
        processes = server.processes()
        os.kill(processes[0].pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=15.0)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    finally:
        server.end()


def test_a_worker_killed_by_a_signal_without_a_name_is_replaced(server: Server) -> None:
    worker = server.worker_pids[0]
    os.kill(worker, 40)
    replaced(server, worker)
    assert "killed by signal 40" in server.log
