"""Whatever has started the server, and whatever signal comes: deaths are seen, and a stop is heard."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from support.harness import MPCHAT, Server, running
from support.waiting import eventually

import mpchat

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
    assert len(server.wait_until_running()["workers"]) == 1


def test_started_with_signals_blocked_it_sees_deaths_and_hears_a_stop(
    folder: Path,
) -> None:
    server = Server(folder)
    command = [sys.executable, "-c", LAUNCHER, *MPCHAT[1:], "start", "--port", "0", "--workers", "1"]
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


def test_a_worker_killed_by_a_signal_without_a_name_is_replaced(folder: Path) -> None:
    with running(folder, workers=1) as server:
        worker = server.worker_pids[0]
        os.kill(worker, 40)
        replaced(server, worker)
        assert "killed by signal 40" in server.log


STRANGER = "raise SystemExit('a stranger was imported')"


def test_a_folder_with_strangers_for_modules_does_not_matter(folder: Path) -> None:
    for name in ("json", "socket", "pathlib", "signal", "click", "msgspec", "multiprocessing", "mpchat"):
        (folder / f"{name}.py").write_text(STRANGER)
    (folder / "mpchat.py").unlink()  # that one is what the user asks for
    server = Server(folder)
    try:
        started = server.command("start", "--port", "0", "--workers", "1")
        assert (started.returncode, started.stderr) == (0, "")
        assert server.command("reload").returncode == 0
    finally:
        server.end()


# The server's process says more than a pipe takes, and ends before its log is open.
DYING = """
import os, sys
if "mpchat.supervisor" in sys.orig_argv and os.path.exists({mark!r}):
    os.write(2, b"more\\n" * 50_000)
    os.write(2, "cannot map the segment 가\\x1b[2J\\n".encode())
    os._exit(9)
"""


def installed(folder: Path) -> list[str]:
    """Install the package in an environment of its own, with links to what it needs; return the command."""
    packages = folder / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    shutil.copytree(Path(mpchat.__file__).parent, packages / "mpchat")
    (packages / "needed.pth").write_text("\n".join(each for each in sys.path if "site-packages" in each))
    base = Path(sys._base_executable)  # type: ignore[attr-defined]
    (folder / "venv" / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    (folder / "venv" / "bin").mkdir()
    (folder / "venv" / "bin" / "python").symlink_to(base)
    (packages / "sitecustomize.py").write_text(DYING.format(mark=str(folder / "dying")))
    (packages / "pathlib.py").write_text(STRANGER)
    return [str(folder / "venv" / "bin" / "python"), "-m", "mpchat"]


def test_beside_an_old_pathlib_it_starts_and_its_last_words_are_shown_if_it_dies(folder: Path) -> None:
    command = installed(folder)
    server = Server(folder)

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *words],
            env=server.environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    try:
        started = run("start", "--port", "0", "--workers", "1")
        assert (started.returncode, started.stderr) == (0, "")
        loaded = psutil.Process(server.pid).cmdline()
        assert any(str(folder / "venv" / "lib") in word for word in loaded)
        assert run("stop").returncode == 0
    finally:
        server.end()
    (folder / "dying").touch()
    died = run("start", "--port", "0", "--workers", "1")
    assert died.returncode == 5
    assert "the server ended before it could serve (exit code 9); its last words:\n  more\n" in died.stderr
    assert died.stderr.endswith("\n  cannot map the segment 가\\x1b[2J\n")
    assert len(died.stderr.splitlines()) == 6
