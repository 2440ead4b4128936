"""In a container: process 1 without an init, a user without a name, a root that is read-only."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from support.containerfile import instructions
from support.harness import MPCHAT, Client, Server
from support.namespaces import (
    RANDOM_UID,
    as_process_1,
    as_random_user,
    as_subreaper,
    control_group,
    sticky_folder,
    with_read_only_root,
)
from support.waiting import eventually

pytestmark = pytest.mark.one_python

ORPHANS = 20
NOT_RUNNING = 3
ENTRYPOINT = instructions("ENTRYPOINT")[0].words[1:]
HEALTH = instructions("HEALTHCHECK")[0].words[1:]
FOREGROUND = [*MPCHAT, *ENTRYPOINT, "--port", "0", "--workers", "2", "--log-file", "log"]
# Becomes the command, and leaves it processes that their parent has left alone, and one that the same program
# started before it became the server. All wait until the fifo has had a writer.
ORPHANAGE = """
i=0
while [ $i -lt {count} ]; do sh -c 'cat < "$0" & exit' {fifo}; i=$((i+1)); done
cat < {fifo} &
exec "$@"
"""


@contextmanager
def container(server: Server, before: list[str], fifo: Path) -> Iterator[psutil.Process]:
    """A server that gets orphans: the process as it is seen from outside."""
    script = ORPHANAGE.format(count=ORPHANS, fifo=shlex.quote(str(fifo)))
    launcher = subprocess.Popen(
        [*before, "sh", "-c", script, "sh", *FOREGROUND],
        env=server.environment,
        cwd=server.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert launcher.stdout is not None
        assert launcher.stderr is not None
        first = launcher.stdout.readline()
        assert "serves at" in first, launcher.stderr.read()
        process = psutil.Process(launcher.pid)
        yield process if "mpchat.supervisor" in process.cmdline() else process.children()[0]
    finally:
        for each in psutil.Process(launcher.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        launcher.kill()
        launcher.communicate()


def named(process: psutil.Process, name: str) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):  # they come and go
        return [each for each in process.children() if each.name() == name]
    return []


@pytest.mark.parametrize("before", [as_process_1, as_subreaper])
def test_the_ends_of_orphans_are_noted_and_those_of_workers_are_not_lost(
    folder: Path, before: Callable[[], list[str]]
) -> None:
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    server = Server(folder)
    with container(server, before(), fifo) as supervisor:
        assert (server.pid == 1) is (before is as_process_1)
        eventually(lambda: len(named(supervisor, "sh")) == ORPHANS + 1, "the orphans to be the server's")
        workers = [each for each in supervisor.children() if "spawn_main" in " ".join(each.cmdline())]
        assert len(workers) == 2
        workers[0].kill()
        fifo.write_text("")  # all orphans end at once, in the midst of that
        eventually(lambda: len(supervisor.children()) == 3, "no child but two workers and the tracker")
        eventually(lambda: states(server) == ["RUNNING", "RUNNING"], "both workers to serve")
        assert "killed by SIGKILL" in (folder / "log").read_text()


# Both children have ended before the look; only the first is multiprocessing's.
OWN_AND_FOREIGN = """
import multiprocessing, os
from mpchat.supervisor import orphans
own = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
own.start()
foreign = os.fork() or os._exit(3)
for pid in (own.pid, foreign):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(orphans.reap(), own.exitcode, orphans.reap())
"""


def test_an_exit_code_that_is_waited_for_is_left_to_whom_it_belongs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OWN_AND_FOREIGN], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.stdout, done.stderr) == ("1 7 0\n", "")


def states(server: Server) -> list[str]:
    return [each["state"] for each in server.status()["workers"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_1_ends_in_order_by_a_signal(folder: Path, number: signal.Signals) -> None:
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    server = Server(folder)
    with container(server, as_process_1(), fifo) as supervisor, Client(server.address) as client:
        client.say("here")
        assert client.hear() == "here"
        assert server.run(*HEALTH).returncode == 0
        supervisor.send_signal(number)
        assert client.hear() == "The server is stopping."
        psutil.wait_procs([supervisor], timeout=20.0)
        assert not supervisor.is_running() or supervisor.status() == psutil.STATUS_ZOMBIE
        assert server.run(*HEALTH).returncode == NOT_RUNNING


def test_process_1_ends_by_a_signal_before_it_has_begun() -> None:
    """The kernel gives no default handlers to process 1."""
    code = (
        "import os, signal\nfrom mpchat.supervisor import orphans\n"
        "{}\nos.kill(os.getpid(), signal.SIGTERM)\nos._exit(0)"
    )
    ended = [
        subprocess.run([*as_process_1(), sys.executable, "-c", code.format(call)], check=False).returncode
        for call in ("pass", "orphans.end_on_signals()")
    ]
    assert ended == [0, 128 + signal.SIGTERM]


@pytest.fixture
def sticky() -> Iterator[Path]:
    with sticky_folder() as folder:
        yield folder


def in_a_bare_container(server: Server, sticky: Path) -> dict[str, str]:
    """Return an environment as an orchestrator gives it to a user without a name: no home, no folders."""
    kept = ("PATH", "PYTHONPATH", "LANG")
    return {name: server.environment[name] for name in kept if name in server.environment} | {
        "TMPDIR": str(sticky)
    }


@pytest.mark.parametrize("read_only", [False, True], ids=["sticky folder", "read-only root"])
def test_a_user_without_a_name_and_a_home_needs_one_sticky_folder(sticky: Path, read_only: bool) -> None:
    before = [*(with_read_only_root(sticky) if read_only else []), *as_random_user()]
    script = (
        '"$0" -m mpchat start --port 0 --workers 1 && "$0" -m mpchat start --port 0; second=$?; '
        '"$0" -m mpchat say hello && "$0" -m mpchat reload && "$0" -m mpchat status --json && '
        '"$0" -m mpchat stop; echo "exits $second $?"; ls -ld "$TMPDIR"/*'
    )
    done = subprocess.run(
        [*before, "sh", "-c", script, sys.executable],
        env=in_a_bare_container(Server(sticky), sticky),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "exits 4 0\n" in done.stdout, done.stderr
    # Nothing but a folder of its own, whose name keeps users apart.
    assert str(RANDOM_UID) in done.stdout.splitlines()[-1]
    assert done.stdout.splitlines()[-2] == "exits 4 0"


MOST = 256 << 20


def in_group(before: list[str], code: str) -> list[str]:
    words = [*before, sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_memory_of_a_real_control_group_is_the_limit() -> None:
    with control_group("memory", max=f"{MOST}", limit_in_bytes=f"{MOST}") as before:
        size, used, is_groups = in_group(
            before, "from mpchat.memory_limit import memory_limit; print(*memory_limit())"
        )
    assert (size, is_groups) == (f"{MOST}", "True")
    assert 0 < int(used) < MOST


def test_the_cpu_of_a_real_control_group_is_the_number_of_cores() -> None:
    half = {"max": "50000 100000", "cfs_period_us": "100000", "cfs_quota_us": "50000"}
    with control_group("cpu", **half) as before:
        assert in_group(before, "from mpchat.cores import usable_cores; print(usable_cores())") == ["1"]
