"""The guard: one server of a name on this machine, however it is started, killed or tampered with."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from support.harness import MPCHAT, Server, assert_nothing_left, clients, kill, leftovers, running, stopped
from support.waiting import eventually

from mpchat.hub.sequencer import NOTICE_GATHER
from mpchat.instance.paths import option_text, paths
from mpchat.instance.record import Identity, Record, is_server, read_record, write_record

pytestmark = pytest.mark.one_python

# The exit codes of the README's table.
FAILED, USAGE, NOT_RUNNING, ALREADY, NOT_STARTED = 1, 2, 3, 4, 5
NOBODY = 65534


def refused(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The command ended with ``code`` and said one line."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("mpchat: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def begin(server: Server, *words: str, **more: Any) -> "subprocess.Popen[str]":
    """Run a command without waiting for it."""
    return subprocess.Popen(
        [*MPCHAT, words[0], "--name", server.name, *words[1:]],
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "env": server.environment,
            "cwd": server.folder,
            **more,
        },
    )


@contextmanager
def free_port() -> Iterator[int]:
    """A port that is free when the block begins."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    yield port


@contextmanager
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A living process that has nothing to do with any server."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """A server with one worker: what is guarded is the whole of it."""
    with running(folder, workers=1) as started:
        yield started


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same for all tests of this file that leave it as it was."""
    folder = tmp_path_factory.mktemp("lasting")
    with running(folder, workers=1) as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture
def shared(lasting: Server) -> Server:
    """The file's server, whose lock and socket are in their places; no client, and no notice to come."""
    lasting.wait_until_running()
    lasting.wait_for_connections(0)
    time.sleep(3 * NOTICE_GATHER)
    eventually(lambda: lock_is_held(lasting, lasting.pid), "the lock file to be there", 10.0)
    return lasting


@pytest.fixture
def instance(folder: Path) -> Iterator[Server]:
    """An instance that is not started yet; ended when the test is over."""
    server = Server(folder)
    yield server
    server.end()


# A second start.


def test_a_second_start_from_another_directory_is_told_everything_it_needs(server: Server) -> None:
    elsewhere = server.folder / "elsewhere"
    elsewhere.mkdir()
    facts = server.status()
    eventually(lambda: server.log.count("ready: worker") == 1, "the worker's own line in the log")
    before = server.log
    said = refused(server.command("start", "--port", "0", cwd=elsewhere), ALREADY)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["started"]))
    assert '"default" is already running' in said
    assert f"pid {facts['pid']}, since {since}, at {facts['addresses'][0]};" in said
    told = re.search(r"stop it with: mpchat (.*)\n", said)
    assert told is not None
    assert server.status() | {"uptime": 0, "workers": []} == facts | {"uptime": 0, "workers": []}
    assert server.log == before
    done = subprocess.run([*MPCHAT, *told[1].split()], env=server.environment, cwd=elsewhere, check=False)
    assert done.returncode == 0


def test_a_second_start_in_the_foreground_is_refused_with_the_same_line(shared: Server) -> None:
    said = refused(shared.command("start", "--port", "0", "--foreground"), ALREADY)
    assert f"pid {shared.pid}" in said


def test_a_second_start_is_refused_before_it_has_started_a_process(
    shared: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpchat.supervisor.boot.__file__", "/dev/null/no-program")
    assert f"pid {shared.pid}" in refused(shared.command("start", "--port", "0"), ALREADY)


def test_two_names_run_side_by_side_and_do_not_hear_each_other(shared: Server) -> None:
    with running(shared.folder, workers=1, name="second") as second:
        assert shared.address[1] != second.address[1]
        assert shared.pid != second.pid
        with clients(shared, 1) as (alice,), clients(second, 1) as (bob,):
            alice.say("in the first")
            bob.say("in the second")
            assert (alice.hear(), bob.hear()) == ("in the first", "in the second")
        assert second.stop().returncode == 0
        assert shared.status()["state"] == "RUNNING"


def test_a_port_taken_by_another_program_is_told_with_its_name_and_pid(instance: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        said = refused(instance.command("start", "--port", str(port), "--workers", "1"), NOT_STARTED)
    assert f"127.0.0.1:{port} is taken by {psutil.Process().name()} (pid {os.getpid()})" in said
    assert "--port" in said
    assert_nothing_left(instance.folder)
    instance.start("--workers", "1", port=port)


def test_a_port_taken_by_the_instance_of_another_name_is_told(shared: Server) -> None:
    other = Server(shared.folder, "other")
    said = refused(other.command("start", "--port", str(shared.address[1])), NOT_STARTED)
    where = f"127.0.0.1:{shared.address[1]}"
    assert f"{where} is taken by mpchat (pid {shared.pid}, runtime folder {shared.folder / 'run'});" in said


# Many starts at once.


def start_many(server: Server, count: int) -> Counter[int]:
    """Start so many at once; returns how often each exit code came."""
    starts = [
        begin(server, "start", "--port", "0", "--workers", "1", stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    said = [each.communicate(timeout=100)[1] for each in starts]
    assert all(text.count("\n") == (each.returncode != 0) for text, each in zip(said, starts, strict=True))
    return Counter(each.returncode for each in starts)


def exactly_one_serves(server: Server) -> None:
    found = [each for each in leftovers(server.folder) if each.ppid() != server.pid]
    assert [each.pid for each in found] == [server.pid]


def test_fifty_starts_at_once_while_status_polls_give_one_server_and_49_refusals(instance: Server) -> None:
    """The polls have no interpreters of their own, and so come much closer together."""
    outcome: list[Counter[int]] = []
    starting = threading.Thread(target=lambda: outcome.append(start_many(instance, 50)))
    codes: Counter[int] = Counter()
    starting.start()
    while starting.is_alive():
        codes[instance.command("status").returncode] += 1
        starting.join(0.1)
    assert outcome == [{0: 1, ALREADY: 49}]
    exactly_one_serves(instance)
    assert codes[NOT_RUNNING] > 0, "polls began before the server"
    assert set(codes) <= {0, NOT_RUNNING, 6}


# Sudden death.


def start_again_at_once(server: Server, port: int) -> None:
    """The next start works at once, on the same port, and says nothing but what a start says."""
    done = server.command("start", "--port", str(port), "--workers", "1")
    assert done.returncode == 0, f"{done.stderr}\nlog:\n{server.log}"
    assert done.stderr == ""


# Without clients: the test after this one, whose worker is stopped besides.
def test_after_kill_9_of_the_supervisor_with_clients_commands_say_what_to_do_and_a_start_works_at_once(
    server: Server,
) -> None:
    address, processes = server.address, server.processes()
    with clients(server, 20) as joined:
        kill(processes[0].pid)
        start_again_at_once(server, address[1])
        eventually(lambda: gone(processes), "the old workers to be gone", 2.0)
        for each in joined:
            with suppress(ConnectionResetError):
                while each.receive() is not None:
                    pass
        with clients(server, 1) as (fresh,):
            fresh.say("anew")
            assert fresh.hear() == "anew"
            kill(server.pid)
            for command in ("status", "stop"):
                assert "start it with: mpchat start" in refused(server.command(command), NOT_RUNNING)


def test_after_kill_9_of_the_supervisor_a_worker_stopped_by_sigstop_is_not_in_the_way(
    server: Server,
) -> None:
    port, processes, worker = server.address[1], server.processes(), server.worker_pids[0]
    with stopped(worker):
        kill(processes[0].pid)
        start_again_at_once(server, port)
        eventually(lambda: gone(processes), "the old workers to be gone", 2.0)


def shared_memory() -> set[str]:
    """What Python programs have there: other tests' programs, written in other languages, run meanwhile."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {each for each in names if each.startswith(("sem.mp-", "psm_"))}


def test_after_kill_9_of_everything_nothing_is_left_and_the_terminal_stays_clean(instance: Server) -> None:
    before = shared_memory()
    instance.start()
    port, processes = instance.address[1], instance.processes()
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    eventually(lambda: gone(processes), "everything to be gone")
    assert_nothing_left(instance.folder)
    start_again_at_once(instance, port)
    assert instance.stop().stderr == ""
    eventually(lambda: shared_memory() <= before, "nothing more to be in shared memory")
    assert "leaked" not in instance.log
    assert "Traceback" not in instance.log


def the_supervisor(server: Server) -> psutil.Process | None:
    for each in leftovers(server.folder):
        with suppress(psutil.Error):
            if "mpchat.supervisor" in each.cmdline():
                return each
    return None


# How far a start has come: before the lock, with the lock, with a record, with a first worker.
INSTANTS: dict[str, Callable[[Server, psutil.Process], object]] = {
    "as_it_begins": lambda server, process: True,
    "with_the_lock": lambda server, process: (server.instance_folder / "lock").exists(),
    "with_its_record": lambda server, process: (server.instance_folder / "record.json").exists(),
    "with_its_control_socket": lambda server, process: (server.instance_folder / "control.sock").exists(),
    "with_two_children": lambda server, process: len(process.children()) > 1,
}


@pytest.mark.parametrize("instant", INSTANTS)
def test_kill_9_in_the_middle_of_a_start_is_told_and_the_next_start_works(
    instance: Server, instant: str
) -> None:
    with free_port() as port:
        starting = begin(instance, "start", "--port", str(port), "--workers", "1")
        process = eventually(lambda: the_supervisor(instance), "the supervisor to begin")
        assert process is not None
        eventually(lambda: INSTANTS[instant](instance, process), instant)
        process.kill()
        out, err = starting.communicate(timeout=30)
        assert (starting.returncode, out, err.count("\n")) == (NOT_STARTED, "", 1)
        assert "killed by SIGKILL" in err
        start_again_at_once(instance, port)


# Files in the way.


def test_a_lock_path_that_is_a_symlink_is_refused_and_its_target_untouched(instance: Server) -> None:
    target = instance.folder / "precious"
    target.write_text("precious")
    instance.instance_folder.mkdir(parents=True, mode=0o700)
    (instance.instance_folder / "lock").symlink_to(target)
    said = refused(instance.command("start", "--port", "0"), NOT_STARTED)
    assert str(instance.instance_folder / "lock") in said
    assert target.read_text() == "precious"
    (instance.instance_folder / "lock").unlink()
    instance.start(workers=1)


def test_a_lock_path_that_is_a_directory_is_refused(instance: Server) -> None:
    (instance.instance_folder / "lock").mkdir(parents=True)
    instance.instance_folder.chmod(0o700)
    said = refused(instance.command("start", "--port", "0"), NOT_STARTED)
    assert str(instance.instance_folder / "lock") in said
    assert "remove it" in said


def test_a_second_lock_that_is_a_symlink_is_refused(instance: Server) -> None:
    instance.instance_folder.mkdir(parents=True, mode=0o700)
    (instance.instance_folder / "workers.lock").symlink_to("/dev/null")
    said = refused(instance.command("start", "--port", "0"), NOT_STARTED)
    assert "workers.lock" in said
    assert_nothing_left(instance.folder)


def test_a_folder_that_is_a_file_or_a_symlink_is_refused(instance: Server) -> None:
    instance.instance_folder.parent.mkdir()
    instance.instance_folder.write_text("")
    assert "is not a folder" in refused(instance.command("start", "--port", "0"), NOT_STARTED)
    instance.instance_folder.unlink()
    instance.instance_folder.symlink_to(instance.folder)
    assert "is not a folder" in refused(instance.command("start", "--port", "0"), NOT_STARTED)


def test_a_folder_that_others_may_enter_is_refused_with_the_command_that_closes_it(instance: Server) -> None:
    instance.instance_folder.mkdir(parents=True)
    instance.instance_folder.chmod(0o755)
    said = refused(instance.command("start", "--port", "0"), NOT_STARTED)
    assert f"chmod 700 {instance.instance_folder}" in said


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@root
def test_a_folder_of_another_user_is_refused(instance: Server) -> None:
    instance.instance_folder.mkdir(parents=True, mode=0o700)
    os.chown(instance.instance_folder, NOBODY, NOBODY)
    said = refused(instance.command("start", "--port", "0"), NOT_STARTED)
    assert "belongs to another user" in said
    assert "--runtime-dir" in said


def strangers_python() -> str | None:
    """An interpreter of this version that another user may run, or None."""
    for python in (sys.executable, shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/bin")):
        with suppress(PermissionError):
            if python and not subprocess.call([python, "-c", ""], user=NOBODY, cwd="/"):
                return python
    return None


@pytest.fixture
def stranger(instance: Server) -> Server:
    """The instance, addressed by a user who has no rights to anything of ours."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    python = strangers_python()
    if python is None:
        pytest.skip("no Python of this version here that another user may run: it lies in a closed folder")
    let_others_in(instance.folder)
    stranger = Server(instance.folder, instance.name)
    packages = [each for each in sys.path if "site-packages" in each]
    stranger.environment["PYTHONPATH"] = ":".join([str(Path(__file__).parents[2]), *packages])
    stranger.environment["HOME"] = "/nonexistent"
    stranger.environment["STRANGERS_PYTHON"] = python
    return stranger


def let_others_in(folder: Path) -> None:
    """Open the test's folder to other users. Another pytest that starts closes a part of the way to it."""
    for each in [folder, *folder.parents]:
        if each == Path(tempfile.gettempdir()):
            break
        each.chmod(each.stat().st_mode | 0o055)


def as_stranger(
    server: Server, *words: str, program: Sequence[str] = ("-m", "mpchat"), **more: Any
) -> "subprocess.CompletedProcess[str]":
    let_others_in(server.folder.parent)
    return subprocess.run(
        [server.environment["STRANGERS_PYTHON"], *program, *words],
        **{
            "env": server.environment,
            "cwd": "/",
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "timeout": 60,
            "user": NOBODY,
            "group": NOBODY,
            "extra_groups": [],
            **more,
        },
    )


# Runs many commands, one after the other, and prints what each said.
COMMANDS = """
import json, sys
from click.testing import CliRunner
from mpchat.cli.commands import main
for words in json.loads(sys.argv[1]):
    done = CliRunner(catch_exceptions=False).invoke(main, words)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""


def all_as_stranger(server: Server, *commands: list[str]) -> list["subprocess.CompletedProcess[str]"]:
    """Run commands as a stranger in one interpreter: loading it costs more than all of them."""
    done = as_stranger(server, json.dumps(commands), program=["-c", COMMANDS])
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    return [
        subprocess.CompletedProcess(words, *json.loads(line))
        for words, line in zip(commands, lines, strict=True)
    ]


def test_a_stranger_gets_no_answer_from_our_server_and_is_not_told_that_it_is_not_running(
    instance: Server, stranger: Server
) -> None:
    instance.start(workers=1)
    run = instance.folder / "run"
    commands = (
        ["status"],
        ["stop"],
        ["say", "hello"],
        ["kick", "127.0.0.1"],
        ["bans"],
        ["reload"],
        ["scale", "2"],
    )
    told = f"not allowed to look into {run}, owned by root: run as root or set MPCHAT_RUNTIME_DIR"
    for done in all_as_stranger(stranger, *commands):
        assert told in refused(done, FAILED)
    said = refused(as_stranger(stranger, "chat", "--plain"), FAILED)
    assert told in said
    assert "mpchat chat HOST PORT" in said
    run.chmod(0o755)  # the instance's own folder is closed still
    for done in all_as_stranger(stranger, ["status"], ["chat", "--plain"]):
        assert f"not allowed to look into {run / 'default'}, " in refused(done, FAILED)
    run.chmod(0o700)
    said = refused(as_stranger(stranger, "start", "--port", "0"), NOT_STARTED)
    assert f"{instance.instance_folder}: Permission denied" in said
    elsewhere = {**stranger.environment, "MPCHAT_RUNTIME_DIR": str(instance.folder / "none")}
    port = str(instance.address[1])
    assert "is not running" in refused(as_stranger(stranger, "status", env=elsewhere), NOT_RUNNING)
    # Which program listens, only root and its own user are told; which servers run, everybody.
    own = instance.folder / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    elsewhere["MPCHAT_RUNTIME_DIR"] = str(own)
    said = refused(as_stranger(stranger, "start", "--port", port, env=elsewhere), NOT_STARTED)
    # More servers of root than the line names may run on this machine.
    assert re.search(r"perhaps mpchat \(pid \d+, runtime folder /\S+\) of root", said)
    assert instance.status()["state"] == "RUNNING"


def test_a_read_only_folder_is_refused_with_its_name(stranger: Server) -> None:
    run = stranger.folder / "run"
    run.mkdir()
    run.chmod(0o555)
    said = refused(as_stranger(stranger, "start", "--port", "0"), NOT_STARTED)
    assert str(run) in said
    assert "--runtime-dir" in said


# Makes every folder for temporary files read-only, for the rest of the script alone.
READ_ONLY = """
for each in /tmp /var/tmp /usr/tmp /dev/shm; do
  test ! -d $each || { mount --bind $each $each && mount -o remount,ro,bind $each; } || exit 99
done
"""


def with_own_mounts(
    server: Server, script: str, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run a shell script that mounts folders for itself alone, and that exits with 99 where it cannot."""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        env=environment,
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("no folder can be mounted here")
    return done


def test_with_nothing_writable_a_start_names_the_folder_and_the_way_out(stranger: Server) -> None:
    environment = {**stranger.environment, "TMPDIR": ""}
    del environment["MPCHAT_RUNTIME_DIR"]
    environment.pop("XDG_RUNTIME_DIR", None)
    python = stranger.environment["STRANGERS_PYTHON"]
    for words, code in ((["start", "--port", "0"], NOT_STARTED), (["status"], NOT_RUNNING), (["config"], 0)):
        command = shlex.join(
            ["setpriv", "--reuid", "12345", "--clear-groups", python, "-m", "mpchat", *words]
        )
        done = with_own_mounts(stranger, f"{READ_ONLY} exec {command}", environment)
        assert done.returncode == code, done.stderr
        if words[0] == "start":
            assert re.match(r"mpchat: cannot make the folder /tmp/\S+: Read-only file system; ", done.stderr)
            assert done.stderr.endswith("with --runtime-dir or MPCHAT_RUNTIME_DIR\n")


@root
def test_a_full_file_system_is_told_with_the_folder(instance: Server) -> None:
    run = shlex.quote(str(instance.folder / "run"))
    script = f"mkdir {run} && mount -t tmpfs -o nr_inodes=1,mode=700 none {run} || exit 99; exec "
    command = shlex.join([*MPCHAT, "start", "--port", "0"])
    done = with_own_mounts(instance, script + command, instance.environment)
    said = refused(done, NOT_STARTED)
    assert f"{instance.instance_folder}: No space left on device; " in said
    assert "MPCHAT_RUNTIME_DIR" in said


def test_a_user_without_name_home_path_and_folder_starts_and_stops_a_server(stranger: Server) -> None:
    """As in a container that runs with a number for its user."""
    uid = 54321
    gone = stranger.folder / "gone"
    run = stranger.folder / "run"
    for each in (gone, run):
        each.mkdir()
        os.chown(each, uid, uid)
    bare = {name: stranger.environment[name] for name in ("PYTHONPATH", "MPCHAT_RUNTIME_DIR")}
    bare |= {"PATH": "", "LANG": "C", "LC_ALL": "C"}
    python = stranger.environment["STRANGERS_PYTHON"]
    in_gone = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
    )

    def run_bare(*words: str) -> str:
        done = subprocess.run(
            [python, "-c", in_gone, str(gone), python, "-m", "mpchat", *words],
            env=bare,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            user=uid,
            group=uid,
            extra_groups=[],
            check=False,
        )
        gone.mkdir()
        os.chown(gone, uid, uid)
        assert (done.returncode, done.stderr) == (0, ""), words
        return done.stdout

    (stranger.folder).chmod(0o777)  # so that this user can remove its current folder
    try:
        assert "serves at" in run_bare("start", "--port", "0", "--workers", "1")
        assert "RUNNING" in run_bare("status")
        run_bare("chat", "--plain")
        assert "settings file: none" in run_bare("config")
    finally:
        assert "has stopped" in run_bare("stop")


def test_a_read_only_lock_file_of_another_user_is_refused(stranger: Server) -> None:
    stranger.instance_folder.mkdir(parents=True, mode=0o700)
    (stranger.instance_folder / "lock").touch(0o600)
    os.chown(stranger.instance_folder, NOBODY, NOBODY)
    (stranger.folder / "run").chmod(0o755)
    said = refused(as_stranger(stranger, "start", "--port", "0"), NOT_STARTED)
    assert str(stranger.instance_folder / "lock") in said


def test_a_stranger_starts_a_server_of_his_own(stranger: Server) -> None:
    (stranger.folder / "run").mkdir()
    os.chown(stranger.folder / "run", NOBODY, NOBODY)
    done = as_stranger(stranger, "start", "--port", "0", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert refused(as_stranger(stranger, "start", "--port", "0"), ALREADY)
    assert as_stranger(stranger, "status").returncode == 0
    assert as_stranger(stranger, "stop").returncode == 0


# Files that vanish while the server runs.


def lock_is_held(server: Server, pid: int) -> bool:
    """The file at the lock's path is the one that the supervisor has open."""
    path = server.instance_folder / "lock"
    held = (Path(each.path) for each in psutil.Process(pid).open_files())
    return path.exists() and any(each.samefile(path) for each in held if each.exists())


def answers_again(server: Server) -> None:
    """Wait until the control socket is back."""
    eventually(lambda: server.command("status").returncode == 0, "the control socket", 10.0, pause=0.1)


@pytest.mark.parametrize("fault", ["deleted", "renamed", "replaced"])
def test_with_the_lock_file_gone_a_second_start_is_refused_and_the_server_takes_it_again(
    shared: Server, fault: str
) -> None:
    lock, before = shared.instance_folder / "lock", shared.log.count("taken again")
    lock.rename(lock.with_name("aside"))
    if fault == "deleted":
        lock.with_name("aside").unlink()
    elif fault == "replaced":
        lock.touch()
    assert f"pid {shared.pid}" in refused(shared.command("start", "--port", "0"), ALREADY)
    assert shared.status()["state"] == "RUNNING"
    pid = shared.pid
    eventually(lambda: lock_is_held(shared, pid), "the lock file to be taken again", 10.0)
    eventually(lambda: shared.log.count("taken again") == before + 1, "the log to tell of it")
    assert f"pid {shared.pid}" in refused(shared.command("start", "--port", "0"), ALREADY)


def test_with_its_whole_folder_deleted_a_second_start_is_refused_and_the_server_heals(server: Server) -> None:
    pid = server.pid
    shutil.rmtree(server.instance_folder)
    refused(server.command("start", "--port", "0"), ALREADY)
    answers_again(server)
    assert server.pid == pid
    assert f"pid {pid}" in refused(server.command("start", "--port", "0"), ALREADY)
    assert server.stop().returncode == 0


def test_after_its_whole_folder_was_swept_bans_and_the_log_are_there_again(server: Server) -> None:
    assert server.command("ban", "철수").returncode == 0
    pids = {server.pid, *server.worker_pids}
    shutil.rmtree(server.instance_folder)
    bans = server.instance_folder / "bans.json"
    eventually(bans.exists, "the bans to be written again", 10.0)
    assert list(json.loads(bans.read_bytes())["bans"]) == ["철수"]
    log = server.instance_folder / "server.log"
    eventually(
        lambda: log.exists() and all(log.samefile(f"/proc/{pid}/fd/2") for pid in pids),
        "all to have the new log",
        10.0,
    )
    eventually(lambda: "log file was gone or replaced, opened again" in server.log, "the log to tell of it")
    assert server.stop().returncode == 0
    assert "stopped after" in server.log


def test_a_deleted_control_socket_is_not_told_as_not_running_and_comes_back(shared: Server) -> None:
    pid = shared.pid
    (shared.instance_folder / "control.sock").unlink()
    done = shared.command("status")
    assert done.returncode == 0 or f"(pid {pid}) does not answer" in done.stderr
    answers_again(shared)


def test_a_server_whose_control_socket_was_deleted_can_be_stopped_at_once(server: Server) -> None:
    processes = server.processes()
    (server.instance_folder / "control.sock").unlink()
    assert server.stop().returncode == 0
    eventually(lambda: gone(processes), "everything to be gone", 2.0)


def test_a_control_socket_replaced_by_a_folder_harms_nobody_and_comes_back(shared: Server) -> None:
    control, pid = shared.instance_folder / "control.sock", shared.pid
    with clients(shared, 1) as (alice,):
        control.unlink()
        control.mkdir()
        for number in range(3):  # the lock is looked after in the same moment as the socket
            (shared.instance_folder / "lock").unlink()
            eventually(lambda: lock_is_held(shared, pid), "the next look at lock and socket", 10.0)
            alice.say(f"{number}")
            assert alice.hear() == f"{number}"
        control.rmdir()
        answers_again(shared)
        assert shared.pid == pid


# Records that are not true.


def record_of(pid: int, born: float | None = None, **more: Any) -> bytes:
    identity = Identity.of(pid)
    identity = Identity(pid, identity.born if born is None else born)
    return msgspec.json.encode(Record(identity, 1.0, ["127.0.0.1:1"], "0", [identity], **more))


def untrue_records(pid: int) -> dict[str, bytes]:
    whole = record_of(pid)
    return {
        "empty": b"",
        "cut_short": whole[: len(whole) // 2],
        "garbage": bytes(range(256)) * 50,
        "zeros": bytes(4096),
        "nested": b"[" * 100_000,
        "another_shape": b'{"supervisor": "me", "pid": [1, 2]}',
        "huge_numbers": b'{"supervisor": [99999999999999999999, 1e400], "started": 1e300}',
        "negative_pid": whole.replace(b"[[", b"[[").replace(f"[{pid},".encode(), b"[-1,"),
        "pid_zero": whole.replace(f"[{pid},".encode(), b"[0,"),
        "foreign_living_pid": whole,
        "this_pid_with_another_start": record_of(pid, born=1.0),
        "of_another_boot": record_of(pid, boot="another"),
    }


@pytest.mark.parametrize("kind", untrue_records(os.getpid()))
def test_with_an_untrue_record_commands_tell_the_truth_and_kill_nobody(instance: Server, kind: str) -> None:
    with sleeper() as bystander:
        instance.instance_folder.mkdir(parents=True, mode=0o700)
        (instance.instance_folder / "record.json").write_bytes(untrue_records(bystander.pid)[kind])
        for words in (["status"], ["stop"], ["stop", "--kill", "--timeout", "0"]):
            assert "is not running" in refused(instance.command(*words), NOT_RUNNING)
        assert bystander.poll() is None


@pytest.mark.parametrize("kind", ["garbage", "foreign_living_pid"])
def test_with_an_untrue_record_the_next_start_is_fine_and_kills_nobody(instance: Server, kind: str) -> None:
    with sleeper() as bystander:
        instance.instance_folder.mkdir(parents=True, mode=0o700)
        (instance.instance_folder / "record.json").write_bytes(untrue_records(bystander.pid)[kind])
        instance.start(workers=1)
        assert instance.stop().returncode == 0
        assert bystander.poll() is None


def test_a_record_spoiled_while_the_server_runs_makes_no_command_lie(server: Server) -> None:
    (server.instance_folder / "record.json").write_bytes(b"garbage")
    assert "just being started by another command" in refused(server.command("start", "--port", "0"), ALREADY)
    assert server.status()["state"] == "RUNNING"
    with stopped(server.pid):
        said = refused(server.command("stop", "--timeout", "0.5"), 6)
        assert "hangs" in said
    eventually(lambda: not leftovers(server.folder), "the stop that was asked for to be done")


@contextmanager
def holder_of_the_second_lock(instance: Server) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is no worker, and holds the lock that workers hold."""
    instance.instance_folder.mkdir(parents=True, mode=0o700)
    lock = instance.instance_folder / "workers.lock"
    program = "import fcntl,sys,time; f=open(sys.argv[1],'a'); fcntl.flock(f,1); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", program, lock])
    try:
        eventually(lambda: lock.exists() and psutil.Process(holder.pid).open_files(), "the lock to be held")
        yield holder
    finally:
        holder.kill()
        holder.wait()


def test_a_foreign_process_that_holds_the_second_lock_is_told_and_not_killed(instance: Server) -> None:
    with holder_of_the_second_lock(instance) as holder:
        said = refused(instance.command("start", "--port", "0"), NOT_STARTED)
        assert "workers.lock" in said
        assert holder.poll() is None
    instance.start(workers=1)


def test_a_bystander_named_by_the_record_is_not_killed_for_another_process_lock(instance: Server) -> None:
    with sleeper() as bystander, holder_of_the_second_lock(instance) as holder:
        (instance.instance_folder / "record.json").write_bytes(record_of(bystander.pid))
        said = refused(instance.command("start", "--port", "0"), NOT_STARTED)
        assert bystander.poll() is None
        assert holder.poll() is None
        assert "workers.lock" in said
        assert str(bystander.pid) not in said


def test_a_record_is_replaced_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert read_record(path) is None
    record = Record(Identity.of(os.getpid()), 5.0, ["127.0.0.1:4000"], "1", [Identity.of(os.getppid())])
    write_record(path, record)
    assert read_record(path) == record
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]


def test_an_identity_is_not_another_process_that_got_its_number() -> None:
    me = Identity.of(os.getpid())
    assert me.process() is not None
    assert not is_server(me)
    assert Identity(me.pid, me.born - 60.0).process() is None
    assert Identity(me.pid, float("nan")).process() is None
    assert Identity(10**30, 1.0).process() is None
    with sleeper() as other:
        identity = Identity.of(other.pid)
        other.send_signal(signal.SIGKILL)
        eventually(
            lambda: identity.process() is None, "a dead process to be known as dead before it is reaped"
        )


# Long and strange places.


def test_a_runtime_folder_longer_than_a_socket_address_works(folder: Path) -> None:
    server = Server(folder / ("long" * 30) / ("longer" * 30))
    server.folder.mkdir(parents=True)
    assert len(os.fsencode(paths("default", str(server.folder / "run")).control)) > 300
    try:
        server.start(workers=1)
        assert server.status()["state"] == "RUNNING"
        assert refused(server.command("start", "--port", "0"), ALREADY)
        (server.instance_folder / "control.sock").unlink()
        answers_again(server)
        assert server.stop().returncode == 0
        assert not (server.instance_folder / "control.sock").exists()
    finally:
        server.end()
    assert_nothing_left(server.folder)


def test_the_command_that_a_line_tells_can_be_pasted_into_a_shell() -> None:
    assert option_text("default", "") == ""
    assert option_text("lobby", "/run/a b/$(x)") == " --name lobby --runtime-dir '/run/a b/$(x)'"


def test_files_of_the_instance_are_for_its_user_alone(shared: Server) -> None:
    assert shared.instance_folder.stat().st_mode & 0o777 == 0o700
    for each in shared.instance_folder.iterdir():
        assert each.stat().st_mode & 0o077 == 0 or each.name == "record.json", each
