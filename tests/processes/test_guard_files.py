"""What may lie in the way of a start: files, rights, other users, and records that are not true."""

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from support.harness import MPCHAT, Server, assert_nothing_left, leftovers, stopped
from support.said import ALREADY, FAILED, NOT_RUNNING, NOT_STARTED, TIMED_OUT, one_line
from support.waiting import eventually

from mpchat.control.answers import Stopping
from mpchat.control.messages import Answer, encode_answer
from mpchat.control.socket_address import socket_address
from mpchat.instance.owners import user_name
from mpchat.instance.record import SERVER, Identity, Record, is_server, read_record, write_record

pytestmark = pytest.mark.one_python

NOBODY = 65534


@contextmanager
def sleeper(*words: str, python: str = sys.executable, **more: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A living process that has nothing to do with any server; ``words`` are in its command line."""
    process = subprocess.Popen([python, "-c", "import time; time.sleep(600)", *words], **more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def instance(folder: Path) -> Iterator[Server]:
    """An instance that is not started yet; ended when the test is over."""
    server = Server(folder)
    yield server
    server.end()


# Files in the way.


def test_a_lock_path_that_is_a_symlink_is_refused_and_its_target_untouched(instance: Server) -> None:
    target = instance.folder / "precious"
    target.write_text("precious")
    instance.instance_folder.mkdir(parents=True, mode=0o700)
    (instance.instance_folder / "lock").symlink_to(target)
    said = one_line(instance.command("start", "--port", "0"), NOT_STARTED)
    assert str(instance.instance_folder / "lock") in said
    assert target.read_text() == "precious"
    (instance.instance_folder / "lock").unlink()
    instance.start(workers=1)


def test_a_lock_path_that_is_a_directory_is_one_line(instance: Server) -> None:
    (instance.instance_folder / "lock").mkdir(parents=True)
    instance.instance_folder.chmod(0o700)
    said = one_line(instance.command("start", "--port", "0"), NOT_STARTED)
    assert str(instance.instance_folder / "lock") in said
    assert "remove it" in said


def test_a_second_lock_that_is_a_symlink_is_one_line(instance: Server) -> None:
    instance.instance_folder.mkdir(parents=True, mode=0o700)
    (instance.instance_folder / "workers.lock").symlink_to("/dev/null")
    said = one_line(instance.command("start", "--port", "0"), NOT_STARTED)
    assert "workers.lock" in said
    assert_nothing_left(instance.folder)


def test_a_folder_that_is_a_file_or_a_symlink_is_one_line(instance: Server) -> None:
    instance.instance_folder.parent.mkdir()
    instance.instance_folder.write_text("")
    assert "is not a folder" in one_line(instance.command("start", "--port", "0"), NOT_STARTED)
    instance.instance_folder.unlink()
    instance.instance_folder.symlink_to(instance.folder)
    assert "is not a folder" in one_line(instance.command("start", "--port", "0"), NOT_STARTED)


def test_a_folder_that_others_may_enter_is_refused_with_the_command_that_closes_it(instance: Server) -> None:
    instance.instance_folder.mkdir(parents=True)
    instance.instance_folder.chmod(0o755)
    said = one_line(instance.command("start", "--port", "0"), NOT_STARTED)
    assert f"chmod 700 {instance.instance_folder}" in said


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@root
def test_a_folder_of_another_user_is_one_line(instance: Server) -> None:
    instance.instance_folder.mkdir(parents=True, mode=0o700)
    os.chown(instance.instance_folder, NOBODY, NOBODY)
    said = one_line(instance.command("start", "--port", "0"), NOT_STARTED)
    assert "belongs to another user" in said
    assert "--runtime-dir" in said


@pytest.fixture
def strangers_python() -> str:
    """An interpreter of this version that another user may run."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    for python in (sys.executable, shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/bin")):
        with suppress(PermissionError):
            if python and not subprocess.call([python, "-c", ""], user=NOBODY, cwd="/"):
                return python
    pytest.skip("no Python of this version here that another user may run: it lies in a closed folder")


@pytest.fixture
def stranger(instance: Server, strangers_python: str) -> Server:
    """The instance, addressed by a user who has no rights to anything of ours."""
    let_others_in(instance.folder)
    stranger = Server(instance.folder, instance.name)
    packages = [each for each in sys.path if "site-packages" in each]
    stranger.environment["PYTHONPATH"] = ":".join([str(Path(__file__).parents[2]), *packages])
    stranger.environment["HOME"] = "/nonexistent"
    stranger.environment["STRANGERS_PYTHON"] = strangers_python
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
        assert told in one_line(done, FAILED)
    said = one_line(as_stranger(stranger, "chat", "--plain"), FAILED)
    assert told in said
    assert "mpchat chat HOST PORT" in said
    run.chmod(0o755)  # the instance's own folder is closed still
    for done in all_as_stranger(stranger, ["status"], ["chat", "--plain"]):
        assert f"not allowed to look into {run / 'default'}, " in one_line(done, FAILED)
    run.chmod(0o700)
    said = one_line(as_stranger(stranger, "start", "--port", "0"), NOT_STARTED)
    assert f"{instance.instance_folder}: Permission denied" in said
    elsewhere = {**stranger.environment, "MPCHAT_RUNTIME_DIR": str(instance.folder / "none")}
    port = str(instance.address[1])
    assert "is not running" in one_line(as_stranger(stranger, "status", env=elsewhere), NOT_RUNNING)
    # Which program listens, only root and its own user are told; which servers run, everybody.
    own = instance.folder / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    elsewhere["MPCHAT_RUNTIME_DIR"] = str(own)
    said = one_line(as_stranger(stranger, "start", "--port", port, env=elsewhere), NOT_STARTED)
    # More servers of root than the line names may run on this machine.
    assert re.search(r"perhaps mpchat \(pid \d+, runtime folder /\S+\) of root", said)
    assert instance.status()["state"] == "RUNNING"


def test_a_read_only_folder_is_refused_with_its_name(stranger: Server) -> None:
    run = stranger.folder / "run"
    run.mkdir()
    run.chmod(0o555)
    said = one_line(as_stranger(stranger, "start", "--port", "0"), NOT_STARTED)
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
    said = one_line(done, NOT_STARTED)
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


def test_a_read_only_lock_file_of_another_user_is_one_line(stranger: Server) -> None:
    stranger.instance_folder.mkdir(parents=True, mode=0o700)
    (stranger.instance_folder / "lock").touch(0o600)
    os.chown(stranger.instance_folder, NOBODY, NOBODY)
    (stranger.folder / "run").chmod(0o755)
    said = one_line(as_stranger(stranger, "start", "--port", "0"), NOT_STARTED)
    assert str(stranger.instance_folder / "lock") in said


def test_a_stranger_starts_a_server_of_his_own(stranger: Server) -> None:
    (stranger.folder / "run").mkdir()
    os.chown(stranger.folder / "run", NOBODY, NOBODY)
    done = as_stranger(stranger, "start", "--port", "0", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert one_line(as_stranger(stranger, "start", "--port", "0"), ALREADY)
    assert as_stranger(stranger, "status").returncode == 0
    assert as_stranger(stranger, "stop").returncode == 0


# Folders that another user has made.

STRANGE = 54321


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A socket at ``path`` that every user may use, and that answers each request with ``answer``."""
    with socket.socket(socket.AF_UNIX) as listening:
        with socket_address(path) as address:
            listening.bind(address)
        path.chmod(0o777)
        listening.listen()

        def serve() -> None:
            with suppress(OSError):  # the end of the test
                while True:
                    peer, _ = listening.accept()
                    with peer, suppress(OSError):
                        peer.recv(1 << 16)
                        peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def made_by_a_stranger(server: Server, named: "subprocess.Popen[bytes]", by: str) -> Iterator[None]:
    """An instance's folder of another user, whose answer or record names a process of this machine."""
    folder, identity = server.instance_folder, Identity.of(named.pid)
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    os.chown(folder, STRANGE, STRANGE)
    if by == "record":
        write_record(folder / "record.json", Record(identity, 1.0, [], "0", [identity]))
        yield
    else:
        with answering(folder / "control.sock", encode_answer(Answer(Stopping([identity], 1.0)))):
            yield


COMMANDS_TO_A_SERVER = (
    ["status"],
    ["stop", "--kill", "--timeout", "0"],
    ["say", "hello"],
    ["chat", "--plain"],
)


@pytest.mark.parametrize("by", ["answer", "record"])
def test_a_folder_that_another_user_has_made_is_not_obeyed(stranger: Server, by: str) -> None:
    python = stranger.environment["STRANGERS_PYTHON"]
    with (
        sleeper(SERVER, python=python, user=NOBODY, cwd="/") as bystander,
        made_by_a_stranger(stranger, bystander, by),
    ):
        for done in all_as_stranger(stranger, *COMMANDS_TO_A_SERVER):
            said = one_line(done, FAILED)
            assert f"{stranger.instance_folder} belongs to user {STRANGE}: set MPCHAT_RUNTIME_DIR" in said
        assert bystander.poll() is None


@pytest.mark.parametrize("by", ["answer", "record"])
@pytest.mark.parametrize("of", [0, NOBODY])
def test_no_signal_of_root_reaches_a_process_that_is_not_of_the_folders_owner(
    instance: Server, strangers_python: str, by: str, of: int
) -> None:
    with (
        sleeper(SERVER, python=strangers_python, user=of, cwd="/") as bystander,
        made_by_a_stranger(instance, bystander, by),
    ):
        said = one_line(instance.command("stop", "--kill", "--timeout", "0"), FAILED)
        assert f"process {bystander.pid} of {user_name(of)} got no signal: the server's folder " in said
        assert f" belongs to user {STRANGE}; look at the process with: ps -fp {bystander.pid}" in said
        assert bystander.poll() is None


@pytest.mark.parametrize("by", ["answer", "record"])
def test_root_ends_processes_of_the_folders_owner(instance: Server, strangers_python: str, by: str) -> None:
    with (
        sleeper(SERVER, python=strangers_python, user=STRANGE, cwd="/") as named,
        made_by_a_stranger(instance, named, by),
    ):
        assert "has stopped" in instance.command("stop", "--kill", "--timeout", "0").stdout
        assert named.wait(10.0) in (-signal.SIGKILL, -signal.SIGTERM)


@root
@pytest.mark.parametrize(
    ("owners", "modes", "why"),
    [
        (
            (0, 0),
            (0o755, 0o702),
            "users besides root may write {folder}: close it with: chmod 700 {folder}; or",
        ),
        ((0, 0), (0o777, 0o700), "users besides root may replace what is in {folder.parent}: set"),
        ((NOBODY, 0), (0o755, 0o700), "users besides root may replace what is in {folder.parent}: set"),
        ((STRANGE, NOBODY), (0o755, 0o700), "may replace what is in {folder.parent}: set"),
    ],
    ids=["written", "replaced", "replaced_by_its_owner", "of_two_users"],
)
def test_a_folder_that_a_third_user_may_write_or_replace_is_not_obeyed(
    instance: Server, owners: tuple[int, int], modes: tuple[int, int], why: str
) -> None:
    folder = instance.instance_folder
    folder.mkdir(parents=True)
    for each, owner, mode in zip((folder.parent, folder), owners, modes, strict=True):
        each.chmod(mode)
        os.chown(each, owner, -1)
    assert why.format(folder=folder) in one_line(instance.command("status"), FAILED)


@root
def test_root_uses_a_folder_of_any_user_that_no_third_user_may_write(instance: Server) -> None:
    folder = instance.instance_folder
    folder.mkdir(parents=True, mode=0o700)
    for parents in (0, STRANGE):
        os.chown(folder.parent, parents, -1)
        os.chown(folder, STRANGE, -1)
        assert "is not running" in one_line(instance.command("status"), NOT_RUNNING)
    os.chown(folder.parent, 0, -1)
    folder.parent.chmod(0o1777)
    assert "is not running" in one_line(instance.command("status"), NOT_RUNNING)


def test_a_folder_that_is_a_link_is_not_obeyed(instance: Server) -> None:
    instance.instance_folder.parent.mkdir()
    instance.instance_folder.symlink_to(instance.folder)
    said = one_line(instance.command("status"), FAILED)
    assert f"{instance.instance_folder} is not a folder: remove it, or set MPCHAT_RUNTIME_DIR" in said


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
            assert "is not running" in one_line(instance.command(*words), NOT_RUNNING)
        assert bystander.poll() is None


@pytest.mark.parametrize("kind", ["garbage", "foreign_living_pid"])
def test_with_an_untrue_record_the_next_start_is_fine_and_kills_nobody(instance: Server, kind: str) -> None:
    with sleeper() as bystander:
        instance.instance_folder.mkdir(parents=True, mode=0o700)
        (instance.instance_folder / "record.json").write_bytes(untrue_records(bystander.pid)[kind])
        instance.start(workers=1)
        assert instance.stop().returncode == 0
        assert bystander.poll() is None


def test_a_record_spoiled_while_the_server_runs_makes_no_command_lie(instance: Server) -> None:
    server = instance.start(workers=1)
    (server.instance_folder / "record.json").write_bytes(b"garbage")
    assert "just being started by another command" in one_line(
        server.command("start", "--port", "0"), ALREADY
    )
    assert server.status()["state"] == "RUNNING"
    with stopped(server.pid):
        said = one_line(server.command("stop", "--timeout", "0.5"), TIMED_OUT)
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
        said = one_line(instance.command("start", "--port", "0"), NOT_STARTED)
        assert "workers.lock" in said
        assert holder.poll() is None
    instance.start(workers=1)


def test_a_bystander_named_by_the_record_is_not_killed_for_another_process_lock(instance: Server) -> None:
    with sleeper() as bystander, holder_of_the_second_lock(instance) as holder:
        (instance.instance_folder / "record.json").write_bytes(record_of(bystander.pid))
        said = one_line(instance.command("start", "--port", "0"), NOT_STARTED)
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
